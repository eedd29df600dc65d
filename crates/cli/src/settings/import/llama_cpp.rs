//! llama.cpp's server: environment variables `LLAMA_ARG_*`, of this year's versions and of those before.

use super::Given;
use super::rules::*;
use crate::settings::defs;

pub(super) const NAMES: Names = Names { rules: RULES, without: WITHOUT, negated };

const RULES: &[(&str, Rule)] = &[
    ("LLAMA_ARG_MODEL", Rule::Same(&defs::MODEL)),
    ("LLAMA_ARG_MODELS_DIR", Rule::Same(&defs::MODEL)),
    ("LLAMA_ARG_HF_REPO", Rule::With(hub_repository)),
    ("LLAMA_ARG_CTX_SIZE", Rule::With(context_of_all)),
    ("LLAMA_ARG_KV_UNIFIED_PER_SLOT", Rule::With(context_of_each)),
    ("LLAMA_ARG_N_PARALLEL", Rule::With(parallel)),
    ("LLAMA_ARG_UBATCH", Rule::Count(&defs::PREFILL_CHUNK_SIZE)),
    ("LLAMA_ARG_THREADS", Rule::With(threads)),
    ("LLAMA_ARG_HOST", Rule::With(host)),
    ("LLAMA_ARG_PORT", Rule::Same(&defs::PORT)),
    ("LLAMA_API_KEY", Rule::Same(&defs::API_KEYS)),
    ("LLAMA_ARG_TIMEOUT", Rule::Same(&defs::REQUEST_TIMEOUT)),
    ("LLAMA_ARG_FLASH_ATTN", Rule::Same(&defs::USE_FLASH_ATTENTION)),
    ("LLAMA_ARG_CACHE_TYPE_K", Rule::With(cache_types)),
    ("LLAMA_ARG_CACHE_TYPE_V", Rule::With(cache_types)),
    ("LLAMA_ARG_CONT_BATCHING", Rule::Same(&defs::ENABLE_CONTINUOUS_BATCHING)),
    ("LLAMA_ARG_CACHE_PROMPT", Rule::Same(&defs::ENABLE_PREFIX_CACHING)),
    ("LLAMA_ARG_CACHE_RAM", Rule::With(mebibytes)),
    ("LLAMA_ARG_MAIN_GPU", Rule::Same(&defs::METAL_DEVICE_ID)),
    ("LLAMA_ARG_N_GPU_LAYERS", Rule::With(gpu_layers)),
    ("LLAMA_ARG_DEVICE", Rule::With(device)),
    ("LLAMA_ARG_LOG_VERBOSITY", Rule::With(verbosity)),
    ("LLAMA_LOG_VERBOSITY", Rule::With(verbosity)),
    ("LLAMA_ARG_LOG_JSONL", Rule::WhenOn(&defs::LOG_FORMAT, "json")),
];

const WITHOUT: &[(&str, &[&str])] = &[
    ("taken over with LLAMA_ARG_HF_REPO", &["LLAMA_ARG_HF_FILE"]),
    ("MISTRAL_MODEL takes org/repo[:quant] of a hub", &["LLAMA_ARG_MODEL_URL", "LLAMA_ARG_DOCKER_REPO"]),
    ("a model of the store is served without asking the hub", &["LLAMA_ARG_OFFLINE", "LLAMA_OFFLINE"]),
    (OWN_STORE, &["LLAMA_CACHE"]),
    (BY_MEMORY, &["LLAMA_ARG_MODELS_MAX"]),
    ("models have settings of their own in models/NAME.toml", &["LLAMA_ARG_MODELS_PRESET"]),
    (
        ALWAYS_SO,
        &[
            "LLAMA_ARG_MODELS_AUTOLOAD",
            "LLAMA_ARG_REPACK",
            "LLAMA_ARG_ENDPOINT_METRICS",
            "LLAMA_ARG_JINJA",
            "LLAMA_ARG_KV_UNIFIED",
            "LLAMA_ARG_CACHE_IDLE_SLOTS",
        ],
    ),
    ("LLAMA_ARG_UBATCH is what a step computes", &["LLAMA_ARG_BATCH"]),
    ("MISTRAL_NUM_THREADS holds for prompts, too", &["LLAMA_ARG_THREADS_BATCH"]),
    (TWO_THREADS, &["LLAMA_ARG_THREADS_HTTP"]),
    ("MISTRAL_API_KEYS takes the keys themselves", &["LLAMA_ARG_API_KEY_FILE"]),
    (NO_TLS, &["LLAMA_ARG_SSL_KEY_FILE", "LLAMA_ARG_SSL_CERT_FILE"]),
    (
        NO_CORS,
        &["LLAMA_ARG_CORS_ORIGINS", "LLAMA_ARG_CORS_METHODS", "LLAMA_ARG_CORS_HEADERS", "LLAMA_ARG_CORS_CREDENTIALS"],
    ),
    ("paths begin with /v1; a proxy in front can add to them", &["LLAMA_ARG_API_PREFIX"]),
    ("one server listens on a port", &["LLAMA_ARG_REUSE_PORT"]),
    ("streams that are silent are kept alive anyway", &["LLAMA_ARG_SSE_PING_INTERVAL"]),
    (
        NO_PAGE,
        &[
            "LLAMA_ARG_STATIC_PATH",
            "LLAMA_ARG_UI",
            "LLAMA_ARG_UI_CONFIG",
            "LLAMA_ARG_UI_CONFIG_FILE",
            "LLAMA_ARG_UI_MCP_PROXY",
            "LLAMA_ARG_WEBUI",
            "LLAMA_ARG_WEBUI_CONFIG",
            "LLAMA_ARG_WEBUI_CONFIG_FILE",
            "LLAMA_ARG_WEBUI_MCP_PROXY",
        ],
    ),
    (
        NO_TOOLS,
        &[
            "LLAMA_ARG_AGENT",
            "LLAMA_ARG_TOOLS",
            "LLAMA_ARG_TOOLS_RUNTIME",
            "LLAMA_ARG_MCP_SERVERS_CONFIG",
            "LLAMA_ARG_MCP_SERVERS_JSON",
        ],
    ),
    (
        "there is no such endpoint; /health and /metrics tell of the server",
        &["LLAMA_ARG_ENDPOINT_PROPS", "LLAMA_ARG_ENDPOINT_SLOTS"],
    ),
    (NO_EMBEDDINGS, &["LLAMA_ARG_EMBEDDINGS", "LLAMA_ARG_RERANKING", "LLAMA_ARG_POOLING"]),
    (
        TEXT_ONLY,
        &[
            "LLAMA_ARG_MMPROJ",
            "LLAMA_ARG_MMPROJ_URL",
            "LLAMA_ARG_MMPROJ_AUTO",
            "LLAMA_ARG_MMPROJ_OFFLOAD",
            "LLAMA_ARG_IMAGE_MIN_TOKENS",
            "LLAMA_ARG_IMAGE_MAX_TOKENS",
            "LLAMA_ARG_MTMD_BATCH_MAX_TOKENS",
            "LLAMA_ARG_VIDEO_FPS",
            "LLAMA_ARG_VIDEO_TIMESTAMP_INTERVAL",
            "LLAMA_ARG_VIDEO_FFMPEG_DIR",
            "LLAMA_MEDIA_MARKER",
        ],
    ),
    ("prefixes are reused, pieces after them are not", &["LLAMA_ARG_CACHE_REUSE"]),
    ("MISTRAL_CONTEXT_OVERFLOW says what becomes of prompts that are too long", &["LLAMA_ARG_CONTEXT_SHIFT"]),
    (
        OWN_CACHE,
        &[
            "LLAMA_ARG_SWA_FULL",
            "LLAMA_ARG_CTX_CHECKPOINTS",
            "LLAMA_ARG_CHECKPOINT_MIN_SPACING_NT",
            "LLAMA_ARG_DEFRAG_THOLD",
        ],
    ),
    (
        ONE_DEVICE,
        &[
            "LLAMA_ARG_SPLIT_MODE",
            "LLAMA_ARG_TENSOR_SPLIT",
            "LLAMA_ARG_OVERRIDE_TENSOR",
            "LLAMA_ARG_CPU_MOE",
            "LLAMA_ARG_N_CPU_MOE",
            "LLAMA_ARG_N_CPU_FFN",
            "LLAMA_ARG_MOE_CACHE_MIB",
            "LLAMA_ARG_KV_OFFLOAD",
            "LLAMA_ARG_OP_OFFLOAD",
            "LLAMA_ARG_RPC",
            "LLAMA_ARG_NUMA",
        ],
    ),
    ("what is not set is always made to fit here", &["LLAMA_ARG_FIT", "LLAMA_ARG_FIT_CTX"]),
    ("`frontier plan` shows what fits", &["LLAMA_ARG_FIT_ESTIMATE"]),
    ("MISTRAL_MEMORY_FRACTION says how much of memory is used", &["LLAMA_ARG_FIT_TARGET"]),
    (
        OWN_MEMORY,
        &[
            "LLAMA_ARG_MLOCK",
            "LLAMA_ARG_MMAP",
            "LLAMA_ARG_LOAD_MODE",
            "LLAMA_ARG_LAZY_MODE",
            "LLAMA_ARG_DIRECT_IO",
            "LLAMA_ARG_DIO",
            "LLAMA_ARG_NO_HOST",
        ],
    ),
    ("the log goes to standard error", &["LLAMA_ARG_LOG_FILE", "LLAMA_LOG_FILE"]),
    (
        OWN_LOG,
        &[
            "LLAMA_ARG_LOG_COLORS",
            "LLAMA_ARG_LOG_PREFIX",
            "LLAMA_ARG_LOG_TIMESTAMPS",
            "LLAMA_LOG_COLORS",
            "LLAMA_LOG_PREFIX",
            "LLAMA_LOG_TIMESTAMPS",
        ],
    ),
    (OWN_METRICS, &["LLAMA_ARG_PERF", "LLAMA_ARG_SHOW_TIMINGS"]),
    (
        "for who develops llama.cpp",
        &[
            "LLAMA_TRACE",
            "LLAMA_SET_ROWS",
            "LLAMA_ATTN_ROT_DISABLE",
            "LLAMA_GRAPH_REUSE_DISABLE",
            "LLAMA_GRAPH_INPUT_DEBUG",
            "LLAMA_GRAPH_RESULT_DEBUG",
            "LLAMA_KV_CACHE_DEBUG",
            "LLAMA_BATCH_DEBUG",
            "LLAMA_SERVER_SLOTS_DEBUG",
            "LLAMA_SERVER_SLOTS_N_DIFF",
            "LLAMA_SERVER_DEBUG_FAKE_TIMING",
        ],
    ),
    ("between llama.cpp's own processes", &["LLAMA_SERVER_CHILD_MODE", "LLAMA_SERVER_ROUTER_PORT", "LLAMA_APP_CMD"]),
    (NAME_FLAG, &["LLAMA_ARG_ALIAS"]),
    ("models have no tags", &["LLAMA_ARG_TAGS"]),
    (
        AS_THE_MODEL_SAYS,
        &[
            "LLAMA_ARG_CHAT_TEMPLATE",
            "LLAMA_ARG_CHAT_TEMPLATE_FILE",
            "LLAMA_ARG_ROPE_SCALING_TYPE",
            "LLAMA_ARG_ROPE_SCALE",
            "LLAMA_ARG_ROPE_FREQ_BASE",
            "LLAMA_ARG_ROPE_FREQ_SCALE",
            "LLAMA_ARG_YARN_ORIG_CTX",
            "LLAMA_ARG_YARN_EXT_FACTOR",
            "LLAMA_ARG_YARN_ATTN_FACTOR",
            "LLAMA_ARG_YARN_BETA_SLOW",
            "LLAMA_ARG_YARN_BETA_FAST",
            "LLAMA_ARG_GRP_ATTN_N",
            "LLAMA_ARG_GRP_ATTN_W",
        ],
    ),
    (
        PER_REQUEST,
        &[
            "LLAMA_ARG_TEMPERATURE",
            "LLAMA_ARG_TOP_K",
            "LLAMA_ARG_TOP_P",
            "LLAMA_ARG_MIN_P",
            "LLAMA_ARG_REPEAT_PENALTY",
            "LLAMA_ARG_PRESENCE_PENALTY",
            "LLAMA_ARG_FREQUENCY_PENALTY",
            "LLAMA_ARG_N_PREDICT",
            "LLAMA_ARG_CHAT_TEMPLATE_KWARGS",
            "LLAMA_CHAT_TEMPLATE_KWARGS",
            "LLAMA_ARG_PREFILL_ASSISTANT",
        ],
    ),
    ("the sampler runs where it is fastest", &["LLAMA_ARG_BACKEND_SAMPLING"]),
    (
        NO_PARSER,
        &[
            "LLAMA_ARG_THINK",
            "LLAMA_ARG_THINK_BUDGET",
            "LLAMA_ARG_THINK_BUDGET_MESSAGE",
            "LLAMA_ARG_REASONING",
            "LLAMA_ARG_REASONING_EFFORT",
            "LLAMA_ARG_REASONING_PRESERVE",
            "LLAMA_ARG_SKIP_CHAT_PARSING",
        ],
    ),
    (
        NO_SPECULATION,
        &[
            "LLAMA_ARG_SPEC_TYPE",
            "LLAMA_ARG_SPEC_DRAFT_MODEL",
            "LLAMA_ARG_SPEC_DRAFT_HF_REPO",
            "LLAMA_ARG_SPEC_DRAFT_N_MAX",
            "LLAMA_ARG_SPEC_DRAFT_N_MIN",
            "LLAMA_ARG_SPEC_DRAFT_P_MIN",
            "LLAMA_ARG_SPEC_DRAFT_P_SPLIT",
            "LLAMA_ARG_SPEC_DRAFT_BACKEND_SAMPLING",
            "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_K",
            "LLAMA_ARG_SPEC_DRAFT_CACHE_TYPE_V",
            "LLAMA_ARG_SPEC_DRAFT_CPU_MOE",
            "LLAMA_ARG_SPEC_DRAFT_N_CPU_MOE",
            "LLAMA_ARG_SPEC_SYNTH_LEN",
            "LLAMA_ARG_SPEC_SYNTH_RATES",
            "LLAMA_ARG_MODEL_DRAFT",
            "LLAMA_ARG_HFD_REPO",
            "LLAMA_ARG_N_GPU_LAYERS_DRAFT",
            "LLAMA_ARG_DEVICE_DRAFT",
            "LLAMA_ARG_CTX_SIZE_DRAFT",
            "LLAMA_ARG_THREADS_DRAFT",
            "LLAMA_ARG_CPU_MOE_DRAFT",
            "LLAMA_ARG_N_CPU_MOE_DRAFT",
            "LLAMA_ARG_CACHE_TYPE_K_DRAFT",
            "LLAMA_ARG_CACHE_TYPE_V_DRAFT",
            "LLAMA_ARG_DRAFT_MAX",
            "LLAMA_ARG_DRAFT_MIN",
            "LLAMA_ARG_DRAFT_P_MIN",
            "LLAMA_ARG_DRAFT_P_SPLIT",
            "LLAMA_ARG_LOOKUP_NGRAM_MIN",
            "LLAMA_ARG_LOOKUP_CACHE_STATIC",
            "LLAMA_ARG_LOOKUP_CACHE_DYNAMIC",
        ],
    ),
];

/// A switch is turned off by a name with `NO_` in it, whatever its value.
fn negated(name: &str) -> Option<String> {
    name.strip_prefix("LLAMA_ARG_NO_").map(|rest| format!("LLAMA_ARG_{rest}"))
}

/// A repository with a file in it.
fn hub_repository(value: &str, all: &[Given]) -> Outcome {
    let file = value_of(all, "LLAMA_ARG_HF_FILE").map(|file| format!("/{file}")).unwrap_or_default();
    Ok(vec![(&defs::MODEL, format!("{value}{file}"))])
}

/// The context is shared out to the slots, unless they may use all of it; ours is for each request, and the pool for
/// all.
fn context_of_all(value: &str, all: &[Given]) -> Outcome {
    let total = count(value)?;
    if total == 0 {
        return Err("0 means the model's own, which is the default here".to_owned());
    }
    let own = value_of(all, "LLAMA_ARG_KV_UNIFIED_PER_SLOT").and_then(|each| count(each).ok());
    let is_shared = value_of(all, "LLAMA_ARG_KV_UNIFIED").is_some_and(is_on);
    let each = own.unwrap_or(if is_shared { total } else { total / slots(all) }).min(total);
    Ok(vec![(&defs::MAX_SEQ_LEN, each.to_string()), (&defs::MAX_TOTAL_TOKENS, pool_tokens(total))])
}

/// The context of a slot, of which there is one for each where nobody says how much there is for all.
fn context_of_each(value: &str, all: &[Given]) -> Outcome {
    match value_of(all, "LLAMA_ARG_CTX_SIZE") {
        Some(total) if total != "0" => Err("taken over with LLAMA_ARG_CTX_SIZE".to_owned()),
        _ => context(count(value)?, slots(all)),
    }
}

/// How many requests share the context.
fn slots(all: &[Given]) -> u64 {
    value_of(all, "LLAMA_ARG_N_PARALLEL").and_then(|slots| number(slots).ok()).unwrap_or(1).max(1)
}

/// -1 is automatic.
fn threads(value: &str, _: &[Given]) -> Outcome {
    Ok(vec![(&defs::NUM_THREADS, if value.starts_with('-') { "0".to_owned() } else { value.to_owned() })])
}

/// An address, or several, or the path of a socket.
fn host(value: &str, _: &[Given]) -> Outcome {
    match value {
        path if path.ends_with(".sock") => Err(TCP_ONLY.to_owned()),
        several if several.contains(',') => Err("one address is listened on; 0.0.0.0 means all".to_owned()),
        one => Ok(vec![(&defs::HOST, one.to_owned())]),
    }
}

fn cache_types(_: &str, all: &[Given]) -> Outcome {
    let of = |name: &str| value_of(all, name).unwrap_or("f16");
    let (keys, values) = (cache_type(of("LLAMA_ARG_CACHE_TYPE_K"))?, cache_type(of("LLAMA_ARG_CACHE_TYPE_V"))?);
    let both = if keys == values { keys.to_owned() } else { format!("{keys},{values}") };
    Ok(vec![(&defs::KV_CACHE_DTYPE, both)])
}

fn mebibytes(value: &str, _: &[Given]) -> Outcome {
    match number(value) {
        Ok(mebibytes) => Ok(vec![(&defs::PREFIX_CACHE_SIZE, format!("{mebibytes}MiB"))]),
        Err(_) if is_automatic(value) => Err("no limit of its own: the KV cache as a whole is limited".to_owned()),
        Err(problem) => Err(problem),
    }
}

fn gpu_layers(value: &str, _: &[Given]) -> Outcome {
    match value {
        "0" => Ok(vec![(&defs::DEVICE, "cpu".to_owned())]),
        _ => Err(format!("{ONE_DEVICE}; MISTRAL_DEVICE=gpu asks for the GPU")),
    }
}

fn device(value: &str, _: &[Given]) -> Outcome {
    match value {
        "none" => Ok(vec![(&defs::DEVICE, "cpu".to_owned())]),
        _ => Err(format!("{ONE_DEVICE}; MISTRAL_DEVICE and MISTRAL_METAL_DEVICE_ID choose it")),
    }
}

/// 0 and 1 are errors, 3 the default, more is for developers. Versions before wrote words.
fn verbosity(value: &str, all: &[Given]) -> Outcome {
    let level = match number(value) {
        Ok(0..=1) => "error",
        Ok(2) => "warn",
        Ok(3) => "info",
        Ok(_) => "debug",
        Err(_) => return log_level(value, all),
    };
    Ok(vec![(&defs::LOG, level.to_owned())])
}
