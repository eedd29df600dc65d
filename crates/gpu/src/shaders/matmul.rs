//! Many rows times a weight matrix: the kernel of prefill, bound by arithmetic.
//!
//! A workgroup computes a tile of 64 outputs x 64 rows of the batch. Both operands pass through workgroup memory, a unit
//! (32 weights) of depth at a time: weights are unpacked there once for all rows. The plain variant gives each of 256
//! threads a 4 x 4 register block; the cooperative one gives each subgroup a share of `T` x `T` matrices, f16 in, f32 out.

use std::fmt::Write;

use tensor::Format;

use super::fill;
use super::unit::decoder;

/// Outputs and batch rows of a tile.
pub(crate) const TILE: u32 = 64;

/// One variant of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MatmulShape {
    /// Of the weights.
    pub(crate) format: Format,
    /// y += instead of y =.
    pub(crate) add: bool,
    /// Add a bias.
    pub(crate) bias: bool,
    /// Edge of the cooperative matrices; `None` for the plain variant.
    pub(crate) cooperative: Option<u32>,
    /// Threads of a workgroup in the cooperative variant: 4 subgroups.
    pub(crate) workgroup: u32,
}

/// Parameters as for [`super::matvec`]; x is already normalised. Bindings: 0 weights, 1 x, 2 y, 3 step, 4 bias.
pub(crate) fn matmul(shape: &MatmulShape) -> String {
    let bias = if shape.bias { "@group(0) @binding(4) var<storage, read> bias: array<f32>;\n" } else { "" };
    let common = [
        ("NAME", shape.format.name().to_owned()),
        ("PARAMS", PARAMS.to_owned()),
        ("BIAS", bias.to_owned()),
        ("DECODER", decoder(shape.format)),
        ("ASSIGN", if shape.add { "+=" } else { "=" }.to_owned()),
        ("PLUS_BIAS", if shape.bias { " + bias[p.first_output + output]".to_owned() } else { String::new() }),
    ];
    match shape.cooperative {
        None => {
            let mut values = common.to_vec();
            values.push(("INNER", register_block_step()));
            values.push(("ZERO", (0..4).fold(String::new(), |t, m| t + &format!("  var c{m} = vec4<f32>(0.0);\n"))));
            values.push(("STORE", register_block_store(shape)));
            fill(PLAIN, &values)
        }
        Some(edge) => {
            let mut values = common.to_vec();
            values.extend(cooperative_parts(edge, shape.workgroup));
            fill(COOPERATIVE, &values)
        }
    }
}

const PARAMS: &str = "struct Params {
  units: u32, row_words: u32, header_words: u32, rows: u32, first_output: u32,
  x_stride: u32, y_stride: u32, eps: f32, inverse_width: f32, up_offset: u32, step_rows_at: u32, weights_at: u32,
}
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> step: array<u32>;
";

const PLAIN: &str = "// matmul $NAME
$PARAMS$BIAS$DECODER
// [depth][output] and [depth][batch row]. Scalars, since writing one component of a shared vector may write all four.
var<workgroup> ws: array<f32, 2048>;
var<workgroup> xs: array<f32, 2048>;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let output0 = wg.x * 64u;
  let batch0 = wg.y * 64u;
  let batch_end = step[p.step_rows_at];
  // Thread t unpacks quads 2 (t & 3) and the next of weight row t >> 2, and moves the same quads of batch row t >> 2.
  let line = t >> 2u;
  let quad = (t & 3u) * 2u;
  let base = p.weights_at + min(output0 + line, p.rows - 1u) * p.row_words;
  let x_base = min(batch0 + line, batch_end - 1u) * p.x_stride;
  let column4 = (t & 15u) * 4u;
  let row4 = (t >> 4u) * 4u;
$ZERO
  for (var u = 0u; u < p.units; u += 1u) {
    let s = unit_scales(base, u);
    let scale = select(s.x, s.y, quad > 3u);
    let w0 = unit_quad(base, u, quad) * scale - vec4<f32>(s.z);
    let w1 = unit_quad(base, u, quad + 1u) * scale - vec4<f32>(s.z);
    let x0 = x[x_base + u * 8u + quad];
    let x1 = x[x_base + u * 8u + quad + 1u];
    let at = quad * 256u + line;
    workgroupBarrier();
    ws[at + 0u] = w0.x; ws[at + 64u] = w0.y; ws[at + 128u] = w0.z; ws[at + 192u] = w0.w;
    ws[at + 256u] = w1.x; ws[at + 320u] = w1.y; ws[at + 384u] = w1.z; ws[at + 448u] = w1.w;
    xs[at + 0u] = x0.x; xs[at + 64u] = x0.y; xs[at + 128u] = x0.z; xs[at + 192u] = x0.w;
    xs[at + 256u] = x1.x; xs[at + 320u] = x1.y; xs[at + 384u] = x1.z; xs[at + 448u] = x1.w;
    workgroupBarrier();
$INNER
  }
$STORE
}
";

/// One unit of depth: c_m (batch row m of the block) += x value * 4 weights.
fn register_block_step() -> String {
    let mut text = String::new();
    for k in 0..32 {
        let at = k * 64;
        let quad = |array: &str, base: &str| {
            let lanes: Vec<String> = (0..4).map(|i| format!("{array}[{}u + {base}]", at + i)).collect();
            format!("vec4<f32>({})", lanes.join(", "))
        };
        let _ = writeln!(text, "    {{ let a = {}; let b = {};", quad("ws", "column4"), quad("xs", "row4"));
        let _ = writeln!(text, "      c0 += a * b.x; c1 += a * b.y; c2 += a * b.z; c3 += a * b.w; }}");
    }
    text
}

fn register_block_store(shape: &MatmulShape) -> String {
    let assign = if shape.add { "+=" } else { "=" };
    let mut text = String::new();
    for m in 0..4 {
        for (n, lane) in ["x", "y", "z", "w"].iter().enumerate() {
            let bias = if shape.bias { " + bias[p.first_output + output]" } else { "" };
            let _ = writeln!(
                text,
                "  {{ let output = output0 + column4 + {n}u; let m = batch0 + row4 + {m}u;
    if (output < p.rows && m < batch_end) {{ y[m * p.y_stride + p.first_output + output] {assign} c{m}.{lane}{bias}; }} }}"
            );
        }
    }
    text
}

const COOPERATIVE: &str = "// cooperative matmul $NAME
enable f16;
enable wgpu_cooperative_matrix;
$PARAMS$BIAS$DECODER
var<workgroup> ws: array<f16, 2048>; // [64 outputs][32 depth]
var<workgroup> xs: array<f16, 2048>; // [64 batch rows][32 depth]
var<workgroup> cs: array<f32, 4096>; // [64 batch rows][64 outputs]
@compute @workgroup_size($WORKGROUP)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) sg: u32) {
  let output0 = wg.x * 64u;
  let batch0 = wg.y * 64u;
  let batch_end = step[p.step_rows_at];
  for (var i = t; i < 4096u; i += $WORKGROUPu) { cs[i] = 0.0; }
  workgroupBarrier();
$LOAD_C
  for (var u = 0u; u < p.units; u += 1u) {
    workgroupBarrier();
    for (var i = t; i < 512u; i += $WORKGROUPu) {
      let line = i >> 3u;
      let quad = i & 7u;
      let base = p.weights_at + min(output0 + line, p.rows - 1u) * p.row_words;
      let s = unit_scales(base, u);
      let weights = vec4<f16>(unit_quad(base, u, quad) * select(s.x, s.y, quad > 3u) - vec4<f32>(s.z));
      let values = vec4<f16>(x[min(batch0 + line, batch_end - 1u) * p.x_stride + u * 8u + quad]);
      let at = line * 32u + quad * 4u;
      ws[at] = weights.x; ws[at + 1u] = weights.y; ws[at + 2u] = weights.z; ws[at + 3u] = weights.w;
      xs[at] = values.x; xs[at + 1u] = values.y; xs[at + 2u] = values.z; xs[at + 3u] = values.w;
    }
    workgroupBarrier();
$MULTIPLY
  }
  workgroupBarrier();
$STORE_C
  workgroupBarrier();
  for (var i = t; i < 4096u; i += $WORKGROUPu) {
    let m = batch0 + (i >> 6u);
    let output = output0 + (i & 63u);
    if (output < p.rows && m < batch_end) {
      y[m * p.y_stride + p.first_output + output] $ASSIGN cs[i]$PLUS_BIAS;
    }
  }
}
";

/// Subgroup `sg` of four owns batch rows `[16 sg, 16 sg + 16)` of the tile and all 64 outputs.
fn cooperative_parts(edge: u32, workgroup: u32) -> Vec<(&'static str, String)> {
    let (rows, columns) = (16 / edge, 64 / edge);
    let (mut load, mut multiply, mut store) = (String::new(), String::new(), String::new());
    for r in 0..rows {
        for c in 0..columns {
            let at = format!("(sg * 16u + {}u) * 64u + {}u", r * edge, c * edge);
            let _ = writeln!(load, "  let at{r}_{c} = {at};");
            let _ = writeln!(load, "  var c{r}_{c} = coopLoadT<coop_mat{edge}x{edge}<f32, C>>(&cs[at{r}_{c}], 64u);");
            let _ = writeln!(store, "  coopStoreT(c{r}_{c}, &cs[at{r}_{c}], 64u);");
        }
    }
    for k in (0..32).step_by(edge as usize) {
        for r in 0..rows {
            let _ = writeln!(
                multiply,
                "    let a{k}_{r} = coopLoadT<coop_mat{edge}x{edge}<f16, A>>(&xs[(sg * 16u + {}u) * 32u + {k}u], 32u);",
                r * edge
            );
        }
        for c in 0..columns {
            let _ = writeln!(
                multiply,
                "    let b{k}_{c} = coopLoad<coop_mat{edge}x{edge}<f16, B>>(&ws[{}u], 32u);",
                c * edge * 32 + k
            );
            for r in 0..rows {
                let _ = writeln!(multiply, "    c{r}_{c} = coopMultiplyAdd(a{k}_{r}, b{k}_{c}, c{r}_{c});");
            }
        }
    }
    vec![("LOAD_C", load), ("MULTIPLY", multiply), ("STORE_C", store), ("WORKGROUP", workgroup.to_string())]
}
