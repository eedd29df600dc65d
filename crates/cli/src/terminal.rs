//! Progress on standard error: bars on a terminal, nothing in a pipe.

use engine::{Observer, StepReport};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Ten updates a second are smooth enough and cost nothing.
const UPDATES_PER_SECOND: u8 = 10;

/// A bar over bytes.
pub(crate) struct ByteBar(ProgressBar);

impl ByteBar {
    pub(crate) fn new(name: &str, size_bytes: u64) -> Self {
        let style = "{msg} {wide_bar} {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta}";
        Self(bar(draw_target(), Some(size_bytes), style, name))
    }

    pub(crate) fn advance(&self, bytes: u64) {
        self.0.inc(bytes);
    }

    pub(crate) fn restart(&self) {
        self.0.reset();
    }

    pub(crate) fn set(&self, done_bytes: u64, size_bytes: u64) {
        self.0.set_length(size_bytes);
        self.0.set_position(done_bytes);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// A bar over things that are counted.
pub(crate) struct CountBar(ProgressBar);

impl CountBar {
    pub(crate) fn new(name: &str, total: u64) -> Self {
        Self(bar(draw_target(), Some(total), "{msg} {wide_bar} {pos}/{len}", name))
    }

    pub(crate) fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

/// A bar over the tokens of a prompt that an engine computes, step by step.
pub(crate) struct PromptBar(ProgressBar);

impl PromptBar {
    /// Shows nothing until a prompt starts.
    pub(crate) fn new() -> Self {
        Self(bar(ProgressDrawTarget::hidden(), None, "reading the prompt {wide_bar} {pos}/{len} tokens", ""))
    }

    pub(crate) fn start(&self, prompt_tokens: usize) {
        self.0.reset();
        self.0.set_length(prompt_tokens as u64);
        self.0.set_draw_target(draw_target());
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
        self.0.set_draw_target(ProgressDrawTarget::hidden());
    }
}

impl Observer for PromptBar {
    fn prefix_lookup(&self, _queried_tokens: usize, hit_tokens: usize) {
        self.0.inc(hit_tokens as u64);
    }

    fn step(&self, report: &StepReport) {
        self.0.inc(report.prefill_tokens as u64);
    }
}

fn draw_target() -> ProgressDrawTarget {
    ProgressDrawTarget::stderr_with_hz(UPDATES_PER_SECOND)
}

fn bar(target: ProgressDrawTarget, len: Option<u64>, style: &str, name: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(len, target);
    bar.set_style(ProgressStyle::with_template(style).expect("the templates of this file are valid"));
    bar.set_message(name.to_owned());
    bar
}
