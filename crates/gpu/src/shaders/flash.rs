//! Attention of prefill by cooperative matrices: many rows share each reading of keys and values.
//!
//! A workgroup serves a tile of consecutive rows of the batch and all query heads of one KV head, 16 rows a subgroup, a row
//! being a query head of a row of the batch. It walks the history once, a few keys a turn: keys and values come through
//! workgroup memory as f16, the next ones on their way from memory while a turn computes; Q stays in registers (up to a
//! head size of 128), and so do the sums. Rows of several sequences may meet in a tile: it walks the pages of one after the
//! other, and masks the rows of the rest.
//!
//! Cooperative matrices cannot be scaled row by row, as an online softmax has to. So weights are 2^(score - reference) with
//! a reference that need not be the greatest score: it moves only when that has grown by more than [`FLASH_SLACK`], which is
//! rare after the first keys of a row. Then the sums go through workgroup memory once, in f32.
//!
//! By counting, for a head size of 128 and a turn of 32 keys: a subgroup multiplies 32 times 16x16x16 (262,144 operations)
//! and reads 16 KiB of keys and values from workgroup memory; its scores and weights move 6 KiB there. From global memory,
//! the cache mostly, come 16 KiB a turn for all four subgroups: 64 operations a byte, where two walks without workgroup
//! memory had 11.
//!
//! For f16 pages and head sizes that are whole matrices, where the lanes are enough for the head: with subgroups of 8, as software
//! Vulkan has them, up to 64. (A thread would move more than registers hold, and LLVM took minutes over the text.)

use std::fmt::Write;

use super::attention::PARAMS;
use super::fill;

/// Rows of a subgroup.
const SUBGROUP_ROWS: usize = 16;

/// Most quads of a turn's keys, and as many of values, that a thread moves: each is in a register on its way.
const MOST_QUADS: usize = 16;

/// Padding of lines in workgroup memory, in values: 16 bytes of f16 or f32, so that lanes spread over the banks.
const PAD_HALVES: usize = 8;
const PAD_FLOATS: usize = 4;

/// By how much the greatest score may exceed the reference, as an exponent of two: weights stay below 2^8, far inside f16.
pub(crate) const FLASH_SLACK: f32 = 8.0;

/// One variant of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlashShape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) soft_cap: bool,
    /// Of a cooperative matrix: 8 or 16.
    pub(crate) edge: usize,
    pub(crate) subgroup_size: u32,
}

impl FlashShape {
    /// Whether there is a kernel for these sizes.
    pub(crate) fn exists(self) -> bool {
        self.head_dim.is_multiple_of(16)
            && self.head_dim <= 256
            && self.group() <= self.tile_rows()
            && (8..=64).contains(&self.subgroup_size)
            && self.turn_quads().div_ceil(self.threads()) <= MOST_QUADS
    }

    /// Rows of the batch in a tile.
    pub(crate) fn batch_rows(self) -> usize {
        self.tile_rows() / self.group()
    }

    /// Query heads of a KV head.
    fn group(self) -> usize {
        self.heads / self.kv_heads
    }

    /// Whether Q stays in registers, and keys and values have workgroup memory of their own; else Q takes their place there,
    /// and they take turns.
    fn roomy(self) -> bool {
        self.head_dim <= 128
    }

    /// Rows of a tile, query heads counted. With [`FlashShape::keys`], what fits 32 KiB of workgroup memory.
    fn tile_rows(self) -> usize {
        if self.roomy() { 64 } else { 32 }
    }

    /// Keys of a turn.
    fn keys(self) -> usize {
        if self.roomy() { 32 } else { 16 }
    }

    /// Lanes that share a row's keys.
    fn parts(self) -> usize {
        (self.subgroup_size as usize / SUBGROUP_ROWS).max(1)
    }

    /// Rows whose scores a lane looks through.
    fn lane_rows(self) -> usize {
        (SUBGROUP_ROWS / self.subgroup_size as usize).max(1)
    }

    /// Quads of the keys of a turn.
    fn turn_quads(self) -> usize {
        self.keys() * self.head_dim / 4
    }

    fn threads(self) -> usize {
        self.tile_rows() / SUBGROUP_ROWS * self.subgroup_size as usize
    }

    /// Halves of an element of workgroup memory: Metal's matrices are loaded from scalars, others faster from vectors. (Floats
    /// are scalars everywhere: through vectors an NVIDIA card got them wrong.)
    fn element(self) -> usize {
        if self.edge == 8 { 1 } else { 4 }
    }

    /// Values from line to line of keys, values and queries.
    fn line(self) -> usize {
        self.head_dim + PAD_HALVES
    }

    fn score_line(self) -> usize {
        self.keys() + PAD_FLOATS
    }

    fn weight_line(self) -> usize {
        self.keys() + PAD_HALVES
    }

    /// Blocks of matrices: rows of a subgroup, keys of a turn, dimensions of a head.
    fn blocks(self) -> [usize; 3] {
        [SUBGROUP_ROWS / self.edge, self.keys() / self.edge, self.head_dim / self.edge]
    }

    /// The type of a cooperative matrix.
    fn matrix(self, scalar: &str, role: &str) -> String {
        format!("coop_mat{0}x{0}<{scalar}, {role}>", self.edge)
    }
}

/// Grid: (kv_heads, tiles). Parameters as for [`super::attend`]. Bindings: 0 qkv, 1 step, 2 K pages, 3 V pages (f16 both), 4 o.
pub(crate) fn flash(shape: &FlashShape) -> String {
    let (line, keys, rows) = (shape.line(), shape.keys(), shape.tile_rows());
    let element = shape.element();
    // Q goes through the memory of keys and values where it fits that.
    let kv_lines = if shape.roomy() { rows.max(2 * keys) } else { rows + keys };
    let [keys_at, values_at] = if shape.roomy() { [0, keys * line / 4] } else { [rows * line / 4; 2] };
    let fetch = |from: &str, declare: &str| {
        each_quad(shape, |quad| {
            format!("        {declare}next_{from}{} = {from}_pages[page + {}];\n", quad.number, quad.source)
        })
    };
    let keep = |from: &str, first: usize| {
        each_quad(shape, |quad| {
            // What lies behind the end of a history may be anything, and times a weight of zero not zero.
            let value = match from {
                "v" => format!("select(vec4<f16>(), next_v{}, key0 + {} < end)", quad.number, quad.line),
                _ => format!("next_{from}{}", quad.number),
            };
            format!("        {}{{ keep({first}u + {}, {value}); }}\n", quad.guard, quad.place)
        })
    };
    fill(
        &TEMPLATE
            .replace("$HALVES", if element == 1 { HALVES_BY_SCALARS } else { HALVES_BY_VECTORS })
            .replace("$SOFTMAX", &softmax(shape))
            .replace("$LANE_ROWS", &each_row(shape, LANE_ROW))
            .replace("$LANE_ENDS", &each_row(shape, LANE_END)),
        &[
            ("PARAMS", PARAMS.into()),
            ("UNIT", if shape.soft_cap { "1.0".into() } else { LOG2_E.into() }),
            ("HALF", if element == 1 { "f16" } else { "vec4<f16>" }.into()),
            ("KV", (kv_lines * line / element).to_string()),
            ("SCORES", (rows * shape.score_line()).to_string()),
            ("WEIGHTS", (rows * shape.weight_line() / element).to_string()),
            ("SCORE_QUADS", (rows * shape.score_line() / 4).to_string()),
            ("THREADS", shape.threads().to_string()),
            ("BATCH_ROWS", shape.batch_rows().to_string()),
            ("USED_ROWS", (shape.batch_rows() * shape.group()).to_string()),
            ("ROWS_QUADS", (rows * shape.head_dim / 4).to_string()),
            ("QUADS", (shape.head_dim / 4).to_string()),
            ("LINE", (line / 4).to_string()),
            ("GROUP", shape.group().to_string()),
            ("KEYS", keys.to_string()),
            ("KV_HEADS", shape.kv_heads.to_string()),
            ("PAGE_QUADS", (tensor::PAGE_TOKENS * shape.head_dim / 4).to_string()),
            ("PAGE_TOKENS", tensor::PAGE_TOKENS.to_string()),
            ("LOAD_QUERIES", if shape.roomy() { queries(shape, "  ") } else { String::new() }),
            ("ZERO", zero(shape)),
            ("DECLARE_KEYS", fetch("k", "var ")),
            ("FETCH_KEYS", fetch("k", "")),
            ("FETCH_VALUES", fetch("v", "let ")),
            ("KEEP_FIRST_KEYS", keep("k", keys_at)),
            (
                "KEEP_KEYS",
                format!("{}{}", if shape.roomy() { "" } else { "        workgroupBarrier();\n" }, keep("k", keys_at)),
            ),
            ("KEEP_VALUES", keep("v", values_at)),
            ("MULTIPLY_SCORES", scores(shape, keys_at)),
            ("RESCALE", rescale(shape)),
            ("MULTIPLY_VALUES", values(shape, values_at)),
            ("STORE", store(shape)),
        ],
    )
}

const LOG2_E: &str = "1.4426950408889634";

const TEMPLATE: &str = "// flash attend
enable f16;
enable wgpu_cooperative_matrix;
$PARAMS@group(0) @binding(0) var<storage, read> qkv: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> k_pages: array<vec4<f16>>;
@group(0) @binding(3) var<storage, read> v_pages: array<vec4<f16>>;
@group(0) @binding(4) var<storage, read_write> o: array<vec4<f32>>;
var<workgroup> kv: array<$HALF, $KV>; // [row or key][dim, padded]
var<workgroup> ss: array<f32, $SCORES>; // [row][key, padded]; sums, [row][dim, padded], where they are rescaled or stored
var<workgroup> ps: array<$HALF, $WEIGHTS>; // [row][key, padded]
var<workgroup> rescales: vec4<u32>; // x is used; smaller, it might take matrices beside it out of their alignment
$HALVES@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) sg: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
  // The tiles with the longest histories first.
  let tile_row = (grid.y - 1u - wg.y) * $BATCH_ROWSu;
  let rows_end = min(tile_row + $BATCH_ROWSu, step[0]);
  if (tile_row >= rows_end) { return; }
  for (var i = t; i < $ROWS_QUADSu; i += $THREADSu) {
    let r = i / $QUADSu;
    let row = min(tile_row + r / $GROUPu, rows_end - 1u);
    let q = qkv[row * (p.stride / 4u) + (wg.x * $GROUPu + r % $GROUPu) * $QUADSu + i % $QUADSu] * (p.scale * $UNIT);
    keep(r * $LINEu + i % $QUADSu, vec4<f16>(clamp(q, vec4<f32>(-65504.0), vec4<f32>(65504.0))));
  }
  for (var i = t; i < $SCORE_QUADSu; i += $THREADSu) { keep_score(i, vec4<f32>(0.0)); }
  workgroupBarrier();
$ZERO$LOAD_QUERIES  workgroupBarrier();
$LANE_ROWS
  var first_row = tile_row;
  while (first_row < rows_end) {
    let seq = step[p.seqs_at + first_row];
    var last_row = first_row;
    while (last_row + 1u < rows_end && step[p.seqs_at + last_row + 1u] == seq) { last_row += 1u; }
    let table = p.tables_at + (seq * p.groups + p.group) * p.table_stride;
    let first = step[p.positions_at + first_row];
    let start = select(0u, first + 1u - p.window, first + 1u > p.window) / $KEYSu * $KEYSu;
    let end = step[p.positions_at + last_row] + 1u;
$LANE_ENDS
    {
      let page = page_of(table, wg.x, start);
$DECLARE_KEYS$KEEP_FIRST_KEYS
    for (var key0 = start; key0 < end; key0 += $KEYSu) {
      workgroupBarrier();
      {
        let page = page_of(table, wg.x, key0);
$FETCH_VALUES
$MULTIPLY_SCORES
        if (t == 0u) { rescales.x = 0u; }
        workgroupBarrier();
$KEEP_VALUES      }
$SOFTMAX
      workgroupBarrier();
      {
        let page = page_of(table, wg.x, select(key0, key0 + $KEYSu, key0 + $KEYSu < end));
$FETCH_KEYS
        if (rescales.x != 0u) {
$RESCALE        }
$MULTIPLY_VALUES
$KEEP_KEYS      }
    }
    }
    workgroupBarrier();
    first_row = last_row + 1u;
  }
$STORE
}
fn keep_score(at: u32, v: vec4<f32>) {
  ss[4u * at] = v.x; ss[4u * at + 1u] = v.y; ss[4u * at + 2u] = v.z; ss[4u * at + 3u] = v.w;
}
fn score(at: u32) -> vec4<f32> { return vec4<f32>(ss[4u * at], ss[4u * at + 1u], ss[4u * at + 2u], ss[4u * at + 3u]); }
// Of a page's keys or values, the first quad for KV head `head` and the token at `position`.
fn page_of(table: u32, head: u32, position: u32) -> u32 {
  return (step[table + position / $PAGE_TOKENSu] * $KV_HEADSu + head) * $PAGE_QUADSu
    + (position % $PAGE_TOKENSu) * $QUADSu;
}
";

/// Quads of halves in workgroup memory, by their index.
const HALVES_BY_VECTORS: &str = "fn keep(at: u32, v: vec4<f16>) { kv[at] = v; }
fn keep_weight(at: u32, v: vec4<f16>) { ps[at] = v; }
";

const HALVES_BY_SCALARS: &str = "fn keep(at: u32, v: vec4<f16>) {
  kv[4u * at] = v.x; kv[4u * at + 1u] = v.y; kv[4u * at + 2u] = v.z; kv[4u * at + 3u] = v.w;
}
fn keep_weight(at: u32, v: vec4<f16>) {
  ps[4u * at] = v.x; ps[4u * at + 1u] = v.y; ps[4u * at + 2u] = v.z; ps[4u * at + 3u] = v.w;
}
";

/// Of each row `#` of a lane: where it lies, the first key that it sees, its reference, and the weights of its keys so far.
const LANE_ROW: &str = "  let r# = sg * 16u + $LANE_ROW;
  let row# = tile_row + r# / $GROUPu;
  let position# = step[p.positions_at + min(row#, rows_end - 1u)];
  let low# = select(0u, position# + 1u - p.window, position# + 1u > p.window);
  var reference# = -1e30;
  var weight# = 0.0;
  var shrink# = 1.0;
";

/// Behind the last key that a row sees of the sequence that is walked.
const LANE_END: &str =
    "    let high# = select(0u, position# + 1u, row# >= first_row && row# <= last_row && r# < $USED_ROWSu);
";

/// `text` for each row of a lane, `#` being its number.
fn each_row(shape: &FlashShape, text: &str) -> String {
    let lanes = shape.subgroup_size as usize;
    (0..shape.lane_rows())
        .map(|j| {
            let row = if shape.lane_rows() == 1 { "lane % 16u".into() } else { format!("lane + {}u", j * lanes) };
            text.replace("$LANE_ROW", &row).replace('#', &j.to_string())
        })
        .collect()
}

/// A quad of a turn's keys or values that a thread moves.
struct Quad {
    number: usize,
    /// Its key, counted from the first of the turn.
    line: String,
    /// Its offset in the page.
    source: String,
    /// Its place in workgroup memory.
    place: String,
    /// A condition, where not every thread has one.
    guard: String,
}

/// `text` for each quad of a turn's keys or values that a thread moves.
fn each_quad(shape: &FlashShape, text: impl Fn(Quad) -> String) -> String {
    let (quads, threads, line) = (shape.head_dim / 4, shape.threads(), shape.line() / 4);
    let all = shape.turn_quads();
    (0..all.div_ceil(threads))
        .map(|number| {
            let item = format!("(t + {}u)", number * threads);
            let ragged = (number + 1) * threads > all;
            text(Quad {
                number,
                line: format!("{item} / {quads}u"),
                place: format!("({item} / {quads}u) * {line}u + {item} % {quads}u"),
                guard: if ragged { format!("if ({item} < {all}u) ") } else { String::new() },
                source: if ragged { format!("min({item}, {}u)", all - 1) } else { item },
            })
        })
        .collect()
}

/// The weights of a turn's keys for each row of a lane, from its scores.
fn softmax(shape: &FlashShape) -> String {
    let (parts, quads) = (shape.parts(), shape.keys() / 4 / shape.parts());
    let mut text = String::new();
    for j in 0..shape.lane_rows() {
        let part = if parts == 1 { String::new() } else { format!(" + (lane / 16u) * {quads}u") };
        let _ = writeln!(
            text,
            "      let scores{j} = r{j} * {}u{part};\n      let weights{j} = r{j} * {}u{part};",
            shape.score_line() / 4,
            shape.weight_line() / 4
        );
        for i in 0..quads {
            let _ = writeln!(text, "      var s{j}_{i} = score(scores{j} + {i}u);");
            if shape.soft_cap {
                let _ = writeln!(
                    text,
                    "      s{j}_{i} = (p.cap * {LOG2_E}) * tanh(clamp(s{j}_{i} / p.cap, vec4<f32>(-10.0), vec4<f32>(10.0)));"
                );
            }
        }
        let _ = writeln!(text, "      if (key0 < low{j} || key0 + {}u > high{j}) {{", shape.keys());
        let first = if parts == 1 { "key0".into() } else { format!("key0 + (lane / 16u) * {}u", 4 * quads) };
        let _ = writeln!(text, "        let keys = vec4<u32>({first}) + vec4<u32>(0u, 1u, 2u, 3u);");
        for i in 0..quads {
            let _ = writeln!(
                text,
                "        let k{i} = keys + vec4<u32>({}u);
        s{j}_{i} = select(vec4<f32>(-1e30), s{j}_{i}, (k{i} >= vec4<u32>(low{j})) & (k{i} < vec4<u32>(high{j})));",
                4 * i
            );
        }
        text.push_str("      }\n");
        let most = (1..quads).fold(format!("s{j}_0"), |most, i| format!("max({most}, s{j}_{i})"));
        let _ = writeln!(
            text,
            "      let mosts{j} = {most};
      var most{j} = max(max(mosts{j}.x, mosts{j}.y), max(mosts{j}.z, mosts{j}.w));"
        );
        for part in (0..).map(|i| SUBGROUP_ROWS << i).take_while(|&step| step < SUBGROUP_ROWS * parts) {
            let _ = writeln!(text, "      most{j} = max(most{j}, subgroupShuffleXor(most{j}, {part}u));");
        }
        let _ = writeln!(
            text,
            "      shrink{j} = 1.0;
      if (most{j} > reference{j} + p.slack) {{
        shrink{j} = exp2(reference{j} - most{j});
        if (reference{j} > -1e29) {{ rescales.x = 1u; }}
        reference{j} = most{j};
        weight{j} *= shrink{j};
      }}
      // Before its first key a row has no reference.
      let from{j} = vec4<f32>(max(reference{j}, -1e29));"
        );
        for i in 0..quads {
            let _ = writeln!(
                text,
                "      let w{j}_{i} = exp2(s{j}_{i} - from{j});
      weight{j} += dot(w{j}_{i}, vec4<f32>(1.0));
      keep_weight(weights{j} + {i}u, vec4<f16>(w{j}_{i}));"
            );
        }
    }
    text
}

/// Loads the subgroup's rows of Q as matrices.
fn queries(shape: &FlashShape, indent: &str) -> String {
    let [rows, _, dims] = shape.blocks();
    (0..dims).map(|k| load_queries(shape, k, rows, indent)).collect()
}

fn load_queries(shape: &FlashShape, k: usize, rows: usize, indent: &str) -> String {
    let (edge, line, element) = (shape.edge, shape.line(), shape.element());
    (0..rows)
        .map(|r| {
            format!(
                "{indent}let q{k}_{r} = coopLoadT<{}>(&kv[sg * {}u + {}u], {}u);\n",
                shape.matrix("f16", "A"),
                SUBGROUP_ROWS * line / element,
                (r * edge * line + k * edge) / element,
                line / element
            )
        })
        .collect()
}

/// S = Q K^T of the subgroup's rows, to workgroup memory. `keys_at`: quads before the keys.
fn scores(shape: &FlashShape, keys_at: usize) -> String {
    let [rows, keys, dims] = shape.blocks();
    let (edge, line, element) = (shape.edge, shape.line(), shape.element());
    let mut text = String::new();
    for (r, n) in pairs(rows, keys) {
        let _ = writeln!(text, "        var s{r}_{n} = {};", nothing(shape));
    }
    for k in 0..dims {
        if !shape.roomy() {
            text.push_str(&load_queries(shape, k, rows, "        "));
        }
        for n in 0..keys {
            let _ = writeln!(
                text,
                "        let k{k}_{n} = coopLoad<{}>(&kv[{}u], {}u);",
                shape.matrix("f16", "B"),
                (4 * keys_at + n * edge * line + k * edge) / element,
                line / element
            );
            for r in 0..rows {
                let _ = writeln!(text, "        s{r}_{n} = coopMultiplyAdd(q{k}_{r}, k{k}_{n}, s{r}_{n});");
            }
        }
    }
    for (r, n) in pairs(rows, keys) {
        text.push_str(&store_block(shape, &format!("s{r}_{n}"), r, n));
    }
    text
}

/// Stores matrix `name` into block (r, n) of the subgroup's scores. (naga wants places with names.)
fn store_block(shape: &FlashShape, name: &str, r: usize, n: usize) -> String {
    format!(
        "        let {name}_at = {};\n        coopStoreT({name}, &ss[{name}_at], {}u);\n",
        block_at(shape, r, n),
        shape.score_line()
    )
}

/// The first element of block (r, n) of the subgroup's scores.
fn block_at(shape: &FlashShape, r: usize, n: usize) -> String {
    let line = shape.score_line();
    format!("sg * {}u + {}u", SUBGROUP_ROWS * line, r * shape.edge * line + n * shape.edge)
}

fn pairs(rows: usize, columns: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |r| (0..columns).map(move |c| (r, c)))
}

/// A matrix of zeros: from memory where a new one need not be zero.
fn nothing(shape: &FlashShape) -> String {
    if shape.edge == 8 { "nothing".into() } else { format!("{}()", shape.matrix("f32", "C")) }
}

/// The sums of weighted values.
fn zero(shape: &FlashShape) -> String {
    let [rows, _, dims] = shape.blocks();
    let mut text = String::new();
    if shape.edge == 8 {
        let _ =
            writeln!(text, "  var nothing = coopLoadT<{}>(&ss[0], {}u);", shape.matrix("f32", "C"), shape.score_line());
    }
    for (r, n) in pairs(rows, dims) {
        let _ = writeln!(text, "  var o{r}_{n} = {};", nothing(shape));
    }
    text
}

/// Multiplies each row of the sums by its `shrink`, by way of the scores' memory.
fn rescale(shape: &FlashShape) -> String {
    let (parts, quads) = (shape.parts(), shape.keys() / 4 / shape.parts());
    let [rows, columns, dims] = shape.blocks();
    let mut text = String::new();
    for first in (0..dims).step_by(columns) {
        let now = columns.min(dims - first);
        text.push_str("        {\n");
        for (r, n) in pairs(rows, now) {
            text.push_str(&store_block(shape, &format!("o{r}_{}", first + n), r, n));
        }
        text.push_str("        workgroupBarrier();\n");
        for (j, i) in pairs(shape.lane_rows(), quads) {
            let part = if parts == 1 { String::new() } else { format!(" + (lane / 16u) * {quads}u") };
            let at = format!("r{j} * {}u{part} + {i}u", shape.score_line() / 4);
            let _ = writeln!(text, "        keep_score({at}, score({at}) * shrink{j});");
        }
        text.push_str("        workgroupBarrier();\n");
        for (r, n) in pairs(rows, now) {
            let _ = writeln!(
                text,
                "        o{r}_{} = coopLoadT<{}>(&ss[{}], {}u);",
                first + n,
                shape.matrix("f32", "C"),
                block_at(shape, r, n),
                shape.score_line()
            );
        }
        text.push_str("        workgroupBarrier();\n        }\n");
    }
    text
}

/// O += P V. `values_at`: quads before the values.
fn values(shape: &FlashShape, values_at: usize) -> String {
    let [rows, keys, dims] = shape.blocks();
    let (edge, line, weight_line, element) = (shape.edge, shape.line(), shape.weight_line(), shape.element());
    let mut text = String::new();
    for k in 0..keys {
        for r in 0..rows {
            let _ = writeln!(
                text,
                "        let p{k}_{r} = coopLoadT<{}>(&ps[sg * {}u + {}u], {}u);",
                shape.matrix("f16", "A"),
                SUBGROUP_ROWS * weight_line / element,
                (r * edge * weight_line + k * edge) / element,
                weight_line / element
            );
        }
        for n in 0..dims {
            let _ = writeln!(
                text,
                "        let v{k}_{n} = coopLoadT<{}>(&kv[{}u], {}u);",
                shape.matrix("f16", "B"),
                (4 * values_at + k * edge * line + n * edge) / element,
                line / element
            );
            for r in 0..rows {
                let _ = writeln!(text, "        o{r}_{n} = coopMultiplyAdd(p{k}_{r}, v{k}_{n}, o{r}_{n});");
            }
        }
    }
    text
}

/// o = O / weight, some dimensions at a time by way of the scores' memory.
fn store(shape: &FlashShape) -> String {
    let (parts, quads) = (shape.parts(), shape.keys() / 4 / shape.parts());
    let [rows, columns, dims] = shape.blocks();
    let group = shape.group();
    let mut text = String::new();
    for j in 0..shape.lane_rows() {
        for part in (0..).map(|i| SUBGROUP_ROWS << i).take_while(|&step| step < SUBGROUP_ROWS * parts) {
            let _ = writeln!(text, "  weight{j} += subgroupShuffleXor(weight{j}, {part}u);");
        }
        let _ = writeln!(
            text,
            "  let used{j} = row{j} < rows_end && r{j} < {}u;
  let to{j} = row{j} * (p.o_stride / 4u) + (wg.x * {group}u + r{j} % {group}u) * {}u;",
            shape.batch_rows() * group,
            shape.head_dim / 4
        );
    }
    for first in (0..dims).step_by(columns) {
        let now = columns.min(dims - first);
        text.push_str("  {\n");
        for (r, n) in pairs(rows, now) {
            text.push_str(&store_block(shape, &format!("o{r}_{}", first + n), r, n));
        }
        text.push_str("  workgroupBarrier();\n");
        for (j, i) in pairs(shape.lane_rows(), quads) {
            let quad = if parts == 1 { format!("{i}u") } else { format!("(lane / 16u) * {quads}u + {i}u") };
            let inside = if now < columns { format!(" && {quad} < {}u", now * shape.edge / 4) } else { String::new() };
            let _ = writeln!(
                text,
                "  if (used{j}{inside}) {{ o[to{j} + {}u + {quad}] = score(r{j} * {}u + {quad}) / weight{j}; }}",
                first * shape.edge / 4,
                shape.score_line() / 4
            );
        }
        text.push_str("  workgroupBarrier();\n  }\n");
    }
    text
}
