//! Sizes that settings ask for and that there is no room for. They are ceilings, so that nothing is refused for them:
//! they are said to be less than they say.

use super::Budget;
use super::plan::Parts;
use crate::output::human_bytes;
use crate::quantize::Cache;
use crate::settings::defs::Def;
use crate::settings::{Settings, Source, defs};

/// The settings of which less can be had, each with how much and why. `parts` is what a model takes of the budget,
/// where there is a plan.
pub(crate) fn clipped_sizes(
    settings: &Settings,
    budget: &Budget,
    parts: Option<&Parts>,
) -> Vec<(&'static Def, String)> {
    let whole = budget.bytes.map(|bytes| (bytes, "the budget".to_owned()));
    let kv = parts.map(|parts| (parts.kv, "all of the KV cache".to_owned()));
    let free = budget.bytes.zip(parts).map(|(bytes, parts)| {
        let taken = parts.weights + parts.kv + parts.program;
        (bytes.saturating_sub(taken), "which weights and KV cache leave of the budget".to_owned())
    });
    let disk = Cache::room().map(|(bytes, dir)| (bytes, format!("which the disk has for {}", dir.display())));
    [
        (&defs::PREFIX_CACHE_SIZE, kv.or(whole.clone())),
        (&defs::MEMORY_POOL_SIZE, free.or(whole)),
        (&defs::QUANTIZATION_CACHE_SIZE, disk),
    ]
    .into_iter()
    .filter_map(|(def, most): (&'static Def, _)| {
        let (bytes, what) = most.filter(|(bytes, _)| settings.int(def) > *bytes)?;
        Some((def, format!("clipped to {}, {what}", human_bytes(bytes))))
    })
    .collect()
}

/// Those that somebody has set, as notes of a plan: a default that is too large for a small machine is no news.
pub(super) fn notes(settings: &Settings, clipped: Vec<(&'static Def, String)>) -> impl Iterator<Item = String> {
    let is_set = |def: &Def| !matches!(settings.source(def), Source::Default | Source::Profile(_));
    let clipped = clipped.into_iter().filter(move |(def, _)| is_set(def));
    clipped.map(|(def, how)| format!("{}={} ({}): {how}", def.env(), settings.shown(def), settings.source(def)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Machine;
    use crate::settings::test_settings;

    const GB: u64 = 1_000_000_000;

    #[test]
    fn ceilings_beyond_what_there_is_are_clipped_and_others_are_not() {
        let parts = Parts { weights: 2 * GB, kv: 3 * GB, scratch: GB / 2, program: GB / 10 };
        let prefix = |size| ("MISTRAL_PREFIX_CACHE_SIZE", size);
        let pool = |size| ("MISTRAL_MEMORY_POOL_SIZE", size);
        let cache = |size| ("MISTRAL_QUANTIZATION_CACHE_SIZE", size);
        for (env, parts, expected) in [
            (&[prefix("1GB"), pool("1GB"), cache("0")][..], Some(&parts), &[][..]),
            (&[prefix("3GB"), pool("3900MB"), cache("0")], Some(&parts), &[]),
            (&[prefix("3001MB"), pool("0"), cache("0")], Some(&parts), &["clipped to 3.0 GB, all of the KV cache"]),
            (
                &[prefix("0"), pool("3901MB"), cache("0")],
                Some(&parts),
                &["clipped to 3.9 GB, which weights and KV cache leave of the budget"],
            ),
            (&[prefix("9001MB"), pool("9001MB"), cache("0")], None, &["clipped to 9.0 GB, the budget"; 2]),
            (&[prefix("0"), pool("0"), cache("4TiB")], None, &["which the disk has for "]),
        ] {
            let settings = test_settings(env);
            let machine = Machine { total_bytes: Some(10 * GB), cgroup_bytes: None };
            let clipped = clipped_sizes(&settings, &Budget::new(&machine, &settings), parts);
            let is_as_expected = clipped.iter().zip(expected).all(|((_, found), part)| found.contains(part));
            assert!(clipped.len() == expected.len() && is_as_expected, "{env:?}: {clipped:?}");
            assert_eq!(notes(&settings, clipped).count(), expected.len());
        }
        let small = Machine { total_bytes: Some(GB), cgroup_bytes: None };
        let defaults = test_settings(&[]);
        let clipped = clipped_sizes(&defaults, &Budget::new(&small, &defaults), None);
        assert!(clipped.len() >= 2 && notes(&defaults, clipped).next().is_none(), "defaults are no news");
    }
}
