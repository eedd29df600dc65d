//! Forms of standard output that several commands share.

use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};

/// Prints text. Unlike `print!` it reports a closed pipe as an error, which ends the command quietly.
pub(crate) fn print_text(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Prints pretty JSON and a newline.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Prints compact JSON and a newline.
pub(crate) fn print_json_line(value: &impl serde::Serialize) -> Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, value)?;
    writeln!(out)?;
    Ok(())
}

/// Refuses to write over a file unless that is asked for, and over one that is being read at all.
pub(crate) fn check_output(path: &Path, force: bool, inputs: &[&Path]) -> Result<()> {
    if let Some(input) = inputs.iter().find(|input| is_same_file(path, input)) {
        bail!("{}: this file is read ({}); write to another one", path.display(), input.display());
    }
    if path.is_dir() {
        bail!("{}: a directory, not the name of a file to write", path.display());
    }
    if path.exists() && !force {
        bail!("{} exists; pass --force to replace it", path.display());
    }
    Ok(())
}

/// Whether two paths lead to one file, by whatever links.
fn is_same_file(a: &Path, b: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let id = |path: &Path| std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()));
    id(a).is_some_and(|found| id(b) == Some(found))
}

/// Bytes with three digits for people: `98.4 MB`.
pub(crate) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let power = (bytes.max(1).ilog10() / 3).min(4);
    let value = bytes as f64 / 1000_f64.powi(power as i32);
    let digits = if power == 0 || value >= 100.0 { 0 } else { 1 };
    format!("{value:.digits$} {}", UNITS[power as usize])
}

#[cfg(test)]
mod tests {
    use super::{check_output, human_bytes};

    #[test]
    fn outputs_are_new_files_or_forced_and_never_inputs() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("in"), "").unwrap();
        std::fs::write(path("old"), "").unwrap();
        std::fs::hard_link(path("in"), path("link")).unwrap();
        let told = |name: &str, force: bool| {
            check_output(&path(name), force, &[&path("in")]).err().map(|error| error.to_string()).unwrap_or_default()
        };
        assert_eq!([told("new", false), told("old", true)], ["", ""]);
        assert!(told("old", false).contains("--force"));
        for name in ["in", "link"] {
            assert!(told(name, true).contains("is read"), "{name}");
        }
        assert!(check_output(dir.path(), true, &[]).is_err());
    }

    #[test]
    fn bytes_read_well() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_362_432, "98.4 MB"), (253_000_000_000, "253 GB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
