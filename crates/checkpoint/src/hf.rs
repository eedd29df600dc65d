//! Hugging Face directories: `config.json` with `model.safetensors`, or with shards that an index lists.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::Value;

use crate::checkpoint::{Checkpoint, Tensors};
use crate::error::{capped, quoted};
use crate::json::{self, Caps, UniqueMap};
use crate::mmap::Mapping;
use crate::{CheckpointError, Description, limits, safetensors};

const CONFIG: &str = "config.json";
const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const CONFIG_CAPS: Caps = Caps { size_bytes: limits::CONFIG_BYTES, values: limits::CONFIG_VALUES };
const INDEX_CAPS: Caps = Caps { size_bytes: limits::INDEX_BYTES, values: limits::INDEX_VALUES };

/// A parsed `config.json`.
#[derive(Clone, Debug, PartialEq)]
pub struct HfConfig {
    /// All of it: an object.
    pub json: Value,
    /// The directory that it lies in, where tokenizer and generation settings lie too.
    pub dir: PathBuf,
}

/// Typed getters: `Ok(None)` when the key is absent or null, an error that names key, found and wanted when it holds
/// another type. A key that is not at the top is looked for in `text_config`, where models with vision keep the sizes
/// of their language model.
impl HfConfig {
    /// The value of a key, whatever its type; `None` for null.
    pub fn get(&self, key: &str) -> Option<&Value> {
        let present = |json: &'_ Value| json.get(key).is_some_and(|value| !value.is_null());
        let holder = [Some(&self.json), self.json.get("text_config")].into_iter().flatten().find(|json| present(json));
        holder?.get(key)
    }

    /// A string.
    pub fn str(&self, key: &str) -> Result<Option<&str>, CheckpointError> {
        self.typed(key, "a string", Value::as_str)
    }

    /// An integer in `[0, 2^32)`.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        self.typed(key, "an integer in [0, 2^32)", |value| value.as_u64()?.try_into().ok())
    }

    /// An integer in `[0, 2^64)`.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, CheckpointError> {
        self.typed(key, "an integer in [0, 2^64)", Value::as_u64)
    }

    /// A number.
    pub fn f32(&self, key: &str) -> Result<Option<f32>, CheckpointError> {
        self.typed(key, "a number", |value| value.as_f64().map(|number| number as f32))
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        self.typed(key, "a bool", Value::as_bool)
    }

    /// An array of strings.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, CheckpointError> {
        self.typed(key, "an array of strings", |value| value.as_array()?.iter().map(Value::as_str).collect())
    }

    fn read(dir: &Path) -> Result<HfConfig, CheckpointError> {
        let path = dir.join(CONFIG);
        let json: Value = json::read(&path, CONFIG_CAPS)?;
        if !json.is_object() {
            return Err(CheckpointError::invalid("its content", "no object", "a JSON object").in_file(&path));
        }
        Ok(HfConfig { json, dir: dir.to_owned() })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        wanted: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match convert(value) {
            Some(converted) => Ok(Some(converted)),
            None => {
                let found = match value {
                    Value::Object(_) => "an object".to_owned(),
                    Value::Array(elements) => format!("an array of {}", elements.len()),
                    Value::String(text) => format!("string {}", quoted(text)),
                    other => other.to_string(),
                };
                Err(CheckpointError::WrongType { key: key.to_owned(), found, wanted: wanted.to_owned() })
            }
        }
    }
}

/// Opens a directory. Like Hugging Face's own loader it prefers the single file to the index.
pub(crate) fn open_directory(dir: &Path) -> Result<Checkpoint, CheckpointError> {
    let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
    if !single.exists() && !index.exists() {
        let what = format!("{SINGLE} or {INDEX}");
        return Err(CheckpointError::missing(what).in_file(dir));
    }
    let config = HfConfig::read(dir)?;
    let tensors = if single.exists() {
        single_file(&single, Mapping::open(&single)?)?
    } else {
        Index::read(&index)?.gather(dir).map_err(|fault| fault.in_file(&index))?
    };
    Ok(Checkpoint::new(dir, Description::HuggingFace(config), tensors))
}

/// Opens one safetensors file, already mapped, with the `config.json` beside it.
pub(crate) fn open_file(path: &Path, mapping: Mapping) -> Result<Checkpoint, CheckpointError> {
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    let config = HfConfig::read(dir)?;
    Ok(Checkpoint::new(path, Description::HuggingFace(config), single_file(path, mapping)?))
}

fn single_file(path: &Path, mapping: Mapping) -> Result<Tensors, CheckpointError> {
    let read = || {
        let found = safetensors::read(mapping.bytes())?;
        let mut tensors = Tensors::default();
        tensors.add(mapping, found)?;
        Ok(tensors)
    };
    read().map_err(|fault: CheckpointError| fault.in_file(path))
}

/// `model.safetensors.index.json`: the shard that holds each tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: UniqueMap<String, String>,
}

impl Index {
    fn read(path: &Path) -> Result<Index, CheckpointError> {
        json::read(path, INDEX_CAPS)
    }

    /// The tensors of all shards. A tensor counts only in the shard that the index gives for it.
    fn gather(self, dir: &Path) -> Result<Tensors, CheckpointError> {
        let shards: BTreeSet<&str> = self.weight_map.0.values().map(String::as_str).collect();
        capped("number of shards", shards.len() as u64, limits::PARTS)?;
        for shard in &shards {
            check_shard_name(shard)?;
        }
        let mut tensors = Tensors::default();
        for shard in shards {
            let mapping = Mapping::open(&dir.join(shard))?;
            let found = safetensors::read(mapping.bytes()).map_err(|fault| fault.within(format!("shard {shard}")))?;
            let own = found.into_iter().filter(|(name, _)| self.shard_of(name) == Some(shard));
            tensors.add(mapping, own)?;
        }
        match self.weight_map.0.iter().find(|(name, _)| tensors.get(name).is_none()) {
            None => Ok(tensors),
            Some((name, shard)) => {
                Err(CheckpointError::missing(format!("tensor {} of the index", quoted(name))).within(shard.as_str()))
            }
        }
    }

    fn shard_of(&self, tensor: &str) -> Option<&str> {
        let map: &IndexMap<String, String> = &self.weight_map.0;
        map.get(tensor).map(String::as_str)
    }
}

/// A shard lies in the directory itself: its name is one plain component.
fn check_shard_name(shard: &str) -> Result<(), CheckpointError> {
    let mut components = Path::new(shard).components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(_)), None));
    if !plain
        || !shard.ends_with(".safetensors")
        || shard.contains(['/', '\\', ':'])
        || shard.contains(char::is_control)
    {
        let wanted = "the name of a .safetensors file in the same directory";
        return Err(CheckpointError::invalid("shard", quoted(shard), wanted));
    }
    Ok(())
}
