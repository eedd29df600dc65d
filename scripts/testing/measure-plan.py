#!/usr/bin/env python3
"""Compare the memory that `frontier plan` predicts with what the server takes.

usage: measure-plan.py FRONTIER MODEL... [--port N] [--kv f16,q8_0] [--also q4_0,1024,4096,64,4096]
       [--flags '--default-quantization q4_k_m']

For each model and each of the configurations below, starts the server, fills the whole KV cache with distinct prompts
(several at a time, and with time for steps of full size, which this machine may be too slow for otherwise), asks for the
log probabilities of a prompt (which takes all rows of logits), and compares resident memory with the plan. Prints a table;
exits 1 when a prediction is off by more than 5 %.
"""
import argparse
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request

from running import get, plan_of, status_bytes, wait_until_ready

# KV type, context, tokens in the cache, batch, prefill chunk.
CONFIGURATIONS = [
    ("f16", 2048, 8192, 4, 256),
    ("q8_0", 4096, 16384, 8, 512),
    ("f32", 1024, 4096, 2, 128),
    ("f16", 2048, 4096, 2, 2048),
]
ALLOWED = 0.05
WORDS = "time person year way day thing man world life hand part child eye woman place work week case point".split()


def flags_of(kv, context, tokens, batch, chunk):
    return ["--device", "cpu", "--kv-cache-dtype", kv, "--max-seq-len", str(context), "--max-total-tokens", str(tokens),
            "--max-batch-size", str(batch), "--max-running-requests", str(batch), "--prefill-chunk-size", str(chunk),
            "--queue-timeout", "10m", "--step-time-budget", "10m"]


def ask(port, number, words, **more):
    text = " ".join([f"{number}:"] + [WORDS[(number * 31 + i * (number % 17 + 1)) % len(WORDS)] for i in range(words)])
    body = json.dumps({"prompt": text, "max_tokens": 2, "temperature": 0, **more}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/completions", body,
                                     {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=600) as answer:
        answer.read()


def free_pages(port):
    found = re.findall(r'mistral_kv_cache_pages\{[^}]*state="free"\} ([0-9.]+)', get(port, "/metrics"))
    return sum(float(value) for value in found)


def measure(options, model, configuration):
    frontier, port = options.frontier, options.port
    flags = flags_of(*configuration) + options.flags.split()
    plan = plan_of(frontier, [model], flags)
    server = subprocess.Popen([frontier, "serve", model, "--port", str(port), *flags], stderr=subprocess.DEVNULL)
    try:
        wait_until_ready(server, port)
        idle = status_bytes(server.pid, "VmRSS")
        batch, words = configuration[3], configuration[1] // 2
        number, last = 0, None
        ask(port, 10**6, words, echo=True, logprobs=1)
        while (free := free_pages(port)) > 0 and free != last:
            last = free
            threads = [threading.Thread(target=ask, args=(port, number + i, words)) for i in range(2 * batch)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            number += 2 * batch
        # One that fills a step alone, should several not have come at once.
        ask(port, 10**7, min(configuration[1], configuration[4]) - 40)
        full, peak = status_bytes(server.pid, "VmRSS"), status_bytes(server.pid, "VmHWM")
    finally:
        server.terminate()
        server.wait()
    return plan, idle, full, peak


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frontier")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--port", type=int, default=8159)
    parser.add_argument("--kv", default="f16,q8_0,f32", help="of the configurations those with these KV types")
    parser.add_argument("--also", action="append", default=[], metavar="KV,CONTEXT,TOKENS,BATCH,CHUNK",
                        help="a further configuration, whatever --kv says")
    parser.add_argument("--flags", default="", help="more flags for frontier")
    options = parser.parse_args()
    configurations = [one for one in CONFIGURATIONS if one[0] in options.kv.split(",")]
    for also in options.also:
        kv, *numbers = also.rsplit(",", 4)
        configurations.append((kv, *map(int, numbers)))
    worst = 0.0
    print(f"{'model':32} {'kv':5} {'context':>7} {'tokens':>6} {'batch':>5} {'chunk':>5}"
          f" {'planned':>9} {'resident':>9} {'peak':>9} {'idle':>9}  off")
    for model in options.models:
        for configuration in configurations:
            plan, idle, full, peak = measure(options, model, configuration)
            planned = plan["total_bytes"]
            off = full / planned - 1
            worst = max(worst, abs(off))
            kv, context, tokens, batch, chunk = configuration
            mb = [f"{value / 1e6:6.1f} MB" for value in (planned, full, peak, idle)]
            print(f"{os.path.basename(model.rstrip('/'))[:32]:32} {kv:5} {context:7} {tokens:6} {batch:5} {chunk:5} {' '.join(mb)}"
                  f" {100 * off:+5.1f} %", flush=True)
            detail = {key: round(plan[key] / 1e6, 1) for key in ("weight_bytes", "kv_bytes", "scratch_bytes",
                                                                   "program_bytes")}
            print(f"    {detail}", flush=True)
    print(f"worst: {100 * worst:.1f} %")
    sys.exit(1 if worst > ALLOWED else 0)


if __name__ == "__main__":
    main()
