"""What a task is to the training programs, beside its data: answers that hold for most, and can be others."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from ....records.record import Metric


class DataTask:
    """A task of the programs: `GlueTask`, `SquadTask`, `ClmTask`. Here is what most of them answer alike.

    Attributes:
        kind: first word of the records' kind. scale: what metrics are multiplied by in records (percent).
        metrics: names of the scores. watched: those of them that scoring during training has, too, so that
            the best model can be chosen by one. main_metric: the one that curves show.
        label_columns: of a batch. labels: in the order of the model's outputs; none where outputs are no
            classes of the task's. smooths: whether `--label_smoothing_factor` means something.
        dev, test: split -> data set, once read and tokenised.
    """

    kind: str
    scale = 1.0
    metrics: tuple[str, ...]
    main_metric: str
    label_columns: tuple[str, ...] = ("labels",)
    dev: dict[str, Any]
    test: dict[str, Any]
    reduce_logits: Any = None  # a Trainer's `preprocess_logits_for_metrics`

    @property
    def watched(self) -> tuple[str, ...]:
        return self.metrics

    @property
    def smooths(self) -> bool:
        return bool(getattr(self, "labels", ()))

    def check(self, args: TrainingArguments) -> None:
        """Raise an OptionError where the Trainer's options do not go with the task's."""

    def check_model(self, model: Any, tokenizer: Any) -> None:
        """Raise an OptionError for a loaded model that cannot do the task; before the data are read."""

    def more_scores(self, trainer: Trainer, split: str) -> dict[str, float]:
        """Score a development set in ways that the Trainer's own loop has not; called in every process."""
        return {}

    def predictions(self, trainer: Trainer, split: str) -> Any:
        """Return what `write_test` takes of a test set; called in every process."""
        return trainer.predict(self.test[split]).predictions

    def measured(self, name: str, value: float, split: str) -> Metric:
        """Return a score as records have it."""
        return Metric(name, self.scale * value, unit="%", subset=self.subset(split))

    def subset(self, split: str) -> str:
        """Return the split's name in records."""
        return split

    def figures(self, split: str) -> dict[str, Any]:
        """Return more fields for the record of a scored split."""
        return {}

    def write_beside(self, folder: str, split: str) -> None:
        """Write what belongs beside the record of a scored split, into its folder."""


def gathered(found: dict[int, Any]) -> dict[int, Any]:
    """Join what every process has found; in one process it is all there is."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return found
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, found)
    return {number: value for part in parts for number, value in part.items()}
