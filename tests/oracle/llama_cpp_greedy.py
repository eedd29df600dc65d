#!/usr/bin/env python3
"""Greedy continuations and their top two log-probabilities from a running llama-server, as the oracle of
`greedy_text_equals_llama_cpp`.

usage: llama_cpp_greedy.py URL > tests/data/llama_cpp/MODEL.greedy.json

The server runs with `-np 1 -ctk f32 -ctv f32`, so that its cache rounds nothing. Prompts go in as text without a chat
template; the ids that llama.cpp made of them are kept, so that the comparison does not depend on the tokenizer.
"""
import json
import sys
import urllib.request

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n    ",
    "Q: What is the boiling point of water in degrees Celsius?\nA:",
    "The three most important things to know about photosynthesis are:\n1.",
]
TOKENS = 32


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request, timeout=300))


def main(url):
    cases = []
    for prompt in PROMPTS:
        ids = post(url + "/tokenize", {"content": prompt, "add_special": True})["tokens"]
        answer = post(
            url + "/completion",
            {"prompt": ids, "n_predict": TOKENS, "temperature": 0, "n_probs": 2, "cache_prompt": False,
             "ignore_eos": True, "return_tokens": True, "samplers": ["temperature"]},
        )
        steps = []
        for step in answer["completion_probabilities"]:
            top = step["top_logprobs"]
            steps.append({"id": step["id"], "top": [[t["id"], round(t["logprob"], 5)] for t in top]})
        cases.append({"prompt": prompt, "ids": ids, "steps": steps})
    json.dump(cases, sys.stdout, indent=1)


main(sys.argv[1])
