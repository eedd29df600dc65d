//! The gauge of a GPU: the bandwidth of a copy within its memory.

use std::sync::Arc;

use anyhow::Result;
use gpu::Gpu;

use super::device::{Gauge, HandedOver, Placement, Reading};

/// Bytes copied; more than any cache holds. A device in software takes its time over fewer.
const COPY_BYTES: u64 = 512 << 20;
const SOFTWARE_COPY_BYTES: u64 = 16 << 20;

/// Timed copies, after one that warms up; the best counts.
const COPIES: u32 = 4;

/// Measures a GPU.
pub(super) struct GpuGauge {
    gpu: Arc<Gpu>,
}

impl GpuGauge {
    pub(super) fn new(gpu: &Arc<Gpu>) -> GpuGauge {
        GpuGauge { gpu: Arc::clone(gpu) }
    }
}

impl Gauge for GpuGauge {
    fn read(&mut self) -> Result<Reading> {
        let software = self.gpu.summary().kind == gpu::AdapterKind::Software;
        let bytes = if software { SOFTWARE_COPY_BYTES } else { COPY_BYTES };
        let bytes_per_s = self.gpu.measure_copy_bandwidth(bytes, COPIES)?;
        Ok(Reading {
            read_bytes_per_s: bytes_per_s,
            read_bytes_per_s_median: bytes_per_s,
            integer_ops_per_s: None,
            float_ops_per_s: None,
            bf16_ops_per_s: None,
            placement: Placement { name: "gpu", round_trip_ns: Vec::new() },
        })
    }

    fn handed_over(&self) -> Option<HandedOver> {
        let totals = self.gpu.totals();
        Some(HandedOver {
            dispatches: totals.dispatches as u64,
            submits: totals.submits as u64,
            bytes: totals.bytes,
            cpu_seconds: (totals.cpu + totals.cpu_ahead).as_secs_f64(),
        })
    }
}
