//! A small converter from Hugging Face directories to GGUF, for the tiny models: names, q and k order and norm offsets
//! are written down here a second time, so that the tables of the crate are tested and not repeated.

use std::path::Path;

use checkpoint::Checkpoint;
use checkpoint::gguf::{Metadata, TensorHeader, Writer};
use serde_json::Value;
use tensor::Format;

/// Writes the model in `dir` as a GGUF file at `path`.
pub(crate) fn to_gguf(dir: &Path, path: &Path) {
    let config: Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    let model = Checkpoint::open(dir).unwrap();
    let source = Source { config: &config };
    let mut tensors = Vec::new();
    for tensor in model.tensors() {
        assert_eq!(tensor.format, Format::F32);
        let values = tensor.data.chunks_exact(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
        tensors.push((source.name(tensor.name), tensor.shape.to_vec(), source.values(tensor.name, values)));
    }
    if let Some(divisors) = source.rope_divisors() {
        tensors.push(("rope_freqs.weight".into(), vec![divisors.len()], divisors));
    }
    let header = |(name, shape, _): &(String, Vec<usize>, Vec<f32>)| TensorHeader {
        name: name.clone(),
        shape: shape.clone(),
        format: Format::F32,
    };
    let headers: Vec<TensorHeader> = tensors.iter().map(header).collect();
    let mut writer = Writer::create(path, &source.metadata(), &headers).unwrap();
    for (_, _, values) in &tensors {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.write(&bytes).unwrap();
    }
    writer.finish().unwrap();
}

struct Source<'a> {
    config: &'a Value,
}

impl Source<'_> {
    fn architecture(&self) -> &'static str {
        match self.config["model_type"].as_str().unwrap() {
            "llama" | "mistral" => "llama",
            "qwen2" => "qwen2",
            "qwen3" => "qwen3",
            "gemma3_text" => "gemma3",
            other => panic!("no converter for {other}"),
        }
    }

    fn size(&self, key: &str) -> Option<u32> {
        self.config[key].as_u64().map(|size| size as u32)
    }

    fn head_dim(&self) -> u32 {
        let divided = || self.size("hidden_size").unwrap() / self.size("num_attention_heads").unwrap();
        self.size("head_dim").unwrap_or_else(divided)
    }

    fn metadata(&self) -> Metadata {
        let arch = self.architecture();
        let mut metadata = Metadata::default();
        metadata.insert("general.architecture", arch);
        let sizes = [
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("block_count", "num_hidden_layers"),
            ("feed_forward_length", "intermediate_size"),
            ("attention.head_count", "num_attention_heads"),
            ("attention.head_count_kv", "num_key_value_heads"),
            ("attention.sliding_window", "sliding_window"),
            ("vocab_size", "vocab_size"),
        ];
        for (key, from) in sizes {
            if let Some(size) = self.size(from) {
                metadata.insert(format!("{arch}.{key}"), size);
            }
        }
        let rope = &self.config["rope_parameters"];
        let rope = rope.get("full_attention").unwrap_or(rope);
        metadata.insert(format!("{arch}.rope.freq_base"), rope["rope_theta"].as_f64().unwrap() as f32);
        metadata.insert(format!("{arch}.attention.key_length"), self.head_dim());
        metadata.insert(format!("{arch}.attention.value_length"), self.head_dim());
        metadata.insert(format!("{arch}.rope.dimension_count"), self.head_dim());
        let eps = self.config["rms_norm_eps"].as_f64().unwrap() as f32;
        metadata.insert(format!("{arch}.attention.layer_norm_rms_epsilon"), eps);
        metadata
    }

    fn name(&self, name: &str) -> String {
        let gemma = self.architecture() == "gemma3";
        let name = name.strip_prefix("model.").unwrap_or(name);
        let (prefix, part) = match name.strip_prefix("layers.").and_then(|rest| rest.split_once('.')) {
            Some((layer, part)) => (format!("blk.{layer}."), part),
            None => (String::new(), name),
        };
        let (part, kind) = part.rsplit_once('.').unwrap();
        let part = match part {
            "embed_tokens" => "token_embd",
            "norm" => "output_norm",
            "lm_head" => "output",
            "input_layernorm" => "attn_norm",
            "self_attn.q_proj" => "attn_q",
            "self_attn.k_proj" => "attn_k",
            "self_attn.v_proj" => "attn_v",
            "self_attn.q_norm" => "attn_q_norm",
            "self_attn.k_norm" => "attn_k_norm",
            "self_attn.o_proj" => "attn_output",
            "post_attention_layernorm" if gemma => "post_attention_norm",
            "post_attention_layernorm" | "pre_feedforward_layernorm" => "ffn_norm",
            "post_feedforward_layernorm" => "post_ffw_norm",
            "mlp.gate_proj" => "ffn_gate",
            "mlp.up_proj" => "ffn_up",
            "mlp.down_proj" => "ffn_down",
            other => panic!("no name for {other}"),
        };
        format!("{prefix}{part}.{kind}")
    }

    fn values(&self, name: &str, values: Vec<f32>) -> Vec<f32> {
        let arch = self.architecture();
        let heads = |key| self.size(key).unwrap() as usize;
        if arch == "gemma3" && name.contains("norm") {
            return values.iter().map(|value| value + 1.0).collect();
        }
        match name {
            _ if arch != "llama" => values,
            _ if name.contains("q_proj") => pairs_together(values, heads("num_attention_heads")),
            _ if name.contains("k_proj") => pairs_together(values, heads("num_key_value_heads")),
            _ => values,
        }
    }

    /// Llama 3's scaling in the form that GGUF files carry.
    fn rope_divisors(&self) -> Option<Vec<f32>> {
        let rope = &self.config["rope_parameters"];
        if rope["rope_type"] != "llama3" {
            return None;
        }
        let number = |key: &str| rope[key].as_f64().unwrap();
        let (factor, low, high) = (number("factor"), number("low_freq_factor"), number("high_freq_factor"));
        let (context, dim) = (number("original_max_position_embeddings"), f64::from(self.head_dim()));
        let divisor = |pair: u32| {
            let wavelength = std::f64::consts::TAU * number("rope_theta").powf(f64::from(2 * pair) / dim);
            if wavelength < context / high {
                1.0
            } else if wavelength > context / low {
                factor
            } else {
                let smooth = (context / wavelength - low) / (high - low);
                1.0 / ((1.0 - smooth) / factor + smooth)
            }
        };
        Some((0..self.head_dim() / 2).map(|pair| divisor(pair) as f32).collect())
    }
}

/// Moves rows of each head so that rows i and i + n/2 become neighbours.
fn pairs_together(values: Vec<f32>, heads: usize) -> Vec<f32> {
    // q and k have 64 columns in all tiny models; a bias would have one.
    const COLS: usize = 64;
    let head_rows = values.len() / COLS / heads;
    let mut moved = Vec::with_capacity(values.len());
    for head in values.chunks_exact(head_rows * COLS) {
        let rows: Vec<&[f32]> = head.chunks_exact(COLS).collect();
        for pair in 0..head_rows / 2 {
            moved.extend(rows[pair]);
            moved.extend(rows[pair + head_rows / 2]);
        }
    }
    moved
}
