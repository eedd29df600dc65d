//! The weight matrices of a decoder and what each is stacked from: one list, from which the loader loads, memory plans
//! count and recipes choose formats.

use std::borrow::Cow;
use std::collections::HashMap;

use checkpoint::Checkpoint;
use tensor::{Backend, Footprint, Format, MatrixShape, ModelFacts, Role, TensorKind, TensorPlace, TensorView};

use crate::config::DecoderConfig;
use crate::decoder::LoadOptions;
use crate::error::ModelError;
use crate::weights::{Part, Place, Weights};

/// A matrix as a backend holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixSpec {
    /// What it is for.
    pub role: Role,
    /// The tensors that are stacked by rows.
    pub parts: Vec<PartSpec>,
    /// Values in a row.
    pub cols: usize,
}

/// One tensor of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSpec {
    /// Which tensor.
    pub place: Place,
    /// Its rows.
    pub rows: usize,
}

/// Gives a decoder that is being loaded its matrices: as the file stores them, or in another format.
pub trait MatrixSource {
    /// The matrix of one tensor; `stored` is what the file has, of the right shape.
    ///
    /// # Errors
    /// Whatever keeps it from being made.
    fn matrix<'a>(&'a self, place: Place, stored: TensorView<'a>) -> Result<MatrixData<'a>, ModelError>;
}

/// The bytes of a matrix, borrowed from a file or made.
#[derive(Clone, Debug)]
pub struct MatrixData<'a> {
    /// How the values are stored.
    pub format: Format,
    /// As [`TensorView::data`].
    pub data: Cow<'a, [u8]>,
}

/// The file's own matrices.
#[derive(Clone, Copy, Debug)]
pub struct AsStored;

impl MatrixSource for AsStored {
    fn matrix<'a>(&'a self, _: Place, stored: TensorView<'a>) -> Result<MatrixData<'a>, ModelError> {
        Ok(MatrixData { format: stored.format, data: Cow::Borrowed(stored.data) })
    }
}

/// The matrices of one layer.
pub(crate) struct LayerMatrices {
    pub(crate) qkv: MatrixSpec,
    pub(crate) attn_out: MatrixSpec,
    pub(crate) gate_up: MatrixSpec,
    pub(crate) down: MatrixSpec,
}

impl DecoderConfig {
    /// Every matrix, in the order in which they are loaded: the largest first, for the file's pages of a matrix are in
    /// memory beside all that has been loaded before.
    pub fn matrices(&self) -> impl Iterator<Item = MatrixSpec> + '_ {
        let layers = (0..self.layers.len()).flat_map(move |layer| {
            let LayerMatrices { qkv, attn_out, gate_up, down } = self.layer_matrices(layer);
            [qkv, attn_out, gate_up, down]
        });
        std::iter::once(self.embedding_matrix()).chain(self.head_matrix()).chain(layers)
    }

    /// The formats in which a file stores the matrices' tensors.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape.
    pub fn stored_formats(&self, checkpoint: &Checkpoint) -> Result<HashMap<Place, Format>, ModelError> {
        let weights = Weights::new(checkpoint, self);
        let mut formats = HashMap::new();
        for MatrixSpec { parts, cols, .. } in self.matrices() {
            for PartSpec { place, rows } in parts {
                formats.insert(place, weights.matrix(place, rows, cols)?.format);
            }
        }
        Ok(formats)
    }

    /// What the network takes on a backend in steps of the sizes of `options`, when its matrices have these formats.
    ///
    /// # Errors
    /// The backend's, for a format that it cannot compute with.
    pub fn footprint<B: Backend>(
        &self,
        backend: &B,
        options: &LoadOptions,
        format: impl Fn(Place) -> Format,
    ) -> Result<Footprint, ModelError> {
        let shape = |spec: MatrixSpec| MatrixShape {
            role: spec.role,
            parts: spec.parts.iter().map(|part| (format(part.place), part.rows)).collect(),
            cols: spec.cols,
        };
        let matrices: Vec<MatrixShape> = self.matrices().map(shape).collect();
        let max_context = options.max_context.unwrap_or(self.context_len);
        let dims = self.dims(options.max_rows, options.max_seqs, options.max_logit_rows, max_context);
        Ok(backend.footprint(&dims, &matrices)?)
    }

    /// What recipes for quantization want to know.
    pub fn facts(&self, importance: bool) -> ModelFacts {
        let first = self.layers.first();
        ModelFacts {
            layers: self.layers.len(),
            heads: first.map_or(0, |layer| layer.heads),
            kv_heads: first.map_or(0, |layer| layer.kv_heads),
            experts: 0,
            tied_embedding: self.tied,
            importance,
        }
    }

    pub(crate) fn embedding_matrix(&self) -> MatrixSpec {
        let role = if self.tied { Role::TiedHead } else { Role::Embedding };
        self.vocab_matrix(role, Part::Embedding)
    }

    /// `None` when the embedding is the head.
    pub(crate) fn head_matrix(&self) -> Option<MatrixSpec> {
        (!self.tied).then(|| self.vocab_matrix(Role::Head, Part::Head))
    }

    pub(crate) fn layer_matrices(&self, layer: usize) -> LayerMatrices {
        let spec = &self.layers[layer];
        let (q_len, kv_len) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let matrix = |role, parts: &[(Part, usize)], cols| {
            let part = |&(part, rows): &(Part, usize)| PartSpec { place: Place { part, layer: Some(layer) }, rows };
            MatrixSpec { role, parts: parts.iter().map(part).collect(), cols }
        };
        let qkv = [(Part::Query, q_len), (Part::Key, kv_len), (Part::Value, kv_len)];
        LayerMatrices {
            qkv: matrix(Role::Qkv, &qkv, self.dim),
            attn_out: matrix(Role::AttnOut, &[(Part::AttnOut, self.dim)], q_len),
            gate_up: matrix(Role::GateUp, &[(Part::Gate, spec.ffn), (Part::Up, spec.ffn)], self.dim),
            down: matrix(Role::Down, &[(Part::Down, self.dim)], spec.ffn),
        }
    }

    fn vocab_matrix(&self, role: Role, part: Part) -> MatrixSpec {
        MatrixSpec {
            role,
            parts: vec![PartSpec { place: Place { part, layer: None }, rows: self.vocab }],
            cols: self.dim,
        }
    }
}

impl Place {
    /// The tensor as recipes see it.
    pub fn for_recipe(self, cols: usize) -> TensorPlace {
        let kind = match self.part {
            Part::Embedding => TensorKind::Embedding,
            Part::Head => TensorKind::Output,
            Part::Key => TensorKind::AttnK,
            Part::Value => TensorKind::AttnV,
            Part::AttnOut => TensorKind::AttnOut,
            Part::Down => TensorKind::FfnDown,
            _ => TensorKind::Other,
        };
        TensorPlace { kind, layer: self.layer.unwrap_or(0), cols }
    }
}

impl MatrixData<'_> {
    /// The bytes as a matrix.
    ///
    /// # Panics
    /// When they are not what format and shape ask for: a bug of the [`MatrixSource`].
    pub(crate) fn view(&self, rows: usize, cols: usize) -> TensorView<'_> {
        TensorView::new(self.format, rows, cols, &self.data).expect("a source gives matrices of the stored shape")
    }
}
