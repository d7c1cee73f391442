#!/usr/bin/env python3
"""The main job from end to end: an unpruned translation model beside one that keeps a quarter of its heads.

Prepares the corpus, trains both models (the second by joint DSP, its schedule worked out), takes the dead
heads out of the second for good, trains both on for as many updates ("tuning"), scores them, measures their
speed, and leaves in the output folder: table.md, heads.png, comparison.png, results.json, and every
checkpoint, log and record beside them.

  python scripts/demo.py                       a generated corpus: minutes on two cores
  python scripts/demo.py --dataset multi30k    real text (DSP_DATA_DIR/multi30k, else fetched)

Started again, it goes on where it stopped. MAX_UPDATE and TUNE_UPDATES in the environment are other lengths
of training and tuning, DATA_BIN is another place for the corpus.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
import warnings

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[:0] = [ROOT, os.path.join(ROOT, "scripts")]

from demo_pipelines import run_one, run_side_by_side

from dsp_plugin.gating.methods.recipe import LEAST_UPDATES
from dsp_plugin.mt.programs.chassis.refusals import run_program
from dsp_plugin.options.numbers import number
from dsp_plugin.records.files.whole import check_folder

LENGTH = 20  # tokens of every translation when the speed is measured: none is faster by stopping earlier
SUBSET = "test"
HEADS = {"embedded": 24, "multi30k": 36}
# Settings of scripts/mt/lib.sh, alike for both models. On the small corpus many small batches teach more in
# the time than few large ones; more than half come
# after the choice, when the model learns to do with its few heads.
SETTINGS = {
    "embedded": {"MAX_TOKENS": "1024", "MAX_UPDATE": "700", "TUNE_UPDATES": "1150", "TUNE_LR": "2e-3"},
    "multi30k": {"MAX_UPDATE": "1600", "TUNE_UPDATES": "500"},
}
# Validated at the end alone: so the model that is kept is the last one, of as many updates in both trainings.
TRAIN_FLAGS = "--validate-interval 1000000"


def parser_of() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", choices=sorted(SETTINGS), default="embedded")
    parser.add_argument("--out", help="output folder (default demo/<dataset>)")
    parser.add_argument("--num-of-heads", type=number("amount"), help="heads to keep (default: a quarter)")
    parser.add_argument("--seed", type=number("seed"), default=1)
    parser.add_argument("--gpu", action="store_true", help="train and translate on the GPU")
    parser.add_argument("--traceback", action="store_true", help="show all that led to an error")
    return parser


def lengths_of(dataset: str) -> dict[str, str]:
    """Return a dataset's settings, with lengths from the environment where it has them.

    Raises:
        ValueError: one of them is no number of updates, or too few to choose heads in.
    """
    settings = dict(SETTINGS[dataset])
    for name, least in (("MAX_UPDATE", LEAST_UPDATES), ("TUNE_UPDATES", 1)):
        settings[name] = os.environ.get(name) or settings[name]
        try:
            updates = number("count")(settings[name])
        except argparse.ArgumentTypeError as error:
            raise ValueError(f"{name}: {error}") from None
        if updates < least:
            raise ValueError(f"{name} must be at least {least}, got {updates}")
    return settings


def settings_of(options: argparse.Namespace, budget: int) -> dict[str, str]:
    """Return what both pipelines are told."""
    settings = {
        "DATASET": options.dataset,
        "DATA_BIN": os.environ.get("DATA_BIN") or os.path.join("data-bin", options.dataset),
        "SEED": str(options.seed),
        "PYTHON": sys.executable,
        "RECORD_NAME": options.dataset,
        "K": str(budget),
        "SCHEDULE": "auto",
        "SCORE_PRUNED": "1",
        "SUBSETS": SUBSET,
        "TRAIN_FLAGS": TRAIN_FLAGS,
        "FLAGS": "--no-progress-bar" + ("" if options.gpu else " --cpu --num-workers 0"),
        **lengths_of(options.dataset),
    }
    if not options.gpu:
        settings["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 2) // 2))
    return settings


def folders_of(out: str, budget: int, seed: int, settings: dict[str, str]) -> dict[str, str]:
    """Return the folder of each pipeline: what was trained for other heads, seeds or lengths is not taken."""
    length = f"{settings['MAX_UPDATE']}+{settings['TUNE_UPDATES']}"
    names = {"unpruned": f"unpruned-{length}-seed{seed}", "joint": f"joint-K{budget}-{length}-seed{seed}"}
    return {script: os.path.join(out, name) for script, name in names.items()}


def measure_speeds(data: str, folders: dict[str, str], gpu: bool) -> dict[str, float]:
    """Measure the sentences a second of both tuned models, in turn."""
    # before the host is imported, which says what could be installed, and warns of its own code
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    import torch

    from dsp_plugin.mt.programs.speed import translation_speed

    # such small matrices gain nothing from a second core, and lose much where it is busy
    torch.set_num_threads(1)
    checkpoints = [
        os.path.join(folders[script], "tuned", "checkpoint_best.pt") for script in ("unpruned", "joint")
    ]
    speeds = translation_speed(data, checkpoints, SUBSET, cpu=not gpu, length=LENGTH)
    return dict(zip(("unpruned-tuned", "pruned-tuned"), speeds))


def main(argv: list[str] | None = None) -> None:
    parser = parser_of()
    options = parser.parse_args(argv)
    if options.out is not None:  # it starts in the user's folder, not in the repository's
        options.out = os.path.abspath(options.out)
        check_folder("--out", options.out)
    if options.gpu:
        import torch

        if not torch.cuda.is_available():
            parser.error("--gpu: torch finds no GPU here; without it the demo runs on the processor")
    os.chdir(ROOT)
    total = HEADS[options.dataset]
    budget = total // 4 if options.num_of_heads is None else options.num_of_heads
    if not 0 <= budget <= total:
        parser.error(f"--num-of-heads must be in 0..{total} (heads of the model), got {budget}")
    out = options.out or os.path.join("demo", options.dataset)
    try:
        check_folder("--out", out)
        settings = settings_of(options, budget)
    except ValueError as error:
        parser.error(str(error))
    started = time.time()
    os.makedirs(out, exist_ok=True)

    print(f"1/4  the corpus {options.dataset}", flush=True)
    prepare = ["bash", "-c", "source scripts/mt/lib.sh && prepare_data"]
    run_one("the preparation of the corpus", prepare, os.path.join(out, "prepare.log"), settings)
    print(
        f"2/4  all {total} heads beside {budget} of them: {settings['MAX_UPDATE']} updates of training and "
        f"{settings['TUNE_UPDATES']} of tuning each",
        flush=True,
    )
    folders = folders_of(out, budget, options.seed, settings)
    run_side_by_side({script: {**settings, "SAVE_DIR": folder} for script, folder in folders.items()})
    print(f"3/4  the speed of both, in turn: medians of 3, {LENGTH} tokens a sentence", flush=True)
    speeds = measure_speeds(settings["DATA_BIN"], folders, options.gpu)
    print("4/4  table, pictures, record", flush=True)
    from demo_report import load_scores, write_report  # after the logs are hushed: it imports matplotlib

    lines = write_report(
        out,
        options.dataset,
        SUBSET,
        load_scores(folders, SUBSET),
        speeds,
        seconds=time.time() - started,
        seed=options.seed,
        cpu=not options.gpu,
    )
    print(f"     in {out}, {time.time() - started:.0f} s in all\n", flush=True)
    print("\n".join(lines))


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
