"""What the programs take beside a method's options and Transformers' own `TrainingArguments`.

A dataclass is a group of options; `HfArgumentParser` makes `--name` and, with dashes, `--na-me` of each
field. A number is annotated with what it is for (`Annotated[int, "count"]`, see `options.numbers`), and
checked by that.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from ....options.errors import OptionError
from ....options.numbers import Meaning


def option(help: str, default: Any = None, **more: Any) -> Any:
    """Make a dataclass field with a help text; without a default its value is None."""
    return field(default=default, metadata={"help": help, **more})


def required(help: str) -> Any:
    return field(metadata={"help": help})


@dataclass
class ModelArguments:
    """Which model, from where."""

    model_name_or_path: str = required(
        "folder of a model (also a pruned one, or a checkpoint of a training), or its name on the hub"
    )
    config_name: str | None = option("configuration from another folder or name than the model's")
    tokenizer_name: str | None = option("tokenizer from another folder or name than the model's")
    cache_dir: str | None = option("where what is fetched from the hub is kept")
    model_revision: str = option("branch, tag or commit on the hub", "main")
    use_fast_tokenizer: bool = option("the tokenizer written in Rust, where the model has one", True)
    do_lower_case: bool = option("lower-case the text even if the tokenizer's files do not say so", False)
    attn_implementation: str | None = option("sdpa, eager or flash_attention_2; default: the model's own")
    ignore_mismatched_sizes: bool = option(
        "begin with a new task head where the model's own has another size", False
    )

    def check_source(self, trains: bool) -> None:
        """Raise an OptionError for options that do not go together; `trains`: whether the run does."""

    @property
    def source(self) -> str:
        """What the model is of: its folder or name."""
        return self.model_name_or_path.rstrip("/")

    def at(self, folder: str) -> ModelArguments:
        """Return the options that load what a run has written to a folder, in the same way."""
        return replace(
            self,
            model_name_or_path=folder,
            config_name=None,
            tokenizer_name=None,
            ignore_mismatched_sizes=False,
        )


ModelArguments._argument_group_name = "Model"  # type: ignore[attr-defined]


@dataclass
class CausalModelArguments(ModelArguments):
    """Which causal language model, from where; or a new one."""

    model_name_or_path: str = option(
        "folder of a model (also a pruned one, or a checkpoint), or its name on the hub; without it a new "
        "model of --config_name is trained from scratch",
        "",
    )
    config_name: str | None = option(
        "configuration from another folder or name than the model's; of a new model also a kind, as gpt2"
    )
    config_overrides: str | None = option(
        "what is other in a new model's configuration: n_layer=4,n_head=4,n_embd=256,n_positions=128"
    )
    train_tokenizer: Annotated[int | None, Meaning("a whole number, 257 or more", 257, whole=True)] = option(
        "make a new model's tokenizer of the training text: byte-level BPE with N entries"
    )

    def check_source(self, trains: bool) -> None:
        """Raise an OptionError where a new model is not told whole, or an old one is told to be new."""
        new = ("config_overrides", "train_tokenizer")
        for name in new if self.model_name_or_path else ():
            if getattr(self, name):
                raise OptionError(name, "is for a new model: leave {} out", "model_name_or_path")
        if self.model_name_or_path:
            return
        if not self.config_name:
            raise OptionError(
                "model_name_or_path",
                "or, for a new model, {} is missing (a kind such as gpt2)",
                "config_name",
            )
        if bool(self.train_tokenizer) == bool(self.tokenizer_name):
            reason = "N or {} belongs to a new model, one of them"
            raise OptionError("train_tokenizer", reason, "tokenizer_name")
        if not trains:
            raise OptionError(
                "model_name_or_path", "is missing, and a new model knows nothing: give {}", "do_train"
            )

    @property
    def source(self) -> str:
        if self.model_name_or_path:
            return super().source
        overrides = f" {self.config_overrides}" if self.config_overrides else ""
        return f"new {(self.config_name or '').rstrip('/')}{overrides}"

    def at(self, folder: str) -> CausalModelArguments:
        return replace(super().at(folder), config_overrides=None, train_tokenizer=None)


CausalModelArguments._argument_group_name = "Model"  # type: ignore[attr-defined]


@dataclass
class ResultArguments:
    """What is written."""

    overwrite_output_dir: bool = option(
        "train anew where --output_dir holds an earlier training, and remove its checkpoints", False
    )
    record_dir: str | None = option("folder of the records results.json; default: --output_dir")
    record_name: str | None = option("name of the setting in the records; default: the task")
    method: str | None = option("name of the method in the records; default: by the options")
    dry_run: bool = option(
        "say what would train, for how long and how many bytes, after a few updates in memory; write nothing",
        False,
    )


ResultArguments._argument_group_name = "Results"  # type: ignore[attr-defined]


@dataclass
class LimitArguments:
    """Less data, for a trial."""

    max_train_samples: Annotated[int | None, "count"] = option("train on the first N examples only")
    max_eval_samples: Annotated[int | None, "count"] = option(
        "score the first N examples only; the records say so"
    )
    max_predict_samples: Annotated[int | None, "count"] = option("predict the first N examples only")


@dataclass
class GlueArguments(LimitArguments):
    task_name: str = option("CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI, in any spelling", "")
    data_dir: str | None = option(
        "folder of the task's official TSV files; without it the `datasets` library fetches the task"
    )
    max_seq_length: Annotated[int, "count"] = option(
        "tokens a text or a pair has at most; what is longer is cut", 128
    )
    pad_to_max_length: bool = option("pad every batch to --max_seq_length, not to its longest text", False)


GlueArguments._argument_group_name = "GLUE"  # type: ignore[attr-defined]


@dataclass
class SquadArguments(LimitArguments):
    data_dir: str | None = option("folder with train-v1.1.json and dev-v1.1.json")
    train_file: str | None = option(
        "questions to train on, SQuAD v1.1; a name alone is looked for in --data_dir"
    )
    predict_file: str | None = option(
        "questions to answer and score, SQuAD v1.1; likewise", aliases=["--validation_file"]
    )
    max_seq_length: Annotated[int, "count"] = option("tokens a window of question and text has at most", 384)
    doc_stride: Annotated[int | None, "count"] = option(
        "a window starts so many tokens after the one before; default: 128, less where windows are short"
    )
    max_query_length: Annotated[int, "count"] = option(
        "tokens a question has at most; what is longer is cut", 64
    )
    n_best_size: Annotated[int, "count"] = option(
        "starts and ends that answers are made of, and answers in nbest_predictions.json", 20
    )
    max_answer_length: Annotated[int, "count"] = option("tokens an answer has at most", 30)
    pad_to_max_length: bool = option("pad every batch to --max_seq_length, not to its longest window", False)


SquadArguments._argument_group_name = "SQuAD"  # type: ignore[attr-defined]


@dataclass
class ClmArguments(LimitArguments):
    data_dir: str | None = option("folder with train, dev (or valid, val) and test, each .jsonl or .txt")
    train_file: str | None = option(
        "text to train on: JSONL of {source, target}, or plain, one text or `source => target` a line; a "
        "name alone is looked for in --data_dir"
    )
    validation_file: str | None = option("text to score; lines of one source are references of it")
    test_file: str | None = option("sources to write texts for under --do_predict; targets may be missing")
    separator: str = option("what stands between source and target, in plain files and for the model", " => ")
    max_seq_length: Annotated[int, "count"] = option(
        "tokens that source and target have at most; what is longer is cut", 512
    )
    loss_on_source: bool = option("learn and score the sources' tokens, too, not the targets' alone", False)
    generate: bool = option(
        "under --do_eval write a text for each source (generated.txt) and score it by BLEU", False
    )
    num_beams: Annotated[int, "count"] = option("beams of the search; 1: greedy", 1)
    max_new_tokens: Annotated[int, "count"] = option("tokens that a written text has at most", 64)


ClmArguments._argument_group_name = "Text"  # type: ignore[attr-defined]
MODEL_OPTIONS = {ClmArguments: CausalModelArguments}
"""The options of the model, by those of the data; `ModelArguments` for all others."""
