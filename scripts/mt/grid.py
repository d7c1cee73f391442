#!/usr/bin/env python3
"""Train and score every method and budget on Multi30k, then make one table.

Two models: `small` (2+2 layers, d 128, 24 heads) and `base` (3+3 layers, d 256, 36 heads). Every run is one
of the pipelines in scripts/mt/, with its records under results/multi30k/<model>/<run>/. A run whose records
are there is skipped and one that was stopped goes on from its last checkpoint: start the same command again.

  python scripts/mt/grid.py                    everything, one run after the other
  python scripts/mt/grid.py --list             what is done, what is missing
  python scripts/mt/grid.py --only small/joint --seeds 1 2 3 --jobs 4
  python scripts/mt/grid.py --speed            also the decoding speed of all, at the end
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Optional

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)

from dsp_plugin.mt.programs.refusals import run_program
from dsp_plugin.options.numbers import number
from dsp_plugin.records.files.whole import check_folder

# model -> its pipeline settings; all its trainings have equal numbers of updates, but that pipelined runs,
# Michel and the baselines start from the unpruned model, and all but straight-through runs are tuned
# afterwards. The column "updates" has those of the last of these trainings, up to its best checkpoint
MODELS: dict[str, dict[str, str]] = {
    "small": {"ARCH": "transformer_multi30k_small", "MAX_UPDATE": "2400", "VALIDATE_INTERVAL": "3"},
    "base": {"ARCH": "transformer_multi30k", "MAX_UPDATE": "1000", "VALIDATE_INTERVAL": "2"},
}
HEADS = {"small": 24, "base": 36}
TUNE_UPDATES = "500"
L0_PENALTY = "50"  # of Voita; the budget is exact all the same


@dataclass(frozen=True)
class Method:
    """A pipeline script and its settings; `labels` are the methods of its records: folder suffix ->
    method.
    """

    script: str
    labels: dict[str, str]
    settings: tuple[tuple[str, str], ...] = ()
    from_unpruned: bool = False


TUNED = (("TUNE_UPDATES", TUNE_UPDATES),)
MICHEL = (*TUNED, ("IMPORTANCE_SAMPLES", "2000"))  # of 29,000 pairs; the record says so
# one head a step and no norm over the block: the strongest setting without tuning (docs/michel.md)
MICHEL_GLOBAL = (
    *MICHEL,
    ("STEP", "1"),
    ("MICHEL_FLAGS", "--exact-pruning --dont-normalize-importance-by-layer"),
)
# name of the run -> how it is made
METHODS: dict[str, Method] = {
    "unpruned": Method("unpruned", {"": "unpruned"}),
    "joint": Method("joint", {"": "dsp-joint", "-tuned": "dsp-joint-tuned"}, TUNED),
    # the same choice, but that no block may lose all its heads
    "joint_spread": Method(
        "joint",
        {"": "dsp-joint-min1", "-tuned": "dsp-joint-min1-tuned"},
        (*TUNED, ("METHOD", "dsp-joint-min1"), ("PRUNING_FLAGS", "--min-heads-per-block 1")),
    ),
    "straight_through": Method("straight_through", {"": "dsp-ste"}),
    "voita": Method(
        "voita", {"": "voita-joint", "-tuned": "voita-joint-tuned"}, (*TUNED, ("L0_PENALTY", L0_PENALTY))
    ),
    "pipelined": Method(
        "pipelined", {"": "dsp-pipelined", "-tuned": "dsp-pipelined-tuned"}, TUNED, from_unpruned=True
    ),
    "michel": Method("michel", {"": "michel", "-tuned": "michel-tuned"}, MICHEL, from_unpruned=True),
    "michel_global": Method(
        "michel",
        {"": "michel-global", "-tuned": "michel-global-tuned"},
        (*MICHEL_GLOBAL, ("METHOD", "michel-global")),
        from_unpruned=True,
    ),
    "random": Method(
        "michel",
        {"": "random", "-tuned": "random-tuned"},
        (*TUNED, ("RANK_BY", "random")),
        from_unpruned=True,
    ),
}
SUBSETS = ("test", "test1")
SPEED_LENGTH = 20  # tokens of every translation when the speed is measured


@dataclass(frozen=True)
class Run:
    """One training and its scores: a method, the model, K and the seed."""

    model: str
    method: str
    seed: int
    budget: int | None = None

    @property
    def name(self) -> str:
        budget = "" if self.budget is None else f"-K{self.budget}"
        return f"{self.model}/{self.method}{budget}-seed{self.seed}"

    def save_dir(self, folder: str) -> str:
        return os.path.join(folder, self.name)

    @property
    def source(self) -> Optional["Run"]:
        """What it starts from."""
        return Run(self.model, "unpruned", self.seed) if METHODS[self.method].from_unpruned else None

    def trained(self, folder: str) -> bool:
        # the checkpoint alone may be that of a training that was stopped; its record is written at the end
        return os.path.isfile(os.path.join(self.save_dir(folder), "results.json"))

    def settings(self) -> list[tuple[str, str, int, int]]:
        """(name, method, heads kept, heads in all) of the table's rows, as the records of this run have
        them.
        """
        total = HEADS[self.model]
        kept = total if self.budget is None else self.budget
        return [
            (f"multi30k-{self.model}", label, kept, total) for label in METHODS[self.method].labels.values()
        ]

    def complete(self) -> bool:
        return all(
            os.path.isfile(f"results/multi30k/{self.name}/{subset}{suffix}/results.json")
            for subset in SUBSETS
            for suffix in METHODS[self.method].labels
        )

    def checkpoint(self, folder: str) -> str:
        """What would be deployed: the best checkpoint, its dead heads removed."""
        name = "checkpoint_best.pt" if self.budget is None else "checkpoint_pruned.pt"
        return os.path.join(self.save_dir(folder), name)


def runs_of(seed: int) -> list[Run]:
    """All runs of one seed, unpruned models first: others start from them."""
    runs = [
        Run("small", "unpruned", seed),
        Run("base", "unpruned", seed),
        Run("base", "joint", seed, HEADS["base"] // 4),
    ]
    for share in (4, 2):
        runs += [
            Run("small", method, seed, HEADS["small"] // share) for method in METHODS if method != "unpruned"
        ]
    return runs


def start(run: Run, options: argparse.Namespace) -> bool:
    """Run one pipeline to its end, its output in a log beside its checkpoints; whether it succeeded."""
    save_dir = run.save_dir(options.runs)
    unpruned = Run(run.model, "unpruned", run.seed).save_dir(options.runs)
    method = METHODS[run.method]
    if run.source and not run.source.trained(options.runs):
        print(f"| FAILED {run.name}   needs the training of {run.source.name}, which failed", flush=True)
        return False
    # a clone has the records of others and no models: what a run starts from is trained once more, and theirs
    # stay
    records = (
        os.path.join(options.runs, "records", run.name) if run.complete() else f"results/multi30k/{run.name}"
    )
    from dsp_plugin.records.files.claim import claim, give_back

    try:
        lock = claim("the folder", save_dir, ".grid.lock")
    except ValueError as error:
        print(f"| FAILED {run.name}   {error}", flush=True)
        return False
    log = os.path.join(save_dir, "pipeline.log")
    environment = {
        **os.environ,
        **MODELS[run.model],
        **dict(method.settings),
        "DATASET": "multi30k",
        "PYTHON": sys.executable,
        "SEED": str(run.seed),
        "SAVE_DIR": save_dir,
        "RECORD_DIR": records,
        "RECORD_NAME": f"multi30k-{run.model}",
        "UNPRUNED": os.path.join(unpruned, "checkpoint_best.pt"),
    }
    if run.budget is not None:
        environment["K"] = str(run.budget)
    started = time.time()
    print(f"| start  {run.name}   (log: {log})", flush=True)
    try:
        with open(log, "a", encoding="utf-8") as stream:
            code = subprocess.call(
                [f"scripts/mt/{method.script}.sh"], env=environment, stdout=stream, stderr=stream
            )
    finally:
        give_back(lock)
    print(f"| {'done ' if code == 0 else 'FAILED'} {run.name}   {time.time() - started:.0f} s", flush=True)
    return code == 0


def measure_speed(runs: list[Run], folder: str) -> None:
    """Sentences a second of every run's deployed checkpoint, interleaved, one model at a time compared with
    all others.

    Records of kind "mt-speed" under results/multi30k/<run>/speed/. Tuned models have the shapes, and so the
    speed, of those they were tuned from: they are not measured again.
    """
    from dsp_plugin.mt.translate.speed import translation_speed
    from dsp_plugin.records.record import Metric, load_record, new_record, save_record

    for model in MODELS:
        mine = [run for run in runs if run.model == model and os.path.isfile(run.checkpoint(folder))]
        if not mine:
            continue
        paths = [run.checkpoint(folder) for run in mine]
        # equal lengths: no model is faster by stopping earlier
        speeds = translation_speed("data-bin/multi30k", paths, "test", length=SPEED_LENGTH, cpu=True)
        for run, speed in zip(mine, speeds):
            scored = load_record(f"results/multi30k/{run.name}/test/results.json")
            record = new_record(
                "mt-speed",
                scored.name,
                scored.method,
                device="cpu",
                seed=run.seed,
                heads=scored.heads,
                metrics=[Metric("speed", speed, unit="sentences/s", subset="test")],
                extra={
                    "beam": 5,
                    "batch_size": 32,
                    "length": SPEED_LENGTH,
                    "checkpoint": os.path.basename(run.checkpoint(folder)),
                },
            )
            save_record(record, f"results/multi30k/{run.name}/speed/results.json")
            print(f"| {run.name}: {speed:.1f} sentences/s", flush=True)


def write_table(seeds: list[int]) -> str:
    """results/multi30k/table.md and table.csv from the records alone; what was not run says so."""
    from dsp_plugin.records.files.whole import write_text
    from dsp_plugin.records.record import load_records
    from dsp_plugin.reports.tables import Setting, csv_table, markdown_table, signature_notes, table_rows

    expected = [setting for run in runs_of(seeds[0]) for setting in run.settings()]
    os.makedirs("results/multi30k", exist_ok=True)
    records = [
        record for record in load_records("results/multi30k") if record.kind in ("mt-bleu", "mt-speed")
    ]
    rows, columns = table_rows(
        records, [Setting(*setting) for setting in expected], ["test", "test1"], len(seeds)
    )
    text = "Multi30k de-en; test is test_2016_flickr, test1 is test_2017_flickr. Made by `make grid`.\n\n"
    text += markdown_table(rows, columns) + "\n\n" + "\n".join(signature_notes(records)) + "\n"
    write_text("results/multi30k/table.md", text)
    write_text("results/multi30k/table.csv", csv_table(rows, columns))
    return text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=number("seed"), nargs="+", default=[1])
    parser.add_argument("--only", nargs="+", default=[""], help="runs whose name starts with one of these")
    parser.add_argument("--jobs", type=number("count"), default=1, help="runs at the same time (default 1)")
    parser.add_argument("--runs", help="folder of the checkpoints (default: runs/grid in the repository)")
    parser.add_argument(
        "--speed",
        action="store_true",
        help="measure the decoding speed of all these runs side by side, at the end",
    )
    parser.add_argument("--list", action="store_true", help="show what is done and stop")
    parser.add_argument("--traceback", action="store_true", help="show all that led to an error")
    options = parser.parse_args(argv)
    options.seeds = list(dict.fromkeys(options.seeds))  # each is trained once
    if options.runs is None:
        options.runs = "runs/grid"
    else:  # it starts in the user's folder, not in the repository's
        options.runs = os.path.abspath(options.runs)
        check_folder("--runs", options.runs)
    os.chdir(ROOT)

    runs = [
        run for seed in options.seeds for run in runs_of(seed) if run.name.startswith(tuple(options.only))
    ]
    if not runs:
        parser.error(
            f"--only {' '.join(options.only)}: no such run; runs: {', '.join(r.name for r in runs_of(1))}"
        )
    for run in runs:
        if options.list:
            print(f"{'done   ' if run.complete() else 'missing'} {run.name}")
    if options.list:
        return
    failed = 0
    missing = [run for run in runs if not run.complete()]
    sources = {run.source: None for run in missing if run.source and not run.source.trained(options.runs)}
    first = list(dict.fromkeys([*sources, *(run for run in missing if not run.source)]))
    for waiting in (first, [run for run in missing if run.source]):
        with ThreadPoolExecutor(options.jobs) as pool:
            failed += sum(not ok for ok in pool.map(lambda run: start(run, options), waiting))
    if options.speed:
        measure_speed([run for run in runs if run.complete()], options.runs)
    print(write_table(options.seeds))
    if failed:
        sys.exit(f"{failed} run(s) failed: see their logs under {options.runs}")


if __name__ == "__main__":
    run_program(main, sys.argv[1:])
