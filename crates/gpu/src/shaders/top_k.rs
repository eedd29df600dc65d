//! The greatest logits of a row, and the logarithm of the sum of their exponentials.

use super::fill;

/// Candidates that a workgroup sorts at once.
pub(crate) const SORT: usize = 1024;

/// Most candidates that are kept.
pub(crate) const MOST: usize = 256;

/// Keeps the first `keep` of every [`SORT`] candidates, greatest logit first, equal logits by token id. Repeated until one
/// list is left. Grid: (lists, logit rows). Parameters: candidates in, entries from row to row in, and out.
///
/// `from_logits`: the candidates are the logits themselves, and their places the token ids. Bindings: 0 values in, 1 ids
/// in (absent with `from_logits`), 2 values out, 3 ids out, 4 step.
pub(crate) fn top_k(keep: usize, from_logits: bool) -> String {
    fill(
        "// top $KEEP
struct Params { count: u32, in_stride: u32, out_stride: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> values_in: array<f32>;
$IDS_IN@group(0) @binding(2) var<storage, read_write> values_out: array<f32>;
@group(0) @binding(3) var<storage, read_write> ids_out: array<u32>;
@group(0) @binding(4) var<storage, read> step: array<u32>;
var<workgroup> values: array<f32, $SORT>;
var<workgroup> ids: array<u32, $SORT>;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  if (wg.y >= step[1]) { return; }
  for (var i = t; i < $SORTu; i += 256u) {
    let at = wg.x * $SORTu + i;
    let inside = at < p.count;
    let source = wg.y * p.in_stride + min(at, p.count - 1u);
    values[i] = select(-3.4e38, values_in[source], inside);
    ids[i] = select(0xffffffffu, $ID, inside);
  }
  workgroupBarrier();
  for (var span = 2u; span <= $SORTu; span = span << 1u) {
    for (var gap = span >> 1u; gap > 0u; gap = gap >> 1u) {
      for (var i = t; i < $HALFu; i += 256u) {
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
  for (var i = t; i < $KEEPu; i += 256u) {
    let to = wg.y * p.out_stride + wg.x * $KEEPu + i;
    values_out[to] = values[i];
    ids_out[to] = ids[i];
  }
}
",
        &[
            (
                "IDS_IN",
                if from_logits {
                    String::new()
                } else {
                    "@group(0) @binding(1) var<storage, read> ids_in: array<u32>;\n".into()
                },
            ),
            ("ID", if from_logits { "at".into() } else { "ids_in[source]".into() }),
            ("SORT", SORT.to_string()),
            ("HALF", (SORT / 2).to_string()),
            ("KEEP", keep.to_string()),
        ],
    )
}

/// Maximum and sum of exponentials: of every [`SORT`] logits (`first`), then of those pairs. Grid: (chunks or 1, logit
/// rows). Parameters: count, in stride, out stride (both in pairs for the second). Bindings: 0 in, 1 out, 2 step.
pub(crate) fn log_sum_exp(first: bool) -> String {
    fill(
        "// log sum exp
struct Params { count: u32, in_stride: u32, out_stride: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> pairs_in: array<$IN>;
@group(0) @binding(1) var<storage, read_write> pairs_out: array<vec2<f32>>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
var<workgroup> most: array<f32, 256>;
var<workgroup> total: array<f32, 256>;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  if (wg.y >= step[1]) { return; }
  var m = -3.4e38;
  var sum = 0.0;
  let end = min(p.count, $END);
  for (var i = wg.x * $SORTu + t; i < end; i += 256u) {
    let pair = $PAIR;
    let next = max(m, pair.x);
    sum = sum * exp(m - next) + pair.y * exp(pair.x - next);
    m = next;
  }
  most[t] = m;
  total[t] = sum;
  workgroupBarrier();
  for (var gap = 128u; gap > 0u; gap = gap >> 1u) {
    if (t < gap) {
      let next = max(most[t], most[t + gap]);
      total[t] = total[t] * exp(most[t] - next) + total[t + gap] * exp(most[t + gap] - next);
      most[t] = next;
    }
    workgroupBarrier();
  }
  if (t == 0u) { pairs_out[wg.y * p.out_stride + wg.x] = vec2<f32>(most[0], total[0]); }
}
",
        &[
            ("IN", if first { "f32".into() } else { "vec2<f32>".into() }),
            ("END", if first { "(wg.x + 1u) * 1024u".into() } else { "p.count".into() }),
            ("SORT", SORT.to_string()),
            (
                "PAIR",
                if first {
                    "vec2<f32>(pairs_in[wg.y * p.in_stride + i], 1.0)".into()
                } else {
                    "pairs_in[wg.y * p.in_stride + i]".into()
                },
            ),
        ],
    )
}
