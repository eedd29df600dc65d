//! Draws against straightforward definitions in f64.

use proptest::prelude::*;
use tensor::{BackendError, Batch, Candidate};

use super::*;
use crate::request::RequestLimits;
use crate::runner::{KvPool, RunnerLimits};

/// One logit row, and how often it was read whole.
struct OneRow {
    logits: Vec<f32>,
    reads: usize,
}

impl Runner for OneRow {
    fn limits(&self) -> RunnerLimits {
        RunnerLimits { vocab: self.logits.len(), max_context: 0, max_rows: 0, max_seqs: 0, max_logit_rows: 0 }
    }
    fn kv_pools(&self) -> Vec<KvPool> {
        Vec::new()
    }
    fn copy_page(&mut self, _: usize, _: u32, _: u32) -> Result<(), BackendError> {
        Ok(())
    }
    fn start(&mut self, _: &Batch<'_>) -> Result<(), BackendError> {
        Ok(())
    }
    fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        *out = vec![top_of(&self.logits, k)];
        Ok(())
    }
    fn logits_row(&mut self, _: usize) -> Result<&[f32], BackendError> {
        self.reads += 1;
        Ok(&self.logits)
    }
}

fn top_of(logits: &[f32], k: usize) -> TopK {
    let mut candidates: Vec<Candidate> =
        logits.iter().zip(0..).map(|(&logit, token)| Candidate { token, logit }).collect();
    candidates.sort_by(|a, b| b.logit.total_cmp(&a.logit).then(a.token.cmp(&b.token)));
    candidates.truncate(k);
    let log_sum_exp = logits.iter().map(|&logit| f64::from(logit).exp()).sum::<f64>().ln() as f32;
    TopK { candidates, log_sum_exp }
}

fn sampling(draft: SamplingDraft) -> Sampling {
    let limits = RequestLimits {
        vocab: 1 << 20,
        context: 1 << 20,
        max_choices: 1,
        max_top_logprobs: 20,
        max_stop_tokens: 1,
        max_logit_bias: 1024,
        max_dry_breakers: 64,
        max_salt_bytes: 256,
        max_deadline: std::time::Duration::from_secs(1),
    };
    Sampling::check(draft, &limits).expect("a valid draft")
}

/// Draws token `position` after a prompt, with a short list of `short`. Returns it and whether the row was read.
fn draw(
    logits: &[f32],
    short: usize,
    draft: &SamplingDraft,
    seed: u64,
    prompt: &[u32],
) -> Result<(u32, bool), DrawError> {
    let sampling = sampling(draft.clone());
    let mut runner = OneRow { logits: logits.to_vec(), reads: 0 };
    let top = top_of(logits, short);
    let place = Place { sampling: &sampling, tokens: prompt, prompt_len: prompt.len(), banned: [&[], &[]], top: &top };
    let mut state = ChoiceState::new(seed, 0, None);
    let token = Sampler::default().draw(&place, &mut state, &mut LogitRow { runner: &mut runner, index: 0 })?;
    Ok((token, runner.reads > 0))
}

/// The distribution that a draft asks for, stage by stage as documented, in f64 over the whole vocabulary.
/// Without XTC's chance: `xtc` says whether it strikes.
fn by_definition(logits: &[f32], draft: &SamplingDraft, prompt: &[u32], xtc: bool) -> Vec<f64> {
    let mut logits: Vec<f64> = logits.iter().map(|&logit| f64::from(logit)).collect();
    for &(token, bias) in &draft.logit_bias {
        logits[token as usize] += bias;
    }
    for (token, logit) in logits.iter_mut().enumerate() {
        if prompt.contains(&(token as u32)) {
            *logit = if *logit > 0.0 { *logit / draft.repetition_penalty } else { *logit * draft.repetition_penalty };
        }
    }
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let max = logits[order[0]];
    let mut p: Vec<f64> = logits.iter().map(|logit| ((logit - max) / draft.temperature).exp()).collect();
    let normalize = |p: &mut Vec<f64>| {
        let sum: f64 = p.iter().sum();
        p.iter_mut().for_each(|p| *p /= sum);
    };
    let keep = |p: &mut Vec<f64>, kept: &[usize]| {
        (0..p.len()).filter(|token| !kept.contains(token)).for_each(|token| p[token] = 0.0);
        normalize(p);
    };
    // The shortest beginning of `order` whose probabilities reach `share`.
    let reach = |p: &[f64], order: &[usize], share: f64| {
        let mut sum = 0.0;
        let mut kept = Vec::new();
        for &token in order {
            if sum >= share {
                break;
            }
            sum += p[token];
            kept.push(token);
        }
        kept
    };
    normalize(&mut p);
    if draft.top_k > 0 {
        keep(&mut p, &order[..order.len().min(draft.top_k as usize)]);
    }
    if draft.typical_p < 1.0 {
        let entropy: f64 = p.iter().filter(|&&p| p > 0.0).map(|p| -p * p.ln()).sum();
        let mut typical: Vec<usize> = (0..p.len()).filter(|&token| p[token] > 0.0).collect();
        typical.sort_by(|&a, &b| (-p[a].ln() - entropy).abs().total_cmp(&(-p[b].ln() - entropy).abs()));
        let kept = reach(&p, &typical, draft.typical_p);
        keep(&mut p, &kept);
    }
    if draft.top_p < 1.0 {
        let kept = reach(&p, &order, draft.top_p);
        keep(&mut p, &kept);
    }
    if draft.min_p > 0.0 {
        let best = p.iter().copied().fold(0.0, f64::max);
        let kept: Vec<usize> = (0..p.len()).filter(|&token| p[token] >= draft.min_p * best).collect();
        keep(&mut p, &kept);
    }
    if xtc {
        let above: Vec<usize> = order.iter().copied().filter(|&token| p[token] >= draft.xtc_threshold).collect();
        if above.len() > 1 {
            let kept: Vec<usize> = (0..p.len()).filter(|token| !above[..above.len() - 1].contains(token)).collect();
            keep(&mut p, &kept);
        }
    }
    p
}

/// Logits like a language model's: a few likely tokens, a long tail.
fn model_like(vocab: usize, seed: u64) -> Vec<f32> {
    let normal = |i: usize| {
        let u = uniform(seed, 1, i as u32, Purpose::Token).max(1e-12);
        let v = uniform(seed, 2, i as u32, Purpose::Token);
        (-2.0 * u.ln()).sqrt() * (2.0 * std::f64::consts::PI * v).cos()
    };
    (0..vocab).map(|i| (3.0 * normal(i)) as f32).collect()
}

/// Draws many tokens and compares their counts with the definition by chi-square.
fn check_distribution(name: &str, draft: SamplingDraft) {
    const DRAWS: usize = 20_000;
    let logits = model_like(300, 7);
    let prompt = [3, 5, 200, 5];
    let mut expected = by_definition(&logits, &draft, &prompt, false);
    if draft.xtc_probability > 0.0 {
        let struck = by_definition(&logits, &draft, &prompt, true);
        for (p, struck) in expected.iter_mut().zip(struck) {
            *p += draft.xtc_probability * (struck - *p);
        }
    }
    for short in [40, 300] {
        let mut counts = vec![0usize; logits.len()];
        for seed in 0..DRAWS {
            let (token, _) = draw(&logits, short, &draft, seed as u64, &prompt).expect("a token");
            counts[token as usize] += 1;
        }
        // Cells that expect fewer than 5 are pooled, as usual for the test.
        let (mut chi2, mut cells) = (0.0, 0.0);
        let (mut rare_expected, mut rare) = (0.0, 0.0);
        for (&count, &p) in counts.iter().zip(&expected) {
            assert!(p > 0.0 || count == 0, "{name}: a token of probability 0 was drawn {count} times");
            let expected = p * DRAWS as f64;
            if expected < 5.0 {
                rare_expected += expected;
                rare += count as f64;
            } else {
                chi2 += (count as f64 - expected).powi(2) / expected;
                cells += 1.0;
            }
        }
        if rare_expected > 5.0 {
            chi2 += (rare - rare_expected).powi(2) / rare_expected;
            cells += 1.0;
        }
        let freedom: f64 = cells - 1.0;
        // Wilson and Hilferty's approximation of the chi-square quantile at p = 0.0001 (z = 3.719).
        let bound = if freedom < 1.0 {
            1e-9
        } else {
            freedom * (1.0 - 2.0 / (9.0 * freedom) + 3.719 * (2.0 / (9.0 * freedom)).sqrt()).powi(3)
        };
        assert!(chi2 <= bound, "{name}, short list of {short}: chi-square {chi2} over {bound} ({freedom} degrees)");
    }
}

#[test]
fn draws_follow_the_defined_distribution() {
    let off = SamplingDraft::default;
    check_distribution("plain", off());
    check_distribution("cold", SamplingDraft { temperature: 0.5, ..off() });
    check_distribution("hot", SamplingDraft { temperature: 2.0, ..off() });
    check_distribution("top_k", SamplingDraft { top_k: 12, ..off() });
    check_distribution("top_k over the short list", SamplingDraft { top_k: 100, temperature: 1.5, ..off() });
    check_distribution("top_k 1", SamplingDraft { top_k: 1, ..off() });
    check_distribution("top_p", SamplingDraft { top_p: 0.8, ..off() });
    check_distribution("top_p hot", SamplingDraft { top_p: 0.9, temperature: 1.7, ..off() });
    check_distribution("tiny top_p", SamplingDraft { top_p: 1e-9, ..off() });
    check_distribution("min_p", SamplingDraft { min_p: 0.05, ..off() });
    check_distribution("typical_p", SamplingDraft { typical_p: 0.7, ..off() });
    check_distribution("typical_p after top_k", SamplingDraft { typical_p: 0.5, top_k: 20, ..off() });
    check_distribution("repetition", SamplingDraft { repetition_penalty: 1.5, top_p: 0.95, ..off() });
    check_distribution("raised repetition", SamplingDraft { repetition_penalty: 0.5, ..off() });
    check_distribution("bias", SamplingDraft { logit_bias: vec![(0, 5.0), (9, -100.0)], ..off() });
    check_distribution("xtc", SamplingDraft { xtc_probability: 0.5, xtc_threshold: 0.05, ..off() });
    let all = SamplingDraft {
        temperature: 1.3,
        top_k: 80,
        top_p: 0.95,
        typical_p: 0.9,
        min_p: 0.01,
        repetition_penalty: 1.2,
        xtc_probability: 0.3,
        xtc_threshold: 0.1,
        logit_bias: vec![(1, -3.0)],
        ..off()
    };
    check_distribution("all", all);
}

#[test]
fn a_short_list_is_mostly_enough() {
    let logits = model_like(50_000, 3);
    let reads = |draft: SamplingDraft| {
        (0..200).filter(|&seed| draw(&logits, SHORT_LIST, &draft, seed, &[]).expect("a token").1).count()
    };
    assert_eq!(reads(SamplingDraft { top_k: 40, top_p: 0.95, temperature: 0.8, ..SamplingDraft::default() }), 0);
    assert_eq!(reads(SamplingDraft { min_p: 0.05, temperature: 1.5, ..SamplingDraft::default() }), 0);
    assert_eq!(reads(SamplingDraft { temperature: 0.0, frequency_penalty: 0.5, ..SamplingDraft::default() }), 0);
    assert!(reads(SamplingDraft { temperature: 0.3, ..SamplingDraft::default() }) < 10);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The heart of the short list: it decides exactly as the whole row would.
    #[test]
    fn the_length_of_the_short_list_never_matters(
        logits in prop::collection::vec(prop_oneof![9 => -8.0f32..8.0, 1 => Just(2.0f32), 1 => Just(f32::NEG_INFINITY)], 2..80),
        short in 1usize..40,
        seed: u64,
        temperature in prop_oneof![Just(0.0), 0.05f64..3.0],
        top_k in 0i64..50,
        top_p in prop_oneof![Just(1.0), 0.01f64..1.0],
        min_p in prop_oneof![Just(0.0), 0.0f64..1.0],
        typical_p in prop_oneof![3 => Just(1.0), 1 => 0.01f64..1.0],
        repetition_penalty in prop_oneof![Just(1.0), 0.5f64..2.0],
        presence_penalty in prop_oneof![Just(0.0), -1.0f64..2.0],
        xtc_probability in prop_oneof![2 => Just(0.0), 1 => Just(1.0)],
        xtc_threshold in 0.01f64..0.5,
        prompt in prop::collection::vec(0u32..80, 0..20),
    ) {
        prop_assume!(logits.iter().any(|logit| logit.is_finite()));
        let vocab = logits.len() as u32;
        let prompt: Vec<u32> = prompt.into_iter().map(|token| token % vocab).collect();
        let draft = SamplingDraft {
            temperature, top_k, top_p, min_p, typical_p, repetition_penalty, presence_penalty, xtc_probability,
            xtc_threshold, ..SamplingDraft::default()
        };
        let whole = draw(&logits, logits.len(), &draft, seed, &prompt).expect("a token").0;
        let listed = draw(&logits, short.min(logits.len()), &draft, seed, &prompt).expect("a token").0;
        prop_assert_eq!(whole, listed);
        prop_assert!(logits[whole as usize].is_finite());
    }
}

#[test]
fn greedy_takes_the_greatest_and_the_first_of_equals() {
    let greedy = SamplingDraft { temperature: 0.0, ..SamplingDraft::default() };
    let check = |logits: &[f32], draft: &SamplingDraft, prompt: &[u32], expected: u32| {
        for short in 1..=logits.len() {
            assert_eq!(draw(logits, short, draft, 1, prompt).expect("a token").0, expected, "short list of {short}");
        }
    };
    check(&[1.0, 3.0, 3.0, 2.0], &greedy, &[], 1);
    check(&[5.0; 6], &greedy, &[], 0);
    let penalized = SamplingDraft { repetition_penalty: 2.0, ..greedy.clone() };
    check(&[1.0, 3.0, 2.9, 2.0], &penalized, &[1], 2);
    // Lowered to a tie with an unlisted token of a lower id: the lower id wins.
    check(&[1.5, 3.0, 1.0], &penalized, &[1], 0);
    let biased = SamplingDraft { logit_bias: vec![(0, 3.0)], ..greedy };
    check(&[1.0, 3.0, 2.9, 2.0], &biased, &[], 0);
}

#[test]
fn rows_without_a_drawable_token_are_errors() {
    let any = SamplingDraft::default();
    let greedy = SamplingDraft { temperature: 0.0, ..SamplingDraft::default() };
    for draft in [&any, &greedy] {
        let error = |logits: &[f32]| draw(logits, 2, draft, 1, &[]).expect_err("no token");
        assert!(matches!(error(&[f32::NEG_INFINITY; 4]), DrawError::NoToken));
        assert!(matches!(error(&[1.0, f32::NAN, 0.0]), DrawError::NotFinite));
        assert!(matches!(error(&[1.0, f32::INFINITY, 0.0]), DrawError::NotFinite));
        let banned = SamplingDraft { logit_bias: vec![(0, -100.0)], ..draft.clone() };
        assert_eq!(draw(&[9.0, 1.0], 1, &banned, 1, &[]).expect("a token").0, 1);
    }
}

#[derive(Debug)]
struct Only(Vec<u32>);

impl TokenMask for Only {
    fn restrict(&mut self, allowed: &mut TokenSet) -> Result<(), MaskError> {
        (0..allowed.vocab() as u32).filter(|token| !self.0.contains(token)).for_each(|token| allowed.remove(token));
        Ok(())
    }
    fn advance(&mut self, token: u32) -> Result<(), MaskError> {
        if self.0.contains(&token) { Ok(()) } else { Err(MaskError(format!("token {token} is not allowed"))) }
    }
    fn fork(&self) -> Box<dyn TokenMask> {
        Box::new(Self(self.0.clone()))
    }
}

#[test]
fn a_mask_and_bans_exclude_tokens() {
    let logits = model_like(100, 5);
    let sampling = sampling(SamplingDraft::default());
    let top = top_of(&logits, 10);
    let mut runner = OneRow { logits, reads: 0 };
    let mut draw = |allowed: Vec<u32>, banned: [&[u32]; 2], seed| {
        let place = Place { sampling: &sampling, tokens: &[1], prompt_len: 1, banned, top: &top };
        let mut state = ChoiceState::new(seed, 0, Some(Box::new(Only(allowed))));
        Sampler::default().draw(&place, &mut state, &mut LogitRow { runner: &mut runner, index: 0 })
    };
    for seed in 0..50 {
        let token = draw(vec![7, 8, 9], [&[7], &[]], seed).expect("a token");
        assert!(token == 8 || token == 9);
    }
    assert!(matches!(draw(vec![7, 8], [&[7], &[8]], 1), Err(DrawError::NoToken)));
}

#[test]
fn log_probabilities_are_the_models_own() {
    let logits = [1.0f32, 2.0, 0.5, -1.0];
    let top = top_of(&logits, 2);
    let mut runner = OneRow { logits: logits.to_vec(), reads: 0 };
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit).exp()).sum();
    for token in 0..4u32 {
        let expected = (f64::from(logits[token as usize]).exp() / sum).ln();
        let found = logprob_of(token, &top, &mut LogitRow { runner: &mut runner, index: 0 }).expect("a row");
        assert!((f64::from(found) - expected).abs() < 1e-6);
    }
    let ids: Vec<u32> = top_logprobs(&top, 2).iter().map(|entry| entry.id).collect();
    assert_eq!(ids, [1, 0]);
}
