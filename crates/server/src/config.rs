//! What the server is told at start: plain data, checked by whoever fills it in.

use std::net::SocketAddr;
use std::time::Duration;

/// Everything but the models.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Where to listen.
    pub address: SocketAddr,
    /// Keys that clients must send; empty: none is asked for.
    pub api_keys: Vec<String>,
    /// Names allowed in the `Host` header besides localhost and IP addresses; `*` allows all.
    pub allowed_hosts: Vec<String>,
    /// Refuse fields that no part of the API knows.
    pub strict: bool,
    /// Time for running requests to finish after the signal to stop.
    pub shutdown_timeout: Duration,
    /// Limits of connections.
    pub connections: ConnectionLimits,
    /// Limits of requests.
    pub requests: RequestLimits,
}

/// Limits of connections.
#[derive(Clone, Debug)]
pub struct ConnectionLimits {
    /// Open connections; more wait to be accepted.
    pub max_connections: usize,
    /// Bytes of a request's head.
    pub max_header_bytes: usize,
    /// Headers of a request.
    pub max_headers: usize,
    /// Time for a request's head.
    pub header_timeout: Duration,
    /// Time that a connection stays open without a request.
    pub idle_timeout: Duration,
    /// Time that a client may leave written bytes unread.
    pub write_timeout: Duration,
}

/// Limits of requests. Those of sampling are the engine's ([`engine::RequestLimits`]).
#[derive(Clone, Debug)]
pub struct RequestLimits {
    /// Bytes of a body.
    pub max_body_bytes: usize,
    /// Time for a body.
    pub body_timeout: Duration,
    /// Nesting of JSON.
    pub max_json_depth: usize,
    /// Prompts in one completion request.
    pub max_prompts: usize,
    /// Messages of a chat request.
    pub max_messages: usize,
    /// Documents of a chat request.
    pub max_documents: usize,
    /// Largest `logprobs` of a completion request.
    pub max_completion_logprobs: usize,
    /// Largest `top_logprobs` of a chat request.
    pub max_top_logprobs: usize,
    /// Stop strings.
    pub max_stop_strings: usize,
    /// Bytes of a stop string.
    pub max_stop_bytes: usize,
    /// Bytes of a DRY sequence breaker.
    pub max_breaker_bytes: usize,
    /// Tools of a chat request.
    pub max_tools: usize,
    /// Bytes of a JSON schema: what a tool's `parameters` are.
    pub max_schema_bytes: usize,
    /// Nesting of a JSON schema.
    pub max_schema_depth: usize,
    /// What becomes of a prompt that leaves no room in the context, when the request does not say.
    pub context_overflow: Overflow,
    /// Texts that are tokenized or rendered at the same time.
    pub max_text_jobs: usize,
}

/// What becomes of a prompt that leaves no room in the context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overflow {
    /// The request is refused with both numbers.
    Reject,
    /// The oldest part is left out, and the answer says how much: turns of a chat, tokens of a text.
    Truncate,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            max_connections: 1024,
            max_header_bytes: 32 << 10,
            max_headers: 100,
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
        }
    }
}

impl Default for RequestLimits {
    fn default() -> Self {
        Self {
            max_body_bytes: 32 << 20,
            body_timeout: Duration::from_secs(30),
            max_json_depth: 64,
            max_prompts: 128,
            max_messages: 10_000,
            max_documents: 128,
            max_completion_logprobs: 5,
            max_top_logprobs: 20,
            max_stop_strings: 16,
            max_stop_bytes: 256,
            max_breaker_bytes: 256,
            max_tools: 128,
            max_schema_bytes: 64 << 10,
            max_schema_depth: 32,
            context_overflow: Overflow::Reject,
            max_text_jobs: 4,
        }
    }
}

impl ServerConfig {
    /// What an operator can set, as numbers by the names of the fields: times in seconds, switches 0 or 1.
    pub(crate) fn numbers(&self) -> Vec<(&'static str, f64)> {
        let Self { connections, requests, .. } = self;
        vec![
            ("strict", f64::from(u8::from(self.strict))),
            ("api_keys", self.api_keys.len() as f64),
            ("allowed_hosts", self.allowed_hosts.len() as f64),
            ("shutdown_timeout", self.shutdown_timeout.as_secs_f64()),
            ("max_connections", connections.max_connections as f64),
            ("max_header_bytes", connections.max_header_bytes as f64),
            ("max_headers", connections.max_headers as f64),
            ("header_timeout", connections.header_timeout.as_secs_f64()),
            ("idle_timeout", connections.idle_timeout.as_secs_f64()),
            ("write_timeout", connections.write_timeout.as_secs_f64()),
            ("max_body_bytes", requests.max_body_bytes as f64),
            ("body_timeout", requests.body_timeout.as_secs_f64()),
            ("max_json_depth", requests.max_json_depth as f64),
            ("max_prompts", requests.max_prompts as f64),
            ("max_messages", requests.max_messages as f64),
            ("max_documents", requests.max_documents as f64),
            ("max_completion_logprobs", requests.max_completion_logprobs as f64),
            ("max_top_logprobs", requests.max_top_logprobs as f64),
            ("max_stop_strings", requests.max_stop_strings as f64),
            ("max_stop_bytes", requests.max_stop_bytes as f64),
            ("max_breaker_bytes", requests.max_breaker_bytes as f64),
            ("max_tools", requests.max_tools as f64),
            ("max_schema_bytes", requests.max_schema_bytes as f64),
            ("max_schema_depth", requests.max_schema_depth as f64),
        ]
    }
}
