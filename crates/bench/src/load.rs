//! Clients in a closed loop.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::client::{Answer, ClientError, Server};
use crate::report::Report;

/// Words of prompts. What they say does not matter; that no two prompts begin alike does, or a server's prefix cache
/// would answer.
const WORDS: [&str; 24] = [
    "alder", "amber", "basin", "birch", "canal", "cedar", "cliff", "cloud", "delta", "ember", "fjord", "flint",
    "grove", "heron", "inlet", "larch", "marsh", "otter", "pearl", "quill", "ridge", "shale", "thorn", "wheat",
];

/// Requests to send, and how many at a time.
#[derive(Clone, Debug)]
pub struct Load {
    /// Clients, each waiting for its answer before it asks again.
    pub clients: usize,
    /// Requests in all.
    pub requests: usize,
    /// Words of each prompt, about as many tokens.
    pub prompt_words: usize,
    /// Tokens of each answer.
    pub max_tokens: usize,
    /// Whether to ask the server for answers of full length.
    pub ignore_eos: bool,
    /// Begins the prompts' numbers, so that a second load repeats none of the first.
    pub first_request: usize,
}

impl Load {
    /// Sends all requests and waits for the answers. Errors of single requests are in the report.
    pub fn run(&self, server: &Server) -> Report {
        let next = AtomicUsize::new(0);
        let answers = Mutex::new(Vec::new());
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..self.clients.min(self.requests) {
                scope.spawn(|| {
                    while let Some(number) = self.take(&next) {
                        let answer = self.ask(server, number);
                        answers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(answer);
                    }
                });
            }
        });
        let answers = answers.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Report::new(self.clients, start.elapsed(), answers)
    }

    fn take(&self, next: &AtomicUsize) -> Option<usize> {
        Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < self.requests)
    }

    fn ask(&self, server: &Server, number: usize) -> Result<Answer, ClientError> {
        server.ask(&prompt(self.first_request + number, self.prompt_words), self.max_tokens, self.ignore_eos)
    }
}

/// A prompt that no other number has, not even in its beginning.
fn prompt(number: usize, words: usize) -> String {
    let mut state = number as u64;
    let word = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        WORDS[(state >> 33) as usize % WORDS.len()]
    };
    let text: Vec<&str> = (1..words).map(word).collect();
    format!("{number} {}", text.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_differ_from_the_first_word_on() {
        assert_ne!(prompt(1, 8).split(' ').next(), prompt(2, 8).split(' ').next());
        assert_eq!(prompt(3, 8), prompt(3, 8));
        assert_eq!(prompt(3, 8).split(' ').count(), 8);
    }
}
