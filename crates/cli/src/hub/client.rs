//! HTTP to a hub: requests that send the token to the hub's own origin only, whatever redirects say.

use std::io::Read;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ureq::http::{Response, Uri};
use ureq::{Agent, Body};

use crate::settings::{Settings, defs};

/// Hops from the hub to where it keeps its files.
const MAX_REDIRECTS: usize = 5;
/// A repository with 10,000 files answers with about 3 MB.
const MAX_JSON_BYTES: u64 = 32 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A hub.
pub(crate) struct Hub {
    agent: Agent,
    endpoint: Uri,
    token: Option<String>,
    /// Longest wait for a byte.
    pub(crate) timeout: Duration,
}

impl Hub {
    pub(crate) fn new(settings: &Settings) -> Result<Self> {
        let text = settings.text(&defs::HUB_ENDPOINT).unwrap_or_default().trim_end_matches('/');
        let endpoint: Uri = text.parse().with_context(|| format!("MISTRAL_HUB_ENDPOINT={text}: not a URL"))?;
        let timeout = settings.time(&defs::HUB_TIMEOUT);
        let agent = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(CONNECT_TIMEOUT.min(timeout)))
            .timeout_recv_response(Some(timeout))
            .build()
            .new_agent();
        Ok(Self { agent, endpoint, token: settings.text(&defs::HUB_TOKEN).map(str::to_owned), timeout })
    }

    /// A URL of this hub.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/{path}", self.endpoint.to_string().trim_end_matches('/'))
    }

    /// A small JSON document.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, url: &str) -> Result<T> {
        let response = self.get(url, 0)?;
        if response.status() != 200 {
            bail!("{url}: the hub answers {}", status_text(response.status().as_u16()));
        }
        let mut bytes = Vec::new();
        let mut body = Stalling::new(response.into_body().into_reader(), self.timeout);
        while let Some(chunk) = body.next().with_context(|| url.to_owned())? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > MAX_JSON_BYTES {
                bail!("{url}: the answer is longer than {MAX_JSON_BYTES} bytes");
            }
        }
        serde_json::from_slice(&bytes).with_context(|| format!("{url}: not the JSON of a hub"))
    }

    /// GET from byte `from` on, through redirects.
    pub(crate) fn get(&self, url: &str, from: u64) -> Result<Response<Body>> {
        let mut uri: Uri = url.parse().with_context(|| format!("{url}: not a URL"))?;
        for _ in 0..=MAX_REDIRECTS {
            let mut request = self.agent.get(uri.clone()).header("accept-encoding", "identity");
            if let Some(token) = self.token.as_ref().filter(|_| same_origin(&uri, &self.endpoint)) {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            if from > 0 {
                request = request.header("range", format!("bytes={from}-"));
            }
            let response = request.call().with_context(|| uri.to_string())?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let location = location.with_context(|| format!("{uri}: a redirect without a location"))?;
            uri = redirect(&uri, location)?;
        }
        bail!("{url}: more than {MAX_REDIRECTS} redirects")
    }
}

/// Words for a status that people meet.
pub(crate) fn status_text(status: u16) -> String {
    match status {
        401 | 403 => format!("{status}: not allowed (does the model need MISTRAL_HUB_TOKEN?)"),
        404 => "404: no such model, revision or file".to_owned(),
        _ => status.to_string(),
    }
}

fn same_origin(a: &Uri, b: &Uri) -> bool {
    let origin = |uri: &Uri| {
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        (uri.scheme_str().map(str::to_owned), uri.host().map(str::to_ascii_lowercase), port)
    };
    origin(a) == origin(b)
}

/// Where a redirect leads: absolute, or a path on the same host. Never from https to http.
fn redirect(from: &Uri, location: &str) -> Result<Uri> {
    let absolute = if location.starts_with('/') && !location.starts_with("//") {
        let authority = from.authority().map(|authority| authority.as_str()).unwrap_or_default();
        format!("{}://{authority}{location}", from.scheme_str().unwrap_or("https"))
    } else {
        location.to_owned()
    };
    let to: Uri = absolute.parse().with_context(|| format!("{from}: redirect to {location:?}, not a URL"))?;
    match (from.scheme_str(), to.scheme_str()) {
        (_, Some("https")) | (Some("http"), Some("http")) => Ok(to),
        _ => bail!("{from}: redirect to {location:?} is not followed (not https)"),
    }
}

/// A body read on a thread of its own, so that a stall is noticed: the HTTP library bounds the time of a whole body,
/// which for weights may rightly be hours.
pub(crate) struct Stalling {
    chunks: std::sync::mpsc::Receiver<std::io::Result<Vec<u8>>>,
    timeout: Duration,
    window_started: std::time::Instant,
    window_bytes: u64,
}

/// A body slower than this on average over a whole timeout counts as stalled.
const MIN_BYTES_PER_SECOND: u64 = 1024;
const CHUNK_BYTES: usize = 256 << 10;
const CHUNKS_AHEAD: usize = 8;

impl Stalling {
    pub(crate) fn new(mut body: impl Read + Send + 'static, timeout: Duration) -> Self {
        let (sender, chunks) = std::sync::mpsc::sync_channel(CHUNKS_AHEAD);
        std::thread::spawn(move || {
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let read = body.read(&mut chunk);
                let last = !matches!(read, Ok(n) if n > 0);
                let message = read.map(|n| {
                    chunk.truncate(n);
                    chunk
                });
                // A receiver that is gone has failed already.
                if sender.send(message).is_err() || last {
                    return;
                }
            }
        });
        Self { chunks, timeout, window_started: std::time::Instant::now(), window_bytes: 0 }
    }

    /// The next bytes; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>> {
        let stalled = || anyhow::anyhow!("no data for {:?} (MISTRAL_HUB_TIMEOUT)", self.timeout);
        let chunk = self.chunks.recv_timeout(self.timeout).map_err(|_| stalled())?.context("the connection broke")?;
        self.window_bytes += chunk.len() as u64;
        let elapsed = self.window_started.elapsed();
        if elapsed > self.timeout {
            if self.window_bytes < MIN_BYTES_PER_SECOND * elapsed.as_secs().max(1) && !chunk.is_empty() {
                bail!("too slow: {} bytes in {elapsed:.0?}", self.window_bytes);
            }
            self.window_started = std::time::Instant::now();
            self.window_bytes = 0;
        }
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_scheme_host_and_port_get_the_token() {
        for (a, b, same) in [
            ("https://hub.example/x", "https://HUB.example", true),
            ("https://hub.example:443/x", "https://hub.example", true),
            ("http://hub.example/x", "https://hub.example", false),
            ("https://hub.example:444/x", "https://hub.example", false),
            ("https://hub.example.evil/x", "https://hub.example", false),
        ] {
            assert_eq!(same_origin(&a.parse().unwrap(), &b.parse().unwrap()), same, "{a} {b}");
        }
    }

    #[test]
    fn redirects_never_leave_https() {
        let from: Uri = "https://hub.example/a".parse().unwrap();
        assert_eq!(redirect(&from, "/b").unwrap(), "https://hub.example/b");
        assert_eq!(redirect(&from, "https://cdn.example/b").unwrap(), "https://cdn.example/b");
        for location in ["http://hub.example/b", "file:///etc/passwd", "ftp://x/y", "b", "//evil.example/x"] {
            assert!(redirect(&from, location).is_err(), "{location}");
        }
    }
}
