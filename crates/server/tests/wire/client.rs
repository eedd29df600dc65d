//! A server on loopback with the fake model, and requests to it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use engine::EngineConfig;
use serde_json::{Value, json};
use server::{ConnectionLimits, Metrics, Models, RequestLimits, Server, ServerConfig};
use tokio::sync::oneshot;

use crate::fake;

/// Anything that has not happened by then never will.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What differs between tests.
pub(crate) struct Options {
    pub(crate) step: Duration,
    pub(crate) engine: EngineConfig,
    pub(crate) config: ServerConfig,
}

impl Default for Options {
    fn default() -> Self {
        let config = ServerConfig {
            address: "127.0.0.1:0".parse().unwrap(),
            api_keys: Vec::new(),
            allowed_hosts: Vec::new(),
            strict: false,
            shutdown_timeout: Duration::from_secs(5),
            connections: ConnectionLimits::default(),
            requests: RequestLimits::default(),
        };
        Self { step: Duration::ZERO, engine: EngineConfig::default(), config }
    }
}

/// A running server, stopped when dropped.
pub(crate) struct TestServer {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<usize>>,
}

/// Status and body of an answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl TestServer {
    pub(crate) fn start(options: Options) -> Self {
        let Options { step, engine, config } = options;
        Self::start_with(config, move |metrics| vec![fake::letters(step, metrics, engine)].into())
    }

    /// A server of other models.
    pub(crate) fn start_with(config: ServerConfig, models: impl FnOnce(&Metrics) -> Models + Send + 'static) -> Self {
        let (ready, started) = std::sync::mpsc::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on(async {
                let metrics = Metrics::new();
                let models = models(&metrics);
                let server = Server::bind(config, models, metrics).await.unwrap();
                ready.send(server.address()).unwrap();
                server.run(async { drop(stopped.await) }).await
            })
        });
        Self { address: started.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_text(path, &body.to_string())
    }

    pub(crate) fn post_text(&self, path: &str, body: &str) -> Answer {
        self.send(&post_request(path, body))
    }

    /// A chat about `hi` with some more fields.
    pub(crate) fn chat(&self, more: Value) -> Answer {
        self.post("/v1/chat/completions", &chat_body(more))
    }

    /// Sends bytes as they are and reads until the server closes.
    pub(crate) fn send(&self, request: &str) -> Answer {
        let mut stream = self.connect();
        // The server may answer and close before it has read everything.
        stream.write_all(request.as_bytes()).ok();
        read_answer(stream)
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// A number from `/health`.
    pub(crate) fn gauge(&self, name: &str) -> u64 {
        self.get("/health").json()["models"][0][name].as_u64().unwrap()
    }

    /// Waits until a number from `/health` is `expected`.
    pub(crate) fn wait_for(&self, name: &str, expected: u64) {
        let start = Instant::now();
        while self.gauge(name) != expected {
            assert!(start.elapsed() < PATIENCE, "{name} is {}, not {expected}", self.gauge(name));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until a sample among the metrics is `expected`.
    pub(crate) fn wait_for_sample(&self, sample: &str, expected: f64) {
        let start = Instant::now();
        while self.get("/metrics").sample(sample) != expected {
            assert!(start.elapsed() < PATIENCE, "{sample} is not {expected}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks the server to stop, without waiting.
    pub(crate) fn begin_stop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop.send(()).ok();
        }
    }

    /// Waits for the end; returns how many requests were abandoned.
    pub(crate) fn join(&mut self) -> usize {
        self.begin_stop();
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.begin_stop();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Answer {
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The JSON of each SSE frame; the last must be `[DONE]`.
    #[track_caller]
    pub(crate) fn frames(&self) -> Vec<Value> {
        let frames = self.body.split_terminator("\n\n").map(|frame| frame.strip_prefix("data: ").unwrap());
        let mut frames: Vec<&str> = frames.collect();
        assert_eq!(frames.pop(), Some("[DONE]"), "{}", self.body);
        frames.into_iter().map(|frame| serde_json::from_str(frame).unwrap()).collect()
    }

    /// The value of a sample among metrics.
    #[track_caller]
    pub(crate) fn sample(&self, sample: &str) -> f64 {
        let of_sample = |line: &&str| line.strip_prefix(sample).is_some_and(|rest| rest.starts_with(' '));
        let line = self.body.lines().find(of_sample);
        let line = line.unwrap_or_else(|| panic!("{sample} is not in\n{}", self.body));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// The field that an error names.
    #[track_caller]
    pub(crate) fn error_param(&self) -> String {
        let json = self.json();
        assert!(json["error"]["message"].is_string(), "{json}");
        json["error"]["param"].as_str().unwrap_or_default().to_owned()
    }
}

pub(crate) fn chat_body(more: Value) -> Value {
    let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }], "temperature": 0, "max_tokens": 5 });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

pub(crate) fn post_request(path: &str, body: &str) -> String {
    let len = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len}\r\n\
         connection: close\r\n\r\n{body}"
    )
}

pub(crate) fn read_answer(mut stream: TcpStream) -> Answer {
    let mut bytes = Vec::new();
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert!(!bytes.is_empty(), "no answer: {error}");
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap();
    let head = head.to_ascii_lowercase();
    let body = if head.contains("transfer-encoding: chunked") { unchunk(body) } else { body.to_owned() };
    Answer { status, head, body }
}

/// Joins the chunks of a chunked body, as far as they came.
fn unchunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        if size == 0 || after.len() < size {
            break;
        }
        body += &after[..size];
        rest = after[size..].strip_prefix("\r\n").unwrap_or_default();
    }
    body
}
