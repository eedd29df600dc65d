//! Random histories in tiny worlds, with faults: every invariant holds after every round, every text is right, and a
//! fault loses the requests of its step alone.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::striker::{Kind, Striker};
use super::*;
use crate::fault;
use crate::inbox::RequestId;

/// Steps that the scheduler has planned and the runner computed, over all histories: twice what is promised.
const STEPS: u64 = 200_000;

#[derive(Clone, Debug)]
struct TinyWorld {
    pages: usize,
    windows: Vec<Option<usize>>,
    batch: usize,
    running: usize,
    prefill_chunk: usize,
    decode_chunk: usize,
    cache: bool,
    cache_kib: u64,
    continuous: bool,
    event_buffer: usize,
    max_logit_rows: usize,
    ahead: bool,
}

#[derive(Clone, Debug)]
enum Op {
    Submit {
        family: u32,
        len: usize,
        max_tokens: i64,
        n: i64,
        priority: i64,
        tenant: u64,
        cache: u8,
        prompt_logprobs: bool,
    },
    Rounds(usize),
    /// Reads all events of a request, or a few.
    Read {
        request: usize,
        events: usize,
    },
    Drop {
        request: usize,
    },
    Stop {
        request: usize,
        choice: usize,
    },
    Wait {
        millis: u64,
    },
    /// One of the next calls of the runner fails.
    Fault {
        kind: Kind,
        nth: usize,
    },
    /// The loop panics at one of the next points that it passes.
    Panic {
        nth: usize,
    },
}

fn world() -> impl Strategy<Value = TinyWorld> {
    let windows = prop_oneof![
        3 => Just(vec![None]),
        2 => Just(vec![None, Some(70)]),
        1 => Just(vec![Some(100)]),
        1 => Just(vec![None, Some(10), Some(130)]),
    ];
    let sizes = (5usize..16, 1usize..5, 0usize..4, 1usize..150, 1usize..80);
    let cache = (any::<bool>(), 0u64..20);
    (windows, sizes, cache, prop::bool::weighted(0.8), 2usize..40, (4usize..40, any::<bool>())).prop_map(
        |(
            windows,
            (pages, batch, more, prefill_chunk, decode_chunk),
            (cache, cache_kib),
            continuous,
            event_buffer,
            (max_logit_rows, ahead),
        )| {
            TinyWorld {
                pages,
                windows,
                batch,
                running: batch + more,
                prefill_chunk,
                decode_chunk,
                cache,
                cache_kib,
                continuous,
                event_buffer,
                max_logit_rows,
                ahead,
            }
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let submit = (0u32..4, 1usize..200, 1i64..100, 1i64..4, -1i64..2, 0u64..3, 0u8..6, prop::bool::weighted(0.1))
        .prop_map(|(family, len, max_tokens, n, priority, tenant, cache, prompt_logprobs)| Op::Submit {
            family,
            len,
            max_tokens,
            n,
            priority,
            tenant,
            cache,
            prompt_logprobs,
        });
    prop_oneof![
        4 => submit,
        6 => (1usize..30).prop_map(Op::Rounds),
        4 => (0usize..12, 1usize..200).prop_map(|(request, events)| Op::Read { request, events }),
        1 => (0usize..12).prop_map(|request| Op::Drop { request }),
        1 => (0usize..12, 0usize..4).prop_map(|(request, choice)| Op::Stop { request, choice }),
        1 => (1u64..40_000).prop_map(|millis| Op::Wait { millis }),
        1 => (kind(), 1usize..60).prop_map(|(kind, nth)| Op::Fault { kind, nth }),
        1 => (1usize..300).prop_map(|nth| Op::Panic { nth }),
    ]
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![Just(Kind::Error), Just(Kind::Panic), Just(Kind::Lost)]
}

struct Live {
    draft: (Vec<u32>, i64, i64),
    events: Option<Events>,
    heard: Heard,
}

/// Plays a history; returns what it amounted to.
fn play(tiny: &TinyWorld, ops: &[Op]) -> Counters {
    let striker = Arc::new(Striker::new(Kind::Error, 0));
    let point = Arc::clone(&striker);
    let mut points = 0;
    fault::strike_at(0);
    let mut setup = Setup {
        model: FakeModel { windows: tiny.windows.clone(), ..FakeModel::new(VOCAB) },
        pages: tiny.pages,
        ahead: tiny.ahead,
        hook: Box::new(move |call| match call {
            Call::Rebuild | Call::Abandon => Ok(()),
            _ => point.pass(),
        }),
        ..Setup::default()
    };
    setup.runner.max_logit_rows = tiny.max_logit_rows.max(tiny.batch);
    setup.config.max_batch_size = tiny.batch;
    setup.config.max_running_requests = tiny.running;
    setup.config.max_queued_requests = 6;
    setup.config.prefill_chunk_tokens = tiny.prefill_chunk;
    setup.config.decode_chunk_tokens = tiny.decode_chunk;
    setup.config.prefix_cache = tiny.cache;
    setup.config.prefix_cache_bytes = tiny.cache_kib << 10;
    setup.config.continuous_batching = tiny.continuous;
    setup.config.event_buffer = tiny.event_buffer;
    let mut world = setup.build();
    let mut live: Vec<Live> = Vec::new();
    let mut blamed = BTreeSet::new();
    for op in ops {
        match op.clone() {
            Op::Submit { family, len, max_tokens, n, priority, tenant, cache, prompt_logprobs } => {
                let tokens = prompt(family, len.min(world.limits.context - 1));
                let max_tokens = max_tokens.min((world.limits.context - tokens.len()) as i64);
                let draft = Draft {
                    n: Some(n),
                    priority,
                    tenant: Tenant(tenant),
                    no_cache: cache == 0,
                    cache_salt: (cache == 1).then(|| "salt".to_owned()),
                    prompt_logprobs: prompt_logprobs.then_some(1),
                    deadline: (priority > 0).then_some(Duration::from_secs(10)),
                    ..greedy(tokens.clone(), max_tokens)
                };
                if let Ok(events) = world.try_submit(draft) {
                    live.push(Live { draft: (tokens, max_tokens, n), events: Some(events), heard: Heard::default() });
                }
            }
            Op::Rounds(count) => (0..count).for_each(|_| one_round(&mut world, &mut blamed)),
            Op::Read { request, events } => {
                if let Some(Live { events: Some(stream), heard, .. }) = live.iter_mut().rev().nth(request) {
                    (0..events).map_while(|_| stream.try_recv()).for_each(|event| heard.hear(event));
                }
            }
            Op::Drop { request } => {
                if let Some(request) = live.iter_mut().rev().nth(request) {
                    request.events = None;
                }
            }
            Op::Stop { request, choice } => {
                if let Some(Live { events: Some(stream), .. }) = live.iter().rev().nth(request) {
                    stream.stop(choice);
                }
            }
            Op::Wait { millis } => world.clock.advance(Duration::from_millis(millis)),
            Op::Fault { kind, nth } => striker.arm(kind, nth),
            Op::Panic { nth } => {
                points += usize::from(fault::struck().is_some());
                fault::strike_at(nth);
            }
        }
    }
    finish(&mut world, &mut live, &mut blamed);
    check_texts(&world, &live, &blamed);
    let counters = world.stats().counters;
    points += usize::from(fault::struck().is_some());
    // One that strikes while another is dealt with is no failed step.
    let failed = (counters.step_errors + counters.step_panics) as usize;
    assert!((striker.strikes()..=striker.strikes() + points).contains(&failed), "{failed} failed steps");
    counters
}

fn one_round(world: &mut World, blamed: &mut BTreeSet<RequestId>) {
    let failed_steps = |world: &World| {
        let counters = world.stats().counters;
        counters.step_errors + counters.step_panics
    };
    let before = failed_steps(world);
    world.round();
    if failed_steps(world) > before {
        blamed.extend(world.driver.blamed());
    }
    assert!(world.driver.empty_plans() == 0 || !world.driver.has_work(), "there is work, but it does not get on");
}

/// Everybody reads from now on, until all is done.
fn finish(world: &mut World, live: &mut [Live], blamed: &mut BTreeSet<RequestId>) {
    for _ in 0..20_000 {
        one_round(world, blamed);
        for request in live.iter_mut() {
            if let Some(events) = &mut request.events {
                request.heard.listen(events);
            }
        }
        if world.inbox.requests() == 0 {
            break;
        }
    }
    // Where the last round panicked while it showed its counters, the next shows them.
    one_round(world, blamed);
    world.assert_idle();
}

fn check_texts(world: &World, live: &[Live], blamed: &BTreeSet<RequestId>) {
    for (id, Live { draft: (tokens, max_tokens, n), events, heard }) in live.iter().enumerate() {
        let text = world.model.greedy(tokens, *max_tokens as usize);
        for (choice, told) in &heard.tokens {
            assert!(text.starts_with(told), "choice {choice}: {told:?} is not the beginning of {text:?}");
        }
        let is_blamed = blamed.contains(&RequestId(id as u64));
        match &heard.failed {
            Some(Failure::Step { message }) => assert!(is_blamed, "request {id}: {message}"),
            None if is_blamed && events.is_some() => assert_eq!(heard.finished.len(), *n as usize, "request {id}"),
            _ => {}
        }
        if heard.failed.is_some() || events.is_none() {
            continue;
        }
        assert_eq!(heard.finished.len(), *n as usize);
        for (choice, finished) in &heard.finished {
            let told = heard.tokens.get(choice).map_or(0, Vec::len);
            assert_eq!(finished.usage.completion_tokens, told);
            assert_eq!(finished.usage.prompt_tokens, tokens.len());
            assert!(finished.usage.cached_tokens < tokens.len());
            assert_eq!(finished.reason == FinishReason::Length, told == *max_tokens as usize);
        }
    }
}

/// What all histories together must have gone through, so that the test means something.
#[derive(Debug, Default)]
struct Coverage {
    steps: u64,
    step_errors: u64,
    step_panics: u64,
    failed: u64,
    preemptions: u64,
    prefix_hits: u64,
    evicted_pages: u64,
    cancelled: [u64; CancelCause::ALL.len()],
}

impl Coverage {
    fn add(&mut self, counters: &Counters) {
        self.steps += counters.steps;
        self.step_errors += counters.step_errors;
        self.step_panics += counters.step_panics;
        self.failed += counters.failed;
        self.preemptions += counters.preemptions;
        self.prefix_hits += counters.prefix_hits;
        self.evicted_pages += counters.evicted_pages;
        self.cancelled.iter_mut().zip(counters.cancelled).for_each(|(all, new)| *all += new);
    }

    fn assert_wide(&self) {
        assert!(self.preemptions > 1000 && self.prefix_hits > 1000 && self.evicted_pages > 1000, "{self:?}");
        assert!(self.step_errors > 100 && self.step_panics > 100 && self.failed > 100, "{self:?}");
        let shutdown = CancelCause::Shutdown as usize;
        assert!(self.cancelled.iter().enumerate().all(|(cause, &n)| n > 20 || cause == shutdown), "{self:?}");
    }
}

#[test]
fn random_histories_keep_every_invariant() {
    let mut coverage = Coverage::default();
    while coverage.steps < STEPS {
        let seen = std::cell::RefCell::new(&mut coverage);
        let mut runner = TestRunner::new(Config { cases: 64, failure_persistence: None, ..Config::default() });
        let history = (world(), prop::collection::vec(op(), 1..60));
        let outcome = runner.run(&history, |(tiny, ops)| {
            seen.borrow_mut().add(&play(&tiny, &ops));
            Ok(())
        });
        if let Err(error) = outcome {
            panic!("{error}");
        }
    }
    coverage.assert_wide();
}
