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
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty());
    if let Some(dir) = dir.filter(|dir| !dir.is_dir()) {
        bail!("{}: there is no directory {}", path.display(), dir.display());
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
    with_more_digits(bytes, 0)
}

/// Two sizes for people, of which one exceeds the other: with as many digits as it takes to see that.
pub(crate) fn human_bytes_apart(sizes: [u64; 2]) -> [String; 2] {
    let most = if sizes[0] == sizes[1] { 0 } else { MOST_DIGITS };
    let shown = |more: usize| sizes.map(|bytes| with_more_digits(bytes, more));
    (0..most).map(shown).find(|[one, other]| one != other).unwrap_or_else(|| shown(most))
}

/// Digits behind the point with which a byte is seen in a terabyte.
const MOST_DIGITS: usize = 12;

fn with_more_digits(bytes: u64, more: usize) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let power = (bytes.max(1).ilog10() / 3).min(4);
    let value = bytes as f64 / 1000_f64.powi(power as i32);
    let digits = if power == 0 { 0 } else { usize::from(value < 100.0) + more };
    format!("{value:.digits$} {}", UNITS[power as usize])
}

#[cfg(test)]
mod tests {
    use super::{check_output, human_bytes, human_bytes_apart};

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
        assert!(told("none/new", false).contains("there is no directory"));
    }

    #[test]
    fn bytes_read_well() {
        for (bytes, text) in
            [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (98_362_432, "98.4 MB"), (253_000_000_000, "253 GB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn sizes_that_differ_are_seen_to_differ() {
        for (sizes, texts) in [
            ([300_000_000, 200_000_000], ["300 MB", "200 MB"]),
            ([213_400_001, 213_300_000], ["213.4 MB", "213.3 MB"]),
            ([1_040_000_000, 1_000_000_001], ["1.04 GB", "1.00 GB"]),
            ([4_000_000_000_001, 4_000_000_000_000], ["4.000000000001 TB", "4.000000000000 TB"]),
            ([999, 998], ["999 B", "998 B"]),
            ([7_000_000, 7_000_000], ["7.0 MB", "7.0 MB"]),
        ] {
            assert_eq!(human_bytes_apart(sizes), texts);
        }
    }
}
