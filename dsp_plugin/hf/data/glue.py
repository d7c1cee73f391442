"""GLUE for a Transformers model: tokenised examples, beside what is in the other `glue_*` modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...options.errors import OptionError
from .glue_files import Example, load_split
from .glue_scores import answers, compute_metrics, score, write_predictions
from .glue_tasks import TASKS, Split, Task, find_task
from .tokenised import PackedDataset

__all__ = [
    "TASKS",
    "Example",
    "GlueDataset",
    "Split",
    "Task",
    "answers",
    "compute_metrics",
    "find_task",
    "label_names",
    "load_split",
    "score",
    "write_predictions",
]

# Examples that are tokenised at once.
BATCH = 2000


class GlueDataset(PackedDataset):
    """The tokenised examples of one split, for a Trainer with `DataCollatorWithPadding(tokenizer)`.

    Rows are what the tokenizer gives, `[CLS] first [SEP] second [SEP]` for BERT, of at most `max_seq_length`
    tokens; of a pair that is too long the longer sentence loses its end. A labelled split has `labels`, int
    or, for a regression, float.

    Raises:
        OptionError: `max_seq_length` holds no text, or is more than the tokenizer's model takes.
    """

    def __init__(self, examples: Sequence[Example], tokenizer: Any, max_seq_length: int = 128):
        super().__init__()
        pair = bool(examples) and examples[0].second is not None
        check_max_seq_length(max_seq_length, tokenizer, pair=pair)
        self.indices = [example.index for example in examples]
        for start in range(0, len(examples), BATCH):
            batch = examples[start : start + BATCH]
            second: list | None = [example.second for example in batch]
            self._extend(
                tokenizer(
                    [example.first for example in batch],
                    None if batch[0].second is None else second,
                    truncation=True,
                    padding=False,  # a tokenizer file can ask for a padding of its own
                    max_length=max_seq_length,
                )
            )
        if examples and examples[0].label is not None:
            self._set_column("labels", [example.label for example in examples])


def check_max_seq_length(max_seq_length: int, tokenizer: Any, pair: bool) -> None:
    """Raise an OptionError where no text fits beside special tokens, or it is more than the model's."""
    special = tokenizer.num_special_tokens_to_add(pair=pair)
    lowest = special + (2 if pair else 1)
    if not lowest <= max_seq_length <= tokenizer.model_max_length:
        possible = f"from {lowest} to {tokenizer.model_max_length} tokens are possible with this tokenizer"
        raise OptionError("max_seq_length", f"{max_seq_length}: {possible}")


def label_names(task: Task) -> dict[str, Any]:
    """Return what a config says of the task: `AutoConfig.from_pretrained(..., **label_names(task))`."""
    if task.is_regression:
        return {"num_labels": 1, "problem_type": "regression"}
    return {
        "num_labels": task.num_labels,
        "problem_type": "single_label_classification",
        "id2label": dict(enumerate(task.labels)),
        "label2id": {label: number for number, label in enumerate(task.labels)},
    }
