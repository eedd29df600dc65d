//! Names of models on a hub: `org/repo`, `org/repo:quant`, `org/repo/file.gguf`, each with an optional `@revision`.

use anyhow::{Result, bail};

/// Longest part of a name. Hubs allow 96.
const MAX_PART: usize = 96;

/// A parsed name.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reference {
    /// `org/repo`.
    pub(crate) repo: String,
    /// Branch, tag or commit; `main` when not given.
    pub(crate) revision: String,
    pub(crate) wanted: Wanted,
}

/// Which of a repository's files are wanted.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wanted {
    /// The best for most: a GGUF of medium size, else the safetensors.
    Any,
    /// The GGUF whose name contains this.
    Quant(String),
    /// This file.
    File(String),
}

impl Reference {
    /// Reads a name. Anything that could leave the store's directory is refused here.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let wrong = |why: &str| anyhow::anyhow!("model name {name:?}: {why}; expected org/repo[@revision][:quant]");
        let (rest, quant) = match name.rsplit_once(':') {
            Some((rest, quant)) => (rest, Some(quant)),
            None => (name, None),
        };
        let (path, revision) = rest.split_once('@').unwrap_or((rest, "main"));
        let parts: Vec<&str> = path.split('/').collect();
        if parts.len() < 2 {
            return Err(wrong("no organisation"));
        }
        if let Some(bad) = parts.iter().copied().chain([revision]).chain(quant).find(|part| !is_plain(part)) {
            return Err(wrong(&format!(
                "{bad:?} is no valid part of a name (letters, digits, `.`, `_`, `-`, at most {MAX_PART})"
            )));
        }
        if parts[1].ends_with(".gguf") || parts[1].ends_with(".safetensors") {
            return Err(wrong("a file and no repository"));
        }
        let file = parts[2..].join("/");
        let wanted = match (quant, file.is_empty()) {
            (None, true) => Wanted::Any,
            (Some(quant), true) => Wanted::Quant(quant.to_owned()),
            (None, false) => Wanted::File(file),
            (Some(_), false) => return Err(wrong("both a file and a quant")),
        };
        Ok(Self { repo: format!("{}/{}", parts[0], parts[1]), revision: revision.to_owned(), wanted })
    }

    /// The name under which the model is stored. The revision is not part of it: a newer one takes the place.
    pub(crate) fn stored_name(&self) -> String {
        match &self.wanted {
            Wanted::Any => self.repo.clone(),
            Wanted::Quant(quant) => format!("{}:{quant}", self.repo),
            Wanted::File(file) => format!("{}/{file}", self.repo),
        }
    }
}

/// True for a name that is one plain path component: no separators, no dots in front, no controls.
pub(crate) fn is_plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    !part.is_empty() && part.len() <= MAX_PART && !part.starts_with('.') && part.chars().all(allowed)
}

/// The last component of a file's path inside a repository, when the whole path is safe.
pub(crate) fn file_name(path: &str) -> Result<&str> {
    if path.split('/').any(|part| !is_plain(part)) {
        bail!("file name {path:?} in the repository is not a plain path");
    }
    Ok(path.rsplit('/').next().expect("split yields at least one part"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_repo_revision_and_quant_or_file() {
        for (name, repo, revision, wanted) in [
            ("a/b", "a/b", "main", Wanted::Any),
            ("a/b:Q4_K_M", "a/b", "main", Wanted::Quant("Q4_K_M".into())),
            ("a/b@v1.0:q8_0", "a/b", "v1.0", Wanted::Quant("q8_0".into())),
            ("a/b/x.gguf", "a/b", "main", Wanted::File("x.gguf".into())),
            ("a/b/dir/x.gguf", "a/b", "main", Wanted::File("dir/x.gguf".into())),
        ] {
            let got = Reference::parse(name).unwrap();
            assert_eq!(got, Reference { repo: repo.into(), revision: revision.into(), wanted }, "{name}");
        }
    }

    #[test]
    fn names_that_could_leave_the_store_are_refused() {
        let long = format!("a/{}", "b".repeat(97));
        for name in [
            "",
            "a",
            "/",
            "a/",
            "/b",
            "../b",
            "a/..",
            "a/../c",
            "a/b/../../c",
            "a\\b/c",
            "a/b\0",
            "a/b%2e",
            "a/.b",
            "a/b:",
            "a/b@",
            "a/b@../x",
            "a/b:x/y",
            "a/b/c.gguf:q4",
            "models/c.gguf",
            "models/c.safetensors",
            &long,
        ] {
            assert!(Reference::parse(name).is_err(), "{name:?}");
        }
    }
}
