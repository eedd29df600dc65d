#!/usr/bin/env python3
"""Whether files made by `frontier quantize` and by llama-quantize mean the same to both programs.

usage: compare-files.py --frontier BIN --llama-bin DIR --text FILE [--recipes q8_0,q4_k_m] [--chunks 2] [--work DIR] MODEL-F16.gguf

For each recipe either program makes a file of the f16 model. Both write it out as F32, which must give the same bits. With
F32 weights neither program rounds activations, so that predictions must be equal but for the order of sums (EQUAL, in nats).
With the file itself both round activations to 8 bits, each in its own way; these differences are printed and not judged
(docs/exactness.md). Positions and divergences are those of compare-logits.py. Exits 1 when what must be equal is not. Needs
numpy and gguf.
"""
import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from types import SimpleNamespace

from gguf import GGUFReader

# llama-perplexity writes log probabilities in 16 bits, whose steps are about 5e-4.
EQUAL = 2e-5
# Tokens that are as likely as one another but for the last bits may change places.
SAME_TOP = 0.99


def compare_logits():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "compare-logits.py")
    spec = importlib.util.spec_from_file_location("compare_logits", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same_values(file, other):
    """Whether two files hold the same tensors, bit for bit."""
    left, right = ({tensor.name: tensor for tensor in GGUFReader(path).tensors} for path in (file, other))
    same = lambda a, b: a.tensor_type == b.tensor_type and a.data.tobytes() == b.data.tobytes()
    return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frontier", required=True)
    parser.add_argument("--llama-bin", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--recipes", default="f16,bf16,q8_0,q6_k,q5_k_m,q4_k_m,q4_0,q3_k_m")
    parser.add_argument("--chunks", type=int, default=2)
    parser.add_argument("--threads", default="2")
    parser.add_argument("--work", help="directory for the files, which are removed again")
    parser.add_argument("model")
    options = parser.parse_args()
    tool = lambda name: os.path.join(options.llama_bin, name)
    logits = compare_logits()
    how = SimpleNamespace(frontier=options.frontier, llama_perplexity=tool("llama-perplexity"), text=options.text, c=128,
                          t=int(options.threads), chunks=options.chunks, flags="--device cpu")
    unequal = []
    print("| recipe | file made by | F32 of both | divergence as F32 | same top token | of the file | same top token |")
    print("|---|---|---|---|---|---|---|")
    for recipe in options.recipes.split(","):
        for maker in ("frontier", "llama.cpp"):
            with tempfile.TemporaryDirectory(dir=options.work) as folder:
                file, exact, ours = (os.path.join(folder, f"{recipe}{end}.gguf") for end in ("", "-f32", "-our-f32"))
                if maker == "frontier":
                    run(options.frontier, "quantize", options.model, file, "--to", recipe)
                else:
                    run(tool("llama-quantize"), options.model, file, recipe.upper(), options.threads)
                run(tool("llama-quantize"), "--allow-requantize", file, exact, "F32", options.threads)
                run(options.frontier, "quantize", file, ours, "--to", "f32", "--requantize")
                is_same = same_values(ours, exact)
                must, may = logits.compare(how, exact), logits.compare(how, file)
            if not is_same or must["kl_mean"] > EQUAL or must["same_top"] < SAME_TOP:
                unequal.append(f"{recipe} made by {maker}")
            print(f"| {recipe} | {maker} | {'the same bits' if is_same else 'DIFFERENT'} | {must['kl_mean']:.1e} | {100 * must['same_top']:.1f} % | {may['kl_mean']:.1e} "
                  f"| {100 * may['same_top']:.1f} % |", flush=True)
    print("files that do not mean the same to both:", ", ".join(unequal) or "none")
    sys.exit(1 if unequal else 0)


if __name__ == "__main__":
    main()
