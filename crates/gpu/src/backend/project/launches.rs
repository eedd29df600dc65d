//! The launches of each kernel for a matrix.

use tensor::{BackendError, Format};

use super::Project;
use crate::backend::part_sum::PartSum;
use crate::backend::recorder::{Launch, Recorder, bind};
use crate::backend::scratch::Scratch;
use crate::backend::step::MATVEC_BATCH;
use crate::layout::UNIT;
use crate::memory::{Buffer, Slice};
use crate::shaders::{
    self, DotsShape, Epilogue, MatmulShape, MatvecShape, SingleShape, SkinnyShape, WideShape, WideTile,
};
use crate::variant::Variant;
use crate::weights::{GpuMatrix, Segment};

/// Least turns of a part of the depth.
const LEAST_FEW_TURNS: usize = 8;

/// Least subgroups of a workgroup for a single row: they share its bytes.
const LEAST_SINGLE_GROUPS: u32 = 4;

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
    weights_at: u32,
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
            weights_at: segment.weights_at,
        }
    }

    /// Where a gate and its up, which stand behind all gates, make one output.
    fn of_outputs(units: usize, segment: &Segment, job: Project<'_>) -> ProjectParams {
        let outputs = outputs_of(segment, job.epilogue) as u32;
        ProjectParams { rows: outputs, up_offset: outputs, ..ProjectParams::new(units, segment, job) }
    }
}

impl Recorder<'_> {
    /// The input of a projection, normalised where that is asked for, as f16.
    pub(super) fn fill_halves(&mut self, job: Project<'_>) -> Result<(), BackendError> {
        if job.halved || self.sum_and_halve(job)? {
            return Ok(());
        }
        let scratch = self.scratch;
        // Without a norm the zeros that pad a row may come along.
        let width = if job.norm.is_some() { job.width } else { job.x_stride };
        let parts = if job.norm.is_some() { 1 } else { width.div_ceil(8 * shaders::ROW_THREADS as usize) };
        let mut buffers = bind(&[(0, job.x), (1, &scratch.halves), (2, &self.step.buffer)]);
        buffers.extend(job.norm.map(|norm| (3, &*norm.weight)));
        self.push(Launch {
            source: shaders::to_halves(job.norm.is_some()),
            buffers: &buffers,
            params: &[
                width as u32,
                job.x_stride as u32,
                job.norm.map_or(0.0, |norm| norm.eps).to_bits(),
                scratch.halves_stride as u32,
                job.step_rows_at,
            ],
            grid: [job.rows, parts, 1],
            bytes: 6 * width * job.rows,
        })
    }

    /// The input of a projection, times the norm's weight where there is a norm, as bytes.
    pub(super) fn fill_bytes(&mut self, units: usize, job: Project<'_>) -> Result<(), BackendError> {
        let scratch = self.scratch;
        let mut buffers = bind(&[(0, job.x), (1, &scratch.bytes), (2, &self.step.buffer)]);
        buffers.extend(job.norm.map(|norm| (3, &*norm.weight)));
        self.push(Launch {
            source: shaders::to_bytes(job.norm.is_some(), self.gpu.subgroup_size),
            buffers: &buffers,
            params: &[
                units as u32,
                (job.x_stride / 4) as u32,
                shaders::byte_row_quads(units, self.gpu.subgroup_size) as u32,
                job.step_rows_at,
                job.norm.map_or(0.0, |norm| norm.eps).to_bits(),
                (1.0 / job.width as f32).to_bits(),
            ],
            grid: [
                job.rows,
                if job.norm.is_some() { 1 } else { (2 * units).div_ceil(shaders::BYTES_THREADS as usize) },
                1,
            ],
            bytes: 6 * units * UNIT * job.rows,
        })
    }

    /// Whether the kernel for a single row can be used.
    pub(super) fn has_single(&self, units: usize, job: Project<'_>) -> bool {
        let tuning = &self.gpu.tuning;
        let wanted = job.rows == 1 && tuning.single_workgroups > 0 && !self.gpu.options.batch_invariant;
        let room = SingleShape::workgroup_bytes(units, self.gpu.subgroup_size, tuning.single_groups);
        wanted && room <= self.gpu.max_workgroup_bytes()
    }

    fn single_shape(&self, segments: &[Segment], units: usize, job: Project<'_>) -> SingleShape {
        let tuning = &self.gpu.tuning;
        let mut shape = SingleShape {
            formats: segments.iter().map(|segment| segment.format).collect(),
            units,
            outputs: tuning.single_outputs,
            ahead: tuning.single_ahead,
            norm: job.norm.is_some(),
            bias: job.bias.is_some(),
            epilogue: job.epilogue,
            lanes: self.gpu.subgroup_size,
            groups: tuning.single_groups,
        };
        // As few turns as can be, and subgroups that are all busy in the last.
        let tasks = single_tasks(segments, &shape);
        let turns = tasks.div_ceil(tuning.single_workgroups * tuning.single_groups as usize);
        shape.groups = (tasks.div_ceil(tuning.single_workgroups * turns) as u32).max(LEAST_SINGLE_GROUPS);
        shape
    }

    pub(super) fn project_single(
        &mut self,
        segments: &[Segment],
        units: usize,
        job: Project<'_>,
    ) -> Result<(), BackendError> {
        let shape = self.single_shape(segments, units, job);
        let outputs = |segment: &Segment| outputs_of(segment, job.epilogue);
        let all: usize = segments.iter().map(outputs).sum();
        let mut params = [0; 3 + shaders::MOST_PARTS * shaders::PART_WORDS];
        params[..3].copy_from_slice(&[
            job.norm.map_or(0.0, |norm| norm.eps).to_bits(),
            (1.0 / job.width as f32).to_bits(),
            outputs(&segments[0]) as u32,
        ]);
        for (segment, words) in segments.iter().zip(params[3..].chunks_exact_mut(shaders::PART_WORDS)) {
            words.copy_from_slice(&[
                (segment.layout.stride_bytes / 4) as u32,
                (segment.layout.header_bytes / 4) as u32,
                outputs(segment) as u32,
                segment.first_row as u32,
                segment.weights_at,
            ]);
        }
        let mut buffers = bind(&[(0, &segments[0].buffer), (1, job.x), (2, job.y)]);
        let further = segments[1..].iter().map(|segment| &segment.buffer);
        let optional = [job.norm.map(|norm| &norm.weight), job.bias];
        buffers.extend((3..).zip(further.chain(optional.into_iter().flatten()).map(|buffer| &**buffer)));
        let most = single_tasks(segments, &shape).div_ceil(shape.groups as usize);
        self.push_baked(Launch {
            source: shaders::single(&shape),
            buffers: &buffers,
            params: &params,
            grid: [self.gpu.tuning.single_workgroups.min(most), 1, 1],
            bytes: segments.iter().map(Segment::bytes).sum::<usize>() + traffic(units, all, 4, job),
        })
    }

    pub(super) fn project_dots(
        &mut self,
        units: usize,
        segment: &Segment,
        job: Project<'_>,
    ) -> Result<(), BackendError> {
        let tuning = &self.gpu.tuning;
        let batch_rows = job.rows.min(tuning.dots_batch).next_power_of_two();
        let gate = matches!(job.epilogue, Epilogue::Gate(_));
        let weight_rows = tuning.dots_outputs[usize::from(batch_rows > 1)];
        let outputs = outputs_of(segment, job.epilogue);
        let subgroups = outputs.div_ceil(if gate { weight_rows / 2 } else { weight_rows } as usize);
        let shape = DotsShape {
            format: segment.format,
            batch_rows: batch_rows as u32,
            weight_rows,
            bias: job.bias.is_some(),
            epilogue: job.epilogue,
            lanes: self.gpu.subgroup_size,
            groups: tuning.dots_groups,
        };
        let mut params = ProjectParams::of_outputs(units, segment, job);
        params.x_stride = shaders::byte_row_quads(units, self.gpu.subgroup_size) as u32;
        let bytes = &*self.scratch.bytes;
        let mut buffers = bind(&[(0, &segment.buffer), (1, bytes), (2, job.y), (3, &self.step.buffer), (4, bytes)]);
        buffers.extend(job.bias.map(|bias| (5, &**bias)));
        let (workgroups, more) = spread(subgroups.div_ceil(tuning.dots_groups as usize));
        let batches = job.rows.div_ceil(batch_rows);
        self.push(Launch {
            source: shaders::dots(&shape),
            buffers: &buffers,
            params: &params,
            // Workgroups that share weights are neighbours in time.
            grid: [batches, workgroups, more],
            bytes: segment.bytes() * batches + traffic(units, outputs, 1, job),
        })
    }

    pub(super) fn project_skinny(
        &mut self,
        units: usize,
        segment: &Segment,
        job: Project<'_>,
        edge: usize,
    ) -> Result<(), BackendError> {
        let scratch = self.scratch;
        let gate = matches!(job.epilogue, Epilogue::Gate(_));
        let outputs = outputs_of(segment, job.epilogue);
        let batch_rows = job.rows.next_multiple_of(16).min(32);
        // With more rows the sums would not fit beside a wider tile.
        let group_outputs = if batch_rows > 16 || edge < 16 { 16 } else { self.gpu.tuning.skinny_outputs };
        let outputs_per_group = if gate { group_outputs / 2 } else { group_outputs };
        let shape = SkinnyShape {
            format: segment.format,
            outputs: group_outputs,
            batch_rows,
            bias: job.bias.is_some(),
            epilogue: job.epilogue,
            edge,
            subgroup_size: self.gpu.subgroup_size,
        };
        let mut params = ProjectParams::of_outputs(units, segment, job);
        params.x_stride = scratch.halves_stride as u32;
        let mut buffers = bind(&[(0, &segment.buffer), (1, &scratch.halves), (2, job.y), (3, &self.step.buffer)]);
        buffers.extend(job.bias.map(|bias| (4, &**bias)));
        let batches = job.rows.div_ceil(batch_rows);
        self.push(Launch {
            source: shaders::skinny(&shape),
            buffers: &buffers,
            params: &params,
            grid: [outputs.div_ceil(outputs_per_group), batches, 1],
            bytes: segment.bytes() * batches + traffic(units, outputs, 2, job),
        })
    }

    pub(super) fn project_wide(&mut self, matrix: &GpuMatrix, job: Project<'_>) -> Result<(), BackendError> {
        if job.rows <= shaders::FEW {
            return self.project_few(matrix, job);
        }
        for segment in &matrix.segments {
            match &self.scratch.unpacked {
                Some(unpacked) if job.rows >= self.gpu.tuning.unpack_from_rows && segment.format != Format::F16 => {
                    self.project_unpacked(matrix.units, segment, job, unpacked)?;
                }
                _ => {
                    let params = ProjectParams::new(matrix.units, segment, job);
                    self.push_wide((segment.format, &segment.buffer), params, job, shaders::PACKED_TILE)?;
                }
            }
        }
        self.gate_after(matrix, job, 1)
    }

    /// A product of rows that a tile holds all, the depth being cut into parts.
    fn project_few(&mut self, matrix: &GpuMatrix, job: Project<'_>) -> Result<(), BackendError> {
        let (units, outputs) = (matrix.units, matrix.segments.iter().map(|segment| segment.rows).sum());
        let depths = self.few_depths(units, outputs, job);
        let (y, y_stride) = prefill_output(self.scratch, job);
        let (to, to_stride) = if depths > 1 { (&*self.scratch.gate_up, outputs) } else { (y, y_stride) };
        for segment in &matrix.segments {
            let tile = WideTile { batch_rows: shaders::FEW, ..shaders::PACKED_TILE };
            let shape = WideShape {
                format: segment.format,
                add: job.epilogue == Epilogue::Add && depths == 1,
                tile,
                ragged: !units.is_multiple_of(tile.depth / UNIT),
                depths,
                subgroup_size: self.gpu.subgroup_size,
            };
            let mut params = ProjectParams::new(units, segment, job);
            params.x_stride = self.scratch.halves_stride as u32;
            params.y_stride = to_stride as u32;
            self.push(Launch {
                source: shaders::wide(&shape),
                buffers: &[(0, &segment.buffer), (1, &self.scratch.halves), (2, to)],
                params: &params,
                grid: [1, segment.rows.div_ceil(shaders::WIDE_TILE), depths],
                bytes: segment.bytes() + traffic(units, depths * segment.rows, 2, job),
            })?;
        }
        let sum = PartSum { depths, outputs, rows: job.rows, y: y.clone(), y_stride };
        match job.epilogue {
            Epilogue::Gate(_) => self.gate_after(matrix, job, depths)?,
            _ if depths == 1 => {}
            Epilogue::Store => self.push_sum(&sum, false)?,
            Epilogue::Add => *self.pending = Some(sum),
        }
        Ok(())
    }

    /// A segment's product, its weights being unpacked to f16 first: as many at a time as there is room for.
    fn project_unpacked(
        &mut self,
        units: usize,
        segment: &Segment,
        job: Project<'_>,
        unpacked: &Buffer,
    ) -> Result<(), BackendError> {
        let line_bytes = 2 * units * UNIT;
        let tile = shaders::WIDE_TILE;
        // A dimension of a grid holds 65,535.
        let most = (unpacked.size() as usize / line_bytes).min(65_535) / tile * tile;
        let most = most.clamp(tile, segment.rows);
        for first in (0..segment.rows).step_by(most) {
            let rows = most.min(segment.rows - first);
            let mut params = ProjectParams::new(units, segment, job);
            let weights_at = params.weights_at + first as u32 * params.row_words;
            self.push(Launch {
                source: shaders::unpack(segment.format),
                buffers: &[(0, &segment.buffer), (1, unpacked)],
                params: &[units as u32, params.row_words, params.header_words, weights_at],
                grid: [(units * UNIT).div_ceil(shaders::UNPACKED), rows, 1],
                bytes: rows * (segment.layout.stride_bytes + line_bytes),
            })?;
            params.row_words = (line_bytes / 4) as u32;
            params.weights_at = 0;
            params.rows = rows as u32;
            params.first_output += first as u32;
            self.push_wide((Format::F16, unpacked), params, job, self.gpu.tuning.unpacked_tile)?;
        }
        Ok(())
    }

    /// A product with the rows of `weights` that `params` tells.
    fn push_wide(
        &mut self,
        (format, weights): (Format, &Buffer),
        mut params: ProjectParams,
        job: Project<'_>,
        tile: WideTile,
    ) -> Result<(), BackendError> {
        let (y, y_stride) = prefill_output(self.scratch, job);
        let (units, rows) = (params.units as usize, params.rows as usize);
        let shape = WideShape {
            format,
            add: job.epilogue == Epilogue::Add,
            tile,
            ragged: !units.is_multiple_of(tile.depth / UNIT),
            depths: 1,
            subgroup_size: self.gpu.subgroup_size,
        };
        params.x_stride = self.scratch.halves_stride as u32;
        params.y_stride = y_stride as u32;
        self.push(Launch {
            source: shaders::wide(&shape),
            buffers: &[(0, weights), (1, &self.scratch.halves), (2, y)],
            params: &params,
            grid: [job.rows.div_ceil(tile.batch_rows), rows.div_ceil(tile.outputs), 1],
            bytes: 4 * rows * params.row_words as usize + traffic(units, rows, 2, job),
        })
    }

    /// Parts in which the depth is summed, where the outputs alone would leave much of the device idle.
    fn few_depths(&self, units: usize, outputs: usize, job: Project<'_>) -> usize {
        // Gate and up are in the buffer of the parts themselves, and so they stay but where f16 is made of them at once. There is
        // no room for the head's parts.
        let gate = matches!(job.epilogue, Epilogue::Gate(_)) && !job.to_halves;
        if gate || job.y == &*self.scratch.gate_up || job.step_rows_at != 0 {
            return 1;
        }
        let wanted = self.gpu.tuning.few_workgroups / outputs.div_ceil(shaders::WIDE_TILE);
        let most = units / (shaders::PACKED_TILE.depth / UNIT * LEAST_FEW_TURNS);
        let room = self.scratch.gate_up.size() as usize / (4 * shaders::FEW * outputs);
        wanted.min(most).min(room).max(1)
    }

    pub(super) fn project_matvec(
        &mut self,
        units: usize,
        segment: &Segment,
        job: Project<'_>,
    ) -> Result<(), BackendError> {
        let Variant { subgroups, staged, .. } = self.variant(segment.format);
        let tuning = &self.gpu.tuning;
        let batch_rows = job.rows.min(MATVEC_BATCH).next_power_of_two() as u32;
        let gate = matches!(job.epilogue, Epilogue::Gate(_));
        // Sums in another order: not where results shall be the same for every number of rows.
        let staged = staged && batch_rows == 1 && !self.gpu.options.batch_invariant;
        // More outputs a group reuse the input registers; more batch rows need those registers for sums, and small
        // matrices need the groups.
        let weight_rows = match batch_rows {
            1 if segment.rows <= tuning.small_outputs => 2,
            1 | 2 => 4,
            _ => 2,
        };
        let (lanes, groups) = match (subgroups, staged) {
            (true, true) => (self.gpu.subgroup_size, tuning.staged_groups),
            (true, false) => (self.gpu.subgroup_size, tuning.direct_groups),
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
        let outputs = outputs_of(segment, job.epilogue);
        let outputs_per_group = if gate { weight_rows / 2 } else { weight_rows } as usize;
        let workgroups = outputs.div_ceil(outputs_per_group * groups as usize);
        let params = ProjectParams::of_outputs(units, segment, job);
        let mut buffers = bind(&[(0, &segment.buffer), (1, job.x), (2, job.y), (3, &self.step.buffer)]);
        for optional in [job.norm.map(|norm| &norm.weight), job.bias].into_iter().flatten() {
            buffers.push((buffers.len() as u32, optional));
        }
        let (x, z) = spread(workgroups);
        let batches = job.rows.div_ceil(batch_rows as usize);
        self.push(Launch {
            source: shaders::matvec(&shape),
            buffers: &buffers,
            params: &params,
            grid: [x, batches, z],
            bytes: segment.bytes() * batches + traffic(units, outputs, 4, job),
        })
    }

    pub(super) fn project_matmul(
        &mut self,
        matrix: &GpuMatrix,
        job: Project<'_>,
        edge: Option<usize>,
    ) -> Result<(), BackendError> {
        let scratch = self.scratch;
        let mut x = job.x;
        if let Some(norm) = job.norm {
            self.push(Launch {
                source: shaders::norm_rows(),
                buffers: &[(0, &norm.weight), (1, job.x), (2, &scratch.normed), (3, &self.step.buffer)],
                params: &[job.width as u32, job.x_stride as u32, norm.eps.to_bits(), 0],
                grid: [job.rows, 1, 1],
                bytes: 8 * job.width * job.rows,
            })?;
            x = &scratch.normed;
        }
        let (y, y_stride) = prefill_output(self.scratch, job);
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
            let mut buffers = bind(&[(0, &segment.buffer), (1, x), (2, y), (3, &self.step.buffer)]);
            buffers.extend(job.bias.map(|bias| (4, &**bias)));
            let tile = shaders::TILE as usize;
            self.push(Launch {
                source: shaders::matmul(&shape),
                buffers: &buffers,
                params: &params,
                grid: [segment.rows.div_ceil(tile), job.rows.div_ceil(tile), 1],
                bytes: segment.bytes() + traffic(matrix.units, segment.rows, 4, job),
            })?;
        }
        self.gate_after(matrix, job, 1)
    }

    /// hidden = act(gate) * up, where a prefill kernel has stored both, for f16 also in parts.
    fn gate_after(&mut self, matrix: &GpuMatrix, job: Project<'_>, depths: usize) -> Result<(), BackendError> {
        let Epilogue::Gate(activation) = job.epilogue else { return Ok(()) };
        let (y, y_stride) = prefill_output(self.scratch, job);
        // Both strides are those of the hidden width, of which the matrix may use less.
        let ffn = matrix.segments.iter().map(|s| s.rows).sum::<usize>() / 2;
        if job.to_halves {
            let halves = &self.scratch.halves;
            let stride = if depths > 1 { 2 * ffn } else { y_stride };
            let plane = shaders::FEW * stride;
            return self.push(Launch {
                source: shaders::gate_halves(activation, depths),
                buffers: &[(0, y), (1, halves), (2, &self.step.buffer)],
                params: &[ffn as u32, stride as u32, self.scratch.halves_stride as u32, plane as u32],
                grid: [ffn.div_ceil(shaders::GATE_HALVES), job.rows, 1],
                bytes: (8 * depths + 2) * ffn * job.rows,
            });
        }
        self.push(Launch {
            source: shaders::gate(activation),
            buffers: &[(0, y), (1, job.y), (2, &self.step.buffer)],
            params: &[ffn as u32, y_stride as u32, job.y_stride as u32],
            grid: [ffn.div_ceil(shaders::ROW_THREADS as usize), job.rows, 1],
            bytes: 12 * ffn * job.rows,
        })
    }
}

/// Outputs of a segment, gate and up being one.
fn outputs_of(segment: &Segment, epilogue: Epilogue) -> usize {
    if matches!(epilogue, Epilogue::Gate(_)) { segment.rows / 2 } else { segment.rows }
}

/// How often a subgroup takes outputs of these parts, all together.
fn single_tasks(segments: &[Segment], shape: &SingleShape) -> usize {
    let tasks = |(part, s)| outputs_of(s, shape.epilogue).div_ceil(shape.rows(part) as usize);
    segments.iter().enumerate().map(tasks).sum()
}

/// Where a prefill kernel stores: gate and up go to a buffer of their own first.
fn prefill_output<'j>(scratch: &'j Scratch, job: Project<'j>) -> (&'j Slice, usize) {
    match job.epilogue {
        Epilogue::Gate(_) => (&scratch.gate_up, 2 * job.y_stride),
        Epilogue::Store | Epilogue::Add => (job.y, job.y_stride),
    }
}

/// Bytes of activations that a projection reads, at so many bytes a value, and writes.
fn traffic(units: usize, outputs: usize, value_bytes: usize, job: Project<'_>) -> usize {
    job.rows * (units * UNIT * value_bytes + 4 * outputs)
}

/// Workgroups as (x, z), since a dimension holds 65,535.
fn spread(workgroups: usize) -> (usize, usize) {
    const MOST: usize = 65_535;
    let z = workgroups.div_ceil(MOST);
    (workgroups.div_ceil(z), z)
}
