//! What a repository holds, as the hub's API tells it, and which of its files make the wanted model.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::reference::{Reference, Wanted, file_name};

/// A repository at one commit.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    /// The commit.
    pub(crate) sha: String,
    #[serde(rename = "siblings")]
    pub(crate) files: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RemoteFile {
    #[serde(rename = "rfilename")]
    pub(crate) path: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<Lfs>,
}

#[derive(Clone, Debug, Deserialize)]
struct Lfs {
    #[serde(default)]
    sha256: Option<String>,
    #[serde(default)]
    size: Option<u64>,
}

impl RemoteFile {
    /// Its length. A file whose length the hub does not tell is not pulled.
    pub(crate) fn size_bytes(&self) -> Result<u64> {
        let size = self.lfs.as_ref().and_then(|lfs| lfs.size).or(self.size);
        size.with_context(|| format!("{}: the hub does not tell its size", self.path))
    }

    /// Its hash in lower case, where the hub tells it (files kept in LFS: all weights).
    pub(crate) fn sha256(&self) -> Option<String> {
        self.lfs.as_ref().and_then(|lfs| lfs.sha256.as_ref()).map(|hash| hash.to_ascii_lowercase())
    }
}

/// Without a wish, the first of these that a repository has: small with little loss first.
const PREFERRED: &[&str] = &["q4_k_m", "q5_k_m", "q4_k_s", "q8_0", "q4_0", "q4_1", "f16", "bf16"];

/// Small files that describe a safetensors model.
const COMPANIONS: &[&str] = &[
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "model.safetensors.index.json",
];

impl Listing {
    /// The files of the wanted model: one GGUF with all its parts, or the safetensors with what describes them.
    pub(crate) fn choose(&self, reference: &Reference) -> Result<Vec<RemoteFile>> {
        let ggufs: Vec<&RemoteFile> = self.files.iter().filter(|file| file.path.ends_with(".gguf")).collect();
        let chosen = match &reference.wanted {
            Wanted::File(path) => {
                let file = self.files.iter().find(|file| file.path == *path);
                let file = file.with_context(|| format!("{} has no file {path}", reference.repo))?;
                match part_stem(path) {
                    Some(stem) => ggufs.iter().copied().filter(|file| part_stem(&file.path) == Some(stem)).collect(),
                    None => vec![file],
                }
            }
            Wanted::Quant(quant) => quant_files(&ggufs, quant),
            Wanted::Any if ggufs.is_empty() => self.safetensors(),
            Wanted::Any if ggufs.len() == 1 => ggufs.clone(),
            Wanted::Any => PREFERRED
                .iter()
                .map(|quant| quant_files(&ggufs, quant))
                .find(|found| !found.is_empty())
                .unwrap_or_default(),
        };
        if chosen.is_empty() {
            let names: Vec<&str> = ggufs.iter().take(20).map(|file| file.path.as_str()).collect();
            let have = if names.is_empty() { "no GGUF and no safetensors".to_owned() } else { names.join(", ") };
            bail!("{}: nothing matches; the repository has {have}", reference.stored_name());
        }
        let mut names: Vec<&str> = chosen.iter().map(|file| file_name(&file.path)).collect::<Result<_>>()?;
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            bail!("{}: two of its files have the same name", reference.stored_name());
        }
        Ok(chosen.into_iter().cloned().collect())
    }

    fn safetensors(&self) -> Vec<&RemoteFile> {
        let is_weights = |file: &RemoteFile| file.path.ends_with(".safetensors") && !file.path.contains('/');
        // Beside `model*.safetensors` some repositories hold the same weights for another program.
        let is_named = |file: &RemoteFile| is_weights(file) && file.path.starts_with("model");
        let any_named = self.files.iter().any(is_named);
        let wanted = |file: &&RemoteFile| {
            let weights = if any_named { is_named(file) } else { is_weights(file) };
            weights || COMPANIONS.contains(&file.path.as_str())
        };
        let files: Vec<&RemoteFile> = self.files.iter().filter(wanted).collect();
        let has = |suffix: &str| files.iter().any(|file| file.path.ends_with(suffix));
        if has(".safetensors") && has("config.json") { files } else { Vec::new() }
    }
}

/// The GGUF whose name contains `quant` as a whole word, with all its parts.
fn quant_files<'a>(ggufs: &[&'a RemoteFile], quant: &str) -> Vec<&'a RemoteFile> {
    let quant = quant.to_ascii_lowercase();
    let is_word = |path: &str| {
        let path = path.to_ascii_lowercase();
        path.match_indices(&quant).any(|(at, _)| {
            let before = path[..at].chars().next_back();
            let after = path[at + quant.len()..].chars().next();
            let ends = |c: Option<char>| c.is_none_or(|c| !c.is_ascii_alphanumeric() && c != '_');
            ends(before) && ends(after)
        })
    };
    let matching: Vec<&RemoteFile> = ggufs.iter().copied().filter(|file| is_word(&file.path)).collect();
    match matching.first() {
        Some(first) => match part_stem(&first.path) {
            Some(stem) => matching.into_iter().filter(|file| part_stem(&file.path) == Some(stem)).collect(),
            None => vec![*first],
        },
        None => Vec::new(),
    }
}

/// The path of a part of a split GGUF without `-00001-of-00003.gguf`.
fn part_stem(path: &str) -> Option<&str> {
    let (front, total) = path.strip_suffix(".gguf")?.rsplit_once("-of-")?;
    let (stem, part) = front.rsplit_once('-')?;
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    (is_number(part) && is_number(total)).then_some(stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(files: &[&str], name: &str) -> Option<Vec<String>> {
        let remote = |path: &&str| RemoteFile { path: (*path).to_owned(), size: Some(1), lfs: None };
        let listing = Listing { sha: "0".into(), files: files.iter().map(remote).collect() };
        let chosen = listing.choose(&Reference::parse(name).unwrap()).ok()?;
        Some(chosen.into_iter().map(|file| file.path).collect())
    }

    #[test]
    fn a_wish_picks_one_gguf_with_all_its_parts() {
        let files =
            ["m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m.Q8_0-00001-of-00002.gguf", "m.Q8_0-00002-of-00002.gguf", "README.md"];
        for (name, expected) in [
            ("a/b", Some(vec!["m-Q4_K_M.gguf"])),
            ("a/b:q4_k_s", Some(vec!["m-Q4_K_S.gguf"])),
            ("a/b:Q8_0", Some(vec!["m.Q8_0-00001-of-00002.gguf", "m.Q8_0-00002-of-00002.gguf"])),
            ("a/b/m-Q4_K_S.gguf", Some(vec!["m-Q4_K_S.gguf"])),
            ("a/b/m.Q8_0-00002-of-00002.gguf", Some(vec!["m.Q8_0-00001-of-00002.gguf", "m.Q8_0-00002-of-00002.gguf"])),
            ("a/b:q4_k", None),
            ("a/b:q2_k", None),
            ("a/b/none.gguf", None),
        ] {
            let expected = expected.map(|names| names.into_iter().map(str::to_owned).collect());
            assert_eq!(choose(&files, name), expected, "{name}");
        }
    }

    #[test]
    fn without_gguf_the_safetensors_come_with_what_describes_them() {
        let files = ["config.json", "model.safetensors", "tokenizer.json", "README.md", "onnx/model.onnx"];
        assert_eq!(choose(&files, "a/b").unwrap(), ["config.json", "model.safetensors", "tokenizer.json"]);
        assert_eq!(choose(&["model.safetensors"], "a/b"), None);
        let twice = ["config.json", "consolidated.safetensors", "model.safetensors", "x/model.safetensors"];
        assert_eq!(choose(&twice, "a/b").unwrap(), ["config.json", "model.safetensors"]);
        let other_name = ["config.json", "weights.safetensors"];
        assert_eq!(choose(&other_name, "a/b").unwrap(), other_name);
    }

    #[test]
    fn paths_that_leave_the_repository_are_refused() {
        for path in ["../x-q4_k_m.gguf", "/etc/x-q4_k_m.gguf", "a/../x-q4_k_m.gguf", "x\\q4_k_m.gguf"] {
            assert_eq!(choose(&[path, "other.gguf"], "a/b:q4_k_m"), None, "{path}");
        }
    }
}
