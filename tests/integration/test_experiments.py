"""The shell pipelines of diff pruning: one for real on small generated data, and the command lines of all."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from glue_folders import write_squad, write_task
from hf_programs import ROOT, diff_options, write_bert

from dsp_plugin.diffs import DiffPack
from dsp_plugin.hf.data.glue_tasks import find_task
from dsp_plugin.hf.programs.chassis.arguments import SquadArguments
from dsp_plugin.records.record import load_record

# notes each start, fails where BREAK is in a program's name, and only runs something where RUN is set
PYTHON = """#!/usr/bin/env bash
printf '%q ' "$@" >> starts
echo >> starts
[[ -z ${BREAK:-} || $1 != *$BREAK* ]] || exit 1
[[ -z ${RUN:-} ]] || exec "$RUN" "$@"
"""
SETTINGS = (
    "DATA",
    "OUT",
    "MODEL",
    "SEED",
    "LR",
    "EPOCHS",
    "BATCH",
    "GPUS",
    "FLAGS",
    "DENSITIES",
    "DSP_DATA_DIR",
)


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def experiments(folder: Path, room: str, *tasks: str, **settings: object) -> subprocess.CompletedProcess:
    """scripts/ROOM/experiments.sh, started in `folder` with these settings."""
    clean = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    environment = {
        **clean,
        "PYTHON": str(folder / "python"),
        **{name: str(value) for name, value in settings.items()},
    }
    words = [ROOT / "scripts" / room / "experiments.sh", *tasks]
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def started(folder: Path) -> list[list[str]]:
    """The command lines since the last call."""
    lines = (folder / "starts").read_text().splitlines()
    (folder / "starts").unlink()
    return [shlex.split(line) for line in lines]


def test_the_three_stages_of_a_task_and_going_on_after_a_failure(folder):
    write_bert(folder / "bert")
    write_task(folder / "glue" / "MRPC", "MRPC", train=16, dev=8)
    settings = dict(DATA="glue", OUT="out", MODEL="bert", DENSITIES="0.01", RUN=sys.executable)
    settings["FLAGS"] = "--max_steps 2 --max_seq_length 24 --learning_rate 0.001"
    assert experiments(folder, "glue", "MRPC", BREAK="fixmask", **settings).returncode == 1
    done = experiments(folder, "glue", "MRPC", **settings)
    assert done.returncode == 0, done.stderr
    names = [words[0].split("_")[-1] if "glue" in words[0] else words[2] for words in started(folder)]
    assert names == ["diffpruning.py", "mag.py", "finetune.py", "finetune.py", "report"]
    record = load_record(folder / "out" / "MRPC" / "0.01" / "3rd" / "dev" / "results.json")
    pack = DiffPack.load(folder / "out" / "MRPC" / "0.01" / "task.diff.safetensors")
    assert record.method == "diff-structured-1%" and record.extra["diff"]["nonzeros"] == pack.nonzeros > 0
    assert (folder / "out" / "MRPC" / "0.01" / "3rd" / "MRPC.tsv").is_file()
    assert (folder / "out" / "report" / "index.html").is_file()
    assert not list((folder / "out").glob("**/checkpoint-*/"))
    # nothing that was made with other settings is taken, on however many GPUs it was
    other = experiments(folder, "glue", "MRPC", **settings, SPARSITY_PEN=1)
    assert (
        other.returncode == 2
        and "out/MRPC holds a run with other settings (out/MRPC/.command): name another OUT" in other.stderr
    )
    other = experiments(folder, "glue", "MRPC", **settings, FINETUNE_LR=1, PER_GPU=4)
    assert other.returncode == 2 and "MRPC/0.01/3rd holds a run with other settings" in other.stderr
    again = experiments(folder, "glue", "MRPC", **settings, PER_GPU=4)
    assert again.returncode == 0 and len(started(folder)) == 1  # the report


def test_the_papers_settings_on_glue(folder):
    done = experiments(folder, "glue")
    assert done.returncode == 0, done.stderr
    lines = started(folder)
    assert lines.pop()[:2] == ["-m", "dsp_plugin.cli.main"] and len(lines) == 3 * 8
    options = [diff_options(words[1:]) for words in lines]
    for first, second, third in zip(*[iter(options)] * 3):
        epochs = 5 if find_task(first["task_name"]).folder in ("MRPC", "STS-B", "RTE", "SST-2") else 3
        for one, rate, count in ((first, 1e-5, 3), (third, 5e-5, epochs)):
            assert one["do_train"] and (one["learning_rate"], one["num_train_epochs"]) == (rate, count)
            assert one["per_device_train_batch_size"] * one["gradient_accumulation_steps"] == 8
        assert (
            first["sparsity_pen"] == 1.25e-7 and second["target_sparsity"] == 0.005 and not second["do_train"]
        )
        assert Path(second["eval_checkpoint"]).parent == Path(first["output_dir"])
        assert third["mask_checkpoint"] == second["save_checkpoint"] and third["do_predict"]
        assert {one["model_name_or_path"] for one in (first, second, third)} == {
            "bert-large-cased-whole-word-masking"
        }
    assert [one["task_name"] for one in options[::3]] == [
        "QNLI",
        "SST-2",
        "MNLI",
        "CoLA",
        "MRPC",
        "STS-B",
        "RTE",
        "QQP",
    ]


def test_squad_with_several_densities_on_several_gpus(folder):
    write_squad(folder / "data" / "squad" / "train-v1.1.json")
    write_squad(folder / "data" / "squad" / "dev-v1.1.json")
    done = experiments(
        folder, "squad", DENSITIES="0.01 0.005", GPUS=4, MODEL="roberta-large", FLAGS="--per_params_alpha 0"
    )
    assert done.returncode == 0, done.stderr
    lines = started(folder)[:-1]
    assert len(lines) == 5 and all(
        words[:4] == "-m torch.distributed.run --standalone --nproc_per_node".split() for words in lines
    )
    options = [diff_options(words[6:], SquadArguments) for words in lines]
    assert [one["target_sparsity"] for one in (options[1], options[3])] == [0.01, 0.005]
    for one in options:
        assert (one["max_seq_length"], one["doc_stride"], one["model_name_or_path"]) == (
            384,
            128,
            "roberta-large",
        )
        assert one["per_params_alpha"] == 0 and Path(folder / one["train_file"]).is_file()
    assert [one["num_train_epochs"] for one in options if one["do_train"]] == [2, 2, 2]
    assert options[0]["per_device_train_batch_size"] * 4 * options[0]["gradient_accumulation_steps"] == 24


@pytest.mark.parametrize(
    "room, tasks, settings, message",
    [
        ("glue", ["CoLA", "MRCP"], {}, "MRCP is no GLUE task: choose of CoLA SST-2"),
        ("glue", ["--tasks"], {}, "options are environment variables, see --help"),
        ("glue", ["CoLA"], {"GPUS": 3}, "BATCH=8 is no multiple of PER_GPU=8 times GPUS=3"),
        (
            "glue",
            ["CoLA"],
            {"DENSITIES": "1e-3 .5 1 5"},
            "DENSITIES: 5 is no share of the weights, in (0, 1]",
        ),
        ("squad", [], {"DENSITIES": "0.01 0"}, "DENSITIES: 0 is no share of the weights"),
        ("squad", [], {"DENSITIES": "."}, "DENSITIES: . is no share of the weights"),
        ("squad", [], {"DATA": "nowhere"}, "nowhere/train-v1.1.json is missing: set DATA"),
        ("squad", ["CoLA"], {}, "settings are environment variables"),
    ],
)
def test_refusals_before_anything_starts(folder, room, tasks, settings, message):
    done = experiments(folder, room, *tasks, **settings)
    assert done.returncode == 2 and message in done.stderr and len(done.stderr.splitlines()) == 1
    assert not (folder / "starts").exists()


@pytest.mark.parametrize("room", ["glue", "squad"])
def test_help(folder, room):
    done = experiments(folder, room, "--help")
    assert done.returncode == 0 and "DENSITIES" in done.stdout and "source" not in done.stdout
