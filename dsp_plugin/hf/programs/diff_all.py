"""The three stages of diff pruning in one command, the last two for each of several densities."""

from __future__ import annotations

import argparse
import math
from typing import Any, Dict, List, Sequence

from ..glue_tasks import find_task
from .arguments import GlueArguments
from .diff_fixmask import FixMaskRun
from .diff_project import ProjectRun
from .diff_prune import INFO, PruneRun
from .diff_run import PACK, run_stage
from .parsing import say

# The paper's hyperparameters; what the command line says comes after and wins.
PAPER = "--per_device_train_batch_size 8 --learning_rate 1e-5 --num_train_epochs".split()
LONGER = ("MRPC", "STS-B", "RTE", "SST-2")  # 5 epochs in stage 3, the others 3


def run_all(doc: str, data: type, argv: Sequence[str]) -> Dict[str, Dict[str, Any]]:
    """The whole of the program.

    Args:
        doc: its help. data: `GlueArguments` or `SquadArguments`.

    Returns:
        density as it was written -> split -> metrics of the final pack.

    Raises:
        ValueError, OSError: options, model, data or files that cannot be.
    """
    parser = _Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--output_dir", "--output-dir")
    parser.add_argument("--task_name", "--task-name")
    parser.add_argument("--target_sparsity", "--target-sparsity", nargs="+", default=["0.005"])
    parser.add_argument("--finetune_learning_rate", type=float, default=5e-5)
    parser.add_argument("--finetune_num_train_epochs", type=float)
    own, rest = parser.parse_known_args(list(argv))
    if "--help" in rest or "-h" in rest:
        return run_stage(PruneRun, doc, data, ["--help"])
    if not own.output_dir:
        raise ValueError("--output_dir: name a folder for the results")
    for density in own.target_sparsity:
        if not 0 < _number(density) <= 1:
            raise ValueError(f"--target_sparsity must be in (0, 1], got {density}")
    if not 0 < own.finetune_learning_rate < math.inf:
        raise ValueError(f"--finetune_learning_rate must be above 0 and finite, got {own.finetune_learning_rate}")
    epochs, first_epochs = own.finetune_num_train_epochs or 2.0, "2"  # SQuAD: 2 and 2
    if data is GlueArguments:
        task = find_task(own.task_name or "").folder
        rest += ["--task_name", task]
        epochs, first_epochs = own.finetune_num_train_epochs or (5.0 if task in LONGER else 3.0), "3"
    words = [*PAPER, first_epochs, *rest]
    out = own.output_dir
    say("stage 1: diff pruning")
    run_stage(PruneRun, doc, data, [*words, "--output_dir", out])
    info = f"{out}/{INFO}"
    found: Dict[str, Dict[str, Any]] = {}
    for density in own.target_sparsity:
        folder = f"{out}/{density}"
        mask = f"{folder}/mask.diff.safetensors"
        say(f"stage 2: projection to {density}")
        second = ["--eval_checkpoint", info, "--save_checkpoint", mask, "--target_sparsity", density]
        run_stage(ProjectRun, doc, data, [*words, *second, "--output_dir", f"{folder}/2nd"])
        say(f"stage 3: finetuning of the share {density}")
        third: List[str] = ["--mask_checkpoint", mask, "--learning_rate", str(own.finetune_learning_rate)]
        third += ["--save_pack", f"{folder}/{PACK}", "--num_train_epochs", str(epochs)]
        found[density] = run_stage(FixMaskRun, doc, data, [*words, *third, "--output_dir", f"{folder}/3rd"])
    return found


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would end the program."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ValueError(message)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
