//! Waiting makes up for a low priority, as long as the queue's timeout lets one wait.

use super::*;

/// What becomes of a request of this priority while better ones never cease to come, and how long it took.
fn outcome(priority: i64) -> (Heard, Duration) {
    let mut setup = Setup { step_cost: (Duration::from_millis(100), Duration::ZERO), ..Setup::default() };
    setup.config.max_batch_size = 1;
    setup.config.max_running_requests = 1;
    assert_eq!((setup.config.aging, setup.config.queue_timeout), (Duration::from_secs(5), Duration::from_secs(60)));
    let mut world = setup.build();
    let urgent = |world: &World| world.submit(greedy(prompt(1, 10), 10));
    let mut others = vec![urgent(&world)];
    world.round();
    let mut patient = world.submit(Draft { priority, ..greedy(prompt(2, 10), 1) });
    let mut heard = Heard::default();
    while heard.failed.is_none() && heard.finished.is_empty() {
        while world.inbox.requests() < 4 {
            others.push(urgent(&world));
        }
        world.round();
        heard.listen(&mut patient);
    }
    (heard, world.clock.now())
}

#[test]
fn a_request_that_has_aged_up_gets_its_turn_before_its_time_is_up() {
    for priority in [0, 1, 5, 11] {
        let (heard, time) = outcome(priority);
        assert_eq!(heard.failed, None, "priority {priority}");
        // A step of priority takes 5 s, the one that runs at its end up to another second.
        let least = Duration::from_secs(5 * priority as u64);
        assert!((least..least + Duration::from_secs(3)).contains(&time), "priority {priority}: {time:?}");
    }
}

#[test]
fn a_request_that_would_age_for_longer_than_it_may_wait_is_told_to_retry() {
    let (heard, time) = outcome(13);
    assert_eq!(heard.failed, Some(Failure::QueueTimeout { limit_ms: 60_000 }));
    assert!((60..62).contains(&time.as_secs()), "{time:?}");
}

#[test]
fn a_request_that_has_aged_up_sits_before_those_that_have_been_served() {
    let mut setup = Setup { step_cost: (Duration::from_millis(100), Duration::ZERO), ..Setup::default() };
    setup.config.max_batch_size = 1;
    setup.config.max_running_requests = 3;
    setup.config.decode_chunk_tokens = 8;
    let mut world = setup.build();
    // Two take turns at the one seat for longer than the queue's timeout.
    let _served: Vec<Events> = (0..2).map(|i| world.submit(greedy(prompt(i, 10), 400))).collect();
    world.round();
    let mut patient = world.submit(Draft { priority: 1, ..greedy(prompt(2, 10), 1) });
    let mut heard = Heard::default();
    while heard.failed.is_none() && heard.finished.is_empty() {
        world.round();
        heard.listen(&mut patient);
    }
    assert_eq!(heard.failed, None);
    assert!((5..7).contains(&world.clock.now().as_secs()), "{:?}", world.clock.now());
}

#[test]
fn a_request_of_low_priority_comes_to_its_seat_again_while_better_ones_take_turns() {
    let mut setup = Setup { step_cost: (Duration::from_millis(100), Duration::ZERO), ..Setup::default() };
    setup.config.max_batch_size = 1;
    setup.config.max_running_requests = 3;
    setup.config.decode_chunk_tokens = 8;
    let mut world = setup.build();
    let mut patient = world.submit(Draft { priority: 2, ..greedy(prompt(2, 10), 30) });
    world.round();
    let _others: Vec<Events> = (0..2).map(|i| world.submit(greedy(prompt(i, 10), 400))).collect();
    let mut heard = Heard::default();
    while heard.finished.is_empty() {
        world.round();
        heard.listen(&mut patient);
    }
    // After each chunk it waits for the 10 s that two steps of priority take, and for the chunk that runs then.
    assert!((30..40).contains(&world.clock.now().as_secs()), "{:?}", world.clock.now());
    assert_eq!(heard.tokens[&0], world.model.greedy(&prompt(2, 10), 30));
}
