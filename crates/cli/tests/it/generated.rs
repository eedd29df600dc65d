//! Generated documents are those of the table.

use std::path::Path;

use crate::program::{frontier, stdout};

#[test]
fn generated_documents_are_current() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = tempfile::tempdir().unwrap();
    for (file, document) in
        [("docs/configuration.md", "configuration"), (".env.example", "env"), ("docs/metrics.md", "metrics")]
    {
        let expected = stdout(frontier(dir.path()).args(["config", "document", document]));
        let committed = std::fs::read_to_string(root.join(file)).unwrap();
        assert!(committed == expected, "{file} is out of date; run `cargo xtask gen`");
    }
}

#[test]
fn the_example_file_is_accepted_as_it_is_and_with_every_line_set() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let example = std::fs::read_to_string(root.join(".env.example")).unwrap();
    let all_set: String =
        example.lines().map(|line| format!("{}\n", line.replacen("# MISTRAL_", "MISTRAL_", 1))).collect();
    for text in [example, all_set] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".env"), text).unwrap();
        stdout(frontier(dir.path()).args(["config", "explain", "--strict"]));
    }
}
