"""All weights in training, as Delta-Tuning's program compares its methods with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from ...delta.prompting import PromptingModel
from ...trainer.in_order import InOrderTrainer


class WholeTrainer(InOrderTrainer):
    """A Trainer of all weights; with prompts it saves and loads the masked language model itself."""

    model: nn.Module
    _outer: nn.Module | None = None

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        with self._inner():
            super()._save(output_dir, None if self._outer is not None else state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        with self._inner():
            super()._load_from_checkpoint(
                resume_from_checkpoint, model if self._outer is None else self.model
            )

    def _load_best_model(self) -> None:
        with self._inner():
            super()._load_best_model()

    @contextmanager
    def _inner(self) -> Iterator[None]:
        if not isinstance(self.model, PromptingModel):
            yield
            return
        self._outer, self.model = self.model, self.model.model
        try:
            yield
        finally:
            self._outer, self.model = None, self._outer
