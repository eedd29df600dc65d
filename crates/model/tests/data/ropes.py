#!/usr/bin/env python3
"""Writes ropes.json: what transformers' own rope functions answer.

usage: ropes.py PATH/TO/transformers/modeling_rope_utils.py > ropes.json

Needs numpy only: the functions are lifted out of the file and run on a stand-in for the few calls of torch that they
make, in the same types.
"""
import json
import math
import re
import sys
import types
import typing

import numpy as np


class Tensor(np.ndarray):
    def to(self, device=None, dtype=None):
        return (self if dtype is None else self.astype(dtype)).view(Tensor)


def tensor(values):
    return np.asarray(values).view(Tensor)


torch = types.SimpleNamespace(
    int64=np.int64, float=np.float32, float32=np.float32, Tensor=Tensor,
    arange=lambda *bounds, dtype=np.int64: tensor(np.arange(*bounds, dtype=dtype)),
    clamp=lambda x, low, high: tensor(np.clip(x, low, high)),
    where=lambda condition, x, y: tensor(np.where(condition, x, y)),
)
FUNCTIONS = {
    "linear": "_compute_linear_scaling_rope_parameters",
    "llama3": "_compute_llama3_parameters",
    "yarn": "_compute_yarn_parameters",
}
source = open(sys.argv[1]).read()
names = {"torch": torch, "math": math, "Optional": typing.Optional}
for function in FUNCTIONS.values():
    exec(re.search(r"^def %s\(.*?(?=^[^\s)])" % function, source, re.S | re.M).group(0), names)


class Config:
    def __init__(self, head_dim, context, parameters):
        self.head_dim, self.hidden_size, self.num_attention_heads = head_dim, 4 * head_dim, 4
        self.max_position_embeddings = context
        self.rope_parameters = {"original_max_position_embeddings": context, **parameters}

    def standardize_rope_params(self):
        pass


def case(name, head_dim, context, **parameters):
    if function := FUNCTIONS.get(parameters["rope_type"]):
        inv_freq, factor = names[function](Config(head_dim, context, parameters))
    else:  # as each model's compute_default_rope_parameters
        dim = int(head_dim * parameters.get("partial_rotary_factor", 1.0))
        inv_freq, factor = 1.0 / (parameters["rope_theta"] ** (np.arange(0, dim, 2, dtype=np.float32) / dim)), 1.0
    inv_freq = [float(x) for x in np.asarray(inv_freq, dtype=np.float32)]
    return {"name": name, "head_dim": head_dim, "max_position_embeddings": context, "rope_parameters": parameters,
            "inv_freq": inv_freq, "attention_factor": float(factor)}


LLAMA3 = dict(rope_type="llama3", rope_theta=500000.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=8192)
YARN = dict(rope_type="yarn", rope_theta=10000.0, original_max_position_embeddings=4096)
CASES = [
    case("default", 64, 2048, rope_type="default", rope_theta=10000.0),
    case("default_theta_1e6", 128, 32768, rope_type="default", rope_theta=1000000.0),
    case("partial", 80, 4096, rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.4),
    case("linear", 128, 16384, rope_type="linear", rope_theta=10000.0, factor=4.0),
    case("llama3", 128, 131072, **LLAMA3, factor=8.0),
    case("llama3_1b", 64, 131072, **LLAMA3, factor=32.0),
    case("yarn", 128, 131072, **{**YARN, "rope_theta": 1e6, "original_max_position_embeddings": 32768}, factor=4.0),
    case("yarn_factor_given_by_context", 64, 65536, **YARN, factor=None),
    case("yarn_attention_factor", 64, 65536, **YARN, factor=16.0, attention_factor=0.8),
    case("yarn_mscale", 64, 163840, **YARN, factor=40.0, mscale=0.707, mscale_all_dim=1.0),
    case("yarn_betas", 128, 131072, **{**YARN, "rope_theta": 150000.0}, factor=32.0, beta_fast=16.0, beta_slow=2.0),
    case("yarn_not_truncated", 64, 131072, **{**YARN, "rope_theta": 150000.0}, factor=32.0, truncate=False),
    case("yarn_short", 16, 512, **{**YARN, "original_max_position_embeddings": 64}, factor=2.0),
]
print("[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in CASES) + "\n]")
