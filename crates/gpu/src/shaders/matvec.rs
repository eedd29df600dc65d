//! Few rows times a weight matrix: the kernel of decode, bound by the bytes of the weights.
//!
//! A row group (a subgroup, or a whole workgroup where there are none) computes [`MatvecShape::weight_rows`] outputs for
//! up to [`MatvecShape::batch_rows`] rows of the batch. Lanes stride over the chunks of a weight row; every chunk is
//! unpacked once and used for all rows of the batch. For one row of the batch the operations and their order are the same
//! whatever `batch_rows` is: the result does not depend on what else is in the step.

use std::fmt::Write;

use tensor::{Activation, Format};

use super::chunk::Chunk;
use super::{fill, lane_sum};

/// What the kernel does with a finished sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Epilogue {
    /// y = sum.
    Store,
    /// y += sum.
    Add,
    /// y = act(gate) * up, where gate rows and up rows are the two halves of the matrix.
    Gate(Activation),
}

impl Epilogue {
    /// For the names of kernels.
    pub(super) fn name(self) -> &'static str {
        match self {
            Epilogue::Store => "store",
            Epilogue::Add => "add",
            Epilogue::Gate(_) => "gate",
        }
    }
}

/// One variant of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct MatvecShape {
    /// Of the weights.
    pub(crate) format: Format,
    /// Rows of the batch that a group computes: 1, 2, 4 or 8.
    pub(crate) batch_rows: u32,
    /// Outputs that a group computes; even for [`Epilogue::Gate`].
    pub(crate) weight_rows: u32,
    /// Multiply the input by a norm weight and divide by its root mean square on the way.
    pub(crate) norm: bool,
    /// Add a bias.
    pub(crate) bias: bool,
    /// What happens to the sums.
    pub(crate) epilogue: Epilogue,
    /// Lanes of a group.
    pub(crate) lanes: u32,
    /// Groups of a workgroup; 1 without subgroups.
    pub(crate) groups: u32,
    /// Lanes are a subgroup.
    pub(crate) subgroups: bool,
    /// The input goes through workgroup memory, read and normalised once for all groups: one row of the batch only.
    pub(crate) staged: bool,
}

/// Parameters, in order: units of 32 weights in a row, words between weight rows, words before a row's blocks, weight rows (outputs), index of the first output in
/// y, quads between rows of x, values between rows of y, valid rows of the batch are `step[0]`, norm epsilon, 1 / width,
/// weight rows between gate and up, word of the first weight row.
///
/// Bindings: 0 weights, 1 x, 2 y, 3 step, then norm weight and bias where the shape has them.
pub(crate) fn matvec(shape: &MatvecShape) -> String {
    let chunk = Chunk::new(shape.format);
    let mut next_binding = 4;
    let mut optional = String::new();
    let mut bind = |wanted: bool, declaration: &str| {
        if wanted {
            let _ = writeln!(optional, "@group(0) @binding({next_binding}) var<storage, read> {declaration};");
            next_binding += 1;
        }
    };
    bind(shape.norm, "norm_weight: array<vec4<f32>>");
    bind(shape.bias, "bias: array<f32>");
    let group = if shape.subgroups {
        "@builtin(subgroup_id) subgroup: u32, @builtin(subgroup_invocation_id) lane: u32,
        @builtin(local_invocation_index) t: u32"
    } else {
        "@builtin(local_invocation_index) lane: u32"
    };
    fill(
        "// mat-vec$STAGED $NAME x$BATCH $EPILOGUE
$LANE_SUM
struct Params {
  units: u32, row_words: u32, header_words: u32, rows: u32, first_output: u32,
  x_stride: u32, y_stride: u32, eps: f32, inverse_width: f32, up_offset: u32, step_rows_at: u32, weights_at: u32,
}
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> w: array<$WEIGHT>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<storage, read> step: array<u32>;
$OPTIONAL$DECODER$ACTIVATION$STAGE
@compute @workgroup_size($WORKGROUP)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>, $GROUP) {
  let group = (wg.x + wg.z * grid.x) * $GROUPSu$SUBGROUP;
  let batch0 = wg.y * $BATCHu;
  let batch_end = step[p.step_rows_at];
$ROW_BASES$ACCUMULATORS
$LOOP
$SCALES$STORES
}
",
        &[
            ("LANE_SUM", lane_sum(shape.subgroups, shape.lanes)),
            ("OPTIONAL", optional),
            ("DECODER", chunk.functions()),
            ("WEIGHT", if chunk.vectors { "vec4<u32>".into() } else { "u32".into() }),
            ("CHUNK_UNITS", (chunk.quads / 8).to_string()),
            ("ACTIVATION", activation(shape.epilogue)),
            ("WORKGROUP", (shape.lanes * shape.groups).to_string()),
            ("GROUPS", shape.groups.to_string()),
            ("GROUP", group.into()),
            ("SUBGROUP", if shape.subgroups { " + subgroup".into() } else { String::new() }),
            ("BATCH", shape.batch_rows.to_string()),
            ("LANES", shape.lanes.to_string()),
            ("ROW_BASES", row_bases(shape, &chunk)),
            ("ACCUMULATORS", accumulators(shape)),
            ("STAGED", if shape.staged { " staged".into() } else { String::new() }),
            ("NAME", shape.format.name().into()),
            ("EPILOGUE", shape.epilogue.name().into()),
            ("STAGE", if shape.staged { stage(shape, &chunk) } else { String::new() }),
            ("LOOP", if shape.staged { staged_loop(shape, &chunk) } else { direct_loop(shape, &chunk) }),
            ("SCALES", scales(shape)),
            ("STORES", stores(shape)),
        ],
    )
}

/// Every lane reads the input of its chunk where it lies, the part of one scale at a time: with 8 rows of the batch all of
/// a chunk's input would not fit the registers.
fn direct_loop(shape: &MatvecShape, chunk: &Chunk) -> String {
    let mut text = format!("  for (var c = lane; c * {}u < p.units; c += {}u) {{\n", chunk.quads / 8, shape.lanes);
    for r in 0..shape.weight_rows {
        text.push_str(&chunk.load(r));
    }
    for g in 0..chunk.scales() {
        if shape.norm {
            for i in quads(chunk, g) {
                let _ = writeln!(text, "    let norm{i} = norm_weight[{}];", chunk.input_quad(i));
            }
        }
        for m in 0..shape.batch_rows {
            text.push_str(&loads(shape, chunk, g, m));
            for r in 0..shape.weight_rows {
                let _ = writeln!(text, "    sum{r}_{m} += {};", term(chunk, r, m, g));
            }
        }
    }
    text + "  }"
}

/// Workgroup memory for the input of a turn, which is a chunk for every lane: `[chunk][quad, padded]`.
fn stage(shape: &MatvecShape, chunk: &Chunk) -> String {
    let quads = shape.lanes as usize * (chunk.quads + 1);
    format!("var<workgroup> xs: array<vec4<f32>, {quads}>;\nvar<workgroup> squares: array<f32, {}>;\n", shape.groups)
}

/// In turns of a chunk a lane, the workgroup reads the input side by side, and each lane takes its own from workgroup
/// memory.
fn staged_loop(shape: &MatvecShape, chunk: &Chunk) -> String {
    let (lanes, quads) = (shape.lanes as usize, chunk.quads);
    let threads = lanes * shape.groups as usize;
    let mut fetch = String::new();
    for (k, first) in (0..lanes * quads).step_by(threads).enumerate() {
        let _ = writeln!(fetch, "    let i{k} = t + {first}u;");
        let _ = writeln!(fetch, "    let at{k} = turn * {}u + i{k};", lanes * quads);
        let _ = writeln!(fetch, "    let inside{k} = i{k} < {}u && at{k} < p.units * 8u;", lanes * quads);
        let _ = writeln!(fetch, "    var v{k} = vec4<f32>(0.0);");
        let _ = writeln!(fetch, "    if (inside{k}) {{ v{k} = x[x0_base + at{k}]; }}");
        if shape.norm {
            let _ = writeln!(fetch, "    square0 += dot(v{k}, v{k});");
            let _ = writeln!(fetch, "    if (inside{k}) {{ v{k} *= norm_weight[at{k}]; }}");
        }
    }
    let mut keep = String::new();
    for k in 0..(lanes * quads).div_ceil(threads) {
        let _ = writeln!(keep, "    if (i{k} < {}u) {{ xs[i{k} + i{k} / {quads}u] = v{k}; }}", lanes * quads);
    }
    let mut load = String::new();
    for i in 0..quads {
        let _ = writeln!(load, "      let at0_{i} = {} - turn * {}u;", chunk.input_quad(i), lanes * quads);
        let _ = writeln!(load, "      let x0_{i} = xs[at0_{i} + at0_{i} / {quads}u];");
    }
    if chunk.has_minimum {
        (0..chunk.scales()).for_each(|g| load.push_str(&total(chunk, 0, g)));
    }
    format!(
        "  for (var turn = 0u; turn * {}u < p.units; turn += 1u) {{
{fetch}    workgroupBarrier();
{keep}    workgroupBarrier();
    let c = turn * {lanes}u + lane;
    if (c * {}u < p.units) {{
{load}{}    }}
  }}",
        lanes * quads / 8,
        quads / 8,
        body(shape, chunk)
    )
}

/// WGSL of `fn act(v: f32) -> f32`, for the epilogue that needs it.
pub(super) fn activation_function(activation: Activation) -> &'static str {
    match activation {
        Activation::Silu => "fn act(v: f32) -> f32 { return v / (1.0 + exp(-v)); }\n",
        // tanh of a large argument overflows to NaN on some drivers: beyond +-10 it is +-1 to the last bit.
        Activation::GeluTanh => {
            "fn act(v: f32) -> f32 {
  let t = clamp(0.7978845608028654 * (v + 0.044715 * v * v * v), -10.0, 10.0);
  return 0.5 * v * (1.0 + tanh(t));
}
"
        }
    }
}

pub(super) fn activation(epilogue: Epilogue) -> String {
    match epilogue {
        Epilogue::Gate(activation) => activation_function(activation).into(),
        Epilogue::Store | Epilogue::Add => String::new(),
    }
}

/// Index of each weight row of the group, in what the weights are bound as. Rows past the end read the last row, and are not stored.
pub(super) fn row_bases(shape: &MatvecShape, chunk: &Chunk) -> String {
    let mut text = String::new();
    let stride = if chunk.vectors { "(p.row_words >> 2u)" } else { "p.row_words" };
    let at = if chunk.vectors { "(p.weights_at >> 2u)" } else { "p.weights_at" };
    let gate = matches!(shape.epilogue, Epilogue::Gate(_));
    let pairs = if gate { shape.weight_rows / 2 } else { shape.weight_rows };
    for r in 0..pairs {
        let _ = writeln!(text, "  let row{r} = group * {pairs}u + {r}u;");
        let _ = writeln!(text, "  let base{r} = {at} + min(row{r}, p.rows - 1u) * {stride};");
        if gate {
            let up = pairs + r;
            let _ = writeln!(text, "  let base{up} = {at} + (min(row{r}, p.rows - 1u) + p.up_offset) * {stride};");
        }
    }
    text
}

fn accumulators(shape: &MatvecShape) -> String {
    let mut text = String::new();
    for m in 0..shape.batch_rows {
        let _ = writeln!(text, "  let x{m}_base = min(batch0 + {m}u, batch_end - 1u) * p.x_stride;");
        if shape.norm {
            let _ = writeln!(text, "  var square{m} = 0.0;");
        }
        for r in 0..shape.weight_rows {
            let _ = writeln!(text, "  var sum{r}_{m} = 0.0;");
        }
    }
    text
}

/// The inputs that meet scale `g`, for row `m` of the batch.
fn loads(shape: &MatvecShape, chunk: &Chunk, g: usize, m: u32) -> String {
    let mut text = String::new();
    for i in quads(chunk, g) {
        let at = chunk.input_quad(i);
        if shape.norm {
            let _ = writeln!(text, "    let r{m}_{i} = x[x{m}_base + {at}];");
            let _ = writeln!(text, "    let x{m}_{i} = r{m}_{i} * norm{i};");
        } else {
            let _ = writeln!(text, "    let x{m}_{i} = x[x{m}_base + {at}];");
        }
    }
    if shape.norm {
        let squares: Vec<String> = quads(chunk, g).map(|i| format!("dot(r{m}_{i}, r{m}_{i})")).collect();
        let _ = writeln!(text, "    square{m} += {};", squares.join(" + "));
    }
    if chunk.has_minimum {
        text.push_str(&total(chunk, m, g));
    }
    text
}

/// Sum of the inputs that share minimum `g`.
fn total(chunk: &Chunk, m: u32, g: usize) -> String {
    let inputs: Vec<String> = quads(chunk, g).map(|i| format!("x{m}_{i}")).collect();
    format!("    let total{m}_{g} = dot({}, vec4<f32>(1.0));\n", inputs.join(" + "))
}

/// The quads of scale `g`.
fn quads(chunk: &Chunk, g: usize) -> std::ops::Range<usize> {
    g * chunk.quads_per_scale..(g + 1) * chunk.quads_per_scale
}

/// What the quads of scale `g` add to the sum of weight row `r` and batch row `m`.
fn term(chunk: &Chunk, r: u32, m: u32, g: usize) -> String {
    let dots: Vec<String> = quads(chunk, g).map(|i| format!("dot(q{r}_{i}, x{m}_{i})")).collect();
    let minimum = if chunk.has_minimum { format!(" - m{r}_{g} * total{m}_{g}") } else { String::new() };
    format!("s{r}_{g} * ({}){minimum}", dots.join(" + "))
}

/// All that a chunk adds to the sums of one row of the batch, whose inputs are there already.
fn body(shape: &MatvecShape, chunk: &Chunk) -> String {
    let mut text = String::new();
    for r in 0..shape.weight_rows {
        text.push_str(&chunk.load(r));
        let terms: Vec<String> = (0..chunk.scales()).map(|g| term(chunk, r, 0, g)).collect();
        let _ = writeln!(text, "    sum{r}_0 += {};", terms.join(" + "));
    }
    text
}

/// `scale{m}`: 1 / rms of row `m` of the batch.
fn scales(shape: &MatvecShape) -> String {
    let mut text = String::new();
    for m in 0..if shape.norm { shape.batch_rows } else { 0 } {
        if shape.staged {
            // Here the lanes of all groups share one row.
            let all: Vec<String> = (0..shape.groups).map(|group| format!("squares[{group}u]")).collect();
            let _ = writeln!(
                text,
                "  let squares_here = lane_sum(square0, lane);
  if (lane == 0u) {{ squares[subgroup] = squares_here; }}
  workgroupBarrier();
  let scale0 = inverseSqrt(({}) * p.inverse_width + p.eps);",
                all.join(" + ")
            );
        } else {
            let _ =
                writeln!(text, "  let scale{m} = inverseSqrt(lane_sum(square{m}, lane) * p.inverse_width + p.eps);");
        }
    }
    text
}

/// Adds the lanes' sums, times `scale{m}` where the shape has a norm, and stores them.
pub(super) fn stores(shape: &MatvecShape) -> String {
    let mut text = String::new();
    for m in 0..shape.batch_rows {
        for r in 0..shape.weight_rows {
            let factor = if shape.norm { format!(" * scale{m}") } else { String::new() };
            let _ = writeln!(text, "  let total{r}_{m} = lane_sum(sum{r}_{m}, lane){factor};");
        }
    }
    let _ = writeln!(text, "  if (lane == 0u) {{");
    let gate = matches!(shape.epilogue, Epilogue::Gate(_));
    let outputs = if gate { shape.weight_rows / 2 } else { shape.weight_rows };
    for m in 0..shape.batch_rows {
        for r in 0..outputs {
            let with_bias = |value: String, row: &str| {
                if shape.bias { format!("({value} + bias[{row}])") } else { value }
            };
            let at = format!("(batch0 + {m}u) * p.y_stride + p.first_output + row{r}");
            let first = format!("p.first_output + row{r}");
            let store = match shape.epilogue {
                Epilogue::Store => format!("y[{at}] = {};", with_bias(format!("total{r}_{m}"), &first)),
                Epilogue::Add => format!("y[{at}] += {};", with_bias(format!("total{r}_{m}"), &first)),
                Epilogue::Gate(_) => format!(
                    "y[{at}] = act({}) * {};",
                    with_bias(format!("total{r}_{m}"), &first),
                    with_bias(format!("total{}_{m}", outputs + r), &format!("{first} + p.up_offset"))
                ),
            };
            let _ = writeln!(text, "    if (row{r} < p.rows && batch0 + {m}u < batch_end) {{ {store} }}");
        }
    }
    let _ = write!(text, "  }}");
    text
}
