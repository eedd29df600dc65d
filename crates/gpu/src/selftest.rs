//! Kernels against the reference, on the device that will run them.
//!
//! [`trust`] runs before a weight format is used: it multiplies small random matrices in every kernel that a step could
//! choose for the format, and takes a simpler variant where one is wrong or does not compile; [`trust_flash`] does the same
//! for attention. [`selftest`] runs the whole conformance suite and tells by kernel how it went.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensor::conformance::{self, Invariance, Outcome};
use tensor::{Backend, BackendError, Batch, Dims, Embed, Format, KvSpec, Logits, Norm, Role, SeqRows, TensorView};

use crate::GpuBackend;
use crate::device::{FlashTrust, Gpu};
use crate::weights::GpuMatrix;

/// Rows of the steps: one, each kind of mat-vec, a few dozen, a tile of prefill.
const ROWS: [usize; 5] = [1, 3, 8, 40, 130];

/// Two blocks of the widest format; two tiles of the widest kernel.
const WIDTH: usize = 512;
const OUTPUTS: usize = 256;

/// Greatest relative error (Euclidean norms) of a row. Cooperative kernels round both factors to f16, 2^-11 each.
const TOLERANCE: f64 = 3e-3;

/// F32 weights never meet f16; their sums are in another order.
const TOLERANCE_F32: f64 = 1e-5;

/// The case that prefill's attention by matrices must pass, by head size (the first for others): several sequences over
/// several pages, alone and together, windows, query heads that share a KV head.
const FLASH_CASES: [(usize, &str); 5] = [
    (64, "kv/f16,f16/64x4/2/window"),
    (80, "kv/f16,f16/80x3/1/window"),
    (96, "kv/f16,f16/96x2/2/window"),
    (128, "kv/f16,f16/128x4/1/window"),
    (256, "kv/f16,f16/256x4/1/window"),
];

/// How one kernel did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelReport {
    /// Cases that ran it.
    pub cases: usize,
    /// Cases that failed, which may be the fault of another kernel in them.
    pub failed: Vec<String>,
}

/// How the kernels of a device did.
#[derive(Clone, Debug, Default)]
pub struct SelfTest {
    /// By kernel.
    pub kernels: BTreeMap<String, KernelReport>,
    /// Cases that failed, and why.
    pub failures: Vec<(String, String)>,
    /// Cases that the device cannot do, and why.
    pub unsupported: Vec<(String, String)>,
    /// Cases that passed.
    pub passed: usize,
}

/// Runs every conformance case whose name contains one of `only` (all when empty). `each` is called after each with its
/// name, the number done and the number of all.
pub fn selftest(gpu: &Arc<Gpu>, only: &[&str], each: &mut dyn FnMut(&str, usize, usize)) -> SelfTest {
    let picked = |name: &str| only.is_empty() || only.iter().any(|part| name.contains(part));
    let cases: Vec<_> = conformance::cases().into_iter().filter(|case| picked(&case.name)).collect();
    let mut result = SelfTest::default();
    for (index, case) in cases.iter().enumerate() {
        gpu.kernels.take_used();
        let outcome = conformance::run_case(|| GpuBackend::new(gpu.clone()), case, Invariance::Tolerance);
        for kernel in gpu.kernels.take_used() {
            let report = result.kernels.entry(kernel).or_default();
            report.cases += 1;
            if matches!(outcome, Outcome::Failed(_)) {
                report.failed.push(case.name.clone());
            }
        }
        match outcome {
            Outcome::Passed => result.passed += 1,
            Outcome::Unsupported(why) => result.unsupported.push((case.name.clone(), why)),
            Outcome::Failed(why) => result.failures.push((case.name.clone(), why)),
        }
        each(&case.name, index + 1, cases.len());
    }
    result
}

/// Makes sure that the kernels of `format` agree with the reference, if need be by taking simpler ones.
///
/// # Errors
/// Not even the simplest agrees, or the device failed altogether.
pub(crate) fn trust(gpu: &Arc<Gpu>, format: Format) -> Result<(), BackendError> {
    if gpu.variants.is_trusted(format) || !gpu.options.self_test {
        return Ok(());
    }
    let mut variant = gpu.variants.best();
    loop {
        // Steps ask for the format's variant: this one is on trial.
        gpu.variants.trust(format, variant);
        let why = match check(gpu, format) {
            Ok(()) => return Ok(()),
            Err(error @ (BackendError::Lost { .. } | BackendError::OutOfMemory { .. })) => return Err(error),
            Err(error) => error.to_string(),
        };
        let (device, name) = (&gpu.summary().name, format.name());
        let Some(simpler) = variant.simpler() else {
            gpu.variants.distrust(format);
            return Err(BackendError::Unsupported {
                device: device.clone(),
                what: format!("weights of {name}"),
                limit: format!("none of its kernels passes the self-test ({why}); set MISTRAL_DEVICE=cpu"),
            });
        };
        let size = gpu.subgroup_size;
        tracing::warn!(
            "{device}: {name} kernels ({}) fail the self-test: {why}; taking simpler ones ({})",
            variant.describe(size),
            simpler.describe(size)
        );
        gpu.count_fallback();
        variant = simpler;
    }
}

/// Compares prefill's attention by cooperative matrices with the reference, once for a head size; the ordinary one takes its
/// place where they disagree.
pub(crate) fn trust_flash(gpu: &Arc<Gpu>, head_dim: usize) {
    let none = gpu.variants.best().cooperative.is_none() || !gpu.options.self_test;
    if none || gpu.flash_trust(head_dim) != FlashTrust::Untested {
        return;
    }
    let (tested, name) = FLASH_CASES.into_iter().find(|case| case.0 == head_dim).unwrap_or(FLASH_CASES[0]);
    gpu.set_flash_trust(tested, FlashTrust::OnTrial);
    let case = conformance::cases().into_iter().find(|case| case.name == name).expect("a case of the suite");
    let mut trust = FlashTrust::Right;
    if let Outcome::Failed(why) = conformance::run_case(|| GpuBackend::new(gpu.clone()), &case, Invariance::Tolerance) {
        tracing::warn!("{}: flash attend fails the self-test: {why}; taking attend", gpu.summary().name);
        gpu.count_fallback();
        trust = FlashTrust::Wrong;
    }
    gpu.set_flash_trust(tested, trust);
    gpu.set_flash_trust(head_dim, trust);
}

/// Multiplies steps of [`ROWS`] rows with a random matrix of `format`.
fn check(gpu: &Arc<Gpu>, format: Format) -> Result<(), BackendError> {
    let mut random = Random(format as u64 + 1);
    let table = random.values(OUTPUTS * WIDTH);
    let row_bytes = format.row_bytes(WIDTH).expect("whole blocks");
    let mut weights = vec![0; row_bytes * OUTPUTS];
    for (row, out) in random.values(OUTPUTS * WIDTH).chunks(WIDTH).zip(weights.chunks_exact_mut(row_bytes)) {
        format.quantize_row(row, None, out).expect("small numbers");
    }
    let weights = TensorView::new(format, OUTPUTS, WIDTH, &weights).expect("sized for it");
    let mut backend = GpuBackend::new(gpu.clone());
    backend.configure(&Dims {
        dim: WIDTH,
        vocab: OUTPUTS,
        layers: Vec::new(),
        ropes: Vec::new(),
        max_rows: OUTPUTS,
        max_seqs: 1,
        max_logit_rows: OUTPUTS,
        max_context: OUTPUTS,
    })?;
    let bytes: Vec<u8> = table.iter().flat_map(|value| value.to_le_bytes()).collect();
    let view = TensorView::new(Format::F32, OUTPUTS, WIDTH, &bytes).expect("sized for it");
    let embedding = GpuMatrix::upload(gpu, &[view])?;
    let head = backend.prepare_matrix(Role::Head, &[weights])?;
    let norm = Norm { weight: backend.prepare_vector(&[1.0; WIDTH])?, eps: 1e-6 };
    backend.allocate_kv(&KvSpec { key_format: Format::F16, value_format: Format::F16, groups: Vec::new() })?;
    let wanted: Vec<Vec<f64>> = table.chunks(WIDTH).map(|x| product(x, &weights)).collect();
    for rows in ROWS {
        let tokens: Vec<u32> = (0..rows as u32).collect();
        backend.begin_step(&Batch {
            tokens: &tokens,
            positions: &tokens,
            seqs: &[SeqRows { first_row: 0, rows, past: 0 }],
            tables: &[],
            table_stride: 0,
            logit_rows: &tokens,
        })?;
        backend.embed(&Embed { table: &embedding, scale: 1.0 });
        backend.logits(&Logits { norm: &norm, weight: &head, soft_cap: None });
        backend.finish_step()?;
        for (row, wanted) in wanted[..rows].iter().enumerate() {
            compare(wanted, backend.logits_row(row)?, format).map_err(|why| BackendError::Device {
                device: gpu.summary().name.clone(),
                message: format!("row {row} of {rows}: {why}"),
            })?;
        }
    }
    Ok(())
}

/// W x / rms(x).
fn product(x: &[f32], weights: &TensorView<'_>) -> Vec<f64> {
    let mean = x.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (mean + 1e-6).sqrt();
    let mut row = vec![0.0; x.len()];
    (0..weights.rows)
        .map(|output| {
            weights.dequantize_row(output, &mut row);
            row.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum::<f64>() * scale
        })
        .collect()
}

fn compare(wanted: &[f64], got: &[f32], format: Format) -> Result<(), String> {
    let norm = wanted.iter().map(|w| w * w).sum::<f64>().sqrt();
    let error = wanted.iter().zip(got).map(|(w, &g)| (f64::from(g) - w).powi(2)).sum::<f64>().sqrt() / norm;
    let allowed = if format == Format::F32 { TOLERANCE_F32 } else { TOLERANCE };
    // Written so that a NaN fails.
    if error <= allowed { Ok(()) } else { Err(format!("relative error {error:.1e}, allowed {allowed:.1e}")) }
}

/// A small generator (splitmix64).
struct Random(u64);

impl Random {
    /// Values in [-1, 1).
    fn values(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.next()).collect()
    }

    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}
