//! Whose turn it is to lead.
//!
//! Models share the threads of a pool, and its regions run one after another. A mutex would give the next region to whoever
//! asks first, which is the leader that has just ended one: the others would wait until it pauses. Here it has to let another
//! go first that waits and has led for a [`TURN`] less; no sooner, because a change of leaders costs some microseconds, as
//! much as a short region. Those that wait sleep: bound to cores, all leaders have the same.
//!
//! Time is counted only while somebody waits; a leader alone looks at no clock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How much longer than another a leader may have led before it lets that one go first. Also how long the threads may idle
/// while others wait, before the one that led last is taken to pause.
const TURN: Duration = Duration::from_millis(1);

/// How much less than others a leader may have led, after a pause or when it is new: so long it may lead alone. More than a
/// region usually lasts when others wait, so that those of long regions and of short ones have equal parts.
const CREDIT: Duration = Duration::from_millis(20);

/// How long a region has lasted at least when it makes way for others: a few items of a long prompt.
const MAKES_WAY_AFTER: Duration = Duration::from_millis(4);

/// What only one leader at a time has, in turns that are fair.
#[derive(Debug)]
pub(super) struct Turns<T> {
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Whether somebody waits, to be looked at without the queue.
    wanted: AtomicBool,
    shared: Mutex<T>,
}

/// A leader among those that share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leader(usize);

impl<T> Turns<T> {
    pub(super) fn new(shared: T) -> Turns<T> {
        let queue = Queue { leaders: Vec::new(), turn: Turn::Free, counted_until: Instant::now() };
        Turns {
            queue: Mutex::new(queue),
            changed: Condvar::new(),
            wanted: AtomicBool::new(false),
            shared: Mutex::new(shared),
        }
    }

    pub(super) fn join(&self) -> Leader {
        self.queue().join()
    }

    /// To be called when a leader will not come again.
    pub(super) fn leave(&self, leader: Leader) {
        self.queue().leaders[leader.0] = None;
    }

    /// Whether the region that `leader` leads since `start` should make way for one that waits. Asked often: looks at the
    /// clock only when somebody waits, and at the queue only when the region is long.
    pub(super) fn makes_way(&self, leader: Leader, start: Instant) -> bool {
        if !self.wanted.load(Ordering::Relaxed) {
            return false;
        }
        let now = Instant::now();
        now >= start + MAKES_WAY_AFTER && self.queue().makes_way(leader, now)
    }

    /// Waits for the leader's turn, and uses it.
    pub(super) fn lead<R>(&self, leader: Leader, with: impl FnOnce(&mut T) -> R) -> R {
        self.begin(leader);
        let _end = End { turns: self, leader };
        let mut shared = match self.shared.try_lock() {
            Ok(shared) => shared,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => unreachable!("one leader at a time has the turn"),
        };
        with(&mut shared)
    }

    fn begin(&self, leader: Leader) {
        let mut queue = self.queue();
        let before = queue.turn;
        if queue.begins(leader) {
            return;
        }
        queue.waits_for_turn(leader, Instant::now());
        self.wanted.store(true, Ordering::Relaxed);
        if queue.turn != before {
            self.changed.notify_all();
        }
        let mut now = Instant::now();
        while !queue.begins_after_waiting(leader, now) {
            let look_again = queue.looks_again_after(now);
            queue = self.changed.wait_timeout(queue, look_again).unwrap_or_else(PoisonError::into_inner).0;
            now = Instant::now();
        }
        self.wanted.store(queue.is_wanted(), Ordering::Relaxed);
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

/// Ends a turn when it is dropped, after a panic, too.
struct End<'a, T> {
    turns: &'a Turns<T>,
    leader: Leader,
}

impl<T> Drop for End<'_, T> {
    fn drop(&mut self) {
        self.turns.end(self.leader);
    }
}

#[derive(Debug)]
struct Queue {
    /// `None`: left.
    leaders: Vec<Option<Account>>,
    turn: Turn,
    /// Until when the time of whoever led is counted.
    counted_until: Instant,
}

#[derive(Clone, Copy, Debug, Default)]
struct Account {
    /// How long its turns were while others waited, gaps between regions included; no less than [`CREDIT`] allows.
    led: Duration,
    waits: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Nobody leads.
    Free,
    /// Somebody does.
    Taken,
    /// One that waits is told to.
    Told(Leader),
}

impl Queue {
    fn join(&mut self) -> Leader {
        let free = self.leaders.iter().position(Option::is_none);
        let place = free.unwrap_or(self.leaders.len());
        if free.is_none() {
            self.leaders.push(None);
        }
        self.leaders[place] = Some(Account::default());
        Leader(place)
    }

    /// Begins a turn unless it is another's, which is told to begin where nobody leads.
    fn begins(&mut self, leader: Leader) -> bool {
        let longest = self.leaders.iter().flatten().map(|account| account.led).max().unwrap_or_default();
        let account = self.account(leader);
        account.led = account.led.max(longest.saturating_sub(CREDIT));
        let led = account.led;
        if self.turn != Turn::Free {
            return false;
        }
        let due = self.due(led);
        self.turn = due.map_or(Turn::Taken, Turn::Told);
        due.is_none()
    }

    fn waits_for_turn(&mut self, leader: Leader, now: Instant) {
        if !self.is_wanted() {
            self.counted_until = now;
        }
        self.account(leader).waits = true;
    }

    /// After how long one that waits looks again, unless it is told to lead before.
    fn looks_again_after(&self, now: Instant) -> Duration {
        let pause_ends = self.counted_until + TURN;
        // While somebody leads, a turn: a region's end wakes nobody that is not due.
        if self.turn == Turn::Free && now < pause_ends { pause_ends - now } else { TURN }
    }

    /// Begins a turn if the leader was told to, or if whoever led pauses and none that waits has led for a shorter time.
    fn begins_after_waiting(&mut self, leader: Leader, now: Instant) -> bool {
        let begins = match self.turn {
            Turn::Told(told) => told == leader,
            Turn::Free => {
                now >= self.counted_until + TURN && self.shortest_waiting().is_some_and(|(it, _)| it == leader)
            }
            Turn::Taken => false,
        };
        if begins {
            self.turn = Turn::Taken;
            self.account(leader).waits = false;
            self.counted_until = now;
        }
        begins
    }

    /// Ends a turn; whether another is told to lead.
    fn ends(&mut self, leader: Leader, now: impl FnOnce() -> Instant) -> bool {
        self.turn = Turn::Free;
        if !self.is_wanted() {
            return false;
        }
        let now = now();
        let led = self.led_until(leader, now);
        self.account(leader).led = led;
        self.counted_until = now;
        let due = self.due(led);
        self.turn = due.map_or(Turn::Free, Turn::Told);
        due.is_some()
    }

    /// Whether the leader, whose turn it is, would have to let another go first were it to end now.
    fn makes_way(&mut self, leader: Leader, now: Instant) -> bool {
        let led = self.led_until(leader, now);
        self.due(led).is_some()
    }

    /// For how long the leader, whose turn it is, will have led.
    fn led_until(&mut self, leader: Leader, now: Instant) -> Duration {
        self.account(leader).led + now.saturating_duration_since(self.counted_until)
    }

    /// Who waits and goes before one that has led for so long: has led for the shortest time, and a turn less.
    fn due(&self, led: Duration) -> Option<Leader> {
        self.shortest_waiting().filter(|(_, shortest)| *shortest + TURN <= led).map(|(leader, _)| leader)
    }

    /// Of those that wait, the one that has led for the shortest time, and that time.
    fn shortest_waiting(&self) -> Option<(Leader, Duration)> {
        let accounts = self.leaders.iter().enumerate();
        let waiting = accounts.filter_map(|(place, account)| Some((Leader(place), account.filter(|it| it.waits)?.led)));
        waiting.min_by_key(|&(_, led)| led)
    }

    /// Whether somebody waits.
    fn is_wanted(&self) -> bool {
        self.leaders.iter().flatten().any(|account| account.waits)
    }

    fn account(&mut self, leader: Leader) -> &mut Account {
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
            World { queue: Queue { leaders: Vec::new(), turn: Turn::Free, counted_until: now }, now }
        }

        fn wait(&mut self, leader: Leader) {
            assert!(!self.queue.begins(leader));
            self.queue.waits_for_turn(leader, self.now);
        }

        /// Everybody always wants to lead: for so many regions, each of the length that is its leader's, a thousandth of it
        /// between two. Those that wait look whenever they may. How long each has led, and how often leaders changed.
        fn contend(&mut self, regions: usize, lengths: &[Duration]) -> (Vec<Duration>, usize) {
            let leaders: Vec<Leader> = lengths.iter().map(|_| self.queue.join()).collect();
            assert!(self.queue.begins(leaders[0]));
            leaders[1..].iter().for_each(|&leader| self.wait(leader));
            let (mut leader, mut times, mut changes) = (leaders[0], vec![Duration::ZERO; lengths.len()], 0);
            for _ in 0..regions {
                self.now += lengths[leader.0];
                times[leader.0] += lengths[leader.0];
                let now = self.now;
                self.queue.ends(leader, || now);
                self.now += lengths[leader.0] / 1000;
                let now = self.now;
                let others = leaders.iter().copied().filter(|&other| other != leader);
                let next = others.into_iter().find(|&other| self.queue.begins_after_waiting(other, now));
                let Some(next) = next else {
                    assert!(self.queue.begins(leader), "nobody else does");
                    continue;
                };
                self.wait(leader);
                (leader, changes) = (next, changes + 1);
            }
            (times, changes)
        }
    }

    #[test]
    fn leader_alone_never_waits_nor_counts() {
        let World { mut queue, .. } = World::new();
        let alone = queue.join();
        for _ in 0..3 {
            assert!(queue.begins(alone));
            assert!(!queue.ends(alone, || panic!("nobody wants to know the time")));
        }
    }

    #[test]
    fn time_is_shared_whatever_the_regions_last() {
        let (times, changes) = World::new().contend(10_000, &[4 * MS, MS / 10]);
        assert!(times[0].abs_diff(times[1]) <= 5 * MS, "{times:?}");
        // Of forty short regions or a long one each.
        let turns = 10_000 / 41 * 2;
        assert!((turns - 20..=turns + 20).contains(&changes), "{changes} changes");
        for lengths in [&[MS, MS / 10, 15 * MS][..], &[MS / 50, MS / 50], &[MS / 2, MS / 3, MS / 4, 10 * MS]] {
            let (times, _) = World::new().contend(20_000, lengths);
            let (least, most) = (times.iter().min().unwrap(), times.iter().max().unwrap());
            assert!(*most - *least <= 20 * MS, "{lengths:?}: {times:?}");
        }
    }

    #[test]
    fn turn_whose_leader_pauses_goes_to_one_that_waits() {
        let mut world = World::new();
        let (first, second) = (world.queue.join(), world.queue.join());
        assert!(world.queue.begins(first));
        world.wait(second);
        assert!(!world.queue.begins_after_waiting(second, world.now + 2 * TURN), "a region runs");
        world.now += MS / 2;
        let now = world.now;
        assert!(!world.queue.ends(first, || now), "it has led for less than a turn");
        assert!(!world.queue.begins_after_waiting(second, now + TURN / 2), "it may go on");
        assert!(world.queue.begins_after_waiting(second, now + TURN));
        assert!(!world.queue.begins(first));
    }

    #[test]
    fn in_a_pause_the_one_that_has_led_least_goes() {
        let mut world = World::new();
        let [first, longer, shorter] = std::array::from_fn(|_| world.queue.join());
        assert!(world.queue.begins(first));
        world.queue.account(longer).led = MS / 2;
        world.wait(longer);
        world.wait(shorter);
        world.now += MS / 4;
        let now = world.now;
        assert!(!world.queue.ends(first, || now), "it has led for less than a turn");
        assert_eq!(world.queue.looks_again_after(now + TURN / 4), TURN * 3 / 4);
        assert!(!world.queue.begins_after_waiting(longer, now + TURN));
        assert_eq!(world.queue.looks_again_after(now + TURN), TURN, "no haste to see another begin");
        assert!(world.queue.begins_after_waiting(shorter, now + TURN));
    }

    #[test]
    fn turn_makes_way_for_one_that_is_due() {
        let mut world = World::new();
        let (first, second) = (world.queue.join(), world.queue.join());
        let start = world.now;
        assert!(world.queue.begins(first));
        assert!(!world.queue.makes_way(first, start + 2 * TURN), "nobody waits");
        world.wait(second);
        assert!(!world.queue.makes_way(first, start + TURN / 2));
        assert!(world.queue.makes_way(first, start + TURN));
        // For one that has led for so much longer, only when that and a turn have passed.
        world.queue.account(second).led = 8 * TURN;
        assert!(!world.queue.makes_way(first, start + 8 * TURN));
        assert!(world.queue.makes_way(first, start + 9 * TURN));
    }

    #[test]
    fn short_region_makes_way_for_nobody() {
        let turns = Turns::new(());
        let (first, second) = (turns.join(), turns.join());
        let start = Instant::now();
        assert!(turns.queue().begins(first));
        assert!(!turns.queue().begins(second));
        turns.queue().waits_for_turn(second, start);
        let long_ago = start.checked_sub(MAKES_WAY_AFTER).expect("a machine that has been up for that long");
        assert!(!turns.makes_way(first, long_ago), "nobody is known to wait");
        turns.wanted.store(true, Ordering::Relaxed);
        std::thread::sleep(TURN);
        assert!(turns.makes_way(first, long_ago));
        assert!(!turns.makes_way(first, Instant::now() + MAKES_WAY_AFTER), "it has just begun");
    }

    #[test]
    fn leader_that_begins_alone_has_no_more_credit_than_others() {
        let mut world = World::new();
        let (old, new) = (world.queue.join(), world.queue.join());
        world.queue.account(old).led = 100 * CREDIT;
        assert!(world.queue.begins(new));
        world.wait(old);
        assert!(!world.queue.makes_way(new, world.now + CREDIT));
        assert!(world.queue.makes_way(new, world.now + CREDIT + TURN));
    }

    #[test]
    fn pause_earns_a_limited_credit() {
        let mut world = World::new();
        let (times, _) = world.contend(1000, &[MS, MS, MS]);
        assert!(times.iter().all(|&time| time > 10 * CREDIT));
        let new = world.queue.join();
        world.wait(new);
        let longest = world.queue.leaders.iter().flatten().map(|account| account.led).max().unwrap();
        assert_eq!(world.queue.account(new).led, longest - CREDIT);
    }

    #[test]
    fn leaders_on_threads_share_and_a_panic_ends_a_turn() {
        let turns = Turns::new(0_u32);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let leader = turns.join();
                    for _ in 0..1000 {
                        turns.lead(leader, |count| *count += 1);
                    }
                    let panics = || turns.lead(leader, |_| panic!("in a turn"));
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).expect_err("a panic");
                    turns.leave(leader);
                });
            }
        });
        let last = turns.join();
        assert_eq!(turns.lead(last, |count| *count), 3000);
    }
}
