//! From a loaded network to an engine that runs: how big the KV cache is, and the engine's settings.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use engine::{Engine, EngineConfig, KvPool, Observer};
use model::{KvGroupShape, LoadOptions};
use tensor::{Format, PAGE_TOKENS};

use crate::device::Budget;
use crate::load::{self, LoadedModel, OpenModel};
use crate::output::human_bytes;
use crate::settings::{Settings, defs};

/// Least rows of logits in a step: log probabilities of prompts come that many at a time.
const MIN_LOGIT_ROWS: usize = 16;

/// For whom the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Many clients, as the settings say.
    Server,
    /// One conversation at a time.
    Terminal,
}

impl Use {
    fn batch(self, settings: &Settings) -> usize {
        if self == Use::Server { settings.len(&defs::MAX_BATCH_SIZE) } else { 1 }
    }

    fn running(self, settings: &Settings) -> usize {
        if self == Use::Server { settings.len(&defs::MAX_RUNNING_REQUESTS) } else { 1 }
    }
}

/// Loads a model with steps of the sizes that `usage` needs.
pub(crate) fn load_for(usage: Use, open: OpenModel, settings: &Settings) -> Result<LoadedModel> {
    let batch = usage.batch(settings);
    let sizes = LoadOptions {
        max_rows: settings.len(&defs::PREFILL_CHUNK_SIZE) + batch,
        max_seqs: batch,
        max_logit_rows: batch.max(MIN_LOGIT_ROWS),
        max_context: None,
    };
    load::load(open, settings, &sizes)
}

/// Gives the network its KV cache and starts an engine on it. `end_of_text` are the ids at which an answer is over.
pub(crate) fn start_engine(
    usage: Use,
    loaded: LoadedModel,
    end_of_text: &[u32],
    settings: &Settings,
    observer: Arc<dyn Observer>,
) -> Result<Engine> {
    let LoadedModel { name, checkpoint, network, budget, .. } = loaded;
    let weight_bytes: u64 = checkpoint.tensors().map(|tensor| tensor.data.len() as u64).sum();
    let (keys, values) = load::kv_formats(settings);
    let context = network.max_context();
    let groups = network.kv_groups();
    let cache = KvCache { groups, keys, values, context, running: usage.running(settings), budget, settings };
    let pools = cache.plan(&name, usage, weight_bytes)?;
    let pages: Vec<usize> = pools.iter().map(|pool| pool.pages).collect();
    let runner = network.into_runner(keys, values, &pages)?;
    let config = EngineConfig {
        max_batch_size: usage.batch(settings),
        max_running_requests: usage.running(settings),
        max_queued_requests: settings.len(&defs::MAX_QUEUED_REQUESTS),
        max_queued_tokens: settings.len(&defs::MAX_QUEUED_TOKENS),
        max_tenant_requests: settings.amount(&defs::MAX_REQUESTS_PER_KEY).map_or(usize::MAX, |n| n as usize),
        queue_timeout: settings.time(&defs::QUEUE_TIMEOUT),
        continuous_batching: settings.on(&defs::ENABLE_CONTINUOUS_BATCHING),
        prefill_chunk_tokens: settings.len(&defs::PREFILL_CHUNK_SIZE),
        decode_chunk_tokens: settings.len(&defs::DECODE_CHUNK_SIZE),
        step_budget: settings.time(&defs::STEP_TIME_BUDGET),
        prefix_cache: settings.on(&defs::ENABLE_PREFIX_CACHING),
        prefix_cache_bytes: settings.int(&defs::PREFIX_CACHE_SIZE),
        slow_reader_limit: settings.time(&defs::STREAM_STALL_TIMEOUT),
        watchdog: settings.time(&defs::WATCHDOG_TIMEOUT),
        eos_tokens: end_of_text.to_vec(),
        max_context: Some(context),
        max_choices: settings.len(&defs::MAX_CHOICES),
        max_top_logprobs: settings.len(&defs::MAX_TOP_LOGPROBS).max(settings.len(&defs::MAX_COMPLETION_LOGPROBS)),
        max_stop_tokens: settings.len(&defs::MAX_STOP_TOKEN_IDS),
        max_logit_bias: settings.len(&defs::MAX_LOGIT_BIAS),
        max_deadline: settings.time(&defs::REQUEST_TIMEOUT),
        observer,
        ..EngineConfig::default()
    };
    Ok(Engine::start(runner, config)?)
}

/// What decides about the size of the KV cache.
struct KvCache<'a> {
    groups: &'a [KvGroupShape],
    keys: Format,
    values: Format,
    context: usize,
    running: usize,
    budget: Budget,
    settings: &'a Settings,
}

impl KvCache<'_> {
    /// As many tokens as set, or as fit.
    fn plan(&self, name: &str, usage: Use, weight_bytes: u64) -> Result<Vec<KvPool>> {
        let wanted = match usage {
            Use::Server => self.settings.len(&defs::MAX_TOTAL_TOKENS).max(self.context),
            Use::Terminal => self.context,
        };
        let Some(budget_bytes) = self.budget.bytes else { return self.pools(wanted) };
        let room_bytes = budget_bytes.saturating_sub(weight_bytes);
        let mut tokens = wanted;
        while self.bytes(tokens)? > room_bytes && tokens > PAGE_TOKENS {
            tokens = (tokens / 2).max(PAGE_TOKENS);
        }
        let bytes = self.bytes(tokens)?;
        if bytes > room_bytes {
            bail!(
                "{name} does not fit: {} of weights and {} of KV cache for {tokens} tokens exceed the budget of {}; \
                 raise {}, or take a smaller quantization",
                human_bytes(weight_bytes),
                human_bytes(bytes),
                human_bytes(budget_bytes),
                self.budget.raise
            );
        }
        if tokens < wanted {
            tracing::warn!("KV cache: clipped from {wanted} to {tokens} tokens to fit {}", human_bytes(budget_bytes));
        }
        tracing::info!(
            "{name}: {} of weights, KV cache of {tokens} tokens in {}",
            human_bytes(weight_bytes),
            human_bytes(bytes)
        );
        self.pools(tokens)
    }

    fn bytes(&self, tokens: usize) -> Result<u64> {
        Ok(self.pools(tokens)?.iter().map(|pool| pool.pages as u64 * pool.page_bytes).sum())
    }

    /// Pools for `tokens` in all. Layers with a window keep what the window sees of each sequence, twice over so that
    /// finished prefixes have room too.
    fn pools(&self, tokens: usize) -> Result<Vec<KvPool>> {
        let full = tokens.div_ceil(PAGE_TOKENS);
        let chunk = self.settings.len(&defs::PREFILL_CHUNK_SIZE);
        let pool = |group: &KvGroupShape| {
            let page_bytes = group.page_bytes(self.keys, self.values).with_context(|| {
                format!(
                    "MISTRAL_KV_CACHE_DTYPE={} ({}): the model's heads are no whole number of its blocks",
                    self.settings.shown(&defs::KV_CACHE_DTYPE),
                    self.settings.source(&defs::KV_CACHE_DTYPE)
                )
            })?;
            let seen = |window: usize| (window + chunk).div_ceil(PAGE_TOKENS) + 2;
            let pages = group.window.map_or(full, |window| full.min(2 * self.running * seen(window)));
            Ok(KvPool { pages, page_bytes, window: group.window })
        };
        self.groups.iter().map(pool).collect()
    }
}
