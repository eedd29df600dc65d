//! Metadata from bytes.

use super::ALIGNMENT;
use super::cursor::Cursor;
use super::metadata::{Array, Metadata, Value};
use crate::error::{capped, quoted};
use crate::{CheckpointError, limits};

/// The key that says where tensors may begin.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";
/// Element type and count of a nested array.
const ARRAY_BYTES_MIN: u64 = 4 + 8;
/// The length of an empty string.
const STRING_BYTES_MIN: u64 = 8;

/// The type numbers of GGUF.
pub(super) mod kind {
    pub(in crate::gguf) const U8: u32 = 0;
    pub(in crate::gguf) const I8: u32 = 1;
    pub(in crate::gguf) const U16: u32 = 2;
    pub(in crate::gguf) const I16: u32 = 3;
    pub(in crate::gguf) const U32: u32 = 4;
    pub(in crate::gguf) const I32: u32 = 5;
    pub(in crate::gguf) const F32: u32 = 6;
    pub(in crate::gguf) const BOOL: u32 = 7;
    pub(in crate::gguf) const STRING: u32 = 8;
    pub(in crate::gguf) const ARRAY: u32 = 9;
    pub(in crate::gguf) const U64: u32 = 10;
    pub(in crate::gguf) const I64: u32 = 11;
    pub(in crate::gguf) const F64: u32 = 12;
}

/// Reads `count` key-values.
pub(super) fn metadata(cursor: &mut Cursor<'_>, count: u64) -> Result<Metadata, CheckpointError> {
    let mut metadata = Metadata::default();
    for index in 0..count {
        let key = cursor
            .str("key", limits::KEY_BYTES)
            .map_err(|fault| fault.within(format!("metadata entry number {index}")))?;
        if key.is_empty() {
            return Err(CheckpointError::invalid(
                format!("key of metadata entry number {index}"),
                "empty",
                "of at least 1 byte",
            ));
        }
        cursor.charge((size_of::<(String, Value)>() + key.len()) as u64)?;
        let value = value(cursor).map_err(|fault| fault.within(format!("key {}", quoted(key))))?;
        if metadata.insert(key, value).is_some() {
            return Err(CheckpointError::duplicate(format!("key {}", quoted(key))));
        }
    }
    Ok(metadata)
}

/// The alignment that the metadata ask for.
pub(super) fn alignment(metadata: &Metadata) -> Result<u64, CheckpointError> {
    let alignment = match metadata.get(ALIGNMENT_KEY) {
        None => return Ok(ALIGNMENT.into()),
        Some(&Value::U32(alignment)) => u64::from(alignment),
        Some(other) => {
            let (key, found, wanted) = (ALIGNMENT_KEY.to_owned(), other.describe(), "u32".to_owned());
            return Err(CheckpointError::WrongType { key, found, wanted });
        }
    };
    if !alignment.is_power_of_two() || !(limits::ALIGNMENT_MIN..=limits::ALIGNMENT_MAX).contains(&alignment) {
        let wanted = format!("a power of two in [{}, {}]", limits::ALIGNMENT_MIN, limits::ALIGNMENT_MAX);
        return Err(CheckpointError::invalid(ALIGNMENT_KEY, alignment, wanted));
    }
    Ok(alignment)
}

fn value(cursor: &mut Cursor<'_>) -> Result<Value, CheckpointError> {
    const WHAT: &str = "value";
    Ok(match cursor.u32("value type")? {
        kind::U8 => Value::U8(u8::from_le_bytes(cursor.array(WHAT)?)),
        kind::I8 => Value::I8(i8::from_le_bytes(cursor.array(WHAT)?)),
        kind::U16 => Value::U16(u16::from_le_bytes(cursor.array(WHAT)?)),
        kind::I16 => Value::I16(i16::from_le_bytes(cursor.array(WHAT)?)),
        kind::U32 => Value::U32(u32::from_le_bytes(cursor.array(WHAT)?)),
        kind::I32 => Value::I32(i32::from_le_bytes(cursor.array(WHAT)?)),
        kind::U64 => Value::U64(u64::from_le_bytes(cursor.array(WHAT)?)),
        kind::I64 => Value::I64(i64::from_le_bytes(cursor.array(WHAT)?)),
        kind::F32 => Value::F32(f32::from_le_bytes(cursor.array(WHAT)?)),
        kind::F64 => Value::F64(f64::from_le_bytes(cursor.array(WHAT)?)),
        kind::BOOL => Value::Bool(truth(cursor.array::<1>(WHAT)?[0])?),
        kind::STRING => Value::String(string(cursor, "string")?),
        kind::ARRAY => Value::Array(array(cursor, 1)?),
        number => return Err(unknown_type("value type", number)),
    })
}

fn array(cursor: &mut Cursor<'_>, depth: u64) -> Result<Array, CheckpointError> {
    capped("nesting of arrays", depth, limits::ARRAY_DEPTH)?;
    let number = cursor.u32("element type")?;
    let count = cursor.u64("array length")?;
    Ok(match number {
        kind::U8 => Array::U8(numbers(cursor, count, u8::from_le_bytes)?),
        kind::I8 => Array::I8(numbers(cursor, count, i8::from_le_bytes)?),
        kind::U16 => Array::U16(numbers(cursor, count, u16::from_le_bytes)?),
        kind::I16 => Array::I16(numbers(cursor, count, i16::from_le_bytes)?),
        kind::U32 => Array::U32(numbers(cursor, count, u32::from_le_bytes)?),
        kind::I32 => Array::I32(numbers(cursor, count, i32::from_le_bytes)?),
        kind::U64 => Array::U64(numbers(cursor, count, u64::from_le_bytes)?),
        kind::I64 => Array::I64(numbers(cursor, count, i64::from_le_bytes)?),
        kind::F32 => Array::F32(numbers(cursor, count, f32::from_le_bytes)?),
        kind::F64 => Array::F64(numbers(cursor, count, f64::from_le_bytes)?),
        kind::BOOL => {
            let bytes = numbers(cursor, count, u8::from_le_bytes)?;
            Array::Bool(bytes.into_iter().map(truth).collect::<Result<_, _>>()?)
        }
        kind::STRING => Array::Strings(elements(cursor, count, STRING_BYTES_MIN, |cursor, index| {
            string(cursor, "string").map_err(|fault| fault.within(format!("element {index}")))
        })?),
        kind::ARRAY => Array::Arrays(elements(cursor, count, ARRAY_BYTES_MIN, |cursor, index| {
            array(cursor, depth + 1).map_err(|fault| fault.within(format!("element {index}")))
        })?),
        number => return Err(unknown_type("element type", number)),
    })
}

/// `count` numbers of `N` bytes.
fn numbers<T, const N: usize>(
    cursor: &mut Cursor<'_>,
    count: u64,
    from_le_bytes: fn([u8; N]) -> T,
) -> Result<Vec<T>, CheckpointError> {
    cursor.check_count(count, N as u64, "elements")?;
    let size_bytes = count * N as u64;
    cursor.charge(size_bytes)?;
    let (chunks, _) = cursor.bytes(size_bytes, "array")?.as_chunks::<N>();
    Ok(chunks.iter().map(|&chunk| from_le_bytes(chunk)).collect())
}

/// `count` elements that take at least `element_bytes` each in the file.
fn elements<T>(
    cursor: &mut Cursor<'_>,
    count: u64,
    element_bytes: u64,
    mut read: impl FnMut(&mut Cursor<'_>, u64) -> Result<T, CheckpointError>,
) -> Result<Vec<T>, CheckpointError> {
    cursor.check_count(count, element_bytes, "elements")?;
    cursor.charge(count.saturating_mul(size_of::<T>() as u64))?;
    let mut elements = Vec::with_capacity(usize::try_from(count).expect("not more than the file's own length"));
    for index in 0..count {
        elements.push(read(cursor, index)?);
    }
    Ok(elements)
}

fn string(cursor: &mut Cursor<'_>, what: &str) -> Result<String, CheckpointError> {
    let text = cursor.str(what, limits::STRING_BYTES)?;
    cursor.charge(text.len() as u64)?;
    Ok(text.to_owned())
}

fn truth(byte: u8) -> Result<bool, CheckpointError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(CheckpointError::invalid("bool", byte, "0 or 1")),
    }
}

fn unknown_type(what: &str, number: u32) -> CheckpointError {
    CheckpointError::invalid(what, number, "a GGUF type, 0 to 12")
}
