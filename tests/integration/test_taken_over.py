"""What a run takes over from an earlier one - model, labels, lengths, checkpoint, folder - is of this
task, or refused by name.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from glue_folders import write_squad, write_task
from hf_programs import SHORT, start, write_bert
from transformers import AutoConfig

from dsp_plugin.records.record import load_record

TASKS = ("CoLA", "RTE", "MNLI")
ONE = "--max_steps 1 --disable_tqdm true --use_cpu".split()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory) -> Path:
    """bert/ (untrained), data of TASKS and squad/, and out-TASK/, a training of 2 updates with its
    checkpoints, of each.
    """
    folder = tmp_path_factory.mktemp("earlier")
    write_bert(folder / "bert")
    write_squad(folder / "squad" / "train-v1.1.json")
    write_squad(folder / "squad" / "dev-v1.1.json", seed=2)
    for task in TASKS:
        write_task(folder / task, task, train=16, dev=6)
        start(
            "glue/run_glue",
            *glue(folder, task),
            "--save_steps",
            1,
            "--max_steps",
            2,
            "--output_dir",
            folder / f"out-{task}",
        )
    return folder


def glue(folder: Path, task: str, model: str = "bert") -> list:
    data = ["--model_name_or_path", folder / model, "--task_name", task, "--data_dir", folder / task, *SHORT]
    return [*data, "--do_train", *ONE]


def squad(folder: Path, model: str) -> list:
    sizes = "--max_seq_length 40 --doc_stride 16 --per_device_train_batch_size 8 --save_steps 10000".split()
    return [
        "--model_name_or_path",
        folder / model,
        "--data_dir",
        folder / "squad",
        *sizes,
        "--do_train",
        "--do_eval",
        *ONE,
    ]


def refused(program: str, *words) -> str:
    with pytest.raises(SystemExit) as refusal:
        start(program, *words)
    assert str(refusal.value).startswith(f"{Path(program).name}.py: error: ") and "\n" not in str(
        refusal.value
    )
    return str(refusal.value)


def test_squad_from_a_model_of_three_labels_has_its_two_outputs(earlier, tmp_path):
    start("squad/run_squad", *squad(earlier, "out-MNLI"), "--output_dir", tmp_path / "out")
    config = AutoConfig.from_pretrained(tmp_path / "out")
    assert (config.num_labels, config.id2label, config.problem_type) == (
        2,
        {0: "LABEL_0", 1: "LABEL_1"},
        None,
    )


# task -> model of another task, and what is said of its head
HEADS = [
    ("RTE", "out-CoLA", "its task head was trained on CoLA, and this task is RTE"),
    ("CoLA", "out-RTE", "its task head was trained on RTE, and this task is CoLA"),
    ("RTE", "out-CoLA/checkpoint-2", "its task head was trained on CoLA"),
    ("RTE", "named", "its task head was trained on CoLA"),  # by `finetuning_task`
    ("CoLA", "unnamed", "its task head has the labels entailment, not_entailment"),
    ("CoLA", "out-MNLI", "other shapes"),
]


@pytest.mark.parametrize(
    "words", [["--do_train"], ["--do_train", "false", "--do_eval"]], ids=["trained", "scored"]
)
@pytest.mark.parametrize("task, model, said", HEADS)
def test_a_task_head_of_another_task_is_refused_and_begun_anew_on_request(
    earlier, tmp_path, task, model, said, words
):
    shutil.copytree(earlier / "out-CoLA", earlier / "named", dirs_exist_ok=True)
    shutil.copytree(earlier / "out-RTE", earlier / "unnamed", dirs_exist_ok=True)
    for name in ("named", "unnamed"):
        for file in ("settings.json", "checksums.json"):
            (earlier / name / file).unlink()
    config = json.loads((earlier / "named" / "config.json").read_text())
    (earlier / "named" / "config.json").write_text(json.dumps({**config, "finetuning_task": "cola"}))
    words = [*glue(earlier, task, model), *words, "--output_dir", tmp_path / "out"]
    found = refused("glue/run_glue", *words)
    assert said in found and "--ignore_mismatched_sizes begins with a new task head" in found
    assert not list((tmp_path / "out").glob("[!.]*"))
    start("glue/run_glue", *words, "--ignore_mismatched_sizes")


def test_labels_in_another_spelling_and_a_label_of_no_name_are_taken(earlier, tmp_path):
    for name, labels in (
        ("spelt", {0: "Entailment", 1: "Not Entailment"}),
        ("bare", {0: "LABEL_0", 1: "LABEL_1"}),
    ):
        shutil.copytree(earlier / "out-RTE", tmp_path / name)
        for file in ("settings.json", "checksums.json"):
            (tmp_path / name / file).unlink()
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps({**config, "id2label": labels}))
        start(
            "glue/run_glue",
            *glue(earlier, "RTE"),
            "--model_name_or_path",
            tmp_path / name,
            "--output_dir",
            tmp_path / f"{name}-out",
        )


def test_a_length_is_compared_with_the_models_positions(earlier, tmp_path):
    shutil.copytree(earlier / "bert", tmp_path / "long")
    told = json.loads((tmp_path / "long" / "tokenizer_config.json").read_text())
    (tmp_path / "long" / "tokenizer_config.json").write_text(json.dumps({**told, "model_max_length": 10**6}))
    words = [
        *glue(earlier, "CoLA"),
        "--model_name_or_path",
        tmp_path / "long",
        "--output_dir",
        tmp_path / "out",
        "--pad_to_max_length",
    ]
    assert "--max_seq_length 65: the model has positions for 64 tokens at most" in refused(
        "glue/run_glue", *words, "--max_seq_length", 65
    )
    start("glue/run_glue", *words, "--max_seq_length", 64)


def test_a_tokenizer_of_another_model_is_refused(earlier, tmp_path):
    shutil.copytree(earlier / "bert", tmp_path / "other")
    path = tmp_path / "other" / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["sailor"] = len(vocabulary) + 50
    path.write_text(json.dumps(content))
    found = refused(
        "glue/run_glue",
        *glue(earlier, "CoLA"),
        "--tokenizer_name",
        tmp_path / "other",
        "--output_dir",
        tmp_path / "out",
    )
    assert f"--tokenizer_name {tmp_path / 'other'} gives token " in found
    assert not list((tmp_path / "out").glob("[!.]*"))


RESUMED = [
    ("glue/run_glue", "RTE", [], "task: CoLA there, RTE here"),
    (
        "glue/run_dsp",
        "CoLA",
        ["--num_of_heads", 4, "--joint_pruning"],
        "method: unpruned there, dsp-joint here",
    ),
    ("glue/run_glue", "CoLA", ["--learning_rate", 0.5], "learning_rate: 0.001 there, 0.5 here"),
    ("glue/run_glue", "CoLA", ["--seed", 7], "seed: 42 there, 7 here"),
    ("glue/run_glue_diffpruning", "CoLA", [], "method: unpruned there, diff-structured here"),
]


@pytest.mark.parametrize("place", ["out-CoLA", "elsewhere"])
@pytest.mark.parametrize("program, task, words, said", RESUMED)
def test_a_checkpoint_of_another_training_is_refused(earlier, tmp_path, place, program, task, words, said):
    if place == "elsewhere":  # a copy of the checkpoint alone
        shutil.copytree(earlier / "out-CoLA" / "checkpoint-1", tmp_path / place / "checkpoint-1")
        place = tmp_path / place
    checkpoint = earlier / place / "checkpoint-1"
    found = refused(
        program,
        *glue(earlier, task),
        "--max_steps",
        2,
        *words,
        "--output_dir",
        tmp_path / "out",
        "--resume_from_checkpoint",
        checkpoint,
    )
    assert (
        f"--resume_from_checkpoint {checkpoint} is of a training with other settings" in found
        and said in found
    )
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_a_checkpoint_that_does_not_say_of_what_it_is_is_compared_by_its_model(earlier, tmp_path, capsys):
    for task in ("CoLA", "MNLI"):
        shutil.copytree(earlier / f"out-{task}" / "checkpoint-1", tmp_path / task / "checkpoint-1")
        (tmp_path / task / "checkpoint-1" / "settings.json").unlink()
    words = [
        *glue(earlier, "CoLA"),
        "--max_steps",
        2,
        "--output_dir",
        tmp_path / "out",
        "--resume_from_checkpoint",
    ]
    assert "is of another training: number of labels: 3 there, 2 here" in refused(
        "glue/run_glue", *words, tmp_path / "MNLI" / "checkpoint-1"
    )
    start("glue/run_glue", *words, tmp_path / "CoLA" / "checkpoint-1")
    assert "does not say of which task and options it is" in capsys.readouterr().out
    assert load_record(tmp_path / "out" / "results.json").updates == 2


def test_the_same_training_goes_on_from_another_folder_and_by_another_path(earlier, tmp_path, monkeypatch):
    shutil.copytree(earlier, tmp_path / "moved")
    monkeypatch.chdir(tmp_path / "moved")
    words = [*glue(Path("."), "CoLA"), "--save_steps", 1, "--max_steps", 2]
    start("glue/run_glue", *words, "--output_dir", "out-CoLA")
    os.rename("bert", "by another name")
    start("glue/run_glue", *words, "--model_name_or_path", "by another name", "--output_dir", "out-CoLA")
    with open("by another name/tokenizer_config.json", "a") as file:
        file.write("\n")
    (tmp_path / "moved" / "CoLA" / "train.tsv").write_text(
        (tmp_path / "moved" / "CoLA" / "train.tsv").read_text()[::-1]
    )
    found = refused(
        "glue/run_glue", *words, "--model_name_or_path", "by another name", "--output_dir", "out-CoLA"
    )
    assert "; train_data: " in found and "(tokenizer_files: " in found and "model_files: " not in found


# where the model lies -> the output folder, and what is said; all relative to one folder
PLACES = [
    ("model", "model", "is the folder of --model_name_or_path"),
    ("model", "model/../model/", "is the folder of --model_name_or_path"),
    ("model", "link", "is the folder of --model_name_or_path"),
    ("link", "model", "is the folder of --model_name_or_path"),
    ("parts", "model", "is the folder of --model_name_or_path"),
    ("run/checkpoint-5", "run", "lies in --output_dir"),
    ("run/checkpoint-5/deeper", "run", "lies in --output_dir"),
    ("run/pruned", "run", "lies in --output_dir"),
    ("inner", "run", "lies in --output_dir"),
]


@pytest.mark.parametrize(
    "program, words", [("run_glue", []), ("run_dsp", ["--num_of_heads", 4]), ("run_glue_diffpruning", [])]
)
@pytest.mark.parametrize("model, out, said", PLACES)
def test_a_model_is_not_written_over(earlier, tmp_path, monkeypatch, program, words, model, out, said):
    monkeypatch.chdir(tmp_path)
    for name in ("model", "run/checkpoint-5/deeper", "run/pruned"):
        shutil.copytree(earlier / "bert", tmp_path / name, dirs_exist_ok=True)
    shutil.copytree(earlier / "bert", tmp_path / "run" / "checkpoint-5", dirs_exist_ok=True)
    os.symlink("model", "link"), os.symlink("run/pruned", "inner")
    os.mkdir("parts")
    for path in (earlier / "bert").iterdir():
        os.link(tmp_path / "model" / path.name, tmp_path / "parts" / path.name)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    asked = [
        *glue(earlier, "CoLA"),
        *words,
        "--model_name_or_path",
        model,
        "--output_dir",
        out,
        "--overwrite_output_dir",
    ]
    assert said in refused(f"glue/{program}", *asked)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_what_is_only_scored_may_lie_in_the_output_folder_but_not_where_a_pruned_model_is_written(
    earlier, tmp_path
):
    shutil.copytree(earlier / "out-CoLA", tmp_path / "out")
    words = [*glue(earlier, "CoLA"), "--do_train", "false", "--do_eval", "--output_dir", tmp_path / "out"]
    start("glue/run_glue", *words, "--model_name_or_path", tmp_path / "out")
    shutil.copytree(earlier / "out-CoLA", tmp_path / "out" / "pruned")
    asked = ["--num_of_heads", 4, "--model_name_or_path", tmp_path / "out" / "pruned"]
    assert "lies in --output_dir" in refused("glue/run_dsp", *words, *asked)
    sweep = [word for word in words if word not in ("--do_train", "false", "--do_eval")]
    sweep = sweep[: sweep.index("--per_device_train_batch_size")] + ["--output_dir", tmp_path / "out"]
    shutil.copytree(earlier / "out-CoLA", tmp_path / "out" / "pruned-K4")
    assert "lies in --output_dir" in refused(
        "glue/run_michel",
        *sweep,
        "--model_name_or_path",
        tmp_path / "out" / "pruned-K4",
        "--overwrite_output_dir",
    )
    assert (tmp_path / "out" / "pruned-K4" / "model.safetensors").is_file()


def test_training_anew_and_going_on_exclude_each_other(earlier, tmp_path):
    shutil.copytree(earlier / "out-CoLA", tmp_path / "out")
    words = ["--overwrite_output_dir", "--resume_from_checkpoint", tmp_path / "out" / "checkpoint-1"]
    assert "give one of them" in refused(
        "glue/run_glue", *glue(earlier, "CoLA"), "--output_dir", tmp_path / "out", *words
    )
    assert (tmp_path / "out" / "checkpoint-1").is_dir()
