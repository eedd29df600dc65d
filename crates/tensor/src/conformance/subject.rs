//! A case's network on a backend: weights prepared, steps run, logits collected.

use super::net::{EPS, Fill, Head, MIN_VOCAB, Net, POOL_PAGES, TABLE_STRIDE};
use super::weights::{Random, Weights};
use crate::backend::{
    Attend, AttnOut, Backend, BackendError, Batch, Embed, Logits, Mlp, NO_PAGE, Norm, PAGE_TOKENS, Qkv, Role, SeqRows,
};

/// The logits of every token of every sequence: `[seq][position]` to `[vocab]`, or to nothing where they were not asked for.
pub(super) type Trace = Vec<Vec<Vec<f32>>>;

/// One step: the sequences in it, in batch order, and how many tokens each advances.
pub(super) type StepPlan = Vec<(usize, usize)>;

/// Where the pages of sequences lie in the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PageOrder {
    /// Sequence by sequence.
    Ascending,
    /// Anywhere, by this seed. Pages that a window can no longer see are given back.
    Shuffled(u64),
}

/// A network loaded into a backend.
pub(super) struct Subject<'n, B: Backend> {
    net: &'n Net,
    pub(super) backend: B,
    embed: B::Matrix,
    layers: Vec<Layer<B>>,
    final_norm: Norm<B::Vector>,
    /// `None` when tied.
    head: Option<B::Matrix>,
}

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

impl<'n, B: Backend> Subject<'n, B> {
    /// Loads the network. The same network has the same weights on every backend.
    pub(super) fn load(net: &'n Net, mut backend: B) -> Result<Self, BackendError> {
        backend.configure(&net.dims())?;
        let mut source = Source { random: Random::new(&[net.dim as u64, net.ffn as u64]), backend: &mut backend };
        let embed_role = if net.head == Head::Tied { Role::TiedHead } else { Role::Embedding };
        let embed = source.matrix(embed_role, &[(net.embed, net.vocab)], net.dim, 1.0)?;
        let layers = (0..net.windows.len()).map(|_| source.layer(net)).collect::<Result<_, _>>()?;
        let final_norm = source.norm(net.dim)?;
        let head = match net.head {
            Head::Tied => None,
            Head::Own(fill) => Some(source.matrix(Role::Head, &[(fill, net.vocab)], net.dim, unit(net.dim))?),
        };
        backend.allocate_kv(&net.kv_spec())?;
        Ok(Subject { net, backend, embed, layers, final_norm, head })
    }

    pub(super) fn net(&self) -> &'n Net {
        self.net
    }

    /// Runs sequences through steps cut as `plan` says. Every row's logits are asked for.
    pub(super) fn run(
        &mut self,
        prompts: &[Vec<u32>],
        plan: &[StepPlan],
        order: PageOrder,
    ) -> Result<Trace, BackendError> {
        self.run_asking(prompts, plan, order, |_| true)
    }

    /// The same, asking only for the logits at some positions. Others have none.
    pub(super) fn run_asking(
        &mut self,
        prompts: &[Vec<u32>],
        plan: &[StepPlan],
        order: PageOrder,
        is_asked: impl Fn(u32) -> bool,
    ) -> Result<Trace, BackendError> {
        let pages = Pages::new(self.net, prompts.len(), order);
        let mut trace: Trace = vec![Vec::new(); prompts.len()];
        for step in plan {
            let mut rows = StepRows::default();
            for &(seq, tokens) in step {
                rows.push(trace[seq].len(), &prompts[seq][trace[seq].len()..][..tokens]);
                rows.tables.extend(pages.tables(self.net, seq, trace[seq].len(), tokens));
            }
            let asked: Vec<bool> = rows.positions.iter().map(|&position| is_asked(position)).collect();
            rows.logit_rows.retain(|&row| asked[row as usize]);
            let mut logits = self.step(&rows)?.into_iter();
            let mut asked = asked.into_iter();
            for &(seq, tokens) in step {
                let of_rows = asked.by_ref().take(tokens);
                trace[seq].extend(of_rows.map(|is_asked| {
                    if is_asked { logits.next().expect("logits of each row that was asked for") } else { Vec::new() }
                }));
            }
        }
        Ok(trace)
    }

    /// Runs one step and returns the logits of its logit rows.
    pub(super) fn step(&mut self, rows: &StepRows) -> Result<Vec<Vec<f32>>, BackendError> {
        let net = self.net;
        let batch = Batch {
            tokens: &rows.tokens,
            positions: &rows.positions,
            seqs: &rows.seqs,
            tables: &rows.tables,
            table_stride: TABLE_STRIDE,
            logit_rows: &rows.logit_rows,
        };
        let backend = &mut self.backend;
        backend.begin_step(&batch)?;
        backend.embed(&Embed { table: &self.embed, scale: net.embed_scale });
        for (index, layer) in self.layers.iter().enumerate() {
            backend.qkv(&Qkv {
                layer: index,
                norm: &layer.attn_norm,
                weight: &layer.qkv,
                bias: layer.qkv_bias.as_ref(),
                q_norm: layer.q_norm.as_ref(),
                k_norm: layer.k_norm.as_ref(),
                rope: net.rope.map(|_| 0),
            });
            backend.attend(&Attend {
                layer: index,
                scale: unit(net.head_dim),
                window: net.windows[index],
                soft_cap: net.attn_soft_cap,
            });
            backend.attn_out(&AttnOut {
                layer: index,
                weight: &layer.attn_out,
                bias: layer.out_bias.as_ref(),
                post_norm: layer.attn_post_norm.as_ref(),
            });
            backend.mlp(&Mlp {
                layer: index,
                norm: &layer.mlp_norm,
                gate_up: &layer.gate_up,
                gate_up_bias: layer.gate_up_bias.as_ref(),
                down: &layer.down,
                down_bias: layer.down_bias.as_ref(),
                activation: net.activation,
                post_norm: layer.mlp_post_norm.as_ref(),
            });
        }
        let weight = self.head.as_ref().unwrap_or(&self.embed);
        backend.logits(&Logits { norm: &self.final_norm, weight, soft_cap: net.logit_soft_cap });
        backend.finish_step()?;
        let mut logits = Vec::new();
        for index in 0..rows.logit_rows.len() {
            let row = self.backend.logits_row(index)?;
            assert_eq!(row.len(), net.vocab, "logits of a row");
            logits.push(row.to_vec());
        }
        Ok(logits)
    }
}

/// The rows of one step, owned.
#[derive(Clone, Debug, Default)]
pub(super) struct StepRows {
    pub(super) tokens: Vec<u32>,
    pub(super) positions: Vec<u32>,
    pub(super) seqs: Vec<SeqRows>,
    pub(super) tables: Vec<u32>,
    pub(super) logit_rows: Vec<u32>,
}

impl StepRows {
    /// Adds a sequence that had `past` tokens and computes `tokens` now. Its tables are to be added by the caller.
    pub(super) fn push(&mut self, past: usize, tokens: &[u32]) {
        let first_row = self.tokens.len();
        self.tokens.extend(tokens);
        self.positions.extend((past as u32..).take(tokens.len()));
        self.seqs.push(SeqRows { first_row, rows: tokens.len(), past });
        self.logit_rows.extend((first_row as u32..).take(tokens.len()));
    }
}

/// Which pages each sequence holds in each group.
pub(super) struct Pages {
    /// `[group]`: pages in the order in which sequences take them.
    pools: Vec<Vec<u32>>,
    give_back: bool,
}

impl Pages {
    pub(super) fn new(net: &Net, seqs: usize, order: PageOrder) -> Pages {
        assert!(seqs * TABLE_STRIDE <= POOL_PAGES);
        let groups = 0..net.groups().len() as u64;
        let pools = groups.map(|group| match order {
            PageOrder::Ascending => (0..POOL_PAGES as u32).collect(),
            PageOrder::Shuffled(seed) => Random::new(&[seed, group]).permutation(POOL_PAGES),
        });
        Pages { pools: pools.collect(), give_back: order != PageOrder::Ascending }
    }

    /// The page tables `[groups][TABLE_STRIDE]` of a sequence for a step.
    pub(super) fn tables(&self, net: &Net, seq: usize, past: usize, tokens: usize) -> Vec<u32> {
        let held = (past + tokens).div_ceil(PAGE_TOKENS);
        let mut tables = Vec::new();
        for (pool, layers) in self.pools.iter().zip(net.groups()) {
            // A group's pages are given back when the widest window among its layers has passed them.
            let window = layers.iter().filter_map(|&layer| net.windows[layer]).max();
            let seen_from = window.filter(|_| self.give_back).map_or(0, |window| (past + 1).saturating_sub(window));
            tables.extend((0..TABLE_STRIDE).map(|page| {
                let visible = page < held && page >= seen_from / PAGE_TOKENS;
                if visible { pool[seq * TABLE_STRIDE + page] } else { NO_PAGE }
            }));
        }
        tables
    }
}

/// Random prompts of the given lengths.
pub(super) fn prompts(lens: &[usize]) -> Vec<Vec<u32>> {
    let mut random = Random::new(&[lens.len() as u64]);
    lens.iter().map(|&len| (0..len).map(|_| random.below(MIN_VOCAB) as u32).collect()).collect()
}

/// Makes random weights and prepares them, in a fixed order.
struct Source<'b, B: Backend> {
    random: Random,
    backend: &'b mut B,
}

impl<B: Backend> Source<'_, B> {
    fn layer(&mut self, net: &Net) -> Result<Layer<B>, BackendError> {
        let (q_len, kv_len) = (net.heads * net.head_dim, net.kv_heads * net.head_dim);
        // The gated product is smaller than its factors: the down projection makes up for it.
        let down_rms = 2.0 * unit(net.ffn);
        Ok(Layer {
            attn_norm: self.norm(net.dim)?,
            qkv: self.matrix(Role::Qkv, &[(net.q, q_len), (net.k, kv_len), (net.v, kv_len)], net.dim, unit(net.dim))?,
            qkv_bias: self.bias(net.qkv_bias, q_len + 2 * kv_len)?,
            q_norm: net.qk_norm.then(|| self.norm(net.head_dim)).transpose()?,
            k_norm: net.qk_norm.then(|| self.norm(net.head_dim)).transpose()?,
            attn_out: self.matrix(Role::AttnOut, &[(net.attn_out, net.dim)], q_len, unit(q_len))?,
            out_bias: self.bias(net.out_bias, net.dim)?,
            attn_post_norm: net.post_norm.then(|| self.norm(net.dim)).transpose()?,
            mlp_norm: self.norm(net.dim)?,
            gate_up: self.matrix(Role::GateUp, &[(net.gate, net.ffn), (net.up, net.ffn)], net.dim, unit(net.dim))?,
            gate_up_bias: self.bias(net.mlp_bias, 2 * net.ffn)?,
            down: self.matrix(Role::Down, &[(net.down, net.dim)], net.ffn, down_rms)?,
            down_bias: self.bias(net.mlp_bias, net.dim)?,
            mlp_post_norm: net.post_norm.then(|| self.norm(net.dim)).transpose()?,
        })
    }

    fn matrix(
        &mut self,
        role: Role,
        parts: &[(Fill, usize)],
        cols: usize,
        rms: f32,
    ) -> Result<B::Matrix, BackendError> {
        let parts: Vec<Weights> =
            parts.iter().map(|&(fill, rows)| Weights::new(fill, rows, cols, rms, &mut self.random)).collect();
        let views: Vec<_> = parts.iter().map(Weights::view).collect();
        self.backend.prepare_matrix(role, &views)
    }

    /// A norm with weights around 1.
    fn norm(&mut self, width: usize) -> Result<Norm<B::Vector>, BackendError> {
        let weight: Vec<f32> = (0..width).map(|_| 1.0 + 0.2 * self.random.normal()).collect();
        Ok(Norm { weight: self.backend.prepare_vector(&weight)?, eps: EPS })
    }

    fn bias(&mut self, wanted: bool, len: usize) -> Result<Option<B::Vector>, BackendError> {
        let values: Vec<f32> = (0..len).map(|_| 0.5 * self.random.normal()).collect();
        wanted.then(|| self.backend.prepare_vector(&values)).transpose()
    }
}

/// Root mean square of the weights of a matrix with `cols` columns whose outputs are as large as its inputs.
fn unit(cols: usize) -> f32 {
    1.0 / (cols as f32).sqrt()
}
