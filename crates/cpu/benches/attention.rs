//! How near attention comes to the machine's limits.
//!
//! Decode reads KV pages once: the share of the read bandwidth, measured in the same process just before and after, is
//! what counts. Prefill multiplies: operations a second beside the peak.
//!
//! `cargo bench -p cpu --bench attention -- [--threads N] [--isa NAME] [--kv FORMAT] [decode|prefill|append]`

use std::time::Instant;

use cpu::attention::plan::Item;
use cpu::attention::{Output, Plan, Queries, QueryRow, Scratch, Sequence, Shape, Softmax, Task};
use cpu::kv::{KvCache, Slot};
use cpu::pool::{Cuts, Pool, PoolConfig};
use cpu::roof::Roofs;
use cpu::{Isa, pool};
use tensor::{Format, KvGroup, KvSpec, LayerDims, PAGE_TOKENS};

/// Bytes of KV that a decode pass reads: beyond every cache, but only some milliseconds of work.
const DECODE_BYTES: usize = 160 << 20;

/// Passes of decode, and of reading.
const DECODE_PASSES: usize = 25;

/// Repetitions; best and median are shown.
const PASSES: usize = 9;

fn main() {
    let mut threads = vec![1, pool::usable_cores().len()];
    let mut isa = Isa::detect();
    let mut formats = vec![Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0, Format::F32];
    let mut what = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => threads = vec![args.next().and_then(|n| n.parse().ok()).expect("--threads N")],
            "--isa" => isa = args.next().and_then(|name| Isa::from_name(&name)).expect("--isa NAME"),
            "--kv" => formats = vec![args.next().and_then(|name| Format::from_name(&name)).expect("--kv FORMAT")],
            "--bench" => {}
            _ => what.push(arg),
        }
    }
    threads.dedup();
    let wanted = |name: &str| what.is_empty() || what.iter().any(|w| w == name);
    for threads in threads {
        let pool = Pool::new(&PoolConfig { threads: Some(threads), pin: true }).expect("a pool");
        pool.pin_leader();
        if wanted("decode") {
            decode(&pool, isa, &formats);
        }
        if wanted("prefill") {
            prefill(&pool, isa, &formats);
        }
        if wanted("append") {
            append(&formats);
        }
    }
}

fn roofs(pool: &Pool, isa: Isa) -> Roofs {
    let roofs = Roofs::measure(pool, isa).expect("memory to measure the bandwidth");
    println!(
        "{} x {}: read {:.1} (median {:.1}) GB/s, int8 {:.0} GOPS, bf16 {:.0}, f32 {:.0} GFLOPS, round trip {:?} ns",
        roofs.threads,
        roofs.isa,
        roofs.read_bytes_per_s / 1e9,
        roofs.read_bytes_per_s_median / 1e9,
        roofs.integer_ops_per_s / 1e9,
        roofs.bf16_ops_per_s / 1e9,
        roofs.float_ops_per_s / 1e9,
        roofs.placement[1].round_trip_ns,
    );
    roofs
}

/// A layer's pages, filled, one sequence, and queries for its last `rows` rows.
struct World {
    shape: Shape,
    cache: KvCache,
    table: Vec<u32>,
    rows: Vec<QueryRow>,
    queries: Vec<f32>,
    plan: Plan,
    out: Vec<f32>,
    partials: Vec<f32>,
    scratch: Vec<Scratch>,
}

impl World {
    fn new(shape: Shape, format: Format, tokens: usize, rows: usize, pool: &Pool) -> World {
        let pages = tokens.div_ceil(PAGE_TOKENS);
        let Shape { heads, kv_heads, head_dim, .. } = shape;
        let spec =
            KvSpec { key_format: format, value_format: format, groups: vec![KvGroup { layers: vec![0], pages }] };
        let layers = [LayerDims { heads, kv_heads, head_dim, ffn: 1 }];
        let mut cache = KvCache::allocate(&spec, &layers, pool.arena()).expect("memory");
        let entry: Vec<f32> = (0..shape.padded_dim()).map(|i| (i as f32 * 0.37).sin()).collect();
        let table: Vec<u32> = (0..pages as u32).collect();
        for head in 0..kv_heads {
            for token in 0..PAGE_TOKENS {
                cache.layer_mut(0).append(head, Slot { page: 0, token: token as u32 }, &entry, &entry);
            }
        }
        for page in 1..pages as u32 {
            cache.copy_page(0, 0, page);
        }
        let first = tokens - rows;
        let positions = first..tokens;
        let rows: Vec<QueryRow> =
            positions.map(|position| QueryRow { row: (position - first) as u32, position: position as u32 }).collect();
        let mut plan = Plan::default();
        let sequence = Sequence { seq: 0, first_row: 0, rows: rows.len() };
        plan.set(&shape, &[sequence], &rows, pool.threads());
        World {
            out: vec![0.0; kv_heads * rows.len() * shape.group_width()],
            partials: vec![0.0; plan.partial_len()],
            queries: vec![0.01; heads * rows.len() * shape.padded_dim()],
            scratch: (0..pool.threads()).map(|_| Scratch::default()).collect(),
            shape,
            cache,
            table,
            rows,
            plan,
        }
    }

    /// Seconds of one run.
    fn run(&mut self, pool: &Pool, isa: Isa) -> f64 {
        let World { shape, cache, table, rows, queries, plan, out, partials, scratch } = self;
        let (shape, plan) = (*shape, &*plan);
        let task = |item: Item| Task {
            shape,
            kv: cache.layer(0),
            table,
            kv_head: item.kv_head,
            rows: &rows[item.first_row..item.first_row + item.rows],
            queries: Queries { values: queries, rows: rows.len() },
            pages: item.pages,
            softmax: Softmax::Tiled,
        };
        let start = Instant::now();
        pool.for_each_part(scratch, Cuts::new(out, &plan.whole_ranges), |scratch, item, out| {
            task(plan.whole[item]).run(isa, scratch, Output::Rows(out));
        })
        .expect("no panic");
        pool.for_each_part(scratch, Cuts::new(partials, &plan.split_ranges), |scratch, item, out| {
            task(plan.split[item]).run(isa, scratch, Output::Partial(out));
        })
        .expect("no panic");
        start.elapsed().as_secs_f64()
    }

    fn best_and_median(&mut self, pool: &Pool, isa: Isa) -> (f64, f64) {
        self.run(pool, isa);
        let mut seconds: Vec<f64> = (0..PASSES).map(|_| self.run(pool, isa)).collect();
        seconds.sort_by(f64::total_cmp);
        (seconds[0], seconds[PASSES / 2])
    }

    /// Seconds in which all threads read all entries and do nothing else.
    fn read(&self, pool: &Pool, isa: Isa) -> f64 {
        let kv = self.cache.layer(0);
        let start = Instant::now();
        pool.for_each(2 * self.shape.kv_heads * self.table.len(), |_, item| {
            let (page, head) = (item / 2 % self.table.len(), item / 2 / self.table.len());
            let page = page as u32;
            let bytes = if item % 2 == 0 { kv.key_page(head, page) } else { kv.value_page(head, page) };
            cpu::roof::read(isa, bytes);
        })
        .expect("no panic");
        start.elapsed().as_secs_f64()
    }
}

/// Decode and a mere reading of the same pages take turns, so that both see the same machine.
fn decode(pool: &Pool, isa: Isa, formats: &[Format]) {
    roofs(pool, isa);
    println!("decode            d  group   best GB/s   reading   median of decode / reading");
    for &format in formats {
        for (head_dim, group) in [(128, 1), (128, 4), (128, 8), (64, 1), (64, 3), (64, 4)] {
            let kv_heads = 8;
            let shape = Shape { heads: kv_heads * group, kv_heads, head_dim, scale: 0.1, window: None, soft_cap: None };
            let token_bytes = 2 * format.row_bytes(kv_heads * head_dim).expect("whole blocks");
            let tokens = DECODE_BYTES / token_bytes / PAGE_TOKENS * PAGE_TOKENS;
            let mut world = World::new(shape, format, tokens, 1, pool);
            let pairs: Vec<(f64, f64)> =
                (0..DECODE_PASSES).map(|_| (world.run(pool, isa), world.read(pool, isa))).collect();
            let gigabytes = (tokens * token_bytes) as f64 / 1e9;
            let best = |seconds: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(seconds).fold(f64::MAX, f64::min);
            let mut shares: Vec<f64> = pairs.iter().map(|(run, read)| read / run).collect();
            shares.sort_by(f64::total_cmp);
            println!(
                "{:10} {head_dim:8} {group:6} {:11.1} {:9.1}  {:5.1} %",
                format.name(),
                gigabytes / best(&|pair| pair.0),
                gigabytes / best(&|pair| pair.1),
                100.0 * shares[shares.len() / 2],
            );
        }
    }
    roofs(pool, isa);
}

fn prefill(pool: &Pool, isa: Isa, formats: &[Format]) {
    const ROWS: usize = 256;
    let before = roofs(pool, isa);
    println!("prefill {ROWS} rows  d  group  depth      best    median GFLOPS   share of f32 peak");
    for &format in formats {
        for (head_dim, group, depth) in [(64, 4, 512), (64, 4, 8192), (128, 4, 4096), (128, 1, 4096)] {
            let kv_heads = 8;
            let shape = Shape { heads: kv_heads * group, kv_heads, head_dim, scale: 0.1, window: None, soft_cap: None };
            let mut world = World::new(shape, format, depth, ROWS, pool);
            let (best, median) = world.best_and_median(pool, isa);
            let visible: usize = world.rows.iter().map(|row| row.position as usize + 1).sum();
            let flop = (4 * visible * shape.heads * head_dim) as f64;
            println!(
                "{:10} {head_dim:8} {group:6} {depth:6} {:9.1} {:9.1}        {:5.1} %",
                format.name(),
                flop / best / 1e9,
                flop / median / 1e9,
                100.0 * flop / best / before.float_ops_per_s,
            );
        }
    }
}

fn append(formats: &[Format]) {
    println!("append (one thread)   ns a token and head of 64");
    for &format in formats {
        let layers = [LayerDims { heads: 1, kv_heads: 1, head_dim: 64, ffn: 1 }];
        let spec =
            KvSpec { key_format: format, value_format: format, groups: vec![KvGroup { layers: vec![0], pages: 16 }] };
        let arena = cpu::memory::Arena::default();
        let mut cache = KvCache::allocate(&spec, &layers, &arena).expect("memory");
        let entry: Vec<f32> = (0..64).map(|i| (i as f32 * 0.37).sin()).collect();
        let count = 16 * PAGE_TOKENS;
        let mut best = f64::MAX;
        for _ in 0..100 {
            let start = Instant::now();
            for token in 0..count {
                let slot = Slot { page: (token / PAGE_TOKENS) as u32, token: (token % PAGE_TOKENS) as u32 };
                cache.layer_mut(0).append(0, slot, &entry, &entry);
            }
            best = best.min(start.elapsed().as_secs_f64());
        }
        println!("{:10} {:9.1}", format.name(), best / count as f64 * 1e9);
    }
}
