//! From a loaded network to an engine that runs: the engine's settings.

use std::sync::Arc;

use anyhow::Result;
use engine::{Engine, EngineConfig, Observer};

use crate::load::LoadedModel;
use crate::memory::Plan;
use crate::settings::{Settings, defs};

/// For whom the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Many clients, as the settings say.
    Server,
    /// One conversation at a time.
    Terminal,
}

impl Use {
    /// Sequences computed in one step.
    pub(crate) fn batch(self, settings: &Settings) -> usize {
        if self == Use::Server { settings.len(&defs::MAX_BATCH_SIZE) } else { 1 }
    }

    /// Requests admitted at a time.
    pub(crate) fn running(self, settings: &Settings) -> usize {
        if self == Use::Server { settings.len(&defs::MAX_RUNNING_REQUESTS) } else { 1 }
    }
}

/// Gives a network the KV cache of its plan and starts an engine on it. `end_of_text` are the ids at which an answer is
/// over.
pub(crate) fn start_engine(
    usage: Use,
    loaded: LoadedModel,
    plan: &Plan,
    end_of_text: &[u32],
    settings: &Settings,
    observer: Arc<dyn Observer>,
) -> Result<Engine> {
    let pages: Vec<usize> = plan.pools.iter().map(|pool| pool.pages).collect();
    let step_budget = settings.time(&defs::STEP_TIME_BUDGET);
    let EngineConfig { prefill_step_budget, .. } = EngineConfig::default();
    let runner = loaded.network.into_runner(plan.kv.keys, plan.kv.values, &pages)?;
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
        step_budget,
        // Who lets others wait so long while they read does so while none does.
        prefill_step_budget: prefill_step_budget.max(step_budget),
        prefix_cache: settings.on(&defs::ENABLE_PREFIX_CACHING),
        prefix_cache_bytes: settings.int(&defs::PREFIX_CACHE_SIZE),
        slow_reader_limit: settings.time(&defs::STREAM_STALL_TIMEOUT),
        watchdog: settings.time(&defs::WATCHDOG_TIMEOUT),
        eos_tokens: end_of_text.to_vec(),
        max_context: Some(plan.context),
        max_choices: settings.len(&defs::MAX_CHOICES),
        max_top_logprobs: settings.len(&defs::MAX_TOP_LOGPROBS).max(settings.len(&defs::MAX_COMPLETION_LOGPROBS)),
        max_stop_tokens: settings.len(&defs::MAX_STOP_TOKEN_IDS),
        max_logit_bias: settings.len(&defs::MAX_LOGIT_BIAS),
        max_dry_breakers: settings.len(&defs::MAX_DRY_BREAKERS),
        max_salt_bytes: settings.len(&defs::MAX_CACHE_SALT_LENGTH),
        max_deadline: settings.time(&defs::REQUEST_TIMEOUT),
        observer,
        ..EngineConfig::default()
    };
    Ok(Engine::start(runner, config)?)
}
