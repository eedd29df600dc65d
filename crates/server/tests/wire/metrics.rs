//! The metrics are those of the table, and their counts are what arithmetic says.

use std::collections::BTreeSet;

use serde_json::json;
use server::metrics::{Kind, Row, TABLE};

use crate::client::{Options, TestServer};
use crate::fake::ERROR;

/// Labels whose values depend on the models, the settings, the machine or the routes.
const LABELS_WITH_MANY: [&str; 7] = ["model", "route", "status", "setting", "device", "version", "group"];

#[test]
fn exactly_the_metrics_of_the_table_are_there() {
    let server = TestServer::start(Options::default());
    assert_eq!(server.chat(json!({})).status, 200);
    let answer = server.get("/metrics");
    assert!(answer.head.contains("content-type: application/openmetrics-text"), "{}", answer.head);
    let found: BTreeSet<&str> =
        answer.body.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let expected: BTreeSet<&str> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(found, expected);
    for row in TABLE {
        let kind = match row.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram(_) => "histogram",
        };
        assert!(answer.body.contains(&format!("# TYPE {} {kind}\n", row.name)), "{}", row.name);
    }
}

#[test]
fn the_document_has_every_value_of_labels_with_few() {
    let server = TestServer::start(Options::default());
    assert_eq!(server.chat(json!({})).status, 200);
    let metrics = server.get("/metrics").body;
    let document = server::metrics_md();
    let (_, values) = document.split_once("## Values of labels").unwrap();
    let quoted = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut listed = BTreeSet::new();
    for row in values.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<Vec<String>> = row.trim_matches('|').split('|').map(quoted).collect();
        let (name, label) = (&cells[0][0], &cells[1][0]);
        let of_metric = |line: &&str| line.starts_with(name.as_str());
        let value = |line: &str| Some(line.split_once(&format!("{label}=\""))?.1.split('"').next()?.to_owned());
        let found: BTreeSet<String> = metrics.lines().filter(of_metric).filter_map(value).collect();
        assert_eq!(found, cells[2].iter().cloned().collect(), "{row}");
        listed.insert((name.clone(), label.clone()));
    }
    let total = |kind| if kind == Kind::Counter { "_total" } else { "" };
    let labels_of =
        |row: &'static Row| row.labels.iter().map(move |label| (row.name.to_owned() + total(row.kind), label));
    let labels = TABLE.iter().copied().flat_map(labels_of);
    let with_few = labels.filter(|(_, label)| !LABELS_WITH_MANY.contains(label));
    assert_eq!(listed, with_few.map(|(name, label)| (name, (*label).to_owned())).collect());
}

#[test]
fn every_count_is_exact() {
    const REQUESTS: f64 = 10.0;
    const TOKENS: f64 = 7.0;
    const PROMPT: f64 = 3.0;
    let server = TestServer::start(Options::default());
    let complete = |prompt: &str, max_tokens: u64| {
        let body = json!({ "prompt": prompt, "max_tokens": max_tokens, "temperature": 0 });
        server.post("/v1/completions", &body).status
    };
    for _ in 0..REQUESTS as usize {
        assert_eq!(complete("xyz", TOKENS as u64), 200);
    }
    // One that ends by itself, one that fails, one that is too long.
    assert_eq!((complete("!", 5), complete(&ERROR.to_string(), 5), complete(&"x".repeat(2000), 1)), (200, 500, 400));
    let answer = server.get("/metrics");
    let finished = REQUESTS + 1.0;
    let started = REQUESTS + 2.0;
    let tokens = REQUESTS * TOKENS + 1.0;
    let steps = tokens;
    let prompt = REQUESTS * PROMPT + 1.0;
    let expected: &[(&str, &str, f64)] = &[
        ("mistral_generate_duration_seconds_count", "", finished),
        ("mistral_time_to_first_token_seconds_count", "", finished),
        ("mistral_inter_token_latency_seconds_count", "", REQUESTS * (TOKENS - 1.0)),
        ("mistral_request_queue_time_seconds_count", "", started),
        ("mistral_request_prefill_time_seconds_count", "", finished),
        ("mistral_request_decode_time_seconds_count", "", finished),
        ("mistral_request_prompt_tokens_count", "", finished),
        ("mistral_request_prompt_tokens_sum", "", prompt),
        ("mistral_request_generation_tokens_sum", "", tokens),
        ("mistral_request_success_total", "finished_reason=\"length\"", REQUESTS),
        ("mistral_request_success_total", "finished_reason=\"stop\"", 1.0),
        ("mistral_prompt_tokens_total", "", prompt + 1.0),
        ("mistral_prefill_tokens_total", "", prompt),
        ("mistral_generation_tokens_total", "", tokens),
        ("mistral_num_requests_running", "", 0.0),
        ("mistral_num_requests_waiting", "", 0.0),
        ("mistral_num_requests_paused", "", 0.0),
        ("mistral_oldest_queued_request_age_seconds", "", 0.0),
        ("mistral_last_delivery_age_seconds", "", 0.0),
        ("mistral_ready", "", 1.0),
        ("mistral_kv_cache_usage_ratio", "", 0.0),
        ("mistral_kv_cache_pages", "group=\"0\",state=\"free\"", 256.0),
        ("mistral_kv_cache_pages", "group=\"0\",state=\"held\"", 0.0),
        ("mistral_kv_cache_pages", "group=\"0\",state=\"cached\"", 0.0),
        ("mistral_prefix_cache_bytes", "", 0.0),
        ("mistral_prefix_cache_queries_total", "", prompt + 1.0),
        ("mistral_prefix_cache_hits_total", "", 0.0),
        ("mistral_prefix_cache_evicted_pages_total", "", 0.0),
        ("mistral_preemptions_total", "", 0.0),
        ("mistral_preempted_tokens_total", "", 0.0),
        ("mistral_memory_relief_total", "measure=\"preempt\"", 0.0),
        ("mistral_requests_cancelled_total", "cause=\"client\"", 0.0),
        ("mistral_requests_rejected_total", "reason=\"too_long\"", 1.0),
        ("mistral_requests_rejected_total", "reason=\"queue_full\"", 0.0),
        ("mistral_requests_failed_total", "", 1.0),
        ("mistral_steps_total", "result=\"ok\"", steps),
        ("mistral_steps_total", "result=\"error\"", 1.0),
        ("mistral_step_duration_seconds_count", "part=\"schedule\"", steps),
        ("mistral_step_duration_seconds_count", "part=\"forward\"", steps),
        ("mistral_step_duration_seconds_count", "part=\"sample\"", steps),
        ("mistral_step_duration_seconds_count", "part=\"commit\"", steps),
        ("mistral_step_tokens_count", "", steps),
        ("mistral_step_tokens_sum", "", prompt + REQUESTS * (TOKENS - 1.0)),
        ("mistral_model_info", "device=\"fake\"", 1.0),
    ];
    for (name, label, value) in expected {
        let labels = if label.is_empty() { String::new() } else { format!(",{label}") };
        assert_eq!(answer.sample(&format!("{name}{{model=\"letters\"{labels}}}")), *value, "{name} {label}");
    }
    for (status, value) in [(200, finished), (400, 1.0), (500, 1.0)] {
        let http =
            format!("mistral_http_request_duration_seconds_count{{route=\"/v1/completions\",status=\"{status}\"}}");
        assert_eq!(answer.sample(&http), value, "{status}");
    }
    assert_eq!(answer.sample("mistral_active_requests"), 0.0);
    // These say something about the process, not about requests.
    let others = [
        "build_info",
        "server_config",
        "engine_config",
        "model_in_memory",
        "model_loads",
        "model_load_seconds",
        "process_start_time_seconds",
        "process_resident_memory_bytes",
    ];
    let others = others.map(|name| format!("mistral_{name}"));
    let also = ["mistral_http_request_duration_seconds", "mistral_active_requests"];
    for row in TABLE {
        let known = expected.iter().any(|(name, ..)| name.starts_with(row.name)) || also.contains(&row.name);
        assert!(known || others.iter().any(|name| name == row.name), "nobody knows what {} should be", row.name);
    }
}

#[test]
fn shared_prefixes_are_counted_in_tokens() {
    let server = TestServer::start(Options::default());
    let body = json!({ "prompt": "x".repeat(200), "max_tokens": 1 });
    for _ in 0..3 {
        assert_eq!(server.post("/v1/completions", &body).status, 200);
    }
    let answer = server.get("/metrics");
    for (name, value) in [
        ("mistral_prefix_cache_queries_total", 600.0),
        ("mistral_prefix_cache_hits_total", 2.0 * 192.0),
        ("mistral_prefill_tokens_total", 200.0 + 8.0 + 8.0),
        ("mistral_prefix_cache_bytes", 3.0 * 4096.0),
    ] {
        assert_eq!(answer.sample(&format!("{name}{{model=\"letters\"}}")), value, "{name}");
    }
}

#[test]
fn strange_names_make_no_new_series() {
    let server = TestServer::start(Options::default());
    let series = || server.get("/metrics").body.lines().filter(|line| !line.starts_with('#')).count();
    let ask = |i: usize| {
        server.chat(json!({ "model": format!("m{i}\u{1b}[31m\r\n"), "user": format!("u{i}") }));
        server.get(&format!("/nowhere/{i}"));
    };
    ask(0);
    // The first scrape adds the route of scrapes themselves.
    series();
    let before = series();
    (1..20).for_each(ask);
    assert_eq!(series(), before);
}
