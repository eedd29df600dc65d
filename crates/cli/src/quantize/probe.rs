//! What the quantizers do, as a digest of what they make of fixed values. It is part of the key of cached weights: a
//! program whose quantizers make other bytes does not find what another has made.
//!
//! Quantizers compute with sums and products of f32 in a fixed order, which every processor rounds alike, so that the
//! digest is the same on all of them.

use std::collections::BTreeSet;

use blake3::Hasher;
use tensor::Format;

/// Values that are quantized: 64 of the longest blocks.
const VALUES: usize = 64 * BLOCK;
/// The longest block.
const BLOCK: usize = 256;

/// The digest for weights that become these formats.
pub(super) fn digest(formats: impl Iterator<Item = Format>) -> String {
    digest_of(formats, |format, values, out| {
        format.quantize_row(values, None, out).expect("the values are small numbers")
    })
}

fn digest_of(formats: impl Iterator<Item = Format>, quantize: impl Fn(Format, &[f32], &mut [u8])) -> String {
    let (values, mut hasher) = (values(), Hasher::new());
    for name in formats.map(Format::name).collect::<BTreeSet<_>>() {
        let format = Format::from_name(name).expect("it is a format's name");
        let mut out = vec![0; format.row_bytes(VALUES).expect("a whole number of blocks")];
        quantize(format, &values, &mut out);
        hasher.update(name.as_bytes()).update(&out);
    }
    hasher.finalize().to_string()
}

/// Blocks of all kinds: wide and narrow, around zero and beside it, with values far from the others.
fn values() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let value = |index: usize| {
        let block = index / BLOCK;
        let (scale, middle) = (1.0 / (1 << (block % 8)) as f32, [0.0, 0.0, 1.0, -1.0][block / 8 % 4]);
        let is_far = uniform() > 0.49;
        (middle + uniform() + uniform() + if is_far { 4.0 * uniform() } else { 0.0 }) * scale
    };
    (0..VALUES).map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_bytes_of_any_format_are_another_digest() {
        let plain = |format: Format, values: &[f32], out: &mut [u8]| format.quantize_row(values, None, out).unwrap();
        let all = || Format::ALL.into_iter();
        assert_eq!(digest(all()), digest_of(all(), plain));
        for changed in Format::ALL {
            // As if its last block had come out otherwise by one bit.
            let digest_of_changed = digest_of(all(), |format, values, out| {
                plain(format, values, out);
                *out.last_mut().unwrap() ^= u8::from(format == changed);
            });
            assert_ne!(digest_of_changed, digest(all()), "{}", changed.name());
            assert_ne!(digest(std::iter::once(changed)), digest(all()));
        }
    }

    /// Where this differs between processors, so would files: it is what one with AVX2 and one with NEON made.
    #[test]
    fn quantizers_make_the_same_bytes_on_every_processor() {
        assert_eq!(
            digest(Format::ALL.into_iter()),
            "8b1358cc9afc543a57d344fceddb5ece2f61cee820bea9078c4c63c8e5cccfc9",
            "the quantizers have changed: write down the new digest"
        );
    }
}
