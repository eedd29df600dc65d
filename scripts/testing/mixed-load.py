#!/usr/bin/env python3
"""Load of many kinds on a server that may take what it planned, and 5 % more. Needs Python alone.

usage: mixed-load.py FRONTIER MODEL... [--minutes 30] [--clients 8] [--port N] [--heap SIZE] [--flags '...'] [--group]

Clients ask for chats and texts, short and long, streamed and not, with log probabilities, several at a time, in sizes that
are refused; some leave in the middle of an answer. With several models each request is for another one; `--heap` then says
how much the server may take in all, so that models have to make room for one another.

`--group` runs the server in a control group that kills it beyond its plan and 5 % (Linux; needs the right to make one).
Without it, resident memory is watched alone. Prints what was answered; exits 1 when the server ended, exceeded its plan by
more than 5 %, or left a good request without its answer.
"""
import argparse
import collections
import http.client
import json
import random
import signal
import subprocess
import sys
import threading
import time

from running import Group, get, plan_of, status_bytes, wait_until_ready

ALLOWED = 1.05
WORDS = "river stone cloud paper green light music table window garden letter number market planet silver copper".split()


class Load:
    def __init__(self, options, names):
        self.port, self.names = options.port, names
        self.answers, self.problems = collections.Counter(), []
        self.end = time.monotonic() + 60 * options.minutes

    def run(self, seed):
        dice = random.Random(seed)
        while time.monotonic() < self.end:
            kind = dice.choice([self.chat, self.text, self.long, self.several, self.logprobs, self.leave, self.wrong])
            try:
                name, good = kind.__name__, kind(dice)
                self.answers[name] += 1
                if not good[0]:
                    self.problems.append(f"{name}: {good[1]}")
            except OSError as error:
                self.problems.append(f"{kind.__name__}: {error!r}")
                time.sleep(1)

    def words(self, dice, count):
        return " ".join(dice.choice(WORDS) for _ in range(count))

    def post(self, path, body, read=None):
        """Status and text; of a stream that is left, what was read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        try:
            connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
            answer = connection.getresponse()
            return answer.status, answer.read(read).decode(errors="replace")
        finally:
            connection.close()

    def complete(self, dice, words, **more):
        body = {"model": dice.choice(self.names), "prompt": self.words(dice, words), "seed": dice.randrange(1000), **more}
        status, text = self.post("/v1/completions", body)
        return status == 200 and ("[DONE]" in text or '"finish_reason"' in text), f"{status} {text[:200]}"

    def chat(self, dice):
        messages = [{"role": "user", "content": self.words(dice, 8)}]
        body = {"model": self.names[0], "messages": messages, "max_tokens": 16, "stream": True}
        status, text = self.post("/v1/chat/completions", body)
        return status == 200 and "[DONE]" in text, f"{status} {text[:200]}"

    def text(self, dice):
        return self.complete(dice, dice.randrange(1, 40), max_tokens=dice.randrange(1, 48), stream=dice.random() < 0.5)

    def long(self, dice):
        return self.complete(dice, dice.randrange(200, 600), max_tokens=4)

    def several(self, dice):
        return self.complete(dice, 30, max_tokens=8, n=3, temperature=1)

    def logprobs(self, dice):
        return self.complete(dice, 60, max_tokens=1, echo=True, logprobs=3)

    def leave(self, dice):
        body = {"model": dice.choice(self.names), "prompt": self.words(dice, 20), "max_tokens": 400, "stream": True}
        status, text = self.post("/v1/completions", body, read=600)
        return status == 200, f"{status} {text[:200]}"

    def wrong(self, dice):
        status, text = self.post("/v1/completions", {"prompt": self.words(dice, 3), "max_tokens": dice.choice([0, -1, "x"])})
        return status == 400, f"{status} {text[:200]}"


def planned_bytes(options, flags):
    """The most that any of the models takes, or what all may take."""
    plan = plan_of(options.frontier, options.models, flags)
    if options.heap:
        return plan.get("memories", [plan])[0]["budget_bytes"]
    return max(one["total_bytes"] for one in plan.get("models", [plan]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frontier")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--port", type=int, default=8160)
    parser.add_argument("--heap")
    parser.add_argument("--flags", default="--device cpu --max-seq-len 2048 --max-total-tokens 8192 --prefill-chunk-size 256")
    parser.add_argument("--group", action="store_true")
    options = parser.parse_args()
    flags = options.flags.split() + (["--metal-heap-size", options.heap] if options.heap else [])
    planned = planned_bytes(options, flags)
    if not options.heap:
        # In a group the server would plan for a fraction of its limit, for less than this.
        flags += ["--metal-heap-size", str(planned)]
    limit = int(ALLOWED * planned)
    group = Group(limit) if options.group else None
    command = [options.frontier, "serve", *options.models, "--port", str(options.port), "--queue-timeout", "10m", *flags]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL, preexec_fn=group.enter if group else None)
    try:
        wait_until_ready(server, options.port)
        load = Load(options, [model["id"] for model in json.loads(get(options.port, "/v1/models"))["data"]])
        threads = [threading.Thread(target=load.run, args=(seed,)) for seed in range(options.clients)]
        [thread.start() for thread in threads]
        most, ended = 0, False
        while any(thread.is_alive() for thread in threads):
            if server.poll() is not None:
                ended, load.end = True, 0
                break
            most = max(most, status_bytes(server.pid, "VmRSS"))
            time.sleep(0.05)
        [thread.join() for thread in threads]
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    finally:
        server.kill()
        server.wait()
        if group:
            group.remove()
    print(f"{options.minutes:g} minutes, {options.clients} clients, models: {', '.join(load.names)}")
    print(f"planned {planned / 1e6:.1f} MB, most resident {most / 1e6:.1f} MB ({100 * (most / planned - 1):+.1f} %)"
          + (", in a control group of the plan and 5 %" if group else ""))
    print("answered:", ", ".join(f"{kind} {count}" for kind, count in sorted(load.answers.items())))
    print(f"problems: {len(load.problems)}", *load.problems[:10], sep="\n  ")
    print(f"the server ended with {code}" + (" before its time" if ended else ""))
    sys.exit(1 if ended or code != 0 or load.problems or most > limit else 0)


if __name__ == "__main__":
    main()
