//! How much memory a model may take, by machine and settings, and what would raise it.

use super::Machine;
use crate::output::{human_bytes, human_bytes_apart};
use crate::settings::defs::Def;
use crate::settings::{Settings, defs, size_text};

const MIB: u64 = 1 << 20;
/// How the machine's own memory is called.
const THIS_MACHINE: &str = "this machine";
/// Largest MISTRAL_MEMORY_FRACTION.
const MOST_FRACTION: f64 = 0.95;

/// Bytes for weights, KV cache, scratch and everything else, and why it is so many.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Budget {
    /// `None` where neither the system nor a setting gives a limit.
    pub(crate) bytes: Option<u64>,
    /// Where it comes from, e.g. `MISTRAL_MEMORY_FRACTION=0.9, set by default, of 24.6 GB (RAM)`.
    pub(crate) reason: String,
    /// What the settings asked for and did not get.
    pub(crate) notes: Vec<String>,
    /// What it is of, e.g. `this machine`: models in different memories do not stand in each other's way.
    pub(crate) memory: String,
    /// The same for all models together.
    pub(crate) whole_bytes: Option<u64>,
    /// The shorter context that leaves other models room, where nobody has asked for a length.
    pub(crate) context: Option<ShorterContext>,
    ceilings: Vec<Ceiling>,
    /// What other models take.
    taken_bytes: u64,
    /// Whether that is what pinned ones need.
    is_pinned: bool,
}

/// What others leave a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// What other models take.
    pub(crate) taken_bytes: u64,
    /// What pinned models need at least, whether they are loaded or not.
    pub(crate) pinned_bytes: u64,
    /// Its share among several models.
    pub(crate) share_bytes: Option<u64>,
    /// The context with which all of them have room, where it is shorter than the default.
    pub(crate) context: Option<ShorterContext>,
}

/// A context that gives way to other models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShorterContext {
    pub(crate) tokens: usize,
    /// The arithmetic, for people.
    pub(crate) why: String,
}

/// A limit of what this process can have, whatever share of it is used.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ceiling {
    /// Who says so, e.g. `RAM`.
    pub(crate) what: String,
    pub(crate) bytes: u64,
    /// Whether it is MISTRAL_MEMORY_LIMIT, which the settings can raise.
    pub(crate) is_setting: bool,
    /// How the owner of the machine lifts it.
    pub(crate) how_to_raise: Option<String>,
}

impl Ceiling {
    /// RAM, the limit of the control group and MISTRAL_MEMORY_LIMIT, where there is such a limit.
    pub(crate) fn all(machine: &Machine, settings: &Settings) -> Vec<Ceiling> {
        let limit = &defs::MEMORY_LIMIT;
        let ceilings = [
            ("RAM".to_owned(), machine.total_bytes, false),
            ("limit of the control group".to_owned(), machine.cgroup_bytes, false),
            (said(settings, limit), settings.amount(limit), true),
        ];
        let ceiling = |(what, bytes, is_setting): (String, Option<u64>, bool)| {
            Some(Ceiling { what, bytes: bytes?, is_setting, how_to_raise: None })
        };
        ceilings.into_iter().filter_map(ceiling).collect()
    }
}

impl Budget {
    /// The smaller of RAM, cgroup limit and MISTRAL_MEMORY_LIMIT, times MISTRAL_MEMORY_FRACTION; or
    /// MISTRAL_METAL_HEAP_SIZE where it is set.
    pub(crate) fn new(machine: &Machine, settings: &Settings) -> Self {
        Self::within(Ceiling::all(machine, settings), settings)
    }

    /// The same under these ceilings.
    pub(crate) fn within(ceilings: Vec<Ceiling>, settings: &Settings) -> Self {
        let heap = settings.amount(&defs::METAL_HEAP_SIZE);
        let least = ceilings.iter().min_by_key(|ceiling| ceiling.bytes);
        let mut notes = Vec::new();
        let (bytes, reason) = match (heap, least) {
            (Some(heap), Some(Ceiling { what, bytes, how_to_raise, .. })) if heap > *bytes => {
                let raise = how_to_raise.as_ref().map(|how| format!("; to raise it: {how}")).unwrap_or_default();
                let [heap, most] = human_bytes_apart([heap, *bytes]);
                notes.push(format!("MISTRAL_METAL_HEAP_SIZE: clipped from {heap} to {most}, {what}{raise}"));
                (Some(*bytes), format!("{}, clipped to {what}", said(settings, &defs::METAL_HEAP_SIZE)))
            }
            (Some(heap), _) => (Some(heap), said(settings, &defs::METAL_HEAP_SIZE)),
            (None, Some(Ceiling { what, bytes, .. })) => {
                let fraction = settings.fraction(&defs::MEMORY_FRACTION);
                let reason = format!("{}, of {} ({what})", said(settings, &defs::MEMORY_FRACTION), human_bytes(*bytes));
                (Some((*bytes as f64 * fraction) as u64), reason)
            }
            (None, None) => (None, "the system tells no limit".to_owned()),
        };
        Self {
            bytes,
            reason,
            notes,
            memory: THIS_MACHINE.to_owned(),
            whole_bytes: bytes,
            context: None,
            ceilings,
            taken_bytes: 0,
            is_pinned: false,
        }
    }

    /// The same, of a memory of this name.
    #[cfg(feature = "gpu")]
    pub(crate) fn of(self, memory: &str) -> Self {
        Self { memory: memory.to_owned(), ..self }
    }

    /// What is left of it beside others.
    pub(crate) fn beside(mut self, room: Room) -> Self {
        self.context = room.context;
        let Some(whole) = self.whole_bytes else { return self };
        let is_pinned = room.pinned_bytes > room.taken_bytes;
        let taken = room.taken_bytes.max(room.pinned_bytes);
        let left = whole.saturating_sub(taken);
        if taken > 0 {
            let whose = if is_pinned { "pinned" } else { "other" };
            self.reason += &format!(", less {} of {whose} models", human_bytes(taken));
        }
        let share = room.share_bytes.filter(|share| *share < left);
        if let Some(share) = share {
            self.reason += &format!(", of which {} are its share among several models", human_bytes(share));
        }
        Self { bytes: Some(share.unwrap_or(left)), taken_bytes: taken, is_pinned, ..self }
    }

    /// What there is, where MISTRAL_MEMORY_LIMIT is more than that.
    pub(crate) fn below_limit(&self) -> Option<&Ceiling> {
        let limit = self.ceilings.iter().find(|ceiling| ceiling.is_setting)?;
        let least = self.ceilings.iter().min_by_key(|ceiling| ceiling.bytes)?;
        (least.bytes < limit.bytes).then_some(least)
    }

    /// Whether so many bytes may be taken.
    pub(crate) fn holds(&self, bytes: u64) -> bool {
        self.bytes.is_none_or(|budget| bytes <= budget)
    }

    /// Settings each of which would make it hold `bytes`; if none would, the memory that it takes.
    pub(crate) fn ways_to_hold(&self, bytes: u64, settings: &Settings) -> Vec<String> {
        let needed = bytes + self.taken_bytes;
        let least = |with_setting: bool| {
            let counted = self.ceilings.iter().filter(|ceiling| with_setting || !ceiling.is_setting);
            counted.map(|ceiling| ceiling.bytes).min().unwrap_or(u64::MAX)
        };
        let (usable, machine) = (least(true), least(false));
        let heap = settings.amount(&defs::METAL_HEAP_SIZE);
        let fraction = if heap.is_some() { 1.0 } else { settings.fraction(&defs::MEMORY_FRACTION) };
        let mut ways = Vec::new();
        let wanted_fraction = (needed as f64 / usable as f64 * 100.0).ceil() / 100.0;
        if heap.is_none() && wanted_fraction <= MOST_FRACTION {
            ways.push(format!("MISTRAL_MEMORY_FRACTION={wanted_fraction}"));
        }
        if needed.next_multiple_of(MIB) <= usable {
            ways.push(format!("MISTRAL_METAL_HEAP_SIZE={}", in_mib(needed)));
        }
        let wanted_limit = ((needed as f64 / fraction).ceil() as u64).next_multiple_of(MIB);
        let heap_suffices = heap.is_none_or(|heap| heap >= needed);
        if usable < machine && wanted_limit <= machine && heap_suffices {
            ways.push(format!("MISTRAL_MEMORY_LIMIT={}", in_mib(wanted_limit)));
        }
        if ways.is_empty() {
            let memory = human_bytes((needed as f64 / fraction).ceil() as u64);
            ways.push(format!("at least {memory} of memory for the process"));
        }
        if self.is_pinned {
            ways.push("fewer models pinned".to_owned());
        }
        ways
    }
}

/// A setting with its value and who set it.
fn said(settings: &Settings, def: &'static Def) -> String {
    format!("{}={}, set by {}", def.env(), settings.shown(def), settings.source(def))
}

/// At least so many bytes, as one would write them in the settings.
fn in_mib(bytes: u64) -> String {
    size_text(bytes.next_multiple_of(MIB))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::test_settings;

    const GB: u64 = 1_000_000_000;
    const MACHINE: Machine = Machine { total_bytes: Some(20 * GB), cgroup_bytes: Some(10 * GB) };

    #[test]
    fn the_least_ceiling_counts_and_a_heap_size_wins_over_the_fraction() {
        for (env, expected, notes) in [
            (&[][..], 9 * GB, 0),
            (&[("MISTRAL_MEMORY_FRACTION", "0.5")], 5 * GB, 0),
            (&[("MISTRAL_MEMORY_LIMIT", "4GB")], 3_600_000_000, 0),
            (&[("MISTRAL_METAL_HEAP_SIZE", "6GB"), ("MISTRAL_MEMORY_FRACTION", "0.5")], 6 * GB, 0),
            (&[("MISTRAL_METAL_HEAP_SIZE", "64GB")], 10 * GB, 1),
        ] {
            let budget = Budget::new(&MACHINE, &test_settings(env));
            assert_eq!((budget.bytes, budget.notes.len()), (Some(expected), notes), "{env:?}: {budget:?}");
        }
    }

    #[test]
    fn a_limit_beyond_what_there_is_is_known_to_be() {
        for (limit, expected) in
            [(None, None), (Some("9GB"), None), (Some("10GB"), None), (Some("15GB"), Some(10 * GB))]
        {
            let env: Vec<(&str, &str)> = limit.map(|limit| ("MISTRAL_MEMORY_LIMIT", limit)).into_iter().collect();
            let budget = Budget::new(&MACHINE, &test_settings(&env));
            assert_eq!(budget.below_limit().map(|ceiling| ceiling.bytes), expected, "{limit:?}");
        }
    }

    #[test]
    fn the_reason_names_the_settings_that_limit_with_their_sources() {
        for (env, parts) in [
            (&[][..], &["MISTRAL_MEMORY_FRACTION=0.9, set by default", "limit of the control group"][..]),
            (
                &[("MISTRAL_MEMORY_LIMIT", "4GB"), ("MISTRAL_MEMORY_FRACTION", "0.5")],
                &["MISTRAL_MEMORY_FRACTION=0.5, set by environment", "MISTRAL_MEMORY_LIMIT=4GB, set by environment"],
            ),
            (&[("MISTRAL_METAL_HEAP_SIZE", "64GB")], &["MISTRAL_METAL_HEAP_SIZE=64GB, set by", "control group"]),
        ] {
            let reason = Budget::new(&MACHINE, &test_settings(env)).reason;
            assert!(parts.iter().all(|part| reason.contains(part)), "{env:?}: {reason}");
        }
    }

    /// Every setting that is offered makes it fit, alone.
    #[test]
    fn ways_to_hold_more_are_ways() {
        let all = ["MISTRAL_MEMORY_FRACTION", "MISTRAL_MEMORY_LIMIT", "MISTRAL_METAL_HEAP_SIZE"];
        for (env, bytes, expected) in [
            (&[("MISTRAL_MEMORY_FRACTION", "0.1")][..], 4 * GB, &[all[0], all[2]][..]),
            (&[("MISTRAL_MEMORY_LIMIT", "3GB")], 4 * GB, &[all[1]]),
            (&[("MISTRAL_MEMORY_LIMIT", "3GB"), ("MISTRAL_MEMORY_FRACTION", "0.3")], 2 * GB, &all),
            (&[("MISTRAL_METAL_HEAP_SIZE", "1GB")], 4 * GB, &[all[2]]),
            (&[("MISTRAL_METAL_HEAP_SIZE", "6GB"), ("MISTRAL_MEMORY_LIMIT", "3GB")], 4 * GB, &[all[1]]),
            (&[], 9_900_000_000, &[all[2]]),
            (&[], 11 * GB, &[]),
        ] {
            for taken in [0, 50_000_000] {
                let beside = Room { taken_bytes: taken, ..Room::default() };
                let budget = Budget::new(&MACHINE, &test_settings(env)).beside(beside.clone());
                assert!(!budget.holds(bytes), "{env:?}");
                let ways = budget.ways_to_hold(bytes, &test_settings(env));
                let settings: Vec<(&str, &str)> = ways.iter().filter_map(|way| way.split_once('=')).collect();
                let mut names: Vec<&str> = settings.iter().map(|(name, _)| *name).collect();
                names.sort_unstable();
                assert_eq!(names, expected, "{env:?}: {ways:?}");
                assert!(!ways.is_empty());
                for way in settings {
                    let others = env.iter().filter(|(name, _)| *name != way.0).copied();
                    let changed: Vec<(&str, &str)> = others.chain([way]).collect();
                    let budget = Budget::new(&MACHINE, &test_settings(&changed)).beside(beside.clone());
                    assert!(budget.holds(bytes), "{env:?} with {way:?}: {budget:?}");
                }
            }
        }
    }

    #[test]
    fn others_and_a_share_leave_less_and_the_reason_says_so() {
        let budget = Budget::new(&MACHINE, &test_settings(&[]));
        for (taken, pinned, share, expected, parts) in [
            (0, 0, None, 9, &[][..]),
            (2, 1, None, 7, &[", less 2.0 GB of other models"][..]),
            (1, 3, None, 6, &[", less 3.0 GB of pinned models"]),
            (2, 0, Some(8), 7, &[", less 2.0 GB of other models"]),
            (2, 0, Some(4), 4, &[", less 2.0 GB of other models", ", of which 4.0 GB are its share"]),
            (12, 0, Some(4), 0, &[", less 12.0 GB of other models"]),
        ] {
            let [taken_bytes, pinned_bytes] = [taken, pinned].map(|gb| gb * GB);
            let share_bytes = share.map(|gb| gb * GB);
            let beside = budget.clone().beside(Room { taken_bytes, pinned_bytes, share_bytes, context: None });
            assert_eq!((beside.bytes, beside.whole_bytes), (Some(expected * GB), budget.bytes));
            assert_eq!(beside.reason, budget.reason.clone() + &parts.concat() + tail(share, expected));
        }
        fn tail(share: Option<u64>, left: u64) -> &'static str {
            if share == Some(left) { " among several models" } else { "" }
        }
    }

    #[test]
    fn without_any_limit_everything_fits() {
        let budget = Budget::new(&Machine { total_bytes: None, cgroup_bytes: None }, &test_settings(&[]));
        assert!(budget.holds(u64::MAX));
    }
}
