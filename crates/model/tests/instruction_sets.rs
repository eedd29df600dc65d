//! Two real models, with weights of a few bits and keys and values of f16, give the same logits, bit for bit, on every
//! instruction set of the CPU's kernels.
//!
//! A program of its own, in a crate that needs no C code: `scripts/testing/neon.sh` cross-builds it and runs it under
//! qemu as well.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "it/real.rs"]
mod real;

use std::sync::Arc;

use cpu::{CpuBackend, Isa, Pool, PoolConfig};
use tensor::Format;

use crate::real::{GEMMA3, Real, SMOLLM2, load, logits_along};

/// Prompts of each model; few, as scalar code is slow.
const PROMPTS: usize = 2;

/// The same on an emulated machine, where scalar code takes ten times as long and NEON a hundred times.
const EMULATED_PROMPTS: usize = 1;

#[test]
fn smollm2_gives_the_same_logits_on_every_instruction_set() {
    check(&SMOLLM2);
}

#[test]
fn gemma3_gives_the_same_logits_on_every_instruction_set() {
    check(&GEMMA3);
}

/// Along llama.cpp's texts, every instruction set of this machine gives the logits that scalar code does: products of weights are
/// sums of integers, and whatever else is added up is added up in one order by all.
fn check(real: &Real) {
    let Some(path) = real.path() else { return };
    let emulated = emulated();
    let isas = emulated.map_or(Isa::ALL.to_vec(), |isa| vec![isa]);
    let prompts = real.prompts();
    let prompts = &prompts[..if emulated.is_some() { EMULATED_PROMPTS } else { PROMPTS }];
    let logits = |isa| -> Vec<Vec<f32>> {
        let pool = Arc::new(Pool::new(&PoolConfig { threads: Some(2), pin: false }).unwrap());
        let mut decoder = load(&path, CpuBackend::with_isa(pool, isa));
        prompts.iter().flat_map(|prompt| logits_along(&mut decoder, prompt, Format::F16)).collect()
    };
    let scalar = logits(Isa::Scalar);
    for isa in isas.into_iter().filter(|&isa| isa != Isa::Scalar) {
        if !isa.is_available() {
            println!("skipped: {isa}, which this machine does not have");
            continue;
        }
        let logits = logits(isa);
        assert_eq!(logits.len(), scalar.len(), "{isa}");
        for (step, (logits, scalar)) in logits.iter().zip(&scalar).enumerate() {
            assert_eq!(logits.len(), scalar.len(), "{isa}, step {step}");
            let mut pairs = logits.iter().zip(scalar).enumerate();
            let differing = pairs.find(|(_, (logit, scalar))| logit.to_bits() != scalar.to_bits());
            assert_eq!(differing, None, "{isa}, step {step}: a token, its logit, and that of scalar code");
        }
    }
}

/// The best instruction set of an emulated machine, which is slow: `FRONTIER_TEST_ISA`, as the tests of `cpu` read it.
/// It alone is compared with scalar code.
fn emulated() -> Option<Isa> {
    let name = std::env::var("FRONTIER_TEST_ISA").ok()?;
    let isa = Isa::from_name(&name).unwrap_or_else(|| panic!("FRONTIER_TEST_ISA: no instruction set {name}"));
    assert!(isa != Isa::Scalar && isa == Isa::detect(), "{isa} on a machine with {}", Isa::detect());
    Some(isa)
}
