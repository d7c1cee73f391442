"""Text for a causal language model, behind the interface of `data_task.DataTask`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from ....options.errors import OptionError
from ....records.bleu import bleu, bleu_statistics
from ....records.files.whole import write_text
from ....records.record import Metric, fingerprint
from ....records.sentences import save_sentences
from ...data.clm import ClmDataset, Layout, PadRight, PromptDataset, check_room, perplexity, row_losses
from ...data.clm_files import JSONL, Line, read_lines, references_of
from ...data.clm_generation import generate
from ...data.clm_tokenizer import train_tokenizer
from ...data.data_error import DataError
from ...data.input_limits import longest_input
from .arguments import ClmArguments
from .data_task import DataTask, gathered
from .parsing import say

TRAIN, DEV, TEST = "train", "dev", "test"
# split -> the option that names its file, and names that it has in --data_dir
FILES = {
    TRAIN: ("train_file", ("train",)),
    DEV: ("validation_file", ("dev", "valid", "val", "validation")),
    TEST: ("test_file", ("test",)),
}
ENDINGS = (*JSONL, ".txt")
GENERATED = {DEV: "generated.txt", TEST: "generated_test.txt"}


class ClmTask(DataTask):
    """A text that goes on from a source, or a text by itself. The one scored split is `dev`.

    Attributes:
        train, dev: rows of source and target. test: prompts.
    """

    kind, name = "clm", "CLM"
    labels, pair = (), True
    watched, smooths = (), True  # by the loss: the perplexity has the same best
    model_class = AutoModelForCausalLM
    reduce_logits = staticmethod(row_losses)

    def __init__(self, options: ClmArguments, cache_dir: str | None = None):
        self.options = options
        self.train: ClmDataset | None = None
        self.dev: dict[str, ClmDataset] = {}
        self.test: dict[str, PromptDataset] = {}
        self.collate: PadRight | None = None
        self._layout: Layout | None = None
        self._prompts: dict[str, PromptDataset] = {}
        self._generates, self._prompt_room = options.generate, options.max_seq_length
        self._lines: dict[str, list[Line]] = {}
        self._generated: dict[str, list[str]] = {}
        self._figures: dict[str, dict[str, Any]] = {}
        self._signature = ""

    @property
    def metrics(self) -> tuple[str, ...]:
        return ("loss", "perplexity", *(["BLEU"] if self.options.generate else []))

    @property
    def main_metric(self) -> str:
        return self.metrics[-1]

    def config_entries(self) -> dict[str, Any]:
        return {}

    def adopt(self, config: PreTrainedConfig) -> None:
        pass

    def check(self, args: TrainingArguments) -> None:
        options = self.options
        if options.generate and not (args.do_eval or args.do_predict):
            raise OptionError("generate", "is about scored sets: give {} or {}", "do_eval", "do_predict")
        if options.num_beams > 1 and not (options.generate or args.do_predict):
            raise OptionError("num_beams", "is about the text that {} makes: give it, too", "generate")
        self._generates = options.generate or args.do_predict
        for name in ("fsdp", "deepspeed"):
            if self._generates and getattr(args, name):
                raise OptionError(
                    name, "spreads the model, which cannot generate then: leave it out, or score later"
                )

    def check_model(self, model: PreTrainedModel, tokenizer: Any) -> None:
        """Check positions, the separator's room, and that no token sees what follows it."""
        options = self.options
        self._layout = Layout(tokenizer, options.separator)
        check_room("max_seq_length", options.max_seq_length, self._layout)
        longest = longest_input(model)
        if longest is not None and self._generates:
            self._prompt_room = min(options.max_seq_length, longest - options.max_new_tokens)
            if self._prompt_room < self._layout.fewest:
                raise OptionError(
                    "max_new_tokens",
                    f"{options.max_new_tokens}: the model has positions for {longest} tokens, and some of "
                    "them are the source's",
                )
        if not _is_causal(model):
            raise OptionError(
                "model_name_or_path",
                f"{type(model).__name__} lets a token see those behind it, and would only learn to copy: "
                "name a causal language model, such as a GPT-2",
            )

    def new_tokenizer(self, size: int, longest: int) -> Any:
        """Train a tokenizer on the training text, which is read for it."""
        self._read(TRAIN, self.options.max_train_samples)
        made = train_tokenizer(self._training_texts(), size, longest)
        say(f"--train_tokenizer {size}: {len(made):,} entries, of {self._path(TRAIN)}")
        return made

    def read(self, train: bool, dev: bool, test: bool) -> None:
        """Read the files that are asked for.

        Raises:
            DataError: see `read_lines`; or no file is named.
        """
        limits = self.options
        for split, wanted, limit in (
            (TRAIN, train, limits.max_train_samples),
            (DEV, dev, limits.max_eval_samples),
            (TEST, test, limits.max_predict_samples),
        ):
            if wanted:
                self._read(split, limit)

    def tokenise(self, tokenizer: Any) -> None:
        """Tokenise what was read, and say how much of it was cut."""
        options = self.options
        layout = self._layout = Layout(tokenizer, options.separator)
        self.collate = PadRight(layout.end)
        for split, lines in self._lines.items():
            if split != TEST:
                rows = ClmDataset(lines, layout, options.max_seq_length, options.loss_on_source)
                self._say_cut(split, rows.cut, len(rows), f"--max_seq_length {options.max_seq_length}")
                if split == TRAIN:
                    self.train = rows
                else:
                    self.dev[split] = rows
            if split == TEST or (split == DEV and options.generate):
                prompts = PromptDataset(references_of(lines), layout, self._prompt_room)
                self._say_cut(split, prompts.cut, len(prompts), f"{self._prompt_room} tokens of a prompt")
                self._prompts[split] = prompts
                if split == TEST:
                    self.test[split] = prompts
        self._lines = {}

    def compute_metrics(self, split: str) -> Any:
        return lambda found: perplexity(found.predictions)

    def suffix(self, split: str) -> str:
        return ""

    def subset(self, split: str) -> str:
        """Return the file's name without its ending; a part of it is another one."""
        limit, stem = self.options.max_eval_samples, self._path(split).stem
        return stem if limit is None else f"{stem}[:{limit}]"

    def more_scores(self, trainer: Trainer, split: str) -> dict[str, float]:
        """Generate a text for each distinct source, and return its BLEU against all of its references."""
        if not self.options.generate:
            return {}
        texts = self.predictions(trainer, split)
        found = bleu(texts, self._prompts[split].references)
        self._signature = found["signature"]
        return {"BLEU": found["value"]}

    def predictions(self, trainer: Trainer, split: str) -> list[str]:
        """Generate a text for each distinct source, in the order in which they first stand in the file."""
        options, prompts, started = self.options, self._prompts[split], time.time()
        made = gathered(
            generate(
                trainer.model,
                prompts,
                self._layout.end,
                trainer.args.eval_batch_size,
                options.max_new_tokens,
                options.num_beams,
                (trainer.args.process_index, trainer.args.world_size),
            )
        )
        decode = self._layout.tokenizer.decode
        texts = [
            " ".join(
                decode(made[number], skip_special_tokens=True, clean_up_tokenization_spaces=False).split()
            )
            for number in range(len(prompts))
        ]
        self._generated[split] = texts
        self._figures[split] = {
            "sources": len(prompts),
            "num_beams": options.num_beams,
            "max_new_tokens": options.max_new_tokens,
            "new_tokens": sum(map(len, made.values())),
            "seconds": time.time() - started,
        }
        return texts

    def measured(self, name: str, value: float, split: str) -> Metric:
        unit = "nats/token" if name == "loss" else ""
        signature = self._signature if name == "BLEU" else ""
        return Metric(name, value, unit=unit, signature=signature, subset=self.subset(split))

    def figures(self, split: str) -> dict[str, Any]:
        return {"generation": self._figures[split]} if split in self._figures else {}

    def write_dev(self, folder: str, split: str, predictions: Any) -> None:
        """Write generated.txt; without text, take away an earlier one, whose record is replaced, too."""
        if split in self._generated:
            self._write(folder, split)
        else:
            Path(folder, GENERATED[split]).unlink(missing_ok=True)

    def write_test(self, folder: str, split: str, predictions: Any) -> list[str]:
        """Write generated_test.txt; return its name."""
        return [self._write(folder, split)]

    def write_beside(self, folder: str, split: str) -> None:
        """Write what each sentence adds to BLEU, for tests of significance."""
        texts, sentences = self._generated.get(split), None
        if texts is not None:
            statistics = bleu_statistics(texts, self._prompts[split].references)
            sentences = {"metric": "BLEU", "signature": self._signature, "statistics": statistics}
        save_sentences(folder, sentences)

    def data_fingerprint(self) -> str:
        return self._fingerprint(DEV)

    def train_fingerprint(self) -> str:
        """Hash the training file; empty where it is not there, which `read` refuses by name."""
        return self._fingerprint(TRAIN)

    def settings(self) -> dict[str, Any]:
        """Return what must not change between the start of a training and its resume."""
        names = ("max_seq_length", "separator", "loss_on_source", "max_train_samples")
        return {"task": self.name, **{name: getattr(self.options, name) for name in names}}

    def _read(self, split: str, limit: int | None) -> None:
        if split not in self._lines:
            lines = read_lines(self._path(split), self.options.separator, with_targets=split != TEST)
            self._lines[split] = lines[:limit]

    def _training_texts(self) -> Iterator[str]:
        before = self.options.separator.rstrip(" ")
        lead = self.options.separator[len(before) :]
        for line in self._lines[TRAIN]:
            if line.source:
                yield line.source + before
            yield from (lead + target if line.source else target for target in line.targets)

    def _path(self, split: str) -> Path:
        """Return the path that an option names, or the usual one in `--data_dir`.

        Raises:
            DataError: neither is given, or the folder has no such file.
        """
        option, names = FILES[split]
        given, folder = getattr(self.options, option), self.options.data_dir
        usual = [f"{name}{ending}" for name in names for ending in ENDINGS]
        if given:
            path = Path(given)
            inside = folder and not path.is_absolute() and not path.is_file()
            return Path(folder) / path if inside else path
        if not folder:
            raise DataError(f"--{option}: no file was given, nor a folder by --data_dir that has {usual[0]}")
        found = [Path(folder) / name for name in usual if (Path(folder) / name).is_file()]
        if not found:
            raise DataError(f"--data_dir {folder}: there is none of {', '.join(usual)}; --{option} names one")
        return found[0]

    def _fingerprint(self, split: str) -> str:
        try:
            path = self._path(split)
        except DataError:
            return ""
        return fingerprint([path]) if path.is_file() else ""

    def _say_cut(self, split: str, cut: int, rows: int, limit: str) -> None:
        if cut:
            say(f"{self._path(split)}: {cut:,} of {rows:,} rows are longer than {limit}, and were cut")

    def _write(self, folder: str, split: str) -> str:
        write_text(Path(folder) / GENERATED[split], "".join(f"{text}\n" for text in self._generated[split]))
        return GENERATED[split]


@torch.no_grad()
def _is_causal(model: PreTrainedModel) -> bool:
    """Whether what a model says of the first token is the same whatever the last one is."""
    trains, words = model.training, model.get_input_embeddings().num_embeddings
    ids = torch.tensor([[0, 0, 0], [0, 0, words - 1]], device=model.device)
    model.eval()
    one, other = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, 0].float()
    model.train(trains)
    return bool((one - other).abs().max() <= 1e-5 * one.abs().max())
