//! Watches for memory pressure, and says which measure to take.
//!
//! On Linux it reads how much of the process's memory limit is left, whether its control group has met its limits, and
//! how long tasks wait for memory (pressure stall information); on macOS the level of pressure that the system tells,
//! at once when it changes. While there is pressure the measures get stronger, one a second; when it has been calm for
//! a while, all are lifted. Elsewhere nothing is watched.

use std::fs;
use std::time::Duration;

use cpu::machine::{self, PressureChanges};
use engine::Relief;

/// Time between two readings, where nothing tells of a change before.
const INTERVAL: Duration = Duration::from_secs(1);
/// Readings without pressure after which measures are lifted.
const CALM_READINGS: u32 = 10;
/// Share of the limit that should be left.
const LEAST_LEFT: f64 = 0.02;
/// Share of the limit below which meeting it is no matter of cached files.
const LITTLE_LEFT: f64 = 0.1;
/// Share of the last ten seconds in which some task waited for memory, in percent, that is too much.
const MOST_STALLED_PERCENT: f64 = 20.0;
/// Level from which the system is short of memory.
const WARNING_LEVEL: i32 = 2;

/// Pressure stall information, of a control group and of the system.
const GROUP_STALLS: &str = "memory.pressure";
const SYSTEM_STALLS: &str = "/proc/pressure/memory";
/// What counts limits that a control group has met, in version 2 and in version 1.
const EVENTS: &str = "memory.events.local";
const FAILURES: &str = "memory.failcnt";

/// The state of memory at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Reading {
    /// Share of the limit that is left, 0 to 1.
    pub(crate) left: Option<f64>,
    /// Percent of time in which some task waited for memory.
    pub(crate) stalled_percent: f64,
    /// Times that the control group has met a limit, since it was made.
    pub(crate) limit_events: u64,
    /// How short of memory the system says it is, as [`machine::pressure_level`]; 0 where it does not say.
    pub(crate) level: i32,
}

/// What has been done so far.
#[derive(Debug)]
pub(crate) struct Pressure {
    relief: Relief,
    calm_readings: u32,
    limit_events: Option<u64>,
}

/// What is watched here, for people; what the system does not tell is missing.
pub(crate) fn describe(is_on: bool) -> String {
    match sources() {
        _ if !is_on => "off".to_owned(),
        none if none.is_empty() => "off: the system tells nothing of memory".to_owned(),
        sources => sources.join(", "),
    }
}

fn sources() -> Vec<&'static str> {
    let dirs = machine::group_dirs();
    let has = |name: &str| dirs.iter().any(|dir| dir.join(name).is_file());
    let level = machine::pressure_level().map(|_| "the system's level of pressure");
    let limit = match (machine::group_limit_bytes(), machine::total_bytes()) {
        (Some(_), _) => Some("what the limit of the control group leaves"),
        // What is available is not told beside the level.
        (None, Some(_)) if level.is_none() => Some("what is left of RAM"),
        _ => None,
    };
    let stalls = match dirs.first().map(|dir| dir.join(GROUP_STALLS)) {
        Some(file) if fs::read(&file).is_ok() => Some("pressure stall information of the control group"),
        _ if fs::read(SYSTEM_STALLS).is_ok() => Some("pressure stall information of the system"),
        _ => None,
    };
    let events = match (has(EVENTS), has(FAILURES)) {
        (true, _) => Some("limits that the control group meets (version 2)"),
        (_, true) => Some("limits that the control group meets (version 1)"),
        _ => None,
    };
    [limit, stalls, events, level].into_iter().flatten().collect()
}

/// Watches in a thread of its own, as long as the process lives, and hands measures to `relieve`.
///
/// # Errors
/// When there is no thread to be had.
pub(crate) fn watch(relieve: impl Fn(Relief) + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name("memory-watch".to_owned()).spawn(move || watch_forever(relieve))?;
    Ok(())
}

fn watch_forever(relieve: impl Fn(Relief)) {
    let mut pressure = Pressure::default();
    let changes = PressureChanges::new();
    loop {
        changes.wait(INTERVAL);
        if let Some(relief) = pressure.next(&Reading::now()) {
            relieve(relief);
        }
    }
}

impl Default for Pressure {
    fn default() -> Self {
        Self { relief: Relief::Over, calm_readings: 0, limit_events: None }
    }
}

impl Pressure {
    /// The measure to take after a reading; `None`: go on as before.
    pub(crate) fn next(&mut self, reading: &Reading) -> Option<Relief> {
        // What happened before the first reading is not our doing.
        let before = self.limit_events.replace(reading.limit_events).unwrap_or(reading.limit_events);
        let has_met_limit = reading.limit_events > before;
        let is_limit_near = reading.left.is_some_and(|left| left < LEAST_LEFT)
            || reading.stalled_percent > MOST_STALLED_PERCENT
            || has_met_limit && reading.left.is_none_or(|left| left < LITTLE_LEFT)
            || reading.level > WARNING_LEVEL;
        if is_limit_near || has_met_limit || reading.level == WARNING_LEVEL {
            self.calm_readings = 0;
            // A warning may last for hours, and limits are met when files fill the cache, too: they ask for what nobody
            // has to wait for.
            let most = if is_limit_near { Relief::Preempt } else { Relief::PrefixCache };
            let next = self.relief.stronger().min(most).max(self.relief);
            let is_new = next != self.relief || next == Relief::Preempt;
            self.relief = next;
            return is_new.then_some(next);
        }
        self.calm_readings += 1;
        (self.relief != Relief::Over && self.calm_readings >= CALM_READINGS).then(|| {
            self.relief = Relief::Over;
            Relief::Over
        })
    }
}

impl Reading {
    fn now() -> Self {
        let dirs = machine::group_dirs();
        let stalled = dirs.first().and_then(|dir| fs::read_to_string(dir.join(GROUP_STALLS)).ok());
        let stalled = stalled.or_else(|| fs::read_to_string(SYSTEM_STALLS).ok()).unwrap_or_default();
        let texts = |name: &'static str| dirs.iter().filter_map(move |dir| fs::read_to_string(dir.join(name)).ok());
        let failures = texts(FAILURES).filter_map(|text| text.trim().parse::<u64>().ok());
        Self {
            left: share_left(),
            stalled_percent: some_avg10(&stalled),
            limit_events: texts(EVENTS).map(|text| limit_events(&text)).chain(failures).sum(),
            level: machine::pressure_level().unwrap_or(0),
        }
    }
}

/// Available memory by the limit of the control group, or of the machine.
fn share_left() -> Option<f64> {
    let limit = machine::total_bytes().into_iter().chain(machine::group_limit_bytes()).min()?;
    Some(machine::available_bytes() as f64 / limit as f64)
}

/// `some avg10=0.12 avg60=...`.
fn some_avg10(text: &str) -> f64 {
    let line = text.lines().find_map(|line| line.strip_prefix("some avg10=")).unwrap_or_default();
    line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0.0)
}

/// `low 0`, `high 3`, `max 1`, `oom 0`, ...: how often `high` and `max` were met.
fn limit_events(text: &str) -> u64 {
    let count =
        |name: &str| -> Option<u64> { text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok()) };
    ["high ", "max "].into_iter().filter_map(count).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Reading = Reading { left: Some(0.5), stalled_percent: 0.0, limit_events: 3, level: 1 };

    #[test]
    fn measures_get_stronger_while_there_is_pressure_and_are_lifted_after_a_while() {
        for short in [
            Reading { left: Some(0.01), ..CALM },
            Reading { stalled_percent: 50.0, ..CALM },
            Reading { left: None, stalled_percent: 20.1, limit_events: 3, level: 0 },
            Reading { level: 4, ..CALM },
        ] {
            let mut pressure = Pressure::default();
            assert_eq!(pressure.next(&CALM), None);
            let taken: Vec<_> = (0..5).map(|_| pressure.next(&short)).collect();
            let expected = [Relief::Pool, Relief::PrefixCache, Relief::Admission, Relief::Preempt, Relief::Preempt];
            assert_eq!(taken, expected.map(Some), "{short:?}");
            let after: Vec<_> = (0..CALM_READINGS + 2).filter_map(|_| pressure.next(&CALM)).collect();
            assert_eq!(after, [Relief::Over], "once");
        }
    }

    #[test]
    fn a_warning_of_the_system_costs_no_request_its_turn() {
        let mut pressure = Pressure::default();
        let warning = Reading { level: WARNING_LEVEL, ..CALM };
        let taken: Vec<_> = (0..5).filter_map(|_| pressure.next(&warning)).collect();
        assert_eq!(taken, [Relief::Pool, Relief::PrefixCache]);
        assert_eq!(pressure.next(&Reading { level: 4, ..CALM }), Some(Relief::Admission));
        assert_eq!(pressure.next(&warning), None, "stronger measures stay until it is calm");
    }

    #[test]
    fn limits_met_count_when_they_are_new() {
        let mut pressure = Pressure::default();
        let met = |limit_events| Reading { limit_events, ..CALM };
        let taken: Vec<_> = [100, 100, 101, 101, 105].map(|events| pressure.next(&met(events))).into();
        assert_eq!(taken, [None, None, Some(Relief::Pool), None, Some(Relief::PrefixCache)]);
        assert_eq!(pressure.next(&met(106)), None, "files in the cache may have met it");
        assert_eq!(pressure.next(&Reading { left: Some(0.09), ..met(107) }), Some(Relief::Admission));
    }

    #[test]
    fn the_kernel_s_texts_are_understood() {
        assert_eq!(some_avg10("some avg10=1.25 avg60=0.00 avg300=0.00 total=0\nfull avg10=9.00\n"), 1.25);
        assert_eq!(some_avg10(""), 0.0);
        assert_eq!(limit_events("low 1\nhigh 2\nmax 3\noom 4\noom_kill 5\n"), 5);
        assert_eq!(limit_events("nonsense"), 0);
    }
}
