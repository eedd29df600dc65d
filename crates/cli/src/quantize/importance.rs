//! Importance matrices: what squared errors cost, column by column, measured on a text.
//!
//! The file is the one that llama.cpp's tools write and read: GGUF with, for each matrix `NAME`, the tensor
//! `NAME.in_sum2` (sums of squares of what the matrix is multiplied with, a value a column) and `NAME.counts` (rows that
//! were summed).

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use checkpoint::gguf::{Metadata, TensorHeader, Writer};
use checkpoint::{Checkpoint, Description};
use tensor::Format;

const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";

/// Sums by tensor name.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Importance {
    by_tensor: BTreeMap<String, Sums>,
}

/// Of one matrix.
#[derive(Clone, Debug, PartialEq)]
struct Sums {
    /// Sum of squares of each column.
    squares: Vec<f32>,
    /// Rows summed.
    rows: f32,
}

impl Importance {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that is no importance matrix.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = Checkpoint::open(path)?;
        let is_own = match file.description() {
            Description::Gguf(metadata) => metadata.str("general.type")? == Some("imatrix"),
            Description::HuggingFace(_) => false,
        };
        if !is_own {
            bail!("{}: not an importance matrix (general.type is not imatrix)", path.display());
        }
        let mut by_tensor = BTreeMap::new();
        for tensor in file.tensors() {
            let Some(name) = tensor.name.strip_suffix(SUMS) else { continue };
            let counts = file.tensor(&format!("{name}{COUNTS}"));
            let counts = counts.with_context(|| format!("{}: no tensor {name}{COUNTS}", path.display()))?;
            let (squares, counts) = (values(&tensor), values(&counts));
            // Experts have a matrix each; one that no text reached counts for nothing.
            let rows: f32 = counts.iter().sum();
            if counts.len() != 1 {
                tracing::debug!("{name}: importance of {} experts is not used", counts.len());
                continue;
            }
            by_tensor.insert(name.to_owned(), Sums { squares, rows });
        }
        Ok(Self { by_tensor })
    }

    /// Adds what a matrix was multiplied with.
    pub(crate) fn insert(&mut self, name: String, squares: Vec<f32>, rows: f32) {
        self.by_tensor.insert(name, Sums { squares, rows });
    }

    /// Matrices that it knows.
    pub(crate) fn len(&self) -> usize {
        self.by_tensor.len()
    }

    /// Mean square of each column's activations; `None` for a matrix that the text did not reach.
    ///
    /// # Errors
    /// When the matrix has another number of columns.
    pub(crate) fn of(&self, name: &str, cols: usize) -> Result<Option<Vec<f32>>> {
        let Some(sums) = self.by_tensor.get(name).filter(|sums| sums.rows > 0.0) else { return Ok(None) };
        if sums.squares.len() != cols {
            bail!("importance matrix: {name} has {} columns, the model {cols}", sums.squares.len());
        }
        Ok(Some(sums.squares.iter().map(|sum| sum / sums.rows).collect()))
    }

    /// Writes a file. `text` names what it was measured on, in `chunks` pieces of `chunk_tokens`.
    pub(crate) fn write(&self, path: &Path, text: &str, chunks: u32, chunk_tokens: u32) -> Result<()> {
        let mut metadata = Metadata::default();
        metadata.insert("general.type", "imatrix");
        metadata.insert("imatrix.datasets", vec![text.to_owned()]);
        metadata.insert("imatrix.chunk_count", chunks);
        metadata.insert("imatrix.chunk_size", chunk_tokens);
        let header = |name: String, cols| TensorHeader { name, shape: vec![1, cols], format: Format::F32 };
        let headers: Vec<TensorHeader> = self
            .by_tensor
            .iter()
            .flat_map(|(name, sums)| {
                [header(format!("{name}{SUMS}"), sums.squares.len()), header(format!("{name}{COUNTS}"), 1)]
            })
            .collect();
        let mut writer = Writer::create(path, &metadata, &headers)?;
        for sums in self.by_tensor.values() {
            let bytes: Vec<u8> = sums.squares.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            writer.write(&bytes)?;
            writer.write(&sums.rows.to_le_bytes())?;
        }
        Ok(writer.finish()?)
    }
}

fn values(tensor: &checkpoint::Tensor<'_>) -> Vec<f32> {
    let mut values = vec![0.0; tensor.value_count()];
    tensor.format.dequantize_row(tensor.data, &mut values);
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("imatrix.gguf");
        let mut importance = Importance::default();
        importance.insert("blk.0.attn_q.weight".into(), vec![2.0, 4.0, 8.0], 2.0);
        importance.insert("blk.0.ffn_down.weight".into(), vec![1.0], 0.0);
        importance.write(&path, "text", 3, 512).unwrap();
        let read = Importance::open(&path).unwrap();
        assert_eq!(read, importance);
        assert_eq!(read.of("blk.0.attn_q.weight", 3).unwrap(), Some(vec![1.0, 2.0, 4.0]));
        assert_eq!(read.of("blk.0.ffn_down.weight", 1).unwrap(), None);
        assert_eq!(read.of("blk.1.attn_q.weight", 3).unwrap(), None);
        assert!(read.of("blk.0.attn_q.weight", 4).is_err());
    }
}
