//! The conformance suite on whatever GPU there is, software Vulkan included.

use std::sync::Arc;

use gpu::{Gpu, GpuBackend, GpuOptions, list_adapters};
use tensor::conformance::{self, Invariance, Options};

/// Runs the suite with `options`; prints that it was skipped where there is no adapter.
fn check(name: &str, options: GpuOptions) {
    if list_adapters().is_empty() {
        println!("skipped: {name}: no GPU adapter (install mesa-vulkan-drivers for software Vulkan)");
        return;
    }
    let gpu = Arc::new(Gpu::open(options).expect("an adapter is listed"));
    let only = std::env::var("FRONTIER_CONFORMANCE").unwrap_or_default();
    let picked = Options { only, invariance: Invariance::Tolerance };
    let report = conformance::run(|| GpuBackend::new(gpu.clone()), &picked);
    println!("{name} on {}: {report}", gpu.summary().name);
    assert!(report.failures().next().is_none(), "{name}: {report}");
    assert!(report.passed() > 0, "{name}: no case ran");
}

#[test]
fn unchecked_shaders_conform() {
    check("unchecked", GpuOptions::default());
}
