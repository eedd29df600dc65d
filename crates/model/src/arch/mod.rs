//! The architectures that there are. Each file is named after GGUF's `general.architecture` and says, for both worlds,
//! what is peculiar to it; a new one is a file and a line in [`ARCHITECTURES`].

mod gemma3;
mod llama;
mod qwen2;
mod qwen3;

use checkpoint::{Checkpoint, Description};

use crate::config::DecoderConfig;
use crate::error::ModelError;
use crate::source::{Gguf, Hf};

/// One architecture: its names, and how its descriptions are read.
struct Architecture {
    /// GGUF's `general.architecture`.
    name: &'static str,
    /// Hugging Face's `architectures`.
    classes: &'static [&'static str],
    /// Hugging Face's `model_type`, where `architectures` is missing.
    model_types: &'static [&'static str],
    from_gguf: fn(&Gguf<'_>) -> Result<DecoderConfig, ModelError>,
    from_hf: fn(&Hf<'_>) -> Result<DecoderConfig, ModelError>,
}

const ARCHITECTURES: [Architecture; 4] = [
    Architecture {
        name: llama::NAME,
        classes: &["LlamaForCausalLM", "MistralForCausalLM"],
        model_types: &["llama", "mistral"],
        from_gguf: llama::from_gguf,
        from_hf: llama::from_hf,
    },
    Architecture {
        name: qwen2::NAME,
        classes: &["Qwen2ForCausalLM"],
        model_types: &["qwen2"],
        from_gguf: qwen2::from_gguf,
        from_hf: qwen2::from_hf,
    },
    Architecture {
        name: qwen3::NAME,
        classes: &["Qwen3ForCausalLM"],
        model_types: &["qwen3"],
        from_gguf: qwen3::from_gguf,
        from_hf: qwen3::from_hf,
    },
    Architecture {
        name: gemma3::NAME,
        classes: &["Gemma3ForCausalLM", "Gemma3ForConditionalGeneration"],
        model_types: &["gemma3_text", "gemma3"],
        from_gguf: gemma3::from_gguf,
        from_hf: gemma3::from_hf,
    },
];

/// GGUF's names of the architectures that can be loaded.
pub fn known_architectures() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.name)
}

/// Reads a description, without checking ranges.
pub(crate) fn read(checkpoint: &Checkpoint) -> Result<DecoderConfig, ModelError> {
    match checkpoint.description() {
        Description::Gguf(metadata) => {
            let key = "general.architecture";
            let name = metadata.str(key)?.ok_or_else(|| ModelError::missing_key(key))?;
            let known = ARCHITECTURES.iter().find(|known| known.name == name);
            let known = known.ok_or_else(|| unknown(name, known_architectures()))?;
            (known.from_gguf)(&Gguf::new(checkpoint, metadata, name))
        }
        Description::HuggingFace(config) => {
            let source = Hf::new(checkpoint, config);
            let known = match config.strings("architectures")?.and_then(|classes| classes.first().copied()) {
                Some(class) => find(class, |known| known.classes)?,
                None => match source.model_type()? {
                    Some(model_type) => find(model_type, |known| known.model_types)?,
                    None => return Err(ModelError::missing_key("architectures")),
                },
            };
            (known.from_hf)(&source)
        }
    }
}

fn find(name: &str, names: fn(&Architecture) -> &'static [&'static str]) -> Result<&'static Architecture, ModelError> {
    let known = ARCHITECTURES.iter().find(|known| names(known).contains(&name));
    known.ok_or_else(|| unknown(name, ARCHITECTURES.iter().flat_map(names).copied()))
}

fn unknown(found: &str, known: impl Iterator<Item = &'static str>) -> ModelError {
    /// A hostile name is not repeated at length.
    const SHOWN_CHARS_MAX: usize = 80;
    ModelError::UnknownArchitecture {
        found: found.chars().take(SHOWN_CHARS_MAX).collect(),
        known: known.collect::<Vec<_>>().join(", "),
    }
}
