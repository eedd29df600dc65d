//! Memory plans of real models: what is predicted, what is refused, and that what a refusal proposes works.

use std::path::Path;

use serde_json::Value;

use crate::models::{gemma3, shared, smollm2};
use crate::program::{error, frontier, stdout};
use crate::serve::Serving;

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

#[test]
fn ceilings_beyond_what_there_is_are_called_clipped_with_why() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--prefix-cache-size", "1TiB", "--memory-pool-size", "2TiB", "--max-total-tokens", "1024"];
    let told = [
        ("MISTRAL_PREFIX_CACHE_SIZE", "=1TiB (command line): ", "clipped to 23.6 MB, all of the KV cache"),
        ("MISTRAL_MEMORY_POOL_SIZE", "=2TiB (command line): ", "B, which weights and KV cache leave of the budget"),
    ];
    let notes = plan(dir.path(), &model, &flags)["notes"].to_string();
    let flags = [&flags[..], &["--device", "cpu"]].concat();
    let serving = Serving::start(dir.path(), &model, &flags);
    let mut command = frontier(dir.path());
    let explained = stdout(command.args(["config", "explain", "--json"]).arg(&model).args(&flags));
    let explained: Value = serde_json::from_str(&explained).unwrap();
    for (name, set, clipped) in told {
        for text in [&notes, &serving.log] {
            let at = text.find(&format!("{name}{set}clipped to ")).unwrap_or_else(|| panic!("{name}: {text}"));
            assert!(text[at..].contains(clipped), "{text}");
        }
        let row = explained.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap();
        assert!(row["clipped"].as_str().is_some_and(|found| found.contains(clipped)), "{row}");
    }
    // Weights that arrive unquantized are kept on disk.
    let Some(float) = shared("data/tiny/llama") else { return };
    let cache = ["--quantization-cache-size", "4TiB"];
    let notes = plan(dir.path(), &float, &cache)["notes"].to_string();
    assert!(notes.contains("MISTRAL_QUANTIZATION_CACHE_SIZE=4TiB (command line): clipped to "), "{notes}");
    assert_eq!(plan(dir.path(), &model, &cache)["notes"], serde_json::json!([]), "nothing is quantized at load");
}

/// As many models as `serve` takes, each with its own settings.
#[test]
fn several_models_and_a_directory_of_them_are_planned() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["shelf", "models"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    for name in ["shelf/a.gguf", "shelf/b.gguf"] {
        std::os::unix::fs::symlink(&model, path(name)).unwrap();
    }
    std::fs::write(path("frontier.toml"), "max_total_tokens = 1024\n").unwrap();
    std::fs::write(path("models/b.toml"), "max_total_tokens = 2048\n").unwrap();
    let shelf = plan(dir.path(), Path::new("shelf"), &[]);
    assert_eq!(shelf, plan(dir.path(), Path::new("shelf/a.gguf"), &["shelf/b.gguf"]), "the same when they are named");
    let of = |index: usize, key: &str| shelf["models"][index][key].clone();
    assert_eq!([of(0, "model"), of(1, "model")], ["a", "b"]);
    assert_eq!([of(0, "kv_tokens"), of(1, "kv_tokens")], [1024, 2048]);
    let totals = [0, 1].map(|index| of(index, "total_bytes").as_u64().unwrap());
    assert_eq!(shelf["memories"].as_array().unwrap().len(), 1);
    assert_eq!(shelf["memories"][0]["total_bytes"], totals[0] + totals[1]);
    assert_eq!(shelf["memories"][0]["budget_bytes"], of(0, "budget_bytes"));
    // What is found and broken is told; what was named must be right.
    std::fs::write(path("shelf/broken.gguf"), "no model").unwrap();
    let shelf = plan(dir.path(), Path::new("shelf"), &[]);
    assert!(shelf["models"][2]["error"].as_str().unwrap().contains("broken.gguf"), "{shelf}");
    let table = stdout(frontier(dir.path()).args(["plan", "shelf", "--metal-heap-size", "220MB"]));
    for part in ["a on ", "b on ", "broken: cannot be served: ", "all at once: ", " exceed the budget of 220 MB"] {
        assert!(table.contains(part), "{part:?} is not in\n{table}");
    }
    // One that is pinned must be right, as one that was named.
    for command in [&["plan"][..], &["serve", "--port", "0"]] {
        let told = error(frontier(dir.path()).args(command).args(["shelf", "--model-pin", "broken"]));
        assert!(told.starts_with("error: shelf/broken.gguf: ") && told.lines().count() == 1, "{told}");
    }
    // What is wrong with one that could be left out is no error beside what is wrong with others.
    let too_long = ["--max-seq-len", "9000", "--max-total-tokens", "9000"];
    for (command, models, names) in [
        (&["plan"][..], &["shelf", "again.gguf"][..], &["again"][..]),
        (&["plan", "--metal-heap-size", "64MiB"], &["shelf"], &["a", "b"]),
        (&["serve", "--port", "99999"], &["shelf", "again.gguf"], &["again"]),
        (&["serve", "--port", "99999"], &["shelf"], &["a", "b"]),
    ] {
        std::os::unix::fs::symlink(&model, path("again.gguf")).ok();
        let told = error(frontier(dir.path()).args(command).args(models).args(too_long));
        for name in names {
            let problem = format!("MISTRAL_MAX_SEQ_LEN=9000 (command line): {name} was trained for 8192 tokens");
            assert!(told.contains(&problem), "{told}");
            assert_eq!(told.contains(&format!("{name} does not fit: ")), command.contains(&"64MiB"), "{told}");
        }
        assert!(!told.contains("broken") && told.contains("99999") == command.contains(&"99999"), "{told}");
    }
    // All that is wrong at once, each with the model that it is about.
    let named =
        ["plan", "shelf/a.gguf", "gone/with the wind.gguf", "shelf/broken.gguf", "shelf/b.gguf", "shelf/a.gguf"];
    let flags = ["--max-seq-len", "9000", "--max-total-tokens", "9000", "--model-pin", "bb"];
    let told = error(frontier(dir.path()).args(named).args(flags));
    for part in [
        "6 things are wrong",
        "gone/with the wind.gguf",
        "two models are called \"a\"",
        "broken.gguf",
        "MISTRAL_MAX_SEQ_LEN=9000 (command line): a was trained for 8192 tokens",
        "MISTRAL_MAX_SEQ_LEN=9000 (command line): b was trained for 8192 tokens",
        "MISTRAL_MODEL_PIN=bb (command line): no such model is served; the nearest is b; allowed: a, b",
    ] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
}

/// Contexts are as long as all models that were named have room for, where nobody has asked for a length.
#[test]
fn contexts_give_way_to_other_models_that_were_named() {
    let Some(model) = gemma3() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("all")).unwrap();
    for name in ["all/a.gguf", "all/b.gguf"] {
        std::os::unix::fs::symlink(&model, dir.path().join(name)).unwrap();
    }
    let alone = |tokens: &str| {
        let plan = plan(dir.path(), Path::new("all/a.gguf"), &["--max-total-tokens", tokens]);
        assert_eq!(number(&plan, "context_tokens").to_string(), tokens);
        number(&plan, "total_bytes")
    };
    let [short, middle, long] = ["8192", "16384", "32768"].map(alone);
    // Whether both fit together, their contexts, and whether they are said to have given way.
    let contexts = |models: &[&str], budget: u64, flags: &[&str]| {
        let mut command = frontier(dir.path());
        command.arg("plan").args(models).args(["--json", "--device", "cpu", "--metal-heap-size", &budget.to_string()]);
        let plans: Value = serde_json::from_str(&stdout(command.args(flags))).unwrap();
        let fits = number(&plans["memories"][0], "total_bytes") <= budget;
        let why = plans["models"][1]["notes"].to_string();
        assert_eq!(why.contains("MISTRAL_MAX_SEQ_LEN asks for a length"), why.contains(" of a + "), "{why}");
        (fits, [0, 1].map(|index| plans["models"][index]["context_tokens"].as_u64().unwrap()), why.contains(" of a + "))
    };
    let both = &["all/a.gguf", "all/b.gguf"];
    assert_eq!(contexts(both, 2 * long, &[]), (true, [32_768; 2], false));
    assert_eq!(contexts(both, 2 * long - 1, &[]), (true, [16_384; 2], true));
    assert_eq!(contexts(both, 2 * middle - 1, &[]), (true, [8192; 2], true));
    assert_eq!(contexts(&["all"], 2 * middle - 1, &["--model-pin", "a,b"]), (true, [8192; 2], true));
    // Who asks for a length has it, and so has who can have no room for others.
    assert_eq!(contexts(both, 2 * long - 1, &["--max-seq-len", "32768"]), (false, [32_768; 2], false));
    assert_eq!(contexts(&["all"], 2 * long - 1, &[]), (false, [32_768; 2], false));
    assert!(!contexts(both, 2 * short - 1, &[]).2);
}

/// Several models have shares of a budget for which each alone would have a use.
#[test]
fn several_models_find_room_beside_each_other() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.gguf", "b.gguf"] {
        std::os::unix::fs::symlink(&model, dir.path().join(name)).unwrap();
    }
    let alone = plan(dir.path(), Path::new("a.gguf"), &["--max-total-tokens", "1024"]);
    let (total, kv) = (number(&alone, "total_bytes"), number(&alone, "kv_bytes"));
    let both = |heap: &str, flags: &[&str]| {
        let mut command = frontier(dir.path());
        command.args(["plan", "a.gguf", "b.gguf", "--json", "--device", "cpu", "--metal-heap-size", heap]).args(flags);
        command
    };
    let tokens = |heap: u64, flags: &[&str]| {
        let plans: Value = serde_json::from_str(&stdout(&mut both(&heap.to_string(), flags))).unwrap();
        let fits = number(&plans["memories"][0], "total_bytes") <= heap;
        (fits, [0, 1].map(|index| plans["models"][index]["kv_tokens"].as_u64().unwrap()))
    };
    // What one request of full length takes beyond 1024 tokens.
    let full = total + 7 * kv;
    for pin in [&[][..], &["--model-pin", "a"], &["--model-pin", "a,b"]] {
        let (fits, tokens) = tokens(2 * full + 4 * kv, pin);
        assert!(fits && tokens.map(|tokens| tokens.div_ceil(1024)) == [10, 10], "{pin:?}: {tokens:?}");
    }
    // One at a time, unless one stays: then both have shorter requests.
    let (fits, each) = tokens(2 * full - kv, &[]);
    assert!(!fits && each.iter().all(|tokens| *tokens > 2 * 8192), "{each:?}");
    assert_eq!(tokens(2 * full - kv, &["--model-pin", "a"]), (true, [7680, 7680]));
    let too_small = (2 * total - kv).to_string();
    let told = error(&mut both(&too_small, &["--model-pin", "a,b"]));
    for part in
        ["MISTRAL_MODEL_PIN=a,b (command line): no room for all of them: ", " of a + ", "MISTRAL_METAL_HEAP_SIZE="]
    {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
    // What is said to help does.
    let way = told.split("MISTRAL_METAL_HEAP_SIZE=").last().unwrap().split(',').next().unwrap();
    stdout(&mut both(way, &["--model-pin", "a,b"]));
    let told = error(&mut both(&too_small, &["--model-pin", "a"]));
    assert!(
        told.contains("b does not fit: ")
            && told.contains(" of pinned models")
            && told.contains("or fewer models pinned"),
        "{told}"
    );
}
