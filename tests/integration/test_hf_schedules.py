"""The schedule of a choice of heads in the programs on Transformers: what is told, noted and resumed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from glue_folders import write_task
from hf_programs import HEADS, mnli, start, write_bert
from safetensors.torch import load_file

from dsp_plugin.gating.methods import recipe
from dsp_plugin.records.files.sealed import write_json
from dsp_plugin.records.record import load_record

K = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """bert/ (untrained), MNLI/ and a finetuned model in output/."""
    folder = tmp_path_factory.mktemp("schedules")
    write_bert(folder / "bert")
    write_task(folder / "MNLI", "MNLI", train=48, dev=6)
    start("glue/run_glue", *mnli(folder), "--do_train", "--max_steps", 3, "--output_dir", folder / "output")
    return folder


@pytest.fixture(autouse=True)
def few_updates_will_do(monkeypatch):
    monkeypatch.setattr(recipe, "LEAST_UPDATES", 6)


def told(said: str) -> str:
    """The line of the schedule."""
    (line,) = re.findall(r"^\| (schedule .*)$", said, re.MULTILINE)
    return line


def settings_of(folder: Path) -> dict:
    return json.loads((folder / "settings.json").read_text())


# ---- auto


def test_auto_is_told_noted_and_resumed_exactly(folder, capsys):
    words = [*mnli(folder), "--do_train", "--do_eval", "--max_steps", 9, "--save_steps", 3]
    words += ["--num_of_heads", K, "--joint_pruning"]
    start("glue/run_dsp", *words, "--output_dir", folder / "auto")
    line = told(capsys.readouterr().out)
    assert line.startswith("schedule (auto, for 9 updates): ") and "init_scores importance" in line
    noted = settings_of(folder / "auto")
    found = noted["worked_out"]
    assert noted["pruning_schedule"] == "auto" and noted["pruning_lr"] is None
    assert all(f"{name} " in line or name == "annealing" for name in found if name in noted)
    record = load_record(folder / "auto" / "results.json")
    assert record.extra["schedule"].items() >= {"how": "auto", **found}.items()
    assert record.heads["kept"] == K
    warmup = found["pruning_warmup_updates"]
    # from a checkpoint before the choice of heads began, from the one at which it does, and from a later one
    for checkpoint in (3, 6):
        halved = folder / f"from-{checkpoint}"
        shutil.copytree(folder / "auto", halved)
        for later in range(checkpoint + 3, 10, 3):
            shutil.rmtree(halved / f"checkpoint-{later}")
        start("glue/run_dsp", *words, "--output_dir", halved)
        assert told(capsys.readouterr().out) == line.replace("auto,", "auto, as noted,")
        whole, resumed = (load_file(one / "model.safetensors") for one in (folder / "auto", halved))
        assert all(torch.equal(whole[name], resumed[name]) for name in whole), (checkpoint, warmup)
        assert (halved / "mask.json").read_text() == (folder / "auto" / "mask.json").read_text()
    for more, said in (
        (["--pruning_lr", 0.5], "pruning_lr: None there, 0.5 here"),
        (["--min_heads_per_block", 0], "min_heads_per_block: None there, 0 here"),
        (["--init_scores", "random"], "init_scores: None there, random here"),
    ):
        with pytest.raises(SystemExit, match=said):
            start("glue/run_dsp", *words, *more, "--output_dir", folder / "auto")
    # scored alone it is the same model
    words = ["--do_eval", "--num_of_heads", K, "--output_dir", folder / "again"]
    start("glue/run_dsp", *mnli(folder, "auto"), *words)
    masks = [json.loads((folder / name / "mask.json").read_text())["keep"] for name in ("auto", "again")]
    assert masks[0] == masks[1]
    assert load_record(folder / "again" / "dev_matched" / "results.json").method == "dsp-joint"


def test_the_dry_run_tells_the_schedule_and_writes_nothing(folder, capsys):
    words = ["--do_train", "--max_steps", 12, "--num_of_heads", K, "--dry_run"]
    for program in ("glue/run_dsp", "glue/run_voita"):
        start(program, *mnli(folder, "output"), *words, "--output_dir", folder / "dry")
        said = capsys.readouterr().out
        assert told(said).startswith("schedule (auto, for 12 updates): ") and "12 updates" in said
    assert not (folder / "dry").exists()


def test_pipelined_starts_from_importance_and_voita_without_a_budget_from_chance(folder, capsys):
    words = [*mnli(folder, "output"), "--do_train", "--max_steps", 8]
    start("glue/run_voita", *words, "--no_pruned", "--output_dir", folder / "voita")
    line = told(capsys.readouterr().out)
    assert "init_scores random" in line and "l0_penalty " in line
    price = settings_of(folder / "voita")["worked_out"]["l0_penalty"]
    start("glue/run_voita", *mnli(folder, "voita"), "--do_eval", "--no_pruned", "--output_dir", folder / "v")
    assert f"--l0_penalty {price:g} kept" in capsys.readouterr().out
    # a rate at which nothing is learned shows the start: a sweep's own choice, which no seed has a say in
    still = ["--pruning_lr", 1e-9, "--use_ste", "--init_scores", "importance", "--num_of_heads", K]
    start("glue/run_dsp", *words, *still, "--no_pruned", "--output_dir", folder / "still")
    assert "schedule (" not in capsys.readouterr().out
    mask = json.loads((folder / "still" / "mask.json").read_text())
    assert sorted(mask["scores"]) == pytest.approx(torch.linspace(-1, 1, HEADS).tolist(), abs=1e-6)


def test_a_published_schedule_is_told(folder, capsys):
    words = [*mnli(folder), "--do_train", "--max_steps", 1, "--joint_pruning", "--no_pruned"]
    more = ["--pruning_schedule", "published", "--output_dir", folder / "published"]
    start("glue/run_voita", *words, *more)
    assert told(capsys.readouterr().out) == (
        "schedule (published): pruning_warmup_updates 0, min_heads_per_block 0, init_scores random, "
        "pruning_lr 0.1, l0_penalty 0.0015"
    )
    assert load_record(folder / "published" / "results.json").extra["schedule"]["how"] == "published"


def test_a_folder_of_an_earlier_version_was_by_hand_with_random_scores_and_noise_that_stays(folder, capsys):
    words = [*mnli(folder), "--do_train", "--max_steps", 2, "--save_steps", 1, "--num_of_heads", K]
    words += ["--joint_pruning", "--annealing", "--no_pruned", "--output_dir", folder / "earlier"]
    start("glue/run_dsp", *words)
    noted = settings_of(folder / "earlier")
    for name in ("pruning_schedule", "init_scores", "final_noise", "mask_samples"):
        del noted[name]
    write_json(folder / "earlier" / "settings.json", json.dumps(noted))
    capsys.readouterr()
    start("glue/run_dsp", *words)
    assert "going on from" in capsys.readouterr().out
    other = [word for word in words if word != "--annealing"]
    for command, said in (
        ([*words, "--init_scores", "importance"], "init_scores: random there, importance here"),
        ([*words, "--final_noise", 0.5], "final_noise: 1.0 there, 0.5 here"),
        (other, "pruning_schedule: by hand there, auto here"),
    ):
        with pytest.raises(SystemExit, match=said):
            start("glue/run_dsp", *command)


# ---- what cannot be


JOINT = ["--num_of_heads", K, "--joint_pruning"]
REFUSED = [
    ([*JOINT, "--max_steps", 5], "--pruning_schedule auto needs 6 updates at least, the training has 5"),
    ([*JOINT, "--pruning_schedule", "auto", "--annealing"], "auto works --annealing out itself"),
    ([*JOINT, "--pruning-schedule", "foo"], "--pruning-schedule must be one of auto, published, got 'foo'"),
    (
        [*JOINT, "--use_ste", "--init_scores", "importance"],
        "--init_scores importance says nothing before the first update: .* by --pruning_warmup_updates",
    ),
]


@pytest.mark.parametrize("words, said", REFUSED, ids=[said for _, said in REFUSED])
def test_what_cannot_be_is_refused_by_name(folder, tmp_path, words, said):
    with pytest.raises(SystemExit, match=said):
        start("glue/run_dsp", *mnli(folder), "--do_train", *words, "--output_dir", tmp_path / "out")
    assert not list(tmp_path.glob("out/[!.]*"))
