//! What every backend must prove: the same numbers as [`Reference`](crate::Reference) within named tolerances, and the
//! same bits however a sequence is cut into steps.
//!
//! A backend's own test is one line, `conformance::check(|| MyBackend::new(..))`. A case is data: a small random network
//! ([`net`]), and how it is exercised ([`Check`]). The hidden state between stages is a backend's own, so each case
//! looks at logits: the stage under test is put between an embedding and an identity matrix as output head, and the
//! other stages are muted by zero weights.
//!
//! - [`cases`] lists the cases: every weight format in every role, attention shapes, features, KV formats, long prompts.
//! - `subject.rs` runs a network on a backend; `checks.rs` judges; `tolerance.rs` says how near is near enough;
//!   `weights.rs` makes random bytes that are valid in a format.
//!
//! A combination that a backend refuses with [`BackendError::Unsupported`](crate::BackendError) is listed and counted
//! in the [`Report`], never passed over in silence. No speed is judged here, and no model file is read.

mod cases;
mod checks;
pub mod net;
mod subject;
mod tolerance;
mod weights;

use std::collections::BTreeMap;
use std::fmt;

use crate::Backend;

pub use cases::cases;
pub use net::Net;
pub use weights::random_values;

/// One case: a network and what to do with it.
#[derive(Clone, Debug)]
pub struct Case {
    /// Unique, readable, e.g. `weights/q4_k/down/768`.
    pub name: String,
    /// The network.
    pub net: Net,
    /// What is checked.
    pub check: Check,
}

/// How a case exercises its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// One sequence in one step, for many row counts: compared with the reference, and row by row with itself.
    Rows,
    /// Several sequences longer than a page, alone and together, in steps cut in many ways, in shuffled pages: equal
    /// to the last bit. Where all weights are F32 the first of these runs is compared with the reference.
    Plans,
    /// One sequence of several pages, whole and in ragged chunks: compared with the reference.
    Long,
    /// The greatest logits, with ties, against a sort.
    TopK,
    /// A copied page continues as the original does, and the two are independent.
    CopyPage,
}

/// What to run, and how strictly.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Only cases whose name contains this; empty for all.
    pub only: String,
    /// What is asked of rows computed in different company.
    pub invariance: Invariance,
}

/// What is asked of the same row computed in different company.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Invariance {
    /// Equal bits.
    #[default]
    Bits,
    /// Equal within the case's tolerance: for devices whose matrix kernels of different shapes round differently.
    Tolerance,
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As it must be.
    Passed,
    /// The backend said that it cannot do this; its words.
    Unsupported(String),
    /// What was wrong, and where.
    Failed(String),
}

/// The outcome of every case that ran.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Case names and outcomes, in order.
    pub outcomes: Vec<(String, Outcome)>,
}

/// Runs all cases strictly and panics with a list of those that failed. Prints what is unsupported.
pub fn check<B: Backend>(make: impl Fn() -> B) -> Report {
    let report = run(&make, &Options::default());
    println!("{report}");
    assert!(report.failures().next().is_none(), "{} does not conform:\n{report}", make().describe());
    report
}

/// Runs the cases that `options` picks.
pub fn run<B: Backend>(make: impl Fn() -> B, options: &Options) -> Report {
    let picked = cases().into_iter().filter(|case| case.name.contains(&options.only));
    let outcomes = picked.map(|case| (case.name.clone(), run_case(&make, &case, options.invariance))).collect();
    Report { outcomes }
}

/// Runs one case.
pub fn run_case<B: Backend>(make: impl Fn() -> B, case: &Case, invariance: Invariance) -> Outcome {
    match checks::run(&make, case, invariance) {
        Ok(()) => Outcome::Passed,
        Err(checks::Ended::Unsupported(why)) => Outcome::Unsupported(why),
        Err(checks::Ended::Failed(why)) => Outcome::Failed(why),
    }
}

impl Report {
    /// How many cases passed.
    pub fn passed(&self) -> usize {
        self.outcomes.iter().filter(|(_, outcome)| *outcome == Outcome::Passed).count()
    }

    /// Names of failed cases, and why.
    pub fn failures(&self) -> impl Iterator<Item = (&str, &str)> {
        self.outcomes.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Failed(why) => Some((name.as_str(), why.as_str())),
            _ => None,
        })
    }

    /// Names of cases that the backend cannot do, and its reason.
    pub fn unsupported(&self) -> impl Iterator<Item = (&str, &str)> {
        self.outcomes.iter().filter_map(|(name, outcome)| match outcome {
            Outcome::Unsupported(why) => Some((name.as_str(), why.as_str())),
            _ => None,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, why) in self.unsupported() {
            reasons.entry(why).or_default().push(name);
        }
        for (why, names) in reasons {
            writeln!(f, "unsupported in {} cases ({}{}): {why}", names.len(), names[0], more(names.len()))?;
        }
        for (name, why) in self.failures() {
            writeln!(f, "FAILED {name}: {why}")?;
        }
        let (unsupported, failed) = (self.unsupported().count(), self.failures().count());
        write!(f, "conformance: {} passed, {unsupported} unsupported, {failed} failed", self.passed())
    }
}

fn more(names: usize) -> &'static str {
    if names > 1 { ", ..." } else { "" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reference;

    #[test]
    fn reference_conforms_to_itself() {
        let report = check(Reference::new);
        assert_eq!(report.unsupported().count(), 0, "the reference does everything that the cases ask for");
    }

    #[test]
    fn case_names_are_unique() {
        let mut names: Vec<String> = cases().into_iter().map(|case| case.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
