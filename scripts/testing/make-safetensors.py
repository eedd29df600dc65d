#!/usr/bin/env python3
"""Write a Hugging Face directory (config.json, model.safetensors) of a real llama's shape with random f16 weights.

usage: make-safetensors.py SHAPE OUT_DIR [VOCABULARY.gguf]

For measurements of loading and of quantization at load; the weights mean nothing. SHAPE: one of SHAPES below. With the
vocabulary of a GGUF file (byte-level BPE, as SmolLM2's) there is a tokenizer.json too, so that the model can be served.
Needs numpy, and gguf for the vocabulary.
"""
import json
import os
import struct
import sys

import numpy as np

#              layers  dim   ffn  heads kv  head_dim  vocabulary
SHAPES = {
    "llama-160m": (12, 768, 2048, 12, 4, 64, 32000),
    "llama-1b": (16, 2048, 8192, 32, 8, 64, 49152),
}


def tensors(layers, dim, ffn, heads, kv, head_dim, vocab):
    yield "model.embed_tokens.weight", (vocab, dim)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "self_attn.q_proj.weight", (heads * head_dim, dim)
        yield prefix + "self_attn.k_proj.weight", (kv * head_dim, dim)
        yield prefix + "self_attn.v_proj.weight", (kv * head_dim, dim)
        yield prefix + "self_attn.o_proj.weight", (dim, heads * head_dim)
        yield prefix + "mlp.gate_proj.weight", (ffn, dim)
        yield prefix + "mlp.up_proj.weight", (ffn, dim)
        yield prefix + "mlp.down_proj.weight", (dim, ffn)
        yield prefix + "input_layernorm.weight", (dim,)
        yield prefix + "post_attention_layernorm.weight", (dim,)
    yield "model.norm.weight", (dim,)
    yield "lm_head.weight", (vocab, dim)


def write_tokenizer(vocabulary, out):
    from gguf import GGUFReader

    fields = GGUFReader(vocabulary).fields
    tokens, merges, kinds = (fields["tokenizer.ggml." + name].contents() for name in ("tokens", "merges", "token_type"))
    control = [(index, token) for index, (token, kind) in enumerate(zip(tokens, kinds)) if kind == 3]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytes_of = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": index, "content": token, **flags} for index, token in control],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, bytes_of]},
        "decoder": bytes_of,
        "model": {"type": "BPE", "vocab": {token: index for index, token in enumerate(tokens)}, "merges": merges},
    }
    with open(os.path.join(out, "tokenizer.json"), "w") as file:
        json.dump(tokenizer, file)


def main(shape, out, vocabulary=None):
    layers, dim, ffn, heads, kv, head_dim, vocab = SHAPES[shape]
    os.makedirs(out, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": dim,
        "intermediate_size": ffn, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv, "head_dim": head_dim, "vocab_size": vocab, "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": False, "bos_token_id": 1,
        "eos_token_id": 2,
    }
    with open(os.path.join(out, "config.json"), "w") as file:
        json.dump(config, file, indent=1)
    if vocabulary:
        write_tokenizer(vocabulary, out)
    header, offset = {}, 0
    for name, dims in tensors(*SHAPES[shape]):
        size = 2 * int(np.prod(dims))
        header[name] = {"dtype": "F16", "shape": list(dims), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pool = np.random.default_rng(0).standard_normal(1 << 24, dtype=np.float32).astype(np.float16)
    start = 0
    with open(os.path.join(out, "model.safetensors"), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, dims in tensors(*SHAPES[shape]):
            count = int(np.prod(dims))
            if len(dims) == 1:
                file.write(np.ones(count, np.float16).tobytes())
                continue
            start = (start + 7919 * 64) % pool.size
            values = np.resize(np.roll(pool, -start), count) * np.float16(1 / np.sqrt(dims[1]))
            file.write(values.astype(np.float16).tobytes())


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in SHAPES:
        sys.exit(__doc__)
    main(*sys.argv[1:])
