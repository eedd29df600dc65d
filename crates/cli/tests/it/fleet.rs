//! Several models in one server: loaded when they are asked for, unloaded for one another, within the memory plan.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::models::smollm2;
use crate::program::{error, frontier, stdout};
use crate::serve::Serving;

const SIZES: [&str; 6] = ["--max-total-tokens", "2048", "--prefill-chunk-size", "64", "--device", "cpu"];

/// One model in files of several names.
fn copies(dir: &Path, names: &[&str]) -> Option<Vec<PathBuf>> {
    let model = smollm2()?;
    let copy = |name: &&str| {
        let path = dir.join(format!("{name}.gguf"));
        std::fs::copy(&model, &path).unwrap();
        path
    };
    Some(names.iter().map(copy).collect())
}

/// Bytes that the plan gives one of them.
fn planned_bytes(dir: &Path, model: &Path) -> u64 {
    let plan = stdout(frontier(dir).arg("plan").arg(model).arg("--json").args(SIZES));
    serde_json::from_str::<Value>(&plan).unwrap()["total_bytes"].as_u64().unwrap()
}

fn ask(serving: &Serving, model: &str) -> (u16, String) {
    let body = json!({ "model": model, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0 });
    serving.request("POST", "/v1/completions", &body.to_string())
}

#[test]
fn two_models_take_turns_in_the_memory_of_one_and_every_request_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let Some(models) = copies(dir.path(), &["a", "b"]) else { return };
    let planned = planned_bytes(dir.path(), &models[0]);
    let heap = planned.to_string();
    let flags = [&SIZES[..], &["--metal-heap-size", &heap]].concat();
    let serving = Serving::start_all(dir.path(), &[&models[0], &models[1]], &flags);
    std::thread::scope(|scope| {
        for client in 0..8 {
            let serving = &serving;
            scope.spawn(move || {
                for turn in 0..4 {
                    let name = ["a", "b"][(client + turn) % 2];
                    let (status, answer) = ask(serving, name);
                    assert_eq!(status, 200, "{answer}");
                    let answer: Value = serde_json::from_str(&answer).unwrap();
                    assert_eq!(answer["model"], name);
                    assert!(answer["choices"][0]["text"].as_str().unwrap().contains("Paris"), "{answer}");
                }
            });
        }
    });
    // As near as plans are true, and the header of the other model, by which it is planned while the first is still
    // there.
    const HEADER_BYTES: u64 = 8 << 20;
    let peak = serving.peak_resident_bytes();
    assert!(peak <= planned * 21 / 20 + HEADER_BYTES, "{peak} bytes were resident at once, of {planned} planned");
    assert!(serving.metric("mistral_model_loads_total{model=\"b\",result=\"ok\"}") >= 1.0);
    assert!(serving.metric("mistral_model_loads_total{model=\"a\",result=\"unloaded\"}") >= 1.0);
    let (_, list) = serving.request("GET", "/v1/models", "");
    let list: Value = serde_json::from_str(&list).unwrap();
    let names: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["a", "b"]);
}

/// Each would have a use for all of the memory: neither takes what the other needs.
#[test]
fn two_models_with_room_for_both_stay_whether_one_is_pinned_or_not() {
    let dir = tempfile::tempdir().unwrap();
    let Some(models) = copies(dir.path(), &["a", "b"]) else { return };
    let heap = (planned_bytes(dir.path(), &models[0]) * 21 / 10).to_string();
    let sizes = ["--max-seq-len", "2048", "--prefill-chunk-size", "64", "--device", "cpu", "--metal-heap-size", &heap];
    for pin in [&[][..], &["--model-pin", "a"]] {
        let serving = Serving::start_all(dir.path(), &[&models[0], &models[1]], &[&sizes[..], pin].concat());
        for name in ["b", "a", "b"] {
            let (status, answer) = ask(&serving, name);
            assert_eq!(status, 200, "{answer}");
        }
        for name in ["a", "b"] {
            let unloaded = format!("mistral_model_loads_total{{model=\"{name}\",result=\"unloaded\"}}");
            assert_eq!(serving.metric(&unloaded), 0.0, "{pin:?}");
        }
    }
}

#[test]
fn a_model_that_cannot_be_loaded_is_answered_and_harms_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let Some(models) = copies(dir.path(), &["good"]) else { return };
    let good = &models[0];
    let broken = dir.path().join("broken.gguf");
    std::fs::write(&broken, &std::fs::read(good).unwrap()[..1 << 20]).unwrap();
    let serving = Serving::start_all(dir.path(), &[good, &broken], &SIZES);
    std::thread::scope(|scope| {
        for client in 0..6 {
            let serving = &serving;
            scope.spawn(move || {
                if client % 2 == 0 {
                    let (status, answer) = ask(serving, "broken");
                    assert_eq!(status, 503, "{answer}");
                    for part in ["model_not_loaded", "broken"] {
                        assert!(answer.contains(part), "{part} is not in {answer}");
                    }
                } else {
                    assert_eq!(ask(serving, "good").0, 200);
                }
            });
        }
    });
    assert_eq!(ask(&serving, "missing").0, 404);
    assert_eq!(serving.request("GET", "/health/ready", "").0, 200);
}

#[test]
fn a_broken_file_in_a_directory_stops_no_other_wherever_it_sorts() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("shelf")).unwrap();
    let Some(models) = copies(&dir.path().join("shelf"), &["m"]) else { return };
    let broken = &std::fs::read(&models[0]).unwrap()[..1 << 20];
    for name in ["a", "z"] {
        std::fs::write(dir.path().join(format!("shelf/{name}.gguf")), broken).unwrap();
    }
    let serving = Serving::start(dir.path(), &dir.path().join("shelf"), &SIZES);
    assert!(serving.log.contains("a: not loaded: ") && serving.log.contains("a.gguf"), "{}", serving.log);
    assert_eq!(ask(&serving, "m").0, 200);
    assert_eq!(ask(&serving, "default").0, 200, "the first that could be loaded");
    for name in ["a", "z"] {
        let (status, answer) = ask(&serving, name);
        assert!(status == 503 && answer.contains("model_not_loaded"), "{answer}");
    }
    let (_, list) = serving.request("GET", "/v1/models", "");
    let list: Value = serde_json::from_str(&list).unwrap();
    let names: Vec<&str> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!(names, ["m", "a", "z"]);
    // One that was named must be there.
    let named = error(frontier(dir.path()).args(["serve", "shelf/a.gguf", "shelf/m.gguf", "--port", "0"]).args(SIZES));
    assert!(named.contains("a.gguf"), "{named}");
}

#[test]
fn an_idle_model_is_unloaded_and_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let Some(models) = copies(dir.path(), &["x", "y"]) else { return };
    let flags = [&SIZES[..], &["--model-idle-ttl", "200ms", "--model-pin", "y"]].concat();
    let serving = Serving::start_all(dir.path(), &[&models[0], &models[1]], &flags);
    assert_eq!(ask(&serving, "y").0, 200);
    let deadline = Instant::now() + Duration::from_secs(20);
    while serving.metric("mistral_model_in_memory{model=\"x\"}") > 0.0 {
        assert!(Instant::now() < deadline, "x was not unloaded");
    }
    assert_eq!(serving.metric("mistral_model_in_memory{model=\"y\"}"), 1.0, "pinned");
    assert_eq!(ask(&serving, "x").0, 200, "loaded again");
}

#[test]
fn a_directory_of_models_is_served_and_names_are_unique() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("models/same")).unwrap();
    std::fs::write(dir.path().join("models/same/config.json"), "{}").unwrap();
    std::fs::write(dir.path().join("models/same.gguf"), "").unwrap();
    let message = error(frontier(dir.path()).args(["serve", "models"]));
    assert!(message.contains("two models are called \"same\""), "{message}");
    let message = error(frontier(dir.path()).args(["serve", "models/same", "models/same.gguf", "--name", "x"]));
    assert!(message.contains("same"), "{message}");
}

#[test]
fn a_load_that_fails_unloads_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let Some(models) = copies(dir.path(), &["p", "a", "c"]) else { return };
    let planned = planned_bytes(dir.path(), &models[0]);
    std::fs::create_dir(dir.path().join("models")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("frontier.toml", "max_total_tokens = 2048\nprefill_chunk_size = 64\ndevice = \"cpu\"\n");
    write("models/c.toml", "max_total_tokens = 8192\nmax_seq_len = 8192\n");
    // Room for any one of them beside `p`, but for `c`, which is told at the start where it was named.
    let heap = (planned * 9 / 4).to_string();
    let flags = ["--metal-heap-size", &heap, "--model-pin", "p"];
    let told = error(frontier(dir.path()).arg("serve").args(&models).args(flags).args(["--port", "0"]));
    assert!(told.contains("c does not fit: ") && told.contains(" of pinned models"), "{told}");
    let shelf = dir.path().join("shelf");
    std::fs::create_dir(&shelf).unwrap();
    for model in &models {
        std::os::unix::fs::symlink(model, shelf.join(model.file_name().unwrap())).unwrap();
    }
    let serving = Serving::start(dir.path(), &shelf, &flags);
    assert_eq!([ask(&serving, "p").0, ask(&serving, "a").0], [200, 200]);
    let (status, answer) = ask(&serving, "c");
    assert!(status == 503 && answer.contains("model_not_loaded"), "{answer}");
    assert_eq!(serving.metric("mistral_model_in_memory{model=\"a\"}"), 1.0, "{answer}");
    drop(serving);
    // A copy without a tokenizer, where there is room for one model.
    let nameless = dir.path().join("nameless.gguf");
    let bytes = std::fs::read(&models[0]).unwrap();
    let key = b"tokenizer.ggml.model";
    let at = bytes.windows(key.len()).position(|window| window == key).unwrap();
    let mut without = bytes;
    without[at..at + key.len()].copy_from_slice(b"tokenizer.none.model");
    std::fs::write(&nameless, without).unwrap();
    let heap = (planned * 5 / 4).to_string();
    let serving = Serving::start_all(dir.path(), &[&models[1], &nameless], &["--metal-heap-size", &heap]);
    let (status, answer) = ask(&serving, "nameless");
    assert!(status == 503 && answer.contains("token"), "{answer}");
    assert_eq!(serving.metric("mistral_model_in_memory{model=\"a\"}"), 1.0, "{answer}");
}

/// Beside an idle model there would be room for a smaller recipe: the idle one goes instead.
#[test]
fn a_model_is_not_rounded_more_for_the_sake_of_an_idle_one() {
    let dir = tempfile::tempdir().unwrap();
    let Some(models) = copies(dir.path(), &["idle"]) else { return };
    let float = dir.path().join("float.gguf");
    let quantize = [Path::new("quantize"), &models[0], &float].map(Path::to_owned);
    stdout(frontier(dir.path()).args(quantize).args(["--to", "f16", "--requantize"]));
    let plan = |model: &Path, more: &[&str]| {
        let json = stdout(frontier(dir.path()).arg("plan").arg(model).arg("--json").args(SIZES).args(more));
        serde_json::from_str::<Value>(&json).unwrap()
    };
    let (idle, best) = (planned_bytes(dir.path(), &models[0]), plan(&float, &[]));
    assert_eq!(best["quantization"], "q5_k_m");
    let heap = idle + best["total_bytes"].as_u64().unwrap() - 1_000_000;
    let beside = plan(&float, &["--metal-heap-size", &(heap - idle).to_string(), "--max-seq-len", "2048"]);
    assert!(beside["notes"].to_string().contains("stepped down"), "{beside}");
    let heap = heap.to_string();
    let flags = [&SIZES[..], &["--metal-heap-size", &heap, "--max-seq-len", "2048"]].concat();
    let serving = Serving::start_all(dir.path(), &[&models[0], &float], &flags);
    assert_eq!(serving.metric("mistral_model_in_memory{model=\"idle\"}"), 1.0);
    assert_eq!(ask(&serving, "float").0, 200);
    assert_eq!(serving.metric("mistral_model_in_memory{model=\"idle\"}"), 0.0);
    assert_eq!(serving.metric("mistral_model_loads_total{model=\"idle\",result=\"unloaded\"}"), 1.0);
    // A pinned one stays, and so the recipe is smaller.
    drop(serving);
    let serving =
        Serving::start_all(dir.path(), &[&models[0], &float], &[&flags[..], &["--model-pin", "idle"]].concat());
    assert_eq!(ask(&serving, "float").0, 200);
    assert_eq!(serving.metric("mistral_model_in_memory{model=\"idle\"}"), 1.0);
}

#[test]
fn a_model_has_a_deadline_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let Some(models) = copies(dir.path(), &["short", "long"]) else { return };
    std::fs::create_dir(dir.path().join("models")).unwrap();
    std::fs::write(dir.path().join("frontier.toml"), "").unwrap();
    std::fs::write(dir.path().join("models/short.toml"), "request_timeout = \"20s\"\n").unwrap();
    std::fs::write(dir.path().join("models/long.toml"), "request_timeout = \"1200s\"\n").unwrap();
    let serving = Serving::start_all(dir.path(), &[&models[0], &models[1]], &SIZES);
    let (status, answer) = ask(&serving, "short");
    assert_eq!(status, 200, "{answer}");
    for (model, expected) in [("short", 400), ("long", 200)] {
        let body = json!({ "model": model, "prompt": "a", "max_tokens": 1, "deadline_ms": 700_000 });
        let (status, answer) = serving.request("POST", "/v1/completions", &body.to_string());
        assert_eq!(status, expected, "{model}: {answer}");
    }
}

#[test]
fn what_contradicts_any_model_that_is_named_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let Some(models) = copies(dir.path(), &["first", "long", "large"]) else { return };
    std::fs::create_dir(dir.path().join("models")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("frontier.toml", "device = \"cpu\"\nmax_total_tokens = 2048\nmetal_heap_size = \"400MB\"\n");
    write("models/long.toml", "max_seq_len = 9000\n");
    write("models/large.toml", "max_seq_len = 8000\nmax_total_tokens = 8000\nkv_cache_dtype = \"f32\"\n");
    let told = error(frontier(dir.path()).arg("serve").args(&models).args(["--port", "0"]));
    for part in ["9000", "long.toml", "8192", "large"] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}
