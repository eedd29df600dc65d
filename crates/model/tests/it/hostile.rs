//! Descriptions that are wrong, by accident or on purpose: an error that says what, or a network that runs.

use std::path::Path;

use checkpoint::{Checkpoint, Description, gguf};
use model::{DecoderConfig, ModelError};
use proptest::prelude::Rng;
use proptest::test_runner::{RngAlgorithm, TestRng};
use serde_json::{Value, json};

use crate::support::{decoder, logits, write_model};

/// A valid model of the smallest kind.
fn config() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 16, "hidden_size": 8,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "intermediate_size": 12, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "hidden_act": "silu", "attention_bias": false, "mlp_bias": false,
        "bos_token_id": 1, "eos_token_id": [2, 3], "sliding_window": null,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 2.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64
        }
    })
}

fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut tensors = vec![
        ("model.embed_tokens.weight".into(), vec![16, 8]),
        ("model.norm.weight".into(), vec![8]),
        ("lm_head.weight".into(), vec![16, 8]),
    ];
    for layer in 0..2 {
        let parts: [(&str, &[usize]); 9] = [
            ("input_layernorm", &[8]),
            ("self_attn.q_proj", &[8, 8]),
            ("self_attn.k_proj", &[4, 8]),
            ("self_attn.v_proj", &[4, 8]),
            ("self_attn.o_proj", &[8, 8]),
            ("post_attention_layernorm", &[8]),
            ("mlp.gate_proj", &[12, 8]),
            ("mlp.up_proj", &[12, 8]),
            ("mlp.down_proj", &[8, 12]),
        ];
        tensors.extend(parts.map(|(part, shape)| (format!("model.layers.{layer}.{part}.weight"), shape.to_vec())));
    }
    tensors
}

fn write(dir: &Path, config: &Value) -> Checkpoint {
    let tensors = tensors();
    let tensors: Vec<_> = tensors.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect();
    write_model(dir, config, &tensors)
}

/// Loads the model and runs three tokens; an error is an outcome, a panic is not.
fn try_model(checkpoint: &Checkpoint) -> Result<(), ModelError> {
    let mut decoder = decoder(checkpoint)?;
    let rows = logits(&mut decoder, &[1, 2, 3], 2);
    assert_eq!(rows.len(), 3);
    Ok(())
}

#[test]
fn the_valid_model_runs() {
    let dir = tempfile::tempdir().unwrap();
    try_model(&write(dir.path(), &config())).unwrap();
}

#[test]
fn errors_name_the_thing_the_value_and_the_limit() {
    #[rustfmt::skip]
    let cases = [
        ("num_hidden_layers", json!(0), "number of layers is 0, must be in [1, 1024]"),
        ("num_hidden_layers", json!(4_000_000_000u32), "number of layers is 4000000000, must be in [1, 1024]"),
        ("num_hidden_layers", json!(3), "tensor model.layers.2.input_layernorm.weight of shape [8] is missing"),
        ("num_hidden_layers", json!(1), "tensor model.layers.1.input_layernorm.weight is no part of architecture llama"),
        ("num_hidden_layers", json!("two"), "\"num_hidden_layers\" holds string \"two\", wanted an integer"),
        ("num_attention_heads", json!(0), "number of heads is 0, must be in [1, 1024]"),
        ("num_attention_heads", json!(3), "tensor model.layers.0.self_attn.q_proj.weight has shape [8, 8], the description asks for [12, 8]"),
        ("num_key_value_heads", json!(3), "number of KV heads is 3, must be in [1, 2]"),
        ("head_dim", json!(3), "head size is 3, must be even"),
        ("head_dim", json!(0), "head size is 0"),
        ("hidden_size", json!(1u64 << 31), "width of the hidden state is 2147483648, must be in [1, 131072]"),
        ("intermediate_size", json!(13), "tensor model.layers.0.mlp.gate_proj.weight has shape [12, 8], the description asks for [13, 8]"),
        ("vocab_size", json!(17), "tensor model.embed_tokens.weight has shape [16, 8], the description asks for [17, 8]"),
        ("max_position_embeddings", json!(1u64 << 32), "wanted an integer in [0, 2^32)"),
        ("max_position_embeddings", json!(1u64 << 31), "context length is 2147483648, must be in [1, 16777216]"),
        ("max_position_embeddings", json!(null), "no max_position_embeddings"),
        ("rms_norm_eps", json!(-1.0), "epsilon of the norms is -1"),
        ("rms_norm_eps", json!(1e300), "epsilon of the norms is inf"),
        ("rope_theta", json!(0.0), "rope theta is 0, must be finite and above 0"),
        ("rope_scaling", json!({"rope_type": "dynamic"}), "rope_type is \"dynamic\", which is not supported; supported: default, linear, llama3, yarn"),
        ("rope_scaling", json!({"rope_type": "linear"}), "no rope parameter factor"),
        ("rope_scaling", json!({"rope_type": "linear", "factor": 0}), "rope scaling factor is 0"),
        ("rope_scaling", json!("x"), "rope_scaling is \"x\", must be an object"),
        ("rope_parameters", json!([]), "rope_parameters is [], must be an object"),
        ("rope_parameters", json!({"rope_type": "default"}), "of rope_scaling is"),
        ("rope_scaling", json!({"rope_type": 7}), "rope parameter rope_type is 7, must be a string"),
        ("hidden_act", json!("relu"), "hidden_act is \"relu\", which is not supported; supported: silu, gelu_pytorch_tanh"),
        ("eos_token_id", json!(16), "special token is 16, must be below 16"),
        ("eos_token_id", json!([2, "x"]), "eos_token_id is \"x\", must be a token id"),
        ("eos_token_id", json!({"a": 1}), "eos_token_id is {\"a\":1}, must be a token id"),
        ("eos_token_id", json!("x".repeat(1000)), "xxx..., must be a token id"),
        ("attention_bias", json!(true), "tensor model.layers.0.self_attn.q_proj.bias of shape [8] is missing"),
        ("quantization_config", json!({"quant_method": "gptq"}), "quantization_config is \"gptq\", which is not supported"),
        ("layer_types", json!(["full_attention"]), "length of layer_types is 1, must be 2"),
        ("layer_types", json!(["full_attention", "linear_attention"]), "layer type is \"linear_attention\", which is not supported"),
        ("architectures", json!(["PhiForCausalLM"]), "architecture \"PhiForCausalLM\" is not supported; supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM"),
        ("partial_rotary_factor", json!(2.0), "partial_rotary_factor is 2, must be in (0, 1]"),
    ];
    for (key, value, wanted) in cases {
        let dir = tempfile::tempdir().unwrap();
        let mut config = config();
        config[key] = value.clone();
        match try_model(&write(dir.path(), &config)) {
            Ok(()) => panic!("{key} = {value} was accepted"),
            Err(error) => {
                let text = error.to_string();
                assert!(text.contains(wanted), "{key} = {value}: {text:?} does not say {wanted:?}");
                assert!(!text.contains('\n'), "{text:?} has more than one line");
            }
        }
    }
}

/// In `[0, limit)`.
fn below(random: &mut TestRng, limit: usize) -> usize {
    random.next_u32() as usize % limit
}

/// Values that a hostile or broken file may hold in any place.
fn hostile(random: &mut TestRng) -> Value {
    const VALUES: [&str; 24] = [
        "0",
        "1",
        "2",
        "3",
        "5",
        "7",
        "-1",
        "1023",
        "1024",
        "1025",
        "65536",
        "2147483647",
        "2147483648",
        "4294967295",
        "4294967296",
        "9223372036854775808",
        "1e308",
        "-1e308",
        "1e-320",
        "0.5",
        "null",
        "true",
        "\"x\"",
        "[[], {}]",
    ];
    serde_json::from_str(VALUES[below(random, VALUES.len())]).unwrap()
}

#[test]
fn mutated_configurations_load_or_fail_cleanly() {
    let random = &mut TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let keys: Vec<String> = config().as_object().unwrap().keys().cloned().collect();
    let rope_keys: Vec<String> = config()["rope_scaling"].as_object().unwrap().keys().cloned().collect();
    let dir = tempfile::tempdir().unwrap();
    let mut loaded = 0;
    for _ in 0..2_000 {
        let mut config = config();
        for _ in 0..1 + below(random, 2) {
            if below(random, 4) == 0 {
                let key = &rope_keys[below(random, rope_keys.len())];
                if let Some(scaling) = config["rope_scaling"].as_object_mut() {
                    scaling.insert(key.clone(), hostile(random));
                }
            } else {
                config[&keys[below(random, keys.len())]] = hostile(random);
            }
        }
        match try_model(&write(dir.path(), &config)) {
            Ok(()) => loaded += 1,
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
    println!("{loaded} of 2000 mutated configurations still describe a network");
    assert!((100..1900).contains(&loaded));
}

#[test]
fn mutated_metadata_load_or_fail_cleanly() {
    let random = &mut TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let dir = tempfile::tempdir().unwrap();
    let mut plain = config();
    plain.as_object_mut().unwrap().remove("rope_scaling");
    drop(write(dir.path(), &plain));
    let path = dir.path().join("model.gguf");
    let (valid, tensors) = gguf_of(&write(dir.path(), &plain));
    let keys: Vec<String> = valid.iter().map(|(key, _)| key.to_owned()).collect();
    let mut loaded = 0;
    for _ in 0..2_000 {
        let mut metadata = valid.clone();
        for _ in 0..1 + below(random, 2) {
            let key = keys[below(random, keys.len())].clone();
            match below(random, 8) {
                0 => drop(metadata.remove(&key)),
                1 => drop(metadata.insert(key, -1i32)),
                2 => drop(metadata.insert(key, vec![2u32, 0])),
                3 => drop(metadata.insert(key, [f32::NAN, 0.0, -1.0, f32::INFINITY][below(random, 4)])),
                4 => drop(metadata.insert(key, u64::MAX >> below(random, 64))),
                5 => drop(metadata.insert(key, ["x", "yarn", "linear", "qwen3"][below(random, 4)])),
                6 => drop(metadata.insert(key, true)),
                _ => drop(metadata.insert(key, u32::MAX >> below(random, 32))),
            }
        }
        write_gguf(&path, &metadata, &tensors);
        // The file itself stays valid, so only the description can be refused.
        match try_model(&Checkpoint::open(&path).unwrap()) {
            Ok(()) => loaded += 1,
            Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
        }
    }
    println!("{loaded} of 2000 mutated metadata still describe a network");
    assert!((100..1900).contains(&loaded));
}

type Tensors = Vec<(gguf::TensorHeader, Vec<u8>)>;

/// The valid model in GGUF's words.
fn gguf_of(checkpoint: &Checkpoint) -> (gguf::Metadata, Tensors) {
    let mut metadata = gguf::Metadata::default();
    metadata.insert("general.architecture", "llama");
    let sizes = [("block_count", 2u32), ("context_length", 256), ("embedding_length", 8), ("feed_forward_length", 12)];
    let heads = [("attention.head_count", 2), ("attention.head_count_kv", 1), ("attention.key_length", 4)];
    let more = [("attention.value_length", 4), ("rope.dimension_count", 4), ("attention.sliding_window", 0)];
    for (key, size) in sizes.into_iter().chain(heads).chain(more) {
        metadata.insert(format!("llama.{key}"), size);
    }
    metadata.insert("llama.rope.scaling.original_context_length", 64u32);
    metadata.insert("llama.rope.scaling.type", "yarn");
    metadata.insert("llama.rope.scaling.factor", 4.0f32);
    metadata.insert("llama.rope.freq_base", 1e4f32);
    metadata.insert("llama.attention.layer_norm_rms_epsilon", 1e-5f32);
    metadata.insert("tokenizer.ggml.eos_token_id", 2u32);
    assert!(matches!(checkpoint.description(), Description::HuggingFace(_)));
    let names = [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("model.layers", "blk"),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    let tensors = checkpoint.tensors().map(|tensor| {
        let name = names.iter().fold(tensor.name.to_owned(), |name, (from, to)| name.replace(from, to));
        let header = gguf::TensorHeader { name, shape: tensor.shape.to_vec(), format: tensor.format };
        (header, tensor.data.to_vec())
    });
    (metadata, tensors.collect())
}

fn write_gguf(path: &Path, metadata: &gguf::Metadata, tensors: &Tensors) {
    let headers: Vec<_> = tensors.iter().map(|(header, _)| header.clone()).collect();
    let mut writer = gguf::Writer::create(path, metadata, &headers).unwrap();
    for (_, data) in tensors {
        writer.write(data).unwrap();
    }
    writer.finish().unwrap();
}

#[test]
fn unknown_gguf_architecture_lists_the_known_ones() {
    let dir = tempfile::tempdir().unwrap();
    let (mut metadata, tensors) = gguf_of(&write(dir.path(), &config()));
    metadata.insert("general.architecture", "phi3");
    let path = dir.path().join("model.gguf");
    write_gguf(&path, &metadata, &tensors);
    let error = DecoderConfig::from_checkpoint(&Checkpoint::open(&path).unwrap()).unwrap_err();
    let wanted = "architecture \"phi3\" is not supported; supported: llama, qwen2, qwen3, gemma3";
    assert_eq!(error.to_string(), wanted);
}
