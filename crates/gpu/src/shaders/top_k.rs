//! The greatest logits of a row, and the logarithm of the sum of their exponentials.

use super::fill;

/// Candidates that a workgroup looks at.
pub(crate) const SORT: usize = 1024;

/// Most candidates that are kept.
pub(crate) const MOST: usize = 256;

/// Where a pass is among those that find a row's greatest logits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TopShape {
    /// Candidates kept of every [`SORT`]; the only one need not be sorted out.
    pub(crate) keep: usize,
    /// The candidates are the logits themselves, and their places the token ids.
    pub(crate) first: bool,
    /// A single list is left.
    pub(crate) last: bool,
}

/// Keeps the first [`TopShape::keep`] of every [`SORT`] candidates, greatest logit first, equal logits by token id. Repeated
/// until one list is left. The first pass also notes the maximum of its candidates and the sum of their exponentials, less that
/// maximum; the last makes one pair of all of these.
///
/// Grid: (lists, logit rows). Parameters: candidates in, words between rows in, words of the first value and id in, words between
/// rows out, words of the first value and id out, pairs of a row. Bindings: 0 values and ids in, 1 values and ids out, behind
/// the final pairs, 2 step, 3 pairs, where there are several.
pub(crate) fn top_k(shape: &TopShape) -> String {
    let TopShape { keep, first, last } = *shape;
    let pairs = match (first, last) {
        (true, true) => "",
        (true, false) => "@group(0) @binding(3) var<storage, read_write> pairs: array<vec2<f32>>;\n",
        (false, true) => "@group(0) @binding(3) var<storage, read> pairs: array<vec2<f32>>;\n",
        (false, false) => "",
    };
    let (order_memory, order) = match keep {
        1 => (
            format!("var<workgroup> values: array<f32, {THREADS}>;\nvar<workgroup> ids: array<u32, {THREADS}>;\n"),
            GREATEST,
        ),
        _ => (format!("var<workgroup> values: array<f32, {SORT}>;\nvar<workgroup> ids: array<u32, {SORT}>;\n"), SORTED),
    };
    let sums = match (first, last) {
        (false, false) => String::new(),
        (true, _) => format!(
            "  let most = values[0];
  let sum = exp(v0 - most) + exp(v1 - most) + exp(v2 - most) + exp(v3 - most);
{ADD_SUMS}  if (t == 0u) {{ {} }}
",
            if last { NOTE_LAST } else { "pairs[wg.y * p.pairs + wg.x] = vec2<f32>(most, totals[0]);" }
        ),
        (false, true) => format!("{MERGE}{ADD_SUMS}  if (t == 0u) {{ {NOTE_LAST} }}\n"),
    };
    let memory = if first || last { format!("var<workgroup> totals: array<f32, {THREADS}>;\n") } else { String::new() };
    fill(
        "// top $KEEP
struct Params {
  count: u32, in_stride: u32, values_in: u32, ids_in: u32, out_stride: u32, values_out: u32, ids_out: u32, pairs: u32,
}
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> found: array<f32>;
@group(0) @binding(1) var<storage, read_write> kept: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
$PAIRS$MEMORY
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  if (wg.y >= step[1]) { return; }
$LOAD$ORDER  for (var i = t; i < $KEEPu; i += $THREADSu) {
    let to = wg.y * p.out_stride + wg.x * $KEEPu + i;
    kept[p.values_out + to] = values[i];
    kept[p.ids_out + to] = bitcast<f32>(ids[i]);
  }
$SUMS}
"
        .replace("$ORDER", order)
        .replace("$SUMS", &sums)
        .as_str(),
        &[
            ("PAIRS", pairs.into()),
            ("MEMORY", order_memory + &memory),
            ("LOAD", (0..SORT / THREADS).map(|k| load(k, first)).collect()),
            ("THREADS", THREADS.to_string()),
            ("HALF", (THREADS / 2).to_string()),
            ("PAIR_COUNT", (SORT / 2).to_string()),
            ("SORT", SORT.to_string()),
            ("KEEP", keep.to_string()),
        ],
    )
}

const THREADS: usize = 256;

/// Candidate `k` of a thread: `v{k}` and `i{k}`.
fn load(k: usize, first: bool) -> String {
    let (at, id) =
        (format!("at{k}"), if first { format!("at{k}") } else { format!("bitcast<u32>(found[p.ids_in + source{k}])") });
    format!(
        "  let {at} = wg.x * {SORT}u + t + {}u;
  let source{k} = wg.y * p.in_stride + min({at}, p.count - 1u);
  let v{k} = select(-3.4e38, found[{}source{k}], {at} < p.count);
  let i{k} = select(0xffffffffu, {id}, {at} < p.count);
",
        k * THREADS,
        if first { "" } else { "p.values_in + " },
    )
}

/// The greatest candidate to place 0.
const GREATEST: &str = "  var value = v0;
  var id = i0;
  if (v1 > value) { value = v1; id = i1; }
  if (v2 > value) { value = v2; id = i2; }
  if (v3 > value) { value = v3; id = i3; }
  values[t] = value;
  ids[t] = id;
  workgroupBarrier();
  for (var gap = $HALFu; gap > 0u; gap = gap >> 1u) {
    if (t < gap) {
      let other = values[t + gap];
      if (other > values[t] || (other == values[t] && ids[t + gap] < ids[t])) {
        values[t] = other;
        ids[t] = ids[t + gap];
      }
    }
    workgroupBarrier();
  }
";

const SORTED: &str =
    "  values[t] = v0; values[t + $THREADSu] = v1; values[t + 2u * $THREADSu] = v2; values[t + 3u * $THREADSu] = v3;
  ids[t] = i0; ids[t + $THREADSu] = i1; ids[t + 2u * $THREADSu] = i2; ids[t + 3u * $THREADSu] = i3;
  workgroupBarrier();
  for (var span = 2u; span <= $SORTu; span = span << 1u) {
    for (var gap = span >> 1u; gap > 0u; gap = gap >> 1u) {
      for (var i = t; i < $PAIR_COUNTu; i += $THREADSu) {
        let a = (i / gap) * gap * 2u + (i % gap);
        let b = a + gap;
        let descending = (a & span) == 0u;
        let a_first = values[a] > values[b] || (values[a] == values[b] && ids[a] < ids[b]);
        if (a_first != descending) {
          let value = values[a]; values[a] = values[b]; values[b] = value;
          let id = ids[a]; ids[a] = ids[b]; ids[b] = id;
        }
      }
      workgroupBarrier();
    }
  }
";

/// Maximum of all logits, which is the greatest candidate, and this thread's part of the sum.
const MERGE: &str = "  let most = values[0];
  var sum = 0.0;
  for (var i = t; i < p.pairs; i += $THREADSu) {
    let pair = pairs[wg.y * p.pairs + i];
    sum += pair.y * exp(pair.x - most);
  }
";

/// The threads' parts to place 0.
const ADD_SUMS: &str = "  totals[t] = sum;
  workgroupBarrier();
  for (var gap = $HALFu; gap > 0u; gap = gap >> 1u) {
    if (t < gap) { totals[t] += totals[t + gap]; }
    workgroupBarrier();
  }
";

const NOTE_LAST: &str = "kept[2u * wg.y] = most; kept[2u * wg.y + 1u] = totals[0];";
