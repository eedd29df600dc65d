//! Attention of prefill by cooperative matrices: many rows share each reading of keys and values.
//!
//! A workgroup serves a tile of consecutive rows of the batch and all query heads of one KV head. Rows of several sequences
//! may meet in a tile: it walks the pages of one after the other, and masks the rows of the rest. Cooperative matrices
//! cannot be scaled row by row, as an online softmax would have to; so the history is walked twice: first for the
//! greatest score of each row, then for weights and values, which need no correction any more.
//!
//! For f16 pages and head sizes that are whole matrices.

use std::fmt::Write;

use super::attention::PARAMS;
use super::fill;

/// Keys of a turn; half a page.
const KEYS: usize = 32;

/// Rows of a subgroup, a row being a query head of a row of the batch.
const SUBGROUP_ROWS: usize = 16;

/// Padding of lines in workgroup memory, in values: 16 bytes of f16 or f32, so that lanes spread over the banks.
const PAD_HALVES: usize = 8;
const PAD_FLOATS: usize = 4;

/// One variant of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlashShape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    /// A multiple of 32.
    pub(crate) head_dim: usize,
    pub(crate) soft_cap: bool,
    /// Of a cooperative matrix: 8 or 16.
    pub(crate) edge: usize,
    pub(crate) subgroup_size: u32,
}

impl FlashShape {
    /// Whether there is a kernel for these sizes.
    pub(crate) fn exists(self) -> bool {
        self.head_dim.is_multiple_of(KEYS) && self.head_dim <= 256 && self.heads / self.kv_heads <= self.tile_rows()
    }

    /// Rows of the batch in a tile.
    pub(crate) fn batch_rows(self) -> usize {
        self.tile_rows() / (self.heads / self.kv_heads)
    }

    /// Rows of a tile, query heads counted: more would not fit the 32 KiB of workgroup memory.
    fn tile_rows(self) -> usize {
        if self.head_dim <= 128 { 64 } else { 32 }
    }
}

/// Grid: (tiles, kv_heads). Parameters as for [`super::attend`]. Bindings: 0 qkv, 1 step, 2 K pages, 3 V pages (f16 both), 4 o.
pub(crate) fn flash(shape: &FlashShape) -> String {
    let FlashShape { heads, kv_heads, head_dim, .. } = *shape;
    let (rows, group) = (shape.tile_rows(), heads / kv_heads);
    let lanes = shape.subgroup_size as usize;
    let parts = (lanes / SUBGROUP_ROWS).max(1);
    let cap = if shape.soft_cap { "s = p.cap * tanh(clamp(s / p.cap, -10.0, 10.0));" } else { "" };
    let score_turn = format!("{}    workgroupBarrier();\n", scores(shape));
    fill(
        &"// flash attend
enable f16;
enable wgpu_cooperative_matrix;
$PARAMS@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> k_pages: array<f16>;
@group(0) @binding(3) var<storage, read> v_pages: array<f16>;
@group(0) @binding(4) var<storage, read_write> o: array<f32>;
var<workgroup> qs: array<f16, $QUERIES>; // [row][dim, padded]
var<workgroup> ss: array<f32, $SCORES>; // [row][key, padded]; at the end [row][dim, padded]
var<workgroup> ps: array<f16, $WEIGHTS>; // [row][key, padded]
var<workgroup> greatest: array<f32, $PARTIALS>; // [row][part of the keys]
var<workgroup> weight: array<f32, $PARTIALS>;
// The score of a row for a key, or far less than any where the key is not visible. x: position, y: first visible
// position, z: whether the row belongs to the sequence whose pages are walked.
fn visible(score: f32, key: u32, bounds: vec3<u32>) -> f32 {
  var s = score;
  $CAP
  return select(-1e30, s, bounds.z == 1u && key <= bounds.x && key >= bounds.y);
}
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) t: u32, @builtin(subgroup_id) sg: u32,
        @builtin(subgroup_invocation_id) lane: u32) {
  // The tiles with the longest histories first.
  let row0 = (grid.x - 1u - wg.x) * $BATCH_ROWSu;
  let rows_end = min(row0 + $BATCH_ROWSu, step[0]);
  if (row0 >= rows_end) { return; }
  for (var i = t; i < $ROWS_DIMu; i += $THREADSu) {
    let r = i / $Du;
    let row = min(row0 + r / $GROUPu, rows_end - 1u);
    let q = qkv[row * p.stride + (wg.y * $GROUPu + r % $GROUPu) * $Du + i % $Du] * p.scale;
    qs[r * $Q_LINEu + i % $Du] = f16(clamp(q, -65504.0, 65504.0));
  }
  for (var i = t; i < $PARTIALSu; i += $THREADSu) { greatest[i] = -1e30; weight[i] = 0.0; }
  for (var i = t; i < $SCORESu; i += $THREADSu) { ss[i] = 0.0; }
  workgroupBarrier();
$ZERO
$FIRST_WALK$SECOND_WALK$STORE
}
"
        .replace("$FIRST_WALK", &walk(GREATEST, ""))
        .replace("$SECOND_WALK", &walk(WEIGH, &values(shape))),
        &[
            ("PARAMS", PARAMS.into()),
            ("CAP", cap.into()),
            ("QUERIES", (rows * (head_dim + PAD_HALVES)).to_string()),
            ("SCORES", (rows * (KEYS + PAD_FLOATS)).to_string()),
            ("WEIGHTS", (rows * (KEYS + PAD_HALVES)).to_string()),
            ("PARTIALS", (rows * parts).to_string()),
            ("THREADS", (rows / SUBGROUP_ROWS * lanes).to_string()),
            ("BATCH_ROWS", shape.batch_rows().to_string()),
            ("USED_ROWS", (shape.batch_rows() * group).to_string()),
            ("ROWS_DIM", (rows * head_dim).to_string()),
            ("GROUP", group.to_string()),
            ("Q_LINE", (head_dim + PAD_HALVES).to_string()),
            ("S_LINE", (KEYS + PAD_FLOATS).to_string()),
            ("P_LINE", (KEYS + PAD_HALVES).to_string()),
            ("KEYS", KEYS.to_string()),
            ("KV_HEADS", kv_heads.to_string()),
            ("PAGE_VALUES", (tensor::PAGE_TOKENS * head_dim).to_string()),
            ("SCORE_TURN", score_turn),
            ("SUBGROUP_PARTS", (SUBGROUP_ROWS * parts).to_string()),
            ("LANES", lanes.to_string()),
            ("PART_KEYS", (KEYS / parts).to_string()),
            ("PART_MASK", (KEYS / parts - 1).to_string()),
            ("PARTS", parts.to_string()),
            ("ZERO", zero(shape)),
            ("STORE", store(shape, rows)),
            ("D", head_dim.to_string()),
        ],
    )
}

/// A walk over the history, in a scope of its own. `measure` is done with each row's scores, `take` after that.
fn walk(measure: &str, take: &str) -> String {
    WALK.replace("$MEASURE", measure).replace("$TAKE", take)
}

const WALK: &str = "  {
    var first_row = row0;
    while (first_row < rows_end) {
      let seq = step[p.seqs_at + first_row];
      var last_row = first_row;
      while (last_row + 1u < rows_end && step[p.seqs_at + last_row + 1u] == seq) { last_row += 1u; }
      let table = p.tables_at + (seq * p.groups + p.group) * p.table_stride;
      let first = step[p.positions_at + first_row];
      let start = select(0u, first + 1u - p.window, first + 1u > p.window) & 0xffffffe0u;
      let end = step[p.positions_at + last_row] + 1u;
      for (var key0 = start; key0 < end; key0 += $KEYSu) {
        let page = (step[table + (key0 >> 6u)] * $KV_HEADSu + wg.y) * $PAGE_VALUESu + (key0 & 32u) * $Du;
$SCORE_TURN
        for (var i = lane; i < $SUBGROUP_PARTSu; i += $LANESu) {
          let r = sg * 16u + i / $PARTSu;
          let part = r * $PARTSu + i % $PARTSu;
          let row = row0 + r / $GROUPu;
          let inside = row >= first_row && row <= last_row && r < $USED_ROWSu;
          let position = step[p.positions_at + min(row, rows_end - 1u)];
          let low = select(0u, position + 1u - p.window, position + 1u > p.window);
          let bounds = vec3<u32>(position, low, u32(inside));
          let key_offset = (i % $PARTSu) * $PART_KEYSu;
$MEASURE        }
        workgroupBarrier();
$TAKE      }
      first_row = last_row + 1u;
    }
  }
";

/// The greatest score of a row.
const GREATEST: &str = "            var most = greatest[part];
            for (var j = 0u; j < $PART_KEYSu; j += 1u) {
              let k = key_offset + ((j + r) & $PART_MASKu);
              most = max(most, visible(ss[r * $S_LINEu + k], key0 + k, bounds));
            }
            greatest[part] = most;
";

/// The weights of a row's keys, and their sum.
const WEIGH: &str = "            var most = greatest[r * $PARTSu];
            for (var j = 1u; j < $PARTSu; j += 1u) { most = max(most, greatest[r * $PARTSu + j]); }
            var sum = weight[part];
            for (var j = 0u; j < $PART_KEYSu; j += 1u) {
              let k = key_offset + ((j + r) & $PART_MASKu);
              let s = visible(ss[r * $S_LINEu + k], key0 + k, bounds);
              let w = select(0.0, exp(s - most), s > -1e29);
              sum += w;
              ps[r * $P_LINEu + k] = f16(w);
            }
            weight[part] = sum;
";

/// S = Q K^T of the subgroup's rows, to workgroup memory.
fn scores(shape: &FlashShape) -> String {
    let FlashShape { head_dim, edge, .. } = *shape;
    let (q_line, s_line) = (head_dim + PAD_HALVES, KEYS + PAD_FLOATS);
    let mut text = String::new();
    for r in 0..SUBGROUP_ROWS / edge {
        let _ = writeln!(text, "        let q_at{r} = (sg * {SUBGROUP_ROWS}u + {}u) * {q_line}u;", r * edge);
        for n in 0..KEYS / edge {
            let _ = writeln!(
                text,
                "        let s_at{r}_{n} = (sg * {SUBGROUP_ROWS}u + {}u) * {s_line}u + {}u;",
                r * edge,
                n * edge
            );
            let _ = writeln!(text, "        var s{r}_{n} = nothing;");
        }
    }
    for k in (0..head_dim).step_by(edge) {
        for r in 0..SUBGROUP_ROWS / edge {
            let _ = writeln!(
                text,
                "        let q{k}_{r} = coopLoadT<coop_mat{edge}x{edge}<f16, A>>(&qs[q_at{r} + {k}u], {q_line}u);"
            );
        }
        for n in 0..KEYS / edge {
            let _ = writeln!(
                text,
                "        let k{k}_{n} = coopLoad<coop_mat{edge}x{edge}<f16, B>>(&k_pages[page + {}u], {head_dim}u);",
                n * edge * head_dim + k
            );
            for r in 0..SUBGROUP_ROWS / edge {
                let _ = writeln!(text, "        s{r}_{n} = coopMultiplyAdd(q{k}_{r}, k{k}_{n}, s{r}_{n});");
            }
        }
    }
    for r in 0..SUBGROUP_ROWS / edge {
        for n in 0..KEYS / edge {
            let _ = writeln!(text, "        coopStoreT(s{r}_{n}, &ss[s_at{r}_{n}], {s_line}u);");
        }
    }
    text
}

/// The sums of weighted values. Zeros come from memory: an empty matrix need not be zero on every device.
fn zero(shape: &FlashShape) -> String {
    let edge = shape.edge;
    let s_line = KEYS + PAD_FLOATS;
    let mut text = format!("  var nothing = coopLoadT<coop_mat{edge}x{edge}<f32, C>>(&ss[0], {s_line}u);\n");
    for r in 0..SUBGROUP_ROWS / edge {
        for n in 0..shape.head_dim / edge {
            let _ = writeln!(text, "  var o{r}_{n} = nothing;");
        }
    }
    text + "  workgroupBarrier();"
}

/// O += P V.
fn values(shape: &FlashShape) -> String {
    let FlashShape { head_dim, edge, .. } = *shape;
    let p_line = KEYS + PAD_HALVES;
    let mut text = String::new();
    for k in (0..KEYS).step_by(edge) {
        for r in 0..SUBGROUP_ROWS / edge {
            let _ = writeln!(
                text,
                "          let p{k}_{r} = coopLoadT<coop_mat{edge}x{edge}<f16, A>>(&ps[(sg * {SUBGROUP_ROWS}u + {}u) * {p_line}u + {k}u], {p_line}u);",
                r * edge
            );
        }
        for n in 0..head_dim / edge {
            let _ = writeln!(
                text,
                "          let v{k}_{n} = coopLoadT<coop_mat{edge}x{edge}<f16, B>>(&v_pages[page + {}u], {head_dim}u);",
                k * head_dim + n * edge
            );
            for r in 0..SUBGROUP_ROWS / edge {
                let _ = writeln!(text, "          o{r}_{n} = coopMultiplyAdd(p{k}_{r}, v{k}_{n}, o{r}_{n});");
            }
        }
    }
    text
}

/// o = O / weight, 32 dimensions at a time by way of the scores' memory.
fn store(shape: &FlashShape, rows: usize) -> String {
    let FlashShape { head_dim, edge, heads, kv_heads, .. } = *shape;
    let (s_line, group, lanes) = (KEYS + PAD_FLOATS, heads / kv_heads, shape.subgroup_size as usize);
    let parts = (lanes / SUBGROUP_ROWS).max(1);
    let threads = rows / SUBGROUP_ROWS * lanes;
    let mut text = String::new();
    for r in 0..SUBGROUP_ROWS / edge {
        for n in 0..KEYS / edge {
            let _ = writeln!(
                text,
                "  let o_at{r}_{n} = (sg * {SUBGROUP_ROWS}u + {}u) * {s_line}u + {}u;",
                r * edge,
                n * edge
            );
        }
    }
    for first in (0..head_dim).step_by(KEYS) {
        text.push_str("  workgroupBarrier();\n");
        for r in 0..SUBGROUP_ROWS / edge {
            for n in 0..KEYS / edge {
                let _ = writeln!(text, "  coopStoreT(o{r}_{}, &ss[o_at{r}_{n}], {s_line}u);", first / edge + n);
            }
        }
        let _ = writeln!(
            text,
            "  workgroupBarrier();
  for (var i = t; i < {}u; i += {threads}u) {{
    let r = i / {KEYS}u;
    let row = row0 + r / {group}u;
    if (row < rows_end && r < {}u) {{
      var sum = 0.0;
      for (var j = 0u; j < {parts}u; j += 1u) {{ sum += weight[r * {parts}u + j]; }}
      let to = row * p.o_stride + (wg.y * {group}u + r % {group}u) * {head_dim}u + {first}u + i % {KEYS}u;
      o[to] = ss[r * {s_line}u + i % {KEYS}u] / sum;
    }}
  }}",
            rows * KEYS,
            shape.batch_rows() * group
        );
    }
    text
}
