//! The pages of one KV group: which are free, held by sequences, or kept for their prefix.
//!
//! It knows nothing of tokens. A page is *held* while sequences count on it, *cached* when none does but the prefix
//! index still names it, else *free*; always free + held + cached = all.

use std::collections::BTreeMap;

use super::prefix::NodeId;
use crate::request::Tenant;
use crate::stats::PoolStats;

/// The pages of one KV group.
#[derive(Debug)]
pub(crate) struct PagePool {
    /// Holders of each page.
    holders: Vec<u32>,
    /// Who put each page into the prefix index, and since when it lies idle there.
    indexed: Vec<Option<Indexed>>,
    free: Vec<u32>,
    /// Cached pages of each tenant, the longest idle first.
    idle: BTreeMap<Tenant, BTreeMap<u64, u32>>,
    cached: usize,
    max_cached: usize,
    clock: u64,
}

#[derive(Clone, Copy, Debug)]
struct Indexed {
    tenant: Tenant,
    node: NodeId,
    idle_since: u64,
}

impl PagePool {
    /// All pages free. At most `max_cached` will be kept for their prefix alone.
    pub(crate) fn new(pages: usize, max_cached: usize) -> Self {
        Self {
            holders: vec![0; pages],
            indexed: vec![None; pages],
            free: (0..pages as u32).rev().collect(),
            idle: BTreeMap::new(),
            cached: 0,
            max_cached,
            clock: 0,
        }
    }

    /// A free page, held once from now on.
    pub(crate) fn take(&mut self) -> Option<u32> {
        let page = self.free.pop()?;
        self.holders[page as usize] = 1;
        Some(page)
    }

    /// One more holder of a page that is held or cached.
    pub(crate) fn hold(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders += 1;
        if *holders == 1 {
            self.wake(page);
        }
    }

    /// One holder less. A page without any is cached if it is indexed, else free.
    pub(crate) fn release(&mut self, page: u32) {
        let holders = &mut self.holders[page as usize];
        *holders = holders.checked_sub(1).expect("a page is released as often as it is held");
        if *holders > 0 {
            return;
        }
        match &mut self.indexed[page as usize] {
            Some(entry) => {
                self.clock += 1;
                entry.idle_since = self.clock;
                self.idle.entry(entry.tenant).or_default().insert(self.clock, page);
                self.cached += 1;
            }
            None => self.free.push(page),
        }
    }

    /// Holders of a page.
    pub(crate) fn holders(&self, page: u32) -> u32 {
        self.holders[page as usize]
    }

    /// The prefix index names this held page from now on.
    pub(crate) fn index(&mut self, page: u32, tenant: Tenant, node: NodeId) {
        self.indexed[page as usize] = Some(Indexed { tenant, node, idle_since: 0 });
    }

    /// Frees the cached page that the tenant with most of them has not used for longest. Returns it and the node that
    /// named it, for the caller to take it out of the prefix index.
    pub(crate) fn evict(&mut self) -> Option<(u32, NodeId)> {
        let longest_idle = |pages: &BTreeMap<u64, u32>| pages.first_key_value().map_or(0, |(&since, _)| since);
        let (_, pages) = self.idle.iter().max_by_key(|(_, pages)| (pages.len(), u64::MAX - longest_idle(pages)))?;
        let (_, &page) = pages.first_key_value().expect("tenants without cached pages are not listed");
        self.wake(page);
        let entry = self.indexed[page as usize].take().expect("a cached page is indexed");
        self.free.push(page);
        Some((page, entry.node))
    }

    /// The pages that the prefix index names, each with the node that does.
    pub(crate) fn indexed(&self) -> impl Iterator<Item = (u32, NodeId)> + '_ {
        (0..).zip(&self.indexed).filter_map(|(page, indexed)| Some((page, indexed.as_ref()?.node)))
    }

    /// The free pages.
    pub(crate) fn free(&self) -> &[u32] {
        &self.free
    }

    /// Whether more is cached than may be.
    pub(crate) fn is_over_cached(&self) -> bool {
        self.cached > self.max_cached
    }

    /// Pages that could be taken, if need be by eviction.
    pub(crate) fn available(&self) -> usize {
        self.free.len() + self.cached
    }

    /// Counts, for people and for checks.
    pub(crate) fn stats(&self) -> PoolStats {
        let (pages, free, cached) = (self.holders.len(), self.free.len(), self.cached);
        PoolStats { pages, free, held: pages - free - cached, cached }
    }

    /// Whether the pool's books agree with `holders`, the holders of each page counted anew.
    pub(crate) fn agrees_with(&self, holders: &[u32]) -> bool {
        let idle: usize = self.idle.values().map(BTreeMap::len).sum();
        let held = holders.iter().filter(|&&count| count > 0).count();
        let stats = self.stats();
        self.holders == holders && idle == self.cached && stats.held == held && stats.free + held + idle == stats.pages
    }

    /// Takes a page off the idle list.
    fn wake(&mut self, page: u32) {
        let entry = self.indexed[page as usize].expect("a cached page is indexed");
        let pages = self.idle.get_mut(&entry.tenant).expect("a cached page is on its tenant's list");
        pages.remove(&entry.idle_since).expect("a cached page is on its tenant's list");
        if pages.is_empty() {
            self.idle.remove(&entry.tenant);
        }
        self.cached -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Tenant = Tenant(1);
    const B: Tenant = Tenant(2);

    fn cache(pool: &mut PagePool, tenant: Tenant) -> u32 {
        let page = pool.take().expect("a free page");
        pool.index(page, tenant, 0);
        pool.release(page);
        page
    }

    #[test]
    fn a_page_is_free_held_or_cached() {
        let mut pool = PagePool::new(2, 2);
        let page = pool.take().expect("a free page");
        assert_eq!(pool.stats(), PoolStats { pages: 2, free: 1, held: 1, cached: 0 });
        pool.hold(page);
        pool.release(page);
        assert_eq!(pool.stats().held, 1);
        pool.index(page, A, 7);
        pool.release(page);
        assert_eq!(pool.stats(), PoolStats { pages: 2, free: 1, held: 0, cached: 1 });
        pool.hold(page);
        assert_eq!(pool.stats(), PoolStats { pages: 2, free: 1, held: 1, cached: 0 });
        pool.release(page);
        assert_eq!(pool.evict(), Some((page, 7)));
        assert_eq!(pool.stats().free, 2);
        assert!(pool.agrees_with(&[0, 0]));
        assert_eq!(pool.evict(), None);
    }

    #[test]
    fn the_longest_idle_page_goes_first() {
        let mut pool = PagePool::new(3, 3);
        let pages = [cache(&mut pool, A), cache(&mut pool, A), cache(&mut pool, A)];
        pool.hold(pages[0]);
        pool.release(pages[0]);
        let evicted = std::array::from_fn(|_| pool.evict().expect("a cached page").0);
        assert_eq!(evicted, [pages[1], pages[2], pages[0]]);
    }

    #[test]
    fn a_flood_of_one_tenant_evicts_its_own_pages() {
        let mut pool = PagePool::new(10, 10);
        let kept = [cache(&mut pool, A), cache(&mut pool, A), cache(&mut pool, A)];
        for _ in 0..7 {
            cache(&mut pool, B);
        }
        for _ in 0..100 {
            let (evicted, _) = pool.evict().expect("a cached page");
            assert!(!kept.contains(&evicted));
            cache(&mut pool, B);
        }
    }
}
