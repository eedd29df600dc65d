//! Weight matrices on the device.

use tensor::{BackendError, Format, TensorView};

use crate::device::Gpu;
use crate::in_place::InPlace;
use crate::layout::{RowLayout, UNIT, is_as_in_file, is_native};
use crate::memory::Buffer;
use crate::upload::SLOT_BYTES;

/// A matrix: rows of one or several formats, in one or several buffers.
pub struct GpuMatrix {
    pub(crate) segments: Vec<Segment>,
    /// Units of 32 weights in a row.
    pub(crate) units: usize,
}

/// Consecutive rows of one format in one buffer.
pub(crate) struct Segment {
    pub(crate) format: Format,
    pub(crate) layout: RowLayout,
    pub(crate) buffer: Buffer,
    /// Word of the buffer at which the first row begins, a multiple of 4.
    pub(crate) weights_at: u32,
    /// Index of the first row in the matrix.
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
}

impl Segment {
    /// Bytes of its rows.
    pub(crate) fn bytes(&self) -> usize {
        self.rows * self.layout.stride_bytes
    }
}

impl GpuMatrix {
    /// Uploads `parts`, stacked by rows. Neighbours of one format share a buffer, so that one dispatch multiplies them;
    /// what exceeds the binding limit becomes several segments.
    pub(crate) fn upload(gpu: &Gpu, parts: &[TensorView<'_>]) -> Result<GpuMatrix, BackendError> {
        GpuMatrix::prepare(gpu, &InPlace::default(), parts)
    }

    /// The same, but for what can be used where its file is mapped.
    pub(crate) fn prepare(gpu: &Gpu, files: &InPlace, parts: &[TensorView<'_>]) -> Result<GpuMatrix, BackendError> {
        if let [part] = parts
            && let Some(segment) = segment_in_place(files, part)
        {
            return Ok(GpuMatrix { segments: vec![segment], units: part.cols.div_ceil(UNIT) });
        }
        let mut segments = Vec::new();
        let mut first_row = 0;
        for run in parts.chunk_by(|a, b| device_format(a.format) == device_format(b.format)) {
            let format = device_format(run[0].format);
            let layout = RowLayout::new(format, run[0].cols);
            let rows_per_binding = gpu.max_binding_bytes() as usize / layout.stride_bytes;
            if rows_per_binding == 0 {
                return Err(BackendError::Unsupported {
                    device: gpu.summary().name.clone(),
                    what: format!("a matrix row of {} bytes", layout.stride_bytes),
                    limit: format!("a kernel can see {} bytes of a buffer", gpu.max_binding_bytes()),
                });
            }
            let run_rows: usize = run.iter().map(|part| part.rows).sum();
            for row in (0..run_rows).step_by(rows_per_binding) {
                let rows = rows_per_binding.min(run_rows - row);
                let buffer = upload_rows(gpu, run, format, layout, row..row + rows)?;
                segments.push(Segment { format, layout, buffer, weights_at: 0, first_row: first_row + row, rows });
            }
            first_row += run_rows;
        }
        let units = parts[0].cols.div_ceil(UNIT);
        Ok(GpuMatrix { segments, units })
    }
}

/// The matrix where it lies, if the kernels can read it there.
fn segment_in_place(files: &InPlace, part: &TensorView<'_>) -> Option<Segment> {
    let place = files.find(part.data).filter(|_| is_as_in_file(part.format, part.cols))?;
    Some(Segment {
        format: part.format,
        layout: RowLayout::new(part.format, part.cols),
        buffer: Buffer::borrowed(place.buffer),
        // Kernels count in words, and read 16 bytes at a time.
        weights_at: u32::try_from(place.offset_bytes / 4).ok().filter(|_| place.offset_bytes.is_multiple_of(16))?,
        first_row: 0,
        rows: part.rows,
    })
}

/// What a format becomes on the device: itself where kernels read it, else halves.
pub(crate) fn device_format(format: Format) -> Format {
    if is_native(format) { format } else { Format::F16 }
}

/// Uploads `rows` of the stacked `parts` into a buffer of their own.
fn upload_rows(
    gpu: &Gpu,
    parts: &[TensorView<'_>],
    format: Format,
    layout: RowLayout,
    rows: std::ops::Range<usize>,
) -> Result<Buffer, BackendError> {
    let buffer = gpu.heap.allocate_constant("weights", (rows.len() * layout.stride_bytes) as u64)?;
    let rows_per_chunk = (SLOT_BYTES / layout.stride_bytes).max(1);
    let mut chunk = Vec::new();
    let mut convert = Convert::default();
    for first in rows.clone().step_by(rows_per_chunk) {
        let last = (first + rows_per_chunk).min(rows.end);
        chunk.clear();
        chunk.resize((last - first) * layout.stride_bytes, 0);
        for (out, row) in chunk.chunks_exact_mut(layout.stride_bytes).zip(first..last) {
            let (part, row) = find_row(parts, row);
            layout.fill(format, convert.row(part, row, format), out);
        }
        let mut at = ((first - rows.start) * layout.stride_bytes) as u64;
        for part in chunk.chunks(SLOT_BYTES) {
            gpu.uploads.write(gpu, &buffer, at, part)?;
            at += part.len() as u64;
        }
    }
    Ok(buffer)
}

/// Row `row` of the stacked `parts`: its part, and its index there.
fn find_row<'a, 'b>(parts: &'b [TensorView<'a>], mut row: usize) -> (&'b TensorView<'a>, usize) {
    for part in parts {
        if row < part.rows {
            return (part, row);
        }
        row -= part.rows;
    }
    unreachable!("rows are counted over the same parts")
}

/// Rows in the device's format.
#[derive(Default)]
struct Convert {
    values: Vec<f32>,
    halves: Vec<u8>,
}

impl Convert {
    fn row<'a>(&'a mut self, part: &TensorView<'a>, row: usize, format: Format) -> &'a [u8] {
        if format == part.format {
            return part.row(row);
        }
        self.values.resize(part.cols, 0.0);
        part.dequantize_row(row, &mut self.values);
        self.halves.clear();
        self.halves.extend(self.values.iter().flat_map(|value| half::f16::from_f32(*value).to_le_bytes()));
        &self.halves
    }
}

/// A vector of f32, padded with zeros to whole units.
pub(crate) fn upload_vector(gpu: &Gpu, values: &[f32]) -> Result<Buffer, BackendError> {
    let mut padded = values.to_vec();
    padded.resize(values.len().next_multiple_of(UNIT), 0.0);
    let buffer = gpu.heap.allocate_constant("vector", 4 * padded.len() as u64)?;
    gpu.queue.write_buffer(&buffer.raw, buffer.offset, bytemuck::cast_slice(&padded));
    Ok(buffer)
}
