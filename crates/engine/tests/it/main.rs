//! The engine through its public door: real threads, and real networks.

mod networks;
mod support;
mod threads;
