"""The published BERT command lines are understood as they stand; the grid's are, too."""

from __future__ import annotations

import shlex

import pytest
from hf_programs import program
from transformers import TrainingArguments

from dsp_plugin.hf.programs.chassis.arguments import (
    GlueArguments,
    ModelArguments,
    ResultArguments,
    SquadArguments,
)
from dsp_plugin.hf.programs.chassis.parsing import parse
from dsp_plugin.hf.programs.heads.methods import DSPArguments, Method, VoitaArguments
from dsp_plugin.hf.programs.heads.michel import MichelArguments
from dsp_plugin.records.record import Metric, Record, kept_heads, save_record

METHODS = {"run_glue": Method, "run_squad": Method, "run_dsp": DSPArguments, "run_voita": VoitaArguments}
PUBLISHED = """
run_glue.py --model_name_or_path bert-base-uncased --task_name MNLI --do_train --do_eval \\
  --data_dir data/MNLI/ --max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 \\
  --num_train_epochs 3.0 --output_dir output/ --cache_dir cache/ --save_steps 10000
run_dsp.py --data_dir data/MNLI/ --model_name_or_path bert-base-uncased --task_name MNLI --do_train \\
  --do_eval --max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 \\
  --num_train_epochs 3.0 --output_dir dsp_output/ --cache_dir cache/ --save_steps 10000 \\
  --num_of_heads 12 --pruning_lr 0.5 --annealing --initial_temperature 1000 --final_temperature 1e-8 \\
  --cooldown_steps 25000 --joint_pruning
run_dsp.py --data_dir data/MNLI/ --model_name_or_path bert-base-uncased --task_name MNLI --do_train \\
  --do_eval --max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 \\
  --num_train_epochs 3.0 --output_dir dsp_output/ --cache_dir cache/ --save_steps 10000 \\
  --num_of_heads 12 --pruning_lr 0.5 --use_ste --joint_pruning
run_dsp.py --data_dir data/MNLI/ --model_name_or_path output/ --task_name MNLI --do_train --do_eval \\
  --max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 --num_train_epochs 1.0 \\
  --output_dir dsp_output/ --cache_dir cache/ --save_steps 10000 --num_of_heads 12 --pruning_lr 0.5 \\
  --annealing --initial_temperature 1000 --final_temperature 1e-8 --cooldown_steps 8333
run_voita.py --model_name_or_path bert-base-uncased --task_name MNLI --do_train --do_eval \\
  --data_dir data/MNLI/ --max_seq_length 128 --per_device_train_batch_size 32 --learning_rate 2e-5 \\
  --num_train_epochs 3.0 --output_dir voita_output/ --cache_dir cache/ --save_steps 10000 \\
  --l0_penalty 0.0015 --joint_pruning --pruning_lr 0.1
run_michel.py --data_dir data/MNLI/ --model_name_or_path output/ --task_name MNLI \\
  --output_dir michel_output/ --cache_dir cache/ --tokenizer_name bert-base-uncased --exact_pruning \\
  --num_of_heads 12
"""


def understood(words: list, data: type = GlueArguments) -> dict:
    """All options of a command line, after the checks that need no model."""
    name, rest = words[0].split("/")[-1].removesuffix(".py"), words[1:]
    own = [MichelArguments] if name == "run_michel" else [] if METHODS[name] is Method else [METHODS[name]]
    further = [] if name == "run_michel" else [ResultArguments, TrainingArguments]
    found = parse("", [ModelArguments, data, *own, *further], rest)
    for group in found:
        if hasattr(group, "check"):
            group.check()
    return {key: value for group in found for key, value in vars(group).items()}


@pytest.mark.parametrize("line", PUBLISHED.replace("\\\n ", "").strip().splitlines())
def test_published_command_lines(line):
    words = shlex.split(line)
    found = understood(words)
    dashed = understood([word.replace("_", "-") if word.startswith("--") else word for word in words])
    for name, value in zip(words[1:], [*words[2:], "--"]):
        if name.startswith("--"):
            wanted = True if value.startswith("--") else value
            assert found[name[2:]] == (type(found[name[2:]])(wanted)), name
            assert dashed[name[2:]] == found[name[2:]]
    assert found["num_of_heads"] == 12 if "num_of_heads" in line else True


def test_defaults_are_those_of_the_papers():
    dsp, voita = DSPArguments(), VoitaArguments()
    assert (dsp.pruning_lr, dsp.annealing, dsp.initial_temperature, dsp.final_temperature) == (
        0.5,
        False,
        1000.0,
        1e-8,
    )
    assert (dsp.cooldown_steps, dsp.use_ste, dsp.joint_pruning) == (25000, False, False)
    assert (voita.pruning_lr, voita.l0_penalty, voita.joint_pruning, voita.num_of_heads) == (
        0.1,
        None,
        False,
        None,
    )
    michel = MichelArguments(output_dir="out")
    assert (michel.num_of_heads, michel.exact_pruning, michel.batch_size) == (12, False, 32)
    assert GlueArguments().max_seq_length == 128


# ---- the grid


@pytest.fixture
def grid():
    return program("glue/grid")


def test_the_grid_asks_for_nothing_that_the_programs_do_not_know(grid, tmp_path):
    options = grid.options_of(
        [
            "--model",
            "bert",
            "--data",
            str(tmp_path / "glue"),
            "--all-methods",
            "--tasks",
            "CoLA",
            "MNLI",
            "SQuAD",
        ]
    )
    runs = grid.runs_of(options, 3)
    assert {run.method for run in runs} == set(grid.METHODS)
    for run in runs:
        found = understood(
            grid.command(run, options), SquadArguments if run.task == "SQuAD" else GlueArguments
        )
        assert found["seed"] == 3
        if run.method in ("joint", "ste", "voita", "pipelined"):
            assert found["num_of_heads"] == run.budgets[0] and found["joint_pruning"] == (
                run.method != "pipelined"
            )
        if run.method in ("joint", "pipelined"):
            updates = grid.updates_of(run.task, int(found["num_train_epochs"]))
            assert found["cooldown_steps"] + found["pruning_warmup_updates"] <= 0.7 * updates


def test_what_was_not_run_is_not_measured(grid, tmp_path, monkeypatch):
    options = grid.options_of(["--model", "bert", "--results", str(tmp_path), "--tasks", "CoLA"])
    monkeypatch.setattr(grid, "heads_of_model", lambda name: 72)
    run = next(run for run in grid.runs_of(options, 1) if run.method == "joint" and run.budgets == (18,))
    heads = kept_heads(
        {"blocks": [{"name": "a", "kind": "encoder-self", "num_heads": 72}]}, [True] * 18 + [False] * 54
    )
    score = Metric("matthews_correlation", 41.5, unit="%", subset="dev")
    assert not run.complete(options.results)
    save_record(
        Record("glue-score", "CoLA", "dsp-joint", seed=1, heads=heads, metrics=[score]),
        tmp_path / run.name / "dev",
    )
    assert run.complete(options.results)
    text = grid.write_tables(options)
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]
    assert rows[0][:3] == ["method", "K", "matthews_correlation dev (%)"]
    assert ["dsp-joint", "18/72", "41.50"] in [row[:3] for row in rows]
    assert [row[2] for row in rows[1:]].count("not measured") == len(rows) - 2 == 12
    assert (tmp_path / "CoLA" / "table.csv").is_file() and (tmp_path / "table.md").read_text() == text


def test_what_a_run_starts_from_is_trained_first(grid, tmp_path, monkeypatch):
    options = grid.options_of(
        [
            "--model",
            "bert",
            "--runs",
            str(tmp_path / "runs"),
            "--results",
            str(tmp_path / "results"),
            "--tasks",
            "CoLA",
        ]
    )
    calls = []

    def call(words, log):
        calls.append((words[0], words[words.index("--record_dir") + 1]))
        return words[0].endswith("run_dsp.py")

    monkeypatch.setattr(grid.grids, "call", call)
    pipelined = next(run for run in grid.runs_of(options, 1) if run.method == "pipelined")
    assert not grid.start(pipelined, options)  # the training that it needs fails
    record = tmp_path / "results" / "CoLA" / "unpruned-seed1" / "dev" / "results.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert not grid.start(pipelined, options)
    model = tmp_path / "runs" / "CoLA" / "unpruned-seed1" / "config.json"
    model.parent.mkdir(parents=True)
    model.write_text("{}")
    assert grid.start(pipelined, options)
    place = "CoLA/unpruned-seed1"
    assert calls == [
        ("scripts/glue/run_glue.py", str(tmp_path / "results" / place)),
        # somebody's record stays as it is
        ("scripts/glue/run_glue.py", str(tmp_path / "runs" / "records" / place)),
        ("scripts/glue/run_dsp.py", str(tmp_path / "results" / "CoLA" / "pipelined-K36-seed1")),
    ]


def test_other_budgets_of_a_sweep_have_a_folder_of_their_own(grid):
    names = [
        {run.name for run in grid.runs_of(grid.options_of(["--tasks", "CoLA", *budgets]), 1)}
        for budgets in ([], ["--budgets", "54", "9"])
    ]
    assert "CoLA/michel-seed1" in names[0] and "CoLA/michel-K54-9-seed1" in names[1]


def test_a_trial_has_folders_of_its_own(grid):
    real, trial = grid.options_of([]), grid.options_of(["--quick", "4"])
    assert (
        str(real.runs) == "runs/glue"
        and str(trial.runs) == "runs/glue/quick"
        and str(trial.results) == "results/glue/quick"
    )


def test_missing_squad_files_are_named_before_anything_runs(grid, tmp_path, monkeypatch):
    monkeypatch.setattr(grid.grids, "call", None)
    words = [
        "--model",
        "bert",
        "--data",
        str(tmp_path / "glue"),
        "--runs",
        str(tmp_path),
        "--results",
        str(tmp_path),
        "--tasks",
        "SQuAD",
    ]
    with pytest.raises(SystemExit, match=r"devsplit-train\.json: make it with .*squad_devsplit\.py"):
        grid.main(words)
