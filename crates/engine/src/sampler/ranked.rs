//! The likeliest tokens in order, and what is known of the rest: truncation and the draw.
//!
//! All truncations keep a contiguous range of the tokens ordered by logit, and the draw walks that order until the sum
//! of the weights exceeds a random share of the total. So the order's head alone decides, if it can be *proved* that
//! the tail would not change the outcome. Where it cannot, [`Ranked::choose`] says so and the caller comes back with a
//! longer head. The outcome is the same for any length of the head.

use std::cmp::Ordering;
use std::ops::Range;

use tensor::{Candidate, TopK};

use super::edits::Edits;
use super::params::{Sampling, Xtc};

/// Doubt about a backend's `log_sum_exp`, as a share of the sum: it is an f32 sum over a whole vocabulary.
const SUM_DOUBT: f64 = 1e-4;
/// Doubt about a sum that we make ourselves in f64.
const OWN_SUM_DOUBT: f64 = 1e-11;

/// Tokens by logit, greatest first (equal ones by id), and the weight of those that are not listed.
#[derive(Debug, Default)]
pub(crate) struct Ranked {
    entries: Vec<Entry>,
    kept: Range<usize>,
    tail: Tail,
    /// Logits of listed tokens that edits have sunk among the unlisted ones.
    sunk: Vec<f32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    token: u32,
    logit: f32,
    /// (logit - greatest logit) / temperature.
    x: f64,
    /// exp(x).
    weight: f64,
}

/// Bounds of the unlisted tokens' weights.
#[derive(Clone, Copy, Debug, Default)]
struct Tail {
    least: f64,
    most: f64,
    /// Sum of weight * x, where it is known.
    weighted_x: Option<f64>,
}

/// The random numbers of one draw, in [0, 1).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Randoms {
    pub(crate) token: f64,
    pub(crate) xtc: f64,
}

/// A row has a logit that is NaN or +infinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotFinite;

impl Ranked {
    /// Ranks the greatest logits of a row of `vocab`, edited so that none rises. Empty if no listed token is sure to
    /// stay above the unlisted ones.
    pub(crate) fn rank_top(&mut self, top: &TopK, vocab: usize, edits: &Edits<'_>, temperature: f64) {
        let listed = &top.candidates;
        let unlisted = vocab - listed.len();
        let floor = if unlisted == 0 { f32::NEG_INFINITY } else { listed.last().map_or(f32::INFINITY, |c| c.logit) };
        self.entries.clear();
        self.sunk.clear();
        for &Candidate { token, logit } in listed {
            let edited = edits.apply(token, logit);
            // Equal to the floor is not enough once edited: an unlisted token with that logit might have a lower id.
            if edited > floor || (edited == floor && edited == logit && edited > f32::NEG_INFINITY) {
                self.entries.push(Entry { token, logit: edited, x: 0.0, weight: 0.0 });
            } else if edited > f32::NEG_INFINITY {
                self.sunk.push(edited);
            }
        }
        if !edits.is_empty() {
            self.sort();
        }
        self.weigh(temperature);
        let Some(first) = self.entries.first() else { return };
        let greatest = f64::from(first.logit);
        let sunk: f64 = self.sunk.iter().map(|&logit| ((f64::from(logit) - greatest) / temperature).exp()).sum();
        let (least, most) = unlisted_weight(top, unlisted, temperature, greatest);
        let least = if edits.is_empty() { least } else { 0.0 };
        self.tail = Tail { least: least + sunk, most: most + sunk, weighted_x: None };
    }

    /// Ranks the `head` greatest of a whole row, -infinity left out. Needs one pass over the row and a sort of the
    /// head.
    pub(crate) fn rank_row(&mut self, row: &[f32], head: usize, temperature: f64) -> Result<(), NotFinite> {
        self.entries.clear();
        let mut floor = f32::NEG_INFINITY;
        for (&logit, token) in row.iter().zip(0..) {
            if logit.is_nan() || logit == f32::INFINITY {
                return Err(NotFinite);
            }
            if logit > floor || (logit == floor && logit > f32::NEG_INFINITY) {
                self.entries.push(Entry { token, logit, x: 0.0, weight: 0.0 });
                if self.entries.len() >= 2 * head.max(16) {
                    self.entries.select_nth_unstable_by(head - 1, by_rank);
                    self.entries.truncate(head);
                    floor = self.entries[head - 1].logit;
                }
            }
        }
        self.sort();
        self.entries.truncate(head);
        self.weigh(temperature);
        let possible = row.iter().filter(|&&logit| logit > f32::NEG_INFINITY).count();
        if possible > self.entries.len() {
            self.tail = self.rest_of(row, temperature);
        }
        Ok(())
    }

    /// The likeliest token.
    pub(crate) fn first(&self) -> Option<u32> {
        self.entries.first().map(|entry| entry.token)
    }

    /// Truncates and draws; `None` if that depends on tokens that are not listed. At least one is.
    pub(crate) fn choose(&mut self, sampling: &Sampling, randoms: Randoms) -> Option<u32> {
        if let Some(k) = sampling.top_k {
            self.keep_top(k)?;
        }
        if let Some(p) = sampling.typical_p {
            self.keep_typical(p)?;
        }
        if let Some(p) = sampling.top_p {
            let last = self.reach(|total| p * total, |sum, goal| sum >= goal)?;
            self.keep_until(last + 1);
        }
        if let Some(p) = sampling.min_p {
            self.keep_likely(p)?;
        }
        if let Some(xtc) = &sampling.xtc {
            self.exclude_top(xtc, randoms.xtc)?;
        }
        let drawn = self.reach(|total| randoms.token * total, |sum, goal| sum > goal)?;
        Some(self.entries[drawn].token)
    }

    fn keep_top(&mut self, k: usize) -> Option<()> {
        if k <= self.kept.len() {
            self.keep_until(self.kept.start + k);
        } else if !self.is_complete() {
            return None;
        }
        Some(())
    }

    /// Keeps the tokens whose surprise is nearest to the expected one. They are neighbours in the order.
    fn keep_typical(&mut self, p: f64) -> Option<()> {
        let kept = &self.entries[self.kept.clone()];
        let head_weighted: f64 = kept.iter().map(|entry| entry.weight * entry.x).sum();
        let total = self.total(self.tail.most);
        let weighted = head_weighted + if self.is_complete() { 0.0 } else { self.tail.weighted_x? };
        // Surprise = ln(total) - x; expected surprise = ln(total) - weighted / total.
        let expected_x = weighted / total;
        let distance = |at: usize| (self.entries[at].x - expected_x).abs();
        let nearest = self.kept.clone().min_by(|&a, &b| distance(a).total_cmp(&distance(b)))?;
        let (mut start, mut end) = (nearest, nearest + 1);
        let mut sum = self.entries[nearest].weight;
        while sum < p * total {
            let left = (start > self.kept.start).then(|| distance(start - 1));
            let right = (end < self.kept.end).then(|| distance(end));
            match (left, right) {
                (_, None) if !self.is_complete() => return None,
                (None, None) => break,
                (Some(left), right) if right.is_none_or(|right| left <= right) => {
                    start -= 1;
                    sum += self.entries[start].weight;
                }
                _ => {
                    sum += self.entries[end].weight;
                    end += 1;
                }
            }
        }
        if end == self.kept.end && nearest + 1 == end && !self.is_complete() {
            return None;
        }
        self.kept.start = start;
        self.keep_until(end);
        Some(())
    }

    fn keep_likely(&mut self, p: f64) -> Option<()> {
        let least = p * self.entries[self.kept.start].weight;
        match self.kept.clone().find(|&at| self.entries[at].weight < least) {
            Some(end) => self.keep_until(end),
            None if self.is_complete() => {}
            None => return None,
        }
        Some(())
    }

    fn exclude_top(&mut self, xtc: &Xtc, random: f64) -> Option<()> {
        if random >= xtc.probability {
            return Some(());
        }
        let above = |tail: f64| {
            let least = xtc.threshold * self.total(tail);
            self.kept.clone().take_while(|&at| self.entries[at].weight >= least).count()
        };
        let (many, few) = (above(self.tail.least), above(self.tail.most));
        let may_reach_tail = many == self.kept.len() && !self.is_complete();
        if many != few || may_reach_tail {
            return None;
        }
        self.kept.start += many.saturating_sub(1);
        Some(())
    }

    /// Where the running sum of weights reaches a goal that depends on the total; `None` if the tail leaves that open.
    fn reach(&self, goal: impl Fn(f64) -> f64, reached: impl Fn(f64, f64) -> bool) -> Option<usize> {
        let find = |tail: f64| {
            let goal = goal(self.total(tail));
            let mut sum = 0.0;
            self.kept.clone().find(|&at| {
                sum += self.entries[at].weight;
                reached(sum, goal)
            })
        };
        if self.is_complete() {
            // Rounding may leave the sum of all a hair below the goal.
            return Some(find(0.0).unwrap_or(self.kept.end - 1));
        }
        let (least, most) = (find(self.tail.least)?, find(self.tail.most)?);
        (least == most).then_some(least)
    }

    /// Nothing after `end` is kept.
    fn keep_until(&mut self, end: usize) {
        self.kept.end = end;
        self.tail = Tail { weighted_x: Some(0.0), ..Tail::default() };
    }

    fn is_complete(&self) -> bool {
        self.tail.most == 0.0
    }

    fn total(&self, tail: f64) -> f64 {
        self.entries[self.kept.clone()].iter().map(|entry| entry.weight).sum::<f64>() + tail
    }

    fn sort(&mut self) {
        self.entries.sort_unstable_by(by_rank);
    }

    /// Fills in weights; all are kept, and nothing is known to be missing.
    fn weigh(&mut self, temperature: f64) {
        let greatest = self.entries.first().map_or(0.0, |first| f64::from(first.logit));
        for entry in &mut self.entries {
            entry.x = (f64::from(entry.logit) - greatest) / temperature;
            entry.weight = entry.x.exp();
        }
        self.kept = 0..self.entries.len();
        self.tail = Tail { weighted_x: Some(0.0), ..Tail::default() };
    }

    /// The weight of the row's entries that are not listed.
    fn rest_of(&self, row: &[f32], temperature: f64) -> Tail {
        let greatest = f64::from(self.entries[0].logit);
        let (mut sum, mut weighted) = (0.0, 0.0);
        for &logit in row.iter().filter(|&&logit| logit > f32::NEG_INFINITY) {
            let x = (f64::from(logit) - greatest) / temperature;
            let weight = x.exp();
            sum += weight;
            weighted += weight * x;
        }
        let listed_weighted: f64 = self.entries.iter().map(|entry| entry.weight * entry.x).sum();
        let rest = sum - self.total(0.0);
        let doubt = OWN_SUM_DOUBT * sum;
        Tail {
            least: (rest - doubt).max(0.0),
            most: rest.max(0.0) + doubt,
            weighted_x: Some(weighted - listed_weighted),
        }
    }
}

fn by_rank(a: &Entry, b: &Entry) -> Ordering {
    b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token))
}

/// Bounds of the sum of exp((logit - greatest) / temperature) over the `unlisted` tokens of a row, from what `top`
/// tells: their sum at temperature 1, and that none exceeds the last listed one.
///
/// With y = exp(logit - top logit) and a = 1 / temperature, the sum of y^a is bounded by convexity: for a >= 1 it is
/// greatest when few tokens have all the weight and least when all have the same, and the other way round for a < 1.
fn unlisted_weight(top: &TopK, unlisted: usize, temperature: f64, greatest: f64) -> (f64, f64) {
    if unlisted == 0 {
        return (0.0, 0.0);
    }
    let first = f64::from(top.candidates[0].logit);
    let last = f64::from(top.candidates[top.candidates.len() - 1].logit) - first;
    let all = (f64::from(top.log_sum_exp) - first).exp();
    let listed: f64 = top.candidates.iter().map(|candidate| (f64::from(candidate.logit) - first).exp()).sum();
    let doubt = SUM_DOUBT * all;
    let (least, most) = ((all - listed - doubt).max(0.0), (all - listed).max(0.0) + doubt);
    let (count, a) = (unlisted as f64, 1.0 / temperature);
    let spread = |sum: f64| count * (sum / count).powf(a);
    let packed = |sum: f64| sum * ((a - 1.0) * last).exp();
    let (least, most) = match (least == 0.0, a >= 1.0) {
        (true, true) => (0.0, packed(most)),
        (true, false) => (0.0, spread(most)),
        (false, true) => (spread(least), packed(most)),
        (false, false) => (packed(least), spread(most)),
    };
    let most = most.min(count * (a * last).exp());
    // From the row's greatest logit to the greatest one left after edits.
    let scale = ((first - greatest) * a).exp();
    (least.min(most) * scale, most * scale)
}
