//! The metrics are those of the table, and their counts are what arithmetic says.

use std::collections::BTreeSet;

use serde_json::json;
use server::metrics::{Kind, TABLE};

use crate::client::{Options, TestServer};

/// The value of a sample.
fn value(text: &str, sample: &str) -> f64 {
    let line = text.lines().find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')));
    let line = line.unwrap_or_else(|| panic!("{sample} is not in\n{text}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

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
fn counts_are_exact() {
    const REQUESTS: f64 = 10.0;
    const TOKENS: f64 = 7.0;
    let server = TestServer::start(Options::default());
    for _ in 0..REQUESTS as usize {
        let body = json!({ "prompt": "xyz", "max_tokens": TOKENS as u64, "temperature": 0 });
        assert_eq!(server.post("/v1/completions", &body).status, 200);
    }
    let text = server.get("/metrics").body;
    let label = "{model=\"letters\"}";
    for (name, expected) in [
        ("mistral_time_to_first_token_seconds_count", REQUESTS),
        ("mistral_inter_token_latency_seconds_count", REQUESTS * (TOKENS - 1.0)),
        ("mistral_generate_duration_seconds_count", REQUESTS),
        ("mistral_request_generation_tokens_sum", REQUESTS * TOKENS),
        ("mistral_prompt_tokens_total", REQUESTS * 3.0),
        ("mistral_generation_tokens_total", REQUESTS * TOKENS),
        ("mistral_num_requests_running", 0.0),
        ("mistral_num_requests_waiting", 0.0),
    ] {
        assert_eq!(value(&text, &format!("{name}{label}")), expected, "{name}");
    }
    let finished = "mistral_request_success_total{model=\"letters\",finished_reason=\"length\"}";
    assert_eq!(value(&text, finished), REQUESTS);
    let http = "mistral_http_request_duration_seconds_count{route=\"/v1/completions\",status=\"200\"}";
    assert_eq!(value(&text, http), REQUESTS);
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
