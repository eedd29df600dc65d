//! The wire: OpenAI-compatible HTTP, health, metrics.
//!
//! ```text
//! socket -> edge (limits, Host, keys) -> openai/<endpoint> (wire -> valid) -> text jobs -> engine
//!        <- SSE or JSON               <- generate (tokens -> text)         <- events
//! ```
//!
//! It knows HTTP, JSON and text. It does not load models, read settings or schedule: it gets a [`ServerConfig`] and
//! [`ServedModel`]s, each with an engine that runs. Start with [`Server`], then `app.rs` for the routes.

#![forbid(unsafe_code)]

mod app;
mod config;
mod edge;
mod error;
mod fields;
mod fleet;
mod generate;
mod health;
mod ids;
pub mod metrics;
mod metrics_md;
mod model;
mod openai;
mod server;

pub use config::{ConnectionLimits, Overflow, RequestLimits, ServerConfig};
pub use edge::ListenError;
pub use fleet::{LoadError, Loader, Models, Taken};
pub use metrics::Metrics;
pub use metrics_md::metrics_md;
pub use model::ServedModel;
pub use server::Server;
