//! What a load felt like.

use std::time::Duration;

use serde::Serialize;

use crate::client::{Answer, ClientError};

/// The result of a load.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Clients at a time.
    pub clients: usize,
    /// Requests that were answered.
    pub answered: usize,
    /// Requests that were not.
    pub failed: usize,
    /// Why the first of those was not.
    pub first_error: Option<String>,
    /// From the first request to the last answer.
    pub seconds: f64,
    /// Tokens of all prompts, as the server counts them.
    pub prompt_tokens: usize,
    /// Tokens of all answers.
    pub completion_tokens: usize,
    /// Tokens of answers a second, all clients together.
    pub completion_tps: f64,
    /// Tokens of prompts and answers a second, all clients together.
    pub total_tps: f64,
    /// Requests answered a second.
    pub requests_per_second: f64,
    /// Milliseconds to the first piece of text.
    pub ttft_ms: Percentiles,
    /// Milliseconds between pieces of text.
    pub itl_ms: Percentiles,
    /// Milliseconds of whole requests.
    pub latency_ms: Percentiles,
    /// Tokens a second that a client saw, from its first token on.
    pub client_tps: Percentiles,
    /// One entry an answered request, in the order in which they ended.
    pub requests: Vec<Request>,
}

/// One answered request.
#[derive(Clone, Debug, Serialize)]
pub struct Request {
    /// Milliseconds to the first piece of text.
    pub ttft_ms: f64,
    /// Milliseconds in all.
    pub latency_ms: f64,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens of the answer.
    pub completion_tokens: usize,
    /// Tokens a second from the first one on; `None` for answers of one token.
    pub tps: Option<f64>,
}

/// Of some values; zeros when there are none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Percentiles {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Report {
    pub(crate) fn new(clients: usize, elapsed: Duration, outcomes: Vec<Result<Answer, ClientError>>) -> Report {
        let mut first_error = None;
        let mut answers = Vec::new();
        let sent = outcomes.len();
        for outcome in outcomes {
            match outcome {
                Ok(answer) => answers.push(answer),
                Err(error) => first_error = first_error.or(Some(error.to_string())),
            }
        }
        let seconds = elapsed.as_secs_f64();
        let requests: Vec<Request> = answers.iter().map(Request::new).collect();
        let prompt_tokens = requests.iter().map(|request| request.prompt_tokens).sum();
        let completion_tokens = requests.iter().map(|request| request.completion_tokens).sum();
        let gaps = answers.iter().flat_map(|answer| &answer.gaps);
        Report {
            clients,
            answered: requests.len(),
            failed: sent - requests.len(),
            first_error,
            seconds,
            prompt_tokens,
            completion_tokens,
            completion_tps: completion_tokens as f64 / seconds,
            total_tps: (prompt_tokens + completion_tokens) as f64 / seconds,
            requests_per_second: requests.len() as f64 / seconds,
            ttft_ms: Percentiles::of(requests.iter().map(|request| request.ttft_ms)),
            itl_ms: Percentiles::of(gaps.map(|gap| gap.as_secs_f64() * 1e3)),
            latency_ms: Percentiles::of(requests.iter().map(|request| request.latency_ms)),
            client_tps: Percentiles::of(requests.iter().filter_map(|request| request.tps)),
            requests,
        }
    }
}

impl Request {
    fn new(answer: &Answer) -> Request {
        let (first, total) = (answer.first_token.as_secs_f64(), answer.total.as_secs_f64());
        let after_first = answer.completion_tokens.saturating_sub(1);
        Request {
            ttft_ms: first * 1e3,
            latency_ms: total * 1e3,
            prompt_tokens: answer.prompt_tokens,
            completion_tokens: answer.completion_tokens,
            tps: (after_first > 0 && total > first).then(|| after_first as f64 / (total - first)),
        }
    }
}

impl Percentiles {
    fn of(values: impl Iterator<Item = f64>) -> Percentiles {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let Some(&max) = values.last() else { return Percentiles::default() };
        // The nearest rank: the least value that so many per cent do not exceed.
        let at = |percent: usize| values[(values.len() * percent).div_ceil(100).max(1) - 1];
        Percentiles {
            mean: values.iter().sum::<f64>() / values.len() as f64,
            p50: at(50),
            p90: at(90),
            p99: at(99),
            max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let hundred = Percentiles::of((1..=100).map(f64::from));
        assert_eq!(hundred, Percentiles { mean: 50.5, p50: 50.0, p90: 90.0, p99: 99.0, max: 100.0 });
        assert_eq!(Percentiles::of([3.0].into_iter()).p99, 3.0);
        assert_eq!(Percentiles::of(std::iter::empty()), Percentiles::default());
    }

    #[test]
    fn rates_count_tokens_after_the_first() {
        let ms = Duration::from_millis;
        let answer = Answer {
            first_token: ms(100),
            gaps: vec![ms(50); 4],
            total: ms(300),
            prompt_tokens: 10,
            completion_tokens: 5,
        };
        let refused = ClientError::Status { status: 429, body: "full".to_owned() };
        let report = Report::new(2, ms(500), vec![Ok(answer), Err(refused)]);
        assert_eq!((report.answered, report.failed), (1, 1));
        assert_eq!(report.first_error.as_deref(), Some("status 429: full"));
        assert!((report.requests[0].tps.expect("five tokens") - 20.0).abs() < 1e-9);
        assert!((report.completion_tps - 10.0).abs() < 1e-9);
        assert!((report.total_tps - 30.0).abs() < 1e-9);
        assert_eq!(report.itl_ms.p50, 50.0);
    }
}
