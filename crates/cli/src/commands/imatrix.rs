//! `frontier imatrix MODEL --file TEXT -o OUT`: which columns of a model's matrices matter, measured on a text.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use cpu::CpuBackend;
use model::{Decoder, DecoderConfig, LoadOptions, Naming, Part, Place, Session, Wanted};
use tensor::Role;
use tokenizer::{ControlTokens, Tokenizer};

use crate::device;
use crate::input::read_text;
use crate::load::{self, OpenModel};
use crate::memory::{KvChoice, context_len};
use crate::numbers::count;
use crate::output::{check_output, print_text};
use crate::problems::both;
use crate::quantize::Importance;
use crate::settings::Settings;
use crate::terminal::CountBar;

/// Measure which weights matter, for `frontier quantize --imatrix`
#[derive(clap::Args, Debug)]
pub(crate) struct Imatrix {
    /// Path or name of a model, best in f16, bf16 or f32
    pub(super) model: String,
    /// The text: a sample of what the model will see
    #[arg(long, value_name = "FILE")]
    file: PathBuf,
    /// The file to write
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
    /// Tokens in a chunk, each of which is computed on its own
    #[arg(
        long, value_name = "TOKENS", default_value_t = 512,
        allow_negative_numbers = true, value_parser = count(1..=usize::MAX)
    )]
    chunk: usize,
    /// Chunks at most
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = count(1..=usize::MAX))]
    chunks: Option<usize>,
    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

impl Imatrix {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let (text, open) = self.open(settings)?;
        let most_tokens = context_len(&open.name, &open.config()?, settings)?;
        if self.chunk > most_tokens {
            bail!("--chunk {}: the model sees at most {most_tokens} tokens; allowed: 1 to {most_tokens}", self.chunk);
        }
        let tokenizer = Tokenizer::from_checkpoint(&open.checkpoint)?;
        let tokens = tokenizer.encode_completion(&text, ControlTokens::PlainText)?;
        let most = self.chunks.unwrap_or(usize::MAX);
        let chunks: Vec<&[u32]> = tokens.chunks_exact(self.chunk).take(most).collect();
        if chunks.is_empty() {
            bail!("{}: {} tokens are less than a chunk of {}", self.file.display(), tokens.len(), self.chunk);
        }
        let sizes = LoadOptions { max_rows: self.chunk, max_logit_rows: self.chunk, max_seqs: 1, max_context: None };
        let mut decoder = load::as_stored(open, device::open_cpu(settings)?, settings, &sizes)?.decoder;
        decoder.backend_mut().start_importance();
        let bar = CountBar::new("chunks", chunks.len() as u64);
        let kv = KvChoice::from_settings(settings);
        let mut session = Session::new(&mut decoder, kv.keys, self.chunk)?;
        for (index, chunk) in chunks.iter().enumerate() {
            session.clear();
            // With fewer logits wanted, the last layer would see fewer rows.
            session.extend(chunk, Wanted::All, &mut |_, _| {})?;
            bar.set(index as u64 + 1, chunks.len() as u64);
        }
        bar.finish();
        let importance = gguf_names(&mut decoder);
        let text = self.file.display().to_string();
        importance.write(&self.output, &text, chunks.len() as u32, self.chunk as u32)?;
        print_text(&format!(
            "{}: importance of {} matrices from {} chunks of {} tokens\n",
            self.output.display(),
            importance.len(),
            chunks.len(),
            self.chunk
        ))
    }

    /// What is read, where what is to be written may be.
    fn open(&self, settings: &Settings) -> Result<(String, OpenModel)> {
        let output = check_output(&self.output, self.force, &[&self.file]);
        let ((text, ()), open) = load::open_beside(both(read_text(&self.file), output), &self.model, settings)?;
        let files: Vec<&Path> = open.checkpoint.files().collect();
        check_output(&self.output, self.force, &files)?;
        Ok((text, open))
    }
}

/// The sums under the names that GGUF files give the matrices, whatever file they come from.
fn gguf_names(decoder: &mut Decoder<CpuBackend>) -> Importance {
    let mut importance = Importance::default();
    let sums = decoder.backend_mut().take_importance().unwrap_or_default();
    for (layer, role, sums) in sums.iter() {
        for &part in parts(role, decoder.config()) {
            let layer = (part != Part::Head).then_some(layer);
            let name = Naming::Gguf.name(Place { part, layer }, "weight");
            importance.insert(name, sums.squares.clone(), sums.rows as f32);
        }
    }
    importance
}

/// The tensors that were multiplied with one input.
fn parts(role: Role, config: &DecoderConfig) -> &'static [Part] {
    match role {
        Role::Qkv => &[Part::Query, Part::Key, Part::Value],
        Role::AttnOut => &[Part::AttnOut],
        Role::GateUp => &[Part::Gate, Part::Up],
        Role::Down => &[Part::Down],
        Role::Head if !config.tied => &[Part::Head],
        Role::Head | Role::Embedding | Role::TiedHead => &[],
    }
}
