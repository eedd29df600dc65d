//! Runs the binary away from the developer's own settings and models.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

/// The binary with a clean environment, in `dir`.
pub(crate) fn frontier(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frontier"));
    command.current_dir(dir).env_clear().env("HOME", dir).env("PATH", std::env::var_os("PATH").unwrap_or_default());
    // Mesa's Vulkan layer that asks the display for the favourite GPU complains on standard error where there is none.
    command.env("NODEVICE_SELECT", "1");
    command
}

/// Standard output of a run that must succeed.
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = command.output().expect("the binary starts");
    assert!(output.status.success(), "{command:?}\n{}", text(&output.stderr));
    text(&output.stdout)
}

/// The one-line error of a run that must fail: a line that starts with `error: `, exit code 1, nothing that looks like
/// a panic.
pub(crate) fn error(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.output().expect("the binary starts");
    let stderr = text(&stderr);
    assert_eq!(status.code(), Some(1), "{command:?}\n{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    let at = stderr.find("error: ").unwrap_or_else(|| panic!("no error line in {stderr:?}"));
    stderr[at..].to_owned()
}

/// As [`error`], and the error is all that was printed: one line.
pub(crate) fn one_line_error(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().expect("the binary starts");
    let (stdout, stderr) = (text(&stdout), text(&stderr));
    assert!(matches!(status.code(), Some(1 | 2)), "{command:?}\n{status}\n{stderr}");
    assert!(stdout.is_empty(), "{command:?}\n{stdout}");
    assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{command:?}\n{stderr}");
    stderr
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Waits until something is so.
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(30), "never: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
