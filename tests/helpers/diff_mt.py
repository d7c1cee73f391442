"""A tiny translation model finetuned by a sparse diff: its command lines, and what they make."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from fairseq import tasks
from fairseq.sequence_generator import SequenceGenerator
from fairseq_commands import PACKAGE, run
from fairseq_models import batch, parse
from fairseq_training import SETTINGS

from dsp_plugin.mt.diffs.base import read_base

SCRIPTS = PACKAGE.parent / "scripts" / "mt"
ADAM = SETTINGS.index("--weight-decay")
# 120 pairs in batches of 30, two of them an update: 2 updates an epoch
RECIPE = [
    *SETTINGS[:ADAM],
    *SETTINGS[ADAM + 2 :],
    "--criterion",
    "label_smoothed_cross_entropy",
    "--update-freq",
    2,
]
RECIPE += ["--clip-norm", 1.0, "--no-epoch-checkpoints"]
STAGE1 = ["--sparsity-pen", 1e-3, "--alpha-init", 1.0]
PLUGIN = ["--user-dir", PACKAGE, "--task", "diff_translation", "--arch", "diff_transformer"]
DIFF = [*PLUGIN, "--optimizer", "diff_adam", *RECIPE, *STAGE1]
DENSITY = 0.05
SEARCH = "--beam 2 --max-len-a 1.2 --max-len-b 10 --cpu --num-workers 0 --no-progress-bar".split()


def parameters(path: Path) -> dict:
    """Name -> parameter of a base, tied ones once."""
    return dict(read_base(str(path)).model().named_parameters())


def translations(data: Path, folder: Path, path: Path, *options: object) -> dict:
    """Sentence number -> (text, log2 probability a token, nearly) that `fairseq-generate` gives."""
    words = [data, "--user-dir", PACKAGE, "--task", "diff_translation", "--path", path, *SEARCH, *options]
    output = run("fairseq_cli.generate", words, folder).succeeded().output
    fields = (line.split("\t") for line in output.splitlines() if line.startswith("H-"))
    return {int(number[2:]): (text, pytest.approx(float(score), abs=1e-4)) for number, score, text in fields}


def by_hand(model, task) -> dict:
    """The same, by fairseq's search on a model in this process."""
    sample = batch(task, sentences=12, split="test")
    search = SequenceGenerator(
        [model.eval()], task.target_dictionary, beam_size=2, max_len_a=1.2, max_len_b=10
    )
    found = zip(sample["id"].tolist(), search.generate([model], sample))
    words = task.target_dictionary
    return {
        number: (words.string(best[0]["tokens"]), float(best[0]["score"]) / math.log(2))
        for number, best in found
    }


def translation_task(data: Path, **changes: object):
    """The task `diff_translation` on a data folder, with some options changed."""
    cfg = parse(data, arch="transformer", task="diff_translation")
    for name, value in changes.items():
        setattr(cfg.task, name, value)
    return tasks.setup_task(cfg.task)
