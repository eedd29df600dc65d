//! What becomes of queries, keys and values behind their projection: a norm over each head, rotation, and the way of keys and
//! values into their pages.
//!
//! [`rope_and_store`] does it for any step. Where every row is the newest of its sequence, [`super::attend`] does it on its
//! way and a dispatch is saved: see [`Turn`].

use std::fmt::Write;

use super::{ROW_THREADS, fill, lane_sum};
use crate::kv::KvFormat;

/// What queries and keys go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Turn {
    /// Pairs that turn; 0 without rotation.
    pub(crate) pairs: usize,
    /// A pair is of neighbours, not of the two halves.
    pub(crate) interleaved: bool,
    pub(crate) q_norm: bool,
    pub(crate) k_norm: bool,
}

impl Turn {
    /// Whether heads go through a norm.
    pub(super) fn norms(&self) -> bool {
        self.q_norm || self.k_norm
    }

    /// WGSL that binds, from binding `first` on, what the shape has of cosines and sines, q norm and k norm.
    pub(super) fn bindings(&self, first: usize) -> String {
        let all = [
            (self.pairs > 0, "turns: array<vec2<f32>>"),
            (self.q_norm, "q_norm: array<f32>"),
            (self.k_norm, "k_norm: array<f32>"),
        ];
        let mut text = String::new();
        for (index, (_, declaration)) in all.iter().filter(|(wanted, _)| *wanted).enumerate() {
            let _ = writeln!(text, "@group(0) @binding({}) var<storage, read> {declaration};", first + index);
        }
        text
    }

    /// WGSL of `fn turned_q(head: u32, i: u32, position: u32, factor: f32) -> f32` and `turned_k`: value `i` of the head that
    /// begins at index `head` of `from`, times `factor` and the norm's weight where there is a norm, then turned.
    pub(super) fn functions(&self, from: &str) -> String {
        self.function("q", self.q_norm, from) + &self.function("k", self.k_norm, from)
    }

    fn function(&self, name: &str, norm: bool, from: &str) -> String {
        let value = |i: &str| match norm {
            true => format!("{from}[head + {i}] * factor * {name}_norm[{i}]"),
            false => format!("{from}[head + {i}]"),
        };
        let pairs = self.pairs;
        let (pair, first, a, b) = match self.interleaved {
            true => ("i / 2u".to_owned(), "(i & 1u) == 0u".to_owned(), "2u * pair", "2u * pair + 1u".to_owned()),
            false => (format!("i % {pairs}u"), format!("i < {pairs}u"), "pair", format!("pair + {pairs}u")),
        };
        let turn = match pairs {
            0 => String::new(),
            _ => format!(
                "  if (i < {}u) {{
    let pair = {pair};
    let turn = turns[position * {pairs}u + pair];
    let a = {};
    let b = {};
    return select(a * turn.y + b * turn.x, a * turn.x - b * turn.y, {first});
  }}
",
                2 * pairs,
                value(a),
                value(&format!("({b})")),
            ),
        };
        format!(
            "fn turned_{name}(head: u32, i: u32, position: u32, factor: f32) -> f32 {{\n{turn}  return {};\n}}\n",
            value("i")
        )
    }
}

/// What [`rope_and_store`] is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RopeShape {
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) turn: Turn,
    pub(crate) key: KvFormat,
    pub(crate) value: KvFormat,
}

/// Norm over heads, rotation, and the way into the KV pages. Grid: (heads + 2 kv_heads, rows); one workgroup a head.
///
/// Parameters: qkv stride, group's table index, groups, table stride, index of tables and of each row's sequence and
/// position in step, q eps, k eps, scale bases of K and V. Bindings: 0 qkv, 1 step, 2 K pages, 3 V pages, then cos/sin
/// (with rotation), q norm, k norm.
pub(crate) fn rope_and_store(shape: &RopeShape) -> String {
    // A workgroup has one head: a pair a thread.
    let threads = (shape.head_dim / 2).next_power_of_two().clamp(32, ROW_THREADS as usize);
    let (each, norms) = (format!("for (var i = t; i < {}u; i += {threads}u)", shape.head_dim), shape.turn.norms());
    let factors = match norms {
        true => format!(
            "  var squares = 0.0;
  {each} {{ squares += loaded[i] * loaded[i]; }}
  let mean = lane_sum(squares, t) / {}.0;
  let q_factor = inverseSqrt(mean + p.q_eps);
  let k_factor = inverseSqrt(mean + p.k_eps);
",
            shape.head_dim
        ),
        false => "  let q_factor = 1.0;\n  let k_factor = 1.0;\n".into(),
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
$BINDINGS
var<workgroup> loaded: array<f32, $D>;
var<workgroup> head: array<f32, $D>;
$FUNCTIONS$STORES
@compute @workgroup_size($THREADS)
fn main(@builtin(workgroup_id) wg: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = wg.y;
  if (row >= step[0]) { return; }
  let is_q = wg.x < $HEADSu;
  let is_k = !is_q && wg.x < $KEY_ENDu;
  let position = step[p.positions_at + row];
  let source = row * p.stride + wg.x * $Du;
  $EACH { loaded[i] = qkv[source + i]; }
  workgroupBarrier();
$FACTORS  if (is_q) {
    $EACH { qkv[source + i] = turned_q(0u, i, position, q_factor); }
    return;
  }
  if (is_k) {
    $EACH { head[i] = turned_k(0u, i, position, k_factor); }
  } else {
    $EACH { head[i] = loaded[i]; }
  }
  workgroupBarrier();
  let table = p.tables_at + (step[p.seqs_at + row] * p.groups + p.group) * p.table_stride;
  let page = step[table + (position >> 6u)];
  let kv_head = select(wg.x - $KEY_ENDu, wg.x - $HEADSu, is_k);
  let at = ((page * $KV_HEADSu + kv_head) * 64u + (position & 63u)) * $Du;
  if (is_k) { store_k(at, t); } else { store_v(at, t); }
}
",
        &[
            ("LANE_SUM", if norms { lane_sum(false, threads as u32) } else { String::new() }),
            ("BINDINGS", shape.turn.bindings(4)),
            ("FUNCTIONS", shape.turn.functions("loaded")),
            (
                "STORES",
                shape.key.store("k", "head", shape.head_dim, threads)
                    + &shape.value.store("v", "head", shape.head_dim, threads),
            ),
            ("KEY", shape.key.name().into()),
            ("VALUE", shape.value.name().into()),
            ("KEY_END", (shape.heads + shape.kv_heads).to_string()),
            ("KV_HEADS", shape.kv_heads.to_string()),
            ("HEADS", shape.heads.to_string()),
            ("D", shape.head_dim.to_string()),
            ("THREADS", threads.to_string()),
            ("EACH", each),
            ("FACTORS", factors),
        ],
    )
}
