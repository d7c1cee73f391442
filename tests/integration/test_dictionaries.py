"""A model is used only with the words it was trained with: dictionaries of the same size in another order
are refused.
"""

from __future__ import annotations

import shutil

import pytest

pytest.importorskip("fairseq")

import torch
from diff_mt import DIFF
from fairseq_commands import PACKAGE, run
from fairseq_training import DSP, checkpoint, train

from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint
from dsp_plugin.mt.programs.generate import generate

REFUSED = "was trained with another dictionary than dict.de.txt and dict.en.txt"


@pytest.fixture(scope="module")
def other_data(tiny_data, tmp_path_factory):
    """The same text by a dictionary of the same words, the first two of them exchanged."""
    folder = tmp_path_factory.mktemp("other") / "bin"
    shutil.copytree(tiny_data, folder)
    for lang in ("de", "en"):
        first, second, *rest = (folder / f"dict.{lang}.txt").read_text().splitlines(keepends=True)
        (folder / f"dict.{lang}.txt").write_text("".join([second, first, *rest]))
    return folder


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    train(tiny_data, folder, *DSP, "--max-update", 2).succeeded()
    return folder / "checkpoint_last.pt"


@pytest.mark.parametrize(
    "option", ["--finetune-from-model", "--restore-file", "--save-dir", "--base-checkpoint"]
)
@pytest.mark.parametrize("task", ["dsp_translation", "translation"])
def test_training_on_from_it(other_data, trained, tmp_path, option, task):
    if option == "--base-checkpoint":
        if task == "translation":
            return  # it has no bases
        flags = [*DIFF, option, trained]
    else:
        flags = [*DSP, "--task", task]
        if option == "--save-dir":
            shutil.copy(trained, tmp_path / "checkpoint_last.pt")
        else:
            flags += [option, trained]
    assert REFUSED in train(other_data, tmp_path, *flags, "--max-update", 3).failed()


def test_translating_with_it(other_data, tiny_data, trained, tmp_path):
    flags = (
        "-s de -t en --cpu --batch-size 5 --beam 2 --num-workers 0 --no-progress-bar --max-len-b 5 --quiet"
    ).split()
    flags += ["--path", str(trained), "--record-dir", str(tmp_path / "record")]
    generate([str(tiny_data), *flags])
    with pytest.raises(ValueError, match=REFUSED):
        generate([str(other_data), *flags])
    plain = ["--user-dir", PACKAGE, "--path", trained, "--cpu", "--batch-size", 7]
    assert (
        REFUSED
        in run("fairseq_cli.generate", [other_data, "--task", "dsp_translation", *plain], tmp_path).failed()
    )


def test_exporting_it(other_data, tiny_data, trained, tmp_path):
    from dsp_plugin.cli.main import main

    def status(data) -> int:
        words = [
            "export",
            str(trained),
            "--out",
            str(tmp_path / "stock.pt"),
            "--data",
            str(data),
            "--mask",
            str(tmp_path / "mask.json"),
        ]
        try:
            return main(words) or 0
        except SystemExit as end:
            return end.code

    (tmp_path / "mask.json").write_text(str([True] * 23 + [False]).lower())
    assert status(tiny_data) == 0
    stock = load_checkpoint(str(tmp_path / "stock.pt"))
    assert (
        stock["task_state"]["dsp_dictionaries"]
        == checkpoint(trained.parent)["task_state"]["dsp_dictionaries"]
    )
    (tmp_path / "stock.pt").unlink()
    assert status(other_data) != 0 and not (tmp_path / "stock.pt").exists()


def test_a_checkpoint_of_before_says_nothing(other_data, trained, tmp_path):
    state = torch.load(trained)
    del state["task_state"]["dsp_dictionaries"]
    torch.save(state, tmp_path / "before.pt")
    train(
        other_data, tmp_path / "on", *DSP, "--finetune-from-model", tmp_path / "before.pt", "--max-update", 1
    ).succeeded()
