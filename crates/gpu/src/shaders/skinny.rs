//! A few dozen rows times a weight matrix, by cooperative matrices: the kernel of batched decode on devices that have
//! them. Bound by the bytes of the weights up to some tens of rows.
//!
//! A workgroup of [`SUBGROUPS`] subgroups computes [`SkinnyShape::outputs`] outputs for up to [`SkinnyShape::batch_rows`]
//! rows of the batch. The subgroups take the depth in turns of [`DEPTH`] weights: each lane unpacks 64 weights of one row into
//! workgroup memory as f16, the subgroup multiplies them with activations that are f16 in the buffer already, and at the
//! end the four sums are added. Weights are read and unpacked once for all rows.

use std::fmt::Write;

use tensor::{Activation, Format};

use super::chunk::Chunk;
use super::fill;
use super::matvec::{Epilogue, activation_function};

/// Weights of a row that a subgroup takes at a time; activation rows are padded with zeros to a multiple.
pub(crate) const DEPTH: usize = 128;

/// Weights from line to line of a tile in workgroup memory: padded, so that lanes do not meet in a memory bank.
const LINE: usize = DEPTH + 8;

/// Subgroups of a workgroup.
const SUBGROUPS: u32 = 4;

/// One variant of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SkinnyShape {
    pub(crate) format: Format,
    /// Of a workgroup: a multiple of 16.
    pub(crate) outputs: usize,
    /// A multiple of 16.
    pub(crate) batch_rows: usize,
    pub(crate) bias: bool,
    pub(crate) epilogue: Epilogue,
    /// Edge of a cooperative matrix: 8 or 16.
    pub(crate) edge: usize,
    pub(crate) subgroup_size: u32,
}

/// Parameters as for [`super::matvec`], with the stride of x in halves. Bindings: 0 weights, 1 x (f16), 2 y, 3 step, 4 bias.
pub(crate) fn skinny(shape: &SkinnyShape) -> String {
    let chunk = Chunk::new(shape.format);
    let gate = matches!(shape.epilogue, Epilogue::Gate(_));
    let (edge, outputs) = (shape.edge, shape.outputs);
    let tile = Tile::new(edge);
    let threads = SUBGROUPS * shape.subgroup_size;
    fill(
        "// skinny $NAME x$BATCH $EPILOGUE
enable f16;
enable wgpu_cooperative_matrix;
struct Params {
  units: u32, row_words: u32, header_words: u32, rows: u32, first_output: u32,
  x_stride: u32, y_stride: u32, eps: f32, inverse_width: f32, up_offset: u32, step_rows_at: u32, weights_at: u32,
}
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> w: array<$WEIGHT>;
@group(0) @binding(1) var<storage, read> x: array<f16>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> step: array<u32>;
$BIAS$FUNCTIONS$ACTIVATION
var<workgroup> ws: array<$STORED, $WEIGHT_TILE>; // [subgroup][output][depth, padded]
var<workgroup> cs: array<f32, $SUM_TILE>; // [subgroup][batch row][output]
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32,
        @builtin(subgroup_id) sg: u32, @builtin(subgroup_invocation_id) lane: u32) {
  let batch0 = wg.y * $BATCHu;
  let batch_end = step[p.step_rows_at];
  for (var i = t; i < $SUM_TILEu; i += $THREADSu) { cs[i] = 0.0; }
  workgroupBarrier();
$LOAD_SUMS
  let weights_at = sg * $SUBGROUP_TILEu;
  let turns = (p.units + $UNITS_A_TURNu - 1u) / $UNITS_A_TURNu;
  for (var turn = 0u; turn < turns; turn += 1u) {
    let first_chunk = (turn * $SUBGROUPSu + sg) * $CHUNKSu;
    for (var item = lane; item < $ITEMSu; item += $LANESu) {
      let line = item / $CHUNKSu;
      let c = first_chunk + item % $CHUNKSu;
      let row = $ROW;
      let base0 = $WEIGHTS_AT + min(row, p.rows_end - 1u) * $STRIDE;
      let to = sg * $SUBGROUP_QUADSu + line * $LINE_QUADSu;
      if (c * $CHUNK_UNITSu < p.units) {
$LOAD$KEEP
      } else {
$CLEAR
      }
    }
    workgroupBarrier();
    // Past the end the weights are zeros, and any activations will do.
    let depth = min((turn * $SUBGROUPSu + sg) * $DEPTHu, p.x_stride - $DEPTHu);
$MULTIPLY
    workgroupBarrier();
  }
$STORE_SUMS
  workgroupBarrier();
$FINISH
}
",
        &[
            ("WEIGHT", if chunk.vectors { "vec4<u32>".into() } else { "u32".into() }),
            (
                "BIAS",
                if shape.bias { "@group(0) @binding(4) var<storage, read> bias: array<f32>;\n".into() } else { String::new() },
            ),
            ("FUNCTIONS", chunk.functions()),
            (
                "ACTIVATION",
                match shape.epilogue {
                    Epilogue::Gate(Activation::Silu) => activation_function(Activation::Silu).into(),
                    Epilogue::Gate(Activation::GeluTanh) => activation_function(Activation::GeluTanh).into(),
                    Epilogue::Store | Epilogue::Add => String::new(),
                },
            ),
            ("NAME", shape.format.name().into()),
            ("EPILOGUE", shape.epilogue.name().into()),
            ("STORED", tile.element.into()),
            ("WEIGHT_TILE", tile.items(SUBGROUPS as usize * shape.outputs * LINE).to_string()),
            ("SUBGROUP_TILE", tile.items(shape.outputs * LINE).to_string()),
            ("SUBGROUP_QUADS", (shape.outputs * LINE / 4).to_string()),
            ("LINE_QUADS", (LINE / 4).to_string()),
            ("SUM_TILE", (SUBGROUPS as usize * shape.batch_rows * shape.outputs).to_string()),
            ("THREADS", threads.to_string()),
            ("BATCH", shape.batch_rows.to_string()),
            ("LOAD_SUMS", sums(shape, |c, at| {
                format!("  let at_{c} = {at};\n  var c{c} = coopLoadT<coop_mat{edge}x{edge}<f32, C>>(&cs[at_{c}], {outputs}u);\n")
            })),
            ("STORE_SUMS", sums(shape, |c, _| format!("  coopStoreT(c{c}, &cs[at_{c}], {outputs}u);\n"))),
            ("UNITS_A_TURN", (SUBGROUPS as usize * DEPTH / 32).to_string()),
            ("SUBGROUPS", SUBGROUPS.to_string()),
            ("CHUNKS", (DEPTH / (4 * chunk.quads)).to_string()),
            ("CHUNK_UNITS", (chunk.quads / 8).to_string()),
            ("CLEAR", clear(&chunk, tile)),
            ("ITEMS", (shape.outputs * DEPTH / (4 * chunk.quads)).to_string()),
            ("LANES", shape.subgroup_size.to_string()),
            ("DEPTH", DEPTH.to_string()),
            ("WEIGHTS_AT", if chunk.vectors { "(p.weights_at >> 2u)".into() } else { "p.weights_at".into() }),
            ("STRIDE", if chunk.vectors { "(p.row_words >> 2u)".into() } else { "p.row_words".into() }),
            (
                "ROW",
                if gate {
                    // The first half of the tile is gate rows, the other the same rows of up.
                    format!(
                        "min(wg.x * {h}u + line % {h}u, p.rows - 1u) + select(0u, p.up_offset, line >= {h}u)",
                        h = shape.outputs / 2
                    )
                } else {
                    format!("wg.x * {outputs}u + line")
                },
            ),
            ("LOAD", chunk.load(0)),
            ("KEEP", keep(&chunk, tile)),
            ("MULTIPLY", multiply(shape, tile)),
            ("FINISH", finish(shape, threads)),
        ],
    )
    .replace("p.rows_end", if gate { "(p.rows + p.up_offset)" } else { "p.rows" })
}

/// For each accumulator: its name, and WGSL of its place in `cs`.
fn sums(shape: &SkinnyShape, line: impl Fn(String, String) -> String) -> String {
    let mut text = String::new();
    for r in 0..shape.batch_rows / shape.edge {
        for c in 0..shape.outputs / shape.edge {
            let at = format!(
                "sg * {}u + {}u",
                shape.batch_rows * shape.outputs,
                r * shape.edge * shape.outputs + c * shape.edge
            );
            text.push_str(&line(format!("{r}_{c}"), at));
        }
    }
    text
}

/// What a tile of weights in workgroup memory is made of.
#[derive(Clone, Copy)]
struct Tile {
    /// WGSL type of an item.
    element: &'static str,
    width: usize,
}

impl Tile {
    /// Of whole quads where matrices of 16 are read from it. Metal, whose matrices are of 8, reads only from scalars.
    fn new(edge: usize) -> Tile {
        if edge == 16 { Tile { element: "vec4<f16>", width: 4 } } else { Tile { element: "f16", width: 1 } }
    }

    /// Items that hold so many weights.
    fn items(self, weights: usize) -> usize {
        weights / self.width
    }

    /// WGSL that stores the vec4 `value` as quad `at`.
    fn store(self, at: &str, value: &str) -> String {
        if self.width == 4 {
            return format!("ws[{at}] = {value};");
        }
        let lane = |(i, lane)| format!("ws[4u * ({at}) + {i}u] = {value}.{lane};");
        ["x", "y", "z", "w"].into_iter().enumerate().map(lane).collect::<Vec<_>>().join(" ")
    }
}

/// Zeros where a chunk would be, behind the end of a row.
fn clear(chunk: &Chunk, tile: Tile) -> String {
    let at = |i: usize| format!("to + {} % {}u", chunk.input_quad(i), DEPTH / 4);
    (0..chunk.quads).map(|i| format!("        {}\n", tile.store(&at(i), "vec4<f16>()"))).collect()
}

/// The unpacked chunk, as f16, to its place in the row of the tile.
fn keep(chunk: &Chunk, tile: Tile) -> String {
    let mut text = String::new();
    for i in 0..chunk.quads {
        let g = i / chunk.quads_per_scale;
        let minimum = if chunk.has_minimum { format!(" - vec4<f32>(m0_{g})") } else { String::new() };
        let _ = writeln!(text, "        let v{i} = vec4<f16>(q0_{i} * s0_{g}{minimum});");
        let _ = writeln!(text, "        let t{i} = to + {} % {}u;", chunk.input_quad(i), DEPTH / 4);
        let _ = writeln!(text, "        {}", tile.store(&format!("t{i}"), &format!("v{i}")));
    }
    text
}

fn multiply(shape: &SkinnyShape, tile: Tile) -> String {
    let edge = shape.edge;
    let mut text = String::new();
    for k in (0..DEPTH).step_by(edge) {
        for r in 0..shape.batch_rows / edge {
            let _ = writeln!(
                text,
                "      let a{k}_{r} = coopLoadT<coop_mat{edge}x{edge}<f16, A>>(&x[(batch0 + {}u) * p.x_stride + depth + {k}u], p.x_stride);",
                r * edge
            );
        }
        for c in 0..shape.outputs / edge {
            let _ = writeln!(
                text,
                "      let b{k}_{c} = coopLoad<coop_mat{edge}x{edge}<f16, B>>(&ws[weights_at + {}u], {}u);",
                tile.items(c * edge * LINE + k),
                tile.items(LINE)
            );
            for r in 0..shape.batch_rows / edge {
                let _ = writeln!(text, "      c{r}_{c} = coopMultiplyAdd(a{k}_{r}, b{k}_{c}, c{r}_{c});");
            }
        }
    }
    text
}

/// Adds the subgroups' sums and stores them.
fn finish(shape: &SkinnyShape, threads: u32) -> String {
    let all = shape.outputs;
    let tile = shape.batch_rows * all;
    let total =
        |i: &str| (0..SUBGROUPS as usize).map(|s| format!("cs[{}u + {i}]", s * tile)).collect::<Vec<_>>().join(" + ");
    let bias = |row: &str| if shape.bias { format!(" + bias[{row}]") } else { String::new() };
    let (outputs, store) = match shape.epilogue {
        Epilogue::Gate(_) => {
            let half = all / 2;
            (
                half,
                format!(
                    "let gate = {}{};
    let up = {}{};
    y[at] = act(gate) * up;",
                    total(&format!("(m * {all}u + o)")),
                    bias("p.first_output + row"),
                    total(&format!("(m * {all}u + o + {half}u)")),
                    bias("p.first_output + row + p.up_offset"),
                ),
            )
        }
        Epilogue::Store | Epilogue::Add => {
            let assign = if shape.epilogue == Epilogue::Add { "+=" } else { "=" };
            let sum = total(&format!("(m * {all}u + o)"));
            (all, format!("y[at] {assign} {sum}{};", bias("p.first_output + row")))
        }
    };
    format!(
        "  for (var i = t; i < {}u; i += {threads}u) {{
    let m = i / {outputs}u;
    let o = i % {outputs}u;
    let row = wg.x * {outputs}u + o;
    if (row >= p.rows || batch0 + m >= batch_end) {{ continue; }}
    let at = (batch0 + m) * p.y_stride + p.first_output + row;
    {store}
  }}",
        shape.batch_rows * outputs
    )
}
