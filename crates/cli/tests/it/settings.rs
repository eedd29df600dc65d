//! Settings as users give them, seen through `config explain`.

use std::path::Path;

use serde_json::Value;

use crate::models::shared;
use crate::program::{error, frontier, stdout};

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

        if row["allowed"] != "any text" {
            let message = error(frontier(dir.path()).args(["config", "explain"]).env(name, "certainly/wrong"));
            for part in [name, "certainly/wrong", "environment", "allowed: ", row["allowed"].as_str().unwrap()] {
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
        }
    }
}

#[test]
fn several_mistakes_are_one_report() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join(".env"), "MISTRAL_MEMORY_FRACTION=2\nnonsense\n").unwrap();
    let message = error(frontier(dir.path()).args(["config", "explain", "--port", "-1"]));
    for part in ["3 settings are wrong", "MISTRAL_MEMORY_FRACTION=2 (.env, line 1)", ".env, line 2", "MISTRAL_PORT=-1"]
    {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

/// Every block of the tuning guide works as a `.env` file, unchanged.
#[test]
fn blocks_of_the_guide_work_as_env_files() {
    let Some(guide) = shared("seed-guide.md") else { return };
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
    }
}
