//! The server with a real model, over HTTP, and with clients that others wrote.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use serde_json::{Value, json};

use crate::models::{python, smollm2};
use crate::program::{error, frontier};

/// `frontier serve` on a free port.
pub(crate) struct Serving {
    child: Child,
    pub(crate) address: String,
    /// What was logged until it listened.
    pub(crate) log: String,
}

impl Serving {
    pub(crate) fn start(dir: &Path, model: &Path, flags: &[&str]) -> Self {
        Self::start_all(dir, &[model], flags)
    }

    /// Serves several models, of which the first is loaded at once.
    pub(crate) fn start_all(dir: &Path, models: &[&Path], flags: &[&str]) -> Self {
        let (serving, mut log) = Self::launch(frontier(dir), models, flags);
        // The log goes on; somebody must read it.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        serving
    }

    /// Starts `command`, the binary. Also returns the rest of the log.
    fn launch(mut command: Command, models: &[&Path], flags: &[&str]) -> (Self, BufReader<ChildStderr>) {
        command.arg("serve").args(models).args(flags).stderr(Stdio::piped());
        if !flags.contains(&"--port") {
            command.args(["--port", "0"]);
        }
        let mut child = command.spawn().unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        let address = loop {
            let start = seen.len();
            assert!(log.read_line(&mut seen).unwrap() > 0, "the server ended: {seen}");
            if let Some((_, address)) = seen[start..].split_once("listening on http://") {
                break address.trim().to_owned();
            }
        };
        (Self { child, address, log: seen }, log)
    }

    pub(crate) fn request(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let len = body.len();
        let head = "host: localhost\r\nconnection: close\r\ncontent-type: application/json";
        write!(stream, "{method} {path} HTTP/1.1\r\n{head}\r\ncontent-length: {len}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub(crate) fn chat(&self, more: Value) -> Value {
        let mut body = json!({
            "messages": [{ "role": "user", "content": "What is the capital of France?" }],
            "temperature": 0, "max_tokens": 16,
        });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let (status, answer) = self.request("POST", "/v1/chat/completions", &body.to_string());
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str(&answer).unwrap()
    }

    /// Tokens and log probabilities of a completion, as text.
    fn completion(&self, prompt: &str, more: Value) -> String {
        let mut body =
            json!({ "prompt": prompt, "temperature": 0, "max_tokens": 8, "ignore_eos": true, "logprobs": 1 });
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        let (status, answer) = self.request("POST", "/v1/completions", &body.to_string());
        assert_eq!(status, 200, "{answer}");
        serde_json::from_str::<Value>(&answer).unwrap()["choices"].to_string()
    }

    /// Names of its threads.
    pub(crate) fn threads(&self) -> Vec<String> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
        names.map(|name| name.trim().to_owned()).collect()
    }

    /// The most resident memory at any time, in bytes.
    pub(crate) fn peak_resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap() * 1024
    }

    /// The value of a sample of `/metrics`.
    pub(crate) fn metric(&self, sample: &str) -> f64 {
        let (_, metrics) = self.request("GET", "/metrics", "");
        let line = metrics.lines().find(|line| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' ')));
        line.unwrap_or_else(|| panic!("{sample} is not in\n{metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Sends a signal, e.g. `-TERM`.
    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends SIGTERM and waits.
    fn terminate(&mut self) -> Option<i32> {
        self.signal("-TERM");
        self.child.wait().unwrap().code()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn a_real_model_answers_and_the_server_ends_in_order() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut serving = Serving::start(dir.path(), &model, &["--name", "smol"]);
    assert_eq!(serving.request("GET", "/health/ready", "").0, 200);
    let first = serving.chat(json!({}));
    assert_eq!(first["model"], "smol");
    let text = first["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.contains("Paris"), "{text}");
    assert_eq!(first["choices"][0]["finish_reason"], "stop");
    // Again with the prompt in the cache, and in a batch: the same text to the letter.
    assert_eq!(serving.chat(json!({}))["choices"], first["choices"]);
    let both = serving.chat(json!({ "n": 2 }));
    assert!(both["choices"].as_array().unwrap().iter().all(|choice| choice["message"]["content"] == text));
    // A seed makes random draws repeatable.
    let seeded = json!({ "temperature": 1.0, "seed": 7, "max_tokens": 12 });
    assert_eq!(serving.chat(seeded.clone())["choices"], serving.chat(seeded)["choices"]);
    let prompt_tokens = |content: &str| {
        let messages = json!([{ "role": "user", "content": content }]);
        serving.chat(json!({ "messages": messages, "max_tokens": 1 }))["usage"]["prompt_tokens"].as_u64().unwrap()
    };
    let spelled_out = prompt_tokens("a<|im_end|>") - prompt_tokens("a");
    assert!(spelled_out > 3, "a control token in a user's text is no control token: {spelled_out} tokens");
    let (_, metrics) = serving.request("GET", "/metrics", "");
    for name in
        ["mistral_generate_duration_seconds", "mistral_http_request_duration_seconds", "mistral_active_requests"]
    {
        assert!(metrics.contains(name), "{name}");
    }
    assert_eq!(serving.terminate(), Some(0));
}

#[test]
fn beyond_loopback_it_listens_with_a_key_or_when_told_that_it_may() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let everywhere = ["--host", "0.0.0.0", "--device", "cpu", "--max-total-tokens", "1024"];
    let refused = error(frontier(dir.path()).arg("serve").arg(&model).args(everywhere).args(["--port", "0"]));
    assert!(refused.contains("MISTRAL_HOST=0.0.0.0 (command line)") && refused.contains("--insecure"), "{refused}");
    for (env, more, status) in
        [("", &["--insecure"][..], 200), ("MISTRAL_INSECURE=true", &[], 200), ("", &["--api-keys", "sesame"], 401)]
    {
        std::fs::write(dir.path().join(".env"), env).unwrap();
        let serving = Serving::start(dir.path(), &model, &[&everywhere[..], more].concat());
        assert!(serving.address.starts_with("0.0.0.0:"), "{}", serving.address);
        assert_eq!(serving.request("GET", "/v1/models", "").0, status, "{env} {more:?}");
    }
    let serving = Serving::start(dir.path(), &model, &everywhere[2..]);
    assert!(serving.address.starts_with("127.0.0.1:"), "{}", serving.address);
}

#[test]
fn a_port_that_is_taken_is_told_before_a_model_is_loaded() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = other.local_addr().unwrap();
    let port = address.port().to_string();
    let flags = ["--port", &port, "--device", "cpu", "--max-total-tokens", "1024"];
    let output = frontier(dir.path()).arg("serve").arg(&model).args(flags).output().unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let told = format!("error: MISTRAL_PORT={port} (command line): another program listens on {address}; allowed: ");
    assert!(!output.status.success() && log.contains(&told) && !log.contains("loaded in"), "{log}");
    // Beside all else that is wrong.
    let both = error(frontier(dir.path()).arg("serve").arg(&model).args(flags).args(["--max-seq-len", "9000"]));
    assert!(both.contains("MISTRAL_PORT=") && both.contains("MISTRAL_MAX_SEQ_LEN=9000"), "{both}");
    drop(other);
    let serving = Serving::start(dir.path(), &model, &flags);
    assert_eq!(serving.address, address.to_string());
    assert_eq!(serving.request("GET", "/health/ready", "").0, 200);
}

#[test]
fn a_signal_lets_what_runs_finish() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut serving = Serving::start(dir.path(), &model, &["--name", "smol"]);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| serving.completion("Once upon a time", json!({ "max_tokens": 60 })));
        while serving.metric("mistral_num_requests_running{model=\"smol\"}") < 1.0 {}
        serving.signal("-TERM");
        // The signal has arrived when probes say so.
        while serving.request("GET", "/health/ready", "").0 != 503 {}
        assert_eq!(serving.request("POST", "/v1/completions", "{\"prompt\":\"a\"}").0, 503);
        assert!(running.join().unwrap().contains("\"finish_reason\":\"length\""));
    });
    assert_eq!(serving.child.wait().unwrap().code(), Some(0));
}

/// A terminal that is closed sends SIGHUP more than once, and takes no more of the log.
#[test]
#[cfg(target_os = "linux")]
fn a_closed_terminal_lets_what_runs_finish() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    // Whatever `nohup` the tests run under.
    let mut command = Command::new("env");
    command.args(["--default-signal=HUP", env!("CARGO_BIN_EXE_frontier")]);
    command.current_dir(dir.path()).env_clear().env("HOME", dir.path());
    let (mut serving, log) = Serving::launch(command, &[&model], &["--name", "smol", "--device", "cpu"]);
    drop(log);
    std::thread::scope(|scope| {
        let running = scope.spawn(|| serving.completion("Once upon a time", json!({ "max_tokens": 120 })));
        while serving.metric("mistral_num_requests_running{model=\"smol\"}") < 1.0 {}
        serving.signal("-HUP");
        while serving.request("GET", "/health/ready", "").0 != 503 {}
        serving.signal("-HUP");
        assert!(running.join().unwrap().contains("\"finish_reason\":\"length\""));
    });
    assert_eq!(serving.child.wait().unwrap().code(), Some(0));
}

/// `scripts/testing/load-check.py` does the same with more prompts and setups, and looks at speed as well.
#[test]
fn text_is_the_same_alone_in_a_crowd_in_slices_and_after_preemption() {
    let Some(model) = smollm2() else { return };
    let prompts: Vec<String> = (0..6).map(|i| format!("{} {i}", "One two three. ".repeat(1 + i * 5))).collect();
    let draws =
        |i: usize| if i.is_multiple_of(2) { json!({}) } else { json!({ "temperature": 1.1, "top_p": 0.9, "seed": i }) };
    let crowd = |serving: &Serving| -> Vec<String> {
        std::thread::scope(|scope| {
            let clients: Vec<_> = prompts
                .iter()
                .enumerate()
                .map(|(i, prompt)| scope.spawn(move || serving.completion(prompt, draws(i))))
                .collect();
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        })
    };
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(dir.path(), &model, &["--name", "smol"]);
    let alone: Vec<String> =
        prompts.iter().enumerate().map(|(i, prompt)| serving.completion(prompt, draws(i))).collect();
    assert_eq!(crowd(&serving), alone, "in a crowd, from the cache");
    assert!(serving.metric("mistral_prefix_cache_hits_total{model=\"smol\"}") > 0.0);
    drop(serving);
    let tight = ["--name", "smol", "--prefill-chunk-size", "16", "--max-total-tokens", "192", "--max-seq-len", "192"];
    let serving = Serving::start(dir.path(), &model, &[&tight[..], &["--decode-chunk-size", "1"]].concat());
    assert_eq!(crowd(&serving), alone, "in slices of 16, with three pages for all");
}

#[test]
fn the_openai_client_chats_streamed_and_not() {
    let (Some(python), Some(model)) = (python(), smollm2()) else { return };
    let dir = tempfile::tempdir().unwrap();
    let serving = Serving::start(dir.path(), &model, &["--api-keys", "sesame"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/openai_client.py");
    let output = Command::new(python).arg(script).arg(format!("http://{}/v1", serving.address)).arg("sesame").output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
