"""The three stages of diff pruning on fairseq in one command; fairseq-train's options, and a few of our
own.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ...diffs import DiffPack
from ...diffs.packs.summary import pack_label, record_figures
from ...diffs.training.groups import grouping_name, method_name
from ...records.files.sealed import read_json, write_json
from ...records.files.whole import check_folder
from ...records.record import load_record
from ...records.settings import other_settings, refusal
from ..checkpoints.checkpoint import load_checkpoint
from ..diffs.base import BaseCheckpoint, read_base
from ..diffs.optimizers import DiffAdamConfig, SparseAdamConfig
from ..diffs.packs import Projection, read_trained, write_pack
from ..patches import forget_best_score
from ..training.same_command import FREE, difference, settings_of
from .dry_run import dry_run, take_flag
from .launch import PLUGIN_DIR, result_of, summarise_training, train, training_options
from .refusals import raise_errors

MASK, PACK = "mask.diff.safetensors", "task.diff.safetensors"  # of stages 2 and 3, in SAVE_DIR/DENSITY
_SETTINGS = "settings.json"
# in a mask's configuration, the fingerprint of the training it was projected from
_STAGE1 = "stage1_settings"
# -> whether it takes a value
_FREE = {"--" + name.replace("_", "-"): name not in ("no_progress_bar", "cpu") for name in FREE}
_OURS = {
    "optimizer": "adam or diff_adam",
    "mask-pack": "stage 2 writes it",
    "diff-pack": "it is for translating",
}


def own_options() -> argparse.ArgumentParser:
    """The options that `run_diff.py` adds to fairseq-train's, and those of fairseq's that it has a say in."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--base-checkpoint")
    parser.add_argument("--save-dir", default="checkpoints")
    parser.add_argument("--target-sparsity", nargs="+", default=["0.005"])
    parser.add_argument("--per-layer-projection", action="store_true")
    parser.add_argument("--sampled-diff", action="store_true")
    parser.add_argument("--value-dtype", choices=["float16", "bfloat16", "float32"], default="float16")
    parser.add_argument("--finetune-lr")
    parser.add_argument("--finetune-max-update")
    parser.add_argument("--finetune-max-epoch")
    parser.add_argument("--record-name")
    for name in (
        "arch",
        "optimizer",
        "user-dir",
        "task",
        "mask-pack",
        "diff-pack",
        "restore-file",
        "finetune-from-model",
    ):
        parser.add_argument(*(["--arch", "-a"] if name == "arch" else [f"--{name}"]))
    return parser


def run_diff(argv: Sequence[str]) -> dict[str, DiffPack]:
    """The whole of the program. A stage that is done is skipped, one that was stopped goes on.

    Returns:
        Density as it was written -> the task's pack.

    Raises:
        ValueError, OSError: options or files that cannot be, before anything is trained; a save folder of
            other settings.
    """
    parser = own_options()
    raise_errors(parser)
    only_planned, argv = take_flag(argv)
    own, rest = parser.parse_known_args(list(argv))
    _check(own)
    stage1_options, rest = _options_of_stage1(rest)
    projections = _projections(own)
    base = read_base(own.base_checkpoint)
    name = own.record_name or os.path.basename(os.path.abspath(own.save_dir))
    common, later = _common(own, rest), _finetuning(own)
    first = Training(
        os.path.join(own.save_dir, "1st"),
        [*common, *_schedule(rest), "--optimizer", "diff_adam", *stage1_options],
    )
    finetuning = [*common, *later, *_schedule([*rest, *later], tell=False), "--optimizer", "fixmask_adam"]
    tasks: dict[str, Training] = {}
    for text in projections:  # all of it now: what stage 3 refuses is refused before stage 1
        folder = os.path.join(own.save_dir, text)
        tasks[text] = Training(
            os.path.join(folder, "3rd"), [*finetuning, "--mask-pack", os.path.join(folder, MASK)]
        )
    for training in (first, *tasks.values()):
        training.check()
    for text, projection in projections.items():
        mask = os.path.join(own.save_dir, text, MASK)
        if os.path.isfile(mask):
            _check_mask(mask, projection, first)
    if only_planned:
        dry_run([*first.flags, "--save-dir", first.folder])
        _say(f"then for each of {', '.join(projections)}: projection, and as long a training of what is kept")
        return {}
    method = method_name(_grouping(stage1_options))

    _say("stage 1: diff pruning")
    first.run(f"{method}-unprojected", name, lambda: {"diff": _unprojected(first.folder, base)})
    packs, lines = {}, []
    for text, projection in projections.items():
        folder = os.path.join(own.save_dir, text)
        mask, path = (os.path.join(folder, part) for part in (MASK, PACK))
        _say(f"stage 2: projection to {text}")
        if not os.path.isfile(mask):
            made_by = {_STAGE1: first.fingerprints()[0]}
            write_pack(
                mask, os.path.join(first.folder, "checkpoint_last.pt"), base, projection, "float32", made_by
            )
        else:
            _check_mask(mask, projection, first)
        _say(f"stage 3: finetuning of the share {text}")
        third = tasks[text]

        def finished(path=path, third=third) -> dict[str, Any]:
            return {
                "diff": record_figures(
                    *write_pack(path, result_of(third.folder), base, dtype=own.value_dtype)
                )
            }

        third.run(pack_label(DiffPack.load(mask)), name, finished)
        packs[text] = DiffPack.load(path)
        lines.append(_line(text, packs[text], path, third.folder))
    _say(f"stage 1 alone: {_score(first.folder)}")
    for line in lines:
        _say(line)
    return packs


def _check(own: argparse.Namespace) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError(
            "run_diff.py starts its own processes, one a GPU: start it without torchrun, or "
            "each stage by fairseq-train"
        )
    for name, why in _OURS.items():
        value = getattr(own, name.replace("-", "_"))
        if value and not (name == "optimizer" and value in ("adam", "diff_adam")):
            raise ValueError(f"--{name} {value}: {why}")
    for name in ("restore_file", "finetune_from_model"):
        if getattr(own, name):
            raise ValueError(
                f"--{name.replace('_', '-')}: a diff starts from --base-checkpoint, and goes on "
                "from --save-dir"
            )
    if own.task not in (None, "diff_translation"):
        raise ValueError(f"--task {own.task}: diffs are trained by diff_translation")
    for name in ("finetune_lr", "finetune_max_update", "finetune_max_epoch"):
        value = getattr(own, name)
        if value is not None and not 0 < _number(value) < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0 and finite, got {value}")
    check_folder("--save-dir", own.save_dir)


def _projections(own: argparse.Namespace) -> dict[str, Projection]:
    """Name of its folder -> projection, of each density once however it is written.

    Raises:
        ValueError: a density outside (0, 1].
    """
    found: dict[str, Projection] = {}
    there = os.listdir(own.save_dir) if os.path.isdir(own.save_dir) else []
    for text in own.target_sparsity:
        projection = Projection(_number(text), own.per_layer_projection, own.sampled_diff)
        if projection in found.values():
            _say(f"--target-sparsity {text} is there twice and trained once")
            continue
        found[
            next(
                (name for name in [text, *there] if name in there and _number(name) == projection.density),
                text,
            )
        ] = projection
    return found


def _check_mask(path: str, projection: Projection, stage1: Training) -> None:
    """Raises:
    ValueError: a mask that is there was projected with other options, or from a stage 1 that had others.
    """
    told = DiffPack.load(path).config
    if told.get("projection") != vars(projection):
        raise ValueError(f"{path} was projected with other options: name another --save-dir")
    # it may have been removed, and trained once more
    if _STAGE1 in told and told[_STAGE1] not in stage1.fingerprints():
        remedy = f"remove {os.path.dirname(path)}, or name another --save-dir"
        raise refusal(f"{path} is of a stage 1", (), remedy)


def _common(own: argparse.Namespace, rest: list[str]) -> list[str]:
    """The options of both trainings."""
    arch = own.arch or "diff_transformer"
    arch = arch if arch.startswith("diff_") else "diff_" + re.sub(r"^[a-z]+_(?=transformer)", "", arch)
    flags = [*rest, "--user-dir", own.user_dir or PLUGIN_DIR, "--task", "diff_translation", "--arch", arch]
    flags += ["--base-checkpoint", own.base_checkpoint, "--no-epoch-checkpoints"]
    return flags if _given(rest, "--clip-norm") else [*flags, "--clip-norm", "1.0"]  # the paper's


def _schedule(flags: list[str], tell: bool = True) -> list[str]:
    """The paper's linear decay to 0 over the updates of a stage, unless the command line asks for another
    schedule.

    By --max-epoch alone their number is not known before the data are read: then the rate is constant, and
    this says so.
    """
    if _given(flags, "--lr-scheduler"):
        return []
    updates = _given(flags, "--max-update")
    if updates in (None, "0"):
        if tell:
            _say(
                "without --max-update the rate does not fall; with it, it falls linearly to 0 "
                "(--lr-scheduler: as you like)"
            )
        return []
    return ["--lr-scheduler", "polynomial_decay", "--total-num-update", updates]


def _finetuning(own: argparse.Namespace) -> list[str]:
    """What is different in stage 3; argparse takes the last of an option."""
    values = {
        "--lr": own.finetune_lr,
        "--max-update": own.finetune_max_update,
        "--max-epoch": own.finetune_max_epoch,
    }
    return [word for flag, value in values.items() if value is not None for word in (flag, value)]


def _options_of_stage1(rest: list[str]) -> tuple[list[str], list[str]]:
    """(options that only diff_adam takes, the others)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    shared = {option.name for option in dataclasses.fields(SparseAdamConfig)} | {"seed"}
    names = [option.name for option in dataclasses.fields(DiffAdamConfig) if option.name not in shared]
    for name in names:
        parser.add_argument("--" + name.replace("_", "-"), dest=name)
    found, others = parser.parse_known_args(rest)
    given = {name: getattr(found, name) for name in names if getattr(found, name) is not None}
    return [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)], others


def _grouping(stage1_options: list[str]) -> str:
    values = {
        name: int(_given(stage1_options, f"--{name.replace('_', '-')}") or default)
        for name, default in (("per_params_alpha", 1), ("per_neuron_alpha", 0), ("per_layer_alpha", 0))
    }
    return grouping_name(**values)


@dataclass
class Training:
    """One of the trainings, in a folder of its own.

    Attributes:
        flags: of fairseq-train, but for --save-dir.
    """

    folder: str
    flags: list[str]

    def __post_init__(self) -> None:
        self._file = os.path.join(self.folder, _SETTINGS)

    def check(self) -> None:
        """Look at all options, and compare them with those that the folder was started with.

        Raises:
            ValueError: options that cannot be; the folder holds a training with other settings.
        """
        self.settings = settings_of(training_options([*self.flags, "--save-dir", self.folder]))
        made = self._made()
        if isinstance(made, dict):
            differing = difference(made, self.settings)
        elif made is None or made == _lasting(self.flags):
            return
        else:  # of an earlier version: the words as they were written
            there, here = _by_option(made), _by_option(_lasting(self.flags))
            differing = other_settings(there, here, {**there, **here}, missing="not given")
            differing = differing or ["in another order"]
        if differing:
            raise refusal(f"{self.folder} holds a training", differing[:4], "name another --save-dir")

    def is_started(self) -> bool:
        return os.path.isfile(self._file)

    def fingerprints(self) -> list[str]:
        """SHA-256 of the settings that the folder was started with, and as an earlier version had it of
        the same words.
        """
        made = self._made() or self.settings
        texts = json.dumps(made, sort_keys=isinstance(made, dict)), json.dumps(_lasting(self.flags))
        return [hashlib.sha256(text.encode()).hexdigest() for text in texts]

    def run(self, label: str, name: str, finished: Callable[[], dict[str, Any]]) -> None:
        """Train, unless it is done. `finished` is called at its end and adds to its record."""
        if os.path.isfile(os.path.join(self.folder, "results.json")):
            _say(f"{self.folder} is done")
            return
        if not self.is_started():
            write_json(self._file, json.dumps({"settings": self.settings}) + "\n")
        # killed after its last update: fairseq would make one more
        if _reached(self.folder, _given(self.flags, "--max-update")):
            summarise_training(self.folder, 0.0, label, name, finished)
            return
        forget_best_score()
        train([*self.flags, "--save-dir", self.folder], label, name, finished)

    def _made(self) -> dict[str, Any] | list[str] | None:
        """The settings of the folder: by option, or as the words of an earlier version; None where there
        are none.
        """
        if not self.is_started():
            return None
        made = read_json(self._file)
        return made.get("settings", made.get("options")) if isinstance(made, dict) else made


def _by_option(flags: Sequence[str]) -> dict[str, str]:
    """Option -> its values as they were written; of an option that is there twice the last."""
    found: dict[str, str] = {}
    name = "data"
    for word in flags:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            found[name] = value
        else:
            found[name] = f"{found.get(name, '')} {word}".strip()
    return found


def _lasting(flags: Sequence[str]) -> list[str]:
    """The options that a resume must share."""
    kept, value_of_free = [], False
    for word in flags:
        name, equals, _ = word.partition("=")
        if name in _FREE:
            value_of_free = _FREE[name] and not equals
        elif not value_of_free:
            kept.append(word)
        else:
            value_of_free = False
    return kept


def _reached(folder: str, max_update: Optional[str]) -> bool:
    """Whether the last checkpoint is that of the last update."""
    last = os.path.join(folder, "checkpoint_last.pt")
    if not int(max_update or 0) or not os.path.isfile(last):
        return False
    return load_checkpoint(last)["optimizer_history"][-1]["num_updates"] >= int(max_update)


def _unprojected(folder: str, base: BaseCheckpoint) -> dict[str, Any]:
    trained = read_trained(os.path.join(folder, "checkpoint_last.pt"), base.model())
    nonzeros = sum(int(trained.deltas[name].count_nonzero()) for name in trained.deltas)
    total = sum(trained.deltas[name].numel() for name in trained.deltas)
    return {
        "nonzeros": nonzeros,
        "total": total,
        "density": nonzeros / total,
        "method": trained.config["method"],
    }


def _line(text: str, pack: DiffPack, path: str, folder: str) -> str:
    changed = f"{pack.count:,} of {pack.base.total:,} weights"
    return f"{text}: {changed}, {os.path.getsize(path):,} bytes in {path}; {_score(folder)}"


def _score(folder: str) -> str:
    """What the record of a stage says of its validation."""
    metrics = load_record(os.path.join(folder, "results.json")).metrics
    return (
        ", ".join(f"{metric.name} {metric.value:.4g} on {metric.subset}" for metric in metrics)
        or "not validated"
    )


def _given(flags: Sequence[str], name: str) -> Optional[str]:
    """The last value of an option."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(name, dest="value")
    return parser.parse_known_args(list(flags))[0].value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _say(text: str) -> None:
    print(f"| {text}", flush=True)
