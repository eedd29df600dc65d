//! The body of the fuzz target, on a few inputs: it is compiled here with everything else, and must do its work.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod any_bytes;

#[test]
fn the_fuzz_target_opens_what_is_valid_and_survives_every_cut_of_it() {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
    let golden = std::fs::read(format!("{data}/golden.gguf")).unwrap();
    let header = br#"{"t":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    let safetensors = [&(header.len() as u64).to_le_bytes()[..], header, &[0; 4]].concat();
    let directory = br#"{"num_hidden_layers":2,"hidden_size":8,"weight_map":{"t":"a.safetensors"}}"#.to_vec();
    for whole in [golden, safetensors, directory] {
        assert!(any_bytes::open(&whole), "{:?}", String::from_utf8_lossy(&whole[..8]));
        for len in (0..whole.len()).step_by(whole.len().div_ceil(64)) {
            assert!(!any_bytes::open(&whole[..len]), "{len} of {} bytes", whole.len());
        }
    }
}
