//! Commands that read models, with real ones.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::models::{shared, smollm2};
use crate::program::{error, frontier, stdout};

/// Runs a command with text on its standard input.
fn with_input(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

#[test]
fn text_survives_tokenize_and_detokenize() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    for text in ["Hello, world!", "  two\n\n\tlines  ", "naïve café 你好 🦙", "<|im_end|>", ""] {
        for special in [&[][..], &["--special"][..]] {
            let ids = with_input(frontier(dir.path()).arg("tokenize").arg(&model).args(special), text.as_bytes());
            let back = with_input(frontier(dir.path()).arg("detokenize").arg(&model).args(special), &ids);
            assert_eq!(String::from_utf8(back).unwrap(), text);
        }
    }
    let ids = |special: &[&str]| -> Vec<u32> {
        let command = &mut frontier(dir.path());
        serde_json::from_slice(&with_input(command.arg("tokenize").arg(&model).args(special), b"<|im_end|>")).unwrap()
    };
    assert_eq!(ids(&["--special"]), [2]);
    assert!(ids(&[]).len() > 1, "a control token in plain text is plain text");
}

#[test]
fn inspect_knows_the_model() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let json: Value =
        serde_json::from_str(&stdout(frontier(dir.path()).arg("inspect").arg(&model).arg("--json"))).unwrap();
    assert_eq!(json["architecture"], "llama");
    assert_eq!(json["network"]["layers"], 30);
    assert_eq!(json["network"]["context"], 8192);
    assert_eq!(json["tokenizer"]["tokens"], 49152);
    assert_eq!(json["chat_template"], true);
    let sum: u64 = json["formats"].as_object().unwrap().values().map(|format| format["bytes"].as_u64().unwrap()).sum();
    assert_eq!(json["weight_bytes"], sum);
    let text = stdout(frontier(dir.path()).arg("inspect").arg(&model));
    for part in ["llama", "q4_1", "8192 tokens", "49152"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn logits_equal_those_of_hugging_face() {
    /// As for the networks' own tests: f32 sums in another order.
    const TOLERANCE: f64 = 2e-4;
    let Some(tiny) = shared("data/tiny") else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama", "qwen2", "qwen3", "gemma3"] {
        let model = tiny.join(name);
        let expected: Value = serde_json::from_slice(&std::fs::read(model.join("expected.json")).unwrap()).unwrap();
        let ids: Vec<String> = expected["input_ids"].as_array().unwrap().iter().map(Value::to_string).collect();
        let printed = stdout(frontier(dir.path()).arg("logits").arg(&model).args(["--json", "--ids", &ids.join(",")]));
        let got: Value = serde_json::from_str(&printed).unwrap();
        let rows = |json: &Value| -> Vec<Vec<f64>> {
            let rows = json["logits"].as_array().unwrap().iter();
            rows.map(|row| row.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()).collect()
        };
        let (got, expected) = (rows(&got), rows(&expected));
        assert_eq!((got.len(), got[0].len()), (expected.len(), expected[0].len()), "{name}");
        let pairs = got.iter().flatten().zip(expected.iter().flatten());
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
        assert!(worst <= TOLERANCE, "{name}: logits differ by {worst}");
    }
}

#[test]
fn render_prints_the_prompt_of_a_template_file_and_of_a_model() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write(
        "t.jinja",
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ strftime_now('%Y') }}",
    );
    write("m.json", r#"{"messages": [{"role": "user", "content": "hi"}]}"#);
    let arguments = ["render", "t.jinja", "--messages", "m.json", "--bos", "<s>", "--now", "2020-01-02T03:04:05"];
    assert_eq!(stdout(frontier(dir.path()).args(arguments)), "<s>[user]hi2020");
    write("loop.jinja", "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}");
    error(frontier(dir.path()).args(["render", "loop.jinja", "--messages", "m.json"]));
    write("bad.json", "{");
    let message = error(frontier(dir.path()).args(["render", "t.jinja", "--messages", "bad.json"]));
    assert!(message.contains("bad.json: not JSON"), "{message}");
    if let Some(model) = smollm2() {
        let prompt = stdout(frontier(dir.path()).arg("render").arg(model).args(["--messages", "m.json"]));
        assert!(prompt.ends_with("<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"), "{prompt}");
    }
}

#[test]
fn run_answers_the_same_each_time_at_temperature_zero() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut answers = (0..2).map(|_| {
        let options = ["--temperature", "0", "--max-tokens", "16", "--log", "error"];
        stdout(frontier(dir.path()).arg("run").arg(&model).arg("What is the capital of France?").args(options))
    });
    let first = answers.next().unwrap();
    assert!(first.contains("Paris"), "{first:?}");
    assert_eq!(answers.next(), Some(first));
}

#[test]
fn perplexity_of_plain_text_is_that_of_a_language_model() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let text = include_str!("../../../../LICENSE-APACHE");
    std::fs::write(dir.path().join("text"), text).unwrap();
    let arguments = ["--file", "text", "--window", "256", "--json"];
    let json: Value =
        serde_json::from_str(&stdout(frontier(dir.path()).arg("perplexity").arg(&model).args(arguments))).unwrap();
    let perplexity = json["perplexity"].as_f64().unwrap();
    assert!((1.0..30.0).contains(&perplexity), "a licence that it has seen: {json}");
    let short =
        error(frontier(dir.path()).arg("perplexity").arg(&model).args(["--file", "text", "--window", "100000"]));
    assert!(short.contains("context"), "{short}");
}

#[test]
fn bad_input_is_one_line_and_never_a_panic() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    std::fs::write(path("empty.gguf"), b"").unwrap();
    std::fs::write(path("magic.gguf"), b"GGUF").unwrap();
    std::fs::write(path("text.gguf"), b"just some text").unwrap();
    std::fs::create_dir(path("directory")).unwrap();
    for name in ["empty.gguf", "magic.gguf", "text.gguf", "directory", "missing.gguf"] {
        for command in ["inspect", "tokenize", "detokenize", "run"] {
            let message = error(frontier(dir.path()).args([command, &path(name)]).stdin(Stdio::null()));
            assert_eq!(message.lines().count(), 1, "{command} {name}: {message:?}");
            assert!(message.contains(name), "{command} {name}: {message:?}");
        }
    }
    for arguments in [
        &["serve", "--device", "metal"][..],
        &["serve", "--host", "0.0.0.0"],
        &["serve", "--port", "70000"],
        &["serve", "--max-batch-size", "64"],
        &["run", "--memory-fraction", "2"],
    ] {
        error(frontier(dir.path()).args(arguments).stdin(Stdio::null()));
    }
}
