//! KV pages: which sequence holds which, what is shared, what is kept for later.
//!
//! It sees token ids and counts, never tensors. Each KV group (all full-attention layers, all sliding-window layers)
//! has its own [`pages::PagePool`]; one [`prefix::PrefixTree`] names the pages of all groups by the tokens that they
//! hold. A sequence's share is a [`SeqPages`]. Start with [`Kv::look_up`], [`Kv::grow`] and [`Kv::commit`], in the
//! order in which a sequence meets them.

mod pages;
mod prefix;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use tensor::{NO_PAGE, PAGE_TOKENS};

use self::pages::PagePool;
use self::prefix::{Place, PrefixTree};
use crate::cache_end::CacheEnd;
use crate::fault;
use crate::request::{CachePolicy, Tenant};
use crate::runner::KvPool;
use crate::stats::PoolStats;

/// Nodes of the prefix tree for each page there is. More than one is needed only when layers have windows alone, so
/// that nodes outlive their pages.
const NODES_PER_PAGE: usize = 4;

/// All KV pages.
#[derive(Debug)]
pub(crate) struct Kv {
    groups: Vec<Group>,
    tree: PrefixTree,
    enabled: bool,
}

#[derive(Debug)]
struct Group {
    pool: PagePool,
    window: Option<usize>,
    page_bytes: u64,
    evicted: usize,
}

/// The pages of one sequence.
#[derive(Debug)]
pub(crate) struct SeqPages {
    /// `[groups][pages]`: what a batch's page tables say.
    pub(crate) tables: Vec<Vec<u32>>,
    /// Where prompts like this begin in the prefix tree; `None` if they stay out of it.
    root: Option<Place>,
    /// Where the sequence stands in the prefix tree; `None` if it stays out of it, or could not go on in it.
    place: Option<Place>,
    /// Pages on the path to there.
    indexed: usize,
    /// Pages at the front of each table that its window has given back.
    passed: Vec<usize>,
}

/// What the prefix cache had for a sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) tokens: usize,
    pub(crate) end: CacheEnd,
}

/// A page to be copied before the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageCopy {
    pub(crate) group: usize,
    pub(crate) from: u32,
    pub(crate) to: u32,
}

/// Which positions of a sequence need pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// First position that will be written.
    pub(crate) from: usize,
    /// End of the positions that the next step writes.
    pub(crate) step_end: usize,
    /// End of the positions to hold pages for, in groups that keep all of a sequence; at least `step_end`.
    pub(crate) reserve_end: usize,
}

/// No page can be had, not even by eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OutOfPages;

impl Kv {
    /// All pages free. `cache_bytes` bounds the pages kept for their prefix alone, shared out to the groups by size;
    /// `None` = keep none.
    pub(crate) fn new(pools: &[KvPool], cache_bytes: Option<u64>) -> Self {
        let bytes_of = |pool: &KvPool| pool.pages as u128 * u128::from(pool.page_bytes);
        let all_bytes = pools.iter().map(bytes_of).sum::<u128>().max(1);
        let group = |pool: &KvPool| {
            let share = u128::from(cache_bytes.unwrap_or(0)) * bytes_of(pool) / all_bytes;
            let max_cached = (share / u128::from(pool.page_bytes.max(1))).min(pool.pages as u128) as usize;
            let pages = PagePool::new(pool.pages, max_cached);
            Group { pool: pages, window: pool.window, page_bytes: pool.page_bytes, evicted: 0 }
        };
        let max_nodes = NODES_PER_PAGE * pools.iter().map(|pool| pool.pages).sum::<usize>();
        Self {
            groups: pools.iter().map(group).collect(),
            tree: PrefixTree::new(pools.len(), max_nodes),
            enabled: cache_bytes.is_some(),
        }
    }

    /// A sequence without pages, which will use the prefix cache by `policy`.
    pub(crate) fn begin(&self, policy: &CachePolicy) -> SeqPages {
        let groups = self.groups.len();
        let root = if self.enabled { PrefixTree::root(policy) } else { None };
        SeqPages { tables: vec![Vec::new(); groups], root, place: root, indexed: 0, passed: vec![0; groups] }
    }

    /// The same sequence without pages, on books that know of none.
    pub(crate) fn without_pages(&self, seq: &SeqPages) -> SeqPages {
        let groups = self.groups.len();
        SeqPages {
            tables: vec![Vec::new(); groups],
            root: seq.root,
            place: seq.root,
            indexed: 0,
            passed: vec![0; groups],
        }
    }

    /// Gives a sequence without pages those that hold the beginning of `tokens`. At least the last token is left to
    /// compute.
    ///
    /// A hit of length L takes all pages up to L in groups that see everything, and in groups with a window the pages
    /// that the token at L can see.
    pub(crate) fn look_up(&mut self, seq: &mut SeqPages, tokens: &[u32]) -> Hit {
        let Some(root) = seq.place else {
            return Hit { tokens: 0, end: CacheEnd::Disabled };
        };
        let max_pages = (tokens.len() - 1) / PAGE_TOKENS;
        let mut path = Vec::with_capacity(max_pages);
        let mut place = root;
        for page in tokens.chunks_exact(PAGE_TOKENS).take(max_pages) {
            let Some(node) = self.tree.child(place, page) else { break };
            path.push(node);
            place = Place::Node(node);
        }
        let pages = self.usable_pages(&path);
        let end = if pages < path.len() {
            CacheEnd::Evicted { index: pages * PAGE_TOKENS }
        } else {
            self.why_no_more(place, tokens, pages)
        };
        if pages > 0 {
            self.adopt(seq, &path[..pages]);
        }
        Hit { tokens: pages * PAGE_TOKENS, end }
    }

    /// Gives a sequence the pages that follow its first `computed` tokens, if another sequence has computed them since
    /// it looked. Says what it has from others now; `None` if there was nothing new.
    pub(crate) fn catch_up(&mut self, seq: &mut SeqPages, tokens: &[u32], computed: usize) -> Option<Hit> {
        let max_pages = (tokens.len() - 1) / PAGE_TOKENS;
        let first = computed / PAGE_TOKENS;
        let mut at = first;
        while at < max_pages
            && seq.indexed == at
            && let Some(place) = seq.place
            && let Some(node) = self.tree.child(place, &tokens[at * PAGE_TOKENS..(at + 1) * PAGE_TOKENS])
            && (0..self.groups.len()).all(|group| self.tree.page(node, group) != NO_PAGE)
        {
            self.adopt_page(seq, at, node);
            at += 1;
        }
        if at == first {
            return None;
        }
        self.pass(seq, at * PAGE_TOKENS);
        let boundary = CacheEnd::PageBoundary { index: at * PAGE_TOKENS };
        let end = seq.place.map_or(boundary, |place| self.why_no_more(place, tokens, at));
        Some(Hit { tokens: at * PAGE_TOKENS, end })
    }

    /// Gives a sequence the pages for `span`, evicting cached ones if need be. A shared page that would be written is
    /// replaced by a copy of its own, to be made before the step.
    ///
    /// On failure the sequence keeps what it got.
    pub(crate) fn grow(
        &mut self,
        seq: &mut SeqPages,
        span: Span,
        copies: &mut Vec<PageCopy>,
    ) -> Result<(), OutOfPages> {
        for group in 0..self.groups.len() {
            if let Some(page) = self.shared_page(seq, group, span) {
                let copy = self.take(group)?;
                fault::point("copy on write");
                copies.push(PageCopy { group, from: page, to: copy });
                self.groups[group].pool.release(page);
                seq.tables[group][span.from / PAGE_TOKENS] = copy;
            }
            while seq.tables[group].len() < self.pages_wanted(group, span) {
                let page = self.take(group)?;
                fault::point("grow");
                seq.tables[group].push(page);
            }
        }
        Ok(())
    }

    /// Whether [`Kv::grow`] would succeed.
    pub(crate) fn has_room(&self, seq: &SeqPages, span: Span) -> bool {
        self.groups.iter().enumerate().all(|(group, state)| {
            let missing = self.pages_wanted(group, span).saturating_sub(seq.tables[group].len());
            missing + usize::from(self.shared_page(seq, group, span).is_some()) <= state.pool.available()
        })
    }

    /// Whether a sequence holds pages for `span` already, shared ones included.
    pub(crate) fn covers(&self, seq: &SeqPages, span: Span) -> bool {
        (0..self.groups.len()).all(|group| seq.tables[group].len() >= self.pages_wanted(group, span))
    }

    /// Most positions that a step may write after `computed`, so that each window group can hold them beside what they
    /// see.
    pub(crate) fn max_step_tokens(&self) -> usize {
        let room = |group: &Group| {
            let window = group.window?;
            Some(group.pool.stats().pages.saturating_sub(window.div_ceil(PAGE_TOKENS) + 1) * PAGE_TOKENS)
        };
        self.groups.iter().filter_map(room).min().unwrap_or(usize::MAX)
    }

    /// The first `computed` of `tokens` are in the sequence's pages. Names its whole pages in the prefix tree, then
    /// gives back those that no later token can see.
    pub(crate) fn commit(&mut self, seq: &mut SeqPages, tokens: &[u32], computed: usize, tenant: Tenant) {
        while let Some(place) = seq.place
            && (seq.indexed + 1) * PAGE_TOKENS <= computed
        {
            let at = seq.indexed;
            let page_tokens = &tokens[at * PAGE_TOKENS..(at + 1) * PAGE_TOKENS];
            let node = self.tree.child_or_insert(place, page_tokens);
            if let Some(node) = node {
                fault::point("commit");
                self.name_pages(seq, at, node, tenant);
                self.tree.enter(Place::Node(node));
            }
            self.tree.leave(place);
            fault::point("committed");
            seq.place = node.map(Place::Node);
            seq.indexed += 1;
        }
        self.pass(seq, computed);
    }

    /// Another sequence with the same `computed` tokens: holds the same pages.
    pub(crate) fn fork(&mut self, seq: &SeqPages, computed: usize) -> SeqPages {
        let mut tables = seq.tables.clone();
        for (group, table) in self.groups.iter_mut().zip(&mut tables) {
            table.truncate(computed.div_ceil(PAGE_TOKENS));
            for &page in table.iter().filter(|&&page| page != NO_PAGE) {
                group.pool.hold(page);
            }
        }
        if let Some(place) = seq.place {
            self.tree.enter(place);
        }
        SeqPages { tables, root: seq.root, place: seq.place, indexed: seq.indexed, passed: seq.passed.clone() }
    }

    /// Gives back all pages of a sequence. It may begin anew.
    pub(crate) fn release(&mut self, seq: &mut SeqPages) {
        for group in 0..self.groups.len() {
            // The last page first: it is then the longest idle one, and goes before those that it needs.
            while let Some(page) = seq.tables[group].pop() {
                fault::point("release");
                self.give_back(group, page);
            }
        }
        if let Some(place) = seq.place {
            self.tree.leave(place);
        }
        seq.place = seq.root;
        seq.indexed = 0;
        seq.passed.fill(0);
    }

    /// Frees every page that is kept for its prefix alone. Returns how many.
    pub(crate) fn drop_cached(&mut self) -> usize {
        let mut dropped = 0;
        for group in 0..self.groups.len() {
            while self.evict(group).is_ok() {
                dropped += 1;
            }
        }
        dropped
    }

    /// The pages of a group with nothing in them.
    pub(crate) fn free_pages(&self, group: usize) -> &[u32] {
        self.groups[group].pool.free()
    }

    /// Counts of each group.
    pub(crate) fn stats(&self) -> impl Iterator<Item = PoolStats> + '_ {
        self.groups.iter().map(|group| group.pool.stats())
    }

    /// Bytes of pages kept for their prefix alone.
    pub(crate) fn cached_bytes(&self) -> u64 {
        self.groups.iter().map(|group| group.pool.stats().cached as u64 * group.page_bytes).sum()
    }

    /// So many more pages were evicted from a group.
    pub(crate) fn count_evicted(&mut self, group: usize, pages: usize) {
        self.groups[group].evicted += pages;
    }

    /// Groups from which pages were evicted since the last call, and how many.
    pub(crate) fn take_evicted(&mut self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let take = |group: &mut Group| std::mem::take(&mut group.evicted);
        self.groups.iter_mut().map(take).enumerate().filter(|&(_, pages)| pages > 0)
    }

    /// Whether the books agree with `seqs`, all the sequences there are.
    pub(crate) fn agrees_with<'a>(&self, seqs: impl Iterator<Item = &'a SeqPages> + Clone) -> bool {
        let named = |group: usize| self.groups[group].pool.indexed().map(move |(page, node)| (node, group, page));
        let named = (0..self.groups.len()).flat_map(named).collect();
        let mut visitors = HashMap::new();
        for place in seqs.clone().filter_map(|seq| seq.place) {
            *visitors.entry(place).or_default() += 1;
        }
        let pages_agree = self.groups.iter().enumerate().all(|(group, state)| {
            let mut holders = vec![0; state.pool.stats().pages];
            for &page in seqs.clone().flat_map(|seq| &seq.tables[group]).filter(|&&page| page != NO_PAGE) {
                holders[page as usize] += 1;
            }
            state.pool.agrees_with(&holders)
        });
        pages_agree && self.tree.agrees_with(&named, &visitors)
    }

    /// Length of the longest beginning of `path` that all groups can use.
    fn usable_pages(&self, path: &[u32]) -> usize {
        let has = |group: usize, at: usize| self.tree.page(path[at], group) != NO_PAGE;
        let sees_all = |group: &usize| self.groups[*group].window.is_none();
        let everywhere = |at: usize| (0..self.groups.len()).filter(sees_all).all(|group| has(group, at));
        let limit = (0..path.len()).find(|&at| !everywhere(at)).unwrap_or(path.len());
        let fits = |pages: &usize| {
            self.groups.iter().enumerate().all(|(group, state)| {
                state
                    .window
                    .is_none_or(|window| (first_seen(window, pages * PAGE_TOKENS)..*pages).all(|at| has(group, at)))
            })
        };
        (0..=limit).rev().find(fits).expect("a hit of no pages needs none")
    }

    /// Why a hit ends after `pages`, where nothing usable follows.
    fn why_no_more(&self, place: Place, tokens: &[u32], pages: usize) -> CacheEnd {
        let index = pages * PAGE_TOKENS;
        let rest = &tokens[index..];
        if pages == (tokens.len() - 1) / PAGE_TOKENS {
            return match self.tree.common_tokens(place, rest) {
                Some(common) if common < rest.len() => CacheEnd::Differs { index: index + common },
                _ => CacheEnd::PageBoundary { index },
            };
        }
        if self.tree.was_removed(place, &rest[..PAGE_TOKENS]) {
            return CacheEnd::Evicted { index };
        }
        match (self.tree.common_tokens(place, rest), place) {
            (Some(common), _) => CacheEnd::Differs { index: index + common },
            (None, Place::Node(_)) => CacheEnd::NotCached { index },
            (None, root) if Some(root) == PrefixTree::root(&CachePolicy::Shared) => CacheEnd::Cold,
            (None, Place::Root(_)) => CacheEnd::Salt,
        }
    }

    /// The sequence holds the pages of `path`, as far as it will see them.
    fn adopt(&mut self, seq: &mut SeqPages, path: &[u32]) {
        for (group, state) in self.groups.iter_mut().enumerate() {
            let first = state.window.map_or(0, |window| first_seen(window, path.len() * PAGE_TOKENS));
            seq.tables[group].resize(first, NO_PAGE);
            seq.passed[group] = first;
            for &node in &path[first..] {
                let page = self.tree.page(node, group);
                state.pool.hold(page);
                fault::point("adopt");
                seq.tables[group].push(page);
            }
        }
        let place = Place::Node(*path.last().expect("a hit has a page"));
        self.tree.enter(place);
        seq.place = Some(place);
        seq.indexed = path.len();
    }

    /// The sequence holds the pages of one more node, instead of its own for the same tokens.
    fn adopt_page(&mut self, seq: &mut SeqPages, at: usize, node: u32) {
        for (group, state) in self.groups.iter_mut().enumerate() {
            let page = self.tree.page(node, group);
            state.pool.hold(page);
            match seq.tables[group].get_mut(at) {
                Some(own) => state.pool.release(std::mem::replace(own, page)),
                None => seq.tables[group].push(page),
            }
        }
        self.tree.enter(Place::Node(node));
        if let Some(place) = seq.place.replace(Place::Node(node)) {
            self.tree.leave(place);
        }
        seq.indexed += 1;
    }

    /// The node names the sequence's page `at`, in each group where it names none yet.
    fn name_pages(&mut self, seq: &SeqPages, at: usize, node: u32, tenant: Tenant) {
        for (group, state) in self.groups.iter_mut().enumerate() {
            let page = seq.tables[group][at];
            if page != NO_PAGE && self.tree.page(node, group) == NO_PAGE {
                self.tree.set_page(node, group, page);
                state.pool.index(page, tenant, node);
            }
        }
    }

    /// Gives back pages that the token at `computed` and all later ones cannot see.
    fn pass(&mut self, seq: &mut SeqPages, computed: usize) {
        for group in 0..self.groups.len() {
            let Some(window) = self.groups[group].window else { continue };
            let first = first_seen(window, computed).min(seq.tables[group].len());
            for at in seq.passed[group]..first {
                let page = std::mem::replace(&mut seq.tables[group][at], NO_PAGE);
                self.give_back(group, page);
            }
            seq.passed[group] = seq.passed[group].max(first);
        }
    }

    /// The page that `span` would write first, if others hold it as well. Only a fork's last page can be one: pages
    /// after it are never shared, and whole pages are never written again.
    fn shared_page(&self, seq: &SeqPages, group: usize, span: Span) -> Option<u32> {
        let &page = seq.tables[group].get(span.from / PAGE_TOKENS)?;
        (page != NO_PAGE && self.groups[group].pool.holders(page) > 1).then_some(page)
    }

    fn pages_wanted(&self, group: usize, span: Span) -> usize {
        let end = if self.groups[group].window.is_some() { span.step_end } else { span.reserve_end };
        end.div_ceil(PAGE_TOKENS)
    }

    fn take(&mut self, group: usize) -> Result<u32, OutOfPages> {
        if let Some(page) = self.groups[group].pool.take() {
            return Ok(page);
        }
        self.evict(group)?;
        self.groups[group].pool.take().ok_or(OutOfPages)
    }

    fn evict(&mut self, group: usize) -> Result<(), OutOfPages> {
        let (_, node) = self.groups[group].pool.evict().ok_or(OutOfPages)?;
        fault::point("evict");
        self.groups[group].evicted += 1;
        self.tree.clear_page(node, group);
        Ok(())
    }

    fn give_back(&mut self, group: usize, page: u32) {
        if page == NO_PAGE {
            return;
        }
        self.groups[group].pool.release(page);
        if self.groups[group].pool.is_over_cached() {
            self.evict(group).expect("a pool with too many cached pages has one to evict");
        }
    }
}

/// First page that a token at `position` sees through a window.
fn first_seen(window: usize, position: usize) -> usize {
    (position + 1).saturating_sub(window) / PAGE_TOKENS
}
