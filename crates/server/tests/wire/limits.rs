//! What is refused: every field outside of its range, every limit one beyond it, with the error that clients expect.

use engine::EngineConfig;
use serde_json::{Value, json};
use server::RequestLimits;

use crate::client::{Answer, Options, TestServer, chat_body, post_request};
use crate::fake::CONTEXT;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Checks that a request with `name` set to `value` is taken, or refused with a 400 that names the field.
fn check(server: &TestServer, path: &str, name: &str, value: &Value, accepted: bool) {
    let mut body = chat_body(json!({}));
    body["prompt"] = "x".into();
    body["max_tokens"] = 1.into();
    if name == "top_logprobs" {
        body["logprobs"] = true.into();
    }
    body[name] = value.clone();
    let answer = server.post(path, &body);
    if accepted {
        assert_eq!(answer.status, 200, "{path} {name}={value}: {}", answer.body);
        return;
    }
    assert_eq!(answer.status, 400, "{path} {name}={value}: {}", answer.body);
    let error = &answer.json()["error"];
    assert_eq!(error["type"], "invalid_request_error");
    assert_eq!(error["param"], name, "{error}");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(name), "{message}");
}

#[test]
fn every_number_is_taken_within_its_range_and_refused_outside() {
    let server = TestServer::start(Options::default());
    let room = (CONTEXT - "<user>hi>".len()) as f64;
    // Name, least, greatest, whether whole numbers only.
    let fields: &[(&str, &str, f64, f64, bool)] = &[
        (CHAT, "max_tokens", 1.0, room, true),
        (CHAT, "min_tokens", 0.0, 1.0, true),
        (CHAT, "n", 1.0, 16.0, true),
        (CHAT, "top_logprobs", 0.0, 20.0, true),
        (COMPLETIONS, "logprobs", 0.0, 5.0, true),
        (CHAT, "priority", -100.0, 100.0, true),
        (CHAT, "top_k", -1.0, 1_048_576.0, true),
        (CHAT, "temperature", 0.0, 100.0, false),
        (CHAT, "top_p", 0.001, 1.0, false),
        (CHAT, "typical_p", 0.001, 1.0, false),
        (CHAT, "min_p", 0.0, 1.0, false),
        (CHAT, "repetition_penalty", 0.01, 10.0, false),
        (CHAT, "presence_penalty", -2.0, 2.0, false),
        (CHAT, "frequency_penalty", -2.0, 2.0, false),
        (CHAT, "dry_multiplier", 0.0, 100.0, false),
        (CHAT, "dry_base", 1.0, 10.0, false),
        (CHAT, "dry_allowed_length", 1.0, 4096.0, true),
        (CHAT, "xtc_probability", 0.0, 1.0, false),
        (CHAT, "xtc_threshold", 0.001, 1.0, false),
    ];
    for &(path, name, min, max, whole) in fields {
        let number = |x: f64| if whole { json!(x as i64) } else { json!(x) };
        let step = if whole { 1.0 } else { 0.001 };
        for (value, accepted) in [(min - step, false), (min, true), (max, true), (max + step, false)] {
            check(&server, path, name, &number(value), accepted);
        }
        for value in [json!(-1), json!(2_147_483_648_u64), json!(9_223_372_036_854_775_808_u64), json!(1e308)] {
            let in_range = value.as_f64().is_some_and(|x| (min..=max).contains(&x));
            check(&server, path, name, &value, in_range);
        }
        for value in [json!("1"), json!([1]), json!({}), json!(true)] {
            check(&server, path, name, &value, false);
        }
        check(&server, path, name, &Value::Null, true);
    }
    assert_eq!(server.chat(json!({ "max_completion_tokens": 0, "max_tokens": 1 })).error_param(), "max_tokens");
}

#[test]
fn fields_of_other_types_are_refused_by_name() {
    let server = TestServer::start(Options::default());
    for (path, name, value) in [
        (CHAT, "stream", json!("yes")),
        (CHAT, "logprobs", json!(1)),
        (CHAT, "seed", json!(0.5)),
        (CHAT, "stop", json!(5)),
        (CHAT, "stop", json!([5])),
        (CHAT, "logit_bias", json!([])),
        (CHAT, "logit_bias", json!({ "x": 1 })),
        (CHAT, "logit_bias", json!({ "1": "1" })),
        (CHAT, "logit_bias", json!({ "1": 101 })),
        (CHAT, "logit_bias", json!({ "999": 1 })),
        (CHAT, "stop_token_ids", json!(["a"])),
        (CHAT, "stop_token_ids", json!([-1])),
        (CHAT, "stop_token_ids", json!([999])),
        (CHAT, "tools", json!({})),
        (CHAT, "messages", json!([])),
        (CHAT, "messages", json!("hi")),
        (CHAT, "chat_template", json!("{{ x }}")),
        (CHAT, "tool_choice", json!("required")),
        (CHAT, "modalities", json!(["audio"])),
        (CHAT, "cache_salt", json!("")),
        (COMPLETIONS, "prompt", json!([])),
        (COMPLETIONS, "prompt", json!(5)),
        (COMPLETIONS, "prompt", json!([1, "a"])),
        (COMPLETIONS, "prompt", json!([[1], [-1]])),
        (COMPLETIONS, "prompt", json!([999])),
        (COMPLETIONS, "prompt", json!([[]])),
        (COMPLETIONS, "suffix", json!("x")),
        (COMPLETIONS, "best_of", json!(3)),
        (COMPLETIONS, "echo", json!("x")),
    ] {
        check(&server, path, name, &value, false);
    }
    assert_eq!(server.chat(json!({ "response_format": { "type": "json_object" } })).error_param(), "response_format");
    assert_eq!(server.chat(json!({ "stream_options": { "include_usage": true } })).error_param(), "stream_options");
    assert_eq!(server.chat(json!({ "top_logprobs": 2 })).error_param(), "top_logprobs");
    assert_eq!(
        server.chat(json!({ "chat_template_kwargs": { "messages": [] } })).error_param(),
        "chat_template_kwargs"
    );
}

#[test]
fn lists_and_texts_end_at_their_limits() {
    let mut options = Options::default();
    options.config.requests = RequestLimits {
        max_stop_strings: 2,
        max_stop_bytes: 4,
        max_logit_bias: 2,
        max_tools: 2,
        max_prompts: 2,
        ..RequestLimits::default()
    };
    let server = TestServer::start(options);
    let bias = |n: usize| (0..n).map(|id| (id.to_string(), json!(1))).collect::<serde_json::Map<_, _>>();
    for (path, name, at_limit, beyond) in [
        (CHAT, "stop", json!(["a", "b"]), json!(["a", "b", "c"])),
        (CHAT, "stop", json!("1234"), json!("12345")),
        (CHAT, "stop", json!("1"), json!("")),
        (CHAT, "logit_bias", json!(bias(2)), json!(bias(3))),
        (CHAT, "tools", json!([{}, {}]), json!([{}, {}, {}])),
        (COMPLETIONS, "prompt", json!(["a", "b"]), json!(["a", "b", "c"])),
    ] {
        check(&server, path, name, &at_limit, true);
        check(&server, path, name, &beyond, false);
    }
}

#[test]
fn a_prompt_beyond_the_context_is_told_both_numbers() {
    let server = TestServer::start(Options::default());
    let body = |len: usize| json!({ "prompt": "x".repeat(len), "max_tokens": 1 });
    assert_eq!(server.post(COMPLETIONS, &body(CONTEXT - 1)).status, 200);
    let answer = server.post(COMPLETIONS, &body(CONTEXT));
    assert_eq!(answer.status, 400);
    let error = &answer.json()["error"];
    assert_eq!(error["code"], "context_length_exceeded");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("1024 prompt tokens") && message.contains("context of 1024"), "{message}");
}

#[test]
fn a_strict_server_names_unknown_fields() {
    let mut options = Options::default();
    options.config.strict = true;
    let server = TestServer::start(options);
    assert_eq!(server.chat(json!({ "temprature": 1 })).error_param(), "temprature");
    assert_eq!(server.chat(json!({ "user": "me", "store": false })).status, 200);
    let lenient = TestServer::start(Options::default());
    assert_eq!(lenient.chat(json!({ "temprature": 1 })).status, 200);
}

#[test]
fn bodies_end_at_their_limits() {
    let mut options = Options::default();
    options.config.requests.max_body_bytes = 1000;
    options.config.requests.max_json_depth = 8;
    let server = TestServer::start(options);
    let padded = |bytes: usize| {
        let body = chat_body(json!({})).to_string();
        format!("{body}{}", " ".repeat(bytes - body.len()))
    };
    assert_eq!(server.post_text(CHAT, &padded(1000)).status, 200);
    assert_eq!(server.post_text(CHAT, &padded(1001)).status, 413);
    let chunked = |body: &str| {
        let head = "content-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close";
        let size = body.len();
        server
            .send(&format!("POST {CHAT} HTTP/1.1\r\nhost: localhost\r\n{head}\r\n\r\n{size:x}\r\n{body}\r\n0\r\n\r\n"))
    };
    assert_eq!(chunked(&padded(1000)).status, 200);
    assert_eq!(chunked(&padded(1001)).status, 413);
    let nested = |depth: usize| {
        let value = (1..depth).fold(json!(1), |inner, _| json!([inner]));
        server.chat(json!({ "metadata": value }))
    };
    assert_eq!(nested(8).status, 200);
    assert_eq!(nested(9).error_param(), "body");
    assert_eq!(server.post_text(CHAT, &"[".repeat(999)).status, 400);
}

#[test]
fn what_is_no_json_request_is_refused_as_json() {
    let server = TestServer::start(Options::default());
    let body = chat_body(json!({})).to_string();
    let plain = post_request(CHAT, &body).replace("application/json", "text/plain");
    for (answer, status) in [
        (server.post_text(CHAT, "{"), 400),
        (server.post_text(CHAT, ""), 400),
        (server.post_text(CHAT, "[]"), 400),
        (server.post_text(CHAT, "{\"messages\": \"\u{0}\"}"), 400),
        (server.send(&plain), 415),
        (server.get("/nowhere"), 404),
        (server.get(CHAT), 405),
        (server.post("/health", &json!({})), 405),
    ] {
        let Answer { status: got, body, .. } = &answer;
        assert_eq!(*got, status, "{body}");
        assert!(answer.json()["error"]["message"].is_string(), "{body}");
    }
}

#[test]
fn a_full_queue_answers_429_with_a_time_to_retry() {
    let engine =
        EngineConfig { max_batch_size: 1, max_running_requests: 1, max_queued_requests: 1, ..EngineConfig::default() };
    let step = std::time::Duration::from_millis(20);
    let server = TestServer::start(Options { step, engine, ..Options::default() });
    let body = chat_body(json!({ "max_tokens": 500 })).to_string();
    let hold = || {
        let mut stream = server.connect();
        std::io::Write::write_all(&mut stream, post_request(CHAT, &body).as_bytes()).unwrap();
        stream
    };
    let running = hold();
    server.wait_for("running", 1);
    let waiting = hold();
    server.wait_for("waiting", 1);
    let answer = server.chat(json!({}));
    assert_eq!(answer.status, 429, "{}", answer.body);
    assert_eq!(answer.json()["error"]["code"], "queue_full");
    assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    drop((running, waiting));
    server.wait_for("running", 0);
    assert_eq!(server.chat(json!({})).status, 200);
}
