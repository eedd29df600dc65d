#!/usr/bin/env python3
"""Prefill and decode speed of frontier against llama.cpp on the same files, alternated in one run.

usage: compare-engines.py --frontier BIN --llama-bench BIN [-t THREADS] [-r ROUNDS] [-p 512] [-n 64] [--json OUT] MODEL.gguf ...

Virtual cores move between physical placements, which halves or doubles every figure. So each measurement is bracketed
by `frontier bench roof` (cache-line ping-pong and read bandwidth), and only measurements of equal placement before and
after are compared: for each model the medians over rounds, by placement, and their ratio. llama.cpp runs with
`--repack 0` and `--repack 1`; the better of the two medians counts, separately for prefill and decode.
"""
import argparse
import json
import statistics
import subprocess
import sys


def run_json(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def placement(frontier, threads):
    """The state of the virtual cores now: `smt`, `die` or `dies`, and the read bandwidth in GB/s."""
    roof = run_json([frontier, "bench", "roof", "--threads", str(threads), "--json"])
    return roof["placement"], roof["read_gbps"]


def ours(a, model):
    out = run_json([a.frontier, "bench", "engine", "-m", model, "--threads", str(a.t), "-p", str(a.p), "-n", str(a.n),
                    "-b", "1", "--depth", "0", "-r", "1", "--json"])
    cell = out["results"][0]
    return {"prefill": cell["prefill_tps"], "decode": cell["decode_tps"]}


def theirs(a, model, repack):
    rows = run_json([a.llama_bench, "-m", model, "-t", str(a.t), "-p", str(a.p), "-n", str(a.n), "-r", "1",
                     "--repack", str(repack), "-o", "json"])
    return {"prefill" if r["n_prompt"] else "decode": r["avg_ts"] for r in rows}


def compare(a, model):
    samples = {}  # (engine, phase, placement) -> [tokens/s]
    for _ in range(a.r):
        for engine, measure in (("frontier", lambda: ours(a, model)), ("repack 0", lambda: theirs(a, model, 0)),
                                ("frontier", lambda: ours(a, model)), ("repack 1", lambda: theirs(a, model, 1))):
            before, _ = placement(a.frontier, a.t)
            speed = measure()
            after, gbps = placement(a.frontier, a.t)
            where = before if before == after else "moved"
            for phase, tps in speed.items():
                samples.setdefault((engine, phase, where), []).append(tps)
            print(f"  {engine:9} {where:6} {gbps:5.1f} GB/s  " +
                  "  ".join(f"{k} {v:7.1f}" for k, v in speed.items()), file=sys.stderr)
    rows = []
    for phase in ("prefill", "decode"):
        for where in ("dies", "die", "smt", "moved"):
            mine = samples.get(("frontier", phase, where))
            peers = {e: samples[(e, phase, where)] for e in ("repack 0", "repack 1") if (e, phase, where) in samples}
            if not mine or not peers:
                continue
            best = max(peers, key=lambda e: statistics.median(peers[e]))
            rows.append({"model": model.rsplit("/", 1)[-1], "phase": phase, "placement": where,
                         "frontier": statistics.median(mine), "frontier_runs": len(mine), "llama_cpp": statistics.median(peers[best]),
                         "llama_cpp_runs": len(peers[best]), "llama_cpp_mode": best,
                         "ratio": statistics.median(mine) / statistics.median(peers[best])})
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--frontier", required=True)
    p.add_argument("--llama-bench", required=True)
    p.add_argument("-t", type=int, default=2)
    p.add_argument("-r", type=int, default=3)
    p.add_argument("-p", type=int, default=512)
    p.add_argument("-n", type=int, default=64)
    p.add_argument("--json")
    p.add_argument("models", nargs="+")
    a = p.parse_args()
    rows = []
    for model in a.models:
        print(model, file=sys.stderr)
        rows += compare(a, model)
    print(f"| {'model':34} | phase   | place | frontier | llama.cpp | mode     | ratio |")
    for r in rows:
        print(f"| {r['model']:34} | {r['phase']:7} | {r['placement']:5} | {r['frontier']:8.1f} | {r['llama_cpp']:9.1f} "
              f"| {r['llama_cpp_mode']} | {r['ratio']:5.2f} |")
    if a.json:
        with open(a.json, "w") as f:
            json.dump(rows, f, indent=1)


main()
