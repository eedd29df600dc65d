//! Requests that had no turn yet, and whose turn is next.
//!
//! First come first served, except that
//! - a lower `priority` goes before a higher one; waiting makes up for it, one step for each `aging`, but lifts nobody
//!   above the best priority that waits;
//! - among equals the tenant goes first that was served the fewest tokens (a virtual token counter, after Sheng et al.,
//!   "Fairness in serving large language models", OSDI 2024), so that one tenant's flood delays that tenant alone.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::request::Tenant;
use crate::sequence::{Order, SeqId};

/// Tenants whose service is remembered while they have nothing here.
const MAX_IDLE_TENANTS: usize = 1024;

/// Requests that had no turn yet.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: Vec<Waiting>,
    service: BTreeMap<Tenant, Service>,
    aging: Duration,
}

/// A request in the queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    pub(crate) seq: SeqId,
    pub(crate) order: Order,
    pub(crate) tenant: Tenant,
    pub(crate) since: Duration,
}

#[derive(Clone, Copy, Debug, Default)]
struct Service {
    tokens: u64,
    /// Requests in the queue or running.
    requests: usize,
}

impl Queue {
    pub(crate) fn new(aging: Duration) -> Self {
        Self { waiting: Vec::new(), service: BTreeMap::new(), aging }
    }

    /// A request begins to wait.
    pub(crate) fn push(&mut self, waiting: Waiting) {
        self.join(waiting.tenant);
        self.waiting.push(waiting);
    }

    /// A tenant has one more request here.
    pub(crate) fn join(&mut self, tenant: Tenant) {
        let active = self.service.values().filter(|service| service.requests > 0);
        let least = active.map(|service| service.tokens).min().unwrap_or(0);
        let service = self.service.entry(tenant).or_default();
        // Who comes back has saved up no claim from the time away.
        if service.requests == 0 {
            service.tokens = service.tokens.max(least);
        }
        service.requests += 1;
    }

    /// Whose turn is next.
    pub(crate) fn next(&self, now: Duration) -> Option<Waiting> {
        let best = self.waiting.iter().map(|waiting| waiting.order.priority).min()?;
        let rank = |waiting: &Waiting| {
            let aged = self.aged(waiting.order.priority, waiting.since, now);
            (aged.max(best.into()), self.service[&waiting.tenant].tokens, waiting.order.request)
        };
        self.waiting.iter().min_by_key(|waiting| rank(waiting)).copied()
    }

    /// The priority that waiting since then has brought one to; others' bound what it is good for.
    pub(crate) fn aged(&self, priority: i32, since: Duration, now: Duration) -> i64 {
        let steps = now.saturating_sub(since).as_nanos() / self.aging.as_nanos().max(1);
        i64::from(priority) - i64::try_from(steps).unwrap_or(i64::MAX / 2)
    }

    /// The request waits no longer.
    pub(crate) fn remove(&mut self, seq: SeqId) {
        self.waiting.retain(|waiting| waiting.seq != seq);
    }

    /// Nobody waits or runs any more. What each tenant was served stays known.
    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
        self.service.values_mut().for_each(|service| service.requests = 0);
    }

    /// Tokens were computed on a tenant's account.
    pub(crate) fn charge(&mut self, tenant: Tenant, tokens: usize) {
        self.service.entry(tenant).or_default().tokens += tokens as u64;
    }

    /// A request of a tenant is over.
    pub(crate) fn leave(&mut self, tenant: Tenant) {
        let service = self.service.get_mut(&tenant).expect("a tenant with requests is known");
        service.requests -= 1;
        if self.service.len() > MAX_IDLE_TENANTS {
            self.service.retain(|_, service| service.requests > 0);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inbox::RequestId;

    fn waiting(number: u64, tenant: u64, priority: i32, since_s: u64) -> Waiting {
        let order = Order { priority, request: RequestId(number), choice: 0 };
        Waiting { seq: SeqId(number), order, tenant: Tenant(tenant), since: Duration::from_secs(since_s) }
    }

    /// Serves all at `now`, each for 100 tokens; returns the order.
    fn serve(requests: &[Waiting], now_s: u64) -> Vec<u64> {
        let mut queue = Queue::new(Duration::from_secs(5));
        requests.iter().for_each(|&request| queue.push(request));
        let mut served = Vec::new();
        while let Some(next) = queue.next(Duration::from_secs(now_s)) {
            queue.remove(next.seq);
            queue.charge(next.tenant, 100);
            served.push(next.seq.0);
        }
        served
    }

    #[test]
    fn equals_are_served_as_they_came() {
        assert_eq!(serve(&[waiting(0, 0, 0, 0), waiting(1, 0, 0, 1), waiting(2, 0, 0, 2)], 3), [0, 1, 2]);
    }

    #[test]
    fn priority_goes_first_until_age_makes_up_for_it() {
        let requests = [waiting(0, 0, 2, 0), waiting(1, 0, 0, 9)];
        assert_eq!(serve(&requests, 9), [1, 0], "9 s make up for one step of 5 s");
        assert_eq!(serve(&requests, 10), [0, 1]);
    }

    #[test]
    fn a_flood_delays_its_own_tenant() {
        let mut requests: Vec<Waiting> = (0..6).map(|number| waiting(number, 1, 0, 0)).collect();
        requests.push(waiting(6, 2, 0, 50));
        requests.push(waiting(7, 2, 0, 50));
        assert_eq!(serve(&requests, 60), [0, 6, 1, 7, 2, 3, 4, 5]);
    }

    #[test]
    fn a_newcomer_has_no_claim_to_the_past() {
        let mut queue = Queue::new(Duration::from_secs(5));
        queue.push(waiting(0, 1, 0, 0));
        queue.charge(Tenant(1), 10_000);
        queue.push(waiting(1, 2, 0, 1));
        queue.push(waiting(2, 1, 0, 2));
        queue.charge(Tenant(2), 100);
        let next = queue.next(Duration::from_secs(3)).expect("requests wait");
        assert_eq!(next.tenant, Tenant(1), "tenant 2 started level with it and was served since");
    }
}
