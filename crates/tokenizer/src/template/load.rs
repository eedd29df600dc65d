//! Where models keep their chat templates, and what their special tokens are called in there.

use std::collections::BTreeMap;

use checkpoint::{Checkpoint, Description, Metadata};

use super::{ChatTemplate, TemplateError};
use crate::tokenizer::Tokenizer;
use crate::{TokenizerError, gguf, hf};

pub(super) fn load(checkpoint: &Checkpoint, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>, TemplateError> {
    let found = match checkpoint.description() {
        Description::Gguf(metadata) => from_gguf(metadata),
        Description::HuggingFace(config) => hf::chat_templates(&config.dir),
    };
    let mut templates = found.map_err(unreadable)?;
    let Some(source) = templates.remove(hf::DEFAULT_TEMPLATE) else {
        return Ok(None);
    };
    let mut special_tokens = special_tokens(tokenizer);
    if let Description::HuggingFace(config) = checkpoint.description() {
        special_tokens.extend(hf::special_token_texts(&config.dir).map_err(unreadable)?);
    }
    let mut template = ChatTemplate::parse(&source, special_tokens, tokenizer.control_texts())?;
    if let Some(source) = templates.remove(hf::TOOL_TEMPLATE) {
        template = template.with_tool_template(&source)?;
    }
    Ok(Some(template))
}

fn from_gguf(metadata: &Metadata) -> Result<BTreeMap<String, String>, TokenizerError> {
    let names = [(hf::DEFAULT_TEMPLATE, gguf::CHAT_TEMPLATE), (hf::TOOL_TEMPLATE, gguf::TOOL_TEMPLATE)];
    let mut templates = BTreeMap::new();
    for (name, key) in names {
        if let Some(source) = metadata.str(key)? {
            templates.insert(name.to_owned(), source.to_owned());
        }
    }
    Ok(templates)
}

fn special_tokens(tokenizer: &Tokenizer) -> BTreeMap<String, String> {
    let ids = [
        ("bos_token", tokenizer.bos()),
        ("eos_token", tokenizer.eos()),
        ("unk_token", tokenizer.unknown()),
        ("pad_token", tokenizer.padding()),
    ];
    let texts = ids.into_iter().filter_map(|(name, id)| Some((name.to_owned(), tokenizer.token_text(id?)?.to_owned())));
    texts.collect()
}

fn unreadable(error: TokenizerError) -> TemplateError {
    TemplateError::Unreadable(error.to_string())
}
