//! Whose turn it is to lead.
//!
//! Models share the threads of a pool, and its regions run one after another. A mutex would give the next region to whoever
//! asks first, which is the leader that has just ended one: the others would wait until it pauses. Here the leader that has
//! led for the shortest time goes first. It keeps its turn for [`TURN`] at least, because a change of leaders costs some
//! microseconds, as much as a short region. Those that wait sleep: all leaders share a core.
//!
//! Time is counted only while somebody waits; a leader alone looks at no clock.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How much longer than another a leader may have led before it lets that one go first. Also how long a turn may lie idle when
/// its leader pauses in the midst of it.
const TURN: Duration = Duration::from_millis(1);

/// How much less than others a leader may have led, after a pause or when it is new: so long it may lead alone. About the
/// longest region of a prompt.
const CREDIT: Duration = Duration::from_millis(100);

/// What only one leader at a time has, in turns that are fair.
#[derive(Debug)]
pub(super) struct Turns<T> {
    queue: Mutex<Queue>,
    changed: Condvar,
    shared: Mutex<T>,
}

/// A leader among those that share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader(usize);

impl<T> Turns<T> {
    pub(super) fn new(shared: T) -> Turns<T> {
        Turns { queue: Mutex::new(Queue::new(Instant::now())), changed: Condvar::new(), shared: Mutex::new(shared) }
    }

    pub(super) fn join(&self) -> Leader {
        self.queue().join()
    }

    /// To be called when a leader will not come again.
    pub(super) fn leave(&self, leader: Leader) {
        self.queue().leaders[leader.0] = None;
    }

    /// Waits for the leader's turn, and uses it.
    pub(super) fn take<R>(&self, leader: Leader, with: impl FnOnce(&mut T) -> R) -> R {
        self.begin(leader);
        let _turn = Turn { turns: self, leader };
        with(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn begin(&self, leader: Leader) {
        let mut queue = self.queue();
        if queue.begins(leader) {
            return;
        }
        queue.waits(leader, Instant::now());
        loop {
            queue = self.changed.wait_timeout(queue, TURN).unwrap_or_else(PoisonError::into_inner).0;
            if queue.begins_after_waiting(leader, Instant::now()) {
                return;
            }
        }
    }

    fn end(&self, leader: Leader) {
        if self.queue().ends(leader, Instant::now) {
            self.changed.notify_all();
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends when it is dropped, after a panic, too.
struct Turn<'a, T> {
    turns: &'a Turns<T>,
    leader: Leader,
}

impl<T> Drop for Turn<'_, T> {
    fn drop(&mut self) {
        self.turns.end(self.leader);
    }
}

#[derive(Debug)]
struct Queue {
    /// `None`: left.
    leaders: Vec<Option<Led>>,
    waiting: usize,
    /// Somebody leads, or was told to.
    is_taken: bool,
    /// Who was told to lead and has not begun.
    next: Option<Leader>,
    /// Until when the time of whoever led is counted.
    counted_until: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Led {
    /// For how long, while others waited.
    time: Duration,
    waits: bool,
}

impl Queue {
    fn new(now: Instant) -> Queue {
        Queue { leaders: Vec::new(), waiting: 0, is_taken: false, next: None, counted_until: now }
    }

    fn join(&mut self) -> Leader {
        let free = self.leaders.iter().position(Option::is_none);
        let place = free.unwrap_or(self.leaders.len());
        if free.is_none() {
            self.leaders.push(None);
        }
        self.leaders[place] = Some(Led::default());
        Leader(place)
    }

    /// Begins a turn unless it is another's.
    fn begins(&mut self, leader: Leader) -> bool {
        let contended = self.is_taken || self.waiting > 0;
        if contended {
            let longest = self.present().map(|led| led.time).max().unwrap_or_default();
            let led = self.led(leader);
            led.time = led.time.max(longest.saturating_sub(CREDIT));
        }
        let begins = !self.is_taken && (self.waiting == 0 || self.due(leader).is_none());
        self.is_taken |= begins;
        begins
    }

    fn waits(&mut self, leader: Leader, now: Instant) {
        if self.waiting == 0 {
            self.counted_until = now;
        }
        self.waiting += 1;
        self.led(leader).waits = true;
    }

    /// Begins a turn if the leader was told to, or if whoever leads pauses.
    fn begins_after_waiting(&mut self, leader: Leader, now: Instant) -> bool {
        let told = self.next == Some(leader);
        if !told && self.is_taken {
            return false;
        }
        self.next = None;
        self.is_taken = true;
        self.waiting -= 1;
        self.led(leader).waits = false;
        self.counted_until = now;
        true
    }

    /// Ends a turn; whether another was told to lead.
    fn ends(&mut self, leader: Leader, now: impl FnOnce() -> Instant) -> bool {
        self.is_taken = false;
        if self.waiting == 0 {
            return false;
        }
        let now = now();
        let led = now - self.counted_until;
        self.led(leader).time += led;
        self.counted_until = now;
        self.next = self.due(leader);
        self.is_taken = self.next.is_some();
        self.is_taken
    }

    /// Who waits and goes before `leader`: has led for the shortest time, and a turn less.
    fn due(&self, leader: Leader) -> Option<Leader> {
        let waiting =
            self.leaders.iter().enumerate().filter_map(|(place, led)| Some((place, led.filter(|led| led.waits)?)));
        let (place, shortest) = waiting.min_by_key(|(_, led)| led.time)?;
        let mine = self.leaders[leader.0].unwrap_or_default();
        (shortest.time + TURN <= mine.time).then_some(Leader(place))
    }

    fn present(&self) -> impl Iterator<Item = &Led> {
        self.leaders.iter().flatten()
    }

    fn led(&mut self, leader: Leader) -> &mut Led {
        self.leaders[leader.0].as_mut().expect("a leader that has not left")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Leaders of a queue, and a clock.
    struct World {
        queue: Queue,
        now: Instant,
    }

    impl World {
        fn new() -> World {
            let now = Instant::now();
            World { queue: Queue::new(now), now }
        }

        /// Ends the turn of `leader` after `time`, which then wants the next one; who has it.
        fn lead(&mut self, leader: Leader, time: Duration) -> Leader {
            self.now += time;
            let now = self.now;
            if !self.queue.ends(leader, || now) {
                assert!(self.queue.begins(leader), "nobody else was told to");
                return leader;
            }
            let next = self.queue.next.expect("somebody was told to");
            assert!(!self.queue.begins(leader), "it is the turn of another");
            self.queue.waits(leader, now);
            assert!(self.queue.begins_after_waiting(next, now));
            next
        }
    }

    #[test]
    fn leader_alone_never_waits_nor_counts() {
        let mut queue = Queue::new(Instant::now());
        let alone = queue.join();
        for _ in 0..3 {
            assert!(queue.begins(alone));
            assert!(!queue.ends(alone, || panic!("nobody wants to know the time")));
        }
    }

    #[test]
    fn time_is_shared_whatever_the_regions_last() {
        let mut world = World::new();
        let (long, short) = (world.queue.join(), world.queue.join());
        assert!(world.queue.begins(long));
        assert!(!world.queue.begins(short));
        world.queue.waits(short, world.now);
        let (mut leader, mut times, mut changes) = (long, [Duration::ZERO; 2], 0);
        for _ in 0..10_000 {
            let time = if leader == long { 20 * MS } else { MS / 10 };
            times[leader.0] += time;
            let next = world.lead(leader, time);
            changes += usize::from(next != leader);
            leader = next;
        }
        let apart = times[0].abs_diff(times[1]);
        assert!(apart <= 21 * MS, "{times:?}");
        // Of 200 short regions or a long one each.
        assert!((90..=110).contains(&changes), "{changes} changes");
    }

    #[test]
    fn turn_whose_leader_pauses_goes_to_one_that_waits() {
        let mut world = World::new();
        let (first, second) = (world.queue.join(), world.queue.join());
        assert!(world.queue.begins(first));
        assert!(!world.queue.begins(second));
        world.queue.waits(second, world.now);
        assert!(!world.queue.begins_after_waiting(second, world.now), "a region runs");
        world.now += MS / 2;
        let now = world.now;
        assert!(!world.queue.ends(first, || now), "it has led for less than a turn");
        assert!(world.queue.begins_after_waiting(second, now + TURN));
        assert!(!world.queue.begins(first));
    }

    #[test]
    fn pause_earns_a_limited_credit() {
        let mut world = World::new();
        let [a, b, idle] = [(); 3].map(|()| world.queue.join());
        assert!(world.queue.begins(a));
        assert!(!world.queue.begins(b));
        world.queue.waits(b, world.now);
        let mut leader = a;
        for _ in 0..1000 {
            leader = world.lead(leader, MS);
        }
        // One that was idle, or is new in the place of one that left.
        world.queue.leaders[idle.0] = None;
        assert_eq!(world.queue.join(), idle);
        assert!(!world.queue.begins(idle));
        let least = world.queue.led(a).time.min(world.queue.led(b).time);
        let credit = least - world.queue.led(idle).time;
        assert!(credit <= CREDIT && credit >= CREDIT - 2 * TURN, "{credit:?}");
    }

    #[test]
    fn leaders_on_threads_share_and_a_panic_ends_a_turn() {
        let turns = Turns::new(0_u32);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let leader = turns.join();
                    for _ in 0..1000 {
                        turns.take(leader, |count| *count += 1);
                    }
                    let panics = || turns.take(leader, |_| panic!("in a turn"));
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).expect_err("a panic");
                    turns.leave(leader);
                });
            }
        });
        let last = turns.join();
        assert_eq!(turns.take(last, |count| *count), 3000);
    }
}
