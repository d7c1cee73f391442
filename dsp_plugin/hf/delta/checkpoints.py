"""Checkpoints of a training with deltas: the task's file in place of the whole model."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...delta.artefact import DeltaFile
from ..trainer.in_order import InOrderTrainer
from .files import file_of
from .state import delta_of

FILE = "task.delta.safetensors"


class DeltaTrainer(InOrderTrainer):
    """A Trainer whose checkpoints hold the methods and the task head, and nothing else.

    It goes on from one and ends with the best one. The model, or a part of it, has deltas.

    Attributes:
        about: `template`, `mapping` and `config` of the files, see `save_delta`.
    """

    about: Mapping[str, Any] = {}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        file_of(carrier_of(self.model), **self.about).save(folder / FILE)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        restore_delta(carrier_of(self.model), Path(resume_from_checkpoint) / FILE)

    def _load_best_model(self) -> None:
        restore_delta(carrier_of(self.model), Path(self.state.best_model_checkpoint) / FILE)


def carrier_of(model: nn.Module) -> nn.Module:
    """Return the module with deltas: the model, or a part of it.

    Raises:
        ValueError: there is none.
    """
    return next((part for part in model.modules() if "dsp_delta" in vars(part)), None) or _none(model)


def _none(model: nn.Module) -> nn.Module:
    delta_of(model)  # which says it
    return model


@torch.no_grad()
def restore_delta(model: nn.Module, file: str | os.PathLike | DeltaFile) -> None:
    """Give a model with deltas the values of a file of the same training, in place.

    Parameters stay the objects that an optimizer has.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or of another base, other methods, stages or sizes.
    """
    stored = file if isinstance(file, DeltaFile) else DeltaFile.load(file)
    state, here = delta_of(model), file_of(model)
    if stored.base.hash != state.base.hash:
        raise ValueError("the checkpoint is of another base")
    if {m: p.stage for m, p in stored.parts.items()} != {m: p.stage for m, p in here.parts.items()}:
        raise ValueError("the checkpoint is of other methods, or of another stage")
    if set(stored.task_head) != set(here.task_head):
        raise ValueError("the checkpoint is of another task head")
    copies = []
    parameters = dict(model.named_parameters())
    for method, part in stored.parts.items():
        mine = state.parts[method].tensors(model)
        if set(mine) != set(part.tensors):
            raise ValueError(f"the checkpoint's part of {method} is of other places")
        for name, theirs in part.tensors.items():
            if name.endswith(".positions"):
                if not torch.equal(mine[name].cpu().long(), theirs.long()):
                    raise ValueError(
                        f"the checkpoint has other positions of {name.removesuffix('.positions')}"
                    )
            else:
                copies.append((mine[name], theirs))
    copies += [(parameters[name], theirs) for name, theirs in stored.task_head.items()]
    for mine, theirs in copies:
        if mine.shape != theirs.shape:
            raise ValueError("the checkpoint is of deltas of other sizes")
    for mine, theirs in copies:
        mine.copy_(theirs)
