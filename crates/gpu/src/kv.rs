//! KV pages on the device: layout and formats.
//!
//! Each layer has one buffer of keys and one of values, `[page][kv head][token of the page][head dimension]`. The q8_0
//! format keeps its scales, one f32 per 32 values, behind all quants of the buffer.

use tensor::Format;

/// How keys or values are stored on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum KvFormat {
    F32,
    F16,
    BF16,
    Q8,
}

impl KvFormat {
    /// The device's form of `format`, where it has one.
    pub(crate) fn new(format: Format) -> Option<KvFormat> {
        match format {
            Format::F32 => Some(KvFormat::F32),
            Format::F16 => Some(KvFormat::F16),
            Format::BF16 => Some(KvFormat::BF16),
            Format::Q8_0 => Some(KvFormat::Q8),
            _ => None,
        }
    }

    /// Bytes of `values` entries.
    pub(crate) fn bytes(self, values: u64) -> u64 {
        match self {
            KvFormat::F32 => 4 * values,
            KvFormat::F16 | KvFormat::BF16 => 2 * values,
            KvFormat::Q8 => values + values / 32 * 4,
        }
    }

    /// Word index of the scales in a buffer of `values` entries.
    pub(crate) fn scales_at(self, values: u64) -> u32 {
        u32::try_from(values / 4).expect("a binding is smaller than 2^32 words")
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
        };
        format!("fn load_{x}(at: u32) -> vec4<f32> {{\n  return {};\n}}\n", body.replace('X', x))
    }

    /// WGSL of `fn store_X(at: u32, t: u32)`: the workgroup's `head` to value index `at`.
    pub(crate) fn store(self, x: &str, head_dim: usize) -> String {
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
            crate::shaders::ROW_THREADS,
            body.replace('X', x)
        )
    }
}
