//! What each of several models may take of a budget, so that they find room beside one another.
//!
//! A model stays in memory until another one needs the room, and a pinned one for good: none may have all that is left
//! for its KV cache. Before any is loaded, from headers alone:
//!
//! 1. Where nobody has asked for a length, requests become shorter if all models that were named then have room
//!    together; if they have none even so, they are not, and models are unloaded for one another.
//! 2. Each needs the room for one request of full length. Pinned models and the largest of the others have that
//!    together; where there is not so much, all of them make do with less, down to the least.
//! 3. Models that find room together at that shall find it whatever else they have. So each may have an equal part of
//!    only what the largest set of models leaves that it could be in, and no more than it was asked to hold.

use super::{Budget, Room, ShorterContext};
use crate::output::{human_bytes, human_bytes_apart};
use crate::settings::{Settings, defs};

/// What a model would take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Demand {
    /// With the smallest recipe and the shortest context with which it may be planned.
    pub(crate) least: u64,
    /// With the KV cache of one request of full length; not below `least`.
    pub(crate) full: u64,
    /// With all tokens that the settings ask it to hold; not below `full`.
    pub(crate) most: u64,
}

/// Requests of a length, and what the model takes with room for one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Length {
    pub(crate) tokens: usize,
    pub(crate) bytes: u64,
}

/// A model among others.
#[derive(Clone, Debug)]
pub(crate) struct Part {
    pub(crate) name: String,
    /// Whether it was asked for by its name, be it as pinned.
    pub(crate) is_named: bool,
    /// Whether it is never unloaded.
    pub(crate) is_pinned: bool,
    /// What all models together may take of its memory.
    pub(crate) budget: Budget,
    pub(crate) demand: Demand,
    /// Requests of full length and shorter ones, longest first, where nobody has asked for a length.
    pub(crate) lengths: Vec<Length>,
    /// The shorter one to which it gives way.
    pub(crate) context: Option<ShorterContext>,
}

impl Part {
    /// The longest of its requests of at most so many tokens, where nobody has asked for a length.
    fn length(&self, most_tokens: usize) -> Option<Length> {
        self.lengths.iter().copied().find(|length| length.tokens <= most_tokens)
    }

    /// What it takes with room for one of these, or else for one of the length that was asked for.
    fn need(&self, most_tokens: usize) -> u64 {
        self.length(most_tokens).map_or(self.demand.full, |length| length.bytes)
    }
}

/// Makes contexts that nobody asked for as short as it takes for all models that were named to have room together.
pub(crate) fn shorten_contexts(parts: &mut [Part]) {
    for memory in memories(parts) {
        let is_meant = |part: &&Part| part.is_named && part.budget.memory == memory;
        let named: Vec<&Part> = parts.iter().filter(is_meant).collect();
        let Some((tokens, why)) = common_context(&named) else { continue };
        for part in parts.iter_mut().filter(|part| part.is_named && part.budget.memory == memory) {
            let Some(length) = part.length(tokens).filter(|length| length.bytes < part.demand.full) else { continue };
            part.demand.full = length.bytes;
            let why = format!("{} tokens instead of {}, {why}", length.tokens, part.lengths[0].tokens);
            part.context = Some(ShorterContext { tokens: length.tokens, why });
        }
    }
}

/// The longest of their shorter contexts with which these models have room together, and the arithmetic; `None` where
/// they have it anyway, or with none of them.
fn common_context(named: &[&Part]) -> Option<(usize, String)> {
    let Budget { whole_bytes, reason, .. } = &named.first()?.budget;
    let budget = (*whole_bytes)?;
    let total = |tokens| named.iter().map(|part| part.need(tokens)).sum::<u64>();
    let in_full = named.iter().map(|part| part.demand.full).sum::<u64>();
    // One that is alone is clipped as it is without any others.
    if in_full <= budget || named.len() < 2 {
        return None;
    }
    let mut lengths: Vec<usize> = named.iter().flat_map(|part| &part.lengths).map(|length| length.tokens).collect();
    lengths.sort_unstable();
    let tokens = lengths.into_iter().rev().find(|tokens| total(*tokens) <= budget)?;
    let each = named.iter().map(|part| format!("{} of {}", human_bytes(part.need(tokens)), part.name));
    let [in_full, budget] = human_bytes_apart([in_full, budget]);
    let why = format!(
        "for nobody has asked for a length, and so {} models have room together: {} = {} of a budget of {budget} ({reason}), \
         which longer ones would exceed with {in_full}; MISTRAL_MAX_SEQ_LEN asks for a length",
        named.len(),
        each.collect::<Vec<_>>().join(" + "),
        human_bytes(total(tokens)),
    );
    Some((tokens, why))
}

/// The memories that models are in, each once.
fn memories(parts: &[Part]) -> Vec<String> {
    let mut memories: Vec<String> = parts.iter().map(|part| part.budget.memory.clone()).collect();
    memories.sort_unstable();
    memories.dedup();
    memories
}

/// What the others leave each model, when none is loaded. One without a share is as good as alone, or finds no room
/// beside those that are pinned.
pub(crate) fn rooms(parts: &[Part]) -> Vec<Room> {
    let room = |(index, part): (usize, &Part)| {
        let demands = |is_pinned| -> Vec<Demand> {
            let others = parts.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
            let here = others.filter(|other| other.budget.memory == part.budget.memory);
            here.filter(|other| other.is_pinned == is_pinned).map(|other| other.demand).collect()
        };
        let (pinned, others) = (demands(true), demands(false));
        let least_pinned = sum(&pinned, |demand| demand.least);
        let budget = part.budget.whole_bytes?;
        match share(budget, (part.demand, part.is_pinned), &pinned, &others) {
            // Who has all that it asks for is not limited.
            Some(share) => {
                let share = if share < part.demand.most { share } else { u64::MAX };
                Some(Room { share_bytes: Some(share), ..Room::default() })
            }
            None if part.is_pinned || least_pinned > budget => None,
            None => Some(Room { pinned_bytes: least_pinned, ..Room::default() }),
        }
    };
    let with_context = |(index, part): (usize, &Part)| {
        let room = room((index, part)).unwrap_or_default();
        Room { context: part.context.clone(), ..room }
    };
    parts.iter().enumerate().map(with_context).collect()
}

/// Pinned models that find no room together, with the sum, and the settings with which they would.
pub(crate) fn pins_beyond_memory(parts: &[Part], settings: &Settings) -> Vec<String> {
    let problem = |memory: &String| {
        let pinned: Vec<&Part> = parts.iter().filter(|part| part.is_pinned && part.budget.memory == *memory).collect();
        let Budget { whole_bytes, reason, .. } = &pinned.first()?.budget;
        let total = pinned.iter().map(|part| part.demand.least).sum();
        // Of one alone its plan tells.
        if pinned.len() < 2 || pinned[0].budget.holds(total) {
            return None;
        }
        let [all, budget] = human_bytes_apart([total, whole_bytes.unwrap_or(u64::MAX)]);
        let each = pinned.iter().map(|part| format!("{} of {}", human_bytes(part.demand.least), part.name));
        Some(format!(
            "MISTRAL_MODEL_PIN={} ({}): no room for all of them: at least {} = {all} exceed the budget of {budget} ({reason}); \
             they would have room with {}, or fewer of them pinned",
            settings.shown(&defs::MODEL_PIN),
            settings.source(&defs::MODEL_PIN),
            each.collect::<Vec<_>>().join(" + "),
            pinned[0].budget.ways_to_hold(total, settings).join(", or ")
        ))
    };
    memories(parts).iter().filter_map(problem).collect()
}

/// Sums of models are told apart in so many steps of what they are sums of.
const SUM_STEPS: u64 = 1 << 14;

/// The share of a model beside the others; `None` for one that finds no room beside those that are pinned, or where
/// these find none together.
fn share(budget: u64, (own, is_pinned): (Demand, bool), pinned: &[Demand], others: &[Demand]) -> Option<u64> {
    let least = sum(pinned, |demand| demand.least);
    let beside_pinned = budget.checked_sub(if is_pinned { least + own.least } else { least })?;
    if !is_pinned && own.least > beside_pinned {
        return None;
    }
    let mut others: Vec<Demand> = others.iter().copied().filter(|other| other.least <= beside_pinned).collect();
    let held = |to_full| {
        let [pinned, own] = [sum(pinned, |demand| demand.need(to_full)), own.need(to_full)];
        let largest = others.iter().map(|other| other.need(to_full)).max().unwrap_or(0);
        pinned + if is_pinned { own + largest } else { own.max(largest) }
    };
    let to_full = greatest(budget, |to_full| held(to_full) <= budget);
    // In every set of models that counts.
    let always = [pinned, &[own]].concat();
    let free = budget - sum(&always, |demand| demand.need(to_full));
    let needs: Vec<u64> = others.iter().map(|other| other.need(to_full)).collect();
    let (count, taken) = most_held(free, &needs);
    // Those that want most beyond what they need, as many as may be held at once.
    others.sort_by_key(|other| std::cmp::Reverse(other.most - other.need(to_full)));
    others.truncate(count);
    let to_most = greatest(budget, |to_most| {
        let more = |demand: &Demand| to_most.min(demand.most - demand.need(to_full));
        sum(&always, more) + sum(&others, more) <= free - taken
    });
    let need = own.need(to_full);
    Some(need + to_most.min(own.most - need))
}

impl Demand {
    /// What it needs where each may have so much beyond its least.
    fn need(&self, to_full: u64) -> u64 {
        self.least + to_full.min(self.full - self.least)
    }
}

fn sum(demands: &[Demand], bytes: impl Fn(&Demand) -> u64) -> u64 {
    demands.iter().map(bytes).sum()
}

/// How many of these fit at most, and an upper bound of the bytes that any that fit take together.
fn most_held(room: u64, needs: &[u64]) -> (usize, u64) {
    let mut sorted = needs.to_vec();
    sorted.sort_unstable();
    let mut left = room;
    let count = sorted.iter().take_while(|need| left.checked_sub(**need).map(|rest| left = rest).is_some()).count();
    // Which sums there are, in steps, each size rounded down: so every sum that fits is among them.
    let step = (room / SUM_STEPS).max(1);
    let mut is_sum = vec![false; (room / step) as usize + 1];
    is_sum[0] = true;
    for need in needs.iter().map(|need| (need / step) as usize) {
        for sum in (need..is_sum.len()).rev() {
            is_sum[sum] |= is_sum[sum - need];
        }
    }
    let greatest = is_sum.iter().rposition(|is_sum| *is_sum).unwrap_or(0) as u64;
    (count, ((greatest + count as u64) * step).min(room))
}

/// The greatest number up to `most` for which something holds that holds for 0, and for no number above one for which
/// it does not.
fn greatest(most: u64, holds: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, most);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if holds(middle) { low = middle } else { high = middle - 1 }
    }
    low
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::Machine;
    use crate::settings::test_settings;

    const GB: u64 = 1_000_000_000;

    fn gb(least: u64, full: u64, most: u64) -> Demand {
        Demand { least: least * GB, full: full * GB, most: most * GB }
    }

    /// The shares of the pinned ones and of the others.
    fn shares(budget: u64, pinned: &[Demand], others: &[Demand]) -> [Vec<Option<u64>>; 2] {
        let without = |demands: &[Demand], index: usize| [&demands[..index], &demands[index + 1..]].concat();
        let of_pinned = |index| share(budget, (pinned[index], true), &without(pinned, index), others);
        let of_other = |index| share(budget, (others[index], false), pinned, &without(others, index));
        [(0..pinned.len()).map(of_pinned).collect(), (0..others.len()).map(of_other).collect()]
    }

    /// The same in GB, rounded.
    fn shared(budget: u64, pinned: &[Demand], others: &[Demand]) -> Vec<Option<u64>> {
        let shares = shares(budget * GB, pinned, others).concat();
        shares.into_iter().map(|share| share.map(|share| (share + GB / 2) / GB)).collect()
    }

    #[test]
    fn what_others_do_not_need_is_shared() {
        for (budget, pinned, others, expected) in [
            // All has room.
            (100, &[gb(1, 2, 30)][..], &[gb(1, 2, 40)][..], &[30, 40][..]),
            // A pinned one leaves what the other needs, and half of the rest.
            (22, &[gb(1, 4, 99)], &[gb(1, 2, 99)], &[12, 10]),
            // What one does not want is the other's.
            (22, &[gb(1, 2, 3)], &[gb(1, 2, 99)], &[3, 19]),
            // Only one of them at a time: it may have all.
            (22, &[], &[gb(6, 12, 99), gb(6, 13, 99)], &[22, 22]),
            // Two of three at a time, whichever.
            (22, &[], &[gb(1, 10, 99), gb(1, 10, 99), gb(1, 10, 99)], &[11, 11, 11]),
            // One that is too large for any company does not keep the small ones from each other.
            (22, &[], &[gb(1, 1, 99), gb(1, 2, 99), gb(20, 22, 99)], &[10, 11, 22]),
            // Shorter requests for all, for there is no room for long ones.
            (10, &[gb(2, 8, 99)], &[gb(2, 8, 99), gb(1, 2, 99)], &[5, 5, 4]),
        ] {
            let expected: Vec<Option<u64>> = expected.iter().copied().map(Some).collect();
            assert_eq!(shared(budget, pinned, others), expected, "{budget} GB, {pinned:?}, {others:?}");
        }
        assert_eq!(shared(10, &[gb(6, 6, 99)], &[gb(5, 5, 5), gb(1, 1, 1)]), [Some(9), None, Some(1)]);
        assert_eq!(shared(10, &[gb(6, 6, 6), gb(5, 5, 5)], &[gb(1, 1, 1)]), [None; 3]);
    }

    /// Lengths of requests in tokens, and what a model takes with them in GB.
    type Lengths = &'static [(usize, u64)];

    /// Parts of a budget in GB: names, whether they were asked for by them, and lengths.
    fn parts(budget: u64, of: &[(&str, bool, Lengths)]) -> Vec<Part> {
        let machine = Machine { total_bytes: Some(1000 * GB), cgroup_bytes: None };
        let settings = test_settings(&[("MISTRAL_METAL_HEAP_SIZE", &format!("{budget}GB"))]);
        let part = |(name, is_named, lengths): &(&str, bool, Lengths)| {
            let length = |(tokens, gb): &(usize, u64)| Length { tokens: *tokens, bytes: gb * GB };
            let all: Vec<Length> = lengths.iter().map(length).collect();
            Part {
                name: (*name).to_owned(),
                is_named: *is_named,
                is_pinned: false,
                budget: Budget::new(&machine, &settings),
                demand: Demand { least: GB, full: all[0].bytes, most: 99 * GB },
                // One length alone is one that was asked for.
                lengths: if all.len() > 1 { all } else { Vec::new() },
                context: None,
            }
        };
        of.iter().map(part).collect()
    }

    #[test]
    fn contexts_that_nobody_asked_for_give_way_to_models_that_were_named() {
        const LONG: Lengths = &[(32_768, 10), (16_384, 6), (8192, 4)];
        const SHORT: Lengths = &[(16_384, 6), (8192, 4)];
        const ASKED: Lengths = &[(32_768, 10)];
        let (some, all_of_it) = (Some, None::<usize>);
        for (budget, of, expected) in [
            (20, &[("a", true, LONG), ("b", true, LONG)][..], &[all_of_it, None][..]),
            (19, &[("a", true, LONG), ("b", true, LONG)], &[some(16_384), some(16_384)]),
            (11, &[("a", true, LONG), ("b", true, LONG)], &[some(8192), some(8192)]),
            // Not even so: they are unloaded for one another, and each may be long.
            (7, &[("a", true, LONG), ("b", true, LONG)], &[None, None]),
            (19, &[("a", true, LONG), ("b", true, ASKED)], &[some(16_384), None]),
            (19, &[("a", true, ASKED), ("b", true, ASKED)], &[None, None]),
            // One that is shorter by itself gives way as the others do, not before.
            (14, &[("a", true, LONG), ("b", true, SHORT)], &[some(16_384), None]),
            (9, &[("a", true, LONG), ("b", true, SHORT)], &[some(8192), some(8192)]),
            // Those that were found in a directory count for nobody, and nobody for them.
            (19, &[("a", true, LONG), ("b", false, LONG)], &[None, None]),
            (9, &[("a", true, LONG), ("b", false, LONG)], &[None, None]),
            (15, &[("a", true, LONG), ("b", false, LONG), ("c", true, LONG)], &[some(16_384), None, some(16_384)]),
        ] {
            let mut parts = parts(budget, of);
            shorten_contexts(&mut parts);
            let rooms = rooms(&parts);
            let tokens: Vec<Option<usize>> =
                rooms.iter().map(|room| room.context.as_ref().map(|context| context.tokens)).collect();
            assert_eq!(tokens, expected, "{budget} GB, {of:?}");
            if tokens.iter().any(Option::is_some) {
                let shares: u64 = rooms.iter().zip(&parts).filter(|(_, part)| part.is_named).map(share_of).sum();
                assert!(shares <= budget * GB, "{budget} GB, {of:?}: {rooms:?}");
            }
        }
        fn share_of((room, part): (&Room, &Part)) -> u64 {
            let share = room.share_bytes.expect("each has room");
            assert!(share >= part.demand.full, "{}", part.name);
            share
        }
        let mut parts = parts(19, &[("a", true, LONG), ("b", true, ASKED)]);
        shorten_contexts(&mut parts);
        let why = &parts[0].context.as_ref().unwrap().why;
        for part in [
            "16384 tokens instead of 32768",
            "2 models",
            "6.0 GB of a + 10.0 GB of b = 16.0 GB",
            "19.0 GB (MISTRAL_",
            "20.0 GB; ",
        ] {
            assert!(why.contains(part), "{part:?} is not in {why}");
        }
    }

    fn demands(count: usize) -> impl Strategy<Value = Vec<Demand>> {
        let demand = (1..40u64, 0..40u64, 0..200u64).prop_map(|(least, full, most)| {
            let [least, full, most] = [least, full, most].map(|part| part * 987_654_321 / 10);
            Demand { least, full: least + full, most: least + full + most }
        });
        proptest::collection::vec(demand, 0..count)
    }

    proptest! {
        #[test]
        fn models_that_fit_together_at_full_length_do_so_with_their_shares(
            budget in 1..300u64, pinned in demands(3), others in demands(6),
        ) {
            let budget = budget * 123_456_789;
            let least_pinned = sum(&pinned, |demand| demand.least);
            let [of_pinned, of_others] = shares(budget, &pinned, &others);
            let Some(of_pinned) = of_pinned.into_iter().sum::<Option<u64>>() else {
                prop_assert!(least_pinned > budget && of_others.iter().all(Option::is_none));
                return Ok(());
            };
            prop_assert!(of_pinned <= budget);
            let full_pinned: u64 = pinned.iter().map(|demand| demand.full).sum();
            for set in 0..1_u32 << others.len() {
                let is_in = |index: &usize| set >> index & 1 == 1;
                let of_set: Option<u64> = (0..others.len()).filter(is_in).map(|index| of_others[index]).sum();
                let set: Vec<&Demand> = (0..others.len()).filter(is_in).map(|index| &others[index]).collect();
                let full: u64 = set.iter().map(|other| other.full).sum();
                match (set.as_slice(), of_set) {
                    ([], of_set) => prop_assert_eq!(of_set, Some(0)),
                    ([one], None) => prop_assert!(least_pinned + one.least > budget),
                    ([one], Some(share)) => {
                        prop_assert!((one.least..=one.most).contains(&share));
                        prop_assert!(of_pinned + share <= budget, "beside those that are pinned");
                    }
                    (_, Some(of_set)) if full_pinned + full <= budget => prop_assert!(of_pinned + of_set <= budget),
                    _ => {}
                }
            }
        }
    }
}
