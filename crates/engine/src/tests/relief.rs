//! Memory pressure: what is given up, in which order, and that no text suffers.

use super::*;
use crate::inbox::Message;

impl World {
    /// Takes a measure, with the next round.
    fn relieve(&mut self, relief: Relief) {
        self.inbox.push(Message::Relieve(relief));
        self.round();
    }
}

#[test]
fn memory_pressure_is_answered_step_by_step() {
    let mut world = Setup::default().build();
    let draft = |seed: u32| greedy(prompt(seed, 200), 40);
    let expected = |world: &World, seed: u32| world.model.greedy(&prompt(seed, 200), 40);

    // A finished prefix is dropped with the cache.
    let mut events = world.submit(draft(1));
    world.settle();
    assert_eq!(Heard::of(&mut events).tokens[&0], expected(&world, 1));
    assert!(world.stats().pools[0].cached > 0);
    world.relieve(Relief::Pool);
    assert!(world.stats().pools[0].cached > 0, "a milder measure leaves it");
    world.relieve(Relief::PrefixCache);
    let pool = world.stats().pools[0];
    assert_eq!((pool.cached, pool.free), (0, pool.pages));

    // Nobody is admitted while somebody runs.
    let mut first = world.submit(draft(2));
    world.round();
    world.relieve(Relief::Admission);
    let mut second = world.submit(draft(3));
    (0..5).for_each(|_| world.round());
    assert_eq!((world.stats().running_requests, world.stats().waiting_requests), (1, 1));
    world.relieve(Relief::Over);
    world.round();
    assert_eq!((world.stats().running_requests, world.stats().waiting_requests), (2, 0));

    // The newest loses its pages, and has them again when the pressure is over.
    let held = world.stats().pools[0].held;
    world.relieve(Relief::Preempt);
    assert_eq!(world.stats().counters.preemptions, 1);
    assert!(world.stats().pools[0].held < held);
    world.relieve(Relief::Preempt);
    assert_eq!(world.stats().counters.preemptions, 1, "the last one keeps its pages");
    world.relieve(Relief::Over);
    world.settle();
    assert_eq!(Heard::of(&mut first).tokens[&0], expected(&world, 2));
    assert_eq!(Heard::of(&mut second).tokens[&0], expected(&world, 3));
    assert_eq!(world.stats().counters.relieved, [5, 4, 3, 2]);
    world.assert_no_failures();
}

#[test]
fn under_pressure_one_request_after_the_other_is_answered() {
    let mut world = Setup::default().build();
    world.relieve(Relief::Admission);
    let mut streams: Vec<Events> = (0..4).map(|seed| world.submit(greedy(prompt(seed, 70), 5))).collect();
    world.settle();
    for (seed, events) in (0..).zip(&mut streams) {
        assert_eq!(Heard::of(events).tokens[&0], world.model.greedy(&prompt(seed, 70), 5));
    }
    world.assert_no_failures();
}
