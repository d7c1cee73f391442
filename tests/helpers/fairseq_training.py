"""Short trainings of a tiny model by fairseq's real command lines, and what to read in their output."""

from __future__ import annotations

import json
import random
import re
import socket
from pathlib import Path
from typing import Any

import torch
from fairseq_commands import PACKAGE, Command, Finished, run

# d 16, ffn 20, 2+2 layers of 4 heads: N = 24
SIZES = (
    "--encoder-layers 2 --decoder-layers 2 --encoder-attention-heads 4 --decoder-attention-heads 4 "
    "--encoder-embed-dim 16 "
    "--decoder-embed-dim 16 --encoder-ffn-embed-dim 20 --decoder-ffn-embed-dim 20 --share-all-embeddings"
).split()
# 120 pairs in batches of 30: 4 updates an epoch
SETTINGS = (
    "--lr 1e-3 --lr-scheduler inverse_sqrt --warmup-updates 4 --weight-decay 1e-4 --dropout 0.1 "
    "--label-smoothing 0.1 "
    "--batch-size 30 --required-batch-size-multiple 1 --cpu --num-workers 0 --no-progress-bar --log-interval "
    "1 --log-format json"
).split() + ["--adam-betas", "(0.9, 0.98)"]
STOCK = [
    "--arch",
    "transformer",
    "--criterion",
    "label_smoothed_cross_entropy",
    "--optimizer",
    "adam",
    *SIZES,
    *SETTINGS,
]
DSP = [
    *(
        "--user-dir",
        PACKAGE,
        "--task",
        "dsp_translation",
        "--arch",
        "dsp_transformer",
        "--optimizer",
        "dsp_adam",
    ),
    *("--criterion", "dsp_label_smoothed_cross_entropy", *SIZES, *SETTINGS),
]
K = 6
ANNEALING = "--annealing --initial-temperature 1 --final-temperature 0.01 --cooldown-steps 4".split()
JOINT = [*DSP, "--num-of-heads", K, "--joint-pruning", *ANNEALING]
BLEU = [
    "--eval-bleu",
    "--eval-bleu-args",
    '{"beam": 5, "max_len_a": 1.2, "max_len_b": 10}',
    "--eval-bleu-detok",
    "moses",
]
BLEU += ["--eval-bleu-remove-bpe", "--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric"]
PIPELINED = [*DSP, "--num-of-heads", K, *ANNEALING]

# leaves the weights of its rank behind, in weights.pt
_RECORDER = """
import runpy, torch
from fairseq import checkpoint_utils

save = checkpoint_utils.save_checkpoint

def recording(cfg, trainer, *rest):
    torch.save(trainer._model.state_dict(), "weights.pt")
    return save(cfg, trainer, *rest)

checkpoint_utils.save_checkpoint = recording
runpy.run_module("fairseq_cli.train", run_name="__main__")
"""

WORDS = 30
SENTENCES = {"train": 120, "valid": 16, "test": 12}


def write_corpus(folder: Path, ending: str = "") -> Path:
    """A binarised corpus de -> en, one joined dictionary: the English side is the German one, word by
    word, backwards. Every word has the `ending`.
    """
    rng = random.Random(1)
    for split, size in SENTENCES.items():
        with open(folder / f"{split}.de", "w") as german, open(folder / f"{split}.en", "w") as english:
            for _ in range(size):
                words = [rng.randrange(WORDS) for _ in range(rng.randint(3, 8))]
                german.write(" ".join(f"d{w}{ending}" for w in words) + "\n")
                english.write(" ".join(f"e{w}{ending}" for w in reversed(words)) + "\n")
    command = [
        "--source-lang",
        "de",
        "--target-lang",
        "en",
        "--joined-dictionary",
        "--destdir",
        folder / "bin",
    ]
    command += [f"--{split}pref={folder / split}" for split in SENTENCES]
    run("fairseq_cli.preprocess", command, folder).succeeded()
    return folder / "bin"


def train(data: Path, save_dir: Path, *flags: object, **options: Any) -> Finished:
    """`fairseq-train data --save-dir save_dir ...`, in `save_dir`."""
    return run("fairseq_cli.train", [data, "--save-dir", save_dir, *flags], save_dir, **options)


def weights_recorder(folder: Path) -> str:
    """A program like fairseq-train that also leaves every rank's weights in its folder, as weights.pt."""
    program = folder / "recorder.py"
    program.write_text(_RECORDER)
    return str(program)


def train_in_two_processes(
    data: Path, save_dir: Path, *flags: object, program: str = "fairseq_cli.train"
) -> list[Finished]:
    """Data-parallel on the CPU, by gloo; one result a rank."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    together = (
        "--distributed-backend gloo --ddp-backend legacy_ddp --distributed-world-size 2 "
        "--distributed-no-spawn"
    ).split()
    together += ["--distributed-init-method", f"tcp://localhost:{port}"]
    ranks = [
        Command(
            program,
            [data, "--save-dir", save_dir, *flags, *together, "--distributed-rank", rank],
            save_dir / f"rank{rank}",
        )
        for rank in range(2)
    ]
    return [rank.wait() for rank in ranks]


def updates(finished: Finished) -> list[dict[str, str]]:
    """Return what was logged for every update."""
    return [json.loads(line) for line in re.findall(r"train_inner.*?(\{.*\})", finished.output)]


def validations(finished: Finished) -> list[dict[str, str]]:
    return [json.loads(line) for line in re.findall(r"(?:\| valid \||\[valid\]).*?(\{.*\})", finished.output)]


def checkpoint(save_dir: Path, name: str = "checkpoint_last.pt") -> dict[str, Any]:
    from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint

    return load_checkpoint(str(save_dir / name))


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Nested values of checkpoints, equal bit for bit."""
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), where
        for i, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}[{i}]")
    else:
        assert a == b, where
