//! `frontier logits MODEL --ids 1,2,3`: the logits of every position, for comparison with other implementations.

use anyhow::{Result, bail};
use model::LoadOptions;
use tensor::Format;

use crate::load;
use crate::numbers::of_model;
use crate::output::print_text;
use crate::settings::Settings;

/// How many of the greatest logits the text form prints for each position.
const SHOWN: usize = 5;

/// What each of `--ids` may be.
const IDS: &str = "allowed are token ids, integers from 0 to one less than the vocabulary, with commas between them";

/// Print the logits of every position of a token sequence
#[derive(clap::Args, Debug)]
pub(crate) struct Logits {
    /// Path or name of a model; it needs no tokenizer
    pub(super) model: String,
    /// Token ids with commas between them
    #[arg(
        long, value_delimiter = ',', required = true,
        allow_negative_numbers = true, value_parser = of_model::<u32>(IDS)
    )]
    ids: Vec<u32>,
    /// Print all logits as JSON: {"logits": [[...], ...]}, one list for each position
    #[arg(long)]
    json: bool,
}

impl Logits {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let mut loaded = load::load(load::open(Some(&self.model), settings)?, settings, &LoadOptions::default())?;
        let vocab = loaded.network.config().vocab();
        if let Some(id) = self.ids.iter().find(|id| **id as usize >= vocab) {
            bail!("--ids: token id {id}: the vocabulary has {vocab} tokens");
        }
        let longest = loaded.network.max_context();
        if self.ids.len() > longest {
            bail!("--ids: {} tokens: the model sees at most {longest}", self.ids.len());
        }
        // Exactness is the point here, so the KV cache is f32 whatever the settings say.
        let mut rows: Vec<Vec<f32>> = Vec::with_capacity(self.ids.len());
        loaded.network.logits(&self.ids, Format::F32, &mut |_, logits| rows.push(logits.to_vec()))?;
        if self.json {
            return print_text(&format!("{}\n", serde_json::json!({ "logits": rows })));
        }
        for (position, row) in rows.iter().enumerate() {
            let mut order: Vec<usize> = (0..row.len()).collect();
            order.sort_by(|&a, &b| row[b].total_cmp(&row[a]));
            let top: Vec<String> = order.iter().take(SHOWN).map(|&id| format!("{id}:{:.4}", row[id])).collect();
            print_text(&format!("{position:>5} {:>7}  {}\n", self.ids[position], top.join("  ")))?;
        }
        Ok(())
    }
}
