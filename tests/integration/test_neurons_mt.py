"""Groups of neurons beside heads, by the command lines a user types: train, prune, translate, tune, sweep."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq_commands import PACKAGE, run
from fairseq_training import ANNEALING, DSP, checkpoint, updates

from dsp_plugin.cli.main import main as dsp
from dsp_plugin.mt.translate.translate import load_model, translate, translation_task
from dsp_plugin.records.record import load_record

SCRIPTS = PACKAGE.parent / "scripts" / "mt"
# 8 + 8 + 8 heads, and of every layer's 20 neurons 5 groups
PER_KIND = "encoder-self=3,decoder-cross=4,decoder-self=2,encoder-ffn=4,decoder-ffn=3"
COUNTS = dict(part.split("=") for part in PER_KIND.split(","))
UNITS = ["--neurons", 4, "--heads-per-kind", PER_KIND]
JOINT = [*DSP, *UNITS, "--joint-pruning", *ANNEALING]
SAID = "9 of 24 heads and 7 of 20 groups of neurons"
SEARCH = {"max_len_a": 1.2, "max_len_b": 10}


def by_kind(heads: dict) -> dict[str, str]:
    """The number of units kept of every kind in a record's `heads`."""
    found = dict.fromkeys(COUNTS, 0)
    for block in heads["blocks"]:
        found[block["kind"]] += len(block["kept"])
    return {kind: str(count) for kind, count in found.items()}


def translations(data, path):
    task = translation_task(str(data), "test")
    return translate(load_model(str(path), task).double(), task, "test", beam=3, **SEARCH)


def same(one, other) -> None:
    assert [t.tokens for t in one] == [t.tokens for t in other]
    assert [t.score for t in one] == pytest.approx([t.score for t in other], abs=1e-5)


@pytest.fixture(scope="module")
def joint(tiny_data, tmp_path_factory):
    """(save folder, what was printed) of a joint training over heads and groups, pruned and tuned."""
    folder = tmp_path_factory.mktemp("neurons") / "run"
    flags = [tiny_data, "--save-dir", folder, *JOINT[2:], "--max-update", 5, "--tune-updates", 3]
    return folder, run(str(SCRIPTS / "run_dsp.py"), flags, folder).succeeded()


def test_it_trains_removes_and_tunes(joint, tiny_data):
    folder, done = joint
    lines = updates(done)
    assert [int(line["num_updates"]) for line in lines] == [1, 2, 3, 4, 5, 1, 2, 3]
    assert 0 < float(lines[4]["heads_open"]) <= 44 and "heads_open" not in lines[5]
    record, tuned = load_record(folder / "results.json"), load_record(folder / "tuned" / "results.json")
    assert by_kind(record.heads) == COUNTS and record.heads["total"] == 44 and tuned.heads == record.heads
    assert f"| units: {SAID}" in done.output and f"{SAID} kept" in done.output
    pruned, last = (checkpoint(folder, name) for name in ("checkpoint_pruned.pt", "tuned/checkpoint_last.pt"))
    for state in (pruned, last):
        assert state["cfg"]["model"]["neurons"] == 4
        assert state["cfg"]["model"]["kept_heads"] == pruned["cfg"]["model"]["kept_heads"]
    assert {n: t.shape for n, t in last["model"].items()} == {n: t.shape for n, t in pruned["model"].items()}
    moments = checkpoint(folder)["last_optimizer_state"]["state"]
    assert any(state["exp_avg"].shape == (44,) for state in moments.values())
    same(*(translations(tiny_data, folder / f"checkpoint_{name}.pt") for name in ("best", "pruned")))


def test_generation_takes_both_as_they_are(joint, tiny_data, tmp_path):
    folder, _ = joint
    search = ["--batch-size", 16, "--beam", 3, "--cpu", "--max-len-b", 10]
    found = {}
    for name in ("checkpoint_best", "checkpoint_pruned"):
        flags = [tiny_data, "--path", folder / f"{name}.pt", "--record-dir", tmp_path / name, *search]
        run(str(SCRIPTS / "generate_dsp.py"), flags, tmp_path / name).succeeded()
        found[name] = load_record(tmp_path / name / "results.json")
    one, two = found.values()
    assert one.heads == two.heads and by_kind(one.heads) == COUNTS and one.parameters == two.parameters
    shared = ("decoder.embed_tokens.weight", "decoder.output_projection.weight")
    tensors = checkpoint(folder, "checkpoint_pruned.pt")["model"]
    counted = [name for name in tensors if name not in shared and not name.endswith(("version", "_tensor"))]
    assert one.parameters["after"] == sum(tensors[name].numel() for name in counted)
    assert (tmp_path / "checkpoint_best/translations.txt").read_text() == (
        tmp_path / "checkpoint_pruned/translations.txt"
    ).read_text()
    # its mask prunes the checkpoint just as its scores do
    masked = tmp_path / "masked.pt"
    mask = tmp_path / "checkpoint_best/mask.json"
    assert dsp(["prune", str(folder / "checkpoint_best.pt"), "--out", str(masked), "--mask", str(mask)]) == 0
    again = checkpoint(tmp_path, "masked.pt")["model"]
    assert again.keys() == tensors.keys() and all(torch.equal(tensors[name], again[name]) for name in again)
    flags = [tiny_data, "--user-dir", PACKAGE, "--path", masked, *search]
    assert "Generate test" in run("fairseq_cli.generate", flags, tmp_path).succeeded().output
