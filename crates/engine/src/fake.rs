//! A runner without weights, for tests of the engine and of what is built on it.
//!
//! Its "network" is a hash: the logits after a token depend on every token that a real network would see, through the
//! same page tables, and on their positions. A wrong page, position or prefix therefore gives another text than
//! [`FakeModel`] says, which computes the same hash from the plain list of tokens. What a runner can check by itself
//! (rows, tables, pages written twice) [`FakeRunner`] checks, and reports as an error of the step.

use std::collections::VecDeque;

use tensor::{BackendError, Batch, Candidate, LIKELIEST, NO_PAGE, PAGE_TOKENS, SeqRows, TopK};

use crate::runner::{KvPool, Runner, RunnerLimits};

/// A function from tokens to logits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeModel {
    /// Logits in a row.
    pub vocab: usize,
    /// The window of each KV group.
    pub windows: Vec<Option<usize>>,
    /// Logits after this token are NaN.
    pub poison: Option<u32>,
}

/// A call to a [`FakeRunner`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Runner::copy_page`].
    CopyPage,
    /// [`Runner::start`], with its rows.
    Step {
        /// Rows in the step.
        rows: usize,
    },
    /// [`Runner::finish`].
    Finish,
    /// [`Runner::abandon`], which cannot fail: an error is ignored.
    Abandon,
    /// [`Runner::top_k`].
    TopK,
    /// [`Runner::logits_row`].
    LogitsRow,
    /// [`Runner::rebuild`].
    Rebuild,
}

/// What a hook says to a call; it may panic, wait or move a clock as well.
pub type Hook = Box<dyn FnMut(Call) -> Result<(), BackendError> + Send>;

/// Runs a [`FakeModel`] on paged memory.
pub struct FakeRunner {
    model: FakeModel,
    limits: RunnerLimits,
    pools: Vec<KvPool>,
    /// `[groups][pages * PAGE_TOKENS]`: what was written where.
    memory: Vec<Vec<Option<Cell>>>,
    /// The logit rows of the step that was finished last.
    rows: Vec<Vec<f32>>,
    /// Those of steps started since, the oldest first.
    started: VecDeque<Vec<Vec<f32>>>,
    /// Most steps in flight.
    depth: usize,
    hook: Hook,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cell {
    position: u32,
    token: u32,
}

impl FakeModel {
    /// A model with one KV group that sees everything.
    pub fn new(vocab: usize) -> Self {
        Self { vocab, windows: vec![None], poison: None }
    }

    /// The logits after `tokens`.
    pub fn logits(&self, tokens: &[u32]) -> Vec<f32> {
        let last = tokens.len() - 1;
        let mut hash = Hash::default();
        for window in &self.windows {
            for position in first_visible(*window, last)..=last {
                hash.add(position as u32, tokens[position]);
            }
        }
        self.row(hash, tokens[last])
    }

    /// The `count` tokens that follow `prompt` when the likeliest is taken each time.
    pub fn greedy(&self, prompt: &[u32], count: usize) -> Vec<u32> {
        let mut tokens = prompt.to_vec();
        for _ in 0..count {
            let next = top_of(&self.logits(&tokens), 1).candidates[0].token;
            tokens.push(next);
        }
        tokens.split_off(prompt.len())
    }

    fn row(&self, hash: Hash, last_token: u32) -> Vec<f32> {
        if self.poison == Some(last_token) {
            return vec![f32::NAN; self.vocab];
        }
        let logit = |token: usize| {
            let mut hash = hash;
            hash.add(u32::MAX, token as u32);
            // In [-6, 6), with a spread of about a real model's.
            (hash.0 >> 40) as f32 / (1 << 24) as f32 * 12.0 - 6.0
        };
        (0..self.vocab).map(logit).collect()
    }
}

impl FakeRunner {
    /// A runner with `pages` pages in each KV group and room for `limits`.
    pub fn new(model: FakeModel, pages: usize, limits: RunnerLimits) -> Self {
        let pool = |window: &Option<usize>| KvPool { pages, page_bytes: 1 << 10, window: *window };
        let pools: Vec<KvPool> = model.windows.iter().map(pool).collect();
        let memory = pools.iter().map(|pool| vec![None; pool.pages * PAGE_TOKENS]).collect();
        Self {
            model,
            limits,
            pools,
            memory,
            rows: Vec::new(),
            started: VecDeque::new(),
            depth: 1,
            hook: Box::new(|_| Ok(())),
        }
    }

    /// Calls `hook` before each call.
    pub fn with_hook(mut self, hook: impl FnMut(Call) -> Result<(), BackendError> + Send + 'static) -> Self {
        self.hook = Box::new(hook);
        self
    }

    /// Lets two steps be in flight.
    pub fn running_ahead(mut self) -> Self {
        self.depth = 2;
        self
    }

    /// The step's tokens; those that are not known come from the step before.
    fn resolve(&self, batch: &Batch<'_>) -> Result<Vec<u32>, BackendError> {
        if !batch.tokens.contains(&LIKELIEST) {
            return Ok(batch.tokens.to_vec());
        }
        let before = self.started.back().ok_or_else(|| failure("no step to take tokens from".to_owned()))?;
        ensure(self.started.len() < self.depth, || format!("{} steps in flight", self.started.len()))?;
        ensure(batch.tokens.iter().all(|&token| token == LIKELIEST), || "some tokens are known".to_owned())?;
        ensure(before.len() == batch.tokens.len(), || format!("{} rows before", before.len()))?;
        Ok(before.iter().map(|row| top_of(row, 1).candidates[0].token).collect())
    }

    fn check(&self, batch: &Batch<'_>) -> Result<(), BackendError> {
        let rows = batch.tokens.len();
        ensure(rows > 0 && rows <= self.limits.max_rows, || format!("{rows} rows"))?;
        ensure(batch.positions.len() == rows, || "positions and tokens differ in number".to_owned())?;
        ensure(batch.seqs.len() <= self.limits.max_seqs, || format!("{} sequences", batch.seqs.len()))?;
        ensure(batch.logit_rows.len() <= self.limits.max_logit_rows, || {
            format!("{} logit rows", batch.logit_rows.len())
        })?;
        ensure(batch.logit_rows.is_sorted_by(|a, b| a < b), || "logit rows do not ascend".to_owned())?;
        ensure(batch.logit_rows.iter().all(|&row| (row as usize) < rows), || "no such logit row".to_owned())?;
        let tables = batch.seqs.len() * self.pools.len() * batch.table_stride;
        ensure(batch.tables.len() == tables, || format!("tables of {} entries", batch.tables.len()))?;
        let mut next_row = 0;
        for seq in batch.seqs {
            ensure(seq.first_row == next_row && seq.rows > 0, || format!("{seq:?} after row {next_row}"))?;
            ensure(seq.past + seq.rows <= self.limits.max_context, || format!("{seq:?} exceeds the context"))?;
            next_row += seq.rows;
        }
        ensure(next_row == rows, || format!("sequences have {next_row} of {rows} rows"))?;
        ensure(batch.tokens.iter().all(|&token| (token as usize) < self.model.vocab), || "no such token".to_owned())
    }

    /// Where position `position` of the step's sequence `index` is in a group's memory.
    fn slot(&self, batch: &Batch<'_>, index: usize, group: usize, position: usize) -> Result<usize, BackendError> {
        let at = position / PAGE_TOKENS;
        ensure(at < batch.table_stride, || format!("position {position} is beyond its table"))?;
        let page = batch.tables[(index * self.pools.len() + group) * batch.table_stride + at];
        ensure(page != NO_PAGE, || format!("position {position} has no page in group {group}"))?;
        ensure((page as usize) < self.pools[group].pages, || format!("no page {page} in group {group}"))?;
        Ok(page as usize * PAGE_TOKENS + position % PAGE_TOKENS)
    }

    fn write(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        let mut written = std::collections::HashSet::new();
        for (index, seq) in batch.seqs.iter().enumerate() {
            for row in seq.first_row..seq.first_row + seq.rows {
                let position = batch.positions[row];
                let expected = seq.past + row - seq.first_row;
                ensure(position as usize == expected, || format!("position {position} in row of {expected}"))?;
                for group in 0..self.pools.len() {
                    let slot = self.slot(batch, index, group, position as usize)?;
                    ensure(written.insert((group, slot)), || format!("slot {slot} of group {group} written twice"))?;
                    self.memory[group][slot] = Some(Cell { position, token: batch.tokens[row] });
                }
            }
        }
        Ok(())
    }

    /// The hash of what a row sees.
    fn read(&self, batch: &Batch<'_>, index: usize, position: usize) -> Result<Hash, BackendError> {
        let mut hash = Hash::default();
        for group in 0..self.pools.len() {
            for seen in first_visible(self.pools[group].window, position)..=position {
                let slot = self.slot(batch, index, group, seen)?;
                let cell = self.memory[group][slot];
                let cell = cell.filter(|cell| cell.position as usize == seen);
                let cell = cell.ok_or_else(|| failure(format!("position {seen} is not in its page, group {group}")))?;
                hash.add(cell.position, cell.token);
            }
        }
        Ok(hash)
    }
}

impl Runner for FakeRunner {
    fn limits(&self) -> RunnerLimits {
        self.limits
    }

    fn kv_pools(&self) -> Vec<KvPool> {
        self.pools.clone()
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError> {
        (self.hook)(Call::CopyPage)?;
        let (from, to) = (from as usize * PAGE_TOKENS, to as usize * PAGE_TOKENS);
        self.memory[group].copy_within(from..from + PAGE_TOKENS, to);
        Ok(())
    }

    fn runs_ahead(&self) -> bool {
        self.depth > 1 && self.started.len() == 1
    }

    fn start(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        (self.hook)(Call::Step { rows: batch.tokens.len() })?;
        let tokens = self.resolve(batch)?;
        let batch = &Batch { tokens: &tokens, ..*batch };
        self.check(batch)?;
        self.write(batch)?;
        let mut rows = Vec::new();
        for &row in batch.logit_rows {
            let row = row as usize;
            let is_in = |seq: &SeqRows| (seq.first_row..seq.first_row + seq.rows).contains(&row);
            let index = batch.seqs.iter().position(is_in).expect("rows were checked");
            let hash = self.read(batch, index, batch.positions[row] as usize)?;
            rows.push(self.model.row(hash, batch.tokens[row]));
        }
        self.started.push_back(rows);
        Ok(())
    }

    fn finish(&mut self) -> Result<(), BackendError> {
        (self.hook)(Call::Finish)?;
        self.rows = self.started.pop_front().ok_or_else(|| failure("no step was started".to_owned()))?;
        Ok(())
    }

    fn abandon(&mut self) {
        let _ = (self.hook)(Call::Abandon);
        self.started.clear();
    }

    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        (self.hook)(Call::TopK)?;
        out.clear();
        out.extend(self.rows.iter().map(|row| top_of(row, k)));
        Ok(())
    }

    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError> {
        (self.hook)(Call::LogitsRow)?;
        Ok(&self.rows[index])
    }

    fn rebuild(&mut self) -> Result<(), BackendError> {
        self.memory.iter_mut().for_each(|cells| cells.fill(None));
        (self.hook)(Call::Rebuild)
    }
}

/// The `k` greatest of a row, as a backend gives them.
pub fn top_of(row: &[f32], k: usize) -> TopK {
    let candidate = |(token, &logit): (usize, &f32)| Candidate { token: token as u32, logit };
    let mut candidates: Vec<Candidate> = row.iter().enumerate().map(candidate).collect();
    candidates.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token)));
    candidates.truncate(k);
    let sum: f64 = row.iter().map(|&logit| f64::from(logit).exp()).sum();
    TopK { candidates, log_sum_exp: sum.ln() as f32 }
}

fn first_visible(window: Option<usize>, position: usize) -> usize {
    window.map_or(0, |window| (position + 1).saturating_sub(window))
}

fn ensure(holds: bool, message: impl FnOnce() -> String) -> Result<(), BackendError> {
    if holds { Ok(()) } else { Err(failure(message())) }
}

fn failure(message: String) -> BackendError {
    BackendError::Device { device: "fake".to_owned(), message }
}

/// A running hash of positions and tokens (the mixing steps of SplitMix64).
#[derive(Clone, Copy, Debug, Default)]
struct Hash(u64);

impl Hash {
    fn add(&mut self, position: u32, token: u32) {
        let mut z = (self.0 ^ (u64::from(position) << 32 | u64::from(token))).wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        self.0 = z ^ z >> 31;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: RunnerLimits =
        RunnerLimits { vocab: 50, max_context: 1000, max_rows: 200, max_seqs: 4, max_logit_rows: 200 };

    fn step(runner: &mut FakeRunner, tokens: &[u32], past: usize, table: &[u32]) -> Result<Vec<f32>, BackendError> {
        let rows = tokens.len() - past;
        let positions: Vec<u32> = (past as u32..tokens.len() as u32).collect();
        runner.start(&Batch {
            tokens: &tokens[past..],
            positions: &positions,
            seqs: &[SeqRows { first_row: 0, rows, past }],
            tables: table,
            table_stride: table.len(),
            logit_rows: &[rows as u32 - 1],
        })?;
        runner.finish()?;
        Ok(runner.rows[0].clone())
    }

    #[test]
    fn runner_and_model_agree_over_pages_and_steps() {
        let model = FakeModel::new(50);
        let mut runner = FakeRunner::new(model.clone(), 8, LIMITS);
        let tokens: Vec<u32> = (0..150).map(|i| i * 7 % 50).collect();
        for (past, end) in [(0, 70), (70, 71), (71, 150)] {
            let logits = step(&mut runner, &tokens[..end], past, &[5, 0, 3]).expect("a good step");
            assert_eq!(logits, model.logits(&tokens[..end]));
        }
    }

    #[test]
    fn a_wrong_page_or_position_is_noticed() {
        let mut runner = FakeRunner::new(FakeModel::new(50), 8, LIMITS);
        let tokens: Vec<u32> = (0..100).map(|i| i % 50).collect();
        step(&mut runner, &tokens[..99], 0, &[5, 0]).expect("a good step");
        for table in [[0, 5], [5, 1], [1, 0], [NO_PAGE, 0], [99, 0]] {
            assert!(step(&mut runner, &tokens, 99, &table).is_err(), "{table:?}");
        }
        assert!(step(&mut runner, &tokens, 99, &[5]).is_err());
        assert!(step(&mut runner, &tokens, 90, &[5, 5]).is_err());
    }
}
