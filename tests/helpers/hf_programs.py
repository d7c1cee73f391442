"""A tiny untrained BERT with the words of `glue_folders`, and the programs of scripts/ called in this
process.
"""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

import torch
from glue_folders import SIGNS, SUBJECTS, VERBS
from hf_models import BERT_SIZES
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

from dsp_plugin.hf.programs.chassis.arguments import GlueArguments
from dsp_plugin.hf.programs.chassis.parsing import parse
from dsp_plugin.hf.programs.chassis.train import option_groups
from dsp_plugin.hf.programs.diffs.stage import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
HEADS = 8  # of the tiny model: 2 layers of 4
SHORT = "--max_seq_length 24 --per_device_train_batch_size 8 --learning_rate 1e-3 --save_steps 10000".split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def write_bert(folder: Path, seed: int = 1, **config: Any) -> Path:
    """A BERT of 2 layers and 8 heads with random weights, and its tokenizer, in a folder."""
    folder.mkdir(parents=True)
    words = sorted(set(re.findall(r"\w+", " ".join([*SUBJECTS, *VERBS, *SIGNS]))) | {"who", ".", "?", '"'})
    (folder / "vocab.txt").write_text("\n".join([*SPECIAL, *words]) + "\n")
    tokenizer = BertTokenizer.from_pretrained(folder, model_max_length=64)
    sizes = {**BERT_SIZES, "vocab_size": len(tokenizer), "max_position_embeddings": 64}
    torch.manual_seed(seed)
    model = BertForSequenceClassification(BertConfig(**{**sizes, **config}))
    del model.classifier  # the task head is to be new
    torch.nn.init.constant_(model.bert.pooler.dense.bias, 0.01)  # as in a pooler that was trained
    model.bert.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def on_task(folder: Path, task: str, model: str = "bert") -> list:
    """The options that name `folder`/`model` and the data in `folder`/`task`."""
    data = ["--task_name", task, "--data_dir", folder / task]
    return ["--model_name_or_path", folder / model, *data]


def mnli(folder: Path, model: str = "bert") -> list:
    """Model, data and short runs on `folder`/MNLI."""
    return [*on_task(folder, "MNLI", model), *SHORT]


def diff_options(words: list, data: type = GlueArguments) -> dict:
    """All options that the programs of diff pruning understand of a command line, the program itself left
    out.
    """
    groups = option_groups(data, OPTIONS)
    return {name: value for group in parse("", groups, words) for name, value in vars(group).items()}


def program(name: str):
    """The module of `scripts/NAME.py`, such as "glue/run_dsp"."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def start(name: str, *words: Any) -> Any:
    """Run a program in this process with this command line; what its `main` returns."""
    argv, sys.argv = sys.argv, [f"scripts/{name}.py", *map(str, words)]
    try:
        return program(name).main()
    finally:
        sys.argv = argv
