"""A Trainer that scores and predicts the examples in their own order."""

from __future__ import annotations

from torch.utils.data import Dataset, Sampler, SequentialSampler
from transformers import Trainer


class InOrderTrainer(Trainer):
    """The stock Trainer, but that `train_sampling_strategy="group_by_length"` is about training alone.

    The stock one groups evaluation and prediction, too: what `predict` returns is then no longer in the order
    of the dataset, and neither windows of a question nor lines of a prediction file can be told apart.
    """

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_eval_sampler(eval_dataset)
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None
