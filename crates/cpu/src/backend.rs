//! The stages of a forward pass on a CPU.
