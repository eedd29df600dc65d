//! `frontier run [MODEL] [PROMPT]`: an answer in the terminal, or a conversation.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use engine::{Draft, Engine, Event, Request, SamplingDraft, ranges};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use serde_json::{Value, json};
use tokenizer::{ChatTemplate, ControlTokens, RenderInput, Tokenizer};

use crate::input::read_input;
use crate::load;
use crate::numbers::{integer, number, of_model, share};
use crate::serving::{self, Use};
use crate::settings::{Settings, cache_dir};
use crate::terminal::PromptBar;

/// What `--max-tokens` may be.
const MAX_TOKENS: &str = "allowed are integers from 1 to the model's context";

/// Answer a prompt in the terminal; without a prompt, hold a conversation
#[derive(clap::Args, Debug)]
pub(crate) struct Run {
    /// Path or name of a model; `default` is the default model
    pub(super) model: Option<String>,
    /// The prompt
    prompt: Option<String>,
    /// Instructions for the whole conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Continue the prompt as it is, without chat template
    #[arg(long)]
    raw: bool,
    /// 0 takes the likeliest token; more is more varied
    #[arg(
        long, default_value_t = 0.7, value_name = "NUMBER",
        allow_negative_numbers = true, value_parser = number(ranges::TEMPERATURE)
    )]
    temperature: f64,
    /// Draw from the likeliest tokens whose probabilities reach this sum
    #[arg(long, default_value_t = 0.95, value_name = "SHARE", allow_negative_numbers = true, value_parser = share)]
    top_p: f64,
    /// Draw from this many of the likeliest tokens; 0 is all
    #[arg(
        long, default_value_t = 0, value_name = "N",
        allow_negative_numbers = true, value_parser = integer(ranges::TOP_K)
    )]
    top_k: i64,
    /// Makes the answer repeatable
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = integer(i64::MIN..=i64::MAX))]
    seed: Option<i64>,
    /// Most tokens of an answer; as many as the context has room for when not given
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = of_model::<i64>(MAX_TOKENS))]
    max_tokens: Option<i64>,
    /// Print tokens per second behind each answer, to standard error
    #[arg(long)]
    stats: bool,
}

impl Run {
    pub(crate) fn run(&self, settings: &Settings) -> Result<()> {
        let open = load::open(self.model.as_deref(), settings)?;
        let tokenizer = open.tokenizer()?;
        let template = open.template(&tokenizer)?;
        if template.is_none() && !self.raw {
            tracing::warn!("{} has no chat template: continuing the text as it is", open.name);
        }
        let (loaded, plan) = load::load_planned(open, Use::Terminal, settings)?;
        let ends = tokenizer.end_of_generation();
        let bar = Arc::new(PromptBar::new());
        let engine = serving::start_engine(Use::Terminal, loaded, &plan, ends, settings, bar.clone())?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let template = template.filter(|_| !self.raw);
        let mut conversation = Conversation { options: self, tokenizer, template, engine, bar, messages: Vec::new() };
        conversation.clear();
        match &self.prompt {
            Some(prompt) => runtime.block_on(conversation.answer(prompt)),
            None if std::io::stdin().is_terminal() => conversation.read_and_answer(&runtime),
            None => {
                let input = read_input()?;
                ensure!(!input.trim().is_empty(), "standard input holds no prompt");
                let prompt = if self.raw { &input } else { without_line_end(&input) };
                runtime.block_on(conversation.answer(prompt))
            }
        }
    }
}

struct Conversation<'a> {
    options: &'a Run,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    engine: Engine,
    bar: Arc<PromptBar>,
    messages: Vec<Value>,
}

impl Conversation<'_> {
    /// Back to the beginning.
    fn clear(&mut self) {
        self.messages.clear();
        self.messages.extend(self.options.system.iter().map(|text| json!({ "role": "system", "content": text })));
    }

    /// Reads prompts from the terminal until its end.
    fn read_and_answer(&mut self, runtime: &tokio::runtime::Runtime) -> Result<()> {
        let mut editor = DefaultEditor::new()?;
        let history = cache_dir().map(|dir| dir.join("history"));
        if let Some(history) = &history {
            // There is none the first time.
            editor.load_history(history).ok();
        }
        eprintln!("Ctrl-C stops an answer, Ctrl-D ends; /clear begins anew.");
        loop {
            match editor.readline("> ") {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) if line.trim() == "/clear" => self.clear(),
                Ok(line) => {
                    editor.add_history_entry(&line)?;
                    if let Err(error) = runtime.block_on(self.answer(&line)) {
                        eprintln!("error: {error:#}");
                    }
                }
                Err(ReadlineError::Interrupted) => {}
                Err(ReadlineError::Eof) => break,
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(history) = history
            && let Err(error) = save_history(&mut editor, &history)
        {
            tracing::warn!("{}: the history is not kept: {error}", history.display());
        }
        Ok(())
    }

    /// Prints the answer to one prompt as it comes. What fails leaves the conversation as it was.
    async fn answer(&mut self, prompt: &str) -> Result<()> {
        let turns = self.messages.len();
        let result = self.try_answer(prompt).await;
        self.bar.finish();
        if result.is_err() {
            self.messages.truncate(turns);
        }
        result
    }

    async fn try_answer(&mut self, prompt: &str) -> Result<()> {
        let ids = self.prompt_ids(prompt)?;
        let prompt_tokens = ids.len();
        let request = Request::check(self.draft(ids), self.engine.limits())?;
        self.bar.start(prompt_tokens);
        let start = Instant::now();
        let mut events = self.engine.submit(request)?;
        let mut decode = self.tokenizer.continuation();
        let (mut text, mut tokens, mut first_token) = (String::new(), 0_usize, None);
        let mut out = std::io::stdout();
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                _ = tokio::signal::ctrl_c() => None,
            };
            match event {
                Some(Event::Token(token)) => {
                    tokens += 1;
                    first_token.get_or_insert_with(|| {
                        self.bar.finish();
                        start.elapsed()
                    });
                    if !self.tokenizer.is_end_of_generation(token.id) {
                        write(&mut out, &decode.push(token.id), &mut text)?;
                    }
                }
                Some(Event::Failed(failure)) => return Err(failure.into()),
                Some(Event::Finished(_)) | None => break,
                Some(Event::Started(_) | Event::PromptLogprobs(_)) => {}
            }
        }
        write(&mut out, &decode.finish(), &mut text)?;
        writeln!(out)?;
        if self.options.stats {
            let (total, first) = (start.elapsed(), first_token.unwrap_or_default());
            let rate = |count: usize, seconds: f64| count as f64 / seconds.max(f64::MIN_POSITIVE);
            eprintln!(
                "prompt {prompt_tokens} tokens, {:.1} tokens/s; answer {tokens} tokens, {:.1} tokens/s",
                rate(prompt_tokens, first.as_secs_f64()),
                rate(tokens.saturating_sub(1), (total - first).as_secs_f64()),
            );
        }
        self.messages.push(json!({ "role": "assistant", "content": text }));
        Ok(())
    }

    fn prompt_ids(&mut self, prompt: &str) -> Result<Vec<u32>> {
        let Some(template) = &self.template else {
            // Whoever writes a raw prompt writes the control tokens in it too.
            let control = if self.options.raw { ControlTokens::Parse } else { ControlTokens::PlainText };
            return Ok(self.tokenizer.encode_completion(prompt, control)?);
        };
        self.messages.push(json!({ "role": "user", "content": prompt }));
        let input = RenderInput { messages: &self.messages, add_generation_prompt: true, ..RenderInput::default() };
        Ok(self.tokenizer.encode_prompt(&template.render(&input)?)?)
    }

    fn draft(&self, prompt: Vec<u32>) -> Draft {
        let options = self.options;
        let sampling = SamplingDraft {
            temperature: options.temperature,
            top_p: options.top_p,
            top_k: options.top_k,
            seed: options.seed,
            ..SamplingDraft::default()
        };
        Draft { prompt, max_tokens: options.max_tokens, sampling, ..Draft::default() }
    }
}

/// What was typed, without the end of the line that sent it: `echo` writes one too.
fn without_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn save_history(editor: &mut DefaultEditor, path: &Path) -> Result<()> {
    std::fs::create_dir_all(path.parent().context("the history has no directory")?)?;
    Ok(editor.save_history(path)?)
}

fn write(out: &mut impl Write, part: &str, text: &mut String) -> Result<()> {
    out.write_all(part.as_bytes())?;
    out.flush()?;
    text.push_str(part);
    Ok(())
}
