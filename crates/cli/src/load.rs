//! From a model's name to something that computes: opening files, loading weights.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use checkpoint::Checkpoint;
use model::{Decoder, DecoderConfig, LoadOptions};
use tensor::Format;
use tokenizer::{ChatTemplate, Tokenizer};

use crate::device::{self, Budget, Device};
use crate::hub::{self, ModelPath};
use crate::network::Network;
use crate::settings::{Settings, defs};
use crate::terminal::ByteBar;

/// Unless a setting says more, contexts end here: KV pages for more are rarely wanted and always paid for.
const DEFAULT_CONTEXT: usize = 32_768;

/// An open model file that computes nothing yet.
pub(crate) struct OpenModel {
    pub(crate) name: String,
    pub(crate) checkpoint: Checkpoint,
}

/// A network with its weights.
pub(crate) struct LoadedModel {
    pub(crate) name: String,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) network: Box<dyn Network>,
    /// What weights and KV cache may take on the device.
    pub(crate) budget: Budget,
    pub(crate) load_time: Duration,
}

impl OpenModel {
    /// What turns text into its tokens.
    pub(crate) fn tokenizer(&self) -> Result<Tokenizer> {
        Tokenizer::from_checkpoint(&self.checkpoint).with_context(|| self.place())
    }

    /// Its chat template, if it has one.
    pub(crate) fn template(&self, tokenizer: &Tokenizer) -> Result<Option<ChatTemplate>> {
        ChatTemplate::from_checkpoint(&self.checkpoint, tokenizer).with_context(|| self.place())
    }

    /// The path, for errors that name things inside a file only.
    fn place(&self) -> String {
        self.checkpoint.path().display().to_string()
    }
}

/// Finds and opens a model.
pub(crate) fn open(model: Option<&str>, settings: &Settings) -> Result<OpenModel> {
    let ModelPath { path, name } = hub::resolve(model, settings)?;
    Ok(OpenModel { name, checkpoint: Checkpoint::open(&path)? })
}

/// Opens a file or directory that is named by its path only.
pub(crate) fn open_path(path: &Path) -> Result<Checkpoint> {
    // A name that is no file shall not look like a hub's model here.
    std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(Checkpoint::open(path)?)
}

/// Loads a model's weights. `sizes` gives the steps to make room for; its context is filled in from the settings.
pub(crate) fn load(open: OpenModel, settings: &Settings, sizes: &LoadOptions) -> Result<LoadedModel> {
    let start = Instant::now();
    let place = open.place();
    let OpenModel { name, checkpoint } = open;
    let config = DecoderConfig::from_checkpoint(&checkpoint).with_context(|| place.clone())?;
    let options = LoadOptions { max_context: Some(context_len(&config, settings)?), ..*sizes };
    let device = device::open(settings)?;
    device.announce();
    let budget = device.budget(settings);
    let bar = ByteBar::new(&name, 0);
    let mut progress = |progress: model::Progress| bar.set(progress.loaded_bytes, progress.total_bytes);
    let network: Box<dyn Network> = match device {
        Device::Cpu(backend) => {
            let loaded = Decoder::load(&checkpoint, config, *backend, &options, &mut progress);
            Box::new(loaded.with_context(|| place)?)
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(device) => {
            Box::new(device.load(&checkpoint, config, &options, &mut progress).with_context(|| place)?)
        }
    };
    bar.finish();
    let load_time = start.elapsed();
    Ok(LoadedModel { name, checkpoint, network, budget, load_time })
}

/// Most tokens of one request: as set, else the model's own, within reason.
fn context_len(config: &DecoderConfig, settings: &Settings) -> Result<usize> {
    let trained = config.context_len();
    match settings.amount(&defs::MAX_SEQ_LEN) {
        None => Ok(trained.min(DEFAULT_CONTEXT)),
        Some(wanted) if wanted <= trained as u64 => Ok(wanted as usize),
        Some(wanted) => bail!(
            "MISTRAL_MAX_SEQ_LEN={wanted} ({}): the model was trained for {trained} tokens; allowed: 1 to {trained}",
            settings.source(&defs::MAX_SEQ_LEN)
        ),
    }
}

/// Storage of keys and of values in the KV cache.
pub(crate) fn kv_formats(settings: &Settings) -> (Format, Format) {
    let text = settings.text(&defs::KV_CACHE_DTYPE).unwrap_or("f16");
    let (keys, values) = text.split_once(',').unwrap_or((text, text));
    let format = |name| Format::from_name(name).expect("the table of settings lists formats by their names");
    (format(keys), format(values))
}
