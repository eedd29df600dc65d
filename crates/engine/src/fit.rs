//! Whether settings suit a runner, and what follows from both: checked once, at the start.

use tensor::PAGE_TOKENS;

use crate::config::{ConfigError, EngineConfig, within};
use crate::runner::{KvPool, Runner};

/// What follows from settings and runner.
#[derive(Debug)]
pub(crate) struct Fit {
    /// Most tokens in prompt and output together: any such sequence can run, if need be alone.
    pub(crate) context: usize,
    /// The runner's pools; a window that the context does not exceed is none.
    pub(crate) pools: Vec<KvPool>,
}

impl Fit {
    pub(crate) fn of(runner: &dyn Runner, config: &EngineConfig) -> Result<Self, ConfigError> {
        let sizes = runner.limits();
        let most_seqs = sizes.max_seqs.min(sizes.max_rows).min(sizes.max_logit_rows);
        within("max_batch_size", config.max_batch_size, 1..=most_seqs)?;
        let longest = config.max_context.unwrap_or(usize::MAX).min(sizes.max_context);
        let mut pools = runner.kv_pools();
        for pool in &mut pools {
            pool.window = pool.window.filter(|&window| window < longest);
        }
        let held_by = |pool: &KvPool| if pool.window.is_none() { pool.pages * PAGE_TOKENS } else { usize::MAX };
        let context = pools.iter().map(held_by).min().unwrap_or(0).min(longest);
        within("context", context, 2..=usize::MAX)?;
        for pool in &pools {
            if let Some(window) = pool.window {
                // What a token sees, the page that it is in, and one page to write ahead.
                within("pages of a sliding-window KV pool", pool.pages, window.div_ceil(PAGE_TOKENS) + 2..=usize::MAX)?;
            }
        }
        Ok(Self { context, pools })
    }
}
