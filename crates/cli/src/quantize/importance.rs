//! Importance matrices: what squared errors cost, column by column, measured on a text.
//!
//! The file is the one that llama.cpp's tools write and read: GGUF with, for each matrix `NAME`, the tensor
//! `NAME.in_sum2` (sums of squares of what the matrix is multiplied with, a value a column) and `NAME.counts` (rows
//! that were summed). A stack of experts has a row of sums and a count for each.

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

/// Of one matrix, or of the experts of a stack.
#[derive(Clone, Debug, PartialEq)]
struct Sums {
    /// Sum of squares of each column, expert by expert.
    squares: Vec<f32>,
    /// Rows summed, of each expert.
    rows: Vec<f32>,
}

/// What errors cost in each column of a matrix; `None` for one that the text did not reach.
pub(crate) type Columns = Option<Vec<f32>>;

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
            let (squares, rows) = (values(&tensor), values(&counts));
            if rows.is_empty() || squares.len() % rows.len() != 0 {
                bail!("{}: {name}: {} sums for {} counts", path.display(), squares.len(), rows.len());
            }
            by_tensor.insert(name.to_owned(), Sums { squares, rows });
        }
        Ok(Self { by_tensor })
    }

    /// Adds what a matrix was multiplied with.
    pub(crate) fn insert(&mut self, name: String, squares: Vec<f32>, rows: f32) {
        self.by_tensor.insert(name, Sums { squares, rows: vec![rows] });
    }

    /// Whether it knows a matrix of this name.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.by_tensor.contains_key(name)
    }

    /// Name of a matrix that it knows, for people.
    pub(crate) fn first_name(&self) -> Option<&str> {
        self.by_tensor.keys().next().map(String::as_str)
    }

    /// Matrices that it knows.
    pub(crate) fn len(&self) -> usize {
        self.by_tensor.len()
    }

    /// Mean square of each column's activations, of every matrix of a stack (one, or experts).
    ///
    /// # Errors
    /// When the stack has other columns, or another number of matrices.
    pub(crate) fn of(&self, name: &str, cols: usize, matrices: usize) -> Result<Vec<Columns>> {
        let Some(Sums { squares, rows }) = self.by_tensor.get(name) else { return Ok(vec![None; matrices]) };
        let known = squares.len() / rows.len();
        if (known, rows.len()) != (cols, matrices) {
            bail!("importance matrix: {name} has {} x {known} columns, the model {matrices} x {cols}", rows.len());
        }
        let mean =
            |(squares, &rows): (&[f32], &f32)| (rows > 0.0).then(|| squares.iter().map(|sum| sum / rows).collect());
        Ok(squares.chunks(known).zip(rows).map(mean).collect())
    }

    /// Writes a file. `text` names what it was measured on, in `chunks` pieces of `chunk_tokens`.
    pub(crate) fn write(&self, path: &Path, text: &str, chunks: u32, chunk_tokens: u32) -> Result<()> {
        let mut metadata = Metadata::default();
        metadata.insert("general.type", "imatrix");
        metadata.insert("imatrix.datasets", vec![text.to_owned()]);
        metadata.insert("imatrix.chunk_count", chunks);
        metadata.insert("imatrix.chunk_size", chunk_tokens);
        let header = |name: String, shape| TensorHeader { name, shape, format: Format::F32 };
        let headers: Vec<TensorHeader> = self
            .by_tensor
            .iter()
            .flat_map(|(name, sums)| {
                let (experts, cols) = (sums.rows.len(), sums.squares.len() / sums.rows.len());
                let counts = header(format!("{name}{COUNTS}"), vec![experts, 1]);
                [header(format!("{name}{SUMS}"), vec![experts, cols]), counts]
            })
            .collect();
        let mut writer = Writer::create(path, &metadata, &headers)?;
        for sums in self.by_tensor.values() {
            for values in [&sums.squares, &sums.rows] {
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
                writer.write(&bytes)?;
            }
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
        let experts = Sums { squares: vec![2.0, 4.0, 6.0, 8.0, 9.0, 9.0], rows: vec![1.0, 2.0, 0.0] };
        importance.by_tensor.insert("blk.0.ffn_up_exps.weight".into(), experts);
        importance.write(&path, "text", 3, 512).unwrap();
        let read = Importance::open(&path).unwrap();
        assert_eq!(read, importance);
        assert_eq!(read.of("blk.0.attn_q.weight", 3, 1).unwrap(), [Some(vec![1.0, 2.0, 4.0])]);
        assert_eq!(read.of("blk.0.ffn_down.weight", 1, 1).unwrap(), [None]);
        assert_eq!(read.of("blk.1.attn_q.weight", 3, 1).unwrap(), [None]);
        assert!(read.of("blk.0.attn_q.weight", 4, 1).is_err());
        let of_experts = read.of("blk.0.ffn_up_exps.weight", 2, 3).unwrap();
        assert_eq!(of_experts, [Some(vec![2.0, 4.0]), Some(vec![3.0, 4.0]), None]);
        assert!(read.of("blk.0.ffn_up_exps.weight", 2, 2).is_err());
    }
}
