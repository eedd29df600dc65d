//! Ollama: environment variables `OLLAMA_*`, of this year's versions and of those before.

use std::net::IpAddr;
use std::time::Duration;

use super::Given;
use super::rules::*;
use crate::settings::defs::{self, Def};

pub(super) const NAMES: Names = Names { rules: RULES, without: WITHOUT, negated: |_| None };

const RULES: &[(&str, Rule)] = &[
    ("OLLAMA_HOST", Rule::With(host)),
    ("OLLAMA_NUM_PARALLEL", Rule::With(parallel)),
    ("OLLAMA_MAX_QUEUE", Rule::Same(&defs::MAX_QUEUED_REQUESTS)),
    ("OLLAMA_CONTEXT_LENGTH", Rule::With(context_length)),
    ("OLLAMA_KV_CACHE_TYPE", Rule::With(own_cache_type)),
    ("OLLAMA_FLASH_ATTENTION", Rule::Same(&defs::USE_FLASH_ATTENTION)),
    ("OLLAMA_DEBUG", Rule::With(debug)),
    ("OLLAMA_KEEP_ALIVE", Rule::With(keep_alive)),
    ("OLLAMA_LLM_LIBRARY", Rule::With(library)),
];

const WITHOUT: &[(&str, &[&str])] = &[
    (OWN_STORE, &["OLLAMA_MODELS", "OLLAMA_HOME", "OLLAMA_NOPRUNE", "OLLAMA_CREATE_REMOTE"]),
    (BY_MEMORY, &["OLLAMA_MAX_LOADED_MODELS"]),
    ("MISTRAL_MODEL_IDLE_TTL is the only time after which models go", &["OLLAMA_MAX_KEEP_ALIVE"]),
    ("a load takes as long as it takes; MISTRAL_REQUEST_TIMEOUT bounds the wait", &["OLLAMA_LOAD_TIMEOUT"]),
    ("MISTRAL_METAL_HEAP_SIZE says how much may be used", &["OLLAMA_GPU_OVERHEAD", "OLLAMA_MAX_VRAM"]),
    (ONE_DEVICE, &["OLLAMA_SCHED_SPREAD"]),
    ("MISTRAL_DEVICE asks for a device", &["OLLAMA_VULKAN", "OLLAMA_INTEL_GPU", "OLLAMA_IGPU_ENABLE"]),
    ("prefixes are shared by all who may; a request isolates itself by `cache_salt`", &["OLLAMA_MULTIUSER_CACHE"]),
    ("there is one engine here", &["OLLAMA_NEW_ENGINE", "OLLAMA_NEW_ESTIMATES"]),
    (AS_THE_MODEL_SAYS, &["OLLAMA_GO_TEMPLATE"]),
    ("MISTRAL_API_KEYS are what clients are asked for", &["OLLAMA_AUTH", "OLLAMA_API_KEY"]),
    ("MISTRAL_HUB_ENDPOINT is where models come from", &["OLLAMA_REMOTES", "OLLAMA_MAX_TRANSFER_STREAMS"]),
    ("models run on this machine only", &["OLLAMA_NO_CLOUD"]),
    ("requests are not logged word by word", &["OLLAMA_DEBUG_LOG_REQUESTS"]),
    (NO_CORS, &["OLLAMA_ORIGINS"]),
    ("of the terminal, which has no such setting here", &["OLLAMA_NOHISTORY", "OLLAMA_EDITOR"]),
    ("nothing is unpacked here", &["OLLAMA_TMPDIR", "OLLAMA_RUNNERS_DIR", "OLLAMA_LIBRARY_PATH"]),
];

/// `127.0.0.1:11434`, `[::1]:11434`, an address without a port, or a URL. Without a port it is that of the scheme,
/// without that Ollama's own; without a host all of the machine's.
fn host(value: &str, _: &[Given]) -> Outcome {
    let (rest, usual_port) = match value.split_once("://") {
        None => (value, "11434"),
        Some(("http", rest)) => (rest, "80"),
        Some(("https", rest)) => (rest, "443"),
        Some((scheme, _)) => return Err(format!("no server of {scheme}")),
    };
    let address = rest.split('/').next().unwrap_or_default();
    let is_ip = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !is_ip(address) => (host, port),
        _ => (address, ""),
    };
    let host = match host.trim_matches(['[', ']']) {
        "" if port.is_empty() => None,
        "" => Some("0.0.0.0"),
        host => Some(host),
    };
    let port = if port.is_empty() { usual_port } else { port };
    let host = host.map(|host| (&defs::HOST as &'static Def, host.to_owned()));
    Ok(host.into_iter().chain([(&defs::PORT as &'static Def, port.to_owned())]).collect())
}

/// Of each request; as many requests have room.
fn context_length(value: &str, all: &[Given]) -> Outcome {
    match count(value)? {
        0 => Err("0 leaves it to the server; the default here is the model's own, at most 32768".to_owned()),
        each => context(each, value_of(all, "OLLAMA_NUM_PARALLEL").and_then(|n| number(n).ok()).unwrap_or(1)),
    }
}

/// 1 or any word is debug, 2 and more trace.
fn debug(value: &str, _: &[Given]) -> Outcome {
    match number(value) {
        _ if !is_on(value) => Err("off, as it is here unless something else says so".to_owned()),
        Ok(2..) => Ok(vec![(&defs::LOG, "trace".to_owned())]),
        _ => Ok(vec![(&defs::LOG, "debug".to_owned())]),
    }
}

/// A negative time keeps models for ever, 0 no longer than they are used. Without a unit it is seconds.
fn keep_alive(value: &str, _: &[Given]) -> Outcome {
    if value.starts_with('-') {
        return Err("models stay loaded by default".to_owned());
    }
    let time = duration(value).or_else(|| value.parse().ok().map(Duration::from_secs));
    let time = time.ok_or("not a time; allowed: seconds, or numbers with units such as 1h30m or 500ms")?;
    // The shortest time that there is here.
    let millis = time.as_millis().max(10);
    let text = if millis.is_multiple_of(1000) { format!("{}s", millis / 1000) } else { format!("{millis}ms") };
    Ok(vec![(&defs::MODEL_IDLE_TTL, text)])
}

/// A time as Go writes it: numbers with a unit each, `1h30m`, `1.5h`, `500ms`.
fn duration(text: &str) -> Option<Duration> {
    let is_digit = |c: char| c.is_ascii_digit() || c == '.';
    let (mut rest, mut seconds) = (text, 0.0);
    while !rest.is_empty() {
        let unit = rest.find(|c| !is_digit(c))?;
        let end = rest[unit..].find(is_digit).map_or(rest.len(), |next| unit + next);
        let each = match &rest[unit..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        seconds += rest[..unit].parse::<f64>().ok()? * each;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(seconds).ok()
}

fn library(value: &str, _: &[Given]) -> Outcome {
    match value.starts_with("cpu") {
        true => Ok(vec![(&defs::DEVICE, "cpu".to_owned())]),
        false => Err("MISTRAL_DEVICE=gpu asks for the GPU".to_owned()),
    }
}
