//! Matrices: which kernel multiplies, by the number of rows and what the device has. [`launches`] has how each is run.

mod launches;

use tensor::{AttnOut, BackendError, Format, Logits, Mlp, Norm, Qkv};

use super::recorder::{Launch, Recorder};
use super::scratch::Scratch;
use super::{GpuBackend, MATVEC_ROWS, SKINNY_ROWS};
use crate::layout::UNIT;
use crate::memory::{Buffer, Slice};
use crate::shaders::{self, Epilogue};
use crate::variant::Variant;
use crate::weights::{GpuMatrix, Segment};

/// Where a projection reads and writes.
#[derive(Clone, Copy)]
pub(super) struct Project<'a> {
    pub(super) x: &'a Slice,
    pub(super) x_stride: usize,
    y: &'a Slice,
    y_stride: usize,
    pub(super) norm: Option<&'a Norm<Buffer>>,
    /// Values that the norm runs over.
    pub(super) width: usize,
    bias: Option<&'a Buffer>,
    epilogue: Epilogue,
    /// Whether x lies among the halves already.
    halved: bool,
    /// Whether a gated y goes there at once, for the next projection.
    to_halves: bool,
    /// Rows of the batch in this plan, and the word of the step buffer that has their number.
    pub(super) rows: usize,
    step_rows_at: u32,
}

/// A kernel for a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Mat-vec: any number of rows, a row's result independent of the others.
    Matvec,
    /// Packed dot products of bytes: as many rows, as independent.
    Dots,
    /// Cooperative matrices for a few dozen rows, of this edge.
    Skinny(usize),
    /// 16x16 cooperative matrices for many rows and whole tiles of outputs.
    Wide,
    /// Tiles of 64 x 64 for many rows, by cooperative matrices of an edge or by registers.
    Matmul(Option<usize>),
}

/// The stages that are matrices.
impl Recorder<'_> {
    pub(super) fn project_qkv(&mut self, args: &Qkv<'_, GpuBackend>) -> Result<(), BackendError> {
        let layer = self.layer(args.layer);
        let scratch = self.scratch;
        self.project(
            args.weight,
            Project {
                x: &scratch.x,
                x_stride: scratch.dim_stride,
                y: &scratch.qkv,
                y_stride: (layer.heads + 2 * layer.kv_heads) * layer.head_dim,
                norm: Some(args.norm),
                width: self.dims.dim,
                bias: args.bias,
                epilogue: Epilogue::Store,
                halved: false,
                to_halves: false,
                rows: self.shape.rows,
                step_rows_at: 0,
            },
        )
    }

    pub(super) fn attn_out(&mut self, args: &AttnOut<'_, GpuBackend>) -> Result<(), BackendError> {
        if let Some(attend) = self.attending.take() {
            self.attend(&attend, Some(args.weight))?;
        }
        let layer = self.layer(args.layer);
        let stride = (layer.heads * layer.head_dim).next_multiple_of(UNIT);
        let (scratch, dim, rows) = (self.scratch, self.dims.dim, self.shape.rows);
        let mut job = addition((scratch, dim, rows), (&scratch.o, stride), args.bias, args.post_norm);
        job.halved = self.attends_to_halves(&layer) && self.kind(args.weight, job) == Kind::Wide;
        self.add_projection(args.weight, job, args.post_norm)
    }

    pub(super) fn mlp(&mut self, args: &Mlp<'_, GpuBackend>) -> Result<(), BackendError> {
        let ffn = self.layer(args.layer).ffn;
        let stride = ffn.next_multiple_of(UNIT);
        let scratch = self.scratch;
        // Gate and up in two formats or buffers cannot be multiplied out of one workgroup.
        let few_rows = self.shape.rows <= SKINNY_ROWS || self.gpu.options.batch_invariant;
        let fused = args.gate_up.segments.len() == 1 || !few_rows;
        let sizes = (scratch, self.dims.dim, self.shape.rows);
        let mut down = addition(sizes, (&scratch.hidden, stride), args.down_bias, args.post_norm);
        let job = Project {
            x: &scratch.x,
            x_stride: scratch.dim_stride,
            y: if fused { &scratch.hidden } else { &scratch.gate_up },
            y_stride: if fused { stride } else { 2 * stride },
            norm: Some(args.norm),
            width: self.dims.dim,
            bias: args.gate_up_bias,
            epilogue: if fused { Epilogue::Gate(args.activation) } else { Epilogue::Store },
            halved: false,
            to_halves: false,
            rows: self.shape.rows,
            step_rows_at: 0,
        };
        // Without padding, whose zeros nobody would write.
        let wide = self.kind(args.gate_up, job) == Kind::Wide && self.kind(args.down, down) == Kind::Wide;
        down.halved = fused && wide && ffn.is_multiple_of(shaders::DEPTH) && ffn == stride;
        self.project(args.gate_up, Project { to_halves: down.halved, ..job })?;
        if !fused {
            self.push(Launch {
                source: shaders::gate(args.activation),
                buffers: &[(0, &scratch.gate_up), (1, &scratch.hidden), (2, &self.step.buffer)],
                params: &[ffn as u32, 2 * stride as u32, stride as u32],
                grid: [ffn.div_ceil(shaders::ROW_THREADS as usize), self.shape.rows, 1],
                bytes: 12 * ffn * self.shape.rows,
            })?;
        }
        self.add_projection(args.down, down, args.post_norm)
    }

    pub(super) fn logits(&mut self, args: &Logits<'_, GpuBackend>) -> Result<(), BackendError> {
        let (dim, vocab, rows) = (self.dims.dim, self.dims.vocab, self.shape.logit_rows);
        let (scratch, step) = (self.scratch, self.step);
        let stride = scratch.dim_stride;
        let job = Project {
            x: &scratch.x,
            x_stride: stride,
            y: &scratch.logits,
            y_stride: vocab,
            norm: Some(args.norm),
            width: dim,
            bias: None,
            epilogue: Epilogue::Store,
            halved: false,
            to_halves: false,
            rows,
            step_rows_at: 1,
        };
        if self.shape.decode {
            self.project(args.weight, job)?;
        } else {
            self.push(Launch {
                source: shaders::gather_norm(),
                buffers: &[(0, &args.norm.weight), (1, &scratch.x), (2, &scratch.normed), (3, &step.buffer)],
                params: &[dim as u32, stride as u32, args.norm.eps.to_bits(), step.at.logit_rows as u32],
                grid: [rows, 1, 1],
                bytes: 8 * dim * rows,
            })?;
            self.project(args.weight, Project { x: &scratch.normed, norm: None, ..job })?;
        }
        let Some(cap) = args.soft_cap else { return Ok(()) };
        self.push(Launch {
            source: shaders::soft_cap(),
            buffers: &[(0, &scratch.logits), (1, &step.buffer)],
            params: &[vocab as u32, cap.to_bits()],
            grid: [vocab.div_ceil(shaders::ROW_THREADS as usize), rows, 1],
            bytes: 8 * vocab * rows,
        })
    }

    /// x += post_norm(W o + b), for the two places where a layer adds to the hidden state.
    fn add_projection(
        &mut self,
        matrix: &GpuMatrix,
        job: Project<'_>,
        post_norm: Option<&Norm<Buffer>>,
    ) -> Result<(), BackendError> {
        let dim = self.dims.dim;
        let scratch = self.scratch;
        let stride = scratch.dim_stride;
        self.project(matrix, job)?;
        let Some(norm) = post_norm else { return Ok(()) };
        self.push(Launch {
            source: shaders::add_rms_norm(),
            buffers: &[(0, &norm.weight), (1, &scratch.projected), (2, &scratch.x), (3, &self.step.buffer)],
            params: &[dim as u32, stride as u32, norm.eps.to_bits(), 0],
            grid: [self.shape.rows, 1, 1],
            bytes: 12 * dim * self.shape.rows,
        })
    }
}

/// Choosing kernels.
impl Recorder<'_> {
    /// y = epilogue(W norm(x) + b), choosing kernels by the number of rows.
    fn project(&mut self, matrix: &GpuMatrix, job: Project<'_>) -> Result<(), BackendError> {
        match self.kind(matrix, job) {
            Kind::Matvec => {
                matrix.segments.iter().try_for_each(|segment| self.project_matvec(matrix.units, segment, job))
            }
            Kind::Dots => {
                let units = matrix.units;
                if self.has_single(units, job) {
                    let mut some = matrix.segments.chunks(shaders::MOST_PARTS);
                    return some.try_for_each(|segments| self.project_single(segments, units, job));
                }
                self.fill_bytes(matrix.units, job)?;
                matrix.segments.iter().try_for_each(|segment| self.project_dots(matrix.units, segment, job))
            }
            Kind::Skinny(edge) => {
                self.fill_halves(job)?;
                matrix.segments.iter().try_for_each(|segment| self.project_skinny(matrix.units, segment, job, edge))
            }
            Kind::Wide => {
                self.fill_halves(job)?;
                self.project_wide(matrix, job)
            }
            Kind::Matmul(edge) => self.project_matmul(matrix, job, edge),
        }
    }

    fn kind(&self, matrix: &GpuMatrix, job: Project<'_>) -> Kind {
        let variants = matrix.segments.iter().map(|segment| self.variant(segment.format));
        let edge = variants.map(|variant| variant.cooperative).min().flatten();
        // Cooperative matrices take f16: too coarse for weights that were worth 32 bits.
        let edge = edge.filter(|_| matrix.segments.iter().all(|segment| segment.format != Format::F32));
        let invariant = self.gpu.options.batch_invariant;
        let skinny_from = self.gpu.tuning.skinny_from_rows.max(2);
        let whole_tiles = || matrix.segments.iter().all(|s| s.rows.is_multiple_of(shaders::WIDE_TILE));
        let dots = |s: &Segment| self.variant(s.format).dots && shaders::has_dots(s.format);
        let dots_rows = if invariant { usize::MAX } else { self.gpu.tuning.dots_rows };
        // The head's rows are padded to the smaller tiles only.
        let padded = job.step_rows_at == 0 || job.rows <= shaders::FEW;
        let wide = edge == Some(16) && job.bias.is_none() && self.gpu.subgroup_size <= 32 && whole_tiles();
        if wide && padded && job.rows >= self.gpu.tuning.wide_from_rows && !invariant {
            return Kind::Wide;
        }
        if job.rows <= dots_rows && matrix.segments.iter().all(dots) {
            return Kind::Dots;
        }
        match edge {
            Some(edge) if (skinny_from..=SKINNY_ROWS).contains(&job.rows) && !invariant => Kind::Skinny(edge),
            _ if job.rows <= MATVEC_ROWS || invariant => Kind::Matvec,
            Some(16) if wide => Kind::Wide,
            _ => Kind::Matmul(edge),
        }
    }

    fn variant(&self, format: Format) -> Variant {
        self.gpu.variants.of(format)
    }
}

/// The projection that adds to the hidden state.
fn addition<'j>(
    (scratch, dim, rows): (&'j Scratch, usize, usize),
    (input, input_stride): (&'j Slice, usize),
    bias: Option<&'j Buffer>,
    post_norm: Option<&Norm<Buffer>>,
) -> Project<'j> {
    Project {
        x: input,
        x_stride: input_stride,
        y: if post_norm.is_some() { &scratch.projected } else { &scratch.x },
        y_stride: scratch.dim_stride,
        norm: None,
        width: dim,
        bias,
        epilogue: if post_norm.is_some() { Epilogue::Store } else { Epilogue::Add },
        halved: false,
        to_halves: false,
        rows,
        step_rows_at: 0,
    }
}
