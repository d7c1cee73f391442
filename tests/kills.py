#!/usr/bin/env python3
"""Kill the training programs at random moments, start them again, and compare with runs that nobody
disturbed.

    python tests/kills.py [--kills 40] [--seed 1] [--jobs NAME ...]

Each of JOBS is one command line on a small generated corpus. It is run to its end once; then, in a new
folder, it is killed (SIGKILL) at a random moment and started again, until it ends by itself. Everything that
it leaves behind is compared with the undisturbed run: weights, optimizers, packs, masks, histories, scores.
Only times may differ.

The last lines are `killed N times`, `equal N times`, `different N times`; the exit status is 1 where one was
different.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent / "helpers"))

from fairseq_commands import PACKAGE, Command, preload
from fairseq_training import ANNEALING, SETTINGS, SIZES, STOCK, assert_same, train, write_corpus
from glue_folders import write_squad, write_task

SCRIPTS = PACKAGE.parent / "scripts"
# what a run says of its own speed and place
TIMES = (
    "seconds",
    "runtime",
    "preparation_time",
    "per_second",
    "command",
    "versions",
    "_flos",
    "epoch_seconds",
    "wall",
    "train_wall",
    "gb_free",
)


class Job(NamedTuple):
    program: str
    words: Callable[[Path], list[object]]
    """The command line, given the folder with the data and the models to start from."""
    out: str
    """Its option for the folder to write."""


def translation(*words: object) -> Callable[[Path], list[object]]:
    common = [
        "-a",
        "transformer",
        *SIZES,
        *SETTINGS,
        "--criterion",
        "label_smoothed_cross_entropy",
        "--optimizer",
        "adam",
    ]
    often = [
        "--max-update",
        8,
        "--save-interval-updates",
        1,
        "--keep-interval-updates",
        2,
        "--no-epoch-checkpoints",
    ]
    return lambda folder: [folder / "corpus" / "bin", *common, *often, *words]


def pipelined(*words: object) -> Callable[[Path], list[object]]:
    start = translation(*words)
    return lambda folder: [
        *start(folder),
        "--restore-file",
        folder / "stock" / "checkpoint_last.pt",
        "--reset-optimizer",
    ]


def sweep(folder: Path) -> list[object]:
    words = [
        "-s",
        "de",
        "-t",
        "en",
        "-a",
        "transformer",
        *SIZES,
        "--batch-size",
        32,
        "--beam",
        2,
        "--max-len-b",
        10,
        "--cpu",
    ]
    start = ["--restore-file", folder / "stock" / "checkpoint_last.pt"]
    return [folder / "corpus" / "bin", *words, *start, "--num-of-heads", 6, "--exact-pruning", "--budgets", 7]


def diff(folder: Path) -> list[object]:
    from diff_mt import DENSITY, RECIPE, STAGE1

    words = [
        "--base-checkpoint",
        folder / "stock" / "checkpoint_last.pt",
        *RECIPE,
        *STAGE1,
        "--max-update",
        4,
    ]
    words += [
        "--save-interval-updates",
        1,
        "--keep-interval-updates",
        2,
        "--target-sparsity",
        DENSITY,
        "--finetune-max-update",
        4,
    ]
    return [folder / "corpus" / "bin", *words]


def glue(*words: object, model: str = "bert", updates: bool = True) -> Callable[[Path], list[object]]:
    common = [
        "--task_name",
        "MRPC",
        "--max_seq_length",
        24,
        "--do_train",
        "--do_eval",
        "--learning_rate",
        1e-3,
    ]
    common += ["--max_steps", 6, "--save_steps", 1, "--per_device_train_batch_size", 4] if updates else []
    return lambda folder: [
        "--model_name_or_path",
        folder / model,
        "--data_dir",
        folder / "MRPC",
        *common,
        *words,
    ]


def squad(*words: object) -> Callable[[Path], list[object]]:
    common = (
        "--max_seq_length 48 --doc_stride 16 --do_train --do_eval --learning_rate 1e-3 --max_steps 4 "
        "--save_steps 1"
    ).split()
    return lambda folder: [
        "--model_name_or_path",
        folder / "bert",
        "--data_dir",
        folder / "squad",
        *common,
        *words,
    ]


DSP = [
    "--num_of_heads",
    3,
    "--annealing",
    "--initial_temperature",
    10,
    "--final_temperature",
    1e-2,
    "--cooldown_steps",
    4,
]
JOBS = {
    "mt-joint": Job(
        "mt/run_dsp", translation("--num-of-heads", 6, "--joint-pruning", *ANNEALING), "--save-dir"
    ),
    "mt-straight-through": Job(
        "mt/run_dsp", translation("--num-of-heads", 6, "--joint-pruning", "--use-ste"), "--save-dir"
    ),
    "mt-pipelined": Job("mt/run_dsp", pipelined("--num-of-heads", 6, *ANNEALING), "--save-dir"),
    "mt-voita": Job(
        "mt/run_voita", translation("--l0-penalty", 5, "--joint-pruning", "--pruning-lr", 0.1), "--save-dir"
    ),
    "mt-michel": Job("mt/run_michel", sweep, "--save-dir"),
    "mt-diff": Job("mt/run_diff", diff, "--save-dir"),
    "glue-plain": Job("glue/run_glue", glue(), "--output_dir"),
    "glue-joint": Job("glue/run_dsp", glue(*DSP, "--joint_pruning"), "--output_dir"),
    "glue-voita": Job("glue/run_voita", glue("--l0_penalty", 0.05, "--joint_pruning"), "--output_dir"),
    "glue-diff": Job("glue/run_diff", glue("--target_sparsity", 0.01), "--output_dir"),
    "squad-joint": Job("squad/run_dsp", squad(*DSP, "--joint_pruning"), "--output_dir"),
}


def prepare(folder: Path) -> None:
    """Data and models that the jobs start from."""
    from hf_programs import write_bert

    (folder / "corpus").mkdir(parents=True)
    write_corpus(folder / "corpus")
    train(folder / "corpus" / "bin", folder / "stock", *STOCK, "--max-update", 3).succeeded()
    write_bert(folder / "bert")
    write_task(folder / "MRPC", "MRPC", train=24, dev=8)
    write_squad(folder / "squad" / "train-v1.1.json", paragraphs=3)
    write_squad(folder / "squad" / "dev-v1.1.json", paragraphs=2, seed=2)


def start(job: Job, given: Path, folder: Path) -> Command:
    """The job's program, started in `folder`, writing into its out/."""
    words = [*job.words(given), job.out, "out"]
    return Command(str(SCRIPTS / f"{job.program}.py"), words, folder)


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run left in `folder`/out, by file, without times.

    Nor the checkpoints on the way: which of them are still there depends on when the last start was.
    """
    import torch

    from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint

    found: dict[str, Any] = {}
    out = folder / "out"
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if re.search(r"checkpoint-\d+/|checkpoint_\d+_\d+\.pt$|training_args\.bin$", name):
            continue
        if path.name.startswith("checkpoint_") and path.suffix == ".pt":
            state = load_checkpoint(str(path))
            found[name] = {key: state[key] for key in ("model", "last_optimizer_state") if key in state}
            found[name]["updates"] = state["optimizer_history"][-1]["num_updates"]
        elif path.suffix == ".pt" and zipfile.is_zipfile(path):
            found[name] = torch.load(path, map_location="cpu", weights_only=True)
        elif path.suffix in (".safetensors", ".pt"):
            found[name] = path.read_bytes()
        elif path.suffix == ".json":
            found[name] = without_times(json.loads(path.read_text(encoding="utf-8")))
        elif path.name == "heads.jsonl":
            from dsp_plugin.records.history import read_history

            found[name] = without_times(read_history(path.parent))
        elif path.suffix == ".txt" and "prediction" in path.name:
            found[name] = path.read_text(encoding="utf-8")
    return found


def without_times(value: Any) -> Any:
    """JSON without what differs between two runs of one command."""
    if isinstance(value, dict):
        dropped = (
            "checksum",
            "output_dir",
            "logging_dir",
            "best_model_checkpoint",
            "log_history",
            "train_loss",
            "resumed",
        )
        # in a list of files: times are in these
        dropped += ("trainer_state.json", "training_args.bin", "results.json")
        kept = {k: v for k, v in value.items() if k not in dropped and not any(word in k for word in TIMES)}
        return {key: without_times(item) for key, item in kept.items()}
    if isinstance(value, list):
        return [
            without_times(item)
            for item in value
            if not (isinstance(item, dict) and any(w in str(item.get("name", "")) for w in TIMES))
        ]
    return value


def disturbed(job: Job, given: Path, folder: Path, seconds: float, rng: random.Random) -> int:
    """Kill one run at a random moment of its `seconds`, a second time in one of three cases, then let it
    end; how often.
    """
    kills = 0
    while True:
        command = start(job, given, folder)
        if kills == 0 or (kills == 1 and rng.random() < 1 / 3):
            command.process.join(rng.uniform(0.05, 1.0) * seconds)
            if command.process.exitcode is None:
                command.process.kill()
                command.process.join()
                kills += 1
                continue
        command.wait().succeeded()
        return kills


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--jobs",
        nargs="+",
        choices=list(JOBS),
        default=list(JOBS),
        metavar="NAME",
        help=f"of {', '.join(JOBS)}",
    )
    parser.add_argument("--folder", type=Path, help="keep everything in this new folder")
    options = parser.parse_args()
    preload("dsp_plugin.hf.programs.chassis.train", "sklearn.metrics")
    rng = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        prepare(folder)
        return kill_all({name: JOBS[name] for name in options.jobs}, folder, options.kills, rng)


def kill_all(jobs: dict[str, Job], folder: Path, kills: int, rng: random.Random) -> int:
    wanted, seconds = {}, {}
    killed = equal = different = number = 0
    while killed < kills:
        name = list(jobs)[number % len(jobs)]
        if name not in wanted:
            begun = time.time()
            start(jobs[name], folder, folder / f"{name}-whole").wait().succeeded()
            seconds[name] = time.time() - begun
            wanted[name] = outcome(folder / f"{name}-whole")
        here = folder / f"{name}-{number}"
        times = disturbed(jobs[name], folder, here, seconds[name], rng)
        number += 1
        try:
            found = outcome(here)
            assert found.keys() == wanted[name].keys(), (
                f"the files {sorted(found.keys() ^ wanted[name].keys())}"
            )
            assert_same(found, wanted[name], name)
            said = "equal"
        except AssertionError as error:
            said = f"DIFFERENT at {str(error).splitlines()[0][:300]}"
        if times:  # it may have been too quick for the hand that wanted to kill it
            killed += times
            equal, different = equal + (said == "equal"), different + (said != "equal")
        print(f"{name:20} {seconds[name]:5.1f} s, killed {times} times: {said}", flush=True)
        if said == "equal":
            shutil.rmtree(here)
    print(f"killed {killed} times\nequal {equal} times\ndifferent {different} times", flush=True)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
