//! When things run: requests, scheduler, KV pages, sampling, the loop.
//!
//! ```text
//! server:  Draft -> Request::check -> Engine::submit -> Events          (any thread, async or blocking)
//! engine:  loop { drain inbox -> plan -> run -> sample -> commit -> events }             (one thread)
//! ```
//!
//! One idea carries the scheduler: a sequence has `computed` tokens chasing `known` tokens. Prefill, chunked prefill,
//! decode, prefix hit and resume after preemption are all "compute some more of the gap within this step's budget".
//!
//! The engine sees token ids. It does not tokenize, parse JSON, read files or sockets, or name a network or a device:
//! text is the server's business, numbers are the [`Runner`]'s. Start with [`Engine`], then `driver.rs` for the loop.

#![forbid(unsafe_code)]

mod batch;
mod board;
mod cache_end;
mod clock;
mod config;
mod driver;
mod engine;
mod event;
pub mod fake;
#[cfg(test)]
mod fault;
#[cfg(not(test))]
mod fault {
    //! Where tests let the engine thread panic.
    /// Nothing.
    pub(crate) fn point(_: &'static str) {}
}
mod fit;
mod flight;
mod health;
mod inbox;
mod kv;
mod mailbox;
mod observer;
mod pause;
pub mod ranges;
mod relief;
mod request;
mod runner;
mod sampler;
mod scheduler;
mod sequence;
mod stats;
mod sync;
#[cfg(test)]
mod tests;
mod wakes;

pub use cache_end::CacheEnd;
pub use clock::{Clock, SystemClock, VirtualClock};
pub use config::{ConfigError, EngineConfig};
pub use engine::{Drained, Engine, SubmitError};
pub use event::{Event, Events, Failure, FinishReason, Finished, PromptLogprob, Started, Token, TokenLogprob, Usage};
pub use health::{Health, Readiness};
pub use observer::{CancelCause, NoObserver, Observer, RejectReason, RequestReport, StepFailure, StepReport};
pub use relief::Relief;
pub use request::{CachePolicy, Draft, InvalidRequest, Request, RequestLimits, Tenant};
pub use runner::{DecoderRunner, KvPool, RebuildingRunner, Runner, RunnerLimits};
pub use sampler::{Dry, MaskError, Sampling, SamplingDraft, TokenMask, TokenSet, Xtc};
pub use stats::{Counters, PoolStats, Stats};
