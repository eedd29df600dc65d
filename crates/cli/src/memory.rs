//! Memory: what there is, what a model takes, and how much of it the KV cache may have.

use std::fs;

use model::DecoderConfig;
use tensor::{Format, PAGE_TOKENS};

use crate::settings::{Settings, defs};

/// What limits this process, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// Memory of the machine; `None` where the system does not tell.
    pub(crate) total_bytes: Option<u64>,
    /// Limit of the control group.
    pub(crate) cgroup_bytes: Option<u64>,
}

impl Machine {
    /// Asks the system.
    pub(crate) fn read() -> Self {
        Self { total_bytes: total_bytes(), cgroup_bytes: cgroup_bytes() }
    }

    /// What this process may have at most.
    pub(crate) fn usable_bytes(&self, settings: &Settings) -> Option<u64> {
        [self.total_bytes, self.cgroup_bytes, settings.amount(&defs::MEMORY_LIMIT)].into_iter().flatten().min()
    }

    /// What of that may be used, by the settings.
    pub(crate) fn budget_bytes(&self, settings: &Settings) -> Option<u64> {
        Some((self.usable_bytes(settings)? as f64 * settings.fraction(&defs::MEMORY_FRACTION)) as u64)
    }
}

/// Bytes of keys and values for one sequence of `tokens`; layers with a window keep that many only. `None` when a
/// format does not fit the heads.
pub(crate) fn kv_bytes(config: &DecoderConfig, tokens: usize, (keys, values): (Format, Format)) -> Option<u64> {
    let layer = |layer: &model::LayerConfig| {
        let kept = layer.window.map_or(tokens, |window| tokens.min(window));
        let width = layer.kv_heads * layer.head_dim;
        let token_bytes = keys.row_bytes(width)? + values.row_bytes(width)?;
        Some((kept.div_ceil(PAGE_TOKENS) * PAGE_TOKENS * token_bytes) as u64)
    };
    config.layers.iter().map(layer).sum()
}

fn total_bytes() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.split_whitespace().next()?.parse().ok()?;
    Some(kib * 1024)
}

/// The least limit on the way from this process's control group up to the root.
fn cgroup_bytes() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|line| line.strip_prefix("0::"))?.trim_start_matches('/').to_owned();
    let mut dir = std::path::Path::new("/sys/fs/cgroup").join(path);
    let mut least: Option<u64> = None;
    while dir.starts_with("/sys/fs/cgroup") {
        let limit = fs::read_to_string(dir.join("memory.max")).ok().and_then(|text| text.trim().parse().ok());
        least = least.into_iter().chain(limit).min();
        if !dir.pop() {
            break;
        }
    }
    least
}
