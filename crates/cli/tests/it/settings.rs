//! Settings as users give them, seen through `config explain`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::models::{shared, smollm2};
use crate::program::{error, frontier, stdout};
use crate::serve::Serving;

fn explain(dir: &Path, flags: &[&str], env: &[(&str, &str)]) -> Value {
    let mut command = frontier(dir);
    command.args(["config", "explain", "--json"]).args(flags).envs(env.iter().copied());
    serde_json::from_str(&stdout(&mut command)).unwrap()
}

fn row<'a>(explained: &'a Value, name: &str) -> &'a Value {
    explained.as_array().unwrap().iter().find(|row| row["name"] == name).unwrap()
}

#[test]
fn flags_beat_the_environment_which_beats_the_env_file() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".env"), "MISTRAL_PORT=1\nMISTRAL_HOST=127.0.0.2\nMISTRAL_MAX_SEQ_LEN=77\n")
        .unwrap();
    let env = [("MISTRAL_PORT", "2"), ("MISTRAL_HOST", "127.0.0.3")];
    let explained = explain(dir.path(), &["--port", "3"], &env);
    for (name, text, source) in [
        ("MISTRAL_PORT", "3", "flag"),
        ("MISTRAL_HOST", "127.0.0.3", "env"),
        ("MISTRAL_MAX_SEQ_LEN", "77", "dotenv"),
        ("MISTRAL_MAX_BATCH_SIZE", "8", "default"),
    ] {
        let row = row(&explained, name);
        assert_eq!((row["text"].as_str(), row["source"].as_str()), (Some(text), Some(source)), "{name}");
    }
}

/// Every setting takes a value from every source, and refuses a bad one in every source.
#[test]
fn every_setting_is_read_from_flag_environment_env_file_and_toml() {
    let dir = tempfile::tempdir().unwrap();
    let defaults = explain(dir.path(), &[], &[]);
    for row in defaults.as_array().unwrap() {
        let name = row["name"].as_str().unwrap();
        let key = name.strip_prefix("MISTRAL_").unwrap().to_lowercase();
        let Some(default) = row["default"].as_str() else { continue };
        let is_switch = matches!(key.as_str(), "strict" | "insecure");
        let flag = format!("--{}", key.replace('_', "-"));
        let source = |explained: Value| self::row(&explained, name)["source"].as_str().unwrap().to_owned();

        if !is_switch {
            assert_eq!(source(explain(dir.path(), &[&flag, default], &[])), "flag", "{name}");
        }
        assert_eq!(source(explain(dir.path(), &[], &[(name, default)])), "env", "{name}");
        let env_file = dir.path().join(".env");
        std::fs::write(&env_file, format!("{name}={default}   # comment\n")).unwrap();
        assert_eq!(source(explain(dir.path(), &[], &[])), "dotenv", "{name}");
        std::fs::remove_file(env_file).unwrap();
        let toml_file = dir.path().join("frontier.toml");
        std::fs::write(&toml_file, format!("{key} = \"{default}\"\n")).unwrap();
        assert_eq!(source(explain(dir.path(), &[], &[])), "toml", "{name}");
        std::fs::remove_file(toml_file).unwrap();

        if let Some(bad) = row["samples"][2].as_str() {
            let message = error(frontier(dir.path()).args(["config", "explain"]).env(name, bad));
            let shown = if row["text"] == "***" { "***" } else { bad };
            for part in [name, shown, "environment", "allowed: ", row["allowed"].as_str().unwrap()] {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
        }
    }
}

/// A model's file is found by the name under which the model is served, however the model was named.
#[test]
fn the_main_file_is_the_one_that_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("other.toml");
    std::fs::write(&file, "port = 1234\n").unwrap();
    std::fs::write(dir.path().join("frontier.toml"), "port = 4321\n").unwrap();
    let file = file.to_str().unwrap();
    let port = |explained: Value| row(&explained, "MISTRAL_PORT")["text"].as_str().map(str::to_owned);
    assert_eq!(port(explain(dir.path(), &[], &[])).as_deref(), Some("4321"));
    assert_eq!(port(explain(dir.path(), &["--config", file], &[])).as_deref(), Some("1234"));
    assert_eq!(port(explain(dir.path(), &[], &[("MISTRAL_CONFIG", file)])).as_deref(), Some("1234"));
    std::fs::write(dir.path().join(".env"), format!("MISTRAL_CONFIG={file}\n")).unwrap();
    assert_eq!(port(explain(dir.path(), &[], &[])).as_deref(), Some("1234"));
}

#[cfg(unix)]
#[test]
fn values_that_are_no_utf_8_are_refused() {
    use std::os::unix::ffi::OsStrExt;
    let dir = tempfile::tempdir().unwrap();
    let value = std::ffi::OsStr::from_bytes(b"3\xff");
    let message = error(frontier(dir.path()).args(["config", "explain"]).env("MISTRAL_MAX_BATCH_SIZE", value));
    assert!(message.contains("MISTRAL_MAX_BATCH_SIZE=3\u{fffd} (environment): must be UTF-8"), "{message}");
}

#[test]
fn settings_of_a_model_are_those_of_its_served_name() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["models", "shelf"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    std::os::unix::fs::symlink(&model, path("shelf/md-one.gguf")).unwrap();
    std::fs::write(path("frontier.toml"), "max_batch_size = 3\n").unwrap();
    std::fs::write(path("models/md-one.toml"), "max_batch_size = 5\n").unwrap();
    let absolute = path("shelf/md-one.gguf").display().to_string();
    let batch = |arguments: &[&str], env: &[(&str, &str)]| {
        let mut command = frontier(dir.path());
        command.args(["plan", "--json", "--device", "cpu"]).args(arguments).envs(env.iter().copied());
        serde_json::from_str::<Value>(&stdout(&mut command)).unwrap()["batch_sequences"].clone()
    };
    assert_eq!(batch(&["shelf/md-one.gguf"], &[]), 5);
    assert_eq!(batch(&[&absolute], &[]), 5);
    assert_eq!(batch(&["--model", "shelf/md-one.gguf"], &[]), 5);
    assert_eq!(batch(&[], &[("MISTRAL_MODEL", "shelf/md-one.gguf")]), 5);
    assert_eq!(batch(&[&model.display().to_string()], &[]), 3, "another model");
    let explained = explain(dir.path(), &["--model", &absolute], &[]);
    assert_eq!(row(&explained, "MISTRAL_MAX_BATCH_SIZE")["source"], "model-toml");
}

#[test]
fn a_served_model_has_its_own_settings_and_files_of_nobody_are_warned_of() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    for name in ["models", "shelf"] {
        std::fs::create_dir(path(name)).unwrap();
    }
    for name in ["md-one", "md-two"] {
        std::os::unix::fs::symlink(&model, path(&format!("shelf/{name}.gguf"))).unwrap();
    }
    std::fs::write(path("frontier.toml"), "max_batch_size = 3\nmax_total_tokens = 1024\n").unwrap();
    let own = "max_batch_size = 5\nmax_choices = 3\nstream_stall_timeout = \"7s\"\nmemory_watch = false\nmetal_heap_size = \"70MB\"\nmax_headers = 50\nmax_bach_size = 1\n";
    std::fs::write(path("models/md-one.toml"), own).unwrap();
    std::fs::write(path("models/md-ome.toml"), "max_batch_size = 7\n").unwrap();
    let batch = |serving: &Serving, model: &str| {
        serving.metric(&format!("mistral_engine_config{{model=\"{model}\",setting=\"max_batch_size\"}}"))
    };
    let serving = Serving::start(dir.path(), &path("shelf"), &["--device", "cpu"]);
    assert_eq!(batch(&serving, "md-one"), 5.0);
    let of_engine =
        |setting: &str| serving.metric(&format!("mistral_engine_config{{model=\"md-one\",setting=\"{setting}\"}}"));
    assert_eq!((of_engine("max_choices"), of_engine("slow_reader_limit")), (3.0, 30.0));
    assert!(!serving.log.contains("max_choices"), "{}", serving.log);
    for part in [
        "models/md-one.toml: stream_stall_timeout is the server's, which serves several models: not used",
        "models/md-one.toml: memory_watch is the server's, which serves several models: not used",
        "models/md-one.toml: metal_heap_size is the server's, which serves several models: not used",
        "models/md-ome.toml: for no model that is served; the nearest name of one is md-one.toml",
        "unknown setting max_bach_size (",
        "models/md-one.toml: max_headers is the server's, which serves several models: not used",
    ] {
        assert!(serving.log.contains(part), "{part:?} is not in\n{}", serving.log);
    }
    drop(serving);
    // One model alone: its file is the server's too, and `--name` is its name.
    std::fs::write(path("models/md-ome.toml"), "max_batch_size = 7\nmax_headers = 50\n").unwrap();
    let serving = Serving::start(dir.path(), &path("shelf/md-one.gguf"), &["--device", "cpu", "--name", "md-ome"]);
    assert_eq!(batch(&serving, "md-ome"), 7.0);
    assert_eq!(serving.metric("mistral_server_config{setting=\"max_headers\"}"), 50.0);
    drop(serving);
    // Mistakes in the files of all models are one report, at the start.
    std::fs::write(path("models/md-one.toml"), "max_batch_size = 0\n").unwrap();
    std::fs::write(path("models/md-two.toml"), "kv_cache_dtype = 'q9'\n").unwrap();
    let message = error(frontier(dir.path()).args(["serve", "shelf", "--port", "0", "--model-pin", "md-thre"]));
    for part in [
        "3 things are wrong",
        "MISTRAL_MAX_BATCH_SIZE=0 (",
        "md-one.toml",
        "MISTRAL_KV_CACHE_DTYPE=q9 (",
        "md-two.toml",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
}

#[test]
fn what_only_the_machine_or_the_model_can_tell_is_in_the_same_report() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let report = |flags: &[&str]| error(frontier(dir.path()).arg("serve").arg(&model).args(flags));
    let message =
        report(&["--max-seq-len", "8193", "--host", "0.0.0.0", "--model-pin", "nosuch", "--metal-heap-size", "64MiB"]);
    for part in [
        "4 things are wrong",
        "MISTRAL_MAX_SEQ_LEN=8193 (command line): SmolLM2-135M-Instruct.Q4_1 was trained for 8192 tokens; allowed: 1 to 8192",
        "MISTRAL_HOST=0.0.0.0 (command line): others could use this server; allowed: ",
        "MISTRAL_MODEL_PIN=nosuch (command line): no such model is served; allowed: SmolLM2-135M-Instruct.Q4_1",
        "does not fit: ",
        "MISTRAL_METAL_HEAP_SIZE=64MiB, set by command line",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
    let missing_isa = if cfg!(target_arch = "x86_64") { "neon-i8mm" } else { "avx2" };
    let message = report(&["--port", "-1", "--cpu-isa", missing_isa, "--device", "cpu", "--max-seq-len", "8193"]);
    for part in ["3 things are wrong", "MISTRAL_PORT=-1", "MISTRAL_CPU_ISA=", "MISTRAL_MAX_SEQ_LEN=8193"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
}

#[test]
fn unknown_names_are_told_beside_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = frontier(dir.path());
    command.args(["serve", "--port", "-1"]).env("MISTRAL_MAX_BTCH_SIZE", "4");
    let told = String::from_utf8(command.output().unwrap().stderr).unwrap();
    for part in ["warning: ", "MISTRAL_MAX_BTCH_SIZE", "MISTRAL_MAX_BATCH_SIZE", "error: MISTRAL_PORT=-1"] {
        assert!(told.contains(part), "{part:?} is not in {told}");
    }
}

/// Commands that make no plan tell all at once, too.
#[test]
fn commands_on_a_model_report_the_device_and_the_model_together() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text"), "some text").unwrap();
    let missing_isa = if cfg!(target_arch = "x86_64") { "neon-i8mm" } else { "avx2" };
    let model = model.to_str().unwrap();
    for arguments in [
        &["logits", model, "--ids", "1"][..],
        &["perplexity", model, "--file", "text"],
        &["imatrix", model, "--file", "text", "--output", "out", "--chunk", "1"],
        &["bench", "engine", "-m", model],
    ] {
        let mut command = frontier(dir.path());
        let command = command.args(arguments).args(["--device", "cpu", "--cpu-isa", missing_isa]);
        let message = error(command.args(["--max-seq-len", "8193"]));
        for part in ["2 things are wrong", "MISTRAL_CPU_ISA=", "MISTRAL_MAX_SEQ_LEN=8193"] {
            assert!(message.contains(part), "{arguments:?}: {part:?} is not in {message}");
        }
    }
}

/// The configured model may be a directory of models, some of which cannot be opened.
#[test]
fn the_table_is_printed_for_a_directory_of_models_and_for_none_that_opens() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let shelf = dir.path().join("shelf");
    std::fs::create_dir(&shelf).unwrap();
    let explained = |part: &str| {
        let mut command = frontier(dir.path());
        let output = command.args(["config", "explain", "--device", "cpu", "--model", "shelf"]).output().unwrap();
        let [table, log] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        assert!(output.status.success() && table.contains("MISTRAL_MAX_BATCH_SIZE"), "{log}");
        let text = table + &log;
        assert!(text.contains(part), "{part:?} is not in {text}");
    };
    explained("cannot be served: shelf: neither a model");
    std::fs::write(shelf.join("a.gguf"), "broken").unwrap();
    explained("cannot be served: shelf/a.gguf");
    std::os::unix::fs::symlink(&model, shelf.join("b.gguf")).unwrap();
    explained("inert: the model is quantized already and served as it is");
    explained("2 models would be served: notes about memory are of b");
}

/// Whether the configured model is on this machine cannot be told: the store is below what is no directory.
#[test]
fn the_table_is_printed_where_the_store_cannot_be_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let mut command = frontier(dir.path());
    let command = command.args(["config", "explain", "--device", "cpu", "--model-dir", "file/models"]);
    let output = command.output().unwrap();
    let [table, log] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success() && table.contains("MISTRAL_MAX_BATCH_SIZE"), "{log}");
    assert!(log.contains("cannot be served: model store file/models: "), "{log}");
}

/// `config explain` shows what is set also when it cannot work, and memory's part in it without naming a model.
#[test]
fn the_table_is_printed_with_what_memory_makes_of_it() {
    let Some(model) = smollm2() else { return };
    let dir = tempfile::tempdir().unwrap();
    let output = |flags: &[&str]| {
        let mut command = frontier(dir.path());
        let command = command.args(["config", "explain", "--device", "cpu", "--memory-limit", "1GB"]).args(flags);
        let output = command.env("MISTRAL_MODEL", &model).output().unwrap();
        (output.status.success(), [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()))
    };
    let (is_shown, [table, _]) = output(&["--metal-heap-size", "3GB"]);
    let line = |name: &str| table.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(is_shown, "{table}");
    assert!(line("MISTRAL_METAL_HEAP_SIZE").contains("clipped from 3.0 GB to 1.0 GB"), "{table}");
    assert!(line("MISTRAL_MAX_TOTAL_TOKENS").contains("clipped to"), "{table}");
    let (is_shown, [table, message]) = output(&["--metal-heap-size", "64MiB", "--max-seq-len", "8193"]);
    assert!(is_shown && table.contains("MISTRAL_MAX_BATCH_SIZE"), "{table}");
    for part in ["cannot be served: MISTRAL_MAX_SEQ_LEN=8193", "does not fit"] {
        assert!(message.contains(part), "{part:?} is not in {message}");
    }
}

#[test]
fn several_mistakes_are_one_report() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".env"), "MISTRAL_MEMORY_FRACTION=2\nnonsense\n").unwrap();
    std::fs::write(dir.path().join("frontier.toml"), "max_batch_size = [1]\n").unwrap();
    let message = error(frontier(dir.path()).args(["config", "explain", "--port", "-1"]));
    for part in [
        "4 things are wrong",
        "MISTRAL_MEMORY_FRACTION=2 (.env, line 1)",
        ".env, line 2",
        "MISTRAL_PORT=-1",
        "MISTRAL_MAX_BATCH_SIZE=[1] (",
        "frontier.toml): not a string, number, boolean or list of strings; allowed: 1 to 1024 sequences",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// Every block of the tuning guide works as a `.env` file, unchanged: a model that was trained for the longest context
/// in them is served. (For a model of less the context that a block names is an error, as it says.)
#[test]
fn blocks_of_the_guide_work_as_env_files() {
    let (Some(guide), Some(tiny)) = (shared("seed-guide.md"), shared("data/tiny/llama")) else { return };
    let models = tempfile::tempdir().unwrap();
    let model = with_context(&tiny, models.path(), 32_768);
    let guide = std::fs::read_to_string(guide).unwrap();
    let blocks = guide.split("```bash\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let blocks: Vec<&str> =
        blocks.filter(|block| block.contains("\nMISTRAL_") || block.starts_with("MISTRAL_")).collect();
    assert_eq!(blocks.len(), 11, "blocks with settings in the guide");
    for block in blocks {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".env"), block).unwrap();
        let explained = explain(dir.path(), &["--strict"], &[]);
        for line in block.lines().filter(|line| line.starts_with("MISTRAL_")) {
            let name = line.split('=').next().unwrap();
            assert_eq!(row(&explained, name)["source"], "dotenv", "{line}");
        }
        // Not every machine has the device that the guide is for.
        let serving = Serving::start(dir.path(), &model, &["--device", "cpu"]);
        let body = r#"{"prompt": "a", "max_tokens": 2}"#;
        assert_eq!(serving.request("POST", "/v1/completions", body).0, 200, "{block}");
    }
}

/// A tiny network as if it was trained for so many tokens, with a small vocabulary.
fn with_context(tiny: &Path, dir: &Path, context: usize) -> PathBuf {
    let model = dir.join("tiny");
    std::fs::create_dir(&model).unwrap();
    std::fs::copy(tiny.join("model.safetensors"), model.join("model.safetensors")).unwrap();
    let vocabulary = concat!(env!("CARGO_MANIFEST_DIR"), "/../tokenizer/tests/golden/hf/unigram/tokenizer.json");
    std::fs::copy(vocabulary, model.join("tokenizer.json")).unwrap();
    let mut config: Value = serde_json::from_slice(&std::fs::read(tiny.join("config.json")).unwrap()).unwrap();
    config["max_position_embeddings"] = context.into();
    std::fs::write(model.join("config.json"), config.to_string()).unwrap();
    model
}
