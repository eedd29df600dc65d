//! Memory: what there is ([`Machine`]), how much of it may be used ([`Budget`]), and what a model will take of it
//! ([`Plan`]), predicted from headers alone before anything is loaded.

mod budget;
mod clipped;
mod kv;
mod machine;
mod plan;
mod planner;
pub(crate) mod pressure;
mod program;

pub(crate) use budget::{Budget, Ceiling};
pub(crate) use clipped::clipped_sizes;
pub(crate) use kv::KvChoice;
pub(crate) use machine::Machine;
pub(crate) use plan::Plan;
pub(crate) use planner::{Planner, context_len, contradictions, recipe_at_load};
pub(crate) use program::reading_bytes;
