//! Reading weights for the mat-vec kernel: the *chunk* that a lane takes at a time.
//!
//! Formats whose rows are whole 16-byte vectors are read as such: 32 or 64 weights from loads that neighbouring
//! lanes make side by side. The others fall back to units of 32 (see [`super::unit`]).

use std::fmt::Write;

use tensor::Format;

use super::unit;

/// How a lane reads a format.
pub(super) struct Chunk {
    format: Format,
    /// Quads of weights.
    pub(super) quads: usize,
    /// Quads that share a scale (and a minimum).
    pub(super) quads_per_scale: usize,
    /// weight = scale * quant - minimum, for formats that have one.
    pub(super) has_minimum: bool,
    /// Whether the weights are bound as `array<vec4<u32>>`.
    pub(super) vectors: bool,
}

impl Chunk {
    pub(super) fn new(format: Format) -> Chunk {
        let (quads, quads_per_scale, vectors) = match format {
            Format::Q4_K | Format::Q5_K => (16, 8, true),
            Format::Q6_K => (16, 4, true),
            Format::Q8_0 | Format::Q4_0 | Format::IQ4_NL | Format::F16 | Format::BF16 | Format::F32 => (8, 8, true),
            _ => (8, if unit::has_half_scales(format) { 4 } else { 8 }, false),
        };
        Chunk { format, quads, quads_per_scale, has_minimum: unit::has_minimum(format), vectors }
    }

    /// Scales in a chunk.
    pub(super) fn scales(&self) -> usize {
        self.quads / self.quads_per_scale
    }

    /// WGSL of the index of the chunk's quad `i` in the input; `c` is the chunk's index in the row.
    pub(super) fn input_quad(&self, i: usize) -> String {
        if self.format == Format::Q6_K {
            // Four groups of 16 weights, 32 apart.
            return format!("((c >> 2u) * 64u + ((c >> 1u) & 1u) * 32u + (c & 1u) * 4u + {}u)", i / 4 * 8 + i % 4);
        }
        format!("(c * {}u + {i}u)", self.quads)
    }

    /// WGSL functions that [`Chunk::load`] calls.
    pub(super) fn functions(&self) -> String {
        match self.format {
            Format::Q4_K | Format::Q5_K => format!("{VECTOR_COMMON}{SCALE_PAIR}"),
            Format::IQ4_NL => format!("{VECTOR_COMMON}{}", unit::CODEBOOK),
            _ if self.vectors => VECTOR_COMMON.into(),
            _ => unit::decoder(self.format),
        }
    }

    /// WGSL that declares, for weight row `r` at `base{r}`, its quants `q{r}_{i}`, scales `s{r}_{g}` and minima
    /// `m{r}_{g}`.
    pub(super) fn load(&self, r: u32) -> String {
        let template = match self.format {
            Format::Q4_K => Q4_K,
            Format::Q5_K => Q5_K,
            Format::Q6_K => Q6_K,
            Format::Q8_0 => Q8_0,
            Format::Q4_0 => Q4_0,
            Format::IQ4_NL => IQ4_NL,
            Format::F16 => F16,
            Format::BF16 => BF16,
            Format::F32 => F32,
            _ => return self.load_unit(r),
        };
        template.replace('#', &r.to_string())
    }

    fn load_unit(&self, r: u32) -> String {
        let mut text = format!("    let scale{r} = unit_scales(base{r}, c);\n");
        for (g, field) in ["x", "y"].iter().take(self.scales()).enumerate() {
            let _ = writeln!(text, "    let s{r}_{g} = scale{r}.{field};");
        }
        if self.has_minimum {
            let _ = writeln!(text, "    let m{r}_0 = scale{r}.z;");
        }
        for i in 0..self.quads {
            let _ = writeln!(text, "    let q{r}_{i} = unit_quad(base{r}, c, {i}u);");
        }
        text
    }
}

const VECTOR_COMMON: &str = "
fn bytes4(v: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8(v)); }
fn signed4(v: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(v)); }
fn nibbles(v: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8(v & 0x0f0f0f0fu)); }
fn halves(a: u32, b: u32) -> vec4<f32> { return vec4<f32>(unpack2x16float(a), unpack2x16float(b)); }
fn brains(a: u32, b: u32) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}
fn header_half(base: u32, i: u32) -> f32 {
  let v = w[base + (i >> 3u)];
  let k = (i >> 1u) & 3u;
  let word = select(select(v.x, v.y, k == 1u), select(v.z, v.w, k == 3u), k > 1u);
  return unpack2x16float(word >> ((i & 1u) * 16u)).x;
}
";

// The 6-bit scales and minima of sub-blocks 2 p and 2 p + 1, from a block's first vector: (scale, scale, min, min).
const SCALE_PAIR: &str = "
fn scale_pair(h: vec4<u32>, p: u32) -> vec4<f32> {
  let dm = unpack2x16float(h.x);
  let shift = (p & 1u) * 16u;
  let a = h.y >> shift;
  let b = h.z >> shift;
  let c = h.w >> shift;
  let late = p > 1u;
  let scales = select(a & 0x3f3fu, (c & 0x0f0fu) | ((a >> 2u) & 0x3030u), late);
  let minima = select(b & 0x3f3fu, ((c >> 4u) & 0x0f0fu) | ((b >> 2u) & 0x3030u), late);
  return vec4<f32>(dm.x * f32(scales & 255u), dm.x * f32((scales >> 8u) & 255u),
    dm.y * f32(minima & 255u), dm.y * f32((minima >> 8u) & 255u));
}
";

const Q4_K: &str = "    let block# = base# + (c >> 2u) * 9u;
    let pair# = scale_pair(w[block#], c & 3u);
    let a# = w[block# + 1u + (c & 3u) * 2u];
    let b# = w[block# + 2u + (c & 3u) * 2u];
    let s#_0 = pair#.x; let s#_1 = pair#.y; let m#_0 = pair#.z; let m#_1 = pair#.w;
    let q#_0 = nibbles(a#.x); let q#_1 = nibbles(a#.y); let q#_2 = nibbles(a#.z); let q#_3 = nibbles(a#.w);
    let q#_4 = nibbles(b#.x); let q#_5 = nibbles(b#.y); let q#_6 = nibbles(b#.z); let q#_7 = nibbles(b#.w);
    let q#_8 = nibbles(a#.x >> 4u); let q#_9 = nibbles(a#.y >> 4u);
    let q#_10 = nibbles(a#.z >> 4u); let q#_11 = nibbles(a#.w >> 4u);
    let q#_12 = nibbles(b#.x >> 4u); let q#_13 = nibbles(b#.y >> 4u);
    let q#_14 = nibbles(b#.z >> 4u); let q#_15 = nibbles(b#.w >> 4u);
";

const Q5_K: &str = "    let block# = base# + (c >> 2u) * 11u;
    let pair# = scale_pair(w[block#], c & 3u);
    let low_bits# = vec4<u32>((c & 3u) * 2u);
    let h# = w[block# + 1u] >> low_bits#;
    let i# = w[block# + 2u] >> low_bits#;
    let a# = w[block# + 3u + (c & 3u) * 2u];
    let b# = w[block# + 4u + (c & 3u) * 2u];
    let one# = vec4<u32>(0x01010101u); let low# = vec4<u32>(0x0f0f0f0fu);
    let four# = vec4<u32>(4u); let by_one# = vec4<u32>(1u);
    let c# = (a# & low#) | ((h# & one#) << four#);
    let d# = (b# & low#) | ((i# & one#) << four#);
    let e# = ((a# >> four#) & low#) | (((h# >> by_one#) & one#) << four#);
    let f# = ((b# >> four#) & low#) | (((i# >> by_one#) & one#) << four#);
    let s#_0 = pair#.x; let s#_1 = pair#.y; let m#_0 = pair#.z; let m#_1 = pair#.w;
    let q#_0 = bytes4(c#.x); let q#_1 = bytes4(c#.y); let q#_2 = bytes4(c#.z); let q#_3 = bytes4(c#.w);
    let q#_4 = bytes4(d#.x); let q#_5 = bytes4(d#.y); let q#_6 = bytes4(d#.z); let q#_7 = bytes4(d#.w);
    let q#_8 = bytes4(e#.x); let q#_9 = bytes4(e#.y); let q#_10 = bytes4(e#.z); let q#_11 = bytes4(e#.w);
    let q#_12 = bytes4(f#.x); let q#_13 = bytes4(f#.y); let q#_14 = bytes4(f#.z); let q#_15 = bytes4(f#.w);
";

// Chunk c: half n = (c >> 1) & 1 of block c >> 2, bytes [16 (c & 1), + 16) of its 32-byte lines.
const Q6_K: &str = "    let block# = base# + (p.header_words >> 2u) + (c >> 2u) * 13u;
    let n# = (c >> 1u) & 1u;
    let a# = w[block# + n# * 4u + (c & 1u)];
    let b# = w[block# + n# * 4u + 2u + (c & 1u)];
    let h# = w[block# + 8u + n# * 2u + (c & 1u)];
    let d# = header_half(base#, c >> 2u);
    // Eight scales of the half: bytes (c & 1) + 2 t.
    let both# = w[block# + 12u];
    let bytes# = select(both#.xy, both#.zw, n# == 1u) >> vec2<u32>((c & 1u) * 8u);
    let s#_0 = d# * f32(extractBits(i32(bytes#.x), 0u, 8u)); let s#_1 = d# * f32(extractBits(i32(bytes#.x), 16u, 8u));
    let s#_2 = d# * f32(extractBits(i32(bytes#.y), 0u, 8u)); let s#_3 = d# * f32(extractBits(i32(bytes#.y), 16u, 8u));
    let low# = vec4<u32>(0x0f0f0f0fu); let two# = vec4<u32>(0x30303030u);
    let e# = (a# & low#) | ((h# << vec4<u32>(4u)) & two#);
    let f# = (b# & low#) | ((h# << vec4<u32>(2u)) & two#);
    let g# = ((a# >> vec4<u32>(4u)) & low#) | (h# & two#);
    let i# = ((b# >> vec4<u32>(4u)) & low#) | ((h# >> vec4<u32>(2u)) & two#);
    let o# = vec4<f32>(32.0);
    let q#_0 = bytes4(e#.x) - o#; let q#_1 = bytes4(e#.y) - o#; let q#_2 = bytes4(e#.z) - o#; let q#_3 = bytes4(e#.w) - o#;
    let q#_4 = bytes4(f#.x) - o#; let q#_5 = bytes4(f#.y) - o#; let q#_6 = bytes4(f#.z) - o#; let q#_7 = bytes4(f#.w) - o#;
    let q#_8 = bytes4(g#.x) - o#; let q#_9 = bytes4(g#.y) - o#; let q#_10 = bytes4(g#.z) - o#; let q#_11 = bytes4(g#.w) - o#;
    let q#_12 = bytes4(i#.x) - o#; let q#_13 = bytes4(i#.y) - o#; let q#_14 = bytes4(i#.z) - o#; let q#_15 = bytes4(i#.w) - o#;
";

const Q8_0: &str = "    let at# = base# + (p.header_words >> 2u) + c * 2u;
    let a# = w[at#];
    let b# = w[at# + 1u];
    let s#_0 = header_half(base#, c);
    let q#_0 = signed4(a#.x); let q#_1 = signed4(a#.y); let q#_2 = signed4(a#.z); let q#_3 = signed4(a#.w);
    let q#_4 = signed4(b#.x); let q#_5 = signed4(b#.y); let q#_6 = signed4(b#.z); let q#_7 = signed4(b#.w);
";

const Q4_0: &str = "    let a# = w[base# + (p.header_words >> 2u) + c];
    let s#_0 = header_half(base#, c);
    let o# = vec4<f32>(8.0);
    let q#_0 = nibbles(a#.x) - o#; let q#_1 = nibbles(a#.y) - o#;
    let q#_2 = nibbles(a#.z) - o#; let q#_3 = nibbles(a#.w) - o#;
    let q#_4 = nibbles(a#.x >> 4u) - o#; let q#_5 = nibbles(a#.y >> 4u) - o#;
    let q#_6 = nibbles(a#.z >> 4u) - o#; let q#_7 = nibbles(a#.w >> 4u) - o#;
";

const IQ4_NL: &str = "    let a# = w[base# + (p.header_words >> 2u) + c];
    let s#_0 = header_half(base#, c);
    let q#_0 = codebook4(a#.x); let q#_1 = codebook4(a#.y); let q#_2 = codebook4(a#.z); let q#_3 = codebook4(a#.w);
    let q#_4 = codebook4(a#.x >> 4u); let q#_5 = codebook4(a#.y >> 4u);
    let q#_6 = codebook4(a#.z >> 4u); let q#_7 = codebook4(a#.w >> 4u);
";

const F16: &str = "    let at# = base# + c * 4u;
    let a# = w[at#]; let b# = w[at# + 1u]; let d# = w[at# + 2u]; let e# = w[at# + 3u];
    let s#_0 = 1.0;
    let q#_0 = halves(a#.x, a#.y); let q#_1 = halves(a#.z, a#.w); let q#_2 = halves(b#.x, b#.y);
    let q#_3 = halves(b#.z, b#.w); let q#_4 = halves(d#.x, d#.y); let q#_5 = halves(d#.z, d#.w);
    let q#_6 = halves(e#.x, e#.y); let q#_7 = halves(e#.z, e#.w);
";

const BF16: &str = "    let at# = base# + c * 4u;
    let a# = w[at#]; let b# = w[at# + 1u]; let d# = w[at# + 2u]; let e# = w[at# + 3u];
    let s#_0 = 1.0;
    let q#_0 = brains(a#.x, a#.y); let q#_1 = brains(a#.z, a#.w); let q#_2 = brains(b#.x, b#.y);
    let q#_3 = brains(b#.z, b#.w); let q#_4 = brains(d#.x, d#.y); let q#_5 = brains(d#.z, d#.w);
    let q#_6 = brains(e#.x, e#.y); let q#_7 = brains(e#.z, e#.w);
";

const F32: &str = "    let at# = base# + c * 8u;
    let s#_0 = 1.0;
    let q#_0 = bitcast<vec4<f32>>(w[at#]); let q#_1 = bitcast<vec4<f32>>(w[at# + 1u]);
    let q#_2 = bitcast<vec4<f32>>(w[at# + 2u]); let q#_3 = bitcast<vec4<f32>>(w[at# + 3u]);
    let q#_4 = bitcast<vec4<f32>>(w[at# + 4u]); let q#_5 = bitcast<vec4<f32>>(w[at# + 5u]);
    let q#_6 = bitcast<vec4<f32>>(w[at# + 6u]); let q#_7 = bitcast<vec4<f32>>(w[at# + 7u]);
";
