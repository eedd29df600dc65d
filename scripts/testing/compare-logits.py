#!/usr/bin/env python3
"""How far frontier's predictions are from llama.cpp's on the same file and text: Kullback-Leibler divergence, and how often
both think the same token likeliest.

usage: compare-logits.py --frontier BIN --llama-perplexity BIN --text FILE [-c 128] [--chunks 4] [--json OUT] MODEL.gguf ...

llama-perplexity writes the log probabilities of the second half of every window of the text (--kl-divergence-base);
`frontier logits` computes the same windows. Needs numpy and gguf.
"""
import argparse
import json
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np
from gguf import GGUFReader


def llama_cpp(a, model, file):
    subprocess.run([a.llama_perplexity, "-m", model, "-f", a.text, "-c", str(a.c), "-b", str(a.c), "--chunks", str(a.chunks),
                    "-t", str(a.t), "--kl-divergence-base", file], check=True, capture_output=True)


def read_base(file):
    """Tokens [chunks][context] and log probabilities [chunks][scored][vocabulary]; NaN below what the file resolves."""
    with open(file, "rb") as f:
        assert f.read(8) == b"_logits_", file
        context, vocab, chunks = struct.unpack("<Iii", f.read(12))
        tokens = np.frombuffer(f.read(4 * context * chunks), np.int32).reshape(chunks, context)
        # Each row: scale and least log probability in f32, then 16 bits a token, an even count.
        scored, width = context - 1 - context // 2, 4 + 2 * ((vocab + 1) // 2)
        rows = np.frombuffer(f.read(2 * chunks * scored * width), np.uint16).reshape(chunks, scored, width)
    head = rows[..., :4].copy().view(np.float32)
    steps = rows[..., 4:4 + vocab].astype(np.float32)
    logs = head[..., 1:2] + head[..., :1] * steps
    logs[steps == 0] = np.nan
    return tokens, logs


def first_token(model):
    """The token that begins every window, where the model wants one."""
    fields = GGUFReader(model).fields
    wanted = fields.get("tokenizer.ggml.add_bos_token")
    bos = fields.get("tokenizer.ggml.bos_token_id")
    if bos is None or (wanted is not None and not wanted.contents()):
        return None
    # Without the key, vocabularies of SentencePiece want it and byte-level ones do not.
    if wanted is None and fields["tokenizer.ggml.model"].contents() != "llama":
        return None
    return bos.contents()


def frontier(a, model, tokens):
    ids = ",".join(map(str, tokens))
    done = subprocess.run([a.frontier, "logits", model, "--ids", ids, "--json", "--threads", str(a.t)] + a.flags.split(),
                          capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr[-2000:])
    logits = np.array(json.loads(done.stdout)["logits"], np.float64)[a.c // 2:-1]
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def compare(a, model):
    with tempfile.TemporaryDirectory() as folder:
        base = os.path.join(folder, "base")
        llama_cpp(a, model, base)
        tokens, theirs = read_base(base)
    bos = first_token(model)
    divergences, same, nll = [], [], [[], []]
    for window, logs in zip(tokens, theirs):
        window = window.copy()
        if bos is not None:
            window[0] = bos
        ours = frontier(a, model, window)
        p = np.where(np.isnan(logs), 0, np.exp(logs))
        divergences += list(np.nansum(p * (logs - ours), axis=1))
        same += list(np.nanargmax(logs, axis=1) == ours.argmax(axis=1))
        right = window[a.c // 2 + 1:]
        for of, values in zip(nll, (ours, logs)):
            of += [-values[i, token] for i, token in enumerate(right)]
    perplexity = [float(np.exp(np.nanmean(of))) for of in nll]
    return {"model": os.path.basename(model), "positions": len(same), "kl_mean": float(np.mean(divergences)),
            "kl_p99": float(np.percentile(divergences, 99)), "kl_max": float(np.max(divergences)),
            "same_top": float(np.mean(same)), "perplexity": perplexity[0], "perplexity_llama_cpp": perplexity[1]}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--frontier", required=True)
    p.add_argument("--llama-perplexity", required=True)
    p.add_argument("--text", required=True)
    p.add_argument("-c", type=int, default=128)
    p.add_argument("-t", type=int, default=2)
    p.add_argument("--chunks", type=int, default=4)
    p.add_argument("--flags", default="", help="more flags for frontier, e.g. '--cpu-isa scalar'")
    p.add_argument("--json")
    p.add_argument("models", nargs="+")
    a = p.parse_args()
    rows = []
    print("| model | positions | KL mean | KL p99 | KL max | same top token | perplexity | llama.cpp's |\n|---|---|---|---|---|---|---|---|")
    for model in a.models:
        rows.append(r := compare(a, model))
        print(f"| {r['model']} | {r['positions']} | {r['kl_mean']:.2e} | {r['kl_p99']:.2e} | {r['kl_max']:.2e} "
              f"| {100 * r['same_top']:.1f} % | {r['perplexity']:.4f} | {r['perplexity_llama_cpp']:.4f} |", flush=True)
    if a.json:
        with open(a.json, "w") as f:
            json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
