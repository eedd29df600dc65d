//! The stages of a forward pass, as dispatches.
//!
//! While a step's shape is new, each stage adds its dispatches to a [`Plan`]; when the shape was seen before, the stages
//! do nothing and [`GpuBackend::finish_step`] replays the plan. Rows up to [`MATVEC_ROWS`] go through the mat-vec kernels,
//! whose result for a row does not depend on the others; more rows go through the matmul tiles.

use std::collections::HashMap;
use std::sync::Arc;

use tensor::{
    Attend, AttnOut, Backend, BackendError, Batch, Candidate, Dims, Embed, Format, KvSpec, Logits, Mlp, NO_PAGE, Norm,
    PAGE_TOKENS, Qkv, Role, RopeStyle, TensorView, TopK,
};

use crate::adapter::GpuTier;
use crate::device::Gpu;
use crate::kv::KvFormat;
use crate::layout::UNIT;
use crate::plan::{Dispatch, KernelTime, Plan, map, read_back};
use crate::shaders::{self, AttendShape, Epilogue, MatmulShape, MatvecShape, RopeShape, SkinnyShape, WideShape};
use crate::weights::{GpuMatrix, Segment, upload_vector};

/// Steps of up to this many rows multiply with the mat-vec kernels.
const MATVEC_ROWS: usize = 32;

/// Steps of 2 to this many rows multiply by cooperative matrices where the device has them.
const SKINNY_ROWS: usize = 64;

/// Rows of the batch that one mat-vec workgroup computes at most.
const MATVEC_BATCH: usize = 8;

/// Matrices of up to this many outputs are spread over more workgroups.
const SMALL_OUTPUTS: usize = 4096;

/// Most splits of a history in decode.
const MOST_SPLITS: usize = 64;

/// Least positions in a split.
const LEAST_SPLIT: usize = PAGE_TOKENS;

/// [`tensor::Backend`] for one model on one GPU.
pub struct GpuBackend {
    gpu: Arc<Gpu>,
    dims: Option<Dims>,
    scratch: Option<Scratch>,
    kv: Option<Kv>,
    plans: HashMap<Shape, Plan>,
    /// The step that is being built or replayed.
    current: Option<Current>,
    /// Shape of the last step that ran.
    last: Option<Shape>,
    /// `k` of the last [`Backend::top_k`]: computed along with each step, so that it costs no second submit.
    expected_k: usize,
    results: StepResults,
    first_error: Option<BackendError>,
    step_words: Vec<u32>,
    encode_seconds: f64,
}

/// What makes two steps share a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Shape {
    rows: usize,
    logit_rows: usize,
    splits: usize,
    keep: usize,
}

struct Current {
    shape: Shape,
    /// `None` while a known plan is replayed.
    recording: Option<Plan>,
    logit_rows: usize,
}

/// Read back from the device after a step.
#[derive(Default)]
struct StepResults {
    logit_rows: usize,
    keep: usize,
    /// `[logit_rows]`.
    log_sum_exp: Vec<f32>,
    /// `[logit_rows][keep]`.
    values: Vec<f32>,
    ids: Vec<u32>,
    row: Vec<f32>,
}

/// Buffers between the stages. Strides are in values and multiples of [`UNIT`]; what pads them stays zero.
struct Scratch {
    step: wgpu::Buffer,
    at: StepOffsets,
    x: wgpu::Buffer,
    normed: wgpu::Buffer,
    /// Input of the cooperative kernels, f16.
    halves: wgpu::Buffer,
    halves_stride: usize,
    qkv: wgpu::Buffer,
    o: wgpu::Buffer,
    hidden: wgpu::Buffer,
    gate_up: wgpu::Buffer,
    projected: wgpu::Buffer,
    partial: wgpu::Buffer,
    logits: wgpu::Buffer,
    sort_values: [wgpu::Buffer; 2],
    sort_ids: [wgpu::Buffer; 2],
    sums: [wgpu::Buffer; 2],
    staging: wgpu::Buffer,
    /// Cosine and sine by rope: `[max_context][pairs]`.
    turns: Vec<wgpu::Buffer>,
    dim_stride: usize,
    split: usize,
}

/// Word offsets in the step buffer.
#[derive(Clone, Copy)]
struct StepOffsets {
    tokens: usize,
    positions: usize,
    seqs: usize,
    logit_rows: usize,
    tables: usize,
    table_stride: usize,
    words: usize,
}

struct Kv {
    layers: Vec<LayerKv>,
    groups: usize,
}

struct LayerKv {
    group: usize,
    key: KvFormat,
    value: KvFormat,
    k: wgpu::Buffer,
    v: wgpu::Buffer,
    /// Entries in each buffer.
    values: u64,
    page_values: u64,
}

/// Where a projection reads and writes.
#[derive(Clone, Copy)]
struct Project<'a> {
    x: &'a wgpu::Buffer,
    x_stride: usize,
    y: &'a wgpu::Buffer,
    y_stride: usize,
    norm: Option<&'a Norm<wgpu::Buffer>>,
    /// Values that the norm runs over.
    width: usize,
    bias: Option<&'a wgpu::Buffer>,
    epilogue: Epilogue,
    /// Rows of the batch in this plan, and the word of the step buffer that has their number.
    rows: usize,
    step_rows_at: u32,
}

#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
struct ProjectParams {
    units: u32,
    row_words: u32,
    header_words: u32,
    rows: u32,
    first_output: u32,
    x_stride: u32,
    y_stride: u32,
    eps: f32,
    inverse_width: f32,
    up_offset: u32,
    step_rows_at: u32,
}

impl ProjectParams {
    fn new(units: usize, segment: &Segment, job: Project<'_>) -> ProjectParams {
        ProjectParams {
            units: units as u32,
            row_words: (segment.layout.stride_bytes / 4) as u32,
            header_words: (segment.layout.header_bytes / 4) as u32,
            rows: segment.rows as u32,
            first_output: segment.first_row as u32,
            x_stride: (job.x_stride / 4) as u32,
            y_stride: job.y_stride as u32,
            eps: job.norm.map_or(0.0, |norm| norm.eps),
            inverse_width: 1.0 / job.width as f32,
            up_offset: 0,
            step_rows_at: job.step_rows_at,
        }
    }
}

impl GpuBackend {
    /// A backend for one model on `gpu`.
    pub fn new(gpu: Arc<Gpu>) -> GpuBackend {
        GpuBackend {
            gpu,
            dims: None,
            scratch: None,
            kv: None,
            plans: HashMap::new(),
            current: None,
            last: None,
            expected_k: 1,
            results: StepResults::default(),
            first_error: None,
            step_words: Vec::new(),
            encode_seconds: 0.0,
        }
    }

    /// Most logit rows of a step for a vocabulary: those whose logits a kernel can see in one buffer.
    pub fn max_logit_rows(gpu: &Gpu, vocab: usize) -> usize {
        let rows = gpu.max_binding_bytes() as usize / (4 * vocab.max(1));
        // Whole tiles of the prefill kernels, where there is room for several.
        if rows > shaders::WIDE_TILE { rows - rows % shaders::WIDE_TILE } else { rows.clamp(1, SKINNY_ROWS) }
    }

    /// Dispatches of the last recorded plan of each shape: for `bench engine` and the tests.
    pub fn dispatches_per_step(&self) -> Option<usize> {
        self.plans.values().map(|plan| plan.dispatches.len()).max()
    }

    /// CPU time that the last step took to encode and submit.
    pub fn encode_seconds(&self) -> f64 {
        self.encode_seconds
    }

    /// Runs the plan of the last step again, a pass a dispatch, and tells what each took. For benchmarks only: what the
    /// step stored in KV pages and results is stored again.
    pub fn profile(&self) -> Result<Vec<KernelTime>, BackendError> {
        self.last.and_then(|shape| self.plans.get(&shape)).map_or(Ok(Vec::new()), |plan| plan.profile(&self.gpu))
    }

    fn dims(&self) -> &Dims {
        self.dims.as_ref().expect("configure comes first")
    }

    fn scratch(&self) -> &Scratch {
        self.scratch.as_ref().expect("configure comes first")
    }

    fn unsupported(&self, what: impl Into<String>, limit: impl Into<String>) -> BackendError {
        BackendError::Unsupported { device: self.gpu.summary().name.clone(), what: what.into(), limit: limit.into() }
    }

    /// Runs a stage while a plan is recorded; keeps its error.
    fn record(&mut self, stage: impl FnOnce(&mut Self, &mut Plan, Shape) -> Result<(), BackendError>) {
        let Some(mut current) = self.current.take() else { return };
        if let Some(mut plan) = current.recording.take() {
            if let Err(error) = stage(self, &mut plan, current.shape) {
                self.first_error.get_or_insert(error);
            }
            current.recording = Some(plan);
        }
        self.current = Some(current);
    }

    fn push<T: bytemuck::NoUninit>(
        &mut self,
        plan: &mut Plan,
        source: String,
        buffers: &[(u32, &wgpu::Buffer)],
        params: &T,
        grid: [usize; 3],
    ) -> Result<(), BackendError> {
        let kernel = self.gpu.kernels.get(&self.gpu, source)?;
        let grid = grid.map(|n| u32::try_from(n).expect("grids are far below 2^32"));
        plan.dispatches.push(Dispatch::new(&self.gpu, kernel, buffers, params, grid));
        Ok(())
    }

    /// y = epilogue(W norm(x) + b), choosing kernels by the number of rows.
    fn project(&mut self, plan: &mut Plan, matrix: &GpuMatrix, job: Project<'_>) -> Result<(), BackendError> {
        let scratch = self.scratch.take().expect("configure comes first");
        let result = self.project_with(plan, &scratch, matrix, job);
        self.scratch = Some(scratch);
        result
    }

    fn project_with(
        &mut self,
        plan: &mut Plan,
        scratch: &Scratch,
        matrix: &GpuMatrix,
        job: Project<'_>,
    ) -> Result<(), BackendError> {
        let all_coarse = matrix.segments.iter().all(|segment| segment.format != Format::F32);
        let edge = match self.gpu.tier() {
            // Cooperative matrices take f16: too coarse for weights that were worth 32 bits.
            GpuTier::Plain => None,
            _ if !all_coarse => None,
            GpuTier::Cooperative8 => Some(8),
            GpuTier::Cooperative16 => Some(16),
        };
        let invariant = self.gpu.options.batch_invariant;
        match edge {
            Some(edge) if job.rows > 1 && job.rows <= SKINNY_ROWS && !invariant => {
                self.fill_halves(plan, scratch, job)?;
                for segment in &matrix.segments {
                    self.project_skinny(plan, scratch, matrix.units, segment, job, edge)?;
                }
                Ok(())
            }
            _ if job.rows <= MATVEC_ROWS || invariant => {
                for segment in &matrix.segments {
                    self.project_matvec(plan, scratch, matrix.units, segment, job)?;
                }
                Ok(())
            }
            Some(16)
                if job.bias.is_none() && matrix.segments.iter().all(|s| s.rows.is_multiple_of(shaders::WIDE_TILE)) =>
            {
                self.fill_halves(plan, scratch, job)?;
                self.project_wide(plan, scratch, matrix, job)
            }
            _ => self.project_matmul(plan, scratch, matrix, job, edge),
        }
    }

    /// The input of a projection, normalised where that is asked for, as f16.
    fn fill_halves(&mut self, plan: &mut Plan, scratch: &Scratch, job: Project<'_>) -> Result<(), BackendError> {
        // Without a norm the zeros that pad a row may come along.
        let width = if job.norm.is_some() { job.width } else { job.x_stride };
        let params = [
            width as u32,
            job.x_stride as u32,
            job.norm.map_or(0.0, |norm| norm.eps).to_bits(),
            scratch.halves_stride as u32,
            job.step_rows_at,
        ];
        let mut buffers = vec![(0, job.x), (1, &scratch.halves), (2, &scratch.step)];
        buffers.extend(job.norm.map(|norm| (3, &norm.weight)));
        self.push(plan, shaders::to_halves(job.norm.is_some()), &buffers, &params, [job.rows, 1, 1])
    }

    fn project_skinny(
        &mut self,
        plan: &mut Plan,
        scratch: &Scratch,
        units: usize,
        segment: &Segment,
        job: Project<'_>,
        edge: usize,
    ) -> Result<(), BackendError> {
        let gate = matches!(job.epilogue, Epilogue::Gate(_));
        let outputs = if gate { segment.rows / 2 } else { segment.rows };
        let outputs_per_group = if gate { shaders::OUTPUTS / 2 } else { shaders::OUTPUTS };
        let batch_rows = job.rows.next_multiple_of(16).min(32);
        let shape = SkinnyShape {
            format: segment.format,
            batch_rows,
            bias: job.bias.is_some(),
            epilogue: job.epilogue,
            edge,
            subgroup_size: self.gpu.subgroup_size,
        };
        let mut params = ProjectParams::new(units, segment, job);
        params.rows = outputs as u32;
        params.up_offset = outputs as u32;
        params.x_stride = scratch.halves_stride as u32;
        let mut buffers = vec![(0, &segment.buffer), (1, &scratch.halves), (2, job.y), (3, &scratch.step)];
        buffers.extend(job.bias.map(|bias| (4, bias)));
        let grid = [outputs.div_ceil(outputs_per_group), job.rows.div_ceil(batch_rows), 1];
        self.push(plan, shaders::skinny(&shape), &buffers, &params, grid)
    }

    fn project_wide(
        &mut self,
        plan: &mut Plan,
        scratch: &Scratch,
        matrix: &GpuMatrix,
        job: Project<'_>,
    ) -> Result<(), BackendError> {
        let (y, y_stride) = prefill_output(scratch, job);
        for segment in &matrix.segments {
            let shape = WideShape {
                format: segment.format,
                add: job.epilogue == Epilogue::Add,
                subgroup_size: self.gpu.subgroup_size,
            };
            let mut params = ProjectParams::new(matrix.units, segment, job);
            params.x_stride = scratch.halves_stride as u32;
            params.y_stride = y_stride as u32;
            let buffers = [(0, &segment.buffer), (1, &scratch.halves), (2, y)];
            let tile = shaders::WIDE_TILE;
            let grid = [segment.rows.div_ceil(tile), job.rows.div_ceil(tile), 1];
            self.push(plan, shaders::wide(&shape), &buffers, &params, grid)?;
        }
        self.gate_after(plan, scratch, matrix, job)
    }

    fn project_matvec(
        &mut self,
        plan: &mut Plan,
        scratch: &Scratch,
        units: usize,
        segment: &Segment,
        job: Project<'_>,
    ) -> Result<(), BackendError> {
        let batch_rows = job.rows.min(MATVEC_BATCH).next_power_of_two() as u32;
        let gate = matches!(job.epilogue, Epilogue::Gate(_));
        let subgroups = self.gpu.has_subgroups;
        // Sums in another order: not where results shall be the same for every number of rows.
        let staged = batch_rows == 1 && subgroups && !self.gpu.options.batch_invariant;
        // More outputs a group reuse the input registers; more batch rows need those registers for sums, and small
        // matrices need the groups.
        let weight_rows = match batch_rows {
            1 if segment.rows <= SMALL_OUTPUTS => 2,
            1 | 2 => 4,
            _ => 2,
        };
        let (lanes, groups) = match (subgroups, staged) {
            (true, true) => (self.gpu.subgroup_size, 8),
            (true, false) => (self.gpu.subgroup_size, 4),
            (false, _) => (32, 1),
        };
        let shape = MatvecShape {
            format: segment.format,
            batch_rows,
            weight_rows,
            norm: job.norm.is_some(),
            bias: job.bias.is_some(),
            epilogue: job.epilogue,
            lanes,
            groups,
            subgroups,
            staged,
        };
        let outputs = if gate { segment.rows / 2 } else { segment.rows };
        let outputs_per_group = if gate { weight_rows / 2 } else { weight_rows } as usize;
        let workgroups = outputs.div_ceil(outputs_per_group * groups as usize);
        let mut params = ProjectParams::new(units, segment, job);
        params.rows = outputs as u32;
        params.up_offset = outputs as u32;
        let mut buffers = vec![(0, &segment.buffer), (1, job.x), (2, job.y), (3, &scratch.step)];
        for optional in [job.norm.map(|norm| &norm.weight), job.bias].into_iter().flatten() {
            buffers.push((buffers.len() as u32, optional));
        }
        let grid = spread(workgroups);
        self.push(
            plan,
            shaders::matvec(&shape),
            &buffers,
            &params,
            [grid.0, job.rows.div_ceil(batch_rows as usize), grid.1],
        )
    }

    fn project_matmul(
        &mut self,
        plan: &mut Plan,
        scratch: &Scratch,
        matrix: &GpuMatrix,
        job: Project<'_>,
        edge: Option<usize>,
    ) -> Result<(), BackendError> {
        let mut x = job.x;
        if let Some(norm) = job.norm {
            let params = [job.width as u32, job.x_stride as u32, norm.eps.to_bits(), 0];
            let buffers = [(0, &norm.weight), (1, job.x), (2, &scratch.normed), (3, &scratch.step)];
            self.push(plan, shaders::norm_rows(), &buffers, &params, [job.rows, 1, 1])?;
            x = &scratch.normed;
        }
        let (y, y_stride) = prefill_output(scratch, job);
        for segment in &matrix.segments {
            let shape = MatmulShape {
                format: segment.format,
                add: job.epilogue == Epilogue::Add,
                bias: job.bias.is_some(),
                cooperative: edge.map(|edge| edge as u32),
                workgroup: 4 * self.gpu.subgroup_size,
            };
            let mut params = ProjectParams::new(matrix.units, segment, job);
            params.y_stride = y_stride as u32;
            let mut buffers = vec![(0, &segment.buffer), (1, x), (2, y), (3, &scratch.step)];
            buffers.extend(job.bias.map(|bias| (4, bias)));
            let tile = shaders::TILE as usize;
            let grid = [segment.rows.div_ceil(tile), job.rows.div_ceil(tile), 1];
            self.push(plan, shaders::matmul(&shape), &buffers, &params, grid)?;
        }
        self.gate_after(plan, scratch, matrix, job)
    }

    /// hidden = act(gate) * up, where a prefill kernel has stored both.
    fn gate_after(
        &mut self,
        plan: &mut Plan,
        scratch: &Scratch,
        matrix: &GpuMatrix,
        job: Project<'_>,
    ) -> Result<(), BackendError> {
        let Epilogue::Gate(activation) = job.epilogue else { return Ok(()) };
        let (y, y_stride) = prefill_output(scratch, job);
        // Both strides are those of the hidden width, of which the matrix may use less.
        let ffn = matrix.segments.iter().map(|s| s.rows).sum::<usize>() / 2;
        let params = [ffn as u32, y_stride as u32, job.y_stride as u32];
        let buffers = [(0, y), (1, job.y), (2, &scratch.step)];
        let grid = [ffn.div_ceil(shaders::ROW_THREADS as usize), job.rows, 1];
        self.push(plan, shaders::gate(activation), &buffers, &params, grid)
    }

    /// x += post_norm(W o + b), for the two places where a layer adds to the hidden state.
    fn add_projection(
        &mut self,
        plan: &mut Plan,
        shape: Shape,
        matrix: &GpuMatrix,
        (input, input_stride): (&wgpu::Buffer, usize),
        bias: Option<&wgpu::Buffer>,
        post_norm: Option<&Norm<wgpu::Buffer>>,
    ) -> Result<(), BackendError> {
        let dim = self.dims().dim;
        let (x, projected, step, stride) = {
            let s = self.scratch();
            (s.x.clone(), s.projected.clone(), s.step.clone(), s.dim_stride)
        };
        let job = Project {
            x: input,
            x_stride: input_stride,
            y: if post_norm.is_some() { &projected } else { &x },
            y_stride: stride,
            norm: None,
            width: dim,
            bias,
            epilogue: if post_norm.is_some() { Epilogue::Store } else { Epilogue::Add },
            rows: shape.rows,
            step_rows_at: 0,
        };
        self.project(plan, matrix, job)?;
        if let Some(norm) = post_norm {
            let params = [dim as u32, stride as u32, norm.eps.to_bits(), 0];
            let buffers = [(0, &norm.weight), (1, &projected), (2, &x), (3, &step)];
            self.push(plan, shaders::add_rms_norm(), &buffers, &params, [shape.rows, 1, 1])?;
        }
        Ok(())
    }

    /// The dispatches that find the `keep` greatest logits of `rows` rows; the last lists are in `sort_values[return]`.
    fn sort_logits(&mut self, plan: &mut Plan, rows: usize, keep: usize) -> Result<usize, BackendError> {
        let scratch = self.scratch.take().expect("configure comes first");
        let vocab = self.dims().vocab;
        let mut count = vocab;
        let mut from = 1;
        let mut first = true;
        let result = loop {
            let lists = count.div_ceil(shaders::SORT);
            let to = 1 - from;
            let out_stride = lists * keep;
            let params = [count as u32, if first { vocab } else { count } as u32, out_stride as u32];
            let step = &scratch.step;
            let (values, ids) = (&scratch.sort_values[to], &scratch.sort_ids[to]);
            let buffers = if first {
                vec![(0, &scratch.logits), (2, values), (3, ids), (4, step)]
            } else {
                vec![(0, &scratch.sort_values[from]), (1, &scratch.sort_ids[from]), (2, values), (3, ids), (4, step)]
            };
            if let Err(error) = self.push(plan, shaders::top_k(keep, first), &buffers, &params, [lists, rows, 1]) {
                break Err(error);
            }
            count = out_stride;
            from = to;
            first = false;
            if lists == 1 {
                break Ok(from);
            }
        };
        self.scratch = Some(scratch);
        result
    }

    fn sum_exponentials(&mut self, plan: &mut Plan, rows: usize) -> Result<(), BackendError> {
        let vocab = self.dims().vocab;
        let chunks = vocab.div_ceil(shaders::SORT);
        let (logits, sums, step) = {
            let s = self.scratch();
            (s.logits.clone(), s.sums.clone(), s.step.clone())
        };
        let params = [vocab as u32, vocab as u32, chunks as u32];
        let buffers = [(0, &logits), (1, &sums[0]), (2, &step)];
        self.push(plan, shaders::log_sum_exp(true), &buffers, &params, [chunks, rows, 1])?;
        let params = [chunks as u32, chunks as u32, 1];
        let buffers = [(0, &sums[0]), (1, &sums[1]), (2, &step)];
        self.push(plan, shaders::log_sum_exp(false), &buffers, &params, [1, rows, 1])
    }

    /// Fills the step buffer.
    fn write_step(&mut self, batch: &Batch<'_>) {
        let scratch = self.scratch.as_ref().expect("configure comes first");
        let at = scratch.at;
        let groups = self.kv.as_ref().map_or(1, |kv| kv.groups);
        let words = &mut self.step_words;
        words.clear();
        words.resize(at.tables + batch.seqs.len() * groups * at.table_stride, NO_PAGE);
        words[0] = batch.tokens.len() as u32;
        words[1] = batch.logit_rows.len() as u32;
        words[at.tokens..at.tokens + batch.tokens.len()].copy_from_slice(batch.tokens);
        words[at.positions..at.positions + batch.positions.len()].copy_from_slice(batch.positions);
        for (index, seq) in batch.seqs.iter().enumerate() {
            words[at.seqs + seq.first_row..at.seqs + seq.first_row + seq.rows].fill(index as u32);
        }
        words[at.logit_rows..at.logit_rows + batch.logit_rows.len()].copy_from_slice(batch.logit_rows);
        let used = batch.table_stride.min(at.table_stride);
        for table in 0..batch.seqs.len() * groups {
            let to = at.tables + table * at.table_stride;
            let from = table * batch.table_stride;
            words[to..to + used].copy_from_slice(&batch.tables[from..from + used]);
        }
        self.gpu.queue.write_buffer(&scratch.step, 0, bytemuck::cast_slice(words));
    }

    /// Runs the plan of the current step and reads its results back.
    fn run_plan(&mut self, shape: Shape, logit_rows: usize) -> Result<(), BackendError> {
        let scratch = self.scratch.as_ref().expect("configure comes first");
        let plan = self.plans.get(&shape).expect("recorded or found by begin_step");
        let started = std::time::Instant::now();
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        plan.replay(&mut encoder);
        if logit_rows == 0 {
            self.gpu.queue.submit([encoder.finish()]);
            self.encode_seconds = started.elapsed().as_secs_f64();
            return self.gpu.check();
        }
        let (sums, lists) = ((8 * logit_rows) as u64, (4 * logit_rows * shape.keep) as u64);
        let last = last_sort_buffer(self.dims.as_ref().expect("configured").vocab, shape.keep);
        encoder.copy_buffer_to_buffer(&scratch.sums[1], 0, &scratch.staging, 0, sums);
        encoder.copy_buffer_to_buffer(&scratch.sort_values[last], 0, &scratch.staging, sums, lists);
        encoder.copy_buffer_to_buffer(&scratch.sort_ids[last], 0, &scratch.staging, sums + lists, lists);
        self.gpu.queue.submit([encoder.finish()]);
        self.encode_seconds = started.elapsed().as_secs_f64();
        {
            let mapped = map(&self.gpu, &scratch.staging)?;
            let results = &mut self.results;
            let (sums, lists) = (sums as usize, lists as usize);
            results.logit_rows = logit_rows;
            results.keep = shape.keep;
            results.log_sum_exp.clear();
            results.log_sum_exp.extend(mapped[..sums].chunks_exact(8).map(|pair| {
                let float = |at: usize| f32::from_le_bytes(pair[at..at + 4].try_into().expect("4 bytes"));
                float(0) + float(4).ln()
            }));
            let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("4 bytes"));
            results.values.clear();
            results.values.extend(mapped[sums..sums + lists].chunks_exact(4).map(|b| f32::from_bits(word(b))));
            results.ids.clear();
            results.ids.extend(mapped[sums + lists..sums + 2 * lists].chunks_exact(4).map(word));
        }
        scratch.staging.unmap();
        Ok(())
    }
}

impl Backend for GpuBackend {
    type Matrix = GpuMatrix;
    type Vector = wgpu::Buffer;

    fn describe(&self) -> String {
        let summary = self.gpu.summary();
        format!("{}: {} ({:?})", summary.api, summary.name, self.gpu.tier())
    }

    fn footprint(&self, dims: &Dims, matrices: &[tensor::MatrixShape]) -> Result<tensor::Footprint, BackendError> {
        Ok(crate::footprint::predict(dims, matrices))
    }

    fn configure(&mut self, dims: &Dims) -> Result<(), BackendError> {
        for (index, layer) in dims.layers.iter().enumerate() {
            let quads = layer.head_dim / 4;
            if layer.head_dim % 4 != 0 || quads > PAGE_TOKENS {
                return Err(self.unsupported(
                    format!("head size {} in layer {index}", layer.head_dim),
                    "multiples of 4 up to 256; set MISTRAL_DEVICE=cpu",
                ));
            }
        }
        self.scratch = Some(Scratch::new(&self.gpu, dims)?);
        self.dims = Some(dims.clone());
        Ok(())
    }

    fn prepare_matrix(&mut self, _role: Role, parts: &[TensorView<'_>]) -> Result<GpuMatrix, BackendError> {
        GpuMatrix::upload(&self.gpu, parts)
    }

    fn prepare_vector(&mut self, values: &[f32]) -> Result<wgpu::Buffer, BackendError> {
        upload_vector(&self.gpu, values)
    }

    fn allocate_kv(&mut self, spec: &KvSpec) -> Result<(), BackendError> {
        let format = |format| {
            KvFormat::new(format).ok_or_else(|| {
                self.unsupported(
                    format!("a KV cache of {}", format.name()),
                    "f32, f16, bf16, q8_0; set MISTRAL_KV_CACHE_DTYPE to one of these",
                )
            })
        };
        let (key, value) = (format(spec.key_format)?, format(spec.value_format)?);
        let dims = self.dims();
        let mut layers: Vec<Option<LayerKv>> = dims.layers.iter().map(|_| None).collect();
        for (group, members) in spec.groups.iter().enumerate() {
            for &layer in &members.layers {
                let sizes = dims.layers[layer];
                if !sizes.head_dim.is_multiple_of(32) && (key == KvFormat::Q8 || value == KvFormat::Q8) {
                    return Err(self.unsupported(
                        format!("a q8_0 KV cache with head size {}", sizes.head_dim),
                        "multiples of 32; set MISTRAL_KV_CACHE_DTYPE=f16",
                    ));
                }
                let page_values = (sizes.kv_heads * PAGE_TOKENS * sizes.head_dim) as u64;
                let values = page_values * members.pages as u64;
                let (k_bytes, v_bytes) = (key.bytes(values), value.bytes(values));
                let most = self.gpu.max_binding_bytes();
                if k_bytes.max(v_bytes) > most {
                    let pages = members.pages;
                    return Err(self.unsupported(
                        format!("{pages} KV pages, {} bytes in layer {layer}", k_bytes.max(v_bytes)),
                        format!("a kernel can see {most} bytes of a buffer; lower MISTRAL_MAX_TOTAL_TOKENS"),
                    ));
                }
                let k = self.gpu.allocate("K pages", k_bytes)?;
                let v = self.gpu.allocate("V pages", v_bytes)?;
                layers[layer] = Some(LayerKv { group, key, value, k, v, values, page_values });
            }
        }
        let layers = layers.into_iter().map(|layer| layer.expect("every layer is in a group")).collect();
        self.kv = Some(Kv { layers, groups: spec.groups.len() });
        self.plans.clear();
        let groups = spec.groups.len();
        let gpu = self.gpu.clone();
        let dims = self.dims().clone();
        self.scratch.as_mut().expect("configure comes first").size_tables(&gpu, &dims, groups)
    }

    fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError> {
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let kv = self.kv.as_ref().expect("allocate_kv comes first");
        for layer in kv.layers.iter().filter(|layer| layer.group == group) {
            for (buffer, format) in [(&layer.k, layer.key), (&layer.v, layer.value)] {
                let mut copy = |base: u64, bytes: u64| {
                    let (from, to) = (base + u64::from(from) * bytes, base + u64::from(to) * bytes);
                    // A copy within one buffer is not allowed: it goes by way of the scratch buffer.
                    let scratch = &self.scratch.as_ref().expect("configured").gate_up;
                    let mut done = 0;
                    while done < bytes {
                        let part = (bytes - done).min(scratch.size());
                        encoder.copy_buffer_to_buffer(buffer, from + done, scratch, 0, part);
                        encoder.copy_buffer_to_buffer(scratch, 0, buffer, to + done, part);
                        done += part;
                    }
                };
                match format {
                    KvFormat::Q8 => {
                        copy(0, layer.page_values);
                        copy(layer.values, layer.page_values / 8);
                    }
                    _ => copy(0, format.bytes(layer.page_values)),
                }
            }
        }
        self.gpu.queue.submit([encoder.finish()]);
        self.gpu.check()
    }

    fn begin_step(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        self.first_error = None;
        self.write_step(batch);
        let rows = row_bucket(batch.tokens.len());
        let split = self.scratch().split;
        let splits = if rows > MATVEC_ROWS {
            1
        } else {
            let furthest = batch.positions.iter().copied().max().unwrap_or(0) as usize;
            (furthest / split + 1).next_power_of_two()
        };
        let shape = Shape {
            rows,
            logit_rows: batch.logit_rows.len().next_power_of_two().min(self.dims().max_logit_rows),
            splits,
            keep: self.expected_k.next_power_of_two(),
        };
        let shape = if batch.logit_rows.is_empty() { Shape { logit_rows: 0, ..shape } } else { shape };
        let known = self.gpu.options.graph_capture && self.plans.contains_key(&shape);
        let recording = if known { None } else { Some(Plan::default()) };
        self.current = Some(Current { shape, recording, logit_rows: batch.logit_rows.len() });
        Ok(())
    }

    fn embed(&mut self, args: &Embed<'_, Self>) {
        self.record(|this, plan, shape| {
            let (x, step, stride, tokens) = {
                let s = this.scratch();
                (s.x.clone(), s.step.clone(), s.dim_stride, s.at.tokens)
            };
            for segment in &args.table.segments {
                let params = [
                    args.table.units as u32,
                    (segment.layout.stride_bytes / 4) as u32,
                    (segment.layout.header_bytes / 4) as u32,
                    stride as u32,
                    segment.first_row as u32,
                    segment.rows as u32,
                    tokens as u32,
                    args.scale.to_bits(),
                ];
                let source = shaders::embed(segment.format);
                let buffers = [(0, &segment.buffer), (1, &x), (2, &step)];
                this.push(plan, source, &buffers, &params, [shape.rows, 1, 1])?;
            }
            Ok(())
        });
    }

    fn qkv(&mut self, args: &Qkv<'_, Self>) {
        self.record(|this, plan, shape| {
            let layer = this.dims().layers[args.layer];
            let dim = this.dims().dim;
            let qkv_rows = (layer.heads + 2 * layer.kv_heads) * layer.head_dim;
            let (x, qkv, step, at, dim_stride) = {
                let s = this.scratch();
                (s.x.clone(), s.qkv.clone(), s.step.clone(), s.at, s.dim_stride)
            };
            let job = Project {
                x: &x,
                x_stride: dim_stride,
                y: &qkv,
                y_stride: qkv_rows,
                norm: Some(args.norm),
                width: dim,
                bias: args.bias,
                epilogue: Epilogue::Store,
                rows: shape.rows,
                step_rows_at: 0,
            };
            this.project(plan, args.weight, job)?;
            let kv = this.kv.take().expect("allocate_kv comes before the first step");
            let pages = &kv.layers[args.layer];
            let rope = args.rope.map(|index| &this.dims().ropes[index]);
            let kernel = RopeShape {
                heads: layer.heads,
                kv_heads: layer.kv_heads,
                head_dim: layer.head_dim,
                pairs: rope.map_or(0, |rope| rope.inv_freq.len()),
                interleaved: rope.is_some_and(|rope| rope.style == RopeStyle::Interleaved),
                q_norm: args.q_norm.is_some(),
                k_norm: args.k_norm.is_some(),
                key: pages.key,
                value: pages.value,
            };
            let params = [
                qkv_rows as u32,
                pages.group as u32,
                kv.groups as u32,
                at.table_stride as u32,
                at.tables as u32,
                at.seqs as u32,
                at.positions as u32,
                args.q_norm.map_or(0.0, |norm| norm.eps).to_bits(),
                args.k_norm.map_or(0.0, |norm| norm.eps).to_bits(),
                pages.key.scales_at(pages.values),
                pages.value.scales_at(pages.values),
            ];
            let turns = args.rope.map(|index| this.scratch().turns[index].clone());
            let mut buffers = vec![(0, &qkv), (1, &step), (2, &pages.k), (3, &pages.v)];
            let norms = [args.q_norm.map(|norm| &norm.weight), args.k_norm.map(|norm| &norm.weight)];
            for optional in [turns.as_ref()].into_iter().chain(norms).flatten() {
                buffers.push((buffers.len() as u32, optional));
            }
            let grid = [layer.heads + 2 * layer.kv_heads, shape.rows, 1];
            let result = this.push(plan, shaders::rope_and_store(&kernel), &buffers, &params, grid);
            this.kv = Some(kv);
            result
        });
    }

    fn attend(&mut self, args: &Attend) {
        self.record(|this, plan, shape| {
            let layer = this.dims().layers[args.layer];
            let (qkv, o, step, partial, at) = {
                let s = this.scratch();
                (s.qkv.clone(), s.o.clone(), s.step.clone(), s.partial.clone(), s.at)
            };
            // Prefill rows walk their whole history in one workgroup; the partial sums of splits would not fit.
            let split = if shape.rows > MATVEC_ROWS { usize::MAX >> 33 } else { this.scratch().split };
            let kv = this.kv.take().expect("allocate_kv comes before the first step");
            let pages = &kv.layers[args.layer];
            let kernel = AttendShape {
                heads: layer.heads,
                kv_heads: layer.kv_heads,
                head_dim: layer.head_dim,
                soft_cap: args.soft_cap.is_some(),
                key: pages.key,
                value: pages.value,
            };
            let params = [
                ((layer.heads + 2 * layer.kv_heads) * layer.head_dim) as u32,
                pages.group as u32,
                kv.groups as u32,
                at.table_stride as u32,
                at.tables as u32,
                at.seqs as u32,
                at.positions as u32,
                shape.splits as u32,
                split as u32,
                args.window.map_or(i32::MAX as u32, |window| window as u32),
                args.scale.to_bits(),
                args.soft_cap.unwrap_or(0.0).to_bits(),
                pages.key.scales_at(pages.values),
                pages.value.scales_at(pages.values),
            ];
            let buffers = [(0, &qkv), (1, &step), (2, &pages.k), (3, &pages.v), (4, &partial)];
            let grid = [shape.rows, layer.kv_heads, shape.splits];
            let result = this.push(plan, shaders::attend(&kernel), &buffers, &params, grid);
            this.kv = Some(kv);
            result?;
            let stride = (layer.heads * layer.head_dim).next_multiple_of(UNIT);
            let params = [shape.splits as u32, split as u32, layer.heads as u32, stride as u32, at.positions as u32];
            let buffers = [(0, &partial), (1, &o), (2, &step)];
            let source = shaders::merge_splits(layer.head_dim);
            this.push(plan, source, &buffers, &params, [shape.rows, layer.heads, 1])
        });
    }

    fn attn_out(&mut self, args: &AttnOut<'_, Self>) {
        self.record(|this, plan, shape| {
            let layer = this.dims().layers[args.layer];
            let o = this.scratch().o.clone();
            let stride = (layer.heads * layer.head_dim).next_multiple_of(UNIT);
            this.add_projection(plan, shape, args.weight, (&o, stride), args.bias, args.post_norm)
        });
    }

    fn mlp(&mut self, args: &Mlp<'_, Self>) {
        self.record(|this, plan, shape| {
            let layer = this.dims().layers[args.layer];
            let dim = this.dims().dim;
            let (x, hidden, gate_up, step, dim_stride) = {
                let s = this.scratch();
                (s.x.clone(), s.hidden.clone(), s.gate_up.clone(), s.step.clone(), s.dim_stride)
            };
            let stride = layer.ffn.next_multiple_of(UNIT);
            // Gate and up in two formats or buffers cannot be multiplied out of one workgroup.
            let fused =
                args.gate_up.segments.len() == 1 || (shape.rows > SKINNY_ROWS && !this.gpu.options.batch_invariant);
            let job = Project {
                x: &x,
                x_stride: dim_stride,
                y: if fused { &hidden } else { &gate_up },
                y_stride: if fused { stride } else { 2 * stride },
                norm: Some(args.norm),
                width: dim,
                bias: args.gate_up_bias,
                epilogue: if fused { Epilogue::Gate(args.activation) } else { Epilogue::Store },
                rows: shape.rows,
                step_rows_at: 0,
            };
            this.project(plan, args.gate_up, job)?;
            if !fused {
                let params = [layer.ffn as u32, 2 * stride as u32, stride as u32];
                let buffers = [(0, &gate_up), (1, &hidden), (2, &step)];
                let grid = [layer.ffn.div_ceil(shaders::ROW_THREADS as usize), shape.rows, 1];
                this.push(plan, shaders::gate(args.activation), &buffers, &params, grid)?;
            }
            this.add_projection(plan, shape, args.down, (&hidden, stride), args.down_bias, args.post_norm)
        });
    }

    fn logits(&mut self, args: &Logits<'_, Self>) {
        self.record(|this, plan, shape| {
            if shape.logit_rows == 0 {
                return Ok(());
            }
            let (dim, vocab) = (this.dims().dim, this.dims().vocab);
            let (x, normed, logits, step, at, stride) = {
                let s = this.scratch();
                (s.x.clone(), s.normed.clone(), s.logits.clone(), s.step.clone(), s.at, s.dim_stride)
            };
            let params = [dim as u32, stride as u32, args.norm.eps.to_bits(), at.logit_rows as u32];
            let buffers = [(0, &args.norm.weight), (1, &x), (2, &normed), (3, &step)];
            this.push(plan, shaders::gather_norm(), &buffers, &params, [shape.logit_rows, 1, 1])?;
            let job = Project {
                x: &normed,
                x_stride: stride,
                y: &logits,
                y_stride: vocab,
                norm: None,
                width: dim,
                bias: None,
                epilogue: Epilogue::Store,
                rows: shape.logit_rows,
                step_rows_at: 1,
            };
            this.project(plan, args.weight, job)?;
            if let Some(cap) = args.soft_cap {
                let params = [vocab as u32, cap.to_bits()];
                let grid = [vocab.div_ceil(shaders::ROW_THREADS as usize), shape.logit_rows, 1];
                this.push(plan, shaders::soft_cap(), &[(0, &logits), (1, &step)], &params, grid)?;
            }
            this.sum_exponentials(plan, shape.logit_rows)?;
            this.sort_logits(plan, shape.logit_rows, shape.keep).map(|_| ())
        });
    }

    fn finish_step(&mut self) -> Result<(), BackendError> {
        let current = self.current.take().expect("begin_step comes first");
        if let Some(error) = self.first_error.take() {
            return Err(error);
        }
        if let Some(plan) = current.recording {
            self.plans.insert(current.shape, plan);
        }
        self.last = Some(current.shape);
        self.run_plan(current.shape, current.logit_rows)
    }

    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        let k = k.clamp(1, shaders::MOST.min(self.dims().vocab));
        let rows = self.results.logit_rows;
        if k > self.results.keep {
            self.resort(rows, k.next_power_of_two())?;
        }
        self.expected_k = k;
        out.resize_with(rows, TopK::default);
        for (row, entry) in out.iter_mut().enumerate() {
            let at = row * self.results.keep;
            entry.log_sum_exp = self.results.log_sum_exp[row];
            entry.candidates.clear();
            entry.candidates.extend(
                self.results.ids[at..at + k]
                    .iter()
                    .zip(&self.results.values[at..at + k])
                    .map(|(&token, &logit)| Candidate { token, logit }),
            );
        }
        Ok(())
    }

    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError> {
        let vocab = self.dims().vocab;
        let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        let scratch = self.scratch();
        let (from, bytes) = ((4 * index * vocab) as u64, (4 * vocab) as u64);
        // The row's own place in a buffer that read_back can take from its beginning.
        encoder.copy_buffer_to_buffer(&scratch.logits, from, &scratch.sort_values[0], 0, bytes);
        let data = read_back(&self.gpu, encoder, &scratch.sort_values[0], bytes)?;
        self.results.row.clear();
        self.results.row.extend_from_slice(bytemuck::cast_slice(&data));
        Ok(&self.results.row)
    }
}

impl GpuBackend {
    /// Sorts the logits of the step just finished again, for more candidates than it kept.
    fn resort(&mut self, rows: usize, keep: usize) -> Result<(), BackendError> {
        let mut plan = Plan::default();
        let last = self.sort_logits(&mut plan, rows, keep)?;
        for (ids, is_ids) in [(false, false), (true, true)] {
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            if !ids {
                plan.replay(&mut encoder);
            }
            let scratch = self.scratch();
            let buffer = if is_ids { &scratch.sort_ids[last] } else { &scratch.sort_values[last] };
            let data = read_back(&self.gpu, encoder, buffer, (4 * rows * keep) as u64)?;
            if is_ids {
                self.results.ids = bytemuck::pod_collect_to_vec(&data);
            } else {
                self.results.values = bytemuck::pod_collect_to_vec(&data);
            }
        }
        self.results.keep = keep;
        Ok(())
    }
}

impl Scratch {
    fn new(gpu: &Gpu, dims: &Dims) -> Result<Scratch, BackendError> {
        // The prefill kernels store whole tiles.
        let rows = dims.max_rows.max(dims.max_logit_rows).next_multiple_of(shaders::WIDE_TILE);
        let most = |size: &dyn Fn(&tensor::LayerDims) -> usize| dims.layers.iter().map(size).max().unwrap_or(1);
        let dim_stride = dims.dim.next_multiple_of(UNIT);
        let qkv = most(&|l| (l.heads + 2 * l.kv_heads) * l.head_dim);
        let o = most(&|l| (l.heads * l.head_dim).next_multiple_of(UNIT));
        let ffn = most(&|l| l.ffn.next_multiple_of(UNIT));
        let logit_rows = match dims.max_logit_rows {
            few @ 0..=SKINNY_ROWS => few,
            many => many.next_multiple_of(shaders::WIDE_TILE),
        };
        let halves_stride = dim_stride.max(o).max(ffn).next_multiple_of(shaders::DEPTH);
        let split = (dims.max_context / MOST_SPLITS).next_multiple_of(LEAST_SPLIT).max(LEAST_SPLIT);
        let splits = dims.max_context.div_ceil(split).next_power_of_two();
        let partial = most(&|l| l.heads * (l.head_dim + 2)) * rows.max(splits * rows.min(MATVEC_ROWS));
        let lists = dims.vocab.div_ceil(shaders::SORT);
        let sorted = (lists * shaders::MOST).max(dims.vocab) * dims.max_logit_rows.max(1);
        let floats = |what: &str, count: usize| gpu.allocate(what, 4 * count as u64);
        let mut turns = Vec::new();
        for rope in &dims.ropes {
            let mut table = Vec::with_capacity(2 * dims.max_context * rope.inv_freq.len());
            for position in 0..dims.max_context {
                for frequency in &rope.inv_freq {
                    let angle = position as f32 * frequency;
                    table.push(angle.cos() * rope.magnitude);
                    table.push(angle.sin() * rope.magnitude);
                }
            }
            turns.push(upload_vector(gpu, &table)?);
        }
        Ok(Scratch {
            step: floats("step", 16)?,
            at: StepOffsets { tokens: 0, positions: 0, seqs: 0, logit_rows: 0, tables: 0, table_stride: 0, words: 0 },
            x: floats("x", rows * dim_stride)?,
            normed: floats("normed", rows * dim_stride)?,
            halves: gpu.allocate("halves", (2 * rows * halves_stride) as u64)?,
            halves_stride,
            qkv: floats("qkv", rows * qkv)?,
            o: floats("o", rows * o)?,
            hidden: floats("hidden", rows * ffn)?,
            gate_up: floats("gate and up", 2 * rows * ffn)?,
            projected: floats("projected", rows * dim_stride)?,
            partial: floats("partial", partial)?,
            logits: floats("logits", logit_rows * dims.vocab)?,
            sort_values: [floats("sort", sorted)?, floats("sort", sorted)?],
            sort_ids: [floats("sort", sorted)?, floats("sort", sorted)?],
            sums: [floats("sums", 2 * lists * dims.max_logit_rows)?, floats("sums", 2 * dims.max_logit_rows)?],
            staging: gpu.device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("results"),
                size: (dims.max_logit_rows * (8 + 8 * shaders::MOST)) as u64,
                usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            }),
            turns,
            dim_stride,
            split,
        })
    }

    /// Makes the step buffer, whose size depends on the number of page tables.
    fn size_tables(&mut self, gpu: &Gpu, dims: &Dims, groups: usize) -> Result<(), BackendError> {
        let tokens = 4;
        let positions = tokens + dims.max_rows;
        let seqs = positions + dims.max_rows;
        let logit_rows = seqs + dims.max_rows;
        let tables = logit_rows + dims.max_logit_rows;
        let table_stride = dims.max_context.div_ceil(PAGE_TOKENS);
        let words = tables + dims.max_seqs * groups * table_stride;
        gpu.release(&self.step);
        self.at = StepOffsets { tokens, positions, seqs, logit_rows, tables, table_stride, words };
        self.step = gpu.allocate("step", 4 * self.at.words as u64)?;
        Ok(())
    }
}

/// Where a prefill kernel stores: gate and up go to a buffer of their own first.
fn prefill_output<'a>(scratch: &'a Scratch, job: Project<'a>) -> (&'a wgpu::Buffer, usize) {
    match job.epilogue {
        Epilogue::Gate(_) => (&scratch.gate_up, 2 * job.y_stride),
        Epilogue::Store | Epilogue::Add => (job.y, job.y_stride),
    }
}

/// Rows for which a plan is made: few buckets, so that few plans are kept.
fn row_bucket(rows: usize) -> usize {
    match rows {
        0..=8 => rows.max(1).next_power_of_two(),
        9..=MATVEC_ROWS => rows.next_multiple_of(MATVEC_BATCH),
        _ => rows.next_power_of_two(),
    }
}

/// Which of the two sort buffers has the result: each pass writes the other one, beginning with 0.
fn last_sort_buffer(vocab: usize, keep: usize) -> usize {
    let mut count = vocab;
    let mut last = 1;
    loop {
        let lists = count.div_ceil(shaders::SORT);
        last = 1 - last;
        count = lists * keep;
        if lists == 1 {
            return last;
        }
    }
}

/// Workgroups as (x, z), since a dimension holds 65,535.
fn spread(workgroups: usize) -> (usize, usize) {
    const MOST: usize = 65_535;
    let z = workgroups.div_ceil(MOST);
    (workgroups.div_ceil(z), z)
}
