#!/usr/bin/env python3
"""What a server gives up when its control group runs out of memory, and whether its requests are answered all the same.

usage: memory-pressure.py FRONTIER MODEL [--clients 6] [--port N] [--flags '...']

Server and a neighbour run in one control group, whose limit is twice the server's plan. Clients ask for long
answers without a pause. When all run, the neighbour takes memory until 1 % of the limit is left (the server acts below 2 %), and
takes what the server gives up, too, until the server has taken its strongest measure; then it gives everything back. Prints what
the server logs with the time, what is left, what it holds and how many tokens of prompts it keeps. Exits 1 unless the server has
taken all measures in their order, found them over, answered every request in full, and was not killed. Linux; needs the right
to make a control group, and Python alone.
"""
import argparse
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from running import Group, get, plan_of, status_bytes, wait_until_ready

MEASURES = ["pool", "prefix_cache", "admission", "preempt"]
SHARE_LEFT = 0.01
# By and by, so that the kernel has time to write back and drop pages of files.
STEP_BYTES = 8 << 20
ANSWER_TOKENS = 200
CACHED = "mistral_prefix_cache_bytes"


class Clients:
    """Ask for one answer after the other until told to stop."""

    def __init__(self, port, count):
        self.port, self.stop, self.answered, self.problems = port, False, 0, []
        self.threads = [threading.Thread(target=self.run, args=(seed,)) for seed in range(count)]
        [thread.start() for thread in self.threads]

    def run(self, seed):
        turn = 0
        while not self.stop:
            turn += 1
            prompt = f"Client {seed}, turn {turn}. " + "One two three four five six seven eight. " * 20
            body = {"prompt": prompt, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
            request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/completions", json.dumps(body).encode(),
                                             {"content-type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=300) as answer:
                    tokens = json.load(answer)["usage"]["completion_tokens"]
                if tokens == ANSWER_TOKENS:
                    self.answered += 1
                else:
                    self.problems.append(f"{tokens} tokens of {ANSWER_TOKENS}")
            except OSError as error:
                told = error.read().decode() if isinstance(error, urllib.error.HTTPError) else ""
                self.problems.append(f"{error!r} {told}")

    def join(self):
        self.stop = True
        [thread.join() for thread in self.threads]


class Neighbour:
    """A process in the group that holds as many bytes as it was told last. The kernel would end it before the server."""

    PROGRAM = """
import sys
open("/proc/self/oom_score_adj", "w").write("1000")
held = []
for line in sys.stdin:
    # Touched, page by page: memory that is only promised is no pressure.
    held = held + [b"x" * int(line)] if int(line) else []
"""

    def __init__(self, group):
        self.process = subprocess.Popen([sys.executable, "-c", self.PROGRAM], stdin=subprocess.PIPE, text=True,
                                        preexec_fn=group.enter)

    def take(self, count):
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()


def sample(metrics, name):
    return sum(float(line.rsplit(" ", 1)[1]) for line in metrics.splitlines() if re.match(name + r"[{ ]", line))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("frontier")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--port", type=int, default=8170)
    parser.add_argument("--flags", default="--device cpu --max-seq-len 2048 --max-total-tokens 16384 --prefill-chunk-size 512")
    options = parser.parse_args()
    flags = options.flags.split()
    planned = plan_of(options.frontier, [options.model], flags)["total_bytes"]
    group = Group(2 * planned)
    server = subprocess.Popen(
        [options.frontier, "serve", options.model, "--port", str(options.port), "--metal-heap-size", str(planned), *flags],
        stderr=subprocess.PIPE, text=True, preexec_fn=group.enter)
    taken, over, start = [], threading.Event(), time.monotonic()

    def watch():
        for line in server.stderr:
            if "memory pressure" not in line:
                continue
            found = re.search(r"memory pressure: (\w+)", line)
            taken.append(found.group(1) if found else "over")
            if not found:
                over.set()
            print(f"{time.monotonic() - start:5.1f} s  {100 * group.left_bytes() / group.limit_bytes:5.1f} % left  "
                  f"{status_bytes(server.pid, 'VmRSS') / 1e6:6.1f} MB  {sample(get(options.port, '/metrics'), CACHED) / 1e6:5.1f} MB  "
                  + line[line.index("memory pressure"):].strip(), flush=True)

    neighbour, clients = Neighbour(group), None
    try:
        wait_until_ready(server, options.port)
        print(f"planned {planned / 1e6:.1f} MB, limit {group.limit_bytes / 1e6:.1f} MB, {options.clients} clients")
        print("   time    of limit   resident  prefixes")
        threading.Thread(target=watch, daemon=True).start()
        clients = Clients(options.port, options.clients)
        while clients.answered < 2 * options.clients and not clients.problems:
            time.sleep(0.1)
        end = time.monotonic() + 60
        while MEASURES[-1] not in taken and time.monotonic() < end and neighbour.process.poll() is None:
            more = group.left_bytes() - int(SHARE_LEFT * group.limit_bytes)
            if more > 0:
                neighbour.take(min(more, STEP_BYTES))
            time.sleep(0.05)
        neighbour_was_killed = neighbour.process.poll() is not None
        if not neighbour_was_killed:
            neighbour.take(0)
        over.wait(60)
        before = clients.answered
        while clients.answered < before + options.clients and not clients.problems:
            time.sleep(0.1)
        clients.join()
        server.send_signal(signal.SIGTERM)
        code = server.wait(60)
    finally:
        for process in (server, neighbour.process):
            process.kill()
            process.wait()
        if clients:
            clients.stop = True
        group.remove()
    firsts = [measure for index, measure in enumerate(taken) if measure not in taken[:index]]
    print(f"answered {clients.answered}; problems: {clients.problems[:5] or 'none'}; the server ended with {code}"
          + ("; the neighbour was killed" if neighbour_was_killed else ""))
    sys.exit(0 if firsts == [*MEASURES, "over"] and not clients.problems and code == 0 else 1)


if __name__ == "__main__":
    main()
