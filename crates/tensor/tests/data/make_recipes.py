"""Makes recipes.txt: the formats that llama.cpp's quantizer picks for models of several shapes.

    pip install gguf && python make_recipes.py PATH_OF_LLAMA_QUANTIZE

Writes each model with zeros for weights, asks for a dry run, and notes the format of every matrix. A line has the
layers, heads, heads of keys and values, experts, whether embeddings are tied; then recipe, tensor, its columns; and the
formats by layer, `format*count` for runs.
"""

import re
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from gguf import GGUFWriter

RECIPES = ["Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "Q4_0"]


class Shape(NamedTuple):
    layers: int
    dim: int
    heads: int
    kv_heads: int
    experts: int = 0
    tied: bool = False
    ffn: int = 256
    head_dim: int = 64
    arch: str = "llama"


SHAPES = [
    Shape(1, 256, 4, 4, tied=True),
    Shape(7, 256, 4, 4),
    Shape(16, 256, 8, 2, tied=True),
    Shape(26, 256, 4, 4),
    Shape(32, 256, 8, 2),
    Shape(80, 256, 8, 1),
    Shape(80, 256, 8, 8),
    Shape(4, 48, 3, 3, head_dim=16),
    Shape(4, 48, 3, 3, head_dim=16, tied=True),
    Shape(32, 256, 8, 2, experts=8),
    Shape(16, 256, 8, 2, experts=16),
    Shape(30, 576, 9, 3, tied=True, ffn=1536),  # SmolLM2 135M
    Shape(18, 640, 4, 1, tied=True, ffn=2048, head_dim=256, arch="gemma3"),  # Gemma 3 270M
]


def write_model(path: Path, shape: Shape) -> None:
    writer = GGUFWriter(path, shape.arch)
    writer.add_block_count(shape.layers)
    writer.add_context_length(64)
    writer.add_embedding_length(shape.dim)
    writer.add_feed_forward_length(shape.ffn)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_vocab_size(32)
    writer.add_tokenizer_model("no_vocab")
    if shape.arch == "gemma3":
        writer.add_sliding_window(64)
    if shape.experts:
        writer.add_expert_count(shape.experts)
        writer.add_expert_used_count(2)

    def add(name: str, *dims: int) -> None:
        kind = np.float32 if len(dims) == 1 or "gate_inp" in name else np.float16
        writer.add_tensor(name + ".weight", np.zeros(dims, kind))

    attention, experts = shape.heads * shape.head_dim, shape.experts
    add("token_embd", 32, shape.dim)
    add("output_norm", shape.dim)
    if not shape.tied:
        add("output", 32, shape.dim)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        for norm in ["attn_norm", "ffn_norm"]:
            add(block + norm, shape.dim)
        add(block + "attn_q", attention, shape.dim)
        add(block + "attn_k", shape.kv_heads * shape.head_dim, shape.dim)
        add(block + "attn_v", shape.kv_heads * shape.head_dim, shape.dim)
        add(block + "attn_output", shape.dim, attention)
        if experts:
            add(block + "ffn_gate_inp", experts, shape.dim)
        for name, rows, cols in [("gate", 8, shape.dim), ("up", 8, shape.dim), ("down", 8, shape.ffn)]:
            if experts:
                add(f"{block}ffn_{name}_exps", experts, rows, cols)
            else:
                add(f"{block}ffn_{name}", rows, cols)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.gguf"
        for shape in SHAPES:
            write_model(model, shape)
            for recipe in RECIPES:
                command = [sys.argv[1], "--dry-run", str(model), recipe]
                run = subprocess.run(command, capture_output=True, text=True, check=True)
                by_tensor: dict[tuple[str, str], list[str]] = {}
                pattern = r"\] +(\S+)\.weight +- \[ *(\d+),.*type = +(\w+), size = +\S+ MiB(?: -> +\S+ MiB \((\w+)\))?"
                for name, cols, source, chosen in re.findall(pattern, run.stdout + run.stderr):
                    if "norm" not in name and "gate_inp" not in name:
                        by_tensor.setdefault((re.sub(r"blk\.\d+", "blk", name), cols), []).append((chosen or source).lower())
                assert by_tensor, run.stdout + run.stderr
                facts = f"{shape.layers} {shape.heads} {shape.kv_heads} {shape.experts} {int(shape.tied)}"
                for (name, cols), formats in by_tensor.items():
                    runs = " ".join(f"{format}*{len(list(group))}" for format, group in groupby(formats))
                    lines.append(f"{facts} {recipe.lower()} {name} {cols}: {runs}")
    Path(__file__).with_name("recipes.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
