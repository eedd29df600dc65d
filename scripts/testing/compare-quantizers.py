#!/usr/bin/env python3
"""Compare `frontier quantize` with llama.cpp's llama-quantize: quality, time, and whether files are read by both.

usage: compare-quantizers.py FRONTIER LLAMA_BIN MODEL_F16.gguf TEXT [--recipes q8_0,q4_k_m] [--chunks N] [--work DIR]

For each recipe both programs quantize the same f16 file; llama-perplexity then measures perplexity and
Kullback-Leibler divergence against the f16 model for both, so that the judge is not ours. Prints a table; exits 1 when
ours is worse by more than 2 %.
"""
import argparse
import os
import re
import subprocess
import sys
import time

RECIPES = ["q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "q3_k_m"]
ALLOWED = 1.02


def run(*command):
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return done.stdout + done.stderr, time.monotonic() - start


def number(pattern, text):
    found = re.search(pattern, text)
    if not found:
        sys.exit(f"{pattern} is not in\n{text[-2000:]}")
    return float(found.group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frontier")
    parser.add_argument("llama_bin")
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--recipes", default=",".join(RECIPES))
    parser.add_argument("--chunks", default="8")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--imatrix")
    parser.add_argument("--work", default=".")
    options = parser.parse_args()
    tool = lambda name: os.path.join(options.llama_bin, name)
    base = os.path.join(options.work, "base.kld")
    common = ["-f", options.text, "-c", "512", "--chunks", options.chunks, "-t", options.threads]
    run(tool("llama-perplexity"), "-m", options.model, "--kl-divergence-base", base, *common)

    def judge(path):
        text, _ = run(tool("llama-perplexity"), "-m", path, "--kl-divergence-base", base, "--kl-divergence", *common)
        return number(r"Mean PPL\(Q\)\s*:\s*([0-9.]+)", text), number(r"Mean\s+KLD:\s*([0-9.]+)", text)

    weights = ["--imatrix", options.imatrix] if options.imatrix else []
    worse = []
    print(f"{'recipe':8} {'':9} {'perplexity':>10} {'KLD':>9} {'seconds':>8} {'bytes':>11}")
    for recipe in options.recipes.split(","):
        results = {}
        for who in ("ours", "llama.cpp"):
            path = os.path.join(options.work, f"{recipe}-{who}.gguf")
            if os.path.exists(path):
                os.remove(path)
            if who == "ours":
                command = [options.frontier, "quantize", options.model, path, "--to", recipe, *weights,
                           "--num-threads", options.threads]
            else:
                command = [tool("llama-quantize"), *weights, options.model, path, recipe.upper(), options.threads]
            _, seconds = run(*command)
            results[who] = (*judge(path), seconds)
            perplexity, divergence, _ = results[who]
            print(f"{recipe:8} {who:9} {perplexity:10.4f} {divergence:9.6f} {seconds:8.2f} {os.path.getsize(path):11}",
                  flush=True)
        ours, theirs = results["ours"], results["llama.cpp"]
        if ours[0] > ALLOWED * theirs[0] or ours[1] > ALLOWED * theirs[1] + 1e-5:
            worse.append(recipe)
    print("worse than llama.cpp by more than 2 %:", ", ".join(worse) or "none")
    sys.exit(1 if worse else 0)


if __name__ == "__main__":
    main()
