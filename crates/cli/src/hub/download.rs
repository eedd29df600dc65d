//! Pulls a model: chosen files, each resumed where an earlier pull stopped, checked, and only then given its name.
//!
//! A partial file is named after the hash of what it shall become, so that resuming never mixes two contents.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use super::client::{Hub, Stalling, status_text};
use super::listing::{Listing, RemoteFile};
use super::reference::{Reference, file_name};
use super::store::{Manifest, Store, StoredFile, StoredModel};
use crate::terminal::ByteBar;

/// Pulls what `reference` names into the store as `name`, unless it is there at the same commit.
pub(crate) fn pull(
    hub: &Hub,
    store: &Store,
    reference: &Reference,
    name: &str,
    max_file_bytes: u64,
) -> Result<StoredModel> {
    let url = hub.url(&format!("api/models/{}/revision/{}?blobs=true", reference.repo, reference.revision));
    let listing: Listing = hub.json(&url)?;
    if !super::reference::is_plain(&listing.sha) {
        bail!("{url}: the commit {:?} is not a plain name", listing.sha);
    }
    if let Some(stored) = store.find(name)?.filter(|stored| stored.manifest.name == name)
        && stored.manifest.revision == listing.sha
    {
        return Ok(stored);
    }
    let files = listing.choose(reference)?;
    for file in &files {
        let size_bytes = file.size_bytes()?;
        if size_bytes > max_file_bytes {
            bail!("{}: {size_bytes} bytes, at most {max_file_bytes} are pulled (MISTRAL_MAX_PULL_SIZE)", file.path);
        }
    }
    let dir = store.model_dir(name);
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    let mut arrived = Vec::new();
    for file in &files {
        let url = hub.url(&format!("{}/resolve/{}/{}", reference.repo, listing.sha, file.path));
        arrived.push(pull_file(hub, &url, file, &listing.sha, &dir)?);
    }
    // From the first rename to the new manifest the directory may hold files of two commits: it is no model then.
    store.withdraw(&dir)?;
    for Arrived { file, partial } in &arrived {
        if let Some(partial) = partial {
            let done = dir.join(&file.name);
            fs::rename(partial, &done).with_context(|| done.display().to_string())?;
        }
    }
    let origin = hub.url(&reference.repo);
    let files = arrived.into_iter().map(|arrived| arrived.file).collect();
    store.publish(&dir, Manifest { name: name.to_owned(), origin, revision: listing.sha, files })
}

/// A file whose bytes are all there.
struct Arrived {
    file: StoredFile,
    /// Where they are, unless under the file's own name already.
    partial: Option<PathBuf>,
}

/// Pulls one file into `dir`.
fn pull_file(hub: &Hub, url: &str, remote: &RemoteFile, commit: &str, dir: &Path) -> Result<Arrived> {
    let (name, size_bytes) = (file_name(&remote.path)?, remote.size_bytes()?);
    let expected = remote.sha256();
    let done = dir.join(name);
    if let Some(expected) = &expected
        && fs::metadata(&done).is_ok_and(|found| found.len() == size_bytes)
        && sha256_file(&done)? == *expected
    {
        let file = StoredFile { name: name.to_owned(), size_bytes, sha256: expected.clone() };
        return Ok(Arrived { file, partial: None });
    }
    let identity = expected.clone().unwrap_or_else(|| format!("{commit}-{name}"));
    let partial = dir.join(format!(".{identity}.part"));
    let sha256 = match fetch(hub, url, name, size_bytes, &partial) {
        Ok(sha256) if expected.as_ref().is_none_or(|expected| *expected == sha256) => sha256,
        Ok(sha256) => {
            fs::remove_file(&partial).ok();
            bail!("{url}: wrong content: sha256 {sha256}, expected {}", expected.unwrap_or_default());
        }
        Err(error) => return Err(error),
    };
    Ok(Arrived { file: StoredFile { name: name.to_owned(), size_bytes, sha256 }, partial: Some(partial) })
}

/// Brings `partial` to `size_bytes` and returns its hash. What arrived before a failure stays, to go on from there.
fn fetch(hub: &Hub, url: &str, name: &str, size_bytes: u64, partial: &Path) -> Result<String> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(partial)?;
    if file.try_lock().is_err() {
        bail!("{}: another process is pulling this file", partial.display());
    }
    let mut have = file.metadata()?.len();
    if have > size_bytes {
        file.set_len(0)?;
        have = 0;
    }
    let bar = ByteBar::new(name, size_bytes);
    let mut hash = Sha256::new();
    if have > 0 {
        std::io::copy(&mut (&mut file).take(have), &mut HashWriter(&mut hash))?;
        bar.advance(have);
    }
    if have < size_bytes {
        let response = hub.get(url, have)?;
        match (response.status().as_u16(), have) {
            (200, 0) => {}
            (206, _) if have > 0 && range_start(&response) == Some(have) => {}
            // A server that does not resume sends everything.
            (200, _) => {
                file.set_len(0)?;
                hash = Sha256::new();
                have = 0;
                bar.restart();
            }
            (status, _) => bail!("{url}: the hub answers {}", status_text(status)),
        }
        if let Some(length) = content_length(&response)
            && length != size_bytes - have
        {
            bail!("{url}: {length} bytes are announced, {} expected", size_bytes - have);
        }
        file.seek(SeekFrom::Start(have))?;
        let mut body = Stalling::new(response.into_body().into_reader(), hub.timeout);
        while let Some(chunk) = body.next().with_context(|| format!("{url}: after {have} of {size_bytes} bytes"))? {
            have += chunk.len() as u64;
            if have > size_bytes {
                file.set_len(0)?;
                bail!("{url}: longer than the {size_bytes} bytes that the hub told");
            }
            hash.update(&chunk);
            file.write_all(&chunk).with_context(|| partial.display().to_string())?;
            bar.advance(chunk.len() as u64);
        }
        if have < size_bytes {
            bail!("{url}: ended after {have} of {size_bytes} bytes; pull again to go on from there");
        }
        file.sync_all()?;
    }
    bar.finish();
    Ok(hex(&hash.finalize()))
}

fn content_length<B>(response: &ureq::http::Response<B>) -> Option<u64> {
    response.headers().get("content-length")?.to_str().ok()?.parse().ok()
}

/// The first byte of a partial answer: `bytes 100-199/200`.
fn range_start<B>(response: &ureq::http::Response<B>) -> Option<u64> {
    let range = response.headers().get("content-range")?.to_str().ok()?;
    range.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// The hash of a file, in lower-case hex.
pub(crate) fn sha256_file(path: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    std::io::copy(&mut file, &mut HashWriter(&mut hash)).with_context(|| path.display().to_string())?;
    Ok(hex(&hash.finalize()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

struct HashWriter<'a>(&'a mut Sha256);

impl Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
