//! The pool as its users see it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ThreadId;

use super::*;

fn pool(threads: usize) -> Pool {
    Pool::new(&PoolConfig { threads: Some(threads), pin: true }).expect("a small pool")
}

#[test]
fn every_item_is_done_once_with_its_own_part() {
    for threads in [1, 2, 3, 5] {
        let pool = pool(threads);
        let mut scratch = vec![0usize; threads];
        for len in [0usize, 1, 2, 3, 7, 64, 1000] {
            let mut out = vec![0u32; len];
            let parts = Chunks::new(&mut out, 3);
            pool.for_each_part(&mut scratch, parts, |mine, item, part| {
                *mine += part.len();
                part.iter_mut().enumerate().for_each(|(i, x)| *x += (item * 3 + i) as u32 + 1);
            })
            .expect("no panic");
            assert!(out.iter().enumerate().all(|(i, &x)| x == i as u32 + 1), "{threads} threads, {len} values");
        }
        assert_eq!(scratch.iter().sum::<usize>(), 1 + 2 + 3 + 7 + 64 + 1000);
    }
}

#[test]
fn runs_cover_every_item_once() {
    for threads in [1, 2, 5] {
        let pool = pool(threads);
        for (len, most) in [(0, 1), (1, 9), (64, 1), (64, 5), (1000, usize::MAX)] {
            let mut out = vec![0_usize; 3 * len];
            let mut runs = vec![Vec::new(); threads];
            pool.for_each_run(&mut runs, Chunks::new(&mut out, 3), most, |runs, items, part| {
                assert_eq!(part.len(), 3 * items.len());
                for (item, values) in items.clone().zip(part.chunks_mut(3)) {
                    values.iter_mut().for_each(|value| *value += item + 1);
                }
                runs.push(items.len());
            })
            .expect("no panic");
            assert!(out.iter().enumerate().all(|(i, &x)| x == i / 3 + 1), "{threads} threads, {len} items");
            let runs = runs.concat();
            assert!(runs.iter().all(|&run| (1..=most).contains(&run)), "runs of {runs:?}, at most {most}");
            // Half of what is left, at last one by one.
            assert!(most == 1 || len < 64 || runs.contains(&1) && runs.iter().any(|&run| run > 1), "runs of {runs:?}");
        }
    }
}

#[test]
fn results_of_a_region_are_seen_by_the_next() {
    let pool = pool(2);
    let mut values = vec![1u64; 64];
    for _ in 0..2000 {
        let sum: u64 = values.iter().sum();
        let mut next = vec![0u64; 64];
        let parts = (Chunks::new(&mut values, 1), Chunks::new(&mut next, 1));
        pool.for_each_part(&mut [(), ()], parts, |(), _, (old, new)| new[0] = old[0] % 7 + sum % 3).expect("no panic");
        let expected: Vec<u64> = values.iter().map(|v| v % 7 + sum % 3).collect();
        assert_eq!(next, expected);
        values = next;
    }
}

#[test]
fn then_gives_the_parts_of_both() {
    let pool = pool(2);
    let (mut first, mut second) = (vec![0u8; 5], vec![0u16; 4]);
    let parts = Then(Chunks::new(&mut first, 1), Chunks::new(&mut second, 2));
    pool.for_each_part(&mut [(), ()], parts, |(), item, part| match part {
        Either::First(bytes) => bytes[0] = item as u8,
        Either::Second(words) => words.fill(item as u16),
    })
    .expect("no panic");
    assert_eq!((first, second), (vec![0, 1, 2, 3, 4], vec![5, 5, 6, 6]));
}

#[test]
fn panic_of_an_item_is_reported_and_the_pool_lives_on() {
    for threads in [1, 2, 4] {
        let pool = pool(threads);
        for round in 0..20 {
            let outcome = pool.for_each(100, |_, item| assert_ne!(item, 5 * round, "item {item} is bad"));
            let error = outcome.expect_err("an item panicked");
            assert!(error.message.contains(&format!("item {} is bad", 5 * round)), "{error}");
            let count = AtomicUsize::new(0);
            pool.for_each(100, |_, _| _ = count.fetch_add(1, Ordering::Relaxed)).expect("no panic");
            assert_eq!(count.into_inner(), 100);
        }
    }
}

#[test]
fn sleeping_workers_wake_up() {
    let pool = pool(3);
    for _ in 0..5 {
        std::thread::sleep(std::time::Duration::from_millis(3));
        let seen = [const { AtomicUsize::new(0) }; 3];
        pool.on_each_thread(|thread| _ = seen[thread].fetch_add(1, Ordering::Relaxed)).expect("no panic");
        assert!(seen.iter().all(|s| s.load(Ordering::Relaxed) == 1));
    }
}

#[test]
fn pools_of_one_configuration_share_threads() {
    let workers = |pool: &Pool| -> HashSet<ThreadId> {
        let ids = Mutex::new(HashSet::new());
        pool.on_each_thread(|_| _ = ids.lock().unwrap().insert(std::thread::current().id())).expect("no panic");
        let mut ids = ids.into_inner().unwrap();
        ids.remove(&std::thread::current().id());
        ids
    };
    let shared = |threads| Pool::shared(&PoolConfig { threads: Some(threads), pin: false }).expect("a small pool");
    let (first, second, other, own) = (shared(3), shared(3), shared(4), pool(3));
    assert_eq!(workers(&first).len(), 2);
    assert_eq!(workers(&first), workers(&second));
    assert!(workers(&first).is_disjoint(&workers(&other)) && workers(&first).is_disjoint(&workers(&own)));
    let before = workers(&first);
    drop(first);
    assert_eq!(workers(&second), before, "the threads stay for those that are left");
    assert_eq!(workers(&shared(3)), before);
}

#[test]
fn leaders_of_shared_threads_do_not_mix() {
    // Regions of each leader, and how long an item takes: those of the last are long enough to be cut.
    let leaders = [(300, 0), (500, 10), (20, 500)];
    std::thread::scope(|scope| {
        for (leader, (regions, item_us)) in leaders.into_iter().enumerate() {
            scope.spawn(move || {
                let pool = Pool::shared(&PoolConfig { threads: Some(2), pin: true }).expect("a small pool");
                pool.pin_leader();
                let mut values = vec![leader; 50];
                for _ in 0..regions {
                    let parts = Chunks::new(&mut values, 1);
                    pool.for_each_part(&mut [(), ()], parts, |(), _, value| {
                        std::thread::sleep(std::time::Duration::from_micros(item_us));
                        value[0] += 10;
                    })
                    .expect("no panic");
                }
                assert!(values.iter().all(|&value| value == leader + 10 * regions), "{values:?}");
            });
        }
    });
}

#[test]
fn long_region_makes_way_for_anothers() {
    let pool = || Pool::shared(&PoolConfig { threads: Some(2), pin: false }).expect("a small pool");
    let (long, short) = (pool(), pool());
    let (began, other_done, skipped) = (AtomicBool::new(false), AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !began.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            short.for_each(4, |_, _| ()).expect("no panic");
            other_done.store(true, Ordering::Relaxed);
        });
        // Without making way these would take two seconds.
        let item = |_: usize, _: usize| {
            began.store(true, Ordering::Relaxed);
            if other_done.load(Ordering::Relaxed) {
                skipped.fetch_add(1, Ordering::Relaxed);
            } else {
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        };
        long.for_each(20_000, item).expect("no panic");
    });
    assert!(skipped.into_inner() > 0, "the other's region ran when the long one was over");
}

#[test]
#[should_panic(expected = "runs of no items")]
fn runs_of_no_items_are_refused() {
    let _ = pool(1).for_each_run(&mut [()], Chunks::new(&mut [0_u8; 4], 1), 0, |(), _, _| ());
}

#[test]
fn silly_thread_counts_are_errors() {
    for wanted in [0, MAX_THREADS + 1, usize::MAX] {
        let error = Pool::new(&PoolConfig { threads: Some(wanted), pin: false }).expect_err("not a count");
        assert!(matches!(error, PoolError::Threads { wanted: w } if w == wanted));
    }
}
