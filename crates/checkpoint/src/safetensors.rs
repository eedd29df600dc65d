//! safetensors files: a u64 header length, a JSON header, data. The `safetensors` crate parses the header; sizes,
//! duplicates and extents are checked here as well.

use ::safetensors::{Dtype, SafeTensors};
use serde::de::IgnoredAny;
use tensor::Format;

use crate::error::{capped, quoted};
use crate::json::{self, Caps, UniqueMap};
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
    let header = header(file)?;
    let names: UniqueMap<String, IgnoredAny> = json::parse(header, HEADER_CAPS).map_err(|f| f.within("header"))?;
    let count = names.0.keys().filter(|name| *name != METADATA_KEY).count();
    capped("number of tensors", count as u64, limits::TENSORS)?;

    let (_, metadata) = SafeTensors::read_metadata(file)
        .map_err(|fault| CheckpointError::invalid("header", format!("faulty ({fault})"), "consistent"))?;
    let data_start = (LENGTH_BYTES + header.len()) as u64;
    let mut tensors = Vec::with_capacity(count);
    for name in metadata.offset_keys() {
        let info = metadata.info(&name).expect("the name comes from the same header");
        let extent = extent(info.dtype, &info.shape, info.data_offsets, data_start, file.len())
            .map_err(|fault| fault.within(format!("tensor {}", quoted(&name))))?;
        tensors.push((name, extent));
    }
    Ok(tensors)
}

fn header(file: &[u8]) -> Result<&[u8], CheckpointError> {
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

fn extent(
    dtype: Dtype,
    shape: &[usize],
    (start, end): (usize, usize),
    data_start: u64,
    file_bytes: usize,
) -> Result<Extent, CheckpointError> {
    let format = match dtype {
        Dtype::F32 => Format::F32,
        Dtype::F16 => Format::F16,
        Dtype::BF16 => Format::BF16,
        other => {
            let (what, value) = ("type".to_owned(), format!("{other:?}"));
            return Err(CheckpointError::Unsupported { what, value, supported: "F32, F16, BF16".to_owned() });
        }
    };
    capped("number of dimensions", shape.len() as u64, limits::SAFETENSORS_DIMS)?;
    // A scalar is a vector of one value.
    let shape = if shape.is_empty() { vec![1] } else { shape.to_vec() };
    let start_in_file = data_start.checked_add(start as u64).ok_or_else(|| {
        CheckpointError::invalid("start offset", start, format!("inside the file of {file_bytes} bytes"))
    })?;
    let extent = Extent::new(shape, format, start_in_file, file_bytes)?;
    if end.checked_sub(start) != Some(extent.range().len()) {
        let wanted = format!("{} bytes long", extent.range().len());
        return Err(CheckpointError::invalid("extent", format!("[{start}, {end})"), wanted));
    }
    Ok(extent)
}
