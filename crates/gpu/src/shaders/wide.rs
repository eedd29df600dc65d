//! Many rows times a weight matrix, by 16x16 cooperative matrices: the kernel of prefill on devices that have them.
//!
//! A workgroup of [`SUBGROUPS`] subgroups computes [`TILE`] outputs for [`WideShape::batch_rows`] rows of the batch; of
//! [`TILE`] rows a subgroup has a quarter of the outputs and half of the rows, of [`FEW`] an eighth and all. A turn takes [`DEPTH`] values of depth: both factors go through workgroup
//! memory as f16, weights unpacked on the way. What the next turn needs is on its way from memory while a turn multiplies.
//! Results are stored whole matrices at a time, so the rows of y beyond the batch must exist, and outputs are a multiple of
//! [`TILE`].

use std::fmt::Write;

use tensor::Format;

use super::chunk::{Chunk, Fetched};
use super::fill;

/// Outputs and, at most, batch rows of a workgroup.
pub(crate) const TILE: usize = 128;

/// Batch rows of a workgroup in batched decode.
pub(crate) const FEW: usize = 32;

/// Values of a row in a turn: two units of weights. Activation rows are padded with zeros to a multiple.
const DEPTH: usize = 64;

/// Quads from line to line of a tile in workgroup memory: padded, so that lanes do not meet in a memory bank.
const LINE: usize = (DEPTH + 8) / 4;

const SUBGROUPS: u32 = 8;
const EDGE: usize = 16;

/// One variant of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WideShape {
    pub(crate) format: Format,
    /// y += instead of y =.
    pub(crate) add: bool,
    /// [`TILE`] or [`FEW`].
    pub(crate) batch_rows: usize,
    /// Parts of the depth, each summed by workgroups of its own into a plane of y: `[part][batch row][output]`.
    pub(crate) depths: usize,
    pub(crate) subgroup_size: u32,
}

/// Parameters as for [`super::matvec`], with the stride of x in halves. Bindings: 0 weights, 1 x (f16), 2 y.
pub(crate) fn wide(shape: &WideShape) -> String {
    let chunk = Chunk::new(shape.format);
    let unit = Fetched::of(shape.format);
    let threads = (SUBGROUPS * shape.subgroup_size) as usize;
    let (batch_step, output_step) = if shape.batch_rows == TILE { (64, 32) } else { (FEW, 16) };
    let across = TILE / output_step;
    let (rows, columns) = (batch_step / EDGE, output_step / EDGE);
    let (mut load, mut multiply, mut store) = (String::new(), String::new(), String::new());
    for r in 0..rows {
        for c in 0..columns {
            let _ = writeln!(load, "  let at{r}_{c} = y0 + {}u * p.y_stride + {}u;", r * EDGE, c * EDGE);
            let first = if shape.add {
                format!("coopLoadT<coop_mat16x16<f32, C>>(&y[at{r}_{c}], stride)")
            } else {
                "coop_mat16x16<f32, C>()".into()
            };
            let _ = writeln!(load, "  var c{r}_{c} = {first};");
            let _ = writeln!(store, "  coopStoreT(c{r}_{c}, &y[at{r}_{c}], stride);");
        }
    }
    for k in (0..DEPTH).step_by(EDGE) {
        for r in 0..rows {
            let _ = writeln!(
                multiply,
                "    let a{k}_{r} = coopLoadT<coop_mat16x16<f16, A>>(&xs[xs0 + {}u], {LINE}u);",
                r * EDGE * LINE + k / 4
            );
        }
        for c in 0..columns {
            let _ = writeln!(
                multiply,
                "    let b{k}_{c} = coopLoad<coop_mat16x16<f16, B>>(&ws[ws0 + {}u], {LINE}u);",
                c * EDGE * LINE + k / 4
            );
            for r in 0..rows {
                let _ = writeln!(multiply, "    c{r}_{c} = coopMultiplyAdd(a{k}_{r}, b{k}_{c}, c{r}_{c});");
            }
        }
    }
    let quads = shape.batch_rows * DEPTH / 4;
    let (mut fetch_x, mut keep_x, mut hold_x) = (String::new(), String::new(), String::new());
    for (k, first) in (0..quads).step_by(threads).enumerate() {
        let _ = writeln!(
            hold_x,
            "  let from{k} = (batch0 + (t + {first}u) / {d}u) * x_line + (t + {first}u) % {d}u;",
            d = DEPTH / 4
        );
        let _ = writeln!(hold_x, "  var v{k} = x[from{k} + min(first_turn, turns - 1u) * {d}u];", d = DEPTH / 4);
        let _ = writeln!(fetch_x, "    v{k} = x[from{k} + depth];");
        let _ = writeln!(
            keep_x,
            "    xs[((t + {first}u) / {d}u) * {LINE}u + (t + {first}u) % {d}u] = v{k};",
            d = DEPTH / 4
        );
    }
    // Units of weights: (line, one of two), an item a thread; with small subgroups several.
    let items = 2 * TILE / threads;
    let (mut hold_w, mut fetch_w, mut keep_w) = (String::new(), String::new(), String::new());
    for item in 0..items {
        let _ = writeln!(
            hold_w,
            "  let line{item} = (t + {}u) / 2u;
  let base{item} = $WEIGHTS_AT + min(output0 + line{item}, p.rows - 1u) * $STRIDE;",
            item * threads
        );
        hold_w.push_str(&unit.declare(item, "first"));
        fetch_w.push_str(&unit.fetch(item, "next"));
        let _ = writeln!(keep_w, "    {{\n      let to = line{item} * {LINE}u + (t % 2u) * 8u;");
        keep_w.push_str(&unit.unpack(item));
        for i in 0..8 {
            let _ = writeln!(keep_w, "      ws[to + {i}u] = vec4<f16>(w{i} * inside);");
        }
        keep_w.push_str("    }\n");
    }
    fill(
        "// wide $NAME x$BATCH
enable f16;
enable wgpu_cooperative_matrix;
struct Params {
  units: u32, row_words: u32, header_words: u32, rows: u32, first_output: u32,
  x_stride: u32, y_stride: u32, eps: f32, inverse_width: f32, up_offset: u32, step_rows_at: u32, weights_at: u32,
}
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> w: array<$WEIGHT>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
$FUNCTIONS
var<workgroup> ws: array<vec4<f16>, $TILE_QUADS>; // [output][depth, padded]
var<workgroup> xs: array<vec4<f16>, $BATCH_QUADS>; // [batch row][depth, padded]
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) sg: u32) {
  let output0 = wg.x * $TILEu;
  let batch0 = wg.y * $BATCHu;
  let stride = p.y_stride;
  let x_line = p.x_stride / 4u;
  let y0 = wg.z * $BATCHu * stride + (batch0 + (sg / $ACROSSu) * $BATCH_STEPu) * stride + p.first_output + output0 + (sg % $ACROSSu) * $OUTPUT_STEPu;
  let xs0 = (sg / $ACROSSu) * $BATCH_LINESu;
  let ws0 = (sg % $ACROSSu) * $OUTPUT_LINESu;
  let turns = (p.units + 1u) / 2u;
  let turns_a_part = (turns + $DEPTHSu - 1u) / $DEPTHSu;
  let first_turn = wg.z * turns_a_part;
  let end_turn = min(first_turn + turns_a_part, turns);
  let first = min(first_turn * 2u + t % 2u, p.units - 1u);
$HOLD_W$HOLD_X$LOAD
  for (var turn = first_turn; turn < end_turn; turn += 1u) {
    workgroupBarrier();
    // Behind the end of a row come zeros.
    let c = min(turn * 2u + t % 2u, p.units - 1u);
    let inside = select(0.0, 1.0, turn * 2u + t % 2u < p.units);
$KEEP_X$KEEP_W
    workgroupBarrier();
    let depth = min(turn + 1u, turns - 1u) * $DEPTH_QUADSu;
    let next = min(turn * 2u + 2u + t % 2u, p.units - 1u);
$FETCH_W$FETCH_X
$MULTIPLY
  }
$STORE
}
"
        .replace("$HOLD_W", &hold_w)
        .as_str(),
        &[
            ("WEIGHT", if chunk.vectors { "vec4<u32>".into() } else { "u32".into() }),
            ("FUNCTIONS", chunk.functions()),
            ("NAME", shape.format.name().into()),
            ("TILE_QUADS", (TILE * LINE).to_string()),
            ("BATCH_QUADS", (shape.batch_rows * LINE).to_string()),
            ("BATCH", shape.batch_rows.to_string()),
            ("ACROSS", across.to_string()),
            ("TILE", TILE.to_string()),
            ("OUTPUT_STEP", output_step.to_string()),
            ("BATCH_STEP", batch_step.to_string()),
            ("OUTPUT_LINES", (output_step * LINE).to_string()),
            ("BATCH_LINES", (batch_step * LINE).to_string()),
            ("THREADS", threads.to_string()),
            ("LOAD", load),
            ("DEPTHS", shape.depths.to_string()),
            ("DEPTH_QUADS", (DEPTH / 4).to_string()),
            ("WEIGHTS_AT", if chunk.vectors { "(p.weights_at >> 2u)".into() } else { "p.weights_at".into() }),
            ("STRIDE", if chunk.vectors { "(p.row_words >> 2u)".into() } else { "p.row_words".into() }),
            ("HOLD_X", hold_x),
            ("FETCH_X", fetch_x),
            ("FETCH_W", fetch_w),
            ("KEEP_X", keep_x),
            ("KEEP_W", keep_w),
            ("MULTIPLY", multiply),
            ("STORE", store),
        ],
    )
}
