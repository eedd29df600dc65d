//! Speed of whole steps on the GPU, on weights of a real model's shape: decode by batch size, prefill, and what a step
//! costs the CPU, beside the copy bandwidth of the device measured in the same run.
//!
//! usage: cargo bench -p gpu --bench step -- [llama-1b|mistral-7b|mistral-7b-eighth|narrow] [batch,batch,...] [profile] [decode]
//!        [attention] [depth=NUMBER] [FIELD=NUMBER...] [best|tiled|cooperative|baseline]
//!
//! With `profile`, each shape of step is run once more with a pass a dispatch, and the time of each kernel is printed. `decode`
//! leaves prefill out; `attention` times nothing but the attention of prompts, by the device's own clock, and compares what
//! comes of it with what the plain attention gives.
//! `depth` is of the tokens before decode, 512 at most and without it.
//! `FIELD=NUMBER` sets a field of [`gpu::Tuning`], the others being those of the device; the last word chooses kernels.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use gpu::{Gpu, GpuBackend, GpuOptions, ShaderChoice};
use tensor::{
    Activation, Attend, AttnOut, Backend, Batch, Dims, Embed, Format, KvGroup, KvSpec, LIKELIEST, LayerDims, Logits,
    Mlp, Norm, PAGE_TOKENS, Qkv, Role, Rope, RopeStyle, SeqRows, TensorView, TopK,
};

/// Layers, dim, ffn, heads, kv heads, head size.
const SHAPES: [(&str, [usize; 6]); 4] = [
    ("narrow", [32, 64, 128, 4, 2, 16]),
    ("llama-1b", [16, 2048, 8192, 32, 8, 64]),
    ("mistral-7b", [32, 4096, 14336, 32, 8, 128]),
    // An eighth of its layers, to compare kernels sooner.
    ("mistral-7b-eighth", [4, 4096, 14336, 32, 8, 128]),
];
const VOCAB: usize = 32_768;
const CONTEXT: usize = 4096;
/// Time of steps before the timed ones.
const WARM_UP: Duration = Duration::from_millis(200);

/// Most tokens already in the cache in decode, and how many there are without a word of it.
const DEPTH: usize = 512;

struct Layer {
    norms: [Norm<<GpuBackend as Backend>::Vector>; 2],
    qkv: <GpuBackend as Backend>::Matrix,
    out: <GpuBackend as Backend>::Matrix,
    gate_up: <GpuBackend as Backend>::Matrix,
    down: <GpuBackend as Backend>::Matrix,
}

struct Network {
    backend: GpuBackend,
    dims: Dims,
    table: <GpuBackend as Backend>::Matrix,
    layers: Vec<Layer>,
    norm: Norm<<GpuBackend as Backend>::Vector>,
    weight_bytes: usize,
    greatest: Vec<TopK>,
    profile: bool,
    /// Tokens before decode.
    depth: usize,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).collect();
    let name = arguments.first().map_or("llama-1b", String::as_str);
    let shape = SHAPES.iter().find(|(n, _)| *n == name).expect("a shape of the list").1;
    let batches = arguments.get(1).map_or("1,8,32", String::as_str);
    // `frontier gpu-selftest` tells whether kernels are right.
    let mut options = GpuOptions { self_test: false, ..GpuOptions::default() };
    let mut tuning = Gpu::open(options.clone()).expect("a GPU").tuning();
    let mut depth = DEPTH;
    for (field, value) in arguments.iter().filter_map(|word| word.split_once('=')) {
        if field == "depth" {
            depth = value.parse().ok().filter(|depth| *depth <= DEPTH).expect("up to 512");
            continue;
        }
        tuning.set(field, value).expect("a field of Tuning and a number");
    }
    options.tuning = Some(tuning);
    let named = |name: &str| arguments.iter().any(|word| word == name);
    for (name, choice) in [
        ("tiled", ShaderChoice::Tiled),
        ("cooperative", ShaderChoice::Cooperative),
        ("baseline", ShaderChoice::Baseline),
    ] {
        if named(name) {
            options.shaders = choice;
        }
    }
    let gpu = Arc::new(Gpu::open(options.clone()).expect("a GPU"));
    println!("{}: {}", gpu.summary().name, gpu.describe_kernels());
    let bandwidth = gpu.measure_copy_bandwidth(1 << 29, 8).expect("copies work");
    println!("copy bandwidth {:.1} GB/s (bytes read + bytes written)", bandwidth / 1e9);
    let started = Instant::now();
    let mut network = Network::new(&gpu, shape);
    println!(
        "{name}: {:.2} GB of weights, loaded in {:.1} s",
        network.weight_bytes as f64 / 1e9,
        started.elapsed().as_secs_f64()
    );
    if named("attention") {
        let plain = Arc::new(Gpu::open(GpuOptions { flash_attention: false, ..options }).expect("opens again"));
        let mut plain = Network::new(&plain, shape);
        for rows in [512, 2048] {
            network.prompt_attention(rows);
            let (wanted, got) = (plain.prompt_logits(rows), network.prompt_logits(rows));
            println!("   relative error of the logits behind it {:.1e}", relative_error(&wanted, &got));
        }
        return;
    }
    network.profile = named("profile");
    network.depth = depth;
    for batch in batches.split(',').map(|b| b.parse::<usize>().expect("a number")) {
        network.decode(batch, bandwidth);
    }
    if named("decode") {
        return;
    }
    for rows in [512, 2048] {
        network.prefill(rows.min(network.dims.max_rows));
    }
}

impl Network {
    fn new(gpu: &Arc<Gpu>, [layers, dim, ffn, heads, kv_heads, head_dim]: [usize; 6]) -> Network {
        let dims = Dims {
            dim,
            vocab: VOCAB,
            layers: vec![LayerDims { heads, kv_heads, head_dim, ffn }; layers],
            ropes: vec![Rope {
                inv_freq: (0..head_dim / 2).map(|i| 1e6f32.powf(-2.0 * i as f32 / head_dim as f32)).collect(),
                magnitude: 1.0,
                style: RopeStyle::Halves,
            }],
            max_rows: 2048,
            max_seqs: 64,
            max_logit_rows: 64,
            max_context: CONTEXT,
        };
        let mut backend = GpuBackend::new(gpu.clone());
        backend.configure(&dims).expect("fits");
        let mut weight_bytes = 0;
        // All matrices begin alike: speed does not depend on it, and random numbers take their time.
        let random = random_bytes(2 * VOCAB.max(ffn) * dim);
        let mut matrix = |backend: &mut GpuBackend, role, parts: &[(Format, usize, usize)]| {
            let views: Vec<TensorView<'_>> = parts
                .iter()
                .map(|(f, rows, cols)| {
                    let size = f.row_bytes(*cols).expect("whole blocks") * rows;
                    weight_bytes += size;
                    TensorView::new(*f, *rows, *cols, &random[..size]).expect("sized for it")
                })
                .collect();
            backend.prepare_matrix(role, &views).expect("fits")
        };
        let (q4, q6) = if dim % 256 == 0 { (Format::Q4_K, Format::Q6_K) } else { (Format::Q8_0, Format::Q8_0) };
        let table = matrix(&mut backend, Role::TiedHead, &[(q6, VOCAB, dim)]);
        let norm = |backend: &mut GpuBackend| Norm {
            weight: backend.prepare_vector(&vec![1.0; dim]).expect("fits"),
            eps: 1e-5,
        };
        let layers = (0..layers)
            .map(|index| {
                // The usual q4_k_m mix: half of the value and down projections have six bits.
                let finer = if index % 2 == 0 { q6 } else { q4 };
                let (q_rows, kv_rows) = (heads * head_dim, kv_heads * head_dim);
                Layer {
                    norms: [norm(&mut backend), norm(&mut backend)],
                    qkv: matrix(
                        &mut backend,
                        Role::Qkv,
                        &[(q4, q_rows, dim), (q4, kv_rows, dim), (finer, kv_rows, dim)],
                    ),
                    out: matrix(&mut backend, Role::AttnOut, &[(q4, dim, q_rows)]),
                    gate_up: matrix(&mut backend, Role::GateUp, &[(q4, ffn, dim), (q4, ffn, dim)]),
                    down: matrix(&mut backend, Role::Down, &[(finer, dim, ffn)]),
                }
            })
            .collect();
        let norm = norm(&mut backend);
        let pages = 64 * (DEPTH / PAGE_TOKENS + 2) + CONTEXT / PAGE_TOKENS;
        let groups = vec![KvGroup { layers: (0..dims.layers.len()).collect(), pages }];
        let kv = KvSpec { key_format: Format::F16, value_format: Format::F16, groups };
        backend.allocate_kv(&kv).expect("fits");
        Network { backend, dims, table, layers, norm, weight_bytes, greatest: Vec::new(), profile: false, depth: DEPTH }
    }

    fn step(&mut self, batch: &Batch<'_>) {
        self.describe(batch);
        self.backend.finish_step().expect("runs");
        // As an engine does that samples greedily: the step has ended when this returns.
        self.backend.top_k(1, &mut self.greatest).expect("runs");
    }

    fn describe(&mut self, batch: &Batch<'_>) {
        let b = &mut self.backend;
        b.begin_step(batch).expect("valid");
        b.embed(&Embed { table: &self.table, scale: 1.0 });
        for (index, layer) in self.layers.iter().enumerate() {
            b.qkv(&Qkv {
                layer: index,
                norm: &layer.norms[0],
                weight: &layer.qkv,
                bias: None,
                q_norm: None,
                k_norm: None,
                rope: Some(0),
            });
            b.attend(&Attend { layer: index, scale: 0.1, window: None, soft_cap: None });
            b.attn_out(&AttnOut { layer: index, weight: &layer.out, bias: None, post_norm: None });
            b.mlp(&Mlp {
                layer: index,
                norm: &layer.norms[1],
                gate_up: &layer.gate_up,
                gate_up_bias: None,
                down: &layer.down,
                down_bias: None,
                activation: Activation::Silu,
                post_norm: None,
            });
        }
        b.logits(&Logits { norm: &self.norm, weight: &self.table, soft_cap: None });
    }

    fn decode(&mut self, batch: usize, bandwidth: f64) {
        let stride = DEPTH / PAGE_TOKENS + 2;
        let tokens: Vec<u32> = (0..batch as u32).collect();
        let positions = vec![self.depth as u32; batch];
        let seqs: Vec<SeqRows> = (0..batch).map(|i| SeqRows { first_row: i, rows: 1, past: self.depth }).collect();
        let tables: Vec<u32> = (0..(batch * stride) as u32).collect();
        let step = Batch {
            tokens: &tokens,
            positions: &positions,
            seqs: &seqs,
            tables: &tables,
            table_stride: stride,
            logit_rows: &tokens,
        };
        let times = self.time(&step, 24);
        let read = self.weight_bytes as f64 / times.median;
        println!(
            "decode batch {batch:3}: {:8.1} tokens/s  {:7.3} ms a step  {:6.0} GB/s of weights = {:4.1} % of copy bandwidth  \
             {} dispatches, {:.0} us CPU, {:.0} us ahead, {} allocations",
            batch as f64 / times.median,
            times.median * 1e3,
            read / 1e9,
            100.0 * read / bandwidth,
            self.backend.cost().dispatches,
            times.cpu_us,
            times.cpu_ahead_us,
            times.allocations,
        );
        self.print_profile();
        let tokens = vec![LIKELIEST; batch];
        let ahead = self.time_ahead(&step, &Batch { tokens: &tokens, ..step }, 24);
        println!(
            "   two steps in flight: {:8.1} tokens/s  {:7.3} ms a step  {:.0} us CPU, {} allocations",
            batch as f64 / ahead.median,
            ahead.median * 1e3,
            ahead.cpu_us,
            ahead.allocations,
        );
    }

    fn prefill(&mut self, rows: usize) {
        let times = with_prompt(rows, |step| self.time(step, 4));
        println!("prefill {rows:5}: {:8.1} tokens/s  {:7.1} ms", rows as f64 / times.median, times.median * 1e3);
        self.print_profile();
    }

    /// Time of a prompt's attention in all layers: the best of some runs, each dispatch in a pass of its own.
    fn prompt_attention(&mut self, rows: usize) {
        with_prompt(rows, |step| self.time(step, 1));
        let mut kernels = Vec::new();
        let mut best = f64::INFINITY;
        for _ in 0..3 {
            let mut times = self.backend.profile().expect("runs");
            times.retain(|time| time.kernel.contains("attend") || time.kernel.contains("splits"));
            best = best.min(times.iter().map(|time| time.seconds).sum());
            kernels = times.into_iter().map(|time| time.kernel).collect();
        }
        kernels.sort();
        kernels.dedup();
        // Scores and sums of values: two operations each, for each pair of tokens of which one sees the other.
        let pairs = rows * (rows + 1) / 2;
        let operations: usize = self.dims.layers.iter().map(|layer| 4 * pairs * layer.heads * layer.head_dim).sum();
        println!(
            "attention of a prompt of {rows:5}: {:8.2} ms in {} layers, {:6.1} T operations/s, {}",
            best * 1e3,
            self.dims.layers.len(),
            operations as f64 / best / 1e12,
            kernels.join(" and ")
        );
    }

    /// Logits behind a prompt.
    fn prompt_logits(&mut self, rows: usize) -> Vec<f32> {
        with_prompt(rows, |step| self.step(step));
        self.backend.logits_row(0).expect("runs").to_vec()
    }

    /// Time by kernel and grid, the longest first.
    fn print_profile(&self) {
        if !self.profile {
            return;
        }
        let mut totals: HashMap<(String, [u32; 3]), (usize, f64)> = HashMap::new();
        for time in self.backend.profile().expect("runs") {
            let total = totals.entry((time.kernel, time.grid)).or_default();
            *total = (total.0 + 1, total.1 + time.seconds);
        }
        let mut totals: Vec<_> = totals.into_iter().collect();
        totals.sort_by(|a, b| b.1.1.total_cmp(&a.1.1));
        for ((kernel, grid), (count, seconds)) in totals {
            println!(
                "  {:9.1} us  {count:3} x {:8.2} us  {kernel} {grid:?}",
                seconds * 1e6,
                seconds * 1e6 / count as f64
            );
        }
    }

    fn time(&mut self, batch: &Batch<'_>, runs: usize) -> Times {
        // A device at rest is slow at first.
        let warm = Instant::now();
        self.step(batch);
        while warm.elapsed() < WARM_UP {
            self.step(batch);
        }
        self.time_each(runs, |network| network.step(batch))
    }

    /// Time from one step's results to the next's, while steps are started before the results of those before are there:
    /// `first`, then `later` ones.
    fn time_ahead(&mut self, first: &Batch<'_>, later: &Batch<'_>, runs: usize) -> Times {
        self.describe(first);
        self.backend.start_step().expect("runs");
        let next = |network: &mut Network| {
            network.describe(later);
            network.backend.start_step().expect("runs");
            network.backend.await_step().expect("runs");
            network.backend.top_k(1, &mut network.greatest).expect("runs");
        };
        (0..4).for_each(|_| next(self));
        let times = self.time_each(runs, next);
        self.backend.await_step().expect("runs");
        times
    }

    fn time_each(&mut self, runs: usize, step: impl Fn(&mut Network)) -> Times {
        let before = ALLOCATIONS.load(Ordering::Relaxed);
        let mut samples: [Vec<f64>; 3] = std::array::from_fn(|_| Vec::with_capacity(runs));
        for _ in 0..runs {
            let start = Instant::now();
            step(self);
            let cost = self.backend.cost();
            let seconds = [start.elapsed(), cost.cpu, cost.cpu_ahead].map(|time| time.as_secs_f64());
            samples.iter_mut().zip(seconds).for_each(|(samples, seconds)| samples.push(seconds));
        }
        let allocations = (ALLOCATIONS.load(Ordering::Relaxed) - before) / runs;
        let [median, cpu, cpu_ahead] = samples.map(|mut samples| {
            samples.sort_by(f64::total_cmp);
            samples[runs / 2]
        });
        Times { median, cpu_us: cpu * 1e6, cpu_ahead_us: cpu_ahead * 1e6, allocations }
    }
}

/// A step that is the first `rows` tokens of a prompt.
fn with_prompt<R>(rows: usize, run: impl FnOnce(&Batch<'_>) -> R) -> R {
    let tokens: Vec<u32> = (0..rows as u32).collect();
    let tables: Vec<u32> = (0..rows.div_ceil(PAGE_TOKENS) as u32).collect();
    run(&Batch {
        tokens: &tokens,
        positions: &tokens,
        seqs: &[SeqRows { first_row: 0, rows, past: 0 }],
        tables: &tables,
        table_stride: tables.len(),
        logit_rows: &[rows as u32 - 1],
    })
}

/// |got - wanted| / |wanted|, in Euclidean norms.
fn relative_error(wanted: &[f32], got: &[f32]) -> f64 {
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let errors = &mut wanted.iter().zip(got).map(|(&w, &g)| f64::from(g) - f64::from(w));
    norm(errors) / norm(&mut wanted.iter().map(|&w| f64::from(w)))
}

/// Of some steps; times are medians.
struct Times {
    median: f64,
    /// CPU time until a step was submitted, and for the commands of the next.
    cpu_us: f64,
    cpu_ahead_us: f64,
    /// Allocations of a step, those of wgpu and the driver included.
    allocations: usize,
}

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

/// The system's allocator, counted.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes of which any two make a finite half below 1.
fn random_bytes(len: usize) -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = vec![0; len];
    for chunk in bytes.chunks_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let word = (state ^ (state >> 29)) & 0x3b3b_3b3b_3b3b_3b3b;
        chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
    }
    bytes
}
