//! Every sampling parameter does over the wire what its name says.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::client::{Options, TestServer};

const COMPLETIONS: &str = "/v1/completions";

/// The greedy text of `max_tokens` after `prompt` with some more fields.
fn text(server: &TestServer, prompt: &str, max_tokens: u64, more: &Value) -> String {
    let mut body = json!({ "prompt": prompt, "max_tokens": max_tokens, "temperature": 0 });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    let answer = server.post(COMPLETIONS, &body);
    assert_eq!(answer.status, 200, "{body}: {}", answer.body);
    answer.json()["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// What comes after a `0` in 96 random draws. The network's probabilities: `1` 57 %, `2` 35 %, `3` 8 %.
fn drawn(server: &TestServer, more: &Value) -> String {
    let mut seen = BTreeSet::new();
    for seed in 0..6 {
        let mut body = json!({ "prompt": "0", "max_tokens": 1, "n": 16, "seed": seed });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let answer = server.post(COMPLETIONS, &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.body);
        for choice in answer.json()["choices"].as_array().unwrap() {
            seen.insert(choice["text"].as_str().unwrap().to_owned());
        }
    }
    seen.into_iter().collect()
}

#[test]
fn truncations_leave_what_they_say() {
    let server = TestServer::start(Options::default());
    for (more, expected) in [
        (json!({}), "123"),
        (json!({ "temperature": 0 }), "1"),
        (json!({ "temperature": 0.05 }), "1"),
        (json!({ "top_k": 1 }), "1"),
        (json!({ "top_k": 2 }), "12"),
        (json!({ "top_k": -1 }), "123"),
        (json!({ "top_p": 0.5 }), "1"),
        (json!({ "top_p": 0.9 }), "12"),
        (json!({ "min_p": 0.5 }), "12"),
        (json!({ "min_p": 0.1 }), "123"),
        // The expected surprise is 0.88; that of `2` is 1.06, of `1` 0.56.
        (json!({ "typical_p": 0.3 }), "2"),
        // Both `1` and `2` are above the threshold: all but the least likely of them go.
        (json!({ "xtc_probability": 1, "xtc_threshold": 0.2 }), "23"),
        (json!({ "xtc_probability": 0, "xtc_threshold": 0.2 }), "123"),
        (json!({ "logit_bias": { "49": -100 } }), "23"),
        (json!({ "logit_bias": { "120": 100 } }), "x"),
    ] {
        assert_eq!(drawn(&server, &more), expected, "{more}");
    }
    assert!(drawn(&server, &json!({ "temperature": 100, "top_k": 40 })).chars().count() > 20);
}

#[test]
fn penalties_turn_the_text_as_they_say() {
    let server = TestServer::start(Options::default());
    for (prompt, more, expected) in [
        ("A", json!({}), "AAAAAA"),
        // The output counts, not the prompt.
        ("A", json!({ "presence_penalty": 1 }), "ABCDEF"),
        ("A", json!({ "frequency_penalty": 0.3 }), "AABBCC"),
        ("A", json!({ "presence_penalty": -1 }), "AAAAAA"),
        // Here the prompt counts too.
        ("A", json!({ "repetition_penalty": 1.1 }), "BCDEFG"),
        ("BA", json!({ "repetition_penalty": 1.1 }), "AAAAAA"),
        ("BA", json!({ "repetition_penalty": 1.1, "penalty_window": 1 }), "BCDEFG"),
        ("A", json!({ "repetition_penalty": 1.1, "penalty_window": 0 }), "AAAAAA"),
        ("A", json!({ "dry_multiplier": 1, "dry_base": 2 }), "AABBBC"),
        ("A", json!({ "dry_multiplier": 1, "dry_base": 2, "dry_allowed_length": 3 }), "AAABBB"),
        ("A", json!({ "dry_multiplier": 0.1, "dry_base": 10 }), "AAABBB"),
        ("A", json!({ "dry_multiplier": 0.1, "dry_base": 1 }), "AAAAAA"),
        ("A", json!({ "dry_multiplier": 1, "dry_window": 2 }), "AAAAAA"),
        ("A", json!({ "dry_multiplier": 1, "dry_sequence_breakers": ["A"] }), "AAAAAA"),
        ("A", json!({ "logit_bias": { "66": 2 } }), "BBBBBB"),
    ] {
        assert_eq!(text(&server, prompt, 6, &more), expected, "{prompt} {more}");
    }
}

#[test]
fn the_end_waits_for_the_least_length() {
    let server = TestServer::start(Options::default());
    assert_eq!(text(&server, "!", 5, &json!({})), "");
    let longer = text(&server, "!", 5, &json!({ "min_tokens": 2 }));
    assert_eq!(longer.len(), 5, "nothing ends it any more: {longer:?}");
    assert_eq!(text(&server, "x", 5, &json!({ "stop_token_ids": [121], "min_tokens": 5 })).len(), 5);
}

#[test]
fn a_seed_repeats_its_draws_and_choices_differ() {
    let server = TestServer::start(Options::default());
    let choices = |seed: i64, n: u64| -> Vec<String> {
        let body = json!({ "prompt": "0", "max_tokens": 30, "n": n, "seed": seed });
        let json = server.post(COMPLETIONS, &body).json();
        let choices = json["choices"].as_array().unwrap();
        choices.iter().map(|choice| choice["text"].as_str().unwrap().to_owned()).collect()
    };
    let first = choices(7, 4);
    assert_eq!(choices(7, 4), first);
    assert_eq!(choices(7, 2), first[..2], "a choice does not depend on how many there are");
    assert_ne!(choices(8, 4), first);
    assert_eq!(first.iter().collect::<BTreeSet<_>>().len(), 4);
    for seed in [i64::MIN, i64::MAX] {
        assert_eq!(choices(seed, 1), choices(seed, 1));
    }
}

#[test]
fn stop_strings_reach_across_tokens_and_choices_stop_alone() {
    const CHOICES: usize = 8;
    let server = TestServer::start(Options::default());
    for stream in [false, true] {
        let mut body = json!({ "prompt": "0", "max_tokens": 900, "n": CHOICES, "seed": 3, "stop": ["345", "578"] });
        if stream {
            body["stream"] = true.into();
            body["stream_options"] = json!({ "include_usage": true });
        }
        let answer = server.post(COMPLETIONS, &body);
        let frames = if stream { answer.frames() } else { vec![answer.json()] };
        let (mut texts, mut reasons) = (vec![String::new(); CHOICES], vec![Value::Null; CHOICES]);
        for choice in frames.iter().flat_map(|frame| frame["choices"].as_array().unwrap()) {
            let index = choice["index"].as_u64().unwrap() as usize;
            texts[index] += choice["text"].as_str().unwrap();
            reasons[index] = choice["finish_reason"].clone();
        }
        assert!(reasons.iter().all(|reason| reason == "stop"), "{reasons:?}");
        assert!(texts.iter().all(|text| !text.contains("345") && !text.contains("578")), "{texts:?}");
        assert!(texts.iter().any(|text| text.len() > 5), "{texts:?}");
        // The three tokens of the stop string were generated too.
        let written: usize = texts.iter().map(String::len).sum();
        let completion_tokens = frames.last().unwrap()["usage"]["completion_tokens"].as_u64().unwrap() as usize;
        assert!(completion_tokens >= written + 3 * CHOICES, "{completion_tokens} tokens, {written} characters");
    }
}
