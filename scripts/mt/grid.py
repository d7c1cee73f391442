#!/usr/bin/env python3
"""Train and score every method and budget on Multi30k, then make one table.

Two models: `small` (2+2 layers, d 128, 24 heads) and `base` (3+3 layers, d 256, 36 heads). Every run is one of
the pipelines in scripts/mt/, with its records under results/multi30k/<model>/<run>/. A run whose records are
there is skipped and one that was stopped goes on from its last checkpoint: start the same command again.

  python scripts/mt/grid.py                    everything, one run after the other
  python scripts/mt/grid.py --list             what is done, what is missing
  python scripts/mt/grid.py --only small/joint --seeds 1 2 3 --jobs 4
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Dict, List, Optional, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)

# model -> its pipeline settings; equal numbers of updates for all methods of a model, but that pipelined runs choose
# heads for 390 more with frozen weights
MODELS: Dict[str, Dict[str, str]] = {
    "small": {"ARCH": "dsp_transformer_multi30k_small", "MAX_UPDATE": "1170", "VALIDATE_INTERVAL": "3"},
    "base": {"ARCH": "dsp_transformer_multi30k", "MAX_UPDATE": "780", "VALIDATE_INTERVAL": "2"},
}
HEADS = {"small": 24, "base": 36}
# pipeline script -> the method's name in its records
METHODS = {
    "unpruned": "unpruned",
    "joint": "dsp-joint",
    "straight_through": "dsp-ste",
    "pipelined": "dsp-pipelined",
}


@dataclass(frozen=True)
class Run:
    """One training and its scores: a pipeline script, the model, K and the seed."""

    model: str
    script: str
    seed: int
    budget: Optional[int] = None

    @property
    def name(self) -> str:
        budget = "" if self.budget is None else f"-K{self.budget}"
        return f"{self.model}/{self.script}{budget}-seed{self.seed}"

    def save_dir(self, folder: str) -> str:
        return os.path.join(folder, self.name)

    def setting(self) -> Tuple[str, str, int, int]:
        """(name, method, heads kept, heads in all), as the records of this run have them."""
        total = HEADS[self.model]
        return f"multi30k-{self.model}", METHODS[self.script], total if self.budget is None else self.budget, total

    def complete(self) -> bool:
        return all(os.path.isfile(f"results/multi30k/{self.name}/{s}/results.json") for s in ("test", "test1"))


def runs_of(seed: int) -> List[Run]:
    """All runs of one seed, unpruned models first: pipelined pruning starts from them."""
    runs = [Run("small", "unpruned", seed), Run("base", "unpruned", seed)]
    for share in (2, 4):
        budget = HEADS["small"] // share
        runs += [Run("small", script, seed, budget) for script in ("joint", "straight_through", "pipelined")]
    runs.append(Run("base", "joint", seed, HEADS["base"] // 4))
    return runs


def start(run: Run, options: argparse.Namespace) -> bool:
    """Run one pipeline to its end, its output in a log beside its checkpoints; whether it succeeded."""
    save_dir = run.save_dir(options.runs)
    unpruned = Run(run.model, "unpruned", run.seed).save_dir(options.runs)
    # the checkpoint alone may be that of a training that was stopped; its record is written at the end
    if run.script == "pipelined" and not os.path.isfile(os.path.join(unpruned, "results.json")):
        print(f"| FAILED {run.name}   needs a complete training in {unpruned}: run {run.model}/unpruned first", flush=True)
        return False
    os.makedirs(save_dir, exist_ok=True)
    log = os.path.join(save_dir, "pipeline.log")
    environment = {
        **os.environ,
        **MODELS[run.model],
        "DATASET": "multi30k",
        "PYTHON": sys.executable,
        "SEED": str(run.seed),
        "SAVE_DIR": save_dir,
        "RECORD_DIR": f"results/multi30k/{run.name}",
        "RECORD_NAME": f"multi30k-{run.model}",
        "UNPRUNED": os.path.join(unpruned, "checkpoint_best.pt"),
    }
    if run.budget is not None:
        environment["K"] = str(run.budget)
    started = time.time()
    print(f"| start  {run.name}   (log: {log})", flush=True)
    with open(log, "a", encoding="utf-8") as stream:
        code = subprocess.call([f"scripts/mt/{run.script}.sh"], env=environment, stdout=stream, stderr=stream)
    print(f"| {'done ' if code == 0 else 'FAILED'} {run.name}   {time.time() - started:.0f} s", flush=True)
    return code == 0


def write_table(seeds: List[int]) -> str:
    """results/multi30k/table.md and table.csv from the records alone; what was not run says so."""
    from dsp_plugin.reports.files import write_text
    from dsp_plugin.reports.records import load_records
    from dsp_plugin.reports.tables import Setting, csv_table, markdown_table, signature_notes, table_rows

    expected = [run.setting() for run in runs_of(seeds[0])]
    os.makedirs("results/multi30k", exist_ok=True)
    records = [record for record in load_records("results/multi30k") if record.kind == "mt-bleu"]
    rows, columns = table_rows(records, [Setting(*setting) for setting in expected], ["test", "test1"], len(seeds))
    text = "Multi30k de-en; test is test_2016_flickr, test1 is test_2017_flickr. Made by `make grid`.\n\n"
    text += markdown_table(rows, columns) + "\n\n" + "\n".join(signature_notes(records)) + "\n"
    write_text("results/multi30k/table.md", text)
    write_text("results/multi30k/table.csv", csv_table(rows, columns))
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--only", nargs="+", default=[""], help="runs whose name starts with one of these")
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time (default 1)")
    parser.add_argument("--runs", default="runs/grid", help="folder of the checkpoints (default runs/grid)")
    parser.add_argument("--list", action="store_true", help="show what is done and stop")
    options = parser.parse_args()
    os.chdir(ROOT)

    runs = [run for seed in options.seeds for run in runs_of(seed) if run.name.startswith(tuple(options.only))]
    if not runs:
        parser.error(f"--only {' '.join(options.only)}: no such run; runs: {', '.join(r.name for r in runs_of(1))}")
    for run in runs:
        if options.list:
            print(f"{'done   ' if run.complete() else 'missing'} {run.name}")
    if options.list:
        return
    failed = 0
    for wave in (("unpruned",), ("joint", "straight_through", "pipelined")):
        waiting = [run for run in runs if run.script in wave and not run.complete()]
        with ThreadPoolExecutor(options.jobs) as pool:
            failed += sum(not ok for ok in pool.map(lambda run: start(run, options), waiting))
    print(write_table(options.seeds))
    if failed:
        sys.exit(f"{failed} run(s) failed: see their logs under {options.runs}")


if __name__ == "__main__":
    main()
