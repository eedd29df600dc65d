//! Counts, on the device, what a mat-vec kernel reads of its weights: instrumented kernels note for every load of `w` who
//! reads it first, and whether another workgroup reads it again.

use tensor::Format;

use super::*;
use crate::device::{Gpu, GpuOptions};
use crate::layout::{RowLayout, is_native};
use crate::memory::Slice;
use crate::plan::{Dispatch, Plan, read_back};

/// Most bytes that workgroups may read together, by those of the weights.
const MOST: f64 = 1.05;

const ROWS: usize = 64;
const COLS: usize = 2048;

/// A kernel of decode.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Matvec { staged: bool },
    Dots,
    Single,
}

#[test]
fn workgroups_read_each_weight_once() {
    if crate::list_adapters().is_empty() {
        println!("skipped: bytes read by mat-vec kernels: no GPU adapter");
        return;
    }
    let gpu = Gpu::open(GpuOptions::default()).expect("an adapter is listed");
    let subgroups = gpu.subgroup_size > 1;
    for format in Format::ALL.into_iter().filter(|format| is_native(*format)) {
        let plain = [(1, subgroups), (1, false), (4, false), (8, false)]
            .map(|(batch_rows, staged)| (batch_rows, Kind::Matvec { staged }));
        let dots = [(1, Kind::Single), (1, Kind::Dots), (8, Kind::Dots)];
        let dots = dots.into_iter().filter(|_| subgroups && has_dots(format));
        for (batch_rows, kind) in plain.into_iter().chain(dots) {
            let share = bytes_read(&gpu, format, batch_rows, kind)
                / (format.row_bytes(COLS).expect("whole blocks") * ROWS) as f64;
            let name = format!("{} x{batch_rows} {kind:?}", format.name());
            println!("{name}: {share:.3} of the file's bytes");
            assert!(share > 0.95, "{name}: a part of the weights was not read");
            assert!(share <= MOST, "{name}: {share:.3} times the bytes of the weights");
        }
    }
}

/// Bytes that the workgroups read, each its own once.
fn bytes_read(gpu: &Gpu, format: Format, batch_rows: u32, kind: Kind) -> f64 {
    let layout = RowLayout::new(format, COLS);
    let units = COLS / 32;
    let (source, outputs, x_stride) = match kind {
        Kind::Matvec { staged } => {
            let shape = matvec_shape(gpu, format, batch_rows, staged);
            let source = instrumented(&matvec(&shape), "wg.x + wg.z * grid.x");
            (source, shape.weight_rows * shape.groups, COLS / 4)
        }
        Kind::Dots => {
            let shape = dots_shape(gpu, format, batch_rows);
            let source = instrumented(&dots(&shape), "wg.y + wg.z * grid.y");
            (source, shape.weight_rows * shape.groups, byte_row_quads(units, gpu.subgroup_size))
        }
        Kind::Single => {
            let shape = single_shape(gpu, format);
            // Two turns, the second not of all.
            (instrumented(&single(&shape), "wg.x"), 3 * shape.rows(0) * shape.groups / 2, COLS / 4)
        }
    };
    let item_bytes = if source.contains("w: array<vec4<u32>>") { 16 } else { 4 };
    let bytes = (layout.stride_bytes * ROWS) as u64;
    let items = bytes / item_bytes;
    let allocate = |bytes: u64| gpu.heap.allocate("counting", bytes).expect("it is small");
    let (weights, x, y) =
        (allocate(bytes), allocate((16 * x_stride.max(COLS) * 8) as u64), allocate((4 * ROWS * 8) as u64));
    let (step, marks) = (allocate(16), allocate(4 * (items + 1)));
    gpu.queue.write_buffer(&step.raw, 0, bytemuck::cast_slice(&[batch_rows, batch_rows, 0, 0]));
    let workgroups = (ROWS as u32).div_ceil(outputs);
    let (row_words, header_words) = ((layout.stride_bytes / 4) as u32, (layout.header_bytes / 4) as u32);
    let params = match kind {
        Kind::Single => [0, 0, 0, row_words, header_words, ROWS as u32, 0, 0, 0, 0, 0, 0],
        _ => [units as u32, row_words, header_words, ROWS as u32, 0, x_stride as u32, ROWS as u32, 0, 0, 0, 0, 0],
    };
    let kernel = gpu.kernels.get(gpu, source).expect("it compiles");
    let mut buffers: Vec<(u32, &Slice)> = vec![(0, &weights), (1, &x), (2, &y), (3, &step), (9, &marks)];
    let grid = match kind {
        Kind::Matvec { .. } | Kind::Single => [workgroups, 1, 1],
        Kind::Dots => [1, workgroups, 1],
    };
    match kind {
        Kind::Dots => buffers.push((4, &x)),
        Kind::Single => buffers.retain(|(binding, _)| *binding != 3),
        Kind::Matvec { .. } => {}
    }
    let mut plan = Plan::default();
    plan.dispatches.push(Dispatch::new(gpu, kernel, &buffers, &params, grid, 0));
    let mut encoder = gpu.encoder();
    plan.replay(&mut encoder);
    let marks = read_back(gpu, encoder, &marks.raw, 4 * (items + 1)).expect("it runs");
    let marks: Vec<u32> = bytemuck::pod_collect_to_vec(&marks);
    let (again, first) = (marks[0], marks[1..].iter().filter(|&&owner| owner != 0).count());
    (first as u64 + u64::from(again)) as f64 * item_bytes as f64
}

fn matvec_shape(gpu: &Gpu, format: Format, batch_rows: u32, staged: bool) -> MatvecShape {
    let subgroups = gpu.subgroup_size > 1;
    MatvecShape {
        format,
        batch_rows,
        weight_rows: 2,
        norm: false,
        bias: false,
        epilogue: Epilogue::Store,
        lanes: if subgroups { gpu.subgroup_size } else { 32 },
        groups: if subgroups { 4 } else { 1 },
        subgroups,
        staged,
    }
}

fn dots_shape(gpu: &Gpu, format: Format, batch_rows: u32) -> DotsShape {
    DotsShape {
        format,
        batch_rows,
        weight_rows: 2,
        bias: false,
        epilogue: Epilogue::Store,
        lanes: gpu.subgroup_size,
        groups: 4,
    }
}

fn single_shape(gpu: &Gpu, format: Format) -> SingleShape {
    SingleShape {
        formats: vec![format],
        units: COLS / 32,
        outputs: 2,
        ahead: true,
        norm: false,
        bias: false,
        epilogue: Epilogue::Store,
        lanes: gpu.subgroup_size,
        groups: 4,
    }
}

/// The kernel with every `w[index]` as `w[note(index)]`, where `me` is the number of the workgroup.
fn instrumented(source: &str, me: &str) -> String {
    let mut text = String::new();
    let mut rest = source;
    while let Some(at) = rest.find("w[") {
        let (before, after) = rest.split_at(at);
        text.push_str(before);
        rest = &after[2..];
        let in_a_name = before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
        if in_a_name {
            text.push_str("w[");
            continue;
        }
        let mut depth = 1;
        let end = rest.find(|c| {
            depth += i32::from(c == '[') - i32::from(c == ']');
            depth == 0
        });
        let end = end.expect("brackets match");
        text.push_str(&format!("w[note({})]", &rest[..end]));
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    let note = "@group(0) @binding(9) var<storage, read_write> marks: array<atomic<u32>>;
var<private> me: u32;
fn note(at: u32) -> u32 {
  let owner = atomicCompareExchangeWeak(&marks[at + 1u], 0u, me).old_value;
  if (owner != 0u && owner != me) { atomicAdd(&marks[0], 1u); }
  return at;
}
";
    let (name, body) = text.split_once('\n').expect("the name is a line");
    let body = body.replacen("  let group = ", &format!("  me = {me} + 1u;\n  let group = "), 1);
    format!("// counting {}\n{note}{body}", name.trim_start_matches("// "))
}
