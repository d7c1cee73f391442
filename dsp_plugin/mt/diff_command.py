"""The three stages of diff pruning on fairseq in one command; fairseq-train's options, and a few of our own."""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import os
import re
from typing import Any, Dict, List, Optional, Sequence

from ..diffs import DiffPack
from ..diffs.named_groupings import grouping_name, method_name
from ..diffs.pack_summary import told_of_pack
from ..optim.diff_adam import DiffAdamConfig, SparseAdamConfig
from ..reports.records import load_record
from ..reports.sealed import read_json, write_json
from .checkpoints import load_checkpoint
from .diff_base import BaseCheckpoint, read_base
from .diff_packs import Projection, label_of, read_trained, write_pack
from .launch import PLUGIN_DIR, result_of, summarise_training, train

MASK, PACK = "mask.diff.safetensors", "task.diff.safetensors"  # of stages 2 and 3, in SAVE_DIR/DENSITY
_SETTINGS = "settings.json"
_STAGE1 = "stage1_settings"  # in a mask's configuration, the SHA-256 of the options of the training it was projected from
# what may change between the start of a stage and its resume: option -> whether it takes a value
_FREE = {"--num-workers": True, "--log-interval": True, "--log-format": True, "--no-progress-bar": False, "--cpu": False,
         "--save-interval-updates": True, "--keep-interval-updates": True}  # fmt: skip
_OURS = {"optimizer": "adam or diff_adam", "mask-pack": "stage 2 writes it", "diff-pack": "it is for translating"}


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
    for name in ("arch", "optimizer", "user-dir", "task", "mask-pack", "diff-pack", "restore-file", "finetune-from-model"):
        parser.add_argument(*(["--arch", "-a"] if name == "arch" else [f"--{name}"]))
    return parser


def run_diff(argv: Sequence[str]) -> Dict[str, DiffPack]:
    """The whole of the program. A stage that is done is skipped, one that was stopped goes on.

    Returns:
        Density as it was written -> the task's pack.

    Raises:
        ValueError, OSError: options or files that cannot be, before anything is trained; a save folder of other settings.
    """
    own, rest = own_options().parse_known_args(list(argv))
    _check(own)
    stage1_options, rest = _options_of_stage1(rest)
    projections = {text: Projection(_number(text), own.per_layer_projection, own.sampled_diff) for text in own.target_sparsity}
    base = read_base(own.base_checkpoint)
    method = method_name(_grouping(stage1_options))
    name = own.record_name or os.path.basename(os.path.normpath(own.save_dir))
    common = _common(own, rest)
    first = os.path.join(own.save_dir, "1st")

    _say("stage 1: diff pruning")
    flags = [*common, *_schedule(rest), "--optimizer", "diff_adam", *stage1_options]
    _stage(first, flags, f"{method}-unprojected", name, lambda: {"diff": _unprojected(first, base)})
    settings = hashlib.sha256(json.dumps(_lasting(flags)).encode()).hexdigest()
    packs, lines = {}, []
    for text, projection in projections.items():
        folder = os.path.join(own.save_dir, text)
        mask, path, third = (os.path.join(folder, part) for part in (MASK, PACK, "3rd"))
        _say(f"stage 2: projection to {text}")
        if not os.path.isfile(mask):
            write_pack(mask, os.path.join(first, "checkpoint_last.pt"), base, projection, "float32", {_STAGE1: settings})
        else:
            _check_mask(mask, projection, settings)
        _say(f"stage 3: finetuning of the share {text}")
        later = _finetuning(own)
        flags = [*common, *later, *_schedule([*rest, *later]), "--optimizer", "fixmask_adam", "--mask-pack", mask]
        label = label_of(DiffPack.load(mask))

        def finished(path=path, third=third) -> Dict[str, Any]:
            return {"diff": told_of_pack(*write_pack(path, result_of(third), base, dtype=own.value_dtype))}

        _stage(third, flags, label, name, finished)
        packs[text] = DiffPack.load(path)
        lines.append(_line(text, packs[text], path, third))
    _say(f"stage 1 alone: {_score(first)}")
    for line in lines:
        _say(line)
    return packs


def _check(own: argparse.Namespace) -> None:
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("run_diff.py starts its own processes, one a GPU: start it without torchrun, or each stage by fairseq-train")
    for name, why in _OURS.items():
        value = getattr(own, name.replace("-", "_"))
        if value and not (name == "optimizer" and value in ("adam", "diff_adam")):
            raise ValueError(f"--{name} {value}: {why}")
    for name in ("restore_file", "finetune_from_model"):
        if getattr(own, name):
            raise ValueError(f"--{name.replace('_', '-')}: a diff starts from --base-checkpoint, and goes on from --save-dir")
    if own.task not in (None, "diff_translation"):
        raise ValueError(f"--task {own.task}: diffs are trained by diff_translation")
    for name in ("finetune_lr", "finetune_max_update", "finetune_max_epoch"):
        value = getattr(own, name)
        if value is not None and not 0 < _number(value) < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} must be above 0 and finite, got {value}")
    if len(set(own.target_sparsity)) < len(own.target_sparsity):
        raise ValueError("--target-sparsity names a density twice")


def _check_mask(path: str, projection: Projection, settings: str) -> None:
    """Raises:
    ValueError: a mask that is there was projected with other options, or from a stage 1 that had others.
    """
    told = DiffPack.load(path).config
    if told.get("projection") != vars(projection):
        raise ValueError(f"{path} was projected with other options: name another --save-dir")
    if told.get(_STAGE1, settings) != settings:  # which may have been removed and trained once more
        raise ValueError(f"{path} is of a stage 1 with other settings: remove {os.path.dirname(path)}, or name another --save-dir")


def _common(own: argparse.Namespace, rest: List[str]) -> List[str]:
    """The options of both trainings."""
    arch = own.arch or "diff_transformer"
    arch = arch if arch.startswith("diff_") else "diff_" + re.sub(r"^[a-z]+_(?=transformer)", "", arch)
    flags = [*rest, "--user-dir", own.user_dir or PLUGIN_DIR, "--task", "diff_translation", "--arch", arch]
    flags += ["--base-checkpoint", own.base_checkpoint, "--no-epoch-checkpoints"]
    return flags if _given(rest, "--clip-norm") else [*flags, "--clip-norm", "1.0"]  # the paper's


def _schedule(flags: List[str]) -> List[str]:
    """The paper's linear decay to 0 over the updates of a stage, unless the command line asks for another schedule.

    By --max-epoch alone their number is not known before the data are read: then the rate is constant, and this says so.
    """
    if _given(flags, "--lr-scheduler"):
        return []
    updates = _given(flags, "--max-update")
    if updates in (None, "0"):
        _say("without --max-update the rate does not fall; with it, it falls linearly to 0 (--lr-scheduler: as you like)")
        return []
    return ["--lr-scheduler", "polynomial_decay", "--total-num-update", updates]


def _finetuning(own: argparse.Namespace) -> List[str]:
    """What is different in stage 3; argparse takes the last of an option."""
    values = {"--lr": own.finetune_lr, "--max-update": own.finetune_max_update, "--max-epoch": own.finetune_max_epoch}
    return [word for flag, value in values.items() if value is not None for word in (flag, value)]


def _options_of_stage1(rest: List[str]) -> "tuple[List[str], List[str]]":
    """(options that only diff_adam takes, the others)."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    shared = {option.name for option in dataclasses.fields(SparseAdamConfig)} | {"seed"}
    names = [option.name for option in dataclasses.fields(DiffAdamConfig) if option.name not in shared]
    for name in names:
        parser.add_argument("--" + name.replace("_", "-"), dest=name)
    found, others = parser.parse_known_args(rest)
    given = {name: getattr(found, name) for name in names if getattr(found, name) is not None}
    return [word for name, value in given.items() for word in ("--" + name.replace("_", "-"), value)], others


def _grouping(stage1_options: List[str]) -> str:
    values = {name: int(_given(stage1_options, f"--{name.replace('_', '-')}") or default) for name, default in
              (("per_params_alpha", 1), ("per_neuron_alpha", 0), ("per_layer_alpha", 0))}  # fmt: skip
    return grouping_name(**values)


def _stage(folder: str, flags: List[str], label: str, name: str, finished) -> None:
    """One training in `folder`, unless it is done. `finished` is called at its end and adds to its record.

    Raises:
        ValueError: the folder holds a training with other settings.
    """
    from fairseq import checkpoint_utils

    settings = os.path.join(folder, _SETTINGS)
    wanted = _lasting(flags)
    if os.path.isfile(settings):
        made = read_json(settings)
        made = made.get("options") if isinstance(made, dict) else made  # before it had a checksum, it was a list
        if made != wanted:
            there, here = _by_option(made), _by_option(wanted)
            odd = [name for name in {**there, **here} if there.get(name) != here.get(name)]
            told = "; ".join(f"{name}: {there.get(name, 'not given')} there, {here.get(name, 'not given')} here" for name in odd[:4])
            raise ValueError(f"{folder} holds a training with other settings ({told or 'in another order'}): name another --save-dir")
    if os.path.isfile(os.path.join(folder, "results.json")):
        _say(f"{folder} is done")
        return
    write_json(settings, json.dumps({"options": wanted}) + "\n")
    if _reached(folder, _given(flags, "--max-update")):  # killed after its last update: fairseq would make one more
        summarise_training(folder, 0.0, label, name, finished)
        return
    if hasattr(checkpoint_utils.save_checkpoint, "best"):
        del checkpoint_utils.save_checkpoint.best  # fairseq keeps the best score of the training before
    train([*flags, "--save-dir", folder], label, name, finished)


def _by_option(flags: Sequence[str]) -> Dict[str, str]:
    """Option -> its values as they were written; of an option that is there twice the last."""
    found: Dict[str, str] = {}
    name = "data"
    for word in flags:
        if word.startswith("--"):
            name, _, value = word.partition("=")
            found[name] = value
        else:
            found[name] = f"{found.get(name, '')} {word}".strip()
    return found


def _lasting(flags: Sequence[str]) -> List[str]:
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


def _unprojected(folder: str, base: BaseCheckpoint) -> Dict[str, Any]:
    trained = read_trained(os.path.join(folder, "checkpoint_last.pt"), base.model())
    nonzeros = sum(int(trained.deltas[name].count_nonzero()) for name in trained.deltas)
    total = sum(trained.deltas[name].numel() for name in trained.deltas)
    return {"nonzeros": nonzeros, "total": total, "density": nonzeros / total, "method": trained.config["method"]}


def _line(text: str, pack: DiffPack, path: str, folder: str) -> str:
    changed = f"{pack.count:,} of {pack.base.total:,} weights"
    return f"{text}: {changed}, {os.path.getsize(path):,} bytes in {path}; {_score(folder)}"


def _score(folder: str) -> str:
    """What the record of a stage says of its validation."""
    metrics = load_record(os.path.join(folder, "results.json")).metrics
    return ", ".join(f"{metric.name} {metric.value:.4g} on {metric.subset}" for metric in metrics) or "not validated"


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
