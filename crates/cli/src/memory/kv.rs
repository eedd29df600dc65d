//! The size of the KV cache.

use anyhow::{Context, Result};
use engine::KvPool;
use model::{DecoderConfig, KvGroupShape};
use tensor::{Format, PAGE_TOKENS};

use crate::settings::{Settings, defs};

/// How keys and values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvChoice {
    pub(crate) keys: Format,
    pub(crate) values: Format,
}

impl KvChoice {
    /// The formats that there are for keys and values.
    pub(super) const FORMATS: [Format; 5] = [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0];

    /// As the settings say.
    pub(crate) fn from_settings(settings: &Settings) -> Self {
        let text = settings.text(&defs::KV_CACHE_DTYPE).unwrap_or("f16");
        let (keys, values) = text.split_once(',').unwrap_or((text, text));
        let format = |name| Format::from_name(name).expect("the table of settings lists formats by their names");
        Self { keys: format(keys), values: format(values) }
    }

    /// As one would write it in the settings.
    pub(crate) fn name(&self) -> String {
        if self.keys == self.values {
            self.keys.name().to_owned()
        } else {
            format!("{},{}", self.keys.name(), self.values.name())
        }
    }

    /// Pools for `tokens` in all. Layers with a window keep what the window sees of each of `running` sequences and
    /// what a step of `chunk` tokens adds, twice over so that finished prefixes have room too.
    ///
    /// # Errors
    /// When the model's heads are no whole number of blocks.
    pub(super) fn pools(
        &self,
        config: &DecoderConfig,
        tokens: usize,
        running: usize,
        chunk: usize,
    ) -> Result<Vec<KvPool>> {
        let full = tokens.div_ceil(PAGE_TOKENS);
        let pool = |group: &KvGroupShape| {
            let page_bytes = group.page_bytes(self.keys, self.values).with_context(|| {
                format!("MISTRAL_KV_CACHE_DTYPE={}: the model's heads are no whole number of its blocks", self.name())
            })?;
            let seen = |window: usize| (window + chunk).div_ceil(PAGE_TOKENS) + 2;
            let pages = group.window.map_or(full, |window| full.min(2 * running * seen(window)));
            Ok(KvPool { pages, page_bytes, window: group.window })
        };
        config.kv_groups().iter().map(pool).collect()
    }

    /// Bytes of one sequence of `tokens`; layers with a window keep that many only. `None` when the model's heads are
    /// no whole number of blocks.
    pub(crate) fn sequence_bytes(&self, config: &DecoderConfig, tokens: usize) -> Option<u64> {
        let group = |group: KvGroupShape| {
            let kept = group.window.map_or(tokens, |window| tokens.min(window));
            Some(kept.div_ceil(PAGE_TOKENS) as u64 * group.page_bytes(self.keys, self.values)?)
        };
        config.kv_groups().into_iter().map(group).sum()
    }
}
