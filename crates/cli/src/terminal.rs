//! Progress on standard error: bars on a terminal, nothing in a pipe.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Ten updates a second are smooth enough and cost nothing.
const UPDATES_PER_SECOND: u8 = 10;

/// A bar over bytes.
pub(crate) struct ByteBar(ProgressBar);

impl ByteBar {
    pub(crate) fn new(name: &str, size_bytes: u64) -> Self {
        let style = "{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        Self(bar(Some(size_bytes), style, name))
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
        Self(bar(Some(total), "{msg} {wide_bar} {pos}/{len}", name))
    }

    pub(crate) fn set(&self, done: u64, total: u64) {
        self.0.set_length(total);
        self.0.set_position(done);
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

fn bar(len: Option<u64>, style: &str, name: &str) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(UPDATES_PER_SECOND);
    let bar = ProgressBar::with_draw_target(len, target);
    bar.set_style(ProgressStyle::with_template(style).expect("the templates of this file are valid"));
    bar.set_message(name.to_owned());
    bar
}
