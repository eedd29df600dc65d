//! Weights in smaller formats: made when a model is loaded ([`AtLoad`], kept on disk by [`Cache`]), or written into a
//! file ([`write_file`]), by importance where there is any ([`Importance`]).
//!
//! What the formats are and how a row is fitted is crate `tensor`'s business; which format a tensor gets is the
//! [`tensor::Recipe`]'s. Here are threads, files and errors.

mod at_load;
mod cache;
mod convert;
mod digest;
mod file;
mod importance;
mod probe;

pub(crate) use at_load::AtLoad;
pub(crate) use cache::Cache;
pub(crate) use convert::{ConvertError, Converter};
pub(crate) use file::{FileOptions, write_file};
pub(crate) use importance::Importance;
