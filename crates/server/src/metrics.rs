//! Every metric: one row in the table, and how each gets its value.
//!
//! Times but that of HTTP are taken at engine steps ([`engine::Observer`]), not at network frames; counts come from the
//! engine's own counters, so they are exact. Labels have few values: the `model` label knows served names only.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use engine::{CancelCause, Counters, FinishReason, Observer, RejectReason, Relief, RequestReport, Stats, StepReport};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::config::ServerConfig;
use crate::fleet::{Fleet, Slot};
use crate::ids::unix_seconds;
use crate::model::ServedModel;

/// A metric.
#[derive(Debug)]
pub struct Row {
    /// Full name. Counters get `_total` when they are written.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Label names.
    pub labels: &'static [&'static str],
}

/// The kind of a metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by these upper bounds.
    Histogram(&'static [f64]),
}

const REQUEST_SECONDS: &[f64] = &[
    0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0,
];
const FIRST_TOKEN_SECONDS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const TOKEN_SECONDS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
];
const STEP_SECONDS: &[f64] =
    &[0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5];
const TOKENS: &[f64] = &[
    1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10_000.0, 20_000.0, 50_000.0,
    100_000.0,
];
const STEP_TOKENS: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16_384.0];

macro_rules! rows {
    ($( $key:ident = $name:literal, $kind:expr, [$($label:literal),*], $help:literal; )*) => {
        $( #[doc = $help] static $key: Row = Row { name: $name, help: $help, kind: $kind, labels: &[$($label),*] }; )*
        /// Every metric.
        pub static TABLE: &[&Row] = &[$(&$key),*];
    };
}

rows! {
    GENERATE_DURATION = "mistral_generate_duration_seconds", Kind::Histogram(REQUEST_SECONDS), ["model"],
        "Time from a request's arrival in the engine to its last token";
    HTTP_DURATION = "mistral_http_request_duration_seconds", Kind::Histogram(REQUEST_SECONDS), ["route", "status"],
        "Time from a request's head to the end of its answer";
    ACTIVE_REQUESTS = "mistral_active_requests", Kind::Gauge, [],
        "Generation requests being answered over HTTP";
    FIRST_TOKEN = "mistral_time_to_first_token_seconds", Kind::Histogram(FIRST_TOKEN_SECONDS), ["model"],
        "Time from a request's arrival in the engine to its first token";
    INTER_TOKEN = "mistral_inter_token_latency_seconds", Kind::Histogram(TOKEN_SECONDS), ["model"],
        "Time between two tokens of a choice";
    QUEUE_TIME = "mistral_request_queue_time_seconds", Kind::Histogram(REQUEST_SECONDS), ["model"],
        "Time from a request's arrival in the engine to its first turn";
    PREFILL_TIME = "mistral_request_prefill_time_seconds", Kind::Histogram(REQUEST_SECONDS), ["model"],
        "Time from a request's first turn to its first token";
    DECODE_TIME = "mistral_request_decode_time_seconds", Kind::Histogram(REQUEST_SECONDS), ["model"],
        "Time from a request's first token to its last";
    REQUEST_PROMPT = "mistral_request_prompt_tokens", Kind::Histogram(TOKENS), ["model"],
        "Prompt tokens of a finished request";
    REQUEST_GENERATION = "mistral_request_generation_tokens", Kind::Histogram(TOKENS), ["model"],
        "Tokens generated for a finished request";
    REQUEST_SUCCESS = "mistral_request_success", Kind::Counter, ["model", "finished_reason"],
        "Requests that finished";
    PROMPT_TOKENS = "mistral_prompt_tokens", Kind::Counter, ["model"],
        "Prompt tokens of started requests";
    PREFILL_TOKENS = "mistral_prefill_tokens", Kind::Counter, ["model"],
        "Prompt tokens computed, again after preemption included";
    GENERATION_TOKENS = "mistral_generation_tokens", Kind::Counter, ["model"],
        "Tokens generated";
    RUNNING = "mistral_num_requests_running", Kind::Gauge, ["model"],
        "Requests admitted: prefilling, decoding, paused, preempted, or complete and not yet read";
    WAITING = "mistral_num_requests_waiting", Kind::Gauge, ["model"],
        "Requests in the queue";
    PAUSED = "mistral_num_requests_paused", Kind::Gauge, ["model"],
        "Requests whose client does not read";
    QUEUED_AGE = "mistral_oldest_queued_request_age_seconds", Kind::Gauge, ["model"],
        "How long the oldest queued request has waited";
    DELIVERY_AGE = "mistral_last_delivery_age_seconds", Kind::Gauge, ["model"],
        "Time since a step last came to something, zero while there is nothing to do";
    READY = "mistral_ready", Kind::Gauge, ["model"],
        "1 when requests should be sent here";
    KV_USE = "mistral_kv_cache_usage_ratio", Kind::Gauge, ["model"],
        "Share of the fullest KV pool that sequences hold, 0 to 1";
    KV_PAGES = "mistral_kv_cache_pages", Kind::Gauge, ["model", "group", "state"],
        "KV pages by state; the states add up to all pages";
    PREFIX_BYTES = "mistral_prefix_cache_bytes", Kind::Gauge, ["model"],
        "Bytes of KV kept for finished prefixes";
    PREFIX_QUERIES = "mistral_prefix_cache_queries", Kind::Counter, ["model"],
        "Tokens looked up in the prefix cache";
    PREFIX_HITS = "mistral_prefix_cache_hits", Kind::Counter, ["model"],
        "Tokens found in the prefix cache";
    EVICTED = "mistral_prefix_cache_evicted_pages", Kind::Counter, ["model"],
        "Cached pages that were given to others";
    PREEMPTIONS = "mistral_preemptions", Kind::Counter, ["model"],
        "Times that a sequence lost its pages";
    PREEMPTED_TOKENS = "mistral_preempted_tokens", Kind::Counter, ["model"],
        "Computed tokens lost to preemption";
    RELIEVED = "mistral_memory_relief", Kind::Counter, ["model", "measure"],
        "Measures taken against memory pressure";
    CANCELLED = "mistral_requests_cancelled", Kind::Counter, ["model", "cause"],
        "Requests that ended before their time";
    REJECTED = "mistral_requests_rejected", Kind::Counter, ["model", "reason"],
        "Requests that were not taken";
    FAILED = "mistral_requests_failed", Kind::Counter, ["model"],
        "Requests that failed with their step or could not be sampled";
    STEPS = "mistral_steps", Kind::Counter, ["model", "result"],
        "Engine steps by result; panics while a message or a timer is attended to count as well";
    STEP_TIME = "mistral_step_duration_seconds", Kind::Histogram(STEP_SECONDS), ["model", "part"],
        "Time of a step by part";
    STEP_SIZE = "mistral_step_tokens", Kind::Histogram(STEP_TOKENS), ["model"],
        "Tokens computed in a step";
    BUILD_INFO = "mistral_build_info", Kind::Gauge, ["version"],
        "Always 1; the label has the version";
    MODEL_INFO = "mistral_model_info", Kind::Gauge, ["model", "device"],
        "Always 1; the labels have the model and what it runs on";
    MODEL_LOAD = "mistral_model_load_seconds", Kind::Gauge, ["model"],
        "Time that loading took";
    MODEL_IN_MEMORY = "mistral_model_in_memory", Kind::Gauge, ["model"],
        "1 when the model is loaded";
    MODEL_LOADS = "mistral_model_loads", Kind::Counter, ["model", "result"],
        "Loads of the model by result, and times that it was unloaded";
    SERVER_CONFIG = "mistral_server_config", Kind::Gauge, ["setting"],
        "What the server was started with: times in seconds, switches 0 or 1";
    ENGINE_CONFIG = "mistral_engine_config", Kind::Gauge, ["model", "setting"],
        "What a model's engine was started with: times in seconds, switches 0 or 1";
    START_TIME = "mistral_process_start_time_seconds", Kind::Gauge, [],
        "When the process started, in seconds since 1970";
    RESIDENT = "mistral_process_resident_memory_bytes", Kind::Gauge, [],
        "Resident memory of the process";
}

/// Label names and values.
type Labels = Vec<(&'static str, String)>;

/// All metrics of a process.
pub struct Metrics {
    registry: Registry,
    http: Family<Labels, Histogram, fn() -> Histogram>,
    active: Gauge,
    generate: Family<Labels, Histogram, fn() -> Histogram>,
    first_token: Family<Labels, Histogram, fn() -> Histogram>,
    inter_token: Family<Labels, Histogram, fn() -> Histogram>,
    queue: Family<Labels, Histogram, fn() -> Histogram>,
    prefill: Family<Labels, Histogram, fn() -> Histogram>,
    decode: Family<Labels, Histogram, fn() -> Histogram>,
    request_prompt: Family<Labels, Histogram, fn() -> Histogram>,
    request_generation: Family<Labels, Histogram, fn() -> Histogram>,
    success: Family<Labels, Counter>,
    step_time: Family<Labels, Histogram, fn() -> Histogram>,
    step_size: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Metrics {
    /// Registers everything that does not come from an engine's own counters.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let mut seconds = |row: &'static Row, make: fn() -> Histogram| {
            let family = Family::new_with_constructor(make);
            registry.register(row.name, row.help, family.clone());
            family
        };
        let http = seconds(&HTTP_DURATION, || Histogram::new(REQUEST_SECONDS.iter().copied()));
        let generate = seconds(&GENERATE_DURATION, || Histogram::new(REQUEST_SECONDS.iter().copied()));
        let first_token = seconds(&FIRST_TOKEN, || Histogram::new(FIRST_TOKEN_SECONDS.iter().copied()));
        let inter_token = seconds(&INTER_TOKEN, || Histogram::new(TOKEN_SECONDS.iter().copied()));
        let queue = seconds(&QUEUE_TIME, || Histogram::new(REQUEST_SECONDS.iter().copied()));
        let prefill = seconds(&PREFILL_TIME, || Histogram::new(REQUEST_SECONDS.iter().copied()));
        let decode = seconds(&DECODE_TIME, || Histogram::new(REQUEST_SECONDS.iter().copied()));
        let request_prompt = seconds(&REQUEST_PROMPT, || Histogram::new(TOKENS.iter().copied()));
        let request_generation = seconds(&REQUEST_GENERATION, || Histogram::new(TOKENS.iter().copied()));
        let step_time = seconds(&STEP_TIME, || Histogram::new(STEP_SECONDS.iter().copied()));
        let step_size = seconds(&STEP_SIZE, || Histogram::new(STEP_TOKENS.iter().copied()));
        let success = Family::<Labels, Counter>::default();
        registry.register(REQUEST_SUCCESS.name, REQUEST_SUCCESS.help, success.clone());
        let active = Gauge::<i64, AtomicI64>::default();
        registry.register(ACTIVE_REQUESTS.name, ACTIVE_REQUESTS.help, active.clone());
        let build = Family::<Labels, Gauge>::default();
        build.get_or_create(&vec![("version", env!("CARGO_PKG_VERSION").to_owned())]).set(1);
        registry.register(BUILD_INFO.name, BUILD_INFO.help, build);
        let start = Gauge::<i64, AtomicI64>::default();
        start.set(unix_seconds() as i64);
        registry.register(START_TIME.name, START_TIME.help, start);
        Self {
            registry,
            http,
            active,
            generate,
            first_token,
            inter_token,
            queue,
            prefill,
            decode,
            request_prompt,
            request_generation,
            success,
            step_time,
            step_size,
        }
    }

    /// What the engine of this model shall report to ([`engine::EngineConfig::observer`]).
    pub fn observer(&self, model: &str) -> Arc<dyn Observer> {
        let labels: Labels = vec![("model", model.to_owned())];
        let of = |family: &Family<Labels, Histogram, fn() -> Histogram>| family.get_or_create(&labels).clone();
        let part = |part: &str| {
            let labels = vec![("model", model.to_owned()), ("part", part.to_owned())];
            self.step_time.get_or_create(&labels).clone()
        };
        let finished = |reason: &str| {
            let labels = vec![("model", model.to_owned()), ("finished_reason", reason.to_owned())];
            self.success.get_or_create(&labels).clone()
        };
        Arc::new(ModelObserver {
            generate: of(&self.generate),
            first_token: of(&self.first_token),
            inter_token: of(&self.inter_token),
            queue: of(&self.queue),
            prefill: of(&self.prefill),
            decode: of(&self.decode),
            request_prompt: of(&self.request_prompt),
            request_generation: of(&self.request_generation),
            finished_stop: finished("stop"),
            finished_length: finished("length"),
            schedule: part("schedule"),
            forward: part("forward"),
            sample: part("sample"),
            commit: part("commit"),
            step_size: of(&self.step_size),
        })
    }

    /// Adds what is read from the engines at each scrape.
    pub(crate) fn collect(&mut self, fleet: &Arc<Fleet>, config: &ServerConfig) {
        let numbers = Family::<Labels, Gauge<f64, AtomicU64>>::default();
        for (setting, value) in config.numbers() {
            numbers.get_or_create(&vec![("setting", setting.to_owned())]).set(value);
        }
        self.registry.register(SERVER_CONFIG.name, SERVER_CONFIG.help, numbers);
        self.registry.register_collector(Box::new(EngineCollector(Arc::clone(fleet))));
    }

    /// The OpenMetrics text.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).expect("writing to a String succeeds");
        text
    }

    /// Notes an answered request.
    pub(crate) fn http_request(&self, route: &str, status: u16, duration: Duration) {
        let labels = vec![("route", route.to_owned()), ("status", status.to_string())];
        self.http.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    /// Counts a generation request for as long as the result lives.
    pub(crate) fn active_request(&self) -> ActiveRequest {
        self.active.inc();
        ActiveRequest(self.active.clone())
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A generation request on its way.
#[derive(Debug)]
pub(crate) struct ActiveRequest(Gauge);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Measures an HTTP request until it is dropped, at the end of its answer.
#[derive(Debug)]
pub(crate) struct HttpTimer {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) route: String,
    pub(crate) status: u16,
    pub(crate) start: Instant,
}

impl Drop for HttpTimer {
    fn drop(&mut self) {
        self.metrics.http_request(&self.route, self.status, self.start.elapsed());
    }
}

struct ModelObserver {
    generate: Histogram,
    first_token: Histogram,
    inter_token: Histogram,
    queue: Histogram,
    prefill: Histogram,
    decode: Histogram,
    request_prompt: Histogram,
    request_generation: Histogram,
    finished_stop: Counter,
    finished_length: Counter,
    schedule: Histogram,
    forward: Histogram,
    sample: Histogram,
    commit: Histogram,
    step_size: Histogram,
}

impl Observer for ModelObserver {
    fn started(&self, queue: Duration) {
        self.queue.observe(queue.as_secs_f64());
    }

    fn first_token(&self, since_submit: Duration, _prefill: Duration) {
        self.first_token.observe(since_submit.as_secs_f64());
    }

    fn inter_token(&self, gap: Duration) {
        self.inter_token.observe(gap.as_secs_f64());
    }

    fn finished(&self, report: &RequestReport) {
        self.generate.observe(report.total.as_secs_f64());
        self.prefill.observe(report.prefill.as_secs_f64());
        self.decode.observe(report.decode.as_secs_f64());
        self.request_prompt.observe(report.prompt_tokens as f64);
        self.request_generation.observe(report.completion_tokens as f64);
        match report.reason {
            FinishReason::Length => self.finished_length.inc(),
            FinishReason::EndOfText(_) | FinishReason::StopToken(_) | FinishReason::Stopped => self.finished_stop.inc(),
        };
    }

    fn step(&self, report: &StepReport) {
        self.schedule.observe(report.schedule.as_secs_f64());
        self.forward.observe(report.forward.as_secs_f64());
        self.sample.observe(report.sample.as_secs_f64());
        self.commit.observe(report.commit.as_secs_f64());
        self.step_size.observe((report.prefill_tokens + report.decode_tokens) as f64);
    }
}

/// Reads the engines' own gauges and counters at each scrape.
#[derive(Debug)]
struct EngineCollector(Arc<Fleet>);

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let models = self.0.loaded();
        let snapshots: Vec<(&ServedModel, Stats, engine::Health)> =
            models.iter().map(|model| (&**model, model.engine.stats(), model.engine.health())).collect();
        let mut rows = Rows(&mut encoder);
        let by_model = |value: &dyn Fn(&ServedModel, &Stats, &engine::Health) -> f64| {
            let samples = snapshots.iter();
            samples.map(|(model, stats, health)| (vec![model.name.clone()], value(model, stats, health))).collect()
        };
        rows.write(&RUNNING, by_model(&|_, stats, _| stats.running_requests as f64))?;
        rows.write(&WAITING, by_model(&|_, stats, _| stats.waiting_requests as f64))?;
        rows.write(&PAUSED, by_model(&|_, stats, _| stats.paused_requests as f64))?;
        rows.write(&QUEUED_AGE, by_model(&|_, _, health| health.oldest_queued_age.as_secs_f64()))?;
        rows.write(&DELIVERY_AGE, by_model(&|_, _, health| health.last_delivery_age.as_secs_f64()))?;
        let ready = |health: &engine::Health| f64::from(u8::from(health.readiness == engine::Readiness::Ready));
        rows.write(&READY, by_model(&|_, _, health| ready(health)))?;
        rows.write(&KV_USE, by_model(&|_, stats, _| stats.kv_use()))?;
        rows.write(&PREFIX_BYTES, by_model(&|_, stats, _| stats.prefix_cache_bytes as f64))?;
        rows.write(&MODEL_LOAD, by_model(&|model, _, _| model.load_time.as_secs_f64()))?;
        // What was counted stays, whether or not the model is in memory now.
        let totals: Vec<(&str, Counters)> =
            self.0.slots().iter().map(|slot| (slot.name.as_str(), slot.counters())).collect();
        let total = |count: &dyn Fn(&Counters) -> u64| {
            totals.iter().map(|(name, counters)| (vec![(*name).to_owned()], count(counters) as f64)).collect()
        };
        rows.write(&PROMPT_TOKENS, total(&|counters| counters.prompt_tokens))?;
        rows.write(&PREFILL_TOKENS, total(&|counters| counters.prefill_tokens))?;
        rows.write(&GENERATION_TOKENS, total(&|counters| counters.generated_tokens))?;
        rows.write(&PREFIX_QUERIES, total(&|counters| counters.prefix_queries))?;
        rows.write(&PREFIX_HITS, total(&|counters| counters.prefix_hits))?;
        rows.write(&EVICTED, total(&|counters| counters.evicted_pages))?;
        rows.write(&PREEMPTIONS, total(&|counters| counters.preemptions))?;
        rows.write(&PREEMPTED_TOKENS, total(&|counters| counters.preempted_tokens))?;
        rows.write(&FAILED, total(&|counters| counters.failed))?;

        let labels = |model: &str, rest: &[&str]| -> Vec<String> {
            std::iter::once(model).chain(rest.iter().copied()).map(str::to_owned).collect()
        };
        let mut pages = Vec::new();
        let mut infos = Vec::new();
        let mut configs = Vec::new();
        for (model, stats, _) in &snapshots {
            for (group, pool) in stats.pools.iter().enumerate() {
                let group = group.to_string();
                for (state, count) in [("free", pool.free), ("held", pool.held), ("cached", pool.cached)] {
                    pages.push((labels(&model.name, &[&group, state]), count as f64));
                }
            }
            infos.push((labels(&model.name, &[&model.device]), 1.0));
            let numbers = model.engine.numbers().iter();
            configs.extend(numbers.map(|&(setting, value)| (labels(&model.name, &[setting]), value)));
        }
        let mut cancelled = Vec::new();
        let mut rejected = Vec::new();
        let mut relieved = Vec::new();
        let mut steps = Vec::new();
        for (model, counters) in &totals {
            for (cause, count) in CancelCause::ALL.iter().zip(counters.cancelled) {
                cancelled.push((labels(model, &[cause.name()]), count as f64));
            }
            for (measure, count) in Relief::ALL.iter().zip(counters.relieved) {
                relieved.push((labels(model, &[measure.name()]), count as f64));
            }
            for (reason, count) in RejectReason::ALL.iter().zip(counters.rejected) {
                rejected.push((labels(model, &[reason.name()]), count as f64));
            }
            let results = [("ok", counters.steps), ("error", counters.step_errors), ("panic", counters.step_panics)];
            steps.extend(results.map(|(result, count)| (labels(model, &[result]), count as f64)));
        }
        rows.write(&KV_PAGES, pages)?;
        rows.write(&CANCELLED, cancelled)?;
        rows.write(&REJECTED, rejected)?;
        rows.write(&RELIEVED, relieved)?;
        rows.write(&STEPS, steps)?;
        rows.write(&MODEL_INFO, infos)?;
        rows.write(&ENGINE_CONFIG, configs)?;
        let slots = || self.0.slots().iter();
        let in_memory = |slot: &Slot| f64::from(u8::from(slot.model().is_some()));
        rows.write(&MODEL_IN_MEMORY, slots().map(|slot| (vec![slot.name.clone()], in_memory(slot))).collect())?;
        let loads = slots().flat_map(|slot| {
            let counts = [("ok", &slot.loads), ("failed", &slot.failed_loads), ("unloaded", &slot.unloads)];
            counts.map(|(result, count)| {
                (vec![slot.name.clone(), result.to_owned()], count.load(Ordering::Relaxed) as f64)
            })
        });
        rows.write(&MODEL_LOADS, loads.collect())?;
        rows.write(&RESIDENT, vec![(Vec::new(), resident_bytes() as f64)])
    }
}

/// Writes rows of the table with values read just now.
struct Rows<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Rows<'_, '_> {
    /// Writes one metric: label values in the order of the row's labels, and the value.
    fn write(&mut self, row: &Row, samples: Vec<(Vec<String>, f64)>) -> Result<(), fmt::Error> {
        let counter = row.kind == Kind::Counter;
        let metric_type = if counter { MetricType::Counter } else { MetricType::Gauge };
        let mut metric = self.0.encode_descriptor(row.name, row.help, None, metric_type)?;
        for (values, value) in samples {
            let labels: Labels = row.labels.iter().copied().zip(values).collect();
            let encoder = metric.encode_family(&labels)?;
            if counter {
                ConstCounter::new(value as u64).encode(encoder)?;
            } else {
                ConstGauge::new(value).encode(encoder)?;
            }
        }
        Ok(())
    }
}

/// Resident memory as the kernel counts it; 0 where that cannot be read.
fn resident_bytes() -> u64 {
    const PAGE_BYTES: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_BYTES
}
