//! From a model's name to something that computes: opening files, planning memory, loading weights.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use checkpoint::Checkpoint;
use model::{Decoder, DecoderConfig, LoadOptions};
use tensor::{Backend, Recipe};
use tokenizer::{ChatTemplate, Tokenizer};

use crate::device::{self, Device};
#[cfg(feature = "gpu")]
use crate::device::{GpuDevice, GpuNetwork};
use crate::hub::{self, ModelPath};
use crate::memory::{
    Budget, Demand, Length, Plan, Planner, Plans, Room, context_len, contradictions, reading_bytes, recipe_at_load,
};
use crate::network::Network;
use crate::problems::{self, both};
use crate::quantize::{AtLoad, Cache, Converter};
use crate::serving::Use;
use crate::settings::{Settings, SettingsError, Source, defs};
use crate::terminal::ByteBar;

/// An open model file that computes nothing yet.
pub(crate) struct OpenModel {
    pub(crate) name: String,
    pub(crate) checkpoint: Checkpoint,
}

/// A network with its weights.
pub(crate) struct LoadedModel {
    pub(crate) name: String,
    pub(crate) network: Box<dyn Network>,
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

    /// What the network is.
    pub(crate) fn config(&self) -> Result<DecoderConfig> {
        DecoderConfig::from_checkpoint(&self.checkpoint).with_context(|| self.place())
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

/// Opens a model beside what else a command reads. Where that cannot be read, no model is pulled.
///
/// # Errors
/// All that is wrong with both.
pub(crate) fn open_beside<T>(read: Result<T>, model: &str, settings: &Settings) -> Result<(T, OpenModel)> {
    let model = Some(model);
    if hub::find_local(model, settings).is_ok_and(|found| found.is_some()) {
        return both(read, open(model, settings));
    }
    let known = hub::no_such_model(model, settings).and_then(|problem| problem.map_or(Ok(()), Err));
    let (read, ()) = both(read, known)?;
    Ok((read, open(model, settings)?))
}

/// Opens a file or directory that is named by its path only.
pub(crate) fn open_path(path: &Path) -> Result<Checkpoint> {
    // A name that is no file shall not look like a hub's model here.
    std::fs::metadata(path).with_context(|| path.display().to_string())?;
    Ok(Checkpoint::open(path)?)
}

/// What serving a model would take, without loading it.
pub(crate) fn plan(open: &OpenModel, usage: Use, settings: &Settings) -> Result<Plan> {
    plan_beside(open, usage, settings, Room::default())
}

/// [`plan`] in the room that others leave.
pub(crate) fn plan_beside(open: &OpenModel, usage: Use, settings: &Settings, room: Room) -> Result<Plan> {
    with_planner(open, usage, settings, room, |planner| planner.plan())
}

/// The budget of all models on a model's device, what the model would take of it, and with requests of which lengths.
pub(crate) fn demand(open: &OpenModel, usage: Use, settings: &Settings) -> Result<(Budget, Demand, Vec<Length>)> {
    with_planner(open, usage, settings, Room::default(), |planner| {
        Ok((planner.budget().clone(), planner.demand()?, planner.lengths()?))
    })
}

/// A planner for the device that the settings ask for.
fn with_planner<T>(
    open: &OpenModel,
    usage: Use,
    settings: &Settings,
    room: Room,
    ask: impl FnOnce(&dyn Plans) -> Result<T>,
) -> Result<T> {
    let config = open.config()?;
    let device = device::open(settings)?;
    let wanted = (usage, settings);
    let budget = device.budget(settings).beside(room);
    match &device {
        Device::Cpu(backend) => ask(&planner(open, &config, &**backend, wanted, budget)?),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let backend = gpu.backend();
            let planner = planner(open, &config, &backend, wanted, budget)?;
            ask(&planner.with_most_logit_rows(gpu.max_logit_rows(&config)))
        }
    }
}

/// Whether there is memory to read a model's tokenizer in the room that others leave.
pub(crate) fn can_read_tokenizer(open: &OpenModel, settings: &Settings, room: Room) -> Result<bool> {
    Ok(device::budget(settings)?.beside(room).holds(reading_bytes(&open.checkpoint)))
}

/// What in the settings contradicts the model, and the settings without that.
pub(crate) fn model_problems(open: &OpenModel, settings: &Settings) -> (Settings, Vec<String>) {
    let (mut rest, mut found) = (settings.clone(), Vec::new());
    let contradictions = open.config().map(|config| contradictions(&open.name, &config, settings));
    for (def, problem) in contradictions.unwrap_or_default() {
        rest = rest.without(def);
        found.push(problem);
    }
    (rest, found)
}

/// Everything in the settings that keeps a plan from being made: contradictions, and too little memory for the rest.
pub(crate) fn plan_problems(open: &OpenModel, usage: Use, settings: &Settings, room: Room) -> Vec<String> {
    let (rest, mut found) = model_problems(open, settings);
    found.extend(plan_beside(open, usage, &rest, room).err().map(problems::of_settings).unwrap_or_default());
    found
}

/// Plans a model's memory for `usage` and loads it accordingly.
pub(crate) fn load_planned(open: OpenModel, usage: Use, settings: &Settings) -> Result<(LoadedModel, Plan)> {
    load_beside(open, usage, settings, Room::default())
}

/// [`load_planned`] in the room that others leave.
pub(crate) fn load_beside(open: OpenModel, usage: Use, settings: &Settings, room: Room) -> Result<(LoadedModel, Plan)> {
    let config = open.config()?;
    let device = device::open(settings)?;
    device.announce();
    let budget = device.budget(settings).beside(room);
    let load = Load { usage, settings, budget };
    match device {
        Device::Cpu(backend) => {
            let (loaded, _, plan) = load.by_plan(open, config, *backend, usize::MAX)?;
            Ok((loaded.boxed(), plan))
        }
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let most_logit_rows = gpu.max_logit_rows(&config);
            let path = open.checkpoint.path().to_owned();
            let backend = gpu.backend_over(&open.checkpoint);
            let (loaded, sizes, plan) = load.by_plan(open, config, backend, most_logit_rows)?;
            let Loaded { name, decoder, load_time } = loaded;
            let (again, recipe, settings) = (name.clone(), plan.recipe, settings.clone());
            let reload = move |gpu: &GpuDevice| {
                let open = OpenModel { name: again.clone(), checkpoint: open_path(&path)? };
                let (config, backend) = (open.config()?, gpu.backend_over(&open.checkpoint));
                Ok(load_weights(open, config, backend, recipe, &sizes, &settings)?.decoder)
            };
            Ok((LoadedModel { name, network: Box::new(GpuNetwork::new(decoder, gpu, reload)), load_time }, plan))
        }
    }
}

/// Loads a model for commands that compute with it directly, in steps of the given sizes. Weights stay as they are
/// stored unless a quantization is asked for by name.
pub(crate) fn load(open: OpenModel, settings: &Settings, sizes: &LoadOptions) -> Result<LoadedModel> {
    let device = device::open(settings)?;
    device.announce();
    match device {
        Device::Cpu(backend) => Ok(in_sizes(open, *backend, settings, sizes)?.boxed()),
        #[cfg(feature = "gpu")]
        Device::Gpu(gpu) => {
            let config = open.config()?;
            let max_logit_rows = sizes.max_logit_rows.min(gpu.max_logit_rows(&config));
            let backend = gpu.backend_over(&open.checkpoint);
            Ok(in_sizes(open, backend, settings, &LoadOptions { max_logit_rows, ..*sizes })?.boxed())
        }
    }
}

/// A network whose backend is known.
pub(crate) struct Loaded<B: Backend> {
    name: String,
    pub(crate) decoder: Decoder<B>,
    load_time: Duration,
}

impl<B: Backend + 'static> Loaded<B> {
    fn boxed(self) -> LoadedModel {
        LoadedModel { name: self.name, network: Box::new(self.decoder), load_time: self.load_time }
    }
}

/// [`load`] on a backend that the caller has chosen.
pub(crate) fn in_sizes<B: Backend>(
    open: OpenModel,
    backend: B,
    settings: &Settings,
    sizes: &LoadOptions,
) -> Result<Loaded<B>> {
    let is_asked = !matches!(settings.source(&defs::DEFAULT_QUANTIZATION), Source::Default | Source::Profile(_));
    checked(open, backend, settings, sizes, is_asked)
}

/// [`in_sizes`] with weights as they are stored, whatever quantization is asked for: to measure what it is made from.
pub(crate) fn as_stored<B: Backend>(
    open: OpenModel,
    backend: B,
    settings: &Settings,
    sizes: &LoadOptions,
) -> Result<Loaded<B>> {
    checked(open, backend, settings, sizes, false)
}

fn checked<B: Backend>(
    open: OpenModel,
    backend: B,
    settings: &Settings,
    sizes: &LoadOptions,
    quantize: bool,
) -> Result<Loaded<B>> {
    let config = open.config()?;
    SettingsError(model_problems(&open, settings).1).into_result()?;
    let sizes = LoadOptions { max_context: Some(context_len(&open.name, &config, settings)?), ..*sizes };
    let recipe = if quantize { recipe_at_load(&open.checkpoint, &config, settings)? } else { None };
    load_weights(open, config, backend, recipe, &sizes, settings)
}

struct Load<'a> {
    usage: Use,
    settings: &'a Settings,
    budget: Budget,
}

impl Load<'_> {
    fn by_plan<B: Backend + 'static>(
        self,
        open: OpenModel,
        config: DecoderConfig,
        backend: B,
        most_logit_rows: usize,
    ) -> Result<(Loaded<B>, LoadOptions, Plan)> {
        let planner = planner(&open, &config, &backend, (self.usage, self.settings), self.budget)?;
        let planner = planner.with_most_logit_rows(most_logit_rows);
        let plan = planner.plan()?;
        let sizes = planner.load_options(&plan);
        plan.log();
        let loaded = load_weights(open, config, backend, plan.recipe, &sizes, self.settings)?;
        Ok((loaded, sizes, plan))
    }
}

fn planner<'a, B: Backend>(
    open: &'a OpenModel,
    config: &'a DecoderConfig,
    backend: &'a B,
    wanted: (Use, &'a Settings),
    budget: Budget,
) -> Result<Planner<'a, B>> {
    let planner = Planner::new(&open.name, &open.checkpoint, config, backend, wanted, budget);
    planner.with_context(|| open.place())
}

fn load_weights<B: Backend>(
    open: OpenModel,
    config: DecoderConfig,
    backend: B,
    recipe: Option<Recipe>,
    sizes: &LoadOptions,
    settings: &Settings,
) -> Result<Loaded<B>> {
    let start = Instant::now();
    let place = open.place();
    let OpenModel { name, checkpoint } = open;
    let cache = Cache::from_settings(settings);
    let bar = ByteBar::new(&name, 0);
    let mut progress = |progress: model::Progress| bar.set(progress.loaded_bytes, progress.total_bytes);
    let decoder = match recipe {
        None => Decoder::load(&checkpoint, config, backend, sizes, &mut progress).with_context(|| place)?,
        Some(recipe) => {
            let network = config.clone();
            let source = AtLoad::new(&checkpoint, &network, recipe, Converter::new(settings), cache.as_ref());
            let decoder = Decoder::load_from(&checkpoint, &source, config, backend, sizes, &mut progress);
            let decoder = decoder.with_context(|| place)?;
            source.finish();
            decoder
        }
    };
    bar.finish();
    Ok(Loaded { name, decoder, load_time: start.elapsed() })
}
