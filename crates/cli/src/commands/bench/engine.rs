//! `frontier bench engine`: tokens a second of prefill and decode, by batch and depth of context, beside what memory
//! and arithmetic would allow, measured in the same run.
//!
//! Virtual cores move, neighbours come and go, clocks change: the same figure differs by a factor of two within
//! seconds. So the limits are measured before and after every timed run, and the share of them that was reached is
//! reported beside the speed.

use std::time::Instant;

use anyhow::{Context, Result, bail};
use checkpoint::Checkpoint;
use model::{Decoder, DecoderConfig, LoadOptions, Progress, Quant, Shape};
use serde::Serialize;
use serde_json::{Value, json};
use tensor::{Backend, Format};

use super::device::{CpuGauge, Gauge, HandedOver, Reading, check_threads};
use super::ideal::{Ideal, kv_pool_bytes};
use super::sequences::Sequences;
use crate::device::{self, Device};
use crate::load::{self, OpenModel};
use crate::memory::KvChoice;
use crate::numbers::{count, of_model};
use crate::output::{human_bytes, print_json, print_text};
use crate::problems::both;
use crate::settings::{Settings, defs};
use crate::terminal::ByteBar;

/// What `--depth` may be.
const DEPTH: &str = "allowed are integers from 0 to the model's context less what is measured behind them";

/// The depths when none are given, as far as the model's context goes.
const DEPTHS: [usize; 2] = [0, 8192];

/// Measure prefill and decode of this machine, with the limits of its hardware beside them
#[derive(clap::Args, Debug)]
pub(super) struct Engine {
    /// Path or name of a model; the default model when neither this nor --synthetic is given
    #[arg(short, value_name = "MODEL")]
    model: Option<String>,
    /// Random weights in the shape of a network, made in memory: llama-160m, llama-1b, llama-3b, mistral-7b, narrow
    #[arg(long, value_name = "SHAPE", conflicts_with = "model")]
    synthetic: Option<String>,
    /// Formats of the synthetic weights: a mix such as q4_k_m, or a format such as iq4_nl
    #[arg(long, value_name = "Q", default_value = "q4_k_m", requires = "synthetic")]
    quant: String,
    /// Tokens of a prompt; 0 leaves prefill out
    #[arg(
        short, long, value_name = "TOKENS", default_value_t = 512,
        allow_negative_numbers = true, value_parser = count(0..=MAX_TOKENS)
    )]
    prompt: usize,
    /// Tokens decoded; 0 leaves decode out
    #[arg(
        short = 'n', long = "tokens", value_name = "TOKENS", default_value_t = 64,
        allow_negative_numbers = true, value_parser = count(0..=MAX_TOKENS)
    )]
    decode: usize,
    /// Sequences computed together
    #[arg(
        short, long, value_name = "SEQUENCES", value_delimiter = ',', default_value = "1,4,8",
        allow_negative_numbers = true, value_parser = count(1..=MAX_BATCH)
    )]
    batch: Vec<usize>,
    /// Tokens already in the cache [default: 0,8192 as far as the model's context goes]
    #[arg(
        long, value_name = "TOKENS", value_delimiter = ',',
        allow_negative_numbers = true, value_parser = of_model::<usize>(DEPTH)
    )]
    depth: Vec<usize>,
    /// Timed runs of each
    #[arg(
        short, long, value_name = "RUNS", default_value_t = 3,
        allow_negative_numbers = true, value_parser = count(1..=MAX_RUNS)
    )]
    runs: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is run: checked, so that nothing fails after minutes.
#[derive(Debug)]
struct Plan {
    prompt: usize,
    decode: usize,
    batches: Vec<usize>,
    depths: Vec<usize>,
    runs: usize,
    /// Most rows of a step.
    max_rows: usize,
    kv: (Format, Format),
}

/// A batch at a depth.
#[derive(Debug, Serialize)]
struct Cell {
    batch: usize,
    depth: usize,
    /// Medians; `null` where the phase was left out.
    prefill_tps: Option<f64>,
    decode_tps: Option<f64>,
    prefill_tps_best: Option<f64>,
    decode_tps_best: Option<f64>,
    /// Bytes that decode must read for each token: weights once a step, keys and values once a sequence.
    bytes_per_token: f64,
    /// Least time that decode could take on the hardware, as measured around the run, over the time that it took.
    roof_share: Option<f64>,
    /// The same of prefill.
    prefill_roof_share: Option<f64>,
    prefill_runs: Vec<Sample>,
    decode_runs: Vec<Sample>,
    /// For each token decoded; absent on the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    handed_over: Option<HandedOverAToken>,
}

/// One timed run.
#[derive(Clone, Debug, Serialize)]
struct Sample {
    tps: f64,
    roof_share: f64,
    /// Read bandwidth around the run.
    read_gbps: f64,
    /// `moved` when not the same before and after.
    placement: &'static str,
}

impl Engine {
    /// The model that is measured, `Some(None)` for the configured one; `None` for random weights.
    pub(super) fn model(&self) -> Option<Option<&str>> {
        self.synthetic.is_none().then_some(self.model.as_deref())
    }

    pub(super) fn run(&self, settings: &Settings) -> Result<()> {
        check_threads(settings)?;
        let device = device::open(settings)?;
        let available = device.budget(settings).bytes.unwrap_or(u64::MAX);
        match device {
            Device::Cpu(backend) => {
                let gauge = CpuGauge::new(&backend);
                let available = available.min(cpu::machine::available_bytes());
                self.run_on(settings, available, gauge, |checkpoint, config, sizes, progress| {
                    Ok(Decoder::load(checkpoint, config, *backend, sizes, progress)?)
                })
            }
            #[cfg(feature = "gpu")]
            Device::Gpu(device) => {
                let gauge = super::gpu::GpuGauge::new(device.gpu());
                self.run_on(settings, available, gauge, |checkpoint, config, sizes, progress| {
                    device.load(checkpoint, config, sizes, progress)
                })
            }
        }
    }

    /// Loads the network by `load` and measures it.
    fn run_on<B: Backend>(
        &self,
        settings: &Settings,
        available_bytes: u64,
        mut gauge: impl Gauge,
        load: impl FnOnce(&Checkpoint, DecoderConfig, &LoadOptions, &mut dyn FnMut(Progress)) -> Result<Decoder<B>>,
    ) -> Result<()> {
        let open = self.open(settings)?;
        let config = DecoderConfig::from_checkpoint(&open.checkpoint)?;
        let plan = self.plan(&config, settings)?;
        plan.check_memory(&open, &config, available_bytes)?;
        let sizes = LoadOptions {
            max_rows: plan.max_rows,
            max_seqs: plan.max_batch(),
            max_logit_rows: plan.max_batch(),
            max_context: Some(plan.max_tokens()),
        };
        let start = Instant::now();
        let bar = ByteBar::new(&open.name, 0);
        let mut progress = |progress: Progress| bar.set(progress.loaded_bytes, progress.total_bytes);
        let mut decoder = load(&open.checkpoint, config, &sizes, &mut progress)?;
        bar.finish();
        let report = Report {
            model: open.name,
            device: decoder.describe_backend(),
            load_seconds: start.elapsed().as_secs_f64(),
            plan,
            readings: Vec::new(),
            cells: Vec::new(),
        };
        report.run(&mut decoder, &open.checkpoint, &mut gauge, self.json)
    }

    fn open(&self, settings: &Settings) -> Result<OpenModel> {
        let Some(name) = &self.synthetic else { return load::open(self.model.as_deref(), settings) };
        let shape = Shape::from_name(name).with_context(|| {
            let names = Shape::ALL.map(|shape| shape.name);
            format!("--synthetic {name}: no such shape; allowed: {}", names.join(", "))
        });
        let quant = Quant::from_name(&self.quant).with_context(|| {
            format!(
                "--quant {}: no such format; allowed: {}",
                self.quant,
                Quant::names().collect::<Vec<_>>().join(", ")
            )
        });
        let (shape, quant) = both(shape, quant)?;
        let checkpoint = shape.checkpoint(quant)?;
        Ok(OpenModel { name: format!("{} {} (synthetic)", shape.name, quant.name()), checkpoint })
    }

    fn plan(&self, config: &DecoderConfig, settings: &Settings) -> Result<Plan> {
        let behind = self.prompt.max(self.decode);
        let trained = config.context_len();
        if behind == 0 {
            bail!("--prompt 0 and --tokens 0: nothing to measure; at least one must be 1 or more");
        }
        let depths = if self.depth.is_empty() {
            DEPTHS.into_iter().filter(|depth| *depth == 0 || depth + behind <= trained).collect()
        } else {
            self.depth.clone()
        };
        let Some(most_depth) = trained.checked_sub(behind) else {
            bail!(
                "--prompt {} and --tokens {}: the model was trained for {trained} tokens; allowed for each: 0 to {trained}",
                self.prompt,
                self.decode
            );
        };
        if let Some(depth) = depths.iter().find(|depth| **depth > most_depth) {
            bail!(
                "--depth {depth} and {behind} tokens behind it: the model was trained for {trained} tokens; allowed: 0 to \
                 {most_depth}"
            );
        }
        let most_batch = self.batch.iter().copied().max().unwrap_or(1);
        let chunk = settings.len(&defs::PREFILL_CHUNK_SIZE);
        let kv = KvChoice::from_settings(settings);
        Ok(Plan {
            prompt: self.prompt,
            decode: self.decode,
            batches: self.batch.clone(),
            depths,
            runs: self.runs,
            max_rows: chunk.min(most_batch * self.prompt).max(most_batch).max(tensor::PAGE_TOKENS),
            kv: (kv.keys, kv.values),
        })
    }
}

/// Most tokens of a prompt or of an answer.
const MAX_TOKENS: usize = 1 << 20;

/// Most sequences in a step.
const MAX_BATCH: usize = 1024;

/// Most runs of each cell.
const MAX_RUNS: usize = 1000;

impl Plan {
    fn max_batch(&self) -> usize {
        self.batches.iter().copied().max().unwrap_or(1)
    }

    /// Tokens of the longest sequence.
    fn max_tokens(&self) -> usize {
        let deepest = self.depths.iter().copied().max().unwrap_or(0);
        (deepest + self.prompt.max(self.decode)).max(tensor::PAGE_TOKENS)
    }

    /// Fails when weights and KV cache are more than the device has left.
    fn check_memory(&self, open: &OpenModel, config: &DecoderConfig, available: u64) -> Result<()> {
        let weight_bytes: u64 = open.checkpoint.tensors().map(|tensor| tensor.data.len() as u64).sum();
        let (seqs, tokens) = (self.max_batch(), self.max_tokens());
        let kv_bytes = kv_pool_bytes(config, seqs, tokens, self.kv)
            .context("--kv-type: the model's heads are no whole number of its blocks")?;
        if weight_bytes + kv_bytes > available {
            bail!(
                "{} does not fit: {} of weights and {} of KV cache for {seqs} sequences of {tokens} tokens, {} are \
                 available; take a smaller shape or format, a smaller --batch or a smaller --depth",
                open.name,
                human_bytes(weight_bytes),
                human_bytes(kv_bytes),
                human_bytes(available)
            );
        }
        Ok(())
    }
}

/// Everything that is printed, as it comes.
struct Report {
    model: String,
    device: String,
    load_seconds: f64,
    plan: Plan,
    /// Before the first run, and after each.
    readings: Vec<Reading>,
    cells: Vec<Cell>,
}

impl Report {
    fn run<B: Backend>(
        mut self,
        decoder: &mut Decoder<B>,
        checkpoint: &Checkpoint,
        gauge: &mut dyn Gauge,
        as_json: bool,
    ) -> Result<()> {
        let config = decoder.config().clone();
        let ideal = Ideal::new(&config, checkpoint, self.plan.kv);
        let mut sequences = Sequences::new(decoder, self.plan.max_batch(), self.plan.max_tokens(), self.plan.kv)?;
        // The greatest step first: a backend's scratch memory grows with it.
        sequences.prefill(self.plan.max_batch(), 0, self.plan.prompt)?;
        self.readings.push(gauge.read()?);
        if !as_json {
            print_text(&self.heading())?;
        }
        for depth in self.plan.depths.clone() {
            for batch in self.plan.batches.clone() {
                let cell = self.measure(batch, depth, &ideal, &mut sequences, gauge)?;
                if !as_json {
                    print_text(&cell.row())?;
                }
                self.cells.push(cell);
            }
        }
        if as_json { print_json(&self.json()) } else { print_text(&self.footing()) }
    }

    /// Runs of prefill and decode in turns, so that a change of the machine meets both.
    fn measure<B: Backend>(
        &mut self,
        batch: usize,
        depth: usize,
        ideal: &Ideal<'_>,
        sequences: &mut Sequences<'_, B>,
        gauge: &mut dyn Gauge,
    ) -> Result<Cell> {
        let Plan { prompt, decode, runs, max_rows, .. } = self.plan;
        let (mut prefill_runs, mut decode_runs) = (Vec::new(), Vec::new());
        let mut handed_over = None;
        if decode > 0 {
            sequences.decode(batch, depth, decode.min(WARM_UP_STEPS))?;
        }
        for _ in 0..runs {
            if prompt > 0 {
                let seconds = sequences.prefill(batch, depth, prompt)?.as_secs_f64();
                let least = |limits: &Reading| ideal.prefill(batch, depth, prompt, max_rows).least_seconds(limits);
                prefill_runs.push(self.sample(batch * prompt, seconds, gauge, least)?);
            }
            if decode > 0 {
                let before = gauge.handed_over();
                let seconds = sequences.decode(batch, depth, decode)?.as_secs_f64();
                handed_over = before.zip(gauge.handed_over()).map(|(before, after)| (before, after, batch * decode));
                // The context grows while tokens are decoded: the mean stands for all.
                let context = depth as f64 + (decode as f64 + 1.0) / 2.0;
                let least = |limits: &Reading| decode as f64 * ideal.decode(batch, context).least_seconds(limits);
                decode_runs.push(self.sample(batch * decode, seconds, gauge, least)?);
            }
        }
        let context = depth as f64 + (decode as f64 + 1.0) / 2.0;
        Ok(Cell {
            batch,
            depth,
            prefill_tps: median(&prefill_runs, |run| run.tps),
            decode_tps: median(&decode_runs, |run| run.tps),
            prefill_tps_best: best(&prefill_runs),
            decode_tps_best: best(&decode_runs),
            bytes_per_token: ideal.decode(batch, context).bytes / batch as f64,
            roof_share: median(&decode_runs, |run| run.roof_share),
            // Prefill is bound by operations: bytes alone are no roof.
            prefill_roof_share: median(&prefill_runs, |run| run.roof_share)
                .filter(|_| self.readings.iter().all(|reading| reading.integer_ops_per_s.is_some())),
            prefill_runs,
            decode_runs,
            handed_over: handed_over.map(per_token),
        })
    }

    /// A run that has just ended, judged by the limits before and after it.
    fn sample(
        &mut self,
        tokens: usize,
        seconds: f64,
        gauge: &mut dyn Gauge,
        least_seconds: impl Fn(&Reading) -> f64,
    ) -> Result<Sample> {
        let after = gauge.read()?;
        let before = self.readings.last().expect("one is taken before the first run");
        let least = (least_seconds(before) + least_seconds(&after)) / 2.0;
        let same = before.placement.name == after.placement.name;
        let sample = Sample {
            tps: tokens as f64 / seconds,
            roof_share: least / seconds,
            read_gbps: (before.read_bytes_per_s + after.read_bytes_per_s) / 2e9,
            placement: if same { after.placement.name } else { super::device::MOVED },
        };
        self.readings.push(after);
        Ok(sample)
    }

    fn heading(&self) -> String {
        let Plan { prompt, decode, runs, kv, .. } = &self.plan;
        format!(
            "model    {}\ndevice   {}\nruns     {runs} of {prompt} prompt tokens and {decode} decoded, KV in {}, {}\n\n\
             {:>5} {:>6}  {:>12} {:>8} {:>7}  {:>12} {:>8} {:>7}  {:>8}\n",
            self.model,
            self.device,
            kv.0.name(),
            kv.1.name(),
            "batch",
            "depth",
            "prefill t/s",
            "best",
            "of roof",
            "decode t/s",
            "best",
            "of roof",
            "MB/token",
        )
    }

    fn footing(&self) -> String {
        let range = |of: fn(&Reading) -> f64| {
            let values = || self.readings.iter().map(of);
            let (low, high) = (values().fold(f64::MAX, f64::min), values().fold(0.0, f64::max));
            format!("{:.1} (from {low:.1} to {high:.1})", middle(values().collect()).unwrap_or(0.0))
        };
        let [first, last] = self.ends();
        let mut text = format!(
            "\nroofs    read {} GB/s, medians over {} readings\n",
            range(|reading| reading.read_bytes_per_s / 1e9),
            self.readings.len(),
        );
        for (name, peak) in [
            ("integer", self.middle_of(|reading| reading.integer_ops_per_s)),
            ("f32", self.middle_of(|reading| reading.float_ops_per_s)),
            ("bf16", self.middle_of(|reading| reading.bf16_ops_per_s)),
        ] {
            if let Some(peak) = peak {
                text += &format!("         {name} {:.0} G operations/s\n", peak / 1e9);
            }
        }
        text + &format!(
            "places   {} {:.0?} ns at first, {} {:.0?} ns at last\n",
            first.placement.name, first.placement.round_trip_ns, last.placement.name, last.placement.round_trip_ns
        )
    }

    fn json(&self) -> Value {
        let giga = |of: fn(&Reading) -> Option<f64>| self.middle_of(of).map(|per_s| per_s / 1e9);
        let [first, last] = self.ends();
        json!({
            "model": self.model,
            "device": self.device,
            "prompt_tokens": self.plan.prompt,
            "decode_tokens": self.plan.decode,
            "runs": self.plan.runs,
            "kv_type": [self.plan.kv.0.name(), self.plan.kv.1.name()],
            "load_seconds": self.load_seconds,
            "roofs": {
                "read_gbps": giga(|reading| Some(reading.read_bytes_per_s)),
                "read_gbps_median": giga(|reading| Some(reading.read_bytes_per_s_median)),
                "integer_gops": giga(|reading| reading.integer_ops_per_s),
                "float_gflops": giga(|reading| reading.float_ops_per_s),
                "bf16_gflops": giga(|reading| reading.bf16_ops_per_s),
                "readings": self.readings.len(),
            },
            "placement": { "before": first.placement, "after": last.placement },
            "results": self.cells,
        })
    }

    fn middle_of(&self, of: fn(&Reading) -> Option<f64>) -> Option<f64> {
        middle(self.readings.iter().filter_map(of).collect())
    }

    fn ends(&self) -> [&Reading; 2] {
        [self.readings.first(), self.readings.last()].map(|reading| reading.expect("one is taken before the first run"))
    }
}

/// Steps before the first timed one of a cell.
const WARM_UP_STEPS: usize = 4;

impl Cell {
    fn row(&self) -> String {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let percent =
            |share: Option<f64>| share.map_or_else(|| "-".to_owned(), |share| format!("{:.0} %", share * 100.0));
        let mut text = format!(
            "{:>5} {:>6}  {:>12} {:>8} {:>7}  {:>12} {:>8} {:>7}  {:>8.1}",
            self.batch,
            self.depth,
            number(self.prefill_tps),
            number(self.prefill_tps_best),
            percent(self.prefill_roof_share),
            number(self.decode_tps),
            number(self.decode_tps_best),
            percent(self.roof_share),
            self.bytes_per_token / 1e6,
        );
        if let Some(handed_over) = &self.handed_over {
            let HandedOverAToken { dispatches, submits, cpu_us, bytes } = handed_over;
            text += &format!(
                "  a token: {dispatches:.1} dispatches, {submits:.2} submits, {cpu_us:.0} us of the CPU, {:.1} MB moved",
                bytes / 1e6
            );
        }
        text + "\n"
    }
}

/// Work handed to a device that is not the CPU, for each token decoded.
#[derive(Clone, Copy, Debug, Serialize)]
struct HandedOverAToken {
    dispatches: f64,
    submits: f64,
    cpu_us: f64,
    bytes: f64,
}

fn per_token((before, after, tokens): (HandedOver, HandedOver, usize)) -> HandedOverAToken {
    let tokens = tokens as f64;
    HandedOverAToken {
        dispatches: (after.dispatches - before.dispatches) as f64 / tokens,
        submits: (after.submits - before.submits) as f64 / tokens,
        bytes: (after.bytes - before.bytes) as f64 / tokens,
        cpu_us: (after.cpu_seconds - before.cpu_seconds) * 1e6 / tokens,
    }
}

fn median(runs: &[Sample], of: fn(&Sample) -> f64) -> Option<f64> {
    middle(runs.iter().map(of).collect())
}

fn best(runs: &[Sample]) -> Option<f64> {
    runs.iter().map(|run| run.tps).reduce(f64::max)
}

/// The median; of an even count the mean of the two in the middle.
fn middle(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let (low, high) = (values.len().checked_sub(1)? / 2, values.len() / 2);
    Some((values[low] + values[high]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::middle;

    #[test]
    fn median_is_in_the_middle() {
        for (values, expected) in [(vec![], None), (vec![3.0, 1.0, 2.0], Some(2.0)), (vec![4.0, 1.0], Some(2.5))] {
            assert_eq!(middle(values), expected);
        }
    }
}
