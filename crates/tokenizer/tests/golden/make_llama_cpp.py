"""Writes llama_cpp.json: random texts with the ids that llama.cpp gives them, for several vocabularies.

An argument FILE.gguf#NAME reads the vocabulary as if it named that pre-tokenizer.

Needs llama.cpp's shared library and its Python binding's declarations (package llama-cpp-python, made with 0.3.36):

    LLAMA_CPP_LIB_PATH=<directory of libllama.so> PYTHONPATH=<directory of package llama_cpp> \
        python make_llama_cpp.py TEXTS_PER_VOCABULARY FILE.gguf[#NAME]... > llama_cpp.json
"""

import ctypes
import importlib.util
import json
import os
import random
import sys
import types

ALPHABETS = [
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    " ",
    " \t\n\r",
    "\n",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
    "äöüßéèñçøåÆŒĐ",
    "абвгдежзЖЩЯ",
    "αβγδΩΣ",
    "你好世界中文字符漢字",
    "ひらがなカタカナ",
    "한국어글자",
    "مرحباالعربية",
    "हिन्दीदेवनागरी",
    "ไทยภาษา",
    "😀🦙🚀👩‍🚀✅❤️",
    "\u0301\u0308\u200d\u00a0\u3000\u2028",
    "½²³٣४Ⅷ",
    "‘’“”…—–€£¥₹",
]
WORDS = [
    "the", "Hello", " world", "I'm", "we'll", "they've", "IT'S", "don't", "D'oh", "function", "return", "  if", "self.", "123456",
    "3.14159", "https://example.org/a?b=c", "foo_bar", "camelCaseWord", "{\"a\": [1, 2]}", "<b>", "</b>", "```python\n", "\n\n\n",
    "    ", "\t\t", "\r\n", " \n ", "==", "!=", "=>", "//", "/* */", "Größe", "naïve", "東京", "Привет", "2024-01-02", "1,000,000",
    "<|im_end|>", "<|im_start|>", "<s>", "</s>", "[INST]", "<end_of_turn>", "<unk>", "<0x0A>", "\u2581", "▁the", "...", "!!!", "???",
]


def random_text(rng):
    parts = []
    for _ in range(rng.randint(1, 8)):
        if rng.random() < 0.5:
            parts.append(rng.choice(WORDS))
        else:
            alphabet = rng.choice(ALPHABETS)
            parts.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 6))))
        if rng.random() < 0.3:
            parts.append(" ")
    return "".join(parts)


def load_binding():
    """The declarations only: the package itself would import more."""
    for path in sys.path:
        source = os.path.join(path, "llama_cpp", "llama_cpp.py")
        if os.path.exists(source):
            break
    package = types.ModuleType("llama_cpp")
    package.__path__ = [os.path.dirname(source)]
    sys.modules["llama_cpp"] = package
    spec = importlib.util.spec_from_file_location("llama_cpp.llama_cpp", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main():
    count, paths = int(sys.argv[1]), sys.argv[2:]
    llama = load_binding()
    silent = llama.llama_log_callback(lambda level, text, user_data: None)
    llama.llama_log_set(silent, ctypes.c_void_p(0))
    llama.llama_backend_init()
    rng = random.Random(20261123)
    result = {}
    for argument in paths:
        path, _, name = argument.partition("#")
        params = llama.llama_model_default_params()
        params.vocab_only = True
        if name:
            overrides = (llama.llama_model_kv_override * 2)()
            overrides[0].key = b"tokenizer.ggml.pre"
            overrides[0].tag = llama.LLAMA_KV_OVERRIDE_TYPE_STR
            overrides[0].value.val_str = name.encode()
            overrides[1].key = b""
            params.kv_overrides = overrides
        model = llama.llama_model_load_from_file(path.encode(), params)
        vocab = llama.llama_model_get_vocab(model)
        cases = []
        for index in range(count):
            text = random_text(rng)
            data = text.encode()
            buffer = (llama.llama_token * (len(data) + 16))()
            parse = index % 4 == 3
            n = llama.llama_tokenize(vocab, data, len(data), buffer, len(buffer), False, parse)
            assert n >= 0, (argument, text, n)
            cases.append({"text": text, "parse": parse, "ids": list(buffer[:n])})
        result[os.path.basename(argument)] = cases
        llama.llama_model_free(model)
    json.dump(result, sys.stdout, ensure_ascii=False, separators=(",", ":"))
    print()


main()
