//! What clients get for good requests.

use serde_json::{Value, json};

use crate::client::{Options, TestServer};

#[test]
fn a_chat_is_answered_whole_and_streamed_alike() {
    let server = TestServer::start(Options::default());
    let whole = server.chat(json!({}));
    assert_eq!(whole.status, 200, "{}", whole.body);
    let json = whole.json();
    assert_eq!(json["object"], "chat.completion");
    assert_eq!(json["model"], "letters");
    assert_eq!(json["choices"][0]["message"], json!({ "role": "assistant", "content": "abcde", "refusal": null }));
    assert_eq!(json["choices"][0]["finish_reason"], "length");
    // `<user>hi>` has nine bytes.
    assert_eq!(json["usage"]["prompt_tokens"], 9);
    assert_eq!(json["usage"]["completion_tokens"], 5);
    assert_eq!(json["usage"]["total_tokens"], 14);

    let streamed = server.chat(json!({ "stream": true, "stream_options": { "include_usage": true } }));
    assert!(streamed.head.contains("content-type: text/event-stream"));
    let frames = streamed.frames();
    assert!(frames.iter().all(|frame| frame["object"] == "chat.completion.chunk" && frame["id"] == frames[0]["id"]));
    assert_eq!(frames[0]["choices"][0]["delta"], json!({ "role": "assistant", "content": "" }));
    assert_eq!(texts(&frames, "/choices/0/delta/content"), "abcde");
    let (usage, rest) = frames.split_last().unwrap();
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(14)));
    assert!(rest.iter().all(|frame| frame["usage"].is_null()));
    assert_eq!(rest.last().unwrap()["choices"][0]["finish_reason"], "length");
}

#[test]
fn the_end_of_text_and_stop_strings_are_not_part_of_the_answer() {
    let server = TestServer::start(Options::default());
    let check = |more: Value, text: &str, reason: &str| {
        for stream in [false, true] {
            let mut body = json!({ "prompt": "x", "max_tokens": 10, "temperature": 0, "stream": stream });
            for (name, value) in more.as_object().unwrap() {
                body[name] = value.clone();
            }
            let answer = server.post("/v1/completions", &body);
            let frames = if stream { answer.frames() } else { vec![answer.json()] };
            assert_eq!(texts(&frames, "/choices/0/text"), text, "{body}");
            assert_eq!(frames.last().unwrap()["choices"][0]["finish_reason"], reason, "{body}");
        }
    };
    check(json!({}), "yzabcdefgh", "length");
    check(json!({ "prompt": "!" }), "", "stop");
    check(json!({ "prompt": "!", "ignore_eos": true, "max_tokens": 3 }), "ab", "length");
    check(json!({ "stop": "bcd" }), "yza", "stop");
    check(json!({ "stop": ["cdX", "de"] }), "yzabc", "stop");
    check(json!({ "stop_token_ids": [98] }), "yza", "stop");
    check(json!({ "stop": "bcd", "max_tokens": 5 }), "yzabc", "length");
}

#[test]
fn prompts_come_as_text_or_ids_one_or_many() {
    let server = TestServer::start(Options::default());
    let x = u32::from(b'x');
    for (prompt, expected) in [
        (json!("x"), vec!["yz"]),
        (json!(["x", "a"]), vec!["yz", "bc"]),
        (json!([x]), vec!["yz"]),
        (json!([[x], [97]]), vec!["yz", "bc"]),
        (json!(["x", [97]]), vec!["yz", "bc"]),
    ] {
        let answer = server.post("/v1/completions", &json!({ "prompt": prompt, "max_tokens": 2, "temperature": 0 }));
        assert_eq!(answer.status, 200, "{}", answer.body);
        let json = answer.json();
        let choices = json["choices"].as_array().unwrap();
        let got: Vec<&str> = choices.iter().map(|choice| choice["text"].as_str().unwrap()).collect();
        assert_eq!(got, expected, "{prompt}");
        assert!(choices.iter().enumerate().all(|(i, choice)| choice["index"] == i));
    }
}

#[test]
fn each_prompt_has_n_choices_and_counts_once() {
    let server = TestServer::start(Options::default());
    let body = json!({ "prompt": ["x", "a"], "max_tokens": 2, "temperature": 0, "n": 3 });
    let json = server.post("/v1/completions", &body).json();
    let texts: Vec<&str> = json["choices"].as_array().unwrap().iter().map(|c| c["text"].as_str().unwrap()).collect();
    assert_eq!(texts, ["yz", "yz", "yz", "bc", "bc", "bc"]);
    assert_eq!(json["usage"]["prompt_tokens"], 2);
    assert_eq!(json["usage"]["completion_tokens"], 12);
}

#[test]
fn echo_with_logprobs_covers_prompt_and_answer() {
    let server = TestServer::start(Options::default());
    let body = json!({ "prompt": ["xy", "a"], "max_tokens": 1, "temperature": 0, "echo": true, "logprobs": 1, "n": 2 });
    let json = server.post("/v1/completions", &body).json();
    for (index, (text, tokens)) in
        [("xyz", vec!["x", "y", "z"]), ("xyz", vec!["x", "y", "z"]), ("ab", vec!["a", "b"]), ("ab", vec!["a", "b"])]
            .into_iter()
            .enumerate()
    {
        let choice = &json["choices"][index];
        assert_eq!(choice["text"], text);
        let logprobs = &choice["logprobs"];
        assert_eq!(logprobs["tokens"], json!(tokens));
        assert_eq!(logprobs["text_offset"], json!((0..tokens.len()).collect::<Vec<_>>()));
        assert!(logprobs["token_logprobs"][0].is_null() && logprobs["top_logprobs"][0].is_null());
        for (i, token) in tokens.iter().enumerate().skip(1) {
            let logprob = logprobs["token_logprobs"][i].as_f64().unwrap();
            assert!((-0.1..0.0).contains(&logprob), "{logprob}: the network is nearly certain");
            assert_eq!(logprobs["top_logprobs"][i][token], logprobs["token_logprobs"][i]);
        }
    }
}

#[test]
fn chat_logprobs_have_bytes_and_the_likeliest_tokens() {
    let server = TestServer::start(Options::default());
    for stream in [false, true] {
        let answer = server.chat(json!({ "logprobs": true, "top_logprobs": 2, "max_tokens": 2, "stream": stream }));
        let entries: Vec<Value> = if stream {
            let frames = answer.frames();
            let lists =
                frames.iter().filter_map(|frame| frame["choices"][0]["logprobs"]["content"].as_array().cloned());
            lists.flatten().collect()
        } else {
            answer.json()["choices"][0]["logprobs"]["content"].as_array().unwrap().clone()
        };
        assert_eq!(entries.len(), 2);
        assert_eq!((&entries[1]["token"], &entries[1]["bytes"]), (&json!("b"), &json!([98])));
        assert_eq!(entries[1]["top_logprobs"].as_array().unwrap().len(), 2);
        assert_eq!(entries[1]["top_logprobs"][0]["token"], "b");
    }
}

#[test]
fn models_are_listed_and_found_by_name_and_by_default() {
    let server = TestServer::start(Options::default());
    let list = server.get("/v1/models").json();
    assert_eq!(list["data"][0]["id"], "letters");
    assert_eq!(list["data"][0]["max_model_len"], crate::fake::CONTEXT);
    for name in ["letters", "default"] {
        assert_eq!(server.get(&format!("/v1/models/{name}")).json()["id"], "letters");
        assert_eq!(server.chat(json!({ "model": name })).status, 200);
    }
    for name in ["gpt-4", "a/b", "../x", "letters%00"] {
        let answer = server.get(&format!("/v1/models/{name}"));
        assert_eq!((answer.status, answer.error_param().as_str()), (404, "model"), "{name}");
    }
    assert_eq!(server.chat(json!({ "model": "gpt-4" })).status, 404);
    assert_eq!(server.chat(json!({ "model": 5 })).error_param(), "model");
}

#[test]
fn a_prompt_that_begins_alike_hits_the_prefix_cache() {
    let server = TestServer::start(Options::default());
    let details = |content: String| {
        let messages = json!([{ "role": "user", "content": content }]);
        let body = json!({ "messages": messages, "max_tokens": 1, "cache_debug": true });
        server.post("/v1/chat/completions", &body).json()["usage"]["prompt_tokens_details"].clone()
    };
    assert_eq!(
        details("x".repeat(300)),
        json!({ "cached_tokens": 0, "cache_end": { "reason": "cold", "token": null, "text_offset": null } })
    );
    let same_start = "<user>".len() + 200;
    let warm = details("x".repeat(200) + &"y".repeat(100));
    assert_eq!(warm["cached_tokens"], same_start / 64 * 64, "whole pages of 64 tokens");
    assert_eq!(warm["cache_end"], json!({ "reason": "differs", "token": same_start, "text_offset": same_start }));
    let again = details("x".repeat(300));
    assert_eq!(again["cache_end"], json!({ "reason": "page_boundary", "token": 256, "text_offset": 256 }));
}

#[test]
fn text_offsets_of_cache_ends_count_characters() {
    let server = TestServer::start(Options::default());
    let cache_end = |prompt: String| {
        let body = json!({ "prompt": prompt, "max_tokens": 1, "cache_debug": true });
        server.post("/v1/completions", &body).json()["usage"]["prompt_tokens_details"]["cache_end"].clone()
    };
    cache_end("\u{fc}".repeat(100));
    // 75 letters of two bytes, and then another.
    let other = "\u{fc}".repeat(75) + "xyz" + &"\u{fc}".repeat(50);
    assert_eq!(cache_end(other), json!({ "reason": "differs", "token": 150, "text_offset": 75 }));
    // Where there is no usage, or that of several prompts, nothing could tell it.
    for body in [
        json!({ "prompt": ["a", "b"], "cache_debug": true }),
        json!({ "prompt": "a", "cache_debug": true, "stream": true }),
    ] {
        let answer = server.post("/v1/completions", &body);
        assert_eq!((answer.status, answer.error_param().as_str()), (400, "cache_debug"));
    }
    let body = json!({
        "prompt": "a", "max_tokens": 1, "cache_debug": true, "stream": true, "stream_options": { "include_usage": true },
    });
    assert!(server.post("/v1/completions", &body).body.contains("\"cache_end\":{"));
}

#[test]
fn salts_and_opting_out_keep_prompts_apart() {
    let server = TestServer::start(Options::default());
    let cached = |more: Value| {
        let mut body = json!({ "prompt": "x".repeat(200), "max_tokens": 1, "cache_debug": true });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let details = &server.post("/v1/completions", &body).json()["usage"]["prompt_tokens_details"];
        (details["cached_tokens"].as_u64().unwrap(), details["cache_end"]["reason"].as_str().unwrap().to_owned())
    };
    let expect = |tokens: u64, reason: &str| (tokens, reason.to_owned());
    assert_eq!(cached(json!({ "cache_prompt": false })), expect(0, "disabled"));
    assert_eq!(cached(json!({})), expect(0, "cold"), "who opted out has left nothing");
    assert_eq!(cached(json!({})), expect(192, "page_boundary"));
    assert_eq!(cached(json!({ "cache_prompt": false })), expect(0, "disabled"));
    assert_eq!(cached(json!({ "cache_salt": "mine" })), expect(0, "salt"));
    assert_eq!(cached(json!({ "cache_salt": "mine" })), expect(192, "page_boundary"));
    assert_eq!(cached(json!({ "cache_salt": "yours" })), expect(0, "salt"));
}

#[test]
fn a_control_token_written_by_a_user_is_text() {
    let server = TestServer::start(Options::default());
    let body = |content: &str| json!({ "messages": [{ "role": "user", "content": content }], "max_tokens": 1 });
    let tokens = |content: &str| {
        server.post("/v1/chat/completions", &body(content)).json()["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    assert_eq!(tokens("<|end|>"), tokens("1234567"), "each of its seven bytes is a token");
}

fn texts(frames: &[Value], pointer: &str) -> String {
    frames.iter().filter_map(|frame| frame.pointer(pointer)?.as_str()).collect()
}
