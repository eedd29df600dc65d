//! Real networks under the engine, on the reference and on the CPU's kernels: Hugging Face's greedy text, the same in
//! any batch, chunk, cache and after preemption.

use std::path::Path;
use std::sync::Arc;

use checkpoint::Checkpoint;
use cpu::{CpuBackend, Pool, PoolConfig};
use engine::{DecoderRunner, Draft, Engine, EngineConfig, Runner, SamplingDraft};
use model::{Decoder, DecoderConfig, LoadOptions};
use tensor::{Backend, Format, PAGE_TOKENS, Reference};

use crate::support::{Outcome, finish, greedy, shared, submit};

/// Tiny random models; one has a sliding window in every layer, one in some.
const TINY: [&str; 4] = ["llama", "qwen2", "mistral-window", "gemma3"];
const CONTEXT: usize = 3 * PAGE_TOKENS;
/// Tokens to generate in comparisons.
const OUTPUT: i64 = 24;

/// How to run.
#[derive(Clone, Copy, Debug)]
struct Setup {
    device: Device,
    batch: usize,
    chunk: usize,
    cache: bool,
    /// Pages of each KV group.
    pages: usize,
    /// Requests submitted at a time.
    at_once: usize,
}

/// What computes.
#[derive(Clone, Copy, Debug)]
enum Device {
    Reference,
    Cpu,
}

const DEVICES: [Device; 2] = [Device::Reference, Device::Cpu];

const ALONE: Setup = Setup { device: Device::Reference, batch: 1, chunk: 2048, cache: false, pages: 32, at_once: 1 };

fn engine(dir: &Path, setup: Setup) -> Engine {
    let runner = match setup.device {
        Device::Reference => runner(dir, setup, Reference::new()),
        Device::Cpu => {
            let pool = Pool::new(&PoolConfig { threads: Some(2), pin: false }).expect("two threads");
            runner(dir, setup, CpuBackend::new(Arc::new(pool)))
        }
    };
    let settings = EngineConfig {
        max_batch_size: setup.batch,
        max_running_requests: setup.batch.max(setup.at_once),
        prefill_chunk_tokens: setup.chunk,
        decode_chunk_tokens: 8,
        prefix_cache: setup.cache,
        ..EngineConfig::default()
    };
    Engine::start(runner, settings).expect("settings that fit")
}

fn runner<B: Backend + 'static>(dir: &Path, setup: Setup, backend: B) -> Box<dyn Runner> {
    let checkpoint = Checkpoint::open(dir).expect("a tiny model");
    let config = DecoderConfig::from_checkpoint(&checkpoint).expect("a known architecture");
    let sizes = LoadOptions { max_rows: 256, max_seqs: setup.batch, max_logit_rows: 32, max_context: Some(CONTEXT) };
    let decoder = Decoder::load(&checkpoint, config, backend, &sizes, &mut |_| {}).expect("it loads");
    let pages = vec![setup.pages; decoder.kv_groups().len()];
    Box::new(DecoderRunner::new(decoder, Format::F32, Format::F32, &pages).expect("memory for the pages"))
}

/// The Hugging Face implementation's input, and what it went on with.
fn expected(dir: &Path) -> (Vec<u32>, Vec<u32>) {
    let text = std::fs::read_to_string(dir.join("expected.json")).expect("an oracle");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let ids = |name: &str| -> Vec<u32> { serde_json::from_value(json[name].clone()).expect("token ids") };
    let prompt_len = json["greedy_prompt_len"].as_u64().expect("a length") as usize;
    (ids("input_ids")[..prompt_len].to_vec(), ids("greedy"))
}

/// Prompts of mixed lengths; every third shares its beginning with others.
fn prompts(ids: &[u32]) -> Vec<Vec<u32>> {
    let own = |i: usize| (0..5 + i * 11 % 90).map(move |at| ids[(i * 7 + at * (i + 1)) % ids.len()]);
    let common: Vec<u32> = ids.iter().cycle().take(70).copied().collect();
    (0..12)
        .map(|i| if i % 3 == 0 { common.iter().copied().chain(own(i)).collect() } else { own(i).collect() })
        .collect()
}

fn sampled(prompt: &[u32], seed: i64) -> Draft {
    let sampling =
        SamplingDraft { temperature: 1.1, top_p: 0.9, frequency_penalty: 0.4, seed: Some(seed), ..Default::default() };
    Draft { sampling, ..greedy(prompt, OUTPUT) }
}

fn run(dir: &Path, setup: Setup, prompts: &[Vec<u32>]) -> (Vec<Outcome>, engine::Stats) {
    let engine = engine(dir, setup);
    let mut outcomes = Vec::new();
    let drafts = |(i, prompt): (usize, &Vec<u32>)| [greedy(prompt, OUTPUT), sampled(prompt, i as i64)];
    let mut drafts = prompts.iter().enumerate().flat_map(drafts).peekable();
    while drafts.peek().is_some() {
        let running: Vec<_> = drafts.by_ref().take(setup.at_once).map(|draft| submit(&engine, draft)).collect();
        outcomes.extend(running.into_iter().map(|events| finish(events).expect("it ends well")));
    }
    engine.drain(std::time::Duration::ZERO);
    (outcomes, engine.stats())
}

#[test]
fn greedy_text_is_hugging_faces() {
    for (name, device) in TINY.into_iter().flat_map(|name| DEVICES.map(|device| (name, device))) {
        let Some(dir) = shared("tiny").map(|tiny| tiny.join(name)) else { return };
        let (prompt, text) = expected(&dir);
        let engine = engine(&dir, Setup { device, batch: 2, chunk: 7, ..ALONE });
        let outcome = finish(submit(&engine, greedy(&prompt, text.len() as i64))).expect("it ends well");
        assert_eq!(outcome.tokens, text, "{name} on {device:?}");
    }
}

#[test]
fn text_is_bit_identical_in_any_batch_chunk_and_cache_and_after_preemption() {
    for (name, device) in TINY.into_iter().flat_map(|name| DEVICES.map(|device| (name, device))) {
        let Some(dir) = shared("tiny").map(|tiny| tiny.join(name)) else { return };
        let prompts = prompts(&expected(&dir).0);
        let alone = Setup { device, ..ALONE };
        let (expected, _) = run(&dir, alone, &prompts);
        let bits = |outcomes: &[Outcome]| -> Vec<(Vec<u32>, Vec<u32>)> {
            let bits = |outcome: &Outcome| outcome.logprobs.iter().map(|logprob| logprob.to_bits()).collect();
            outcomes.iter().map(|outcome| (outcome.tokens.clone(), bits(outcome))).collect()
        };
        for setup in [
            Setup { batch: 2, chunk: 16, at_once: 2, ..alone },
            Setup { batch: 8, chunk: 128, cache: true, at_once: 8, ..alone },
            Setup { batch: 16, chunk: 2048, cache: true, at_once: 24, pages: 64, ..alone },
            Setup { batch: 4, chunk: 33, cache: true, at_once: 24, pages: 5, ..alone },
        ] {
            let (outcomes, stats) = run(&dir, setup, &prompts);
            assert_eq!(bits(&outcomes), bits(&expected), "{name}, {setup:?}");
            assert!(setup.pages > 5 || stats.counters.preemptions > 0, "{name}: nothing was preempted");
            assert!(!setup.cache || stats.counters.prefix_hits > 0, "{name}, {setup:?}: no prefix hit");
        }
    }
}
