//! Who is in the batch.
//!
//! The batch has [`SchedulerLimits::max_batch_size`] seats. A sequence keeps its seat until it is over, pauses, loses
//! its pages, or has decoded a chunk of tokens while others wait. Free seats go, in turn, to admitted sequences in line
//! and to the queue. A sequence sits down only if pages can be had for all its tokens and a chunk more.
//!
//! [`SchedulerLimits::max_batch_size`]: super::SchedulerLimits

use std::time::Duration;

use super::queue::Waiting;
use super::{Plan, Scheduler};
use crate::cache_end::CacheEnd;
use crate::fault;
use crate::kv::{Hit, Span};
use crate::sequence::{Seat, SeqId, Sequence};

/// Who may sit down next.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    seq: SeqId,
    from_queue: bool,
}

impl Scheduler {
    /// Gives out the seats of the next step.
    pub(super) fn seat(&mut self, now: Duration, plan: &mut Plan) {
        let fresh_batch = self.admitted.is_empty();
        self.rotate(now);
        let mut passed_over = Vec::new();
        while self.seated.len() < self.limits.max_batch_size {
            let Some(candidate) = self.next_candidate(now, fresh_batch, &passed_over) else { break };
            match self.sit_down(candidate.seq, plan) {
                Some(hit) if candidate.from_queue => self.admit(candidate.seq, hit, plan),
                Some(_) => {}
                None => passed_over.push(candidate.seq),
            }
        }
    }

    /// Whether a request may leave the queue. Without continuous batching only together with a whole new batch.
    pub(super) fn may_admit(&self, fresh_batch: bool) -> bool {
        self.admitted.len() < self.limits.max_running_requests
            && (self.limits.continuous_batching || fresh_batch)
            && (self.is_open || self.admitted.is_empty())
    }

    /// Whether somebody would sit down if there were a seat.
    pub(super) fn somebody_waits(&self) -> bool {
        (self.queue.len() > 0 && self.may_admit(self.admitted.is_empty()))
            || self.seqs.values().any(Sequence::is_in_line)
    }

    /// Frees seats whose sequences have had their chunk, if others wait for them.
    fn rotate(&mut self, now: Duration) {
        let in_line = self.seqs.values().filter(|seq| seq.is_in_line()).count();
        let admissible = if self.may_admit(self.admitted.is_empty()) { self.queue.len() } else { 0 };
        let free = self.limits.max_batch_size - self.seated.len();
        for _ in free..in_line + admissible {
            let decoded = |id: &SeqId| match self.seqs[id].seat {
                Seat::Batch { decoded } => decoded,
                Seat::Queue | Seat::Line { .. } => 0,
            };
            let Some(longest) = self.seated.iter().copied().max_by_key(decoded) else { return };
            if decoded(&longest) < self.limits.decode_chunk_tokens {
                return;
            }
            self.stand_up(longest, now);
        }
    }

    /// Who sits down next. A sequence that was passed over for want of pages is not passed by newcomers: until it sits,
    /// only sequences that hold pages already go on.
    fn next_candidate(&self, now: Duration, fresh_batch: bool, passed_over: &[SeqId]) -> Option<Candidate> {
        let short_of_pages = !passed_over.is_empty() || (!self.is_open && !self.seated.is_empty());
        let in_line = self.seqs.iter().filter(|(id, seq)| {
            seq.is_in_line() && !passed_over.contains(id) && (!short_of_pages || seq.holds_pages())
        });
        let since = |seq: &Sequence| match seq.seat {
            Seat::Line { since } => since,
            Seat::Queue | Seat::Batch { .. } => Duration::ZERO,
        };
        let aged = |seq: &Sequence| self.queue.aged(seq.order.priority, since(seq), now);
        let best = in_line.clone().map(|(_, seq)| i64::from(seq.order.priority)).min().unwrap_or(0);
        let line = in_line.min_by_key(|(_, seq)| (aged(seq).max(best), since(seq), seq.order));
        let precedes = |waiting: &Waiting, seq: &Sequence| {
            // Waiting lifts neither above what the other was to begin with.
            let best = i64::from(seq.order.priority.min(waiting.order.priority));
            let of_queue = self.queue.aged(waiting.order.priority, waiting.since, now).max(best);
            (of_queue, waiting.since) < (aged(seq).max(best), since(seq))
        };
        let queued = if short_of_pages || !self.may_admit(fresh_batch) { None } else { self.queue.next(now) };
        match (line, queued) {
            (None, None) => None,
            (None, Some(waiting)) => Some(Candidate { seq: waiting.seq, from_queue: true }),
            // Who has lost its pages was served before whoever is in the queue.
            (Some((_, seq)), Some(waiting)) if seq.holds_pages() && precedes(&waiting, seq) => {
                Some(Candidate { seq: waiting.seq, from_queue: true })
            }
            (Some((&seq, _)), _) => Some(Candidate { seq, from_queue: false }),
        }
    }

    /// Seats a sequence if there are pages for it; returns what the prefix cache had.
    fn sit_down(&mut self, id: SeqId, plan: &mut Plan) -> Option<Hit> {
        let seq = self.seqs.get_mut(&id).expect("a candidate is live");
        let had_pages = seq.holds_pages();
        let mut hit = Hit { tokens: seq.computed, end: CacheEnd::PageBoundary { index: seq.computed } };
        if !had_pages {
            hit = self.kv.look_up(&mut seq.pages, &seq.tokens);
            fault::point("look up");
            seq.computed = hit.tokens;
        }
        let known = seq.tokens.len();
        let chunk_end = (known + self.limits.decode_chunk_tokens).min(seq.max_len);
        let mut span = Span { from: seq.computed, step_end: seq.computed + 1, reserve_end: chunk_end };
        // A newcomer waits until there is room to get somewhere, unless there is nobody to wait for.
        let takes_less = had_pages || self.seated.is_empty();
        if takes_less && !self.kv.has_room(&seq.pages, span) {
            span.reserve_end = known;
        }
        // With nobody in the batch, somebody must get on: the first in order takes what the others hold.
        let (order, is_first) = (seq.order, self.seated.is_empty());
        let has_room = self.make_room(id, span, |victim| victim.paused || (is_first && victim.order > order), plan);
        let seq = self.seqs.get_mut(&id).expect("a candidate is live");
        if has_room {
            self.kv.grow(&mut seq.pages, span, &mut plan.copies).expect("room was made");
            fault::point("sit down");
            seq.seat = Seat::Batch { decoded: 0 };
            self.seated.push(id);
            return Some(hit);
        }
        if !had_pages {
            self.kv.release(&mut seq.pages);
            seq.computed = 0;
        }
        None
    }

    /// A sequence has left the queue.
    fn admit(&mut self, id: SeqId, hit: Hit, plan: &mut Plan) {
        self.queue.remove(id);
        fault::point("admit");
        let request = self.seqs[&id].request;
        *self.admitted.entry(request).or_default() += 1;
        plan.started.push((request, hit));
    }

    /// Preempts, last in order first, sequences that `may_take` allows until there is room for `span`; never one that
    /// the plan has an entry for. Says whether there is.
    pub(super) fn make_room(
        &mut self,
        id: SeqId,
        span: Span,
        may_take: impl Fn(&Sequence) -> bool,
        plan: &mut Plan,
    ) -> bool {
        while !self.kv.has_room(&self.seqs[&id].pages, span) {
            let is_planned = |seq: &SeqId| plan.entries.iter().any(|entry| entry.seq == *seq);
            let victims = self
                .seqs
                .iter()
                .filter(|(other, seq)| **other != id && seq.holds_pages() && may_take(seq) && !is_planned(other));
            let last = victims.max_by_key(|(_, seq)| (seq.paused, seq.order));
            let Some((&victim, _)) = last else { return false };
            self.preempt(victim, plan);
        }
        true
    }

    /// Takes a sequence's pages; it will be computed again.
    pub(super) fn preempt(&mut self, id: SeqId, plan: &mut Plan) {
        plan.preempted.push((id, self.seqs[&id].computed));
        self.take_pages(id, plan.now);
    }

    /// The sequence has computed nothing any more.
    pub(super) fn take_pages(&mut self, id: SeqId, now: Duration) {
        let seq = self.seqs.get_mut(&id).expect("a victim is live");
        self.kv.release(&mut seq.pages);
        fault::point("take pages");
        seq.computed = 0;
        seq.was_preempted = true;
        if matches!(seq.seat, Seat::Batch { .. }) {
            self.stand_up(id, now);
        }
    }

    fn stand_up(&mut self, id: SeqId, now: Duration) {
        self.seqs.get_mut(&id).expect("a seated sequence is live").seat = Seat::Line { since: now };
        self.seated.retain(|&seated| seated != id);
    }
}
