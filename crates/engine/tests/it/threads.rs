//! The engine's handle from other threads: waiting, dropping, draining, health.

use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use engine::fake::{Call, FakeModel, FakeRunner};
use engine::{
    CancelCause, Clock, Draft, Engine, EngineConfig, Event, Failure, Readiness, Request, RunnerLimits, SubmitError,
    VirtualClock,
};

use crate::support::{finish, greedy, submit};

const VOCAB: usize = 50;
const LIMITS: RunnerLimits =
    RunnerLimits { vocab: VOCAB, max_context: 1000, max_rows: 300, max_seqs: 8, max_logit_rows: 8 };

fn runner() -> FakeRunner {
    FakeRunner::new(FakeModel::new(VOCAB), 100, LIMITS)
}

fn start(runner: FakeRunner, config: EngineConfig) -> Engine {
    Engine::start(Box::new(runner), config).expect("settings that fit")
}

fn prompt(seed: u32) -> Vec<u32> {
    (0..20 + seed % 100).map(|i| (seed * 7 + i * i) % VOCAB as u32).collect()
}

/// A runner that waits for a word before each step, and the way to give it. Without a word-giver it runs freely.
fn gated() -> (FakeRunner, mpsc::Sender<()>, mpsc::Receiver<()>) {
    let (go, wait) = mpsc::channel::<()>();
    let (tell, arrived) = mpsc::channel();
    let (wait, tell) = (Mutex::new(wait), Mutex::new(tell));
    let runner = runner().with_hook(move |call| {
        if let Call::Step { .. } = call {
            let _ = tell.lock().expect("one thread").send(());
            let _ = wait.lock().expect("one thread").recv();
        }
        Ok(())
    });
    (runner, go, arrived)
}

#[test]
fn many_threads_get_their_own_text() {
    let config = EngineConfig { event_buffer: 2, ..EngineConfig::default() };
    let engine = Arc::new(start(runner(), config));
    let clients: Vec<_> = (0..16u32)
        .map(|client| {
            let engine = Arc::clone(&engine);
            thread::spawn(move || {
                for round in 0..5 {
                    let prompt = prompt(client * 5 + round);
                    let outcome = finish(submit(&engine, greedy(&prompt, 30))).expect("it ends well");
                    assert_eq!(outcome.tokens, FakeModel::new(VOCAB).greedy(&prompt, 30));
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("no client failed"));
    let engine = Arc::into_inner(engine).expect("all clients are gone");
    engine.drain(Duration::from_secs(10));
    let stats = engine.stats();
    assert_eq!((stats.counters.finished, stats.counters.generated_tokens), (80, 80 * 30));
    assert_eq!((stats.running_requests, stats.waiting_requests), (0, 0));
}

#[test]
fn tasks_wait_without_blocking() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let engine = start(runner(), EngineConfig::default());
    runtime.block_on(async {
        // Both on one thread: neither may block it.
        let mut streams = [submit(&engine, greedy(&prompt(1), 40)), submit(&engine, greedy(&prompt(2), 40))];
        let mut tokens = [Vec::new(), Vec::new()];
        for (stream, tokens) in streams.iter_mut().zip(&mut tokens) {
            while let Some(event) = stream.recv().await {
                if let Event::Token(token) = event {
                    tokens.push(token.id);
                }
            }
        }
        assert_eq!(tokens[0], FakeModel::new(VOCAB).greedy(&prompt(1), 40));
        assert_eq!(tokens[1], FakeModel::new(VOCAB).greedy(&prompt(2), 40));
    });
}

#[test]
fn dropped_streams_leave_nothing_behind() {
    let engine = Arc::new(start(runner(), EngineConfig { max_queued_requests: 400, ..EngineConfig::default() }));
    let clients: Vec<_> = (0..8u32)
        .map(|client| {
            let engine = Arc::clone(&engine);
            thread::spawn(move || {
                for i in 0..40 {
                    let mut events = submit(&engine, Draft { n: Some(2), ..greedy(&prompt(client * 40 + i), 500) });
                    for _ in 0..(client * 7 + i) % 12 {
                        events.blocking_recv();
                    }
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().expect("no client failed"));
    let golden = finish(submit(&engine, greedy(&prompt(9), 30))).expect("it ends well");
    assert_eq!(golden.tokens, FakeModel::new(VOCAB).greedy(&prompt(9), 30));
    let engine = Arc::into_inner(engine).expect("all clients are gone");
    engine.drain(Duration::from_secs(10));
    let stats = engine.stats();
    assert_eq!((stats.running_requests, stats.waiting_requests, stats.sequences), (0, 0, 0));
    assert_eq!(stats.pools[0].held, 0);
    assert_eq!(stats.counters.cancelled[CancelCause::Client as usize], 320);
}

#[test]
fn draining_finishes_what_runs_and_takes_no_more() {
    let (runner, go, arrived) = gated();
    let engine = Arc::new(start(runner, EngineConfig::default()));
    let running = submit(&engine, greedy(&prompt(1), 20));
    arrived.recv().expect("a step begins");
    engine.begin_drain(Duration::from_secs(3600));
    assert_eq!(engine.health().readiness, Readiness::Draining);
    let request = Request::check(greedy(&prompt(2), 5), engine.limits()).expect("a valid draft");
    assert_eq!(engine.submit(request).expect_err("it drains"), SubmitError::ShuttingDown);
    drop(go);
    assert_eq!(finish(running).expect("it ends well").tokens.len(), 20);
    assert_eq!(engine.drain(Duration::from_secs(3600)).abandoned, 0);
    assert_eq!(engine.health().readiness, Readiness::Dead);
    let request = Request::check(greedy(&prompt(2), 5), engine.limits()).expect("a valid draft");
    assert_eq!(engine.submit(request).expect_err("it has ended"), SubmitError::Dead);
    assert_eq!(engine.stats().counters.rejected.iter().sum::<u64>(), 2);
}

#[test]
fn what_does_not_end_in_time_is_told_so() {
    let (runner, go, arrived) = gated();
    let clock = Arc::new(VirtualClock::new());
    let config = EngineConfig { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..EngineConfig::default() };
    let engine = start(runner, config);
    let running = submit(&engine, greedy(&prompt(1), 900));
    arrived.recv().expect("a step begins");
    engine.begin_drain(Duration::from_secs(5));
    clock.advance(Duration::from_secs(6));
    drop(go);
    assert_eq!(engine.drain(Duration::from_secs(5)).abandoned, 1);
    assert_eq!(finish(running).expect_err("it was cut off"), Failure::Shutdown);
}

#[test]
fn an_engine_that_does_not_deliver_is_not_ready() {
    let (runner, go, arrived) = gated();
    let clock = Arc::new(VirtualClock::new());
    let config = EngineConfig { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..EngineConfig::default() };
    let engine = start(runner, config);
    assert_eq!(engine.health().readiness, Readiness::Ready);
    clock.advance(Duration::from_secs(100));
    assert_eq!(engine.health().readiness, Readiness::Ready, "nothing to do is no fault");
    let running = submit(&engine, greedy(&prompt(1), 5));
    arrived.recv().expect("a step begins");
    let start = engine.health().last_delivery_age;
    clock.advance(Duration::from_secs(31));
    let health = engine.health();
    assert_eq!(health.readiness, Readiness::Stalled);
    assert_eq!(health.last_delivery_age, start + Duration::from_secs(31));
    drop(go);
    finish(running).expect("it ends well");
    let readiness = || engine.health().readiness;
    while readiness() != Readiness::Ready {
        thread::yield_now();
    }
}

#[test]
fn settings_that_do_not_suit_the_runner_are_refused() {
    let refused = |config| Engine::start(Box::new(runner()), config).err().map(|error| error.setting);
    let config = |batch| EngineConfig { max_batch_size: batch, ..EngineConfig::default() };
    assert_eq!(refused(config(9)), Some("max_batch_size"));
    assert_eq!(refused(config(8)), None);
    let windowed = |pages| {
        let model = FakeModel { windows: vec![None, Some(200)], ..FakeModel::new(VOCAB) };
        let runner = FakeRunner::new(model, pages, LIMITS);
        Engine::start(Box::new(runner), EngineConfig::default()).map(|engine| engine.limits().context).ok()
    };
    assert_eq!((windowed(5), windowed(6), windowed(100)), (None, Some(384), Some(1000)));
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_with_its_numbers() {
    let engine = start(runner(), EngineConfig { max_context: Some(100), ..EngineConfig::default() });
    let submit = |len: usize, max_tokens: Option<i64>| {
        let draft = Draft { prompt: vec![1; len], max_tokens, ..Draft::default() };
        engine.submit(Request::check(draft, engine.limits()).expect("a valid draft")).err()
    };
    let too_long =
        |prompt_tokens, max_tokens| Some(SubmitError::PromptTooLong { prompt_tokens, max_tokens, context: 100 });
    assert_eq!(submit(90, Some(10)), None);
    assert_eq!(submit(90, Some(11)), too_long(90, 11));
    assert_eq!(submit(99, None), None);
    assert_eq!(submit(100, None), too_long(100, 1));
    assert_eq!(submit(5000, Some(5)), too_long(5000, 5));
}

#[test]
fn a_drain_does_not_wait_for_a_step_that_does_not_end() {
    let (runner, go, arrived) = gated();
    let engine = start(runner, EngineConfig::default());
    let running = submit(&engine, greedy(&prompt(1), 5));
    arrived.recv().expect("a step begins");
    assert_eq!(engine.drain(Duration::ZERO).abandoned, 1);
    drop((go, running));
}
