//! What sequences get from, leave in and share through the KV pages.

use super::*;

const TENANT: Tenant = Tenant(0);
const PAGE: usize = PAGE_TOKENS;

fn full(pages: usize) -> KvPool {
    KvPool { pages, page_bytes: 10, window: None }
}

fn windowed(pages: usize, window: usize) -> KvPool {
    KvPool { pages, page_bytes: 10, window: Some(window) }
}

fn kv(pools: &[KvPool]) -> Kv {
    Kv::new(pools, Some(1 << 30))
}

fn prompt(len: usize) -> Vec<u32> {
    (0..len as u32).collect()
}

fn span(from: usize, end: usize) -> Span {
    Span { from, step_end: end, reserve_end: end }
}

/// Computes all of `tokens` in steps of `step`, from whatever the cache has; returns the sequence and its hit.
fn compute(kv: &mut Kv, tokens: &[u32], policy: &CachePolicy, step: usize) -> (SeqPages, Hit) {
    let mut seq = kv.begin(policy);
    let hit = kv.look_up(&mut seq, tokens);
    let mut computed = hit.tokens;
    while computed < tokens.len() {
        let end = (computed + step).min(tokens.len());
        kv.grow(&mut seq, span(computed, end), &mut Vec::new()).expect("pages enough");
        computed = end;
        kv.commit(&mut seq, tokens, computed, TENANT);
    }
    (seq, hit)
}

fn run(kv: &mut Kv, tokens: &[u32]) -> Hit {
    let (mut seq, hit) = compute(kv, tokens, &CachePolicy::Shared, 100);
    assert!(kv.agrees_with([&seq].into_iter()));
    kv.release(&mut seq);
    assert!(kv.agrees_with([].into_iter()));
    hit
}

fn hit(tokens: usize, end: CacheEnd) -> Hit {
    Hit { tokens, end }
}

#[test]
fn a_hit_ends_for_the_reason_it_gives() {
    let mut kv = kv(&[full(20)]);
    let tokens = prompt(3 * PAGE + 10);
    assert_eq!(run(&mut kv, &tokens), hit(0, CacheEnd::Cold));
    assert_eq!(run(&mut kv, &tokens), hit(3 * PAGE, CacheEnd::PageBoundary { index: 3 * PAGE }));
    assert_eq!(
        run(&mut kv, &tokens[..3 * PAGE]),
        hit(2 * PAGE, CacheEnd::PageBoundary { index: 2 * PAGE }),
        "the last token is computed"
    );
    assert_eq!(run(&mut kv, &tokens[..3 * PAGE + 1]), hit(3 * PAGE, CacheEnd::PageBoundary { index: 3 * PAGE }));
    assert_eq!(run(&mut kv, &tokens[..10]), hit(0, CacheEnd::PageBoundary { index: 0 }), "less than a page");
    let mut other = tokens.clone();
    other[PAGE + 7] = 9999;
    assert_eq!(run(&mut kv, &other), hit(PAGE, CacheEnd::Differs { index: PAGE + 7 }));
    let longer = prompt(5 * PAGE);
    assert_eq!(
        run(&mut kv, &longer),
        hit(3 * PAGE, CacheEnd::NotCached { index: 3 * PAGE }),
        "what is cached ends there"
    );
    for (policy, end) in [(CachePolicy::Off, CacheEnd::Disabled), (CachePolicy::Salted([1; 32]), CacheEnd::Salt)] {
        let (mut seq, found) = compute(&mut kv, &tokens, &policy, 100);
        assert_eq!(found, hit(0, end));
        kv.release(&mut seq);
    }
}

#[test]
fn an_evicted_prefix_says_so() {
    let mut kv = kv(&[full(4)]);
    run(&mut kv, &prompt(3 * PAGE));
    let other: Vec<u32> = (5000..5000 + 2 * PAGE as u32).collect();
    run(&mut kv, &other);
    assert_eq!(
        run(&mut kv, &prompt(3 * PAGE)),
        hit(2 * PAGE, CacheEnd::PageBoundary { index: 2 * PAGE }),
        "the last page went first"
    );
    run(&mut kv, &(9000..9000 + 4 * PAGE as u32).collect::<Vec<_>>());
    assert_eq!(run(&mut kv, &prompt(3 * PAGE)), hit(0, CacheEnd::Evicted { index: 0 }));
}

#[test]
fn salts_do_not_share() {
    let mut kv = kv(&[full(20)]);
    let tokens = prompt(2 * PAGE + 1);
    for (salt, expected) in [(1, 0), (2, 0), (1, 2 * PAGE), (2, 2 * PAGE)] {
        let (mut seq, found) = compute(&mut kv, &tokens, &CachePolicy::Salted([salt; 32]), 100);
        assert_eq!(found.tokens, expected);
        kv.release(&mut seq);
    }
}

#[test]
fn sequences_share_the_pages_of_a_common_prefix() {
    let mut kv = kv(&[full(20)]);
    let tokens = prompt(2 * PAGE + 5);
    let (first, _) = compute(&mut kv, &tokens, &CachePolicy::Shared, 100);
    let (second, found) = compute(&mut kv, &tokens, &CachePolicy::Shared, 100);
    assert_eq!(found.tokens, 2 * PAGE);
    assert_eq!(first.tables[0][..2], second.tables[0][..2]);
    assert_ne!(first.tables[0][2], second.tables[0][2]);
    assert!(kv.agrees_with([&first, &second].into_iter()));
}

#[test]
fn a_tail_that_fills_no_page_differs_where_it_leaves_a_cached_page() {
    let differing = |mut tokens: Vec<u32>| {
        tokens[PAGE + 21] = 9999;
        tokens
    };
    let short = prompt(PAGE + 36);
    for (cached, end) in [
        (short.clone(), CacheEnd::PageBoundary { index: PAGE }),
        (prompt(2 * PAGE + 1), CacheEnd::Differs { index: PAGE + 21 }),
    ] {
        let mut kv = kv(&[full(20)]);
        run(&mut kv, &cached);
        assert_eq!(run(&mut kv, &differing(short.clone())), hit(PAGE, end), "beside {} tokens", cached.len());
        assert_eq!(run(&mut kv, &short), hit(PAGE, CacheEnd::PageBoundary { index: PAGE }), "what is cached goes on");
    }
}

#[test]
fn a_window_gives_back_what_it_cannot_see_and_still_hits() {
    let window = 100;
    let mut kv = kv(&[full(40), windowed(40, window)]);
    let tokens = prompt(10 * PAGE + 1);
    let (mut seq, _) = compute(&mut kv, &tokens, &CachePolicy::Shared, 30);
    // The next token, at 641, sees positions from 542 on: pages 8, 9 and 10.
    assert_eq!(seq.tables[1].iter().filter(|&&page| page != NO_PAGE).count(), 3);
    assert_eq!(seq.tables[0].iter().filter(|&&page| page != NO_PAGE).count(), 11);
    kv.release(&mut seq);
    let (seq, found) = compute(&mut kv, &tokens, &CachePolicy::Shared, 30);
    assert_eq!(found, hit(10 * PAGE, CacheEnd::PageBoundary { index: 10 * PAGE }));
    assert_eq!(seq.tables[1].iter().filter(|&&page| page != NO_PAGE).count(), 3);
}

#[test]
fn a_window_whose_pages_were_evicted_hits_only_as_far_as_they_are_there() {
    let window = PAGE;
    // Cold pages of the window group: room for 4 in all.
    let mut kv = kv(&[full(40), windowed(4, window)]);
    let tokens = prompt(8 * PAGE + 1);
    assert_eq!(run(&mut kv, &tokens).tokens, 0);
    // The latest pages are still there: the whole prompt hits.
    assert_eq!(run(&mut kv, &tokens), hit(8 * PAGE, CacheEnd::PageBoundary { index: 8 * PAGE }));
    // A shorter beginning needs window pages that are gone.
    let found = run(&mut kv, &tokens[..2 * PAGE + 1]);
    assert_eq!(found, hit(0, CacheEnd::Evicted { index: 0 }));
}

#[test]
fn a_fork_shares_until_it_writes() {
    let mut kv = kv(&[full(20), windowed(20, 70)]);
    let tokens = prompt(2 * PAGE + 5);
    let (mut first, _) = compute(&mut kv, &tokens, &CachePolicy::Shared, 100);
    let mut second = kv.fork(&first, tokens.len());
    let held = kv.stats().map(|stats| stats.held).collect::<Vec<_>>();
    assert_eq!(held, [3, 2], "the window has passed the first page");
    let mut copies = Vec::new();
    let next = span(tokens.len(), tokens.len() + 1);
    kv.grow(&mut second, next, &mut copies).expect("pages enough");
    assert_eq!(copies.len(), 2, "one a group");
    assert_eq!(copies[0].from, first.tables[0][2]);
    assert_eq!(copies[0].to, second.tables[0][2]);
    copies.clear();
    kv.grow(&mut first, next, &mut copies).expect("pages enough");
    assert_eq!(copies, [], "the last holder writes in place");
    assert!(kv.agrees_with([&first, &second].into_iter()));
    kv.release(&mut first);
    kv.release(&mut second);
    assert!(kv.stats().all(|stats| stats.held == 0));
}

#[test]
fn the_cache_keeps_no_more_bytes_than_it_may() {
    let mut kv = Kv::new(&[full(30), windowed(30, 100)], Some(100));
    for start in 0..20 {
        let tokens: Vec<u32> = (start * 1000..start * 1000 + 5 * PAGE as u32).collect();
        run(&mut kv, &tokens);
        assert!(kv.cached_bytes() <= 100, "{} bytes", kv.cached_bytes());
    }
    assert!(kv.cached_bytes() > 80);
}

#[test]
fn without_a_cache_all_pages_come_free() {
    let mut kv = Kv::new(&[full(10)], None);
    assert_eq!(run(&mut kv, &prompt(200)), hit(0, CacheEnd::Disabled));
    assert_eq!(kv.stats().next().expect("one group").free, 10);
}

#[test]
fn a_sequence_that_gets_no_page_keeps_the_books_right() {
    let mut kv = kv(&[full(2)]);
    let mut seq = kv.begin(&CachePolicy::Shared);
    assert!(!kv.has_room(&seq, span(0, 3 * PAGE)));
    assert_eq!(kv.grow(&mut seq, span(0, 3 * PAGE), &mut Vec::new()), Err(OutOfPages));
    assert!(kv.agrees_with([&seq].into_iter()));
    kv.release(&mut seq);
    assert_eq!(kv.stats().next().expect("one group").free, 2);
}
