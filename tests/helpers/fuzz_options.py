"""Senseless values for every option of the programs: each is refused in words, or training begins.

A number that is NaN is no option's: where training begins with one, that is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import runpy
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from fairseq_training import ANNEALING, SETTINGS, SIZES, STOCK, train, write_corpus
from fuzz_trials import Began, Trial, digest
from glue_folders import write_squad, write_task

import dsp_plugin

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
VALUES = [
    "-1",
    "0",
    "1",
    "2",
    "-0.5",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1e9",
    "99999999999999999999",
    "",
    " ",
    "x",
    "[]",
]
VALUES += [
    "None",
    "(0.9, 0.98)",
    "(2, 3)",
    "0.9,0.98",
    "{}",
    "a=b",
    "encoder-self=99",
    "../x",
    "/",
    "/dev/null",
    "true",
    "\u2028",
]
# what would start processes, ask a network or end in another program's hands
LEFT_OUT = (
    "distributed",
    "nprocs",
    "device",
    "tpu",
    "npu",
    "wandb",
    "aim",
    "azureml",
    "hub",
    "ddp",
    "fsdp",
    "deepspeed",
    "user_dir",
    "compile",
    "dynamo",
    "report_to",
    "tensorboard",
    "help",
    "profile",
    "plasma",
    "pipeline",
    "fp16",
    "bf16",
    "tf32",
    "cpu",
    "accelerator",
    "local_rank",
    "log_file",
    "liger",
    "use_",
    "model_parallel",
    "cache_dir",
    "debug",
    "num_workers",
)


class Program(NamedTuple):
    path: str
    words: list[object]
    options: Callable[[], dict[str, bool]]
    """Option -> whether it takes a value that is a floating-point number."""
    out: str


def trials(folder: Path, rng: random.Random) -> Iterator[Trial]:
    programs = made(folder)
    known = {program.path: program.options() for program in programs}
    _train_no_more()
    number = 0
    while True:
        program = rng.choice(programs)
        option = rng.choice(list(known[program.path]))
        value = rng.choice(VALUES)
        out = folder / f"out-{number}"
        number += 1
        words = [*program.words, program.out, out, option, value]
        nan = value in ("nan", "1e400", "inf", "-inf") and known[program.path][option]
        taken = None if nan else digest("began")
        yield Trial(f"{program.path} {option} {value!r}", _starter(program.path, words, folder), taken)


def _starter(path: str, words: list[object], folder: Path) -> Callable[[], Any]:
    def start() -> Any:
        os.chdir(folder)
        sys.argv = [str(SCRIPTS / f"{path}.py"), *map(str, words)]
        runpy.run_path(sys.argv[0], run_name="__main__")

    return start


def _train_no_more() -> None:
    """Both hosts' training step ends the trial: what comes before it is what is looked at."""
    import fairseq.trainer
    import transformers

    def began(*args: Any, **kwargs: Any) -> None:
        raise Began

    fairseq.trainer.Trainer.train_step = began
    transformers.Trainer.training_step = began


def made(folder: Path) -> list[Program]:
    """Data and small models, and for each program a command line that trains."""
    from hf_programs import write_bert

    corpus = write_corpus(folder)
    train(corpus, folder / "stock", *STOCK, "--max-update", 2).succeeded()
    write_bert(folder / "bert")
    write_task(folder / "MRPC", "MRPC", train=8, dev=4)
    write_squad(folder / "squad" / "train-v1.1.json", paragraphs=2)
    write_squad(folder / "squad" / "dev-v1.1.json", paragraphs=1, seed=2)

    base = folder / "stock" / "checkpoint_last.pt"
    common = [corpus, "-a", "transformer", *SIZES, *SETTINGS, "--max-update", 2, "--optimizer", "adam"]
    common += ["--criterion", "label_smoothed_cross_entropy"]
    adam = SETTINGS.index("--weight-decay")
    diff = [corpus, "--base-checkpoint", base, *SETTINGS[:adam], *SETTINGS[adam + 2 :], "--max-update", 2]
    diff += ["--criterion", "label_smoothed_cross_entropy"]
    dsee = [*diff, "--lora-r", 4, "--num-sparse", 3, "--prune-heads-num", 1]
    found = [
        Program(
            "mt/run_dsp",
            [*common, "--num-of-heads", 6, "--joint-pruning", *ANNEALING],
            _fairseq("dsp"),
            "--save-dir",
        ),
        Program(
            "mt/run_voita", [*common, "--l0-penalty", 5, "--joint-pruning"], _fairseq("voita"), "--save-dir"
        ),
        Program("mt/run_diff", diff, _fairseq("diff"), "--save-dir"),
        Program("mt/run_dsee", dsee, _fairseq("dsee"), "--save-dir"),
    ]
    glue = [
        "--model_name_or_path",
        folder / "bert",
        "--data_dir",
        folder / "MRPC",
        "--task_name",
        "MRPC",
        "--max_seq_length",
        24,
    ]
    glue += ["--do_train", "--max_steps", 2]
    squad = [
        "--model_name_or_path",
        folder / "bert",
        "--data_dir",
        folder / "squad",
        "--max_seq_length",
        48,
        "--doc_stride",
        16,
    ]
    squad += ["--do_train", "--max_steps", 2]
    heads = ["--num_of_heads", 3, "--joint_pruning", "--use_ste"]
    gates = ["--joint_pruning", "--pruning_lr", 0.1]
    for words, kind in ((glue, "glue"), (squad, "squad")):
        for name, more in (("run_dsp", heads), ("run_voita", gates), ("run_diff", [])):
            found.append(
                Program(f"{kind}/{name}", [*words, *more], _transformers(f"{kind}/{name}"), "--output_dir")
            )
    return found


def _fairseq(method: str) -> Callable[[], dict[str, bool]]:
    def options() -> dict[str, bool]:
        from fairseq import options as stock

        from dsp_plugin.mt.programs.dsee.run import own_options

        dsp_plugin.register()
        parser = stock.get_training_parser()
        words = ["data", "--task", f"{method}_translation", "--arch", f"{method}_transformer"]
        words += ["--optimizer", "diff_adam" if method == "diff" else "dsp_adam"]
        words += ["--criterion", "label_smoothed_cross_entropy", "--lr-scheduler", "inverse_sqrt"]
        stock.parse_args_and_arch(parser, words)  # adds the model's options and the others' to it
        return {**_of_parser(parser), **(_of_parser(own_options()) if method == "dsee" else {})}

    return options


def _transformers(name: str) -> Callable[[], dict[str, bool]]:
    def options() -> dict[str, bool]:
        from unittest import mock

        from hf_programs import program

        seen = {}

        def parse_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> None:
            seen.update(_of_parser(self))
            raise Began

        with (
            mock.patch.object(argparse.ArgumentParser, "parse_known_args", parse_args),
            contextlib.suppress(Began),
        ):
            argv, sys.argv = sys.argv, [name, "--do_train"]
            try:
                program(name).main()
            finally:
                sys.argv = argv
        return seen

    return options


def _of_parser(parser: argparse.ArgumentParser) -> dict[str, bool]:
    found = {}
    for action in parser._actions:
        long = [word for word in action.option_strings if word.startswith("--")]
        plain = long[0].lower().replace("-", "_") if long else ""
        if long and action.nargs != 0 and not any(word in plain for word in LEFT_OUT):
            found[long[0]] = action.type is float or isinstance(action.default, float)
    return found
