//! Prefixes, tenants, priorities: what requests share, and who gets it.

use super::*;

fn usage(world: &mut World, draft: Draft) -> (Usage, Vec<u32>) {
    let mut events = world.submit(draft);
    world.settle();
    let heard = Heard::of(&mut events);
    (heard.finished[&0].usage, heard.tokens[&0].clone())
}

#[test]
fn a_conversation_computes_only_its_new_turn() {
    for windows in [vec![None], vec![None, Some(100)]] {
        let mut setup = Setup { model: FakeModel { windows, ..FakeModel::new(VOCAB) }, ..Setup::default() };
        setup.config.prefill_chunk_tokens = 100;
        let mut world = setup.build();
        let mut tokens = prompt(1, 300);
        let mut cached = 0;
        for turn in 0..4 {
            let (usage, reply) = usage(&mut world, greedy(tokens.clone(), 50));
            assert_eq!(usage.cached_tokens, cached, "turn {turn}");
            // All whole pages of prompt and reply; the last token drawn is known but was never computed.
            cached = (tokens.len() + 49) / 64 * 64;
            tokens.extend(reply);
            tokens.extend(prompt(turn, 40));
        }
        world.assert_no_failures();
    }
}

#[test]
fn requests_that_come_together_compute_a_common_prompt_once() {
    for windows in [vec![None], vec![None, Some(100)]] {
        let model = FakeModel { windows, ..FakeModel::new(VOCAB) };
        let mut setup =
            Setup { model, step_cost: (Duration::from_millis(1), Duration::from_millis(1)), ..Setup::default() };
        setup.pages = 200;
        let mut world = setup.build();
        let system = prompt(1, 700);
        let prompts: Vec<Vec<u32>> = (0..8).map(|i| [system.clone(), prompt(i, 30)].concat()).collect();
        let mut streams: Vec<Events> = prompts.iter().map(|tokens| world.submit(greedy(tokens.clone(), 10))).collect();
        world.settle();
        for (events, tokens) in streams.iter_mut().zip(&prompts) {
            let heard = Heard::of(events);
            assert_eq!(heard.tokens[&0], world.model.greedy(tokens, 10));
        }
        let computed = world.stats().counters.prefill_tokens;
        assert!(computed < 3 * 730, "{computed} of {} prompt tokens computed", 8 * 730);
        assert_eq!(computed + world.stats().counters.prefix_hits, 8 * 730);
        world.assert_no_failures();
    }
}

#[test]
fn a_request_hears_why_its_hit_ended() {
    let mut world = Setup::default().build();
    let tokens = prompt(1, 200);
    let end = |world: &mut World, draft: Draft| usage(world, draft).0.cache_end;
    assert_eq!(end(&mut world, greedy(tokens.clone(), 1)), CacheEnd::Cold);
    assert_eq!(end(&mut world, greedy(tokens.clone(), 1)), CacheEnd::PageBoundary { index: 192 });
    let mut other = tokens.clone();
    other[100] = (other[100] + 1) % VOCAB as u32;
    assert_eq!(end(&mut world, greedy(other, 1)), CacheEnd::Differs { index: 100 });
    let opted_out = Draft { no_cache: true, ..greedy(tokens.clone(), 1) };
    assert_eq!(end(&mut world, opted_out), CacheEnd::Disabled);
    let salted = || Draft { cache_salt: Some("mine".to_owned()), ..greedy(tokens.clone(), 1) };
    assert_eq!(end(&mut world, salted()), CacheEnd::Salt);
    assert_eq!(end(&mut world, salted()), CacheEnd::PageBoundary { index: 192 });
    for filler in 10..40 {
        usage(&mut world, greedy(prompt(filler, 400), 1));
    }
    assert_eq!(end(&mut world, greedy(tokens, 1)), CacheEnd::Evicted { index: 0 });
}

#[test]
fn a_flood_of_one_tenant_spares_the_others_prefix_and_turn() {
    let mut setup = Setup::default();
    setup.config.max_queued_requests = 200;
    let mut world = setup.build();
    let of = |tenant: u64, draft: Draft| Draft { tenant: Tenant(tenant), ..draft };
    usage(&mut world, of(1, greedy(prompt(1, 400), 1)));
    let _flood: Vec<Events> = (10..150).map(|i| world.submit(of(2, greedy(prompt(i, 300), 10)))).collect();
    for _ in 0..20 {
        world.round();
    }
    let mut events = world.submit(of(1, greedy(prompt(1, 400), 1)));
    let mut heard = Heard::default();
    let mut rounds = 0;
    while heard.finished.is_empty() {
        world.round();
        heard.listen(&mut events);
        rounds += 1;
    }
    assert!(rounds < 60, "it waited {rounds} rounds behind a flood of 140 requests");
    world.settle();
    let (usage, _) = usage(&mut world, of(1, greedy(prompt(1, 400), 1)));
    assert_eq!(usage.cached_tokens, 384);
    world.assert_no_failures();
}

#[test]
fn priority_goes_first() {
    let mut setup = Setup::default();
    setup.config.max_batch_size = 1;
    setup.config.max_running_requests = 1;
    let mut world = setup.build();
    let mut streams: Vec<Events> =
        [5, 0, -5].into_iter().map(|priority| world.submit(Draft { priority, ..greedy(prompt(1, 20), 5) })).collect();
    world.settle();
    let queued = |events: &mut Events| Heard::of(events).started.expect("it ran").queue;
    let queued: Vec<Duration> = streams.iter_mut().map(queued).collect();
    assert!(queued[2] < queued[1] && queued[1] < queued[0], "{queued:?}");
}

#[test]
fn without_continuous_batching_a_batch_runs_to_its_end() {
    let mut setup = Setup::default();
    setup.config.continuous_batching = false;
    let mut world = setup.build();
    let mut first: Vec<Events> = (0..3).map(|i| world.submit(greedy(prompt(i, 20), 5 + 10 * i64::from(i)))).collect();
    world.round();
    let mut second = world.submit(greedy(prompt(9, 20), 5));
    let mut heard = vec![Heard::default(); 4];
    loop {
        world.round();
        for (heard, events) in heard.iter_mut().zip(first.iter_mut().chain([&mut second])) {
            heard.listen(events);
        }
        let batch_is_over = heard[..3].iter().all(|heard| !heard.finished.is_empty());
        if heard[3].started.is_some() {
            assert!(batch_is_over);
            break;
        }
    }
    world.settle();
    world.assert_no_failures();
}
