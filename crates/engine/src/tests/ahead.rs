//! Steps that are started before the results of those before them are seen.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A world in which steps run ahead, and a count of steps that were in flight together with another.
fn world(config: EngineConfig) -> (World, Arc<AtomicUsize>) {
    let together = Arc::new(AtomicUsize::new(0));
    let (count, mut in_flight) = (Arc::clone(&together), 0usize);
    let hook = move |call| {
        match call {
            Call::Step { .. } => {
                in_flight += 1;
                count.fetch_add(usize::from(in_flight > 1), Ordering::Relaxed);
            }
            Call::Finish => in_flight -= 1,
            _ => {}
        }
        Ok(())
    };
    let setup = Setup { ahead: true, config, hook: Box::new(hook), ..Setup::default() };
    (setup.build(), together)
}

fn config() -> EngineConfig {
    EngineConfig { event_buffer: 4096, ..EngineConfig::default() }
}

#[test]
fn every_step_of_decode_but_the_first_is_started_ahead() {
    let (mut world, together) = world(config());
    let text = prompt(1, 30);
    let mut events = world.submit(greedy(text.clone(), 20));
    world.settle();
    assert_eq!(Heard::of(&mut events).tokens[&0], world.model.greedy(&text, 20));
    // The prompt's step draws the first token, and the step of the second waits for it.
    assert_eq!(together.load(Ordering::Relaxed), 18);
    world.assert_idle();
}

#[test]
fn a_text_that_turns_out_to_have_ended_leaves_its_neighbours_alone() {
    let text = prompt(1, 30);
    let words = FakeModel::new(VOCAB).greedy(&text, 30);
    // A token that comes for the first time in the middle.
    let end = (8..20).find(|&at| !words[..at].contains(&words[at])).expect("a new word");
    let (mut world, together) = world(EngineConfig { eos_tokens: vec![words[end]], ..config() });
    let other = prompt(2, 30);
    let mut streams = [text, other.clone()].map(|text| world.submit(greedy(text, 30)));
    world.settle();
    let heard = streams.each_mut().map(Heard::of);
    assert_eq!(heard[0].tokens[&0], words[..=end]);
    assert_eq!(heard[0].finished[&0].reason, FinishReason::EndOfText(words[end]));
    let told = &heard[1].tokens[&0];
    assert!(told.len() > end && world.model.greedy(&other, 30).starts_with(told));
    assert!(together.load(Ordering::Relaxed) > end);
    world.assert_no_failures();
    world.assert_idle();
}

#[test]
fn a_cancelled_request_gets_nothing_of_the_step_that_was_started_ahead() {
    let (mut world, _) = world(config());
    let mut kept = world.submit(greedy(prompt(1, 30), 40));
    let dropped = world.submit(greedy(prompt(2, 30), 40));
    (0..6).for_each(|_| world.round());
    drop(dropped);
    world.round();
    assert_eq!(world.stats().running_requests, 1);
    world.settle();
    assert_eq!(Heard::of(&mut kept).tokens[&0], world.model.greedy(&prompt(1, 30), 40));
    world.assert_idle();
}

#[test]
fn a_newcomer_waits_for_no_more_than_the_steps_in_flight() {
    let (mut world, _) = world(config());
    let _running = world.submit(greedy(prompt(1, 30), 100));
    (0..6).for_each(|_| world.round());
    let mut newcomer = world.submit(greedy(prompt(2, 30), 5));
    // The step that was started ahead, and then its own.
    (0..2).for_each(|_| world.round());
    assert_eq!(Heard::of(&mut newcomer).tokens[&0].len(), 1);
}

#[test]
fn sampled_rows_are_waited_for() {
    let (mut world, together) = world(config());
    let sampling = SamplingDraft { temperature: 0.8, seed: Some(7), ..SamplingDraft::default() };
    let _events = world.submit(Draft { sampling, ..greedy(prompt(1, 30), 20) });
    world.settle();
    assert_eq!(together.load(Ordering::Relaxed), 0);
    world.assert_no_failures();
}
