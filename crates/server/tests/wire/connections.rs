//! Who may ask, and how long a connection may dawdle.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Options, PATIENCE, TestServer, chat_body, post_request, read_answer};

#[test]
fn with_keys_only_probes_are_open() {
    let mut options = Options::default();
    options.config.api_keys = vec!["sesame".to_owned()];
    let server = TestServer::start(options);
    for path in ["/v1/models", "/metrics", "/version", "/nowhere"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 401, "{path}");
        assert_eq!(answer.json()["error"]["type"], "authentication_error");
    }
    for path in ["/health", "/health/live", "/health/ready"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    let with_key = |key: &str| {
        let request = format!(
            "GET /v1/models HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
        );
        server.send(&request).status
    };
    assert_eq!((with_key("sesame"), with_key("simsim")), (200, 401));
}

#[test]
fn foreign_hosts_are_refused() {
    let server = TestServer::start(Options::default());
    let get = |host: &str| {
        server.send(&format!("GET /v1/models HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).status
    };
    assert_eq!((get("localhost:80"), get("127.0.0.1"), get("rebound.example")), (200, 200, 403));
}

#[test]
fn request_ids_come_back_when_they_are_plain() {
    let server = TestServer::start(Options::default());
    let id = |sent: &str| {
        let request =
            format!("GET /version HTTP/1.1\r\nhost: localhost\r\nx-request-id: {sent}\r\nconnection: close\r\n\r\n");
        let head = server.send(&request).head;
        head.lines().find_map(|line| line.strip_prefix("x-request-id: ")).unwrap().to_owned()
    };
    assert_eq!(id("abc-1.2"), "abc-1.2");
    for odd in ["a b", "\"x\"", &"y".repeat(129)] {
        assert!(id(odd).starts_with("req-"), "{odd}");
    }
}

#[test]
fn a_dribbled_head_is_cut_and_others_are_served_meanwhile() {
    let mut options = Options::default();
    options.config.connections.header_timeout = Duration::from_millis(300);
    let server = TestServer::start(options);
    let mut streams: Vec<_> = (0..50).map(|_| server.connect()).collect();
    for stream in &mut streams {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost:").unwrap();
    }
    assert_eq!(server.get("/health").status, 200);
    let start = Instant::now();
    for mut stream in streams {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).ok();
    }
    assert!(start.elapsed() < PATIENCE / 2, "the connections were closed");
}

#[test]
fn an_idle_connection_outlives_the_time_for_a_head() {
    let mut options = Options::default();
    options.config.connections.header_timeout = Duration::from_millis(100);
    options.config.connections.idle_timeout = Duration::from_millis(900);
    let server = TestServer::start(options);
    let mut stream = server.connect();
    let request = b"GET /version HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut answer = [0; 4096];
    for _ in 0..2 {
        stream.write_all(request).unwrap();
        let n = stream.read(&mut answer).unwrap();
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"), "still open after an idle time");
        std::thread::sleep(Duration::from_millis(400));
    }
    let mut rest = Vec::new();
    let start = Instant::now();
    stream.read_to_end(&mut rest).ok();
    assert!(start.elapsed() < PATIENCE / 2, "closed when idle for too long");
}

#[test]
fn a_dribbled_body_is_answered_408() {
    let mut options = Options::default();
    options.config.requests.body_timeout = Duration::from_millis(200);
    let server = TestServer::start(options);
    let mut stream = server.connect();
    let request = post_request("/v1/chat/completions", &chat_body(json!({})).to_string());
    stream.write_all(&request.as_bytes()[..request.len() - 5]).unwrap();
    assert_eq!(read_answer(stream).status, 408);
}

#[test]
fn heads_end_at_their_limits() {
    let mut options = Options::default();
    options.config.connections.max_header_bytes = 8192;
    options.config.connections.max_headers = 20;
    let server = TestServer::start(options);
    let with_headers = |count: usize, len: usize| {
        let headers: String = (0..count).map(|i| format!("x-{i}: {}\r\n", "y".repeat(len))).collect();
        server.send(&format!("GET /version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}\r\n")).status
    };
    assert_eq!(with_headers(18, 10), 200);
    assert_eq!(with_headers(19, 10), 431);
    // The size is exact, however the head is cut into packets.
    let padded = |bytes: usize| {
        let (start, end) = ("GET /version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nx: ", "\r\n\r\n");
        format!("{start}{}{end}", "y".repeat(bytes - start.len() - end.len()))
    };
    let in_two = |head: &str| {
        let mut stream = server.connect();
        let (first, rest) = head.split_at(8000);
        stream.write_all(first.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(20));
        stream.write_all(rest.as_bytes()).ok();
        read_answer(stream).status
    };
    for (bytes, status) in [(8192, 200), (8193, 431), (9000, 431)] {
        let head = padded(bytes);
        assert_eq!((head.len(), server.send(&head).status, in_two(&head)), (bytes, status, status));
    }
}

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() {
    let mut options = Options::default();
    options.config.connections.max_connections = 2;
    let server = TestServer::start(options);
    let first = server.connect();
    assert_eq!(server.get("/version").status, 200, "there may be two");
    let held = [first, server.connect()];
    std::thread::sleep(Duration::from_millis(50));
    let mut third = server.connect();
    third.write_all(b"GET /version HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").unwrap();
    third.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(third.read(&mut [0; 1]).is_err(), "no answer while two others are open");
    drop(held);
    third.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(read_answer(third).status, 200);
}
