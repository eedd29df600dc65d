//! The channels between threads in every interleaving, and with every reordering, that loom finds. A call that is lost
//! leaves its waiter asleep, which loom reports as a deadlock.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use loom::sync::atomic::AtomicUsize;
use loom::thread;

use self::mailbox::{Life, Mailbox};
use self::pause::PauseFlag;
use self::sync::Ordering;

mod sync {
    pub(crate) use loom::sync::atomic::{AtomicBool, Ordering, fence};
    pub(crate) use loom::sync::{Condvar, Mutex, MutexGuard};
}
// The product's own files once more, on loom's primitives in place of the standard library's.
#[allow(clippy::duplicate_mod, dead_code)]
#[path = "../mailbox.rs"]
mod mailbox;
#[allow(clippy::duplicate_mod)]
#[path = "../pause.rs"]
mod pause;

/// In a model time does not pass: only a call ends a wait.
const LONG: Duration = Duration::from_secs(1);

#[test]
fn every_message_wakes_its_reader() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::new());
        let posters = [1, 2].map(|message| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || mailbox.push(message))
        });
        let mut got = VecDeque::new();
        while got.len() < 2 {
            assert_eq!(mailbox.drain(LONG, &mut got), Life::Accepting);
        }
        assert!(got.contains(&1) && got.contains(&2));
        posters.into_iter().for_each(|poster| poster.join().expect("no panic"));
    });
}

#[test]
fn a_drain_wakes_a_sleeping_reader_and_loses_no_message() {
    loom::model(|| {
        let mailbox = Arc::new(Mailbox::new());
        let other = Arc::clone(&mailbox);
        let poster = thread::spawn(move || {
            other.push(1);
            other.begin_drain(LONG);
        });
        let mut got = VecDeque::new();
        while mailbox.drain(LONG, &mut got) == Life::Accepting {}
        assert_eq!(got, [1]);
        poster.join().expect("no panic");
    });
}

#[test]
fn what_comes_after_the_end_is_dropped() {
    loom::model(|| {
        let (mailbox, message) = (Arc::new(Mailbox::new()), Arc::new(()));
        let (other, copy) = (Arc::clone(&mailbox), Arc::clone(&message));
        let poster = thread::spawn(move || other.push(copy));
        mailbox.die();
        poster.join().expect("no panic");
        assert_eq!(Arc::strong_count(&message), 1, "before or after: nobody keeps it");
        assert!(!mailbox.has_mail() && mailbox.life() == Life::Dead);
    });
}

/// A bounded channel of which only the length counts, and which orders nothing by itself.
struct Channel {
    len: AtomicUsize,
    capacity: usize,
}

impl Channel {
    fn try_send(&self) -> bool {
        let room = |len: usize| (len < self.capacity).then_some(len + 1);
        self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok()
    }

    fn try_recv(&self) -> bool {
        self.len.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |len| len.checked_sub(1)).is_ok()
    }
}

#[test]
fn a_paused_sender_is_called_when_there_is_room() {
    const EVENTS: usize = 2;
    loom::model(|| {
        let channel = Arc::new(Channel { len: AtomicUsize::new(0), capacity: 1 });
        let flag = Arc::new(PauseFlag::new());
        let calls = Arc::new(Mailbox::new());
        let receiver = {
            let (channel, flag, calls) = (Arc::clone(&channel), Arc::clone(&flag), Arc::clone(&calls));
            thread::spawn(move || {
                for _ in 0..EVENTS {
                    while !channel.try_recv() {
                        thread::yield_now();
                    }
                    if flag.take() {
                        calls.push(());
                    }
                }
            })
        };
        let mut left = EVENTS;
        let mut send_all = || {
            while left > 0 && channel.try_send() {
                left -= 1;
            }
            left == 0
        };
        while !flag.send(&mut send_all) {
            calls.drain(LONG, &mut VecDeque::new());
        }
        receiver.join().expect("no panic");
    });
}
