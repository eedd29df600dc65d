//! Memory plans of real models: what is predicted, what is refused, and that what a refusal proposes works.

use std::path::Path;

use serde_json::Value;

use crate::models::smollm2;
use crate::program::{error, frontier, stdout};

fn plan(dir: &Path, model: &Path, flags: &[&str]) -> Value {
    let mut command = frontier(dir);
    command.arg("plan").arg(model).arg("--json").args(flags).args(["--device", "cpu"]);
    serde_json::from_str(&stdout(&mut command)).unwrap()
}

fn number(plan: &Value, key: &str) -> u64 {
    plan[key].as_u64().unwrap_or_else(|| panic!("no {key} in {plan}"))
}

#[test]
fn a_plan_adds_up_and_follows_the_settings() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let base = plan(dir.path(), &model, &[]);
    let parts = ["weight_bytes", "kv_bytes", "scratch_bytes", "program_bytes"];
    assert_eq!(number(&base, "total_bytes"), parts.iter().map(|part| number(&base, part)).sum::<u64>());
    let file_bytes = std::fs::metadata(&model).unwrap().len() as f64;
    let weights = number(&base, "weight_bytes") as f64;
    assert!((0.95..1.05).contains(&(weights / file_bytes)), "{weights} bytes of weights in a file of {file_bytes}");
    // 30 layers, 3 KV heads of 64 values, keys and values, 2 bytes each.
    assert_eq!(number(&base, "kv_bytes"), 131_072 * 30 * 3 * 64 * 2 * 2);
    assert_eq!(number(&base, "context_tokens"), 8192);
    for (flags, key, expected) in [
        (&["--kv-cache-dtype", "q8_0"][..], "kv_bytes", number(&base, "kv_bytes") * 34 / 64),
        (&["--max-total-tokens", "4096"], "kv_bytes", number(&base, "kv_bytes") / 32),
        (&["--max-total-tokens", "4096"], "context_tokens", 4096),
        (&["--max-seq-len", "2048"], "context_tokens", 2048),
        (&["--max-batch-size", "3"], "batch_sequences", 3),
        (&["--metal-heap-size", "10GB"], "budget_bytes", 10_000_000_000),
    ] {
        assert_eq!(number(&plan(dir.path(), &model, flags), key), expected, "{flags:?}");
    }
    let small_steps = plan(dir.path(), &model, &["--prefill-chunk-size", "64"]);
    assert!(number(&small_steps, "scratch_bytes") < number(&base, "scratch_bytes") / 4);
    let table = stdout(frontier(dir.path()).arg("plan").arg(&model));
    for part in ["weights", "KV cache", "scratch", "total", "budget", "q4_1"] {
        assert!(table.contains(part), "{part} is not in\n{table}");
    }
}

#[test]
fn the_kv_cache_is_clipped_to_memory_and_the_plan_says_so() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let fixed = {
        let base = plan(dir.path(), &model, &["--max-seq-len", "1024"]);
        number(&base, "total_bytes") - number(&base, "kv_bytes")
    };
    let heap = (fixed + 200_000_000).to_string();
    let clipped = plan(dir.path(), &model, &["--max-seq-len", "1024", "--metal-heap-size", &heap]);
    let (kv, total) = (number(&clipped, "kv_bytes"), number(&clipped, "total_bytes"));
    assert!(total <= fixed + 200_000_000 && kv > 195_000_000, "{clipped}");
    assert!(clipped["notes"].to_string().contains("clipped from 131072 to"), "{clipped}");
}

#[test]
fn what_does_not_fit_is_refused_with_the_sum_and_a_way_that_works() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let below_weights =
        error(frontier(dir.path()).arg("run").arg(&model).arg("hi").args(["--metal-heap-size", "64MiB"]));
    for part in [
        "does not fit",
        "weights +",
        "MISTRAL_METAL_HEAP_SIZE=64MiB, set by command line",
        "it would fit with MISTRAL_METAL_HEAP_SIZE=",
    ] {
        assert!(below_weights.contains(part), "{part:?} is not in {below_weights:?}");
    }
    let fixed = {
        let base = plan(dir.path(), &model, &[]);
        number(&base, "total_bytes") - number(&base, "kv_bytes")
    };
    let heap = (fixed + 100_000_000).to_string();
    let flags = ["--max-seq-len", "8192", "--metal-heap-size", &heap];
    let refused = error(frontier(dir.path()).arg("plan").arg(&model).args(flags));
    assert_eq!(refused.lines().count(), 1, "{refused}");
    let ways = refused.split("it would fit with ").nth(1).unwrap();
    let ways: Vec<&str> = ways.trim().split(", or ").filter(|way| way.contains('=')).collect();
    assert!(ways.len() >= 2, "{refused}");
    for way in ways {
        let (name, value) = way.split_once('=').unwrap();
        let flag = format!("--{}", name.strip_prefix("MISTRAL_").unwrap().to_lowercase().replace('_', "-"));
        let mut command = frontier(dir.path());
        command.arg("plan").arg(&model);
        if flag != "--metal-heap-size" {
            command.args(["--metal-heap-size", &heap]);
        }
        if flag != "--max-seq-len" {
            command.args(["--max-seq-len", "8192"]);
        }
        stdout(command.args([&flag, value]));
    }
}

/// What limits is named with its value and who set it, and raising it is a way.
#[test]
fn a_budget_that_is_too_small_names_the_settings_that_make_it_so() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (name, value, way) in [
        ("MISTRAL_MEMORY_FRACTION", "0.00001", "MISTRAL_MEMORY_FRACTION=0."),
        ("MISTRAL_MEMORY_LIMIT", "64MiB", "MISTRAL_MEMORY_LIMIT="),
    ] {
        let plan = |name: &str, value: &str| {
            let mut command = frontier(dir.path());
            command.arg("plan").arg(&model).args(["--device", "cpu"]).env(name, value);
            command
        };
        let refused = error(&mut plan(name, value));
        assert!(refused.contains(&format!("{name}={value}, set by environment")), "{refused}");
        let ways = refused.split("it would fit with ").nth(1).unwrap();
        let raised = ways.trim().split(", or ").find(|found| found.starts_with(way));
        let (name, value) = raised.unwrap_or_else(|| panic!("{way} is not in {ways}")).split_once('=').unwrap();
        stdout(&mut plan(name, value));
    }
}

#[test]
fn contradictions_with_the_model_are_named() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let message = error(frontier(dir.path()).arg("plan").arg(&model).args(["--max-seq-len", "8193"]));
    for part in ["MISTRAL_MAX_SEQ_LEN=8193", "command line", "8192"] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    let noted = plan(dir.path(), &model, &["--memory-reservation", "64MiB"]);
    assert!(noted["notes"].to_string().contains("MISTRAL_MEMORY_RESERVATION"), "{noted}");
}
