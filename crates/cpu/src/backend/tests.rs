//! Conformance of this backend, on every instruction set and with several thread counts.

use std::sync::Arc;

use tensor::conformance;

use super::*;
use crate::pool::PoolConfig;

fn pool(threads: usize) -> Arc<Pool> {
    Arc::new(Pool::new(&PoolConfig { threads: Some(threads), pin: false }).expect("a small pool"))
}

#[test]
fn conforms_on_every_instruction_set() {
    let pool = pool(2);
    for isa in Isa::available() {
        let report =
            conformance::run(|| CpuBackend::with_isa(Arc::clone(&pool), isa), &conformance::Options::default());
        println!("{isa}: {report}");
        let failures: Vec<_> = report.failures().collect();
        assert!(failures.is_empty(), "{isa}: {failures:#?}");
    }
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
        backend.queries.resize(1000, 0.0);
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
