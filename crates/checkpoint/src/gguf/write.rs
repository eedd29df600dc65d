//! Writing GGUF, version 3: metadata and tensors in, a file that appears under its name only when it is whole.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{BufWriter, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tensor::Format;

use super::metadata::{Array, Metadata, Value};
use super::parse::{self, kind};
use super::{header, read};
use crate::CheckpointError;
use crate::error::quoted;
use crate::tensor::size_bytes;

/// A tensor about to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorHeader {
    /// Unique in the file.
    pub name: String,
    /// Row-major, outermost dimension first, as in [`crate::Tensor::shape`].
    pub shape: Vec<usize>,
    /// How the values are stored.
    pub format: Format,
}

impl TensorHeader {
    fn within(&self, fault: CheckpointError) -> CheckpointError {
        fault.within(format!("tensor {}", quoted(&self.name)))
    }
}

/// A GGUF file being written: the header at once, then the tensors' data in order. Dropped before
/// [`Writer::finish`], it leaves nothing behind.
#[derive(Debug)]
pub struct Writer {
    out: BufWriter<File>,
    partial: PartialFile,
    alignment: usize,
    /// Tensors whose data is not complete, last one first: name and bytes still to come.
    pending: Vec<(String, usize)>,
}

impl Writer {
    /// Starts a file that [`Writer::finish`] will put at `path`. Tensors begin at multiples of `general.alignment`,
    /// 32 when the metadata do not say.
    ///
    /// # Errors
    /// When the file cannot be created, or what is to be written is not what a reader may accept: a shape that is no
    /// whole number of blocks, a name that occurs twice, a string above the limit.
    pub fn create(path: &Path, metadata: &Metadata, tensors: &[TensorHeader]) -> Result<Writer, CheckpointError> {
        Writer::start(path, metadata, tensors).map_err(|fault| fault.in_file(path))
    }

    /// Writes the next bytes of the tensor whose turn it is: all of it, or a piece. Tensors follow one another in the
    /// order given to [`Writer::create`].
    ///
    /// # Errors
    /// When the piece is longer than what the tensor still lacks, or cannot be written.
    pub fn write(&mut self, piece: &[u8]) -> Result<(), CheckpointError> {
        let Some((name, missing_bytes)) = self.pending.last_mut() else {
            return Err(CheckpointError::invalid("data after the last tensor", piece.len(), "nothing"));
        };
        let Some(left) = missing_bytes.checked_sub(piece.len()) else {
            let wanted = format!("at most {missing_bytes} bytes, what it still lacks");
            return Err(CheckpointError::invalid(format!("data of tensor {}", quoted(name)), piece.len(), wanted));
        };
        *missing_bytes = left;
        self.partial.write(&mut self.out, piece)?;
        if left == 0 {
            self.pending.pop();
            self.pad()?;
        }
        Ok(())
    }

    /// Ends the file without giving it its name, for a look at it first. Returns where it is until then.
    ///
    /// # Errors
    /// When a tensor lacks data, or the file cannot be written.
    pub fn complete(&mut self) -> Result<&Path, CheckpointError> {
        if let Some((name, missing_bytes)) = self.pending.last() {
            return Err(CheckpointError::missing(format!("{missing_bytes} bytes of tensor {}", quoted(name))));
        }
        let flushed = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        self.partial.named(flushed)?;
        Ok(&self.partial.partial)
    }

    /// Ends the file and gives it its name, replacing what was there.
    ///
    /// # Errors
    /// When a tensor lacks data, or the file cannot be written or renamed.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        self.complete()?;
        self.partial.publish()
    }

    fn start(path: &Path, metadata: &Metadata, tensors: &[TensorHeader]) -> Result<Writer, CheckpointError> {
        let alignment = parse::alignment(metadata)? as usize;
        let sizes = sizes_bytes(tensors)?;
        let start = encode(metadata, tensors, &sizes, alignment)?;
        let pending = tensors.iter().zip(sizes).rev().map(|(tensor, size)| (tensor.name.clone(), size)).collect();
        let (partial, file) = PartialFile::create(path)?;
        let mut writer = Writer { out: BufWriter::new(file), partial, alignment, pending };
        writer.partial.write(&mut writer.out, &start)?;
        writer.pad()?;
        Ok(writer)
    }

    fn pad(&mut self) -> Result<(), CheckpointError> {
        let padding = self.partial.len_bytes.next_multiple_of(self.alignment) - self.partial.len_bytes;
        self.partial.write(&mut self.out, &vec![0; padding])
    }
}

fn sizes_bytes(tensors: &[TensorHeader]) -> Result<Vec<usize>, CheckpointError> {
    let size = |tensor: &TensorHeader| size_bytes(&tensor.shape, tensor.format).map_err(|fault| tensor.within(fault));
    tensors.iter().map(size).collect()
}

/// Everything before the data. It has passed the reader.
fn encode(
    metadata: &Metadata,
    tensors: &[TensorHeader],
    sizes: &[usize],
    alignment: usize,
) -> Result<Vec<u8>, CheckpointError> {
    let mut out = Vec::new();
    out.extend(header::MAGIC);
    out.extend(header::VERSION.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata.iter() {
        put_string(&mut out, key);
        put_value(&mut out, value);
    }
    let mut data_bytes = 0usize;
    for (tensor, size) in tensors.iter().zip(sizes) {
        put_string(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        out.extend(tensor.shape.iter().rev().flat_map(|&dim| (dim as u64).to_le_bytes()));
        out.extend(tensor.format.ggml_type().to_le_bytes());
        out.extend((data_bytes as u64).to_le_bytes());
        let end = data_bytes.checked_add(*size).and_then(|end| end.checked_next_multiple_of(alignment));
        data_bytes = end.ok_or_else(|| {
            tensor.within(CheckpointError::invalid("size of all tensors up to it", "above 2^64", "below"))
        })?;
    }
    let file_bytes = out.len().next_multiple_of(alignment).saturating_add(data_bytes);
    read(&out, file_bytes)?;
    Ok(out)
}

fn put_string(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::U8(number) => put_scalar(out, kind::U8, number.to_le_bytes()),
        Value::I8(number) => put_scalar(out, kind::I8, number.to_le_bytes()),
        Value::U16(number) => put_scalar(out, kind::U16, number.to_le_bytes()),
        Value::I16(number) => put_scalar(out, kind::I16, number.to_le_bytes()),
        Value::U32(number) => put_scalar(out, kind::U32, number.to_le_bytes()),
        Value::I32(number) => put_scalar(out, kind::I32, number.to_le_bytes()),
        Value::U64(number) => put_scalar(out, kind::U64, number.to_le_bytes()),
        Value::I64(number) => put_scalar(out, kind::I64, number.to_le_bytes()),
        Value::F32(number) => put_scalar(out, kind::F32, number.to_le_bytes()),
        Value::F64(number) => put_scalar(out, kind::F64, number.to_le_bytes()),
        Value::Bool(truth) => put_scalar(out, kind::BOOL, [u8::from(*truth)]),
        Value::String(text) => {
            out.extend(kind::STRING.to_le_bytes());
            put_string(out, text);
        }
        Value::Array(array) => {
            out.extend(kind::ARRAY.to_le_bytes());
            put_array(out, array);
        }
    }
}

fn put_scalar<const N: usize>(out: &mut Vec<u8>, number: u32, bytes: [u8; N]) {
    out.extend(number.to_le_bytes());
    out.extend(bytes);
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    match array {
        Array::U8(elements) => put_elements(out, kind::U8, elements, |e| e.to_le_bytes()),
        Array::I8(elements) => put_elements(out, kind::I8, elements, |e| e.to_le_bytes()),
        Array::U16(elements) => put_elements(out, kind::U16, elements, |e| e.to_le_bytes()),
        Array::I16(elements) => put_elements(out, kind::I16, elements, |e| e.to_le_bytes()),
        Array::U32(elements) => put_elements(out, kind::U32, elements, |e| e.to_le_bytes()),
        Array::I32(elements) => put_elements(out, kind::I32, elements, |e| e.to_le_bytes()),
        Array::U64(elements) => put_elements(out, kind::U64, elements, |e| e.to_le_bytes()),
        Array::I64(elements) => put_elements(out, kind::I64, elements, |e| e.to_le_bytes()),
        Array::F32(elements) => put_elements(out, kind::F32, elements, |e| e.to_le_bytes()),
        Array::F64(elements) => put_elements(out, kind::F64, elements, |e| e.to_le_bytes()),
        Array::Bool(elements) => put_elements(out, kind::BOOL, elements, |e| [u8::from(*e)]),
        Array::Strings(elements) => {
            put_array_start(out, kind::STRING, elements.len());
            elements.iter().for_each(|element| put_string(out, element));
        }
        Array::Arrays(elements) => {
            put_array_start(out, kind::ARRAY, elements.len());
            elements.iter().for_each(|element| put_array(out, element));
        }
    }
}

fn put_elements<T, const N: usize>(out: &mut Vec<u8>, number: u32, elements: &[T], to_le_bytes: fn(&T) -> [u8; N]) {
    put_array_start(out, number, elements.len());
    out.extend(elements.iter().flat_map(to_le_bytes));
}

fn put_array_start(out: &mut Vec<u8>, number: u32, count: usize) {
    out.extend(number.to_le_bytes());
    out.extend((count as u64).to_le_bytes());
}

/// Where a [`Writer`] keeps what is to become the file at `target`.
///
/// # Errors
/// For a path that has no file name.
pub fn partial_path(target: &Path) -> Result<PathBuf, CheckpointError> {
    let Some(name) = target.file_name() else {
        return Err(CheckpointError::invalid("path", "without a file name", "that of a file"));
    };
    let mut partial_name = OsString::from(".");
    partial_name.push(name);
    partial_name.push(".partial");
    Ok(target.with_file_name(partial_name))
}

/// A file beside its final place, removed on drop unless published. Who writes it holds a lock on it, so that what a
/// killed process has left is told apart from what another is writing.
#[derive(Debug)]
struct PartialFile {
    partial: PathBuf,
    target: PathBuf,
    len_bytes: usize,
    published: bool,
}

impl PartialFile {
    /// Takes the place of one that a killed process has left.
    fn create(target: &Path) -> Result<(PartialFile, File), CheckpointError> {
        let partial = partial_path(target)?;
        let file = loop {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&partial)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(CheckpointError::invalid(
                        "path",
                        "another process writes it",
                        "one that nobody writes",
                    ));
                }
                // A file system without locks.
                Err(TryLockError::Error(fault)) if fault.kind() == ErrorKind::Unsupported => break file,
                Err(TryLockError::Error(fault)) => return Err(fault.into()),
            }
            // Its last owner may have finished in between, and then it is no longer here.
            if is_at(&file, &partial)? {
                break file;
            }
        };
        file.set_len(0)?;
        Ok((PartialFile { partial, target: target.to_owned(), len_bytes: 0, published: false }, file))
    }

    fn write(&mut self, out: &mut impl Write, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.len_bytes += bytes.len();
        self.named(out.write_all(bytes))
    }

    fn publish(&mut self) -> Result<(), CheckpointError> {
        self.named(std::fs::rename(&self.partial, &self.target))?;
        self.published = true;
        Ok(())
    }

    /// Adds the file's name to what the operating system says.
    fn named(&self, result: std::io::Result<()>) -> Result<(), CheckpointError> {
        result.map_err(|fault| CheckpointError::from(fault).in_file(&self.target))
    }
}

/// Whether an open file is the one that has this name.
fn is_at(file: &File, path: &Path) -> std::io::Result<bool> {
    match std::fs::metadata(path) {
        Ok(named) => {
            let own = file.metadata()?;
            Ok((own.dev(), own.ino()) == (named.dev(), named.ino()))
        }
        Err(fault) if fault.kind() == ErrorKind::NotFound => Ok(false),
        Err(fault) => Err(fault),
    }
}

impl Drop for PartialFile {
    fn drop(&mut self) {
        if !self.published {
            // Nobody is left to tell when even this fails.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}
