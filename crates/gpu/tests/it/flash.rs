//! Attention of prompts by cooperative matrices, for every head size, beside the textbook's: the conformance suite has it too, but
//! software takes minutes for its networks.

use std::sync::Arc;

use gpu::{Gpu, GpuBackend, GpuOptions, list_adapters};
use tensor::{
    Attend, AttnOut, Backend, Batch, Dims, Embed, Format, KvGroup, KvSpec, LayerDims, Logits, Norm, Qkv, Role, SeqRows,
    TensorView,
};

/// More rows than the kernels of decode take.
const ROWS: usize = 40;
const WIDTH: usize = 64;

/// Greatest relative error of a row: both factors are rounded to f16.
const TOLERANCE: f64 = 3e-3;

#[test]
fn flash_attention_of_every_head_size_gives_what_the_plain_one_gives() {
    let cooperative = || Gpu::open(GpuOptions::default()).is_ok_and(|gpu| gpu.describe_kernels().contains("matrices"));
    if list_adapters().is_empty() || !cooperative() {
        println!("skipped: flash attention: no cooperative matrices");
        return;
    }
    for head_dim in [64, 80, 96, 128, 256] {
        let run = |flash_attention| {
            // The self-test before would run a whole network of the suite.
            let options = GpuOptions { flash_attention, self_test: false, ..GpuOptions::default() };
            logits(Arc::new(Gpu::open(options).expect("an adapter is listed")), head_dim, flash_attention)
        };
        let (wanted, got) = (run(false), run(true));
        for (row, (wanted, got)) in wanted.iter().zip(&got).enumerate() {
            let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
            let error = norm(&mut wanted.iter().zip(got).map(|(&w, &g)| f64::from(g) - f64::from(w)))
                / norm(&mut wanted.iter().map(|&w| f64::from(w)));
            // Written so that a NaN fails.
            assert!(error <= TOLERANCE, "head size {head_dim}, row {row}: relative error {error:.1e}");
        }
    }
}

/// Logits of the last rows of a prompt behind one layer of attention, two query heads to a KV head, all weights f32.
fn logits(gpu: Arc<Gpu>, head_dim: usize, flash: bool) -> Vec<Vec<f32>> {
    let (heads, kv_heads) = (2, 1);
    let mut backend = GpuBackend::new(gpu);
    let dims = Dims {
        dim: WIDTH,
        vocab: WIDTH,
        layers: vec![LayerDims { heads, kv_heads, head_dim, ffn: WIDTH }],
        ropes: Vec::new(),
        max_rows: 64,
        max_seqs: 1,
        max_logit_rows: 4,
        max_context: 64,
    };
    backend.configure(&dims).expect("there are kernels");
    let mut matrix = |role, rows: usize, cols: usize| {
        let value = |i: usize| (i * 40_503 % 1009) as f32 / 1009.0 - 0.5;
        let bytes: Vec<u8> = (0..rows * cols).flat_map(|i| value(i + rows).to_le_bytes()).collect();
        let view = TensorView::new(Format::F32, rows, cols, &bytes).expect("sized for it");
        backend.prepare_matrix(role, &[view]).expect("it fits")
    };
    let table = matrix(Role::TiedHead, WIDTH, WIDTH);
    let qkv = matrix(Role::Qkv, (heads + 2 * kv_heads) * head_dim, WIDTH);
    let out = matrix(Role::AttnOut, WIDTH, heads * head_dim);
    let norm = Norm { weight: backend.prepare_vector(&[1.0; WIDTH]).expect("it fits"), eps: 1e-6 };
    let groups = vec![KvGroup { layers: vec![0], pages: 1 }];
    backend.allocate_kv(&KvSpec { key_format: Format::F16, value_format: Format::F16, groups }).expect("it fits");
    let tokens: Vec<u32> = (0..ROWS as u32).collect();
    backend
        .begin_step(&Batch {
            tokens: &tokens,
            positions: &tokens,
            seqs: &[SeqRows { first_row: 0, rows: ROWS, past: 0 }],
            tables: &[0],
            table_stride: 1,
            logit_rows: &tokens[ROWS - 4..],
        })
        .expect("valid");
    backend.embed(&Embed { table: &table, scale: 1.0 });
    let (bias, q_norm, k_norm, rope) = (None, None, None, None);
    backend.qkv(&Qkv { layer: 0, norm: &norm, weight: &qkv, bias, q_norm, k_norm, rope });
    backend.attend(&Attend { layer: 0, scale: 0.3, window: None, soft_cap: None });
    backend.attn_out(&AttnOut { layer: 0, weight: &out, bias: None, post_norm: None });
    backend.logits(&Logits { norm: &norm, weight: &table, soft_cap: None });
    backend.finish_step().expect("runs");
    let ran = backend.kernels().iter().any(|(kernel, _)| kernel.contains("flash attend"));
    assert_eq!(ran, flash, "head size {head_dim}: {:?}", backend.kernels());
    (0..4).map(|row| backend.logits_row(row).expect("runs").to_vec()).collect()
}
