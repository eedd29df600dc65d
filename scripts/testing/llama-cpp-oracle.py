#!/usr/bin/env python3
"""What llama.cpp computes with a model file, for crates/cli/tests/data.

    llama-quantize --allow-requantize MODEL EXACT_MODEL F32
    PYTHONPATH=<directory of package llama_cpp> python3 llama-cpp-oracle.py BIN_DIR MODEL EXACT_MODEL TEXT > OUT.json

BIN_DIR holds llama.cpp's llama-perplexity and shared library; of the package llama-cpp-python only the declarations are
used. The output has the perplexity of TEXT in windows of 512 tokens by both models, and for each of five prompts its
token ids, the 32 tokens that follow greedily (the end of text stops nothing) and the three greatest logits before each, by
MODEL, with which llama.cpp rounds activations to 8 bits; with EXACT_MODEL it does not.
"""

import ctypes, heapq, importlib.util, json, os, pathlib, re, subprocess, sys, types

PROMPTS = [
    "The capital of France is",
    "Once upon a time, in a small village by the sea, there lived",
    "def fibonacci(n):\n    ",
    "Water boils at a temperature of",
    "Q: What is the largest planet in the solar system?\nA:",
]
TOKENS, CANDIDATES, WINDOW = 32, 3, 512


def load_binding(programs):
    """The declarations only: the package itself would import more."""
    os.environ["LLAMA_CPP_LIB_PATH"] = str(programs)
    source = next(path for entry in sys.path if (path := pathlib.Path(entry, "llama_cpp", "llama_cpp.py")).exists())
    package = types.ModuleType("llama_cpp")
    package.__path__ = [str(source.parent)]
    sys.modules["llama_cpp"] = package
    spec = importlib.util.spec_from_file_location("llama_cpp.llama_cpp", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Model:
    def __init__(self, programs, path):
        self.llama = llama = load_binding(programs)
        self.silent = llama.llama_log_callback(lambda level, text, user_data: None)
        llama.llama_log_set(self.silent, ctypes.c_void_p(0))
        llama.llama_backend_init()
        self.model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        self.vocab = llama.llama_model_get_vocab(self.model)
        params = llama.llama_context_default_params()
        params.n_ctx = WINDOW
        self.context = llama.llama_init_from_model(self.model, params)

    def tokenize(self, text):
        data = text.encode()
        buffer = (self.llama.llama_token * (len(data) + 16))()
        count = self.llama.llama_tokenize(self.vocab, data, len(data), buffer, len(buffer), True, False)
        return list(buffer[:count])

    def candidates(self, ids):
        """The greatest logits after `ids`, which continue what was decoded before."""
        buffer = (self.llama.llama_token * len(ids))(*ids)
        assert self.llama.llama_decode(self.context, self.llama.llama_batch_get_one(buffer, len(ids))) == 0
        logits = self.llama.llama_get_logits_ith(self.context, -1)[:self.llama.llama_vocab_n_tokens(self.vocab)]
        return [[id, round(logits[id], 4)] for id in heapq.nlargest(CANDIDATES, range(len(logits)), logits.__getitem__)]

    def follow(self, prompt):
        self.llama.llama_memory_clear(self.llama.llama_get_memory(self.context), True)
        ids = self.tokenize(prompt)
        top = [self.candidates(ids)]
        while len(top) < TOKENS:
            top.append(self.candidates([top[-1][0][0]]))
        return {"prompt": prompt, "ids": ids, "greedy": [best[0][0] for best in top], "top": top}


def perplexity(programs, model, text):
    command = [programs / "llama-perplexity", "-m", model, "-f", text, "-c", str(WINDOW)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(re.search(r"Final estimate: PPL = ([0-9.]+)", run.stdout + run.stderr).group(1))


def main():
    programs, path, exact, text = map(pathlib.Path, sys.argv[1:])
    model = Model(programs, path)
    head = {
        "model": path.name, "window": WINDOW, "perplexity": perplexity(programs, path, text),
        "exact_perplexity": perplexity(programs, exact, text),
    }
    lines = ",\n".join(json.dumps(model.follow(prompt), separators=(",", ":")) for prompt in PROMPTS)
    print(json.dumps(head, separators=(",", ":"))[:-1] + f',"prompts":[\n{lines}\n]}}')


main()
