//! Frequencies against those of Hugging Face's own functions (`tests/data/ropes.json`, made by `ropes.py` beside it).

use std::path::Path;

use model::DecoderConfig;
use serde_json::{Value, json};

use crate::support::write_model;

/// Two roundings of f32, relative: they compute the power in f32, we in f64.
const FREQUENCY_TOLERANCE: f32 = 2e-6;

#[test]
fn frequencies_are_those_of_hugging_face() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ropes.json");
    let cases: Vec<Value> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 13);
    for case in &cases {
        let new = json!({ "rope_parameters": case["rope_parameters"] });
        check(case, &new, "new style");
        let theta = &case["rope_parameters"]["rope_theta"];
        let part = &case["rope_parameters"]["partial_rotary_factor"];
        let mut scaling = case["rope_parameters"].clone();
        let entries = scaling.as_object_mut().unwrap();
        let kind = entries.remove("rope_type").unwrap();
        entries.remove("rope_theta");
        entries.insert("type".into(), kind);
        let old = json!({ "rope_theta": theta, "rope_scaling": scaling, "partial_rotary_factor": part });
        check(case, &old, "old style");
    }
}

fn check(case: &Value, rope: &Value, style: &str) {
    let head_dim = case["head_dim"].as_u64().unwrap();
    let mut config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 8, "num_hidden_layers": 1,
        "hidden_size": 4 * head_dim, "num_attention_heads": 4, "intermediate_size": 8,
        "max_position_embeddings": case["max_position_embeddings"],
    });
    config.as_object_mut().unwrap().extend(rope.as_object().unwrap().clone());
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = write_model(dir.path(), &config, &[("model.embed_tokens.weight", vec![8, 4 * head_dim as usize])]);
    let rope = &DecoderConfig::from_checkpoint(&checkpoint).unwrap().ropes[0];

    let name = format!("{} ({style})", case["name"]);
    let wanted = case["inv_freq"].as_array().unwrap();
    assert_eq!(rope.inv_freq.len(), wanted.len(), "{name}");
    for (pair, (got, wanted)) in rope.inv_freq.iter().zip(wanted).enumerate() {
        let wanted = wanted.as_f64().unwrap() as f32;
        let error = (got - wanted).abs() / wanted;
        assert!(error <= FREQUENCY_TOLERANCE, "{name}, pair {pair}: {got} instead of {wanted}");
    }
    let magnitude = case["attention_factor"].as_f64().unwrap() as f32;
    assert!((rope.magnitude - magnitude).abs() <= 1e-6, "{name}: {} instead of {magnitude}", rope.magnitude);
}
