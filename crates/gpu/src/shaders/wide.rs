//! Many rows times a weight matrix, by 16x16 cooperative matrices: the kernel of prefill on devices that have them.
//!
//! A workgroup of [`SUBGROUPS`] subgroups computes [`TILE`] outputs for [`TILE`] rows of the batch; each subgroup a
//! quarter of the outputs and half of the rows. A turn takes [`DEPTH`] weights of depth: they are unpacked once, as f16,
//! into workgroup memory; activations are f16 in their buffer and read from there. Results are stored whole matrices at a
//! time, so the rows of y beyond the batch must exist, and outputs are a multiple of [`TILE`].

use std::fmt::Write;

use tensor::Format;

use super::chunk::Chunk;
use super::fill;
use super::skinny::{LINE, Tile, clear, keep};

/// Outputs and batch rows of a workgroup.
pub(crate) const TILE: usize = 128;

/// Outputs of a subgroup.
const OUTPUT_STEP: usize = 32;

/// Weights of a row in a turn; activation rows are padded with zeros to a multiple.
const DEPTH: usize = 128;

const SUBGROUPS: u32 = 8;
const EDGE: usize = 16;
const BATCH_STEP: usize = 64;

/// One variant of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WideShape {
    pub(crate) format: Format,
    /// y += instead of y =.
    pub(crate) add: bool,
    pub(crate) subgroup_size: u32,
}

/// Immediates as for [`super::matvec`], with the stride of x in halves. Bindings: 0 weights, 1 x (f16), 2 y.
pub(crate) fn wide(shape: &WideShape) -> String {
    let chunk = Chunk::new(shape.format);
    let weights = 4 * chunk.quads;
    let tile = Tile::new(EDGE);
    let (rows, columns) = (BATCH_STEP / EDGE, OUTPUT_STEP / EDGE);
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
                "    let a{k}_{r} = coopLoadT<coop_mat16x16<f16, A>>(&x[x0 + {}u * p.x_stride + depth + {k}u], p.x_stride);",
                r * EDGE
            );
        }
        for c in 0..columns {
            let _ = writeln!(
                multiply,
                "    let b{k}_{c} = coopLoad<coop_mat16x16<f16, B>>(&ws[ws0 + {}u], {}u);",
                tile.items(c * EDGE * LINE + k),
                tile.items(LINE)
            );
            for r in 0..rows {
                let _ = writeln!(multiply, "    c{r}_{c} = coopMultiplyAdd(a{k}_{r}, b{k}_{c}, c{r}_{c});");
            }
        }
    }
    fill(
        "// wide $NAME
enable f16;
enable wgpu_cooperative_matrix;
struct Params {
  units: u32, row_words: u32, header_words: u32, rows: u32, first_output: u32,
  x_stride: u32, y_stride: u32, eps: f32, inverse_width: f32, up_offset: u32, step_rows_at: u32, weights_at: u32,
}
var<immediate> p: Params;
@group(0) @binding(0) var<storage, read> w: array<$WEIGHT>;
@group(0) @binding(1) var<storage, read> x: array<f16>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
$FUNCTIONS
var<workgroup> ws: array<$STORED, $TILE_WEIGHTS>; // [output][depth, padded]
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) sg: u32) {
  let output0 = wg.x * $TILEu;
  let output = output0 + (sg & 3u) * $OUTPUT_STEPu;
  let batch0 = wg.y * $TILEu + (sg >> 2u) * $BATCH_STEPu;
  let stride = p.y_stride;
  let y0 = batch0 * stride + p.first_output + output;
  let x0 = batch0 * p.x_stride;
  let ws0 = (sg & 3u) * $SUBGROUP_WEIGHTSu;
$LOAD
  let turns = (p.units + $UNITS_A_TURNu - 1u) / $UNITS_A_TURNu;
  for (var turn = 0u; turn < turns; turn += 1u) {
    workgroupBarrier();
    for (var item = t; item < $ITEMSu; item += $THREADSu) {
      let line = item / $CHUNKSu;
      let c = turn * $CHUNKSu + item % $CHUNKSu;
      let base0 = $WEIGHTS_AT + min(output0 + line, p.rows - 1u) * $STRIDE;
      let to = line * $LINE_QUADSu;
      if (c * $CHUNK_UNITSu < p.units) {
$UNPACK$KEEP
      } else {
$CLEAR
      }
    }
    workgroupBarrier();
    let depth = turn * $DEPTHu;
$MULTIPLY
  }
$STORE
}
",
        &[
            ("WEIGHT", if chunk.vectors { "vec4<u32>".into() } else { "u32".into() }),
            ("FUNCTIONS", chunk.functions()),
            ("NAME", shape.format.name().into()),
            ("STORED", tile.element.into()),
            ("LINE_QUADS", (LINE / 4).to_string()),
            ("TILE_WEIGHTS", tile.items(TILE * LINE).to_string()),
            ("SUBGROUP_WEIGHTS", tile.items(OUTPUT_STEP * LINE).to_string()),
            ("TILE", TILE.to_string()),
            ("OUTPUT_STEP", OUTPUT_STEP.to_string()),
            ("BATCH_STEP", BATCH_STEP.to_string()),
            ("THREADS", (SUBGROUPS * shape.subgroup_size).to_string()),
            ("LOAD", load),
            ("UNITS_A_TURN", (DEPTH / 32).to_string()),
            ("ITEMS", (TILE * DEPTH / weights).to_string()),
            ("CHUNKS", (DEPTH / weights).to_string()),
            ("CHUNK_UNITS", (chunk.quads / 8).to_string()),
            ("CLEAR", clear(&chunk, tile)),
            ("DEPTH", DEPTH.to_string()),
            ("WEIGHTS_AT", if chunk.vectors { "(p.weights_at >> 2u)".into() } else { "p.weights_at".into() }),
            ("STRIDE", if chunk.vectors { "(p.row_words >> 2u)".into() } else { "p.row_words".into() }),
            ("UNPACK", chunk.load(0)),
            ("KEEP", keep(&chunk, tile)),
            ("MULTIPLY", multiply),
            ("STORE", store),
        ],
    )
}
