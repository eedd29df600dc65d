//! What each name of another server becomes here: [`RULES`], and the rewriting of values that mean the same in other words.

use super::Given;
use crate::settings::defs::{self, Def};
use crate::settings::names::nearest;

/// What becomes of a name.
#[derive(Clone, Copy)]
pub(super) enum Rule {
    /// The same value.
    Same(&'static Def),
    /// A number of tokens, which may be short for thousands.
    Count(&'static Def),
    /// A value that must be rewritten.
    With(fn(&str, &[Given]) -> Outcome),
    /// Always this value, when the other is on (or is a flag without a value).
    WhenOn(&'static Def, &'static str),
    /// No counterpart, and why.
    None(&'static str),
}

/// Assignments, or why there are none.
pub(super) type Outcome = Result<Vec<(&'static Def, String)>, String>;

const ALWAYS_SO: &str = "always so here";
const PER_REQUEST: &str = "requests set it themselves";
const AS_THE_MODEL_SAYS: &str = "as the model's file says";
const ONE_DEVICE: &str = "a model runs on one device as a whole";
const BY_MEMORY: &str = "as many models are loaded as memory has room for";
const OWN_STORE: &str = "its store has a layout of its own; MISTRAL_MODEL_DIR is ours";
const NO_CORS: &str = "answers carry no CORS headers";
const NO_TLS: &str = "TLS is the business of a proxy in front";
const NAME_FLAG: &str = "give `frontier serve` the flag --name";
const NO_LORA: &str = "models are served as their files are, without adapters";
const NO_TOOL_PARSER: &str = "answers are not searched for calls of tools";
const OWN_SCHEDULER: &str = "the scheduler decides by itself";
const OWN_MEMORY: &str = "weights are packed into memory of their own";

/// Names of environment variables, or of flags without dashes.
pub(super) const RULES: &[(&str, Rule)] = &[
    // llama.cpp
    ("LLAMA_ARG_MODEL", Rule::Same(&defs::MODEL)),
    ("LLAMA_ARG_HF_REPO", Rule::With(hub_repository)),
    ("LLAMA_ARG_HF_FILE", Rule::None("taken over with LLAMA_ARG_HF_REPO")),
    ("LLAMA_ARG_MODEL_URL", Rule::None("MISTRAL_MODEL takes org/repo[:quant] of a hub")),
    ("LLAMA_ARG_MODELS_DIR", Rule::Same(&defs::MODEL)),
    ("LLAMA_ARG_MODELS_MAX", Rule::None(BY_MEMORY)),
    ("LLAMA_ARG_MODELS_AUTOLOAD", Rule::None(ALWAYS_SO)),
    ("LLAMA_ARG_CTX_SIZE", Rule::With(llama_context)),
    ("LLAMA_ARG_KV_UNIFIED_PER_SLOT", Rule::Count(&defs::MAX_SEQ_LEN)),
    ("LLAMA_ARG_N_PARALLEL", Rule::With(parallel)),
    ("LLAMA_ARG_UBATCH", Rule::Count(&defs::PREFILL_CHUNK_SIZE)),
    ("LLAMA_ARG_BATCH", Rule::None("LLAMA_ARG_UBATCH is what a step computes")),
    ("LLAMA_ARG_THREADS", Rule::With(threads)),
    ("LLAMA_ARG_THREADS_HTTP", Rule::None("two threads serve all connections")),
    ("LLAMA_ARG_HOST", Rule::Same(&defs::HOST)),
    ("LLAMA_ARG_PORT", Rule::Same(&defs::PORT)),
    ("LLAMA_API_KEY", Rule::Same(&defs::API_KEYS)),
    ("LLAMA_ARG_API_KEY_FILE", Rule::None("MISTRAL_API_KEYS takes the keys themselves")),
    ("LLAMA_ARG_SSL_KEY_FILE", Rule::None(NO_TLS)),
    ("LLAMA_ARG_SSL_CERT_FILE", Rule::None(NO_TLS)),
    ("LLAMA_ARG_CORS_ORIGINS", Rule::None(NO_CORS)),
    ("LLAMA_ARG_CORS_METHODS", Rule::None(NO_CORS)),
    ("LLAMA_ARG_CORS_HEADERS", Rule::None(NO_CORS)),
    ("LLAMA_ARG_CORS_CREDENTIALS", Rule::None(NO_CORS)),
    ("LLAMA_ARG_TIMEOUT", Rule::Same(&defs::REQUEST_TIMEOUT)),
    ("LLAMA_ARG_FLASH_ATTN", Rule::Same(&defs::USE_FLASH_ATTENTION)),
    ("LLAMA_ARG_CACHE_TYPE_K", Rule::With(llama_cache_type)),
    ("LLAMA_ARG_CACHE_TYPE_V", Rule::With(llama_cache_type)),
    ("LLAMA_ARG_CONT_BATCHING", Rule::Same(&defs::ENABLE_CONTINUOUS_BATCHING)),
    ("LLAMA_ARG_CACHE_PROMPT", Rule::Same(&defs::ENABLE_PREFIX_CACHING)),
    ("LLAMA_ARG_CACHE_RAM", Rule::With(mebibytes)),
    ("LLAMA_ARG_CACHE_REUSE", Rule::None("prefixes are reused, pieces after them are not")),
    ("LLAMA_ARG_CONTEXT_SHIFT", Rule::None("MISTRAL_CONTEXT_OVERFLOW says what becomes of prompts that are too long")),
    ("LLAMA_ARG_MAIN_GPU", Rule::Same(&defs::METAL_DEVICE_ID)),
    ("LLAMA_ARG_N_GPU_LAYERS", Rule::With(gpu_layers)),
    ("LLAMA_ARG_DEVICE", Rule::With(llama_device)),
    ("LLAMA_ARG_SPLIT_MODE", Rule::None(ONE_DEVICE)),
    ("LLAMA_ARG_TENSOR_SPLIT", Rule::None(ONE_DEVICE)),
    ("LLAMA_ARG_CPU_MOE", Rule::None(ONE_DEVICE)),
    ("LLAMA_ARG_N_CPU_MOE", Rule::None(ONE_DEVICE)),
    ("LLAMA_ARG_FIT", Rule::None("what is not set is always made to fit here")),
    ("LLAMA_ARG_FIT_TARGET", Rule::None("MISTRAL_MEMORY_FRACTION says how much of memory is used")),
    ("LLAMA_ARG_MLOCK", Rule::None(OWN_MEMORY)),
    ("LLAMA_ARG_MMAP", Rule::None(OWN_MEMORY)),
    ("LLAMA_ARG_LOAD_MODE", Rule::None(OWN_MEMORY)),
    ("LLAMA_ARG_REPACK", Rule::None(ALWAYS_SO)),
    ("LLAMA_ARG_LOG_VERBOSITY", Rule::With(llama_verbosity)),
    ("LLAMA_ARG_LOG_JSONL", Rule::WhenOn(&defs::LOG_FORMAT, "json")),
    ("LLAMA_ARG_LOG_FILE", Rule::None("the log goes to standard error")),
    ("LLAMA_ARG_ENDPOINT_METRICS", Rule::None(ALWAYS_SO)),
    ("LLAMA_ARG_JINJA", Rule::None(ALWAYS_SO)),
    ("LLAMA_ARG_KV_UNIFIED", Rule::None(ALWAYS_SO)),
    ("LLAMA_ARG_ALIAS", Rule::None(NAME_FLAG)),
    ("LLAMA_ARG_CHAT_TEMPLATE", Rule::None(AS_THE_MODEL_SAYS)),
    ("LLAMA_ARG_CHAT_TEMPLATE_FILE", Rule::None(AS_THE_MODEL_SAYS)),
    ("LLAMA_ARG_ROPE_SCALING_TYPE", Rule::None(AS_THE_MODEL_SAYS)),
    ("LLAMA_ARG_ROPE_SCALE", Rule::None(AS_THE_MODEL_SAYS)),
    ("LLAMA_ARG_ROPE_FREQ_BASE", Rule::None(AS_THE_MODEL_SAYS)),
    ("LLAMA_ARG_ROPE_FREQ_SCALE", Rule::None(AS_THE_MODEL_SAYS)),
    ("LLAMA_ARG_TEMPERATURE", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_TOP_K", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_TOP_P", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_MIN_P", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_REPEAT_PENALTY", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_PRESENCE_PENALTY", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_FREQUENCY_PENALTY", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_N_PREDICT", Rule::None(PER_REQUEST)),
    // Ollama
    ("OLLAMA_HOST", Rule::With(ollama_host)),
    ("OLLAMA_MODELS", Rule::None(OWN_STORE)),
    ("OLLAMA_NUM_PARALLEL", Rule::With(parallel)),
    ("OLLAMA_MAX_QUEUE", Rule::Same(&defs::MAX_QUEUED_REQUESTS)),
    ("OLLAMA_MAX_LOADED_MODELS", Rule::None(BY_MEMORY)),
    ("OLLAMA_CONTEXT_LENGTH", Rule::With(context)),
    ("OLLAMA_KV_CACHE_TYPE", Rule::With(own_cache_type)),
    ("OLLAMA_FLASH_ATTENTION", Rule::Same(&defs::USE_FLASH_ATTENTION)),
    ("OLLAMA_DEBUG", Rule::WhenOn(&defs::LOG, "debug")),
    ("OLLAMA_KEEP_ALIVE", Rule::With(ollama_keep_alive)),
    ("OLLAMA_LOAD_TIMEOUT", Rule::None("a load takes as long as it takes; MISTRAL_REQUEST_TIMEOUT bounds the wait")),
    ("OLLAMA_GPU_OVERHEAD", Rule::None("MISTRAL_METAL_HEAP_SIZE says how much may be used")),
    ("OLLAMA_SCHED_SPREAD", Rule::None(ONE_DEVICE)),
    ("OLLAMA_LLM_LIBRARY", Rule::With(ollama_library)),
    ("OLLAMA_ORIGINS", Rule::None(NO_CORS)),
    ("OLLAMA_NOPRUNE", Rule::None(OWN_STORE)),
    // vLLM
    ("model", Rule::With(vllm_model)),
    ("revision", Rule::None("taken over with the model")),
    ("host", Rule::Same(&defs::HOST)),
    ("port", Rule::Same(&defs::PORT)),
    ("api-key", Rule::Same(&defs::API_KEYS)),
    ("max-model-len", Rule::With(vllm_context)),
    ("max-num-seqs", Rule::With(parallel)),
    ("max-num-batched-tokens", Rule::Count(&defs::PREFILL_CHUNK_SIZE)),
    ("gpu-memory-utilization", Rule::Same(&defs::MEMORY_FRACTION)),
    ("kv-cache-memory-bytes", Rule::None("MISTRAL_MAX_TOTAL_TOKENS sizes the KV cache in tokens")),
    ("kv-cache-dtype", Rule::With(own_cache_type)),
    ("block-size", Rule::None("a page has 64 tokens")),
    ("swap-space", Rule::None("preempted requests are computed again")),
    ("cpu-offload-gb", Rule::None(ONE_DEVICE)),
    ("enable-prefix-caching", Rule::Same(&defs::ENABLE_PREFIX_CACHING)),
    ("no-enable-prefix-caching", Rule::WhenOn(&defs::ENABLE_PREFIX_CACHING, "false")),
    ("enforce-eager", Rule::WhenOn(&defs::USE_GRAPH_CAPTURE, "false")),
    ("tensor-parallel-size", Rule::With(one_rank)),
    ("pipeline-parallel-size", Rule::With(one_rank)),
    ("data-parallel-size", Rule::With(one_rank)),
    ("dtype", Rule::With(vllm_dtype)),
    ("quantization", Rule::None("MISTRAL_DEFAULT_QUANTIZATION chooses how weights that arrive unquantized are held")),
    ("device", Rule::With(vllm_device)),
    ("max-logprobs", Rule::Same(&defs::MAX_TOP_LOGPROBS)),
    ("download-dir", Rule::None(OWN_STORE)),
    ("hf-token", Rule::Same(&defs::HUB_TOKEN)),
    ("uvicorn-log-level", Rule::With(uvicorn_level)),
    ("h11-max-incomplete-event-size", Rule::Same(&defs::MAX_HEADER_SIZE)),
    ("h11-max-header-count", Rule::Same(&defs::MAX_HEADERS)),
    ("enable-chunked-prefill", Rule::None(ALWAYS_SO)),
    ("served-model-name", Rule::None(NAME_FLAG)),
    ("trust-remote-code", Rule::None("code that comes with models is never run")),
    ("disable-log-requests", Rule::None(ALWAYS_SO)),
    ("disable-log-stats", Rule::None(ALWAYS_SO)),
    ("chat-template", Rule::None(AS_THE_MODEL_SAYS)),
    ("tokenizer", Rule::None(AS_THE_MODEL_SAYS)),
    ("rope-scaling", Rule::None(AS_THE_MODEL_SAYS)),
    ("load-format", Rule::None(AS_THE_MODEL_SAYS)),
    ("generation-config", Rule::None(PER_REQUEST)),
    ("override-generation-config", Rule::None(PER_REQUEST)),
    ("seed", Rule::None(PER_REQUEST)),
    ("ssl-keyfile", Rule::None(NO_TLS)),
    ("ssl-certfile", Rule::None(NO_TLS)),
    ("allowed-origins", Rule::None(NO_CORS)),
    ("enable-lora", Rule::None(NO_LORA)),
    ("lora-modules", Rule::None(NO_LORA)),
    ("max-loras", Rule::None(NO_LORA)),
    ("max-lora-rank", Rule::None(NO_LORA)),
    ("enable-auto-tool-choice", Rule::None(NO_TOOL_PARSER)),
    ("tool-call-parser", Rule::None(NO_TOOL_PARSER)),
    ("reasoning-parser", Rule::None("answers come as the model writes them")),
    ("speculative-config", Rule::None("each token is computed by the model itself")),
    ("scheduling-policy", Rule::None("requests have a `priority`")),
    ("async-scheduling", Rule::None(OWN_SCHEDULER)),
    ("max-num-partial-prefills", Rule::None(OWN_SCHEDULER)),
    ("long-prefill-token-threshold", Rule::None(OWN_SCHEDULER)),
    ("num-gpu-blocks-override", Rule::None("MISTRAL_MAX_TOTAL_TOKENS sizes the KV cache in tokens")),
    ("distributed-executor-backend", Rule::None(ONE_DEVICE)),
    ("enable-expert-parallel", Rule::None(ONE_DEVICE)),
    ("headless", Rule::None(ONE_DEVICE)),
    ("api-server-count", Rule::None("two threads serve all connections")),
    ("compilation-config", Rule::None("kernels are compiled beforehand")),
    ("optimization-level", Rule::None("kernels are compiled beforehand")),
    ("tokenizer-mode", Rule::None(AS_THE_MODEL_SAYS)),
    ("skip-tokenizer-init", Rule::None("texts are always turned into tokens here")),
    ("config-format", Rule::None(AS_THE_MODEL_SAYS)),
    ("hf-overrides", Rule::None(AS_THE_MODEL_SAYS)),
    ("enable-log-requests", Rule::None("MISTRAL_LOG=debug tells of each request")),
    ("disable-uvicorn-access-log", Rule::None(ALWAYS_SO)),
];

/// The rule for a name.
pub(super) fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|(known, _)| *known == name).map(|(_, rule)| rule)
}

/// What becomes of `item`, which is among `all`.
pub(super) fn outcome(item: &Given, all: &[Given]) -> Outcome {
    // llama.cpp turns a switch off by a name with `NO_` in it, whatever its value.
    let negated = item.name.strip_prefix("LLAMA_ARG_NO_").map(|rest| format!("LLAMA_ARG_{rest}"));
    let (rule, value) = match (rule(&item.name), negated.and_then(|name| rule(&name))) {
        (Some(rule), _) => (rule, item.value.as_str()),
        (None, Some(rule)) => (rule, "false"),
        (None, None) => return Err(unknown(&item.name)),
    };
    match rule {
        Rule::Same(_) | Rule::Count(_) | Rule::With(_) if value.is_empty() => Err("no value".to_owned()),
        Rule::Same(def) => Ok(vec![(*def, value.to_owned())]),
        Rule::Count(def) => Ok(vec![(*def, count(value)?.to_string())]),
        Rule::With(rewrite) => rewrite(value, all),
        Rule::WhenOn(def, text) if is_on(value) => Ok(vec![(*def, (*text).to_owned())]),
        Rule::WhenOn(..) => Err("off, as it is here unless something else says so".to_owned()),
        Rule::None(reason) => Err((*reason).to_owned()),
    }
}

/// What is said of a name without a rule: the nearest that has one, of the same server.
fn unknown(name: &str) -> String {
    let server = |name: &str| ["LLAMA_", "OLLAMA_"].into_iter().find(|start| name.starts_with(start));
    let known = RULES.iter().map(|(known, _)| *known).filter(|known| server(known) == server(name));
    let nearest = nearest(name, known.map(str::to_owned)).map(|known| format!("; the nearest known is {known}"));
    format!("unknown here, so that it has no counterpart{}", nearest.unwrap_or_default())
}

fn is_on(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "false" | "off" | "no")
}

/// How other servers ask for what fits.
fn is_automatic(value: &str) -> bool {
    matches!(value.trim(), "-1" | "auto")
}

fn number(value: &str) -> Result<u64, String> {
    value.trim().parse().map_err(|_| "not a whole number".to_owned())
}

/// A number as vLLM writes them: `32k` is 32,000, `32K` is 32,768, and `m` and `M` accordingly.
fn count(value: &str) -> Result<u64, String> {
    let value = value.trim();
    let factor = match value.chars().last() {
        Some('k') => 1_000,
        Some('K') => 1 << 10,
        Some('m') => 1_000_000,
        Some('M') => 1 << 20,
        _ => return number(value),
    };
    Ok(number(&value[..value.len() - 1])?.saturating_mul(factor))
}

fn value_of<'a>(all: &'a [Given], name: &str) -> Option<&'a str> {
    all.iter().rev().find(|item| item.name == name).map(|item| item.value.as_str())
}

/// A repository with a file in it.
fn hub_repository(value: &str, all: &[Given]) -> Outcome {
    let file = value_of(all, "LLAMA_ARG_HF_FILE").map(|file| format!("/{file}")).unwrap_or_default();
    Ok(vec![(&defs::MODEL, format!("{value}{file}"))])
}

fn vllm_model(value: &str, all: &[Given]) -> Outcome {
    let revision = value_of(all, "revision").map(|revision| format!("@{revision}")).unwrap_or_default();
    Ok(vec![(&defs::MODEL, format!("{value}{revision}"))])
}

/// llama.cpp shares its context out to the slots; ours is for each request, and the pool for all.
fn llama_context(value: &str, all: &[Given]) -> Outcome {
    let total = count(value)?;
    if total == 0 {
        return Err("0 means the model's own, which is the default here".to_owned());
    }
    let slots = value_of(all, "LLAMA_ARG_N_PARALLEL").and_then(|slots| number(slots).ok());
    let each = total / slots.unwrap_or(1).max(1);
    Ok(vec![(&defs::MAX_SEQ_LEN, each.to_string()), (&defs::MAX_TOTAL_TOKENS, total.to_string())])
}

fn parallel(value: &str, _: &[Given]) -> Outcome {
    number(value).map_err(|problem| if is_automatic(value) { "the default here is 8".to_owned() } else { problem })?;
    Ok(vec![(&defs::MAX_BATCH_SIZE, value.to_owned()), (&defs::MAX_RUNNING_REQUESTS, value.to_owned())])
}

fn one_rank(value: &str, _: &[Given]) -> Outcome {
    match number(value)? {
        1 => Err("one rank runs anyway".to_owned()),
        _ => Err("this version runs one rank".to_owned()),
    }
}

/// llama.cpp writes -1 for automatic.
fn threads(value: &str, _: &[Given]) -> Outcome {
    Ok(vec![(&defs::NUM_THREADS, if value.starts_with('-') { "0".to_owned() } else { value.to_owned() })])
}

fn llama_cache_type(_: &str, all: &[Given]) -> Outcome {
    let of = |name: &str| value_of(all, name).unwrap_or("f16");
    let (keys, values) = (cache_type(of("LLAMA_ARG_CACHE_TYPE_K"))?, cache_type(of("LLAMA_ARG_CACHE_TYPE_V"))?);
    let both = if keys == values { keys.to_owned() } else { format!("{keys},{values}") };
    Ok(vec![(&defs::KV_CACHE_DTYPE, both)])
}

fn own_cache_type(value: &str, _: &[Given]) -> Outcome {
    Ok(vec![(&defs::KV_CACHE_DTYPE, cache_type(value)?.to_owned())])
}

/// Our type for one of theirs: the same, or the next with more bits.
fn cache_type(value: &str) -> Result<&'static str, String> {
    Ok(match value.trim().to_ascii_lowercase().as_str() {
        "f32" => "f32",
        "auto" | "f16" | "half" | "float16" => "f16",
        "bf16" | "bfloat16" => "bf16",
        "q8_0" | "q5_0" | "q5_1" | "fp8" | "fp8_e4m3" | "fp8_e5m2" => "q8_0",
        "q4_0" | "q4_1" | "iq4_nl" => "q4_0",
        other => return Err(format!("unknown type {other:?}")),
    })
}

fn mebibytes(value: &str, _: &[Given]) -> Outcome {
    match number(value) {
        Ok(mebibytes) => Ok(vec![(&defs::PREFIX_CACHE_SIZE, format!("{mebibytes}MiB"))]),
        Err(_) => Err("no limit of its own: the KV cache as a whole is limited".to_owned()),
    }
}

fn gpu_layers(value: &str, _: &[Given]) -> Outcome {
    match value.trim() {
        "0" => Ok(vec![(&defs::DEVICE, "cpu".to_owned())]),
        _ => Err("a model runs on one device as a whole; MISTRAL_DEVICE=gpu asks for the GPU".to_owned()),
    }
}

fn llama_device(value: &str, _: &[Given]) -> Outcome {
    match value.trim() {
        "none" => Ok(vec![(&defs::DEVICE, "cpu".to_owned())]),
        _ => Err(format!("{ONE_DEVICE}; MISTRAL_DEVICE and MISTRAL_METAL_DEVICE_ID choose it")),
    }
}

fn vllm_device(value: &str, _: &[Given]) -> Outcome {
    match value.trim() {
        "cpu" | "auto" => Ok(vec![(&defs::DEVICE, value.trim().to_owned())]),
        other => Err(format!("{other} is no device here; MISTRAL_DEVICE=gpu asks for the GPU")),
    }
}

fn ollama_library(value: &str, _: &[Given]) -> Outcome {
    match value.trim().starts_with("cpu") {
        true => Ok(vec![(&defs::DEVICE, "cpu".to_owned())]),
        false => Err("MISTRAL_DEVICE=gpu asks for the GPU".to_owned()),
    }
}

/// Python's words for our levels.
fn uvicorn_level(value: &str, _: &[Given]) -> Outcome {
    let level = match value.trim() {
        "critical" => "error",
        "warning" => "warn",
        other => other,
    };
    Ok(vec![(&defs::LOG, level.to_owned())])
}

/// 0 to 2 are errors, 3 the default, more is for developers.
fn llama_verbosity(value: &str, _: &[Given]) -> Outcome {
    let level = match number(value)? {
        0..=1 => "error",
        2 => "warn",
        3 => "info",
        _ => "debug",
    };
    Ok(vec![(&defs::LOG, level.to_owned())])
}

/// `127.0.0.1:11434`, a port alone, or a URL. Without a port it is that of the scheme, without that Ollama's own.
fn ollama_host(value: &str, _: &[Given]) -> Outcome {
    let (plain, usual_port) = match value.trim() {
        text if text.starts_with("http://") => (&text[7..], "80"),
        text if text.starts_with("https://") => (&text[8..], "443"),
        text => (text, "11434"),
    };
    let plain = plain.trim_end_matches('/');
    let (host, port) = match plain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (plain, usual_port),
    };
    let host = host.trim_matches(['[', ']']);
    let host = (!host.is_empty()).then(|| (&defs::HOST, host.to_owned()));
    Ok(host
        .into_iter()
        .chain([(&defs::PORT, port.to_owned())])
        .map(|(def, value)| (def as &'static Def, value))
        .collect())
}

/// Ollama keeps models for ever when the time is negative. Its times may have several parts: `1h30m`.
fn ollama_keep_alive(value: &str, _: &[Given]) -> Outcome {
    let value = value.trim();
    if value.starts_with('-') {
        return Err("models stay loaded by default".to_owned());
    }
    let mut seconds = 0.0;
    for part in value.split_inclusive(['h', 'm', 's']) {
        let digits = part.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let number: f64 = digits.parse().map_err(|_| "not a time".to_owned())?;
        seconds += number
            * match &part[digits.len()..] {
                "h" => 3600.0,
                "m" => 60.0,
                "" | "s" => 1.0,
                other => return Err(format!("unknown unit {other:?}")),
            };
    }
    Ok(vec![(&defs::MODEL_IDLE_TTL, format!("{seconds}s"))])
}

/// Tokens of one request, and a KV cache that holds so many.
fn context(value: &str, _: &[Given]) -> Outcome {
    let tokens = count(value)?;
    let held = defs::MAX_TOTAL_TOKENS.default.and_then(|held| held.parse().ok());
    let more = held.is_some_and(|held: u64| tokens > held);
    let total = more.then(|| (&defs::MAX_TOTAL_TOKENS, tokens.to_string()));
    Ok([(&defs::MAX_SEQ_LEN, tokens.to_string())].into_iter().chain(total).collect())
}

/// vLLM takes `-1` and `auto` for what fits.
fn vllm_context(value: &str, given: &[Given]) -> Outcome {
    let own = "the default here is the model's own, at most 32768".to_owned();
    context(value, given).map_err(|problem| if is_automatic(value) { own } else { problem })
}

fn vllm_dtype(value: &str, _: &[Given]) -> Outcome {
    match value.trim() {
        "float16" | "half" => Ok(vec![(&defs::DEFAULT_QUANTIZATION, "f16".to_owned())]),
        "bfloat16" => Ok(vec![(&defs::DEFAULT_QUANTIZATION, "bf16".to_owned())]),
        other => Err(format!("{other} has no counterpart; MISTRAL_DEFAULT_QUANTIZATION chooses how weights are held")),
    }
}
