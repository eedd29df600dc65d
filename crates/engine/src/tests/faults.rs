//! Faults at every point of a step: they fail the requests in it, and nothing else.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::striker::{Kind, Striker};
use super::*;
use crate::inbox::RequestId;

/// A round; the requests of the step in which the fault strikes are noted.
fn round(world: &mut World, striker: &Striker, struck: &mut Option<Vec<RequestId>>) {
    world.round();
    if struck.is_none() && striker.strikes() > 0 {
        *struck = Some(world.driver.requests_in_step());
    }
}

/// Requests come one by one; those in the step that fails fail with it, if they were not complete. All others must give
/// their text. `in_step`: whether the fault strikes in a step, and not between two.
fn check(
    name: &str,
    striker: &Striker,
    in_step: bool,
    mut world: World,
    mask: Option<&dyn Fn() -> Box<dyn TokenMask>>,
) {
    let draft = |i: u32| Draft {
        n: Some(1 + i64::from(i % 2)),
        mask: mask.map(|make| make()),
        ..greedy(prompt(i, 20 + 40 * i as usize), 12)
    };
    let mut struck = None;
    let mut streams: Vec<Events> = Vec::new();
    for i in 0..6 {
        streams.push(world.submit(draft(i)));
        round(&mut world, striker, &mut struck);
        round(&mut world, striker, &mut struck);
    }
    while world.driver.has_work() || world.inbox.mailbox.has_mail() {
        round(&mut world, striker, &mut struck);
    }
    // Those that come after the fault are never touched by it.
    streams.extend((6..8).map(|i| world.submit(draft(i))));
    world.settle();
    let struck = struck.unwrap_or_else(|| panic!("{name}: the fault never struck"));
    let mut failed = 0;
    for (i, events) in streams.iter_mut().enumerate() {
        let heard = Heard::of(events);
        let is_complete = heard.finished.len() == 1 + i % 2;
        let must_fail = in_step && !is_complete && struck.contains(&RequestId(i as u64));
        assert_eq!(heard.failed.is_some(), must_fail, "{name}: request {i}: {:?}, struck was {struck:?}", heard.failed);
        if let Some(failure) = heard.failed {
            let is_the_fault = |message: &str| message.contains("injected");
            assert!(matches!(&failure, Failure::Step { message } if is_the_fault(message)), "{name}: {failure:?}");
            failed += 1;
        } else {
            assert_eq!(heard.finished.len(), 1 + i % 2, "{name}: request {i}");
            let text = world.model.greedy(&prompt(i as u32, 20 + 40 * i), 12);
            assert!(heard.tokens.values().all(|told| *told == text), "{name}: request {i}");
        }
    }
    let counters = world.stats().counters;
    assert_eq!(counters.step_errors + counters.step_panics, 1, "{name}");
    assert_eq!(counters.failed, failed, "{name}");
    world.assert_idle();
}

#[test]
fn a_fault_in_the_runner_fails_its_step_alone() {
    for kind in [Kind::Error, Kind::Panic] {
        for (call, sampled, ahead) in [
            (Call::CopyPage, false, false),
            (Call::Step { rows: 0 }, false, false),
            (Call::Step { rows: 0 }, false, true),
            (Call::Finish, false, false),
            (Call::Finish, false, true),
            (Call::TopK, false, false),
            (Call::TopK, false, true),
            (Call::LogitsRow, true, false),
        ] {
            // Steps run ahead of one another once the last request's prompt is computed.
            for nth in if ahead { 12..18 } else { 1..4 } {
                let striker = Arc::new(Striker::new(kind, nth));
                let point = Arc::clone(&striker);
                let setup = Setup {
                    hook: Box::new(move |passed| {
                        if std::mem::discriminant(&passed) == std::mem::discriminant(&call) {
                            point.pass()
                        } else {
                            Ok(())
                        }
                    }),
                    ahead,
                    ..Setup::default()
                };
                let mask: &dyn Fn() -> Box<dyn TokenMask> = &|| Box::new(Free(None));
                // A mask makes the sampler read whole rows.
                check(
                    &format!("{kind:?} in call {nth} of {call:?}"),
                    &striker,
                    true,
                    setup.build(),
                    sampled.then_some(mask),
                );
            }
        }
    }
}

/// A mask that allows everything, and panics when it is told to.
#[derive(Debug)]
struct Free(Option<(Point, Arc<StrikerCell>)>);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Point {
    Restrict,
    Advance,
    Fork,
}

struct StrikerCell(Arc<Striker>);

impl std::fmt::Debug for StrikerCell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("striker")
    }
}

impl Free {
    fn pass(&self, point: Point) {
        if let Some((at, striker)) = &self.0
            && *at == point
        {
            striker.0.pass().expect("it panics by itself");
        }
    }
}

impl TokenMask for Free {
    fn restrict(&mut self, _: &mut TokenSet) -> Result<(), MaskError> {
        self.pass(Point::Restrict);
        Ok(())
    }
    fn advance(&mut self, _: u32) -> Result<(), MaskError> {
        self.pass(Point::Advance);
        Ok(())
    }
    fn fork(&self) -> Box<dyn TokenMask> {
        self.pass(Point::Fork);
        Box::new(Self(self.0.as_ref().map(|(point, striker)| (*point, Arc::clone(striker)))))
    }
}

#[test]
fn a_panic_in_a_mask_fails_its_step_alone() {
    for point in [Point::Restrict, Point::Advance, Point::Fork] {
        for nth in [1, 2, 3] {
            let striker = Arc::new(Striker::new(Kind::Panic, nth));
            let cell = Arc::new(StrikerCell(Arc::clone(&striker)));
            let mask = || Box::new(Free(Some((point, Arc::clone(&cell))))) as Box<dyn TokenMask>;
            check(&format!("{point:?} {nth}"), &striker, true, Setup::default().build(), Some(&mask));
        }
    }
}

/// Panics in one of the observer's hooks.
struct Touchy {
    hook: &'static str,
    striker: Arc<Striker>,
}

impl Touchy {
    fn pass(&self, hook: &str) {
        if hook == self.hook {
            self.striker.pass().expect("it panics by itself");
        }
    }
}

impl Observer for Touchy {
    fn started(&self, _: Duration) {
        self.pass("started");
    }
    fn prefix_lookup(&self, _: usize, _: usize) {
        self.pass("prefix_lookup");
    }
    fn first_token(&self, _: Duration, _: Duration) {
        self.pass("first_token");
    }
    fn inter_token(&self, _: Duration) {
        self.pass("inter_token");
    }
    fn finished(&self, _: &RequestReport) {
        self.pass("finished");
    }
    fn step(&self, _: &StepReport) {
        self.pass("step");
    }
    fn preempted(&self, _: usize) {
        self.pass("preempted");
    }
    fn evicted(&self, _: usize, _: usize) {
        self.pass("evicted");
    }
    fn cancelled(&self, _: CancelCause) {
        self.pass("cancelled");
    }
    fn step_failed(&self, _: StepFailure, _: usize) {
        self.pass("step_failed");
    }
}

#[test]
fn a_panic_in_the_observer_fails_its_step_alone() {
    for hook in ["started", "prefix_lookup", "first_token", "inter_token", "finished", "step", "preempted", "evicted"] {
        for nth in [1, 2] {
            let striker = Arc::new(Striker::new(Kind::Panic, nth));
            let mut setup = Setup::default();
            setup.config.observer = Arc::new(Touchy { hook, striker: Arc::clone(&striker) });
            setup.config.decode_chunk_tokens = 1;
            setup.pages = 8;
            // Evictions are told of when the books are shown, after the step.
            check(&format!("{hook} {nth}"), &striker, hook != "evicted", setup.build(), None);
        }
    }
}

#[test]
fn a_panic_in_who_hears_of_a_failed_step_fails_nothing_more() {
    for kind in [Kind::Error, Kind::Panic] {
        let (fault, deaf) = (Arc::new(Striker::new(kind, 5)), Arc::new(Striker::new(Kind::Panic, 1)));
        let point = Arc::clone(&fault);
        let mut setup = Setup { hook: Box::new(move |_| point.pass()), ..Setup::default() };
        setup.config.observer = Arc::new(Touchy { hook: "step_failed", striker: Arc::clone(&deaf) });
        check(&format!("{kind:?}, and a deaf observer"), &fault, true, setup.build(), None);
        assert_eq!(deaf.strikes(), 1);
    }
}

#[test]
fn where_giving_up_a_failed_step_panics_those_of_an_earlier_one_are_not_blamed_again() {
    let recorder = Arc::new(Recorder::default());
    let mut abandoned = 0;
    let hook = move |call| {
        abandoned += usize::from(call == Call::Abandon);
        match call {
            Call::Step { .. } => std::panic::resume_unwind(Box::new("injected")),
            Call::Abandon if abandoned > 1 => std::panic::resume_unwind(Box::new("injected")),
            _ => Ok(()),
        }
    };
    let mut setup = Setup { hook: Box::new(hook), ..Setup::default() };
    setup.config.observer = Arc::clone(&recorder) as Arc<dyn Observer>;
    let mut world = setup.build();
    for seed in 0..2 {
        let mut events = world.submit(greedy(prompt(seed, 10), 2));
        world.settle();
        assert!(Heard::of(&mut events).failed.is_some());
        assert_eq!(world.driver.blamed(), [RequestId(u64::from(seed))]);
    }
    assert_eq!(recorder.get().step_failures, [(StepFailure::Panic, 1); 2]);
    world.assert_idle();
}

#[test]
fn a_panic_in_who_hears_of_cancelled_requests_costs_nobody_else() {
    // More of them in a row than steps may fail.
    for nth in 1..6 {
        let striker = Arc::new(Striker::new(Kind::Panic, nth));
        let mut setup = Setup::default();
        setup.config.observer = Arc::new(Touchy { hook: "cancelled", striker: Arc::clone(&striker) });
        let mut world = setup.build();
        let mut stays = world.submit(greedy(prompt(0, 50), 30));
        let leave: Vec<Events> = (1..4).map(|i| world.submit(greedy(prompt(i, 50), 30))).collect();
        let brief = |i| Draft { deadline: Some(Duration::from_millis(1)), ..greedy(prompt(i, 50), 30) };
        let mut late: Vec<Events> = (4..7).map(|i| world.submit(brief(i))).collect();
        world.round();
        drop(leave);
        world.settle();
        assert_eq!(striker.strikes(), 1);
        assert_eq!(Heard::of(&mut stays).tokens[&0], world.model.greedy(&prompt(0, 50), 30), "cancellation {nth}");
        let is_late = |events| matches!(Heard::of(events).failed, Some(Failure::Deadline { limit_ms: 1 }));
        assert!(late.iter_mut().all(is_late), "cancellation {nth}");
        let counters = world.stats().counters;
        let cancelled = |cause: CancelCause| counters.cancelled[cause as usize];
        assert_eq!((cancelled(CancelCause::Client), cancelled(CancelCause::Deadline)), (3, 3));
        assert_eq!((counters.step_panics, counters.failed), (1, 0), "cancellation {nth}");
        world.assert_idle();
    }
}

#[test]
fn an_engine_whose_steps_keep_failing_says_so_until_one_succeeds() {
    let broken = Arc::new(AtomicUsize::new(1));
    let state = Arc::clone(&broken);
    let setup = Setup {
        hook: Box::new(move |_| match state.load(Ordering::Relaxed) {
            0 => Ok(()),
            _ => Err(BackendError::Device { device: "fake".to_owned(), message: "broken".to_owned() }),
        }),
        ..Setup::default()
    };
    let mut world = setup.build();
    for _ in 0..3 {
        assert!(!world.driver.is_failing());
        let mut events = world.submit(greedy(prompt(1, 10), 2));
        world.settle();
        assert!(Heard::of(&mut events).failed.is_some());
    }
    assert!(world.driver.is_failing());
    broken.store(0, Ordering::Relaxed);
    let mut events = world.submit(greedy(prompt(1, 10), 2));
    world.settle();
    assert_eq!(Heard::of(&mut events).finished.len(), 1);
    assert!(!world.driver.is_failing());
}

#[test]
fn a_lost_device_is_built_anew_and_nothing_of_its_pages_is_used() {
    // Some calls of the runner pass, then the device is gone until it is built anew.
    for passing in [0, 1, 5, 20] {
        let left = Arc::new(AtomicUsize::new(passing));
        let rebuilt = Arc::new(AtomicUsize::new(0));
        let (calls, builds) = (Arc::clone(&left), Arc::clone(&rebuilt));
        let mut setup = Setup {
            hook: Box::new(move |call| {
                if call == Call::Rebuild {
                    builds.fetch_add(1, Ordering::Relaxed);
                    calls.store(usize::MAX, Ordering::Relaxed);
                }
                match calls.load(Ordering::Relaxed) {
                    usize::MAX => Ok(()),
                    0 => Err(BackendError::Lost { device: "fake".to_owned(), message: "injected".to_owned() }),
                    more => {
                        calls.store(more - 1, Ordering::Relaxed);
                        Ok(())
                    }
                }
            }),
            ..Setup::default()
        };
        setup.config.max_batch_size = 2;
        setup.config.max_running_requests = 2;
        let mut world = setup.build();
        let long = prompt(1, 200);
        let mut first = [greedy(long.clone(), 20), greedy(prompt(2, 30), 20)].map(|draft| world.submit(draft));
        let mut waiting = world.submit(greedy(prompt(3, 30), 20));
        world.settle();
        for events in &mut first {
            let failure = Heard::of(events).failed.expect("it was running when the device was lost");
            assert!(matches!(failure, Failure::Step { .. }), "{failure:?}");
        }
        assert_eq!(rebuilt.load(Ordering::Relaxed), 1);
        assert_eq!(Heard::of(&mut waiting).tokens[&0], world.model.greedy(&prompt(3, 30), 20), "it was in no step");
        // The same prompt: its prefix is not taken from pages that are gone.
        let mut events = world.submit(greedy(long.clone(), 12));
        world.settle();
        let heard = Heard::of(&mut events);
        assert_eq!(heard.tokens[&0], world.model.greedy(&long, 12), "{passing}");
        world.assert_idle();
    }
}
