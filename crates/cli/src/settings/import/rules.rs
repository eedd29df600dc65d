//! What a name of another server becomes here, and what all of them have in common: numbers, types, reasons.
//!
//! Each server has a file with all its names: [`llama_cpp`], [`ollama`], [`vllm`].

use super::{Given, llama_cpp, ollama, vllm};
use crate::settings::defs::{self, Def};
use crate::settings::names::nearest_of;
use crate::settings::value::Kind;

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

/// The names of a server.
pub(super) struct Names {
    /// Those with a rule each.
    pub(super) rules: &'static [(&'static str, Rule)],
    /// Those without a counterpart, by the reason.
    pub(super) without: &'static [(&'static str, &'static [&'static str])],
    /// Finds the name that is turned off by one that says so: `LLAMA_ARG_NO_MMAP`, `no-async-scheduling`.
    pub(super) negated: fn(&str) -> Option<String>,
}

pub(super) const SERVERS: [Names; 3] = [llama_cpp::NAMES, ollama::NAMES, vllm::NAMES];

pub(super) const ALWAYS_SO: &str = "always so here";
pub(super) const PER_REQUEST: &str = "requests set it themselves";
pub(super) const AS_THE_MODEL_SAYS: &str = "as the model's file says";
pub(super) const ONE_DEVICE: &str = "a model runs on one device as a whole";
pub(super) const BY_MEMORY: &str = "as many models are loaded as memory has room for";
pub(super) const OWN_STORE: &str = "its store has a layout of its own; MISTRAL_MODEL_DIR is ours";
pub(super) const OWN_CACHE: &str = "the KV cache is kept in pages of 64 tokens, for all requests together";
pub(super) const OWN_MEMORY: &str = "weights are packed into memory of their own";
pub(super) const OWN_SCHEDULER: &str = "the scheduler decides by itself";
pub(super) const OWN_KERNELS: &str = "kernels are compiled beforehand and chosen by the device";
pub(super) const OWN_LOG: &str = "MISTRAL_LOG and MISTRAL_LOG_FORMAT say what is logged, and how";
pub(super) const OWN_METRICS: &str = "/metrics tells what is measured";
pub(super) const TEXT_ONLY: &str = "models read and write text alone";
pub(super) const NO_EMBEDDINGS: &str = "models generate text; there are no embeddings, classes or ranks";
pub(super) const NO_SPECULATION: &str = "each token is computed by the model itself";
pub(super) const NO_LORA: &str = "models are served as their files are, without adapters";
pub(super) const NO_PARSER: &str = "answers come as the model writes them, thoughts and calls of tools included";
pub(super) const NO_TOOLS: &str = "tools are run by clients";
pub(super) const NO_PAGE: &str = "there is no web page";
pub(super) const NO_CORS: &str = "answers carry no CORS headers";
pub(super) const NO_TLS: &str = "TLS is the business of a proxy in front";
pub(super) const TCP_ONLY: &str = "HTTP over TCP is all that is spoken";
pub(super) const TWO_THREADS: &str = "two threads serve all connections";
pub(super) const NAME_FLAG: &str = "give `frontier serve` the flag --name";

/// The rule for a name.
pub(super) fn rule(name: &str) -> Option<Rule> {
    SERVERS.iter().find_map(|server| {
        let own = server.rules.iter().find(|(known, _)| *known == name).map(|(_, rule)| *rule);
        let reason = || server.without.iter().find(|(_, names)| names.contains(&name));
        own.or_else(|| reason().map(|(reason, _)| Rule::None(reason)))
    })
}

/// The name of a switch that this name turns off, and its rule.
fn negated(name: &str) -> Option<Rule> {
    let name = SERVERS.iter().find_map(|server| (server.negated)(name))?;
    rule(&name).filter(|rule| match rule {
        Rule::Same(def) => is_switch(def),
        Rule::WhenOn(..) | Rule::None(_) => true,
        Rule::Count(_) | Rule::With(_) => false,
    })
}

/// Whether there is a rule for a name, or for what it turns off.
pub(super) fn is_known(name: &str) -> bool {
    rule(name).or_else(|| negated(name)).is_some()
}

/// What becomes of `item`, which is among `all`.
pub(super) fn outcome(item: &Given, all: &[Given]) -> Outcome {
    let (rule, value) = match (rule(&item.name), negated(&item.name)) {
        (Some(rule), _) => (rule, item.value.trim()),
        (None, Some(rule)) => (rule, "false"),
        (None, None) => return Err(unknown(&item.name)),
    };
    match rule {
        Rule::Same(_) | Rule::Count(_) | Rule::With(_) if value.is_empty() => Err("no value".to_owned()),
        Rule::Same(def) if is_switch(def) => Ok(vec![(def, switch(value).to_owned())]),
        Rule::Same(def) => Ok(vec![(def, value.to_owned())]),
        Rule::Count(def) => Ok(vec![(def, count(value)?.to_string())]),
        Rule::With(rewrite) => rewrite(value, all),
        Rule::WhenOn(def, text) if is_on(value) => Ok(vec![(def, text.to_owned())]),
        Rule::WhenOn(..) => Err("off, as it is here unless something else says so".to_owned()),
        Rule::None(reason) => Err(reason.to_owned()),
    }
}

/// What is said of a name without a rule.
fn unknown(name: &str) -> String {
    let nearest = nearest_known(name).map(|known| format!("; the nearest known is {known}"));
    format!("unknown here, so that it has no counterpart{}", nearest.unwrap_or_default())
}

/// The name with a rule that is nearest to one without, of the same server. What a server's names begin with says
/// nothing.
pub(super) fn nearest_known(name: &str) -> Option<&'static str> {
    let split = |name: &str| {
        let starts = [("LLAMA_ARG_", "llama.cpp"), ("LLAMA_", "llama.cpp"), ("OLLAMA_", "Ollama")];
        let found = starts.into_iter().find_map(|(start, server)| Some((server, name.strip_prefix(start)?.to_owned())));
        found.unwrap_or(("vLLM", name.to_owned()))
    };
    let (server, own) = split(name);
    let known = all_names().map(|known| (split(known), known)).filter(|((of, _), _)| *of == server);
    nearest_of(&own, known.map(|((_, rest), known)| (rest, known)))
}

/// Every name that has a rule.
pub(super) fn all_names() -> impl Iterator<Item = &'static str> {
    SERVERS.iter().flat_map(|server| {
        let own = server.rules.iter().map(|(name, _)| *name);
        own.chain(server.without.iter().flat_map(|(_, names)| names.iter().copied()))
    })
}

fn is_switch(def: &Def) -> bool {
    matches!(def.kind, Kind::Bool | Kind::Switch | Kind::AutoBool)
}

/// A word for on or off as it is written here.
fn switch(value: &str) -> &str {
    match value.to_ascii_lowercase().as_str() {
        "enabled" => "on",
        "disabled" => "off",
        _ => value,
    }
}

pub(super) fn is_on(value: &str) -> bool {
    !matches!(value.to_ascii_lowercase().as_str(), "" | "0" | "false" | "off" | "no" | "disabled")
}

/// How other servers ask for what fits.
pub(super) fn is_automatic(value: &str) -> bool {
    matches!(value, "-1" | "auto")
}

pub(super) fn number(value: &str) -> Result<u64, String> {
    value.parse().map_err(|_| "not a whole number".to_owned())
}

/// A number as vLLM writes them: `32k` is 32,000, `32K` is 32,768, and `m` and `M` accordingly.
pub(super) fn count(value: &str) -> Result<u64, String> {
    let factor = match value.chars().last() {
        Some('k') => 1_000,
        Some('K') => 1 << 10,
        Some('m') => 1_000_000,
        Some('M') => 1 << 20,
        _ => return number(value),
    };
    Ok(number(&value[..value.len() - 1])?.saturating_mul(factor))
}

pub(super) fn value_of<'a>(all: &'a [Given], name: &str) -> Option<&'a str> {
    all.iter().rev().find(|item| item.name == name).map(|item| item.value.trim())
}

/// Requests that are computed together, where 0, -1 and `auto` leave the number to the server.
pub(super) fn parallel(value: &str, _: &[Given]) -> Outcome {
    match number(value) {
        Ok(0) => Err("0 leaves it to the server; the default here is 8".to_owned()),
        Err(_) if is_automatic(value) => Err("the default here is 8".to_owned()),
        Err(problem) => Err(problem),
        Ok(_) => Ok(vec![(&defs::MAX_BATCH_SIZE, value.to_owned()), (&defs::MAX_RUNNING_REQUESTS, value.to_owned())]),
    }
}

/// Tokens of one request, and a KV cache that holds as many for each of `requests`.
pub(super) fn context(each: u64, requests: u64) -> Outcome {
    let held = defs::MAX_TOTAL_TOKENS.default.and_then(|held| held.parse().ok());
    let total = each.saturating_mul(requests.max(1));
    let more = held.is_some_and(|held: u64| total > held).then(|| (&defs::MAX_TOTAL_TOKENS, pool_tokens(total)));
    Ok([(&defs::MAX_SEQ_LEN, each.to_string())].into_iter().chain(more).collect())
}

/// As many tokens of KV cache as there may be: a pool that is refused would be less than a request.
pub(super) fn pool_tokens(total: u64) -> String {
    match defs::MAX_TOTAL_TOKENS.kind {
        Kind::Int { max, .. } => total.min(max).to_string(),
        _ => total.to_string(),
    }
}

pub(super) fn own_cache_type(value: &str, _: &[Given]) -> Outcome {
    Ok(vec![(&defs::KV_CACHE_DTYPE, cache_type(value)?.to_owned())])
}

/// Our type for one of theirs: the same, or the next with more bits.
pub(super) fn cache_type(value: &str) -> Result<&'static str, String> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "f32" => "f32",
        "auto" | "f16" | "half" | "float16" => "f16",
        "bf16" | "bfloat16" => "bf16",
        "q8_0" | "q5_0" | "q5_1" | "fp8" | "fp8_e4m3" | "fp8_e5m2" => "q8_0",
        "q4_0" | "q4_1" | "iq4_nl" => "q4_0",
        other => return Err(format!("unknown type {other:?}")),
    })
}

/// Python's and llama.cpp's words for our levels.
pub(super) fn log_level(value: &str, _: &[Given]) -> Outcome {
    let level = match value.to_ascii_lowercase().as_str() {
        "critical" | "fatal" => "error".to_owned(),
        "warning" => "warn".to_owned(),
        other => other.to_owned(),
    };
    Ok(vec![(&defs::LOG, level)])
}
