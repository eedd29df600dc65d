//! JSON from strangers: size, nesting and number of values are checked before anything is allocated for it.

use std::fmt;
use std::fs::File;
use std::hash::Hash;
use std::io::Read;
use std::marker::PhantomData;
use std::path::Path;

use indexmap::IndexMap;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error, MapAccess, Visitor};

use crate::error::{capped, faulty};
use crate::{CheckpointError, limits};

/// What a JSON text may ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caps {
    pub(crate) size_bytes: u64,
    pub(crate) values: u64,
}

/// Reads and parses the file at `path`. Errors carry the path.
pub(crate) fn read<T: DeserializeOwned>(path: &Path, caps: Caps) -> Result<T, CheckpointError> {
    let read = || {
        let status = std::fs::metadata(path)?;
        if !status.is_file() {
            return Err(CheckpointError::invalid("its kind", "not a regular file", "a regular file"));
        }
        capped("file size in bytes", status.len(), caps.size_bytes)?;
        let mut text = Vec::new();
        File::open(path)?.take(caps.size_bytes).read_to_end(&mut text)?;
        parse(&text, caps)
    };
    read().map_err(|fault| fault.in_file(path))
}

/// Parses a text.
pub(crate) fn parse<'a, T: Deserialize<'a>>(text: &'a [u8], caps: Caps) -> Result<T, CheckpointError> {
    capped("JSON text in bytes", text.len() as u64, caps.size_bytes)?;
    let (depth, values) = measure(text);
    capped("JSON nesting", depth, limits::JSON_DEPTH)?;
    capped("number of JSON values", values, caps.values)?;
    // The parser looks only into strings that are kept; a file that is half text is refused as a whole.
    let text = std::str::from_utf8(text).map_err(|fault| faulty("the JSON text", fault, "UTF-8"))?;
    serde_json::from_str(text).map_err(|fault| faulty("the JSON text", fault, "valid and of the expected form"))
}

/// Deepest nesting and an upper bound of the number of values, whether the text is valid or not.
fn measure(text: &[u8]) -> (u64, u64) {
    let (mut depth, mut deepest, mut values) = (0u64, 0, 1);
    let mut bytes = text.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'[' | b'{' => {
                depth += 1;
                deepest = deepest.max(depth);
                values += 1;
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' => values += 1,
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    (deepest, values)
}

/// Goes past the closing quote.
fn skip_string(bytes: &mut std::slice::Iter<'_, u8>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => {
                bytes.next();
            }
            _ => {}
        }
    }
}

/// A JSON object that refuses a key that occurs twice (serde's own maps keep the last one silently).
#[derive(Debug)]
pub(crate) struct UniqueMap<K, V>(pub(crate) IndexMap<K, V>);

impl<'de, K, V> Deserialize<'de> for UniqueMap<K, V>
where
    K: Deserialize<'de> + Hash + Eq + fmt::Debug,
    V: Deserialize<'de>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(UniqueMapVisitor(PhantomData))
    }
}

struct UniqueMapVisitor<K, V>(PhantomData<(K, V)>);

impl<'de, K, V> Visitor<'de> for UniqueMapVisitor<K, V>
where
    K: Deserialize<'de> + Hash + Eq + fmt::Debug,
    V: Deserialize<'de>,
{
    type Value = UniqueMap<K, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut map = IndexMap::new();
        while let Some(key) = access.next_key::<K>()? {
            if map.contains_key(&key) {
                return Err(A::Error::custom(format!("{key:?} occurs more than once")));
            }
            map.insert(key, access.next_value()?);
        }
        Ok(UniqueMap(map))
    }
}
