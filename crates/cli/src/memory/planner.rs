//! Makes a [`Plan`]: chooses recipe, KV size and context so that the model fits its budget, or says why it cannot.
//!
//! Only headers are read. In this order:
//!
//! 1. weights that arrive unquantized take MISTRAL_DEFAULT_QUANTIZATION, and with MISTRAL_DYNAMIC_QUANTIZATION the
//!    first smaller recipe with which one request of full length fits;
//! 2. the KV cache is clipped to what is left, among several models to its share, down to one request of the length
//!    that was asked for;
//! 3. what does not fit then is refused, with the sum and the settings that would make it fit.

use std::collections::HashMap;

use anyhow::Result;
use checkpoint::Checkpoint;
use model::{DecoderConfig, LoadOptions, MatrixSpec, Place};
use tensor::{Backend, Footprint, Format, PAGE_TOKENS, Recipe};

use super::plan::Parts;
use super::program::program_bytes;
use super::{Budget, Demand, KvChoice, Length, Plan, clipped, clipped_sizes};
use crate::output::human_bytes_apart;
use crate::serving::Use;
use crate::settings::defs::Def;
use crate::settings::{Settings, SettingsError, Source, defs};

/// Unless a setting says more, contexts end here: KV pages for more are rarely wanted and always paid for.
const DEFAULT_CONTEXT: usize = 32_768;
/// Lengths to which a context that nobody asked for gives way, so that other models have room, too; longest first.
const SHORTER_CONTEXTS: [usize; 2] = [16_384, 8192];
/// Shortest context to which a model is cut down when none was asked for.
const LEAST_CONTEXT: usize = 1024;
/// Least rows of logits in a step: log probabilities of prompts come that many at a time.
const MIN_LOGIT_ROWS: usize = 16;
/// What recipes step down to, most bits first.
const STEPS: [Recipe; 5] = [Recipe::Q8_0, Recipe::Q6_K, Recipe::Q5_K_M, Recipe::Q4_K_M, Recipe::Q3_K_M];

/// Everything that a plan depends on.
pub(crate) struct Planner<'a, B> {
    name: &'a str,
    config: &'a DecoderConfig,
    backend: &'a B,
    settings: &'a Settings,
    usage: Use,
    budget: Budget,
    stored: HashMap<Place, Format>,
    program_bytes: u64,
    most_logit_rows: usize,
}

/// What can be chosen.
#[derive(Clone, Copy)]
struct Choice {
    recipe: Option<Recipe>,
    kv: KvChoice,
    kv_tokens: usize,
    chunk: usize,
}

/// Numbers of tokens.
struct Tokens {
    /// The shortest context to which it may be cut down.
    least: usize,
    /// Of one request of full length.
    context: usize,
    /// That the KV cache shall hold over all requests.
    wanted: usize,
}

/// A recipe with which a request of full length does not fit.
struct Tried {
    recipe: Recipe,
    parts: Parts,
    tokens: usize,
}

/// What a planner tells, on whatever device.
pub(crate) trait Plans {
    /// What may be used of the device's memory.
    fn budget(&self) -> &Budget;

    /// The plan.
    ///
    /// # Errors
    /// A context beyond the model's, a format that the device cannot compute with, and a model that does not fit.
    fn plan(&self) -> Result<Plan>;

    /// What the model would take, whatever the budget.
    ///
    /// # Errors
    /// A context beyond the model's, a format that the device cannot compute with.
    fn demand(&self) -> Result<Demand>;

    /// The longest requests and shorter ones to which they could give way, longest first; none where somebody has asked
    /// for a length.
    ///
    /// # Errors
    /// As [`Self::demand`].
    fn lengths(&self) -> Result<Vec<Length>>;
}

impl<'a, B: Backend> Planner<'a, B> {
    /// Reads the headers of a model. The budget is `budget`.
    ///
    /// # Errors
    /// A tensor that is missing or has the wrong shape.
    pub(crate) fn new(
        name: &'a str,
        checkpoint: &Checkpoint,
        config: &'a DecoderConfig,
        backend: &'a B,
        (usage, settings): (Use, &'a Settings),
        budget: Budget,
    ) -> Result<Self> {
        let stored = config.stored_formats(checkpoint)?;
        let program_bytes = program_bytes(checkpoint);
        Ok(Self { name, config, backend, settings, usage, budget, stored, program_bytes, most_logit_rows: usize::MAX })
    }

    /// Bounds the logit rows of a step by what the device can do.
    pub(crate) fn with_most_logit_rows(mut self, rows: usize) -> Self {
        self.most_logit_rows = rows;
        self
    }

    /// The sizes of steps, for loading by this plan.
    pub(crate) fn load_options(&self, plan: &Plan) -> LoadOptions {
        LoadOptions { max_context: Some(plan.context), ..self.step_sizes(plan.chunk) }
    }

    fn tokens(&self) -> Result<Tokens> {
        let found = contradictions(self.name, self.config, self.settings);
        SettingsError(found.into_iter().map(|(_, problem)| problem).collect()).into_result()?;
        let context = context_len(self.name, self.config, self.settings)?;
        let wanted = match self.usage {
            Use::Server => self.settings.len(&defs::MAX_TOTAL_TOKENS).max(PAGE_TOKENS),
            Use::Terminal => context,
        };
        let others_leave = self.budget.context.as_ref().map_or(usize::MAX, |shorter| shorter.tokens);
        let context = context.min(wanted).min(others_leave);
        let is_free = self.is_context_free();
        Ok(Tokens { least: if is_free { context.min(LEAST_CONTEXT) } else { context }, context, wanted })
    }

    /// Whether nobody has asked for a length of contexts.
    fn is_context_free(&self) -> bool {
        self.settings.amount(&defs::MAX_SEQ_LEN).is_none()
    }

    fn wanted(&self) -> Choice {
        let chunk = self.settings.len(&defs::PREFILL_CHUNK_SIZE);
        Choice { recipe: None, kv: KvChoice::from_settings(self.settings), kv_tokens: PAGE_TOKENS, chunk }
    }

    /// The first recipe with which one request of full length fits, or the smallest there is; and those that do not
    /// fit.
    fn choose_recipe(&self, context: usize) -> (Option<Recipe>, Vec<Tried>) {
        let (mut tried, mut last) = (Vec::new(), None);
        for recipe in self.recipes() {
            last = recipe;
            let choice = Choice { recipe, kv_tokens: context, ..self.wanted() };
            // A format that the device does not know is no way down.
            let (Some(recipe), Ok(parts)) = (recipe, self.parts(choice)) else { continue };
            if self.budget.holds(parts.total()) {
                break;
            }
            tried.push(Tried { recipe, parts, tokens: context });
        }
        (last, tried)
    }

    /// What may be made of the weights, most bits first; as they are stored, if they are quantized already.
    fn recipes(&self) -> Vec<Option<Recipe>> {
        if !is_unquantized(&self.stored) {
            return vec![None];
        }
        let first = default_recipe(self.settings);
        std::iter::once(first).chain(self.smaller_recipes(first)).map(Some).collect()
    }

    /// The one with most bits and the one with fewest, of those that the device can compute with.
    fn first_and_last_recipe(&self, tokens: usize) -> [Option<Recipe>; 2] {
        let recipes = self.recipes();
        let is_known = |recipe: &&Option<Recipe>| self.total(**recipe, tokens).is_ok();
        let mut known = recipes.iter().filter(is_known);
        let first = known.next().unwrap_or(&recipes[0]);
        [*first, *known.next_back().unwrap_or(first)]
    }

    /// All bytes, with so many tokens of KV cache.
    fn total(&self, recipe: Option<Recipe>, kv_tokens: usize) -> Result<u64> {
        Ok(self.parts(Choice { recipe, kv_tokens, ..self.wanted() })?.total())
    }

    /// What a plan says of the recipes that were tried before its own.
    fn steps_down(&self, chosen: Option<Recipe>, tried: &[Tried]) -> Vec<String> {
        let note = |Tried { recipe, parts, tokens }: &Tried| {
            let (sum, budget) = self.beyond(parts);
            format!("quantization: {} does not fit: {sum} for {tokens} tokens exceeds {budget}", recipe.name())
        };
        let first = tried.first().map(|tried| tried.recipe).filter(|first| Some(*first) != chosen);
        let step = first
            .zip(chosen)
            .map(|(first, chosen)| format!("quantization: stepped down from {} to {}", first.name(), chosen.name()));
        tried.iter().map(note).chain(step).collect()
    }

    /// A sum that exceeds the budget, and the budget.
    fn beyond(&self, parts: &Parts) -> (String, String) {
        let [total, budget] = human_bytes_apart([parts.total(), self.budget.bytes.unwrap_or(u64::MAX)]);
        (parts.sum_to(&total), budget)
    }

    /// What MISTRAL_DYNAMIC_QUANTIZATION may step down to.
    fn smaller_recipes(&self, first: Recipe) -> impl Iterator<Item = Recipe> {
        let bits = |recipe: Recipe| recipe.base().block_bytes() * 256 / recipe.base().block_len();
        let allowed = self.settings.on(&defs::DYNAMIC_QUANTIZATION);
        STEPS.into_iter().filter(move |recipe| allowed && bits(*recipe) < bits(first))
    }

    fn formats(&self, recipe: Option<Recipe>) -> String {
        let facts = self.config.facts(false);
        let mut counts: Vec<(Format, usize)> = Vec::new();
        for MatrixSpec { parts, cols, .. } in self.config.matrices() {
            for part in parts {
                let stored = self.stored[&part.place];
                let format = recipe.map_or(stored, |recipe| recipe.format(part.place.for_recipe(cols), &facts));
                match counts.iter_mut().find(|(known, _)| *known == format) {
                    Some((_, count)) => *count += part.rows * cols,
                    None => counts.push((format, part.rows * cols)),
                }
            }
        }
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        counts.iter().map(|(format, _)| format.name()).collect::<Vec<_>>().join(", ")
    }

    fn parts(&self, choice: Choice) -> Result<Parts> {
        let facts = self.config.facts(false);
        let cols: HashMap<Place, usize> = self
            .config
            .matrices()
            .flat_map(|matrix| matrix.parts.into_iter().map(move |part| (part.place, matrix.cols)))
            .collect();
        let format = |place: Place| match choice.recipe {
            Some(recipe) => recipe.format(place.for_recipe(cols[&place]), &facts),
            None => self.stored[&place],
        };
        let footprint = self.config.footprint(self.backend, &self.step_sizes(choice.chunk), format)?;
        let kv = self.pools(choice)?.iter().map(|pool| pool.pages as u64 * pool.page_bytes).sum();
        let Footprint { weight_bytes: weights, scratch_bytes: scratch } = footprint;
        Ok(Parts { weights, kv, scratch, program: self.program_bytes })
    }

    fn pools(&self, choice: Choice) -> Result<Vec<engine::KvPool>> {
        choice.kv.pools(self.config, choice.kv_tokens, self.usage.running(self.settings), choice.chunk)
    }

    fn step_sizes(&self, chunk: usize) -> LoadOptions {
        let batch = self.usage.batch(self.settings);
        LoadOptions {
            max_rows: chunk + batch,
            max_seqs: batch,
            max_logit_rows: batch.max(MIN_LOGIT_ROWS).min(self.most_logit_rows),
            max_context: None,
        }
    }

    fn fits(&self, choice: Choice) -> Result<bool> {
        Ok(self.budget.holds(self.parts(choice)?.total()))
    }

    /// The largest KV cache of up to `wanted` tokens that fits; `choice` fits.
    fn most_tokens(&self, choice: Choice, wanted: usize) -> Result<usize> {
        let with = |kv_tokens| self.fits(Choice { kv_tokens, ..choice });
        if with(wanted)? {
            return Ok(wanted);
        }
        // In pages: `fits` holds for the first and not for the second.
        let (mut fits, mut exceeds) = (choice.kv_tokens / PAGE_TOKENS, wanted.div_ceil(PAGE_TOKENS));
        while exceeds - fits > 1 {
            let middle = fits + (exceeds - fits) / 2;
            if with(middle * PAGE_TOKENS)? { fits = middle } else { exceeds = middle }
        }
        Ok((fits * PAGE_TOKENS).max(choice.kv_tokens))
    }

    /// MISTRAL_MEMORY_RESERVATION is what a container is sure to keep when the machine runs short.
    fn beyond_reservation(&self, total: u64) -> Option<String> {
        let reserved = self.settings.amount(&defs::MEMORY_RESERVATION).filter(|reserved| *reserved < total)?;
        let [total, reserved] = human_bytes_apart([total, reserved]);
        Some(format!(
            "{total} exceed MISTRAL_MEMORY_RESERVATION={reserved}: when the machine runs short, memory beyond it may be taken back"
        ))
    }

    /// Ceilings that somebody has set and that mean less here.
    fn clipped(&self, recipe: Option<Recipe>, bytes: &Parts) -> Vec<String> {
        let mut clipped = clipped_sizes(self.settings, &self.budget, Some(bytes));
        // Nothing is quantized, and nothing kept.
        clipped.retain(|(def, _)| recipe.is_some() || def.key != defs::QUANTIZATION_CACHE_SIZE.key);
        clipped::notes(self.settings, clipped).collect()
    }

    /// Why it does not fit, and what would. `tried` are the sums before.
    fn refuse(&self, choice: Choice, tried: &[Tried]) -> Result<anyhow::Error> {
        let parts = self.parts(choice)?;
        let (sum, budget) = self.beyond(&parts);
        let ways = self.ways_to_fit(choice, parts.total())?;
        let with = choice.recipe.map(|recipe| format!(" with {}", recipe.name())).unwrap_or_default();
        let before = |Tried { recipe, parts, tokens }: &Tried| {
            format!("{} ({} for {tokens} tokens)", recipe.name(), parts.sum())
        };
        // The last sum is the one that is told first, where it is for as many tokens.
        let before: Vec<String> = tried.iter().filter(|tried| tried.parts != parts).map(before).collect();
        let before = if before.is_empty() { String::new() } else { format!("; tried before: {}", before.join(", ")) };
        let problem = format!(
            "{} does not fit{with}: {sum} for {} tokens exceeds the budget of {budget} ({}){before}; it would fit with {}",
            self.name,
            choice.kv_tokens,
            self.budget.reason,
            ways.join(", or ")
        );
        Ok(SettingsError(vec![problem]).into())
    }

    /// Settings each of which would do alone; if none would, the memory that it takes.
    fn ways_to_fit(&self, choice: Choice, total: u64) -> Result<Vec<String>> {
        let mut ways = Vec::new();
        if let Some(recipe) = choice.recipe
            && let Some(smaller) = STEPS.into_iter().rev().find(|smaller| {
                *smaller != recipe && self.fits(Choice { recipe: Some(*smaller), ..choice }).unwrap_or(false)
            })
        {
            ways.push(format!("MISTRAL_DEFAULT_QUANTIZATION={}", smaller.name()));
        }
        let least = Choice { kv_tokens: PAGE_TOKENS, ..choice };
        if choice.kv_tokens > PAGE_TOKENS && self.fits(least)? {
            ways.push(format!("MISTRAL_MAX_SEQ_LEN={}", self.most_tokens(least, choice.kv_tokens)?));
        }
        for format in [Format::Q8_0, Format::Q4_0] {
            let kv = KvChoice { keys: format, values: format };
            if self.fits(Choice { kv, ..choice }).unwrap_or(false) {
                ways.push(format!("MISTRAL_KV_CACHE_DTYPE={}", kv.name()));
                break;
            }
        }
        for chunk in [512, 128, 32] {
            if chunk < choice.chunk && self.fits(Choice { chunk, ..choice })? {
                ways.push(format!("MISTRAL_PREFILL_CHUNK_SIZE={chunk}"));
                break;
            }
        }
        ways.extend(self.budget.ways_to_hold(total, self.settings));
        Ok(ways)
    }
}

impl<B: Backend> Plans for Planner<'_, B> {
    fn budget(&self) -> &Budget {
        &self.budget
    }

    fn plan(&self) -> Result<Plan> {
        let Tokens { least: least_tokens, context, wanted: wanted_tokens } = self.tokens()?;
        let (recipe, tried) = self.choose_recipe(context);
        let choice = Choice { recipe, kv_tokens: least_tokens, ..self.wanted() };
        if !self.fits(choice)? {
            return Err(self.refuse(choice, &tried)?);
        }
        let mut notes: Vec<String> =
            self.budget.context.iter().map(|shorter| format!("context: {}", shorter.why)).collect();
        notes.extend(self.steps_down(recipe, &tried));
        let kv_tokens = self.most_tokens(choice, wanted_tokens)?;
        if kv_tokens < wanted_tokens {
            notes.push(format!("KV cache: clipped from {wanted_tokens} to {kv_tokens} tokens to fit"));
        }
        if kv_tokens < context {
            notes.push(format!("context: clipped from {context} to {kv_tokens} tokens to fit"));
        }
        let choice = Choice { kv_tokens, ..choice };
        let bytes = self.parts(choice)?;
        notes.extend(self.beyond_reservation(bytes.total()));
        notes.extend(self.clipped(recipe, &bytes));
        Ok(Plan {
            model: self.name.to_owned(),
            device: self.backend.describe(),
            recipe,
            formats: self.formats(recipe),
            context: context.min(kv_tokens),
            batch: self.usage.batch(self.settings),
            chunk: choice.chunk,
            kv: choice.kv,
            kv_tokens,
            pools: self.pools(choice)?,
            bytes,
            budget: self.budget.clone(),
            notes,
        })
    }

    fn demand(&self) -> Result<Demand> {
        let Tokens { least, context, wanted } = self.tokens()?;
        let [first, last] = self.first_and_last_recipe(least);
        let bytes = |recipe, tokens| self.total(recipe, tokens);
        Ok(Demand { least: bytes(last, least)?, full: bytes(first, context)?, most: bytes(first, wanted)? })
    }

    fn lengths(&self) -> Result<Vec<Length>> {
        if !self.is_context_free() {
            return Ok(Vec::new());
        }
        let Tokens { least, context, .. } = self.tokens()?;
        let [first, _] = self.first_and_last_recipe(least);
        let shorter = SHORTER_CONTEXTS.into_iter().filter(|tokens| *tokens < context);
        let length = |tokens| Ok(Length { tokens, bytes: self.total(first, tokens)? });
        [context].into_iter().chain(shorter).map(length).collect()
    }
}

/// Most tokens of one request: as set, else the model's own, within reason.
///
/// # Errors
/// More than the model was trained for, unless a profile says so, which is a default like any other.
pub(crate) fn context_len(name: &str, config: &DecoderConfig, settings: &Settings) -> Result<usize> {
    let trained = config.context_len();
    match settings.amount(&defs::MAX_SEQ_LEN) {
        None => Ok(trained.min(DEFAULT_CONTEXT)),
        Some(wanted) if wanted <= trained as u64 => Ok(wanted as usize),
        Some(_) if matches!(settings.source(&defs::MAX_SEQ_LEN), Source::Profile(_)) => Ok(trained),
        Some(wanted) => Err(SettingsError(vec![format!(
            "MISTRAL_MAX_SEQ_LEN={wanted} ({}): {name} was trained for {trained} tokens; allowed: 1 to {trained}",
            settings.source(&defs::MAX_SEQ_LEN)
        )])
        .into()),
    }
}

/// The settings that a model's shape forbids, each with what is wrong.
pub(crate) fn contradictions(name: &str, config: &DecoderConfig, settings: &Settings) -> Vec<(&'static Def, String)> {
    let context = context_len(name, config, settings).err().map(|problem| (&defs::MAX_SEQ_LEN, problem.to_string()));
    let fits = |kv: KvChoice| config.kv_groups().iter().all(|group| group.page_bytes(kv.keys, kv.values).is_some());
    let kv = KvChoice::from_settings(settings);
    let kv_type = (!fits(kv)).then(|| {
        let allowed = KvChoice::FORMATS.into_iter().filter(|format| fits(KvChoice { keys: *format, values: *format }));
        let allowed: Vec<&str> = allowed.map(Format::name).collect();
        let problem = format!(
            "MISTRAL_KV_CACHE_DTYPE={} ({}): the heads of {name} are no whole number of its blocks; allowed: {}",
            kv.name(),
            settings.source(&defs::KV_CACHE_DTYPE),
            allowed.join(", ")
        );
        (&defs::KV_CACHE_DTYPE, problem)
    });
    context.into_iter().chain(kv_type).map(|(def, problem)| (def as &'static Def, problem)).collect()
}

/// The recipe for weights that arrive unquantized; `None` for a file that is quantized already.
///
/// # Errors
/// A tensor that is missing or has the wrong shape.
pub(crate) fn recipe_at_load(
    checkpoint: &Checkpoint,
    config: &DecoderConfig,
    settings: &Settings,
) -> Result<Option<Recipe>> {
    Ok(is_unquantized(&config.stored_formats(checkpoint)?).then(|| default_recipe(settings)))
}

/// Whether every matrix arrives in floats.
fn is_unquantized(stored: &HashMap<Place, Format>) -> bool {
    stored.values().all(|format| format.block_len() == 1)
}

fn default_recipe(settings: &Settings) -> Recipe {
    let name = settings.text(&defs::DEFAULT_QUANTIZATION).unwrap_or("q5_k_m");
    Recipe::from_name(name).expect("the table of settings lists recipes by their names")
}
