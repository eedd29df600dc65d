//! The books made anew from the sequences alone, when they are in doubt: who was interrupted half-way may have left
//! pages that nobody holds, or that hold what they should not. The tokens of a sequence are never in doubt.

use std::time::Duration;

use super::queue::Waiting;
use super::{Kv, Scheduler};
use crate::sequence::{Seat, SeqId};

/// Where a sequence is when nobody has a seat.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Standing {
    /// Its request had no turn yet.
    Waiting {
        /// Since then.
        since: Duration,
    },
    /// Its request is admitted.
    Admitted,
}

impl Scheduler {
    /// Every sequence that `standing` knows keeps its tokens and is computed again, on the pages of `kv`, none of which
    /// is held; the others go.
    pub(crate) fn begin_anew(&mut self, kv: Kv, now: Duration, standing: impl Fn(SeqId) -> Option<Standing>) {
        self.kv = kv;
        self.seated.clear();
        self.admitted.clear();
        self.queue.clear();
        self.seqs.retain(|&id, _| standing(id).is_some());
        for (&id, seq) in &mut self.seqs {
            seq.pages = self.kv.without_pages(&seq.pages);
            seq.computed = 0;
            match standing(id) {
                Some(Standing::Waiting { since }) => {
                    seq.seat = Seat::Queue;
                    self.queue.push(Waiting { seq: id, order: seq.order, tenant: seq.tenant, since });
                }
                _ => {
                    seq.seat = Seat::Line { since: now };
                    seq.was_preempted = true;
                    let sequences = self.admitted.entry(seq.request).or_default();
                    if *sequences == 0 {
                        self.queue.join(seq.tenant);
                    }
                    *sequences += 1;
                }
            }
        }
    }
}
