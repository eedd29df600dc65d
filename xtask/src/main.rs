//! Development commands: `cargo xtask gen` writes the generated documents, `cargo xtask ci` is what a change must pass.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

/// A generated file and the command of `frontier` that prints it.
const GENERATED: &[(&str, &[&str])] = &[
    ("docs/configuration.md", &["config", "document", "configuration"]),
    (".env.example", &["config", "document", "env"]),
    ("docs/metrics.md", &["config", "document", "metrics"]),
];

const USAGE: &str = "usage: cargo xtask gen [--check] | ci";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match arguments.as_slice() {
        ["gen"] => generate(false),
        ["gen", "--check"] => generate(true),
        ["ci"] => run("bash", &["scripts/test.sh"]),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes every generated file, or only says which are out of date.
fn generate(check: bool) -> Result<()> {
    let mut stale = Vec::new();
    for (path, arguments) in GENERATED {
        let text = frontier(arguments)?;
        let path_on_disk = root().join(path);
        if std::fs::read(&path_on_disk).is_ok_and(|current| current == text) {
            continue;
        }
        if check {
            stale.push(*path);
        } else {
            std::fs::write(&path_on_disk, text).with_context(|| path_on_disk.display().to_string())?;
            println!("wrote {path}");
        }
    }
    if !stale.is_empty() {
        bail!("out of date: {}; run `cargo xtask gen`", stale.join(", "));
    }
    Ok(())
}

/// Standard output of the built program, run where no `.env` of the developer reaches it.
fn frontier(arguments: &[&str]) -> Result<Vec<u8>> {
    let mut command = vec!["run", "--release", "--quiet", "-p", "cli", "--"];
    command.extend(arguments);
    let output = Command::new(env!("CARGO")).current_dir(root()).args(&command).output()?;
    if !output.status.success() {
        bail!("`cargo {}` failed:\n{}", command.join(" "), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let status =
        Command::new(program).current_dir(root()).args(arguments).status().with_context(|| program.to_owned())?;
    if !status.success() {
        bail!("{program} {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_owned()
}
