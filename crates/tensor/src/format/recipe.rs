//! Which format each tensor of a model gets: a recipe spends more bits where errors hurt more.
//!
//! The mixes are the ones that the names `q4_k_m` and so on mean to everybody who uses GGUF files, chosen by their
//! inventors from measured perplexity. Start with [`Recipe::format`].

use super::Format;

/// A named choice of formats for a whole model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(non_camel_case_types, reason = "the field writes these names so")]
pub enum Recipe {
    /// The values as they are, 32 bits a weight: to compute with the weights of a quantized file exactly.
    F32,
    /// Half precision, 16 bits a weight.
    F16,
    /// The upper half of F32, 16 bits a weight.
    BF16,
    /// 8.5 bits a weight.
    Q8_0,
    /// 6.6 bits a weight.
    Q6_K,
    /// Q5_K with some Q6_K: about 5.7 bits a weight.
    Q5_K_M,
    /// Q4_K with some Q6_K: about 4.9 bits a weight.
    Q4_K_M,
    /// Q3_K with some Q4_K and Q5_K: about 4 bits a weight.
    Q3_K_M,
    /// 4.5 bits a weight.
    Q4_0,
}

/// What a tensor does in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TensorKind {
    /// Token embeddings.
    Embedding,
    /// Output head.
    Output,
    /// Key projection.
    AttnK,
    /// Value projection, or query, key and value in one.
    AttnV,
    /// Output projection of attention.
    AttnOut,
    /// Down projection of an MLP or of its experts.
    FfnDown,
    /// Any other matrix: query, gate, up.
    Other,
}

/// A matrix to choose a format for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorPlace {
    /// What it does.
    pub kind: TensorKind,
    /// Its layer; 0 outside the layers.
    pub layer: usize,
    /// Values in a row.
    pub cols: usize,
}

/// What a recipe wants to know about the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// Layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Experts of a layer; 0 or 1 without.
    pub experts: usize,
    /// Whether the token embeddings are the output head as well.
    pub tied_embedding: bool,
    /// Whether an importance matrix is at hand.
    pub importance: bool,
}

impl TensorKind {
    /// Kind and layer of a GGUF tensor with at least two dimensions, or `None` when it stays as it is: norms, biases,
    /// expert routers, short convolutions.
    pub fn from_gguf_name(name: &str) -> Option<(TensorKind, usize)> {
        const KEPT: [&str; 4] = ["_norm.weight", "ffn_gate_inp.weight", "ssm_conv1d.weight", "shortconv.conv.weight"];
        const KINDS: [(&str, TensorKind); 8] = [
            ("token_embd.weight", TensorKind::Embedding),
            ("attn_qkv.weight", TensorKind::AttnV),
            ("attn_kv_b.weight", TensorKind::AttnV),
            ("attn_v.weight", TensorKind::AttnV),
            ("attn_k.weight", TensorKind::AttnK),
            ("attn_output.weight", TensorKind::AttnOut),
            ("ffn_down", TensorKind::FfnDown),
            ("output.weight", TensorKind::Output),
        ];
        if !name.ends_with("weight") || KEPT.iter().any(|kept| name.contains(kept)) {
            return None;
        }
        let (layer, base) = match name.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) {
            Some((layer, base)) => (layer.parse().ok()?, base),
            None => (0, name),
        };
        let kind = KINDS.iter().find(|(start, _)| base.starts_with(start));
        Some((kind.map_or(TensorKind::Other, |(_, kind)| *kind), layer))
    }
}

impl Recipe {
    /// Every recipe, most bits first.
    pub const ALL: [Recipe; 9] = [
        Recipe::F32,
        Recipe::F16,
        Recipe::BF16,
        Recipe::Q8_0,
        Recipe::Q6_K,
        Recipe::Q5_K_M,
        Recipe::Q4_K_M,
        Recipe::Q4_0,
        Recipe::Q3_K_M,
    ];

    /// The name that settings and files use: `q4_k_m`.
    pub const fn name(self) -> &'static str {
        match self {
            Recipe::F32 => "f32",
            Recipe::F16 => "f16",
            Recipe::BF16 => "bf16",
            Recipe::Q8_0 => "q8_0",
            Recipe::Q6_K => "q6_k",
            Recipe::Q5_K_M => "q5_k_m",
            Recipe::Q4_K_M => "q4_k_m",
            Recipe::Q3_K_M => "q3_k_m",
            Recipe::Q4_0 => "q4_0",
        }
    }

    /// The recipe with this [`Recipe::name`], in any case.
    pub fn from_name(name: &str) -> Option<Recipe> {
        Recipe::ALL.into_iter().find(|recipe| recipe.name().eq_ignore_ascii_case(name))
    }

    /// The number under `general.file_type` in a GGUF file.
    pub const fn gguf_file_type(self) -> u32 {
        match self {
            Recipe::F32 => 0,
            Recipe::F16 => 1,
            Recipe::Q4_0 => 2,
            Recipe::Q8_0 => 7,
            Recipe::Q3_K_M => 12,
            Recipe::Q4_K_M => 15,
            Recipe::Q5_K_M => 17,
            Recipe::Q6_K => 18,
            Recipe::BF16 => 32,
        }
    }

    /// The format of most tensors.
    pub const fn base(self) -> Format {
        match self {
            Recipe::F32 => Format::F32,
            Recipe::F16 => Format::F16,
            Recipe::BF16 => Format::BF16,
            Recipe::Q8_0 => Format::Q8_0,
            Recipe::Q6_K => Format::Q6_K,
            Recipe::Q5_K_M => Format::Q5_K,
            Recipe::Q4_K_M => Format::Q4_K,
            Recipe::Q3_K_M => Format::Q3_K,
            Recipe::Q4_0 => Format::Q4_0,
        }
    }

    /// The format of one matrix. It always divides the matrix's rows into whole blocks.
    pub fn format(self, tensor: TensorPlace, model: &ModelFacts) -> Format {
        match self {
            Recipe::F32 | Recipe::F16 | Recipe::BF16 => self.base(),
            _ => whole_blocks(self.wanted(tensor, model), tensor.cols),
        }
    }

    fn wanted(self, tensor: TensorPlace, model: &ModelFacts) -> Format {
        use {Recipe as R, TensorKind as K};
        let base = self.base();
        let n = model.layers;
        let more_bits = is_sensitive(tensor.layer, n);
        let eight_experts = model.experts == 8;
        match (tensor.kind, self) {
            (K::Output, _) => head(base, tensor.cols),
            (K::Embedding, _) if model.tied_embedding => head(base, tensor.cols),
            // Small beside the experts, and used by every token.
            (K::AttnV | K::AttnK, _) if eight_experts => Format::Q8_0,
            (K::AttnV, R::Q4_K_M | R::Q5_K_M) if more_bits => Format::Q6_K,
            (K::AttnV, R::Q3_K_M) if tensor.layer < 2 => Format::Q5_K,
            // Many heads share each value here, and the matrix is small.
            (K::AttnV, R::Q3_K_M | R::Q4_K_M) if n == 80 && model.kv_heads < model.heads => Format::Q5_K,
            (K::AttnV, R::Q3_K_M) => Format::Q4_K,
            (K::AttnOut, R::Q3_K_M | R::Q4_K_M) if eight_experts => Format::Q5_K,
            (K::AttnOut, R::Q3_K_M) => Format::Q4_K,
            (K::FfnDown, R::Q4_K_M | R::Q5_K_M) if more_bits => Format::Q6_K,
            (K::FfnDown, R::Q3_K_M) if tensor.layer < n / 16 => Format::Q5_K,
            (K::FfnDown, R::Q3_K_M) => Format::Q4_K,
            (K::FfnDown, R::Q4_0) if model.importance && tensor.layer < n / 8 => Format::Q4_1,
            _ => base,
        }
    }
}

/// Layers in which errors weigh more: the first and the last eighth, and every third between.
fn is_sensitive(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// The output head decides between tokens directly.
fn head(base: Format, cols: usize) -> Format {
    if base == Format::Q8_0 || !cols.is_multiple_of(base.block_len()) { Format::Q8_0 } else { Format::Q6_K }
}

/// The format, or where rows are no whole number of its blocks the next better one with shorter blocks.
fn whole_blocks(format: Format, cols: usize) -> Format {
    let fits = |format: Format| cols.is_multiple_of(format.block_len());
    let shorter = match format {
        Format::Q3_K => Format::Q4_0,
        Format::Q4_K => Format::Q5_0,
        Format::Q5_K => Format::Q5_1,
        Format::Q6_K => Format::Q8_0,
        other => other,
    };
    [format, shorter].into_iter().find(|&format| fits(format)).unwrap_or(Format::F16)
}
