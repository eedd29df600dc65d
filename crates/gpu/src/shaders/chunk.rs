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
            Format::Q4_K | Format::Q5_K => format!("{VECTOR_FUNCTIONS}{SCALE_PAIR}"),
            Format::IQ4_NL => format!("{VECTOR_FUNCTIONS}{HEADER_HALF}{}", unit::CODEBOOK),
            _ if self.vectors => VECTOR_FUNCTIONS.into(),
            _ => unit::decoder(self.format),
        }
    }

    /// Whether the bytes that [`Chunk::unpack_bytes`] declares are those of nibbles: -8 to 15.
    pub(super) fn has_nibbles(&self) -> bool {
        Bytes::of(self.format).is_some_and(|bytes| bytes.nibbles)
    }

    /// WGSL functions that [`Chunk::unpack_bytes`] calls: the same for every format, and none reads weights.
    pub(super) fn dots_functions(&self) -> String {
        format!("{VECTOR_FUNCTIONS}{SCALE_PAIR}")
    }

    /// WGSL that declares, for weight row `r` at `base{r}`, its quants `q{r}_{i}`, scales `s{r}_{g}` and minima
    /// `m{r}_{g}`.
    pub(super) fn load(&self, r: u32) -> String {
        let template = match self.format {
            Format::IQ4_NL => IQ4_NL,
            Format::F16 => F16,
            Format::BF16 => BF16,
            Format::F32 => F32,
            _ => {
                let Some(bytes) = Bytes::of(self.format) else { return self.load_unit(r) };
                let mut text = bytes.fetched(r) + &bytes.setup.replace('#', &r.to_string());
                let (unpack, zero) = match bytes.zero {
                    0 if bytes.signed => ("signed4", String::new()),
                    0 => ("bytes4", String::new()),
                    zero => ("bytes4", format!(" - vec4<f32>({zero}.0)")),
                };
                for (i, word) in bytes.words(r).iter().enumerate() {
                    let _ = writeln!(text, "    let q{r}_{i} = {unpack}({word}){zero};");
                }
                return text;
            }
        };
        template.replace('#', &r.to_string())
    }

    /// As [`Chunk::load`], with the quants as words of four signed bytes `v{r}_{i}`; for formats that [`has_dots`].
    pub(super) fn load_bytes(&self, r: u32) -> String {
        self.fetched_bytes(r) + &self.unpack_bytes(r)
    }

    /// Declares what [`Chunk::unpack_bytes`] unpacks: the vectors `raw{r}_{i}`.
    fn fetched_bytes(&self, r: u32) -> String {
        Bytes::of(self.format).expect("a format of bytes").fetched(r)
    }

    /// The indices of those vectors in the weights, for a chunk `c` of the row at `base{r}`.
    pub(super) fn places(&self, r: u32) -> Vec<String> {
        Bytes::of(self.format).expect("a format of bytes").places(r)
    }

    /// The second half of [`Chunk::load_bytes`], where the vectors were fetched before.
    pub(super) fn unpack_bytes(&self, r: u32) -> String {
        let bytes = Bytes::of(self.format).expect("a format of bytes");
        let mut text = bytes.setup.replace('#', &r.to_string());
        for (i, word) in bytes.words(r).iter().enumerate() {
            let value = match bytes.zero {
                0 => word.clone(),
                // No byte borrows from its neighbour: the sign bit is lent to each, and taken back.
                zero => format!("((({word}) | 0x80808080u) - {:#010x}u) ^ 0x80808080u", 0x0101_0101u32 * zero),
            };
            let _ = writeln!(text, "    let v{r}_{i} = {value};");
        }
        text
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

/// Whether weights of this format become signed bytes without loss, at little cost.
pub(crate) fn has_dots(format: Format) -> bool {
    Bytes::of(format).is_some()
}

/// A chunk whose quants are bytes.
struct Bytes {
    /// WGSL of where a block of a row begins, `@` in `raw`.
    block: &'static str,
    /// WGSL of the indices of the vectors that are read.
    raw: &'static [&'static str],
    /// WGSL that makes of these scales, minima, and vectors of words.
    setup: &'static str,
    /// Those vectors in order; each word has four quants.
    vectors: &'static [&'static str],
    /// Words are low nibbles of all vectors first, then their high nibbles.
    nibbles: bool,
    /// Bytes are signed.
    signed: bool,
    /// What is to be subtracted from unsigned ones.
    zero: u32,
}

impl Bytes {
    fn of(format: Format) -> Option<Bytes> {
        let (block, raw, setup): (_, &[_], _) = match format {
            Format::Q4_K => {
                ("base# + (c >> 2u) * 9u", &["@", "@ + 1u + (c & 3u) * 2u", "@ + 2u + (c & 3u) * 2u"], Q4_K)
            }
            Format::Q5_K => (
                "base# + (c >> 2u) * 11u",
                &["@", "@ + 1u", "@ + 2u", "@ + 3u + (c & 3u) * 2u", "@ + 4u + (c & 3u) * 2u"],
                Q5_K,
            ),
            // Chunk c: half (c >> 1) & 1 of block c >> 2, bytes [16 (c & 1), + 16) of its 32-byte lines.
            Format::Q6_K => (
                "base# + (p.header_words >> 2u) + (c >> 2u) * 13u",
                &[
                    "base# + (c >> 5u)",
                    "@ + ((c >> 1u) & 1u) * 4u + (c & 1u)",
                    "@ + ((c >> 1u) & 1u) * 4u + 2u + (c & 1u)",
                    "@ + 8u + ((c >> 1u) & 1u) * 2u + (c & 1u)",
                    "@ + 12u",
                ],
                Q6_K,
            ),
            Format::Q8_0 => ("base# + (p.header_words >> 2u) + c * 2u", &["base# + (c >> 3u)", "@", "@ + 1u"], Q8_0),
            Format::Q4_0 => ("base# + (p.header_words >> 2u) + c", &["base# + (c >> 3u)", "@"], Q4_0),
            _ => return None,
        };
        let (vectors, nibbles, signed, zero): (&[_], _, _, _) = match format {
            Format::Q4_K => (&["a", "b"], true, false, 0),
            Format::Q5_K => (&["c", "d", "e", "f"], false, false, 0),
            Format::Q6_K => (&["e", "f", "g", "i"], false, false, 32),
            Format::Q8_0 => (&["a", "b"], false, true, 0),
            _ => (&["a"], true, false, 8),
        };
        Some(Bytes { block, raw, setup, vectors, nibbles, signed, zero })
    }

    /// WGSL of the indices of the vectors that are read of weight row `r`.
    fn places(&self, r: u32) -> Vec<String> {
        let place = |index: &&str| index.replace('@', self.block).replace('#', &r.to_string());
        self.raw.iter().map(place).collect()
    }

    /// WGSL that reads them.
    fn fetched(&self, r: u32) -> String {
        let read = |(i, place): (usize, String)| format!("    let raw{r}_{i} = w[{place}];\n");
        self.places(r).into_iter().enumerate().map(read).collect()
    }

    /// WGSL of the words of weight row `r`.
    fn words(&self, r: u32) -> Vec<String> {
        let each = |wrap: fn(String) -> String| {
            let words =
                self.vectors.iter().flat_map(move |v| ["x", "y", "z", "w"].map(|lane| format!("{v}{r}.{lane}")));
            words.map(wrap).collect::<Vec<_>>()
        };
        if !self.nibbles {
            return each(|word| word);
        }
        [each(|word| format!("{word} & 0x0f0f0f0fu")), each(|word| format!("({word} >> 4u) & 0x0f0f0f0fu"))].concat()
    }
}

/// A unit of 32 weights whose bytes are fetched some time before they are unpacked.
pub(super) struct Fetched {
    format: Format,
    /// WGSL of what is fetched, `c` being the unit's index in its row. Nothing where unpacking reads it itself.
    raw: &'static [&'static str],
    /// WGSL that declares scales, minimum and vectors `e` and `f` of words of four unsigned bytes.
    setup: &'static str,
}

impl Fetched {
    pub(super) fn of(format: Format) -> Fetched {
        let (raw, setup): (&[_], _) = match format {
            Format::Q4_K => {
                (&["w[@ + 0u]", "w[@ + 1u + ((c & 7u) >> 1u) * 2u]", "w[@ + 2u + ((c & 7u) >> 1u) * 2u]"], UNIT_Q4_K)
            }
            Format::Q5_K => (
                &[
                    "w[@ + 0u]",
                    "w[@ + 3u + ((c & 7u) >> 1u) * 2u]",
                    "w[@ + 4u + ((c & 7u) >> 1u) * 2u]",
                    "w[@ + 1u]",
                    "w[@ + 2u]",
                ],
                UNIT_Q5_K,
            ),
            Format::Q6_K => (
                &[
                    "w[base# + (c >> 6u)]",
                    "w[@ + ((c & 7u) >> 2u) * 4u + (c & 1u) * 2u]",
                    "w[@ + ((c & 7u) >> 2u) * 4u + (c & 1u) * 2u + 1u]",
                    "w[@ + 8u + ((c & 7u) >> 2u) * 2u]",
                    "w[@ + 9u + ((c & 7u) >> 2u) * 2u]",
                    "w[@ + 12u]",
                ],
                UNIT_Q6_K,
            ),
            _ => (&[], ""),
        };
        Fetched { format, raw, setup }
    }

    /// Declares what is fetched for unit `c` of the row at `base{r}`.
    pub(super) fn declare(&self, r: usize, c: &str) -> String {
        self.each(r, c, "  var ")
    }

    /// Fetches the same for another unit.
    pub(super) fn fetch(&self, r: usize, c: &str) -> String {
        self.each(r, c, "    ")
    }

    fn each(&self, r: usize, c: &str, before: &str) -> String {
        let block = match self.format {
            Format::Q4_K => "base# + (c >> 3u) * 9u",
            Format::Q5_K => "base# + (c >> 3u) * 11u",
            _ => "base# + (p.header_words >> 2u) + (c >> 3u) * 13u",
        };
        let mut text = String::new();
        for (i, source) in self.raw.iter().enumerate() {
            let source = source.replace('@', block).replace("(c ", &format!("({c} ")).replace('#', &r.to_string());
            let _ = writeln!(text, "{before}raw{r}_{i} = {source};");
        }
        text
    }

    /// Declares the weights of unit `c` as quads `w{i}` of f32.
    pub(super) fn unpack(&self, r: usize) -> String {
        let mut text = String::new();
        if self.raw.is_empty() {
            let chunk = Chunk::new(self.format);
            text.push_str(&chunk.load(r as u32));
            for i in 0..chunk.quads {
                let g = i / chunk.quads_per_scale;
                let minimum = if chunk.has_minimum { format!(" - vec4<f32>(m{r}_{g})") } else { String::new() };
                let _ = writeln!(text, "    let w{i} = q{r}_{i} * s{r}_{g}{minimum};");
            }
            return text;
        }
        text.push_str(&self.setup.replace('#', &r.to_string()));
        for i in 0..8 {
            let word = format!("{}{r}.{}", ["e", "f"][i / 4], ["x", "y", "z", "w"][i % 4]);
            let value = match self.format {
                Format::Q6_K => format!("(bytes4({word}) - vec4<f32>(32.0)) * s{r}_{}", i / 4),
                _ => format!("bytes4({word}) * s{r}_0 - vec4<f32>(m{r}_0)"),
            };
            let _ = writeln!(text, "    let w{i} = {value};");
        }
        text
    }
}

const UNIT_Q4_K: &str = "    let odd# = (c & 1u) == 1u;
    let shift# = vec4<u32>((c & 1u) * 4u);
    let pair# = scale_pair(raw#_0, (c & 7u) >> 1u);
    let s#_0 = select(pair#.x, pair#.y, odd#); let m#_0 = select(pair#.z, pair#.w, odd#);
    let e# = (raw#_1 >> shift#) & vec4<u32>(0x0f0f0f0fu);
    let f# = (raw#_2 >> shift#) & vec4<u32>(0x0f0f0f0fu);
";

const UNIT_Q5_K: &str = "    let odd# = (c & 1u) == 1u;
    let shift# = vec4<u32>((c & 1u) * 4u);
    let bit# = vec4<u32>(c & 7u);
    let pair# = scale_pair(raw#_0, (c & 7u) >> 1u);
    let s#_0 = select(pair#.x, pair#.y, odd#); let m#_0 = select(pair#.z, pair#.w, odd#);
    let e# = ((raw#_1 >> shift#) & vec4<u32>(0x0f0f0f0fu)) | (((raw#_3 >> bit#) & vec4<u32>(0x01010101u)) << vec4<u32>(4u));
    let f# = ((raw#_2 >> shift#) & vec4<u32>(0x0f0f0f0fu)) | (((raw#_4 >> bit#) & vec4<u32>(0x01010101u)) << vec4<u32>(4u));
";

const UNIT_Q6_K: &str = "    let shift# = vec4<u32>(((c >> 1u) & 1u) * 4u);
    let high# = vec4<u32>((c & 3u) * 2u);
    let halves# = word_of(raw#_0, (c >> 4u) & 3u) >> (((c >> 3u) & 1u) * 16u);
    let d# = unpack2x16float(halves#).x;
    let both# = word_of(raw#_5, (c & 7u) >> 1u) >> ((c & 1u) * 16u);
    let s#_0 = d# * f32(extractBits(i32(both#), 0u, 8u)); let s#_1 = d# * f32(extractBits(i32(both#), 8u, 8u));
    let e# = ((raw#_1 >> shift#) & vec4<u32>(0x0f0f0f0fu)) | (((raw#_3 >> high#) & vec4<u32>(0x03030303u)) << vec4<u32>(4u));
    let f# = ((raw#_2 >> shift#) & vec4<u32>(0x0f0f0f0fu)) | (((raw#_4 >> high#) & vec4<u32>(0x03030303u)) << vec4<u32>(4u));
";

const VECTOR_FUNCTIONS: &str = "
fn bytes4(v: u32) -> vec4<f32> { return vec4<f32>(unpack4xU8(v)); }
fn signed4(v: u32) -> vec4<f32> { return vec4<f32>(unpack4xI8(v)); }
fn halves(a: u32, b: u32) -> vec4<f32> { return vec4<f32>(unpack2x16float(a), unpack2x16float(b)); }
fn brains(a: u32, b: u32) -> vec4<f32> {
  return bitcast<vec4<f32>>(vec4<u32>(a << 16u, a & 0xffff0000u, b << 16u, b & 0xffff0000u));
}
fn word_of(v: vec4<u32>, k: u32) -> u32 {
  return select(select(v.x, v.y, k == 1u), select(v.z, v.w, k == 3u), k > 1u);
}
fn half_of(v: vec4<u32>, i: u32) -> f32 {
  return unpack2x16float(word_of(v, (i >> 1u) & 3u) >> ((i & 1u) * 16u)).x;
}
// An integer from -2^22 to 2^22, as the low bits of a float.
fn low_bits(i: i32) -> f32 { return bitcast<f32>(i + 0x4b400000) - 12582912.0; }
";

const HEADER_HALF: &str = "
fn header_half(base: u32, i: u32) -> f32 { return half_of(w[base + (i >> 3u)], i); }
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
  // As the low bits of a float: conversions are slow.
  let bits = vec4<u32>(scales & 255u, (scales >> 8u) & 255u, minima & 255u, (minima >> 8u) & 255u);
  return dm.xxyy * (bitcast<vec4<f32>>(bits | vec4<u32>(0x4b000000u)) - vec4<f32>(8388608.0));
}
";

const Q4_K: &str = "    let pair# = scale_pair(raw#_0, c & 3u);
    let a# = raw#_1;
    let b# = raw#_2;
    let s#_0 = pair#.x; let s#_1 = pair#.y; let m#_0 = pair#.z; let m#_1 = pair#.w;
";

const Q5_K: &str = "    let pair# = scale_pair(raw#_0, c & 3u);
    let low_bits# = vec4<u32>((c & 3u) * 2u);
    let h# = raw#_1 >> low_bits#;
    let i# = raw#_2 >> low_bits#;
    let a# = raw#_3;
    let b# = raw#_4;
    let one# = vec4<u32>(0x01010101u); let low# = vec4<u32>(0x0f0f0f0fu);
    let four# = vec4<u32>(4u); let by_one# = vec4<u32>(1u);
    let c# = (a# & low#) | ((h# & one#) << four#);
    let d# = (b# & low#) | ((i# & one#) << four#);
    let e# = ((a# >> four#) & low#) | (((h# >> by_one#) & one#) << four#);
    let f# = ((b# >> four#) & low#) | (((i# >> by_one#) & one#) << four#);
    let s#_0 = pair#.x; let s#_1 = pair#.y; let m#_0 = pair#.z; let m#_1 = pair#.w;
";

const Q6_K: &str = "    let a# = raw#_1;
    let b# = raw#_2;
    let h# = raw#_3;
    let d# = half_of(raw#_0, (c >> 2u) & 7u);
    // Eight scales of the half: bytes (c & 1) + 2 t.
    let bytes# = select(raw#_4.xy, raw#_4.zw, ((c >> 1u) & 1u) == 1u) >> vec2<u32>((c & 1u) * 8u);
    let s#_0 = d# * f32(extractBits(i32(bytes#.x), 0u, 8u)); let s#_1 = d# * f32(extractBits(i32(bytes#.x), 16u, 8u));
    let s#_2 = d# * f32(extractBits(i32(bytes#.y), 0u, 8u)); let s#_3 = d# * f32(extractBits(i32(bytes#.y), 16u, 8u));
    let low# = vec4<u32>(0x0f0f0f0fu); let two# = vec4<u32>(0x30303030u);
    let e# = (a# & low#) | ((h# << vec4<u32>(4u)) & two#);
    let f# = (b# & low#) | ((h# << vec4<u32>(2u)) & two#);
    let g# = ((a# >> vec4<u32>(4u)) & low#) | (h# & two#);
    let i# = ((b# >> vec4<u32>(4u)) & low#) | ((h# >> vec4<u32>(2u)) & two#);
";

const Q8_0: &str = "    let a# = raw#_1;
    let b# = raw#_2;
    let s#_0 = half_of(raw#_0, c & 7u);
";

const Q4_0: &str = "    let a# = raw#_1;
    let s#_0 = half_of(raw#_0, c & 7u);
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
