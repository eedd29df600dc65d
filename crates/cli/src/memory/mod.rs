//! Memory: what there is ([`Machine`]), how much of it may be used ([`Budget`]), and what a model will take of it
//! ([`Plan`]), predicted from headers alone before anything is loaded. Several models have [`Shares`].

mod budget;
mod clipped;
mod kv;
mod machine;
mod plan;
mod planner;
pub(crate) mod pressure;
mod program;
mod shares;

#[cfg(feature = "gpu")]
pub(crate) use budget::Ceiling;
pub(crate) use budget::{Budget, Room, ShorterContext};
pub(crate) use clipped::clipped_sizes;
pub(crate) use kv::KvChoice;
pub(crate) use machine::Machine;
pub(crate) use plan::Plan;
pub(crate) use planner::{Planner, Plans, context_len, contradictions, recipe_at_load};
pub(crate) use program::reading_bytes;
pub(crate) use shares::{Demand, Length, Part, pins_beyond_memory, rooms, shorten_contexts};
