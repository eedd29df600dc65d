//! Walks the table of settings: every setting takes its lowest and its highest value from every source and refuses what
//! is outside, and what it does is observed where it does it. A new row of the table fails these tests until it says
//! here where its effect is seen.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::models::{shared, smollm2};
use crate::program::{error, frontier, stdout, wait_until};
use crate::serve::Serving;

/// A row of the table as `config explain --json` shows it.
struct Row {
    name: String,
    /// Lowest and highest value, and one outside; `None` for texts.
    samples: Option<[String; 3]>,
}

impl Row {
    fn flag(&self) -> String {
        format!("--{}", self.toml().replace('_', "-"))
    }

    fn toml(&self) -> String {
        self.name.strip_prefix("MISTRAL_").unwrap().to_lowercase()
    }

    fn is_switch(&self) -> bool {
        matches!(self.name.as_str(), "MISTRAL_STRICT" | "MISTRAL_INSECURE")
    }

    /// A value as reports of errors show it.
    fn shown(&self, value: &str) -> String {
        let is_secret = matches!(self.name.as_str(), "MISTRAL_API_KEYS" | "MISTRAL_HUB_TOKEN");
        if is_secret { "***".to_owned() } else { value.to_owned() }
    }

    /// Its lowest (0) or highest (1) value, or a text.
    fn sample(&self, which: usize) -> String {
        match (self.name.as_str(), &self.samples) {
            // More ranks than there are and devices that are not here are errors of their own.
            ("MISTRAL_TENSOR_PARALLEL_SIZE" | "MISTRAL_PIPELINE_PARALLEL_SIZE", _) => "1".to_owned(),
            ("MISTRAL_DEVICE", _) => ["auto", "cpu"][which].to_owned(),
            ("MISTRAL_CPU_ISA", _) => ["auto", "scalar"][which].to_owned(),
            (_, Some(samples)) => samples[which].clone(),
            (_, None) => ["a", "b"][which].to_owned(),
        }
    }
}

fn explain(dir: &Path, change: impl FnOnce(&mut std::process::Command)) -> Vec<Value> {
    let mut command = frontier(dir);
    command.args(["config", "explain", "--json"]);
    change(&mut command);
    serde_json::from_str(&stdout(&mut command)).unwrap()
}

/// Every row but those that name other files.
fn rows(dir: &Path) -> Vec<Row> {
    let rows = explain(dir, |_| {}).into_iter().map(|row| Row {
        name: row["name"].as_str().unwrap().to_owned(),
        samples: serde_json::from_value(row["samples"].clone()).unwrap(),
    });
    rows.filter(|row| row.name != "MISTRAL_CONFIG").collect()
}

/// The four ways to set a value.
#[derive(Clone, Copy, Debug)]
enum By {
    Flag,
    Env,
    DotEnv,
    Toml,
}

impl By {
    const ALL: [By; 4] = [By::Flag, By::Env, By::DotEnv, By::Toml];

    /// As `config explain` names it.
    fn name(self) -> &'static str {
        match self {
            By::Flag => "flag",
            By::Env => "env",
            By::DotEnv => "dotenv",
            By::Toml => "toml",
        }
    }

    /// Sets all values in one of the ways.
    fn set(self, dir: &Path, values: &[(&Row, String)], command: &mut std::process::Command) {
        let mut text = String::new();
        for (row, value) in values {
            match self {
                By::Flag if row.is_switch() => {
                    command.args((value == "true").then(|| row.flag()));
                }
                By::Flag => {
                    command.arg(format!("{}={value}", row.flag()));
                }
                By::Env => {
                    command.env(&row.name, value);
                }
                By::DotEnv => writeln!(text, "{}={value}", row.name).unwrap(),
                By::Toml => writeln!(text, "{} = \"{value}\"", row.toml()).unwrap(),
            }
        }
        match self {
            By::DotEnv => std::fs::write(dir.join(".env"), text).unwrap(),
            By::Toml => std::fs::write(dir.join("frontier.toml"), text).unwrap(),
            By::Flag | By::Env => {}
        }
    }
}

#[test]
fn lowest_and_highest_values_are_taken_from_every_source() {
    for by in By::ALL {
        for which in [0, 1] {
            let dir = tempfile::tempdir().unwrap();
            let rows = rows(dir.path());
            let values: Vec<(&Row, String)> = rows.iter().map(|row| (row, row.sample(which))).collect();
            let explained = explain(dir.path(), |command| by.set(dir.path(), &values, command));
            for (row, value) in &values {
                if row.is_switch() && matches!(by, By::Flag) && value == "false" {
                    continue;
                }
                let found = explained.iter().find(|found| found["name"] == row.name.as_str()).unwrap();
                assert_eq!(found["source"], by.name(), "{} by {by:?}", row.name);
                assert!(is_value(&found["value"], value), "{} by {by:?}: set to {value}: {found}", row.name);
            }
        }
    }
}

/// Whether `shown` is what `written` means.
fn is_value(shown: &Value, written: &str) -> bool {
    match shown {
        Value::Bool(on) => on.to_string() == written,
        Value::Number(number) => {
            let (digits, factor) = written.strip_suffix("ms").map_or((written, 1.0), |digits| (digits, 1e-3));
            let expected = digits.parse::<f64>().unwrap() * factor;
            (number.as_f64().unwrap() - expected).abs() <= 1e-9 * expected.abs()
        }
        Value::String(text) => text == written || text == "***",
        _ => false,
    }
}

#[test]
fn values_outside_are_refused_from_every_source_all_in_one_report() {
    for by in By::ALL {
        let dir = tempfile::tempdir().unwrap();
        let rows = rows(dir.path());
        let bad = |row: &Row| row.samples.as_ref().map(|samples| samples[2].clone());
        let is_settable = |row: &&Row| !(row.is_switch() && matches!(by, By::Flag));
        let values: Vec<(&Row, String)> =
            rows.iter().filter(is_settable).filter_map(|row| Some((row, bad(row)?))).collect();
        let mut command = frontier(dir.path());
        command.args(["config", "explain"]);
        by.set(dir.path(), &values, &mut command);
        let message = error(&mut command);
        assert!(message.contains(&format!("{} things are wrong", values.len())), "{by:?}: {message}");
        for (row, value) in values {
            let start = format!("{}={} (", row.name, row.shown(&value));
            let line = message.lines().find(|line| line.trim_start().starts_with(&start));
            let line = line.unwrap_or_else(|| panic!("{} by {by:?} is not in\n{message}", row.name));
            assert!(line.contains("allowed: "), "{line}");
        }
    }
}

/// Texts of which any is well formed, and which lead nowhere.
#[test]
fn paths_and_models_that_are_not_there_are_refused_from_every_source() {
    for by in By::ALL {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let row = |name: &str| Row { name: name.to_owned(), samples: None };
        let rows = [("MISTRAL_MODEL", "no such model"), ("MISTRAL_MODEL_DIR", "file"), ("MISTRAL_CONFIG", "none")];
        let rows = rows.map(|(name, value)| (row(name), value.to_owned()));
        // A configuration file cannot name itself.
        let is_settable = |(row, _): &&(Row, String)| !(row.name == "MISTRAL_CONFIG" && matches!(by, By::Toml));
        let values: Vec<(&Row, String)> =
            rows.iter().filter(is_settable).map(|(row, value)| (row, value.clone())).collect();
        let mut command = frontier(dir.path());
        command.arg("plan");
        by.set(dir.path(), &values, &mut command);
        let message = error(&mut command);
        for (row, value) in values {
            let start = format!("{}={value} (", row.name);
            assert!(message.contains(&start), "{start} by {by:?} is not in\n{message}");
        }
    }
}

/// Where the effect of a setting is seen.
enum Seen {
    /// In `mistral_server_config` or `mistral_engine_config` under this name: what the running parts were given.
    Metric(&'static str),
    /// In this entry of `frontier plan --json`.
    Plan(&'static str),
    /// By what it does, in the file's test of this name. The file lies in `crates`.
    Test(&'static str, &'static str),
    /// In what the log says of the GPU when the first value is set, and then the second. A value that the device cannot
    /// have is an error that names it.
    #[cfg_attr(not(feature = "gpu"), expect(dead_code))]
    Gpu(&'static str, &'static str),
}

const HERE: &str = "cli/tests/it/effects.rs";
const PULL: &str = "cli/tests/it/pull.rs";
const SERVE: &str = "cli/tests/it/serve.rs";
const QUANTIZE: &str = "cli/tests/it/quantize.rs";

fn seen(name: &str) -> Option<Seen> {
    use Seen::{Gpu, Metric, Plan, Test};
    Some(match name.strip_prefix("MISTRAL_")? {
        "PROFILE" => Test("cli/src/settings/load.rs", "each_source_is_stronger_than_the_next"),
        "CONFIG" => Test("cli/tests/it/settings.rs", "the_main_file_is_the_one_that_is_named"),
        "STRICT" => Metric("strict"),
        "DEVICE" => Test("cli/tests/it/gpu.rs", "what_a_device_cannot_do_is_said_at_the_start"),
        "METAL_DEVICE_ID" => Gpu("0", "63"),
        "METAL_SHADER_VARIANT" => Gpu("optimized", "baseline"),
        "METAL_SIMD_REDUCTION" | "USE_GRAPH_CAPTURE" | "METAL_ASYNC_DISPATCH" | "BATCH_INVARIANT" => {
            Gpu("true", "false")
        }
        "METAL_COMMAND_BUFFER_SIZE" => Gpu("1MiB", "64GiB"),
        "METAL_COMMAND_QUEUE_SIZE" => Gpu("1", "512"),
        "USE_FLASH_ATTENTION" => Test(HERE, "the_kinds_of_attention_differ_in_the_last_bits_and_no_more"),
        "METAL_HEAP_SIZE" | "MEMORY_LIMIT" | "MEMORY_FRACTION" => Plan("budget_bytes"),
        "NUM_THREADS" | "CPU_ISA" => Plan("device"),
        "TENSOR_PARALLEL_SIZE" | "PIPELINE_PARALLEL_SIZE" => Test(HERE, "more_ranks_than_one_are_refused"),
        "MEMORY_RESERVATION" => Plan("notes"),
        "MEMORY_WATCH" => Test(HERE, "memory_is_watched_unless_that_is_off"),
        "ENABLE_MEMORY_POOLING" | "MEMORY_POOL_SIZE" => {
            Test("cli/src/device/mod.rs", "scratch_memory_is_kept_as_the_pool_allows")
        }
        "QUANTIZATION_CACHE_SIZE" => {
            Test(QUANTIZE, "weights_quantized_at_load_are_kept_checked_and_made_anew_when_wrong")
        }
        "DEFAULT_QUANTIZATION" | "DYNAMIC_QUANTIZATION" => Test(QUANTIZE, "the_recipe_steps_down_until_the_model_fits"),
        "KV_CACHE_DTYPE" => Plan("kv_bytes"),
        "MAX_SEQ_LEN" => Plan("context_tokens"),
        "MAX_TOTAL_TOKENS" => Plan("kv_tokens"),
        "ENABLE_PREFIX_CACHING" => Metric("prefix_cache"),
        "PREFIX_CACHE_SIZE" => Metric("prefix_cache_bytes"),
        "MAX_BATCH_SIZE" => Metric("max_batch_size"),
        "ENABLE_CONTINUOUS_BATCHING" => Metric("continuous_batching"),
        "MAX_RUNNING_REQUESTS" => Metric("max_running_requests"),
        "PREFILL_CHUNK_SIZE" => Metric("prefill_chunk_tokens"),
        "DECODE_CHUNK_SIZE" => Metric("decode_chunk_tokens"),
        "MAX_QUEUED_REQUESTS" => Metric("max_queued_requests"),
        "MAX_QUEUED_TOKENS" => Metric("max_queued_tokens"),
        "MAX_REQUESTS_PER_KEY" => Metric("max_tenant_requests"),
        "STEP_TIME_BUDGET" => Metric("step_budget"),
        "MAX_STOP_TOKEN_IDS" => Metric("max_stop_tokens"),
        "CONTEXT_OVERFLOW" => Test(HERE, "prompts_that_are_too_long_become_what_is_set"),
        "QUEUE_TIMEOUT" => Metric("queue_timeout"),
        "REQUEST_TIMEOUT" => Metric("max_deadline"),
        "WATCHDOG_TIMEOUT" => Metric("watchdog"),
        "HOST" | "INSECURE" => Test(SERVE, "beyond_loopback_it_listens_with_a_key_or_when_told_that_it_may"),
        "PORT" => Test(SERVE, "a_port_that_is_taken_is_told_before_a_model_is_loaded"),
        "API_KEYS" | "ALLOWED_HOSTS" => Test(HERE, "keys_and_names_of_hosts_decide_who_is_answered"),
        "SHUTDOWN_TIMEOUT" => Metric("shutdown_timeout"),
        "LOG" | "LOG_FORMAT" => Test(HERE, "the_log_has_the_form_and_the_level_that_are_set"),
        "MAX_CONNECTIONS" => Metric("max_connections"),
        "MAX_HEADER_SIZE" => Metric("max_header_bytes"),
        "MAX_HEADERS" => Metric("max_headers"),
        "HEADER_TIMEOUT" => Metric("header_timeout"),
        "IDLE_TIMEOUT" => Metric("idle_timeout"),
        "BODY_TIMEOUT" => Metric("body_timeout"),
        "STREAM_STALL_TIMEOUT" => Metric("write_timeout"),
        "MAX_BODY_SIZE" => Metric("max_body_bytes"),
        "MAX_JSON_DEPTH" => Metric("max_json_depth"),
        "MAX_PROMPTS" => Metric("max_prompts"),
        "MAX_MESSAGES" => Metric("max_messages"),
        "MAX_DOCUMENTS" => Metric("max_documents"),
        "MAX_CHOICES" => Metric("max_choices"),
        "MAX_TOP_LOGPROBS" => Metric("max_top_logprobs"),
        "MAX_COMPLETION_LOGPROBS" => Metric("max_completion_logprobs"),
        "MAX_STOP_STRINGS" => Metric("max_stop_strings"),
        "MAX_STOP_LENGTH" => Metric("max_stop_bytes"),
        "MAX_LOGIT_BIAS" => Metric("max_logit_bias"),
        "MAX_DRY_BREAKERS" => Metric("max_dry_breakers"),
        "MAX_DRY_BREAKER_LENGTH" => Metric("max_breaker_bytes"),
        "MAX_CACHE_SALT_LENGTH" => Metric("max_salt_bytes"),
        "MAX_TOOLS" => Metric("max_tools"),
        "MAX_SCHEMA_SIZE" => Metric("max_schema_bytes"),
        "MAX_SCHEMA_DEPTH" => Metric("max_schema_depth"),
        "MODEL_IDLE_TTL" | "MODEL_PIN" => Test("cli/tests/it/fleet.rs", "an_idle_model_is_unloaded_and_comes_back"),
        "MODEL" => Test(HERE, "the_model_that_is_set_is_the_one_that_runs"),
        "MODEL_DIR" | "HUB_ENDPOINT" => Test(PULL, "a_good_pull_is_stored_once"),
        "HUB_TOKEN" => Test(PULL, "the_token_stays_with_the_hub_when_it_redirects"),
        "HUB_TIMEOUT" => Test(PULL, "a_stalled_body_is_given_up"),
        "MAX_PULL_SIZE" => Test(PULL, "a_file_above_the_limit_is_refused_before_a_byte_of_it_is_asked_for"),
        _ => return None,
    })
}

#[test]
fn every_setting_has_an_effect_that_is_seen() {
    let dir = tempfile::tempdir().unwrap();
    for row in explain(dir.path(), |_| {}) {
        let name = row["name"].as_str().unwrap();
        let seen = seen(name).unwrap_or_else(|| panic!("{name}: say in `seen` where its effect is seen"));
        if let Seen::Test(file, test) = seen {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(file);
            let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name}: {file}: {error}"));
            assert!(text.contains(&format!("fn {test}(")), "{name}: {file} has no test {test}");
        }
    }
}

/// What the running server and engine were given is what was set, low and high.
#[test]
fn the_running_server_has_what_was_set() {
    let Some(model) = smollm2() else { return };
    /// Lower is too little to answer the test's own questions.
    const LEAST: &[(&str, &str)] = &[
        ("MISTRAL_HEADER_TIMEOUT", "5s"),
        ("MISTRAL_IDLE_TIMEOUT", "5s"),
        ("MISTRAL_SHUTDOWN_TIMEOUT", "1s"),
        ("MISTRAL_STREAM_STALL_TIMEOUT", "5s"),
        ("MISTRAL_WATCHDOG_TIMEOUT", "5s"),
        ("MISTRAL_MAX_CONNECTIONS", "8"),
    ];
    for which in [0, 1] {
        let dir = tempfile::tempdir().unwrap();
        let rows = rows(dir.path());
        let metric = |row: &Row| match seen(&row.name) {
            Some(Seen::Metric(name)) => Some(name),
            _ => None,
        };
        let mut values: Vec<(&Row, &str, String)> = Vec::new();
        for row in &rows {
            let Some(metric) = metric(row).filter(|_| row.samples.is_some()) else { continue };
            let least = LEAST.iter().find(|(name, _)| *name == row.name && which == 0);
            let value = match (row.name.as_str(), least) {
                ("MISTRAL_PREFILL_CHUNK_SIZE", _) => ["16", "4096"][which].to_owned(),
                ("MISTRAL_MAX_BATCH_SIZE", _) => ["1", "32"][which].to_owned(),
                (_, Some((_, value))) => (*value).to_owned(),
                _ => row.sample(which),
            };
            values.push((row, metric, value));
        }
        let settings: Vec<(&Row, String)> = values.iter().map(|(row, _, value)| (*row, value.clone())).collect();
        let mut text = String::new();
        for (row, value) in &settings {
            writeln!(text, "{}={value}", row.name).unwrap();
        }
        std::fs::write(dir.path().join(".env"), text).unwrap();
        let explained = explain(dir.path(), |_| {});
        let serving = Serving::start(dir.path(), &model, &["--max-total-tokens", "1024", "--device", "cpu"]);
        let (status, metrics) = serving.request("GET", "/metrics", "");
        assert_eq!(status, 200, "{metrics}");
        for (row, metric, _) in &values {
            let wanted = explained.iter().find(|found| found["name"] == row.name.as_str()).unwrap();
            let wanted = match &wanted["value"] {
                Value::Bool(on) => f64::from(u8::from(*on)),
                Value::Number(number) => number.as_f64().unwrap(),
                other => panic!("{}: {other}", row.name),
            };
            let label = format!("setting=\"{metric}\"}} ");
            let found = metrics.lines().find(|line| line.contains("_config{") && line.contains(&label));
            let found = found.unwrap_or_else(|| panic!("{metric} of {} is not in\n{metrics}", row.name));
            let found: f64 = found.rsplit(' ').next().unwrap().parse().unwrap();
            assert!((found - wanted).abs() <= 1e-9 * wanted.abs(), "{}: {found}, set to {wanted}", row.name);
        }
    }
}

#[test]
fn keys_and_names_of_hosts_decide_who_is_answered() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".env"), "MISTRAL_API_KEYS=sesame, other\nMISTRAL_ALLOWED_HOSTS=my.host\n").unwrap();
    let serving = Serving::start(dir.path(), &model, &["--max-total-tokens", "1024", "--device", "cpu"]);
    for (host, key, status) in [
        ("my.host", "sesame", 200),
        ("my.host", "other", 200),
        ("my.host", "neither", 401),
        ("localhost", "sesame", 200),
        ("their.host", "sesame", 403),
    ] {
        let mut stream = std::net::TcpStream::connect(&serving.address).unwrap();
        let head = format!(
            "GET /v1/models HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
        );
        std::io::Write::write_all(&mut stream, head.as_bytes()).unwrap();
        let answer = std::io::read_to_string(stream).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{host}, {key}: {answer}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn memory_is_watched_unless_that_is_off() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    for is_watched in [true, false] {
        let flags = ["--max-total-tokens", "1024", "--device", "cpu", "--memory-watch", &is_watched.to_string()];
        let serving = Serving::start(dir.path(), &model, &flags);
        assert_eq!(serving.request("GET", "/health", "").0, 200);
        let told = serving.log.lines().find_map(|line| line.split_once("memory watch: ")).map(|(_, told)| told);
        assert_eq!(told.map(|told| told.trim() == "off"), Some(!is_watched), "{}", serving.log);
        // A thread takes its name when it first runs, which may be after the first answer.
        let watches = || serving.threads().contains(&"memory-watch".to_owned());
        wait_until("the threads are as set", || watches() == is_watched);
    }
}

#[test]
fn prompts_that_are_too_long_become_what_is_set() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let body = serde_json::json!({ "prompt": "word ".repeat(200), "max_tokens": 1 }).to_string();
    for (policy, status, part) in [("reject", 400, "context of 128"), ("truncate", 200, "\"dropped\":")] {
        let flags = ["--max-seq-len", "128", "--max-total-tokens", "1024", "--device", "cpu"];
        let flags = [&flags[..], &["--context-overflow", policy]].concat();
        let serving = Serving::start(dir.path(), &model, &flags);
        let (got, answer) = serving.request("POST", "/v1/completions", &body);
        assert!(got == status && answer.contains(part), "{policy}: {got} {answer}");
    }
}

/// What is seen in plans changes from a low to a high value.
#[test]
fn plans_follow_the_settings() {
    let Some(model) = smollm2() else { return };
    for (name, low, high) in [
        ("MISTRAL_METAL_HEAP_SIZE", "2GB", "3GB"),
        ("MISTRAL_MEMORY_LIMIT", "2GB", "3GB"),
        ("MISTRAL_MEMORY_FRACTION", "0.5", "0.6"),
        ("MISTRAL_NUM_THREADS", "1", "2"),
        ("MISTRAL_CPU_ISA", "scalar", "auto"),
        ("MISTRAL_MEMORY_RESERVATION", "64MiB", "1TiB"),
        ("MISTRAL_KV_CACHE_DTYPE", "q4_0", "f32"),
        ("MISTRAL_MAX_SEQ_LEN", "64", "8192"),
        ("MISTRAL_MAX_TOTAL_TOKENS", "64", "4096"),
    ] {
        let Some(Seen::Plan(entry)) = seen(name) else { panic!("{name} is not seen in plans") };
        let plans = [low, high].map(|value| {
            let dir = tempfile::tempdir().unwrap();
            let mut command = frontier(dir.path());
            command.arg("plan").arg(&model).args(["--json", "--device", "cpu"]).env(name, value);
            serde_json::from_str::<Value>(&stdout(&mut command)).unwrap()[entry].clone()
        });
        assert_ne!(plans[0], plans[1], "{name}: {entry}");
    }
}

/// On a GPU: crate `gpu` tests what each of these does to a step, here it is seen that the device is given them.
#[test]
#[cfg(feature = "gpu")]
fn settings_of_the_gpu_reach_it() {
    if gpu::list_adapters().is_empty() {
        println!("skipped: settings of the GPU: no adapter (install mesa-vulkan-drivers for software Vulkan)");
        return;
    }
    let Some(model) = shared("data/tiny/llama") else { return };
    let dir = tempfile::tempdir().unwrap();
    for row in rows(dir.path()) {
        let Some(Seen::Gpu(first, second)) = seen(&row.name) else { continue };
        let told = [first, second].map(|value| {
            let mut command = frontier(dir.path());
            command.arg("logits").arg(&model).args(["--ids", "1", "--device", "vulkan", "--log", "info"]);
            let output = command.env(&row.name, value).output().unwrap();
            let log = String::from_utf8(output.stderr).unwrap();
            assert!(output.status.success() || log.contains(&format!("{}={value} (", row.name)), "{}: {log}", row.name);
            let lines = log
                .lines()
                .filter(|line| ["kernels: ", "graph capture ", "error: "].iter().any(|part| line.contains(part)));
            // Without the time of day.
            lines.map(|line| line.split("INFO").last().unwrap().to_owned()).collect::<Vec<_>>()
        });
        assert!(!told[0].is_empty() && told[0] != told[1], "{}: {told:?}", row.name);
    }
}

/// A setting of one kind of device says on the other that it does nothing, and why.
#[test]
fn settings_of_a_device_are_inert_on_another() {
    let dir = tempfile::tempdir().unwrap();
    let explained = explain(dir.path(), |command| {
        command.args(["--device", "cpu"]);
    });
    let mut of_gpu = 0;
    for row in explained {
        let name = row["name"].as_str().unwrap();
        if matches!(seen(name), Some(Seen::Gpu(..))) {
            assert_eq!(row["inert"], "inert: models run on the CPU", "{name}");
            of_gpu += 1;
        }
    }
    assert_eq!(of_gpu, 8);
}

/// A schema is within a body: four levels deep in it, and no larger.
#[test]
fn limits_of_schemas_beyond_those_of_bodies_are_clipped() {
    let dir = tempfile::tempdir().unwrap();
    for (name, value, by, of_body, clipped) in [
        ("MISTRAL_MAX_SCHEMA_DEPTH", "32", "MISTRAL_MAX_JSON_DEPTH", "36", None),
        ("MISTRAL_MAX_SCHEMA_DEPTH", "32", "MISTRAL_MAX_JSON_DEPTH", "35", Some("31")),
        ("MISTRAL_MAX_SCHEMA_SIZE", "1MiB", "MISTRAL_MAX_BODY_SIZE", "1MiB", None),
        ("MISTRAL_MAX_SCHEMA_SIZE", "1025KiB", "MISTRAL_MAX_BODY_SIZE", "1MiB", Some("1MiB")),
    ] {
        let explained = explain(dir.path(), |command| {
            command.envs([(name, value), (by, of_body)]);
        });
        let row = explained.iter().find(|row| row["name"] == name).unwrap();
        let expected = clipped.map(|most| format!("clipped to {most}: {by} is {of_body}"));
        assert_eq!(row["clipped"].as_str(), expected.as_deref(), "{row}");
    }
}

#[test]
fn settings_that_others_make_inert_say_so() {
    let dir = tempfile::tempdir().unwrap();
    for (name, by, value) in [
        ("MISTRAL_MEMORY_FRACTION", "MISTRAL_METAL_HEAP_SIZE", "1GiB"),
        ("MISTRAL_MEMORY_POOL_SIZE", "MISTRAL_ENABLE_MEMORY_POOLING", "false"),
        ("MISTRAL_ENABLE_MEMORY_POOLING", "MISTRAL_MEMORY_POOL_SIZE", "0"),
        ("MISTRAL_PREFIX_CACHE_SIZE", "MISTRAL_ENABLE_PREFIX_CACHING", "false"),
        ("MISTRAL_DYNAMIC_QUANTIZATION", "MISTRAL_DEFAULT_QUANTIZATION", "q3_k_m"),
        ("MISTRAL_QUEUE_TIMEOUT", "MISTRAL_MAX_QUEUED_REQUESTS", "0"),
        ("MISTRAL_INSECURE", "MISTRAL_HOST", "127.0.0.1"),
    ] {
        let inert = |value: Option<&str>| {
            let explained = explain(dir.path(), |command| {
                command.envs(value.map(|value| (by, value)));
            });
            explained.iter().find(|row| row["name"] == name).unwrap()["inert"].clone()
        };
        assert_eq!(inert(Some(value)), format!("inert: {by} is {value}"), "{name}");
        assert!(inert(None).is_null() || name == "MISTRAL_INSECURE", "{name}");
    }
    let Some(model) = smollm2() else { return };
    let explained = explain(dir.path(), |command| {
        command.arg(model);
    });
    for name in ["MISTRAL_DEFAULT_QUANTIZATION", "MISTRAL_DYNAMIC_QUANTIZATION", "MISTRAL_QUANTIZATION_CACHE_SIZE"] {
        let row = explained.iter().find(|row| row["name"] == name).unwrap();
        assert_eq!(row["inert"], "inert: the model is quantized already and served as it is");
    }
}

/// The two ways of attention add in another order: the same logits but for their last bits, and not the same bits. More
/// than this between them would be wrong (docs/exactness.md).
const ATTENTION_TOLERANCE: f64 = 2e-4;

#[test]
fn the_kinds_of_attention_differ_in_the_last_bits_and_no_more() {
    let Some(model) = shared("data/tiny/llama") else { return };
    let dir = tempfile::tempdir().unwrap();
    let ids: Vec<String> = (3..43).map(|id| id.to_string()).collect();
    let logits = |device: &str, on: &str| -> Vec<Vec<f64>> {
        let mut command = frontier(dir.path());
        command.arg("logits").arg(&model).args(["--ids", &ids.join(","), "--json", "--device", device]);
        let printed: Value = serde_json::from_str(&stdout(command.env("MISTRAL_USE_FLASH_ATTENTION", on))).unwrap();
        serde_json::from_value(printed["logits"].clone()).unwrap()
    };
    for device in devices() {
        let [tiled, plain] = ["on", "off"].map(|on| logits(device, on));
        let pairs = tiled.iter().flatten().zip(plain.iter().flatten());
        let most = pairs.fold(0.0, |most: f64, (a, b)| most.max((a - b).abs()));
        assert!(most > 0.0, "{device}: the same bits: the setting chose nothing");
        assert!(most <= ATTENTION_TOLERANCE, "{device}: {most}");
    }
}

/// The CPU, and the GPU where there is one.
fn devices() -> &'static [&'static str] {
    #[cfg(feature = "gpu")]
    if !gpu::list_adapters().is_empty() {
        return &["cpu", "vulkan"];
    }
    &["cpu"]
}

#[test]
fn more_ranks_than_one_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["MISTRAL_TENSOR_PARALLEL_SIZE", "MISTRAL_PIPELINE_PARALLEL_SIZE"] {
        let message = error(frontier(dir.path()).args(["config", "explain"]).env(name, "2"));
        let expected = format!("{name}=2 (environment): 1 rank is running, and this version has no way to start more");
        assert!(message.contains(&expected) && message.contains("allowed: 1"), "{message}");
    }
}

#[test]
fn the_model_that_is_set_is_the_one_that_runs() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["run", "serve"] {
        let message = error(frontier(dir.path()).arg(command).env("MISTRAL_MODEL", "some-model.gguf"));
        assert!(message.contains("some-model.gguf"), "{message}");
    }
}

#[test]
fn the_log_has_the_form_and_the_level_that_are_set() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let log = |flags: &[&str]| {
        let mut command = frontier(dir.path());
        command.arg("run").arg(&model).arg("hi").args(["--max-tokens", "1", "--device", "cpu"]).args(flags);
        String::from_utf8(command.output().unwrap().stderr).unwrap()
    };
    assert!(log(&["--log", "info"]).contains("weights +"));
    assert_eq!(log(&["--log", "error"]), "");
    let json = log(&["--log", "info", "--log-format", "json"]);
    assert!(json.contains("weights +"), "{json}");
    assert!(json.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{json}");
}

#[test]
fn defaults_give_way_and_what_was_set_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let explained = explain(dir.path(), |command| {
        command.env("MISTRAL_MAX_RUNNING_REQUESTS", "4");
    });
    let batch = explained.iter().find(|row| row["name"] == "MISTRAL_MAX_BATCH_SIZE").unwrap();
    assert_eq!((&batch["value"], batch["clipped"].is_string()), (&Value::from(4), true), "{batch}");
    let flags = ["--max-batch-size", "32", "--max-running-requests", "16", "--port", "-1"];
    let message = error(frontier(dir.path()).args(["config", "explain"]).args(flags));
    for part in
        ["2 things are wrong", "MISTRAL_MAX_BATCH_SIZE=32", "MISTRAL_MAX_RUNNING_REQUESTS=16", "MISTRAL_PORT=-1"]
    {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}
