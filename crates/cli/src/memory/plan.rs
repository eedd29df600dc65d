//! A memory plan: what a model will take, line by line, and how it is shown.

use engine::KvPool;
use serde_json::{Value, json};
use tensor::Recipe;

use super::{Budget, KvChoice};
use crate::output::human_bytes;

/// What a model takes, decided before it is loaded.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Name of the model.
    pub(crate) model: String,
    /// The device, for people.
    pub(crate) device: String,
    /// The recipe by which weights are quantized at load; `None`: as they are stored.
    pub(crate) recipe: Option<Recipe>,
    /// Formats of the weights as loaded, most values first, e.g. `q4_1, q6_k`.
    pub(crate) formats: String,
    /// Most tokens of one request.
    pub(crate) context: usize,
    /// Sequences computed in one step.
    pub(crate) batch: usize,
    /// Most prompt tokens of a step.
    pub(crate) chunk: usize,
    /// How keys and values are stored.
    pub(crate) kv: KvChoice,
    /// Tokens that the KV cache holds.
    pub(crate) kv_tokens: usize,
    /// The KV cache's pages.
    pub(crate) pools: Vec<KvPool>,
    /// What it comes to.
    pub(crate) bytes: Parts,
    /// What it may come to.
    pub(crate) budget: Budget,
    /// What was asked for and is not so, each with its numbers.
    pub(crate) notes: Vec<String>,
}

/// Bytes by use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// Matrices as the device holds them.
    pub(crate) weights: u64,
    /// All pages.
    pub(crate) kv: u64,
    /// Rows, activations and logits of the largest step; kept between steps by the memory pool.
    pub(crate) scratch: u64,
    /// Program, tokenizer, threads, requests.
    pub(crate) program: u64,
}

impl Parts {
    pub(crate) fn total(&self) -> u64 {
        self.weights + self.kv + self.scratch + self.program
    }

    /// As a sum for people: `98.4 MB weights + ... = 1.2 GB`.
    pub(crate) fn sum(&self) -> String {
        self.sum_to(&human_bytes(self.total()))
    }

    /// The same with the total as it was written.
    pub(crate) fn sum_to(&self, total: &str) -> String {
        let [weights, kv, scratch, program] = [self.weights, self.kv, self.scratch, self.program].map(human_bytes);
        format!("{weights} weights + {kv} KV cache + {scratch} scratch + {program} program = {total}")
    }
}

impl Plan {
    /// A table for people.
    pub(crate) fn table(&self) -> String {
        let Parts { weights, kv, scratch, program } = self.bytes;
        let total = self.bytes.total();
        let pages: usize = self.pools.iter().map(|pool| pool.pages).sum();
        let kv_note = format!("{} tokens in {pages} pages, {}", self.kv_tokens, self.kv.name());
        let scratch_note = format!("steps of up to {} prompt tokens and {} sequences", self.chunk, self.batch);
        let free = |budget: u64| format!("{} left", human_bytes(budget.saturating_sub(total)));
        let rows = [
            ("weights", Some(weights), self.weights()),
            ("KV cache", Some(kv), kv_note),
            ("scratch", Some(scratch), scratch_note),
            ("program", Some(program), "tokenizer, threads, requests".to_owned()),
            ("total", Some(total), self.budget.bytes.map(free).unwrap_or_default()),
            ("budget", self.budget.bytes, self.budget.reason.clone()),
        ];
        let mut text = format!("{} on {}, context of {} tokens\n", self.model, self.device, self.context);
        for (name, bytes, note) in rows {
            let bytes = bytes.map_or("-".to_owned(), human_bytes);
            text += format!("{name:9} {bytes:>9}  {note}").trim_end();
            text.push('\n');
        }
        for note in self.notes() {
            text += &format!("note: {note}\n");
        }
        text
    }

    /// Formats of the weights, and whether they are made at load.
    fn weights(&self) -> String {
        let how =
            self.recipe.map_or("as stored".to_owned(), |recipe| format!("quantized at load to {}", recipe.name()));
        format!("{}, {how}", self.formats)
    }

    /// The same for scripts; sizes in bytes.
    pub(crate) fn json(&self) -> Value {
        let pool = |pool: &KvPool| json!({ "pages": pool.pages, "page_bytes": pool.page_bytes, "window": pool.window });
        json!({
            "model": self.model,
            "device": self.device,
            "quantization": self.recipe.map(Recipe::name),
            "formats": self.formats,
            "context_tokens": self.context,
            "batch_sequences": self.batch,
            "prefill_chunk_tokens": self.chunk,
            "kv_cache_dtype": self.kv.name(),
            "kv_tokens": self.kv_tokens,
            "kv_pools": self.pools.iter().map(pool).collect::<Vec<_>>(),
            "weight_bytes": self.bytes.weights,
            "kv_bytes": self.bytes.kv,
            "scratch_bytes": self.bytes.scratch,
            "program_bytes": self.bytes.program,
            "total_bytes": self.bytes.total(),
            "budget_bytes": self.budget.bytes,
            "budget_reason": self.budget.reason,
            "notes": self.notes().collect::<Vec<_>>(),
        })
    }

    /// Everything that differs from what was asked for.
    pub(crate) fn notes(&self) -> impl Iterator<Item = &String> {
        self.budget.notes.iter().chain(&self.notes)
    }

    /// Writes the notes and the sum to the log.
    pub(crate) fn log(&self) {
        for note in self.notes() {
            tracing::warn!("{}: {note}", self.model);
        }
        let budget = self.budget.bytes.map_or("no limit".to_owned(), human_bytes);
        let weights = self.weights();
        tracing::info!(
            "{}: {weights}: {}, of a budget of {budget}; {} tokens",
            self.model,
            self.bytes.sum(),
            self.kv_tokens
        );
    }
}
