//! When things run: requests, scheduler, KV pages, sampling, the loop.
