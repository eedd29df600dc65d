//! A hub on loopback that misbehaves on request.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The file that the hub holds.
pub(crate) const CONTENT: &[u8] = &[7; 100_000];

/// What is wrong with the answer for the file.
#[derive(Clone, Debug)]
pub(crate) enum Manner {
    Good,
    WrongContent,
    /// Ends after this many bytes although more are announced.
    Truncated(usize),
    /// Goes on for ever.
    Endless,
    /// Sends some bytes, then nothing.
    Stalls,
    /// Answers with a redirect to this.
    Redirect(String),
    /// Ignores `Range` and sends everything.
    NoRange,
    /// The listing has no size.
    NoSize,
    /// The listing names a file outside the repository.
    Escapes,
}

/// A running hub.
pub(crate) struct StubHub {
    pub(crate) url: String,
    manner: Arc<Mutex<Manner>>,
    /// Request lines and headers as they came, one text a request.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

impl StubHub {
    pub(crate) fn start(manner: Manner) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let hub = Self { url, manner: Arc::new(Mutex::new(manner)), requests: Arc::default() };
        let (manner, requests) = (Arc::clone(&hub.manner), Arc::clone(&hub.requests));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (manner, requests) = (manner.lock().unwrap().clone(), Arc::clone(&requests));
                std::thread::spawn(move || answer(stream, &manner, &requests));
            }
        });
        hub
    }

    pub(crate) fn set(&self, manner: Manner) {
        *self.manner.lock().unwrap() = manner;
    }

    /// Requests for the file itself.
    pub(crate) fn file_requests(&self) -> Vec<String> {
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|request| !request.starts_with("GET /api/")).cloned().collect()
    }
}

/// Answers one request and hangs up, which every answer says: a client that keeps the connection for its next request
/// would find it reset.
fn answer(mut stream: TcpStream, manner: &Manner, requests: &Mutex<Vec<String>>) {
    let mut request = String::new();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while reader.read_line(&mut request).is_ok_and(|n| n > 2) {}
    requests.lock().unwrap().push(request.clone());
    // A client that has seen enough hangs up: writing may fail, which is no failure of the test.
    let _ = if request.starts_with("GET /api/") {
        listing(&mut stream, manner)
    } else {
        file(&mut stream, manner, &request)
    };
}

fn listing(stream: &mut TcpStream, manner: &Manner) -> std::io::Result<()> {
    let path = if matches!(manner, Manner::Escapes) { "../../evil-q8_0.gguf" } else { "tiny-q8_0.gguf" };
    let size = if matches!(manner, Manner::NoSize) { "null".to_owned() } else { CONTENT.len().to_string() };
    let body = format!(
        r#"{{"sha":"c0ffee","siblings":[{{"rfilename":"README.md","size":3}},{{"rfilename":"{path}","size":{size},"lfs":{{"sha256":"{}"}}}}]}}"#,
        sha256()
    );
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn file(stream: &mut TcpStream, manner: &Manner, request: &str) -> std::io::Result<()> {
    let range =
        request.lines().find_map(|line| line.strip_prefix("range: bytes=")?.trim().strip_suffix('-')?.parse().ok());
    let from: usize = range.unwrap_or(0);
    let len = CONTENT.len();
    if let Manner::Redirect(to) = manner {
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nconnection: close\r\nlocation: {to}\r\ncontent-length: 0\r\n\r\n"
        );
    }
    match range {
        Some(from) if !matches!(manner, Manner::NoRange) => write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nconnection: close\r\ncontent-range: bytes {from}-{}/{len}\r\ncontent-length: {}\r\n\r\n",
            len - 1,
            len - from
        )?,
        _ if matches!(manner, Manner::Endless) => write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n")?,
        _ => write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {len}\r\n\r\n")?,
    }
    let from = if matches!(manner, Manner::NoRange) { 0 } else { from };
    match manner {
        Manner::Truncated(n) => stream.write_all(&CONTENT[from..(from + n).min(len)]),
        Manner::WrongContent => stream.write_all(&vec![8; len - from]),
        Manner::Endless => loop {
            stream.write_all(CONTENT)?;
        },
        Manner::Stalls => {
            stream.write_all(&CONTENT[from..from + 10])?;
            std::thread::sleep(Duration::from_secs(30));
            Ok(())
        }
        _ => stream.write_all(&CONTENT[from..]),
    }
}

/// The hash of [`CONTENT`].
pub(crate) fn sha256() -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(CONTENT).iter().map(|byte| format!("{byte:02x}")).collect()
}
