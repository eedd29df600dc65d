//! How keys and values are stored on the device.
//!
//! The quantized forms keep their scales, one f32 per 32 values, behind all quants of the buffer.

use tensor::Format;

/// How keys or values are stored on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KvFormat {
    F32,
    F16,
    BF16,
    /// Signed bytes.
    Q8,
    /// Nibbles, 8 more than their value; eight consecutive values to a word.
    Q4,
}

impl KvFormat {
    /// The device's form of `format`, where it has one.
    pub(crate) fn new(format: Format) -> Option<KvFormat> {
        match format {
            Format::F32 => Some(KvFormat::F32),
            Format::F16 => Some(KvFormat::F16),
            Format::BF16 => Some(KvFormat::BF16),
            Format::Q8_0 => Some(KvFormat::Q8),
            Format::Q4_0 => Some(KvFormat::Q4),
            _ => None,
        }
    }

    /// For the names of kernels.
    pub(crate) fn name(self) -> &'static str {
        match self {
            KvFormat::F32 => "f32",
            KvFormat::F16 => "f16",
            KvFormat::BF16 => "bf16",
            KvFormat::Q8 => "q8_0",
            KvFormat::Q4 => "q4_0",
        }
    }

    /// Whether 32 values share a scale.
    pub(crate) fn is_quantized(self) -> bool {
        matches!(self, KvFormat::Q8 | KvFormat::Q4)
    }

    /// Bytes of `values` entries.
    pub(crate) fn bytes(self, values: u64) -> u64 {
        self.entry_bytes(values) + if self.is_quantized() { values / 32 * 4 } else { 0 }
    }

    /// Word index of the scales in a buffer of `values` entries.
    pub(crate) fn scales_at(self, values: u64) -> u32 {
        u32::try_from(self.entry_bytes(values) / 4).expect("a binding is smaller than 2^32 words")
    }

    /// The parts of a buffer of `values` entries: where each begins, and the bytes of a page of `page_values` in it.
    pub(crate) fn parts(self, values: u64, page_values: u64) -> impl Iterator<Item = (u64, u64)> {
        let scales = self.is_quantized().then(|| (self.entry_bytes(values), page_values / 8));
        std::iter::once((0, self.entry_bytes(page_values))).chain(scales)
    }

    /// Bytes of `values` entries without scales.
    fn entry_bytes(self, values: u64) -> u64 {
        match self {
            KvFormat::F32 => 4 * values,
            KvFormat::F16 | KvFormat::BF16 => 2 * values,
            KvFormat::Q8 => values,
            KvFormat::Q4 => values / 2,
        }
    }

    /// WGSL of `fn load_X(at: u32) -> vec4<f32>`: four consecutive values from value index `at`, a multiple of 4.
    pub(crate) fn load(self, x: &str) -> String {
        let body = match self {
            KvFormat::F32 => {
                "bitcast<vec4<f32>>(vec4<u32>(X_pages[at], X_pages[at + 1u], X_pages[at + 2u], X_pages[at + 3u]))"
            }
            KvFormat::F16 => "vec4<f32>(unpack2x16float(X_pages[at >> 1u]), unpack2x16float(X_pages[(at >> 1u) + 1u]))",
            KvFormat::BF16 => {
                "bitcast<vec4<f32>>(vec4<u32>(X_pages[at >> 1u] << 16u, X_pages[at >> 1u] & 0xffff0000u,
    X_pages[(at >> 1u) + 1u] << 16u, X_pages[(at >> 1u) + 1u] & 0xffff0000u))"
            }
            KvFormat::Q8 => {
                "vec4<f32>(unpack4xI8(X_pages[at >> 2u])) * bitcast<f32>(X_pages[p.X_scales_at + (at >> 5u)])"
            }
            KvFormat::Q4 => {
                "(vec4<f32>((vec4<u32>(X_pages[at >> 3u] >> ((at & 4u) * 4u)) >> vec4<u32>(0u, 4u, 8u, 12u))
    & vec4<u32>(15u)) - vec4<f32>(8.0)) * bitcast<f32>(X_pages[p.X_scales_at + (at >> 5u)])"
            }
        };
        format!("fn load_{x}(at: u32) -> vec4<f32> {{\n  return {};\n}}\n", body.replace('X', x))
    }

    /// WGSL of `fn store_X(at: u32, t: u32)`: the workgroup's `head` (the name of an array of f32) to value index `at`, thread
    /// `t` being one of `threads`.
    pub(crate) fn store(self, x: &str, head: &str, head_dim: usize, threads: usize) -> String {
        let (items, body) = match self {
            KvFormat::F32 => (head_dim, "X_pages[at + i] = bitcast<u32>(head[i]);"),
            KvFormat::F16 => {
                (head_dim / 2, "X_pages[(at >> 1u) + i] = pack2x16float(vec2<f32>(head[2u * i], head[2u * i + 1u]));")
            }
            KvFormat::BF16 => (
                head_dim / 2,
                "X_pages[(at >> 1u) + i] = (X_bf16(head[2u * i]) >> 16u) | (X_bf16(head[2u * i + 1u]) & 0xffff0000u);",
            ),
            KvFormat::Q8 => (
                head_dim / 32,
                "var most = 0.0;
    for (var j = 0u; j < 32u; j += 1u) { most = max(most, abs(head[i * 32u + j])); }
    let inverse = select(0.0, 127.0 / most, most > 0.0);
    X_pages[p.X_scales_at + (at >> 5u) + i] = bitcast<u32>(most / 127.0);
    for (var j = 0u; j < 8u; j += 1u) {
      let source = i * 32u + j * 4u;
      X_pages[(at >> 2u) + i * 8u + j] = pack4xI8(vec4<i32>(round(
        vec4<f32>(head[source], head[source + 1u], head[source + 2u], head[source + 3u]) * inverse)));
    }",
            ),
            // The value of the greatest magnitude becomes -8, as GGUF's q4_0 has it.
            KvFormat::Q4 => (
                head_dim / 32,
                "var most = 0.0;
    for (var j = 0u; j < 32u; j += 1u) {
      let v = head[i * 32u + j];
      if (abs(v) > abs(most)) { most = v; }
    }
    let scale = most / -8.0;
    let inverse = select(0.0, 1.0 / scale, most != 0.0);
    X_pages[p.X_scales_at + (at >> 5u) + i] = bitcast<u32>(scale);
    for (var j = 0u; j < 4u; j += 1u) {
      var word = 0u;
      for (var n = 0u; n < 8u; n += 1u) {
        let q = clamp(floor(head[i * 32u + j * 8u + n] * inverse + 8.5), 0.0, 15.0);
        word |= u32(q) << (4u * n);
      }
      X_pages[(at >> 3u) + i * 4u + j] = word;
    }",
            ),
        };
        let helper = if self == KvFormat::BF16 {
            // Round to nearest, ties to even, in the upper 16 bits.
            "fn X_bf16(v: f32) -> u32 { let b = bitcast<u32>(v); return b + 0x7fffu + ((b >> 16u) & 1u); }\n"
        } else {
            ""
        };
        format!(
            "{}fn store_{x}(at: u32, t: u32) {{\n  for (var i = t; i < {items}u; i += {}u) {{\n    {}\n  }}\n}}\n",
            helper.replace('X', x),
            threads,
            body.replace("head[", &format!("{head}[")).replace('X', x)
        )
    }
}
