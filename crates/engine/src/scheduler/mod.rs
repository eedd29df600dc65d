//! Decides what the next step computes. Pure: it sees ids and counts, and the time as a number.
//!
//! A step's plan is made in three moves: seats in the batch are given out ([`seats`]), sequences in decode get one row
//! each, and what is left of the step's budget goes to prompts ([`plan`]). When pages run out, the sequence that comes
//! last in [`Order`] loses its pages and is computed again later; being first in that order is what guarantees
//! progress.
//!
//! Start with [`Scheduler::plan`]. After the step, [`Scheduler::computed`] and [`Scheduler::push_token`] move sequences
//! on.

mod anew;
mod pace;
mod plan;
mod queue;
mod seats;

use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) use self::anew::Standing;
pub(crate) use self::pace::{Load, Pace};
pub(crate) use self::plan::{Entry, Plan};
use self::queue::{Queue, Waiting};
use crate::fault;
use crate::inbox::RequestId;
use crate::kv::Kv;
use crate::request::{CachePolicy, Tenant};
use crate::sequence::{Order, Seat, SeqId, Sequence};

/// Bounds of a step and of what is admitted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SchedulerLimits {
    pub(crate) max_batch_size: usize,
    pub(crate) max_running_requests: usize,
    pub(crate) continuous_batching: bool,
    pub(crate) prefill_chunk_tokens: usize,
    pub(crate) decode_chunk_tokens: usize,
    pub(crate) step_budget: Duration,
    pub(crate) prefill_step_budget: Duration,
    pub(crate) aging: Duration,
    /// Rows that the runner computes in a step.
    pub(crate) max_rows: usize,
    /// Logit rows that the runner computes in a step.
    pub(crate) max_logit_rows: usize,
}

/// Decides what the next step computes.
#[derive(Debug)]
pub(crate) struct Scheduler {
    limits: SchedulerLimits,
    kv: Kv,
    pace: Pace,
    seqs: BTreeMap<SeqId, Sequence>,
    queue: Queue,
    /// Sequences in the batch.
    seated: Vec<SeqId>,
    /// Sequences of each admitted request.
    admitted: BTreeMap<RequestId, usize>,
    next_id: u64,
    /// Whether requests may leave the queue while others run.
    is_open: bool,
    /// Memory for planning.
    decoding: Vec<SeqId>,
}

/// A prompt to be continued.
#[derive(Debug)]
pub(crate) struct NewSequence {
    pub(crate) request: RequestId,
    pub(crate) prompt: Vec<u32>,
    /// Prompt and output together are never longer.
    pub(crate) max_len: usize,
    pub(crate) priority: i32,
    pub(crate) tenant: Tenant,
    pub(crate) cache: CachePolicy,
    /// Whether the logits of prompt positions are wanted.
    pub(crate) prompt_logits: bool,
}

impl Scheduler {
    pub(crate) fn new(limits: SchedulerLimits, kv: Kv) -> Self {
        Self {
            pace: Pace::new(limits.max_batch_size),
            queue: Queue::new(limits.aging),
            seqs: BTreeMap::new(),
            seated: Vec::with_capacity(limits.max_batch_size),
            admitted: BTreeMap::new(),
            next_id: 0,
            is_open: true,
            decoding: Vec::new(),
            limits,
            kv,
        }
    }

    /// Queues a prompt.
    pub(crate) fn enqueue(&mut self, new: NewSequence, now: Duration) -> SeqId {
        let id = self.new_id();
        let order = Order { priority: new.priority, request: new.request, choice: 0 };
        self.queue.push(Waiting { seq: id, order, tenant: new.tenant, since: now });
        fault::point("enqueue");
        let seq = Sequence {
            request: new.request,
            choice: 0,
            prompt_len: new.prompt.len(),
            tokens: new.prompt,
            computed: 0,
            max_len: new.max_len,
            pages: self.kv.begin(&new.cache),
            order,
            tenant: new.tenant,
            prompt_logits_from: if new.prompt_logits { 0 } else { usize::MAX },
            seat: Seat::Queue,
            was_preempted: false,
            paused: false,
        };
        self.seqs.insert(id, seq);
        id
    }

    /// Another choice of the same request. Its tokens and pages are those of `parent`.
    pub(crate) fn fork(&mut self, parent: SeqId, choice: usize, now: Duration) -> SeqId {
        let id = self.new_id();
        let from = &self.seqs[&parent];
        let pages = self.kv.fork(&from.pages, from.computed);
        let seq = Sequence {
            choice,
            tokens: from.tokens.clone(),
            pages,
            order: Order { choice, ..from.order },
            prompt_logits_from: usize::MAX,
            seat: Seat::Line { since: now },
            ..*from
        };
        fault::point("fork");
        *self.admitted.entry(seq.request).or_default() += 1;
        self.seqs.insert(id, seq);
        id
    }

    /// Forgets a sequence and gives its pages back.
    pub(crate) fn remove(&mut self, id: SeqId) {
        let mut seq = self.seqs.remove(&id).expect("a sequence is removed once");
        fault::point("remove");
        self.kv.release(&mut seq.pages);
        fault::point("removed");
        self.seated.retain(|&seated| seated != id);
        match seq.seat {
            Seat::Queue => self.queue.remove(id),
            Seat::Line { .. } | Seat::Batch { .. } => {
                let left = self.admitted.get_mut(&seq.request).expect("its request is admitted");
                *left -= 1;
                if *left > 0 {
                    return;
                }
                self.admitted.remove(&seq.request);
            }
        }
        self.queue.leave(seq.tenant);
    }

    /// The sequence gets no turn until it is resumed. Another may take its seat, and its pages if need be.
    pub(crate) fn pause(&mut self, id: SeqId, now: Duration) {
        let seq = self.seqs.get_mut(&id).expect("a live sequence");
        seq.paused = true;
        if matches!(seq.seat, Seat::Batch { .. }) {
            seq.seat = Seat::Line { since: now };
            fault::point("pause");
            self.seated.retain(|&seated| seated != id);
        }
    }

    /// The sequence gets turns again.
    pub(crate) fn resume(&mut self, id: SeqId) {
        self.seqs.get_mut(&id).expect("a live sequence").paused = false;
    }

    /// The step has computed this entry.
    pub(crate) fn computed(&mut self, entry: &Entry) {
        let seq = self.seqs.get_mut(&entry.seq).expect("a sequence in the step is live");
        seq.computed += entry.rows;
        if seq.prompt_logits_from < seq.prompt_len {
            seq.prompt_logits_from = seq.prompt_logits_from.max(seq.computed);
        }
        if let (Seat::Batch { decoded }, true) = (&mut seq.seat, entry.is_decode) {
            *decoded += 1;
        }
        fault::point("computed");
        self.kv.commit(&mut seq.pages, &seq.tokens, seq.computed, seq.tenant);
        self.queue.charge(seq.tenant, entry.rows);
    }

    /// The sequence has a new token.
    pub(crate) fn push_token(&mut self, id: SeqId, token: u32) {
        self.seqs.get_mut(&id).expect("a live sequence").tokens.push(token);
    }

    /// Closed, it seats nobody new while somebody runs: neither from the queue nor who has lost its pages.
    pub(crate) fn set_open(&mut self, is_open: bool) {
        self.is_open = is_open;
    }

    /// Drops all pages that are kept for their prefix alone. Returns how many.
    pub(crate) fn drop_cached(&mut self) -> usize {
        self.kv.drop_cached()
    }

    /// Takes the pages of the sequence that is last in order, unless it is the only one that has any. Returns what it
    /// had computed.
    pub(crate) fn preempt_newest(&mut self, now: Duration) -> Option<(SeqId, usize)> {
        let holders = || self.seqs.iter().filter(|(_, seq)| seq.holds_pages());
        if holders().count() < 2 {
            return None;
        }
        let (&id, seq) = holders().max_by_key(|(_, seq)| (seq.paused, seq.order))?;
        let computed = seq.computed;
        self.take_pages(id, now);
        Some((id, computed))
    }

    /// Learns what a step cost.
    pub(crate) fn observe(&mut self, load: Load, time: Duration) {
        self.pace.observe(load, time);
    }

    pub(crate) fn seq(&self, id: SeqId) -> &Sequence {
        &self.seqs[&id]
    }

    pub(crate) fn contains(&self, id: SeqId) -> bool {
        self.seqs.contains_key(&id)
    }

    /// Sequences, those in the queue included.
    pub(crate) fn sequences(&self) -> usize {
        self.seqs.len()
    }

    /// Groups from which pages were evicted since the last call, and how many.
    pub(crate) fn take_evicted(&mut self) -> impl Iterator<Item = (usize, usize)> + '_ {
        self.kv.take_evicted()
    }

    pub(crate) fn kv(&self) -> &Kv {
        &self.kv
    }

    /// Whether a plan made now might have entries.
    pub(crate) fn has_work(&self) -> bool {
        !self.seated.is_empty() || self.somebody_waits()
    }

    pub(crate) fn running_sequences(&self) -> usize {
        self.admitted.values().sum()
    }

    pub(crate) fn waiting_requests(&self) -> usize {
        self.queue.len()
    }

    /// Whether the books agree with the sequences. For tests, and after a panic.
    pub(crate) fn is_consistent(&self) -> bool {
        let seats = |id: &SeqId| self.seqs.get(id).is_some_and(|seq| matches!(seq.seat, Seat::Batch { .. }));
        let in_batch = self.seqs.values().filter(|seq| matches!(seq.seat, Seat::Batch { .. })).count();
        let queued = self.seqs.values().filter(|seq| seq.seat == Seat::Queue).count();
        self.seated.iter().all(seats)
            && in_batch == self.seated.len()
            && queued == self.queue.len()
            && queued + self.running_sequences() == self.seqs.len()
            && self.kv.agrees_with(self.seqs.values().map(|seq| &seq.pages))
    }

    fn new_id(&mut self) -> SeqId {
        self.next_id += 1;
        SeqId(self.next_id)
    }
}
