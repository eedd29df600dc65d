//! A panic at every single point of a history, one run for each: of the step, or of the message, that it interrupts the
//! requests are lost, and nothing else.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::*;
use crate::fault;
use crate::inbox::RequestId;

/// The request whose deadline passes.
const LATE: usize = 2;

/// A request of the history.
struct Asked {
    prompt: Vec<u32>,
    max_tokens: i64,
    choices: i64,
    /// `None` once the client has left.
    events: Option<Events>,
    heard: Heard,
}

/// The history of a world that is interrupted once.
struct History {
    world: World,
    asked: Vec<Asked>,
    /// Those of which the engine was told something since the last round.
    touched: BTreeSet<RequestId>,
    /// Who was blamed for the panic.
    blamed: Option<Vec<RequestId>>,
}

impl History {
    fn ask(&mut self, seed: u32, len: usize, max_tokens: i64, choices: i64, deadline: Option<Duration>) -> usize {
        let prompt = prompt(seed, len);
        let draft = Draft { n: Some(choices), deadline, ..greedy(prompt.clone(), max_tokens) };
        let events = Some(self.world.submit(draft));
        self.asked.push(Asked { prompt, max_tokens, choices, events, heard: Heard::default() });
        let id = self.asked.len() - 1;
        self.touch(id);
        id
    }

    fn touch(&mut self, id: usize) {
        self.touched.insert(RequestId(id as u64));
    }

    fn rounds(&mut self, count: usize) {
        for _ in 0..count {
            self.world.round();
            if self.blamed.is_none() && fault::struck().is_some() {
                let blamed = self.world.driver.blamed().to_vec();
                self.check_blame(&blamed);
                self.blamed = Some(blamed);
            }
            self.touched.clear();
        }
    }

    /// A step has all its requests to blame, a message or a timer its request, and what lies between has nobody.
    fn check_blame(&self, blamed: &[RequestId]) {
        let passed = fault::passed();
        let (point, before) = passed.split_last().expect("the point that panicked was passed");
        let landmark = |point: &&&str| matches!(**point, "messages read" | "plan" | "planned" | "publish");
        let after = before.iter().rev().find(landmark).copied();
        match (*point, after) {
            ("messages read" | "plan" | "planned" | "publish", _) | (_, Some("plan")) => {
                assert!(blamed.is_empty(), "{point}: {blamed:?}");
            }
            (_, Some("planned")) => assert_eq!(blamed, self.world.driver.requests_in_step(), "{point}"),
            _ => {
                let is_at_fault = |id: &RequestId| self.touched.contains(id) || *id == RequestId(LATE as u64);
                assert!(blamed.len() == 1 && blamed.iter().all(is_at_fault), "{point}: {blamed:?}");
            }
        }
    }

    fn read(&mut self) {
        for (id, Asked { events, heard, .. }) in self.asked.iter_mut().enumerate() {
            let before = heard.clone();
            events.iter_mut().for_each(|events| heard.listen(events));
            if *heard != before {
                self.touched.insert(RequestId(id as u64));
            }
        }
    }

    /// Requests come, share prefixes, fork, wait, pause, are stopped, left and late, and lose their pages to one
    /// another.
    fn play(&mut self) {
        self.ask(1, 150, 12, 1, None);
        self.ask(1, 140, 30, 2, None);
        self.rounds(2);
        assert_eq!(self.ask(2, 90, 60, 1, Some(Duration::from_millis(120))), LATE);
        let left = self.ask(3, 70, 60, 1, None);
        self.rounds(3);
        let stopped = self.ask(4, 20, 60, 3, None);
        self.ask(1, 150, 70, 1, None);
        self.rounds(5);
        self.asked[left].events = None;
        self.touch(left);
        self.rounds(4);
        if let Some(events) = &self.asked[stopped].events {
            (0..3).for_each(|choice| events.stop(choice));
        }
        self.touch(stopped);
        self.play_to_the_end();
        assert!(self.asked[LATE].heard.finished.is_empty(), "its deadline was too long");
    }

    /// Everybody reads from now on.
    fn play_to_the_end(&mut self) {
        for _ in 0..10_000 {
            if self.world.inbox.requests() == 0 && !self.world.inbox.mailbox.has_mail() {
                return;
            }
            self.rounds(3);
            self.read();
        }
        panic!("it does not come to an end");
    }

    /// What everybody was told is right, and complete where nothing was to be lost.
    fn check(&mut self, point: &str) {
        let blamed = self.blamed.take().unwrap_or_default();
        for (id, Asked { prompt, max_tokens, choices, events, heard }) in self.asked.iter().enumerate() {
            let text = self.world.model.greedy(prompt, *max_tokens as usize);
            let tokens = heard.tokens.values();
            assert!(
                tokens.clone().all(|told| text.starts_with(told)),
                "{point}: request {id}: {heard:?}, not {text:?}"
            );
            let is_blamed = blamed.contains(&RequestId(id as u64));
            match &heard.failed {
                Some(Failure::Step { message }) => {
                    assert!(is_blamed && message.contains("injected"), "{point}: request {id}: {message}");
                }
                Some(Failure::Deadline { .. }) => assert_eq!(id, LATE, "{point}"),
                Some(other) => panic!("{point}: request {id}: {other}"),
                None if events.is_some() => {
                    assert_eq!(heard.finished.len(), *choices as usize, "{point}: request {id}");
                    let whole = |(told, end): (&Vec<u32>, &Finished)| {
                        told.len() == text.len() || end.reason == FinishReason::Stopped
                    };
                    assert!(tokens.zip(heard.finished.values()).all(whole), "{point}: request {id}");
                }
                None => {}
            }
        }
        let counters = self.world.stats().counters;
        assert_eq!((counters.step_panics, counters.step_errors), (1, 0), "{point}");
        self.world.assert_idle();
    }
}

fn world(ahead: bool) -> World {
    let mut setup = Setup { pages: 8, ahead, ..Setup::default() };
    setup.model.windows = vec![None, Some(80)];
    setup.config.max_batch_size = 4;
    setup.config.max_running_requests = 4;
    setup.config.prefill_chunk_tokens = 100;
    setup.config.decode_chunk_tokens = 8;
    setup.config.prefix_cache_bytes = 4 << 10;
    setup.config.event_buffer = 4;
    setup.build()
}

#[test]
fn a_panic_at_any_point_loses_its_step_alone() {
    let mut struck = BTreeSet::new();
    for ahead in [false, true] {
        // The run in which nothing is struck is the last.
        for nth in 1.. {
            let mut history =
                History { world: world(ahead), asked: Vec::new(), touched: BTreeSet::new(), blamed: None };
            fault::strike_at(nth);
            history.play();
            let point = fault::struck();
            fault::strike_at(0);
            let Some(name) = point else { break };
            struck.insert(name.to_owned());
            history.check(&format!("{name}, point {nth}, ahead {ahead}"));
            // The world goes on: nothing is left of what was interrupted.
            let id = history.ask(1, 150, 20, 2, None);
            history.play_to_the_end();
            let text = history.world.model.greedy(&history.asked[id].prompt, 20);
            assert!(history.asked[id].heard.tokens.values().all(|told| *told == text), "{name}, point {nth}");
            assert_eq!(history.asked[id].heard.finished.len(), 2, "{name}, point {nth}");
        }
    }
    assert_eq!(struck, all_points(), "each must be struck in some run");
}

/// The names of all points in the sources.
fn all_points() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = fs::read_to_string(path).unwrap();
            let after_each = source.split("fault::point(\"").skip(1);
            names.extend(after_each.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
        }
    }
    names
}
