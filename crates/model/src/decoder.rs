//! The one forward pass: every network here is this loop over a backend's stages.

use checkpoint::Checkpoint;
use tensor::{
    Activation, Attend, AttnOut, Backend, BackendError, Batch, Embed, Format, KvGroup, KvSpec, LIKELIEST, Logits, Mlp,
    Norm, PAGE_TOKENS, Qkv, TopK,
};

use crate::config::{DecoderConfig, LayerConfig};
use crate::error::ModelError;
use crate::matrices::{AsStored, LayerMatrices, MatrixData, MatrixSource, MatrixSpec};
use crate::weights::{Part, Place, Weights};

/// A loaded network: its weights in a backend's own form.
pub struct Decoder<B: Backend> {
    config: DecoderConfig,
    options: LoadOptions,
    kv_groups: Vec<KvGroupShape>,
    backend: B,
    embedding: B::Matrix,
    layers: Vec<Layer<B>>,
    final_norm: Norm<B::Vector>,
    /// `None` when the embedding is the head.
    head: Option<B::Matrix>,
}

/// The sizes of steps, which a backend's scratch memory is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Most rows in a step.
    pub max_rows: usize,
    /// Most sequences in a step.
    pub max_seqs: usize,
    /// Most logit rows in a step.
    pub max_logit_rows: usize,
    /// Most tokens in a sequence; the model's own context length when `None`.
    pub max_context: Option<usize>,
}

impl Default for LoadOptions {
    /// Enough for one sequence at a time.
    fn default() -> Self {
        LoadOptions { max_rows: 512, max_seqs: 8, max_logit_rows: 64, max_context: None }
    }
}

/// How far a load has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file's tensors prepared so far.
    pub loaded_bytes: u64,
    /// Bytes of all tensors in the file.
    pub total_bytes: u64,
}

/// Layers that share page tables: those with full attention, and those with a sliding window of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvGroupShape {
    /// Layer indices, ascending.
    pub layers: Vec<usize>,
    /// Tokens that these layers see; `None` for all.
    pub window: Option<usize>,
    /// Values of keys, and as many of values, that one token takes in each layer: kv_heads * head_dim.
    pub layer_values: Vec<usize>,
}

impl KvGroupShape {
    /// Bytes of a page: [`PAGE_TOKENS`] tokens of every layer in the group, as GGUF's block formats store them. A
    /// backend's own layout has the same size or is a little larger. `None` when a head is no whole number of blocks.
    pub fn page_bytes(&self, key_format: Format, value_format: Format) -> Option<u64> {
        let token_bytes = |&values: &usize| Some(key_format.row_bytes(values)? + value_format.row_bytes(values)?);
        let bytes: usize = self.layer_values.iter().map(token_bytes).sum::<Option<usize>>()?;
        Some(bytes as u64 * PAGE_TOKENS as u64)
    }
}

/// One layer's weights.
struct Layer<B: Backend> {
    attn_norm: Norm<B::Vector>,
    qkv: B::Matrix,
    qkv_bias: Option<B::Vector>,
    q_norm: Option<Norm<B::Vector>>,
    k_norm: Option<Norm<B::Vector>>,
    attn_out: B::Matrix,
    out_bias: Option<B::Vector>,
    attn_post_norm: Option<Norm<B::Vector>>,
    mlp_norm: Norm<B::Vector>,
    gate_up: B::Matrix,
    gate_up_bias: Option<B::Vector>,
    down: B::Matrix,
    down_bias: Option<B::Vector>,
    mlp_post_norm: Option<Norm<B::Vector>>,
}

impl<B: Backend> Decoder<B> {
    /// Hands all weights to the backend. `progress` is called after each matrix.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape than `config` asks for, one that no layer knows, or the backend's.
    pub fn load(
        checkpoint: &Checkpoint,
        config: DecoderConfig,
        backend: B,
        options: &LoadOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ModelError> {
        Decoder::load_from(checkpoint, &AsStored, config, backend, options, progress)
    }

    /// [`Decoder::load`] with matrices as `source` gives them. One matrix is made at a time.
    pub fn load_from(
        checkpoint: &Checkpoint,
        source: &dyn MatrixSource,
        config: DecoderConfig,
        mut backend: B,
        options: &LoadOptions,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Self, ModelError> {
        let max_context = options.max_context.unwrap_or(config.context_len);
        if max_context == 0 || max_context > config.context_len {
            let wanted = format!("in [1, {}], the model's context length", config.context_len);
            return Err(ModelError::out_of_range("maximum context", max_context, wanted));
        }
        let options = LoadOptions { max_context: Some(max_context), ..*options };
        let dims = config.dims(options.max_rows, options.max_seqs, options.max_logit_rows, max_context);
        backend.configure(&dims)?;

        let weights = Weights::new(checkpoint, &config);
        let total_bytes = weights.total_bytes();
        let backend_ref = &mut backend;
        let mut loader =
            Loader { weights, source, config: &config, backend: backend_ref, progress, total_bytes, loaded_bytes: 0 };
        // In the order of `DecoderConfig::matrices`.
        let embedding = loader.matrix(&config.embedding_matrix())?;
        let head = config.head_matrix().map(|head| loader.matrix(&head)).transpose()?;
        let layers = config.layers.iter().enumerate();
        let layers = layers.map(|(index, layer)| loader.layer(index, layer)).collect::<Result<_, _>>()?;
        let final_norm = loader.norm(Part::FinalNorm, None, config.dim)?;
        loader.weights.check_all_used()?;

        let kv_groups = config.kv_groups();
        Ok(Decoder { config, options, kv_groups, backend, embedding, layers, final_norm, head })
    }

    /// What the network is.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// The sizes that it was loaded for; `max_context` is always there.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// Most tokens in a sequence.
    pub fn max_context(&self) -> usize {
        self.options.max_context.unwrap_or(self.config.context_len)
    }

    /// The groups of layers whose KV pages are given out together. Batches carry one page table for each, in this order.
    pub fn kv_groups(&self) -> &[KvGroupShape] {
        &self.kv_groups
    }

    /// A KV cache with `pages[g]` pages for group `g`.
    pub fn kv_spec(&self, key_format: Format, value_format: Format, pages: &[usize]) -> KvSpec {
        let group = |(shape, &pages): (&KvGroupShape, &usize)| KvGroup { layers: shape.layers.clone(), pages };
        KvSpec { key_format, value_format, groups: self.kv_groups.iter().zip(pages).map(group).collect() }
    }

    /// Allocates the KV cache. Its groups must be those of [`Decoder::kv_groups`]; [`Decoder::kv_spec`] makes it so.
    pub fn allocate_kv(&mut self, spec: &KvSpec) -> Result<(), BackendError> {
        self.backend.allocate_kv(spec)
    }

    /// Computes a batch. Logits are then had by [`Decoder::top_k`] and [`Decoder::logits_row`] until the next step.
    pub fn step(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        self.describe_step(batch)?;
        self.backend.finish_step()
    }

    /// [`Decoder::step`] without waiting for the device; [`Backend::await_step`] waits for it.
    pub fn start(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        self.describe_step(batch)?;
        self.backend.start_step()
    }

    /// Tells the backend a step's stages.
    fn describe_step(&mut self, batch: &Batch<'_>) -> Result<(), BackendError> {
        let Decoder { config, backend, .. } = self;
        let is_known = |token: u32| (token as usize) < config.vocab || (token == LIKELIEST && backend.runs_ahead());
        if let Some(token) = batch.tokens.iter().find(|token| !is_known(**token)) {
            return Err(BackendError::Unsupported {
                device: backend.describe(),
                what: format!("token {token}"),
                limit: format!("the vocabulary has {} tokens", config.vocab),
            });
        }
        backend.begin_step(batch)?;
        backend.embed(&Embed { table: &self.embedding, scale: config.embed_scale });
        for (index, (layer, spec)) in self.layers.iter().zip(&config.layers).enumerate() {
            layer.run(index, spec, config.activation, backend);
        }
        backend.logits(&Logits {
            norm: &self.final_norm,
            weight: self.head.as_ref().unwrap_or(&self.embedding),
            soft_cap: config.logit_soft_cap,
        });
        Ok(())
    }

    /// The `k` greatest logits of each logit row of the last step.
    pub fn top_k(&mut self, k: usize, out: &mut Vec<TopK>) -> Result<(), BackendError> {
        self.backend.top_k(k, out)
    }

    /// All logits of a logit row of the last step: `[vocab]`.
    pub fn logits_row(&mut self, index: usize) -> Result<&[f32], BackendError> {
        self.backend.logits_row(index)
    }

    /// Copies a KV page in every layer of a group.
    pub fn copy_page(&mut self, group: usize, from: u32, to: u32) -> Result<(), BackendError> {
        self.backend.copy_page(group, from, to)
    }

    /// The backend, for what only it can tell.
    pub fn backend_mut(&mut self) -> &mut B {
        &mut self.backend
    }

    /// The backend.
    pub fn backend(&self) -> &B {
        &self.backend
    }

    /// The backend, in one line for people.
    pub fn describe_backend(&self) -> String {
        self.backend.describe()
    }
}

impl<B: Backend> Layer<B> {
    fn run(&self, index: usize, spec: &LayerConfig, activation: Activation, backend: &mut B) {
        backend.qkv(&Qkv {
            layer: index,
            norm: &self.attn_norm,
            weight: &self.qkv,
            bias: self.qkv_bias.as_ref(),
            q_norm: self.q_norm.as_ref(),
            k_norm: self.k_norm.as_ref(),
            rope: spec.rope,
        });
        backend.attend(&Attend {
            layer: index,
            scale: spec.attn_scale,
            window: spec.window,
            soft_cap: spec.attn_soft_cap,
        });
        backend.attn_out(&AttnOut {
            layer: index,
            weight: &self.attn_out,
            bias: self.out_bias.as_ref(),
            post_norm: self.attn_post_norm.as_ref(),
        });
        backend.mlp(&Mlp {
            layer: index,
            norm: &self.mlp_norm,
            gate_up: &self.gate_up,
            gate_up_bias: self.gate_up_bias.as_ref(),
            down: &self.down,
            down_bias: self.down_bias.as_ref(),
            activation,
            post_norm: self.mlp_post_norm.as_ref(),
        });
    }
}

impl DecoderConfig {
    /// Layers by window: full attention first, then windows, least first.
    pub fn kv_groups(&self) -> Vec<KvGroupShape> {
        let mut windows: Vec<Option<usize>> = self.layers.iter().map(|layer| layer.window).collect();
        windows.sort();
        windows.dedup();
        let group = |window| {
            let members = || self.layers.iter().enumerate().filter(move |(_, layer)| layer.window == window);
            KvGroupShape {
                layers: members().map(|(index, _)| index).collect(),
                window,
                layer_values: members().map(|(_, layer)| layer.kv_heads * layer.head_dim).collect(),
            }
        };
        windows.into_iter().map(group).collect()
    }
}

/// Prepares weights and counts bytes.
struct Loader<'a, B: Backend> {
    weights: Weights<'a>,
    source: &'a dyn MatrixSource,
    config: &'a DecoderConfig,
    backend: &'a mut B,
    progress: &'a mut dyn FnMut(Progress),
    total_bytes: u64,
    loaded_bytes: u64,
}

impl<B: Backend> Loader<'_, B> {
    fn layer(&mut self, index: usize, spec: &LayerConfig) -> Result<Layer<B>, ModelError> {
        let dim = self.config.dim;
        let LayerMatrices { qkv, attn_out, gate_up, down } = self.config.layer_matrices(index);
        Ok(Layer {
            attn_norm: self.norm(Part::AttnNorm, Some(index), dim)?,
            qkv: self.matrix(&qkv)?,
            qkv_bias: self.bias(spec.qkv_bias, &qkv)?,
            q_norm: self.optional_norm(spec.qk_norm, Part::QueryNorm, index, spec.head_dim)?,
            k_norm: self.optional_norm(spec.qk_norm, Part::KeyNorm, index, spec.head_dim)?,
            attn_out: self.matrix(&attn_out)?,
            out_bias: self.bias(spec.out_bias, &attn_out)?,
            attn_post_norm: self.optional_norm(spec.post_norms, Part::AttnPostNorm, index, dim)?,
            mlp_norm: self.norm(Part::MlpNorm, Some(index), dim)?,
            gate_up: self.matrix(&gate_up)?,
            gate_up_bias: self.bias(spec.mlp_bias, &gate_up)?,
            down: self.matrix(&down)?,
            down_bias: self.bias(spec.mlp_bias, &down)?,
            mlp_post_norm: self.optional_norm(spec.post_norms, Part::MlpPostNorm, index, dim)?,
        })
    }

    /// Has a matrix made and prepared; the file's pages of it are then given back.
    fn matrix(&mut self, spec: &MatrixSpec) -> Result<B::Matrix, ModelError> {
        let (source, cols) = (self.source, spec.cols);
        let stored = spec.parts.iter().map(|part| self.weights.matrix(part.place, part.rows, cols));
        let stored = stored.collect::<Result<Vec<_>, _>>()?;
        let made = spec.parts.iter().zip(&stored).map(|(part, &view)| source.matrix(part.place, view));
        let made = made.collect::<Result<Vec<MatrixData<'_>>, _>>()?;
        let views: Vec<_> = spec.parts.iter().zip(&made).map(|(part, data)| data.view(part.rows, cols)).collect();
        let matrix = self.backend.prepare_matrix(spec.role, &views)?;
        self.loaded_bytes += stored.iter().map(|view| view.data.len() as u64).sum::<u64>();
        spec.parts.iter().for_each(|part| self.weights.release(part.place));
        (self.progress)(Progress { loaded_bytes: self.loaded_bytes, total_bytes: self.total_bytes });
        Ok(matrix)
    }

    fn bias(&mut self, wanted: bool, of: &MatrixSpec) -> Result<Option<B::Vector>, ModelError> {
        if !wanted {
            return Ok(None);
        }
        let mut stacked = Vec::new();
        for part in &of.parts {
            stacked.extend(self.weights.bias(part.place, part.rows)?);
        }
        Ok(Some(self.backend.prepare_vector(&stacked)?))
    }

    fn norm(&mut self, part: Part, layer: Option<usize>, len: usize) -> Result<Norm<B::Vector>, ModelError> {
        let weight = self.weights.norm(Place { part, layer }, len)?;
        Ok(Norm { weight: self.backend.prepare_vector(&weight)?, eps: self.config.norm_eps })
    }

    fn optional_norm(
        &mut self,
        wanted: bool,
        part: Part,
        layer: usize,
        len: usize,
    ) -> Result<Option<Norm<B::Vector>>, ModelError> {
        wanted.then(|| self.norm(part, Some(layer), len)).transpose()
    }
}
