"""Small sources and targets for causal language models, a tokenizer made of them, and a tiny GPT-2."""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from dsp_plugin.hf.data.clm_files import Line
from dsp_plugin.hf.data.clm_tokenizer import train_tokenizer

WORDS = {"eins": "one", "zwei": "two", "drei": "three", "vier": "four", "fünf": "five"}


def pairs(count: int, seed: int = 1) -> list[tuple[str, str]]:
    """Counting in two languages, one to six words."""
    rng = random.Random(seed)
    rows = [rng.choices(list(WORDS), k=rng.randint(1, 6)) for _ in range(count)]
    return [(" ".join(row), " ".join(WORDS[word] for word in row)) for row in rows]


def lines(count: int, seed: int = 1) -> list[Line]:
    return [Line(source, (target,)) for source, target in pairs(count, seed)]


def write_jsonl(path: Path, entries: Sequence[Any]) -> Path:
    """A line each: (source, target) or anything that JSON takes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"source": entry[0], "target": entry[1]} if isinstance(entry, tuple) else entry for entry in entries
    ]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def tokenizer(size: int = 280, longest: int = 64):
    return train_tokenizer(
        [text for pair in pairs(50) for text in (pair[0] + " =>", " " + pair[1])], size, longest
    )


def gpt2(words: int, seed: int = 1, **sizes: Any) -> GPT2LMHeadModel:
    """Two layers, random weights large enough that every token counts."""
    torch.manual_seed(seed)
    config = GPT2Config(
        **{"vocab_size": words, "n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64, **sizes},
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=0.3,
    )
    return GPT2LMHeadModel(config).eval()
