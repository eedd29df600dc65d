//! `frontier render MODEL|FILE.jinja`: a conversation as the prompt that the model sees.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tokenizer::{ChatTemplate, CivilTime, ControlTexts, RenderCase};

use crate::input::read_text;
use crate::load;
use crate::output::print_text;
use crate::settings::Settings;

/// Print the prompt that a chat template makes of a conversation
#[derive(clap::Args, Debug)]
pub(crate) struct Render {
    /// Path or name of a model, or a template file (.jinja)
    pub(super) model: String,
    /// JSON file with `messages` and optionally `tools`, `documents`, `add_generation_prompt` and other variables
    #[arg(long, value_name = "FILE")]
    messages: PathBuf,
    /// Text of the start token, for a template file
    #[arg(long, value_name = "TEXT")]
    bos: Option<String>,
    /// Text of the end token, for a template file
    #[arg(long, value_name = "TEXT")]
    eos: Option<String>,
    /// Time that the template sees, e.g. 2026-01-02T03:04:05
    #[arg(long, value_name = "TIME")]
    now: Option<CivilTime>,
}

impl Render {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let template = self.template(settings)?;
        let file = self.messages.display();
        let json = serde_json::from_str(&read_text(&self.messages)?).with_context(|| format!("{file}: not JSON"))?;
        let case = RenderCase::from_json(json).with_context(|| file.to_string())?;
        let prompt = template.render(&case.input(self.now)).with_context(|| format!("{} with {file}", self.model))?;
        print_text(prompt.text())
    }

    fn template(&self, settings: &Settings) -> Result<ChatTemplate> {
        let path = Path::new(&self.model);
        if path.extension().is_some_and(|extension| extension == "jinja") {
            let source = read_text(path)?;
            let named = [("bos_token", &self.bos), ("eos_token", &self.eos)];
            let special: BTreeMap<String, String> =
                named.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.clone()?))).collect();
            let template = ChatTemplate::parse(&source, special, ControlTexts::default());
            return template.with_context(|| self.model.clone());
        }
        if self.bos.is_some() || self.eos.is_some() {
            bail!("--bos and --eos are for template files (.jinja): {} brings its own", self.model);
        }
        let open = load::open(Some(&self.model), settings)?;
        let template = open.template(&open.tokenizer()?)?;
        template.with_context(|| format!("{}: the model has no chat template", open.name))
    }
}
