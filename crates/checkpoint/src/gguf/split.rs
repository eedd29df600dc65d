//! A model in several GGUF files: `name-00001-of-00003.gguf` and so on. The first part holds the metadata.

use std::path::{Path, PathBuf};

use super::{Metadata, Part};
use crate::checkpoint::Tensors;
use crate::error::{capped, quoted};
use crate::{CheckpointError, limits};

/// Number of this part, from 0.
const NUMBER_KEY: &str = "split.no";
/// Number of parts; absent or at most 1 in a file that stands alone.
const COUNT_KEY: &str = "split.count";
/// Number of tensors over all parts.
const TENSORS_KEY: &str = "split.tensors.count";

/// Metadata and tensors of the model that `part`, the file at `path`, is all or one part of.
pub(super) fn gather(path: &Path, part: Part) -> Result<(Metadata, Tensors), CheckpointError> {
    let count = part.metadata.u64(COUNT_KEY).map_err(|fault| fault.in_file(path))?.unwrap_or(1);
    if count <= 1 {
        let mut tensors = Tensors::default();
        tensors.add(part.mapping, part.tensors).map_err(|fault| fault.in_file(path))?;
        return Ok((part.metadata, tensors));
    }
    capped(COUNT_KEY, count, limits::PARTS).map_err(|fault| fault.in_file(path))?;
    let own_number = part_number(&part.metadata, count).map_err(|fault| fault.in_file(path))?;
    let paths = sibling_paths(path, own_number, count).map_err(|fault| fault.in_file(path))?;

    let mut tensors = Tensors::default();
    let mut own = Some(part);
    let mut first_metadata = None;
    for (number, path) in (0..).zip(&paths) {
        let part = match own.take_if(|_| number == own_number) {
            Some(part) => part,
            None => open_sibling(path, number, count)?,
        };
        tensors.add(part.mapping, part.tensors).map_err(|fault| fault.in_file(path))?;
        first_metadata.get_or_insert(part.metadata);
    }
    let metadata = first_metadata.expect("a split set has at least two parts");
    check_tensor_count(&metadata, tensors.len()).map_err(|fault| fault.in_file(&paths[0]))?;
    Ok((metadata, tensors))
}

fn part_number(metadata: &Metadata, count: u64) -> Result<u64, CheckpointError> {
    let number = metadata.u64(NUMBER_KEY)?.ok_or_else(|| CheckpointError::missing(format!("key {NUMBER_KEY:?}")))?;
    if number >= count {
        return Err(CheckpointError::invalid(NUMBER_KEY, number, format!("below {count} ({COUNT_KEY})")));
    }
    Ok(number)
}

/// The paths of all parts, from the name of part `number`.
fn sibling_paths(path: &Path, number: u64, count: u64) -> Result<Vec<PathBuf>, CheckpointError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let suffix = |number: u64| format!("-{:05}-of-{count:05}.gguf", number + 1);
    let Some(prefix) = name.strip_suffix(&suffix(number)) else {
        let wanted = format!("a name that ends in {}, as its metadata say", suffix(number));
        return Err(CheckpointError::invalid("file name", quoted(&name), wanted));
    };
    Ok((0..count).map(|number| path.with_file_name(format!("{prefix}{}", suffix(number)))).collect())
}

fn open_sibling(path: &Path, number: u64, count: u64) -> Result<Part, CheckpointError> {
    let place = format!("part {} of {count}", number + 1);
    let part = Part::open(path).map_err(|fault| fault.within(place))?;
    let check = || {
        let found_count = part.metadata.u64(COUNT_KEY)?.unwrap_or(1);
        if found_count != count {
            return Err(CheckpointError::invalid(COUNT_KEY, found_count, format!("{count} as in the other parts")));
        }
        let found_number = part_number(&part.metadata, count)?;
        if found_number != number {
            return Err(CheckpointError::invalid(NUMBER_KEY, found_number, format!("{number} as its name says")));
        }
        Ok(())
    };
    check().map_err(|fault| fault.in_file(path))?;
    Ok(part)
}

fn check_tensor_count(metadata: &Metadata, found: usize) -> Result<(), CheckpointError> {
    match metadata.u64(TENSORS_KEY)? {
        Some(wanted) if wanted != found as u64 => {
            Err(CheckpointError::invalid("number of tensors in all parts", found, format!("{wanted} ({TENSORS_KEY})")))
        }
        _ => Ok(()),
    }
}
