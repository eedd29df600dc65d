//! Crowds: clients that leave at any moment, and more requests than the queue holds.

use std::io::{Read, Write};
use std::time::Duration;

use engine::EngineConfig;
use serde_json::json;

use crate::client::{Options, TestServer, chat_body, post_request, read_answer};

const CHAT: &str = "/v1/chat/completions";

#[test]
fn a_storm_of_clients_that_leave_comes_to_nothing() {
    const CLIENTS: usize = 60;
    let engine = EngineConfig { max_queued_requests: CLIENTS, ..EngineConfig::default() };
    let server = TestServer::start(Options { step: Duration::from_millis(2), engine, ..Options::default() });
    let golden = server.chat(json!({ "max_tokens": 40 })).json()["choices"].clone();
    std::thread::scope(|scope| {
        for client in 0..CLIENTS {
            let server = &server;
            scope.spawn(move || {
                let content = "x".repeat(client * 13 % 700);
                let body = chat_body(json!({
                    "messages": [{ "role": "user", "content": content }],
                    "max_tokens": 200, "stream": client % 3 > 0, "n": 1 + client % 2,
                }));
                let request = post_request(CHAT, &body.to_string());
                let mut stream = server.connect();
                // Some leave in the middle of their request, some before the first byte, some after many.
                let sent = if client % 10 == 0 { request.len() / 2 } else { request.len() };
                stream.write_all(&request.as_bytes()[..sent]).unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(client as u64 * 29 % 150 + 1))).unwrap();
                let mut bytes = vec![0; client * 211 % 8000];
                stream.read_exact(&mut bytes).ok();
            });
        }
    });
    // This one is accepted after them all.
    assert_eq!(server.chat(json!({ "max_tokens": 40 })).json()["choices"], golden);
    for sample in [
        "mistral_active_requests",
        "mistral_num_requests_running{model=\"letters\"}",
        "mistral_num_requests_waiting{model=\"letters\"}",
        "mistral_kv_cache_pages{model=\"letters\",group=\"0\",state=\"held\"}",
        "mistral_requests_failed_total{model=\"letters\"}",
    ] {
        server.wait_for_sample(sample, 0.0);
    }
}

#[test]
fn the_prompts_of_a_call_get_in_all_or_none() {
    let server = TestServer::start(Options { step: Duration::from_millis(5), ..Options::default() });
    let call = |prompts: usize, more: char| {
        let prompts = vec![format!("x{more}"); prompts];
        server.post("/v1/completions", &json!({ "prompt": prompts, "max_tokens": 1 }))
    };
    let EngineConfig { max_running_requests, max_queued_requests, .. } = EngineConfig::default();
    let most = max_running_requests + max_queued_requests;
    let answer = call(most, 'y');
    assert_eq!((answer.status, answer.json()["choices"].as_array().unwrap().len()), (200, most), "{}", answer.body);
    for prompts in [most + 1, 128] {
        let answer = call(prompts, 'y');
        assert_eq!((answer.status, answer.error_param().as_str()), (400, "prompt"), "{}", answer.body);
        assert!(answer.body.contains(&format!("at most {most} requests")), "{}", answer.body);
    }
    // Beside another request there is no room for so many: none of them is begun.
    let mut busy = server.connect();
    let long = json!({ "prompt": "x", "max_tokens": 900 });
    busy.write_all(post_request("/v1/completions", &long.to_string()).as_bytes()).unwrap();
    server.wait_for("running", 1);
    let refused = call(most, 'y');
    assert!(refused.status == 429 && refused.head.contains("retry-after: "), "{}", refused.body);
    drop(busy);
    server.wait_for("running", 0);
    let metrics = server.get("/metrics");
    assert_eq!(metrics.sample("mistral_requests_cancelled_total{model=\"letters\",cause=\"client\"}"), 1.0);
    assert_eq!(metrics.sample("mistral_requests_rejected_total{model=\"letters\",reason=\"queue_full\"}"), 1.0);
}

#[test]
fn of_too_many_requests_each_gets_an_answer_or_a_429() {
    const CLIENTS: usize = 60;
    let engine =
        EngineConfig { max_batch_size: 2, max_running_requests: 4, max_queued_requests: 8, ..EngineConfig::default() };
    let server = TestServer::start(Options { step: Duration::from_millis(5), engine, ..Options::default() });
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = |_| {
            scope.spawn(|| {
                let mut stream = server.connect();
                let body = chat_body(json!({ "max_tokens": 20 })).to_string();
                stream.write_all(post_request(CHAT, &body).as_bytes()).unwrap();
                let answer = read_answer(stream);
                assert!(answer.status != 429 || answer.head.contains("retry-after: "), "{}", answer.head);
                answer.status
            })
        };
        let clients: Vec<_> = (0..CLIENTS).map(ask).collect();
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let count = |status: u16| statuses.iter().filter(|&&got| got == status).count();
    assert_eq!(count(200) + count(429), CLIENTS, "{statuses:?}");
    assert!(count(200) >= 12 && count(429) > 0, "{statuses:?}");
    let rejected = "mistral_requests_rejected_total{model=\"letters\",reason=\"queue_full\"}";
    assert_eq!(server.get("/metrics").sample(rejected), count(429) as f64);
}

#[test]
fn a_flood_of_one_key_does_not_hold_up_another() {
    let engine = EngineConfig { max_batch_size: 1, max_running_requests: 1, ..EngineConfig::default() };
    let mut options = Options { step: Duration::from_millis(3), engine, ..Options::default() };
    options.config.api_keys = vec!["flood".to_owned(), "guest".to_owned()];
    let server = TestServer::start(options);
    let begin = |key: &str, more: serde_json::Value| {
        let request = post_request(CHAT, &chat_body(more).to_string());
        let request = request.replace("host: localhost", &format!("host: localhost\r\nauthorization: Bearer {key}"));
        let mut stream = server.connect();
        stream.write_all(request.as_bytes()).unwrap();
        stream
    };
    let flood: Vec<_> = (0..30).map(|_| begin("flood", json!({ "max_tokens": 60 }))).collect();
    server.wait_for("waiting", 29);
    assert_eq!(read_answer(begin("guest", json!({ "max_tokens": 5 }))).status, 200);
    assert!(server.gauge("waiting") > 20, "the guest did not wait for the flood to end");
    drop(flood);
    server.wait_for("running", 0);
}
