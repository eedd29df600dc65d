//! Counts are what arithmetic says.

use super::*;

#[test]
fn after_n_requests_of_m_tokens_the_counts_are_exact() {
    const N: usize = 10;
    const M: usize = 10;
    const PROMPT: usize = 77;
    let recorder = Arc::new(Recorder::default());
    let mut setup = Setup::default();
    setup.config.observer = Arc::clone(&recorder) as Arc<dyn Observer>;
    setup.config.prefix_cache = false;
    let mut world = setup.build();
    let streams: Vec<Events> = (0..N).map(|i| world.submit(greedy(prompt(i as u32, PROMPT), M as i64))).collect();
    world.settle();
    let recorded = recorder.get().clone();
    assert_eq!(recorded.started.len(), N);
    assert_eq!(recorded.first_token.len(), N);
    assert_eq!(recorded.inter_token.len(), N * (M - 1));
    assert_eq!(recorded.finished.len(), N);
    let sum = |part: fn(&StepReport) -> usize| recorded.steps.iter().map(part).sum::<usize>();
    assert_eq!(sum(|step| step.prefill_tokens), N * PROMPT);
    assert_eq!(sum(|step| step.decode_tokens), N * (M - 1));
    assert_eq!(sum(|step| step.generated_tokens), N * M);
    let stats = world.stats();
    let counters = stats.counters;
    assert_eq!(counters.submitted, N as u64);
    assert_eq!(counters.finished, N as u64);
    assert_eq!(counters.prompt_tokens, (N * PROMPT) as u64);
    assert_eq!(counters.prefill_tokens, (N * PROMPT) as u64);
    assert_eq!(counters.generated_tokens, (N * M) as u64);
    assert_eq!(counters.steps, recorded.steps.len() as u64);
    assert_eq!((counters.prefix_queries, counters.prefix_hits), (0, 0), "the cache is off");
    drop(streams);
    world.round();
    assert_eq!(world.stats().counters.cancelled, [0; 5], "what has finished cannot be cancelled");
}

#[test]
fn times_add_up() {
    let recorder = Arc::new(Recorder::default());
    let mut setup = Setup::default();
    setup.config.observer = Arc::clone(&recorder) as Arc<dyn Observer>;
    setup.config.max_batch_size = 1;
    setup.config.max_running_requests = 1;
    setup.config.prefill_chunk_tokens = 16;
    setup.step_cost = (Duration::from_millis(10), Duration::ZERO);
    let mut world = setup.build();
    let _streams = [world.submit(greedy(prompt(1, 40), 5)), world.submit(greedy(prompt(2, 16), 3))];
    world.settle();
    let ms = Duration::from_millis;
    let recorded = recorder.get();
    // 40 tokens take 3 steps, and each further token one.
    let first = recorded.finished[0];
    assert_eq!((first.queue, first.prefill, first.decode, first.total), (ms(0), ms(30), ms(40), ms(70)));
    let second = recorded.finished[1];
    assert_eq!((second.queue, second.prefill, second.decode, second.total), (ms(70), ms(10), ms(20), ms(100)));
    assert_eq!(recorded.first_token, [(ms(30), ms(30)), (ms(80), ms(10))]);
    assert_eq!(recorded.inter_token, [ms(10); 6]);
    assert_eq!(recorded.started, [ms(0), ms(70)]);
    assert!(recorded.steps.iter().all(|step| step.forward == ms(10)));
}

#[test]
fn prefix_hits_and_preemptions_are_counted_in_tokens() {
    let recorder = Arc::new(Recorder::default());
    let mut setup = Setup::default();
    setup.config.observer = Arc::clone(&recorder) as Arc<dyn Observer>;
    let mut world = setup.build();
    for _ in 0..3 {
        let mut events = world.submit(greedy(prompt(1, 200), 2));
        world.settle();
        assert_eq!(Heard::of(&mut events).finished.len(), 1);
    }
    let counters = world.stats().counters;
    assert_eq!((counters.prefix_queries, counters.prefix_hits), (600, 2 * 192));
    let recorded = recorder.get();
    assert_eq!((recorded.queried, recorded.hits), (600, 2 * 192));
    assert_eq!(counters.prefill_tokens, 200 + 8 + 8);
}

#[test]
fn each_end_is_counted_once() {
    let recorder = Arc::new(Recorder::default());
    let mut setup = Setup::default();
    setup.config.observer = Arc::clone(&recorder) as Arc<dyn Observer>;
    setup.model.poison = Some(59);
    let mut world = setup.build();
    let poisoned = [prompt(1, 20), vec![59]].concat();
    let mut sick = world.submit(greedy(poisoned, 5));
    let mut well = world.submit(greedy(vec![1, 2, 3], 1));
    drop(world.submit(greedy(prompt(2, 20), 5)));
    world.settle();
    assert!(matches!(Heard::of(&mut sick).failed, Some(Failure::Sampling { .. })));
    assert_eq!(Heard::of(&mut well).finished.len(), 1);
    let counters = world.stats().counters;
    assert_eq!((counters.submitted, counters.finished, counters.failed), (3, 1, 1));
    assert_eq!(counters.cancelled.iter().sum::<u64>(), 1);
    assert_eq!(recorder.get().cancelled, [CancelCause::Client]);
    world.assert_idle();
}
