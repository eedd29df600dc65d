//! How requests come, end, wait and go.

use super::*;

#[test]
fn a_request_is_told_its_story_in_order() {
    let mut world = Setup::default().build();
    let tokens = prompt(1, 100);
    let mut events = world.submit(greedy(tokens.clone(), 10));
    world.settle();
    let heard = Heard::of(&mut events);
    assert_eq!(heard.tokens[&0], world.model.greedy(&tokens, 10));
    let usage = Usage { prompt_tokens: 100, completion_tokens: 10, cached_tokens: 0, cache_end: CacheEnd::Cold };
    assert_eq!(heard.finished[&0], Finished { choice: 0, reason: FinishReason::Length, usage });
    assert_eq!(events.try_recv(), None);
    world.assert_idle();
}

#[test]
fn a_choice_ends_for_the_reason_it_gives() {
    let tokens = prompt(5, 30);
    let text = FakeModel::new(VOCAB).greedy(&tokens, 40);
    let tenth = text[9];
    let first = text.iter().position(|&token| token == tenth).expect("it is there");
    let end = |edit: &dyn Fn(&mut Draft), eos: Vec<u32>| {
        let mut setup = Setup::default();
        setup.config.eos_tokens = eos;
        let mut world = setup.build();
        let mut draft = greedy(tokens.clone(), 40);
        edit(&mut draft);
        let mut events = world.submit(draft);
        world.settle();
        let heard = Heard::of(&mut events);
        (heard.finished[&0].reason, heard.tokens[&0].clone())
    };
    let (reason, told) = end(&|_| (), vec![tenth]);
    assert_eq!((reason, &told[..]), (FinishReason::EndOfText(tenth), &text[..=first]));
    let (reason, told) = end(&|draft| draft.ignore_eos = true, vec![tenth]);
    assert_eq!((reason, &told[..]), (FinishReason::Length, &text[..]));
    let (reason, told) = end(&|draft| draft.stop_tokens = vec![tenth], vec![]);
    assert_eq!((reason, &told[..]), (FinishReason::StopToken(tenth), &text[..=first]));
    // Too short for the stop token: another comes in its place.
    let (_, told) = end(&|draft| (draft.stop_tokens, draft.min_tokens) = (vec![tenth], 30), vec![]);
    assert!(told.len() >= 31 && !told[..30].contains(&tenth));
}

#[test]
fn choices_share_the_prompt_and_differ_by_their_draws() {
    let mut world = Setup::default().build();
    let tokens = prompt(3, 100);
    let draft = |temperature: f64| Draft {
        n: Some(4),
        sampling: SamplingDraft { temperature, seed: Some(7), ..SamplingDraft::default() },
        ..greedy(tokens.clone(), 30)
    };
    let mut same = world.submit(draft(0.0));
    let mut different = world.submit(draft(1.5));
    world.settle();
    let same = Heard::of(&mut same);
    for choice in 0..4 {
        assert_eq!(same.tokens[&choice], world.model.greedy(&tokens, 30));
    }
    let different = Heard::of(&mut different);
    assert_eq!(different.finished.len(), 4);
    let texts: std::collections::BTreeSet<&Vec<u32>> = different.tokens.values().collect();
    assert_eq!(texts.len(), 4);
    assert_eq!(world.stats().counters.prefill_tokens, 200, "each prompt is computed once");
    world.assert_idle();
}

#[test]
fn log_probabilities_are_those_of_the_model() {
    let mut setup = Setup::default();
    setup.config.prefill_chunk_tokens = 7;
    setup.runner.max_logit_rows = 20;
    let mut world = setup.build();
    let tokens = prompt(8, 40);
    let draft = Draft { prompt_logprobs: Some(3), top_logprobs: 2, ..greedy(tokens.clone(), 5) };
    let mut events = world.submit(draft);
    world.settle();
    let mut told = Vec::new();
    while let Some(event) = events.try_recv() {
        told.push(event);
    }
    let logprob = |tokens: &[u32], id: u32| {
        let logits = world.model.logits(tokens);
        let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
        f64::from(logits[id as usize]) - sum.ln()
    };
    let close = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 1e-5;
    let Event::PromptLogprobs(report) = &told[1] else { panic!("{told:?}") };
    assert_eq!(report.len(), 40);
    assert_eq!((report[0].id, report[0].logprob), (tokens[0], None));
    for at in 1..40 {
        assert_eq!(report[at].id, tokens[at]);
        assert!(close(report[at].logprob.expect("it has a predecessor"), logprob(&tokens[..at], tokens[at])));
        assert_eq!(report[at].top.len(), 3);
        assert!(report[at].top.iter().all(|top| close(top.logprob, logprob(&tokens[..at], top.id))));
    }
    let mut all = tokens.clone();
    for event in &told[2..7] {
        let Event::Token(token) = event else { panic!("{event:?}") };
        assert!(close(token.logprob, logprob(&all, token.id)));
        assert_eq!(token.top.len(), 2);
        assert_eq!(token.top[0].id, token.id, "greedy takes the likeliest");
        all.push(token.id);
    }
    world.assert_no_failures();
}

#[test]
fn a_dropped_stream_cancels_within_one_round() {
    let mut setup = Setup::default();
    setup.config.prefill_chunk_tokens = 50;
    let mut world = setup.build();
    // In the queue, in the middle of its prompt, and while it decodes.
    for rounds in [0, 2, 30] {
        let events = world.submit(greedy(prompt(1, 500), 100));
        for _ in 0..rounds {
            world.round();
        }
        assert_eq!(world.stats().running_requests, usize::from(rounds > 0));
        drop(events);
        world.round();
        world.assert_idle();
    }
    assert_eq!(world.stats().counters.cancelled[CancelCause::Client as usize], 3);
}

#[test]
fn a_storm_of_cancellations_leaves_nothing_behind() {
    let mut setup = Setup::default();
    setup.config.max_queued_requests = 300;
    let mut world = setup.build();
    let mut streams: Vec<Option<Events>> = (0..300)
        .map(|i| {
            let draft = Draft { n: Some(1 + i % 3), ..greedy(prompt(i as u32, 10 + (i as usize * 13) % 200), 50) };
            Some(world.submit(draft))
        })
        .collect();
    for i in 0..300 {
        world.round();
        streams[(i * 7919) % 300] = None;
    }
    world.round();
    world.assert_idle();
    let mut events = world.submit(greedy(prompt(5, 90), 20));
    world.settle();
    assert_eq!(Heard::of(&mut events).tokens[&0], world.model.greedy(&prompt(5, 90), 20));
    world.assert_no_failures();
}

#[test]
fn a_choice_that_is_stopped_ends_alone() {
    let mut world = Setup::default().build();
    let mut events = world.submit(Draft { n: Some(2), ..greedy(prompt(1, 20), 30) });
    for _ in 0..5 {
        world.round();
    }
    events.stop(1);
    events.stop(1);
    events.stop(9);
    world.settle();
    let heard = Heard::of(&mut events);
    assert_eq!(heard.finished[&1].reason, FinishReason::Stopped);
    assert_eq!(heard.finished[&1].usage.completion_tokens, heard.tokens[&1].len());
    assert_eq!(heard.tokens[&0].len(), 30);
    assert!(heard.tokens[&1].len() < 10);
    world.assert_idle();
}

#[test]
fn a_deadline_ends_a_request_wherever_it_is() {
    let mut setup = Setup::default();
    setup.config.max_batch_size = 1;
    setup.config.max_running_requests = 1;
    let mut world = setup.build();
    let limit = Some(Duration::from_millis(500));
    let mut running = world.submit(Draft { deadline: limit, ..greedy(prompt(1, 10), 1000) });
    let mut waiting = world.submit(Draft { deadline: limit, ..greedy(prompt(2, 10), 10) });
    world.settle();
    for events in [&mut running, &mut waiting] {
        assert_eq!(Heard::of(events).failed, Some(Failure::Deadline { limit_ms: 500 }));
    }
    assert_eq!(world.stats().counters.cancelled[CancelCause::Deadline as usize], 2);
    world.assert_idle();
}

#[test]
fn who_waits_too_long_is_told_so() {
    let mut setup = Setup::default();
    setup.config.max_batch_size = 1;
    setup.config.max_running_requests = 1;
    setup.config.queue_timeout = Duration::from_secs(1);
    let mut world = setup.build();
    let mut running = world.submit(greedy(prompt(1, 10), 200));
    let mut waiting = world.submit(greedy(prompt(2, 10), 10));
    world.settle();
    assert_eq!(Heard::of(&mut running).finished.len(), 1);
    assert_eq!(Heard::of(&mut waiting).failed, Some(Failure::QueueTimeout { limit_ms: 1000 }));
    world.assert_idle();
}

#[test]
fn a_slow_reader_pauses_and_misses_nothing() {
    let mut setup = Setup::default();
    setup.config.event_buffer = 3;
    let mut world = setup.build();
    let tokens = prompt(1, 20);
    let mut slow = world.submit(Draft { n: Some(2), ..greedy(tokens.clone(), 20) });
    let mut heard = Heard::default();
    for _ in 0..500 {
        world.round();
        if world.stats().paused_requests == 1 {
            let steps = world.stats().counters.steps;
            world.round();
            assert_eq!(world.stats().counters.steps, steps, "a paused request computes nothing");
        }
        if let Some(event) = slow.try_recv() {
            heard.hear(event);
        }
    }
    assert_eq!(heard.finished.len(), 2);
    assert!(heard.tokens.values().all(|told| *told == world.model.greedy(&tokens, 20)));
    world.assert_idle();
}

#[test]
fn a_request_that_is_complete_and_not_read_waits_for_no_turn() {
    let mut setup = Setup::default();
    setup.config.event_buffer = 2;
    let mut world = setup.build();
    let mut unread = world.submit(greedy(prompt(1, 20), 2));
    world.settle();
    let stats = world.stats();
    assert_eq!((stats.counters.finished, stats.sequences), (1, 0));
    assert_eq!((stats.running_requests, stats.waiting_requests, stats.paused_requests), (1, 0, 1));
    // What is shown as waiting is what was submitted and does not run.
    assert_eq!(world.inbox.requests(), stats.running_requests);
    let mut heard = Heard::of(&mut unread);
    world.round();
    heard.listen(&mut unread);
    assert_eq!(heard.finished.len(), 1);
    world.assert_idle();
}

#[test]
fn who_never_reads_is_dropped_and_holds_up_nobody() {
    let mut setup = Setup::default();
    setup.config.event_buffer = 2;
    let mut world = setup.build();
    let mut silent = world.submit(greedy(prompt(1, 20), 1000));
    world.settle();
    assert_eq!(world.stats().paused_requests, 1);
    let start = world.clock.now();
    let mut heard = Heard::default();
    let mut other = world.submit(greedy(prompt(2, 20), 50));
    while heard.finished.is_empty() {
        world.round();
        heard.listen(&mut other);
    }
    assert_eq!(heard.tokens[&0], world.model.greedy(&prompt(2, 20), 50));
    world.clock.advance(Duration::from_secs(30) - (world.clock.now() - start));
    world.round();
    world.assert_idle();
    let told = Heard::of(&mut silent);
    assert_eq!(told.failed, Some(Failure::SlowReader { limit_ms: 30_000 }), "told although its stream is full");
}

#[test]
fn a_paused_request_gives_way_when_pages_run_out() {
    let mut setup = Setup::default();
    setup.config.event_buffer = 4;
    setup.config.decode_chunk_tokens = 1;
    setup.pages = 8;
    let mut world = setup.build();
    let mut slow = world.submit(greedy(prompt(1, 300), 100));
    world.settle();
    assert_eq!(world.stats().paused_requests, 1);
    let (mut other, mut heard) = (world.submit(greedy(prompt(2, 300), 100)), Heard::default());
    while heard.finished.is_empty() {
        world.round();
        heard.listen(&mut other);
    }
    assert!(world.stats().counters.preemptions >= 1);
    let mut heard = Heard::default();
    for _ in 0..2000 {
        heard.listen(&mut slow);
        world.round();
    }
    assert_eq!(heard.tokens[&0], world.model.greedy(&prompt(1, 300), 100));
    world.assert_idle();
    world.assert_no_failures();
}

#[test]
fn the_queue_is_bounded_in_requests_and_in_tokens() {
    let mut setup = Setup::default();
    setup.config.max_batch_size = 2;
    setup.config.max_running_requests = 2;
    setup.config.max_queued_requests = 3;
    setup.config.max_queued_tokens = 1000;
    let mut world = setup.build();
    let mut streams: Vec<Events> = (0..5).map(|i| world.submit(greedy(prompt(i, 10), 5))).collect();
    let error = world.try_submit(greedy(prompt(9, 10), 5)).expect_err("no room");
    let SubmitError::QueueFull { queued: 3, limit: 3, retry_after, .. } = error else { panic!("{error:?}") };
    assert!(retry_after >= Duration::from_secs(1) && retry_after <= Duration::from_secs(60));
    world.settle();
    assert!(streams.iter_mut().all(|events| Heard::of(events).finished.len() == 1));
    let long = world.submit(greedy(prompt(1, 1500), 5));
    let error = world.try_submit(greedy(prompt(2, 10), 5)).expect_err("one long prompt fills the queue");
    assert!(matches!(error, SubmitError::QueueFull { queued_tokens: 1500, limit_tokens: 1000, .. }));
    world.round();
    assert!(world.try_submit(greedy(prompt(2, 10), 5)).is_ok(), "the long one has left the queue");
    drop(long);
    world.settle();
    world.assert_idle();
}

#[test]
fn a_tenant_has_as_many_requests_as_it_may() {
    let mut setup = Setup::default();
    setup.config.max_tenant_requests = 2;
    let mut world = setup.build();
    let of = |tenant: u64, seed: u32| Draft { tenant: Tenant(tenant), ..greedy(prompt(seed, 10), 5) };
    let mut streams = vec![world.submit(of(1, 1)), world.submit(of(1, 2))];
    let error = world.try_submit(of(1, 3)).expect_err("it has two");
    assert!(matches!(error, SubmitError::TenantFull { requests: 2, limit: 2, .. }), "{error:?}");
    streams.push(world.submit(of(2, 4)));
    streams.remove(0);
    world.round();
    streams.push(world.submit(of(1, 5)));
    world.settle();
    assert!(streams.iter_mut().all(|events| Heard::of(events).finished.len() == 1));
    world.assert_idle();
}

#[test]
fn a_long_prompt_does_not_freeze_running_streams() {
    let mut setup = Setup::default();
    setup.runner.max_rows = 4096;
    // 10 ms a step and 2 ms a row: 500 prompt tokens a second.
    setup.step_cost = (Duration::from_millis(10), Duration::from_millis(2));
    let recorder = Arc::new(Recorder::default());
    setup.config.observer = Arc::clone(&recorder) as Arc<dyn Observer>;
    let mut world = setup.build();
    let _streams: Vec<Events> = (0..4).map(|i| world.submit(greedy(prompt(i, 20), 200))).collect();
    for _ in 0..30 {
        world.round();
    }
    recorder.get().inter_token.clear();
    let before = world.clock.now();
    let mut long = world.submit(greedy(prompt(7, 1500), 1));
    world.settle();
    let worst = recorder.get().inter_token.iter().copied().max().expect("tokens came");
    assert!(worst <= Duration::from_millis(100), "{worst:?} between two tokens");
    let first = recorder.get().first_token.last().expect("the long one got its token").0;
    // Alone it takes 3 s; the four streams take 18 ms of each step meanwhile.
    assert!(first <= Duration::from_millis(4500), "{first:?} from {before:?}");
    assert_eq!(Heard::of(&mut long).tokens[&0], world.model.greedy(&prompt(7, 1500), 1));
}

#[test]
fn a_long_prompt_does_not_hold_up_a_short_one() {
    let setup = Setup { step_cost: (Duration::from_millis(10), Duration::from_millis(2)), ..Setup::default() };
    let mut world = setup.build();
    let mut long = world.submit(greedy(prompt(1, 1800), 1));
    for _ in 0..3 {
        world.round();
    }
    let mut short = world.submit(greedy(prompt(2, 30), 1));
    world.round();
    world.round();
    assert_eq!(Heard::of(&mut short).finished.len(), 1, "two rounds are enough");
    world.settle();
    assert_eq!(Heard::of(&mut long).finished.len(), 1);
}

#[test]
fn waiting_prompts_get_a_turn_after_a_chunk_of_decoding() {
    let mut setup = Setup::default();
    setup.config.max_batch_size = 2;
    setup.config.max_running_requests = 4;
    setup.config.decode_chunk_tokens = 16;
    let mut world = setup.build();
    let mut streams: Vec<Events> = (0..4).map(|i| world.submit(greedy(prompt(i, 20), 100))).collect();
    let mut heard: Vec<Heard> = vec![Heard::default(); 4];
    for _ in 0..40 {
        world.round();
        heard.iter_mut().zip(&mut streams).for_each(|(heard, events)| heard.listen(events));
    }
    let lengths: Vec<usize> = heard.iter().map(|heard| heard.tokens.get(&0).map_or(0, Vec::len)).collect();
    assert!(lengths.iter().all(|&length| (16..=24).contains(&length)), "{lengths:?}");
    assert_eq!(world.stats().counters.preemptions, 0, "they keep their pages");
    world.settle();
}
