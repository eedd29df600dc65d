//! Few rows times a weight matrix by packed 8-bit dot products: the kernel of decode on devices that multiply four pairs of
//! bytes in one instruction.
//!
//! The rows of the batch come as bytes (see [`to_bytes`]); weights become bytes a word at a time, and a scale is met once for
//! all that shares it. As in [`super::matvec`], a subgroup computes [`DotsShape::weight_rows`] outputs for
//! [`DotsShape::batch_rows`] rows, and the sum of a row is the same whatever `batch_rows` is.
//!
//! A single byte would be too coarse for an activation: it becomes 128 times a signed byte plus another, and is multiplied as
//! two. A row of bytes: the first bytes of pieces of 16 values, reordered so that the lanes of a subgroup find their pieces
//! side by side ([`piece_index`]); the second bytes; in the same order the scale of each piece and the scale times the sum of its bytes; then the factor by
//! which all sums are multiplied, which is 1 / rms behind a norm. For a single row there is [`super::single`].

use std::fmt::Write;

use tensor::Format;

use super::chunk::Chunk;
use super::matvec::{Epilogue, MatvecShape, activation, row_bases, stores};
use super::{fill, lane_sum};

/// What the greatest value of a piece becomes: 127 * 128 and no more, so that both bytes hold it.
pub(super) const MOST: u32 = 16_256;

/// Threads of [`to_bytes`].
pub(crate) const THREADS: u32 = 128;

/// One variant of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DotsShape {
    /// One that [`super::has_dots`].
    pub(crate) format: Format,
    /// Rows of the batch that a group computes.
    pub(crate) batch_rows: u32,
    /// Outputs that a group computes; even for [`Epilogue::Gate`].
    pub(crate) weight_rows: u32,
    pub(crate) bias: bool,
    pub(crate) epilogue: Epilogue,
    /// Lanes of a subgroup.
    pub(crate) lanes: u32,
    /// Subgroups of a workgroup.
    pub(crate) groups: u32,
}

/// Places for the pieces of a row of `units` units.
pub(super) fn places(units: usize, lanes: u32) -> usize {
    (2 * units).next_multiple_of(4 * lanes as usize)
}

/// Quads of 32-bit words of a row of `units` units as bytes.
pub(crate) fn byte_row_quads(units: usize, lanes: u32) -> usize {
    places(units, lanes) / 2 * 5 + 1
}

/// WGSL of where piece `p` lies in a row, and of how many places pieces take.
pub(super) fn piece_index(lanes: u32) -> String {
    fill(
        "fn piece_at(p: u32) -> u32 { return (p / $TURNu) * $TURNu + (p % 4u) * $LANESu + (p / 4u) % $LANESu; }
fn piece_places(units: u32) -> u32 { return ((units * 2u + $TURNu - 1u) / $TURNu) * $TURNu; }
",
        &[("TURN", (4 * lanes).to_string()), ("LANES", lanes.to_string())],
    )
}

/// WGSL that loads the 16 values of piece `piece` of x, whose first quad is `source`, as `v{i}`; with `norm` also the norm's
/// weights `n{i}`.
fn load_piece(norm: bool) -> String {
    let weight = |i: usize| if norm { format!("    n{i} = norm_weight[piece * 4u + {i}u];\n") } else { String::new() };
    (0..4).map(|i| format!("    v{i} = x[source + piece * 4u + {i}u];\n{}", weight(i))).collect()
}

/// Declares what [`load_piece`] loads.
fn declare_piece(norm: bool) -> String {
    let weight = |i: usize| if norm { format!("    var n{i} = vec4<f32>();\n") } else { String::new() };
    (0..4).map(|i| format!("    var v{i} = vec4<f32>();\n{}", weight(i))).collect()
}

/// WGSL that makes bytes of these values: words `high` and `low`, and `scale` to go with them. With `norm` they are multiplied by
/// its weights, and their squares added to `squares`.
fn make_bytes(norm: bool) -> String {
    let mut text = String::new();
    for i in (0..4).filter(|_| norm) {
        let _ = writeln!(text, "    squares += dot(v{i}, v{i});\n    v{i} *= n{i};");
    }
    let _ = writeln!(
        text,
        "    let most = greatest(max(max(abs(v0), abs(v1)), max(abs(v2), abs(v3))));
    let inverse = select(0.0, {MOST}.0 / most, most > 1e-30);"
    );
    for i in 0..4 {
        let _ = writeln!(text, "    let b{i} = two_bytes(v{i} * inverse);");
    }
    let words = |part: &str| (0..4).map(|i| format!("b{i}.{part}")).collect::<Vec<_>>().join(", ");
    let _ = writeln!(
        text,
        "    let high = vec4<u32>({});
    let low = vec4<u32>({});
    let scale = (most / {MOST}.0) * vec2<f32>(1.0, f32((sum16(high) << 7u) + sum16(low)));",
        words("x"),
        words("y"),
    );
    text
}

/// What both kernels that make bytes call. `two_bytes`: four values as 128 times a signed byte plus another, the first bytes in x.
pub(super) const BYTES: &str = "fn two_bytes(v: vec4<f32>) -> vec2<u32> {
  // To the nearest integer, which is the low bits of this sum: conversions are slow.
  let q = bitcast<vec4<i32>>(v + vec4<f32>(12582912.0)) - vec4<i32>(0x4b400000);
  let h = (q + vec4<i32>(64)) >> vec4<u32>(7u);
  return vec2<u32>(pack4xI8(h), pack4xI8(q - (h << vec4<u32>(7u))));
}
fn greatest(v: vec4<f32>) -> f32 { let m = max(v.xy, v.zw); return max(m.x, m.y); }
fn sum16(v: vec4<u32>) -> i32 {
  let ones = 0x01010101u;
  return dot4I8Packed(v.x, ones) + dot4I8Packed(v.y, ones) + dot4I8Packed(v.z, ones) + dot4I8Packed(v.w, ones);
}
";

/// WGSL of 1 / rms from the `squares` of a workgroup's threads; every thread takes part.
pub(super) fn factor(subgroups: u32) -> String {
    let all = (0..subgroups).map(|s| format!("parts[{s}u]")).collect::<Vec<_>>().join(" + ");
    format!(
        "  let part = subgroupAdd(squares);
  if (lane == 0u) {{ parts[subgroup] = part; }}
  workgroupBarrier();
  let factor = inverseSqrt(({all}) * p.inverse_width + p.eps);
"
    )
}

/// Rows of f32, times a norm's weight where there is one, as bytes. Grid: (rows, parts of a row; 1 with `norm`).
/// Parameters: units, quads between rows of x, quads between rows of y, index of the number of rows in step, norm epsilon,
/// 1 / width. Bindings: 0 x, 1 y, 2 step, 3 weight with `norm`.
pub(crate) fn to_bytes(norm: bool, lanes: u32) -> String {
    let subgroups = THREADS / lanes;
    fill(
        "// to bytes$AFTER
$PIECES$BYTES
struct Params { units: u32, x_stride: u32, y_stride: u32, step_rows_at: u32, eps: f32, inverse_width: f32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> y: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
$WEIGHT
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) subgroup: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
  let row = wg.x;
  if (row >= step[p.step_rows_at]) { return; }
  let source = row * p.x_stride;
  let to = row * p.y_stride * 2u;
  let places = piece_places(p.units);
  let scales = to + 4u * places;
  var squares = 0.0;
  for (var piece = wg.y * $THREADSu + t; piece < 2u * p.units; piece += $THREADSu * grid.y) {
$MAKE_BYTES
    let at = piece_at(piece);
    y[to + 2u * at] = high.xy; y[to + 2u * at + 1u] = high.zw;
    y[to + 2u * (places + at)] = low.xy; y[to + 2u * (places + at) + 1u] = low.zw;
    y[scales + at] = bitcast<vec2<u32>>(scale);
  }
$FACTOR
}
",
        &[
            ("AFTER", if norm { " after norm".into() } else { String::new() }),
            ("PIECES", piece_index(lanes)),
            ("BYTES", BYTES.into()),
            (
                "WEIGHT",
                if norm {
                    format!(
                        "@group(0) @binding(3) var<storage, read> norm_weight: array<vec4<f32>>;
var<workgroup> parts: array<f32, {subgroups}>;"
                    )
                } else {
                    String::new()
                },
            ),
            ("MAKE_BYTES", declare_piece(norm) + &load_piece(norm) + &make_bytes(norm)),
            (
                "FACTOR",
                if norm { factor(subgroups) } else { "  let factor = 1.0;\n".into() }
                    + "  if (t == 0u && wg.y == 0u) { y[scales + places] = bitcast<vec2<u32>>(vec2<f32>(factor, 0.0)); }",
            ),
            ("THREADS", THREADS.to_string()),
        ],
    )
}

/// Grid: (batches of rows, workgroups, workgroups beyond 65,535). Parameters as for [`super::matvec`], with the quads
/// between rows of bytes as the stride of x. Bindings: 0 weights, 1 rows of bytes as quads, 2 y, 3 step, 4 the same rows as
/// pairs, then bias.
pub(crate) fn dots(shape: &DotsShape) -> String {
    let chunk = Chunk::new(shape.format);
    // What the parts that both kernels share look at.
    let common = MatvecShape {
        format: shape.format,
        batch_rows: shape.batch_rows,
        weight_rows: shape.weight_rows,
        norm: true,
        bias: shape.bias,
        epilogue: shape.epilogue,
        lanes: shape.lanes,
        groups: shape.groups,
        subgroups: true,
        staged: false,
    };
    fill(
        "// dots $NAME x$BATCH $EPILOGUE
$LANE_SUM$PIECES
struct Params {
  units: u32, row_words: u32, header_words: u32, rows: u32, first_output: u32,
  x_stride: u32, y_stride: u32, eps: f32, inverse_width: f32, up_offset: u32, step_rows_at: u32, weights_at: u32,
}
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(1) var<storage, read> xs: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read> step: array<u32>;
@group(0) @binding(4) var<storage, read> scales: array<vec2<f32>>;
$BIAS$DECODER$ACTIVATION
@compute @workgroup_size($WORKGROUP)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32) {
  let group = (wg.y + wg.z * grid.y) * $GROUPSu + subgroup;
  let batch0 = wg.x * $BATCHu;
  let batch_end = step[p.step_rows_at];
  let places = piece_places(p.units);
$ROWS$ROW_BASES$ACCUMULATORS
  for (var c = lane; c * $CHUNK_UNITSu < p.units; c += $LANESu) {
$BODY
  }
$STORES
}
",
        &[
            ("NAME", shape.format.name().into()),
            ("EPILOGUE", shape.epilogue.name().into()),
            ("LANE_SUM", lane_sum(true, shape.lanes)),
            ("PIECES", piece_index(shape.lanes)),
            (
                "BIAS",
                if shape.bias {
                    "@group(0) @binding(5) var<storage, read> bias: array<f32>;\n".into()
                } else {
                    String::new()
                },
            ),
            ("GROUPS", shape.groups.to_string()),
            ("ROWS", rows(shape)),
            ("DECODER", chunk.functions()),
            ("ACTIVATION", activation(shape.epilogue)),
            ("WORKGROUP", (shape.lanes * shape.groups).to_string()),
            ("BATCH", shape.batch_rows.to_string()),
            ("LANES", shape.lanes.to_string()),
            ("CHUNK_UNITS", (chunk.quads / 8).to_string()),
            ("ROW_BASES", row_bases(&common, &chunk)),
            ("ACCUMULATORS", accumulators(shape)),
            ("BODY", body(shape, &chunk)),
            ("STORES", stores(&common)),
        ],
    )
}

/// Where rows of bytes begin, and their factors.
fn rows(shape: &DotsShape) -> String {
    let mut text = String::new();
    for m in 0..shape.batch_rows {
        let _ = writeln!(
            text,
            "  let x{m}_base = min(batch0 + {m}u, batch_end - 1u) * p.x_stride;
  let x{m}_scales = 2u * x{m}_base + 4u * places;
  let scale{m} = scales[x{m}_scales + places].x;"
        );
    }
    text
}

fn accumulators(shape: &DotsShape) -> String {
    let mut text = String::new();
    for m in 0..shape.batch_rows {
        for r in 0..shape.weight_rows {
            let _ = writeln!(text, "  var sum{r}_{m} = 0.0;");
        }
    }
    text
}

/// All that a chunk adds to the sums.
fn body(shape: &DotsShape, chunk: &Chunk) -> String {
    let mut text: String = (0..shape.weight_rows).map(|r| chunk.load_bytes(r)).collect();
    text.push_str(&pieces(chunk));
    for m in 0..shape.batch_rows {
        text.push_str(&inputs(chunk, m, &format!("x{m}_base + "), &format!("x{m}_scales + ")));
        for r in 0..shape.weight_rows {
            let _ = writeln!(text, "    sum{r}_{m} += {};", terms(chunk, r, m));
        }
    }
    text
}

/// Where the pieces of chunk `c` lie in a row of bytes.
pub(super) fn pieces(chunk: &Chunk) -> String {
    let piece = |j| format!("    let piece{j} = piece_at({} >> 2u);\n", chunk.input_quad(4 * j));
    (0..chunk.quads / 4).map(piece).collect()
}

/// The pieces of row `m` of the batch, whose bytes and scales begin at `bytes` and `scales`.
pub(super) fn inputs(chunk: &Chunk, m: u32, bytes: &str, scales: &str) -> String {
    let mut text = String::new();
    for j in 0..chunk.quads / 4 {
        let _ = writeln!(text, "    let x{m}_{j} = xs[{bytes}piece{j}];");
        let _ = writeln!(text, "    let z{m}_{j} = xs[{bytes}places + piece{j}];");
        let _ = writeln!(text, "    let d{m}_{j} = scales[{scales}piece{j}];");
    }
    text
}

/// What the chunk adds to the sum of weight row `r` and batch row `m`.
pub(super) fn terms(chunk: &Chunk, r: u32, m: u32) -> String {
    let dots = |bytes: &str, j: usize| {
        let lanes = ["x", "y", "z", "w"].into_iter().enumerate();
        let dots = lanes.map(|(i, lane)| format!("dot4I8Packed(v{r}_{}, {bytes}{m}_{j}.{lane})", 4 * j + i));
        dots.collect::<Vec<_>>().join(" + ")
    };
    // Conversions are slow, and a nibble's integers fit the low bits of a float.
    let float = if chunk.has_nibbles() { "low_bits" } else { "f32" };
    let both = |j: usize| format!("d{m}_{j}.x * {float}((({}) << 7u) + {})", dots("x", j), dots("z", j));
    let each = (0..chunk.scales()).map(|g| {
        let pieces = || g * chunk.quads_per_scale / 4..(g + 1) * chunk.quads_per_scale / 4;
        let sum = |of: &dyn Fn(usize) -> String| pieces().map(of).collect::<Vec<_>>().join(" + ");
        let minimum = match chunk.has_minimum {
            true => format!(" - m{r}_{g} * ({})", sum(&|j| format!("d{m}_{j}.y"))),
            false => String::new(),
        };
        format!("s{r}_{g} * ({}){minimum}", sum(&both))
    });
    each.collect::<Vec<_>>().join(" + ")
}
