//! How long steps take, learned from the steps just run: turns a time budget into a number of prompt tokens.
//!
//! A step's time is taken as that of a decode step with as many sequences, plus so much for each prompt token. The cost
//! of a prompt token grows with its depth (attention), so it is kept by depth.

use std::time::Duration;

/// Weight of the newest step.
const WEIGHT: f64 = 0.3;
/// Prompt tokens in a step while nothing is known of their cost.
const FIRST_SLICE: usize = 64;
/// Fewest prompt tokens in a step, however slow: the prompt must get on. No more, for the sake of those who stream
/// meanwhile.
const LEAST_SLICE: usize = 8;
/// Slices are multiples of this where they can be: kernels take rows in groups.
const SLICE_STEP: usize = 8;
/// A mixed step may take this many times as long as a decode step alone, whatever the budget.
const DECODE_STRETCH: f64 = 2.5;
/// Depths below this count as one; from there on each doubling has its own cost.
const SHALLOW_TOKENS: usize = 256;
const DEPTHS: usize = 16;

/// What a step had to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) decode_rows: usize,
    pub(crate) prefill_rows: usize,
    /// Positions of the prefill rows, summed.
    pub(crate) prefill_positions: usize,
}

/// What steps cost of late.
#[derive(Debug)]
pub(crate) struct Pace {
    /// Seconds of a step that decodes `index` sequences and does nothing else.
    decode: Vec<Option<f64>>,
    /// Seconds for one prompt token, by depth.
    prefill: [Option<f64>; DEPTHS],
}

impl Pace {
    pub(crate) fn new(max_batch: usize) -> Self {
        Self { decode: vec![None; max_batch + 1], prefill: [None; DEPTHS] }
    }

    /// Learns from a step.
    pub(crate) fn observe(&mut self, load: Load, time: Duration) {
        let seconds = time.as_secs_f64();
        if load.prefill_rows == 0 {
            if let Some(known) = self.decode.get_mut(load.decode_rows) {
                learn(known, seconds);
            }
        } else if load.prefill_rows >= SLICE_STEP {
            let share = (seconds - self.decode_seconds(load.decode_rows)).max(0.0);
            let depth = depth_of(load.prefill_positions / load.prefill_rows);
            learn(&mut self.prefill[depth], share / load.prefill_rows as f64);
        }
    }

    /// How many prompt tokens at about `position` fit into a step that decodes `decode_rows` sequences as well.
    pub(crate) fn prefill_tokens(&self, decode_rows: usize, position: usize, budget: Duration) -> usize {
        let decode = self.decode_seconds(decode_rows);
        let budget = budget.as_secs_f64().max(decode * DECODE_STRETCH);
        let tokens = match self.token_seconds(position) {
            None => FIRST_SLICE,
            Some(0.0) => usize::MAX,
            Some(seconds) => ((budget - decode) / seconds) as usize,
        };
        (tokens / SLICE_STEP * SLICE_STEP).max(LEAST_SLICE)
    }

    fn decode_seconds(&self, rows: usize) -> f64 {
        if rows == 0 {
            return 0.0;
        }
        let nearest = |(count, seconds): (usize, &Option<f64>)| Some((count.abs_diff(rows), (*seconds)?));
        let known = self.decode.iter().enumerate().filter_map(nearest);
        known.min_by_key(|&(distance, _)| distance).map_or(0.0, |(_, seconds)| seconds)
    }

    fn token_seconds(&self, position: usize) -> Option<f64> {
        let depth = depth_of(position);
        let nearest = |(at, seconds): (usize, &Option<f64>)| Some((at.abs_diff(depth), (*seconds)?));
        let known = self.prefill.iter().enumerate().filter_map(nearest);
        known.min_by_key(|&(distance, _)| distance).map(|(_, seconds)| seconds)
    }
}

fn learn(known: &mut Option<f64>, seconds: f64) {
    *known = Some(known.map_or(seconds, |average| average + WEIGHT * (seconds - average)));
}

fn depth_of(position: usize) -> usize {
    ((position / SHALLOW_TOKENS + 1).ilog2() as usize).min(DEPTHS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_millis(70);

    /// A machine on which a step takes 10 ms, 1 ms a decode row, and `prompt_us` a prompt token.
    fn step(pace: &mut Pace, decode_rows: usize, prefill_rows: usize, prompt_us: u64) -> Duration {
        let micros = 10_000 + 1000 * decode_rows as u64 + prompt_us * prefill_rows as u64;
        let time = Duration::from_micros(micros);
        pace.observe(Load { decode_rows, prefill_rows, prefill_positions: 0 }, time);
        time
    }

    #[test]
    fn steps_come_to_fit_the_budget() {
        let mut pace = Pace::new(8);
        step(&mut pace, 4, 0, 0);
        for round in 0..20 {
            let tokens = pace.prefill_tokens(4, 0, BUDGET);
            let time = step(&mut pace, 4, tokens, 500);
            assert!(round == 0 || time <= BUDGET, "round {round}: {tokens} tokens took {time:?}");
            assert!(round == 0 || time >= BUDGET * 9 / 10, "round {round}: {tokens} tokens took only {time:?}");
        }
    }

    #[test]
    fn a_slower_machine_is_learned() {
        let mut pace = Pace::new(8);
        for _ in 0..10 {
            let tokens = pace.prefill_tokens(0, 0, BUDGET);
            step(&mut pace, 0, tokens, 500);
        }
        let before = pace.prefill_tokens(0, 0, BUDGET);
        for _ in 0..10 {
            let tokens = pace.prefill_tokens(0, 0, BUDGET);
            step(&mut pace, 0, tokens, 2000);
        }
        assert!(pace.prefill_tokens(0, 0, BUDGET) * 3 < before);
    }

    #[test]
    fn slow_decoding_stretches_the_budget_and_a_prompt_always_gets_on() {
        let mut pace = Pace::new(8);
        pace.observe(Load { decode_rows: 8, ..Load::default() }, Duration::from_millis(200));
        pace.observe(Load { prefill_rows: 100, ..Load::default() }, Duration::from_millis(200));
        assert_eq!(pace.prefill_tokens(8, 0, BUDGET), 144, "(2.5 - 1) * 200 ms at 2 ms a token, in steps of 8");
        pace.observe(Load { prefill_rows: 10, prefill_positions: 0, decode_rows: 0 }, Duration::from_secs(100));
        assert_eq!(pace.prefill_tokens(8, 0, BUDGET), LEAST_SLICE);
    }

    #[test]
    fn deep_tokens_have_their_own_cost() {
        let mut pace = Pace::new(8);
        let load = |position: usize| Load { decode_rows: 0, prefill_rows: 100, prefill_positions: 100 * position };
        pace.observe(load(0), Duration::from_millis(100));
        pace.observe(load(8000), Duration::from_millis(400));
        assert_eq!(pace.prefill_tokens(0, 0, BUDGET), 64);
        assert_eq!(pace.prefill_tokens(0, 7000, BUDGET), 16);
        assert_eq!(pace.prefill_tokens(0, 200, BUDGET), 64);
    }
}
