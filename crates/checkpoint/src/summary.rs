//! What there is to know about a model without running it: the data of `frontier inspect`.

use std::path::Path;

use serde::Serialize;
use serde_json::Value;
use tensor::Format;

use crate::json::{self, Caps};
use crate::{Checkpoint, CheckpointError, Description, HfConfig, Metadata, Sizes, limits};

/// Bytes of a KV entry when nothing else is said: F16.
const KV_VALUE_BYTES: u64 = 2;
const TOKENIZER_CONFIG_CAPS: Caps = Caps { size_bytes: limits::CONFIG_BYTES, values: limits::CONFIG_VALUES };

/// A model in numbers and names. Plain data; whoever prints it decides how.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// `gguf` or `huggingface`.
    pub container: &'static str,
    /// GGUF's `general.architecture`, Hugging Face's `model_type`.
    pub architecture: Option<String>,
    /// What its author calls it.
    pub name: Option<String>,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values in all tensors.
    pub parameters: u64,
    /// Bytes of all tensors.
    pub size_bytes: u64,
    /// The same by storage format, the one with most bytes first.
    pub formats: Vec<FormatShare>,
    /// Number of layers.
    pub layers: Option<usize>,
    /// Width of the hidden state.
    pub width: Option<usize>,
    /// Tokens that the model was trained to see at once.
    pub context_tokens: Option<usize>,
    /// What turns text into tokens, when it is there.
    pub tokenizer: Option<TokenizerKind>,
    /// Whether the model brings a chat template.
    pub chat_template: bool,
    /// Bytes of the KV cache for each token of context with F16 entries. An upper bound: layers with a sliding window
    /// forget what lies behind it.
    pub kv_bytes_per_token: Option<u64>,
}

/// What one storage format has of a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FormatShare {
    /// [`Format::name`].
    pub format: &'static str,
    /// Number of tensors.
    pub tensors: usize,
    /// Number of values.
    pub parameters: u64,
    /// Bytes.
    pub size_bytes: u64,
}

/// The tokenizer that comes with a model.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenizerKind {
    /// GGUF: `tokenizer.ggml.model` and `tokenizer.ggml.pre` (`gpt2/smollm`). Hugging Face: the class, else the file.
    pub kind: String,
    /// Tokens in the vocabulary.
    pub vocabulary_tokens: Option<usize>,
}

impl Summary {
    /// Sums up an open model. Reads small files beside it in a Hugging Face directory.
    ///
    /// # Errors
    /// When a key that is looked at has the wrong type or lies outside its range.
    pub fn of(checkpoint: &Checkpoint) -> Result<Summary, CheckpointError> {
        Summary::read(checkpoint).map_err(|fault| fault.in_file(checkpoint.path()))
    }

    fn read(checkpoint: &Checkpoint) -> Result<Summary, CheckpointError> {
        let sizes = Sizes::of(checkpoint.description())?;
        let formats = format_shares(checkpoint);
        let words = match checkpoint.description() {
            Description::Gguf(metadata) => Words::of_gguf(metadata)?,
            Description::HuggingFace(config) => Words::of_hugging_face(config)?,
        };
        let vocabulary_tokens = sizes.vocabulary_tokens;
        Ok(Summary {
            container: words.container,
            architecture: words.architecture,
            name: words.name,
            tensors: checkpoint.tensors().len(),
            parameters: formats.iter().map(|share| share.parameters).sum(),
            size_bytes: formats.iter().map(|share| share.size_bytes).sum(),
            formats,
            layers: sizes.layers,
            width: sizes.width,
            context_tokens: sizes.context_tokens,
            tokenizer: words.tokenizer.map(|kind| TokenizerKind { kind, vocabulary_tokens }),
            chat_template: words.chat_template,
            kv_bytes_per_token: sizes.kv_values_per_token().map(|values| values * KV_VALUE_BYTES),
        })
    }
}

fn format_shares(checkpoint: &Checkpoint) -> Vec<FormatShare> {
    let share = |format: Format| {
        let mut share = FormatShare { format: format.name(), tensors: 0, parameters: 0, size_bytes: 0 };
        for tensor in checkpoint.tensors().filter(|tensor| tensor.format == format) {
            share.tensors += 1;
            share.parameters += tensor.value_count() as u64;
            share.size_bytes += tensor.data.len() as u64;
        }
        share
    };
    let mut shares: Vec<_> = Format::ALL.into_iter().map(share).filter(|share| share.tensors > 0).collect();
    shares.sort_by_key(|share| std::cmp::Reverse(share.size_bytes));
    shares
}

/// What a summary says in words.
struct Words {
    container: &'static str,
    architecture: Option<String>,
    name: Option<String>,
    tokenizer: Option<String>,
    chat_template: bool,
}

impl Words {
    fn of_gguf(metadata: &Metadata) -> Result<Words, CheckpointError> {
        let text = |key| Ok::<_, CheckpointError>(metadata.str(key)?.map(str::to_owned));
        let tokenizer = match (text("tokenizer.ggml.model")?, text("tokenizer.ggml.pre")?) {
            (Some(model), Some(pre)) => Some(format!("{model}/{pre}")),
            (model, _) => model,
        };
        Ok(Words {
            container: "gguf",
            architecture: text("general.architecture")?,
            name: text("general.name")?,
            tokenizer,
            chat_template: metadata.str("tokenizer.chat_template")?.is_some(),
        })
    }

    fn of_hugging_face(config: &HfConfig) -> Result<Words, CheckpointError> {
        let tokenizer_config = optional_json(&config.dir.join("tokenizer_config.json"))?;
        let entry = |key: &str| tokenizer_config.get(key).filter(|value| !value.is_null());
        let class = entry("tokenizer_class").and_then(Value::as_str).map(str::to_owned);
        let file = ["tokenizer.json", "tokenizer.model"].into_iter().find(|name| config.dir.join(name).is_file());
        let directory = config.dir.file_name().map(|name| name.to_string_lossy().into_owned());
        Ok(Words {
            container: "huggingface",
            architecture: config.str("model_type")?.map(str::to_owned),
            name: config.str("_name_or_path")?.filter(|name| !name.is_empty()).map(str::to_owned).or(directory),
            tokenizer: file.map(|file| class.unwrap_or_else(|| file.to_owned())),
            chat_template: entry("chat_template").is_some() || config.dir.join("chat_template.jinja").is_file(),
        })
    }
}

/// The content of a JSON file, null when there is none.
fn optional_json(path: &Path) -> Result<Value, CheckpointError> {
    if path.exists() { json::read(path, TOKENIZER_CONFIG_CAPS) } else { Ok(Value::Null) }
}
