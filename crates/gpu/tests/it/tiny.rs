//! The smallest network, for tests of all that is around the kernels.

use std::sync::Arc;

use gpu::{Gpu, GpuBackend};
use tensor::{
    Backend, BackendError, Batch, Dims, Embed, Format, KvSpec, Logits, Norm, Role, SeqRows, TensorView, TopK,
};

/// An embedding and a head, nothing between.
pub(crate) struct Tiny {
    pub(crate) backend: GpuBackend,
    table: <GpuBackend as Backend>::Matrix,
    norm: Norm<<GpuBackend as Backend>::Vector>,
    /// Of the step finished last.
    pub(crate) greatest: Vec<TopK>,
}

impl Tiny {
    pub(crate) fn load(gpu: &Arc<Gpu>) -> Result<Tiny, BackendError> {
        const WIDTH: usize = 64;
        let dims = Dims {
            dim: WIDTH,
            vocab: WIDTH,
            layers: Vec::new(),
            ropes: Vec::new(),
            max_rows: 8,
            max_seqs: 1,
            max_logit_rows: 8,
            max_context: 64,
        };
        let mut backend = GpuBackend::new(gpu.clone());
        backend.configure(&dims)?;
        // Values without a pattern, so that a token is followed by another.
        let value = |i: usize| (i * 40_503 % 1009) as f32 / 1009.0 - 0.5;
        let bytes: Vec<u8> = (0..WIDTH * WIDTH).flat_map(|i| value(i).to_le_bytes()).collect();
        let view = TensorView::new(Format::F32, WIDTH, WIDTH, &bytes).expect("sized for it");
        let table = backend.prepare_matrix(Role::TiedHead, &[view])?;
        let norm = Norm {
            weight: backend.prepare_vector(&std::array::from_fn::<f32, WIDTH, _>(|i| value(7 * i + 1)))?,
            eps: 1e-6,
        };
        backend.allocate_kv(&KvSpec { key_format: Format::F16, value_format: Format::F16, groups: Vec::new() })?;
        Ok(Tiny { backend, table, norm, greatest: Vec::new() })
    }

    /// One step of a token.
    pub(crate) fn step(&mut self) -> Result<(), BackendError> {
        self.start(3)?;
        self.finish()
    }

    /// Starts a step of `token`.
    pub(crate) fn start(&mut self, token: u32) -> Result<(), BackendError> {
        self.backend.begin_step(&Batch {
            tokens: &[token],
            positions: &[0],
            seqs: &[SeqRows { first_row: 0, rows: 1, past: 0 }],
            tables: &[],
            table_stride: 0,
            logit_rows: &[0],
        })?;
        self.backend.embed(&Embed { table: &self.table, scale: 1.0 });
        self.backend.logits(&Logits { norm: &self.norm, weight: &self.table, soft_cap: None });
        self.backend.start_step()
    }

    /// Waits for the oldest step that was started.
    pub(crate) fn finish(&mut self) -> Result<(), BackendError> {
        self.backend.await_step()?;
        self.backend.top_k(1, &mut self.greatest)
    }
}
