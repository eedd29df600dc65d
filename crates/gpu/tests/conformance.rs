//! The conformance suite on whatever GPU there is, software Vulkan included.

use std::sync::Arc;

use gpu::{Gpu, GpuBackend, GpuOptions, Sabotage, ShaderChoice, Tuning, list_adapters};
use tensor::conformance::{self, Invariance, Options};

/// Cases that run by default. Software Vulkan takes minutes for the whole suite: `FRONTIER_CONFORMANCE=all` runs it, or
/// the cases whose name contains one of the variable's words (with blanks between them).
const QUICK: [&str; 7] =
    ["feature/", "weights/q4_k/", "weights/q8_0/down", "kv/f16,f16/64", "kv/q4_0,q4_0/64", "copy_page/q4_0", "top_k/"];

/// Of the variants: a matrix in each kind of stage, and attention over several pages.
const FEW: [&str; 3] = ["weights/q4_k/gate_up/256", "weights/q6_k/down/256", "attention/64x9"];

/// Runs the suite with `options`; prints that it was skipped where there is no adapter.
fn check(name: &str, cases: &[&str], options: GpuOptions, invariance: Invariance) {
    if list_adapters().is_empty() {
        println!("skipped: {name}: no GPU adapter (install mesa-vulkan-drivers for software Vulkan)");
        return;
    }
    let gpu = Arc::new(Gpu::open(options).expect("an adapter is listed"));
    let asked = std::env::var("FRONTIER_CONFORMANCE").ok();
    let picks: Vec<&str> = asked.as_deref().map_or(cases.to_vec(), |words| words.split_whitespace().collect());
    for only in picks {
        let only = if only == "all" { "" } else { only };
        let picked = Options { only: only.to_owned(), invariance };
        let report = conformance::run(|| GpuBackend::new(gpu.clone()), &picked);
        println!("{name}, {only}, on {}: {report}", gpu.summary().name);
        assert!(report.failures().next().is_none(), "{name}: {report}");
        assert!(report.passed() > 0, "{name}: no case ran");
    }
    assert_eq!(gpu.fallbacks(), 0, "{name}: kernels that failed their self-test were replaced");
}

#[test]
fn unchecked_shaders_conform() {
    check("unchecked", &QUICK, GpuOptions::default(), Invariance::Tolerance);
}

#[test]
fn checked_shaders_conform() {
    let options = GpuOptions { checked_shaders: true, ..GpuOptions::default() };
    check("checked", &FEW, options, Invariance::Tolerance);
}

#[test]
fn reductions_through_workgroup_memory_conform() {
    let options = GpuOptions { subgroup_reduction: false, ..GpuOptions::default() };
    check("workgroup memory", &FEW, options, Invariance::Tolerance);
}

#[test]
fn baseline_shaders_conform() {
    let options = GpuOptions { shaders: ShaderChoice::Baseline, ..GpuOptions::default() };
    check("baseline", &FEW, options, Invariance::Tolerance);
}

#[test]
fn tiled_shaders_conform() {
    let options = GpuOptions { shaders: ShaderChoice::Tiled, ..GpuOptions::default() };
    check("tiled", &FEW, options, Invariance::Tolerance);
}

#[test]
fn packed_dot_products_conform() {
    for single_workgroups in [0, 3] {
        let tuning = Some(Tuning { dots_rows: 32, single_workgroups, ..Tuning::PORTABLE });
        let cases = ["weights/q4_k/gate_up/256", "weights/q6_k/qkv/256", "weights/q8_0/down", "network/q6_k"];
        check("8-bit dot products", &cases, GpuOptions { tuning, ..GpuOptions::default() }, Invariance::Tolerance);
    }
}

#[test]
fn plain_attention_conforms() {
    let options = GpuOptions { flash_attention: false, ..GpuOptions::default() };
    let cases = ["attention/64x9", "attention/80x4/1", "feature/attn_soft_cap", "kv/q8_0,f16/64"];
    check("plain attention", &cases, options, Invariance::Tolerance);
}

#[test]
fn what_pages_hold_before_they_are_written_does_not_matter() {
    for flash_attention in [true, false] {
        let sabotage = Sabotage { dirty_pages: true, ..Sabotage::default() };
        let options = GpuOptions { sabotage, flash_attention, ..GpuOptions::default() };
        let cases = ["kv/f16,f16/80x3", "kv/f32,f32/64", "kv/q8_0,q8_0/64", "attention/64x9", "copy_page/q4_0"];
        check("pages that hold NaN", &cases, options, Invariance::Tolerance);
    }
}

#[test]
fn steps_without_replay_in_many_submissions_conform() {
    let options = GpuOptions {
        graph_capture: false,
        async_dispatch: false,
        queue_depth: 1,
        submission_bytes: 1,
        pool_bytes: 0,
        ..GpuOptions::default()
    };
    check("one dispatch a submission", &["feature/everything"], options, Invariance::Tolerance);
}

#[test]
fn batch_invariant_rows_are_the_same_bits_in_any_company() {
    let options = GpuOptions { batch_invariant: true, ..GpuOptions::default() };
    check("batch invariant", &["network/q4_k", "weights/q8_0/gate_up/96"], options, Invariance::Bits);
}
