"""Makes peer_errors.txt: how well llama.cpp's quantizers fit the rows of `tests/quantize_quality.rs`.

    pip install gguf && python measure_peer.py PATH_OF_LIBGGML_BASE

A line: format, kind of rows, relative root mean square error, and the same with importance (in the quantizer and in the
measure).
"""

import ctypes
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

FORMATS = ["Q8_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "IQ4_NL", "IQ4_XS"]
ROWS, COLS = 32, 1024


def gaussian(count: int, seed: int) -> np.ndarray:
    """Sums of twelve integers of 24 bits: about normal, and exact in every language."""
    values = np.empty(count, np.int64)
    state = seed
    for index in range(count):
        total = 0
        for _ in range(12):
            state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
            total += state >> 40
        values[index] = total - 6 * 2**24
    return (values / 2**30).astype(np.float32)


def rows(kind: str) -> np.ndarray:
    values = gaussian(ROWS * COLS, 1)
    if kind == "outliers":
        values[::397] *= np.float32(20)
    if kind == "heavy":
        values *= gaussian(ROWS * COLS, 2) * np.float32(64)
    return values.reshape(ROWS, COLS)


def relative_error(values: np.ndarray, found: np.ndarray, importance: np.ndarray) -> float:
    values, found, importance = (array.astype(np.float64) for array in (values, found, importance))
    return float(np.sqrt((importance * (values - found) ** 2).sum() / (importance * values**2).sum()))


def main() -> None:
    ggml = ctypes.CDLL(sys.argv[1])
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p] + [ctypes.c_int64] * 3 + [
        ctypes.c_void_p
    ]
    importance = ((np.arange(COLS) * 7919 % 97 + 1) ** 2).astype(np.float32)

    def error(kind: GGMLQuantizationType, values: np.ndarray, weights: np.ndarray | None) -> float:
        block_len, block_bytes = GGML_QUANT_SIZES[kind]
        out = np.zeros((ROWS, COLS // block_len * block_bytes), np.uint8)
        address = None if weights is None else weights.ctypes.data
        ggml.ggml_quantize_init(int(kind))
        ggml.ggml_quantize_chunk(int(kind), values.ctypes.data, out.ctypes.data, 0, ROWS, COLS, address)
        return relative_error(values, dequantize(out, kind), np.ones(COLS) if weights is None else weights)

    lines = []
    for kind in ["gaussian", "outliers", "heavy"]:
        values = rows(kind)
        for name in FORMATS:
            plain, weighted = (error(GGMLQuantizationType[name], values, w) for w in (None, importance))
            lines.append(f"{name.lower()} {kind} {plain:.6f} {weighted:.6f}")
    Path(__file__).with_name("peer_errors.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
