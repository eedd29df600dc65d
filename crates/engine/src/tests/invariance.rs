//! A request's tokens depend on the request alone: not on the batch, the chunks, the cache or preemption.

use super::*;

/// 40 prompts of mixed lengths, some with common beginnings.
fn prompts() -> Vec<Vec<u32>> {
    let system = prompt(99, 150);
    (0..40u32)
        .map(|i| {
            let own = prompt(i, 1 + (i as usize * 37) % 200);
            if i % 3 == 0 { [system.clone(), own].concat() } else { own }
        })
        .collect()
}

fn sampled(prompt: Vec<u32>, seed: i64) -> Draft {
    let sampling = SamplingDraft {
        temperature: 1.2,
        top_p: 0.95,
        repetition_penalty: 1.1,
        presence_penalty: 0.3,
        seed: Some(seed),
        ..SamplingDraft::default()
    };
    Draft { prompt, max_tokens: Some(20), n: Some(1 + seed % 3), sampling, ..Draft::default() }
}

/// Runs all prompts, each greedy and sampled, `at_once` at a time. Returns what each was told.
fn run(setup: Setup, at_once: usize) -> (Vec<BTreeMap<usize, Vec<u32>>>, Stats) {
    let mut world = setup.build();
    let mut texts = Vec::new();
    let drafts = |i: usize, prompt: &Vec<u32>| [greedy(prompt.clone(), 20), sampled(prompt.clone(), i as i64)];
    let all: Vec<Draft> = prompts().iter().enumerate().flat_map(|(i, prompt)| drafts(i, prompt)).collect();
    let mut waiting = all.into_iter().peekable();
    while waiting.peek().is_some() {
        let mut streams: Vec<Events> = waiting.by_ref().take(at_once).map(|draft| world.submit(draft)).collect();
        world.settle();
        texts.extend(streams.iter_mut().map(|events| Heard::of(events).tokens));
    }
    world.assert_no_failures();
    world.assert_idle();
    (texts, world.stats())
}

fn setup(batch: usize, chunk: usize, cache: bool) -> Setup {
    let mut setup = Setup::default();
    setup.config.max_batch_size = batch;
    setup.config.max_running_requests = 16;
    setup.config.max_queued_requests = 100;
    setup.config.prefill_chunk_tokens = chunk;
    setup.config.prefix_cache = cache;
    setup
}

fn check(name: &str, setups: Vec<(Setup, usize)>, model: &FakeModel) {
    let alone = |batch| Setup { model: model.clone(), ..setup(batch, 2048, false) };
    let (expected, _) = run(alone(1), 1);
    for (i, prompt) in prompts().iter().enumerate() {
        assert_eq!(expected[2 * i][&0], model.greedy(prompt, 20), "{name}: greedy text {i}");
    }
    for (at, (setup, at_once)) in setups.into_iter().enumerate() {
        let (texts, _) = run(Setup { model: model.clone(), ..setup }, at_once);
        assert_eq!(texts, expected, "{name}, setup {at}");
    }
}

#[test]
fn text_does_not_depend_on_batch_chunk_or_cache() {
    let mut setups = Vec::new();
    for (batch, at_once) in [(2, 2), (8, 8), (16, 16), (16, 80), (3, 80)] {
        for chunk in [16, 128, 2048] {
            for cache in [false, true] {
                setups.push((setup(batch, chunk, cache), at_once));
            }
        }
    }
    check("full attention", setups, &FakeModel::new(VOCAB));
}

#[test]
fn text_does_not_depend_on_steps_that_run_ahead() {
    let mut setups = Vec::new();
    for (batch, at_once, pages) in [(1, 1, 64), (8, 8, 64), (16, 80, 64), (8, 16, 12)] {
        for cache in [false, true] {
            setups.push((Setup { ahead: true, pages, ..setup(batch, 128, cache) }, at_once));
        }
    }
    let model = FakeModel { windows: vec![None, Some(70)], ..FakeModel::new(VOCAB) };
    check("steps ahead", setups, &model);
}

#[test]
fn text_does_not_depend_on_windows_being_given_back() {
    let model = FakeModel { windows: vec![None, Some(70), Some(20)], ..FakeModel::new(VOCAB) };
    let setups = [(8, 16), (8, 2048), (16, 100)].map(|(batch, chunk)| (setup(batch, chunk, true), 16));
    check("windows", setups.into(), &model);
    let model = FakeModel { windows: vec![Some(100)], ..FakeModel::new(VOCAB) };
    let setups = [(8, 16), (8, 2048)].map(|(batch, chunk)| (setup(batch, chunk, true), 16));
    check("windows only", setups.into(), &model);
}

#[test]
fn preempted_sequences_keep_their_tokens() {
    let model = FakeModel { windows: vec![None, Some(70)], ..FakeModel::new(VOCAB) };
    let (expected, _) = run(Setup { model: model.clone(), ..setup(1, 2048, false) }, 1);
    for (pages, cache) in [(7, false), (7, true), (12, false), (12, true)] {
        let mut setup = setup(8, 64, cache);
        setup.pages = pages;
        setup.config.decode_chunk_tokens = 1;
        let (texts, stats) = run(Setup { model: model.clone(), ..setup }, 16);
        assert_eq!(texts, expected, "{pages} pages, cache {cache}");
        assert!(stats.counters.preemptions > 10, "{} preemptions with {pages} pages", stats.counters.preemptions);
    }
}

#[test]
fn text_does_not_depend_on_continuous_batching_or_turns() {
    let (expected, _) = run(setup(1, 2048, false), 1);
    for (continuous, decode_chunk) in [(false, 256), (true, 3), (false, 3)] {
        let mut setup = setup(4, 128, true);
        setup.config.continuous_batching = continuous;
        setup.config.decode_chunk_tokens = decode_chunk;
        assert_eq!(run(setup, 40).0, expected, "continuous {continuous}, chunk {decode_chunk}");
    }
}
