//! Many rows times a weight matrix, by 16x16 cooperative matrices: the kernel of prefill on devices that have them.
//!
//! A workgroup computes [`WideShape::outputs`] outputs for [`WideShape::batch_rows`] rows of the batch; a subgroup has 32 outputs
//! of 64 rows, or of [`FEW`] rows 16 outputs of all. A turn takes [`WideShape::depth`] values of depth: both factors go through workgroup
//! memory as f16, weights unpacked on the way, or before by [`super::unpack`], where many rows make up for it. What the next turn
//! needs is on its way from memory while a turn multiplies.
//! Results are stored whole matrices at a time, so the rows of y beyond the batch must exist, and outputs are a multiple of
//! [`TILE`].

use std::fmt::Write;

use tensor::Format;

use super::chunk::{Chunk, Fetched};
use super::fill;
use crate::layout::UNIT;

/// Outputs and batch rows are padded to multiples of this.
pub(crate) const TILE: usize = 128;

/// Batch rows of a workgroup in batched decode.
pub(crate) const FEW: usize = 32;

/// What weights that are unpacked on the way come in: [`TILE`] outputs, two units of each a turn.
pub(crate) const PACKED_TILE: WideTile = WideTile { batch_rows: TILE, outputs: TILE, depth: 64 };

const EDGE: usize = 16;

/// What a workgroup computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WideTile {
    /// A multiple of 64, or [`FEW`].
    pub batch_rows: usize,
    /// A multiple of 32 that divides [`TILE`].
    pub outputs: usize,
    /// Values of a row in a turn, 32 or 64: activation rows are padded with zeros to a multiple.
    pub depth: usize,
}

/// One variant of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WideShape {
    pub(crate) format: Format,
    /// y += instead of y =.
    pub(crate) add: bool,
    /// [`PACKED_TILE`], but for f16, or of [`FEW`] rows.
    pub(crate) tile: WideTile,
    /// The last turn has half of its depth only.
    pub(crate) ragged: bool,
    /// Parts of the depth, each summed by workgroups of its own into a plane of y: `[part][batch row][output]`.
    pub(crate) depths: usize,
    pub(crate) subgroup_size: u32,
}

/// Parameters as for [`super::matvec`], with the stride of x in halves. Bindings: 0 weights, 1 x (f16), 2 y.
pub(crate) fn wide(shape: &WideShape) -> String {
    let chunk = Chunk::new(shape.format);
    let unit = Fetched::of(shape.format);
    let halves = shape.format == Format::F16;
    let WideTile { batch_rows, outputs, depth } = shape.tile;
    let (batch_step, output_step) = if batch_rows == FEW { (FEW, 16) } else { (64, 32) };
    let across = outputs / output_step;
    let threads = batch_rows / batch_step * across * shape.subgroup_size as usize;
    let line = line_quads(depth);
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
    for k in (0..depth).step_by(EDGE) {
        for r in 0..rows {
            let _ = writeln!(
                multiply,
                "    let a{k}_{r} = coopLoadT<coop_mat16x16<f16, A>>(&xs[xs0 + {}u], {line}u);",
                r * EDGE * line + k / 4
            );
        }
        for c in 0..columns {
            let _ = writeln!(
                multiply,
                "    let b{k}_{c} = coopLoad<coop_mat16x16<f16, B>>(&ws[ws0 + {}u], {line}u);",
                c * EDGE * line + k / 4
            );
            for r in 0..rows {
                let _ = writeln!(multiply, "    c{r}_{c} = coopMultiplyAdd(a{k}_{r}, b{k}_{c}, c{r}_{c});");
            }
        }
    }
    let quads = batch_rows * depth / 4;
    let (mut fetch_x, mut keep_x, mut hold_x) = (String::new(), String::new(), String::new());
    for (k, first) in (0..quads).step_by(threads).enumerate() {
        let _ = writeln!(
            hold_x,
            "  let from{k} = (batch0 + (t + {first}u) / {d}u) * x_line + (t + {first}u) % {d}u;",
            d = depth / 4
        );
        let _ = writeln!(hold_x, "  var v{k} = x[from{k} + min(first_turn, turns - 1u) * {d}u];", d = depth / 4);
        let _ = writeln!(fetch_x, "    v{k} = x[from{k} + depth];");
        let _ = writeln!(
            keep_x,
            "    xs[((t + {first}u) / {d}u) * {line}u + (t + {first}u) % {d}u] = v{k};",
            d = depth / 4
        );
    }
    let (hold_w, fetch_w, keep_w) = if halves { half_weights(shape, threads) } else { weights(shape, &unit, threads) };
    // From words to what weights are bound as.
    let shift = if halves { 1 } else { 2 * u32::from(chunk.vectors) };
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
  // Neighbours share weights.
  let output0 = wg.y * $TILEu;
  let batch0 = wg.x * $BATCHu;
  let stride = p.y_stride;
  let x_line = p.x_stride / 4u;
  let y0 = wg.z * $BATCHu * stride + (batch0 + (sg / $ACROSSu) * $BATCH_STEPu) * stride + p.first_output + output0 + (sg % $ACROSSu) * $OUTPUT_STEPu;
  let xs0 = (sg / $ACROSSu) * $BATCH_LINESu;
  let ws0 = (sg % $ACROSSu) * $OUTPUT_LINESu;
  let turns = (p.units + $UNITSu - 1u) / $UNITSu;
  let turns_a_part = (turns + $DEPTHSu - 1u) / $DEPTHSu;
  let first_turn = wg.z * turns_a_part;
  let end_turn = min(first_turn + turns_a_part, turns);
  let first = min(first_turn * $UNITSu + t % $UNITSu, p.units - 1u);
$HOLD_W$HOLD_X$LOAD
  for (var turn = first_turn; turn < end_turn; turn += 1u) {
    workgroupBarrier();
    let c = min(turn * $UNITSu + t % $UNITSu, p.units - 1u);
$KEEP_X$KEEP_W
    workgroupBarrier();
    let depth = min(turn + 1u, turns - 1u) * $DEPTH_QUADSu;
    let next = min((turn + 1u) * $UNITSu + t % $UNITSu, p.units - 1u);
$FETCH_W$FETCH_X
$MULTIPLY
  }
$STORE
}
"
        .replace("$HOLD_W", &hold_w)
        .as_str(),
        &[
            (
                "WEIGHT",
                match (halves, chunk.vectors) {
                    (true, _) => "vec4<f16>".into(),
                    (_, true) => "vec4<u32>".into(),
                    _ => "u32".into(),
                },
            ),
            ("FUNCTIONS", if halves { String::new() } else { chunk.functions() }),
            ("NAME", shape.format.name().into()),
            ("TILE_QUADS", (outputs * line).to_string()),
            ("BATCH_QUADS", (batch_rows * line).to_string()),
            ("BATCH", batch_rows.to_string()),
            ("ACROSS", across.to_string()),
            ("TILE", outputs.to_string()),
            ("OUTPUT_STEP", output_step.to_string()),
            ("BATCH_STEP", batch_step.to_string()),
            ("OUTPUT_LINES", (output_step * line).to_string()),
            ("BATCH_LINES", (batch_step * line).to_string()),
            ("THREADS", threads.to_string()),
            ("LOAD", load),
            ("DEPTHS", shape.depths.to_string()),
            ("DEPTH_QUADS", (depth / 4).to_string()),
            ("UNITS", (depth / UNIT).to_string()),
            ("WEIGHTS_AT", format!("(p.weights_at >> {shift}u)")),
            ("STRIDE", format!("(p.row_words >> {shift}u)")),
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

/// Quads from line to line of a tile in workgroup memory: padded, so that lanes do not meet in a memory bank.
fn line_quads(depth: usize) -> usize {
    (depth + 8) / 4
}

/// How a thread comes to its weights of the first turn, to those of the next, and how they come to workgroup memory: units of
/// them, (line, one of two), an item a thread; with small subgroups several.
fn weights(shape: &WideShape, unit: &Fetched, threads: usize) -> (String, String, String) {
    let (mut hold, mut fetch, mut keep) = (String::new(), String::new(), String::new());
    // Behind the end of a row come zeros.
    let inside = match shape.ragged {
        true => " * select(0.0, 1.0, turn * 2u + t % 2u < p.units)",
        false => "",
    };
    let line_quads = line_quads(shape.tile.depth);
    for item in 0..2 * TILE / threads {
        let _ = writeln!(
            hold,
            "  let line{item} = (t + {}u) / 2u;
  let base{item} = $WEIGHTS_AT + min(output0 + line{item}, p.rows - 1u) * $STRIDE;",
            item * threads
        );
        hold.push_str(&unit.declare(item, "first"));
        fetch.push_str(&unit.fetch(item, "next"));
        let _ = writeln!(keep, "    {{\n      let to = line{item} * {line_quads}u + (t % 2u) * 8u;");
        keep.push_str(&unit.unpack(item));
        for i in 0..8 {
            let _ = writeln!(keep, "      ws[to + {i}u] = vec4<f16>(w{i}{inside});");
        }
        keep.push_str("    }\n");
    }
    (hold, fetch, keep)
}

/// The same for weights that are f16 already: neighbouring threads take neighbouring quads.
fn half_weights(shape: &WideShape, threads: usize) -> (String, String, String) {
    let (mut hold, mut fetch, mut keep) = (String::new(), String::new(), String::new());
    let WideTile { outputs, depth, .. } = shape.tile;
    let (quads, line) = (depth / 4, line_quads(depth));
    // A turn behind the end of a row reads its end again, and keeps zeros.
    let (at, inside) = match shape.ragged {
        true => (
            "min($DEPTH_AT + $QUAD, p.units * 8u - 1u)",
            " * select(0.0h, 1.0h, turn * $QUADSu + $QUAD < p.units * 8u)",
        ),
        false => ("$DEPTH_AT + $QUAD", ""),
    };
    for k in 0..outputs * quads / threads {
        let (item, quad) = (format!("(t + {}u)", k * threads), format!("(t + {}u) % {quads}u", k * threads));
        let name = |text: &str| text.replace("$QUADS", &quads.to_string()).replace("$QUAD", &quad);
        let read = |depth: &str| format!("w[w_from{k} + {}]", name(at).replace("$DEPTH_AT", depth));
        let _ = writeln!(
            hold,
            "  let w_from{k} = $WEIGHTS_AT + min(output0 + {item} / {quads}u, p.rows - 1u) * $STRIDE;
  var wv{k} = {};",
            read(&format!("min(first_turn, turns - 1u) * {quads}u"))
        );
        let _ = writeln!(fetch, "    wv{k} = {};", read("depth"));
        let _ = writeln!(keep, "    ws[{item} / {quads}u * {line}u + {quad}] = wv{k}{};", name(inside));
    }
    (hold, fetch, keep)
}
