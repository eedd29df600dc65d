//! A network without weights: after a letter comes the next letter of the alphabet, after `!` the end of the text,
//! after anything else an `a`. One token a byte.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use checkpoint::{Array, Metadata, Value};
use engine::{Engine, EngineConfig, KvPool, Runner, RunnerLimits};
use server::{Metrics, ServedModel};
use tensor::{BackendError, Batch, Candidate, TopK};
use tokenizer::{ChatTemplate, Tokenizer};

/// Tokens `[0, 256)` are the bytes; this one ends a text.
pub(crate) const END: u32 = 256;
const VOCAB: usize = 257;
/// Prompt and output of a request.
pub(crate) const CONTEXT: usize = 1024;
/// The likeliest token's logit; all others have 0.
const LIKELY: f32 = 10.0;

/// Writes `<role>content` for each message, and `>` before the answer.
const TEMPLATE: &str =
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}";

/// The model `letters`, whose steps take at least `step`.
pub(crate) fn letters(step: Duration, metrics: &Metrics, config: EngineConfig) -> ServedModel {
    let tokenizer = Tokenizer::from_gguf(&vocabulary()).expect("the vocabulary is valid");
    let template = ChatTemplate::parse(TEMPLATE, BTreeMap::new(), tokenizer.control_texts());
    let config = EngineConfig { eos_tokens: vec![END], observer: metrics.observer("letters"), ..config };
    let runner = FakeRunner { step, last_tokens: Vec::new(), row: Vec::new() };
    ServedModel {
        name: "letters".to_owned(),
        engine: Engine::start(Box::new(runner), config).expect("the settings suit the runner"),
        tokenizer,
        template: Some(template.expect("the template is valid")),
        device: "fake".to_owned(),
        load_time: Duration::ZERO,
        created: SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs(),
    }
}

/// What the network says after this byte or token.
fn next(token: u32) -> u32 {
    match u8::try_from(token) {
        Ok(b'!') => END,
        Ok(letter @ b'a'..=b'y') => u32::from(letter) + 1,
        _ => u32::from(b'a'),
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

    fn step(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        std::thread::sleep(self.step);
        self.last_tokens = batch.logit_rows.iter().map(|&row| batch.tokens[row as usize]).collect();
        Ok(())
    }

    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        out.clear();
        out.extend(self.last_tokens.iter().map(|&token| {
            let likely = next(token);
            let first = Candidate { token: likely, logit: LIKELY };
            let others = (0..VOCAB as u32).filter(|&token| token != likely);
            let others = others.map(|token| Candidate { token, logit: 0.0 });
            let log_sum_exp = (LIKELY.exp() + (VOCAB - 1) as f32).ln();
            TopK { candidates: std::iter::once(first).chain(others).take(k).collect(), log_sum_exp }
        }));
        Ok(())
    }

    fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError> {
        self.row = vec![0.0; VOCAB];
        self.row[next(self.last_tokens[index]) as usize] = LIKELY;
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
