//! `frontier quantize IN OUT --to RECIPE`: a GGUF file with smaller weights.

use std::path::{Path, PathBuf};

use anyhow::Result;
use checkpoint::Checkpoint;
use tensor::Recipe;

use crate::load;
use crate::output::{check_output, human_bytes, print_text};
use crate::problems::both;
use crate::quantize::{Converter, FileOptions, Importance, write_file};
use crate::settings::Settings;
use crate::terminal::ByteBar;

/// Write a GGUF file with its weights in a smaller format
#[derive(clap::Args, Debug)]
pub(crate) struct Quantize {
    /// The GGUF file or the directory of safetensors (its tokenizer BPE) to read, best in f16, bf16 or f32
    input: PathBuf,
    /// The file to write
    output: PathBuf,
    /// f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0 or q3_k_m; f32 writes the weights of any file out as they are
    #[arg(long, value_name = "RECIPE", value_parser = recipe)]
    to: Recipe,
    /// Importance matrix (`frontier imatrix`): errors are moved to where they cost least. Not for f32, f16, bf16 and
    /// q8_0, which round each value by itself
    #[arg(long, value_name = "FILE")]
    imatrix: Option<PathBuf>,
    /// Take weights that are quantized already, although that loses more
    #[arg(long)]
    requantize: bool,
    /// Replace the output if it exists
    #[arg(long)]
    force: bool,
}

impl Quantize {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let (from, importance) = self.open()?;
        let options = FileOptions {
            recipe: self.to,
            importance: importance.as_ref(),
            requantize: self.requantize,
            converter: Converter::new(settings),
        };
        let start = std::time::Instant::now();
        let bar = ByteBar::new(self.to.name(), 0);
        write_file(&from, &self.output, &options, &mut |done, total| bar.set(done, total))?;
        bar.finish();
        let size_bytes = std::fs::metadata(&self.output)?.len();
        let read_bytes: u64 = from.files().filter_map(|file| Some(std::fs::metadata(file).ok()?.len())).sum();
        print_text(&format!(
            "{}: {} of {}, {:.1?}\n",
            self.output.display(),
            human_bytes(size_bytes),
            human_bytes(read_bytes),
            start.elapsed()
        ))
    }
}

impl Quantize {
    /// What is read, where what is to be written may be.
    fn open(&self) -> Result<(Checkpoint, Option<Importance>)> {
        let from = load::open_path(&self.input);
        let files = from.iter().flat_map(Checkpoint::files);
        let inputs: Vec<&Path> = files.chain([self.input.as_path()]).chain(self.imatrix.as_deref()).collect();
        let output = check_output(&self.output, self.force, &inputs);
        let importance = self.imatrix.as_deref().map(Importance::open).transpose();
        let (read, ()) = both(both(from, importance), output)?;
        Ok(read)
    }
}

/// A recipe by its name.
fn recipe(name: &str) -> Result<Recipe, String> {
    Recipe::from_name(name).ok_or_else(|| {
        let known: Vec<&str> = Recipe::ALL.into_iter().map(Recipe::name).collect();
        format!("allowed: {}", known.join(", "))
    })
}
