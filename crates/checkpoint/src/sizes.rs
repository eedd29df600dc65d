//! The sizes of a network as its description gives them: read once, capped, so that nobody multiplies or allocates by
//! a number straight from a file.

use crate::error::{capped, quoted};
use crate::{CheckpointError, Description, HfConfig, Metadata, limits};

/// Longest name of an architecture.
const ARCHITECTURE_BYTES_MAX: usize = 64;

/// Sizes that memory depends on. `None` where the description does not say (a file that holds only a vocabulary, an
/// architecture without attention).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Layers, in `[1, limits::LAYERS]`.
    pub layers: Option<usize>,
    /// Width of the hidden state, in `[1, limits::WIDTH]`.
    pub width: Option<usize>,
    /// Key and value heads, one entry a layer, each at most `limits::HEADS`; 0 in a layer without attention.
    pub kv_heads: Option<Vec<usize>>,
    /// Values in a head of the keys, even, in `[2, limits::HEAD_DIM]`.
    pub key_len: Option<usize>,
    /// Values in a head of the values, in `[1, limits::HEAD_DIM]`.
    pub value_len: Option<usize>,
    /// Tokens that the network was trained to see at once, in `[1, limits::CONTEXT]`.
    pub context_tokens: Option<usize>,
    /// Tokens in the vocabulary, in `[1, limits::VOCABULARY]`.
    pub vocabulary_tokens: Option<usize>,
}

impl Sizes {
    /// Reads the sizes.
    ///
    /// # Errors
    /// When one has the wrong type or lies outside its range; names key, value and limit.
    pub fn of(description: &Description) -> Result<Sizes, CheckpointError> {
        match description {
            Description::Gguf(metadata) => Sizes::of_gguf(metadata),
            Description::HuggingFace(config) => Sizes::of_hugging_face(config),
        }
    }

    /// Values that the KV cache keeps for a token in all layers: an upper bound for layers with a sliding window,
    /// which forget.
    pub fn kv_values_per_token(&self) -> Option<u64> {
        let head_values = (self.key_len? + self.value_len?) as u64;
        // All factors are capped: at most 2^10 layers of 2^10 heads of 2^11 values.
        Some(self.kv_heads.as_ref()?.iter().map(|&heads| heads as u64 * head_values).sum())
    }

    fn of_gguf(metadata: &Metadata) -> Result<Sizes, CheckpointError> {
        let tokens = metadata.strings("tokenizer.ggml.tokens")?.map(|tokens| tokens.len() as u64);
        let vocabulary_tokens = size("tokenizer.ggml.tokens", tokens, limits::VOCABULARY)?;
        let Some(architecture) = architecture(metadata)? else {
            return Ok(Sizes { vocabulary_tokens, ..Sizes::default() });
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let read = |name: &str, limit| size(&key(name), metadata.u64(&key(name))?, limit);

        let layers = read("block_count", limits::LAYERS)?;
        let width = read("embedding_length", limits::WIDTH)?;
        let per_layer = |name: &str| match layers {
            None => Ok(None),
            Some(layers) => per_layer(metadata, &key(name), layers),
        };
        let heads = per_layer("attention.head_count")?;
        let kv_heads = per_layer("attention.head_count_kv")?.or_else(|| heads.clone());
        let default_len = share_of_width(width, heads.as_deref().and_then(|heads| heads.first().copied()));
        let key_len = read("attention.key_length", limits::HEAD_DIM)?.or(default_len);
        check_even(&key("attention.key_length"), key_len)?;
        Ok(Sizes {
            layers,
            width,
            kv_heads,
            key_len,
            value_len: read("attention.value_length", limits::HEAD_DIM)?.or(default_len),
            context_tokens: read("context_length", limits::CONTEXT)?,
            vocabulary_tokens: vocabulary_tokens.or(read("vocab_size", limits::VOCABULARY)?),
        })
    }

    fn of_hugging_face(config: &HfConfig) -> Result<Sizes, CheckpointError> {
        let read = |key: &str, limit| size(key, config.u64(key)?, limit);
        let layers = read("num_hidden_layers", limits::LAYERS)?;
        let width = read("hidden_size", limits::WIDTH)?;
        let heads = read("num_attention_heads", limits::HEADS)?;
        let kv_heads = read("num_key_value_heads", limits::HEADS)?.or(heads);
        let head_dim = read("head_dim", limits::HEAD_DIM)?.or(share_of_width(width, heads));
        check_even("head_dim", head_dim)?;
        Ok(Sizes {
            layers,
            width,
            kv_heads: layers.zip(kv_heads).map(|(layers, heads)| vec![heads; layers]),
            key_len: head_dim,
            value_len: head_dim,
            context_tokens: read("max_position_embeddings", limits::CONTEXT)?,
            vocabulary_tokens: read("vocab_size", limits::VOCABULARY)?,
        })
    }
}

/// The name that the keys of all sizes begin with.
fn architecture(metadata: &Metadata) -> Result<Option<&str>, CheckpointError> {
    const KEY: &str = "general.architecture";
    let is_name = |name: &str| {
        let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'));
        plain && (1..=ARCHITECTURE_BYTES_MAX).contains(&name.len())
    };
    match metadata.str(KEY)? {
        Some(name) if !is_name(name) => {
            let wanted = format!("1 to {ARCHITECTURE_BYTES_MAX} letters, digits, '-', '_' or '.'");
            Err(CheckpointError::invalid(KEY, quoted(name), wanted))
        }
        name => Ok(name),
    }
}

/// A size in `[1, limit]`.
fn size(key: &str, value: Option<u64>, limit: u64) -> Result<Option<usize>, CheckpointError> {
    match value {
        None => Ok(None),
        Some(0) => Err(CheckpointError::invalid(key, 0, format!("in [1, {limit}]"))),
        Some(value) => Ok(Some(capped(key, value, limit)? as usize)),
    }
}

/// Heads of each layer: GGUF gives one number for all, or an array.
fn per_layer(metadata: &Metadata, key: &str, layers: usize) -> Result<Option<Vec<usize>>, CheckpointError> {
    let Some(heads) = metadata.u32_per_layer(key, layers)? else { return Ok(None) };
    heads
        .into_iter()
        .map(|heads| Ok(capped(key, heads.into(), limits::HEADS)? as usize))
        .collect::<Result<_, _>>()
        .map(Some)
}

/// Width of a head when only the whole width is given.
fn share_of_width(width: Option<usize>, heads: Option<usize>) -> Option<usize> {
    width?.checked_div(heads?).filter(|&share| share > 0)
}

/// Rotary embeddings turn pairs.
fn check_even(key: &str, len: Option<usize>) -> Result<(), CheckpointError> {
    match len {
        Some(len) if len % 2 != 0 => Err(CheckpointError::invalid(key, len, "even")),
        _ => Ok(()),
    }
}
