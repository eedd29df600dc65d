//! The kernels, as functions that return WGSL text.
//!
//! A kernel is a template and a list of constants. What Metal's compiler would not unroll (naga prints every loop as
//! `while(true)`) is unrolled here: rows, batch rows and quads of a unit are named scalars, never array elements.

mod attention;
mod chunk;
#[cfg(test)]
mod counting;
mod dots;
mod elementwise;
mod flash;
mod matmul;
mod matvec;
mod single;
mod skinny;
#[cfg(test)]
mod tests;
mod top_k;
mod turn;
mod unit;
mod wide;

pub(crate) use attention::{AttendShape, attend, attend_bytes, merge_splits, plain_attend};
pub(crate) use chunk::has_dots;
pub(crate) use dots::{DotsShape, THREADS as BYTES_THREADS, byte_row_quads, dots, to_bytes};
pub(crate) use elementwise::{
    COPY_BYTES, GATE_HALVES, ROW_THREADS, UNPACKED, add_depths, add_rms_norm, copy, embed, gate, gate_halves,
    gather_norm, norm_rows, soft_cap, sum_norm_halves, to_halves, unpack,
};
pub(crate) use flash::{FLASH_SLACK, FlashShape, flash};
pub(crate) use matmul::{MatmulShape, TILE, matmul};
pub(crate) use matvec::{Epilogue, MatvecShape, matvec};
pub(crate) use single::{MOST_PARTS, PART_WORDS, SingleShape, single};
pub(crate) use skinny::{DEPTH, SkinnyShape, skinny};
pub(crate) use top_k::{MOST, SORT, TopShape, top_k};
pub(crate) use turn::{RopeShape, Turn, rope_and_store};
pub use wide::WideTile;
pub(crate) use wide::{FEW, PACKED_TILE, TILE as WIDE_TILE, WideShape, wide};

/// Replaces each `$NAME` of `template` by its value. Longer names first, so that `$ROWS` is not read as `$ROW` + `S`.
fn fill(template: &str, values: &[(&str, String)]) -> String {
    let mut values: Vec<&(&str, String)> = values.iter().collect();
    values.sort_by_key(|(name, _)| std::cmp::Reverse(name.len()));
    let mut text = template.to_owned();
    for (name, value) in values {
        text = text.replace(&format!("${name}"), value);
    }
    debug_assert!(!text.contains('$'), "unfilled placeholder in a shader:\n{text}");
    text
}

/// The kernel with its parameters, `words`, in its text in place of a buffer.
pub(crate) fn baked(source: &str, words: &[u8]) -> String {
    let (before, rest) = source.split_once("struct Params {").expect("every kernel has parameters");
    let (fields, after) = rest.split_once('}').expect("the struct ends");
    let kinds = fields.split(',').filter_map(|field| field.split_once(':')).map(|(_, kind)| kind.trim());
    let values = kinds.zip(words.chunks_exact(4)).map(|(kind, word)| {
        let word = u32::from_ne_bytes(word.try_into().expect("chunks of four"));
        if kind == "f32" { format!("{:e}f", f32::from_bits(word)) } else { format!("{word}u") }
    });
    let values = values.collect::<Vec<_>>().join(", ");
    let constant = format!("const p: Params = Params({values});");
    let bound = format!("{BOUND_PARAMS} p: Params;");
    format!("{before}struct Params {{{fields}}}{after}").replace(&bound, &constant)
}

/// How kernels bind their parameters.
pub(crate) const BOUND_PARAMS: &str = "@group(0) @binding(15) var<uniform>";

/// Sums over the lanes that share a row: by subgroup operations, or through workgroup memory.
///
/// Defines `fn lane_sum(v: f32, lane: u32) -> f32`, which every lane of the workgroup calls together.
fn lane_sum(subgroups: bool, lanes: u32) -> String {
    if subgroups {
        return "fn lane_sum(v: f32, lane: u32) -> f32 { return subgroupAdd(v); }\n".into();
    }
    fill(
        "var<workgroup> lane_values: array<f32, $LANES>;
fn lane_sum(v: f32, lane: u32) -> f32 {
  workgroupBarrier();
  lane_values[lane] = v;
  workgroupBarrier();
  for (var step = $HALFu; step > 0u; step = step >> 1u) {
    if (lane < step) { lane_values[lane] = lane_values[lane] + lane_values[lane + step]; }
    workgroupBarrier();
  }
  return lane_values[0];
}
",
        &[("LANES", lanes.to_string()), ("HALF", (lanes / 2).to_string())],
    )
}
