//! Settings of other servers as ours: llama.cpp's and Ollama's environment variables, vLLM's flags.
//!
//! [`RULES`] says for each name what it becomes. What has no counterpart is said to have none, with the reason where
//! there is one; nothing is dropped in silence.

use std::fmt::Write;

use super::defs::{self, Def};

/// A name of another server with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) name: String,
    pub(crate) value: String,
}

/// What becomes of a name.
#[derive(Clone, Copy)]
enum Rule {
    /// The same value under each of these names.
    Same(&'static [&'static Def]),
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

/// Names of environment variables, or of flags without dashes.
const RULES: &[(&str, Rule)] = &[
    // llama.cpp
    ("LLAMA_ARG_MODEL", Rule::Same(&[&defs::MODEL])),
    ("LLAMA_ARG_HF_REPO", Rule::Same(&[&defs::MODEL])),
    ("LLAMA_ARG_CTX_SIZE", Rule::With(llama_context)),
    ("LLAMA_ARG_N_PARALLEL", Rule::With(parallel)),
    ("LLAMA_ARG_UBATCH", Rule::Same(&[&defs::PREFILL_CHUNK_SIZE])),
    ("LLAMA_ARG_BATCH", Rule::None("LLAMA_ARG_UBATCH is what a step computes")),
    ("LLAMA_ARG_THREADS", Rule::With(threads)),
    ("LLAMA_ARG_HOST", Rule::Same(&[&defs::HOST])),
    ("LLAMA_ARG_PORT", Rule::Same(&[&defs::PORT])),
    ("LLAMA_API_KEY", Rule::Same(&[&defs::API_KEYS])),
    ("LLAMA_ARG_TIMEOUT", Rule::Same(&[&defs::REQUEST_TIMEOUT])),
    ("LLAMA_ARG_FLASH_ATTN", Rule::Same(&[&defs::USE_FLASH_ATTENTION])),
    ("LLAMA_ARG_CACHE_TYPE_K", Rule::With(llama_cache_type)),
    ("LLAMA_ARG_CACHE_TYPE_V", Rule::With(llama_cache_type)),
    ("LLAMA_ARG_CONT_BATCHING", Rule::Same(&[&defs::ENABLE_CONTINUOUS_BATCHING])),
    ("LLAMA_ARG_CACHE_PROMPT", Rule::Same(&[&defs::ENABLE_PREFIX_CACHING])),
    ("LLAMA_ARG_CACHE_RAM", Rule::With(mebibytes)),
    ("LLAMA_ARG_MODELS_DIR", Rule::None("name the directory on the command line: frontier serve DIR")),
    ("LLAMA_ARG_MAIN_GPU", Rule::Same(&[&defs::METAL_DEVICE_ID])),
    ("LLAMA_ARG_N_GPU_LAYERS", Rule::With(gpu_layers)),
    ("LLAMA_ARG_LOG_VERBOSITY", Rule::With(llama_verbosity)),
    ("LLAMA_ARG_LOG_JSONL", Rule::WhenOn(&defs::LOG_FORMAT, "json")),
    ("LLAMA_ARG_ENDPOINT_METRICS", Rule::None(ALWAYS_SO)),
    ("LLAMA_ARG_JINJA", Rule::None(ALWAYS_SO)),
    ("LLAMA_ARG_KV_UNIFIED", Rule::None(ALWAYS_SO)),
    ("LLAMA_ARG_ALIAS", Rule::None("give `frontier serve` the flag --name")),
    ("LLAMA_ARG_TEMPERATURE", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_TOP_K", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_TOP_P", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_MIN_P", Rule::None(PER_REQUEST)),
    ("LLAMA_ARG_N_PREDICT", Rule::None(PER_REQUEST)),
    // Ollama
    ("OLLAMA_HOST", Rule::With(ollama_host)),
    ("OLLAMA_MODELS", Rule::None("its store has a layout of its own; MISTRAL_MODEL_DIR is ours")),
    ("OLLAMA_NUM_PARALLEL", Rule::With(parallel)),
    ("OLLAMA_MAX_QUEUE", Rule::Same(&[&defs::MAX_QUEUED_REQUESTS])),
    ("OLLAMA_CONTEXT_LENGTH", Rule::Same(&[&defs::MAX_SEQ_LEN])),
    ("OLLAMA_KV_CACHE_TYPE", Rule::With(|value, _| Ok(vec![(&defs::KV_CACHE_DTYPE, cache_type(value)?.to_owned())]))),
    ("OLLAMA_FLASH_ATTENTION", Rule::Same(&[&defs::USE_FLASH_ATTENTION])),
    ("OLLAMA_DEBUG", Rule::WhenOn(&defs::LOG, "debug")),
    ("OLLAMA_KEEP_ALIVE", Rule::With(ollama_keep_alive)),
    ("OLLAMA_ORIGINS", Rule::None("answers carry no CORS headers")),
    // vLLM
    ("model", Rule::Same(&[&defs::MODEL])),
    ("host", Rule::Same(&[&defs::HOST])),
    ("port", Rule::Same(&[&defs::PORT])),
    ("api-key", Rule::Same(&[&defs::API_KEYS])),
    ("max-model-len", Rule::With(thousands_of_tokens)),
    ("max-num-seqs", Rule::With(parallel)),
    ("max-num-batched-tokens", Rule::Same(&[&defs::PREFILL_CHUNK_SIZE])),
    ("gpu-memory-utilization", Rule::Same(&[&defs::MEMORY_FRACTION])),
    ("kv-cache-dtype", Rule::With(|value, _| Ok(vec![(&defs::KV_CACHE_DTYPE, cache_type(value)?.to_owned())]))),
    ("enable-prefix-caching", Rule::WhenOn(&defs::ENABLE_PREFIX_CACHING, "true")),
    ("no-enable-prefix-caching", Rule::WhenOn(&defs::ENABLE_PREFIX_CACHING, "false")),
    ("enforce-eager", Rule::WhenOn(&defs::USE_GRAPH_CAPTURE, "false")),
    ("tensor-parallel-size", Rule::Same(&[&defs::TENSOR_PARALLEL_SIZE])),
    ("pipeline-parallel-size", Rule::Same(&[&defs::PIPELINE_PARALLEL_SIZE])),
    ("dtype", Rule::With(vllm_dtype)),
    ("max-logprobs", Rule::Same(&[&defs::MAX_TOP_LOGPROBS])),
    ("download-dir", Rule::None("its store has a layout of its own; MISTRAL_MODEL_DIR is ours")),
    ("hf-token", Rule::Same(&[&defs::HUB_TOKEN])),
    ("uvicorn-log-level", Rule::Same(&[&defs::LOG])),
    ("enable-chunked-prefill", Rule::None(ALWAYS_SO)),
    ("served-model-name", Rule::None("give `frontier serve` the flag --name")),
    ("trust-remote-code", Rule::None("code that comes with models is never run")),
    ("disable-log-requests", Rule::None(ALWAYS_SO)),
];

/// vLLM's short spellings.
const SHORT_FLAGS: [(&str, &str); 3] =
    [("tp", "tensor-parallel-size"), ("pp", "pipeline-parallel-size"), ("O", "optimization-level")];

/// The settings that mean the same, as the text of a `.env` file.
pub(crate) fn import(given: &[Given]) -> String {
    let mut text = String::new();
    let mut set: Vec<&str> = Vec::new();
    for item in given {
        let is_secret = item.name.contains("KEY") || item.name.contains("key") || item.name.contains("token");
        let shown = if is_secret { "***" } else { item.value.as_str() };
        writeln!(text, "# {}={shown}", item.name).expect("writing to a String succeeds");
        match outcome(item, given) {
            Err(reason) => writeln!(text, "#   not taken over: {reason}").expect("writing to a String succeeds"),
            Ok(assignments) => {
                for (def, value) in
                    assignments.into_iter().filter(|(def, _)| !set.contains(&def.key)).collect::<Vec<_>>()
                {
                    text += &assignment(def, &value);
                    set.push(def.key);
                }
            }
        }
    }
    text
}

/// The variables of other servers in this process's environment.
pub(crate) fn from_process() -> Vec<Given> {
    from_environment(std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))))
}

/// The variables of other servers among these, in order.
pub(crate) fn from_environment(env: impl Iterator<Item = (String, String)>) -> Vec<Given> {
    let known = |name: &str| name.starts_with("LLAMA_ARG_") || name.starts_with("OLLAMA_") || name == "LLAMA_API_KEY";
    let mut given: Vec<Given> =
        env.filter(|(name, _)| known(name)).map(|(name, value)| Given { name, value }).collect();
    given.sort_by(|a, b| a.name.cmp(&b.name));
    given
}

/// vLLM's command line: `serve MODEL --flag value --flag=value --flag`.
pub(crate) fn from_vllm_flags(arguments: &[String]) -> Vec<Given> {
    let mut given = Vec::new();
    let mut rest = arguments.iter().map(String::as_str).peekable();
    while let Some(argument) = rest.next() {
        let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            if !matches!(argument, "vllm" | "serve") {
                given.push(Given { name: "model".to_owned(), value: argument.to_owned() });
            }
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let is_value = |next: &&str| !next.starts_with('-') || next.parse::<f64>().is_ok();
                (flag, rest.next_if(is_value).unwrap_or("true").to_owned())
            }
        };
        let name = name.replace('_', "-");
        let long = SHORT_FLAGS.iter().find(|(short, _)| *short == name).map_or(name.as_str(), |(_, long)| long);
        given.push(Given { name: long.to_owned(), value });
    }
    given
}

fn outcome(item: &Given, all: &[Given]) -> Outcome {
    let Some((_, rule)) = RULES.iter().find(|(name, _)| *name == item.name) else {
        return Err("no counterpart".to_owned());
    };
    match rule {
        Rule::Same(defs) => Ok(defs.iter().map(|def| (*def, item.value.clone())).collect()),
        Rule::With(rewrite) => rewrite(&item.value, all),
        Rule::WhenOn(def, value) if is_on(&item.value) => Ok(vec![(*def, (*value).to_owned())]),
        Rule::WhenOn(..) => Ok(Vec::new()),
        Rule::None(reason) => Err((*reason).to_owned()),
    }
}

/// A line of the file; a value that is out of range is written, but not set.
fn assignment(def: &Def, value: &str) -> String {
    match def.kind.parse(value) {
        Ok(_) => format!("{}={value}\n", def.env()),
        Err(problem) => {
            format!("#   not taken over: {}={value}: {problem}; allowed: {}\n", def.env(), def.kind.allowed())
        }
    }
}

fn is_on(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "false" | "off" | "no")
}

fn number(value: &str) -> Result<u64, String> {
    value.trim().parse().map_err(|_| "not a whole number".to_owned())
}

/// llama.cpp shares its context out to the slots; ours is for each request, and the pool for all.
fn llama_context(value: &str, all: &[Given]) -> Outcome {
    let total = number(value)?;
    if total == 0 {
        return Err("0 means the model's own, which is the default here".to_owned());
    }
    let slots = all.iter().find(|item| item.name == "LLAMA_ARG_N_PARALLEL").and_then(|item| number(&item.value).ok());
    let each = total / slots.unwrap_or(1).max(1);
    Ok(vec![(&defs::MAX_SEQ_LEN, each.to_string()), (&defs::MAX_TOTAL_TOKENS, total.to_string())])
}

fn parallel(value: &str, _: &[Given]) -> Outcome {
    number(value).map_err(|_| "the default here is 8".to_owned())?;
    Ok(vec![(&defs::MAX_BATCH_SIZE, value.to_owned()), (&defs::MAX_RUNNING_REQUESTS, value.to_owned())])
}

/// llama.cpp writes -1 for automatic.
fn threads(value: &str, _: &[Given]) -> Outcome {
    Ok(vec![(&defs::NUM_THREADS, if value.starts_with('-') { "0".to_owned() } else { value.to_owned() })])
}

fn llama_cache_type(_: &str, all: &[Given]) -> Outcome {
    let of = |name: &str| all.iter().find(|item| item.name == name).map_or("f16", |item| item.value.as_str());
    let (keys, values) = (cache_type(of("LLAMA_ARG_CACHE_TYPE_K"))?, cache_type(of("LLAMA_ARG_CACHE_TYPE_V"))?);
    let both = if keys == values { keys.to_owned() } else { format!("{keys},{values}") };
    Ok(vec![(&defs::KV_CACHE_DTYPE, both)])
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

/// `127.0.0.1:11434`, a port alone, or a URL.
fn ollama_host(value: &str, _: &[Given]) -> Outcome {
    let plain = value.trim().trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
    let (host, port) = match plain.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host.trim_matches(['[', ']']), port),
        _ => (plain.trim_matches(['[', ']']), ""),
    };
    let mut assignments = Vec::new();
    if !host.is_empty() {
        assignments.push((&defs::HOST, host.to_owned()));
    }
    if !port.is_empty() {
        assignments.push((&defs::PORT, port.to_owned()));
    }
    Ok(assignments)
}

/// Ollama keeps models for ever when the time is negative.
fn ollama_keep_alive(value: &str, _: &[Given]) -> Outcome {
    if value.starts_with('-') {
        return Err("models stay loaded by default".to_owned());
    }
    Ok(vec![(&defs::MODEL_IDLE_TTL, value.to_owned())])
}

/// vLLM takes `32k` (32,000) and `32K` (32,768).
fn thousands_of_tokens(value: &str, _: &[Given]) -> Outcome {
    let value = value.trim();
    let (digits, factor) = match value.chars().last() {
        Some('k') => (&value[..value.len() - 1], 1000),
        Some('K') => (&value[..value.len() - 1], 1024),
        _ => (value, 1),
    };
    let tokens = number(digits).map_err(|_| "the default here is the model's own, at most 32768".to_owned())?;
    Ok(vec![(&defs::MAX_SEQ_LEN, (tokens.saturating_mul(factor)).to_string())])
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
        ] {
            assert_eq!(lines(&environment(pairs)), expected, "{pairs:?}");
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
                "MISTRAL_TENSOR_PARALLEL_SIZE=2",
                "MISTRAL_MAX_BATCH_SIZE=32",
                "MISTRAL_MAX_RUNNING_REQUESTS=32",
            ]
        );
    }

    #[test]
    fn nothing_is_dropped_in_silence_and_secrets_are_not_repeated() {
        let text = import(&environment(&[("LLAMA_ARG_WHATEVER", "1"), ("LLAMA_ARG_PORT", "99999")]));
        assert!(text.contains("# LLAMA_ARG_WHATEVER=1\n#   not taken over: no counterpart"), "{text}");
        assert!(text.contains("MISTRAL_PORT=99999: out of range; allowed: 0 to 65535"), "{text}");
        let text = import(&environment(&[("LLAMA_API_KEY", "sesame")]));
        assert!(text.starts_with("# LLAMA_API_KEY=***\nMISTRAL_API_KEYS=sesame\n"), "{text}");
    }
}
