"""A tiny base for DSEE on fairseq, files of it as if they were trained, and models made of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from fairseq import tasks
from fairseq_models import TINY, build_dsp, liven, parse
from omegaconf import OmegaConf, open_dict

from dsp_plugin.dsee.artefact import DseeFile
from dsp_plugin.mt.checkpoints.built_in_types import to_built_in_types
from dsp_plugin.mt.checkpoints.checkpoint import save_checkpoint
from dsp_plugin.mt.dsee.starting import NewUpdate
from dsp_plugin.mt.surgery.base_checkpoint import BaseCheckpoint, read_base
from dsp_plugin.mt.surgery.equality import model_of, placeholder_task, random_pairs, target_log_probs

RANK, ALPHA, ENTRIES = 3, 6.0, 5
UPDATE = {"lora_r": RANK, "lora_alpha": ALPHA, "num_sparse": ENTRIES}
# parsed once: it takes most of a second
TRAINING = "--criterion label_smoothed_cross_entropy --optimizer adam --cpu --save-dir nowhere".split()


def write_base(data: Path, path: Path, seed: int = 1) -> Path:
    """Write a checkpoint of `dsp_transformer`, tiny, whose parameters all have values of their own."""
    cfg = parse(data, *TINY, arch="dsp_transformer", task="dsp_translation")
    _, model = build_dsp(data)
    liven(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.01 * (seed - 1))
    sections = {name: OmegaConf.to_container(cfg[name], resolve=True) for name in ("model", "task", "common")}
    state = {"args": None, "cfg": to_built_in_types(sections), "model": model.state_dict()}
    save_checkpoint({**state, "optimizer_history": [{"num_updates": 7}], "task_state": {}}, str(path))
    return path


def trained_file(base: BaseCheckpoint, targets: str = "query,value", seed: int = 3) -> DseeFile:
    """A file of a base as if stage I had trained it."""
    file = NewUpdate(RANK, ALPHA, ENTRIES, "omp", targets, seed).file(base)
    generator = torch.Generator().manual_seed(seed)
    updates = {
        name: replace(
            one,
            down=0.3 * torch.randn(one.down.shape, generator=generator),
            up=0.3 * torch.randn(one.up.shape, generator=generator),
            values=torch.randn(one.values.shape, generator=generator),
        )
        for name, one in file.updates.items()
    }
    return replace(file, updates=updates)


def build_with(data: Path, changes, arch: str = "dsee_transformer", task: str = "dsee_translation"):
    """(task, model) of a training whose configuration has these changes, [(section, option, value)]."""
    cfg = parse(data, *TRAINING, arch=arch, task=task)
    with open_dict(cfg):
        for section, option, value in changes:
            setattr(cfg[section], option, value)
    made = tasks.setup_task(cfg.task)
    torch.manual_seed(0)
    return made, made.build_model(cfg.model)


def live_model(data: Path, base: Path, dsee_checkpoint: str | None = None, **update: object):
    """(task, model) that fairseq-train would train, with options of the update, or a file to start from."""
    of_task = {"base_checkpoint": str(base), "dsee_checkpoint": dsee_checkpoint}
    changes = [("task", *pair) for pair in of_task.items()] + [("model", *pair) for pair in update.items()]
    return build_with(data, changes)


def scores_of(model) -> torch.Tensor:
    """Log probabilities of random pairs of tokens by a model, all in one."""
    task = placeholder_task(dict(model.state_dict()))
    with torch.no_grad():
        return torch.cat(target_log_probs(model.eval(), task, random_pairs(task)))


def scores_of_state(state: dict) -> torch.Tensor:
    """The same of a checkpoint."""
    return scores_of(model_of(state, placeholder_task(state["model"])))


__all__ = [
    "ALPHA",
    "ENTRIES",
    "RANK",
    "UPDATE",
    "build_with",
    "live_model",
    "read_base",
    "scores_of",
    "scores_of_state",
    "trained_file",
    "write_base",
]
