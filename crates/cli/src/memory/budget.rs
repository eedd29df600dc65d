//! How much memory a model may take, by machine and settings.

use super::Machine;
use crate::output::human_bytes;
use crate::settings::{Settings, defs};

/// Bytes for weights, KV cache, scratch and everything else, and why it is so many.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Budget {
    /// `None` where neither the system nor a setting gives a limit.
    pub(crate) bytes: Option<u64>,
    /// Where it comes from, e.g. `0.9 of 24.6 GB (RAM)`.
    pub(crate) reason: String,
    /// What the settings asked for and did not get.
    pub(crate) notes: Vec<String>,
}

impl Budget {
    /// The smaller of RAM, cgroup limit and MISTRAL_MEMORY_LIMIT, times MISTRAL_MEMORY_FRACTION; or
    /// MISTRAL_METAL_HEAP_SIZE where it is set.
    pub(crate) fn new(machine: &Machine, settings: &Settings) -> Self {
        let usable = Self::usable(machine, settings);
        let heap = settings.amount(&defs::METAL_HEAP_SIZE);
        let mut notes = Vec::new();
        let (bytes, reason) = match (heap, usable) {
            (Some(heap), Some((what, usable))) if heap > usable => {
                let (heap, usable_text) = (human_bytes(heap), human_bytes(usable));
                notes.push(format!("MISTRAL_METAL_HEAP_SIZE: clipped from {heap} to {usable_text}, {what}"));
                (Some(usable), format!("{}, clipped to {what}", heap_reason(settings)))
            }
            (Some(heap), _) => (Some(heap), heap_reason(settings)),
            (None, Some((what, usable))) => {
                let fraction = settings.fraction(&defs::MEMORY_FRACTION);
                let reason = format!("{fraction} of {} ({what})", human_bytes(usable));
                (Some((usable as f64 * fraction) as u64), reason)
            }
            (None, None) => (None, "the system tells no limit".to_owned()),
        };
        Self { bytes, reason, notes }
    }

    /// What this process may have at most, and what says so.
    pub(crate) fn usable(machine: &Machine, settings: &Settings) -> Option<(&'static str, u64)> {
        let ceilings = [
            ("RAM", machine.total_bytes),
            ("limit of the control group", machine.cgroup_bytes),
            ("MISTRAL_MEMORY_LIMIT", settings.amount(&defs::MEMORY_LIMIT)),
        ];
        let ceilings = ceilings.into_iter().filter_map(|(what, bytes)| Some((what, bytes?)));
        ceilings.min_by_key(|(_, bytes)| *bytes)
    }

    /// What is left when others take `bytes` of it.
    pub(crate) fn without(mut self, bytes: u64) -> Self {
        if let Some(budget) = self.bytes.as_mut().filter(|_| bytes > 0) {
            *budget = budget.saturating_sub(bytes);
            self.reason += &format!(", less {} of other models", human_bytes(bytes));
        }
        self
    }

    /// Whether so many bytes may be taken.
    pub(crate) fn holds(&self, bytes: u64) -> bool {
        self.bytes.is_none_or(|budget| bytes <= budget)
    }
}

/// That the budget is a setting, with its value and who set it.
pub(crate) fn heap_reason(settings: &Settings) -> String {
    let heap = &defs::METAL_HEAP_SIZE;
    format!("MISTRAL_METAL_HEAP_SIZE={}, set by {}", settings.shown(heap), settings.source(heap))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::test_settings;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn the_least_ceiling_counts_and_a_heap_size_wins_over_the_fraction() {
        let machine = Machine { total_bytes: Some(20 * GB), cgroup_bytes: Some(10 * GB) };
        for (env, expected, notes) in [
            (&[][..], 9 * GB, 0),
            (&[("MISTRAL_MEMORY_FRACTION", "0.5")], 5 * GB, 0),
            (&[("MISTRAL_MEMORY_LIMIT", "4GB")], 3_600_000_000, 0),
            (&[("MISTRAL_METAL_HEAP_SIZE", "6GB"), ("MISTRAL_MEMORY_FRACTION", "0.5")], 6 * GB, 0),
            (&[("MISTRAL_METAL_HEAP_SIZE", "64GB")], 10 * GB, 1),
        ] {
            let budget = Budget::new(&machine, &test_settings(env));
            assert_eq!((budget.bytes, budget.notes.len()), (Some(expected), notes), "{env:?}: {budget:?}");
        }
    }

    #[test]
    fn without_any_limit_everything_fits() {
        let budget = Budget::new(&Machine { total_bytes: None, cgroup_bytes: None }, &test_settings(&[]));
        assert!(budget.holds(u64::MAX));
    }
}
