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
