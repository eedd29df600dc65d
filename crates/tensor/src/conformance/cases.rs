//! The list of cases.

use super::net::{Fill, Head, Net, RopeNet};
use super::{Case, Check};
use crate::Format;
use crate::backend::{Activation, RopeStyle};

/// Every case, in the order in which a failure tells most: single matrices first, whole networks last.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cases.extend(weights());
    cases.extend(mixed_parts());
    cases.extend(features());
    cases.extend(attention_shapes());
    cases.extend(kv_formats());
    cases.extend(long_prompts());
    cases.extend(whole_networks());
    cases.extend(sampling());
    cases.extend(page_copies());
    cases
}

fn case(name: impl Into<String>, check: Check, net: Net) -> Case {
    Case { name: name.into(), net, check }
}

/// Each format in each role, all else F32, with a width of one block of columns or so and an odd one.
fn weights() -> Vec<Case> {
    let mut cases = Vec::new();
    for format in Format::ALL {
        let widths = match format.block_len() {
            1 => [80, 208],
            32 => [96, 288],
            _ => [256, 768],
        };
        for width in widths {
            for (role, net) in roles(Fill::Random(format), width) {
                cases.push(case(format!("weights/{}/{role}/{width}", format.name()), Check::Rows, net));
            }
        }
    }
    cases
}

/// Networks in which one matrix, `width` columns wide, holds `fill`, and shows as directly as can be.
fn roles(fill: Fill, width: usize) -> [(&'static str, Net); 7] {
    let plain = Net::default;
    let wide = || Net { dim: width, vocab: width, ..Net::default() };
    let vocab = 101;
    let head_dim = if width.is_multiple_of(32) { 32 } else { 16 };
    let rope = Some(RopeNet { style: RopeStyle::Halves, rotary_dim: head_dim, magnitude: 1.0 });
    let mute = |net: Net| net.mute_attention().mute_mlp();
    [
        ("embed", mute(Net { embed: fill, ..wide() })),
        ("qkv", Net { q: fill, k: fill, v: fill, heads: 3, ..wide() }.mute_mlp()),
        ("attn_out", Net { attn_out: fill, heads: width / head_dim, head_dim, rope, ..plain() }.mute_mlp()),
        ("gate_up", Net { gate: fill, up: fill, ffn: 100, ..wide() }.mute_attention()),
        ("down", Net { down: fill, ffn: width, ..plain() }.mute_attention()),
        ("head", mute(Net { head: Head::Own(fill), vocab, embed_scale: 1.0, ..wide() })),
        ("tied_head", mute(Net { embed: fill, head: Head::Tied, vocab, embed_scale: 1.0, ..wide() })),
    ]
}

/// Stacked parts of different formats, as files have them.
fn mixed_parts() -> Vec<Case> {
    let random = Fill::Random;
    let wide = || Net { dim: 256, vocab: 256, heads: 4, kv_heads: 2, ..Net::default() };
    let qkv = |q, k, v| Net { q: random(q), k: random(k), v: random(v), ..wide() }.mute_mlp();
    let gate_up = |gate, up| Net { gate: random(gate), up: random(up), ..wide() }.mute_attention();
    let (q8_0, q5_0, q4_k, q6_k) = (Format::Q8_0, Format::Q5_0, Format::Q4_K, Format::Q6_K);
    [
        ("qkv/q4_k,q4_k,q6_k", qkv(q4_k, q4_k, q6_k)),
        ("qkv/q5_0,q5_0,q8_0", qkv(q5_0, q5_0, q8_0)),
        ("qkv/q4_k,q8_0,f16", qkv(q4_k, q8_0, Format::F16)),
        ("qkv/f32,bf16,q4_0", qkv(Format::F32, Format::BF16, Format::Q4_0)),
        ("gate_up/q4_k,q6_k", gate_up(q4_k, q6_k)),
        ("gate_up/q5_0,f32", gate_up(q5_0, Format::F32)),
    ]
    .map(|(name, net)| case(format!("mixed/{name}"), Check::Rows, net))
    .into()
}

/// Each thing that architectures differ in, one by one, in F32 weights.
fn features() -> Vec<Case> {
    let base = Net::default;
    let rope = |style, rotary_dim, magnitude| Some(RopeNet { style, rotary_dim, magnitude });
    let (halves, interleaved) = (RopeStyle::Halves, RopeStyle::Interleaved);
    [
        ("plain", base()),
        ("tied", Net { head: Head::Tied, vocab: 77, embed_scale: 1.0, ..base() }),
        ("embed_scale", Net { embed_scale: 25.3, ..base() }),
        ("rope_none", Net { rope: None, ..base() }),
        ("rope_interleaved", Net { rope: rope(interleaved, 32, 1.0), ..base() }),
        ("rope_partial_halves", Net { rope: rope(halves, 16, 1.0), ..base() }),
        ("rope_partial_interleaved", Net { rope: rope(interleaved, 8, 1.0), ..base() }),
        ("rope_magnitude", Net { rope: rope(halves, 32, 1.2), ..base() }),
        ("qkv_bias", Net { qkv_bias: true, ..base() }),
        ("out_bias", Net { out_bias: true, ..base() }),
        ("mlp_bias", Net { mlp_bias: true, ..base() }),
        ("qk_norm", Net { qk_norm: true, ..base() }),
        ("qk_norm_interleaved", Net { qk_norm: true, rope: rope(interleaved, 32, 1.0), ..base() }),
        ("post_norm", Net { post_norm: true, ..base() }),
        ("gelu", Net { activation: Activation::GeluTanh, ..base() }),
        ("attn_soft_cap", Net { attn_soft_cap: Some(1.5), ..base() }),
        ("logit_soft_cap", Net { logit_soft_cap: Some(2.0), ..base() }),
        ("window", Net { windows: vec![Some(5)], ..base() }),
        ("everything", everything()),
    ]
    .map(|(name, net)| case(format!("feature/{name}"), Check::Rows, net))
    .into()
}

/// All features at once.
fn everything() -> Net {
    Net {
        vocab: 101,
        heads: 4,
        kv_heads: 2,
        head: Head::Own(Fill::Random(Format::F32)),
        windows: vec![Some(20), None, Some(20)],
        rope: Some(RopeNet { style: RopeStyle::Interleaved, rotary_dim: 24, magnitude: 1.1 }),
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        qk_norm: true,
        post_norm: true,
        activation: Activation::GeluTanh,
        attn_soft_cap: Some(3.0),
        logit_soft_cap: Some(30.0),
        ..Net::default()
    }
}

/// Head sizes, group sizes, windows, over histories of several pages.
fn attention_shapes() -> Vec<Case> {
    //  head_dim, heads, kv_heads, window
    const SHAPES: [(usize, usize, usize, Option<usize>); 18] = [
        (16, 4, 2, None),
        (32, 1, 1, None),
        (64, 1, 1, None),
        (64, 9, 3, None),
        (64, 4, 4, None),
        (64, 8, 1, None),
        (64, 4, 2, Some(1)),
        (64, 4, 2, Some(8)),
        (64, 4, 2, Some(64)),
        (64, 4, 2, Some(100)),
        (64, 4, 2, Some(1000)),
        (80, 4, 2, None),
        (80, 4, 1, Some(65)),
        (96, 6, 2, None),
        (128, 4, 1, None),
        (128, 6, 2, Some(63)),
        (256, 4, 1, None),
        (256, 2, 2, Some(40)),
    ];
    let shape = |(head_dim, heads, kv_heads, window): (usize, usize, usize, Option<usize>)| {
        let window_name = window.map_or("all".into(), |window| window.to_string());
        let rope = Some(RopeNet { style: RopeStyle::Halves, rotary_dim: head_dim, magnitude: 1.0 });
        let net = Net { head_dim, heads, kv_heads, rope, windows: vec![window], ..Net::default() }.mute_mlp();
        case(format!("attention/{head_dim}x{heads}/{kv_heads}/{window_name}"), Check::Plans, net)
    };
    SHAPES.map(shape).into()
}

/// Formats of the KV pages.
fn kv_formats() -> Vec<Case> {
    const FORMATS: [Format; 5] = [Format::F32, Format::F16, Format::BF16, Format::Q8_0, Format::Q4_0];
    let mut cases = Vec::new();
    for (head_dim, heads, kv_heads) in [(64usize, 4, 2), (80, 3, 1), (96, 2, 2), (128, 4, 1), (256, 4, 1)] {
        for (key_format, value_format) in FORMATS.map(|f| (f, f)).into_iter().chain([(Format::Q8_0, Format::F16)]) {
            let quantized = |format: Format| format.block_len() > 1;
            if !head_dim.is_multiple_of(32) && (quantized(key_format) || quantized(value_format)) {
                continue;
            }
            let rope = Some(RopeNet { style: RopeStyle::Halves, rotary_dim: head_dim, magnitude: 1.0 });
            let base = Net { head_dim, heads, kv_heads, rope, key_format, value_format, ..Net::default() }.mute_mlp();
            let name = format!("kv/{},{}/{head_dim}x{heads}/{kv_heads}", key_format.name(), value_format.name());
            cases.push(case(format!("{name}/all"), Check::Plans, base.clone()));
            cases.push(case(format!("{name}/window"), Check::Plans, Net { windows: vec![Some(70)], ..base }));
        }
    }
    cases
}

/// Prompts of as many pages as a case can have, in F16 pages.
fn long_prompts() -> Vec<Case> {
    let shapes = [(64, 4, 2, None), (64, 3, 1, Some(90)), (80, 3, 1, None), (128, 4, 1, None), (256, 2, 1, Some(130))];
    shapes
        .map(|(head_dim, heads, kv_heads, window)| {
            let window_name = window.map_or("all".into(), |window: usize| window.to_string());
            let rope = Some(RopeNet { style: RopeStyle::Halves, rotary_dim: head_dim, magnitude: 1.0 });
            let (key_format, value_format) = (Format::F16, Format::F16);
            let base = Net { head_dim, heads, kv_heads, rope, key_format, value_format, ..Net::default() };
            let net = Net { windows: vec![window], ..base }.mute_mlp();
            case(format!("kv/f16,f16/long/{head_dim}x{heads}/{kv_heads}/{window_name}"), Check::Long, net)
        })
        .into()
}

/// Two layers with all weights in one format: no tolerance can be named for the sum of all errors, but a row must not
/// depend on its company.
fn whole_networks() -> Vec<Case> {
    let mut cases: Vec<Case> = Format::ALL
        .map(|format| {
            let (width, head_dim) = if format.block_len() == 256 { (256, 64) } else { (96, 32) };
            let net = Net {
                dim: width,
                vocab: 130,
                heads: width / head_dim,
                head_dim,
                rope: Some(RopeNet { style: RopeStyle::Halves, rotary_dim: head_dim, magnitude: 1.0 }),
                ffn: width,
                windows: vec![Some(50), None],
                ..Net::default()
            };
            case(format!("network/{}", format.name()), Check::Plans, net.all_weights(format))
        })
        .into();
    cases.push(case("network/everything", Check::Plans, everything()));
    cases
}

/// A vocabulary larger than its embedding is wide, whose tokens have many equal logits.
fn sampling() -> Vec<Case> {
    let net = || Net { dim: 64, vocab: 1000, ..Net::default() };
    let own = |fill| Net { head: Head::Own(fill), ..net() };
    [
        ("ties", own(Fill::Identity)),
        ("all_equal", own(Fill::Zero)),
        ("f32", own(Fill::Random(Format::F32))),
        ("q8_0", own(Fill::Random(Format::Q8_0))),
        ("soft_cap", Net { logit_soft_cap: Some(0.5), ..own(Fill::Random(Format::F32)) }),
        ("small_vocabulary", Net::default()),
    ]
    .map(|(name, net)| case(format!("top_k/{name}"), Check::TopK, net))
    .into()
}

fn page_copies() -> Vec<Case> {
    let kv = |format| Net { key_format: format, value_format: format, ..Net::default() };
    [
        ("f32", kv(Format::F32)),
        ("f16", kv(Format::F16)),
        ("bf16", kv(Format::BF16)),
        ("q8_0", kv(Format::Q8_0)),
        ("q4_0", kv(Format::Q4_0)),
        ("groups", everything()),
    ]
    .map(|(name, net)| case(format!("copy_page/{name}"), Check::CopyPage, net))
    .into()
}
