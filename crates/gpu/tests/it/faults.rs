//! Kernels that are wrong, devices that vanish, memory that runs out: errors that say so, and never a wrong answer.

use std::sync::Arc;

use gpu::{Gpu, GpuBackend, GpuOptions, Sabotage, list_adapters};
use tensor::conformance::{Case, Invariance, Outcome, cases, run_case};
use tensor::{Backend, BackendError, Dims, LayerDims};

use crate::tiny::Tiny;

fn open(name: &str, options: GpuOptions) -> Option<Arc<Gpu>> {
    if list_adapters().is_empty() {
        println!("skipped: {name}: no GPU adapter (install mesa-vulkan-drivers for software Vulkan)");
        return None;
    }
    Some(Arc::new(Gpu::open(options).expect("an adapter is listed")))
}

fn case(name: &str) -> Case {
    cases().into_iter().find(|case| case.name == name).expect("a case of the suite")
}

#[test]
fn a_kernel_that_computes_nonsense_or_does_not_compile_is_replaced() {
    for (what, sabotage) in [
        ("wrong", Sabotage { wrong_kernel: Some("mat-vec staged"), ..Sabotage::default() }),
        ("broken", Sabotage { broken_kernel: Some("mat-vec staged"), ..Sabotage::default() }),
    ] {
        let Some(gpu) = open(what, GpuOptions { sabotage, ..GpuOptions::default() }) else { return };
        let outcome = run_case(|| GpuBackend::new(gpu.clone()), &case("weights/q4_k/down/256"), Invariance::Tolerance);
        assert_eq!(outcome, Outcome::Passed, "{what}");
        assert!(gpu.fallbacks() > 0, "{what}: nothing was replaced");
    }
}

#[test]
fn a_format_without_a_right_kernel_is_refused() {
    let sabotage = Sabotage { wrong_kernel: Some("mat-vec"), ..Sabotage::default() };
    let Some(gpu) = open("refused", GpuOptions { sabotage, ..GpuOptions::default() }) else { return };
    let outcome = run_case(|| GpuBackend::new(gpu.clone()), &case("weights/q4_k/down/256"), Invariance::Tolerance);
    let Outcome::Unsupported(why) = outcome else { panic!("{outcome:?}") };
    assert!(why.contains("self-test") && why.contains("MISTRAL_DEVICE=cpu"), "{why}");
}

#[test]
fn a_lost_device_is_reported_by_every_later_call() {
    let Some(gpu) = open("lost", GpuOptions::default()) else { return };
    let mut tiny = Tiny::load(&gpu).expect("it fits");
    tiny.step().expect("a good step");
    gpu.lose();
    for _ in 0..3 {
        let error = tiny.step().expect_err("the device is gone");
        assert!(matches!(error, BackendError::Lost { .. }), "{error}");
    }
    assert!(matches!(Tiny::load(&gpu), Err(BackendError::Lost { .. })));
    let again = Arc::new(Gpu::open(GpuOptions::default()).expect("the adapter is still there"));
    Tiny::load(&again).expect("it fits").step().expect("a good step");
}

#[test]
fn a_heap_too_small_is_refused_and_nothing_is_kept() {
    let options = GpuOptions { heap_bytes: Some(40_000), pool_bytes: 0, ..GpuOptions::default() };
    let Some(gpu) = open("heap", options) else { return };
    let before = gpu.allocated_bytes();
    let error = Tiny::load(&gpu).err().expect("more than 40,000 bytes");
    let BackendError::OutOfMemory { wanted_bytes, available_bytes, .. } = error else { panic!("{error}") };
    assert!(wanted_bytes > available_bytes, "{wanted_bytes} of {available_bytes}");
    assert_eq!(gpu.allocated_bytes(), before);
}

#[test]
fn a_head_size_without_a_kernel_is_refused_and_the_error_says_what_to_set() {
    let Some(gpu) = open("head sizes", GpuOptions::default()) else { return };
    let most = "multiples of 4 up to 256";
    for (head_dim, heads, limit) in [(6, 2, most), (260, 2, most), (256, 64, "bytes of workgroup memory")] {
        let error = GpuBackend::new(gpu.clone()).configure(&Dims {
            dim: 64,
            vocab: 64,
            layers: vec![LayerDims { heads, kv_heads: 1, head_dim, ffn: 64 }],
            ropes: Vec::new(),
            max_rows: 8,
            max_seqs: 1,
            max_logit_rows: 1,
            max_context: 64,
        });
        let error = error.expect_err("there is none").to_string();
        for part in [&format!("heads of size {head_dim}"), "layer 0", limit, "MISTRAL_DEVICE=cpu"] {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

#[test]
fn what_is_dropped_can_be_allocated_again() {
    for pool_bytes in [0, 1 << 30] {
        let Some(gpu) = open("pool", GpuOptions { pool_bytes, ..GpuOptions::default() }) else { return };
        let before = gpu.allocated_bytes();
        for _ in 0..3 {
            let mut tiny = Tiny::load(&gpu).expect("it fits");
            assert!(gpu.allocated_bytes() > before);
            tiny.step().expect("a good step");
            drop(tiny);
            assert_eq!(gpu.allocated_bytes(), before, "with a pool of {pool_bytes} bytes");
        }
    }
}
