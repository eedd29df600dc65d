//! What a benchmark asks of a device beside computing: its limits, measured now, and what it counts.
//!
//! [`Gauge`] is the seam: a device that can be benchmarked brings one.

use std::sync::Arc;

use anyhow::{Result, bail};
use cpu::roof::Roofs;
use cpu::{CpuBackend, Isa, Pool};
use serde::Serialize;

use crate::settings::{Settings, defs};

/// Measures a device.
pub(super) trait Gauge {
    /// The limits as they are now. Called before and after every timed run, so it takes about half a second.
    fn read(&mut self) -> Result<Reading>;

    /// What was handed to the device since it was opened; `None` where nothing is handed over.
    fn handed_over(&self) -> Option<HandedOver> {
        None
    }
}

/// Limits of a device at one moment.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    /// Bytes a second that can be read from memory, best pass.
    pub(super) read_bytes_per_s: f64,
    /// The same, median pass.
    pub(super) read_bytes_per_s_median: f64,
    /// Multiplications and additions a second (each counts) of 8-bit integers, f32 and bf16; `None` where not measured.
    pub(super) integer_ops_per_s: Option<f64>,
    pub(super) float_ops_per_s: Option<f64>,
    pub(super) bf16_ops_per_s: Option<f64>,
    /// Where the computing threads run.
    pub(super) placement: Placement,
}

/// Where the computing threads run.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Placement {
    /// See [`cpu::roof::Placement::name`]; of a reading: `moved` when it changed meanwhile.
    pub(super) name: &'static str,
    /// Nanoseconds of a cache line's round trip from the leader to each worker.
    pub(super) round_trip_ns: Vec<f64>,
}

/// Work handed to a device that is not the CPU.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HandedOver {
    pub(super) dispatches: u64,
    pub(super) submits: u64,
    /// Bytes that the device read and wrote for it, by the kernels' own account.
    pub(super) bytes: u64,
    /// Time that the CPU took to hand it over.
    pub(super) cpu_seconds: f64,
}

/// The gauge of a CPU.
pub(super) struct CpuGauge {
    pool: Arc<Pool>,
    isa: Isa,
}

impl CpuGauge {
    /// Measures with the threads of the backend, of which the caller is the leader.
    pub(super) fn new(backend: &CpuBackend) -> CpuGauge {
        backend.pool().pin_leader();
        CpuGauge { pool: Arc::clone(backend.pool()), isa: backend.isa() }
    }

    /// The roofs in the words of `cpu`.
    pub(super) fn roofs(&self) -> Result<Roofs> {
        Ok(Roofs::measure(&self.pool, self.isa)?)
    }
}

impl Gauge for CpuGauge {
    fn read(&mut self) -> Result<Reading> {
        let roofs = self.roofs()?;
        let [before, after] = &roofs.placement;
        let name = if before.name() == after.name() { after.name() } else { MOVED };
        Ok(Reading {
            read_bytes_per_s: roofs.read_bytes_per_s,
            read_bytes_per_s_median: roofs.read_bytes_per_s_median,
            integer_ops_per_s: Some(roofs.integer_ops_per_s),
            float_ops_per_s: Some(roofs.float_ops_per_s),
            bf16_ops_per_s: Some(roofs.bf16_ops_per_s),
            placement: Placement { name, round_trip_ns: after.round_trip_ns.clone() },
        })
    }
}

/// The name of a placement that changed while it was looked at.
pub(super) const MOVED: &str = "moved";

/// Fails when more threads are asked for than cores may be used: they would take turns, and every figure be wrong.
pub(super) fn check_threads(settings: &Settings) -> Result<()> {
    let (threads, cores) = (settings.len(&defs::NUM_THREADS), cpu::pool::usable_cores().len());
    if threads > cores {
        bail!("--threads {threads}: this process may use {cores} cores; allowed: 1 to {cores}");
    }
    Ok(())
}
