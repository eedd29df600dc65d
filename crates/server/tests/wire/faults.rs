//! Steps that fail, stall or are not read: what clients and probes are told, and that it goes on.

use std::io::Write;
use std::time::{Duration, Instant};

use engine::EngineConfig;
use serde_json::{Value, json};

use crate::client::{Options, PATIENCE, TestServer, chat_body, post_request, read_answer};
use crate::fake::{ERROR, HANG, HANG_TIME, PANIC, STALL, STALL_TIME};

const COMPLETIONS: &str = "/v1/completions";

fn one_at_a_time() -> EngineConfig {
    EngineConfig { max_batch_size: 1, max_running_requests: 1, ..EngineConfig::default() }
}

fn completion(prompt: &str, max_tokens: u64) -> Value {
    json!({ "prompt": prompt, "max_tokens": max_tokens, "temperature": 0 })
}

#[test]
fn a_failed_step_costs_its_requests_and_no_other() {
    for (fault, result) in [(PANIC, "panic"), (ERROR, "error")] {
        let step = Duration::from_millis(5);
        let server = TestServer::start(Options { step, engine: one_at_a_time(), ..Options::default() });
        let begin = |prompt: &str| {
            let mut stream = server.connect();
            stream.write_all(post_request(COMPLETIONS, &completion(prompt, 20).to_string()).as_bytes()).unwrap();
            stream
        };
        // The sick one waits behind one that runs, and another waits behind it.
        let before = begin("a");
        server.wait_for("running", 1);
        let sick = begin(&format!("a{fault}"));
        server.wait_for("waiting", 1);
        let after = begin("a");
        let failed = read_answer(sick);
        assert_eq!((failed.status, &failed.json()["error"]["code"]), (500, &json!("step_failed")), "{}", failed.body);
        for well in [before, after] {
            assert_eq!(read_answer(well).json()["choices"][0]["text"], "bcdefghijklmnopqrstu");
        }
        let metrics = server.get("/metrics");
        let steps =
            |result: &str| metrics.sample(&format!("mistral_steps_total{{model=\"letters\",result=\"{result}\"}}"));
        assert_eq!((steps("panic") + steps("error"), steps(result)), (1.0, 1.0));
        assert_eq!(metrics.sample("mistral_requests_failed_total{model=\"letters\"}"), 1.0);
        assert_eq!(server.get("/health/ready").status, 200);
        server.wait_for("running", 0);
    }
}

#[test]
fn a_stream_that_fails_midway_ends_with_the_error() {
    let server = TestServer::start(Options::default());
    let mut body = completion("?", 20);
    body["stream"] = true.into();
    let answer = server.post(COMPLETIONS, &body);
    assert_eq!(answer.status, 200);
    let (text, error) = answer.body.trim_end().rsplit_once("\n\n").unwrap();
    assert!(text.contains("\"text\":\"%\""), "{text}");
    let error: Value = serde_json::from_str(error.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!((&error["error"]["type"], &error["error"]["code"]), (&json!("server_error"), &json!("step_failed")));
    assert!(error["error"]["message"].as_str().unwrap().contains("injected"), "{error}");
}

#[test]
fn steps_that_keep_failing_make_readiness_fail_until_one_succeeds() {
    let server = TestServer::start(Options::default());
    for _ in 0..3 {
        assert_eq!(server.get("/health/ready").status, 200);
        assert_eq!(server.post(COMPLETIONS, &completion(&ERROR.to_string(), 1)).status, 500);
    }
    let ready = server.get("/health/ready");
    assert_eq!((ready.status, &ready.json()["models"][0]["state"]), (503, &json!("failing")));
    assert_eq!(server.post(COMPLETIONS, &completion("a", 1)).status, 200);
    assert_eq!(server.get("/health/ready").status, 200);
}

#[test]
fn a_step_that_stalls_makes_readiness_fail_until_it_delivers() {
    let mut options = Options::default();
    options.engine.watchdog = STALL_TIME / 7;
    let server = TestServer::start(options);
    let mut stalled = server.connect();
    stalled.write_all(post_request(COMPLETIONS, &completion(&STALL.to_string(), 1).to_string()).as_bytes()).unwrap();
    let start = Instant::now();
    let state = loop {
        let ready = server.get("/health/ready");
        if ready.status == 503 {
            break ready.json()["models"][0]["state"].clone();
        }
        assert!(start.elapsed() < PATIENCE, "it never failed");
    };
    assert_eq!(state, "stalled");
    assert_eq!(server.get("/health/live").status, 200);
    assert_eq!(read_answer(stalled).status, 200);
    let start = Instant::now();
    while server.get("/health/ready").status != 200 {
        assert!(start.elapsed() < PATIENCE, "it never recovered");
    }
}

#[test]
fn a_deadline_holds_while_a_step_hangs() {
    let server = TestServer::start(Options::default());
    let start = Instant::now();
    let mut body = completion(&HANG.to_string(), 9);
    body["deadline_ms"] = 100.into();
    let answer = server.post(COMPLETIONS, &body);
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (504, &json!("deadline_exceeded")), "{}", answer.body);
    assert!(answer.body.contains("deadline of 100 ms") && start.elapsed() < HANG_TIME, "{}", answer.body);
    // It was the deadline, though its client was gone before the engine could see that.
    let cancelled = "mistral_requests_cancelled_total{model=\"letters\",cause=\"deadline\"}";
    server.wait_for_sample(cancelled, 1.0);
}

#[test]
fn the_age_of_who_comes_while_a_step_stalls_grows_meanwhile() {
    let server = TestServer::start(Options::default());
    let begin = |prompt: &str| {
        let mut stream = server.connect();
        stream.write_all(post_request(COMPLETIONS, &completion(prompt, 1).to_string()).as_bytes()).unwrap();
        stream
    };
    let stalled = begin(&STALL.to_string());
    let age = "mistral_oldest_queued_request_age_seconds{model=\"letters\"}";
    let start = Instant::now();
    // The first scrape may come before the request, or before its step.
    while server.get("/metrics").sample("mistral_last_delivery_age_seconds{model=\"letters\"}") < 0.05 {
        assert!(start.elapsed() < PATIENCE, "no step stalls");
    }
    let waiting = begin("a");
    let (mut oldest, mut last) = (0.0_f64, 0.0);
    while server.gauge("waiting") > 0 || oldest == 0.0 {
        assert!(start.elapsed() < PATIENCE, "its age is {last}");
        last = server.get("/metrics").sample(age);
        oldest = oldest.max(last);
    }
    assert!((0.1..PATIENCE.as_secs_f64()).contains(&oldest), "its age was {oldest} s at most");
    assert_eq!((read_answer(stalled).status, read_answer(waiting).status), (200, 200));
    server.wait_for_sample(age, 0.0);
}

#[test]
fn a_client_that_does_not_read_pauses_and_is_dropped() {
    let mut options = Options::default();
    options.engine.event_buffer = 8;
    options.engine.slow_reader_limit = Duration::from_millis(300);
    let server = TestServer::start(options);
    // More than the kernel's socket buffers hold: several megabytes of log probabilities.
    let body = chat_body(json!({
        "max_tokens": 900, "n": 8, "stream": true, "logprobs": true, "top_logprobs": 20,
    }));
    let mut silent = server.connect();
    silent.write_all(post_request("/v1/chat/completions", &body.to_string()).as_bytes()).unwrap();
    server.wait_for("running", 1);
    server.wait_for_sample("mistral_num_requests_paused{model=\"letters\"}", 1.0);
    // Meanwhile others are served.
    assert_eq!(server.chat(json!({})).status, 200);
    server.wait_for("running", 0);
    let cancelled = "mistral_requests_cancelled_total{model=\"letters\",cause=\"slow_reader\"}";
    assert_eq!(server.get("/metrics").sample(cancelled), 1.0);
}

#[test]
fn who_waits_too_long_gets_429() {
    let step = Duration::from_millis(5);
    let engine = EngineConfig { queue_timeout: Duration::from_millis(200), ..one_at_a_time() };
    let server = TestServer::start(Options { step, engine, ..Options::default() });
    let mut running = server.connect();
    running.write_all(post_request(COMPLETIONS, &completion("a", 900).to_string()).as_bytes()).unwrap();
    server.wait_for("running", 1);
    for stream in [false, true] {
        let mut body = completion("a", 1);
        body["stream"] = stream.into();
        let answer = server.post(COMPLETIONS, &body);
        assert_eq!((answer.status, &answer.json()["error"]["code"]), (429, &json!("queue_timeout")), "{}", answer.body);
        assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    }
    let cancelled = "mistral_requests_cancelled_total{model=\"letters\",cause=\"queue_timeout\"}";
    // Counts are those of the last step that has ended; the answer may be quicker.
    server.wait_for_sample(cancelled, 2.0);
}

#[test]
fn a_request_may_have_a_deadline_of_its_own() {
    let server = TestServer::start(Options { step: Duration::from_millis(10), ..Options::default() });
    let answer = server.chat(json!({ "max_tokens": 900, "deadline_ms": 100 }));
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (504, &json!("deadline_exceeded")), "{}", answer.body);
    let streamed = server.chat(json!({ "max_tokens": 900, "deadline_ms": 100, "stream": true }));
    assert!(streamed.status == 200 && streamed.body.contains("\"code\":\"deadline_exceeded\""), "{}", streamed.body);
    assert_eq!(server.chat(json!({ "deadline_ms": 60_000 })).status, 200);
}
