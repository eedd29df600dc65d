//! One line of tokens that grows: a prompt and one choice of its continuation.

use std::time::Duration;

use crate::inbox::RequestId;
use crate::kv::SeqPages;
use crate::request::Tenant;

/// Number of a sequence; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SeqId(pub(crate) u64);

/// A sequence: `computed` tokens chasing `tokens.len()` known ones.
#[derive(Debug)]
pub(crate) struct Sequence {
    pub(crate) request: RequestId,
    pub(crate) choice: usize,
    /// Prompt and generated tokens.
    pub(crate) tokens: Vec<u32>,
    pub(crate) prompt_len: usize,
    /// Tokens whose keys and values are in `pages`.
    pub(crate) computed: usize,
    /// The sequence will never be longer.
    pub(crate) max_len: usize,
    pub(crate) pages: SeqPages,
    pub(crate) order: Order,
    pub(crate) tenant: Tenant,
    /// First prompt position whose logits are wanted still; `usize::MAX` = none.
    pub(crate) prompt_logits_from: usize,
    pub(crate) seat: Seat,
    pub(crate) was_preempted: bool,
    /// Waits for its reader: gets no turn.
    pub(crate) paused: bool,
}

/// Who goes first when there is not enough for all: the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Order {
    pub(crate) priority: i32,
    pub(crate) request: RequestId,
    pub(crate) choice: usize,
}

/// Where a sequence is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seat {
    /// Had no turn yet.
    Queue,
    /// Admitted, waits for a seat in the batch.
    Line { since: Duration },
    /// In the batch; `decoded` tokens since it got the seat.
    Batch { decoded: usize },
}

impl Sequence {
    /// Tokens known and not computed.
    pub(crate) fn gap(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether no token was generated yet.
    pub(crate) fn is_at_prompt_end(&self) -> bool {
        self.tokens.len() == self.prompt_len
    }

    /// Whether it holds pages.
    pub(crate) fn holds_pages(&self) -> bool {
        self.pages.tables.iter().any(|table| !table.is_empty())
    }

    /// Whether it waits for nothing but a seat.
    pub(crate) fn is_in_line(&self) -> bool {
        matches!(self.seat, Seat::Line { .. }) && !self.paused
    }
}
