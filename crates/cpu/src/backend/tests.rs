//! Conformance of this backend, on every instruction set: a test for each part of the suite.

use std::sync::Arc;

use tensor::conformance::{self, Invariance, Report};

use super::*;
use crate::pool::PoolConfig;

/// What case names start with.
const PARTS: [&str; 8] = ["weights/", "mixed/", "feature/", "attention/", "kv/", "network/", "top_k/", "copy_page/"];

fn pool(threads: usize) -> Arc<Pool> {
    Arc::new(Pool::new(&PoolConfig { threads: Some(threads), pin: false }).expect("a small pool"))
}

fn conforms(part: &str) {
    let pool = pool(2);
    for isa in Isa::of_long_tests() {
        let make = || CpuBackend::with_isa(Arc::clone(&pool), isa);
        let cases = conformance::cases().into_iter().filter(|case| case.name.starts_with(part));
        let outcome = |case: conformance::Case| {
            let outcome = conformance::run_case(make, &case, Invariance::Bits);
            (case.name, outcome)
        };
        let report = Report { outcomes: cases.map(outcome).collect() };
        println!("{part} on {isa}: {report}");
        assert!(report.failures().next().is_none(), "{isa}: {report}");
        assert!(report.passed() > 0, "{isa}: no case {part} ran");
    }
}

#[test]
fn every_case_belongs_to_a_part() {
    for case in conformance::cases() {
        assert!(PARTS.iter().any(|part| case.name.starts_with(part)), "{}", case.name);
    }
}

#[test]
fn weights_conform() {
    conforms("weights/");
}

#[test]
fn mixed_weights_conform() {
    conforms("mixed/");
}

#[test]
fn features_conform() {
    conforms("feature/");
}

#[test]
fn attention_conforms() {
    conforms("attention/");
}

#[test]
fn kv_formats_conform() {
    conforms("kv/");
}

#[test]
fn networks_conform() {
    conforms("network/");
}

#[test]
fn top_k_conforms() {
    conforms("top_k/");
}

#[test]
fn page_copies_conform() {
    conforms("copy_page/");
}

#[test]
fn scratch_that_is_given_back_before_each_step_changes_nothing() {
    let pool = pool(2);
    let make = || CpuBackend::new(Arc::clone(&pool)).with_pool_bytes(0);
    let report = conformance::run(make, &conformance::Options::default());
    let failures: Vec<_> = report.failures().collect();
    assert!(failures.is_empty(), "{failures:#?}");
}

#[test]
fn scratch_beyond_the_pool_is_given_back() {
    for (pool_bytes, is_kept) in [(0, false), (usize::MAX, true)] {
        let mut backend = CpuBackend::new(pool(1)).with_pool_bytes(pool_bytes);
        backend.hidden.reset(8, 64);
        backend.queries.room(1000);
        let bytes = backend.scratch_bytes();
        assert!(bytes >= 4 * (8 * 64 + 1000), "{bytes}");
        let (tokens, positions, tables) = ([], [], []);
        let batch = Batch {
            tokens: &tokens,
            positions: &positions,
            seqs: &[],
            tables: &tables,
            table_stride: 0,
            logit_rows: &[],
        };
        backend.begin_step(&batch).expect("an empty step");
        assert_eq!(backend.scratch_bytes() == bytes, is_kept, "a pool of {pool_bytes} bytes");
        assert_eq!(backend.scratch_bytes() < 1000, !is_kept, "a pool of {pool_bytes} bytes");
    }
}
