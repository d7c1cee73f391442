"""SQuAD v1.1 for the programs, behind the interface of `data_task.DataTask`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoModelForQuestionAnswering, DataCollatorWithPadding, PreTrainedConfig

from ....options.errors import OptionError
from ....records.record import fingerprint
from ...data.data_error import DataError
from ...data.squad import SquadDataset, best_answers, compute_metrics, write_predictions
from ...data.squad_files import Question, read_squad
from .arguments import SquadArguments
from .data_task import DataTask

DOC_STRIDE = 128
TRAIN_FILE, PREDICT_FILE = "train-v1.1.json", "dev-v1.1.json"


class SquadTask(DataTask):
    """Answers as spans of a text. The one scored split is `dev`, the questions of `--predict_file`.

    Raises:
        ValueError: a stride that is longer than a window.
    """

    kind, scale = "squad", 1.0  # exact_match and f1 are in percent as they come
    label_columns = ("start_positions", "end_positions")
    name, metrics, main_metric = "SQuAD", ("exact_match", "f1"), "f1"
    model_class = AutoModelForQuestionAnswering

    def __init__(self, options: SquadArguments, cache_dir: str | None = None):
        if options.doc_stride is None:
            options = replace(options, doc_stride=DOC_STRIDE)  # or the room in a window
        elif options.doc_stride >= options.max_seq_length:
            raise OptionError(
                "doc_stride",
                f"{options.doc_stride}: below {{}}, which is {options.max_seq_length}; a window starts so "
                "many tokens after the one before, and would leave text out",
                "max_seq_length",
            )
        self.options = options
        self.train: SquadDataset | None = None
        self.dev: dict[str, SquadDataset] = {}
        self.test: dict[str, SquadDataset] = {}
        self.collate: DataCollatorWithPadding | None = None
        self._questions: dict[str, list[Question]] = {}
        self._predict_file: Path | None = None

    labels, pair = (), True  # as of a GLUE task

    def config_entries(self) -> dict[str, Any]:
        """Return what the model's config is to say: two outputs, whatever it had before."""
        names = {0: "LABEL_0", 1: "LABEL_1"}
        return {
            "num_labels": 2,
            "problem_type": None,
            "id2label": names,
            "label2id": {name: n for n, name in names.items()},
        }

    def adopt(self, config: PreTrainedConfig) -> None:
        pass

    def read(self, train: bool, dev: bool, test: bool) -> None:
        """Read the files that are asked for.

        Raises:
            DataError: see `read_squad`; or no file is named.
        """
        options = self.options
        if train:
            path = self._path("train_file", TRAIN_FILE)
            self._questions["train"] = read_squad(path, for_training=True)[: options.max_train_samples]
        if dev or test:
            self._predict_file = self._path("predict_file", PREDICT_FILE)
            limit = options.max_eval_samples if dev else options.max_predict_samples
            self._questions["dev"] = read_squad(self._predict_file)[:limit]

    def tokenise(self, tokenizer: Any) -> None:
        """Tokenise the splits; a ValueError for lengths or a kind of tokenizer that cannot be used."""
        options = self.options
        for split, questions in self._questions.items():
            trained = split == "train"
            limits = (options.max_seq_length, options.doc_stride, options.max_query_length)
            # windows of one length side by side: batches to score have little padding
            data = SquadDataset(questions, tokenizer, *limits, longest_first=not trained)
            if trained:
                self.train = data
            else:
                self.dev[split] = data
        self._questions = {}
        padding = (
            {"padding": "max_length", "max_length": options.max_seq_length}
            if options.pad_to_max_length
            else {}
        )
        self.collate = DataCollatorWithPadding(tokenizer, **padding)

    def compute_metrics(self, split: str) -> Callable[[Any], dict[str, float]]:
        return compute_metrics(self.dev[split], self.options.n_best_size, self.options.max_answer_length)

    def suffix(self, split: str) -> str:
        return ""

    def subset(self, split: str) -> str:
        """Return the file's name, without its ending: dev-v1.1; a part of it is another one."""
        stem = split if self._predict_file is None else self._predict_file.stem
        limit = self.options.max_eval_samples
        return stem if limit is None else f"{stem}[:{limit}]"

    def write_dev(self, folder: str, split: str, predictions: Any) -> None:
        """Write predictions.json and nbest_predictions.json."""
        options = self.options
        write_predictions(
            folder,
            best_answers(self.dev[split], *predictions[:2], options.n_best_size, options.max_answer_length),
        )

    def write_test(self, folder: str, split: str, predictions: Any) -> list[str]:
        raise NotImplementedError("SQuAD's scored set is the one that is predicted")

    def data_fingerprint(self) -> str:
        return "" if self._predict_file is None else fingerprint([self._predict_file])

    def train_fingerprint(self) -> str:
        """Hash the training file; empty where it is not there, which `read` refuses by name."""
        path = self._path("train_file", TRAIN_FILE)
        return fingerprint([path]) if path.is_file() else ""

    def settings(self) -> dict[str, Any]:
        """Return what must not change between the start of a training and its resume."""
        names = ("max_seq_length", "doc_stride", "max_query_length", "max_train_samples")
        return {"task": self.name, **{name: getattr(self.options, name) for name in names}}

    def _path(self, name: str, usual: str) -> Path:
        """Return the path that an option names, or the usual one in `--data_dir`."""
        given, folder = getattr(self.options, name), self.options.data_dir
        if not given and not folder:
            raise DataError(
                f"--{name}: no file was given, nor a folder by --data_dir that has {usual} "
                "(data-prep/download_squad.sh makes one)"
            )
        path = Path(given or usual)
        if folder and not path.is_absolute() and not path.is_file():
            path = Path(folder) / path
        return path
