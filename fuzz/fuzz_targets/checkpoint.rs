//! Opens whatever the fuzzer makes up as a model. What that means stands beside the tests of the crate, which compile and
//! run it, too.
//!
//! ```sh
//! cargo +nightly fuzz run checkpoint fuzz/corpus/checkpoint crates/checkpoint/tests/data -- -max_len=65536
//! ```

#![no_main]

#[path = "../../crates/checkpoint/tests/any_bytes/mod.rs"]
mod any_bytes;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    any_bytes::open(data);
});
