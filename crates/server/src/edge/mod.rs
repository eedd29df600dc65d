//! Between the network and the handlers: connections, who may ask, and what a request's body is.

mod body;
mod guard;
mod listen;
mod timed;

pub(crate) use body::read_json;
pub(crate) use guard::{Keys, guard};
pub use listen::ListenError;
pub(crate) use listen::Listener;
