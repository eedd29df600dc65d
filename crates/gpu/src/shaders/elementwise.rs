//! The small kernels: embedding, norms, rotation and KV store, gating, soft cap.

use tensor::{Activation, Format};

use super::matvec::activation_function;
use super::unit::decoder;
use super::{fill, lane_sum};
use crate::kv::KvFormat;

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
/// values between parts, between rows of y, first output. Bindings: 0 parts, 1 y, 2 step.
pub(crate) fn add_depths(depths: usize, add: bool) -> String {
    let sum = (0..depths).map(|d| format!("parts[at + {d}u * p.plane]")).collect::<Vec<_>>().join(" + ");
    fill(
        "// add depths
struct Params { outputs: u32, plane: u32, stride: u32, first: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let output = wg.x * $THREADSu + t;
  if (output >= p.outputs || wg.y >= step[0]) { return; }
  let at = wg.y * p.outputs + output;
  y[wg.y * p.stride + p.first + output] $ASSIGN $SUM;
}
",
        &[("ASSIGN", if add { "+=" } else { "=" }.into()), ("SUM", sum), ("THREADS", ROW_THREADS.to_string())],
    )
}

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

/// What [`rope_and_store`] is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RopeShape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Pairs that turn; 0 without rotation.
    pub(crate) pairs: usize,
    pub(crate) interleaved: bool,
    pub(crate) q_norm: bool,
    pub(crate) k_norm: bool,
    pub(crate) key: KvFormat,
    pub(crate) value: KvFormat,
}

/// Norm over heads, rotation, and the way into the KV pages. Grid: (heads + 2 kv_heads, rows); one workgroup a head.
///
/// Parameters: qkv stride, group's table index, groups, table stride, index of tables and of each row's sequence and
/// position in step, q eps, k eps, scale bases of K and V. Bindings: 0 qkv, 1 step, 2 K pages, 3 V pages, then cos/sin
/// (with rotation), q norm, k norm.
pub(crate) fn rope_and_store(shape: &RopeShape) -> String {
    use std::fmt::Write;
    // A workgroup has one head: a pair a thread.
    let threads = (shape.head_dim / 2).next_power_of_two().clamp(32, ROW_THREADS as usize);
    let mut next = 4;
    let mut optional = String::new();
    for (wanted, declaration) in [
        (shape.pairs > 0, "turns: array<vec2<f32>>"),
        (shape.q_norm, "q_norm: array<f32>"),
        (shape.k_norm, "k_norm: array<f32>"),
    ] {
        if wanted {
            let _ = writeln!(optional, "@group(0) @binding({next}) var<storage, read> {declaration};");
            next += 1;
        }
    }
    let norm = |name: &str, wanted: bool, eps: &str, condition: &str| {
        if !wanted {
            return String::new();
        }
        format!(
            "  if ({condition}) {{ for (var i = t; i < $Du; i += $THREADSu) {{
    head[i] = head[i] * inverseSqrt(mean + {eps}) * {name}[i]; }} }}\n"
        )
        .replace("$D", &shape.head_dim.to_string())
        .replace("$THREADS", &threads.to_string())
    };
    let norms = if shape.q_norm || shape.k_norm {
        format!(
            "  var squares = 0.0;
  for (var i = t; i < {d}u; i += {threads}u) {{ squares += head[i] * head[i]; }}
  let mean = lane_sum(squares, t) / {d}.0;
{}{}  workgroupBarrier();\n",
            norm("q_norm", shape.q_norm, "p.q_eps", "is_q"),
            norm("k_norm", shape.k_norm, "p.k_eps", "is_k"),
            d = shape.head_dim,
        )
    } else {
        String::new()
    };
    let rotation = if shape.pairs > 0 {
        let (a, b) = if shape.interleaved {
            ("2u * i".to_owned(), "2u * i + 1u".to_owned())
        } else {
            ("i".to_owned(), format!("i + {}u", shape.pairs))
        };
        format!(
            "  if (is_q || is_k) {{
    for (var i = t; i < {pairs}u; i += {threads}u) {{
      let turn = turns[position * {pairs}u + i];
      let a = head[{a}];
      let b = head[{b}];
      head[{a}] = a * turn.x - b * turn.y;
      head[{b}] = a * turn.y + b * turn.x;
    }}
  }}
  workgroupBarrier();\n",
            pairs = shape.pairs,
        )
    } else {
        String::new()
    };
    fill(
        "// rotate and store $KEY,$VALUE
$LANE_SUM
struct Params {
  stride: u32, group: u32, groups: u32, table_stride: u32, tables_at: u32, seqs_at: u32, positions_at: u32,
  q_eps: f32, k_eps: f32, k_scales_at: u32, v_scales_at: u32,
}
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read_write> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read_write> k_pages: array<u32>;
@group(0) @binding(3) var<storage, read_write> v_pages: array<u32>;
$OPTIONAL
var<workgroup> head: array<f32, $D>;
$STORE_FUNCTIONS
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = wg.y;
  if (row >= step[0]) { return; }
  let is_q = wg.x < $HEADSu;
  let is_k = !is_q && wg.x < $KEY_ENDu;
  let position = step[p.positions_at + row];
  let source = row * p.stride + wg.x * $Du;
  for (var i = t; i < $Du; i += $THREADSu) { head[i] = qkv[source + i]; }
  workgroupBarrier();
$NORMS$ROTATION
  if (is_q) {
    for (var i = t; i < $Du; i += $THREADSu) { qkv[source + i] = head[i]; }
    return;
  }
  let table = p.tables_at + (step[p.seqs_at + row] * p.groups + p.group) * p.table_stride;
  let page = step[table + (position >> 6u)];
  let kv_head = select(wg.x - $KEY_ENDu, wg.x - $HEADSu, is_k);
  let at = ((page * $KV_HEADSu + kv_head) * 64u + (position & 63u)) * $Du;
  if (is_k) { store_k(at, t); } else { store_v(at, t); }
}
",
        &[
            ("LANE_SUM", if shape.q_norm || shape.k_norm { lane_sum(false, threads as u32) } else { String::new() }),
            ("OPTIONAL", optional),
            (
                "STORE_FUNCTIONS",
                shape.key.store("k", shape.head_dim, threads) + &shape.value.store("v", shape.head_dim, threads),
            ),
            ("KEY", shape.key.name().into()),
            ("VALUE", shape.value.name().into()),
            ("KEY_END", (shape.heads + shape.kv_heads).to_string()),
            ("KV_HEADS", shape.kv_heads.to_string()),
            ("HEADS", shape.heads.to_string()),
            ("D", shape.head_dim.to_string()),
            ("THREADS", threads.to_string()),
            ("NORMS", norms),
            ("ROTATION", rotation),
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

/// The same as f16, for a product of cooperative matrices; ffn and strides are multiples of 4. Grid: (parts of a row of
/// [`GATE_HALVES`], rows). Parameters and bindings as for [`gate`].
pub(crate) fn gate_halves(activation: Activation) -> String {
    fill(
        "// gate to halves
enable f16;
struct Params { ffn: u32, x_stride: u32, y_stride: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec4<f16>>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
$ACT
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let i = wg.x * $THREADSu + t;
  let row = wg.y;
  if (i >= p.ffn / 4u || row >= step[0]) { return; }
  let source = (row * p.x_stride) / 4u + i;
  let g = x[source];
  let v = vec4<f32>(act(g.x), act(g.y), act(g.z), act(g.w)) * x[source + p.ffn / 4u];
  let most = vec4<f32>(65504.0);
  y[(row * p.y_stride) / 4u + i] = vec4<f16>(clamp(v, -most, most));
}
",
        &[("ACT", activation_function(activation).into()), ("THREADS", ROW_THREADS.to_string())],
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
