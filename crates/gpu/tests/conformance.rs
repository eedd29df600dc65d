//! The conformance suite on whatever GPU there is, software Vulkan included.

use std::sync::Arc;

use gpu::{Gpu, GpuBackend, GpuOptions, list_adapters};
use tensor::conformance::{self, Invariance, Options};

/// Cases that run by default. Software Vulkan takes minutes for the whole suite: `FRONTIER_CONFORMANCE=all` runs it, or
/// the cases whose name contains the variable's value.
const QUICK: [&str; 4] = ["feature/", "weights/q4_k", "weights/q8_0", "kv/f16,f16/64"];

/// Runs the suite with `options`; prints that it was skipped where there is no adapter.
fn check(name: &str, options: GpuOptions) {
    if list_adapters().is_empty() {
        println!("skipped: {name}: no GPU adapter (install mesa-vulkan-drivers for software Vulkan)");
        return;
    }
    let gpu = Arc::new(Gpu::open(options).expect("an adapter is listed"));
    let asked = std::env::var("FRONTIER_CONFORMANCE").ok();
    let picks = asked.as_deref().map_or(QUICK.to_vec(), |all_or_part| vec![all_or_part]);
    for only in picks {
        let picked = Options { only: only.replace("all", ""), invariance: Invariance::Tolerance };
        let report = conformance::run(|| GpuBackend::new(gpu.clone()), &picked);
        println!("{name}, {only}, on {}: {report}", gpu.summary().name);
        assert!(report.failures().next().is_none(), "{name}: {report}");
        assert!(report.passed() > 0, "{name}: no case ran");
    }
}

#[test]
fn unchecked_shaders_conform() {
    check("unchecked", GpuOptions::default());
}
