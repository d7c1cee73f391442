"""GLUE examples as prompts for a Trainer: data sets, demonstrations, batches, answers.

Nothing is kept on disk between runs: what a cache of features would be of is encoded in seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch.utils.data import Dataset
from transformers import TrainerCallback

from ...options.errors import OptionError
from ..data.glue_files import Example
from ..data.glue_scores import score
from ..data.glue_tasks import HIGHEST_SCORE, Task
from ..data.tokenised import PackedDataset
from .encoding import Encoded, PromptEncoder

BATCH = 2000  # examples that are encoded at once
_MIDDLE_SCORE = 2.5  # demonstrations of STS-B are of two classes: below, and from it on


def texts_of(example: Example) -> list[str]:
    """Return its sentences, one or two."""
    return [example.first] if example.second is None else [example.first, example.second]


def class_of(task: Task, example: Example) -> int:
    """Return the number of the label word that an example is a demonstration of."""
    return int(example.label >= _MIDDLE_SCORE) if task.is_regression else int(example.label)


class PromptDataset(PackedDataset):
    """The encoded examples of one split, without demonstrations.

    Rows: input_ids, token_type_ids where the model has segments, prompt_ids where the template has a soft
    prompt, mask_pos, and labels of a labelled split.
    """

    def __init__(self, examples: Sequence[Example], encoder: PromptEncoder):
        super().__init__()
        self.indices = [example.index for example in examples]
        places: list[int] = []
        for start in range(0, len(examples), BATCH):
            found = encoder.encode([texts_of(example) for example in examples[start : start + BATCH]])
            self.extend(_columns(found))
            places += found.mask_pos
        self.set_column("mask_pos", places)
        if examples and examples[0].label is not None:
            self.set_column("labels", [example.label for example in examples])


class DemonstrationDataset(Dataset):
    """The examples of one split, each followed by a demonstration a class, which are drawn anew.

    Row i is draw i % draws of example i // draws. A draw depends on seed, epoch, example and draw alone.

    Args:
        pool: the examples that demonstrations are drawn from: the training set.
        draws: of each example. excludes: whether `examples` is the pool, and an example is never its own
            demonstration.

    Raises:
        OptionError: a class that has no example to show.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        encoder: PromptEncoder,
        task: Task,
        pool: Sequence[Example],
        seed: int,
        draws: int = 1,
        excludes: bool = False,
    ):
        self.examples, self.encoder, self.pool = list(examples), encoder, list(pool)
        self.seed, self.draws, self.excludes, self.epoch = seed, draws, excludes, 0
        self._largest: dict[str, int] | None = None
        self.indices = [example.index for example in examples]
        classes = len(task.labels) or 2
        of_class: list[list[int]] = [[] for _ in range(classes)]
        for number, example in enumerate(pool):
            of_class[class_of(task, example)].append(number)
        self.of_class = [np.array(members) for members in of_class]
        for number, members in enumerate(of_class):
            if len(members) < 1 + excludes:
                name = task.labels[number] if task.labels else ("scores below 2.5", "scores from 2.5")[number]
                also = " beside the example itself" if excludes else ""
                reason = f"prompt-demo: the training set has no example of {name} to show{also}"
                raise OptionError("few_shot_type", reason)

    def __len__(self) -> int:
        return len(self.examples) * self.draws

    def shown(self, index: int) -> list[int]:
        """Return the pool's number of each demonstration of a row, in the order of the classes."""
        example, draw = divmod(index, self.draws)
        rng = np.random.default_rng([self.seed, self.epoch, example, draw])
        found = []
        for members in self.of_class:
            if self.excludes:
                members = members[members != example]
            found.append(int(members[rng.integers(len(members))]))
        return found

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        example = self.examples[index // self.draws]
        texts = texts_of(example)
        for number in self.shown(index):
            texts += texts_of(self.pool[number])
        found = self.encoder.encode([texts], [range(len(self.of_class))])
        row = {name: rows[0] for name, rows in _columns(found).items()}
        row["mask_pos"] = found.mask_pos[0]
        if example.label is not None:
            row["labels"] = example.label
        return row

    def largest(self, name: str) -> int:
        """Return the largest number of a column, over a draw of each example; -1 without such a column.

        The first call encodes these, so that the encoder knows from then on what was cut off them.
        """
        if self._largest is None:
            self._largest = {}
            for index in range(0, len(self), self.draws):
                columns = ((key, row) for key, row in self[index].items() if isinstance(row, list))
                for key, row in columns:
                    self._largest[key] = max([self._largest.get(key, -1), *row])
        return self._largest.get(name, -1)


class WithPrompt(Dataset):
    """Tokenised texts for a task head, each with the places of a soft prompt behind its first token.

    Args:
        count: vectors of the prompt. filler: token that stands at their places.
    """

    def __init__(self, data: PackedDataset, count: int, filler: int):
        self.data, self.count, self.filler = data, count, filler
        self.indices = getattr(data, "indices", [])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row, more = self.data[index], {"input_ids": self.filler, "attention_mask": 1}
        for name, column in row.items():
            if isinstance(column, list):
                row[name] = [*column[:1], *[more.get(name, 0)] * self.count, *column[1:]]
        rest = len(row["input_ids"]) - 1 - self.count
        row["prompt_ids"] = [0, *range(1, 1 + self.count), *[0] * rest]
        return row

    def largest(self, name: str) -> int:
        """Return the largest number of a column; -1 without such a column."""
        return max(self.data.largest(name), self.filler) if name == "input_ids" else self.data.largest(name)


class NewDraws(TrainerCallback):
    """Tells a training set with demonstrations the epoch, so that each has others, a resumed one the same."""

    def __init__(self, data: DemonstrationDataset):
        self.data = data

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.data.epoch = int(state.epoch or 0)


class PromptCollator:
    """Makes a batch of rows: columns of lists are padded on the right, numbers become a tensor.

    Args:
        padding: value of `input_ids` where there is none; of other columns it is 0.
        length: to which all batches are padded; None for that of the longest row.
    """

    def __init__(self, padding: int, length: int | None = None):
        self.padding, self.length = padding, length

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        length = self.length or max(len(row["input_ids"]) for row in rows)
        batch: dict[str, torch.Tensor] = {}
        for name, first in rows[0].items():
            if not isinstance(first, list):
                kind = torch.float32 if isinstance(first, float) else torch.int64
                batch[name] = torch.tensor([row[name] for row in rows], dtype=kind)
                continue
            fill = self.padding if name == "input_ids" else 0
            padded = [row[name] + [fill] * (length - len(row[name])) for row in rows]
            batch[name] = torch.tensor(padded)
        if "attention_mask" not in batch:
            ends = torch.tensor([len(row["input_ids"]) for row in rows])
            batch["attention_mask"] = (torch.arange(length) < ends[:, None]).long()
        return batch


def label_word_answers(task: Task, logits: Any, draws: int = 1) -> np.ndarray:
    """Return what the label words say: class numbers, or scores of 0 to 5 (5 times the share of "Yes").

    Args:
        logits: [rows x draws, words], the draws of a row one after another; their mean counts.

    Raises:
        ValueError: numbers that are not finite (training that diverged).
    """
    logits = np.asarray(logits[0] if isinstance(logits, tuple) else logits, dtype=np.float64)
    broken = int((~np.isfinite(logits)).any(axis=1).sum())
    if broken:
        reason = f"{broken:,} of {len(logits):,} outputs are not finite numbers; has training diverged?"
        raise ValueError(f"{task.folder}: {reason}")
    logits = logits.reshape(-1, draws, logits.shape[1]).mean(axis=1)  # [rows x draws, W] -> [rows, W]
    return HIGHEST_SCORE * softmax(logits, axis=1)[:, 1] if task.is_regression else logits.argmax(axis=1)


def label_word_metrics(task: Task, draws: int = 1) -> Callable[[Any], dict[str, float]]:
    """Return the `compute_metrics` of a Trainer; arguments as `label_word_answers`."""

    def compute(evaluation: Any) -> dict[str, float]:
        labels = np.asarray(evaluation.label_ids)[::draws]
        return score(task, label_word_answers(task, evaluation.predictions, draws), labels)

    return compute


def _columns(found: Encoded) -> dict[str, list[list[int]]]:
    names = ("input_ids", "token_type_ids", "prompt_ids")
    return {name: getattr(found, name) for name in names if getattr(found, name)}
