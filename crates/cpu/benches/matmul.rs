//! How near the matrix kernels come to the machine's limits.
//!
//! Decode multiplies a matrix that is larger than every cache by one row, or by `--batch` of them, in turns with only
//! reading as many bytes: the speed beside that is what counts.
//! Prefill multiplies one by many rows: operations a second beside the peak of this instruction set.
//!
//! `cargo bench -p cpu --bench matmul -- [--threads N] [--isa NAME] [--rows N] [--cols N] [--batch N] [--mib N]
//! [FORMAT ...]`

use std::time::Instant;

use cpu::activation::Activations;
use cpu::pack::{PackedMatrix, Stacking};
use cpu::pool::{Chunks, Pool, PoolConfig};
use cpu::roof::Roofs;
use cpu::{Isa, pool};
use tensor::{Format, TensorView};

/// Columns of both matrices, unless others are asked for: those of a model of a billion weights.
const COLS: usize = 2048;

/// MiB of weights that decode reads, about, unless more are asked for: only some milliseconds of work. Large caches keep a part
/// of them from pass to pass, which then look faster than memory; 1,024 are beyond every cache.
const DECODE_MIB: usize = 100;

/// Rows of weights for prefill.
const PREFILL_ROWS: usize = 2048;

/// Panels in an item.
const ITEM_PANELS: usize = 16;

/// Repetitions; best and median are shown.
const PASSES: usize = 11;

/// Repetitions of what is compared with reading.
const READ_PASSES: usize = 25;

/// Bytes in an item of reading.
const READ_ITEM_BYTES: usize = 128 << 10;

fn main() {
    let mut threads = vec![1, pool::usable_cores().len()];
    let (mut isa, mut rows, mut cols, mut batch, mut mib) = (Isa::detect(), 512, COLS, 1, DECODE_MIB);
    let mut formats = Vec::new();
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => threads = vec![args.next().and_then(|n| n.parse().ok()).expect("--threads N")],
            "--rows" => rows = args.next().and_then(|n| n.parse().ok()).expect("--rows N"),
            "--cols" => cols = args.next().and_then(|n| n.parse().ok()).expect("--cols N"),
            "--batch" => batch = args.next().and_then(|n| n.parse().ok()).expect("--batch N"),
            "--mib" => mib = args.next().and_then(|n| n.parse().ok()).expect("--mib N"),
            "--isa" => isa = args.next().and_then(|name| Isa::from_name(&name)).expect("--isa NAME"),
            "--bench" => {}
            name => formats.push(Format::from_name(name).expect("a format")),
        }
    }
    threads.dedup();
    if formats.is_empty() {
        formats = Format::ALL.to_vec();
    }
    for threads in threads {
        let pool = Pool::new(&PoolConfig { threads: Some(threads), pin: true }).expect("a pool");
        pool.pin_leader();
        let roofs = Roofs::measure(&pool, isa).expect("memory to measure the bandwidth");
        let peak = |format| match format {
            Format::BF16 => roofs.bf16_ops_per_s,
            Format::F32 | Format::F16 => roofs.float_ops_per_s,
            _ => roofs.integer_ops_per_s,
        };
        println!(
            "{threads} x {isa}: read {:.1} GB/s, int8 {:.0} GOPS, bf16 {:.0} GFLOPS, f32 {:.0} GFLOPS",
            roofs.read_bytes_per_s / 1e9,
            roofs.integer_ops_per_s / 1e9,
            roofs.bf16_ops_per_s / 1e9,
            roofs.float_ops_per_s / 1e9,
        );
        println!("format       decode GB/s   median   of reading   prefill GOPS   median   of roof");
        for &format in &formats {
            let decode_rows = (mib << 20) / format.row_bytes(cols).expect("whole blocks");
            let mut decode = World::new(format, [decode_rows, cols], batch, isa, &pool);
            let (decode, of_reading) = decode.beside_reading(&pool, isa);
            let prefill = World::new(format, [PREFILL_ROWS, cols], rows, isa, &pool).best_and_median(&pool);
            let bytes = (decode_rows * format.row_bytes(cols).expect("whole blocks")) as f64;
            let operations = (2 * PREFILL_ROWS * cols * rows) as f64;
            println!(
                "{:10} {:13.1} {:8.1} {:10.0} % {:14.0} {:8.0} {:7.0} %",
                format.name(),
                bytes / decode.0 / 1e9,
                bytes / decode.1 / 1e9,
                100.0 * of_reading,
                operations / prefill.0 / 1e9,
                operations / prefill.1 / 1e9,
                100.0 * operations / prefill.0 / peak(format),
            );
        }
    }
}

/// A matrix and what it is multiplied by.
struct World {
    matrix: PackedMatrix,
    activations: Activations,
    products: Vec<f32>,
}

impl World {
    fn new(format: Format, [weight_rows, cols]: [usize; 2], rows: usize, isa: Isa, pool: &Pool) -> World {
        // Zeros cost as much time as anything else.
        let bytes = vec![0; weight_rows * format.row_bytes(cols).expect("whole blocks")];
        let view = TensorView::new(format, weight_rows, cols, &bytes).expect("sizes agree");
        let matrix = PackedMatrix::pack(&[view], Stacking::Concatenated, isa, pool).expect("packs");
        let mut activations = Activations::new(isa, matrix.forms(), rows, cols);
        activations.fill(&(0..rows * cols).map(|i| (i as f32 * 0.37).sin()).collect::<Vec<f32>>());
        let products = vec![0.0; matrix.panels() * rows * matrix.panel_rows()];
        World { matrix, activations, products }
    }

    /// Seconds of one multiplication.
    fn run(&mut self, pool: &Pool) -> f64 {
        let World { matrix, activations, products } = self;
        let panel_len = activations.rows() * matrix.panel_rows();
        let start = Instant::now();
        let mut idle = vec![(); pool.threads()];
        pool.for_each_part(&mut idle, Chunks::new(products, ITEM_PANELS * panel_len), |(), item, products| {
            let first = item * ITEM_PANELS;
            matrix.multiply(first..first + products.len() / panel_len, activations, products);
        })
        .expect("no panic");
        start.elapsed().as_secs_f64()
    }

    fn best_and_median(&mut self, pool: &Pool) -> (f64, f64) {
        self.run(pool);
        best_and_median((0..PASSES).map(|_| self.run(pool)).collect())
    }

    /// The same, and the median of how fast passes were beside reading right before and after.
    fn beside_reading(&mut self, pool: &Pool, isa: Isa) -> ((f64, f64), f64) {
        let mut bytes = pool.arena().alloc(self.matrix.size_bytes()).expect("memory for as many bytes again");
        bytes.fill(1);
        self.run(pool);
        let (mut seconds, mut shares) = (Vec::new(), Vec::new());
        let mut before = read(&bytes, pool, isa);
        for _ in 0..READ_PASSES {
            let took = self.run(pool);
            let after = read(&bytes, pool, isa);
            seconds.push(took);
            shares.push((before + after) / 2.0 / took);
            before = after;
        }
        (best_and_median(seconds), best_and_median(shares).1)
    }
}

/// Seconds that all threads take to read these bytes once.
fn read(bytes: &[u8], pool: &Pool, isa: Isa) -> f64 {
    let start = Instant::now();
    pool.for_each(bytes.len() / READ_ITEM_BYTES, |_, item| {
        cpu::roof::read(isa, &bytes[item * READ_ITEM_BYTES..(item + 1) * READ_ITEM_BYTES]);
    })
    .expect("no panic");
    start.elapsed().as_secs_f64()
}

/// The least and the middle one.
fn best_and_median(mut values: Vec<f64>) -> (f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2])
}
