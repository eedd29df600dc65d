//! Steps that are started on tokens which only the device knows.

use std::sync::Arc;

use gpu::{Gpu, GpuOptions, list_adapters};
use tensor::{Backend, LIKELIEST, TopK};

use crate::tiny::Tiny;

/// The greatest logits after each of `steps` tokens, each the likeliest after the one before, `first` the first; all but the
/// first are started before the results of the one before are seen, if they may be.
fn chain(gpu: &Arc<Gpu>, first: u32, steps: usize, candidates: usize, may_run_ahead: bool) -> Vec<Vec<TopK>> {
    let mut tiny = Tiny::load(gpu).expect("it fits");
    let top_k = |tiny: &mut Tiny| {
        let mut greatest = Vec::new();
        tiny.backend.await_step().expect("a good step");
        tiny.backend.top_k(candidates, &mut greatest).expect("a good step");
        greatest
    };
    // So that later steps keep as many candidates.
    tiny.start(first).expect("a good step");
    top_k(&mut tiny);

    let mut told = Vec::new();
    tiny.start(first).expect("a good step");
    for step in 1..=steps {
        let ahead = may_run_ahead && step < steps && tiny.backend.runs_ahead();
        if ahead {
            tiny.start(LIKELIEST).expect("a good step");
        }
        let greatest = top_k(&mut tiny);
        if step < steps && !ahead {
            tiny.start(greatest[0].candidates[0].token).expect("a good step");
        }
        told.push(greatest);
    }
    told
}

#[test]
fn a_step_on_unseen_tokens_is_the_step_on_those_tokens() {
    if list_adapters().is_empty() {
        println!("skipped: steps ahead: no GPU adapter (install mesa-vulkan-drivers for software Vulkan)");
        return;
    }
    for (async_dispatch, queue_depth) in [(true, 64), (true, 2), (true, 1), (false, 64)] {
        let options = GpuOptions { async_dispatch, queue_depth, ..GpuOptions::default() };
        let gpu = Arc::new(Gpu::open(options).expect("an adapter is listed"));
        for candidates in [1, 4] {
            let seen = chain(&gpu, 3, 6, candidates, false);
            let tokens: Vec<u32> = seen.iter().map(|rows| rows[0].candidates[0].token).collect();
            assert!(tokens.windows(2).any(|pair| pair[0] != pair[1]), "{tokens:?} would hide a wrong token");
            let before = gpu.totals().followed;
            assert_eq!(chain(&gpu, 3, 6, candidates, true), seen);
            let overlaps = async_dispatch && queue_depth > 1;
            assert_eq!(gpu.totals().followed - before, if overlaps { 5 } else { 0 });
        }
    }
}
