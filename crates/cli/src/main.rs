//! The `frontier` binary.
fn main() {}
