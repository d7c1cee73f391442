"""Checkpoints are data: what is read, what is refused, and that a failed write loses nothing."""

from __future__ import annotations

import argparse
import ast
import errno
import os
import shutil
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("fairseq")

from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

import dsp_plugin
from dsp_plugin.mt.checkpoints import checkpoint as checkpoints
from dsp_plugin.mt.checkpoints.checkpoint import (
    check_same_sizes,
    load_checkpoint,
    model_options,
    save_checkpoint,
)
from dsp_plugin.mt.patches import save_atomically


@pytest.fixture
def path(tmp_path) -> str:
    return str(tmp_path / "model.pt")


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, witness):
        self.witness = str(witness)

    def __reduce__(self):
        return os.mkdir, (self.witness,)


def test_what_fairseq_saves_can_be_read(path):
    state = {
        "args": argparse.Namespace(arch="transformer"),
        "model": {"weight": torch.arange(3.0)},
        "optimizer_history": [{"num_updates": 7, "best": np.float64(1.5), "count": np.int64(3)}],
        "extra_state": {"array": np.array([1.0, 2.0], dtype=np.float32), "flags": np.array([True, False])},
    }
    torch.save(state, path)
    found = load_checkpoint(path)
    assert found["args"].arch == "transformer"
    assert torch.equal(found["model"]["weight"], state["model"]["weight"])
    assert found["optimizer_history"][0]["best"] == 1.5 and found["optimizer_history"][0]["count"] == 3
    assert found["extra_state"]["array"].tolist() == [1.0, 2.0]


def test_what_another_program_takes_off_torchs_list_is_read_here(path):
    torch.save({"model": {}, "best": np.float64(0.5), "history": np.zeros(2)}, path)
    # what Transformers' Trainer does when it resumes: the end of the block takes the types off for everybody
    with torch.serialization.safe_globals([np._core.multiarray._reconstruct, np.ndarray, np.dtype]):
        pass
    assert load_checkpoint(path)["history"].tolist() == [0, 0]
    dsp_plugin.register()
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path)  # for everybody else the list is torch's own


@pytest.mark.parametrize("where", ["model", "args", "extra_state"])
def test_a_trap_is_refused_and_does_nothing(path, tmp_path, where):
    witness = tmp_path / "it ran"
    torch.save({"model": {}, "args": None, where: {"inside": [Trap(witness)]}}, path)
    with pytest.raises(ValueError) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert path in message and "refused" in message and "mkdir" in message
    assert "weights_only" not in message, "the user must not be told to turn the protection off"
    assert not witness.exists()
    # and the trap is a trap
    torch.load(path, weights_only=False)
    assert witness.exists()


def test_an_unknown_class_is_refused_by_name(path):
    torch.save({"model": {}, "odd": Fraction(1, 2)}, path)
    with pytest.raises(ValueError, match="refused.*Fraction"):
        load_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_damaged_file(path, keep):
    torch.save({"model": {"weight": torch.randn(1000)}}, path)
    whole = open(path, "rb").read()
    with open(path, "wb") as file:
        file.write(whole[: keep if isinstance(keep, int) else int(keep * len(whole))])
    with pytest.raises(ValueError, match="model.pt"):
        load_checkpoint(path)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("content", [b"not a checkpoint", b"\x80\x04.", b"PK\x03\x04"])
def test_a_file_of_another_kind(path, content):
    with open(path, "wb") as file:
        file.write(content)
    with pytest.raises(ValueError, match="model.pt"):
        load_checkpoint(path)


@pytest.mark.parametrize("state", [{"weights": {}}, [1, 2], torch.zeros(2)])
def test_something_that_is_no_fairseq_checkpoint(path, state):
    torch.save(state, path)
    with pytest.raises(ValueError, match="'model'"):
        load_checkpoint(path)


def test_no_file(path):
    with pytest.raises(FileNotFoundError, match="model.pt"):
        load_checkpoint(path)


def test_saving_and_loading(path):
    save_checkpoint({"model": {"weight": torch.arange(3)}}, path)
    assert load_checkpoint(path)["model"]["weight"].tolist() == [0, 1, 2]
    assert os.listdir(os.path.dirname(path)) == ["model.pt"]


def test_a_failed_save_leaves_the_old_file(path, monkeypatch):
    save_checkpoint({"model": {"weight": torch.zeros(3)}}, path)

    def full_disk(state, file):
        with open(file, "wb") as out:
            out.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full_disk)
    with pytest.raises(OSError, match="cannot write .*model.pt.*No space left"):
        save_checkpoint({"model": {"weight": torch.ones(3)}}, path)
    monkeypatch.undo()
    assert load_checkpoint(path)["model"]["weight"].tolist() == [0, 0, 0]
    assert os.listdir(os.path.dirname(path)) == ["model.pt"]


class TestFairseqsOwnCopies:
    """checkpoint_best.pt and checkpoint_last.pt are copies that fairseq makes of the file it has saved."""

    @pytest.fixture(autouse=True)
    def files(self, tmp_path):
        dsp_plugin.register()  # which is all that fairseq's --user-dir does
        self.new, self.last = tmp_path / "checkpoint2.pt", tmp_path / "checkpoint_last.pt"
        self.new.write_bytes(b"new" * 100)
        self.last.write_bytes(b"old" * 50)

    @pytest.mark.parametrize("again", [False, True])
    def test_a_copy(self, again, monkeypatch):
        monkeypatch.setattr(PathManager, "copy", staticmethod(PathManager.copy))  # undone after the test
        if again:
            save_atomically()
        assert PathManager.copy(str(self.new), str(self.last), overwrite=True)
        assert self.last.read_bytes() == self.new.read_bytes()
        assert len(list(self.last.parent.iterdir())) == 2

    def test_a_file_of_its_own(self):
        """fairseq's own temporary names are not written through, where somebody's links have them."""
        for name in ("checkpoint_last.pt.tmp", "checkpoint_last.pt.part"):
            (self.last.parent / name).symlink_to(self.new)
        checkpoint_utils.torch_persistent_save({"model": {"weight": torch.ones(2)}}, str(self.last))
        PathManager.copy(str(self.last), str(self.last.with_name("checkpoint_best.pt")), overwrite=True)
        assert load_checkpoint(str(self.last.with_name("checkpoint_best.pt")))["model"][
            "weight"
        ].tolist() == [1, 1]
        assert self.new.read_bytes() == b"new" * 100
        assert len(list(self.last.parent.iterdir())) == 5

    def test_a_kill_in_the_middle_of_a_save(self):
        killed = (
            "import dsp_plugin, os, signal, sys\nfrom fairseq import "
            "checkpoint_utils\ndsp_plugin.register()\n"
        )
        killed += "class Half:\n    def __reduce__(self):\n        os.kill(os.getpid(), signal.SIGKILL)\n"
        killed += "checkpoint_utils.torch_persistent_save({'a': 1, 'half': Half()}, sys.argv[1])"
        done = subprocess.run(
            [sys.executable, "-c", killed, str(self.last)], cwd=Path(dsp_plugin.__file__).parents[1]
        )
        assert done.returncode == -signal.SIGKILL
        assert self.last.read_bytes() == b"old" * 50

    def test_a_full_disk_in_the_middle_of_a_copy(self, monkeypatch):
        def full_disk(source, target):
            with open(target, "wb") as out:
                out.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(shutil, "copyfile", full_disk)
        with pytest.raises(OSError, match="No space left"):
            PathManager.copy(str(self.new), str(self.last), overwrite=True)
        assert self.last.read_bytes() == b"old" * 50
        assert len(list(self.last.parent.iterdir())) == 2


# ---- options of the model in a checkpoint


def test_options_of_old_and_new_checkpoints():
    assert model_options({"args": argparse.Namespace(encoder_layers=3)})["encoder_layers"] == 3
    assert model_options({"args": None, "cfg": {"model": {"encoder_layers": 4}}})["encoder_layers"] == 4
    assert model_options({"cfg": {"model": argparse.Namespace(encoder_layers=5)}})["encoder_layers"] == 5
    with pytest.raises(ValueError, match="no options"):
        model_options({"model": {}})


def test_models_of_one_size():
    check_same_sizes(
        "a.pt",
        {"encoder_layers": 3, "dropout": 0.1},
        {"encoder_layers": 3, "dropout": 0.3, "decoder_layers": 1},
    )


@pytest.mark.parametrize("name", ["encoder_layers", "decoder_attention_heads", "encoder_ffn_embed_dim"])
def test_models_of_different_sizes(name):
    with pytest.raises(ValueError, match=rf"a\.pt.*{name}: 3 there, 4 here"):
        check_same_sizes("a.pt", {name: 3, "decoder_embed_dim": 8}, {name: 4, "decoder_embed_dim": 8})


def test_torch_is_never_told_to_trust_a_file():
    """No module of ours passes weights_only=False."""
    package = Path(checkpoints.__file__).resolve().parents[2]
    for file in [*package.rglob("*.py"), *package.parent.glob("scripts/**/*.py")]:
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "weights_only":
                assert isinstance(node.value, ast.Constant) and node.value.value is True, (
                    f"{file}:{node.value.lineno}"
                )
