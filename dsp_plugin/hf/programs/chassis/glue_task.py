"""GLUE for the programs: splits, metrics, prediction files, behind the interface of `data_task.DataTask`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedConfig

from ....records.answers import save_answers
from ....records.record import fingerprint
from ...data.glue import GlueDataset, label_names
from ...data.glue_files import Example, load_split
from ...data.glue_scores import answers, compute_metrics, write_predictions
from ...data.glue_tasks import Task, find_task
from .arguments import GlueArguments
from .data_task import DataTask
from .origin import label_words
from .parsing import say


class GlueTask(DataTask):
    """One GLUE task.

    Attributes:
        name: as in GLUE ("CoLA"). kind: first word of the records' kind.
        metrics: names of the scores. main_metric: the one that curves show. scale: what metrics are
            multiplied by in records (percent).
        train: the training set; dev, test: split -> data set, empty before `read` and `tokenise` and where
            not asked for.

    Raises:
        ValueError: no such task.
    """

    kind, scale = "glue", 100.0
    model_class = AutoModelForSequenceClassification

    def __init__(self, options: GlueArguments, cache_dir: str | None = None):
        self.options, self.cache_dir = options, cache_dir
        self.definition: Task = find_task(options.task_name)
        self.name, self.metrics, self.main_metric = (
            self.definition.folder,
            self.definition.metrics,
            self.definition.main_metric,
        )
        self.train: Dataset | None = None
        self.dev: dict[str, Dataset] = {}
        self.test: dict[str, Dataset] = {}
        self.collate: DataCollatorWithPadding | None = None
        self._examples: dict[str, list[Example]] = {}
        self._answers: dict[str, list[float]] = {}  # split -> what the model said

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the model's outputs; none of a regression."""
        return self.definition.labels

    @property
    def pair(self) -> bool:
        """Whether inputs are pairs of texts."""
        return len(self.definition.columns) > 1

    @property
    def labelled_tests(self) -> tuple[str, ...]:
        """Test sets that are scored: the official ones have no labels."""
        splits = self.definition.splits
        return tuple(one.name for one in splits if one.name.startswith("test") and one.is_labelled)

    def config_entries(self) -> dict[str, Any]:
        """Return what the model's config is to say of the task, whatever it said of another one."""
        unnamed = (
            {"id2label": {0: "LABEL_0"}, "label2id": {"LABEL_0": 0}} if self.definition.is_regression else {}
        )
        return {**label_names(self.definition), **unnamed}

    def adopt(self, config: PreTrainedConfig) -> None:
        """Number the labels as a model that has them in another order (MNLI models of the hub)."""
        names = label_words(config)
        if names != self.definition.labels and sorted(names) == sorted(self.definition.labels):
            say(f"the model numbers the labels as {', '.join(names)}; so do we")
            self.definition = replace(self.definition, labels=names)

    def read(self, train: bool, dev: bool, test: bool) -> None:
        """Read the splits that are asked for.

        Raises:
            DataError: see `load_split`.
        """
        limits = self.options
        wanted = [("train", limits.max_train_samples)] if train else []
        wanted += [(name, limits.max_eval_samples) for name in self.definition.dev_splits] if dev else []
        wanted += [(name, limits.max_predict_samples) for name in self._test_splits()] if test else []
        wanted += [(name, limits.max_predict_samples) for name in self.labelled_tests] if test else []
        original = replace(find_task(self.definition.name), splits=self.definition.splits)
        order = [self.definition.labels.index(label) for label in original.labels]
        for split, limit in wanted:
            examples = load_split(original, split, limits.data_dir, self.cache_dir, limit)
            if self.definition.labels != original.labels:
                examples = [
                    example if example.label is None else example._replace(label=order[example.label])
                    for example in examples
                ]
            self._examples[split] = examples

    def tokenise(self, tokenizer: Any) -> None:
        """Tokenise what was read; raise an OptionError for a length that the tokenizer cannot have."""
        for split, examples in self._examples.items():
            data = GlueDataset(examples, tokenizer, self.options.max_seq_length)
            if split == "train":
                self.train = data
            else:
                (self.dev if self.definition.split(split).is_labelled else self.test)[split] = data
        self._examples = {}
        padding = (
            {"padding": "max_length", "max_length": self.options.max_seq_length}
            if self.options.pad_to_max_length
            else {}
        )
        self.collate = DataCollatorWithPadding(tokenizer, **padding)

    def compute_metrics(self, split: str) -> Callable[[Any], dict[str, float]]:
        return compute_metrics(self.definition)

    def answers(self, predictions: Any) -> Sequence:
        """Return what the model says of each example; see `glue_scores.answers`."""
        return answers(self.definition, predictions)

    def truth(self, split: str) -> list[float]:
        """Return the label of each example of a scored set."""
        return [row["labels"] for row in self.dev[split]]

    def suffix(self, split: str) -> str:
        """Return what the Trainer's names of the metrics end with: `accuracy_mm` of MNLI's mismatched set."""
        return self.definition.split(split).suffix

    def subset(self, split: str) -> str:
        """Return the split's name in records; a part of it is another one."""
        tests, options = split in self.labelled_tests, self.options
        limit = options.max_predict_samples if tests else options.max_eval_samples
        rows = self.definition.split(split).rows
        return split if limit is None or (rows is not None and limit >= rows) else f"{split}[:{limit}]"

    def write_dev(self, folder: str, split: str, predictions: Any) -> None:
        """Write nothing, GLUE's development sets have no prediction files; keep what the model said."""
        self._answers[split] = self._in_original_order(self.answers(predictions))

    def write_beside(self, folder: str, split: str) -> None:
        """Write what the model said of each example beside the truth, for comparisons of runs in pairs."""
        labels = self._in_original_order(self.truth(split))
        save_answers(folder, labels, self._answers[split])

    def _in_original_order(self, labels: Sequence[float]) -> list[float]:
        """Number classes as the task does, whatever the model's order."""
        original = find_task(self.definition.name).labels
        order = [original.index(label) for label in self.definition.labels]
        return [order[int(label)] for label in labels] if order else [float(label) for label in labels]

    def write_test(self, folder: str, split: str, predictions: Any) -> list[str]:
        """Write a prediction file; return its name."""
        found = self.answers(predictions)
        write_predictions(folder, self.definition, split, found, self.test[split].indices)
        return [self.definition.split(split).submission]

    def data_fingerprint(self) -> str:
        """Hash all scored sets, the same for every run on them; empty where `datasets` has them."""
        files = self._files([*self.definition.dev_splits, *self.labelled_tests])
        return fingerprint(files) if files else ""

    def train_fingerprint(self) -> str:
        """Hash the training set; empty where `datasets` has it."""
        files = self._files(["train"])
        return fingerprint(files) if files else ""

    def settings(self) -> dict[str, Any]:
        """Return what must not change between the start of a training and its resume."""
        names = ("max_seq_length", "max_train_samples")
        return {"task": self.name, **{name: getattr(self.options, name) for name in names}}

    def _test_splits(self) -> Sequence[str]:
        return [
            name
            for name in self.definition.test_splits
            if not self.definition.split(name).optional or not self.options.data_dir or self._files([name])
        ]

    def _files(self, splits: Sequence[str]) -> tuple[Path, ...]:
        folder = self.options.data_dir
        paths = [Path(folder) / self.definition.split(name).file for name in splits] if folder else []
        return tuple(path for path in paths if path.is_file())
