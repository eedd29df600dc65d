//! A network without weights, one token a byte.
//!
//! After a small letter comes the next one of the alphabet, after `!` the end of the text, after anything else an `a`.
//! About digits and capital letters it is in doubt ([`after`]). Some bytes are faults ([`PANIC`], [`ERROR`], [`STALL`],
//! [`HANG`]).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use checkpoint::{Array, Metadata, Value};
use engine::{Engine, EngineConfig, KvPool, Observer, Runner, RunnerLimits};
use server::{Metrics, ServedModel};
use tensor::{BackendError, Batch, Candidate, TopK};
use tokenizer::{ChatTemplate, Tokenizer};

/// Tokens `[0, 256)` are the bytes; this one ends a text.
pub(crate) const END: u32 = 256;
const VOCAB: usize = 257;
/// Prompt and output of a request.
pub(crate) const CONTEXT: usize = 1024;
/// The likeliest token's logit; those that are not listed have 0.
const LIKELY: f32 = 10.0;
/// Logits of the three tokens between which it is in doubt: probabilities of 57, 35 and 8 %.
const DOUBT: [f32; 3] = [20.0, 19.5, 18.0];

/// A step that computes this byte panics.
pub(crate) const PANIC: char = '\u{1}';
/// A step that computes this byte fails.
pub(crate) const ERROR: char = '\u{2}';
/// A step that computes this byte takes [`STALL_TIME`].
pub(crate) const STALL: char = '\u{3}';
pub(crate) const STALL_TIME: Duration = Duration::from_millis(700);
/// A step that computes this byte takes [`HANG_TIME`].
pub(crate) const HANG: char = '\u{4}';
pub(crate) const HANG_TIME: Duration = Duration::from_secs(4);

/// Writes `<role>content` for each message, and `>` before the answer.
const TEMPLATE: &str =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}";

/// The model `letters`, whose steps take at least `step`.
pub(crate) fn letters(step: Duration, metrics: &Metrics, config: EngineConfig) -> ServedModel {
    named("letters", step, metrics.observer("letters"), config)
}

/// The same under another name.
pub(crate) fn named(name: &str, step: Duration, observer: Arc<dyn Observer>, config: EngineConfig) -> ServedModel {
    let tokenizer = Tokenizer::from_gguf(&vocabulary()).expect("the vocabulary is valid");
    let template = ChatTemplate::parse(TEMPLATE, BTreeMap::new(), tokenizer.control_texts());
    let config = EngineConfig { eos_tokens: vec![END], observer, ..config };
    let runner = FakeRunner { step, last_tokens: Vec::new(), row: Vec::new() };
    ServedModel {
        name: name.to_owned(),
        engine: Engine::start(Box::new(runner), config).expect("the settings suit the runner"),
        tokenizer,
        template: Some(template.expect("the template is valid")),
        device: "fake".to_owned(),
        load_time: Duration::ZERO,
        created: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs(),
    }
}

/// What the network says after this byte or token: the likely ones, likeliest first.
fn after(token: u32) -> Vec<Candidate> {
    let in_doubt = |first: u32, of: &dyn Fn(u32) -> u32| {
        let candidate = |(i, logit): (usize, f32)| Candidate { token: of(first + i as u32), logit };
        DOUBT.into_iter().enumerate().map(candidate).collect()
    };
    let sure = |token: u32| vec![Candidate { token, logit: LIKELY }];
    match u8::try_from(token) {
        // After a digit the next ones, round and round; after a capital letter itself and the next ones.
        Ok(digit @ b'0'..=b'9') => in_doubt(u32::from(digit - b'0') + 1, &|value| u32::from(b'0') + value % 10),
        Ok(capital @ b'A'..=b'W') => in_doubt(u32::from(capital), &|token| token),
        Ok(b'!') => sure(END),
        Ok(letter @ b'a'..=b'y') => sure(u32::from(letter) + 1),
        // A text that goes well until its third token.
        Ok(b'?') => sure(u32::from(b'%')),
        Ok(b'%') => sure(PANIC.into()),
        _ => sure(u32::from(b'a')),
    }
}

struct FakeRunner {
    step: Duration,
    /// The token of each logit row of the last step.
    last_tokens: Vec<u32>,
    row: Vec<f32>,
}

impl Runner for FakeRunner {
    fn limits(&self) -> RunnerLimits {
        RunnerLimits { vocab: VOCAB, max_context: CONTEXT, max_rows: 4096, max_seqs: 64, max_logit_rows: 64 }
    }

    fn kv_pools(&self) -> Vec<KvPool> {
        vec![KvPool { pages: 256, page_bytes: 4096, window: None }]
    }

    fn copy_page(&mut self, _group: usize, _from: u32, _to: u32) -> Result<(), BackendError> {
        Ok(())
    }

    fn start(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        std::thread::sleep(self.step);
        let computes = |fault: char| batch.tokens.contains(&u32::from(fault));
        if computes(STALL) {
            std::thread::sleep(STALL_TIME);
        }
        if computes(HANG) {
            std::thread::sleep(HANG_TIME);
        }
        if computes(ERROR) {
            return Err(BackendError::Device { device: "fake".to_owned(), message: "injected".to_owned() });
        }
        assert!(!computes(PANIC), "injected");
        self.last_tokens = batch.logit_rows.iter().map(|&row| batch.tokens[row as usize]).collect();
        Ok(())
    }

    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        out.clear();
        out.extend(self.last_tokens.iter().map(|&token| {
            let likely = after(token);
            let listed: Vec<u32> = likely.iter().map(|candidate| candidate.token).collect();
            let sum: f32 = likely.iter().map(|candidate| candidate.logit.exp()).sum();
            let log_sum_exp = (sum + (VOCAB - likely.len()) as f32).ln();
            let others = (0..VOCAB as u32).filter(|token| !listed.contains(token));
            let others = others.map(|token| Candidate { token, logit: 0.0 });
            TopK { candidates: likely.into_iter().chain(others).take(k).collect(), log_sum_exp }
        }));
        Ok(())
    }

    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError> {
        self.row = vec![0.0; VOCAB];
        for Candidate { token, logit } in after(self.last_tokens[index]) {
            self.row[token as usize] = logit;
        }
        Ok(&self.row)
    }
}

/// The metadata of a GGUF file with one token a byte.
fn vocabulary() -> Metadata {
    const NORMAL: i32 = 1;
    const CONTROL: i32 = 3;
    let mut texts: Vec<String> = (0..=255_u8).map(|byte| byte_char(byte).to_string()).collect();
    texts.push("<|end|>".to_owned());
    let mut types = vec![NORMAL; 256];
    types.push(CONTROL);
    let mut metadata = Metadata::default();
    metadata.insert("tokenizer.ggml.model", "gpt2");
    metadata.insert("tokenizer.ggml.pre", "gpt-2");
    metadata.insert("tokenizer.ggml.tokens", Value::Array(Array::Strings(texts)));
    metadata.insert("tokenizer.ggml.token_type", Value::Array(Array::I32(types)));
    metadata.insert("tokenizer.ggml.merges", Value::Array(Array::Strings(Vec::new())));
    metadata.insert("tokenizer.ggml.eos_token_id", Value::U32(END));
    metadata
}

/// GPT-2's printable character for a byte: itself where it is printable, else one from U+0100 on.
fn byte_char(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    if printable(byte) {
        return char::from(byte);
    }
    let place = (0..byte).filter(|&before| !printable(before)).count();
    char::from_u32(0x100 + place as u32).expect("68 characters from U+0100 on exist")
}
