//! One row times a weight matrix by packed 8-bit dot products: the kernel of decode for a single sequence, bound by the bytes of
//! the weights.
//!
//! There are as many workgroups as the device has room for. Each makes the bytes of the row itself, in workgroup memory
//! (see [`super::dots`]), and then its subgroups take outputs, [`SingleShape::outputs`] at a time, until none is left. What a
//! lane needs next of the weights, for these outputs or the next, is on its way while it multiplies: the first before the bytes
//! are made. A matrix may have parts in several formats; the subgroups that are done with one go on with the next.

use std::fmt::Write;

use tensor::Format;

use super::chunk::Chunk;
use super::dots::{BYTES, MOST, factor, inputs, piece_index, pieces, places, terms};
use super::fill;
use super::matvec::{Epilogue, activation};

/// Most parts of a matrix that one dispatch multiplies.
pub(crate) const MOST_PARTS: usize = 4;

/// One variant of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SingleShape {
    /// Of each part of the matrix, [`MOST_PARTS`] at most; each one that [`super::has_dots`]. One with [`Epilogue::Gate`].
    pub(crate) formats: Vec<Format>,
    /// Units of the row.
    pub(crate) units: usize,
    /// Outputs that a subgroup computes at a time; even for [`Epilogue::Gate`].
    pub(crate) outputs: u32,
    /// What a lane needs next is on its way while it multiplies.
    pub(crate) ahead: bool,
    pub(crate) norm: bool,
    pub(crate) bias: bool,
    pub(crate) epilogue: Epilogue,
    /// Lanes of a subgroup.
    pub(crate) lanes: u32,
    /// Subgroups of a workgroup.
    pub(crate) groups: u32,
}

impl SingleShape {
    /// Bytes of workgroup memory.
    pub(crate) fn workgroup_bytes(units: usize, lanes: u32, groups: u32) -> usize {
        40 * places(units, lanes) + 4 * groups as usize
    }

    /// Rows of a part's gate, or of all its outputs, that a subgroup takes at a time.
    pub(crate) fn rows(&self, part: usize) -> u32 {
        if self.is_gate() { self.outputs / 2 } else { self.weight_rows(part) }
    }

    /// Rows of weights for these: half as many of those formats whose vectors would fill the registers.
    fn weight_rows(&self, part: usize) -> u32 {
        let heavy = matches!(self.formats[part], Format::Q5_K | Format::Q6_K);
        if heavy && !self.is_gate() { (self.outputs / 2).max(1) } else { self.outputs }
    }

    fn is_gate(&self) -> bool {
        matches!(self.epilogue, Epilogue::Gate(_))
    }
}

/// What the kernel is told of a part, behind what it is told of all.
pub(crate) const PART_WORDS: usize = 5;

/// Grid: (workgroups). Parameters: norm epsilon, 1 / width, weight rows between gate and up; then of each part words between
/// weight rows, words before a row's blocks, weight rows (outputs), index of the first output in y, word of the first weight
/// row. Bindings: 0 weights, 1 x, 2 y, then the weights of further parts, norm weight and bias, where there are any.
pub(crate) fn single(shape: &SingleShape) -> String {
    let names: Vec<&str> = shape.formats.iter().map(|format| format.name()).collect();
    let chunks: Vec<Chunk> = shape.formats.iter().map(|format| Chunk::new(*format)).collect();
    let (mut params, mut optional, mut bodies) = (String::new(), String::new(), String::new());
    let mut binding = 3..;
    let mut bind = |optional: &mut String, what: &str| {
        let binding = binding.next().expect("few bindings");
        let _ = writeln!(optional, "@group(0) @binding({binding}) var<storage, read> {what};");
    };
    for (part, chunk) in chunks.iter().enumerate() {
        let _ = writeln!(
            params,
            "  row_words{part}: u32, header_words{part}: u32, rows{part}: u32, first_output{part}: u32, weights_at{part}: u32,"
        );
        if part > 0 {
            bind(&mut optional, &format!("w{part}: array<vec4<u32>>"));
        }
        bodies.push_str(&self::part(shape, chunk, part));
    }
    for (wanted, what) in [(shape.norm, "norm_weight: array<vec4<f32>>"), (shape.bias, "bias: array<f32>")] {
        if wanted {
            bind(&mut optional, what);
        }
    }
    fill(
        "// single $NAMES $EPILOGUE
$PIECES$BYTES
struct Params {
  eps: f32, inverse_width: f32, up_offset: u32,
$PARAMS}
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> w: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> x: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
$OPTIONAL
var<workgroup> xs: array<vec4<u32>, $WORDS>;
var<workgroup> scales: array<vec2<f32>, $PLACES>;
var<workgroup> parts: array<f32, $GROUPS>;
$DECODER$ACTIVATION
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) subgroup: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
  // Neighbours in one workgroup would all be among those that have one more turn.
  let group = subgroup * grid.x + wg.x;
  let groups = grid.x * $GROUPSu;
  let places = $PLACESu;
  var squares = 0.0;
$LOAD_ROW$FIRST$MAKE_BYTES$FACTOR$BODIES}
",
        &[
            ("NAMES", names.join("+")),
            ("EPILOGUE", shape.epilogue.name().into()),
            ("PIECES", piece_index(shape.lanes)),
            ("BYTES", BYTES.into()),
            ("PARAMS", params),
            ("OPTIONAL", optional),
            ("WORDS", (2 * places(shape.units, shape.lanes)).to_string()),
            ("PLACES", places(shape.units, shape.lanes).to_string()),
            ("GROUPS", shape.groups.to_string()),
            ("DECODER", chunks[0].dots_functions()),
            ("ACTIVATION", activation(shape.epilogue)),
            ("THREADS", (shape.lanes * shape.groups).to_string()),
            ("FIRST", first(shape, &chunks[0], 0, "group")),
            ("LOAD_ROW", load_row(shape)),
            ("MAKE_BYTES", make_bytes(shape)),
            (
                "FACTOR",
                if shape.norm { factor(shape.groups) } else { "  workgroupBarrier();\n  let factor = 1.0;\n".into() },
            ),
            ("BODIES", bodies),
        ],
    )
}

/// Quads of the row that a thread brings.
fn quads(shape: &SingleShape) -> usize {
    (8 * shape.units).div_ceil((shape.lanes * shape.groups) as usize)
}

/// Loads the row side by side, a quad a thread at a time, and the norm's weights: all on their way at once.
fn load_row(shape: &SingleShape) -> String {
    let (threads, all) = (shape.lanes * shape.groups, 8 * shape.units as u32);
    let mut text = String::new();
    for k in 0..quads(shape) as u32 {
        // Behind the end of the row its end comes again, and is not kept.
        let _ = writeln!(text, "  let at{k} = min(t + {}u, {}u);\n  var v{k} = x[at{k}];", k * threads, all - 1);
        if shape.norm {
            let _ = writeln!(text, "  let n{k} = norm_weight[at{k}];");
        }
    }
    text
}

/// Makes bytes of it, as [`super::dots::to_bytes`] does: the four lanes that have a piece agree on its scale.
fn make_bytes(shape: &SingleShape) -> String {
    let (threads, all) = (shape.lanes * shape.groups, 8 * shape.units as u32);
    let mut text = String::new();
    for k in 0..quads(shape) as u32 {
        let inside = match (k + 1) * threads > all {
            true => format!("t + {}u < {all}u", k * threads),
            false => "true".into(),
        };
        let norm = match shape.norm {
            true => format!("    squares += select(0.0, dot(v{k}, v{k}), {inside});\n    v{k} *= n{k};\n"),
            false => String::new(),
        };
        let _ = write!(
            text,
            "  {{
{norm}    let own = greatest(abs(v{k}));
    let pair = max(own, subgroupShuffleXor(own, 1u));
    let most = max(pair, subgroupShuffleXor(pair, 2u));
    let inverse = select(0.0, {MOST}.0 / most, most > 1e-30);
    let bytes = two_bytes(v{k} * inverse);
    let high = bytes.x;
    let low = bytes.y;
    let sum = (dot4I8Packed(high, 0x01010101u) << 7u) + dot4I8Packed(low, 0x01010101u);
    let sums = sum + subgroupShuffleXor(sum, 1u);
    let total = sums + subgroupShuffleXor(sums, 2u);
    if ({inside}) {{
      let at = piece_at(at{k} >> 2u);
      xs[at][t & 3u] = high;
      xs[places + at][t & 3u] = low;
      if ((t & 3u) == 0u) {{ scales[at] = (most / {MOST}.0) * vec2<f32>(1.0, f32(total)); }}
    }}
  }}
"
        );
    }
    text
}

/// The names of part `part`'s weights and parameters in text that speaks of the first part's.
fn of_part(text: &str, part: usize) -> String {
    let text = text.replace("p.header_words", &format!("p.header_words{part}"));
    if part == 0 { text } else { text.replace("w[", &format!("w{part}[")) }
}

/// Chunks of a row.
fn chunks(shape: &SingleShape, chunk: &Chunk) -> usize {
    shape.units.div_ceil(chunk.quads / 8)
}

/// Declares the vectors of a lane's first chunk of task `task`, and fetches them.
fn first(shape: &SingleShape, chunk: &Chunk, part: usize, task: &str) -> String {
    let mut text = String::new();
    for r in 0..shape.weight_rows(part) {
        for i in 0..chunk.places(r).len() {
            let _ = writeln!(text, "  var raw{r}_{i} = vec4<u32>();");
        }
    }
    format!(
        "{text}  if ({task} * {}u < p.rows{part} && lane < {}u) {{
    let task = {task};
    let c = lane;
{}  }}
",
        shape.rows(part),
        chunks(shape, chunk),
        fetch(shape, chunk, part, "raw")
    )
}

/// Fetches the vectors of chunk `c` of task `task` to `name{r}_{i}`.
fn fetch(shape: &SingleShape, chunk: &Chunk, part: usize, name: &str) -> String {
    let rows = shape.rows(part);
    let mut text = String::new();
    for r in 0..shape.weight_rows(part) {
        let up = if r >= rows { " + p.up_offset" } else { "" };
        // Behind the last row comes that again, and is not stored.
        let _ = writeln!(
            text,
            "    let base{r} = (p.weights_at{part} >> 2u) + (min(task * {rows}u + {}u, p.rows{part} - 1u){up}) * (p.row_words{part} >> 2u);",
            r % rows
        );
        for (i, place) in chunk.places(r).iter().enumerate() {
            let _ = writeln!(text, "    {name}{r}_{i} = w[{place}];");
        }
    }
    of_part(&text, part)
}

/// All outputs of a part.
fn part(shape: &SingleShape, chunk: &Chunk, part: usize) -> String {
    let (rows, all) = (shape.rows(part), shape.weight_rows(part));
    let lines = |line: &dyn Fn(u32, usize) -> String| {
        (0..all).flat_map(|r| (0..chunk.places(r).len()).map(move |i| line(r, i))).collect::<String>()
    };
    let mut multiply: String = (0..all).map(|r| of_part(&chunk.unpack_bytes(r), part)).collect();
    multiply.push_str(&pieces(chunk));
    multiply.push_str(&inputs(chunk, 0, "", ""));
    for r in 0..all {
        let _ = writeln!(multiply, "    sum{r} += {};", terms(chunk, r, 0));
    }
    let begin = match part {
        0 => "  var task = group;\n".into(),
        // Those go first that had a turn less in the parts before.
        _ => format!(
            "  let before{part} = {};
  var task = (group + groups - before{part} % groups) % groups;
{}",
            (0..part)
                .map(|before| format!("(p.rows{before} + {}u) / {rows}u", rows - 1))
                .collect::<Vec<_>>()
                .join(" + "),
            first(shape, chunk, part, "task")
        ),
    };
    // The vectors of the next chunk, or of the first of the next task.
    let fetch = format!(
        "    let more = c + {lanes}u < {chunks}u;
    let task_ahead = select(task + groups, task, more);
    let c_ahead = select(lane, c + {lanes}u, more);
    if (task_ahead * {rows}u < p.rows{part}) {{
    let task = task_ahead;
    let c = c_ahead;
{}    }}
",
        fetch(shape, chunk, part, if shape.ahead { "next" } else { "raw" }),
        lanes = shape.lanes,
        chunks = chunks(shape, chunk),
    );
    let turn = match shape.ahead {
        true => format!(
            "{}{fetch}{multiply}{}",
            lines(&|r, i| format!("    var next{r}_{i} = raw{r}_{i};\n")),
            lines(&|r, i| format!("    raw{r}_{i} = next{r}_{i};\n"))
        ),
        false => multiply + &fetch,
    };
    format!(
        "  {{
{begin}  for (; task * {rows}u < p.rows{part}; task += groups) {{
{sums}{old}    for (var c = lane; c < {chunks}u; c += {lanes}u) {{
{turn}    }}
{store}  }}
  }}
",
        chunks = chunks(shape, chunk),
        lanes = shape.lanes,
        sums = (0..all).map(|r| format!("    var sum{r} = 0.0;\n")).collect::<String>(),
        old = old(shape, part),
        store = store(shape, part),
    )
}

/// Index in y of row `r` of a task.
fn output(shape: &SingleShape, part: usize, r: u32) -> String {
    format!("p.first_output{part} + min(task * {}u + {r}u, p.rows{part} - 1u)", shape.rows(part))
}

/// What y has before, where sums are added to it: on its way while they are made.
fn old(shape: &SingleShape, part: usize) -> String {
    let row = |r| format!("    let old{r} = y[{}];\n", output(shape, part, r));
    if shape.epilogue == Epilogue::Add { (0..shape.rows(part)).map(row).collect() } else { String::new() }
}

/// Adds the lanes' sums and stores them.
fn store(shape: &SingleShape, part: usize) -> String {
    let rows = shape.rows(part);
    let mut text = String::new();
    for r in 0..shape.weight_rows(part) {
        let up = if r >= rows { " + p.up_offset" } else { "" };
        let bias = match shape.bias {
            true => format!(" + bias[{}{up}]", output(shape, part, r % rows)),
            false => String::new(),
        };
        let _ = writeln!(text, "    let total{r} = subgroupAdd(sum{r}) * factor{bias};");
    }
    for r in 0..rows {
        let value = match shape.epilogue {
            Epilogue::Store => format!("total{r}"),
            Epilogue::Add => format!("old{r} + total{r}"),
            Epilogue::Gate(_) => format!("act(total{r}) * total{}", rows + r),
        };
        let _ = writeln!(
            text,
            "    if (lane == {r}u % {}u && task * {rows}u + {r}u < p.rows{part}) {{ y[{}] = {value}; }}",
            shape.lanes,
            output(shape, part, r)
        );
    }
    text
}
