//! `frontier bench roof`: what memory and arithmetic units give at best, now, with the threads that would compute.

use anyhow::Result;
use serde_json::json;
use tensor::Backend;

use super::device::{CpuGauge, Gauge, check_threads};
use crate::device::{self, Device};
use crate::output::{print_json, print_text};
use crate::settings::Settings;

/// Measure what this machine's memory and arithmetic could give at best
#[derive(clap::Args, Debug)]
pub(super) struct Roof {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Roof {
    pub(super) fn run(&self, settings: &Settings) -> Result<()> {
        check_threads(settings)?;
        let (reading, about) = match device::open(settings)? {
            Device::Cpu(backend) => {
                let about = (backend.describe(), backend.pool().threads(), backend.isa().name());
                (CpuGauge::new(&backend).read()?, about)
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(device) => (super::gpu::GpuGauge::new(device.gpu()).read()?, (device.describe(), 0, "wgsl")),
        };
        let (device, threads, isa) = about;
        let giga = |per_s: Option<f64>| per_s.map(|per_s| per_s / 1e9);
        let (integer, float, bf16) =
            (giga(reading.integer_ops_per_s), giga(reading.float_ops_per_s), giga(reading.bf16_ops_per_s));
        if self.json {
            return print_json(&json!({
                "device": device,
                "threads": threads,
                "isa": isa,
                "placement": reading.placement.name,
                "round_trip_ns": reading.placement.round_trip_ns,
                "read_gbps": reading.read_bytes_per_s / 1e9,
                "read_gbps_median": reading.read_bytes_per_s_median / 1e9,
                "integer_gops": integer,
                "float_gflops": float,
                "bf16_gflops": bf16,
            }));
        }
        let number =
            |value: Option<f64>| value.map_or_else(|| "not measured".to_owned(), |value| format!("{value:.0}"));
        print_text(&format!(
            "device     {}\nplacement  {}, round trips {:.0?} ns\nmemory     {:.1} GB/s read (median {:.1})\n\
             integer    {} G operations/s\nf32        {} G operations/s\nbf16       {} G operations/s\n",
            device,
            reading.placement.name,
            reading.placement.round_trip_ns,
            reading.read_bytes_per_s / 1e9,
            reading.read_bytes_per_s_median / 1e9,
            number(integer),
            number(float),
            number(bf16),
        ))
    }
}
