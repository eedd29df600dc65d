//! Every numeric field of both endpoints, at and around its limits and with everything that is no number: taken, or
//! refused with a 400 that names the field, the value and the limit. Never a 5xx, and never changed in silence.

use std::time::Duration;

use serde_json::{Value, json};

use crate::client::{Options, TestServer, chat_body};
use crate::fake::CONTEXT;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";
const BOTH: &[&str] = &[CHAT, COMPLETIONS];

/// A numeric field: where it is, its range, and what an error says of the range.
struct Number {
    name: &'static str,
    paths: &'static [&'static str],
    range: Range,
    /// Fields without which it is not allowed.
    with: &'static [(&'static str, bool)],
}

enum Range {
    Whole(i64, i64),
    Real(f64, f64),
    /// In (0, 1].
    Share,
}

const fn whole(name: &'static str, min: i64, max: i64) -> Number {
    Number { name, paths: BOTH, range: Range::Whole(min, max), with: &[] }
}

const fn real(name: &'static str, min: f64, max: f64) -> Number {
    Number { name, paths: BOTH, range: Range::Real(min, max), with: &[] }
}

const fn share(name: &'static str) -> Number {
    Number { name, paths: BOTH, range: Range::Share, with: &[] }
}

const DEADLINE: Duration = Duration::from_secs(600);
const WINDOW: i64 = i32::MAX as i64;
/// What the longer of the two prompts leaves free.
const ROOM: i64 = (CONTEXT - "<user>hi>".len()) as i64;

const NUMBERS: &[Number] = &[
    whole("max_tokens", 1, ROOM),
    whole("max_completion_tokens", 1, ROOM),
    whole("min_tokens", 0, 1),
    whole("n", 1, 16),
    Number { paths: &[CHAT], with: &[("logprobs", true)], ..whole("top_logprobs", 0, 20) },
    Number { paths: &[COMPLETIONS], ..whole("logprobs", 0, 5) },
    Number { paths: &[COMPLETIONS], ..whole("best_of", 1, 1) },
    whole("priority", -100, 100),
    whole("deadline_ms", 1, DEADLINE.as_millis() as i64),
    whole("seed", i64::MIN, i64::MAX),
    whole("top_k", -1, 1 << 20),
    whole("penalty_window", 0, WINDOW),
    whole("dry_window", 0, WINDOW),
    whole("dry_allowed_length", 1, 4096),
    real("temperature", 0.0, 100.0),
    real("min_p", 0.0, 1.0),
    real("repetition_penalty", 0.01, 10.0),
    real("presence_penalty", -2.0, 2.0),
    real("frequency_penalty", -2.0, 2.0),
    real("dry_multiplier", 0.0, 100.0),
    real("dry_base", 1.0, 10.0),
    real("xtc_probability", 0.0, 1.0),
    real("xtc_threshold", 0.001, 1.0),
    share("top_p"),
    share("typical_p"),
];

impl Number {
    /// Values and whether they are taken.
    fn cases(&self) -> Vec<(Value, bool)> {
        let edges = match self.range {
            Range::Whole(min, max) => {
                let (min, max) = (i128::from(min), i128::from(max));
                [min - 1, min, max, max + 1].map(|x| serde_json::from_str(&x.to_string()).unwrap())
            }
            Range::Real(min, max) => [min - 0.001, min, max, max + 0.001].map(|x| json!(x)),
            Range::Share => [0.0, 0.001, 1.0, 1.001].map(|x| json!(x)),
        };
        let far = [json!(-1), json!(1_u64 << 31), json!(1_u64 << 63), json!(1e308), json!(-1e308)];
        let numbers = edges.into_iter().chain(far).map(|value| (value.clone(), self.takes(&value)));
        let others = [json!("1"), json!("NaN"), json!(""), json!([1]), json!({}), json!(true)];
        numbers.chain(others.map(|value| (value, false))).chain([(Value::Null, true)]).collect()
    }

    fn takes(&self, number: &Value) -> bool {
        let real = number.as_f64().unwrap();
        match self.range {
            Range::Whole(min, max) => number.as_i64().is_some_and(|x| (min..=max).contains(&x)),
            Range::Real(min, max) => (min..=max).contains(&real),
            Range::Share => real > 0.0 && real <= 1.0,
        }
    }

    /// What the error for a value must say of the limits.
    fn limits(&self, value: &Value) -> String {
        match self.range {
            // Without its prompt a request may ask for the whole context.
            Range::Whole(min, ROOM) if value.as_i64() != Some(ROOM + 1) => format!("from {min} to {CONTEXT}"),
            Range::Whole(min, max) => format!("from {min} to {max}"),
            Range::Real(min, max) => format!("from {min} to {max}"),
            Range::Share => "above 0, up to 1".to_owned(),
        }
    }

    /// What the error must say of the value.
    fn shown(value: &Value) -> String {
        match value {
            Value::Array(items) => format!("a list of {}", items.len()),
            Value::Object(_) => "an object".to_owned(),
            other => other.to_string(),
        }
    }
}

#[test]
fn every_number_is_documented_with_its_range() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/api.md");
    let api = std::fs::read_to_string(path).unwrap();
    for Number { name, range, .. } in NUMBERS {
        let range = match (*name, range) {
            ("min_tokens", _) => "0 to `max_tokens`".to_owned(),
            ("best_of", _) => "equal to `n`".to_owned(),
            (_, Range::Whole(1, ROOM)) => "1 to context less prompt".to_owned(),
            (_, Range::Whole(i64::MIN, _)) => "64 bits, signed".to_owned(),
            (_, Range::Whole(min, max)) => format!("{min} to {max}"),
            (_, Range::Real(min, max)) => format!("{min} to {max}"),
            (_, Range::Share) => "above 0, up to 1".to_owned(),
        };
        assert!(api.contains(&format!("| `{name}` | {range} |")), "{name}: {range}");
    }
}

#[test]
fn every_number_is_taken_within_its_range_and_refused_outside() {
    let mut options = Options::default();
    options.engine.max_deadline = DEADLINE;
    let server = TestServer::start(options);
    let mut sent = 0;
    for number in NUMBERS {
        for path in number.paths {
            for (value, accepted) in number.cases() {
                check(&server, path, number, &value, accepted);
                sent += 1;
            }
        }
    }
    assert_eq!(server.get("/health/ready").status, 200);
    let text = server.get("/metrics").body;
    let panics = "mistral_steps_total{model=\"letters\",result=\"panic\"} 0";
    assert!(sent > 700 && text.contains(panics), "{sent} requests");
}

fn check(server: &TestServer, path: &str, number: &Number, value: &Value, accepted: bool) {
    let name = number.name;
    // One token is enough, unless the field says how many.
    let mut body = chat_body(json!({ "max_tokens": 1, "prompt": "<user>hi>" }));
    if name == "max_completion_tokens" {
        body["max_tokens"] = Value::Null;
    }
    for (other, set) in number.with {
        body[other] = json!(set);
    }
    body[name] = value.clone();
    // The longest answers end at once.
    body["stop"] = "a".into();
    let answer = server.post(path, &body);
    let what = format!("{path} {name}={value}: {}", answer.body);
    if accepted {
        // A millisecond is a deadline that may well pass.
        assert!(answer.status == 200 || (name == "deadline_ms" && answer.status == 504), "{what}");
        return;
    }
    assert_eq!(answer.status, 400, "{what}");
    let error = &answer.json()["error"];
    assert_eq!((&error["type"], &error["param"]), (&json!("invalid_request_error"), &json!(name)), "{what}");
    let message = error["message"].as_str().unwrap();
    assert!(message.starts_with(&format!("{name} is {}: ", Number::shown(value))), "{what}");
    let limits = if name == "best_of" { "must equal n, 1".to_owned() } else { number.limits(value) };
    assert!(message.contains(&limits), "{what}");
    assert!(message.len() < 300, "{what}");
}
