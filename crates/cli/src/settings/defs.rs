//! The table: every `MISTRAL_*` setting once, with its type, default, range, effect and meaning.
//!
//! Parsing, `--help`, `.env.example`, docs/configuration.md and `frontier config explain` all come from these rows.
//! To add a setting, add a row, read it where it is needed ([`super::Settings`]), run `cargo xtask gen`.

use cpu::Isa;

use super::value::Kind;

/// One setting.
#[derive(Debug)]
pub(crate) struct Def {
    /// Its name without the `MISTRAL_` prefix, e.g. `MAX_BATCH_SIZE`.
    pub(crate) key: &'static str,
    /// Heading under which help and docs list it.
    pub(crate) group: &'static str,
    pub(crate) kind: Kind,
    /// Default as one would write it; `None`: decided at run time, shown as `auto`.
    pub(crate) default: Option<&'static str>,
    pub(crate) effect: Effect,
    /// Other environment variables that are read when ours is not set.
    pub(crate) also: &'static [&'static str],
    /// Meaning, in one or two sentences.
    pub(crate) doc: &'static str,
}

/// Where a setting does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// On every device.
    Everywhere,
    /// On the CPU only.
    Cpu,
    /// On GPUs only.
    Gpu,
}

impl Def {
    /// Name of the environment variable.
    pub(crate) fn env(&self) -> String {
        format!("MISTRAL_{}", self.key)
    }

    /// Name of the flag without dashes in front, e.g. `max-batch-size`.
    pub(crate) fn flag(&self) -> String {
        self.toml().replace('_', "-")
    }

    /// Name of the TOML key, e.g. `max_batch_size`.
    pub(crate) fn toml(&self) -> String {
        self.key.to_ascii_lowercase()
    }

    /// Whether one value holds for a whole server, however many models it serves.
    pub(crate) fn is_of_server(&self) -> bool {
        match self.key {
            // The engine's, of which each model has one.
            "PROFILE"
            | "MAX_CHOICES"
            | "MAX_STOP_TOKEN_IDS"
            | "MAX_LOGIT_BIAS"
            | "MAX_DRY_BREAKERS"
            | "MAX_CACHE_SALT_LENGTH" => false,
            // All models share the memory.
            "METAL_HEAP_SIZE" | "MEMORY_FRACTION" | "MEMORY_LIMIT" | "MEMORY_RESERVATION" | "MEMORY_WATCH" => true,
            _ => matches!(self.group, "Sources" | "Server" | "Limits" | "Models"),
        }
    }

    /// Whether a model's file cannot set it: what decides which model is meant.
    pub(crate) fn decides_model(&self) -> bool {
        matches!(self.key, "CONFIG" | "MODEL" | "MODEL_DIR")
    }

    /// A further name of the flag, where people expect one.
    pub(crate) fn flag_alias(&self) -> Option<&'static str> {
        match self.key {
            "NUM_THREADS" => Some("threads"),
            "MAX_SEQ_LEN" => Some("context"),
            "KV_CACHE_DTYPE" => Some("kv-type"),
            _ => None,
        }
    }

    /// What other programs and people call it, beside [`Self::also`]; to tell its name to those who do.
    fn called(&self) -> &'static [&'static str] {
        match self.key {
            "NUM_THREADS" => &["N_THREADS", "THREAD_COUNT"],
            "MAX_SEQ_LEN" => &[
                "CTX_SIZE",
                "CTX_LEN",
                "N_CTX",
                "NUM_CTX",
                "CONTEXT_LENGTH",
                "CONTEXT_SIZE",
                "MAX_CONTEXT",
                "MAX_MODEL_LEN",
            ],
            // MAX_RUNNING_REQUESTS follows it, and by itself may contradict it.
            "MAX_BATCH_SIZE" => &["MAX_NUM_SEQS", "NUM_PARALLEL", "N_PARALLEL", "PARALLEL"],
            "MAX_QUEUED_REQUESTS" => &["MAX_QUEUE"],
            "PREFILL_CHUNK_SIZE" => &["MAX_NUM_BATCHED_TOKENS", "UBATCH_SIZE", "CHUNK_SIZE"],
            "MEMORY_FRACTION" => &["GPU_MEMORY_UTILIZATION"],
            "MEMORY_LIMIT" => &["MAX_MEMORY"],
            "METAL_HEAP_SIZE" => &["MAX_VRAM"],
            "METAL_DEVICE_ID" => &["MAIN_GPU", "GPU_ID"],
            "USE_FLASH_ATTENTION" => &["FLASH_ATTN"],
            "USE_GRAPH_CAPTURE" => &["CUDA_GRAPH"],
            "MODEL_IDLE_TTL" => &["KEEP_ALIVE"],
            "MODEL_DIR" => &["CACHE_DIR"],
            "REQUEST_TIMEOUT" => &["TIMEOUT"],
            "HOST" => &["BIND_ADDRESS", "LISTEN_ADDRESS"],
            "LOG" => &["LOG_LEVEL", "VERBOSITY"],
            _ => &[],
        }
    }

    /// All names without our prefix by which somebody may mean it, its own first.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        let others = self.also.iter().chain(self.called()).copied();
        [self.key].into_iter().chain(self.flag_alias()).chain(others)
    }
}

/// The row with this key.
pub(crate) fn find(key: &str) -> Option<&'static Def> {
    TABLE.iter().copied().find(|def| def.key == key)
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;
const HOUR_MS: u64 = 3_600_000;

/// Types of KV cache entries.
const KV_TYPES: &[&str] = &["f32", "f16", "bf16", "q8_0", "q4_0"];
/// Instruction sets, whether this machine has them or not.
const ISAS: &[&str] = &[
    "auto",
    Isa::Scalar.name(),
    Isa::Avx2.name(),
    Isa::AvxVnni.name(),
    Isa::Avx512.name(),
    Isa::Avx512Bf16.name(),
    Isa::NeonDotprod.name(),
    Isa::NeonI8mm.name(),
];
/// Recipes for weights.
const RECIPES: &[&str] = &["f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q3_k_m", "q4_0"];

macro_rules! table {
    ($( $group:literal { $( $key:ident: $kind:expr, $default:expr, $effect:ident $(, also $also:expr)?, $doc:literal; )* } )*) => {
        $($(
            #[doc = $doc]
            pub(crate) static $key: Def = Def {
                key: stringify!($key),
                group: $group,
                kind: $kind,
                default: $default,
                effect: Effect::$effect,
                also: table!(@also $($also)?),
                doc: $doc,
            };
        )*)*
        /// Every setting, in the order of help and docs.
        pub(crate) static TABLE: &[&Def] = &[$($(&$key,)*)*];
    };
    (@also) => { &[] };
    (@also $also:expr) => { $also };
}

const fn int(min: u64, max: u64, unit: &'static str) -> Kind {
    Kind::Int { min, max, unit }
}

const fn size(min: u64, max: u64) -> Kind {
    Kind::Size { min, max }
}

/// From 10 ms to 24 hours.
const TIME: Kind = Kind::Time { min_ms: 10, max_ms: 24 * HOUR_MS };

table! {
    "Sources" {
        PROFILE: Kind::Choice(&["high-throughput", "low-latency", "memory-constrained"]), None, Everywhere,
            "A named set of defaults; anything set elsewhere is stronger.";
        CONFIG: Kind::Text, None, Everywhere,
            "Main TOML file. Unset: `frontier.toml` in the working directory, else `frontier/config.toml` in the user's configuration directory, where present. Files for single models are `models/NAME.toml` beside it, or where it would be.";
        STRICT: Kind::Switch, Some("false"), Everywhere,
            "Treat unknown `MISTRAL_*` names and unknown request fields as errors.";
    }
    "Device" {
        DEVICE: Kind::Choice(&["auto", "cpu", "gpu", "metal", "vulkan"]), Some("auto"), Everywhere,
            "Where the model runs. `auto` takes the best device present; a named device that is absent is an error at start, never a silent fallback.";
        METAL_DEVICE_ID: int(0, 63, ""), Some("0"), Gpu,
            "Index among the GPU adapters.";
        USE_FLASH_ATTENTION: Kind::AutoBool, Some("auto"), Everywhere,
            "Tiled attention with online softmax; `off` takes the plain one, for comparison.";
        METAL_HEAP_SIZE: size(64 * MIB, 4 * TIB), None, Everywhere,
            "Ceiling for what a model takes: weights, KV cache, scratch and all else, on any device. Wins over MEMORY_FRACTION; clipped to usable memory.";
        METAL_COMMAND_BUFFER_SIZE: size(MIB, 64 * GIB), Some("1GiB"), Gpu,
            "Most bytes of work that is recorded before a submit; a step of decode is one submit.";
        METAL_SHADER_VARIANT: Kind::Choice(&["optimized", "baseline", "simdgroup", "tiled"]), Some("optimized"), Gpu,
            "Which kernels run: the best for the device, or a named kind, for comparison or to step round a driver bug.";
        METAL_SIMD_REDUCTION: Kind::Bool, Some("true"), Gpu,
            "Reduce within subgroups; off reduces through workgroup memory.";
        METAL_ASYNC_DISPATCH: Kind::Bool, Some("true"), Gpu,
            "Encode the next step while one runs; off waits for every step.";
        METAL_COMMAND_QUEUE_SIZE: int(1, 512, "submissions"), Some("64"), Gpu,
            "Most submissions in flight.";
        USE_GRAPH_CAPTURE: Kind::Bool, Some("true"), Gpu,
            "Record a step's dispatches once per batch size and replay them; off encodes every step anew. The CPU records nothing: whatever this says, it computes each step from what loading has prepared.";
        BATCH_INVARIANT: Kind::Bool, Some("false"), Gpu,
            "On a GPU, use only kernels whose result for a row does not depend on the rows beside it. On the CPU that always holds.";
        NUM_THREADS: int(0, 1024, "threads"), Some("0"), Everywhere,
            "Threads that compute on the CPU, and that quantize weights for any device. 0: one for each physical core that this process may use. Models of one server share them.";
        CPU_ISA: Kind::Choice(ISAS), Some("auto"), Cpu,
            "Instruction set whose kernels run, e.g. `avx2` where there is more, for comparison; `frontier doctor` lists those of this machine.";
        TENSOR_PARALLEL_SIZE: int(1, 64, "ranks"), Some("1"), Everywhere,
            "Ranks that share each layer. This version runs one and cannot start more: any other number is an error at start.";
        PIPELINE_PARALLEL_SIZE: int(1, 64, "ranks"), Some("1"), Everywhere,
            "Ranks that take turns, each with some of the layers. This version runs one and cannot start more: any other number is an error at start.";
    }
    "Memory" {
        MEMORY_FRACTION: Kind::Fraction { max: 0.95 }, Some("0.9"), Everywhere,
            "Share of usable memory for weights, KV cache and scratch. Usable is the smaller of RAM and the cgroup's limit. METAL_HEAP_SIZE wins when both are set.";
        MEMORY_LIMIT: size(64 * MIB, 4 * TIB), None, Everywhere,
            "Memory limit of the container (compose file); the server counts it as a ceiling of usable memory too.";
        MEMORY_RESERVATION: size(64 * MIB, 4 * TIB), None, Everywhere,
            "Memory that the container is sure to keep (compose file); at most MEMORY_LIMIT. A model that takes more is served, and the log says that memory beyond it may be taken back.";
        MEMORY_WATCH: Kind::Bool, Some("true"), Everywhere,
            "Watch for memory pressure (Linux, macOS) and give up, one after the other: scratch memory, cached prefixes, admission, the newest sequences.";
        ENABLE_MEMORY_POOLING: Kind::Bool, Some("true"), Everywhere,
            "Keep scratch memory from step to step; off takes it anew for each step, to hunt leaks.";
        MEMORY_POOL_SIZE: size(0, 4 * TIB), Some("8GiB"), Everywhere,
            "Most scratch memory that is kept from step to step; it is given back under memory pressure.";
        QUANTIZATION_CACHE_SIZE: size(0, 4 * TIB), Some("1GiB"), Everywhere,
            "Most bytes of weights quantized at load that are kept on disk (`frontier/quantized` in the user's cache directory) for the next start; the least recently used go first, also at the next start when this is made less; 0 keeps none.";
        DEFAULT_QUANTIZATION: Kind::Choice(RECIPES), Some("q5_k_m"), Everywhere,
            "Recipe for weights that arrive unquantized (safetensors, GGUF in f16, bf16 or f32). A file that is quantized already is served as it is.";
        DYNAMIC_QUANTIZATION: Kind::Bool, Some("true"), Everywhere,
            "Step down the recipe at load (q8_0, q6_k, q5_k_m, q4_k_m, q3_k_m) until weights and one request of full length fit; off refuses instead.";
    }
    "KV cache" {
        KV_CACHE_DTYPE: Kind::ChoicePair(KV_TYPES), Some("f16"), Everywhere,
            "Type of the KV cache's entries.";
        MAX_SEQ_LEN: int(1, 16_777_216, "tokens"), None, Everywhere,
            "Most tokens of one request, prompt and output together. Unset: what the model was trained for, at most 32768; of several models at most 16384 or 8192, if that gives all that were named room together. More than the model was trained for is an error.";
        MAX_TOTAL_TOKENS: int(64, 1_073_741_824, "tokens"), Some("131072"), Everywhere,
            "Tokens that the KV cache holds over all requests. Clipped to memory, among several models to the model's share, and the log says to what.";
        ENABLE_PREFIX_CACHING: Kind::Bool, Some("true"), Everywhere,
            "Keep the KV of finished prompts for requests that begin alike.";
        PREFIX_CACHE_SIZE: size(0, 4 * TIB), Some("2GiB"), Everywhere,
            "Most bytes of KV kept for finished prompts; the least recently used pages go first.";
    }
    "Scheduling" {
        MAX_BATCH_SIZE: int(1, 1024, "sequences"), Some("8"), Everywhere,
            "Sequences computed in one step.";
        ENABLE_CONTINUOUS_BATCHING: Kind::Bool, Some("true"), Everywhere,
            "Let requests join and leave between steps; off runs a batch to its end before the next starts, for comparison.";
        MAX_RUNNING_REQUESTS: int(1, 4096, "requests"), Some("16"), Everywhere,
            "Admitted requests, at least MAX_BATCH_SIZE, which the default follows. More wait in the queue.";
        PREFILL_CHUNK_SIZE: int(16, 65_536, "tokens"), Some("2048"), Everywhere,
            "Most prompt tokens in a step; also bounded by a time budget so that running streams keep their pace.";
        STEP_TIME_BUDGET: TIME, Some("70ms"), Everywhere,
            "How long a step may take while streams run: the time budget of PREFILL_CHUNK_SIZE. A step may always take two and a half times as long as one without prompts; while no stream runs, 250ms if that is more.";
        DECODE_CHUNK_SIZE: int(1, 65_536, "steps"), Some("256"), Everywhere,
            "Most decode steps before waiting prompts get a turn.";
        MAX_QUEUED_REQUESTS: int(0, 65_536, "requests"), Some("64"), Everywhere,
            "Requests that wait beyond the admitted ones. One more is answered 429 with Retry-After.";
        MAX_QUEUED_TOKENS: int(1, 1_073_741_824, "tokens"), Some("1048576"), Everywhere,
            "Prompt tokens that wait in the queue in all. A request that would exceed it is answered 429.";
        MAX_REQUESTS_PER_KEY: int(1, 65_536, "requests"), None, Everywhere,
            "Requests of one API key that run or wait; where no key is asked for, of all clients together. One more is answered 429 with Retry-After. Unset: no bound of its own.";
        QUEUE_TIMEOUT: TIME, Some("60s"), Everywhere,
            "Longest wait in the queue; then 429.";
        REQUEST_TIMEOUT: TIME, Some("10m"), Everywhere,
            "Longest time from the moment that a request has been read to its last token. A request may ask for less (`deadline_ms`).";
        WATCHDOG_TIMEOUT: TIME, Some("30s"), Everywhere,
            "Readiness fails when requests run and no token was delivered for this long.";
    }
    "Server" {
        HOST: Kind::Host, Some("127.0.0.1"), Everywhere,
            "Address to listen on. One that is not loopback needs an API key, or `--insecure`.";
        PORT: int(0, 65_535, ""), Some("8080"), Everywhere,
            "Port to listen on. 0: a free one, printed at start.";
        API_KEYS: Kind::Secrets, None, Everywhere,
            "Keys that clients must send (`Authorization: Bearer KEY`), with commas between them. Unset: no key is asked for.";
        INSECURE: Kind::Switch, Some("false"), Everywhere,
            "Listen beyond loopback without an API key.";
        ALLOWED_HOSTS: Kind::List, None, Everywhere,
            "Names allowed in the `Host` header beside the listening address and localhost, with commas between them; `*` allows all.";
        SHUTDOWN_TIMEOUT: TIME, Some("30s"), Everywhere,
            "After SIGTERM, Ctrl-C or, on Linux, SIGHUP, time for running requests to finish.";
        LOG: Kind::LogFilter, Some("info"), Everywhere, also &["RUST_LOG"],
            "What is logged, e.g. `debug` or `info,engine=debug`. Commands other than `serve` log `warn` unless this is set.";
        LOG_FORMAT: Kind::Choice(&["text", "json"]), Some("text"), Everywhere,
            "Form of the log on standard error.";
    }
    "Limits" {
        MAX_CONNECTIONS: int(1, 65_536, "connections"), Some("1024"), Everywhere,
            "Open connections; more wait to be accepted.";
        MAX_HEADER_SIZE: size(8 * KIB, MIB), Some("32KiB"), Everywhere,
            "Bytes of a request's head.";
        MAX_HEADERS: int(16, 1024, "headers"), Some("100"), Everywhere,
            "Headers of a request.";
        HEADER_TIMEOUT: TIME, Some("10s"), Everywhere,
            "Time for a request's head, from its first byte; on a new connection, from the connection on.";
        IDLE_TIMEOUT: TIME, Some("75s"), Everywhere,
            "Time that a connection stays open without a request.";
        BODY_TIMEOUT: TIME, Some("30s"), Everywhere,
            "Time for a request's body.";
        STREAM_STALL_TIMEOUT: TIME, Some("30s"), Everywhere,
            "Time that a client may leave a stream unread before its request is cancelled.";
        MAX_BODY_SIZE: size(KIB, GIB), Some("32MiB"), Everywhere,
            "Bytes of a request's body.";
        MAX_JSON_DEPTH: int(8, 128, "levels"), Some("64"), Everywhere,
            "Nesting of a request's JSON.";
        MAX_PROMPTS: int(1, 4096, "prompts"), Some("128"), Everywhere,
            "Prompts in one completion request.";
        MAX_MESSAGES: int(1, 1_000_000, "messages"), Some("10000"), Everywhere,
            "Messages in a chat request.";
        MAX_DOCUMENTS: int(0, 4096, "documents"), Some("128"), Everywhere,
            "Entries of `documents` in a chat request.";
        MAX_CHOICES: int(1, 128, "choices"), Some("16"), Everywhere,
            "Largest `n`.";
        MAX_TOP_LOGPROBS: int(0, 64, "tokens"), Some("20"), Everywhere,
            "Largest `top_logprobs` of a chat request.";
        MAX_COMPLETION_LOGPROBS: int(0, 64, "tokens"), Some("5"), Everywhere,
            "Largest `logprobs` of a completion request.";
        MAX_STOP_STRINGS: int(0, 256, "strings"), Some("16"), Everywhere,
            "Stop strings in a request.";
        MAX_STOP_LENGTH: int(1, 4096, "bytes"), Some("256"), Everywhere,
            "Bytes of a stop string.";
        MAX_STOP_TOKEN_IDS: int(0, 4096, "tokens"), Some("64"), Everywhere,
            "Entries of `stop_token_ids`.";
        MAX_LOGIT_BIAS: int(0, 65_536, "tokens"), Some("1024"), Everywhere,
            "Entries of `logit_bias`.";
        MAX_DRY_BREAKERS: int(4, 4096, "strings"), Some("64"), Everywhere,
            "Entries of `dry_sequence_breakers`; at least as many as there are when a request names none.";
        MAX_DRY_BREAKER_LENGTH: int(1, 4096, "bytes"), Some("256"), Everywhere,
            "Bytes of an entry of `dry_sequence_breakers`.";
        MAX_CACHE_SALT_LENGTH: int(1, 4096, "bytes"), Some("256"), Everywhere,
            "Bytes of `cache_salt`.";
        MAX_TOOLS: int(0, 1024, "tools"), Some("128"), Everywhere,
            "Tools in a chat request.";
        MAX_SCHEMA_SIZE: size(KIB, GIB), Some("64KiB"), Everywhere,
            "Bytes of a JSON schema, without blanks: the `parameters` of a tool.";
        MAX_SCHEMA_DEPTH: int(1, 128, "levels"), Some("32"), Everywhere,
            "Nesting of a JSON schema.";
        CONTEXT_OVERFLOW: Kind::Choice(&["reject", "truncate"]), Some("reject"), Everywhere,
            "What becomes of a prompt that leaves no room in the context, when the request does not say (`context_overflow`): refuse it, or leave out the oldest turns of a chat (tokens of a text) and say how many.";
    }
    "Models" {
        MODEL: Kind::Text, None, Everywhere,
            "Model for commands that are given none. Unset: SmolLM2-135M-Instruct.";
        MODEL_IDLE_TTL: TIME, None, Everywhere,
            "A model that nobody has used for so long is unloaded, and loaded again when somebody asks for it. Unset: models stay until others need their memory.";
        MODEL_PIN: Kind::List, None, Everywhere,
            "Names of models that are never unloaded, with commas between them: names as `/v1/models` shows them. One that is not served is an error, and so are pinned models that have no room together.";
        MODEL_DIR: Kind::Text, None, Everywhere,
            "Where pulled models are kept. Unset: `frontier/models` in the user's cache directory.";
        HUB_ENDPOINT: Kind::Url, Some("https://huggingface.co"), Everywhere, also &["HF_ENDPOINT"],
            "Hub that models are pulled from.";
        HUB_TOKEN: Kind::Secret, None, Everywhere, also &["HF_TOKEN"],
            "Token for the hub; sent to the hub's own origin only.";
        HUB_TIMEOUT: TIME, Some("60s"), Everywhere,
            "Longest wait for a byte from the hub.";
        MAX_PULL_SIZE: size(KIB, 16 * TIB), Some("1TiB"), Everywhere,
            "Largest file that is pulled.";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_valid_value() {
        for def in TABLE {
            if let Some(default) = def.default {
                assert!(def.kind.parse(default).is_ok(), "{}: {default}", def.key);
            }
        }
    }

    #[test]
    fn names_are_unique_and_docs_are_sentences() {
        let plain = |name: &str| name.to_ascii_uppercase().replace('-', "_");
        let names: Vec<String> = TABLE.iter().flat_map(|def| def.names()).map(plain).collect();
        for (index, name) in names.iter().enumerate() {
            assert!(!names[..index].contains(name), "{name} twice");
        }
        for def in TABLE {
            assert!(def.doc.ends_with('.'), "{}", def.key);
        }
    }
}
