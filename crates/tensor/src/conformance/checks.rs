//! What is checked, and the verdicts.

use super::net::{Fill, MAX_CONTEXT, MAX_ROWS, Net, TABLE_STRIDE};
use super::subject::{PageOrder, Pages, StepPlan, StepRows, Subject, Trace, prompts};
use super::tolerance::{LOG_SUM_EXP, Tolerance};
use super::{Case, Check, Invariance};
use crate::backend::{Backend, BackendError, Candidate, PAGE_TOKENS, TopK};
use crate::{Format, Reference};

/// Row counts that a kernel may treat differently: each number of rows that fits registers, and tiles with a remainder.
const ROWS: [usize; 11] = [1, 2, 3, 4, 5, 7, 8, 9, 16, 23, 33];

/// Lengths of the sequences of [`Check::Plans`]: more than two pages, more than one, less than one.
const LENS: [usize; 3] = [150, 70, 33];

/// Length of the sequence of [`Check::Long`]: the last page is not full.
const LONG: usize = 250;

/// Why a case ended early.
#[derive(Debug)]
pub(super) enum Ended {
    Unsupported(String),
    Failed(String),
}

impl From<BackendError> for Ended {
    fn from(error: BackendError) -> Ended {
        match error {
            BackendError::Unsupported { .. } => Ended::Unsupported(error.to_string()),
            _ => Ended::Failed(error.to_string()),
        }
    }
}

pub(super) fn run<B: Backend>(make: &impl Fn() -> B, case: &Case, invariance: Invariance) -> Result<(), Ended> {
    let judge = Judge { tolerance: Tolerance::of(&case.net), invariance };
    let subject = Subject::load(&case.net, make())?;
    match case.check {
        Check::Rows => rows(subject, &case.net, judge),
        Check::Plans => plans(subject, &case.net, judge),
        Check::Long => long(subject, &case.net, judge),
        Check::TopK => top_k(subject),
        Check::CopyPage => copy_page(subject, &case.net, judge),
    }
}

/// Compares rows in a case's way.
#[derive(Clone, Copy)]
struct Judge {
    tolerance: Tolerance,
    invariance: Invariance,
}

impl Judge {
    /// Compares with the reference.
    fn near(self, wanted: &Trace, got: &Trace, what: &str) -> Result<(), Ended> {
        each_row(wanted, got, |wanted, got| self.tolerance.check(wanted, got), what)
    }

    /// Compares a backend with itself.
    fn same(self, wanted: &Trace, got: &Trace, what: &str) -> Result<(), Ended> {
        match self.invariance {
            Invariance::Bits => each_row(wanted, got, same_bits, what),
            Invariance::Tolerance => self.near(wanted, got, what),
        }
    }
}

fn each_row(
    wanted: &Trace,
    got: &Trace,
    compare: impl Fn(&[f32], &[f32]) -> Result<(), String>,
    what: &str,
) -> Result<(), Ended> {
    for (seq, (wanted, got)) in wanted.iter().zip(got).enumerate() {
        let rows = wanted.iter().zip(got).enumerate();
        // The others were not asked for.
        for (position, (wanted, got)) in rows.filter(|(_, (_, got))| !got.is_empty()) {
            compare(wanted, got)
                .map_err(|why| Ended::Failed(format!("{what}, sequence {seq}, position {position}: {why}")))?;
        }
    }
    Ok(())
}

fn same_bits(wanted: &[f32], got: &[f32]) -> Result<(), String> {
    let differs = |(wanted, got): (&f32, &f32)| wanted.to_bits() != got.to_bits();
    match wanted.iter().zip(got).position(differs) {
        None => Ok(()),
        Some(at) => Err(format!("not the same bits at {at}: {:e} instead of {:e}", got[at], wanted[at])),
    }
}

fn reference_trace(net: &Net, prompts: &[Vec<u32>], plan: &[StepPlan]) -> Trace {
    let mut reference = Subject::load(net, Reference::new()).expect("the reference takes every case");
    reference.run(prompts, plan, PageOrder::Ascending).expect("the reference does not fail")
}

/// One sequence, computed in one step of r rows, for each r: near the reference, and the same rows for each r.
fn rows<B: Backend>(mut subject: Subject<'_, B>, net: &Net, judge: Judge) -> Result<(), Ended> {
    let longest = ROWS[ROWS.len() - 1];
    let prompts = prompts(&[longest]);
    let wanted = reference_trace(net, &prompts, &[vec![(0, longest)]]);
    let all = subject.run(&prompts, &[vec![(0, longest)]], PageOrder::Ascending)?;
    judge.near(&wanted, &all, &format!("{longest} rows"))?;
    for count in ROWS {
        let some = subject.run(&prompts, &[vec![(0, count)]], PageOrder::Ascending)?;
        judge.same(&all, &some, &format!("{count} rows and {longest} rows"))?;
    }
    Ok(())
}

/// Sequences in steps cut in many ways.
fn plans<B: Backend>(mut subject: Subject<'_, B>, net: &Net, judge: Judge) -> Result<(), Ended> {
    let prompts = prompts(&LENS);
    let alone: Vec<StepPlan> = LENS.iter().enumerate().map(|(seq, &len)| vec![(seq, len)]).collect();
    let first = subject.run(&prompts, &alone, PageOrder::Ascending)?;
    let exact_weights = |fill| matches!(fill, Fill::Zero | Fill::Identity | Fill::Random(Format::F32));
    if net.fills().all(exact_weights) {
        judge.near(&reference_trace(net, &prompts, &alone), &first, "prefill")?;
    }
    let mut same = |what: &str, plan: &[StepPlan], order: PageOrder| {
        let trace = subject.run(&prompts, plan, order)?;
        judge.same(&first, &trace, what)
    };
    same("shuffled pages", &alone, PageOrder::Shuffled(1))?;
    same("one batch", &[vec![(2, LENS[2]), (0, LENS[0]), (1, LENS[1])]], PageOrder::Shuffled(2))?;
    same("token by token", &together(&[1, 1, 1]), PageOrder::Shuffled(3))?;
    same("chunks of 7", &together(&[7, 7, 7]), PageOrder::Shuffled(4))?;
    same("chunks of 64, 1 and 5", &together(&[64, 1, 5]), PageOrder::Ascending)?;
    same("prefill beside decode", &together(&[1, 33, 1]), PageOrder::Shuffled(5))?;
    // Of the first step's rows few are asked for, of the third sequence none, and of some steps none at all; what follows
    // sees all of them.
    let is_asked = |position: u32| position >= 60 && position.is_multiple_of(3);
    for plan in [together(&[64, 1, 5]), vec![vec![(2, LENS[2]), (0, LENS[0]), (1, LENS[1])]]] {
        let some = subject.run_asking(&prompts, &plan, PageOrder::Shuffled(7), is_asked)?;
        judge.same(&first, &some, "logits of some rows only")?;
    }
    Ok(())
}

/// One sequence over several pages, in steps of many rows.
fn long<B: Backend>(mut subject: Subject<'_, B>, net: &Net, judge: Judge) -> Result<(), Ended> {
    let prompts = prompts(&[LONG]);
    let wanted = reference_trace(net, &prompts, &[vec![(0, LONG)]]);
    for (seed, cuts) in [[LONG, 0], [101, LONG - 101], [37, LONG - 37]].iter().enumerate() {
        let plan: Vec<StepPlan> = cuts.iter().filter(|&&rows| rows > 0).map(|&rows| vec![(0, rows)]).collect();
        let got = subject.run(&prompts, &plan, PageOrder::Shuffled(seed as u64))?;
        judge.near(&wanted, &got, &format!("steps of {cuts:?} rows"))?;
    }
    Ok(())
}

/// All sequences in every step until each has ended, each advancing by its own number of tokens.
fn together(chunks: &[usize; LENS.len()]) -> Vec<StepPlan> {
    let mut left = LENS;
    let mut plan = Vec::new();
    while left.iter().any(|&left| left > 0) {
        let mut step = StepPlan::new();
        for (seq, left) in left.iter_mut().enumerate().filter(|(_, left)| **left > 0) {
            let tokens = chunks[seq].min(*left);
            *left -= tokens;
            step.push((seq, tokens));
        }
        plan.push(step);
    }
    plan
}

/// The greatest logits of each logit row are those that sorting finds; rows whose logits are not asked for are absent.
fn top_k<B: Backend>(mut subject: Subject<'_, B>) -> Result<(), Ended> {
    let net = subject.net();
    let prompt = &prompts(&[9])[0];
    let mut rows = StepRows::default();
    rows.push(0, prompt);
    rows.tables = Pages::new(net, 1, PageOrder::Ascending).tables(net, 0, 0, prompt.len());
    let all = subject.step(&rows)?;
    rows.logit_rows = vec![0, 4, 5, 8];
    let logits = subject.step(&rows)?;
    for (got, &row) in logits.iter().zip(&rows.logit_rows) {
        same_bits(&all[row as usize], got).map_err(|why| Ended::Failed(format!("logits of some rows only: {why}")))?;
    }
    let mut got = vec![TopK::default(); 7];
    // A backend may keep as many while it computes a step as were asked for after the last one.
    for ks in [[1, 40], [5, 2], [64, 64], [64, 1], [64, 5]] {
        subject.step(&rows)?;
        for k in ks {
            subject.backend.top_k(k, &mut got)?;
            if got.len() != logits.len() {
                return Err(Ended::Failed(format!("{} entries for {} logit rows", got.len(), logits.len())));
            }
            for (logits, got) in logits.iter().zip(&got) {
                check_top_k(logits, k, got).map_err(|why| Ended::Failed(format!("k = {k}: {why}")))?;
            }
        }
    }
    Ok(())
}

fn check_top_k(logits: &[f32], k: usize, got: &TopK) -> Result<(), String> {
    let mut wanted: Vec<Candidate> = logits.iter().zip(0..).map(|(&logit, token)| Candidate { token, logit }).collect();
    wanted.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token)));
    wanted.truncate(k);
    if got.candidates != wanted {
        return Err(format!("{:?} instead of {wanted:?}", got.candidates));
    }
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    let log_sum_exp = sum.ln() as f32;
    if (got.log_sum_exp - log_sum_exp).abs() <= LOG_SUM_EXP {
        return Ok(());
    }
    Err(format!("log_sum_exp {} instead of {log_sum_exp}", got.log_sum_exp))
}

/// A sequence forks in the middle of a page: the fork copies the page, and each goes on without touching the other.
fn copy_page<B: Backend>(mut subject: Subject<'_, B>, net: &Net, judge: Judge) -> Result<(), Ended> {
    const SHARED: usize = PAGE_TOKENS + 20;
    const TAIL: usize = 9;
    let mut prompts = prompts(&[SHARED + TAIL, SHARED + TAIL]);
    let shared: Vec<u32> = prompts[0][..SHARED].to_vec();
    prompts[1][..SHARED].copy_from_slice(&shared);
    let whole = vec![vec![(0, SHARED + TAIL)], vec![(1, SHARED + TAIL)]];
    let wanted = subject.run(&prompts, &whole, PageOrder::Ascending)?;
    let tails: Trace = wanted.iter().map(|rows| rows[SHARED..].to_vec()).collect();

    let pages = Pages::new(net, 2, PageOrder::Shuffled(6));
    let tables = |seq: usize, past, tokens| pages.tables(net, seq, past, tokens);
    let mut prefill = StepRows::default();
    prefill.push(0, &shared);
    prefill.tables = tables(0, 0, SHARED);
    subject.step(&prefill)?;

    // The fork shares the first page and copies the second, in every group.
    let original = tables(0, SHARED, TAIL);
    let mut fork = tables(1, SHARED, TAIL);
    for group in 0..net.groups().len() {
        let at = group * TABLE_STRIDE;
        fork[at] = original[at];
        subject.backend.copy_page(group, original[at + 1], fork[at + 1])?;
    }
    for first in [0, 1] {
        let mut got: Trace = vec![Vec::new(); 2];
        for seq in [first, 1 - first] {
            let mut step = StepRows::default();
            step.push(SHARED, &prompts[seq][SHARED..]);
            step.tables = if seq == 0 { original.clone() } else { fork.clone() };
            got[seq] = subject.step(&step)?;
        }
        judge.same(&tails, &got, "after a fork")?;
    }
    Ok(())
}

const _: () = assert!(LENS[0] + LENS[1] + LENS[2] <= MAX_ROWS && LONG <= MAX_CONTEXT);
