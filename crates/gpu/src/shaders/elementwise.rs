//! The small kernels: embedding, norms, gating, soft cap.

use tensor::{Activation, Format};

use super::matvec::activation_function;
use super::unit::decoder;
use super::{fill, lane_sum};

/// Threads of a workgroup in the kernels that give a workgroup to a row.
pub(crate) const ROW_THREADS: u32 = 256;

/// x\[row\] = scale * table\[token\]. Grid: (rows). Parameters: units, row_words, header_words, x stride in values, first token and
/// tokens of this range of the table, index of the tokens in step, scale, word of the first row. Bindings: 0 table, 1 x, 2 step.
pub(crate) fn embed(format: Format) -> String {
    fill(
        "// embed $NAME
struct Params { units: u32, row_words: u32, header_words: u32, x_stride: u32, first: u32, count: u32, tokens_at: u32, scale: f32, weights_at: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
$DECODER
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = wg.x;
  let token = step[p.tokens_at + row] - p.first;
  if (row >= step[0] || token >= p.count) { return; }
  let base = p.weights_at + token * p.row_words;
  for (var i = t; i < p.units * 8u; i += $THREADSu) {
    let s = unit_scales(base, i >> 3u);
    let quad = i & 7u;
    x[row * (p.x_stride >> 2u) + i] =
      (unit_quad(base, i >> 3u, quad) * select(s.x, s.y, quad > 3u) - vec4<f32>(s.z)) * p.scale;
  }
}
",
        &[("NAME", format.name().into()), ("DECODER", decoder(format)), ("THREADS", ROW_THREADS.to_string())],
    )
}

/// Rows of weights as f16, without gaps. Grid: (parts of a row of [`UNPACKED`] weights, rows). Parameters: units, words between
/// rows, words before a row's blocks, word of the first row. Bindings: 0 weights, 1 y.
pub(crate) fn unpack(format: Format) -> String {
    fill(
        "// unpack $NAME
struct Params { units: u32, row_words: u32, header_words: u32, weights_at: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> w: array<u32>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<u32>>;
$DECODER
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let i = wg.x * $THREADSu + t;
  if (i >= p.units * 4u) { return; }
  let base = p.weights_at + wg.y * p.row_words;
  let unit = i >> 2u;
  let quad = (i & 3u) * 2u;
  let s = unit_scales(base, unit);
  let scale = select(s.x, s.y, quad > 3u);
  let a = unit_quad(base, unit, quad) * scale - vec4<f32>(s.z);
  let b = unit_quad(base, unit, quad + 1u) * scale - vec4<f32>(s.z);
  y[wg.y * p.units * 4u + i] =
    vec4<u32>(pack2x16float(a.xy), pack2x16float(a.zw), pack2x16float(b.xy), pack2x16float(b.zw));
}
",
        &[("NAME", format.name().into()), ("DECODER", decoder(format)), ("THREADS", ROW_THREADS.to_string())],
    )
}

/// Weights that a workgroup of [`unpack`] makes.
pub(crate) const UNPACKED: usize = 8 * ROW_THREADS as usize;

/// y\[row\] = x\[row\] / rms * weight. Grid: (rows). Parameters: width, x stride, eps. Bindings: 0 weight, 1 x, 2 y, 3 step.
pub(crate) fn norm_rows() -> String {
    norm_kernel(
        "norm",
        "row >= step[0]",
        "row * p.stride",
        "y[row * p.stride + i] = x[source + i] * scale * weight[i];",
    )
}

/// As [`norm_rows`] for the rows whose logits are wanted: y\[i\] = norm(x\[logit_rows\[i\]\]). Grid: (logit rows).
/// One more parameter: index of the logit rows in step; their number is `step[1]`.
pub(crate) fn gather_norm() -> String {
    norm_kernel(
        "gather and norm",
        "row >= step[1]",
        "step[p.list_at + row] * p.stride",
        "y[row * p.stride + i] = x[source + i] * scale * weight[i];",
    )
}

/// y\[row\] += x\[row\] / rms * weight: a norm of what is added to the hidden state. Grid, parameters, bindings as
/// [`norm_rows`].
pub(crate) fn add_rms_norm() -> String {
    norm_kernel(
        "norm and add",
        "row >= step[0]",
        "row * p.stride",
        "y[row * p.stride + i] += x[source + i] * scale * weight[i];",
    )
}

fn norm_kernel(name: &str, past_end: &str, source: &str, store: &str) -> String {
    fill(
        "// $NAME
$LANE_SUM
struct Params { width: u32, stride: u32, eps: f32, list_at: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> weight: array<f32>;
@group(0) @binding(1) var<storage, read> x: array<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> step: array<u32>;
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = wg.x;
  if ($PAST_END) { return; }
  let source = $FROM;
  var squares = 0.0;
  for (var i = t; i < p.width; i += $THREADSu) { squares += x[source + i] * x[source + i]; }
  let scale = inverseSqrt(lane_sum(squares, t) / f32(p.width) + p.eps);
  for (var i = t; i < p.width; i += $THREADSu) { $STORE }
}
",
        &[
            ("LANE_SUM", lane_sum(false, ROW_THREADS)),
            ("NAME", name.into()),
            ("THREADS", ROW_THREADS.to_string()),
            ("PAST_END", past_end.into()),
            ("FROM", source.into()),
            ("STORE", store.into()),
        ],
    )
}

/// y\[row\] = the sum of the parts of [`super::wide`], or += with `add`. Grid: (parts of a row, rows). Parameters: outputs,
/// values between parts, between rows of y. Bindings: 0 parts, 1 y, 2 step.
pub(crate) fn add_depths(depths: usize, add: bool) -> String {
    fill(
        "// add depths
struct Params { outputs: u32, plane: u32, stride: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let output = wg.x * $THREADSu + t;
  if (output >= p.outputs || wg.y >= step[0]) { return; }
  let at = wg.y * p.outputs + output;
  y[wg.y * p.stride + output] $ASSIGN $SUM;
}
",
        &[
            ("ASSIGN", if add { "+=" } else { "=" }.into()),
            ("SUM", sum_of_parts(depths, "p.plane")),
            ("THREADS", ROW_THREADS.to_string()),
        ],
    )
}

/// WGSL of the sum of the parts at `at`, which lie `plane` apart.
fn sum_of_parts(depths: usize, plane: &str) -> String {
    (0..depths).map(|d| format!("parts[at + {d}u * {plane}]")).collect::<Vec<_>>().join(" + ")
}

/// x\[row\] += the sum of the parts of [`super::wide`], and y\[row\] = f16(x\[row\] / rms * weight). Grid: (rows). Parameters:
/// outputs, values between parts, between rows of x, norm epsilon, values between rows of y. Bindings: 0 parts, 1 x, 2 y, 3 step,
/// 4 weight.
pub(crate) fn sum_norm_halves(depths: usize) -> String {
    fill(
        "// sum, norm, to halves
enable f16;
$LANE_SUM
struct Params { outputs: u32, plane: u32, stride: u32, eps: f32, y_stride: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> step: array<u32>;
@group(0) @binding(4) var<storage, read> weight: array<vec4<f32>>;
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = wg.x;
  if (row >= step[0]) { return; }
  let quads = p.outputs / 4u;
  let plane = p.plane / 4u;
  let own = row * (p.stride / 4u);
  var squares = 0.0;
  for (var i = t; i < quads; i += $THREADSu) {
    let at = row * quads + i;
    let v = x[own + i] + $SUM;
    x[own + i] = v;
    squares += dot(v, v);
  }
  let scale = inverseSqrt(lane_sum(squares, t) / f32(p.outputs) + p.eps);
  let most = vec4<f32>(65504.0);
  for (var i = t; i < quads; i += $THREADSu) {
    y[row * (p.y_stride / 4u) + i] = vec4<f16>(clamp(x[own + i] * scale * weight[i], -most, most));
  }
}
",
        &[
            ("LANE_SUM", lane_sum(false, SUM_THREADS)),
            ("SUM", sum_of_parts(depths, "plane")),
            ("THREADS", SUM_THREADS.to_string()),
        ],
    )
}

/// Threads of [`sum_norm_halves`]: a row has many parts.
const SUM_THREADS: u32 = 512;

/// y\[row\] = f16(x\[row\] / rms * weight), or f16(x\[row\]) without `norm`: the input of the cooperative kernels. Grid:
/// (rows, parts of a row; 1 with `norm`). Parameters: width, x stride, eps, y stride, index of the number of rows in step. Bindings: 0 x, 1 y, 2 step,
/// 3 weight with `norm`.
pub(crate) fn to_halves(norm: bool) -> String {
    let (weight, scale, value) = if norm {
        (
            "@group(0) @binding(3) var<storage, read> weight: array<vec4<f32>>;",
            "  var squares = 0.0;
  for (var i = t; i < quads; i += $THREADSu) { squares += dot(x[source + i], x[source + i]); }
  let scale = inverseSqrt(lane_sum(squares, t) / f32(p.width) + p.eps);",
            "x[source + i] * scale * weight[i]",
        )
    } else {
        ("", "", "x[source + i]")
    };
    fill(
        &"// to halves$AFTER
enable f16;
$LANE_SUM
struct Params { width: u32, stride: u32, eps: f32, y_stride: u32, step_rows_at: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
$WEIGHT
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let row = wg.x;
  if (row >= step[p.step_rows_at]) { return; }
  let source = row * (p.stride / 4u);
  let to = row * (p.y_stride / 4u);
  // What pads a row is zero.
  let quads = (p.width + 3u) / 4u;
  let most = vec4<f32>(65504.0);
$SCALE
  // Beyond the range of f16 lies infinity, which would spoil whole matrices.
  for (var i = wg.y * $THREADSu + t; i < quads; i += $THREADSu * grid.y) {
    y[to + i] = vec4<f16>(clamp($VALUE, -most, most));
  }
}
"
        .replace("$SCALE", scale),
        &[
            ("LANE_SUM", if norm { lane_sum(false, ROW_THREADS) } else { String::new() }),
            ("AFTER", if norm { " after norm".into() } else { String::new() }),
            ("WEIGHT", weight.into()),
            ("VALUE", value.into()),
            ("THREADS", ROW_THREADS.to_string()),
        ],
    )
}

/// y\[row\]\[i\] = act(x\[row\]\[i\]) * x\[row\]\[ffn + i\]. Grid: (parts of a row, rows). Parameters: ffn, x stride, y stride.
/// Bindings: 0 x, 1 y, 2 step.
pub(crate) fn gate(activation: Activation) -> String {
    fill(
        "// gate
struct Params { ffn: u32, x_stride: u32, y_stride: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
$ACT
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let i = wg.x * $THREADSu + t;
  let row = wg.y;
  if (i >= p.ffn || row >= step[0]) { return; }
  let source = row * p.x_stride + i;
  y[row * p.y_stride + i] = act(x[source]) * x[source + p.ffn];
}
",
        &[("ACT", activation_function(activation).into()), ("THREADS", ROW_THREADS.to_string())],
    )
}

/// The same as f16, for a product of cooperative matrices; ffn and strides are multiples of 4. x may come in `depths` parts. Grid:
/// (parts of a row of [`GATE_HALVES`], rows). Parameters as for [`gate`], and values between parts. Bindings as for [`gate`].
pub(crate) fn gate_halves(activation: Activation, depths: usize) -> String {
    fill(
        "// gate to halves
enable f16;
struct Params { ffn: u32, x_stride: u32, y_stride: u32, plane: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> parts: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
$ACT
fn whole(at: u32) -> vec4<f32> {
  let plane = p.plane / 4u;
  return $SUM;
}
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let i = wg.x * $THREADSu + t;
  let row = wg.y;
  if (i >= p.ffn / 4u || row >= step[0]) { return; }
  let source = (row * p.x_stride) / 4u + i;
  let g = whole(source);
  let v = vec4<f32>(act(g.x), act(g.y), act(g.z), act(g.w)) * whole(source + p.ffn / 4u);
  let most = vec4<f32>(65504.0);
  y[(row * p.y_stride) / 4u + i] = vec4<f16>(clamp(v, -most, most));
}
",
        &[
            ("ACT", activation_function(activation).into()),
            ("SUM", sum_of_parts(depths, "plane")),
            ("THREADS", ROW_THREADS.to_string()),
        ],
    )
}

/// Values that a workgroup of [`gate_halves`] makes.
pub(crate) const GATE_HALVES: usize = 4 * ROW_THREADS as usize;

/// Bytes that a workgroup of [`copy`] copies.
pub(crate) const COPY_BYTES: u64 = 16 * 256 * 4;

/// Copies words, to measure memory. Grid: (bytes / [`COPY_BYTES`]). Bindings: 0 from, 1 to.
pub(crate) fn copy() -> String {
    "// copy
@group(0) @binding(15) var<uniform> unused: u32;
@group(0) @binding(0) var<storage, read> source: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> copied: array<vec4<u32>>;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let at = wg.x * 1024u + t + (unused & 0u);
  let a = source[at]; let b = source[at + 256u]; let c = source[at + 512u]; let d = source[at + 768u];
  copied[at] = a; copied[at + 256u] = b; copied[at + 512u] = c; copied[at + 768u] = d;
}
"
    .into()
}

/// y = cap * tanh(y / cap). Grid: (parts of a row, logit rows). Parameters: width, cap. Bindings: 0 y, 1 step.
pub(crate) fn soft_cap() -> String {
    fill(
        "// soft cap
struct Params { width: u32, cap: f32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let i = wg.x * $THREADSu + t;
  if (i >= p.width || wg.y >= step[1]) { return; }
  let at = wg.y * p.width + i;
  y[at] = p.cap * tanh(clamp(y[at] / p.cap, -10.0, 10.0));
}
",
        &[("THREADS", ROW_THREADS.to_string())],
    )
}
