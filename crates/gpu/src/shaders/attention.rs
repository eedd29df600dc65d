//! Attention over paged KV, split over the history, and the merge of the splits.
//!
//! A workgroup serves all query heads of one KV head for one row and one split of the positions. It walks
//! its pages with an online softmax: a thread scores one token for some of the heads, then each thread sums a quad of the head
//! dimension. Keys come through workgroup memory, a slice of the head dimension at a time, since neighbouring threads must
//! read neighbouring words of the cache. Splits begin at fixed positions and a row never sees another, so with the same split length the result does
//! not depend on how the history was computed, nor on the rows beside it.

use std::fmt::Write;

use tensor::LayerDims;

use super::fill;
use super::turn::Turn;
use crate::kv::KvFormat;

/// Tokens of a page, and the threads of the kernels that have one a token.
const THREADS: usize = tensor::PAGE_TOKENS;

/// Threads of [`attend`] that share a token of a page, each with as many of its heads. The more, the sooner a page has come; the
/// sums of all threads must fit the memory of keys.
fn parts(group: usize) -> usize {
    let fits = |parts: &usize| group.is_multiple_of(*parts) && THREADS * parts * group <= THREADS * (SLICE / 4 + 1);
    (1..=4).rev().find(fits).unwrap_or(1)
}

/// Head dimensions of a slice of keys.
const SLICE: usize = 64;

/// Most quads of values that a thread has on their way at a time.
const AT_ONCE: usize = 16;

/// In how many shares the scores of a head are looked through; a share is a thread's.
fn shares(group: usize) -> usize {
    let most = (THREADS / group).clamp(1, 8);
    if most.is_power_of_two() { most } else { most.next_power_of_two() / 2 }
}

/// What [`attend`] is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct AttendShape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) soft_cap: bool,
    pub(crate) key: KvFormat,
    pub(crate) value: KvFormat,
    /// Histories are in one split, whose weighted mean is the result: nothing is left to merge.
    pub(crate) alone: bool,
    /// Every row is the newest of the sequence of its number and comes as the projection left it: queries turn here, and so does the new key,
    /// which the split that it belongs to stores beside its value.
    pub(crate) fresh: Option<Turn>,
    /// Where histories are in one split: the result is stored as f16, too.
    pub(crate) halves: bool,
    /// Further workgroups bring weights of the next product into the cache.
    pub(crate) ahead: bool,
}

impl AttendShape {
    /// Whether the newest key and value go through workgroup memory, not by way of their page: where they are the same to the
    /// last bit.
    fn passes_newest(&self) -> bool {
        let kept = |format| matches!(format, KvFormat::F32 | KvFormat::F16);
        self.fresh.is_some() && kept(self.key) && kept(self.value)
    }
}

/// Parameters of both kinds of attention.
pub(super) const PARAMS: &str = "struct Params {
  stride: u32, group: u32, groups: u32, table_stride: u32, tables_at: u32, seqs_at: u32, positions_at: u32,
  splits: u32, split: u32, window: u32, scale: f32, cap: f32, k_scales_at: u32, v_scales_at: u32, o_stride: u32, slack: f32,
  q_eps: f32, k_eps: f32, halves_stride: u32, ahead: u32,
}
@group(0) @binding(15) var<uniform> p: Params;
";

/// Bytes of workgroup memory that [`attend`] needs for a layer.
pub(crate) fn attend_bytes(layer: &LayerDims) -> usize {
    let (group, quads) = (layer.heads / layer.kv_heads, layer.head_dim / 4);
    let fresh = 2 * layer.head_dim + THREADS * parts(group) + group + 1;
    16 * (group * quads + tile_quads(group, quads)) + 4 * (group * THREADS + 3 * group + group * shares(group) + fresh)
}

/// Quads of the tile that holds slices of keys, then the sums of the threads.
fn tile_quads(group: usize, quads: usize) -> usize {
    (THREADS * parts(group) / quads * group * quads).max(THREADS * (SLICE / 4 + 1))
}

/// Grid: (rows, kv_heads, splits). Parameters as in `Params`. Bindings: 0 qkv, 1 step, 2 K pages, 3 V pages, 4 partial
/// sums `[row][split][head][head_dim + 2]`, whose last two values are the maximum and the sum of the weights; or o, where
/// there is one split; of fresh rows then those of their [`Turn`]; 8 o as f16; 9 weights to bring ahead.
pub(crate) fn attend(shape: &AttendShape) -> String {
    let group = shape.heads / shape.kv_heads;
    let quads = shape.head_dim / 4;
    let parts = parts(group);
    let threads = THREADS * parts;
    let lanes = threads / quads; // groups of threads that share the tokens of a page in the second half
    let each = |line: &dyn Fn(usize) -> String| (0..group).map(line).collect::<String>();
    let each_own = |line: &dyn Fn(usize) -> String| (0..group / parts).map(line).collect::<String>();
    let (mut load_values, mut weigh) = (String::new(), String::new());
    let at_once = AT_ONCE.min(THREADS.div_ceil(lanes));
    for i in 0..at_once {
        let _ = writeln!(load_values, "        let token{i} = token + {}u;", i * lanes);
        // Behind the last token of the page's part comes that again, with a weight of zero.
        let _ = writeln!(load_values, "        let near{i} = min(token{i}, last - 1u);");
        let _ = writeln!(load_values, "        let v{i} = load_v(page + near{i} * $Du + column * 4u);");
        let own = shape.passes_newest();
        let value = if own { format!("u{i}") } else { format!("v{i}") };
        if own {
            // The newest token's place in the page may hold anything still, and zero times that may be NaN.
            let _ = writeln!(weigh, "        let {value} = select(v{i}, own_value, start + near{i} == position);");
        }
        for g in 0..group {
            let _ = writeln!(
                weigh,
                "        sum{g} += {value} * select(0.0, scores[{}u + min(token{i}, 63u)], token{i} < last);",
                g * THREADS
            );
        }
    }
    let load_values = load_values.replace("$D", &shape.head_dim.to_string());
    // A page's values come beside its keys where a thread's share fits its registers.
    let whole_page = at_once <= 8 && at_once * lanes >= THREADS;
    let early = format!("    let last = min(64u, end - start);\n    let token = lane;\n{load_values}");
    let shares = shares(group);
    fill(
        "// attend $KEY,$VALUE
$ENABLE$PARAMS$AHEAD_BINDING@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, $ACCESS> k_pages: array<u32>;
@group(0) @binding(3) var<storage, $ACCESS> v_pages: array<u32>;
@group(0) @binding(4) var<storage, read_write> parts: array<f32>;
$LOAD_K$LOAD_V$FRESH_FUNCTIONS
var<workgroup> queries: array<vec4<f32>, $GROUP_QUADS>;
var<workgroup> scores: array<f32, $GROUP_TOKENS>;
var<workgroup> greatest: array<f32, $GROUP>;
var<workgroup> weight: array<f32, $GROUP>;
var<workgroup> rescale: array<f32, $GROUP>;
// Of each head's scores of a page: their maximum or sum, a share at a time.
var<workgroup> shares: array<f32, $SHARERS>;
// Slices of keys, [token][quad, padded]; at the end the sums of the threads.
var<workgroup> tile: array<vec4<f32>, $TILE_QUADS>;
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(num_workgroups) grid: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
$BRING_AHEAD  let row = wg.x;
  // All on their way before the first is looked at.
  let rows = step[0];
  let position = step[p.positions_at + row];
  let table = p.tables_at + ($SEQ * p.groups + p.group) * p.table_stride;
  let begin = wg.z * p.split;
  var page_id = step[table + min(begin >> 6u, p.table_stride - 1u)];
  if (row >= rows || begin > position) { return; }
  let end = min(begin + p.split, position + 1u);
  let first = select(0u, position + 1u - p.window, position + 1u > p.window);
  let first_page = max(begin, first) >> 6u;
  if (first_page != begin >> 6u) { page_id = step[table + first_page]; }
$LOAD_QUERIES  if (t < $GROUPu) { greatest[t] = -1e30; weight[t] = 0.0; }
  let column = t % $QUADSu;
  let lane = t / $QUADSu;
  let own_token = t % $TOKENSu;
  let own_head = t / $TOKENSu * $OWN_HEADSu;
$ZERO_SUMS$STORE_NEWEST
  workgroupBarrier();
$OWN_VALUE  for (var start = first_page << 6u; start < end; start += 64u) {
    let page = (page_id * $KV_HEADSu + wg.y) * $PAGE_VALUESu;
    page_id = step[table + min((start >> 6u) + 1u, p.table_stride - 1u)];
    let visible = start + own_token < end && start + own_token >= first;
$EARLY    {
$ZERO_SCORES
$SLICES$CAP$KEEP_SCORES
    }
    workgroupBarrier();
    if (t < $SHARERSu) {
      var most = scores[t * $SHAREu];
      for (var i = 1u; i < $SHAREu; i += 1u) { most = max(most, scores[t * $SHAREu + i]); }
      shares[t] = most;
    }
    workgroupBarrier();
    if (t < $GROUPu) {
      var most = greatest[t];
      for (var i = 0u; i < $SHARESu; i += 1u) { most = max(most, shares[t * $SHARESu + i]); }
      rescale[t] = exp(greatest[t] - most);
      greatest[t] = most;
    }
    workgroupBarrier();
$EXPONENTIALS
    workgroupBarrier();
    if (t < $SHARERSu) {
      var total = 0.0;
      for (var i = 0u; i < $SHAREu; i += 1u) { total += scores[t * $SHAREu + i]; }
      shares[t] = total;
    }
    if (lane < $LANESu) {
$RESCALE
$VALUES    }
    workgroupBarrier();
    if (t < $GROUPu) {
      var total = 0.0;
      for (var i = 0u; i < $SHARESu; i += 1u) { total += shares[t * $SHARESu + i]; }
      weight[t] = weight[t] * rescale[t] + total;
    }
    workgroupBarrier();
  }
  if (lane < $LANESu) {
$KEEP_SUMS
  }
  workgroupBarrier();
$PLACE  for (var i = t; i < $GROUP_QUADSu; i += $THREADSu) {
    var total = tile[i];
$ADD_LANES$MEAN
    let to = out + (i / $QUADSu) * $LINEu + (i % $QUADSu) * 4u;
    parts[to] = total.x; parts[to + 1u] = total.y; parts[to + 2u] = total.z; parts[to + 3u] = total.w;
$KEEP_HALVES  }
$WEIGHTS}
"
        .replace("$EARLY", if whole_page { &early } else { "" })
        .replace("$VALUES", if whole_page { &weigh } else { VALUES_BY_TURNS })
        .replace("$LOAD_QUERIES", &load_queries(shape, threads))
        .replace("$STORE_NEWEST", if shape.fresh.is_some() { STORE_NEWEST } else { "" })
        .replace("$READ_AGAIN", if shape.passes_newest() { "" } else { READ_AGAIN })
        .replace("$OWN_VALUE", if shape.passes_newest() { OWN_VALUE } else { "" })
        .replace("$SEQ", if shape.fresh.is_some() { "row" } else { "step[p.seqs_at + row]" })
        .replace("$PLACE", if shape.alone { PLACE_IN_O } else { PLACE_IN_PARTS })
        .replace("$KEEP_HALVES", if shape.halves { KEEP_HALVES } else { "" })
        .replace("$AHEAD_BINDING", if shape.ahead { AHEAD_BINDING } else { "" })
        .replace("$BRING_AHEAD", if shape.ahead { BRING_AHEAD } else { "" })
        .replace("$WEIGHTS", if shape.alone { "" } else { WEIGHTS_OF_PARTS })
        .as_str(),
        &[
            ("ENABLE", if shape.halves { ENABLE_HALVES.into() } else { String::new() }),
            ("PARAMS", PARAMS.into()),
            ("KEY", shape.key.name().into()),
            ("VALUE", shape.value.name().into()),
            ("LOAD_K", shape.key.load("k")),
            ("LOAD_V", shape.value.load("v")),
            ("ACCESS", if shape.fresh.is_some() { "read_write".into() } else { "read".into() }),
            ("FRESH_FUNCTIONS", fresh_functions(shape, threads)),
            ("GROUP_QUADS", (group * quads).to_string()),
            ("GROUP_TOKENS", (group * THREADS).to_string()),
            ("GROUP_D", (group * shape.head_dim).to_string()),
            ("GROUP", group.to_string()),
            ("TILE_QUADS", tile_quads(group, quads).to_string()),
            ("SLICES", slices(shape)),
            ("LANES", lanes.to_string()),
            ("THREADS", threads.to_string()),
            ("TOKENS", THREADS.to_string()),
            ("OWN_HEADS", (group / parts).to_string()),
            ("QUADS", quads.to_string()),
            ("KV_HEADS", shape.kv_heads.to_string()),
            ("HEADS", shape.heads.to_string()),
            ("PAGE_VALUES", (THREADS * shape.head_dim).to_string()),
            ("LINE", (shape.head_dim + if shape.alone { 0 } else { 2 }).to_string()),
            (
                "MEAN",
                if shape.alone {
                    "    total /= weight[i / $QUADSu];".replace("$QUADS", &quads.to_string())
                } else {
                    String::new()
                },
            ),
            ("D", shape.head_dim.to_string()),
            ("ZERO_SUMS", each(&|g| format!("  var sum{g} = vec4<f32>(0.0);\n"))),
            ("ZERO_SCORES", each_own(&|g| format!("      var s{g} = 0.0;\n"))),
            (
                "CAP",
                if shape.soft_cap {
                    each_own(&|g| format!("      s{g} = p.cap * tanh(clamp(s{g} / p.cap, -10.0, 10.0));\n"))
                } else {
                    String::new()
                },
            ),
            (
                "KEEP_SCORES",
                each_own(&|g| {
                    format!(
                        "      scores[(own_head + {g}u) * {THREADS}u + own_token] = select(-1e30, s{g}, visible);\n"
                    )
                }),
            ),
            (
                "EXPONENTIALS",
                each_own(&|g| {
                    format!(
                        "    let at{g} = (own_head + {g}u) * {THREADS}u + own_token;
    scores[at{g}] = select(0.0, exp(scores[at{g}] - greatest[own_head + {g}u]), visible);\n"
                    )
                }),
            ),
            ("RESCALE", each(&|g| format!("      sum{g} *= rescale[{g}];\n"))),
            ("AT_ONCE", at_once.to_string()),
            ("LOAD_VALUES", load_values),
            ("WEIGH", weigh),
            ("SHARERS", (group * shares).to_string()),
            ("SHARES", shares.to_string()),
            ("SHARE", (THREADS / shares).to_string()),
            (
                "KEEP_SUMS",
                each(&|g| format!("    tile[lane * {}u + {}u + column] = sum{g};\n", group * quads, g * quads)),
            ),
            ("ADD_LANES", (1..lanes).map(|l| format!("    total += tile[{}u + i];\n", l * group * quads)).collect()),
        ],
    )
}

/// The queries of the group, times the scale, to workgroup memory.
fn load_queries(shape: &AttendShape, threads: usize) -> String {
    let Some(turn) = shape.fresh else {
        return "  for (var i = t; i < $GROUP_QUADSu; i += $THREADSu) {
    let source = row * p.stride + wg.y * $GROUP_Du + i * 4u;
    queries[i] = vec4<f32>(qkv[source], qkv[source + 1u], qkv[source + 2u], qkv[source + 3u]) * p.scale;
  }
"
        .into();
    };
    let heads = shape.heads / shape.kv_heads + 1;
    // Threads of a head, where there is a norm: of the queries' heads and of the key's.
    let factors = match turn.norms() {
        true => format!(
            "  {{
    let head = t / {each}u;
    var sum = 0.0;
    if (head < {heads}u) {{
      let begins = select(queries_at + head * $Du, key_at, head == $GROUPu);
      for (var i = t % {each}u; i < $Du; i += {each}u) {{ sum += qkv[begins + i] * qkv[begins + i]; }}
    }}
    squares[t] = sum;
  }}
  workgroupBarrier();
  if (t < {heads}u) {{
    var sum = 0.0;
    for (var i = 0u; i < {each}u; i += 1u) {{ sum += squares[t * {each}u + i]; }}
    factors[t] = inverseSqrt(sum / $D.0 + select(p.q_eps, p.k_eps, t == $GROUPu));
  }}
  workgroupBarrier();
",
            each = threads / heads.next_power_of_two()
        ),
        false => String::new(),
    };
    // As the page will have it.
    let kept = |format, value: String| match format {
        KvFormat::F16 => format!("unpack2x16float(pack2x16float(vec2<f32>({value}, 0.0))).x"),
        _ => value,
    };
    let factor = |head: &str| if turn.norms() { format!("factors[{head}]") } else { "1.0".into() };
    format!(
        "  let queries_at = row * p.stride + wg.y * $GROUP_Du;
  let key_at = row * p.stride + ($HEADSu + wg.y) * $Du;
{factors}  for (var i = t; i < $GROUP_QUADSu; i += $THREADSu) {{
    let head = queries_at + (i / $QUADSu) * $Du;
    let at = (i % $QUADSu) * 4u;
    let factor = {};
    queries[i] = vec4<f32>(turned_q(head, at, position, factor), turned_q(head, at + 1u, position, factor),
      turned_q(head, at + 2u, position, factor), turned_q(head, at + 3u, position, factor)) * p.scale;
  }}
  let newest = end == position + 1u;
  let newest_page = step[table + (position >> 6u)];
  if (newest) {{
    for (var i = t; i < $Du; i += $THREADSu) {{
      new_key[i] = {};
      new_value[i] = {};
    }}
  }}
",
        factor("i / $QUADSu"),
        kept(shape.key, format!("turned_k(key_at, i, position, {})", factor("$GROUPu"))),
        kept(shape.value, "qkv[key_at + $KV_HEADSu * $Du + i]".into())
    )
}

/// What [`load_queries`] and [`STORE_NEWEST`] need.
fn fresh_functions(shape: &AttendShape, threads: usize) -> String {
    let Some(turn) = shape.fresh else { return String::new() };
    let head_dim = shape.head_dim;
    let norms = match turn.norms() {
        true => format!(
            "var<workgroup> squares: array<f32, {threads}>;\nvar<workgroup> factors: array<f32, {}>;\n",
            shape.heads / shape.kv_heads + 1
        ),
        false => String::new(),
    };
    format!(
        "var<workgroup> new_key: array<f32, {head_dim}>;\nvar<workgroup> new_value: array<f32, {head_dim}>;\n{norms}{}{}{}{}",
        turn.bindings(5),
        turn.functions("qkv"),
        shape.key.store("k", "new_key", head_dim, threads),
        shape.value.store("v", "new_value", head_dim, threads)
    )
}

const STORE_NEWEST: &str = "  workgroupBarrier();
  if (newest) {
    let at = ((newest_page * $KV_HEADSu + wg.y) * 64u + (position & 63u)) * $Du;
    store_k(at, t);
    store_v(at, t);
  }
$READ_AGAIN";

const READ_AGAIN: &str = "  // It is read from the page again, like all others.
  storageBarrier();";

const OWN_VALUE: &str =
    "  let own_value = vec4<f32>(new_value[column * 4u], new_value[column * 4u + 1u], new_value[column * 4u + 2u],
    new_value[column * 4u + 3u]);
";

const VALUES_BY_TURNS: &str = "      let last = min(64u, end - start);
      for (var token = lane; token < last; token += $AT_ONCEu * $LANESu) {
$LOAD_VALUES$WEIGH      }
";

const ENABLE_HALVES: &str = "enable f16;
@group(0) @binding(8) var<storage, read_write> halves: array<vec4<f16>>;
";

// Beyond the range of f16 lies infinity, which would spoil whole matrices.
const KEEP_HALVES: &str = "    let most = vec4<f32>(65504.0);
    halves[(row * p.halves_stride + wg.y * $GROUP_Du) / 4u + i] = vec4<f16>(clamp(total, -most, most));
";

const AHEAD_BINDING: &str = "@group(0) @binding(9) var<storage, read> weights_ahead: array<vec4<u32>>;
";

const BRING_AHEAD: &str = "  if (wg.y >= $KV_HEADSu) {
    let threads = (grid.y - $KV_HEADSu) * grid.z * $THREADSu;
    var seen = vec4<u32>();
    for (var i = ((wg.y - $KV_HEADSu) * grid.z + wg.z) * $THREADSu + t; i < p.ahead; i += 8u * threads) {
      let a = weights_ahead[i];
      let b = weights_ahead[min(i + threads, p.ahead - 1u)];
      let c = weights_ahead[min(i + 2u * threads, p.ahead - 1u)];
      let d = weights_ahead[min(i + 3u * threads, p.ahead - 1u)];
      let e = weights_ahead[min(i + 4u * threads, p.ahead - 1u)];
      let f = weights_ahead[min(i + 5u * threads, p.ahead - 1u)];
      let g = weights_ahead[min(i + 6u * threads, p.ahead - 1u)];
      let h = weights_ahead[min(i + 7u * threads, p.ahead - 1u)];
      seen |= a | b | c | d | e | f | g | h;
    }
    // Never: a compiler would leave out loads that nobody looks at.
    if (step[0] == 0xffffffffu) { parts[t] = f32(seen.x | seen.y | seen.z | seen.w); }
    return;
  }
";

const PLACE_IN_O: &str = "  let out = row * p.o_stride + wg.y * $GROUP_Du;
";

const PLACE_IN_PARTS: &str = "  let out = ((row * p.splits + wg.z) * $HEADSu + wg.y * $GROUPu) * $LINEu;
";

const WEIGHTS_OF_PARTS: &str = "  if (t < $GROUPu) {
    parts[out + t * $LINEu + $Du] = greatest[t];
    parts[out + t * $LINEu + $Du + 1u] = weight[t];
  }
";

/// The scores of a thread's token for its heads, by slices.
fn slices(shape: &AttendShape) -> String {
    let (group, quads) = (shape.heads / shape.kv_heads, shape.head_dim / 4);
    let own_heads = group / parts(group);
    let mut text = load_slice(shape, 0);
    for first in (0..quads).step_by(SLICE / 4) {
        let count = (quads - first).min(SLICE / 4);
        let line = count + 1;
        if first > 0 {
            text.push_str("      workgroupBarrier();\n");
        }
        for (i, inside) in slice_items(group, count) {
            let to = format!("tile[(i{first}_{i} / {count}u) * {line}u + i{first}_{i} % {count}u]");
            if !shape.passes_newest() {
                let _ = writeln!(text, "      {inside}{{ {to} = k{first}_{i}; }}");
                continue;
            }
            let _ = writeln!(
                text,
                "      {inside}{{
        if (start + i{first}_{i} / {count}u == position) {{
          let own = (i{first}_{i} % {count}u + {first}u) * 4u;
          {to} = vec4<f32>(new_key[own], new_key[own + 1u], new_key[own + 2u], new_key[own + 3u]);
        }} else {{
          {to} = k{first}_{i};
        }}
      }}"
            );
        }
        text.push_str("      workgroupBarrier();\n");
        text.push_str(&load_slice(shape, first + SLICE / 4));
        let unrolled = if count.is_multiple_of(4) { 4 } else { 1 };
        let _ = writeln!(text, "      for (var i = 0u; i < {count}u; i += {unrolled}u) {{");
        for j in 0..unrolled {
            let _ = writeln!(text, "        let k{j} = tile[own_token * {line}u + i + {j}u];");
        }
        for (j, g) in (0..unrolled).flat_map(|j| (0..own_heads).map(move |g| (j, g))) {
            let _ = writeln!(
                text,
                "        s{g} += dot(k{j}, queries[(own_head + {g}u) * {quads}u + {}u + i]);",
                first + j
            );
        }
        text.push_str("      }\n");
    }
    text
}

/// Loads the slice of keys from quad `first` on, all at once: a loop would wait for each. The slice before is multiplied
/// meanwhile.
fn load_slice(shape: &AttendShape, first: usize) -> String {
    let group = shape.heads / shape.kv_heads;
    let count = (shape.head_dim / 4).saturating_sub(first).min(SLICE / 4);
    let mut text = String::new();
    for (i, _) in slice_items(group, count) {
        let item = format!("t + {}u", i * THREADS * parts(group));
        // Behind the last quad comes that again.
        let _ = writeln!(text, "      let i{first}_{i} = min({item}, {}u);", count * THREADS - 1);
        let _ = writeln!(
            text,
            "      let k{first}_{i} = load_k(page + (i{first}_{i} / {count}u) * {}u + (i{first}_{i} % {count}u + {first}u) * 4u);",
            shape.head_dim
        );
    }
    text
}

/// What a thread loads of a slice of `count` quads a token: numbers, and a condition where not all threads have one.
fn slice_items(group: usize, count: usize) -> impl Iterator<Item = (usize, String)> {
    let (all, threads) = (count * THREADS, THREADS * parts(group));
    (0..all.div_ceil(threads)).map(move |i| {
        let ragged = (i + 1) * threads > all;
        (i, if ragged { format!("if (t + {}u < {all}u) ", i * threads) } else { String::new() })
    })
}

/// Attention as the textbook has it, for comparison: the greatest score of the history first, then the weights and their
/// sum. Grid: (rows, heads). Parameters as in `Params`. Bindings: 0 qkv, 1 step, 2 K pages, 3 V pages, 4 o.
pub(crate) fn plain_attend(shape: &AttendShape) -> String {
    let cap = if shape.soft_cap { "s = p.cap * tanh(clamp(s / p.cap, -10.0, 10.0));" } else { "" };
    fill(
        "// plain attend $KEY,$VALUE
$PARAMS@group(0) @binding(0) var<storage, read> qkv: array<f32>;
@group(0) @binding(1) var<storage, read> step: array<u32>;
@group(0) @binding(2) var<storage, read> k_pages: array<u32>;
@group(0) @binding(3) var<storage, read> v_pages: array<u32>;
@group(0) @binding(4) var<storage, read_write> o: array<f32>;
$LOAD_K$LOAD_V
var<workgroup> query: array<vec4<f32>, $QUADS>;
var<workgroup> shared_values: array<f32, $THREADS>;
fn entry(table: u32, head: u32, at: u32) -> u32 {
  return (step[table + (at >> 6u)] * $KV_HEADSu + head) * $PAGE_VALUESu + (at & 63u) * $Du;
}
fn score(key: u32) -> f32 {
  var s = 0.0;
  for (var i = 0u; i < $QUADSu; i += 1u) { s += dot(query[i], load_k(key + i * 4u)); }
  $CAP
  return s;
}
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = wg.x;
  if (row >= step[0]) { return; }
  let position = step[p.positions_at + row];
  let first = select(0u, position + 1u - p.window, position + 1u > p.window);
  let head = wg.y / $GROUPu;
  let table = p.tables_at + (step[p.seqs_at + row] * p.groups + p.group) * p.table_stride;
  for (var i = t; i < $QUADSu; i += $THREADSu) {
    let source = row * p.stride + wg.y * $Du + i * 4u;
    query[i] = vec4<f32>(qkv[source], qkv[source + 1u], qkv[source + 2u], qkv[source + 3u]) * p.scale;
  }
  workgroupBarrier();
  var most = -1e30;
  for (var at = first + t; at <= position; at += $THREADSu) { most = max(most, score(entry(table, head, at))); }
  shared_values[t] = most;
  workgroupBarrier();
  most = -1e30;
  for (var i = 0u; i < $THREADSu; i += 1u) { most = max(most, shared_values[i]); }
  workgroupBarrier();
  var sum = vec4<f32>(0.0);
  var weight = 0.0;
  for (var start = first; start <= position; start += $THREADSu) {
    let at = min(start + t, position);
    shared_values[t] = select(0.0, exp(score(entry(table, head, at)) - most), start + t <= position);
    workgroupBarrier();
    let count = min($THREADSu, position + 1u - start);
    for (var i = 0u; i < count; i += 1u) {
      weight += shared_values[i];
      if (t < $QUADSu) { sum += load_v(entry(table, head, start + i) + t * 4u) * shared_values[i]; }
    }
    workgroupBarrier();
  }
  if (t < $QUADSu) {
    let to = row * p.o_stride + wg.y * $Du + t * 4u;
    let mean = sum / weight;
    o[to] = mean.x; o[to + 1u] = mean.y; o[to + 2u] = mean.z; o[to + 3u] = mean.w;
  }
}
",
        &[
            ("PARAMS", PARAMS.into()),
            ("KEY", shape.key.name().into()),
            ("VALUE", shape.value.name().into()),
            ("LOAD_K", shape.key.load("k")),
            ("LOAD_V", shape.value.load("v")),
            ("CAP", cap.into()),
            ("GROUP", (shape.heads / shape.kv_heads).to_string()),
            ("THREADS", THREADS.to_string()),
            ("QUADS", (shape.head_dim / 4).to_string()),
            ("KV_HEADS", shape.kv_heads.to_string()),
            ("PAGE_VALUES", (THREADS * shape.head_dim).to_string()),
            ("D", shape.head_dim.to_string()),
        ],
    )
}

/// o\[row\]\[head\] = weighted mean of its splits. Grid: (rows, heads). Parameters: splits, positions in a split, heads, o
/// stride, index of the positions in step, stride of o as f16. Bindings: 0 partial, 1 o, 2 step; 3 o as f16 with `halves`.
pub(crate) fn merge_splits(head_dim: usize, halves: bool) -> String {
    fill(
        "// merge splits
$ENABLE
struct Params { splits: u32, split: u32, heads: u32, stride: u32, positions_at: u32, halves_stride: u32, }
@group(0) @binding(15) var<uniform> p: Params;
@group(0) @binding(0) var<storage, read> parts: array<f32>;
@group(0) @binding(1) var<storage, read_write> o: array<f32>;
@group(0) @binding(2) var<storage, read> step: array<u32>;
var<workgroup> mosts: array<f32, $THREADS>;
var<workgroup> weights: array<f32, $THREADS>;
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = wg.x;
  if (row >= step[0]) { return; }
  let splits = step[p.positions_at + row] / p.split + 1u;
  let source = (row * p.splits * p.heads + wg.y) * $PARTIALu;
  let next = p.heads * $PARTIALu;
  // All on their way at once: a loop would wait for each. There are no more splits than threads.
  let own = source + min(t, splits - 1u) * next + $Du;
  let own_most = parts[own];
  let own_weight = parts[own + 1u];
  mosts[t] = own_most;
  workgroupBarrier();
  var most = -1e30;
  for (var s = 0u; s < splits; s += 1u) { most = max(most, mosts[s]); }
  workgroupBarrier();
  let factor = exp(own_most - most);
  mosts[t] = factor;
  weights[t] = own_weight * factor;
  workgroupBarrier();
  var weight = 0.0;
  for (var s = 0u; s < splits; s += 1u) { weight += weights[s]; }
  for (var i = t; i < $Du; i += $THREADSu) {
    var total = 0.0;
    for (var s = 0u; s < splits; s += 4u) {
      let at = source + s * next + i;
      let a = parts[at];
      let b = parts[at + min(1u, splits - 1u - s) * next];
      let c = parts[at + min(2u, splits - 1u - s) * next];
      let d = parts[at + min(3u, splits - 1u - s) * next];
      total += a * mosts[s];
      total += select(0.0, b * mosts[min(s + 1u, $LASTu)], s + 1u < splits);
      total += select(0.0, c * mosts[min(s + 2u, $LASTu)], s + 2u < splits);
      total += select(0.0, d * mosts[min(s + 3u, $LASTu)], s + 3u < splits);
    }
    o[row * p.stride + wg.y * $Du + i] = total / weight;
$KEEP_HALVES  }
}
",
        &[
            ("THREADS", THREADS.to_string()),
            ("LAST", (THREADS - 1).to_string()),
            (
                "ENABLE",
                match halves {
                    true => "enable f16;\n@group(0) @binding(3) var<storage, read_write> halves: array<f16>;".into(),
                    false => String::new(),
                },
            ),
            (
                "KEEP_HALVES",
                match halves {
                    true => "    halves[row * p.halves_stride + wg.y * $Du + i] = f16(clamp(total / weight, -65504.0, 65504.0));\n"
                        .replace("$D", &head_dim.to_string()),
                    false => String::new(),
                },
            ),
            ("PARTIAL", (head_dim + 2).to_string()),
            ("D", head_dim.to_string()),
        ],
    )
}
