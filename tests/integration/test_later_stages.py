"""What the later stages of diff pruning will need is looked at before the first one trains."""

from __future__ import annotations

import json
from collections import namedtuple
from pathlib import Path

import pytest
from glue_folders import write_task
from hf_programs import SHORT, on_task, start, write_bert


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("later")
    write_bert(folder / "bert")
    write_task(folder / "CoLA", "CoLA", train=16, dev=6)
    return folder


def words(folder: Path, out: Path) -> list:
    return [
        *on_task(folder, "CoLA"),
        *SHORT,
        "--do_train",
        "--max_steps",
        2,
        "--disable_tqdm",
        "true",
        "--use_cpu",
        "--output_dir",
        out,
    ]


def _file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


def _trained(out: Path) -> None:
    _file(out / "0.01" / "3rd" / "settings.json")
    (out / "0.01" / "3rd" / "settings.json").write_text(json.dumps({"task": "CoLA", "learning_rate": 0.5}))


CASES = [
    (lambda out: _file(out / "0.01"), [], "--output_dir .* no folder"),
    (lambda out: _file(out / "0.01" / "2nd"), [], "--output_dir .*2nd is a file: name a folder"),
    (lambda out: _file(out / "0.01" / "3rd"), [], "--output_dir .*3rd is a file: name a folder"),
    (
        lambda out: (out / "0.01" / "task.diff.safetensors").mkdir(parents=True),
        [],
        "task.diff.safetensors is a folder",
    ),
    (_trained, [], "3rd holds a training with other settings .learning_rate: 0.5 there, 5e-05 here"),
    (lambda out: _file(out.parent / "records"), ["--record_dir", "records"], "--record_dir .*no folder"),
    (None, ["--finetune_learning_rate", "nan"], "'nan': a finite number above 0 belongs there"),
    (None, ["--value_dtype", "odd"], "argument --value_dtype"),
    (None, ["--resume_from_checkpoint", "x"], "--resume_from_checkpoint: each stage goes on from"),
    (None, ["--target_sparsity", "0.01", "nan"], "--target_sparsity 'nan': a share"),
]


@pytest.mark.parametrize("prepare, more, said", CASES)
def test_the_first_stage_does_not_begin(folder, tmp_path, monkeypatch, capsys, prepare, more, said):
    monkeypatch.chdir(tmp_path)
    if prepare is not None:
        prepare(tmp_path / "out")
    before = {path for path in tmp_path.rglob("*")}
    with pytest.raises(SystemExit, match=said) as refusal:
        start("glue/run_diff", *words(folder, tmp_path / "out"), "--target_sparsity", 0.01, *more)
    assert "\n" not in str(refusal.value) and "stage 1" not in capsys.readouterr().out
    assert {path for path in tmp_path.rglob("*")} == before


def test_a_full_disk_is_told_before_training(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: namedtuple("usage", "free")(10_000))
    with pytest.raises(
        SystemExit, match="--output_dir .*: 0 MB are free there, and the model and a checkpoint need 0 MB"
    ):
        start("glue/run_glue", *words(folder, tmp_path / "out"))
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_a_density_in_two_spellings_is_learnt_once(folder, tmp_path, capsys):
    found = start(
        "glue/run_diff", *words(folder, tmp_path / "out"), "--target_sparsity", "0.01", "1e-2", "0.010"
    )
    said = capsys.readouterr().out
    assert (
        set(found) == {"0.01"}
        and said.count("stage 3") == 1
        and "--target_sparsity 1e-2 is 0.01 once more" in said
    )
    assert [path.name for path in (tmp_path / "out").iterdir() if path.name[0] in "01"] == ["0.01"]


def test_a_pack_is_not_written_over_the_base(folder, tmp_path):
    mask = tmp_path / "mask.safetensors"
    base = words(folder, tmp_path / "out")
    start("glue/run_glue_diffpruning", *base)
    given = [
        "--eval_checkpoint",
        tmp_path / "out" / "checkpoint-last-info.pt",
        "--output_dir",
        tmp_path / "2nd",
    ]
    for name in (folder / "bert" / "model.safetensors", folder / "bert" / "config.json"):
        with pytest.raises(SystemExit, match="--save_checkpoint .* is what --model_name_or_path reads"):
            start("glue/run_glue_mag", *base, *given, "--save_checkpoint", name)
    start("glue/run_glue_mag", *base, *given, "--save_checkpoint", mask)
    with pytest.raises(SystemExit, match="--save_pack .* is what --model_name_or_path reads"):
        words_3 = [
            "--mask_checkpoint",
            mask,
            "--output_dir",
            tmp_path / "3rd",
            "--save_pack",
            folder / "bert" / "model.safetensors",
        ]
        start("glue/run_glue_fixmask_finetune", *base, *words_3)
