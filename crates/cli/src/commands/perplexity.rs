//! `frontier perplexity MODEL --file F`: how well a model predicts a text.

use std::path::PathBuf;

use anyhow::{Context, Result};
use model::{LoadOptions, PerplexityOptions};
use serde_json::json;
use tokenizer::ControlTokens;

use crate::input::read_text;
use crate::load;
use crate::memory::KvChoice;
use crate::numbers::of_model;
use crate::output::{print_json, print_text};
use crate::settings::Settings;
use crate::terminal::CountBar;

/// Tokens computed in a step.
const STEP_TOKENS: usize = 512;

/// What `--window` may be.
const WINDOW: &str = "allowed are integers from 4 to the model's context";

/// Measure how well a model predicts a text
#[derive(clap::Args, Debug)]
pub(crate) struct Perplexity {
    /// Path or name of a model
    pub(super) model: String,
    /// The text
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// Tokens in a window; the second half of each is scored
    #[arg(
        long, value_name = "TOKENS", default_value_t = 512,
        allow_negative_numbers = true, value_parser = of_model::<usize>(WINDOW)
    )]
    window: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Perplexity {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let (text, open) = load::open_beside(read_text(&self.file), &self.model, settings)?;
        let tokenizer = open.tokenizer()?;
        let tokens = tokenizer.encode_completion(&text, ControlTokens::PlainText)?;
        let sizes = LoadOptions { max_rows: STEP_TOKENS, max_logit_rows: STEP_TOKENS, max_seqs: 1, max_context: None };
        let mut loaded = load::load(open, settings, &sizes)?;
        let options = PerplexityOptions {
            context: self.window,
            bos: tokenizer.bos().filter(|_| tokenizer.adds_bos()),
            kv_format: KvChoice::from_settings(settings).keys,
        };
        let windows = (tokens.len() / self.window.max(1)) as u64;
        let bar = CountBar::new("windows", windows);
        let mut each = |so_far: &model::Perplexity| bar.set(so_far.windows as u64, windows);
        let result = loaded.network.perplexity(&tokens, &options, &mut each);
        let result = result.with_context(|| self.file.display().to_string())?;
        bar.finish();
        if self.json {
            return print_json(&json!({
                "model": loaded.name,
                "perplexity": result.perplexity,
                "standard_error": result.standard_error,
                "mean_nll": result.mean_nll,
                "scored_tokens": result.scored_tokens,
                "windows": result.windows,
                "window_tokens": self.window,
                "text_tokens": tokens.len(),
            }));
        }
        print_text(&format!(
            "perplexity {:.4} +- {:.4} over {} tokens in {} windows of {}\n",
            result.perplexity, result.standard_error, result.scored_tokens, result.windows, self.window
        ))
    }
}
