"""Makes golden/<format>.bin: blocks and what the PyPI package `gguf` dequantizes them to.

    pip install gguf && python make_golden.py

A file is a run of records: the bytes of a block, then its values as little-endian f32. The float formats are written
in blocks of 32 values. Random blocks cover every bit position, the others the ends of the ranges: all bits zero, all
bits one, and each f16 scale of a block at values where rounding, underflow or overflow would show.
"""

from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Byte offsets of the f16 scales in a block.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": [],
}
FLOATS = ["F32", "F16", "BF16"]
FLOAT_RUN = 32
# An ordinary one, the least subnormal, the greatest subnormal, the greatest number, infinity, minus zero.
SCALE_BITS = [0x2C4D, 0x0001, 0x83FF, 0x7BFF, 0x7C00, 0x8000]


def blocks_of(name: str, size_bytes: int, random: np.random.Generator) -> np.ndarray:
    blocks = [np.zeros(size_bytes, np.uint8), np.full(size_bytes, 0xFF, np.uint8)]
    for index, bits in enumerate(SCALE_BITS):
        block = random.integers(0, 256, size_bytes, dtype=np.uint8)
        if index == 3:  # the greatest scale with the greatest integers
            block[:] = 0xFF
        for offset in SCALES.get(name, []):
            block[offset:offset + 2] = np.array([bits], "<u2").view(np.uint8)
        blocks.append(block)
    if name == "MXFP4":
        for exponent in [0, 1, 2, 127, 254, 255]:
            block = random.integers(0, 256, size_bytes, dtype=np.uint8)
            block[0] = exponent
            blocks.append(block)
    return np.stack(blocks)


def main() -> None:
    folder = Path(__file__).parent / "golden"
    folder.mkdir(exist_ok=True)
    for name in FLOATS + list(SCALES):
        kind = GGMLQuantizationType[name]
        block_len, block_bytes = GGML_QUANT_SIZES[kind]
        size_bytes = block_bytes * FLOAT_RUN if name in FLOATS else block_bytes
        blocks = blocks_of(name, size_bytes, np.random.default_rng(int(kind)))
        with np.errstate(all="ignore"):
            values = np.stack([dequantize(block, kind) for block in blocks]).astype("<f4")
        assert values.shape == (len(blocks), size_bytes // block_bytes * block_len)
        with open(folder / f"{name.lower()}.bin", "wb") as file:
            for block, row in zip(blocks, values):
                file.write(block.tobytes() + row.tobytes())


if __name__ == "__main__":
    main()
