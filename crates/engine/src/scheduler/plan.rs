//! What a step computes: one row for each sequence in decode, and slices of prompts within the budget.

use std::time::Duration;

use super::{Load, Scheduler};
use crate::fault;
use crate::inbox::RequestId;
use crate::kv::{Hit, PageCopy, Span};
use crate::sequence::{Seat, SeqId, Sequence};

/// What the next step computes, and what planning it has changed.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    pub(crate) now: Duration,
    pub(crate) entries: Vec<Entry>,
    /// To be made before the step, in this order.
    pub(crate) copies: Vec<PageCopy>,
    /// Requests that left the queue, and what the prefix cache had for them.
    pub(crate) started: Vec<(RequestId, Hit)>,
    /// Requests that found more of their prompt, computed by others meanwhile: what the prefix cache had in all, and
    /// how many tokens that is more than before.
    pub(crate) caught_up: Vec<(RequestId, Hit, usize)>,
    /// Sequences that lost their pages, and how many tokens they had computed.
    pub(crate) preempted: Vec<(SeqId, usize)>,
}

/// One sequence's share of a step: positions `[past, past + rows)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) seq: SeqId,
    pub(crate) request: RequestId,
    pub(crate) choice: usize,
    pub(crate) past: usize,
    pub(crate) rows: usize,
    /// How many of the last rows need logits.
    pub(crate) logit_rows: usize,
    /// Whether the last row is the last known token: a token is to be drawn.
    pub(crate) draws: bool,
    /// Whether it computes a generated token, just drawn.
    pub(crate) is_decode: bool,
}

impl Plan {
    /// What the step has to do.
    pub(crate) fn load(&self) -> Load {
        let mut load = Load::default();
        for entry in &self.entries {
            if entry.rows == 1 && entry.draws {
                load.decode_rows += 1;
            } else {
                load.prefill_rows += entry.rows;
                load.prefill_positions += entry.rows * (2 * entry.past + entry.rows) / 2;
            }
        }
        load
    }

    fn clear(&mut self, now: Duration) {
        self.now = now;
        self.entries.clear();
        self.copies.clear();
        self.started.clear();
        self.caught_up.clear();
        self.preempted.clear();
    }

    fn logit_rows(&self) -> usize {
        self.entries.iter().map(|entry| entry.logit_rows).sum()
    }
}

impl Scheduler {
    /// Plans the next step. Empty only if no sequence can get on.
    pub(crate) fn plan(&mut self, now: Duration, plan: &mut Plan) {
        plan.clear(now);
        // Whoever sits may have to give way to one in line that is before it in order. It goes to the end of the line
        // then, so that after as many attempts as there are sequences each has been first.
        for _ in 0..=self.seqs.len() {
            let preempted = plan.preempted.len();
            self.seat(now, plan);
            self.plan_decodes(plan);
            self.plan_prefills(plan);
            if !plan.entries.is_empty() || plan.preempted.len() == preempted {
                return;
            }
        }
    }

    /// Plans the step behind `plan`, a step of decode alone, while its tokens are not known yet: one more row of each
    /// of its sequences. Says whether it can be: not if a sequence surely ends with `plan`, somebody waits for a seat,
    /// or pages would have to be taken from somebody. Copies that `ahead` wants are to be made in any case.
    pub(crate) fn plan_ahead(&mut self, plan: &Plan, ahead: &mut Plan) -> bool {
        ahead.clear(plan.now);
        if self.somebody_waits() {
            return false;
        }
        for entry in &plan.entries {
            let past = entry.past + 1;
            let seq = self.seqs.get_mut(&entry.seq).expect("a sequence in the step is live");
            let mut span = Span { from: past, step_end: past + 1, reserve_end: past + 1 };
            let chunk_end = (past + 1 + self.limits.decode_chunk_tokens).min(seq.max_len);
            let chunk = Span { reserve_end: chunk_end.max(past + 1), ..span };
            if !self.kv.covers(&seq.pages, span) && self.kv.has_room(&seq.pages, chunk) {
                span = chunk;
            }
            if past + 1 >= seq.max_len || !self.kv.has_room(&seq.pages, span) {
                return false;
            }
            self.kv.grow(&mut seq.pages, span, &mut ahead.copies).expect("there is room");
            fault::point("plan ahead");
            ahead.entries.push(Entry { past, ..*entry });
        }
        true
    }

    /// Whether the sequence is still where `entry`, which has one row, begins.
    pub(crate) fn awaits(&self, entry: &Entry) -> bool {
        self.seqs.get(&entry.seq).is_some_and(|seq| {
            let is_seated = matches!(seq.seat, Seat::Batch { .. });
            is_seated && seq.computed == entry.past && seq.tokens.len() == entry.past + 1
        })
    }

    /// One row for each seated sequence that has one token to compute.
    fn plan_decodes(&mut self, plan: &mut Plan) {
        let mut decoding = std::mem::take(&mut self.decoding);
        decoding.clear();
        decoding.extend(self.seated.iter().copied().filter(|id| self.seqs[id].gap() == 1));
        decoding.sort_by_key(|id| self.seqs[id].order);
        for &id in &decoding {
            self.plan_rows(id, 1, plan);
        }
        self.decoding = decoding;
    }

    /// Slices of prompts within the step's budget. Half of it is for the sequence first in order, the rest for those
    /// with the least left to compute: a long prompt does not hold up short ones, nor they it.
    fn plan_prefills(&mut self, plan: &mut Plan) {
        let mut prompts: Vec<SeqId> = self.seated.iter().copied().filter(|id| self.seqs[id].gap() > 1).collect();
        prompts.iter().for_each(|&id| self.catch_up(id, plan));
        let Some(first) = prompts.iter().copied().min_by_key(|id| self.seqs[id].order) else { return };
        let budget = self.prefill_budget(first, plan);
        let gap = |id: &SeqId| self.seqs[id].gap();
        let first_share = gap(&first).min(budget.div_ceil(2));
        let mut left = budget - first_share;
        let mut shares = vec![(first, first_share)];
        prompts.sort_by_key(|id| (gap(id), self.seqs[id].order));
        for id in prompts.into_iter().filter(|&id| id != first) {
            let share = gap(&id).min(left);
            shares.push((id, share));
            left -= share;
        }
        shares[0].1 += left.min(gap(&first) - first_share);
        for (id, share) in shares {
            self.plan_rows(id, share, plan);
        }
    }

    /// Takes over what others have computed of the same prompt.
    fn catch_up(&mut self, id: SeqId, plan: &mut Plan) {
        let seq = self.seqs.get_mut(&id).expect("a seated sequence is live");
        if let Some(hit) = self.kv.catch_up(&mut seq.pages, &seq.tokens, seq.computed) {
            fault::point("catch up");
            let more = hit.tokens - seq.computed;
            seq.computed = hit.tokens;
            // Of what is computed for the second time nobody is told.
            if !seq.was_preempted {
                plan.caught_up.push((seq.request, hit, more));
            }
        }
    }

    fn prefill_budget(&self, first: SeqId, plan: &Plan) -> usize {
        let decode_rows = plan.entries.len();
        let limits = &self.limits;
        let time = if decode_rows > 0 { limits.step_budget } else { limits.prefill_step_budget };
        let in_time = self.pace.prefill_tokens(decode_rows, self.seqs[&first].computed, time);
        in_time.min(limits.prefill_chunk_tokens).min(limits.max_rows - decode_rows)
    }

    /// Plans up to `rows` rows of a seated sequence. Takes the pages of sequences that come after it if need be; gives
    /// up its own if that does not help.
    fn plan_rows(&mut self, id: SeqId, rows: usize, plan: &mut Plan) {
        let seq = &self.seqs[&id];
        if !matches!(seq.seat, Seat::Batch { .. }) {
            return; // It has lost its pages to one that was planned before it.
        }
        let (past, known, order) = (seq.computed, seq.tokens.len(), seq.order);
        let logit_rows_left = self.limits.max_logit_rows - plan.logit_rows();
        let mut rows = rows_within(seq, rows.min(self.kv.max_step_tokens()), logit_rows_left);
        if rows == 0 {
            return;
        }
        let span_of = |rows| Span { from: past, step_end: past + rows, reserve_end: past + rows };
        let mut span = span_of(rows);
        let chunk = Span { reserve_end: (known + self.limits.decode_chunk_tokens).min(seq.max_len), ..span };
        if !self.kv.covers(&seq.pages, span) && self.kv.has_room(&seq.pages, chunk) {
            span = chunk;
        }
        while !self.make_room(id, span, |victim| victim.paused || victim.order > order, plan) {
            rows /= 2;
            if rows == 0 {
                self.preempt(id, plan);
                return;
            }
            span = span_of(rows);
        }
        let end = past + rows;
        let seq = self.seqs.get_mut(&id).expect("a seated sequence is live");
        self.kv.grow(&mut seq.pages, span, &mut plan.copies).expect("room was made");
        fault::point("plan rows");
        let (logit_rows, draws) = (logit_rows(seq, rows), end == known);
        let is_decode = draws && rows == 1 && past >= seq.prompt_len;
        let (request, choice) = (seq.request, seq.choice);
        plan.entries.push(Entry { seq: id, request, choice, past, rows, logit_rows, draws, is_decode });
    }
}

/// How many of the sequence's next `rows` rows need logits. They are the last ones.
fn logit_rows(seq: &Sequence, rows: usize) -> usize {
    let end = seq.computed + rows;
    if seq.prompt_logits_from < seq.prompt_len {
        end.saturating_sub(seq.prompt_logits_from.max(seq.computed))
    } else {
        usize::from(end == seq.tokens.len())
    }
}

/// Most rows, up to `rows`, that need no more than `max` logit rows.
fn rows_within(seq: &Sequence, rows: usize, max: usize) -> usize {
    rows - logit_rows(seq, rows).saturating_sub(max)
}
