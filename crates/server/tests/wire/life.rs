//! Requests that end early: clients that leave, servers that stop.

use std::io::{Read, Write};
use std::time::Duration;

use serde_json::json;

use crate::client::{Options, TestServer, chat_body, post_request, read_answer};

/// Slow enough that a request of some hundred tokens is still running when a test acts.
const STEP: Duration = Duration::from_millis(10);

fn slow() -> TestServer {
    TestServer::start(Options { step: STEP, ..Options::default() })
}

/// Sends a chat request and leaves the answer unread.
fn begin(server: &TestServer, more: serde_json::Value) -> std::net::TcpStream {
    let mut stream = server.connect();
    let request = post_request("/v1/chat/completions", &chat_body(more).to_string());
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

#[test]
fn a_client_that_leaves_is_cancelled_streamed_or_not() {
    let server = slow();
    for stream in [false, true] {
        let client = begin(&server, json!({ "max_tokens": 900, "stream": stream, "n": 2 }));
        server.wait_for("running", 1);
        drop(client);
        server.wait_for("running", 0);
    }
    let metrics = server.get("/metrics").body;
    assert!(metrics.contains("mistral_requests_cancelled_total{model=\"letters\",cause=\"client\"} 2"), "{metrics}");
    assert!(metrics.contains("mistral_active_requests 0"), "{metrics}");
}

#[test]
fn a_stop_lets_running_requests_finish_and_refuses_new_ones() {
    let mut server = slow();
    let running = begin(&server, json!({ "max_tokens": 60 }));
    server.wait_for("running", 1);
    server.begin_stop();
    while server.get("/health/ready").status != 503 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(server.get("/health/live").status, 200);
    let refused = server.chat(json!({}));
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (503, Some("shutting_down")));
    let answer = read_answer(running);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 60);
    assert_eq!(server.join(), 0);
}

#[test]
fn a_stop_ends_what_takes_too_long() {
    let mut options = Options { step: STEP, ..Options::default() };
    options.config.shutdown_timeout = Duration::from_millis(200);
    let mut server = TestServer::start(options);
    let mut running = begin(&server, json!({ "max_tokens": 1000, "stream": true }));
    server.wait_for("running", 1);
    assert_eq!(server.join(), 1);
    let mut rest = String::new();
    running.read_to_string(&mut rest).ok();
    assert!(rest.contains("\"code\":\"shutting_down\""), "{rest}");
    assert!(!rest.contains("[DONE]"));
}

#[test]
fn a_deadline_ends_a_request() {
    let mut options = Options { step: STEP, ..Options::default() };
    options.engine.max_deadline = Duration::from_millis(100);
    let server = TestServer::start(options);
    let answer = server.chat(json!({ "max_tokens": 1000 }));
    assert_eq!(answer.status, 504, "{}", answer.body);
    assert_eq!(answer.json()["error"]["code"], "deadline_exceeded");
}

#[test]
fn the_longest_deadline_is_the_one_of_the_model_and_holds_for_who_asks_for_none() {
    for (limit_secs, deadline_ms, status) in [(1, None, 200), (1, Some(1001), 400), (1200, Some(700_000), 200)] {
        let mut options = Options::default();
        options.engine.max_deadline = Duration::from_secs(limit_secs);
        let answer = TestServer::start(options).chat(json!({ "max_tokens": 2, "deadline_ms": deadline_ms }));
        assert_eq!(answer.status, status, "{limit_secs} s, {deadline_ms:?}: {}", answer.body);
    }
}
