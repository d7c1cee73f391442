"""run_dsp.py's command lines, as fairseq-train gets them."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fairseq")

from dsp_plugin.mt.checkpoints import save_checkpoint
from dsp_plugin.mt.launch import option, training_arguments

START = ["data", "--restore-file", "trained.pt", "--reset-optimizer"]
PIPELINED = START + ["--num-of-heads", "4"]


def checkpoint(folder, scores: bool, joint: bool = False, restored: str = "checkpoint_last.pt", model: str = "dsp_transformer"):
    cfg = {"model": {"_name": model, "joint_pruning": joint}, "checkpoint": {"restore_file": restored}}
    model = {"gating.gates.scores": torch.zeros(8)} if scores else {"w": torch.zeros(1)}
    save_checkpoint({"model": model, "cfg": cfg}, str(folder / "checkpoint_last.pt"))


def restored(argv, folder, method: str = "dsp"):
    """(--restore-file, whether the optimizer is reset) of the translated command line."""
    arguments = training_arguments([*argv, "--save-dir", str(folder)], method)
    return option(arguments, "--restore-file"), "--reset-optimizer" in arguments


def test_stock_names_become_ours():
    given = ["data", "-a", "transformer_iwslt_de_en", "--optimizer", "adam", "--criterion=label_smoothed_cross_entropy"]
    arguments = training_arguments(given)
    assert option(arguments, "--arch") == "dsp_transformer_iwslt_de_en"
    assert option(arguments, "--optimizer") == "dsp_adam"
    assert option(arguments, "--criterion") == "dsp_label_smoothed_cross_entropy"
    assert option(arguments, "--task") == "dsp_translation"
    assert option(training_arguments(["data", "--optimizer", "sgd"]), "--optimizer") == "sgd"


@pytest.mark.parametrize("given", ["transformer_multi30k", "dsp_transformer_multi30k", "voita_transformer_multi30k"])
def test_another_methods_names(given):
    arguments = training_arguments(["data", "-a", given, "--criterion", "label_smoothed_cross_entropy"], "voita")
    assert option(arguments, "--arch") == "voita_transformer_multi30k"
    assert option(arguments, "--criterion") == "voita_label_smoothed_cross_entropy"
    assert option(arguments, "--task") == "voita_translation"


def test_another_methods_checkpoint_is_not_its_own(tmp_path):
    argv = START + ["--l0-penalty", "200"]
    checkpoint(tmp_path, scores=True)
    assert restored(argv, tmp_path, "voita") == ("trained.pt", True)
    checkpoint(tmp_path, scores=True, model="voita_transformer_multi30k")
    assert restored(argv, tmp_path, "voita") == (str(tmp_path / "checkpoint_last.pt"), False)


def test_a_first_start_takes_the_given_checkpoint(tmp_path):
    assert restored(PIPELINED, tmp_path) == ("trained.pt", True)


def test_started_again_it_goes_on_from_its_own(tmp_path):
    checkpoint(tmp_path, scores=True)
    assert restored(PIPELINED, tmp_path) == (str(tmp_path / "checkpoint_last.pt"), False)


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
        assert restored(START, tmp_path) == (last, False)
