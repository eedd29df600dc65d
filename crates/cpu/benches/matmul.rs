//! How near the matrix kernels come to the machine's limits.
//!
//! Decode multiplies a matrix that is larger than every cache by one row, or by `--batch` of them: the share of the read
//! bandwidth is what counts.
//! Prefill multiplies one by many rows: operations a second beside the peak of this instruction set.
//!
//! `cargo bench -p cpu --bench matmul -- [--threads N] [--isa NAME] [--rows N] [--cols N] [--batch N] [FORMAT ...]`

use std::time::Instant;

use cpu::activation::Activations;
use cpu::pack::{PackedMatrix, Stacking};
use cpu::pool::{Chunks, Pool, PoolConfig};
use cpu::roof::Roofs;
use cpu::{Isa, pool};
use tensor::{Format, TensorView};

/// Columns of both matrices, unless others are asked for: those of a model of a billion weights.
const COLS: usize = 2048;

/// Bytes of weights that decode reads, about: beyond every cache, but only some milliseconds of work.
const DECODE_BYTES: usize = 100 << 20;

/// Rows of weights for prefill.
const PREFILL_ROWS: usize = 2048;

/// Panels in an item.
const ITEM_PANELS: usize = 16;

/// Repetitions; best and median are shown.
const PASSES: usize = 11;

fn main() {
    let mut threads = vec![1, pool::usable_cores().len()];
    let (mut isa, mut rows, mut cols, mut batch, mut formats) = (Isa::detect(), 512, COLS, 1, Vec::new());
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--threads" => threads = vec![args.next().and_then(|n| n.parse().ok()).expect("--threads N")],
            "--rows" => rows = args.next().and_then(|n| n.parse().ok()).expect("--rows N"),
            "--cols" => cols = args.next().and_then(|n| n.parse().ok()).expect("--cols N"),
            "--batch" => batch = args.next().and_then(|n| n.parse().ok()).expect("--batch N"),
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
            Format::F32 | Format::F16 | Format::BF16 => roofs.float_ops_per_s,
            _ => roofs.integer_ops_per_s,
        };
        println!(
            "{threads} x {isa}: read {:.1} GB/s, int8 {:.0} GOPS, f32 {:.0} GFLOPS",
            roofs.read_bytes_per_s / 1e9,
            roofs.integer_ops_per_s / 1e9,
            roofs.float_ops_per_s / 1e9,
        );
        println!("format       decode GB/s   median   of roof   prefill GOPS   median   of roof");
        for &format in &formats {
            let decode_rows = DECODE_BYTES / format.row_bytes(cols).expect("whole blocks");
            let decode = World::new(format, [decode_rows, cols], batch, isa, &pool).best_and_median(&pool);
            let prefill = World::new(format, [PREFILL_ROWS, cols], rows, isa, &pool).best_and_median(&pool);
            let bytes = (decode_rows * format.row_bytes(cols).expect("whole blocks")) as f64;
            let operations = (2 * PREFILL_ROWS * cols * rows) as f64;
            println!(
                "{:10} {:13.1} {:8.1} {:7.0} % {:14.0} {:8.0} {:7.0} %",
                format.name(),
                bytes / decode.0 / 1e9,
                bytes / decode.1 / 1e9,
                100.0 * bytes / decode.0 / roofs.read_bytes_per_s,
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
        let mut seconds: Vec<f64> = (0..PASSES).map(|_| self.run(pool)).collect();
        seconds.sort_by(f64::total_cmp);
        (seconds[0], seconds[PASSES / 2])
    }
}
