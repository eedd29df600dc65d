//! Every kind of kernel through naga: valid, printable as Metal's language and as SPIR-V, and free of what would slow it
//! down. No Metal compiler exists outside of macOS; this is as near as a test gets without one.

use naga::back::{msl, spv};
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::{Capabilities, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use tensor::{Activation, Format};

use super::*;
use crate::kv::KvFormat;
use crate::layout::is_native;

const KV_FORMATS: [KvFormat; 5] = [KvFormat::F32, KvFormat::F16, KvFormat::BF16, KvFormat::Q8, KvFormat::Q4];

/// What Metal's text must not have: bounds checks by buffer sizes, guards in loops, checked division, zeroed memory.
const SLOW: [&str; 5] =
    ["_buffer_sizes.", "loop_bound", "naga_div", "naga_mod", "__local_invocation_id == metal::uint3(0u)"];

#[test]
fn metal_text_of_every_kernel_has_no_checks_and_reduces_in_simd_groups() {
    for (source, reduces) in every_kernel() {
        let text = metal(&source);
        let name = source.lines().next().expect("a name");
        for slow in SLOW {
            assert!(!text.contains(slow), "{name}: {slow} in\n{text}");
        }
        assert_eq!(text.contains("simd_sum"), reduces, "{name}:\n{text}");
        let cooperative = source.contains("coopMultiplyAdd");
        assert_eq!(text.contains("simdgroup_multiply_accumulate"), cooperative, "{name}:\n{text}");
    }
}

#[test]
fn spirv_of_every_kernel_can_be_written() {
    for (source, _) in every_kernel() {
        let (module, info) = validated(&source);
        let options = spv::Options { lang_version: (1, 3), ..spv::Options::default() };
        let pipeline = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".into() };
        let words = spv::write_vec(&module, &info, &options, Some(&pipeline));
        assert!(words.is_ok_and(|words| words.len() > 100), "{source}");
    }
}

/// The text of at least one variant of every template and every branch in it, and whether it sums by subgroups.
fn every_kernel() -> Vec<(String, bool)> {
    let mut kernels: Vec<(String, bool)> = Vec::new();
    let mut plain = |source: String| kernels.push((source, false));
    for format in Format::ALL.into_iter().filter(|format| is_native(*format)) {
        plain(embed(format));
        plain(unpack(format));
        for edge in [None, Some(8), Some(16)] {
            for (add, bias) in [(false, false), (true, true)] {
                plain(matmul(&MatmulShape { format, add, bias, cooperative: edge, workgroup: 128 }));
            }
        }
        for (edge, batch_rows, outputs) in [(8, 16, 16), (8, 32, 16), (16, 16, 32), (16, 32, 16)] {
            for (epilogue, bias) in epilogues() {
                let shape = SkinnyShape { format, outputs, batch_rows, bias, epilogue, edge, subgroup_size: 32 };
                plain(skinny(&shape));
            }
        }
        for add in [false, true] {
            let halves = WideTile { batch_rows: 256, outputs: 64, depth: 32 };
            let halves = (format == Format::F16).then_some(halves);
            for tile in [PACKED_TILE, WideTile { batch_rows: FEW, ..PACKED_TILE }].into_iter().chain(halves) {
                for (depths, ragged) in [(1, true), (4, false)] {
                    plain(wide(&WideShape { format, add, tile, ragged, depths, subgroup_size: 32 }));
                }
            }
        }
    }
    for norm in [false, true] {
        plain(to_halves(norm));
        plain(add_depths(4, norm));
    }
    plain(sum_norm_halves(16));
    for activation in [Activation::Silu, Activation::GeluTanh] {
        plain(gate(activation));
        plain(gate_halves(activation, 1));
        plain(gate_halves(activation, 3));
    }
    for source in [norm_rows(), gather_norm(), add_rms_norm(), copy(), soft_cap()] {
        plain(source);
    }
    for keep in [1, 64] {
        for (first, last) in [(true, true), (true, false), (false, true), (false, false)] {
            plain(top_k(&TopShape { keep, first, last }));
        }
    }
    for (key, value) in KV_FORMATS.into_iter().flat_map(|key| KV_FORMATS.map(|value| (key, value))) {
        for (head_dim, soft_cap) in [(64, false), (96, true), (256, true)] {
            let shape = AttendShape {
                heads: 4,
                kv_heads: 2,
                head_dim,
                soft_cap,
                key,
                value,
                alone: false,
                fresh: None,
                halves: false,
                ahead: false,
            };
            plain(attend(&shape));
            plain(attend(&AttendShape { alone: true, halves: true, ..shape }));
            plain(plain_attend(&shape));
            plain(merge_splits(head_dim, soft_cap));
            for (pairs, interleaved, q_norm, k_norm) in [(0, false, false, false), (head_dim / 2, true, true, true)] {
                let turn = Turn { pairs, interleaved, q_norm, k_norm };
                plain(rope_and_store(&RopeShape { heads: 4, kv_heads: 2, head_dim, turn, key, value }));
                plain(attend(&AttendShape { fresh: Some(turn), ahead: q_norm, ..shape }));
            }
        }
    }
    for (head_dim, soft_cap) in [(64, false), (80, true), (128, false), (256, true)] {
        for (edge, subgroup_size) in [(8, 32), (16, 32), (8, 8), (16, 64)] {
            let shape = FlashShape { heads: 6, kv_heads: 2, head_dim, soft_cap, edge, subgroup_size };
            // Eight lanes are too few for large heads.
            assert_eq!(shape.exists(), subgroup_size > 8 || head_dim <= 64, "{shape:?}");
            if shape.exists() {
                plain(flash(&shape));
            }
        }
    }
    for norm in [false, true] {
        kernels.push((to_bytes(norm, 32), norm));
    }
    for format in Format::ALL.into_iter().filter(|format| has_dots(*format)) {
        for batch_rows in [1, 8] {
            for (epilogue, bias) in epilogues() {
                let (lanes, groups) = (32, 4);
                let shape = DotsShape { format, batch_rows, weight_rows: 2, bias, epilogue, lanes, groups };
                kernels.push((dots(&shape), true));
            }
        }
        for (epilogue, bias) in epilogues() {
            let parts = if matches!(epilogue, Epilogue::Gate(_)) { 1 } else { MOST_PARTS };
            let formats = [format, Format::Q6_K, Format::Q8_0, format][..parts].to_vec();
            for (outputs, ahead) in [(2, true), (4, false)] {
                let formats = formats.clone();
                let (units, norm, lanes, groups) = (16, bias, 32, 4);
                let shape = SingleShape { formats, units, outputs, ahead, norm, bias, epilogue, lanes, groups };
                kernels.push((single(&shape), true));
            }
        }
    }
    for format in Format::ALL.into_iter().filter(|format| is_native(*format)) {
        for batch_rows in [1, 2, 4, 8] {
            for (subgroups, staged) in [(true, batch_rows == 1), (true, false), (false, false)] {
                for ((epilogue, bias), norm) in epilogues().into_iter().flat_map(|e| [(e, false), (e, true)]) {
                    let (lanes, groups) = if subgroups { (32, 4) } else { (32, 1) };
                    let shape = MatvecShape {
                        format,
                        batch_rows,
                        weight_rows: 2,
                        norm,
                        bias,
                        epilogue,
                        lanes,
                        groups,
                        subgroups,
                        staged,
                    };
                    kernels.push((matvec(&shape), subgroups));
                }
            }
        }
    }
    kernels
}

fn epilogues() -> [(Epilogue, bool); 4] {
    [
        (Epilogue::Store, false),
        (Epilogue::Add, true),
        (Epilogue::Gate(Activation::Silu), false),
        (Epilogue::Gate(Activation::GeluTanh), true),
    ]
}

fn validated(source: &str) -> (naga::Module, naga::valid::ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    let mut validator = Validator::new(ValidationFlags::all(), Capabilities::all());
    validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    let info = validator.validate(&module).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    (module, info)
}

/// As wgpu prints it for a trusted module without run-time checks.
fn metal(source: &str) -> String {
    let (module, info) = validated(source);
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = msl::Options {
        lang_version: (3, 0),
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: false,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..msl::Options::default()
    };
    let (text, _) = msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
        .unwrap_or_else(|error| panic!("{error}: {source}"));
    text
}
