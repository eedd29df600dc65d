//! However a sequence is cut into steps and wherever its pages lie, its logits are the same to the last bit.

use tensor::{Batch, Format, NO_PAGE, PAGE_TOKENS, Reference, SeqRows};

use crate::support::{decoder, logits, tiny_models};
use model::Decoder;

/// Long enough for three pages.
const LONG: usize = 150;

#[test]
fn steps_of_any_size_give_the_same_bits() {
    for tiny in tiny_models() {
        let mut decoder = decoder(&tiny.checkpoint()).unwrap();
        let tokens: Vec<u32> = tiny.input_ids.iter().copied().cycle().take(LONG).collect();
        let whole = logits(&mut decoder, &tokens, LONG);
        for chunk in [1, 7, 64] {
            assert_eq!(logits(&mut decoder, &tokens, chunk), whole, "{}: steps of {chunk}", tiny.name);
        }
    }
}

#[test]
fn two_sequences_in_scattered_pages_give_the_bits_of_one() {
    for tiny in tiny_models() {
        let mut decoder = decoder(&tiny.checkpoint()).unwrap();
        let first: Vec<u32> = tiny.input_ids.iter().copied().cycle().take(LONG).collect();
        let second: Vec<u32> = first.iter().rev().copied().take(90).collect();
        let alone = [logits(&mut decoder, &first, LONG), logits(&mut decoder, &second, LONG)];
        let together = run_together(&mut decoder, [&first, &second]);
        assert_eq!(together[0], alone[0], "{}", tiny.name);
        assert_eq!(together[1], alone[1], "{}", tiny.name);
    }
}

/// Runs two sequences in steps of uneven size. Pages are taken from both ends of the pool, and those that a window can
/// no longer see are given back.
fn run_together(decoder: &mut Decoder<Reference>, sequences: [&[u32]; 2]) -> [Vec<Vec<f32>>; 2] {
    const STRIDE: usize = LONG.div_ceil(PAGE_TOKENS);
    const POOL: usize = 2 * STRIDE + 3;
    let groups = decoder.kv_groups().to_vec();
    let spec = decoder.kv_spec(Format::F32, Format::F32, &vec![POOL; groups.len()]);
    decoder.allocate_kv(&spec).unwrap();
    let page = |sequence: usize, group: usize, entry: usize| {
        let from_the_end = (sequence + group + entry).is_multiple_of(2);
        let index = sequence * STRIDE + entry;
        if from_the_end { POOL - 1 - index } else { index }
    };
    let mut got = [Vec::new(), Vec::new()];
    for step in 0.. {
        let takes = [[13, 1, 30][step % 3], [1, 22][step % 2]];
        let (mut tokens, mut positions, mut seqs, mut tables, mut members) = (vec![], vec![], vec![], vec![], vec![]);
        for (sequence, all) in sequences.iter().enumerate() {
            let past = got[sequence].len();
            let rows = takes[sequence].min(all.len() - past);
            if rows == 0 {
                continue;
            }
            seqs.push(SeqRows { first_row: tokens.len(), rows, past });
            tokens.extend(&all[past..past + rows]);
            positions.extend((past as u32..).take(rows));
            for (group, shape) in groups.iter().enumerate() {
                let seen_from = shape.window.map_or(0, |window| (past + 1).saturating_sub(window));
                let held = seen_from / PAGE_TOKENS..(past + rows).div_ceil(PAGE_TOKENS);
                let entry = |entry| if held.contains(&entry) { page(sequence, group, entry) as u32 } else { NO_PAGE };
                tables.extend((0..STRIDE).map(entry));
            }
            members.extend(std::iter::repeat_n(sequence, rows));
        }
        if tokens.is_empty() {
            return got;
        }
        let logit_rows: Vec<u32> = (0..tokens.len() as u32).collect();
        let batch = Batch {
            tokens: &tokens,
            positions: &positions,
            seqs: &seqs,
            tables: &tables,
            table_stride: STRIDE,
            logit_rows: &logit_rows,
        };
        decoder.step(&batch).unwrap();
        for (row, sequence) in members.into_iter().enumerate() {
            got[sequence].push(decoder.logits_row(row).unwrap().to_vec());
        }
    }
    unreachable!("the loop returns")
}
