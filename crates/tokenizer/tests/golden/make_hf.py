"""Writes hf/: small tokenizers as Hugging Face saves them, and what the package tokenizers (made with 0.23.3) does.

Run: python make_hf.py
"""

import json
import os
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hf")
CORPUS = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps; the fox doesn't care!",
    "def main():\n    print('Hello, world!')\n    return 0\n",
    "Größe, naïveté, Zürich, 東京, Привет мир, 你好 世界, 😀 🦙 one two three 123 4567",
    "She said: \"I'll be there at 10:30, won't I?\" and left, leaving there a lot of unread letters.",
]
SPECIALS = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
TEXTS = [
    "", " ", "  ", "Hello", " Hello", "Hello world", "  two  spaces ", "line\nbreak\n\n", "\t\ttabs", "don't WON'T",
    "<|im_start|>user\nhi<|im_end|>", "a <|im_end|> b", "<|im_en", "<s>x</s>", "<tool_call>{}</tool_call>", "x <mask>  y",
    "Python python Pythonic in Python", "你好 😀 é\u0301", "\u2581under\u2581", "unknown: \u0416\u4e00\U0001f999 \u0000\u007f",
    "<0x41> is no byte", "The dog<|im_start|>The dog", "fox<s> fox", "ﬁ ligature ½ ①",
]


def random_texts():
    rng = random.Random(7)
    pieces = ["The", " dog", "fox", "  ", "\n", "1234", "é", "東京", "😀", "<s>", "<|im_end|>", "<mask>", "Python", "'ll", "!?", "<tool_call>"]
    return ["".join(rng.choice(pieces) for _ in range(rng.randint(1, 9))) for _ in range(40)]


def byte_level():
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=[]))
    tok.add_special_tokens(SPECIALS)
    tok.add_special_tokens([AddedToken("<mask>", lstrip=True, rstrip=True, special=True)])
    tok.add_tokens([AddedToken("<tool_call>", special=False, normalized=False), AddedToken("</tool_call>", special=False, normalized=False)])
    tok.add_tokens([AddedToken("Python", single_word=True, normalized=True)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", tok.token_to_id("<s>"))])
    return tok, {"bos_token": "<s>", "eos_token": {"content": "<|im_end|>"}}


def llama():
    """As Llama 2: a BPE on text with spaces made visible, bytes for what it lacks."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    specials = ["<unk>"] + SPECIALS + ["<mask>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tok.train_from_iterator([w for line in CORPUS for w in line.split()], trainers.BpeTrainer(vocab_size=520, special_tokens=specials + byte_tokens))
    saved = json.loads(tok.to_str())
    saved["added_tokens"] = [token for token in saved["added_tokens"] if token["content"] in specials]
    tok = Tokenizer.from_str(json.dumps(saved))
    tok.add_tokens([AddedToken("<tool_call>", special=False, normalized=True)])
    return tok, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": True}


def unigram():
    tok = Tokenizer(models.Unigram())
    tok.normalizer = normalizers.NFKC()
    tok.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    tok.decoder = decoders.Metaspace(prepend_scheme="first", split=True)
    tok.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=260, unk_token="<unk>", special_tokens=["<unk>"] + SPECIALS, show_progress=False))
    tok.add_tokens([AddedToken("<tool_call>", special=False, normalized=True), AddedToken("</tool_call>", special=False, normalized=True)])
    return tok, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "add_bos_token": False}


def main():
    for make in (byte_level, llama, unigram):
        tok, config = make()
        directory = os.path.join(HERE, make.__name__)
        os.makedirs(directory, exist_ok=True)
        saved = json.loads(tok.to_str())
        with open(os.path.join(directory, "tokenizer.json"), "w") as file:
            json.dump(saved, file, ensure_ascii=False, separators=(",", ":"))
        with open(os.path.join(directory, "tokenizer_config.json"), "w") as file:
            json.dump(config, file)
        cases = []
        for text in TEXTS + random_texts():
            tok.encode_special_tokens = False
            parsed = tok.encode(text, add_special_tokens=False).ids
            tok.encode_special_tokens = True
            plain = tok.encode(text, add_special_tokens=False).ids
            cases.append({"text": text, "parsed": parsed, "plain": plain, "decoded": tok.decode(parsed, skip_special_tokens=True)})
        with open(os.path.join(directory, "cases.json"), "w") as file:
            json.dump(cases, file, ensure_ascii=False, separators=(",", ":"))


main()
