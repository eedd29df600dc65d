//! Reading weights: each format's *unit* of 32 consecutive weights of a row.
//!
//! `fn unit_scales(base, u) -> vec3<f32>` gives (scale of the first 16, scale of the last 16, minimum) and
//! `fn unit_quad(base, u, i) -> vec4<f32>` the quants `[4 i, 4 i + 4)`, so that weight = scale * quant - minimum.
//! `base` is the word index of the row, `u` the unit's index in it. Layouts are those of [`crate::layout`].

use tensor::Format;

/// The two functions for a format that [`crate::layout::is_native`], reading `var w: array<u32>`.
///
/// `p.header_words` is where a row's blocks begin.
pub(super) fn decoder(format: Format) -> String {
    let body = match format {
        Format::F32 => F32,
        Format::F16 => F16,
        Format::BF16 => BF16,
        Format::Q8_0 => Q8_0,
        Format::Q4_0 => Q4_0,
        Format::IQ4_NL => IQ4_NL,
        Format::Q4_1 => Q4_1,
        Format::Q5_0 => Q5_0,
        Format::Q3_K => Q3_K,
        Format::Q4_K => Q4_K,
        Format::Q5_K => Q5_K,
        Format::Q6_K => Q6_K,
        Format::Q5_1 | Format::Q2_K | Format::IQ4_XS | Format::MXFP4 => {
            unreachable!("converted when the model is loaded: layout::is_native")
        }
    };
    let scales = match format {
        Format::Q4_K | Format::Q5_K => SCALES_K,
        Format::IQ4_NL => CODEBOOK,
        _ => "",
    };
    format!("{COMMON}{scales}{body}")
}

/// Whether the format's units have a minimum, so that a kernel must sum its input.
pub(super) fn has_minimum(format: Format) -> bool {
    matches!(format, Format::Q4_1 | Format::Q4_K | Format::Q5_K)
}

/// Whether the two halves of a unit have scales of their own.
pub(super) fn has_half_scales(format: Format) -> bool {
    matches!(format, Format::Q3_K | Format::Q6_K)
}

const COMMON: &str = "
fn half_at(word: u32, index: u32) -> f32 {
  let pair = unpack2x16float(w[word + (index >> 1u)]);
  return select(pair.x, pair.y, (index & 1u) == 1u);
}
fn byte_at(word: u32, index: u32) -> u32 { return (w[word + (index >> 2u)] >> ((index & 3u) * 8u)) & 255u; }
fn bytes4(v: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8(v)); }
fn bits4(v: u32) -> vec4<f32> { return vec4<f32>((vec4<u32>(v) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u)); }
";

const F32: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> { return vec3<f32>(1.0, 1.0, 0.0); }
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  let a = base + u * 32u + i * 4u;
  return bitcast<vec4<f32>>(vec4<u32>(w[a], w[a + 1u], w[a + 2u], w[a + 3u]));
}
";

const F16: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> { return vec3<f32>(1.0, 1.0, 0.0); }
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  let a = base + u * 16u + i * 2u;
  return vec4<f32>(unpack2x16float(w[a]), unpack2x16float(w[a + 1u]));
}
";

const BF16: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> { return vec3<f32>(1.0, 1.0, 0.0); }
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  let a = base + u * 16u + i * 2u;
  let lo = w[a];
  let hi = w[a + 1u];
  return bitcast<vec4<f32>>(vec4<u32>(lo << 16u, lo & 0xffff0000u, hi << 16u, hi & 0xffff0000u));
}
";

const Q8_0: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> { let d = half_at(base, u); return vec3<f32>(d, d, 0.0); }
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  return vec4<f32>(unpack4xI8(w[base + p.header_words + u * 8u + i]));
}
";

// Low nibbles of the 16 bytes are weights 0 to 15, high nibbles 16 to 31.
const Q4_0: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> { let d = half_at(base, u); return vec3<f32>(d, d, 0.0); }
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  let q = w[base + p.header_words + u * 4u + (i & 3u)] >> ((i >> 2u) * 4u);
  return bytes4(q & 0x0f0f0f0fu) - vec4<f32>(8.0);
}
";

/// `fn codebook4(v) -> vec4<f32>`: the values of the low nibbles of four bytes. Four signed values to a word.
pub(super) const CODEBOOK: &str = "
fn codebook(index: u32) -> f32 {
  let quad = index >> 2u;
  let word = select(select(0xf6eaddcfu, 0xbfad9881u, quad == 0u), select(0x71594535u, 0x26190d01u, quad == 2u), quad > 1u);
  return f32(extractBits(i32(word), (index & 3u) * 8u, 8u));
}
fn codebook4(v: u32) -> vec4<f32> {
  let q = unpack4xU8(v & 0x0f0f0f0fu);
  return vec4<f32>(codebook(q.x), codebook(q.y), codebook(q.z), codebook(q.w));
}
";

const IQ4_NL: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> { let d = half_at(base, u); return vec3<f32>(d, d, 0.0); }
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  return codebook4(w[base + p.header_words + u * 4u + (i & 3u)] >> ((i >> 2u) * 4u));
}
";

const Q4_1: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> {
  let dm = unpack2x16float(w[base + u * 5u]);
  return vec3<f32>(dm.x, dm.x, -dm.y);
}
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  return bytes4((w[base + u * 5u + 1u + (i & 3u)] >> ((i >> 2u) * 4u)) & 0x0f0f0f0fu);
}
";

const Q5_0: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> { let d = half_at(base, u); return vec3<f32>(d, d, 0.0); }
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  let a = base + p.header_words + u * 5u;
  let low = bytes4((w[a + 1u + (i & 3u)] >> ((i >> 2u) * 4u)) & 0x0f0f0f0fu);
  return low + bits4(w[a] >> (i * 4u)) * 16.0 - vec4<f32>(16.0);
}
";

// After the header: 32 bytes of high bits (bit j: unit j), 64 bytes of low bits, 12 bytes of 6-bit scales.
const Q3_K: &str = "
fn scale6(block: u32, i: u32) -> f32 {
  let low = (byte_at(block + 24u, i & 7u) >> ((i >> 3u) * 4u)) & 15u;
  let high = (byte_at(block + 26u, i & 3u) >> ((i >> 2u) * 2u)) & 3u;
  return f32(low | (high << 4u)) - 32.0;
}
fn unit_scales(base: u32, u: u32) -> vec3<f32> {
  let block = base + p.header_words + (u >> 3u) * 27u;
  let d = half_at(base, u >> 3u);
  let j = (u & 7u) * 2u;
  return vec3<f32>(d * scale6(block, j), d * scale6(block, j + 1u), 0.0);
}
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  let block = base + p.header_words + (u >> 3u) * 27u;
  let j = u & 7u;
  let low = (w[block + 8u + (j >> 2u) * 8u + i] >> ((j & 3u) * 2u)) & 0x03030303u;
  let high = ((w[block + i] >> j) & 0x01010101u) << 2u;
  return bytes4(low | high) - vec4<f32>(4.0);
}
";

// 6-bit scales and minima of eight units in 12 bytes, as Q4_K and Q5_K have them from word `block + 1` on.
const SCALES_K: &str = "
fn scales_k(block: u32, j: u32) -> vec3<f32> {
  let dm = unpack2x16float(w[block]);
  let k = j & 3u;
  let a = byte_at(block + 1u, k);
  let b = byte_at(block + 2u, k);
  let c = byte_at(block + 3u, k);
  let late = j > 3u;
  let scale = f32(select(a & 63u, (c & 15u) | ((a >> 6u) << 4u), late)) * dm.x;
  let minimum = f32(select(b & 63u, (c >> 4u) | ((b >> 6u) << 4u), late)) * dm.y;
  return vec3<f32>(scale, scale, minimum);
}
";

const Q4_K: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> { return scales_k(base + (u >> 3u) * 36u, u & 7u); }
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  let j = u & 7u;
  let q = w[base + (u >> 3u) * 36u + 4u + (j >> 1u) * 8u + i] >> ((j & 1u) * 4u);
  return bytes4(q & 0x0f0f0f0fu);
}
";

const Q5_K: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> { return scales_k(base + (u >> 3u) * 44u, u & 7u); }
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  let block = base + (u >> 3u) * 44u;
  let j = u & 7u;
  let low = (w[block + 12u + (j >> 1u) * 8u + i] >> ((j & 1u) * 4u)) & 0x0f0f0f0fu;
  let high = ((w[block + 4u + i] >> j) & 0x01010101u) << 4u;
  return bytes4(low | high);
}
";

// After the header: 128 bytes of low nibbles, 64 bytes of high pairs, 16 signed scales.
const Q6_K: &str = "
fn unit_scales(base: u32, u: u32) -> vec3<f32> {
  let block = base + p.header_words + (u >> 3u) * 52u;
  let d = half_at(base, u >> 3u);
  let pair = w[block + 48u + ((u & 7u) >> 1u)] >> ((u & 1u) * 16u);
  let scales = vec2<f32>(f32(extractBits(i32(pair), 0u, 8u)), f32(extractBits(i32(pair), 8u, 8u)));
  return vec3<f32>(d * scales, 0.0);
}
fn unit_quad(base: u32, u: u32, i: u32) -> vec4<f32> {
  let block = base + p.header_words + (u >> 3u) * 52u;
  let n = (u & 7u) >> 2u;
  let t = u & 3u;
  let low = (w[block + n * 16u + (t & 1u) * 8u + i] >> ((t >> 1u) * 4u)) & 0x0f0f0f0fu;
  let high = ((w[block + 32u + n * 8u + i] >> (t * 2u)) & 0x03030303u) << 4u;
  return bytes4(low | high) - vec4<f32>(32.0);
}
";
