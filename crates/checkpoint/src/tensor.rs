//! A tensor of an open checkpoint: name, shape, format and exactly the bytes that these imply.

use std::fmt;
use std::ops::Range;

use tensor::{Format, TensorView};

use crate::CheckpointError;
use crate::error::quoted;

/// A tensor, borrowed from the mapped file. Shape, format and length of `data` agree.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    /// Unique in its checkpoint.
    pub name: &'a str,
    /// Row-major, outermost dimension first (GGUF's order reversed); never empty, no dimension is 0.
    pub shape: &'a [usize],
    /// How the values are stored. A row (the last dimension) is a whole number of blocks.
    pub format: Format,
    /// The values. Not necessarily aligned: safetensors headers may have any length.
    pub data: &'a [u8],
}

impl<'a> Tensor<'a> {
    /// The tensor as a matrix `[rows][cols]`; a vector is one row.
    ///
    /// # Errors
    /// When it has more than two dimensions.
    pub fn matrix(&self) -> Result<TensorView<'a>, CheckpointError> {
        match *self.shape {
            [cols] => Ok(self.view(1, cols, self.data)),
            [rows, cols] => Ok(self.view(rows, cols, self.data)),
            _ => Err(self.wrong_shape("1 or 2 dimensions")),
        }
    }

    /// Matrix `index` of a stack `[matrices][rows][cols]` (the experts of a layer).
    ///
    /// # Errors
    /// When it has not three dimensions, or `index` is not below the first.
    pub fn stacked(&self, index: usize) -> Result<TensorView<'a>, CheckpointError> {
        match *self.shape {
            [matrices, rows, cols] if index < matrices => {
                let matrix_bytes = self.data.len() / matrices;
                Ok(self.view(rows, cols, &self.data[index * matrix_bytes..(index + 1) * matrix_bytes]))
            }
            _ => Err(self.wrong_shape(&format!("3 dimensions, the first above {index}"))),
        }
    }

    /// Number of values.
    pub fn value_count(&self) -> usize {
        self.shape.iter().product()
    }

    fn view(&self, rows: usize, cols: usize, data: &'a [u8]) -> TensorView<'a> {
        TensorView::new(self.format, rows, cols, data).expect("size was checked when the file was opened")
    }

    fn wrong_shape(&self, wanted: &str) -> CheckpointError {
        CheckpointError::invalid("shape", format!("{:?}", self.shape), wanted)
            .within(format!("tensor {}", quoted(self.name)))
    }
}

impl fmt::Debug for Tensor<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tensor { name, shape, format, data } = self;
        write!(f, "Tensor({name:?} {} {shape:?}, {} bytes)", format.name(), data.len())
    }
}

/// Where a tensor lies in its file. Made by [`Extent::new`] only, so that its range is always inside the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    shape: Vec<usize>,
    format: Format,
    range: Range<usize>,
}

impl Extent {
    /// Checks that `shape` in `format` begins at byte `start` of a file of `file_bytes` bytes and ends inside it.
    /// Returns the extent; its size is what shape and format imply.
    pub(crate) fn new(
        shape: Vec<usize>,
        format: Format,
        start: u64,
        file_bytes: usize,
    ) -> Result<Extent, CheckpointError> {
        let size_bytes = size_bytes(&shape, format)?;
        let truncated = |needed_bytes| CheckpointError::Truncated {
            what: format!("data of shape {shape:?} in {} at byte {start}", format.name()),
            needed_bytes,
            available_bytes: (file_bytes as u64).saturating_sub(start),
        };
        let first = usize::try_from(start).map_err(|_| truncated(size_bytes as u64))?;
        match first.checked_add(size_bytes) {
            Some(end) if end <= file_bytes => Ok(Extent { shape, format, range: first..end }),
            _ => Err(truncated(size_bytes as u64)),
        }
    }

    pub(crate) fn range(&self) -> Range<usize> {
        self.range.clone()
    }

    /// The tensor of this name and extent in `file`, the same bytes that [`Extent::new`] was given the length of.
    pub(crate) fn tensor<'a>(&'a self, name: &'a str, file: &'a [u8]) -> Tensor<'a> {
        Tensor { name, shape: &self.shape, format: self.format, data: &file[self.range()] }
    }
}

/// Bytes of a tensor of this shape: every dimension at least 1, whole blocks in a row, no overflow.
pub(crate) fn size_bytes(shape: &[usize], format: Format) -> Result<usize, CheckpointError> {
    let Some((&cols, outer)) = shape.split_last() else {
        return Err(CheckpointError::invalid("number of dimensions", 0, "at least 1"));
    };
    if shape.contains(&0) {
        return Err(CheckpointError::invalid("shape", format!("{shape:?}"), "at least 1 in every dimension"));
    }
    if cols % format.block_len() != 0 {
        let wanted = format!("a multiple of {}, the block of {}", format.block_len(), format.name());
        return Err(CheckpointError::invalid("row length", cols, wanted));
    }
    let row_bytes = format.row_bytes(cols);
    outer.iter().try_fold(row_bytes, |size, &dim| Some(size?.checked_mul(dim))).flatten().ok_or_else(|| {
        CheckpointError::invalid("shape", format!("{shape:?} in {}", format.name()), "of a size that fits 64 bits")
    })
}
