//! Load on a server that speaks OpenAI's API, and what it felt like to the clients. HTTP only: any such server can be
//! measured, and nothing of ours is needed for it.
//!
//! [`Load`] describes clients in a closed loop (each sends its next request when the last one is answered),
//! [`Load::run`] lets them loose, [`Report`] sums up: time to the first token, time between tokens, tokens a second.
//! `client.rs` is one streamed request.

#![forbid(unsafe_code)]

mod client;
mod load;
mod report;

pub use client::{Answer, ClientError, Server};
pub use load::Load;
pub use report::{Percentiles, Report};
