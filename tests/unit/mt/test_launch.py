"""run_dsp.py's command lines, as fairseq-train gets them."""

from __future__ import annotations

import os

import pytest
import torch

pytest.importorskip("fairseq")

from dsp_plugin.mt.checkpoints.checkpoint import save_checkpoint
from dsp_plugin.mt.programs.chassis.launch import method_options
from dsp_plugin.mt.programs.chassis.training_results import _label, result_of, summarise_training
from dsp_plugin.records.record import load_record

DATA = ["data", "--arch", "transformer", "--max-tokens", "9"]
START = [*DATA, "--restore-file", "trained.pt", "--reset-optimizer"]
PIPELINED = START + ["--num-of-heads", "4"]


def checkpoint(
    folder,
    scores: bool,
    joint: bool = False,
    restored: str = "checkpoint_last.pt",
    model: str = "dsp_transformer",
):
    cfg = {"model": {"_name": model, "joint_pruning": joint}, "checkpoint": {"restore_file": restored}}
    model = {"gating.gates.scores": torch.zeros(8)} if scores else {"w": torch.zeros(1)}
    save_checkpoint({"model": model, "cfg": cfg}, str(folder / "checkpoint_last.pt"))


def restored(argv, folder, method: str = "dsp"):
    """(--restore-file, whether the optimizer is reset) that fairseq is given."""
    options = method_options([*argv, "--save-dir", str(folder)], method)
    return os.path.relpath(options.restore_file), options.reset_optimizer


def test_stock_names_become_ours():
    given = [
        "data",
        "-a",
        "transformer_iwslt_de_en",
        "--optimizer",
        "adam",
        "--criterion=label_smoothed_cross_entropy",
        "--batch-size=9",
    ]
    options = method_options(given)
    assert options.arch == "dsp_transformer_iwslt_de_en"
    assert options.optimizer == "dsp_adam"
    assert options.criterion == "dsp_label_smoothed_cross_entropy"
    assert options.task == "dsp_translation"
    assert method_options([*DATA, "--optimizer", "sgd"]).optimizer == "sgd"


@pytest.mark.parametrize(
    "given", ["transformer_multi30k", "dsp_transformer_multi30k", "voita_transformer_multi30k"]
)
def test_another_methods_names(given):
    options = method_options([*DATA, "-a", given, "--criterion", "label_smoothed_cross_entropy"], "voita")
    assert options.arch == "voita_transformer_multi30k"
    assert options.criterion == "voita_label_smoothed_cross_entropy"
    assert options.task == "voita_translation"


def test_a_start_keeps_its_resets_and_going_on_drops_all_of_them(tmp_path):
    resets = ["reset_optimizer", "reset_lr_scheduler", "reset_dataloader", "reset_meters"]
    words = [*PIPELINED, "--save-dir", str(tmp_path), *(f"--{name.replace('_', '-')}" for name in resets)]
    assert [getattr(method_options(words), name) for name in resets] == [True] * 4
    checkpoint(tmp_path, scores=True)
    assert [getattr(method_options(words), name) for name in resets] == [False] * 4


def test_of_an_option_given_twice_the_last_one_counts(tmp_path):
    words = [*PIPELINED, "--save-dir", str(tmp_path), "--max-update", "7", "--restore-file=other.pt"]
    options = method_options([*words, "--max-update=5"])
    assert options.max_update == 5 and os.path.relpath(options.restore_file) == "other.pt"
    assert method_options([*DATA, "-a", "transformer_multi30k"]).arch == "dsp_transformer_multi30k"


@pytest.mark.parametrize(
    "more, joint",
    [
        ([], True),
        (["--joint-pruning"], True),
        (["--restore-file", "trained.pt"], False),
        (["--finetune-from-model", "trained.pt"], False),
        (["--finetune-from-model=trained.pt", "--joint-pruning"], True),
    ],
)
def test_gates_of_a_penalty_are_trained_with_a_model_that_nothing_else_gives(more, joint, capsys):
    options = method_options([*DATA, "--l0-penalty", "200", *more], "voita")
    assert getattr(options, "joint_pruning", False) is joint
    assert ("nothing to start from" in capsys.readouterr().out) is (more == [])
    assert not hasattr(method_options(DATA, "voita"), "joint_pruning")


def test_another_methods_checkpoint_is_not_its_own(tmp_path):
    argv = START + ["--l0-penalty", "200"]
    checkpoint(tmp_path, scores=True)
    assert restored(argv, tmp_path, "voita") == ("trained.pt", True)
    checkpoint(tmp_path, scores=True, model="voita_transformer_multi30k")
    assert restored(argv, tmp_path, "voita") == (os.path.relpath(tmp_path / "checkpoint_last.pt"), False)


def test_a_first_start_takes_the_given_checkpoint(tmp_path):
    assert restored(PIPELINED, tmp_path) == ("trained.pt", True)


def test_started_again_it_goes_on_from_its_own(tmp_path):
    checkpoint(tmp_path, scores=True)
    assert restored(PIPELINED, tmp_path) == (os.path.relpath(tmp_path / "checkpoint_last.pt"), False)


@pytest.mark.parametrize("other", [{"scores": False}, {"scores": True, "joint": True}])
def test_another_model_in_the_folder_is_not_its_own(tmp_path, other):
    checkpoint(tmp_path, **other)
    assert restored(PIPELINED, tmp_path) == ("trained.pt", True)


def test_training_on_without_scores(tmp_path):
    checkpoint(tmp_path, scores=False, restored="elsewhere.pt")
    assert restored(START, tmp_path) == ("trained.pt", True)
    last = str(tmp_path / "checkpoint_last.pt")
    for started_from in ("trained.pt", last):
        checkpoint(tmp_path, scores=False, restored=started_from)
        assert restored(START, tmp_path) == (os.path.relpath(last), False)


def test_a_run_is_its_own_from_any_folder(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "trained.pt").touch()
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.chdir(tmp_path)
    first = method_options([*START, "--save-dir", "run"])
    assert first.restore_file == str(tmp_path / "trained.pt")  # what its checkpoints will say
    checkpoint(run, scores=False, restored=first.restore_file)
    for folder in (".", "elsewhere", "run"):
        monkeypatch.chdir(tmp_path / folder)
        up = os.path.relpath(tmp_path)
        for start in (f"{up}/trained.pt", str(tmp_path / "trained.pt"), f"{up}/./run/../trained.pt"):
            for save_dir in (f"{up}/run", f"{up}/run/", str(run), f"{run}//"):
                again = method_options(
                    [*DATA, f"--restore-file={start}", "--reset-optimizer", "--save-dir", save_dir]
                )
                assert again.restore_file == str(run / "checkpoint_last.pt")
                assert not again.reset_optimizer
    other = method_options([*DATA, "--restore-file", str(tmp_path / "other.pt"), "--save-dir", str(run)])
    assert other.restore_file == str(tmp_path / "other.pt")
    # fairseq's name for the last checkpoint in --save-dir is no path
    named = method_options([*DATA, "--restore-file", "checkpoint_last.pt"])
    assert named.restore_file == "checkpoint_last.pt"


# ---- what is said of a training comes from the checkpoints that it wrote


def checkpoint_file(folder, name: str, best, task_state=None, **options) -> None:
    state = {
        "args": None,
        "cfg": {
            "model": {
                "_name": "dsp_transformer",
                "encoder_embed_dim": 4,
                "decoder_embed_dim": 4,
                "encoder_attention_heads": 2,
                "decoder_attention_heads": 2,
                "num_of_heads": None,
                "heads_per_kind": None,
                **options,
            },
            "dataset": {"valid_subset": "dev,other"},
            "checkpoint": {"best_checkpoint_metric": "bleu"},
        },
        "model": {
            **{
                f"encoder.layers.0.self_attn.{p}_proj.{w}": torch.zeros(4, 4)
                if w == "weight"
                else torch.zeros(4)
                for p in ("q", "k", "v", "out")
                for w in ("weight", "bias")
            },
            **(
                {"gating.gates.scores": torch.tensor([1.0, 0.0])}
                if options.get("num_of_heads") is not None
                else {}
            ),
        },
        "optimizer_history": [{"num_updates": 7}],
        "task_state": task_state or {},
        "extra_state": {
            "previous_training_time": 33.0,
            "val_loss": 12.0,
            **({} if best is None else {"best": best}),
        },
    }
    torch.save(state, folder / f"checkpoint_{name}.pt")


def test_a_best_checkpoint_of_the_training_before_is_no_result(tmp_path):
    checkpoint_file(tmp_path, "best", 20.0)
    checkpoint_file(tmp_path, "last", 20.0)
    assert result_of(str(tmp_path)).endswith("checkpoint_best.pt")
    for best in (21.0, None):  # another run's, and a run without validation
        checkpoint_file(tmp_path, "last", best)
        assert result_of(str(tmp_path)).endswith("checkpoint_last.pt")
    (tmp_path / "checkpoint_last.pt").unlink()
    assert result_of(str(tmp_path)).endswith("checkpoint_best.pt")


@pytest.mark.parametrize(
    "options, label",
    [
        ({}, "no-pruning"),
        ({"num_of_heads": 1}, "dsp-pipelined"),
        ({"num_of_heads": 1, "joint_pruning": True}, "dsp-joint"),
        ({"num_of_heads": 1, "joint_pruning": True, "use_ste": True}, "dsp-ste"),
        (
            {"num_of_heads": 1, "joint_pruning": True, "_name": "voita_transformer", "l0_penalty": 2.0},
            "voita-joint",
        ),
        ({"num_of_heads": 1, "_name": "michel_transformer"}, "michel"),
    ],
)
def test_the_record_of_a_training_is_read_from_its_checkpoint(tmp_path, capsys, options, label):
    checkpoint_file(tmp_path, "last", None, {"dsp_coverage": {"dev": [16, 21]}}, **options)
    if "_name" in options:  # their gates have other state
        state = torch.load(tmp_path / "checkpoint_last.pt")
        assert _label(state) == label
        return
    summarise_training(str(tmp_path), 0.5)
    record = load_record(tmp_path / "results.json")
    assert record.method == label and record.updates == 7 and record.seconds == {"train": 33.0}
    assert [(m.name, m.value, m.subset) for m in record.metrics] == [("bleu", 12.0, "dev-16-of-21")]
    assert "bleu on dev-16-of-21: 12" in capsys.readouterr().out
    summarise_training(str(tmp_path), 0.5, "mine")
    assert load_record(tmp_path / "results.json").method == "mine"
