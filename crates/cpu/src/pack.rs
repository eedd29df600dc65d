//! Weight matrices in the order in which the kernels read them.
//!
//! A matrix is a sequence of *panels* of [`PackedMatrix::panel_rows`] rows. A panel holds its rows' blocks side by side, so
//! that a vector register gets the same values of all rows, and takes as many bytes as the file's blocks do. Rows that pad
//! a part's last panel give zeros.
//!
//! Start with [`PackedMatrix::pack`] and [`PackedMatrix::multiply`]. The layout of a panel and the arithmetic belong to the
//! format's file in [`crate::matmul`].

use std::ops::Range;

use tensor::{Format, TensorView};

use crate::activation::{Activations, Form, Forms};
use crate::matmul::{self, Kernel, SweepArgs, TileArgs};
use crate::memory::{HugeBuf, OutOfMemory};
use crate::pool::{Chunks, RegionPanic};
use crate::{Isa, Pool};

/// Panels of this many bytes together stay in a core's second-level cache while every tile of activations passes them.
const CACHED_BYTES: usize = 384 << 10;

/// Of a part that has been packed, so many bytes are told of at a time.
const TOLD_BYTES: usize = 1 << 20;

/// How parts become one matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stacking {
    /// The panels of the first part, of the second, ... (q, k, v).
    Concatenated,
    /// Parts take turns panel by panel: g0, u0, g1, u1, ... (gate, up). They have equally many rows.
    Interleaved,
}

/// Why a matrix could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Parts of a stack have different columns, or different rows where they are interleaved.
    #[error("a stack of {first_rows} x {first_cols} and {rows} x {cols} values")]
    Shape {
        /// Rows of the first part.
        first_rows: usize,
        /// Columns of the first part.
        first_cols: usize,
        /// Rows of the part that does not fit to it.
        rows: usize,
        /// Its columns.
        cols: usize,
    },
    /// Memory could not be had.
    #[error(transparent)]
    Memory(#[from] OutOfMemory),
    /// A thread panicked while it packed.
    #[error(transparent)]
    Panic(#[from] RegionPanic),
}

/// A matrix of weights, packed for one instruction set.
#[derive(Debug)]
pub struct PackedMatrix {
    data: HugeBuf,
    parts: Vec<Part>,
    runs: Vec<Run>,
    stacking: Stacking,
    rows: usize,
    cols: usize,
    panels: usize,
    panel_rows: usize,
    forms: Forms,
}

#[derive(Debug)]
struct Part {
    rows: usize,
    panels: usize,
}

/// Adjacent panels of one format.
#[derive(Debug)]
struct Run {
    first_panel: usize,
    panels: usize,
    first_byte: usize,
    panel_bytes: usize,
    format: Format,
    kernel: Kernel,
    ahead_bytes: usize,
}

impl PackedMatrix {
    /// Packs `parts` (one, or several to be multiplied by the same activations) for `isa`, on the threads of `pool`.
    ///
    /// # Errors
    /// When the parts' shapes do not fit together, and when there is not enough memory.
    ///
    /// # Panics
    /// When there is no part, or this machine does not have `isa`.
    pub fn pack(
        parts: &[TensorView<'_>],
        stacking: Stacking,
        isa: Isa,
        pool: &Pool,
    ) -> Result<PackedMatrix, PackError> {
        PackedMatrix::pack_and_tell(parts, stacking, isa, pool, &|_| {})
    }

    /// [`PackedMatrix::pack`], which tells `packed` of the parts' bytes that have been packed and will hardly be looked at
    /// again, for their memory to be given back before all of the matrix is there. What remains at the end is not told.
    pub(crate) fn pack_and_tell(
        parts: &[TensorView<'_>],
        stacking: Stacking,
        isa: Isa,
        pool: &Pool,
        packed: &(dyn Fn(&[u8]) + Sync),
    ) -> Result<PackedMatrix, PackError> {
        assert!(isa.is_available(), "{isa} on a machine without it");
        let first = parts.first().expect("a matrix has a part");
        for part in parts {
            if part.cols != first.cols || (stacking == Stacking::Interleaved && part.rows != first.rows) {
                let (first_rows, first_cols) = (first.rows, first.cols);
                return Err(PackError::Shape { first_rows, first_cols, rows: part.rows, cols: part.cols });
            }
        }
        let panel_rows = matmul::panel_rows(isa);
        let kernels: Vec<Kernel> = parts.iter().map(|part| matmul::kernel(part.format, isa)).collect();
        let sources = panel_sources(parts, stacking, panel_rows);
        let runs = runs(&sources, parts, &kernels, isa);
        let len_bytes = runs.last().map_or(0, |run| run.first_byte + run.panels * run.panel_bytes);
        let mut data = pool.arena().alloc(len_bytes)?;
        let mut idle = vec![(); pool.threads()];
        for run in &runs {
            let bytes = &mut data[run.first_byte..run.first_byte + run.panels * run.panel_bytes];
            pool.for_each_part(&mut idle, Chunks::new(bytes, run.panel_bytes), |(), panel, bytes| {
                let (part, panel) = sources[run.first_panel + panel];
                let part = &parts[part];
                let rows = panel * panel_rows..part.rows.min((panel + 1) * panel_rows);
                let rows: Vec<&[u8]> = rows.map(|row| part.row(row)).collect();
                (run.kernel.pack)(&rows, bytes);
                let panel_bytes = part.data.len() / part.rows.max(1) * panel_rows;
                let told_panels = (TOLD_BYTES / panel_bytes.max(1)).max(1);
                if (panel + 1).is_multiple_of(told_panels) {
                    // Threads pack adjacent panels, so nearly all of these are this thread's.
                    let end = part.data.len().min((panel + 1) * panel_bytes);
                    packed(&part.data[(panel + 1 - told_panels) * panel_bytes..end]);
                }
            })?;
        }
        Ok(PackedMatrix {
            data,
            stacking,
            rows: parts.iter().map(|part| part.rows).sum(),
            cols: first.cols,
            panels: sources.len(),
            panel_rows,
            forms: kernels.iter().fold(Forms::NONE, |forms, kernel| forms.with(kernel.form)),
            parts: parts.iter().map(|part| Part { rows: part.rows, panels: part.rows.div_ceil(panel_rows) }).collect(),
            runs,
        })
    }

    /// Bytes that [`PackedMatrix::pack`] would take for parts of these formats and rows, and the forms of activations that
    /// the matrix would need.
    pub fn predict(parts: &[(Format, usize)], cols: usize, isa: Isa) -> (usize, Forms) {
        let (mut len_bytes, mut forms) = (0, Forms::NONE);
        for &(format, rows) in parts {
            let kernel = matmul::kernel(format, isa);
            len_bytes += rows.div_ceil(matmul::panel_rows(isa)) * (kernel.panel_bytes)(cols);
            forms = forms.with(kernel.form);
        }
        (len_bytes, forms)
    }

    /// Panels.
    pub fn panels(&self) -> usize {
        self.panels
    }

    /// Rows of a panel.
    pub fn panel_rows(&self) -> usize {
        self.panel_rows
    }

    /// Rows of all parts, without those that pad panels.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values in a row.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes of memory, all of which a multiplication reads.
    pub fn size_bytes(&self) -> usize {
        self.data.len()
    }

    /// The forms of activations that [`PackedMatrix::multiply`] needs.
    pub fn forms(&self) -> Forms {
        self.forms
    }

    /// The panel that holds a row of part `part`, and the row's place in it.
    ///
    /// # Panics
    /// When there is no such part.
    pub fn place_of(&self, part: usize, row: usize) -> (usize, usize) {
        let panel = row / self.panel_rows;
        let panel = match self.stacking {
            Stacking::Concatenated => self.parts[..part].iter().map(|part| part.panels).sum::<usize>() + panel,
            Stacking::Interleaved => panel * self.parts.len() + part,
        };
        (panel, row % self.panel_rows)
    }

    /// Multiplies a range of panels by all rows of `activations`. `out` is `[panel of the range][row of activations][row of
    /// the panel]`; all of it is written.
    ///
    /// # Panics
    /// When the activations have other columns or not the right form, `out` has another size, or there are no such panels.
    pub fn multiply(&self, panels: Range<usize>, activations: &Activations, out: &mut [f32]) {
        let panel_stride = activations.rows() * self.panel_rows;
        assert_eq!(activations.cols(), self.cols, "columns of activations and weights");
        assert_eq!(out.len(), panels.len() * panel_stride, "room for {panels:?} of products");
        let mut out = out;
        let mut next = panels.start;
        while next < panels.end {
            let run = self.run_of(next);
            let group = match activations.layout().tiles() {
                0..2 => panels.end,
                tiles if run.kernel.sweep_of(tiles).is_some() => panels.end,
                _ => (CACHED_BYTES / run.panel_bytes.max(1)).max(2),
            };
            let end = panels.end.min(run.first_panel + run.panels).min(next.saturating_add(group));
            let (group_out, rest) = out.split_at_mut((end - next) * panel_stride);
            self.multiply_group(run, next..end, activations, group_out);
            (out, next) = (rest, end);
        }
    }

    /// Multiplies panels of one run, which fit into the cache if they are multiplied tile by tile, and by several.
    fn multiply_group(&self, run: &Run, panels: Range<usize>, activations: &Activations, out: &mut [f32]) {
        let panel_stride = activations.rows() * self.panel_rows;
        let layout = activations.layout();
        let (panel_bytes, ahead_bytes) = (run.panel_bytes, run.ahead_bytes);
        let bytes = |panels: Range<usize>| {
            let first = run.first_byte + (panels.start - run.first_panel) * panel_bytes;
            &self.data[first..first + panels.len() * panel_bytes]
        };
        if let Some(sweep) = run.kernel.sweep_of(layout.tiles()) {
            // SAFETY: `pack` found the instruction set available.
            unsafe { sweep(SweepArgs { weights: bytes(panels), panel_bytes, activations, out, ahead_bytes }) };
            return;
        }
        for tile in 0..layout.tiles() {
            let rows = layout.rows_of_tile(tile);
            // The first tile waits for memory, which gives one ascending stream faster than two. Not so where
            // activations are f32: the sums of one panel wait for each other longer than that.
            let is_streamed = tile == 0 && run.kernel.form != Form::F32;
            let mut panel = panels.start;
            while panel < panels.end {
                let at_once = if is_streamed { 1 } else { panels.end - panel };
                let (multiply, count) = run.kernel.of_tile(rows.len(), at_once);
                let out = &mut out[(panel - panels.start) * panel_stride..][..count * panel_stride];
                let args = TileArgs {
                    weights: bytes(panel..panel + count),
                    activations: activations.tile_words(tile, run.kernel.form),
                    out: &mut out[rows.start * self.panel_rows..],
                    panel_stride,
                    ahead_bytes,
                };
                // SAFETY: `pack` found the instruction set available.
                unsafe { multiply(args) };
                panel += count;
            }
        }
    }

    /// A row as f32. Rows count through the parts in their order, however they are stacked.
    ///
    /// # Panics
    /// When there is no such row, or `out` is not as long as one.
    pub fn dequantize_row(&self, row: usize, out: &mut [f32]) {
        assert_eq!(out.len(), self.cols, "room for a row");
        let (mut part, mut row) = (0, row);
        while row >= self.parts[part].rows {
            row -= self.parts[part].rows;
            part += 1;
        }
        let (panel, row) = self.place_of(part, row);
        let run = self.run_of(panel);
        let first_byte = run.first_byte + (panel - run.first_panel) * run.panel_bytes;
        (run.kernel.unpack)(&self.data[first_byte..first_byte + run.panel_bytes], row, out);
    }

    fn run_of(&self, panel: usize) -> &Run {
        let after = self.runs.partition_point(|run| run.first_panel <= panel);
        &self.runs[after - 1]
    }
}

/// Of each panel of the matrix, which panel of which part it is.
fn panel_sources(parts: &[TensorView<'_>], stacking: Stacking, panel_rows: usize) -> Vec<(usize, usize)> {
    let panels_of = |part: usize| parts[part].rows.div_ceil(panel_rows);
    match stacking {
        Stacking::Concatenated => {
            (0..parts.len()).flat_map(|part| (0..panels_of(part)).map(move |panel| (part, panel))).collect()
        }
        Stacking::Interleaved => {
            (0..panels_of(0)).flat_map(|panel| (0..parts.len()).map(move |part| (part, panel))).collect()
        }
    }
}

fn runs(sources: &[(usize, usize)], parts: &[TensorView<'_>], kernels: &[Kernel], isa: Isa) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut first_byte = 0;
    for (first_panel, &(part, _)) in sources.iter().enumerate() {
        let TensorView { format, cols, .. } = parts[part];
        let kernel = kernels[part];
        let panel_bytes = (kernel.panel_bytes)(cols);
        match runs.last_mut() {
            Some(run) if run.format == format => run.panels += 1,
            _ => {
                let ahead_bytes = matmul::ahead_bytes(format, isa);
                runs.push(Run { first_panel, panels: 1, first_byte, panel_bytes, format, kernel, ahead_bytes });
            }
        }
        first_byte += panel_bytes;
    }
    runs
}
