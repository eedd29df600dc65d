//! safetensors files: a u64 header length, a JSON header, data. The `safetensors` crate says what an entry of the
//! header is; counts, names, sizes and extents are checked here.

use std::collections::{HashMap, HashSet};
use std::fmt;

use ::safetensors::Dtype;
use ::safetensors::tensor::TensorInfo;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use tensor::Format;

use crate::error::{capped, quoted};
use crate::json::{self, Caps};
use crate::tensor::Extent;
use crate::{CheckpointError, limits};

/// The header's length, in front of it.
const LENGTH_BYTES: usize = size_of::<u64>();
const HEADER_CAPS: Caps = Caps { size_bytes: limits::SAFETENSORS_HEADER_BYTES, values: limits::INDEX_VALUES };
/// The key of the header that is no tensor.
const METADATA_KEY: &str = "__metadata__";

/// Whether a file looks like safetensors: a JSON object where the header must be.
pub(crate) fn is_safetensors(file: &[u8]) -> bool {
    file.get(LENGTH_BYTES) == Some(&b'{')
}

/// The tensors of a file, in the order of their data.
pub(crate) fn read(file: &[u8]) -> Result<Vec<(String, Extent)>, CheckpointError> {
    let text = header_text(file)?;
    let Header(mut entries) = json::parse(text, HEADER_CAPS).map_err(|fault| fault.within("header"))?;
    capped("number of tensors", entries.len() as u64, limits::TENSORS)?;
    entries.sort_by_key(|(_, info)| info.data_offsets);

    let data_start = LENGTH_BYTES + text.len();
    let mut end = data_start;
    let mut tensors = Vec::with_capacity(entries.len());
    for (name, info) in entries {
        let extent = extent(&info, data_start, end, file.len())
            .map_err(|fault| fault.within(format!("tensor {}", quoted(&name))))?;
        end = extent.range().end;
        tensors.push((name, extent));
    }
    if end != file.len() {
        return Err(CheckpointError::invalid("bytes after the last tensor", file.len() - end, "0"));
    }
    Ok(tensors)
}

fn header_text(file: &[u8]) -> Result<&[u8], CheckpointError> {
    let truncated = |what: &str, needed_bytes, available: usize| CheckpointError::Truncated {
        what: what.to_owned(),
        needed_bytes,
        available_bytes: available as u64,
    };
    let (length, rest) =
        file.split_first_chunk().ok_or_else(|| truncated("header length", LENGTH_BYTES as u64, file.len()))?;
    let size_bytes = capped("header size in bytes", u64::from_le_bytes(*length), limits::SAFETENSORS_HEADER_BYTES)?;
    rest.get(..size_bytes as usize).ok_or_else(|| truncated("header", size_bytes, rest.len()))
}

/// Places a tensor. The format allows no holes: it begins at `begin`, where the one before it ends.
fn extent(info: &TensorInfo, data_start: usize, begin: usize, file_bytes: usize) -> Result<Extent, CheckpointError> {
    let format = match info.dtype {
        Dtype::F32 => Format::F32,
        Dtype::F16 => Format::F16,
        Dtype::BF16 => Format::BF16,
        other => {
            let (what, value) = ("type".to_owned(), format!("{other:?}"));
            return Err(CheckpointError::Unsupported { what, value, supported: "F32, F16, BF16".to_owned() });
        }
    };
    capped("number of dimensions", info.shape.len() as u64, limits::SAFETENSORS_DIMS)?;
    // A scalar is a vector of one value.
    let shape = if info.shape.is_empty() { vec![1] } else { info.shape.clone() };
    let extent = Extent::new(shape, format, begin as u64, file_bytes)?;

    let wanted = (extent.range().start - data_start, extent.range().end - data_start);
    if info.data_offsets != wanted {
        let (start, end) = info.data_offsets;
        let wanted = format!("[{}, {}) by its place and shape", wanted.0, wanted.1);
        return Err(CheckpointError::invalid("data_offsets", format!("[{start}, {end})"), wanted));
    }
    Ok(extent)
}

/// The header's tensors; no name twice.
struct Header(Vec<(String, TensorInfo)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Header, A::Error> {
        let mut names = HashSet::new();
        let mut tensors = Vec::new();
        while let Some(name) = access.next_key::<String>()? {
            let place = |fault: &dyn fmt::Display| A::Error::custom(format!("tensor {}: {fault}", quoted(&name)));
            if !names.insert(name.clone()) {
                return Err(place(&"occurs more than once"));
            }
            if name == METADATA_KEY {
                access.next_value::<Option<HashMap<String, String>>>()?;
                continue;
            }
            let info = access.next_value().map_err(|fault| place(&fault))?;
            tensors.push((name, info));
        }
        Ok(Header(tensors))
    }
}
