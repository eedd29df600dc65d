#!/usr/bin/env python3
"""Prefill and decode speed of frontier against llama.cpp and mistral.rs on the same files, alternated in one run.

usage: compare-engines.py --frontier BIN [--llama-bench BIN] [--mistralrs PYTHON] [-t THREADS] [-r ROUNDS] [-p 512] [-n 64]
                          [--json OUT] MODEL.gguf ...

Virtual cores move between physical placements, which halves or doubles every figure. So each run of another engine is
bracketed by `frontier bench roof` (cache-line ping-pong and read bandwidth), frontier's own runs bring that with them, and
for each model the medians over rounds are compared by placement: `smt`, `die`, `dies`, or `moved` where it changed during
the run; `any` takes all. llama.cpp runs with `--repack 0` and `--repack 1`; the better median counts, separately for
prefill and decode; a ratio with a `*` is to those alone that happened to run at that place, not to all. PYTHON is one that
has the package mistralrs.
"""
import argparse
import json
import statistics
import subprocess
import sys

PHASES = ("prefill", "decode")

MISTRALRS = """
import os, random, sys
from mistralrs import CompletionRequest, Runner, Which
path, prompt_tokens, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
folder, file = os.path.split(path)
runner = Runner(which=Which.GGUF(quantized_model_id=folder, quantized_filename=file))
words = "alpha beta gamma delta river stone cloud paper green light music table".split()
def ask(prompt, most):
    request = CompletionRequest(model="default", prompt=prompt, max_tokens=most, temperature=0.0)
    return runner.send_completion_request(request).usage
ask("hi", 4)
usage = ask(" ".join(random.choice(words) for _ in range(prompt_tokens)), 1)
answer = ask("Once upon a time there was", tokens)
print("RESULT", usage.avg_prompt_tok_per_sec, answer.avg_compl_tok_per_sec)
"""


def output(command, **more):
    done = subprocess.run(command, capture_output=True, text=True, **more)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command[:6])} ...\n{done.stderr[-2000:]}")
    return done.stdout


def frontier(a, model):
    """Speeds of one run of each phase, each with the placement during it."""
    report = json.loads(output([a.frontier, "bench", "engine", "-m", model, "--threads", str(a.t), "-p", str(a.p),
                                "-n", str(a.n), "-b", "1", "--depth", "0", "-r", "1", "--json"]))
    cell = report["results"][0]
    runs = {phase: cell[f"{phase}_runs"][0] for phase in PHASES}
    return {phase: (run["tps"], run["placement"], run["roof_share"]) for phase, run in runs.items()}


def roof(a):
    return json.loads(output([a.frontier, "bench", "roof", "--threads", str(a.t), "--json"]))["placement"]


def llama_bench(a, model, repack):
    rows = json.loads(output([a.llama_bench, "-m", model, "-t", str(a.t), "-p", str(a.p), "-n", str(a.n), "-r", "1",
                              "--repack", str(repack), "-o", "json"]))
    return {"prefill" if row["n_prompt"] else "decode": row["avg_ts"] for row in rows}


def mistralrs(a, model):
    text = output([a.mistralrs, "-c", MISTRALRS, model, str(a.p), str(a.n)])
    speeds = next(line for line in text.splitlines() if line.startswith("RESULT")).split()[1:]
    return dict(zip(PHASES, map(float, speeds)))


def peers(a):
    """Name and measurement of every other engine."""
    found = []
    if a.llama_bench:
        found += [(f"llama.cpp --repack {r}", lambda model, r=r: llama_bench(a, model, r)) for r in (0, 1)]
    if a.mistralrs:
        found.append(("mistral.rs", lambda model: mistralrs(a, model)))
    return found


def measure(a, model):
    """(engine, phase, placement) -> speeds; and (phase, placement) -> frontier's shares of the roof."""
    samples, shares = {}, {}

    def note(engine, phase, where, tps):
        for place in (where, "any"):
            samples.setdefault((engine, phase, place), []).append(tps)
        print(f"  {engine:20} {phase:7} {where:6} {tps:8.1f}", file=sys.stderr, flush=True)

    for _ in range(a.r):
        for name, peer in peers(a) or [(None, None)]:
            for phase, (tps, where, share) in frontier(a, model).items():
                note("frontier", phase, where, tps)
                for place in (where, "any"):
                    shares.setdefault((phase, place), []).append(share)
            if peer:
                before = roof(a)
                speeds = peer(model)
                where = before if before == roof(a) else "moved"
                for phase, tps in speeds.items():
                    note(name, phase, where, tps)
    return samples, shares


def rows_of(a, model, samples, shares):
    """A row for each phase and placement of which frontier has a run."""
    for phase in PHASES:
        for where in ("dies", "die", "smt", "alone", "moved", "any"):
            mine = samples.get(("frontier", phase, where))
            if not mine:
                continue
            others = {name: samples[name, phase, where] for name, _ in peers(a) if (name, phase, where) in samples}
            best = max(others, key=lambda name: statistics.median(others[name]), default=None)
            median = statistics.median(mine)
            row = {"model": model.rsplit("/", 1)[-1], "phase": phase, "placement": where, "frontier": median,
                   "frontier_runs": len(mine), "roof_share": statistics.median(shares[phase, where])}
            if best:
                peer = statistics.median(others[best])
                row |= {"peer": best, "peer_tps": peer, "peer_runs": len(others[best]), "ratio": median / peer,
                        "all_peers": len(others) == len(peers(a))}
            yield row


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--frontier", required=True)
    p.add_argument("--llama-bench")
    p.add_argument("--mistralrs", metavar="PYTHON")
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
        rows += rows_of(a, model, *measure(a, model))
    print(f"| {'model':34} | phase   | place | runs | frontier | of roof | {'best peer':20} | runs | speed    | ratio  |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for r in rows:
        peer = f"{'-':20} | {'-':4} | {'-':8} | -     "
        if "peer" in r:
            peer = f"{r['peer']:20} | {r['peer_runs']:4} | {r['peer_tps']:8.1f} | {r['ratio']:5.2f}{' ' if r['all_peers'] else '*'}"
        print(f"| {r['model']:34} | {r['phase']:7} | {r['placement']:5} | {r['frontier_runs']:4} | {r['frontier']:8.1f} "
              f"| {100 * r['roof_share']:5.0f} % | {peer} |")
    if a.json:
        with open(a.json, "w") as f:
            json.dump(rows, f, indent=1)


main()
