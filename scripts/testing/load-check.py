#!/usr/bin/env python3
"""Long checks of the serving engine: a real model, the real binary, real HTTP on loopback. Needs Python alone.

usage: load-check.py [--frontier BIN] [--port PORT] [--json OUT] -m MODEL.gguf [CHECK ...]

Checks (all by default; each starts and stops the servers that it needs):
  start        from the page cache: time until the server is ready, and its most resident memory, then and after two prompts
               (the bars are those of a 1B shape in q4_k_m; of SmolLM2, program and scratch are more than a fifth)
  invariance   40 prompts, greedy and seeded: the same tokens and log probabilities, bit for bit, alone, 2, 8 and 16 at
               a time, with and without the prefix cache, in slices of 16, 128 and 2048, and after forced preemption
  prefix       a shared prefix of 1,500 words: time to the first token warm against cold; a conversation of six turns
  long-prompt  a prompt of 6,000 tokens arrives while four streams run
  kill         300 clients leave at random moments; gauges return to where they were; a reference prompt gives its text
  flood        400 requests at once against a queue of 64
  overhead     time outside of the forward pass in decode steps of 8 sequences, and CPU time by thread; with --perf the samples of
               Linux's perf by what they are in, as a table for docs/performance.md (needs a binary with symbols)
  compare      tokens/s and time to first token against `llama-server -np 8` on the same file, alternated
               (needs --llama-server; -c CLIENTS may be repeated)

A check that has a bar says whether it was met; the exit code is 1 when one was not. Speed depends on the machine: read
ratios from one run, not figures of two.
"""
import argparse
import asyncio
import json
import math
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager

from running import plan_of, status_bytes

WORDS = ("alpha beta gamma delta river stone cloud paper green light music table window garden letter number market planet silver "
         "copper forest island bridge engine").split()
BATCH = 16


# ---------------------------------------------------------------------------------------------------------------- HTTP

class Reply:
    """An answer: status, headers, and either a JSON body or the frames of a stream with the times they came at."""

    def __init__(self):
        self.status, self.headers, self.body, self.frames, self.times, self.sent = 0, {}, b"", [], [], 0.0

    @property
    def json(self):
        return json.loads(self.body)

    def text_times(self):
        """Times at which text came."""
        def text(frame):
            choice = (frame.get("choices") or [{}])[0]
            return choice.get("text") or (choice.get("delta") or {}).get("content")
        return [at for frame, at in zip(self.frames, self.times) if text(frame)]

    @property
    def ttft(self):
        return self.text_times()[0] - self.sent

    @property
    def gaps(self):
        times = self.text_times()
        return [b - a for a, b in zip(times, times[1:])]

    @property
    def usage(self):
        whole = self.frames if self.frames else [self.json]
        return next(frame["usage"] for frame in reversed(whole) if frame.get("usage"))


async def request(port, method, path, body=None, leave_after=None):
    """One request on a connection of its own. With `leave_after`, closes it after so many seconds."""
    reply, writer = Reply(), None

    async def exchange():
        nonlocal writer
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 24)
        data = json.dumps(body).encode() if body is not None else b""
        head = (f"{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n"
                f"content-length: {len(data)}\r\n\r\n")
        reply.sent = time.perf_counter()
        writer.write(head.encode() + data)
        await writer.drain()
        reply.status = int((await reader.readline()).split()[1])
        while (line := await reader.readline()).strip():
            name, _, value = line.decode().partition(":")
            reply.headers[name.lower()] = value.strip()
        if "event-stream" not in reply.headers.get("content-type", ""):
            reply.body = await read_body(reader, reply.headers)
            return
        # Chunk sizes and blank lines stand between frames; neither begins as a frame does.
        while line := await reader.readline():
            if line.startswith(b"data: ") and line.strip() != b"data: [DONE]":
                reply.frames.append(json.loads(line[6:]))
                reply.times.append(time.perf_counter())

    try:
        await asyncio.wait_for(exchange(), leave_after)
    except asyncio.TimeoutError:
        pass
    finally:
        if writer:
            writer.transport.abort() if leave_after else writer.close()
    return reply


async def read_body(reader, headers):
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers["content-length"])) if "content-length" in headers else await reader.read()
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readline()
    return body


async def crowd(jobs, at_once):
    """Runs jobs (functions that make a coroutine), so many at a time; results in the order of the jobs."""
    slots = asyncio.Semaphore(at_once)

    async def one(job):
        async with slots:
            return await job()
    return await asyncio.gather(*[one(job) for job in jobs])


# -------------------------------------------------------------------------------------------------------------- server

class Server:
    """A server on loopback, ended with SIGTERM."""

    def __init__(self, port, command, env=None):
        self.port, self.log = port, tempfile.TemporaryFile()
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env={**os.environ, **(env or {})})

    def fail(self, why):
        self.log.seek(0)
        sys.exit(f"{why}\n{self.log.read().decode(errors='replace')[-2000:]}")

    async def ready(self):
        for _ in range(15000):
            if self.process.poll() is not None:
                self.fail(f"the server ended with code {self.process.returncode}")
            try:
                if (await request(self.port, "GET", "/health")).status == 200:
                    return self
            except (OSError, IndexError, asyncio.IncompleteReadError):
                pass
            await asyncio.sleep(0.02)
        self.fail("the server is not ready after five minutes")

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.fail("the server did not end within 60 s")

    async def post(self, path, body, **more):
        return await request(self.port, "POST", path, body, **more)

    async def complete(self, prompt, max_tokens, **more):
        body = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "ignore_eos": True, **more}
        if body.get("stream"):
            body["stream_options"] = {"include_usage": True}
        reply = await self.post("/v1/completions", body)
        if reply.status != 200:
            self.fail(f"{reply.status}: {reply.body[:500]}")
        return reply

    async def metrics(self):
        """All samples by name and labels; sums over groups and models are the caller's."""
        text = (await request(self.port, "GET", "/metrics")).body.decode()
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#"]
        return {name: float(value) for name, value in lines}

    async def metric(self, name, *labels):
        samples = (await self.metrics()).items()
        return sum(v for k, v in samples if k.split("{")[0] == name and all(label in k for label in labels))


@asynccontextmanager
async def serving(a, **settings):
    """`frontier serve` with some settings, e.g. `max_batch_size=16`."""
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    server = Server(a.port, [a.frontier, "serve", a.m, "--port", str(a.port), "--log", "warn", *flags])
    try:
        yield await server.ready()
    finally:
        code = server.stop()
    if code != 0:
        sys.exit(f"the server ended with code {code} after SIGTERM")


def words(seed, count):
    rng = random.Random(seed)
    return " ".join(rng.choice(WORDS) for _ in range(count))


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def ms(seconds):
    return round(1e3 * seconds, 1)


# -------------------------------------------------------------------------------------------------------------- checks

async def start(a):
    tokens, rows = 4096, []
    plan = plan_of(a.frontier, [a.m], ["--max-total-tokens", str(tokens)])
    file_bytes, kv_bytes = os.path.getsize(a.m), plan["kv_bytes"]
    for _ in range(4):
        begin = time.perf_counter()
        async with serving(a, max_total_tokens=tokens) as server:
            ready = time.perf_counter() - begin
            idle = status_bytes(server.process.pid, "VmHWM")
            for count in (5, 1500):
                await server.complete(words(count, count), 64)
            peak = status_bytes(server.process.pid, "VmHWM")
        rows.append((ready, idle, peak))
        print(f"  ready after {ready:.2f} s, at most {idle / 1e6:.0f} MB resident by then, {peak / 1e6:.0f} after two prompts", flush=True)
    # The first start may find the file outside of the page cache.
    ready, peak = statistics.median(ready for ready, _, _ in rows[1:]), max(peak for _, _, peak in rows)
    share = peak / (file_bytes + kv_bytes)
    print(f"  file {file_bytes / 1e6:.0f} MB, KV {kv_bytes / 1e6:.0f} MB: peak {share:.2f} times that", flush=True)
    # What 1.5 s would be for larger files is not said.
    met = (ready <= 1.5 or file_bytes > 1e9) and share <= 1.2
    return {"ready_s": ready, "peak_bytes": peak, "share": share, "bar": "1.5 s up to 1 GB; 1.2 times file and KV", "met": met}


async def invariance(a):
    common = words(99, 90)
    prompts = [(common + " " if i % 3 == 0 else "") + words(i, 1 + i * 37 % 160) for i in range(40)]

    async def run(server, at_once, **more):
        """What became of each prompt, greedy and seeded: tokens and log probabilities."""
        async def one(prompt, **draw):
            choice = (await server.complete(prompt, a.tokens, logprobs=1, **draw, **more)).json["choices"][0]
            return choice["text"], choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"]
        seeded = dict(temperature=1.1, top_p=0.9, repetition_penalty=1.1)
        jobs = [job for i, p in enumerate(prompts) for job in (lambda p=p: one(p), lambda p=p, i=i: one(p, seed=i, **seeded))]
        return await crowd(jobs, at_once)

    rows, alone = [], None

    def compare(what, outcomes, note=""):
        differing = [i for i, (x, y) in enumerate(zip(outcomes, alone)) if x != y]
        rows.append({"setup": what, "texts": len(outcomes), "differing": len(differing), "note": note})
        print(f"  {what:44} {len(outcomes) - len(differing)}/{len(outcomes)} the same {note}", flush=True)

    async with serving(a, max_batch_size=BATCH) as server:
        alone = await run(server, 1, cache_prompt=False)
        for at_once in (2, 8, 16):
            compare(f"{at_once} at a time, no cache", await run(server, at_once, cache_prompt=False))
        for turn in ("cold", "warm"):
            before = await server.metric("mistral_prefix_cache_hits_total")
            outcomes = await run(server, 16)
            hits = await server.metric("mistral_prefix_cache_hits_total") - before
            compare(f"16 at a time, cache {turn}", outcomes, f"({hits:.0f} tokens hit)")
    for chunk in (16, 128):
        async with serving(a, max_batch_size=BATCH, prefill_chunk_size=chunk) as server:
            compare(f"16 at a time, slices of {chunk}", await run(server, 16))
    async with serving(a, max_batch_size=BATCH, max_total_tokens=1024, max_seq_len=1024, decode_chunk_size=1) as server:
        outcomes = await run(server, 16)
        preemptions = await server.metric("mistral_preemptions_total")
        compare("16 at a time, 1024 tokens of KV", outcomes, f"({preemptions:.0f} preemptions)")
    met = all(row["differing"] == 0 for row in rows) and preemptions > 0
    return {"rows": rows, "bar": "all the same, after preemptions too", "met": met}


async def prefix(a):
    system = words(7, 1500)
    async with serving(a) as server:
        async def ttft(question, salt):
            reply = await server.complete(f"{system}\n{words(question, 12)}", 4, stream=True, cache_salt=salt)
            return reply.ttft, reply.usage["prompt_tokens"], reply.usage["prompt_tokens_details"]["cached_tokens"]
        await server.complete(words(1, 200), 4)
        cold, warm = [], []
        for i in range(3):
            cold.append(await ttft(2 * i, f"salt {i}"))
            warm.append(await ttft(2 * i + 1, f"salt {i}"))
        ratio = statistics.median(w[0] for w in warm) / statistics.median(c[0] for c in cold)
        print(f"  {cold[0][1]} tokens cold {ms(statistics.median(c[0] for c in cold))} ms, "
              f"warm {ms(statistics.median(w[0] for w in warm))} ms ({warm[0][2]} cached): {ratio:.1%}", flush=True)
        # A conversation: each turn computes what is new, and at most the last page of what was there.
        messages, turns = [{"role": "system", "content": words(8, 300)}], []
        known = 0
        for turn in range(6):
            messages.append({"role": "user", "content": words(100 + turn, 40)})
            reply = await server.post("/v1/chat/completions", {"messages": messages, "max_tokens": 24, "temperature": 0})
            if reply.status == 400 and "template" in reply.body.decode():
                break
            usage, choice = reply.usage, reply.json["choices"][0]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            turns.append({"prompt": usage["prompt_tokens"], "cached": cached, "known": known})
            messages.append({"role": "assistant", "content": choice["message"]["content"]})
            known = usage["prompt_tokens"]
        shown = ", ".join(f"{t['cached']}/{t['prompt']}" for t in turns) or "skipped: the model has no chat template"
        print(f"  conversation, cached of prompt tokens: {shown}", flush=True)
        met = ratio <= 0.10 and all(t["cached"] >= t["known"] - 64 for t in turns)
    return {"cold_ms": [ms(c[0]) for c in cold], "warm_ms": [ms(w[0]) for w in warm], "ratio": ratio, "turns": turns,
            "bar": "warm <= 10 % of cold" + ("; a turn computes at most a page of what was known" if turns else ""), "met": met}


async def long_prompt(a):
    out = 400
    async with serving(a) as server:
        long_text = words(5, 4500)
        tokens = None
        for _ in range(8):  # To 6,000 tokens, whatever the vocabulary.
            tokens = (await server.complete(long_text, 1)).usage["prompt_tokens"]
            if abs(tokens - 6000) < 60:
                break
            long_text = words(5, round(len(long_text.split()) * 6000 / tokens))
        start = time.perf_counter()
        await server.complete(long_text, 1, cache_prompt=False)
        lonely = time.perf_counter() - start

        async def streams():
            return await asyncio.gather(*[server.complete(words(i, 30), out, stream=True, cache_prompt=False) for i in range(4)])
        start = time.perf_counter()
        quiet = await streams()
        quiet_time = time.perf_counter() - start
        running = asyncio.create_task(streams())
        await asyncio.sleep(0.2 * quiet_time)
        start = time.perf_counter()
        await server.complete(long_text, 1, cache_prompt=False)
        took, end = time.perf_counter() - start, time.perf_counter()
        mixed = await running
        during = [b - x for r in mixed for x, b in zip(r.text_times(), r.text_times()[1:]) if start <= b <= end]
    quiet_p99 = percentile([gap for r in quiet for gap in r.gaps], 0.99)
    p99, limit = percentile(during, 0.99), max(3 * quiet_p99, 0.1)
    allowed = 1.5 * lonely + quiet_time
    print(f"  {tokens} tokens: lonely {lonely:.2f} s, beside 4 streams {took:.2f} s (allowed {allowed:.2f} s)\n"
          f"  inter-token p99 quiet {ms(quiet_p99)} ms, meanwhile {ms(p99)} ms over {len(during)} gaps "
          f"(allowed {ms(limit)} ms), longest {ms(max(during))} ms", flush=True)
    return {"tokens": tokens, "lonely_s": lonely, "beside_s": took, "allowed_s": allowed, "quiet_p99_ms": ms(quiet_p99),
            "p99_ms": ms(p99), "allowed_p99_ms": ms(limit), "gaps": len(during),
            "bar": "p99 <= 3x quiet or 100 ms; long one <= 1.5x lonely + theirs", "met": p99 <= limit and took <= allowed}


async def kill(a):
    async with serving(a, max_queued_requests=400) as server:
        reference = {"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 16, "temperature": 0}
        held = ("mistral_kv_cache_pages", 'state="held"')
        start = await server.metric(*held)
        golden = (await server.post("/v1/chat/completions", reference)).json["choices"]
        rng = random.Random(3)

        def client(i):
            body = {"prompt": words(i, rng.randrange(1, 200)), "max_tokens": 200, "ignore_eos": True, "stream": i % 3 > 0,
                    "n": 1 + i % 2, "seed": i}
            seconds = rng.choice([0.001, 0.02, 0.2, 1, 3]) * rng.random()
            return lambda: server.post("/v1/completions", body, leave_after=seconds)
        replies = await crowd([client(i) for i in range(300)], 60)
        left = time.perf_counter()
        while True:
            gauges = [await server.metric("mistral_num_requests_running"), await server.metric("mistral_num_requests_waiting"),
                      await server.metric(*held)]
            returned = time.perf_counter() - left
            if gauges == [0, 0, start] or returned > 10:
                break
            await asyncio.sleep(0.02)
        again = (await server.post("/v1/chat/completions", reference)).json["choices"]
        cancelled = await server.metric("mistral_requests_cancelled_total", 'cause="client"')
        failed = await server.metric("mistral_requests_failed_total")
    begun = sum(bool(reply.frames) for reply in replies)
    print(f"  300 clients left ({begun} in the middle of a stream), {cancelled:.0f} were cancelled; running, waiting, KV back at "
          f"{gauges} after {ms(returned)} ms; reference text {'the same' if again == golden else 'DIFFERS'}", flush=True)
    return {"cancelled": cancelled, "returned_ms": ms(returned), "gauges": gauges, "failed": failed, "same_text": again == golden,
            "bar": "0/0/start within 2 s, golden text", "met": gauges == [0, 0, start] and returned <= 2 and again == golden and failed == 0}


async def flood(a):
    async with serving(a, max_queued_requests=64) as server:
        await server.complete(words(1, 20), 4)
        before = await server.metric("mistral_process_resident_memory_bytes")
        body = lambda i: {"prompt": words(i, 20), "max_tokens": 8, "temperature": 0, "ignore_eos": True}
        start = time.perf_counter()
        replies = await asyncio.wait_for(
            asyncio.gather(*[server.post("/v1/completions", body(i)) for i in range(400)]), 600)
        took = time.perf_counter() - start
        after = await server.metric("mistral_process_resident_memory_bytes")
        rejected = await server.metric("mistral_requests_rejected_total", 'reason="queue_full"')
    count = lambda status: sum(reply.status == status for reply in replies)
    hints = all(int(reply.headers.get("retry-after", 0)) >= 1 for reply in replies if reply.status == 429)
    grown = (after - before) / 2**20
    print(f"  400 at once: {count(200)} answered, {count(429)} told to retry, in {took:.1f} s; RSS {before / 2**20:.0f} MiB + "
          f"{grown:.1f} MiB", flush=True)
    met = count(200) + count(429) == 400 and count(200) >= 64 and hints and rejected == count(429) and grown < 64
    return {"answered": count(200), "rejected": count(429), "seconds": took, "rss_growth_mib": grown,
            "bar": "each a 200 or a 429 with Retry-After; RSS grows by less than 64 MiB", "met": met}


def thread_seconds(pid):
    """CPU seconds by thread name."""
    seconds, tick = {}, os.sysconf("SC_CLK_TCK")
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/stat") as file:
                name, _, rest = file.read().partition("(")[2].rpartition(")")
        except FileNotFoundError:
            continue
        fields = rest.split()
        seconds[name] = seconds.get(name, 0) + (int(fields[11]) + int(fields[12])) / tick
    return seconds


# What a sample is in, by its symbol: the first pattern that is found. Loading the rows that a kernel multiplies is its part.
PARTS = [("kernels", r"\bcpu::(matmul|ops|simd|attention|activation|kv|backend::inputs::(Row)?Source)|\bhalf::"),
         ("waiting for another thread", r"\bcpu::pool"),
         ("forward pass around the kernels", r"\b(cpu|model|tensor)::|slice::sort"), ("engine: scheduler, sampler, events", r"\bengine::"),
         ("HTTP, JSON, text", r"\b(server|tokenizer|hyper\w*|tokio|axum|serde\w*|tower\w*|futures\w*|prometheus\w*|http\w*)::"),
         ("memory: copies and allocation", r"mem(cpy|set|move|cmp)|malloc|free|realloc|\balloc::"), ("rest", r"")]

# A worker that waits: its loop is inlined into the frame that starts its thread.
WAITING = re.compile(r"__rust_begin_short_backtrace|sched_yield|clock_gettime")


def part_of(sample):
    """Linux's own work is for whoever asked for it: threads that compute yield, those of HTTP read and write."""
    if sample.startswith("tokio"):
        return "HTTP, JSON, text"
    in_linux = "([" in sample and "[vdso]" not in sample
    if in_linux or sample.startswith("compute-") and WAITING.search(sample):
        return "waiting for another thread"
    return next(name for name, pattern in PARTS if re.search(pattern, sample))


class Profile:
    """Samples of all threads of a process from now until `table`."""

    def __init__(self, pid):
        self.file = tempfile.NamedTemporaryFile(suffix=".perf")
        command = ["perf", "record", "-q", "-F", "2999", "-p", str(pid), "-o", self.file.name]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def table(self, model):
        """The share of the samples that is not in kernels, without waiting; and a table of all."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait()
        command = ["perf", "script", "-i", self.file.name, "-F", "comm,ip,sym,dso"]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        counts = dict.fromkeys((name for name, _ in PARTS), 0)
        for line in filter(None, map(str.strip, lines)):
            counts[part_of(line)] += 1
        waiting = counts.pop("waiting for another thread")
        total = sum(counts.values())
        rows = [f"| {name} | {count} | {count / total:.1%} |" for name, count in counts.items()]
        title = f"{os.path.basename(model)}, {total} samples, {waiting} more in waiting for another thread:"
        table = "\n".join([title, "", "| samples in | number | share |", "|---|---|---|", *rows])
        return 1 - counts["kernels"] / total, table


async def overhead(a):
    clients, out, parts = 8, 400, ("schedule", "forward", "sample", "commit")
    async with serving(a) as server:
        async def sums():
            of = lambda part: server.metric("mistral_step_duration_seconds_sum", f'part="{part}"')
            steps = {"steps": await server.metric("mistral_steps_total", 'result="ok"')}
            return steps, {part: await of(part) for part in parts}, thread_seconds(server.process.pid)
        await asyncio.gather(*[server.complete(words(i, 4), 16, stream=True) for i in range(clients)])
        before = await sums()
        profile = Profile(server.process.pid) if a.perf else None
        await asyncio.gather(*[server.complete(words(i, 4), out, stream=True) for i in range(clients)])
        outside_kernels, table = profile.table(a.m) if profile else (None, None)
        steps, times, threads = [{key: value - old.get(key, 0) for key, value in new.items()}
                                 for new, old in zip(await sums(), before)]
        steps = steps["steps"]
    step = sum(times.values()) / steps
    outside = sum(times[part] for part in parts if part != "forward") / steps
    wire = sum(seconds for name, seconds in threads.items() if name.startswith("tokio")) / steps
    share = (outside + wire) / step
    print(f"  {steps:.0f} steps of {clients}: {ms(step):.2f} ms each; " +
          ", ".join(f"{part} {1e6 * times[part] / steps:.0f} us" for part in parts) + f"; HTTP threads {1e6 * wire:.0f} us of CPU\n"
          f"  outside of the forward pass: {outside / step:.2%} of the step's time on the engine thread, with HTTP {share:.2%}\n"
          "  CPU seconds by thread: " + ", ".join(f"{name} {s:.2f}" for name, s in sorted(threads.items(), key=lambda x: -x[1])), flush=True)
    if table:
        print(table, flush=True)
    bar = f"outside of {'kernels' if profile else 'the forward pass'} <= 5 % of a decode step"
    return {"step_ms": 1e3 * step, "profile": table, "outside_share": outside / step, "with_http_share": share, "threads": threads,
            "outside_kernels": outside_kernels, "bar": bar, "met": share <= 0.05 and (outside_kernels or 0) <= 0.05}


async def compare(a):
    """Closed loop: so many clients, each with one request at a time; prompts of about 130 tokens, 48 tokens out."""
    if not a.llama_server:
        print("  skipped: no --llama-server", flush=True)
        return {"skipped": True}
    threads = str(os.cpu_count())
    peer_flags = ["-m", a.m, "-np", "8", "-t", threads, "-tb", threads, "--port", str(a.port + 1), "-c", "8192"]
    start = {"frontier": lambda: Server(a.port, [a.frontier, "serve", a.m, "--port", str(a.port), "--log", "warn"]),
             "llama-server": lambda: Server(a.port + 1, [a.llama_server, *peer_flags])}

    async def load(server, clients, round_):
        async def one(i):
            return await server.complete(words(f"{round_} {i}", 100), 48, stream=True, model="default")
        begin = time.perf_counter()
        replies = await crowd([lambda i=i: one(i) for i in range(3 * clients)], clients)
        took = time.perf_counter() - begin
        tokens = sum(reply.usage["completion_tokens"] for reply in replies)
        return tokens / took, [reply.ttft for reply in replies]

    rows = []
    for clients in a.c or [1, 4, 8]:
        speeds, ttfts = {name: [] for name in start}, {name: [] for name in start}
        for round_ in range(a.rounds):
            for name in start:  # Never both at a time: neither shall wait for the other's spinning threads.
                server = start[name]()
                try:
                    await server.ready()
                    await load(server, 1, "warm-up")
                    tps, times = await load(server, clients, round_)
                finally:
                    server.stop()
                speeds[name].append(tps)
                ttfts[name] += times
                print(f"  {clients} clients, round {round_}: {name:13} {tps:7.1f} tokens/s, TTFT p50 {ms(percentile(times, 0.5))} ms", flush=True)
        ours, theirs = (statistics.median(speeds[name]) for name in start)
        first, their_first = (percentile(ttfts[name], 0.5) for name in start)
        rows.append({"clients": clients, "tokens_per_s": ours, "peer_tokens_per_s": theirs, "ratio": ours / theirs,
                     "ttft_p50_s": first, "peer_ttft_p50_s": their_first, "ttft_ratio": first / their_first})
        print(f"  {clients} clients: {ours:.1f} against {theirs:.1f} tokens/s = {ours / theirs:.2f}x; TTFT p50 {ms(first)} against "
              f"{ms(their_first)} ms = {first / their_first:.2f}x", flush=True)
    return {"rows": rows}


CHECKS = {"start": start, "invariance": invariance, "prefix": prefix, "long-prompt": long_prompt, "kill": kill, "flood": flood,
          "overhead": overhead, "compare": compare}


async def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("checks", nargs="*", metavar="CHECK")
    p.add_argument("--frontier", default="target/release/frontier")
    p.add_argument("-m", required=True, metavar="MODEL.gguf")
    p.add_argument("--port", type=int, default=8099, help="this one and the next are used")
    p.add_argument("--perf", action="store_true", help="sample the server in `overhead` with Linux's perf")
    p.add_argument("--tokens", type=int, default=24, help="tokens to generate per prompt in `invariance`")
    p.add_argument("--llama-server")
    p.add_argument("-c", type=int, action="append", metavar="CLIENTS", help="clients in `compare`")
    p.add_argument("--rounds", type=int, default=3, help="rounds of `compare`")
    p.add_argument("--json", help="file for the figures")
    a = p.parse_args()
    unknown = set(a.checks) - set(CHECKS)
    if unknown:
        p.error(f"no such check: {', '.join(unknown)}; there are {', '.join(CHECKS)}")
    results = {}
    for name in a.checks or CHECKS:
        print(name, flush=True)
        begin = time.perf_counter()
        results[name] = await CHECKS[name](a)
        verdict = {True: "met", False: "NOT MET", None: "no bar"}[results[name].get("met")]
        print(f"  {verdict}: {results[name].get('bar', '-')} ({time.perf_counter() - begin:.0f} s)", flush=True)
    if a.json:
        with open(a.json, "w") as file:
            json.dump({"model": os.path.basename(a.m), "cores": os.cpu_count(), "results": results}, file, indent=1)
    sys.exit(any(result.get("met") is False for result in results.values()))


asyncio.run(main())
