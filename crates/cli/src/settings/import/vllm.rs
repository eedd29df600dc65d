//! vLLM: the flags of `vllm serve`, of this year's versions and of those before.

use super::Given;
use super::rules::*;
use crate::settings::defs;

pub(super) const NAMES: Names = Names { rules: RULES, without: WITHOUT, negated };

const RULES: &[(&str, Rule)] = &[
    ("model", Rule::With(model)),
    ("host", Rule::Same(&defs::HOST)),
    ("port", Rule::Same(&defs::PORT)),
    ("api-key", Rule::Same(&defs::API_KEYS)),
    ("max-model-len", Rule::With(context_length)),
    ("max-num-seqs", Rule::With(parallel)),
    ("max-num-batched-tokens", Rule::Count(&defs::PREFILL_CHUNK_SIZE)),
    ("max-num-queued-reqs", Rule::With(in_flight)),
    ("max-num-queued-tokens", Rule::Count(&defs::MAX_QUEUED_TOKENS)),
    ("gpu-memory-utilization", Rule::Same(&defs::MEMORY_FRACTION)),
    ("kv-cache-dtype", Rule::With(own_cache_type)),
    ("enable-prefix-caching", Rule::Same(&defs::ENABLE_PREFIX_CACHING)),
    ("enforce-eager", Rule::WhenOn(&defs::USE_GRAPH_CAPTURE, "false")),
    ("tensor-parallel-size", Rule::With(one_rank)),
    ("pipeline-parallel-size", Rule::With(one_rank)),
    ("data-parallel-size", Rule::With(one_rank)),
    ("dtype", Rule::With(dtype)),
    ("device", Rule::With(device)),
    ("max-logprobs", Rule::Same(&defs::MAX_TOP_LOGPROBS)),
    ("hf-token", Rule::Same(&defs::HUB_TOKEN)),
    ("log-level", Rule::With(log_level)),
    ("uvicorn-log-level", Rule::With(log_level)),
    ("shutdown-timeout", Rule::With(shutdown_timeout)),
    ("h11-max-incomplete-event-size", Rule::Same(&defs::MAX_HEADER_SIZE)),
    ("h11-max-header-count", Rule::Same(&defs::MAX_HEADERS)),
];

/// The short spellings, and further ones.
const SHORT: &[(&str, &str)] = &[
    ("tp", "tensor-parallel-size"),
    ("pp", "pipeline-parallel-size"),
    ("dp", "data-parallel-size"),
    ("pcp", "prefill-context-parallel-size"),
    ("dcp", "decode-context-parallel-size"),
    ("ep", "enable-expert-parallel"),
    ("dpn", "data-parallel-rank"),
    ("dpr", "data-parallel-start-rank"),
    ("dpl", "data-parallel-size-local"),
    ("dpa", "data-parallel-address"),
    ("dpp", "data-parallel-rpc-port"),
    ("dpb", "data-parallel-backend"),
    ("dpe", "data-parallel-external-lb"),
    ("dph", "data-parallel-hybrid-lb"),
    ("dpm", "data-parallel-multi-port-external-lb"),
    ("n", "nnodes"),
    ("r", "node-rank"),
    ("asc", "api-server-count"),
    ("q", "quantization"),
    ("O", "optimization-level"),
    ("cc", "compilation-config"),
    ("ac", "attention-config"),
    ("sc", "speculative-config"),
    ("dc", "diffusion-config"),
    ("max-seq-len", "max-model-len"),
    ("device-memory-utilization", "gpu-memory-utilization"),
];

/// Flags that take several values.
const LISTS: &[&str] = &[
    "api-key",
    "served-model-name",
    "lora-modules",
    "lora-target-modules",
    "allowed-origins",
    "allowed-methods",
    "allowed-headers",
    "allowed-media-domains",
    "middleware",
    "logits-processors",
    "ignore-patterns",
    "collect-detailed-traces",
    "cudagraph-capture-sizes",
    "cuda-graph-sizes",
    "kv-cache-dtype-skip-layers",
    "numa-bind-cpus",
    "numa-bind-nodes",
    "offload-params",
    "cpu-offload-params",
    "sleep-preserve-parameter-names",
];

/// How flags begin that take no value, but for [`VALUED`].
const SWITCH_STARTS: &[&str] = &["enable-", "disable-", "no-", "enforce-", "trust-"];

/// Flags that begin so and take a value.
const VALUED: &[&str] = &["disable-access-log-for-endpoints"];

/// Flags that take no value and do not look like it.
const SWITCHES: &[&str] = &[
    "aggregate-engine-logging",
    "allow-credentials",
    "allow-deprecated-quantization",
    "async-scheduling",
    "calculate-kv-scales",
    "cohere-is-reasoning-model",
    "cudagraph-metrics",
    "data-parallel-external-lb",
    "data-parallel-hybrid-lb",
    "data-parallel-multi-port-external-lb",
    "dcp-q-replicate",
    "exclude-tools-when-tool-choice-none",
    "fail-on-environ-validation",
    "fully-sharded-loras",
    "grpc",
    "headless",
    "interleave-mm-strings",
    "jit-monitor-verbose",
    "kv-cache-metrics",
    "kv-sharing-fast-prefill",
    "language-model-only",
    "log-error-stack",
    "long-prefill-token-threshold-adaptive",
    "mm-device-do-normalize",
    "mm-encoder-only",
    "monokernel",
    "multi-step-stream-outputs",
    "numa-bind",
    "ray-workers-use-nsight",
    "return-sampling-mask",
    "return-tokens-as-token-ids",
    "scheduler-reserve-full-isl",
    "skip-mm-profiling",
    "skip-tokenizer-init",
    "sleep-mode-offload-cudagraph",
    "specialize-active-lora",
    "swa-bounded-replay",
    "tokens-only",
    "use-fp64-gumbel",
    "use-replayssm",
    "use-tqdm-on-load",
    "use-v2-block-manager",
    "worker-use-ray",
];

const WITHOUT: &[(&str, &[&str])] = &[
    ("taken over with the model", &["revision"]),
    (
        AS_THE_MODEL_SAYS,
        &[
            "tokenizer",
            "tokenizer-mode",
            "tokenizer-revision",
            "tokenizer-pool-size",
            "chat-template",
            "chat-template-content-format",
            "response-role",
            "rope-scaling",
            "rope-theta",
            "load-format",
            "config-format",
            "hf-config-path",
            "hf-overrides",
            "model-impl",
            "disable-sliding-window",
        ],
    ),
    (
        PER_REQUEST,
        &[
            "seed",
            "generation-config",
            "override-generation-config",
            "default-chat-template-kwargs",
            "trust-request-chat-template",
            "guided-decoding-backend",
            "guided-decoding-disable-fallback",
            "guided-decoding-disable-any-whitespace",
            "guided-decoding-disable-additional-properties",
            "structured-outputs-config",
        ],
    ),
    (
        "code that comes with models or from others is never run",
        &[
            "trust-remote-code",
            "code-revision",
            "middleware",
            "logits-processors",
            "logits-processor-pattern",
            "io-processor-plugin",
            "tool-parser-plugin",
            "reasoning-parser-plugin",
            "worker-cls",
            "worker-extension-cls",
            "scheduler-cls",
            "model-class-overrides",
            "additional-config",
        ],
    ),
    (OWN_STORE, &["download-dir"]),
    (NAME_FLAG, &["served-model-name"]),
    ("give the flags of the file themselves", &["config"]),
    (
        "files are read in order, tensor by tensor",
        &[
            "model-loader-extra-config",
            "safetensors-load-strategy",
            "safetensors-prefetch-block-size",
            "safetensors-prefetch-num-threads",
            "ignore-patterns",
            "use-tqdm-on-load",
            "pt-load-map-location",
            "max-parallel-loading-workers",
        ],
    ),
    (
        "MISTRAL_DEFAULT_QUANTIZATION chooses how weights that arrive unquantized are held",
        &[
            "quantization",
            "quantization-config",
            "allow-deprecated-quantization",
            "quantization-param-path",
            "calculate-kv-scales",
        ],
    ),
    (
        "MISTRAL_MAX_TOTAL_TOKENS sizes the KV cache in tokens",
        &["kv-cache-memory-bytes", "num-gpu-blocks-override", "kv-cache-metrics", "kv-cache-metrics-sample"],
    ),
    (
        OWN_CACHE,
        &[
            "block-size",
            "kv-cache-dtype-skip-layers",
            "kv-sharing-fast-prefill",
            "prefix-caching-hash-algo",
            "prefix-cache-retention-interval",
            "prefix-match-unit",
            "swa-bounded-replay",
            "disable-hybrid-kv-cache-manager",
            "kv-transfer-config",
            "kv-events-config",
            "kv-offloading-size",
            "kv-offloading-backend",
            "mamba-cache-dtype",
            "mamba-ssm-cache-dtype",
            "mamba-block-size",
            "mamba-cache-mode",
            "mamba-cache-philox-rounds",
            "enable-mamba-cache-stochastic-rounding",
            "enable-mamba-shared-prefix-checkpoint",
            "use-replayssm",
            "replayssm-buffer-len",
        ],
    ),
    ("preempted requests are computed again", &["swap-space", "preemption-mode"]),
    (
        ONE_DEVICE,
        &[
            "cpu-offload-gb",
            "cpu-offload-params",
            "offload-backend",
            "offload-group-size",
            "offload-num-in-group",
            "offload-prefetch-step",
            "offload-params",
            "device-ids",
            "distributed-executor-backend",
            "distributed-timeout-seconds",
            "cpu-distributed-timeout-seconds",
            "worker-use-ray",
            "ray-workers-use-nsight",
            "headless",
            "nnodes",
            "node-rank",
            "master-addr",
            "master-port",
            "numa-bind",
            "numa-bind-nodes",
            "numa-bind-cpus",
            "disable-custom-all-reduce",
            "all2all-backend",
            "prefill-context-parallel-size",
            "decode-context-parallel-size",
            "dcp-comm-backend",
            "dcp-kv-cache-interleave-size",
            "cp-kv-cache-interleave-size",
            "dcp-q-replicate",
            "data-parallel-rank",
            "data-parallel-start-rank",
            "data-parallel-size-local",
            "data-parallel-address",
            "data-parallel-rpc-port",
            "data-parallel-backend",
            "data-parallel-external-lb",
            "data-parallel-hybrid-lb",
            "data-parallel-multi-port-external-lb",
            "data-parallel-supervisor-port",
            "dp-supervisor-probe-interval-s",
            "dp-supervisor-probe-timeout-s",
            "dp-supervisor-probe-failure-threshold",
            "dp-sync-interval",
            "disable-nccl-for-dp-synchronization",
            "enable-nccl-comm-suspend",
            "enable-batch-sharded-sampling",
            "enable-hc-sp",
            "enable-expert-parallel",
            "enable-ep-weight-filter",
            "enable-elastic-ep",
            "elastic-ep-max-dp-size",
            "enable-eplb",
            "eplb-config",
            "num-redundant-experts",
            "expert-placement-strategy",
            "fault-tolerance-config",
            "enable-fault-tolerance",
            "enable-scale-out",
            "enable-dbo",
            "dbo-decode-token-threshold",
            "dbo-prefill-token-threshold",
            "ubatch-size",
            "enable-shm-tensor-arena",
        ],
    ),
    ("requests have a `priority`", &["scheduling-policy"]),
    ("MISTRAL_MAX_BATCH_SIZE and MISTRAL_MAX_RUNNING_REQUESTS bound it", &["max-num-active-seqs"]),
    (
        OWN_SCHEDULER,
        &[
            "async-scheduling",
            "max-num-scheduled-tokens",
            "max-num-partial-prefills",
            "max-long-partial-prefills",
            "long-prefill-token-threshold",
            "long-prefill-token-threshold-adaptive",
            "prefill-schedule-interval",
            "scheduler-reserve-full-isl",
            "scheduler-delay-factor",
            "num-scheduler-steps",
            "multi-step-stream-outputs",
            "use-v2-block-manager",
            "watermark",
            "stream-interval",
            "disable-cascade-attn",
        ],
    ),
    (ALWAYS_SO, &["enable-chunked-prefill", "enable-prompt-tokens-details", "enable-request-id-headers"]),
    (
        OWN_KERNELS,
        &[
            "compilation-config",
            "optimization-level",
            "performance-mode",
            "attention-backend",
            "attention-config",
            "moe-backend",
            "linear-backend",
            "mamba-backend",
            "mamba-ssu-algorithm",
            "gdn-prefill-backend",
            "kda-prefill-backend",
            "kda-decode-backend",
            "sparse-indexer-topk-backend",
            "kernel-config",
            "ir-op-priority",
            "monokernel",
            "engram-config",
            "diffusion-config",
            "enable-flashinfer-autotune",
            "use-fp64-gumbel",
            "jit-monitor-mode",
            "jit-monitor-verbose",
        ],
    ),
    (
        "MISTRAL_USE_GRAPH_CAPTURE turns recording on and off",
        &[
            "cudagraph-capture-sizes",
            "cuda-graph-sizes",
            "max-cudagraph-capture-size",
            "cudagraph-metrics",
            "max-seq-len-to-capture",
            "max-context-len-to-capture",
        ],
    ),
    (
        "models are unloaded by MISTRAL_MODEL_IDLE_TTL, and when others need their memory",
        &[
            "enable-sleep-mode",
            "sleep-mode-backend",
            "sleep-mode-offload-cudagraph",
            "sleep-preserve-parameter-names",
            "enable-cumem-allocator",
            "weight-transfer-config",
        ],
    ),
    (NO_EMBEDDINGS, &["runner", "convert", "task", "pooler-config", "enable-flash-late-interaction"]),
    (
        TEXT_ONLY,
        &[
            "language-model-only",
            "limit-mm-per-prompt",
            "media-io-kwargs",
            "allowed-local-media-path",
            "allowed-media-domains",
            "interleave-mm-strings",
            "skip-mm-profiling",
            "disable-chunked-mm-input",
            "disable-mm-preprocessor-cache",
            "enable-multimodal-encoder-data-parallel",
            "enable-mm-embeds",
            "enable-prompt-embeds",
            "enable-tower-connector-lora",
            "trust-request-mm-kwargs",
            "mm-processor-kwargs",
            "mm-processor-cache-gb",
            "mm-processor-cache-type",
            "mm-processor-device",
            "mm-device-do-normalize",
            "mm-shm-cache-max-object-size-mb",
            "mm-hasher-algorithm",
            "mm-tensor-ipc",
            "mm-ipc-gpu-memory-gb",
            "mm-encoder-only",
            "mm-encoder-tp-mode",
            "mm-encoder-attn-backend",
            "mm-encoder-attn-dtype",
            "mm-encoder-fp8-scale-path",
            "mm-encoder-fp8-scale-save-path",
            "mm-encoder-fp8-scale-save-margin",
            "video-pruning-method",
            "video-pruning-rate",
            "ec-transfer-config",
            "ec-manager-config",
            "renderer-num-workers",
        ],
    ),
    (
        NO_LORA,
        &[
            "enable-lora",
            "lora-modules",
            "lora-dtype",
            "lora-target-modules",
            "lora-extra-vocab-size",
            "long-lora-scaling-factors",
            "max-loras",
            "max-lora-rank",
            "max-cpu-loras",
            "max-lora-cls-labels",
            "fully-sharded-loras",
            "specialize-active-lora",
            "enable-mixed-moe-lora-format",
            "enable-moe-shared-loras",
            "default-mm-loras",
            "enable-lora-bias",
            "enable-prompt-adapter",
            "max-prompt-adapters",
            "max-prompt-adapter-token",
        ],
    ),
    (
        NO_SPECULATION,
        &[
            "speculative-config",
            "spec-method",
            "spec-model",
            "spec-tokens",
            "speculative-model",
            "num-speculative-tokens",
            "num-lookahead-slots",
            "per-request-spec-decode-metrics",
        ],
    ),
    (
        NO_PARSER,
        &[
            "enable-auto-tool-choice",
            "tool-call-parser",
            "tool-strict-level",
            "exclude-tools-when-tool-choice-none",
            "reasoning-parser",
            "reasoning-config",
            "reasoning-effort-map",
            "enable-reasoning",
            "cohere-is-reasoning-model",
            "cohere-format",
            "anthropic-disabled-thinking-effort",
        ],
    ),
    (NO_TOOLS, &["tool-server"]),
    (NO_TLS, &["ssl-keyfile", "ssl-certfile", "ssl-ca-certs", "ssl-cert-reqs", "ssl-ciphers", "enable-ssl-refresh"]),
    (NO_CORS, &["allowed-origins", "allowed-methods", "allowed-headers", "allow-credentials"]),
    (TCP_ONLY, &["uds", "grpc", "grpc-port"]),
    (TWO_THREADS, &["api-server-count", "disable-frontend-multiprocessing"]),
    ("paths begin with /v1; a proxy in front can add to them", &["root-path"]),
    ("streams that are silent are kept alive anyway", &["sse-keep-alive-interval"]),
    ("there are no such pages", &["disable-fastapi-docs", "enable-offline-docs"]),
    ("there is no such endpoint", &["enable-tokenizer-info-endpoint", "tokens-only"]),
    (
        "answers have what OpenAI's have",
        &[
            "enable-force-include-usage",
            "enable-per-request-metrics",
            "enable-return-routed-experts",
            "return-sampling-mask",
            "return-tokens-as-token-ids",
            "logprobs-mode",
            "fingerprint-mode",
            "fingerprint-value",
            "aux-output-config",
            "watermark-config",
        ],
    ),
    ("texts are always turned into tokens here", &["skip-tokenizer-init"]),
    (
        "MISTRAL_LOG=debug tells of each request",
        &[
            "enable-log-requests",
            "disable-log-requests",
            "enable-log-outputs",
            "enable-log-deltas",
            "max-log-len",
            "disable-uvicorn-access-log",
            "disable-access-log-for-endpoints",
        ],
    ),
    (OWN_LOG, &["logging-config", "log-config-file", "log-error-stack", "aggregate-engine-logging"]),
    (
        OWN_METRICS,
        &[
            "disable-log-stats",
            "enable-server-load-tracking",
            "enable-mfu-metrics",
            "enable-logging-iteration-details",
            "enable-layerwise-nvtx-tracing",
            "enable-trace-replay",
            "show-hidden-metrics-for-version",
            "custom-histogram-buckets",
            "otlp-traces-endpoint",
            "collect-detailed-traces",
            "profiler-config",
        ],
    ),
    ("MISTRAL_WATCHDOG_TIMEOUT says when readiness fails", &["watchdog-config"]),
    ("MISTRAL_STRICT makes unknown settings errors", &["fail-on-environ-validation"]),
];

/// A command line: `serve MODEL --flag value --flag=value --flag`. What follows a flag that is not known here may be
/// its value or not: it counts as that, and never as the model.
pub(super) fn from_flags(arguments: &[String]) -> Vec<Given> {
    let mut given: Vec<Given> = Vec::new();
    let mut rest = arguments.iter().map(String::as_str).peekable();
    while let Some(argument) = rest.next() {
        let Some(flag) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            if !(given.is_empty() && matches!(argument, "vllm" | "serve")) {
                given.push(Given { name: "model".to_owned(), value: argument.to_owned() });
            }
            continue;
        };
        let (name, value) = split(flag);
        let (is_known, is_switch) = (is_known(&name), is_switch(&name));
        let most = match &value {
            Some(_) => 0,
            None if !is_known || LISTS.contains(&name.as_str()) => usize::MAX,
            None => 1,
        };
        let is_value = |next: &&str| match is_switch && is_known {
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
            [] if is_switch || !is_known => "true".to_owned(),
            values => values.join(","),
        });
        given.push(Given { name, value });
    }
    given
}

/// A flag without dashes in front: its whole name, and the value where it has one with it.
/// `--compilation-config.mode=3` is of `compilation-config`, `-O3` of `optimization-level`.
fn split(flag: &str) -> (String, Option<String>) {
    if let Some(level) = flag.strip_prefix('O').filter(|level| level.parse::<u8>().is_ok()) {
        return ("optimization-level".to_owned(), Some(level.to_owned()));
    }
    let (name, value) = match flag.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (flag, None),
    };
    let name = name.split('.').next().unwrap_or(name).replace('_', "-");
    let long = SHORT.iter().find(|(short, _)| *short == name);
    (long.map_or(name, |(_, long)| (*long).to_owned()), value)
}

/// Whether a flag that is known takes no value.
fn is_switch(name: &str) -> bool {
    let starts_so = SWITCH_STARTS.iter().any(|start| name.starts_with(start));
    (starts_so && !VALUED.contains(&name)) || SWITCHES.contains(&name)
}

/// Every switch is turned off by `no-` in front.
fn negated(name: &str) -> Option<String> {
    name.strip_prefix("no-").filter(|switch| is_switch(switch)).map(str::to_owned)
}

fn model(value: &str, all: &[Given]) -> Outcome {
    let revision = value_of(all, "revision").map(|revision| format!("@{revision}")).unwrap_or_default();
    Ok(vec![(&defs::MODEL, format!("{value}{revision}"))])
}

/// `-1` and `auto` are what fits.
fn context_length(value: &str, _: &[Given]) -> Outcome {
    match count(value) {
        Ok(tokens) => context(tokens, 1),
        Err(_) if is_automatic(value) => Err("the default here is the model's own, at most 32768".to_owned()),
        Err(problem) => Err(problem),
    }
}

/// Requests that run or wait; ours are those that wait.
fn in_flight(value: &str, all: &[Given]) -> Outcome {
    let running = value_of(all, "max-num-seqs").or(defs::MAX_RUNNING_REQUESTS.default);
    let running = running.and_then(|running| number(running).ok()).unwrap_or(0);
    Ok(vec![(&defs::MAX_QUEUED_REQUESTS, number(value)?.saturating_sub(running).to_string())])
}

fn one_rank(value: &str, _: &[Given]) -> Outcome {
    match number(value)? {
        1 => Err("one rank runs anyway".to_owned()),
        _ => Err("this version runs one rank".to_owned()),
    }
}

fn dtype(value: &str, _: &[Given]) -> Outcome {
    match value {
        "float16" | "half" => Ok(vec![(&defs::DEFAULT_QUANTIZATION, "f16".to_owned())]),
        "bfloat16" => Ok(vec![(&defs::DEFAULT_QUANTIZATION, "bf16".to_owned())]),
        other => Err(format!("{other} has no counterpart; MISTRAL_DEFAULT_QUANTIZATION chooses how weights are held")),
    }
}

fn device(value: &str, _: &[Given]) -> Outcome {
    match value {
        "cpu" | "auto" => Ok(vec![(&defs::DEVICE, value.to_owned())]),
        other => Err(format!("{other} is no device here; MISTRAL_DEVICE=gpu asks for the GPU")),
    }
}

/// 0 is not to wait at all.
fn shutdown_timeout(value: &str, _: &[Given]) -> Outcome {
    let time = if value == "0" { "10ms" } else { value };
    Ok(vec![(&defs::SHUTDOWN_TIMEOUT, time.to_owned())])
}
