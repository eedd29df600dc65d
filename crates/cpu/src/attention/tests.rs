//! Attention against f64 sums, and against itself however it is cut.

use tensor::{Format, KvGroup, KvSpec, LayerDims, PAGE_TOKENS};

use super::*;
use crate::Isa;
use crate::kv::{KvCache, Slot};
use crate::memory::Arena;

/// A sequence's entries and queries: what attention is given, and what it is computed from.
struct World {
    shape: Shape,
    cache: KvCache,
    table: Vec<u32>,
    /// `[kv_heads][tokens][head_dim]`
    keys: Vec<f32>,
    values: Vec<f32>,
    /// `[heads][tokens][padded_dim]`: a query for each position.
    queries: Vec<f32>,
}

/// Tokens of every test: several chunks, the last not full.
const TOKENS: usize = 2 * CHUNK_PAGES * PAGE_TOKENS + 101;

fn random(seed: &mut u64) -> f32 {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    (*seed >> 40) as f32 / 8_388_608.0 - 1.0
}

impl World {
    fn new(shape: Shape, formats: (Format, Format)) -> World {
        World::rising(shape, formats, 0.0)
    }

    /// Scores rise by `rise` / 2 from page to page of a chunk.
    fn rising(shape: Shape, formats: (Format, Format), rise: f32) -> World {
        let Shape { heads, kv_heads, head_dim, .. } = shape;
        let pages = TOKENS.div_ceil(PAGE_TOKENS);
        let layers = [LayerDims { heads, kv_heads, head_dim, ffn: 16 }];
        let group = KvGroup { layers: vec![0], pages: pages + 2 };
        let spec = KvSpec { key_format: formats.0, value_format: formats.1, groups: vec![group] };
        let mut cache = KvCache::allocate(&spec, &layers, &Arena::default()).expect("a small cache");
        // Pages in no particular order, two of them never used.
        let table: Vec<u32> = (0..pages).map(|page| ((page * 7 + 3) % (pages + 2)) as u32).collect();
        let mut seed = 0x5eed_1234_5678;
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in 0..kv_heads {
            for token in 0..TOKENS {
                let step = (token / PAGE_TOKENS % CHUNK_PAGES) as f32 * rise;
                let mut entry = |stored: &mut Vec<f32>, scale: f32, first: f32| {
                    let mut entry: Vec<f32> = (0..head_dim).map(|_| scale * random(&mut seed)).collect();
                    if first > 0.0 {
                        entry[0] = first;
                    }
                    stored.extend(&entry);
                    entry.resize(shape.padded_dim(), 0.0);
                    entry
                };
                let (key, value) = (entry(&mut keys, 1.0, step), entry(&mut values, 3.0, 0.0));
                cache.layer_mut(0).append(head, Slot::of(&table, token), &key, &value);
            }
        }
        let mut queries = Vec::new();
        for _ in 0..heads * TOKENS {
            let start = queries.len();
            queries.extend((0..head_dim).map(|_| 4.0 * random(&mut seed)));
            queries.resize(start + shape.padded_dim(), 0.0);
            if rise > 0.0 {
                queries[start] = 4.0;
            }
        }
        World { shape, cache, table, keys, values, queries }
    }
}

impl World {
    /// The output of one head for the row at `position`, by the definition.
    fn expected(&self, head: usize, position: usize) -> Vec<f64> {
        let Shape { head_dim, scale, soft_cap, .. } = self.shape;
        let kv_head = head / self.shape.group();
        let entry = |stored: &'_ [f32], token: usize| -> Vec<f64> {
            let start = (kv_head * TOKENS + token) * head_dim;
            stored[start..start + head_dim].iter().map(|&x| f64::from(x)).collect()
        };
        let start = (head * TOKENS + position) * self.shape.padded_dim();
        let query = &self.queries[start..start + head_dim];
        let visible = self.shape.first_visible(position)..position + 1;
        let scores: Vec<f64> = visible
            .clone()
            .map(|token| {
                let score: f64 = entry(&self.keys, token).iter().zip(query).map(|(k, &q)| k * f64::from(q)).sum();
                let score = score * f64::from(scale);
                soft_cap.map_or(score, |cap| f64::from(cap) * (score / f64::from(cap)).tanh())
            })
            .collect();
        let greatest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - greatest).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let mut output = vec![0.0; head_dim];
        for (token, weight) in visible.zip(weights) {
            for (output, value) in output.iter_mut().zip(entry(&self.values, token)) {
                *output += weight / sum * value;
            }
        }
        output
    }

    /// The rows at these positions through a plan for `threads` threads: `[kv_heads][rows][group_width]`.
    fn attend(&self, isa: Isa, positions: &[u32], threads: usize, softmax: Softmax) -> Vec<f32> {
        let shape = self.shape;
        let rows: Vec<QueryRow> = positions.iter().map(|&position| QueryRow { row: position, position }).collect();
        let mut plan = Plan::default();
        plan.set(&shape, &[Sequence { seq: 0, first_row: 0, rows: rows.len() }], &rows, threads);
        let mut out = vec![f32::NAN; shape.kv_heads * rows.len() * shape.group_width()];
        let mut partials = vec![f32::NAN; plan.partial_len()];
        let mut scratch = Scratch::default();
        let mut run = |item: &plan::Item, output: Output<'_>| {
            let task = Task {
                shape,
                kv: self.cache.layer(0),
                table: &self.table,
                kv_head: item.kv_head,
                rows: &rows[item.first_row..item.first_row + item.rows],
                queries: Queries { values: &self.queries, rows: TOKENS },
                pages: item.pages,
                softmax,
            };
            task.run(isa, &mut scratch, output);
        };
        for (item, range) in plan.whole.iter().zip(&plan.whole_ranges) {
            run(item, Output::Rows(&mut out[range.clone()]));
        }
        for (item, range) in plan.split.iter().zip(&plan.split_ranges) {
            run(item, Output::Partial(&mut partials[range.clone()]));
        }
        for (fold, range) in plan.folds.iter().zip(&plan.fold_ranges) {
            let out = &mut out[range.clone()];
            let len = out.len() / shape.padded_dim() * state::partial_len(&shape) * fold.chunks;
            let partials = &partials[fold.first..fold.first + len];
            isa.dispatch(Merge { partials, chunks: fold.chunks, padded_dim: shape.padded_dim(), out });
        }
        out
    }

    /// The part of an output that belongs to one row.
    fn row<'o>(&self, out: &'o [f32], rows: usize, row: usize) -> impl Iterator<Item = &'o [f32]> {
        let width = self.shape.group_width();
        out.chunks_exact(width).skip(row).step_by(rows)
    }
}

const FORMATS: [Format; 5] = [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0];

const SHAPES: [Shape; 6] = [
    shape(4, 4, 128, None),
    shape(8, 2, 64, None),
    shape(3, 1, 80, Some(700)),
    shape(9, 1, 64, Some(90)),
    shape(2, 1, 256, None),
    shape(2, 2, 24, Some(1)),
];

const fn shape(heads: usize, kv_heads: usize, head_dim: usize, window: Option<usize>) -> Shape {
    Shape { heads, kv_heads, head_dim, scale: 0.125, window, soft_cap: None }
}

/// Greatest error of an output, relative to values of order 1: rounding of the stored entries.
fn tolerance(formats: (Format, Format)) -> f64 {
    let of = |format| match format {
        Format::F32 => 2e-5,
        Format::F16 => 3e-3,
        Format::BF16 => 3e-2,
        Format::Q8_0 => 6e-2,
        _ => 0.8,
    };
    of(formats.0) + of(formats.1)
}

#[test]
fn rows_are_near_the_definition_on_every_instruction_set() {
    let positions: Vec<u32> = [0, 1, 15, 16, 63, 64, 511, 512, 700, TOKENS as u32 - 1].to_vec();
    for shape in SHAPES {
        for soft_cap in [None, Some(2.0)] {
            let shape = Shape { soft_cap, ..shape };
            for format in FORMATS {
                if format.block_len() > 1 && !shape.head_dim.is_multiple_of(32) {
                    continue;
                }
                for isa in Isa::of_long_tests() {
                    let world = World::new(shape, (format, format));
                    for softmax in [Softmax::Tiled, Softmax::Plain] {
                        let out = world.attend(isa, &positions, 0, softmax);
                        world.check(&out, &positions, tolerance((format, format)), isa);
                    }
                }
            }
        }
    }
}

#[test]
fn rows_are_near_the_definition_where_scores_rise() {
    let positions: Vec<u32> = [63, 64, 200, 300, 511, 512, 600, 700, TOKENS as u32 - 1].to_vec();
    for shape in [shape(8, 2, 64, None), shape(3, 1, 80, Some(300))] {
        for format in [Format::F32, Format::F16, Format::BF16] {
            // Each page has a greater score than those before: what was summed up is scaled anew.
            for rise in [8.0, 16.0, 32.0] {
                for isa in Isa::of_long_tests() {
                    let world = World::rising(shape, (format, format), rise);
                    let together = world.attend(isa, &positions, 0, Softmax::Tiled);
                    world.check(&together, &positions, tolerance((format, format)), isa);
                    for (row, position) in positions.iter().enumerate() {
                        let alone = world.attend(isa, &[*position], 64, Softmax::Tiled);
                        let expected = world.row(&together, positions.len(), row);
                        for (expected, found) in expected.zip(world.row(&alone, 1, 0)) {
                            assert_eq!(expected, found, "{isa}, {shape:?}, position {position}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn what_is_no_number_is_seen_by_rows_that_see_it_and_by_no_later_owner_of_its_page() {
    for_each_way_of_attending(|isa, softmax, format, shape| {
        // The first token of all, one among others, the first of a chunk.
        for (bad, in_key) in [0, 201, 512].into_iter().flat_map(|bad| [(bad, true), (bad, false)]) {
            let what = format!("{isa}, {softmax:?}, {}, token {bad}, in the key: {in_key}", format.name());
            let mut world = World::new(shape, (format, format));
            let before: Vec<u32> = if bad == 201 { vec![200] } else { vec![] };
            let sound = world.attend(isa, &before, 0, softmax);
            let (good, mut bad_entry) = (vec![0.5; 64], vec![0.5; 64]);
            bad_entry[17] = f32::NAN;
            let (key, value) = if in_key { (&bad_entry, &good) } else { (&good, &bad_entry) };
            world.cache.layer_mut(0).append(1, Slot::of(&world.table, bad), key, value);

            for position in [bad, bad + 1, 600, TOKENS - 1] {
                let alone =
                    world.attend(isa, &[position as u32], if softmax == Softmax::Plain { 0 } else { 64 }, softmax);
                let together = world.attend(isa, &[position as u32, position as u32], 0, softmax);
                for (out, rows) in [(alone, 1), (together, 2)] {
                    let heads: Vec<&[f32]> = world.row(&out, rows, 0).collect();
                    assert!(heads[0].iter().all(|x| x.is_finite()), "{what}: the other key head, row {position}");
                    for head in heads[1].chunks_exact(64) {
                        assert!(head.iter().any(|x| x.is_nan()), "{what}: row {position} took it for a number");
                    }
                }
            }
            // A later owner of the page writes its tokens in order, and ends just before that place.
            for &position in &before {
                let start = (TOKENS + position as usize) * 64;
                let (keys, values) = (world.keys.clone(), world.values.clone());
                let slot = Slot::of(&world.table, position as usize);
                world.cache.layer_mut(0).append(1, slot, &keys[start..start + 64], &values[start..start + 64]);
            }
            assert_eq!(world.attend(isa, &before, 0, softmax), sound, "{what}: a later owner");
        }
    });
}

#[test]
fn query_that_is_no_number_gives_none() {
    for_each_way_of_attending(|isa, softmax, format, shape| {
        let mut world = World::new(shape, (format, format));
        let position = 700;
        world.queries[(5 * TOKENS + position) * 64 + 3] = f32::NAN;
        for threads in if softmax == Softmax::Plain { vec![0] } else { vec![0, 64] } {
            let out = world.attend(isa, &[position as u32], threads, softmax);
            for (head, values) in out.chunks_exact(64).enumerate() {
                let what = format!("{isa}, {softmax:?}, {}, head {head}", format.name());
                assert!(values.iter().all(|x| x.is_nan() == (head == 5)), "{what}: {values:?}");
            }
        }
    });
}

/// Every instruction set, softmax and format, with and without a cap on scores.
fn for_each_way_of_attending(check: impl Fn(Isa, Softmax, Format, Shape)) {
    for (format, soft_cap) in FORMATS.into_iter().flat_map(|format| [(format, None), (format, Some(2.0))]) {
        for isa in Isa::of_long_tests() {
            for softmax in [Softmax::Tiled, Softmax::Plain] {
                check(isa, softmax, format, Shape { soft_cap, ..shape(8, 2, 64, None) });
            }
        }
    }
}

impl World {
    fn check(&self, out: &[f32], positions: &[u32], tolerance: f64, isa: Isa) {
        let Shape { head_dim, .. } = self.shape;
        for (row, &position) in positions.iter().enumerate() {
            for (kv_head, group) in self.row(out, positions.len(), row).enumerate() {
                for (i, found) in group.chunks_exact(self.shape.padded_dim()).enumerate() {
                    let head = kv_head * self.shape.group() + i;
                    let expected = self.expected(head, position as usize);
                    for (found, expected) in found[..head_dim].iter().zip(expected) {
                        let error = (f64::from(*found) - expected).abs();
                        let what = (isa, self.shape, position, head);
                        assert!(error <= tolerance, "{what:?}: {found} instead of {expected}");
                    }
                }
            }
        }
    }
}

#[test]
fn row_is_the_same_bits_alone_split_and_in_any_chunk_of_prefill() {
    for shape in SHAPES {
        for format in FORMATS {
            if format.block_len() > 1 && !shape.head_dim.is_multiple_of(32) {
                continue;
            }
            for isa in Isa::of_long_tests().into_iter().filter(|&isa| isa != Isa::Scalar) {
                let world = World::new(shape, (format, format));
                let all: Vec<u32> = (TOKENS as u32 - 75..TOKENS as u32).collect();
                let together = world.attend(isa, &all, 1, Softmax::Tiled);
                for (row, position) in all.iter().enumerate().step_by(7) {
                    for threads in [0, 64] {
                        let alone = world.attend(isa, &[*position], threads, Softmax::Tiled);
                        let expected = world.row(&together, all.len(), row);
                        for (expected, found) in expected.zip(world.row(&alone, 1, 0)) {
                            assert_eq!(expected, found, "{isa}, {shape:?}, position {position}, {threads} threads");
                        }
                    }
                }
                let tail = &all[all.len() - 9..];
                let some = world.attend(isa, tail, 64, Softmax::Tiled);
                for row in 0..tail.len() {
                    let expected = world.row(&together, all.len(), all.len() - 9 + row);
                    for (expected, found) in expected.zip(world.row(&some, tail.len(), row)) {
                        assert_eq!(expected, found, "{isa}, {shape:?}, tail row {row}");
                    }
                }
            }
        }
    }
}
