//! The engine's edge to the network: one virtual call a step.

use model::Decoder;
use tensor::{Backend, BackendError, Batch, Format, TopK};

/// Computes steps. The engine plans them so that batches are valid by construction: tables, rows and positions within
/// [`RunnerLimits`] and [`KvPool`]s.
pub trait Runner: Send {
    /// Sizes that do not change.
    fn limits(&self) -> RunnerLimits;

    /// The KV pages, one entry a group, in the order of a batch's page tables.
    fn kv_pools(&self) -> Vec<KvPool>;

    /// Copies page `from` to page `to` in every layer of a group (copy-on-write).
    fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError>;

    /// Whether another step may be started now, of rows that are [`tensor::LIKELIEST`], beside the one whose results
    /// are still awaited.
    fn runs_ahead(&self) -> bool {
        false
    }

    /// Starts a step; need not wait for it. Steps and page copies are computed in the order in which they were started.
    fn start(&mut self, batch: &Batch<'_>) -> Result<(), BackendError>;

    /// Waits for the oldest step that was started: it is the one just computed from now on.
    fn finish(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    /// Waits for all steps that were started, and forgets them.
    fn abandon(&mut self) {}

    /// The `k` greatest logits of each logit row of the step just computed, one entry a row. The first entries do not
    /// depend on `k`.
    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError>;

    /// All logits of logit row `index` of the step just computed: `[vocab]`.
    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError>;

    /// Gives back memory that is kept for the next step; the last step's logits are lost.
    fn trim(&mut self) {}

    /// Gives back the memory of pages of a group that hold nothing; they may be used again at any time.
    fn release_pages(&mut self, _group: usize, _pages: &[u32]) {}

    /// Makes all anew after [`BackendError::Lost`]; what the KV pages held is gone.
    ///
    /// # Errors
    /// The backend's, if the device cannot be had again. The engine tries once more at the next request.
    fn rebuild(&mut self) -> Result<(), BackendError> {
        Ok(())
    }
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

/// A loaded network with its KV pages.
pub struct DecoderRunner<B: Backend> {
    decoder: Decoder<B>,
    pools: Vec<KvPool>,
}

impl<B: Backend> DecoderRunner<B> {
    /// Allocates `pages[g]` pages for each of the decoder's KV groups.
    ///
    /// # Errors
    /// The backend's, if it cannot have them.
    ///
    /// # Panics
    /// If there are not as many `pages` as groups.
    pub fn new(
        mut decoder: Decoder<B>,
        key_format: Format,
        value_format: Format,
        pages: &[usize],
    ) -> Result<Self, BackendError> {
        assert_eq!(pages.len(), decoder.kv_groups().len(), "a number of pages for each KV group");
        decoder.allocate_kv(&decoder.kv_spec(key_format, value_format, pages))?;
        let pool = |(shape, &pages): (&model::KvGroupShape, &usize)| {
            // A format that does not divide a head evenly was refused just now.
            let page_bytes = shape.page_bytes(key_format, value_format).unwrap_or(0);
            KvPool { pages, page_bytes, window: shape.window }
        };
        let pools = decoder.kv_groups().iter().zip(pages).map(pool).collect();
        Ok(Self { decoder, pools })
    }
}

impl<B: Backend> Runner for DecoderRunner<B> {
    fn limits(&self) -> RunnerLimits {
        let options = self.decoder.options();
        RunnerLimits {
            vocab: self.decoder.config().vocab(),
            max_context: self.decoder.max_context(),
            max_rows: options.max_rows,
            max_seqs: options.max_seqs,
            max_logit_rows: options.max_logit_rows,
        }
    }

    fn kv_pools(&self) -> Vec<KvPool> {
        self.pools.clone()
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError> {
        self.decoder.copy_page(group, from, to)
    }

    fn runs_ahead(&self) -> bool {
        self.decoder.backend().runs_ahead()
    }

    fn start(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        self.decoder.start(batch)
    }

    fn finish(&mut self) -> Result<(), BackendError> {
        self.decoder.backend_mut().await_step()
    }

    fn abandon(&mut self) {
        self.decoder.backend_mut().abandon_steps();
    }

    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        self.decoder.top_k(k, out)
    }

    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError> {
        self.decoder.logits_row(index)
    }

    fn trim(&mut self) {
        self.decoder.backend_mut().trim();
    }

    fn release_pages(&mut self, group: usize, pages: &[u32]) {
        self.decoder.backend_mut().release_pages(group, pages);
    }
}

/// A [`DecoderRunner`] that is made again after its device was lost.
pub struct RebuildingRunner<B: Backend, F> {
    runner: DecoderRunner<B>,
    build: F,
}

impl<B: Backend, F: FnMut() -> Result<DecoderRunner<B>, BackendError> + Send> RebuildingRunner<B, F> {
    /// Drives `runner` until its device is lost, then what `build` makes.
    pub fn new(runner: DecoderRunner<B>, build: F) -> Self {
        Self { runner, build }
    }
}

impl<B: Backend, F: FnMut() -> Result<DecoderRunner<B>, BackendError> + Send> Runner for RebuildingRunner<B, F> {
    fn limits(&self) -> RunnerLimits {
        self.runner.limits()
    }

    fn kv_pools(&self) -> Vec<KvPool> {
        self.runner.kv_pools()
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError> {
        self.runner.copy_page(group, from, to)
    }

    fn runs_ahead(&self) -> bool {
        self.runner.runs_ahead()
    }

    fn start(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        self.runner.start(batch)
    }

    fn finish(&mut self) -> Result<(), BackendError> {
        self.runner.finish()
    }

    fn abandon(&mut self) {
        self.runner.abandon();
    }

    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        self.runner.top_k(k, out)
    }

    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError> {
        self.runner.logits_row(index)
    }

    fn trim(&mut self) {
        self.runner.trim();
    }

    fn release_pages(&mut self, group: usize, pages: &[u32]) {
        self.runner.release_pages(group, pages);
    }

    fn rebuild(&mut self) -> Result<(), BackendError> {
        self.runner = (self.build)()?;
        Ok(())
    }
}
