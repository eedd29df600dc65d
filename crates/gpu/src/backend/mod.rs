//! The stages of a forward pass, as dispatches.
//!
//! While a step's shape is new, each stage adds its dispatches to a [`Plan`]; when the shape was seen before, the stages
//! do nothing and [`GpuBackend::finish_step`] replays the plan. `recorder.rs` is what a stage records with, `project.rs`
//! chooses kernels for matrices, `attention.rs`, `results.rs` do what their names say; `scratch.rs` has the buffers
//! between the stages and `step.rs` what changes from step to step.

mod attention;
mod part_sum;
mod project;
mod recorder;
mod results;
mod scratch;
mod step;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use memmap2::Mmap;
use tensor::{
    Attend, AttnOut, Backend, BackendError, Batch, Dims, Embed, Footprint, KvSpec, LIKELIEST, Logits, MatrixShape, Mlp,
    Qkv, Role, TensorView, TopK,
};

use crate::clock::thread_cpu_time;
use crate::device::Gpu;
use crate::in_place::InPlace;
use crate::kv::Kv;
use crate::memory::Buffer;
use crate::plan::{KernelTime, Plan};
use crate::queue::Submission;
use crate::selftest;
use crate::shaders;
use crate::weights::{GpuMatrix, upload_vector};

use attention::Turning;
use part_sum::PartSum;
use recorder::Recorder;
use results::{Copies, CopiesKey, Kept, StepResults};
use scratch::Scratch;
use step::{Shape, StepBuffer};

/// Steps of up to this many rows multiply with the mat-vec kernels.
pub(crate) const MATVEC_ROWS: usize = 32;

/// Steps of 2 to this many rows multiply by cooperative matrices where the device has them.
const SKINNY_ROWS: usize = 64;

/// [`tensor::Backend`] for one model on one GPU.
pub struct GpuBackend {
    gpu: Arc<Gpu>,
    files: InPlace,
    dims: Option<Dims>,
    scratch: Option<Scratch>,
    step: Option<StepBuffer>,
    kv: Option<Kv>,
    plans: HashMap<Shape, Plan>,
    /// The step that is being recorded or replayed.
    current: Option<Current>,
    /// Shape of the last step that ran.
    last: Option<Shape>,
    /// Steps that were submitted and whose results were not read yet, the oldest first.
    started: VecDeque<Started>,
    /// Which of the staging buffers the next step takes.
    turn: usize,
    /// Commands of a step that may come next.
    ahead: Option<((Shape, CopiesKey), wgpu::CommandBuffer)>,
    results: StepResults,
    first_error: Option<BackendError>,
    cost: StepCost,
}

struct Current {
    shape: Shape,
    /// `None` while a known plan is replayed.
    recording: Option<Plan>,
    /// What attention is to do with queries and keys on its way.
    turning: Option<Turning>,
    /// A sum that one dispatch may make with what comes of it.
    pending: Option<PartSum>,
    /// Attention that is to be recorded with the next stage.
    attending: Option<Attend>,
    logit_rows: usize,
    /// Whether its tokens are the likeliest of the step before.
    follows: bool,
    /// CPU time of the thread when the step began.
    begun: Duration,
}

struct Started {
    shape: Shape,
    logit_rows: usize,
    copies: CopiesKey,
    submission: Submission,
}

/// What the last step cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepCost {
    /// Kernels launched.
    pub dispatches: usize,
    /// Submissions to the queue.
    pub submits: usize,
    /// Whether it was started on tokens that only the device knew; of several steps, how many.
    pub followed: usize,
    /// CPU time from the beginning of the step until all was submitted.
    pub cpu: Duration,
    /// CPU time for the commands of a next step, while the device computed.
    pub cpu_ahead: Duration,
    /// Bytes that the kernels read and write, by their own account.
    pub bytes: u64,
}

impl GpuBackend {
    /// A backend for one model on `gpu`.
    pub fn new(gpu: Arc<Gpu>) -> GpuBackend {
        GpuBackend {
            gpu,
            files: InPlace::default(),
            dims: None,
            scratch: None,
            step: None,
            kv: None,
            plans: HashMap::new(),
            current: None,
            last: None,
            started: VecDeque::new(),
            turn: 0,
            ahead: None,
            results: StepResults::default(),
            first_error: None,
            cost: StepCost::default(),
        }
    }

    /// Uses weights that lie in these mappings in place, where device and layout allow; the mappings stay alive as long.
    pub fn with_mappings(mut self, mappings: Vec<Arc<Mmap>>) -> GpuBackend {
        self.files = InPlace::new(&self.gpu, mappings);
        self
    }

    /// Most logit rows of a step for a vocabulary: those whose logits a kernel can see in one buffer.
    pub fn max_logit_rows(gpu: &Gpu, vocab: usize) -> usize {
        let rows = gpu.max_binding_bytes() as usize / (4 * vocab.max(1));
        // Whole tiles of the prefill kernels, where there is room for several.
        if rows > shaders::WIDE_TILE { rows - rows % shaders::WIDE_TILE } else { rows.clamp(1, SKINNY_ROWS) }
    }

    /// What the last step cost.
    pub fn cost(&self) -> StepCost {
        self.cost
    }

    /// The kernels of the last step, in order, each with its workgroups.
    pub fn kernels(&self) -> Vec<(String, [u32; 3])> {
        let plan = self.last.and_then(|shape| self.plans.get(&shape));
        plan.map_or(Vec::new(), Plan::kernels)
    }

    /// Runs the plan of the last step again, a pass a dispatch, and tells what each took. For benchmarks only: what the
    /// step stored in KV pages and results is stored again.
    pub fn profile(&self) -> Result<Vec<KernelTime>, BackendError> {
        self.last.and_then(|shape| self.plans.get(&shape)).map_or(Ok(Vec::new()), |plan| plan.profile(&self.gpu))
    }

    fn dims(&self) -> &Dims {
        self.dims.as_ref().expect("configure comes first")
    }

    /// Runs a stage while a plan is recorded; keeps its error.
    fn record(&mut self, stage: impl FnOnce(&mut Recorder<'_>) -> Result<(), BackendError>) {
        let Some(Current { shape, recording: Some(plan), turning, pending, attending, .. }) = &mut self.current else {
            return;
        };
        let mut recorder = Recorder {
            gpu: &self.gpu,
            dims: self.dims.as_ref().expect("configure comes first"),
            scratch: self.scratch.as_ref().expect("configure comes first"),
            step: self.step.as_ref().expect("allocate_kv comes before the first step"),
            kv: self.kv.as_ref().expect("allocate_kv comes before the first step"),
            plan,
            turning,
            pending,
            attending,
            shape: *shape,
        };
        if let Err(error) = stage(&mut recorder) {
            self.first_error.get_or_insert(error);
        }
    }

    fn unsupported(&self, what: impl Into<String>, limit: impl Into<String>) -> BackendError {
        BackendError::Unsupported { device: self.gpu.summary().name.clone(), what: what.into(), limit: limit.into() }
    }
}

impl Backend for GpuBackend {
    type Matrix = GpuMatrix;
    type Vector = Buffer;

    fn describe(&self) -> String {
        let summary = self.gpu.summary();
        format!("{}: {}, {}", summary.api, summary.name, self.gpu.describe_kernels())
    }

    fn footprint(&self, dims: &Dims, matrices: &[MatrixShape]) -> Result<Footprint, BackendError> {
        Ok(crate::footprint::predict(dims, matrices, scratch::unpacked_bytes(&self.gpu, dims)))
    }

    fn configure(&mut self, dims: &Dims) -> Result<(), BackendError> {
        for (index, layer) in dims.layers.iter().enumerate() {
            attention::check_layer(&self.gpu, layer).map_err(|limit| {
                let what = format!(
                    "attention with {} heads of size {} on {} KV heads in layer {index}",
                    layer.heads, layer.head_dim, layer.kv_heads
                );
                self.unsupported(what, format!("{limit}; set MISTRAL_DEVICE=cpu"))
            })?;
        }
        for layer in &dims.layers {
            selftest::trust_flash(&self.gpu, layer.head_dim);
        }
        self.scratch = Some(Scratch::new(&self.gpu, dims)?);
        self.dims = Some(dims.clone());
        Ok(())
    }

    fn prepare_matrix(&mut self, _role: Role, parts: &[TensorView<'_>]) -> Result<GpuMatrix, BackendError> {
        let matrix = GpuMatrix::prepare(&self.gpu, &self.files, parts)?;
        for segment in &matrix.segments {
            selftest::trust(&self.gpu, segment.format)?;
        }
        Ok(matrix)
    }

    fn prepare_vector(&mut self, values: &[f32]) -> Result<Buffer, BackendError> {
        upload_vector(&self.gpu, values)
    }

    fn allocate_kv(&mut self, spec: &KvSpec) -> Result<(), BackendError> {
        self.gpu.uploads.finish();
        // What was there goes first: both would rarely fit.
        self.kv = None;
        self.step = None;
        self.plans.clear();
        self.last = None;
        self.abandon_steps();
        self.ahead = None;
        self.kv = Some(Kv::allocate(&self.gpu, self.dims(), spec)?);
        self.step = Some(StepBuffer::new(&self.gpu, self.dims(), spec.groups.len())?);
        Ok(())
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError> {
        let kv = self.kv.as_ref().expect("allocate_kv comes before the first step");
        let scratch = self.scratch.as_ref().expect("configure comes first");
        let mut encoder = self.gpu.encoder();
        kv.copy_page(&mut encoder, &scratch.gate_up, group, from, to);
        self.gpu.submissions.submit(&self.gpu, encoder.finish()).map(|_| ())
    }

    fn begin_step(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        let begun = thread_cpu_time();
        self.gpu.faults.check()?;
        self.first_error = None;
        let follows = batch.tokens.first() == Some(&LIKELIEST);
        if follows && !self.runs_ahead() {
            return Err(self.unsupported("a step on tokens that nobody knows", "only behind a step in flight"));
        }
        let step = self.step.as_mut().expect("allocate_kv comes before the first step");
        step.write(&self.gpu, batch);
        let dims = self.dims.as_ref().expect("configure comes first");
        let split = self.scratch.as_ref().expect("configure comes first").split;
        let invariant = self.gpu.options.batch_invariant;
        let shape = Shape::of(batch, dims, split, invariant, self.results.expected_keep());
        let known = self.gpu.options.graph_capture && self.plans.contains_key(&shape);
        let recording = (!known).then(Plan::default);
        let logit_rows = batch.logit_rows.len();
        self.current = Some(Current {
            shape,
            recording,
            turning: None,
            pending: None,
            attending: None,
            logit_rows,
            follows,
            begun,
        });
        Ok(())
    }

    fn embed(&mut self, args: &Embed<'_, Self>) {
        self.record(|recorder| recorder.embed(args.table, args.scale));
    }

    fn qkv(&mut self, args: &Qkv<'_, Self>) {
        self.record(|recorder| {
            recorder.project_qkv(args)?;
            recorder.turn(args)
        });
    }

    fn attend(&mut self, args: &Attend) {
        // The next stage's weights are known then.
        self.record(|recorder| {
            *recorder.attending = Some(*args);
            Ok(())
        });
    }

    fn attn_out(&mut self, args: &AttnOut<'_, Self>) {
        self.record(|recorder| recorder.attn_out(args));
    }

    fn mlp(&mut self, args: &Mlp<'_, Self>) {
        self.record(|recorder| recorder.mlp(args));
    }

    fn logits(&mut self, args: &Logits<'_, Self>) {
        self.record(|recorder| {
            if recorder.shape.logit_rows == 0 {
                return Ok(());
            }
            recorder.logits(args)?;
            if recorder.shape.keep == 0 {
                return Ok(());
            }
            recorder.find_greatest(recorder.shape.logit_rows, recorder.shape.keep)
        });
    }

    fn finish_step(&mut self) -> Result<(), BackendError> {
        self.start_step()?;
        self.await_step()
    }

    fn runs_ahead(&self) -> bool {
        // Behind a step without candidates there is no token to go on with.
        let goes_on = |step: &Started| step.copies.kept.is_some();
        self.gpu.submissions.overlap() && self.started.len() == 1 && self.started.iter().all(goes_on)
    }

    fn start_step(&mut self) -> Result<(), BackendError> {
        self.record(|recorder| recorder.flush());
        let Current { shape, recording, logit_rows, follows, begun, .. } =
            self.current.take().expect("begin_step comes first");
        if let Some(error) = self.first_error.take() {
            return Err(error);
        }
        if let Some(plan) = recording {
            self.plans.insert(shape, plan);
        }
        self.last = Some(shape);
        let Shape { logit_rows: planned_rows, keep, .. } = shape;
        let kept = (logit_rows > 0 && keep > 0).then_some(Kept { logit_rows, planned_rows, keep });
        let follows = self.started.back().filter(|_| follows).and_then(|step| step.copies.kept);
        let copies = CopiesKey { follows, kept, turn: self.turn };
        let ahead = self.ahead.take().filter(|ahead| ahead.0 == (shape, copies));
        let plan = self.plans.get(&shape).expect("recorded, now or before");
        let (submits, submission) = match ahead {
            Some((_, commands)) => (1, self.gpu.submissions.submit(&self.gpu, commands)?),
            None if shape.rows > MATVEC_ROWS => plan.submit_in_parts(&self.gpu, &self.copies(copies))?,
            None => {
                let commands = plan.encode(&self.gpu, &self.copies(copies));
                (1, self.gpu.submissions.submit(&self.gpu, commands)?)
            }
        };
        self.cost = StepCost {
            dispatches: plan.dispatches.len(),
            submits,
            followed: usize::from(copies.follows.is_some()),
            cpu: thread_cpu_time().saturating_sub(begun),
            cpu_ahead: Duration::ZERO,
            bytes: plan.bytes(),
        };
        self.gpu.count_step(self.cost);
        self.turn = 1 - self.turn;
        self.started.push_back(Started { shape, logit_rows, copies, submission });
        Ok(())
    }

    fn await_step(&mut self) -> Result<(), BackendError> {
        let Some(Started { shape, logit_rows, copies, submission }) = self.started.pop_front() else { return Ok(()) };
        self.results.begin(logit_rows, copies.kept.map_or(0, |kept| kept.keep));
        let CopiesKey { kept: Some(kept), turn, .. } = copies else { return Ok(()) };
        if self.started.is_empty() {
            self.encode_ahead(shape, CopiesKey { follows: None, turn: 1 - turn, ..copies });
        }
        let scratch = self.scratch.as_ref().expect("configure comes first");
        self.results.read(&self.gpu, &scratch.staging[turn], kept.planned_rows, submission)
    }

    fn abandon_steps(&mut self) {
        self.started.clear();
        // Faults of what is forgotten are forgotten too; a lost device says so at every step.
        let _ = self.gpu.wait();
    }

    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        let k = k.clamp(1, shaders::MOST.min(self.dims().vocab));
        if self.results.lacks(k) {
            self.check_logits_are_there()?;
            self.sort_again(k.next_power_of_two())?;
        }
        self.results.give(k, out);
        Ok(())
    }

    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError> {
        self.check_logits_are_there()?;
        let vocab = self.dims().vocab;
        let scratch = self.scratch.as_ref().expect("configure comes first");
        self.results.read_row(&self.gpu, scratch, index, vocab)
    }
}

impl GpuBackend {
    /// Fails when the logits of the step just awaited may have been overwritten by the next.
    fn check_logits_are_there(&self) -> Result<(), BackendError> {
        if self.started.is_empty() {
            return Ok(());
        }
        let limit = "only of the step that was started last";
        Err(self.unsupported("more than a step's kept candidates", limit))
    }

    fn copies(&self, key: CopiesKey) -> Copies<'_> {
        Copies {
            scratch: self.scratch.as_ref().expect("configure comes first"),
            step: self.step.as_ref().expect("allocate_kv comes before the first step"),
            key,
        }
    }

    /// Encodes a step like the last one while the device computes that: the next step of a decode is most often like it.
    fn encode_ahead(&mut self, shape: Shape, copies: CopiesKey) {
        if !self.gpu.options.graph_capture || shape.rows > MATVEC_ROWS {
            return;
        }
        let begun = thread_cpu_time();
        let plan = self.plans.get(&shape).expect("the last step had it");
        self.ahead = Some(((shape, copies), plan.encode(&self.gpu, &self.copies(copies))));
        self.cost.cpu_ahead = thread_cpu_time().saturating_sub(begun);
        self.gpu.count_step(StepCost { cpu_ahead: self.cost.cpu_ahead, ..StepCost::default() });
    }

    /// Sorts the logits of the step just finished, for more candidates than it kept.
    fn sort_again(&mut self, keep: usize) -> Result<(), BackendError> {
        let rows = self.results.logit_rows();
        let mut plan = Plan::default();
        let mut recorder = Recorder {
            gpu: &self.gpu,
            dims: self.dims.as_ref().expect("configure comes first"),
            scratch: self.scratch.as_ref().expect("configure comes first"),
            step: self.step.as_ref().expect("a step was run"),
            kv: self.kv.as_ref().expect("a step was run"),
            plan: &mut plan,
            turning: &mut None,
            pending: &mut None,
            attending: &mut None,
            shape: self.last.expect("a step was run"),
        };
        recorder.find_greatest(rows, keep)?;
        let kept = Some(Kept { logit_rows: rows, planned_rows: rows, keep });
        let copies = CopiesKey { follows: None, kept, turn: self.turn };
        let (_, submission) = plan.submit_in_parts(&self.gpu, &self.copies(copies))?;
        self.results.begin(rows, keep);
        let scratch = self.scratch.as_ref().expect("configure comes first");
        self.results.read(&self.gpu, &scratch.staging[self.turn], rows, submission)
    }
}
