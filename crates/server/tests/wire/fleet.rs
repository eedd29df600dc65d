//! Two models of which one is in memory at a time.

use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use engine::{EngineConfig, Observer};
use serde_json::{Value, json};
use server::{LoadError, Loader, Models, ServedModel, Taken};

use crate::client::{Options, PATIENCE, TestServer, chat_body, post_request, read_answer};
use crate::fake::{self, STALL};

const STEP: Duration = Duration::from_millis(10);

/// Has room for one model.
#[derive(Default)]
struct OneAtATime {
    /// How often it was asked for a model.
    asked: AtomicUsize,
    /// Held by who wants loads to wait.
    gate: Mutex<()>,
    /// Each model is in a memory of its own.
    is_apart: bool,
    /// Of each model that was loaded; its engine's thread holds it.
    observers: Mutex<Vec<Weak<dyn Observer>>>,
}

impl OneAtATime {
    fn loaded(&self, name: &str, observer: Arc<dyn Observer>) -> ServedModel {
        self.observers.lock().unwrap().push(Arc::downgrade(&observer));
        fake::named(name, STEP, observer, EngineConfig::default())
    }
}

impl Loader for OneAtATime {
    fn load(&self, name: &str, taken: Taken, observer: Arc<dyn Observer>) -> Result<(ServedModel, u64), LoadError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if taken.all > 0 {
            return Err(LoadError::NoRoom("another is there".to_owned()));
        }
        if !self.is_apart && self.observers.lock().unwrap().iter().any(|observer| observer.strong_count() > 0) {
            return Err(LoadError::Failed("the thread of another is there still".to_owned()));
        }
        drop(self.gate.lock());
        Ok((self.loaded(name, observer), 1))
    }

    fn memory(&self, name: &str) -> &str {
        if self.is_apart && name == "b" { "another" } else { "one" }
    }
}

/// Serves `a`, which is in memory, and `b`, which is not.
fn serve(loader: &Arc<OneAtATime>) -> TestServer {
    let loader = Arc::clone(loader);
    TestServer::start_with(Options::default().config, move |metrics| Models {
        loaded: vec![(loader.loaded("a", metrics.observer("a")), 1)],
        on_demand: vec!["b".to_owned()],
        loader: Some(loader),
        ..Models::default()
    })
}

/// Sends a chat request and leaves the answer unread.
fn begin(server: &TestServer, more: Value) -> TcpStream {
    let mut stream = server.connect();
    stream.write_all(post_request("/v1/chat/completions", &chat_body(more).to_string()).as_bytes()).unwrap();
    stream
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_model_that_is_to_make_room_is_in_memory_until_its_last_answer_and_a_stop_waits_for_that() {
    let loader = Arc::new(OneAtATime::default());
    let mut server = serve(&loader);
    // Longer than connections have after the last model has stopped.
    let running = begin(&server, json!({ "model": "a", "max_tokens": 300 }));
    server.wait_for("running", 1);
    let waiting = begin(&server, json!({ "model": "b" }));
    wait_until("b is asked for", || loader.asked.load(Ordering::SeqCst) > 0);
    assert_eq!(server.get("/metrics").sample("mistral_model_in_memory{model=\"a\"}"), 1.0);
    assert_eq!(server.gauge("running"), 1);
    server.begin_stop();
    let refused = read_answer(waiting);
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (503, &json!("shutting_down")), "{}", refused.body);
    let answer = read_answer(running);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 300);
    assert_eq!(server.join(), 0);
    assert_eq!(loader.asked.load(Ordering::SeqCst), 1, "nothing is loaded in a server that stops");
}

#[test]
fn a_step_that_its_client_has_left_ends_before_another_model_is_loaded() {
    let server = serve(&Arc::new(OneAtATime::default()));
    let left = begin(&server, json!({ "model": "a", "messages": [{ "role": "user", "content": STALL.to_string() }] }));
    server.wait_for("waiting", 1);
    drop(left);
    let answer = server.chat(json!({ "model": "b" }));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let cancelled = "mistral_requests_cancelled_total{model=\"a\",cause=\"client\"}";
    assert_eq!(server.get("/metrics").sample(cancelled), 1.0);
}

#[test]
fn models_in_different_memories_do_not_make_room_for_each_other() {
    for (is_apart, of_a) in [(true, 1.0), (false, 0.0)] {
        let server = serve(&Arc::new(OneAtATime { is_apart, ..OneAtATime::default() }));
        assert_eq!(server.chat(json!({ "model": "b" })).status, 200);
        assert_eq!(server.get("/metrics").sample("mistral_model_in_memory{model=\"a\"}"), of_a);
    }
}

#[test]
fn a_deadline_counts_while_a_model_is_loaded_and_the_load_goes_on() {
    let loader = Arc::new(OneAtATime::default());
    let server = serve(&loader);
    let gate = loader.gate.lock();
    let late = server.chat(json!({ "model": "b", "deadline_ms": 50 }));
    assert_eq!((late.status, &late.json()["error"]["code"]), (504, &json!("deadline_exceeded")), "{}", late.body);
    assert!(late.body.contains("50 ms"), "{}", late.body);
    drop(gate);
    server.wait_for_sample("mistral_model_in_memory{model=\"b\"}", 1.0);
    assert_eq!(server.chat(json!({ "model": "b", "deadline_ms": 5000 })).status, 200);
}

#[test]
fn what_a_model_has_counted_stays_when_it_is_unloaded() {
    let server = serve(&Arc::new(OneAtATime::default()));
    let counted = |model: &str| {
        let metrics = server.get("/metrics");
        ["prompt_tokens_total", "generation_tokens_total"]
            .map(|name| metrics.sample(&format!("mistral_{name}{{model=\"{model}\"}}")))
    };
    let prompt = "<user>hi>".len() as f64;
    for round in 1..=3 {
        for (model, tokens) in [("a", 5.0), ("b", 3.0)] {
            assert_eq!(server.chat(json!({ "model": model, "max_tokens": tokens })).status, 200);
            if model == "b" {
                assert_eq!(server.get("/metrics").sample("mistral_model_in_memory{model=\"a\"}"), 0.0);
                assert_eq!(counted("a"), [prompt, 5.0].map(|count| count * f64::from(round)));
            }
        }
    }
    assert_eq!(server.chat(json!({ "model": "a", "max_tokens": 1 })).status, 200);
    assert_eq!(counted("b"), [prompt, 3.0].map(|count| count * 3.0));
}
