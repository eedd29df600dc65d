//! One streamed chat request, and when its parts arrived.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use ureq::Agent;

/// Longest line of a stream; a chunk of a token takes some hundred bytes.
const MAX_LINE_BYTES: u64 = 1 << 20;

/// Bytes of an error's body that are repeated.
const SHOWN_BYTES: u64 = 300;

/// A server under test.
#[derive(Clone, Debug)]
pub struct Server {
    agent: Agent,
    url: String,
    model: String,
    api_key: Option<String>,
}

/// A request that was answered to the end.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// From sending the request to the first piece of text.
    pub first_token: Duration,
    /// Between pieces of text. A server may send several tokens in a piece.
    pub gaps: Vec<Duration>,
    /// From sending the request to the end of the stream.
    pub total: Duration,
    /// Tokens of the prompt, as the server counts; 0 when it does not tell.
    pub prompt_tokens: usize,
    /// Tokens of the answer, as the server counts, else pieces of text.
    pub completion_tokens: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection, or one that broke.
    #[error("{0}")]
    Http(#[from] ureq::Error),
    /// The server refused.
    #[error("status {status}: {body}")]
    Status {
        /// HTTP status.
        status: u16,
        /// What it said.
        body: String,
    },
    /// The stream broke.
    #[error("the stream broke: {0}")]
    Stream(#[from] std::io::Error),
    /// Something that is no stream of a chat.
    #[error("not a stream of chat chunks: {0}")]
    Protocol(String),
}

impl Server {
    /// A server at `url` (with or without `/v1` at its end); `model` is what requests name. A request may take
    /// `timeout` in all.
    pub fn new(url: &str, model: &str, api_key: Option<String>, timeout: Duration) -> Server {
        let url = url.trim_end_matches('/').trim_end_matches("/v1");
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(timeout)).build();
        Server { agent: config.new_agent(), url: url.to_owned(), model: model.to_owned(), api_key }
    }

    /// Asks for `max_tokens` tokens after `prompt`, the likeliest ones, and waits for all. `ignore_eos` asks the server
    /// to go on after the end of the text; some refuse the field.
    ///
    /// # Errors
    /// No connection, a refusal, a stream that breaks or is not one.
    pub fn ask(&self, prompt: &str, max_tokens: usize, ignore_eos: bool) -> Result<Answer, ClientError> {
        let mut body = json!({
            "model": self.model,
            "messages": [{ "role": "user", "content": prompt }],
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        if ignore_eos {
            body["ignore_eos"] = Value::Bool(true);
        }
        let mut request = self.agent.post(format!("{}/v1/chat/completions", self.url));
        request = request.header("content-type", "application/json");
        if let Some(key) = &self.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let start = Instant::now();
        let response = request.send(body.to_string())?;
        let status = response.status().as_u16();
        let mut reader = response.into_body().into_reader();
        if status != 200 {
            let mut body = Vec::new();
            reader.take(SHOWN_BYTES).read_to_end(&mut body)?;
            return Err(ClientError::Status { status, body: String::from_utf8_lossy(&body).trim().to_owned() });
        }
        let mut stream = Stream::new(start);
        let mut lines = BufReader::new(&mut reader);
        let mut line = Vec::new();
        loop {
            line.clear();
            if lines.by_ref().take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
                return Err(ClientError::Protocol("it ended without [DONE]".to_owned()));
            }
            if stream.take(&line)? {
                return Ok(stream.answer());
            }
        }
    }
}

/// What has arrived.
struct Stream {
    start: Instant,
    first: Option<Instant>,
    last: Instant,
    gaps: Vec<Duration>,
    prompt_tokens: usize,
    completion_tokens: Option<usize>,
}

impl Stream {
    fn new(start: Instant) -> Stream {
        Stream { start, first: None, last: start, gaps: Vec::new(), prompt_tokens: 0, completion_tokens: None }
    }

    /// Takes a line; true at the end of the stream.
    fn take(&mut self, line: &[u8]) -> Result<bool, ClientError> {
        let Some(data) = line.strip_prefix(b"data:") else { return Ok(false) };
        let data = data.trim_ascii();
        if data == b"[DONE]" {
            return Ok(true);
        }
        let chunk: Value = serde_json::from_slice(data).map_err(|error| ClientError::Protocol(error.to_string()))?;
        if let Some(error) = chunk.get("error") {
            return Err(ClientError::Protocol(error.to_string()));
        }
        let delta = &chunk["choices"][0]["delta"];
        let has_text = ["content", "reasoning_content"].iter().any(|key| !delta[key].as_str().unwrap_or("").is_empty());
        if has_text {
            self.text(Instant::now());
        }
        let count = |key: &str| chunk["usage"][key].as_u64().map(|tokens| tokens as usize);
        self.prompt_tokens = count("prompt_tokens").unwrap_or(self.prompt_tokens);
        self.completion_tokens = count("completion_tokens").or(self.completion_tokens);
        Ok(false)
    }

    fn text(&mut self, now: Instant) {
        match self.first {
            None => self.first = Some(now),
            Some(_) => self.gaps.push(now - self.last),
        }
        self.last = now;
    }

    fn answer(self) -> Answer {
        let end = Instant::now();
        let pieces = self.gaps.len() + usize::from(self.first.is_some());
        Answer {
            first_token: self.first.unwrap_or(end) - self.start,
            gaps: self.gaps,
            total: end - self.start,
            prompt_tokens: self.prompt_tokens,
            completion_tokens: self.completion_tokens.unwrap_or(pieces),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_read_to_its_end() {
        let mut stream = Stream::new(Instant::now());
        for line in [
            "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n",
            ": a comment\n",
            "\n",
            "data: {\"choices\":[{\"delta\":{\"content\":\"Hel\"}}]}\n",
            "data:{\"choices\":[{\"delta\":{\"content\":\"lo\"}}]}\r\n",
            "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n",
        ] {
            assert!(!stream.take(line.as_bytes()).expect("a chunk"), "{line}");
        }
        assert!(stream.take(b"data: [DONE]\n").expect("the end"));
        let answer = stream.answer();
        assert_eq!((answer.prompt_tokens, answer.completion_tokens, answer.gaps.len()), (7, 3, 1));
    }

    #[test]
    fn pieces_are_counted_where_the_server_does_not() {
        let mut stream = Stream::new(Instant::now());
        for _ in 0..3 {
            stream.take(b"data: {\"choices\":[{\"delta\":{\"content\":\"x\"}}]}").expect("a chunk");
        }
        assert_eq!(stream.answer().completion_tokens, 3);
    }

    #[test]
    fn errors_in_a_stream_are_errors() {
        for line in ["data: {\"error\":{\"message\":\"full\"}}", "data: {", "data: nonsense"] {
            assert!(Stream::new(Instant::now()).take(line.as_bytes()).is_err(), "{line}");
        }
    }
}
