//! The engine's edge to the network: one virtual call a step.

use tensor::{BackendError, Batch, TopK};

/// Computes steps. The engine plans them so that batches are valid by construction: tables, rows and positions within
/// [`RunnerLimits`] and [`KvPool`]s.
pub trait Runner: Send {
    /// Sizes that do not change.
    fn limits(&self) -> RunnerLimits;

    /// The KV pages, one entry a group, in the order of a batch's page tables.
    fn kv_pools(&self) -> Vec<KvPool>;

    /// Copies page `from` to page `to` in every layer of a group (copy-on-write).
    fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError>;

    /// Computes one step.
    fn step(&mut self, batch: &Batch<'_>) -> Result<(), BackendError>;

    /// The `k` greatest logits of each logit row of the step just computed, one entry a row. The first entries do not
    /// depend on `k`.
    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError>;

    /// All logits of logit row `index` of the step just computed: `[vocab]`.
    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError>;
}

/// Sizes that a runner was built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunnerLimits {
    /// Logits in a row.
    pub vocab: usize,
    /// Most tokens in a sequence.
    pub max_context: usize,
    /// Most rows in a step.
    pub max_rows: usize,
    /// Most sequences in a step.
    pub max_seqs: usize,
    /// Most logit rows in a step.
    pub max_logit_rows: usize,
}

/// The pages of one KV group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvPool {
    /// Pages; ids are below this.
    pub pages: usize,
    /// Bytes of a page over all layers of the group, keys and values.
    pub page_bytes: u64,
    /// A row at position p sees positions in `(p - window, p]`; `None` = all before it.
    pub window: Option<usize>,
}
