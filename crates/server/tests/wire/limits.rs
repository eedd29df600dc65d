//! What is refused: fields of the wrong type, every limit one beyond it, with the error that clients expect. (Numbers
//! are in `numbers.rs`.)

use std::io::Write;

use engine::EngineConfig;
use serde_json::{Value, json};
use server::RequestLimits;

use crate::client::{Answer, Options, TestServer, chat_body, post_request, read_answer};
use crate::fake::CONTEXT;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Checks that a request with `name` set to `value` is refused with a 400 that says `found` is the value, and what is
/// allowed.
fn check_refused(server: &TestServer, path: &str, name: &str, value: &Value, found: &str, allowed: &str) {
    let mut body = chat_body(json!({}));
    body["prompt"] = "x".into();
    body[name] = value.clone();
    let answer = server.post(path, &body);
    assert_eq!(answer.status, 400, "{path} {name}={value}: {}", answer.body);
    let error = &answer.json()["error"];
    assert_eq!((&error["type"], &error["param"]), (&json!("invalid_request_error"), &json!(name)), "{error}");
    let message = error["message"].as_str().unwrap();
    let (what, rest) = message.split_once(": ").unwrap();
    assert!(what == found && rest.contains(allowed), "{path} {name}={value}: {message}");
}

/// Checks that a request with `name` set to `value` is taken, or refused with a 400 that names the field.
fn check(server: &TestServer, path: &str, name: &str, value: &Value, accepted: bool) {
    let mut body = chat_body(json!({}));
    body["prompt"] = "x".into();
    body["max_tokens"] = 1.into();
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
fn a_prompt_that_can_only_be_too_long_is_refused_by_its_bytes() {
    let server = TestServer::start(Options::default());
    // Of the fake's tokens the longest is `<|end|>`.
    let longest = "<|end|>".len();
    let check = |path: &str, param: &str, body: &Value, message: &str| {
        let answer = server.post(path, body);
        let error = &answer.json()["error"];
        assert_eq!((answer.status, &error["param"]), (400, &json!(param)), "{}", answer.body);
        assert_eq!(error["code"], "context_length_exceeded");
        assert!(error["message"].as_str().unwrap().contains(message), "{error}");
    };
    let text = |bytes: usize| "x".repeat(bytes);
    let enough = CONTEXT * longest;
    let at_least = format!("{enough} bytes are at least {CONTEXT} prompt tokens");
    check(COMPLETIONS, "prompt", &json!({ "prompt": text(enough) }), &at_least);
    check(COMPLETIONS, "prompt", &json!({ "prompt": ["x", text(enough)] }), &at_least);
    let less = enough - longest;
    check(COMPLETIONS, "prompt", &json!({ "prompt": text(less) }), &format!("{less} prompt tokens and"));
    let chat = chat_body(json!({ "messages": [{ "role": "user", "content": text(enough - "<user>>".len()) }] }));
    check(CHAT, "messages", &chat, &at_least);
    let rejected = "mistral_requests_rejected_total{model=\"letters\",reason=\"too_long\"}";
    assert_eq!(server.get("/metrics").sample(rejected), 4.0);
    // A prompt that may be cut is not refused, and control tokens that fill the bound are counted for what they are.
    let cut = json!({ "prompt": text(enough), "max_tokens": 1, "context_overflow": "truncate" });
    assert_eq!(server.post(COMPLETIONS, &cut).status, 200);
    let dense = json!({ "prompt": "<|end|>".repeat(CONTEXT - 1), "max_tokens": 1 });
    assert_eq!(server.post(COMPLETIONS, &dense).status, 200);
}

#[test]
fn what_is_refused_is_named_with_its_value_and_what_is_allowed() {
    let server = TestServer::start(Options::default());
    let vocab = server.post(COMPLETIONS, &json!({ "prompt": [u32::MAX] })).json()["error"]["message"].to_string();
    let last_id = vocab.rsplit("0 to ").next().unwrap().trim_end_matches('"').to_owned();
    let ids = format!("an integer from 0 to {last_id}");
    for (path, name, value, found, allowed) in [
        (CHAT, "stream", json!("yes"), "stream is \"yes\"", "true or false"),
        (CHAT, "logprobs", json!(1), "logprobs is 1", "true or false"),
        (CHAT, "stop", json!(5), "stop is 5", "1 to 256 bytes"),
        (CHAT, "stop", json!(["a", 5]), "stop[1] is 5", "1 to 256 bytes"),
        (CHAT, "logit_bias", json!([]), "logit_bias is a list of 0", "an object"),
        (CHAT, "logit_bias", json!({ "x": 1 }), "logit_bias is an object with the key \"x\"", &ids),
        (CHAT, "logit_bias", json!({ "999": 1 }), "logit_bias is an object with the key \"999\"", &ids),
        (CHAT, "logit_bias", json!({ "+1": 1 }), "logit_bias is an object with the key \"+1\"", "without sign"),
        (CHAT, "logit_bias", json!({ "01": 1 }), "logit_bias is an object with the key \"01\"", "leading zero"),
        (
            CHAT,
            "logit_bias",
            json!({ "1": 101 }),
            "logit_bias is an object with \"1\"",
            "101: allowed are numbers from -100",
        ),
        (
            CHAT,
            "logit_bias",
            json!({ "1": "1" }),
            "logit_bias is an object with \"1\"",
            "\"1\": allowed are numbers from",
        ),
        (CHAT, "stop_token_ids", json!(["a"]), "stop_token_ids[0] is \"a\"", &ids),
        (CHAT, "stop_token_ids", json!([1, -1]), "stop_token_ids[1] is -1", &ids),
        (CHAT, "stop_token_ids", json!([999]), "stop_token_ids[0] is 999", &ids),
        (CHAT, "dry_sequence_breakers", json!([1]), "dry_sequence_breakers[0] is 1", "a string"),
        (CHAT, "tools", json!({}), "tools is an object", "a list"),
        (CHAT, "tools", json!([{}, 5]), "tools[1] is 5", "an object"),
        (CHAT, "tools", json!([{"type": "function", "function": 5}]), "tools[0] is an object", "{\"name\": a string"),
        (CHAT, "functions", json!([]), "functions is a list of 0", "must be absent: use tools"),
        (CHAT, "web_search_options", json!({}), "web_search_options is an object", "must be absent"),
        (CHAT, "documents", json!(["x"]), "documents[0] is \"x\"", "an object"),
        (CHAT, "messages", json!([]), "messages is a list of 0", "1 to 10000 messages"),
        (CHAT, "messages", json!("hi"), "messages is \"hi\"", "1 to 10000 messages"),
        (CHAT, "chat_template", json!("{{ x }}"), "chat_template is \"{{ x }}\"", "absent"),
        (CHAT, "chat_template_kwargs", json!(5), "chat_template_kwargs is 5", "an object"),
        (CHAT, "tool_choice", json!("required"), "tool_choice is \"required\"", "auto and none"),
        (CHAT, "tool_choice", json!({}), "tool_choice is an object", "auto and none"),
        (CHAT, "modalities", json!("text"), "modalities is \"text\"", "[\"text\"]"),
        (CHAT, "response_format", json!("json"), "response_format is \"json\"", "an object"),
        (CHAT, "cache_salt", json!(""), "cache_salt is 0 bytes", "1 to 256 bytes"),
        (CHAT, "cache_salt", json!(5), "cache_salt is 5", "a string"),
        (CHAT, "cache_prompt", json!("no"), "cache_prompt is \"no\"", "true or false"),
        (CHAT, "cache_debug", json!(1), "cache_debug is 1", "true or false"),
        (CHAT, "context_overflow", json!("shift"), "context_overflow is \"shift\"", "reject and truncate"),
        (CHAT, "context_overflow", json!(7), "context_overflow is 7", "reject and truncate"),
        (CHAT, "model", json!(5), "model is 5", "a string"),
        (COMPLETIONS, "prompt", json!([]), "prompt is a list of 0", "1 to 128 prompts"),
        (COMPLETIONS, "prompt", json!(5), "prompt is 5", "a list of token ids"),
        (COMPLETIONS, "prompt", json!([-1]), "prompt[0] is -1", &ids),
        (COMPLETIONS, "prompt", json!([1, "a"]), "prompt[1] is \"a\"", &ids),
        (COMPLETIONS, "prompt", json!([1, 999]), "prompt[1] is 999", &ids),
        (COMPLETIONS, "prompt", json!(["a", 1]), "prompt[1] is 1", "a string or a list of token ids"),
        (COMPLETIONS, "prompt", json!([[1], [-1]]), "prompt[1][0] is -1", &ids),
        (COMPLETIONS, "prompt", json!([[]]), "prompt is empty", "at least 1 token"),
        (COMPLETIONS, "suffix", json!("x"), "suffix is \"x\"", "does not fill in"),
        (COMPLETIONS, "best_of", json!("x"), "best_of is \"x\"", "equal n, 1"),
        (COMPLETIONS, "echo", json!("x"), "echo is \"x\"", "true or false"),
    ] {
        check_refused(&server, path, name, &value, found, allowed);
    }
    assert_eq!(server.chat(json!({ "response_format": { "type": "json_object" } })).error_param(), "response_format");
    assert_eq!(server.chat(json!({ "response_format": { "type": 5 } })).error_param(), "response_format.type");
    assert_eq!(server.chat(json!({ "stream_options": { "include_usage": true } })).error_param(), "stream_options");
    assert_eq!(server.chat(json!({ "top_logprobs": 2 })).error_param(), "top_logprobs");
    assert_eq!(
        server.chat(json!({ "chat_template_kwargs": { "messages": [] } })).error_param(),
        "chat_template_kwargs"
    );
    let unknown = server.chat(json!({ "model": "x".repeat(10_000) }));
    assert!(unknown.status == 404 && unknown.body.len() < 300, "{}", unknown.body);
}

#[test]
fn of_two_fields_of_one_name_the_last_counts() {
    let server = TestServer::start(Options::default());
    let body = |first, last| format!(r#"{{"prompt": "x", "max_tokens": {first}, "max_tokens": {last}}}"#);
    let answer = server.post_text(COMPLETIONS, &body(9, 2));
    assert_eq!(answer.json()["usage"]["completion_tokens"], 2);
    assert_eq!(server.post_text(COMPLETIONS, &body(2, 0)).error_param(), "max_tokens");
}

#[test]
fn lists_and_texts_end_at_their_limits() {
    let mut options = Options::default();
    options.config.requests = RequestLimits {
        max_stop_strings: 2,
        max_stop_bytes: 4,
        max_breaker_bytes: 4,
        max_tools: 2,
        max_schema_bytes: 40,
        max_schema_depth: 3,
        max_prompts: 2,
        max_messages: 2,
        max_documents: 2,
        max_completion_logprobs: 3,
        max_top_logprobs: 4,
        ..RequestLimits::default()
    };
    options.engine.max_logit_bias = 2;
    options.engine.max_stop_tokens = 2;
    options.engine.max_choices = 3;
    options.engine.max_dry_breakers = 4;
    options.engine.max_salt_bytes = 9;
    let server = TestServer::start(options);
    let tool = json!({ "type": "function", "function": { "name": "f" } });
    let tool_of =
        |parameters: Value| json!([{ "type": "function", "function": { "name": "f", "parameters": parameters } }]);
    // `{"title":"..."}`: 12 bytes beside the text.
    let schema_of = |bytes: usize| tool_of(json!({ "title": "t".repeat(bytes - 12) }));
    let schema_within = |levels: usize| tool_of((1..levels).fold(json!({}), |inner, _| json!({ "items": inner })));
    let message = json!({ "role": "user", "content": "hi" });
    let document = json!({ "text": "x" });
    let bias = |n: usize| (0..n).map(|id| (id.to_string(), json!(1))).collect::<serde_json::Map<_, _>>();
    for (path, name, at_limit, beyond) in [
        (CHAT, "stop", json!(["a", "b"]), json!(["a", "b", "c"])),
        (CHAT, "stop", json!("1234"), json!("12345")),
        (CHAT, "stop", json!("1"), json!("")),
        (CHAT, "logit_bias", json!(bias(2)), json!(bias(3))),
        (CHAT, "tools", json!([tool, tool]), json!([tool, tool, tool])),
        (CHAT, "stop_token_ids", json!([1, 2]), json!([1, 2, 3])),
        (CHAT, "n", json!(3), json!(4)),
        (COMPLETIONS, "logprobs", json!(3), json!(4)),
        (CHAT, "logit_bias", json!({ "1": -100 }), json!({ "1": -101 })),
        (CHAT, "logit_bias", json!({ "1": 100 }), json!({ "1": 101 })),
        (CHAT, "dry_sequence_breakers", json!(["a", "b", "c", "d"]), json!(["a", "b", "c", "d", "e"])),
        (CHAT, "dry_sequence_breakers", json!(["1234"]), json!(["12345"])),
        (CHAT, "dry_sequence_breakers", json!(["1"]), json!([""])),
        (CHAT, "tools", schema_of(40), schema_of(41)),
        (CHAT, "tools", schema_within(3), schema_within(4)),
        (CHAT, "messages", json!([message, message]), json!([message, message, message])),
        (CHAT, "documents", json!([document, document]), json!([document, document, document])),
        (CHAT, "cache_salt", json!("s".repeat(9)), json!("s".repeat(10))),
        (COMPLETIONS, "prompt", json!(["a", "b"]), json!(["a", "b", "c"])),
    ] {
        check(&server, path, name, &at_limit, true);
        check(&server, path, name, &beyond, false);
    }
    let top = |n: usize| server.chat(json!({ "logprobs": true, "top_logprobs": n }));
    assert_eq!((top(4).status, top(5).status, top(5).error_param().as_str()), (200, 400, "top_logprobs"));
    // With DRY on, breakers are put to use.
    let dry = |n: usize| server.chat(json!({ "dry_multiplier": 1, "dry_sequence_breakers": vec!["x"; n] }));
    assert_eq!((dry(4).status, dry(5).status), (200, 400));
    assert_eq!(
        server.chat(json!({ "dry_multiplier": 1 })).status,
        200,
        "those that hold by themselves are not too many"
    );
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
fn a_prompt_beyond_the_context_loses_its_oldest_part_where_that_is_wanted() {
    let server = TestServer::start(Options::default());
    let details = |answer: &Answer| answer.json()["usage"]["prompt_tokens_details"]["dropped"].clone();
    let text = format!("{}xyz", "!".repeat(CONTEXT));
    let body = json!({ "prompt": text, "max_tokens": 4, "temperature": 0, "context_overflow": "truncate" });
    let answer = server.post(COMPLETIONS, &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["choices"][0]["text"], "abcd", "the end of the prompt is what counts");
    assert_eq!((answer.json()["usage"]["prompt_tokens"].clone(), details(&answer)), (json!(CONTEXT - 4), json!(7)));
    // Of a chat, whole turns go; the system's words stay.
    let turn = |role: &str, content: &str| json!({ "role": role, "content": content });
    let long = "l".repeat(CONTEXT / 2);
    let messages =
        [turn("system", "s"), turn("user", &long), turn("assistant", &long), turn("user", "hi"), turn("user", "ho")];
    let chat = |policy: &str| server.chat(json!({ "messages": messages, "max_tokens": 2, "context_overflow": policy }));
    assert_eq!(chat("reject").json()["error"]["code"], "context_length_exceeded");
    let answer = chat("truncate");
    assert_eq!((answer.status, details(&answer)), (200, json!(2)));
    assert_eq!(answer.json()["usage"]["prompt_tokens"], "<system>s<user>hi<user>ho>".len());
    // What cannot fit is refused even so.
    let lonely = json!({ "messages": [turn("user", &long.repeat(3))], "context_overflow": "truncate" });
    assert_eq!(server.chat(lonely).json()["error"]["code"], "context_length_exceeded");
}

#[test]
fn a_key_has_as_many_requests_as_it_may() {
    let mut options = Options { step: std::time::Duration::from_millis(10), ..Options::default() };
    options.engine.max_tenant_requests = 1;
    options.config.api_keys = vec!["one".to_owned(), "two".to_owned()];
    let server = TestServer::start(options);
    let request = |key: &str, max_tokens: u64| {
        let body = chat_body(json!({ "max_tokens": max_tokens })).to_string();
        post_request(CHAT, &body).replace("host: localhost", &format!("host: localhost\r\nauthorization: Bearer {key}"))
    };
    let mut running = server.connect();
    running.write_all(request("one", 900).as_bytes()).unwrap();
    server.wait_for("running", 1);
    let answer = server.send(&request("one", 1));
    assert_eq!((answer.status, answer.json()["error"]["code"].as_str()), (429, Some("key_full")));
    assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    assert_eq!(server.send(&request("two", 1)).status, 200);
    drop(running);
    server.wait_for("running", 0);
    assert_eq!(server.send(&request("one", 1)).status, 200);
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
fn a_client_that_writes_a_large_body_reads_why_it_is_refused() {
    let mut options = Options::default();
    options.config.requests.max_body_bytes = 8 << 20;
    let server = TestServer::start(options);
    // More than the sockets hold: the client is still writing when the server knows.
    let body = " ".repeat(30 << 20);
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    let head = post_request(CHAT, "").replace("content-length: 0", "transfer-encoding: chunked");
    for request in [post_request(CHAT, &body), head + &chunked] {
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).expect("the whole body can be written");
        assert_eq!(read_answer(stream).status, 413);
    }
    // Who asks first is told at once.
    let head = post_request(CHAT, "").replace("content-length: 0", "content-length: 99999999\r\nexpect: 100-continue");
    assert_eq!(server.send(&head).status, 413);
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
        (server.get("/v1/models/none"), 404),
        (server.get("/v1/models/%ff"), 400),
        (server.get(CHAT), 405),
        (server.post("/health", &json!({})), 405),
    ] {
        let Answer { status: got, body, .. } = &answer;
        assert_eq!(*got, status, "{body}");
        assert!(answer.json()["error"]["message"].is_string(), "{body}");
    }
    let message = server.get("/v1/models/a%ff").json()["error"]["message"].to_string();
    assert_eq!(message, r#""model is \"a%ff\": must be percent-encoded UTF-8""#);
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
        stream.write_all(post_request(CHAT, &body).as_bytes()).unwrap();
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

#[test]
fn prompts_wait_up_to_so_many_tokens() {
    let engine =
        EngineConfig { max_batch_size: 1, max_running_requests: 1, max_queued_tokens: 20, ..EngineConfig::default() };
    let step = std::time::Duration::from_millis(20);
    let server = TestServer::start(Options { step, engine, ..Options::default() });
    let body = |prompt_tokens: usize| json!({ "prompt": "x".repeat(prompt_tokens), "max_tokens": 500 });
    let hold = |prompt_tokens: usize| {
        let mut stream = server.connect();
        stream.write_all(post_request(COMPLETIONS, &body(prompt_tokens).to_string()).as_bytes()).unwrap();
        stream
    };
    let check_full = |prompt_tokens: usize, waiting: usize| {
        let answer = server.post(COMPLETIONS, &body(prompt_tokens));
        let error = &answer.json()["error"];
        assert_eq!((answer.status, error["code"].as_str()), (429, Some("queue_full")), "{}", answer.body);
        let message = error["message"].as_str().unwrap();
        assert!(message.contains(&format!("{waiting} of 20 prompt tokens")), "{message}");
        assert!(answer.head.contains("retry-after: "), "{}", answer.head);
    };
    let running = hold(10);
    server.wait_for("running", 1);
    let first = hold(12);
    server.wait_for("waiting", 1);
    check_full(9, 12);
    let second = hold(8);
    server.wait_for("waiting", 2);
    check_full(1, 20);
    drop((running, first, second));
    server.wait_for("running", 0);
    assert_eq!(server.get("/health").json()["models"][0]["waiting"], 0);
}
