"""Makes the golden files beside this script with the PyPI package gguf (0.19.0), an implementation that is not ours.

golden.gguf                     every metadata type, a tensor of every storage format
golden.json                     the same in words: what a reader must find
golden-big-endian.gguf          the same metadata in the byte order that we refuse
golden-split-0000N-of-00003.gguf  the tensors in three parts, the first with metadata only

usage: python make_golden.py
"""

import json
import struct
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Q
from gguf import GGUFEndian, GGUFReader, GGUFValueType as T, GGUFWriter

HERE = Path(__file__).parent


def f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


METADATA = [
    ("general.name", T.STRING, None, "golden \u00e9\u4e16 \U0001f680"),
    ("test.empty", T.STRING, None, ""),
    ("test.u8", T.UINT8, None, 255),
    ("test.i8", T.INT8, None, -128),
    ("test.u16", T.UINT16, None, 65535),
    ("test.i16", T.INT16, None, -32768),
    ("test.u32", T.UINT32, None, 2**32 - 1),
    ("test.i32", T.INT32, None, -(2**31)),
    ("test.u64", T.UINT64, None, 2**64 - 1),
    ("test.i64", T.INT64, None, -(2**63)),
    ("test.f32", T.FLOAT32, None, f32(0.1)),
    ("test.f64", T.FLOAT64, None, 0.1),
    ("test.true", T.BOOL, None, True),
    ("test.false", T.BOOL, None, False),
    ("test.u8s", T.ARRAY, T.UINT8, [0, 255]),
    ("test.i8s", T.ARRAY, T.INT8, [-128, 127]),
    ("test.u16s", T.ARRAY, T.UINT16, [0, 65535]),
    ("test.i16s", T.ARRAY, T.INT16, [-32768, 32767]),
    ("test.u32s", T.ARRAY, T.UINT32, [0, 2**32 - 1]),
    ("test.i32s", T.ARRAY, T.INT32, [-(2**31), 2**31 - 1]),
    ("test.u64s", T.ARRAY, T.UINT64, [0, 2**64 - 1]),
    ("test.i64s", T.ARRAY, T.INT64, [-(2**63), 2**63 - 1]),
    ("test.f32s", T.ARRAY, T.FLOAT32, [f32(-1.5), f32(1e-30)]),
    ("test.f64s", T.ARRAY, T.FLOAT64, [-1.5, 1e-300]),
    ("test.bools", T.ARRAY, T.BOOL, [True, False, True]),
    ("test.strings", T.ARRAY, T.STRING, ["", "a", "\u2581the"]),
    ("test.arrays", T.ARRAY, None, [[1, 2, 3], [-4]]),
    ("test.string_arrays", T.ARRAY, None, [["a"], ["b", ""]]),
]

QUANTIZED = [
    Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.IQ4_NL, Q.IQ4_XS, Q.MXFP4,
]  # fmt: skip


def tensors():
    """Name, storage format, shape (outermost first), array. Bytes of quantized tensors are random."""
    random = np.random.default_rng(20)
    yield "vector", Q.F32, [3], random.standard_normal(3, dtype=np.float32)
    yield "matrix", Q.F32, [2, 5], random.standard_normal((2, 5), dtype=np.float32)
    yield "stack", Q.F16, [2, 3, 4], random.standard_normal((2, 3, 4), dtype=np.float32).astype(np.float16)
    yield "four", Q.F32, [1, 2, 1, 3], random.standard_normal((1, 2, 1, 3), dtype=np.float32)
    yield "bf16", Q.BF16, [2, 2], random.integers(0, 255, (2, 4), dtype=np.uint8)
    for kind in QUANTIZED:
        block_len, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        cols = max(block_len, 64)
        data = random.integers(0, 255, (2, cols // block_len * block_bytes), dtype=np.uint8)
        yield kind.name.lower(), kind, [2, cols], data


def write(path, with_tensors=True, **options):
    writer = GGUFWriter(path, "golden", **options)
    for key, kind, sub_kind, value in METADATA:
        writer.add_key_value(key, value, kind, sub_type=sub_kind)
    if with_tensors:
        for name, kind, _, array in tensors():
            raw = None if array.dtype in (np.float32, np.float16) else kind
            writer.add_tensor(name, array, raw_dtype=raw)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def words():
    return {
        "metadata": {"general.architecture": "golden"} | {key: value for key, _, _, value in METADATA},
        "tensors": [
            {"name": name, "format": kind.name.lower(), "shape": shape, "data": array.tobytes().hex()}
            for name, kind, shape, array in tensors()
        ],
    }


def main():
    write(HERE / "golden.gguf")
    write(HERE / "golden-big-endian.gguf", with_tensors=False, endianess=GGUFEndian.BIG)
    write(HERE / "golden-split.gguf", split_max_tensors=9, small_first_shard=True)
    (HERE / "golden.json").write_text(json.dumps(words(), indent=1) + "\n")
    # The package's own reader agrees.
    reader = GGUFReader(HERE / "golden.gguf")
    for tensor, (name, kind, shape, array) in zip(reader.tensors, tensors(), strict=True):
        assert (tensor.name, tensor.tensor_type, list(tensor.shape)[::-1]) == (name, kind, shape), name
        assert tensor.data.tobytes() == array.tobytes(), name


if __name__ == "__main__":
    main()
