//! The least time that a run could take: every byte at the memory's bandwidth, every operation at the peak of its
//! units, whichever is longer (the roofline).

use checkpoint::Checkpoint;
use model::{DecoderConfig, Part, Place};
use tensor::{Format, PAGE_TOKENS};

use super::device::Reading;

/// Bytes to read and operations to do (a multiplication and an addition count two).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Work {
    pub(super) bytes: f64,
    pub(super) integer_ops: f64,
    pub(super) float_ops: f64,
    pub(super) bf16_ops: f64,
}

impl Work {
    /// Seconds on a device with these limits; operations whose peak was not measured count nothing.
    pub(super) fn least_seconds(&self, limits: &Reading) -> f64 {
        let time = |ops: f64, peak: Option<f64>| peak.map_or(0.0, |peak| ops / peak);
        // Where bf16 has no unit of its own it is computed as f32.
        let bf16 = [limits.bf16_ops_per_s, limits.float_ops_per_s].into_iter().flatten().reduce(f64::max);
        let computing = time(self.integer_ops, limits.integer_ops_per_s)
            + time(self.float_ops, limits.float_ops_per_s)
            + time(self.bf16_ops, bf16);
        computing.max(self.bytes / limits.read_bytes_per_s)
    }

    fn add(&mut self, format: Format, ops: f64) {
        match format {
            Format::F32 | Format::F16 => self.float_ops += ops,
            Format::BF16 => self.bf16_ops += ops,
            _ => self.integer_ops += ops,
        }
    }

    fn times(self, factor: f64) -> Work {
        let Work { bytes, integer_ops, float_ops, bf16_ops } = self;
        Work {
            bytes: bytes * factor,
            integer_ops: integer_ops * factor,
            float_ops: float_ops * factor,
            bf16_ops: bf16_ops * factor,
        }
    }

    fn plus(self, other: Work) -> Work {
        Work {
            bytes: self.bytes + other.bytes,
            integer_ops: self.integer_ops + other.integer_ops,
            float_ops: self.float_ops + other.float_ops,
            bf16_ops: self.bf16_ops + other.bf16_ops,
        }
    }
}

/// What a network's steps must do.
pub(super) struct Ideal<'a> {
    config: &'a DecoderConfig,
    /// Weights of the layers: bytes once a step, operations once a row.
    layers: Work,
    /// The output head: bytes once a step, operations once a row of logits.
    head: Work,
    keys: Format,
    values: Format,
}

impl<'a> Ideal<'a> {
    pub(super) fn new(config: &'a DecoderConfig, checkpoint: &Checkpoint, (keys, values): (Format, Format)) -> Self {
        let names = |part| config.naming.name(Place { part, layer: None }, "weight");
        let (embedding, head_name) =
            (names(Part::Embedding), names(if config.tied { Part::Embedding } else { Part::Head }));
        let (mut layers, mut head) = (Work::default(), Work::default());
        for tensor in checkpoint.tensors() {
            let is_head = tensor.name == head_name;
            if tensor.name == embedding && !is_head {
                continue; // A row for each token, nothing beside the rest.
            }
            let work = if is_head { &mut head } else { &mut layers };
            work.bytes += tensor.data.len() as f64;
            if tensor.shape.len() > 1 {
                work.add(tensor.format, 2.0 * tensor.value_count() as f64);
            }
        }
        Ideal { config, layers, head, keys, values }
    }

    /// A step of one token in each of `seqs` sequences behind `context` tokens.
    pub(super) fn decode(&self, seqs: usize, context: f64) -> Work {
        let matrices = self.layers.plus(self.head);
        let kv = Work { bytes: self.kv_bytes(context), ..self.attention(context) };
        Work { bytes: matrices.bytes, ..matrices.times(seqs as f64) }.plus(kv.times(seqs as f64))
    }

    /// `tokens` tokens behind `depth` in each of `seqs` sequences, in steps of at most `max_rows` rows.
    pub(super) fn prefill(&self, seqs: usize, depth: usize, tokens: usize, max_rows: usize) -> Work {
        let rows = (seqs * tokens) as f64;
        let steps = (seqs * tokens).div_ceil(max_rows) as f64;
        let context = depth as f64 + (tokens as f64 + 1.0) / 2.0;
        let matrices = Work { bytes: self.layers.bytes * steps, ..self.layers.times(rows) };
        let head = Work { bytes: self.head.bytes * steps, ..self.head.times(seqs as f64) };
        let kv = Work { bytes: seqs as f64 * self.kv_bytes(depth as f64), ..self.attention(context).times(rows) };
        matrices.plus(head).plus(kv)
    }

    /// Bytes of keys and values that a token of every layer reads.
    fn kv_bytes(&self, context: f64) -> f64 {
        let of_layer = |layer: &model::LayerConfig| {
            let width = layer.kv_heads * layer.head_dim;
            let bytes = |format: Format| format.row_bytes(width).unwrap_or(0) as f64;
            seen(layer, context) * (bytes(self.keys) + bytes(self.values))
        };
        self.config.layers.iter().map(of_layer).sum()
    }

    /// Operations of one token's attention: q k and p v over the context.
    fn attention(&self, context: f64) -> Work {
        let mut work = Work::default();
        for layer in &self.config.layers {
            let products = seen(layer, context) * (layer.heads * layer.head_dim) as f64;
            work.add(self.keys, 2.0 * products);
            // Queries meet quantized keys as 8-bit integers; quantized values are widened to f32.
            let values = if self.values == Format::BF16 { Format::BF16 } else { Format::F32 };
            work.add(values, 2.0 * products);
        }
        work
    }
}

fn seen(layer: &model::LayerConfig, context: f64) -> f64 {
    layer.window.map_or(context, |window| context.min(window as f64))
}

/// Bytes of the KV pages of `seqs` sequences of `tokens` tokens, none given back by windows. `None` when a format does
/// not fit the heads.
pub(super) fn kv_pool_bytes(
    config: &DecoderConfig,
    seqs: usize,
    tokens: usize,
    (keys, values): (Format, Format),
) -> Option<u64> {
    let layer = |layer: &model::LayerConfig| {
        let head_bytes = keys.row_bytes(layer.head_dim)? + values.row_bytes(layer.head_dim)?;
        Some((layer.kv_heads * head_bytes) as u64)
    };
    let token_bytes: u64 = config.layers.iter().map(layer).sum::<Option<u64>>()?;
    Some(token_bytes * (seqs * tokens.next_multiple_of(PAGE_TOKENS)) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::device::Placement;
    use model::{Quant, Shape};

    fn limits() -> Reading {
        Reading {
            read_bytes_per_s: 20e9,
            read_bytes_per_s_median: 20e9,
            integer_ops_per_s: Some(200e9),
            float_ops_per_s: Some(100e9),
            bf16_ops_per_s: Some(50e9),
            placement: Placement { name: "die", round_trip_ns: vec![60.0] },
        }
    }

    #[test]
    fn decode_is_bound_by_bytes_and_prefill_by_operations() {
        let quant = Quant::from_name("q8_0").expect("a mix");
        let checkpoint = Shape::from_name("llama-160m").expect("a shape").checkpoint(quant).expect("whole blocks");
        let config = DecoderConfig::from_checkpoint(&checkpoint).expect("a description");
        let ideal = Ideal::new(&config, &checkpoint, (Format::F16, Format::F16));
        // 12 layers of (768 + 2 * 256 + 768) * 768 + 3 * 768 * 2048 weights, and 49152 * 768 of the head.
        let (layers, head) = (75_497_472.0, 37_748_736.0);
        let decode = ideal.decode(1, 0.0);
        assert_eq!(decode.integer_ops, 2.0 * (layers + head));
        assert!((decode.bytes / ((layers + head) * 34.0 / 32.0) - 1.0).abs() < 0.01);
        assert_eq!(decode.least_seconds(&limits()), decode.bytes / 20e9);
        // Keys and values of 256 f16 each in every layer.
        assert_eq!(ideal.decode(2, 100.0).bytes - decode.bytes, 2.0 * 100.0 * 12.0 * 2.0 * 512.0);
        let prefill = ideal.prefill(1, 0, 512, 512);
        assert_eq!(prefill.integer_ops, 512.0 * 2.0 * layers + 2.0 * head);
        let seconds = prefill.integer_ops / 200e9 + prefill.float_ops / 100e9;
        assert!((prefill.least_seconds(&limits()) / seconds - 1.0).abs() < 1e-12);
        // Of quantized pages, q k is of integers.
        let quantized = Ideal::new(&config, &checkpoint, (Format::Q8_0, Format::Q8_0)).prefill(1, 0, 512, 512);
        assert_eq!(quantized.integer_ops - prefill.integer_ops, prefill.float_ops / 2.0);
        assert_eq!(quantized.float_ops, prefill.float_ops / 2.0);
    }
}
