"""What the programs of scripts/glue refuse, before training and in one line, and what they warn of."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from glue_folders import write_task
from hf_programs import SHORT, mnli, start, write_bert
from transformers import AutoTokenizer

from dsp_plugin.records.record import load_record


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """bert/ (untrained), and the official files of MNLI/."""
    folder = tmp_path_factory.mktemp("refusals")
    write_bert(folder / "bert")
    write_task(folder / "MNLI", "MNLI", train=16, dev=6)
    return folder


@pytest.mark.parametrize(
    "program, words, said",
    [
        ("run_dsp", "--num_of_heads 9", "--num_of_heads must be a whole number in 0..8"),
        ("run_dsp", "--num_of_heads -1", "--num_of_heads -1: a whole number, 0 or more"),
        ("run_dsp", "", "--num_of_heads K, the number of heads to keep, is missing"),
        ("run_dsp", "--num_of_heads 3 --use_ste --annealing", "give either --use_ste or --annealing"),
        (
            "run_dsp",
            "--num_of_heads 3 --annealing --final_temperature 0",
            "--final_temperature 0.0: a positive finite number",
        ),
        ("run_dsp", "--num_of_heads 3 --pruning_lr 0", "--pruning_lr 0"),
        ("run_dsp", "--num_of_heads 3 --use_ste --optim adafactor", "--optim must be adamw_torch"),
        ("run_dsp", "--num_of_heads three", "invalid int value"),
        ("run_voita", "--l0_penalty -1", "--l0_penalty -1.0: a finite number"),
        ("run_voita", "--min_heads_per_block 1", "--min_heads_per_block needs a budget"),
        ("run_glue", "--num_of_heads 3", "unknown: --num_of_heads 3"),
        ("run_glue", "--task_name MLNI", "--task_name MLNI: no GLUE task"),
        ("run_dsp", "--num_of_heads 3 --task-name foo", "--task-name foo: no GLUE task"),
        ("run_glue", "--max-seq-length 3", "--max-seq-length 3: from 5 to 64"),
        ("run_glue", "--data-dir /nowhere/MNLI", "--data-dir /nowhere/MNLI is not a folder"),
        ("run_dsp", "--num_of_heads 3 --auto-find-batch-size", "--auto-find-batch-size changes the number"),
        (
            "run_glue",
            "--dataloader-drop-last --per-device-train-batch-size 64",
            "leave it out, or make --per-device-train-batch-size smaller",
        ),
        ("run_glue", "--max_seq_length 3", "--max_seq_length 3: from 5 to 64"),
        ("run_glue", "--max_train_samples 0", "--max_train_samples 0: a whole number, 1 or more"),
        ("run_glue", "--model_name_or_path /nowhere/bert", "--model_name_or_path /nowhere/bert: "),
        ("run_glue", "--metric_for_best_model odd", "--metric_for_best_model odd: MNLI has loss, accuracy"),
        ("run_glue", "--record_dir /dev/null", "--record_dir /dev/null is a device: name a folder"),
        ("run_glue", "--deepspeed {", "--deepspeed {: Expecting property name"),
        ("run_glue", '--accelerator_config {"a":1}', "--accelerator_config {"),
        (
            "run_glue",
            '--lr_scheduler_kwargs {"a":1}',
            "--lr_scheduler_type linear --lr_scheduler_kwargs {'a': 1}: get_linear",
        ),
        ("run_glue", "--optim_args a", "--optim_args a: name=value,name=value belongs there"),
        ("run_glue", "--eval_do_concat_batches False", "--eval_do_concat_batches False: scores are made"),
        (
            "run_glue",
            "--dataloader_drop_last --per_device_train_batch_size 64",
            "--dataloader_drop_last leaves no batch: 16 examples",
        ),
        ("run_glue", "--data_dir /nowhere/MNLI", "--data_dir /nowhere/MNLI is not a folder"),
        ("run_glue", "--resume_from_checkpoint /nowhere", "--resume_from_checkpoint /nowhere: no checkpoint"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(folder, tmp_path, program, words, said):
    with pytest.raises(SystemExit) as refusal:
        start(
            f"glue/{program}", *mnli(folder), "--do_train", "--output_dir", tmp_path / "out", *words.split()
        )
    assert said in str(refusal.value) and "\n" not in str(refusal.value)
    assert str(refusal.value).startswith(f"{program}.py: error: ")


@pytest.mark.parametrize(
    "entry, said",
    [
        ({"num_attention_heads": -1}, "num_attention_heads of config.json is -1"),
        ({"num_hidden_layers": 0}, "num_hidden_layers of config.json is 0"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers of config.json is 1000000000"),
        ({"num_attention_heads": 0}, "num_attention_heads"),
        ({"num_attention_heads": 3}, "hidden"),
        ({"hidden_size": "a"}, "hidden_size"),
        ({"vocab_size": None}, "vocab_size"),
        ({"hidden_act": "odd"}, "odd"),
        ({"id2label": 3}, ""),
        ({"model_type": None}, ""),
        ("[" * 100_000, ""),
        ("", ""),
        ("null", ""),
        ("\udcff", ""),
    ],
)
def test_a_damaged_configuration_is_named_in_one_line(folder, tmp_path, entry, said, monkeypatch):
    shutil.copytree(folder / "bert", tmp_path / "bert")
    path = tmp_path / "bert" / "config.json"
    text = entry if isinstance(entry, str) else json.dumps({**json.loads(path.read_text()), **entry})
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    words = [
        "--model_name_or_path",
        tmp_path / "bert",
        "--do_train",
        "--max_steps",
        1,
        "--output_dir",
        tmp_path / "out",
    ]
    with pytest.raises(SystemExit) as refusal:
        start("glue/run_glue", *mnli(folder), *words)
    assert f"--model_name_or_path {tmp_path / 'bert'}: " in str(refusal.value) and said in str(refusal.value)
    assert "\n" not in str(refusal.value) and not list((tmp_path / "out").glob("[!.]*"))
    with pytest.raises(ValueError):
        start("glue/run_glue", *mnli(folder), *words, "--traceback")


def test_a_damaged_row_is_named_by_file_and_line(folder, tmp_path):
    shutil.copytree(folder / "MNLI", tmp_path / "MNLI")
    path = tmp_path / "MNLI" / "train.tsv"
    lines = path.read_text().split("\n")
    lines[7] = lines[7].rpartition("\t")[0] + "\tmaybe"
    path.write_text("\n".join(lines))
    with pytest.raises(SystemExit, match=r"train\.tsv, line 8: label 'maybe' is none of MNLI's"):
        start(
            "glue/run_glue",
            *mnli(folder),
            "--data_dir",
            tmp_path / "MNLI",
            "--do_train",
            "--output_dir",
            tmp_path / "out",
        )


def test_a_damaged_model_is_refused_before_the_data_is_read(folder, tmp_path):
    for name in ("no tokenizer", "half the weights"):
        shutil.copytree(folder / "bert", tmp_path / name)
    for path in [*(tmp_path / "no tokenizer").glob("*token*"), *(tmp_path / "no tokenizer").glob("vocab*")]:
        path.unlink()
    weights = tmp_path / "half the weights" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    for name, said in (
        ("no tokenizer", "there is no vocabulary"),
        ("half the weights", "incomplete metadata"),
    ):
        with pytest.raises(SystemExit, match=f"_name.*{tmp_path / name}: .*{said}") as refusal:
            start(
                "glue/run_glue",
                *mnli(folder),
                "--model_name_or_path",
                tmp_path / name,
                "--do_eval",
                "--output_dir",
                tmp_path / "out",
            )
        assert "\n" not in str(refusal.value)


def test_a_configuration_of_fewer_layers_than_the_weights_is_refused(folder, tmp_path, capsys):
    shutil.copytree(folder / "bert", tmp_path / "fewer")
    path = tmp_path / "fewer" / "config.json"
    layers = json.loads(path.read_text())["num_hidden_layers"]
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": layers - 1}))
    words = [
        "--model_name_or_path",
        tmp_path / "fewer",
        "--do_train",
        "--max_steps",
        1,
        "--output_dir",
        tmp_path / "out",
    ]
    with pytest.raises(
        SystemExit, match=rf"layers that the configuration has not \(\S*layer\.{layers - 1}\..*--config_name"
    ):
        start("glue/run_glue", *mnli(folder), *words)
    start("glue/run_glue", *mnli(folder), *words, "--config_name", tmp_path / "fewer")
    assert "and would lose them" in capsys.readouterr().out


def test_no_work_and_no_arguments_are_answered(folder, tmp_path):
    with pytest.raises(SystemExit, match="nothing to do: give --do_train"):
        start("glue/run_glue", *mnli(folder), "--output_dir", tmp_path)
    with pytest.raises(SystemExit, match="--help explains the options"):
        start("glue/run_dsp")


def test_choosing_heads_of_an_untrained_model_is_warned_of(folder, tmp_path, capsys):
    words = [
        "--do_train",
        "--max_steps",
        1,
        "--num_of_heads",
        3,
        "--pruning_lr",
        0.5,
        "--no_pruned",
        "--output_dir",
        tmp_path / "out",
    ]
    start("glue/run_dsp", *mnli(folder), *words)
    said = capsys.readouterr().out
    assert "IS NO TRAINED MODEL OF MNLI" in said and "stay random" in said
    assert "THE SCORES WILL NOT LEARN" in said  # no --annealing at 1e-8


def test_a_cooldown_longer_than_the_training_is_warned_of(folder, tmp_path, capsys):
    words = [
        "--do_train",
        "--max_steps",
        1,
        "--num_of_heads",
        3,
        "--joint_pruning",
        "--annealing",
        "--no_pruned",
    ]
    start("glue/run_dsp", *mnli(folder), *words, "--output_dir", tmp_path / "out")
    said = capsys.readouterr().out
    # exp(ln 1000 - 1/25000 (ln 1000 - ln 1e-8)) = 998.99
    assert (
        "THE COOL-DOWN WILL NOT END: it takes 25,000 updates, the training has 1. The temperature ends at 999"
        in said
    )


def test_the_help_teaches_and_lists_the_trainers_options(capsys):
    with pytest.raises(SystemExit) as end:
        start("glue/run_dsp", "--help")
    said = capsys.readouterr().out
    assert end.value.code == 0
    assert "--num_of_heads" in said and "--learning_rate" in said and "pipelined" in said


def test_options_from_a_file(folder, tmp_path):
    options = dict(
        zip(
            ("model_name_or_path", "task_name", "data_dir"),
            (str(folder / "bert"), "MNLI", str(folder / "MNLI")),
        )
    )
    options.update(
        do_train=True,
        max_steps=1,
        max_seq_length=24,
        output_dir=str(tmp_path / "out"),
        per_gpu_train_batch_size=4,
    )
    (tmp_path / "options.json").write_text(json.dumps(options))
    with pytest.raises(SystemExit, match="per_gpu_train_batch_size"):
        start("glue/run_glue", tmp_path / "options.json")
    options["per_device_train_batch_size"] = options.pop("per_gpu_train_batch_size")
    (tmp_path / "options.json").write_text(json.dumps(options))
    start("glue/run_glue", tmp_path / "options.json")
    assert load_record(tmp_path / "out" / "results.json").updates == 1
    assert AutoTokenizer.from_pretrained(tmp_path / "out").tokenize("the sailor") == ["the", "sailor"]


@pytest.mark.parametrize(
    "program, words",
    [("run_dsp", ["--num_of_heads", 3]), ("run_voita", []), ("run_michel", ["--num_of_heads", 2])],
)
def test_a_model_whose_heads_cannot_be_removed_is_refused_before_data_are_read(
    folder, tmp_path, monkeypatch, program, words
):
    from dsp_plugin.hf.programs.chassis import models
    from dsp_plugin.hf.programs.heads import written

    def refuses(model):
        raise ValueError("block 1 gives something else without its heads")

    monkeypatch.setattr(written, "check_surgery", refuses)
    monkeypatch.setattr(models, "_new", lambda loading: [])  # for run_michel the model is a trained one
    options = ["--data_dir", "/nowhere", "--output_dir", tmp_path / "out", *words]
    if program != "run_michel":
        options += ["--do_train"]
    given = (
        [word for word in mnli(folder) if word not in SHORT[2:]] if program == "run_michel" else mnli(folder)
    )
    with pytest.raises(
        SystemExit,
        match=r"--model_name_or_path \S+/bert: its heads cannot be removed: block 1 .* .--no_pruned chooses",
    ):
        start(f"glue/{program}", *given, *options)
    with pytest.raises(SystemExit, match="/nowhere is not a folder"):
        start(f"glue/{program}", *given, *options, "--no_pruned")
