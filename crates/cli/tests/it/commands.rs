//! Commands that read models, with real ones.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use checkpoint::gguf::{Metadata, TensorHeader, Writer};
use serde_json::Value;
use tensor::Format;

use crate::convert::to_gguf;
use crate::models::{python, shared, smollm2};
use crate::program::{error, frontier, one_line_error, stdout};

/// Runs a command with text on its standard input.
pub(crate) fn with_input(command: &mut Command, input: &[u8]) -> Vec<u8> {
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
    assert_eq!((&json["layers"], &json["context_tokens"]), (&30.into(), &8192.into()));
    assert_eq!(json["tokenizer"], serde_json::json!({ "kind": "gpt2/smollm", "vocabulary_tokens": 49152 }));
    assert_eq!(json["special_tokens"]["end_of_generation"], serde_json::json!([0, 2, 4]));
    assert_eq!(json["chat_template"], true);
    let sum: u64 = json["formats"].as_array().unwrap().iter().map(|share| share["size_bytes"].as_u64().unwrap()).sum();
    assert_eq!(json["size_bytes"], sum);
    let text = stdout(frontier(dir.path()).arg("inspect").arg(&model));
    for part in ["llama", "q4_1", "8192 tokens", "gpt2/smollm, 49152 tokens", "285 MB at a context of 8192 tokens"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn inspect_predicts_memory_at_a_context() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let inspect = |context: &str| {
        let mut command = frontier(dir.path());
        command.arg("inspect").arg(&model).args(["--json", "--context", context]);
        command
    };
    for (context, dtype, token_bytes) in [("64", "f16", 2.0), ("2048", "f16", 2.0), ("2048", "q8_0", 34.0 / 32.0)] {
        let json: Value = serde_json::from_str(&stdout(inspect(context).args(["--kv-cache-dtype", dtype]))).unwrap();
        let memory = &json["memory"];
        // 30 layers, keys and values of 3 heads of 64.
        let kv_bytes = context.parse::<f64>().unwrap() * 30.0 * 2.0 * 3.0 * 64.0 * token_bytes;
        assert_eq!(memory["kv_bytes"], kv_bytes as u64, "{context} {dtype}");
        assert_eq!(memory["total_bytes"].as_u64(), Some(kv_bytes as u64 + memory["weight_bytes"].as_u64().unwrap()));
    }
    for context in ["0", "8193"] {
        let message = one_line_error(&mut inspect(context));
        assert!(message.contains(&format!("--context {context}")) && message.contains("1 to 8192"), "{message}");
    }
}

#[test]
fn inspect_tells_of_a_network_that_cannot_be_run() {
    let Some(tiny) = shared("data/tiny") else { return };
    let dir = tempfile::tempdir().unwrap();
    let text = stdout(frontier(dir.path()).arg("inspect").arg(tiny.join("phi3")));
    for part in ["phi3", "cannot be run", "Phi3ForCausalLM", "layers", "memory        at most"] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[test]
fn logits_and_greedy_tokens_are_those_of_hugging_face() {
    let Some(tiny) = shared("data/tiny") else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["llama", "llama3-rope", "mistral-window", "qwen2", "qwen3", "gemma3"] {
        let (model, gguf) = (tiny.join(name), dir.path().join(format!("{name}.gguf")));
        to_gguf(&model, &gguf);
        let expected: Value = serde_json::from_slice(&std::fs::read(model.join("expected.json")).unwrap()).unwrap();
        for path in [&model, &gguf] {
            check_logits(path, &expected);
        }
    }
}

/// Compares with what the reference implementation says of a tiny model.
pub(crate) fn check_logits(model: &Path, expected: &Value) {
    /// As for the networks' own tests: f32 sums in another order.
    const TOLERANCE: f64 = 2e-4;
    let ids: Vec<u32> = serde_json::from_value(expected["input_ids"].clone()).unwrap();
    let wanted: Vec<Vec<f64>> = serde_json::from_value(expected["logits"].clone()).unwrap();
    let got = logits(model, &ids);
    assert_eq!((got.len(), got[0].len()), (40, wanted[0].len()), "{}", model.display());
    let pairs = got.iter().flatten().zip(wanted.iter().flatten());
    let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    println!("{}: max |logit - reference| = {worst:.1e}", model.display());
    assert!(worst <= TOLERANCE, "{}: logits differ by {worst}", model.display());

    let prompt = expected["greedy_prompt_len"].as_u64().unwrap() as usize;
    let greedy: Vec<u32> = serde_json::from_value(expected["greedy"].clone()).unwrap();
    let likeliest = |row: &Vec<f64>| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap() as u32;
    let rows = logits(model, &[&ids[..prompt], &greedy[..15]].concat());
    assert_eq!(rows[prompt - 1..].iter().map(likeliest).collect::<Vec<_>>(), greedy, "{}", model.display());
}

/// What `frontier logits` prints: `[position][vocab]`.
fn logits(model: &Path, ids: &[u32]) -> Vec<Vec<f64>> {
    let ids: Vec<String> = ids.iter().map(u32::to_string).collect();
    let dir = tempfile::tempdir().unwrap();
    let printed = stdout(frontier(dir.path()).arg("logits").arg(model).args(["--json", "--ids", &ids.join(",")]));
    let mut json: Value = serde_json::from_str(&printed).unwrap();
    serde_json::from_value(json["logits"].take()).unwrap()
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
    write("broken.jinja", "{% for %}");
    write("raises.jinja", "{{ raise_exception('no') }}");
    for name in ["loop.jinja", "broken.jinja", "raises.jinja"] {
        let message = one_line_error(frontier(dir.path()).args(["render", name, "--messages", "m.json"]));
        assert!(message.contains(name), "{message}");
    }
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
        let options = ["--temperature", "0", "--max-tokens", "16"];
        let mut command = frontier(dir.path());
        let output =
            command.arg("run").arg(&model).arg("What is the capital of France?").args(options).output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "progress in a pipe: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    });
    let first = answers.next().unwrap();
    assert!(first.contains("Paris"), "{first:?}");
    assert_eq!(answers.next(), Some(first.clone()));
    // What `echo` pipes in ends with the end of a line, which is no part of the prompt.
    let mut piped = frontier(dir.path());
    piped.arg("run").arg(&model).args(["--temperature", "0", "--max-tokens", "16"]);
    assert_eq!(with_input(&mut piped, b"What is the capital of France?\n"), first.as_bytes());
}

#[test]
fn perplexity_counts_what_it_has_scored() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let text: String = include_str!("../data/perplexity.txt").chars().take(900).collect();
    std::fs::write(dir.path().join("text"), text).unwrap();
    let perplexity = |window: &str| {
        let mut command = frontier(dir.path());
        command.arg("perplexity").arg(&model).args(["--file", "text", "--window", window]);
        command
    };
    let json: Value = serde_json::from_str(&stdout(perplexity("64").arg("--json"))).unwrap();
    let windows = json["text_tokens"].as_u64().unwrap() / 64;
    assert!(windows >= 2, "{json}");
    assert_eq!((&json["windows"], &json["scored_tokens"]), (&windows.into(), &(windows * 31).into()));
    let [perplexity_told, nll] = ["perplexity", "mean_nll"].map(|key| json[key].as_f64().unwrap());
    assert!((nll.exp() / perplexity_told - 1.0).abs() < 1e-9, "{json}");
    for (window, part) in [
        ("x", "integers from 4 to the model's context"),
        ("0", "in [4, 8192]"),
        ("8193", "in [4, 8192]"),
        ("4096", "at least 8192, two windows"),
    ] {
        let message = one_line_error(&mut perplexity(window));
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
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
            let message = one_line_error(frontier(dir.path()).args([command, &path(name)]).stdin(Stdio::null()));
            assert!(message.contains(name), "{command} {name}: {message:?}");
        }
    }
    for arguments in [
        &["serve", "--device", "metal"][..],
        &["serve", "--host", "0.0.0.0"],
        &["serve", "--port", "70000"],
        &["serve", "--max-batch-size", "64", "--max-running-requests", "16"],
        &["run", "--memory-fraction", "2"],
    ] {
        error(frontier(dir.path()).args(arguments).stdin(Stdio::null()));
    }
}

#[test]
fn unknown_flags_are_answered_with_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, nearest) in [
        (&["serve", "--max-bach-sizes=3"][..], "--max-batch-size"),
        (&["quantize", "a", "b", "--requant"], "--requantize"),
        (&["plan", "--MISTRAL_PORT", "1"], "--port"),
        (&["serve", "--heap-size", "1GB"], "--metal-heap-size"),
        (&["serve", "--kv-typ", "f16"], "--kv-type"),
        // What other programs call it.
        (&["serve", "--gpu-memory-utilization", "0.5"], "--memory-fraction"),
        (&["plan", "--ctx-sise=8192"], "--max-seq-len"),
    ] {
        let message = one_line_error(frontier(dir.path()).args(arguments));
        assert!(message.ends_with(&format!("the nearest known flag is {nearest}\n")), "{message}");
    }
    for unknown in ["--frobnicate", "--swap-space"] {
        let far = one_line_error(frontier(dir.path()).args(["serve", unknown]));
        assert!(far.contains(unknown) && !far.contains("nearest") && !far.contains("tip"), "{far}");
    }
}

#[test]
fn a_bad_model_file_is_named_with_what_is_wrong_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let model = |name: &str, architecture: &str| {
        let path = dir.path().join(name);
        let mut metadata = Metadata::default();
        metadata.insert("general.architecture", architecture);
        let tensor = TensorHeader { name: "token_embd.weight".into(), shape: vec![2, 32], format: Format::F32 };
        let mut writer = Writer::create(&path, &metadata, &[tensor]).unwrap();
        writer.write(&[0; 2 * 32 * 4]).unwrap();
        writer.finish().unwrap();
        std::fs::read(path).unwrap()
    };
    model("unknown.gguf", "rwkv7");
    model("sizeless.gguf", "llama");
    let valid = model("valid.gguf", "llama");
    let change = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = valid.clone();
        change(&mut bytes);
        std::fs::write(dir.path().join(name), bytes).unwrap();
    };
    let type_at = valid.windows(17).position(|bytes| bytes == b"token_embd.weight").unwrap() + 17 + 4 + 2 * 8;
    change("type.gguf", &|bytes| bytes[type_at] = 99);
    change("known-type.gguf", &|bytes| bytes[type_at] = 16);
    change("cut.gguf", &|bytes| bytes.truncate(valid.len() - 1));
    change("version.gguf", &|bytes| bytes[4] = 9);
    change("big-endian.gguf", &|bytes| bytes[4..8].reverse());
    for (name, parts) in [
        ("unknown.gguf", &["architecture \"rwkv7\" is not supported; supported: llama, "][..]),
        ("sizeless.gguf", &["no llama.embedding_length"]),
        ("type.gguf", &["tensor \"token_embd.weight\"", "unknown (number 99)", "supported: f32, "]),
        ("known-type.gguf", &["tensor \"token_embd.weight\"", "iq2_xxs (number 16)", "supported: f32, "]),
        ("cut.gguf", &["truncated", "needs 256 bytes, 255 are there"]),
        ("version.gguf", &["GGUF version is 9", "2 and 3"]),
        ("big-endian.gguf", &["byte order is big-endian", "little-endian"]),
    ] {
        let message = one_line_error(frontier(dir.path()).args(["logits", name, "--ids", "1"]));
        for part in parts.iter().chain(&[name]) {
            assert!(message.contains(part), "{name}: {part:?} is not in {message:?}");
        }
    }
}

#[test]
fn options_out_of_range_are_told_with_what_is_allowed() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let long = "word ".repeat(9_000);
    for (arguments, parts) in [
        (&["hi", "--temperature", "-1"][..], &["'-1' for '--temperature <NUMBER>'", "0 to 100"][..]),
        (&["hi", "--temperature", "1e308"], &["1e308", "0 to 100"]),
        (&["hi", "--temperature", "NaN"], &["NaN", "0 to 100"]),
        (&["hi", "--temperature", "warm"], &["'warm' for '--temperature <NUMBER>'", "0 to 100"]),
        (&["hi", "--top-p", "1.5"], &["'1.5' for '--top-p <SHARE>'", "above 0, up to 1"]),
        (&["hi", "--top-k", "-2"], &["'-2' for '--top-k <N>'", "-1 to 1048576"]),
        (&["hi", "--top-k", "1e9"], &["'1e9' for '--top-k <N>'", "-1 to 1048576"]),
        (&["hi", "--max-tokens", "0"], &["max_tokens is 0", "1 to 8192"]),
        (&["hi", "--max-tokens", "8193"], &["max_tokens is 8193", "1 to 8192"]),
        (&["hi", "--max-tokens", "abc"], &["'abc' for '--max-tokens <N>'", "from 1 to the model's context"]),
        (&["hi", "--seed", "x"], &["'x' for '--seed <N>'", "-9223372036854775808 to 9223372036854775807"]),
        (&["hi", "--seed", "--max-tokens", "4"], &["a value is required for '--seed <N>'"]),
        (&["hi", "--max-tokens", "-1"], &["max_tokens is -1", "1 to 8192"]),
        (&["hi", "--no-such-option"], &["--no-such-option"]),
        (&[long.as_str()], &["9031 prompt tokens", "context of 8192 tokens"]),
    ] {
        let message = one_line_error(frontier(dir.path()).arg("run").arg(&model).args(arguments));
        for part in parts {
            assert!(message.contains(part), "{part:?} is not in {message:?}");
        }
    }
    let no_prompt = one_line_error(frontier(dir.path()).arg("run").arg(&model).stdin(Stdio::null()));
    assert!(no_prompt.contains("standard input holds no prompt"), "{no_prompt}");
    let refused = |ids: &str| one_line_error(frontier(dir.path()).arg("logits").arg(&model).args(["--ids", ids]));
    assert!(refused("1,49152").contains("--ids: token id 49152: the vocabulary has 49152 tokens"));
    assert!(refused(&vec!["1"; 8_193].join(",")).contains("--ids: 8193 tokens: the model sees at most 8192"));
    for ids in ["1,,2", "x", "-1", "4294967296"] {
        let message = refused(ids);
        assert!(message.contains("--ids <IDS>") && message.contains("allowed are token ids"), "{message}");
    }
}

/// What a conversation on a terminal must do is written down in `terminal.py`: history, progress, errors.
#[test]
fn a_conversation_on_a_terminal_has_history_and_progress() {
    let (Some(python), Some(model)) = (python(), smollm2()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/terminal.py");
    let mut command = Command::new(python);
    command.arg(script).arg(env!("CARGO_BIN_EXE_frontier")).arg(model).current_dir(dir.path()).env("HOME", dir.path());
    let output = command.env_remove("XDG_CACHE_HOME").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
