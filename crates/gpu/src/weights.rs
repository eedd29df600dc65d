//! Weight matrices on the device.

use tensor::{BackendError, Format, TensorView};

use crate::device::Gpu;
use crate::layout::{RowLayout, UNIT, is_native};

/// Bytes that are laid out and handed to the driver at a time.
const UPLOAD_BYTES: usize = 8 << 20;

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
    pub(crate) buffer: wgpu::Buffer,
    /// Index of the first row in the matrix.
    pub(crate) first_row: usize,
    pub(crate) rows: usize,
}

impl GpuMatrix {
    /// Uploads `parts`, stacked by rows. A part above the binding limit becomes several segments.
    pub(crate) fn upload(gpu: &Gpu, parts: &[TensorView<'_>]) -> Result<GpuMatrix, BackendError> {
        let mut segments = Vec::new();
        let mut first_row = 0;
        for part in parts {
            let format = if is_native(part.format) { part.format } else { Format::F16 };
            let layout = RowLayout::new(format, part.cols);
            let rows_per_binding = gpu.max_binding_bytes() as usize / layout.stride_bytes;
            if rows_per_binding == 0 {
                return Err(BackendError::Unsupported {
                    device: gpu.summary().name.clone(),
                    what: format!("a matrix row of {} bytes", layout.stride_bytes),
                    limit: format!("a kernel can see {} bytes of a buffer", gpu.max_binding_bytes()),
                });
            }
            let mut row = 0;
            while row < part.rows {
                let rows = rows_per_binding.min(part.rows - row);
                let buffer = upload_rows(gpu, part, format, layout, row..row + rows)?;
                segments.push(Segment { format, layout, buffer, first_row: first_row + row, rows });
                row += rows;
            }
            first_row += part.rows;
        }
        let units = parts[0].cols.div_ceil(UNIT);
        Ok(GpuMatrix { segments, units })
    }
}

fn upload_rows(
    gpu: &Gpu,
    part: &TensorView<'_>,
    format: Format,
    layout: RowLayout,
    rows: std::ops::Range<usize>,
) -> Result<wgpu::Buffer, BackendError> {
    let buffer = gpu.allocate("weights", (rows.len() * layout.stride_bytes) as u64)?;
    let rows_per_chunk = (UPLOAD_BYTES / layout.stride_bytes).max(1);
    let mut chunk = Vec::new();
    let mut values = vec![0.0f32; if format == part.format { 0 } else { part.cols }];
    let mut converted = vec![0u8; 2 * values.len()];
    for first in rows.clone().step_by(rows_per_chunk) {
        let last = (first + rows_per_chunk).min(rows.end);
        chunk.clear();
        chunk.resize(((last - first) * layout.stride_bytes).next_multiple_of(4), 0);
        for (out, row) in chunk.chunks_exact_mut(layout.stride_bytes).zip(first..last) {
            if format == part.format {
                layout.fill(format, part.row(row), out);
            } else {
                part.dequantize_row(row, &mut values);
                for (bytes, value) in converted.chunks_exact_mut(2).zip(&values) {
                    bytes.copy_from_slice(&half::f16::from_f32(*value).to_le_bytes());
                }
                layout.fill(format, &converted, out);
            }
        }
        gpu.queue.write_buffer(&buffer, ((first - rows.start) * layout.stride_bytes) as u64, &chunk);
        // Without a submit the driver's staging copies of a whole model would pile up.
        gpu.queue.submit([]);
        let polled = gpu.device.poll(wgpu::PollType::Poll);
        polled.map_err(|e| BackendError::Device { device: gpu.summary().name.clone(), message: e.to_string() })?;
    }
    gpu.check()?;
    Ok(buffer)
}

/// A vector of f32, padded with zeros to whole units.
pub(crate) fn upload_vector(gpu: &Gpu, values: &[f32]) -> Result<wgpu::Buffer, BackendError> {
    let mut padded = values.to_vec();
    padded.resize(values.len().next_multiple_of(UNIT), 0.0);
    let buffer = gpu.allocate("vector", 4 * padded.len() as u64)?;
    gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&padded));
    Ok(buffer)
}
