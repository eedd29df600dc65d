//! The tensor descriptors, and the byte range of each.

use std::collections::HashSet;

use tensor::Format;

use super::cursor::Cursor;
use crate::error::{capped, quoted};
use crate::tensor::Extent;
use crate::{CheckpointError, limits};

/// Reads `count` descriptors (checked against the file's length by the header) and places them in the data section
/// that begins at the next multiple of `alignment` and ends with the file.
pub(super) fn read(
    cursor: &mut Cursor<'_>,
    count: u64,
    alignment: u64,
    file_bytes: usize,
) -> Result<Vec<(String, Extent)>, CheckpointError> {
    let mut descriptors = Vec::with_capacity(count as usize);
    let mut names = HashSet::with_capacity(count as usize);
    for index in 0..count {
        let name = cursor
            .str("name", limits::GGUF_TENSOR_NAME_BYTES)
            .map_err(|fault| fault.within(format!("tensor number {index}")))?;
        if name.is_empty() {
            return Err(CheckpointError::invalid(
                format!("name of tensor number {index}"),
                "empty",
                "of at least 1 byte",
            ));
        }
        if !names.insert(name) {
            return Err(CheckpointError::duplicate(format!("tensor {}", quoted(name))));
        }
        descriptors.push((name, Descriptor::read(cursor, alignment).map_err(|fault| within(name, fault))?));
    }
    let data_start =
        (cursor.position() as u64).checked_next_multiple_of(alignment).expect("a file's length and 1 MiB fit");
    let mut tensors = Vec::with_capacity(descriptors.len());
    for (name, descriptor) in descriptors {
        let extent = descriptor.place(data_start, file_bytes).map_err(|fault| within(name, fault))?;
        tensors.push((name.to_owned(), extent));
    }
    check_overlap(&tensors)?;
    Ok(tensors)
}

/// A tensor as its descriptor says, sizes not yet compared with the file.
struct Descriptor {
    shape: Vec<usize>,
    format: Format,
    offset: u64,
}

impl Descriptor {
    fn read(cursor: &mut Cursor<'_>, alignment: u64) -> Result<Descriptor, CheckpointError> {
        let dims = cursor.u32("number of dimensions")?;
        if dims == 0 {
            return Err(CheckpointError::invalid("number of dimensions", 0, "1 to 4"));
        }
        capped("number of dimensions", dims.into(), limits::GGUF_DIMS)?;
        let mut shape = Vec::with_capacity(dims as usize);
        for _ in 0..dims {
            let dim = cursor.u64("dimension")?;
            shape.push(usize::try_from(dim).map_err(|_| CheckpointError::invalid("dimension", dim, "below 2^32"))?);
        }
        shape.reverse();
        let number = cursor.u32("type")?;
        let format = Format::from_ggml_type(number).ok_or_else(|| unsupported_type(number))?;
        let offset = cursor.u64("offset")?;
        if !offset.is_multiple_of(alignment) {
            return Err(CheckpointError::invalid("offset", offset, format!("a multiple of the alignment {alignment}")));
        }
        Ok(Descriptor { shape, format, offset })
    }

    fn place(self, data_start: u64, file_bytes: usize) -> Result<Extent, CheckpointError> {
        let start = self.offset.checked_add(data_start).ok_or_else(|| {
            CheckpointError::invalid("offset", self.offset, format!("inside the file of {file_bytes} bytes"))
        })?;
        Extent::new(self.shape, self.format, start, file_bytes)
    }
}

/// No two tensors share bytes: one that lies over another is a mistake or an attempt at amplification.
fn check_overlap(tensors: &[(String, Extent)]) -> Result<(), CheckpointError> {
    let mut by_start: Vec<_> = tensors.iter().map(|(name, extent)| (extent.range(), name)).collect();
    by_start.sort_by_key(|(range, _)| range.start);
    for pair in by_start.windows(2) {
        let ((before, before_name), (after, after_name)) = (&pair[0], &pair[1]);
        if after.start < before.end {
            let value = format!("bytes [{}, {})", after.start, after.end);
            let wanted = format!("outside of tensor {}, [{}, {})", quoted(before_name), before.start, before.end);
            return Err(within(after_name, CheckpointError::invalid("extent", value, wanted)));
        }
    }
    Ok(())
}

fn within(name: &str, fault: CheckpointError) -> CheckpointError {
    fault.within(format!("tensor {}", quoted(name)))
}

fn unsupported_type(number: u32) -> CheckpointError {
    let value = match known_type_name(number) {
        Some(name) => format!("{name} (number {number})"),
        None => format!("unknown (number {number})"),
    };
    let supported: Vec<&str> = Format::ALL.into_iter().map(Format::name).collect();
    CheckpointError::Unsupported { what: "type".to_owned(), value, supported: supported.join(", ") }
}

/// Types that GGUF defines and [`Format`] has not.
fn known_type_name(number: u32) -> Option<&'static str> {
    Some(match number {
        9 => "q8_1",
        15 => "q8_k",
        16 => "iq2_xxs",
        17 => "iq2_xs",
        18 => "iq3_xxs",
        19 => "iq1_s",
        21 => "iq3_s",
        22 => "iq2_s",
        24 => "i8",
        25 => "i16",
        26 => "i32",
        27 => "i64",
        28 => "f64",
        29 => "iq1_m",
        34 => "tq1_0",
        35 => "tq2_0",
        40 => "nvfp4",
        41 => "q1_0",
        _ => return None,
    })
}
