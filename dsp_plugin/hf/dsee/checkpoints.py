"""Checkpoints of a training with an update: the task's file in place of the whole model.

A checkpoint of a 110-million-weight BERT is then a few MB and its optimizer's moments. The frozen weights are
the base's, which the file is bound to by its hash.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...dsee.artefact import DseeFile
from ..trainer.in_order import InOrderTrainer
from .files import file_of, save_dsee
from .layer import dsee_layers
from .state import dsee_of, has_dsee
from .weights import set_masks

FILE = "task.dsee.safetensors"


class DseeTrainer(InOrderTrainer):
    """A Trainer whose checkpoints hold the update, S1, the units kept and the task head, and nothing else.

    It goes on from one and ends with the best one. A model without an update has the Trainer's own.

    Attributes:
        about: what the files say beside how the update was made, plain JSON.
    """

    about: Mapping[str, Any] = {}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not has_dsee(self.model):
            super()._save(output_dir, state_dict)
            return
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_dsee(self.model, folder / FILE, config=self.about)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if has_dsee(self.model):
            restore_dsee(self.model, Path(resume_from_checkpoint) / FILE)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if has_dsee(self.model):
            restore_dsee(self.model, Path(self.state.best_model_checkpoint) / FILE)
        else:
            super()._load_best_model()


@torch.no_grad()
def restore_dsee(model: nn.Module, file: str | os.PathLike | DseeFile) -> None:
    """Give a model with an update the values of a file of the same training, in place.

    Parameters stay the objects that an optimizer has. S1 may have grown since the model was made, never
    shrunk.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged, or of another base, other matrices, ranks, numbers of entries or units.
    """
    stored = file if isinstance(file, DseeFile) else DseeFile.load(file)
    state, layers, here = dsee_of(model), dsee_layers(model), file_of(model)
    if stored.base.hash != state.base.hash:
        raise ValueError("the checkpoint is of another base")
    if stored.kept != here.kept or stored.groups != here.groups:
        raise ValueError("the checkpoint is of a model with other units")
    if list(stored.updates) != list(here.updates) or {*stored.task_head} != {*here.task_head}:
        raise ValueError("the checkpoint is of updates on other matrices, or of another task head")
    for name, mask in here.masks.items():
        theirs = stored.masks.get(name)
        if theirs is None or bool((theirs.mask() & ~mask.mask()).any()):
            raise ValueError(f"the checkpoint has weights of {name} that this model has lost")
    parameters = dict(model.named_parameters())
    copies = [(parameters[name], tensor) for name, tensor in stored.task_head.items()]
    for target in state.targets:
        layer, update = layers[target.path], stored.updates[target.weight]
        inputs = layer.dsee_rows.new_tensor(max(layer.down.shape[1], 1))
        positions = update.positions.to(inputs.device)
        copies += [(layer.lora_A[name].weight, update.down) for name in layer.lora_A]
        copies += [(layer.lora_B[name].weight, update.up) for name in layer.lora_B]
        copies += [(layer.dsee_values, update.values)]
        copies += [(layer.dsee_rows, positions // inputs), (layer.dsee_columns, positions % inputs)]
        if any(update.scale != scale for scale in layer.scaling.values()):
            raise ValueError(f"the checkpoint has another scale of {target.path}")
    for mine, theirs in copies:
        if mine.shape != theirs.shape:
            raise ValueError("the checkpoint is of updates of other sizes")
    for mine, theirs in copies:
        mine.copy_(theirs)
    set_masks(model, dict(stored.masks))
