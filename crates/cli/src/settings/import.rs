//! Settings of other servers as ours: llama.cpp's and Ollama's environment variables, vLLM's flags.
//!
//! [`RULES`] says for each name what it becomes. What has no counterpart is said to have none, with the reason where
//! there is one; nothing is dropped in silence.

use super::defs::{self, Def};
use super::dotenv;
use super::names::nearest;

/// A name of another server with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// What becomes of a name.
#[derive(Clone, Copy)]
enum Rule {
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
type Outcome = Result<Vec<(&'static Def, String)>, String>;

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
const RULES: &[(&str, Rule)] = &[
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

/// vLLM's short spellings.
const SHORT_FLAGS: [(&str, &str); 6] = [
    ("tp", "tensor-parallel-size"),
    ("pp", "pipeline-parallel-size"),
    ("dp", "data-parallel-size"),
    ("q", "quantization"),
    ("O", "optimization-level"),
    ("max-seq-len", "max-model-len"),
];

/// Flags of vLLM that take several values.
const LISTS: [&str; 3] = ["api-key", "served-model-name", "lora-modules"];

/// Flags of vLLM that take none and do not look like it.
const SWITCHES: [&str; 3] = ["async-scheduling", "headless", "skip-tokenizer-init"];

/// The settings that mean the same, as the text of a `.env` file.
pub(crate) fn import(given: &[Given]) -> String {
    let mut text = String::new();
    // Setting, value, and who set it.
    let mut set: Vec<(&str, String, &str)> = Vec::new();
    let mut add = |line: String| {
        // A value of several lines must not become lines of settings.
        let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
        text.extend(line.chars().map(escaped));
        text.push('\n');
    };
    for (index, item) in given.iter().enumerate() {
        add(format!("# {}={}", item.name, if is_secret(&item.name) { "***" } else { &item.value }));
        let is_last = given[index + 1..].iter().all(|later| later.name != item.name);
        let outcome = if is_last { outcome(item, given) } else { Err("given again below, which counts".to_owned()) };
        let assignments = outcome.unwrap_or_else(|reason| {
            add(format!("#   not taken over: {reason}"));
            Vec::new()
        });
        for (def, value) in assignments {
            match (set.iter().find(|(key, ..)| *key == def.key), def.kind.parse(&value)) {
                (Some((_, earlier, by)), _) if *earlier == value => add(format!("#   as {by} says")),
                (Some((_, earlier, by)), _) => {
                    let [value, earlier] =
                        [&value, earlier].map(|value| if def.kind.is_secret() { "***" } else { value });
                    add(format!("#   not taken over: {}={value}: {by} has made it {earlier}", def.env()));
                }
                (None, Err(problem)) => {
                    let allowed = def.kind.allowed();
                    let shown = if def.kind.is_secret() { "***" } else { &value };
                    add(format!("#   not taken over: {}={shown}: {problem}; allowed: {allowed}", def.env()));
                }
                (None, Ok(_)) => match dotenv::quoted(&value) {
                    Some(quoted) => {
                        add(format!("{}={quoted}", def.env()));
                        set.push((def.key, value, &item.name));
                    }
                    None => add(format!(
                        "#   not taken over: no line of a .env file can say the value of {}: it has control characters or quotes \
                         of both kinds",
                        def.env()
                    )),
                },
            }
        }
    }
    text
}

/// Whether a name is that of a secret: one that becomes one here, or says that it is one.
fn is_secret(name: &str) -> bool {
    match rule(name) {
        Some(Rule::Same(def)) => def.kind.is_secret(),
        Some(_) => false,
        None => {
            let mut words = name.split(['-', '_']);
            words.any(|word| {
                ["key", "token", "secret", "password"].iter().any(|secret| word.eq_ignore_ascii_case(secret))
            })
        }
    }
}

/// The variables of other servers in this process's environment.
pub(crate) fn from_process() -> Vec<Given> {
    from_environment(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
}

/// The variables of other servers among these, in order.
pub(crate) fn from_environment(env: impl Iterator<Item = (String, String)>) -> Vec<Given> {
    let mut given: Vec<Given> =
        env.filter(|(name, _)| is_theirs(name)).map(|(name, value)| Given { name, value }).collect();
    given.sort_by(|a, b| a.name.cmp(&b.name));
    given
}

/// Whether a name is one of llama.cpp's or Ollama's.
pub(crate) fn is_theirs(name: &str) -> bool {
    name.starts_with("LLAMA_ARG_") || name.starts_with("OLLAMA_") || name == "LLAMA_API_KEY"
}

/// vLLM's command line: `serve MODEL --flag value --flag=value --flag`. What follows a flag that is not known here may be
/// its value or not: it counts as that, and never as the model.
pub(crate) fn from_vllm_flags(arguments: &[String]) -> Vec<Given> {
    let mut given: Vec<Given> = Vec::new();
    let mut rest = arguments.iter().map(String::as_str).peekable();
    while let Some(argument) = rest.next() {
        let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            if !(given.is_empty() && matches!(argument, "vllm" | "serve")) {
                given.push(Given { name: "model".to_owned(), value: argument.to_owned() });
            }
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (flag, None),
        };
        let name = name.replace('_', "-");
        let name = SHORT_FLAGS.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| (*long).to_owned());
        let most = match rule(&name) {
            _ if value.is_some() => 0,
            None => usize::MAX,
            Some(_) if LISTS.contains(&name.as_str()) => usize::MAX,
            Some(_) => 1,
        };
        let is_value = |next: &&str| match is_switch(&name) && rule(&name).is_some() {
            true => matches!(*next, "true" | "false" | "True" | "False"),
            false => !next.starts_with('-') || next.parse::<f64>().is_ok(),
        };
        let mut values: Vec<&str> = Vec::new();
        while values.len() < most
            && let Some(next) = rest.next_if(is_value)
        {
            values.push(next);
        }
        let value = value.unwrap_or_else(|| match values.as_slice() {
            [] if is_switch(&name) || rule(&name).is_none() => "true".to_owned(),
            values => values.join(","),
        });
        given.push(Given { name, value });
    }
    given
}

/// Whether a flag of vLLM that is known here takes no value.
fn is_switch(name: &str) -> bool {
    ["enable-", "disable-", "no-", "enforce-", "trust-"].iter().any(|start| name.starts_with(start))
        || SWITCHES.contains(&name)
}

fn rule(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|(known, _)| *known == name).map(|(_, rule)| rule)
}

fn outcome(item: &Given, all: &[Given]) -> Outcome {
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The assignments in a text, without comments.
    fn lines(given: &[Given]) -> Vec<String> {
        import(given).lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn environment(pairs: &[(&str, &str)]) -> Vec<Given> {
        from_environment(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    #[test]
    fn llama_cpp_and_ollama_are_understood() {
        for (pairs, expected) in [
            (
                &[("LLAMA_ARG_CTX_SIZE", "16384"), ("LLAMA_ARG_N_PARALLEL", "4"), ("HOME", "/")][..],
                &[
                    "MISTRAL_MAX_SEQ_LEN=4096",
                    "MISTRAL_MAX_TOTAL_TOKENS=16384",
                    "MISTRAL_MAX_BATCH_SIZE=4",
                    "MISTRAL_MAX_RUNNING_REQUESTS=4",
                ][..],
            ),
            (&[("LLAMA_ARG_THREADS", "-1")], &["MISTRAL_NUM_THREADS=0"]),
            (
                &[("LLAMA_ARG_CACHE_TYPE_K", "q8_0"), ("LLAMA_ARG_CACHE_TYPE_V", "q5_1")],
                &["MISTRAL_KV_CACHE_DTYPE=q8_0"],
            ),
            (&[("LLAMA_ARG_CACHE_TYPE_K", "q8_0")], &["MISTRAL_KV_CACHE_DTYPE=q8_0,f16"]),
            (&[("LLAMA_ARG_CACHE_RAM", "-1"), ("LLAMA_ARG_TOP_K", "40"), ("LLAMA_ARG_WHATEVER", "1")], &[]),
            (&[("LLAMA_ARG_PORT", "99999")], &[]),
            (&[("OLLAMA_HOST", "0.0.0.0:11434")], &["MISTRAL_HOST=0.0.0.0", "MISTRAL_PORT=11434"]),
            (&[("OLLAMA_HOST", "http://[::1]:80/")], &["MISTRAL_HOST=::1", "MISTRAL_PORT=80"]),
            (&[("OLLAMA_FLASH_ATTENTION", "1"), ("OLLAMA_DEBUG", "0")], &["MISTRAL_USE_FLASH_ATTENTION=1"]),
            (&[("OLLAMA_HOST", "0.0.0.0")], &["MISTRAL_HOST=0.0.0.0", "MISTRAL_PORT=11434"]),
            (&[("OLLAMA_CONTEXT_LENGTH", "4096")], &["MISTRAL_MAX_SEQ_LEN=4096"]),
            (
                &[("OLLAMA_CONTEXT_LENGTH", "262144")],
                &["MISTRAL_MAX_SEQ_LEN=262144", "MISTRAL_MAX_TOTAL_TOKENS=262144"],
            ),
            (&[("OLLAMA_KEEP_ALIVE", "1h30m")], &["MISTRAL_MODEL_IDLE_TTL=5400s"]),
            (&[("OLLAMA_LLM_LIBRARY", "cpu_avx2"), ("OLLAMA_SCHED_SPREAD", "1")], &["MISTRAL_DEVICE=cpu"]),
            (&[("LLAMA_ARG_HF_FILE", "b.gguf"), ("LLAMA_ARG_HF_REPO", "o/r")], &["MISTRAL_MODEL=o/r/b.gguf"]),
            (&[("LLAMA_ARG_NO_CACHE_PROMPT", "1")], &["MISTRAL_ENABLE_PREFIX_CACHING=false"]),
            (&[("LLAMA_ARG_UBATCH", "1k")], &["MISTRAL_PREFILL_CHUNK_SIZE=1000"]),
        ] {
            assert_eq!(lines(&environment(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn a_value_stays_the_value_that_it_is() {
        for (pairs, expected) in [
            (&[("LLAMA_ARG_MODEL", "/a b/c #d.gguf")][..], &["MISTRAL_MODEL=\"/a b/c #d.gguf\""][..]),
            (&[("LLAMA_API_KEY", "'q")], &["MISTRAL_API_KEYS=\"'q\""]),
            (&[("LLAMA_ARG_MODEL", "m\nMISTRAL_INSECURE=true")], &[]),
            (&[("LLAMA_ARG_ALIAS", "x\nMISTRAL_INSECURE=true")], &[]),
            (&[("LLAMA_ARG_HOST", "")], &[]),
        ] {
            assert_eq!(lines(&environment(pairs)), expected, "{pairs:?}");
        }
        for without_value in ["vllm serve m --api-key", "vllm serve m --port --enforce-eager", "vllm serve m --host"] {
            let arguments: Vec<String> = without_value.split(' ').map(str::to_owned).collect();
            let settings = lines(&from_vllm_flags(&arguments));
            assert!(settings.iter().all(|line| line.contains("_MODEL=") || line.contains("_CAPTURE=")), "{settings:?}");
        }
    }

    #[test]
    fn flags_of_vllm_are_understood() {
        let line = "vllm serve org/model --max-model-len 32K --gpu_memory_utilization=0.85 --enforce-eager -tp 2 --max-num-seqs 32";
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        assert_eq!(
            lines(&from_vllm_flags(&arguments)),
            [
                "MISTRAL_MODEL=org/model",
                "MISTRAL_MAX_SEQ_LEN=32768",
                "MISTRAL_MEMORY_FRACTION=0.85",
                "MISTRAL_USE_GRAPH_CAPTURE=false",
                "MISTRAL_MAX_BATCH_SIZE=32",
                "MISTRAL_MAX_RUNNING_REQUESTS=32",
            ]
        );
    }

    #[test]
    fn switches_and_lists_of_vllm_leave_the_model_alone() {
        let line =
            "serve --enforce-eager org/model --revision abc --api-key a b --max-num-batched-tokens 8k --dtype half";
        let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let text = import(&from_vllm_flags(&arguments));
        for line in [
            "MISTRAL_MODEL=org/model@abc",
            "MISTRAL_USE_GRAPH_CAPTURE=false",
            "MISTRAL_API_KEYS=a,b",
            "# api-key=***",
            "# max-num-batched-tokens=8k",
            "MISTRAL_PREFILL_CHUNK_SIZE=8000",
            "MISTRAL_DEFAULT_QUANTIZATION=f16",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }

    /// What follows an unknown flag is never taken for the model.
    #[test]
    fn values_of_unknown_flags_are_no_models() {
        for (line, model, told) in [
            (
                "serve --frobnicate fast org/model",
                None,
                "# frobnicate=fast,org/model\n#   not taken over: unknown here",
            ),
            ("serve org/model --frobnicate fast", Some("org/model"), "# frobnicate=fast\n"),
            ("serve --model org/model --enable-frobs fast", Some("org/model"), "# enable-frobs=fast\n"),
            ("serve --frobnicate=fast org/model", Some("org/model"), "# frobnicate=fast\n"),
            ("serve --frobnicate --port 1 org/model", Some("org/model"), "# frobnicate=true\n"),
            ("serve --enable-lora org/model", Some("org/model"), "# enable-lora=true\n"),
            ("serve --port 1 serve", Some("serve"), "MISTRAL_PORT=1\n"),
            ("serve --max-model-length 5 org/model", None, "; the nearest known is max-model-len\n"),
        ] {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            let text = import(&from_vllm_flags(&arguments));
            let found = text.lines().find_map(|line| line.strip_prefix("MISTRAL_MODEL="));
            assert!(found == model && text.contains(told), "{line}:\n{text}");
        }
    }

    #[test]
    fn what_is_no_number_is_said_to_be_none() {
        for (value, told) in
            [("-1", "the default here is 8"), ("auto", "the default here is 8"), ("two", "not a whole number")]
        {
            let text = import(&environment(&[("OLLAMA_NUM_PARALLEL", value)]));
            assert!(text.contains(&format!("not taken over: {told}\n")), "{value}: {text}");
        }
        let text = import(&from_vllm_flags(&["--max-model-len=32x".to_owned(), "--max-num-seqs=-1".to_owned()]));
        assert!(text.contains("not a whole number") && text.contains("the default here is 8"), "{text}");
    }

    #[test]
    fn nothing_is_dropped_in_silence_and_secrets_are_not_repeated() {
        let text = import(&environment(&[("LLAMA_ARG_WHATEVER", "1"), ("LLAMA_ARG_PORT", "99999")]));
        assert!(text.contains("# LLAMA_ARG_WHATEVER=1\n#   not taken over: unknown here"), "{text}");
        assert!(text.contains("MISTRAL_PORT=99999: out of range; allowed: 0 to 65535"), "{text}");
        let text = import(&environment(&[("LLAMA_API_KEY", "sesame")]));
        assert!(text.starts_with("# LLAMA_API_KEY=***\nMISTRAL_API_KEYS=sesame\n"), "{text}");
        let text = import(&environment(&[("LLAMA_ARG_SECRET_TOKEN", "sesame"), ("OLLAMA_DEBUG", "0")]));
        assert!(!text.contains("sesame") && text.contains("OLLAMA_DEBUG=0\n#   not taken over: off"), "{text}");
        let text = import(&environment(&[("LLAMA_ARG_CTXSIZE", "1"), ("OLLAMA_NUM_PARALEL", "2")]));
        for nearest in ["LLAMA_ARG_CTX_SIZE", "OLLAMA_NUM_PARALLEL"] {
            assert!(text.contains(&format!("; the nearest known is {nearest}\n")), "{text}");
        }
    }

    #[test]
    fn two_sources_of_one_setting_are_reported() {
        let text = import(&environment(&[("LLAMA_ARG_PORT", "1"), ("OLLAMA_HOST", "127.0.0.1:2")]));
        assert!(text.contains("not taken over: MISTRAL_PORT=2: LLAMA_ARG_PORT has made it 1"), "{text}");
        let twice = ["--port", "1", "--port", "2"].map(str::to_owned);
        let text = import(&from_vllm_flags(&twice));
        assert!(text.contains("# port=1\n#   not taken over: given again below"), "{text}");
        assert!(text.contains("\nMISTRAL_PORT=2\n"), "{text}");
    }

    /// Rules lead to settings that take the values that they make.
    #[test]
    fn every_name_is_known_once() {
        for (index, (name, _)) in RULES.iter().enumerate() {
            assert!(RULES[..index].iter().all(|(other, _)| other != name), "{name} twice");
        }
    }
}
