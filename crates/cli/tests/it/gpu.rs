//! The GPU backend under real networks, the engine and the server, on whatever adapter there is: software Vulkan will
//! do.
#![cfg(feature = "gpu")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use checkpoint::Checkpoint;
use engine::{
    DecoderRunner, Draft, Engine, EngineConfig, Event, Events, Failure, RebuildingRunner, Request, SamplingDraft,
};
use gpu::{Gpu, GpuBackend, GpuOptions, list_adapters};
use model::{Decoder, DecoderConfig, LoadOptions, Session, Wanted};
use serde_json::Value;
use tensor::{Format, PAGE_TOKENS};

use crate::models::{gemma3, shared, smollm2};
use crate::program::{error, frontier, stdout};
use crate::serve::Serving;

/// Tiny random models with Hugging Face's logits; one has a sliding window in every layer, one in some.
const TINY: [&str; 6] = ["llama", "llama3-rope", "mistral-window", "qwen2", "qwen3", "gemma3"];

/// What two f32 implementations of a few layers may differ by: sums in different orders, exp and tanh of different
/// libraries. Logits are of order 1.
const LOGIT_TOLERANCE: f32 = 3e-4;

/// Greatest difference of perplexities: f16 KV pages and activations in other precisions than the CPU's.
const PERPLEXITY_TOLERANCE: f64 = 0.005;

const CONTEXT: usize = 3 * PAGE_TOKENS;

/// The device, or `None` with a visible line.
fn open(options: GpuOptions) -> Option<Arc<Gpu>> {
    if list_adapters().is_empty() {
        println!("skipped: networks on the GPU: no adapter (install mesa-vulkan-drivers for software Vulkan)");
        return None;
    }
    Some(Arc::new(Gpu::open(options).unwrap()))
}

/// A tiny model, or `None` with a visible line.
fn tiny(name: &str) -> Option<PathBuf> {
    shared(&format!("data/tiny/{name}"))
}

fn load(gpu: &Arc<Gpu>, dir: &Path, sizes: &LoadOptions) -> Decoder<GpuBackend> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let config = DecoderConfig::from_checkpoint(&checkpoint).unwrap();
    Decoder::load(&checkpoint, config, GpuBackend::new(gpu.clone()), sizes, &mut |_| {}).unwrap()
}

fn expected(dir: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(dir.join("expected.json")).unwrap()).unwrap()
}

fn ids(value: &Value) -> Vec<u32> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn tiny_models_give_the_logits_of_hugging_face() {
    let Some(gpu) = open(GpuOptions::default()) else { return };
    for name in TINY {
        let Some(dir) = tiny(name) else { return };
        let expected = expected(&dir);
        let tokens = ids(&expected["input_ids"]);
        let sizes = LoadOptions { max_rows: 64, max_seqs: 1, max_logit_rows: 64, max_context: Some(CONTEXT) };
        let mut decoder = load(&gpu, &dir, &sizes);
        for chunk in [tokens.len(), 7] {
            let mut session = Session::new(&mut decoder, Format::F32, tokens.len()).unwrap();
            let mut worst = 0.0f32;
            for (index, part) in tokens.chunks(chunk).enumerate() {
                let mut compare = |place: usize, logits: &[f32]| {
                    let wanted: Vec<f32> =
                        serde_json::from_value(expected["logits"][index * chunk + place].clone()).unwrap();
                    worst = logits.iter().zip(&wanted).map(|(g, w)| (g - w).abs()).fold(worst, f32::max);
                };
                session.extend(part, Wanted::All, &mut compare).unwrap();
            }
            println!("{name}, steps of {chunk}: max |logit - reference| = {worst:.1e}");
            assert!(worst <= LOGIT_TOLERANCE, "{name}, steps of {chunk}: {worst}");
        }
    }
}

/// How an engine runs.
#[derive(Clone, Copy, Debug)]
struct Setup {
    batch: usize,
    chunk: usize,
    cache: bool,
    /// Pages of each KV group.
    pages: usize,
}

const ALONE: Setup = Setup { batch: 1, chunk: 2048, cache: false, pages: 32 };

fn runner(gpu: &Arc<Gpu>, dir: &Path, setup: Setup) -> DecoderRunner<GpuBackend> {
    let sizes = LoadOptions { max_rows: 256, max_seqs: setup.batch, max_logit_rows: 32, max_context: Some(CONTEXT) };
    let decoder = load(gpu, dir, &sizes);
    let pages = vec![setup.pages; decoder.kv_groups().len()];
    DecoderRunner::new(decoder, Format::F32, Format::F32, &pages).unwrap()
}

fn settings(setup: Setup) -> EngineConfig {
    EngineConfig {
        max_batch_size: setup.batch,
        max_running_requests: setup.batch.max(16),
        prefill_chunk_tokens: setup.chunk,
        decode_chunk_tokens: 8,
        prefix_cache: setup.cache,
        // Software Vulkan takes its time.
        queue_timeout: Duration::from_secs(600),
        ..EngineConfig::default()
    }
}

fn submit(engine: &Engine, prompt: &[u32], max_tokens: i64) -> Events {
    let sampling = SamplingDraft { temperature: 0.0, ..SamplingDraft::default() };
    let draft = Draft { prompt: prompt.to_vec(), max_tokens: Some(max_tokens), sampling, ..Draft::default() };
    engine.submit(Request::check(draft, engine.limits()).unwrap()).unwrap()
}

/// Tokens and the bits of their log probabilities.
fn finish(mut events: Events) -> Result<Vec<(u32, u32)>, Failure> {
    let mut tokens = Vec::new();
    while let Some(event) = events.blocking_recv() {
        match event {
            Event::Token(token) => tokens.push((token.id, token.logprob.to_bits())),
            Event::Failed(failure) => return Err(failure),
            _ => {}
        }
    }
    Ok(tokens)
}

#[test]
fn text_is_bit_identical_in_any_batch_chunk_and_cache_with_invariant_kernels() {
    const OUTPUT: i64 = 6;
    let Some(gpu) = open(GpuOptions { batch_invariant: true, ..GpuOptions::default() }) else { return };
    for name in ["llama", "gemma3"] {
        let Some(dir) = tiny(name) else { return };
        let ids = ids(&expected(&dir)["input_ids"]);
        let common: Vec<u32> = ids.iter().cycle().take(70).copied().collect();
        let prompts: Vec<Vec<u32>> = (0..4)
            .map(|i| if i % 2 == 0 { [&common[..], &ids[..i + 1]].concat() } else { ids[..5 + i * 9 % 30].to_vec() })
            .collect();
        let run = |setup: Setup| {
            let engine = Engine::start(Box::new(runner(&gpu, &dir, setup)), settings(setup)).unwrap();
            let running: Vec<Events> = match setup.batch {
                1 => Vec::new(),
                _ => prompts.iter().map(|prompt| submit(&engine, prompt, OUTPUT)).collect(),
            };
            if setup.batch == 1 {
                return prompts.iter().map(|prompt| finish(submit(&engine, prompt, OUTPUT)).unwrap()).collect();
            }
            // One that is cancelled in the middle leaves no trace.
            drop(submit(&engine, &common, 100));
            running.into_iter().map(|events| finish(events).unwrap()).collect::<Vec<_>>()
        };
        let alone = run(ALONE);
        for setup in [
            Setup { batch: 4, chunk: 16, ..ALONE },
            Setup { batch: 8, chunk: 2048, cache: true, ..ALONE },
            Setup { batch: 4, chunk: 33, cache: true, pages: 6 },
        ] {
            assert_eq!(run(setup), alone, "{name}, {setup:?}");
        }
    }
}

#[test]
fn greedy_text_is_hugging_faces() {
    let Some(gpu) = open(GpuOptions::default()) else { return };
    for name in TINY {
        let Some(dir) = tiny(name) else { return };
        let expected = expected(&dir);
        let prompt_len = expected["greedy_prompt_len"].as_u64().unwrap() as usize;
        let (prompt, text) = (ids(&expected["input_ids"])[..prompt_len].to_vec(), ids(&expected["greedy"]));
        let setup = Setup { batch: 2, chunk: 7, ..ALONE };
        let engine = Engine::start(Box::new(runner(&gpu, &dir, setup)), settings(setup)).unwrap();
        let both = [submit(&engine, &prompt, text.len() as i64), submit(&engine, &prompt, text.len() as i64)];
        for events in both {
            let got: Vec<u32> = finish(events).unwrap().into_iter().map(|(token, _)| token).collect();
            assert_eq!(got, text, "{name}");
        }
    }
    assert!(gpu.totals().followed > 0, "no step was started before the results of the one before were seen");
}

#[test]
fn a_lost_device_fails_its_requests_and_is_built_anew() {
    let Some(gpu) = open(GpuOptions::default()) else { return };
    let Some(dir) = tiny("llama") else { return };
    let prompt = ids(&expected(&dir)["input_ids"]);
    let first = runner(&gpu, &dir, ALONE);
    let again = dir.clone();
    let build = move || {
        let gpu = Arc::new(Gpu::open(GpuOptions::default())?);
        Ok(runner(&gpu, &again, ALONE))
    };
    let engine = Engine::start(Box::new(RebuildingRunner::new(first, build)), settings(ALONE)).unwrap();
    let before = finish(submit(&engine, &prompt, 5)).unwrap();
    gpu.lose();
    let failure = finish(submit(&engine, &prompt, 5)).expect_err("the device is gone");
    assert!(format!("{failure:?}").contains("lost"), "{failure:?}");
    assert_eq!(finish(submit(&engine, &prompt, 5)).unwrap(), before);
}

#[test]
fn the_server_answers_from_the_gpu() {
    let Some(_) = open(GpuOptions::default()) else { return };
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(dir.path(), &model, &["--device", "vulkan", "--prefill-chunk-size", "64"]);
    let (status, health) = serving.request("GET", "/health", "");
    assert!(status == 200 && health.contains("Vulkan"), "{health}");
    let answer = serving.chat(serde_json::json!({ "max_tokens": 8 }));
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("Paris"), "{text}");
}

#[test]
fn gemma_answers_and_perplexity_is_that_of_the_cpu() {
    let Some(_) = open(GpuOptions::default()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let text = &include_str!("../../../../LICENSE-APACHE")[..1500];
    std::fs::write(dir.path().join("text"), text).unwrap();
    for model in [smollm2(), gemma3()].into_iter().flatten() {
        let perplexity = |device: &str| {
            let arguments = ["--file", "text", "--window", "128", "--json", "--device", device];
            let text = stdout(frontier(dir.path()).arg("perplexity").arg(&model).args(arguments));
            serde_json::from_str::<Value>(&text).unwrap()["perplexity"].as_f64().unwrap()
        };
        let (cpu, gpu) = (perplexity("cpu"), perplexity("vulkan"));
        println!("{}: perplexity {cpu:.4} on the CPU, {gpu:.4} on the GPU", model.display());
        assert!((gpu / cpu - 1.0).abs() <= PERPLEXITY_TOLERANCE, "{cpu} on the CPU, {gpu} on the GPU");
    }
}

#[test]
fn what_a_device_cannot_do_is_said_at_the_start() {
    let Some(_) = open(GpuOptions::default()) else { return };
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (arguments, named) in [
        (&["--device", "vulkan", "--metal-device-id", "9"][..], &["MISTRAL_METAL_DEVICE_ID=9", "allowed: 0 ("][..]),
        (&["--device", "vulkan", "--metal-heap-size", "64MiB"], &["MISTRAL_METAL_HEAP_SIZE"]),
        (&["--device", "metal"], &["macOS", "vulkan"]),
    ] {
        let message = error(frontier(dir.path()).arg("run").arg(&model).arg("hello").args(arguments));
        assert!(named.iter().all(|name| message.contains(name)), "{arguments:?}: {message}");
    }
}
