//! `frontier bench http URL`: load on a server, and what it felt like to its clients.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bench::{Load, Report, Server};
use serde_json::json;

use crate::numbers::count;
use crate::output::{check_output, print_json, print_text};
use crate::problems::both;

/// Bounds of a load: it shall be heavy, not endless.
const MAX_CLIENTS: usize = 1024;
const MAX_REQUESTS: usize = 1_000_000;
const MAX_TOKENS: usize = 1 << 20;
const MAX_SECONDS: usize = 86_400;

/// Measure a server that speaks OpenAI's API: clients in a closed loop, streamed answers
#[derive(clap::Args, Debug)]
pub(super) struct Http {
    /// Where it listens, e.g. http://127.0.0.1:8080
    url: String,
    /// Model that requests name
    #[arg(short, value_name = "NAME", default_value = "default")]
    model: String,
    /// Clients at a time, one load after another
    #[arg(
        short, long, value_name = "CLIENTS", value_delimiter = ',', default_value = "1,4,8",
        allow_negative_numbers = true, value_parser = count(1..=MAX_CLIENTS)
    )]
    clients: Vec<usize>,
    /// Requests of each load [default: four a client]
    #[arg(short, long, value_name = "REQUESTS", allow_negative_numbers = true, value_parser = count(1..=MAX_REQUESTS))]
    requests: Option<usize>,
    /// Words of each prompt
    #[arg(
        short, long, value_name = "WORDS", default_value_t = 100,
        allow_negative_numbers = true, value_parser = count(1..=MAX_TOKENS)
    )]
    prompt: usize,
    /// Tokens of each answer
    #[arg(
        short = 'n', long = "tokens", value_name = "TOKENS", default_value_t = 64,
        allow_negative_numbers = true, value_parser = count(1..=MAX_TOKENS)
    )]
    tokens: usize,
    /// Let answers end where the model ends them; otherwise the server is asked for full length
    #[arg(long)]
    natural_end: bool,
    /// Requests before the first load, not counted
    #[arg(
        short, long, value_name = "REQUESTS", default_value_t = 1,
        allow_negative_numbers = true, value_parser = count(0..=MAX_REQUESTS)
    )]
    warmup: usize,
    /// Key of the server
    #[arg(long, value_name = "KEY")]
    api_key: Option<String>,
    /// Longest wait for an answer, in seconds
    #[arg(
        long, value_name = "SECONDS", default_value_t = 600,
        allow_negative_numbers = true, value_parser = count(1..=MAX_SECONDS)
    )]
    timeout: usize,
    /// Write a line for each request to a file
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Http {
    pub(super) fn run(&self) -> Result<()> {
        let url = match self.url.starts_with("http://") || self.url.starts_with("https://") {
            true => Ok(()),
            false => Err(anyhow!("{}: expected http://HOST:PORT", self.url)),
        };
        // It is written when all is measured.
        let file = self.csv.as_deref().map_or(Ok(()), |path| check_output(path, true, &[]));
        both(url, file)?;
        let server =
            Server::new(&self.url, &self.model, self.api_key.clone(), Duration::from_secs(self.timeout as u64));
        let mut sent = 0;
        let mut load = |clients, requests| {
            let first_request = sent;
            sent += requests;
            let Http { prompt: prompt_words, tokens: max_tokens, .. } = *self;
            Load { clients, requests, prompt_words, max_tokens, ignore_eos: !self.natural_end, first_request }
                .run(&server)
        };
        if self.warmup > 0 {
            let report = load(1, self.warmup);
            if let Some(error) = report.first_error {
                bail!("{}: {error}", self.url);
            }
        }
        if !self.json {
            print_text(&heading())?;
        }
        let mut reports = Vec::new();
        for &clients in &self.clients {
            let report = load(clients, self.requests.unwrap_or(4 * clients));
            if !self.json {
                print_text(&row(&report))?;
            }
            reports.push(report);
        }
        if let Some(path) = &self.csv {
            std::fs::write(path, csv(&reports)).with_context(|| path.display().to_string())?;
        }
        if self.json {
            print_json(&json!({
                "url": self.url,
                "model": self.model,
                "prompt_words": self.prompt,
                "max_tokens": self.tokens,
                "loads": reports,
            }))?;
        }
        match reports.iter().find(|report| report.failed > 0) {
            Some(Report { failed, first_error, .. }) => {
                bail!("{failed} requests failed; the first: {}", first_error.as_deref().unwrap_or_default())
            }
            None => Ok(()),
        }
    }
}

fn heading() -> String {
    format!(
        "{:>7} {:>8} {:>6}  {:>10} {:>10}  {:>20}  {:>20}  {:>20}\n",
        "clients",
        "answered",
        "failed",
        "answer t/s",
        "total t/s",
        "first token ms 50/99",
        "gap ms 50/99",
        "whole ms 50/99"
    )
}

fn row(report: &Report) -> String {
    let pair = |of: &bench::Percentiles| format!("{:.1} / {:.1}", of.p50, of.p99);
    format!(
        "{:>7} {:>8} {:>6}  {:>10.1} {:>10.1}  {:>20}  {:>20}  {:>20}\n",
        report.clients,
        report.answered,
        report.failed,
        report.completion_tps,
        report.total_tps,
        pair(&report.ttft_ms),
        pair(&report.itl_ms),
        pair(&report.latency_ms),
    )
}

fn csv(reports: &[Report]) -> String {
    let mut text = "clients,ttft_ms,latency_ms,prompt_tokens,completion_tokens,tokens_per_second\n".to_owned();
    for report in reports {
        for request in &report.requests {
            let tps = request.tps.map_or_else(String::new, |tps| format!("{tps:.2}"));
            let _ = writeln!(
                text,
                "{},{:.2},{:.2},{},{},{tps}",
                report.clients, request.ttft_ms, request.latency_ms, request.prompt_tokens, request.completion_tokens
            );
        }
    }
    text
}
