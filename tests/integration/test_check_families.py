"""The table of all families: what is right, what is refused, and that a planted fault is seen."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts" / "hf"))
import family_checks  # noqa: E402
import torch  # noqa: E402

from dsp_plugin.hf.heads import heads_link
from dsp_plugin.hf.heads.surgery import pruning  # noqa: E402


def test_the_command(tmp_path):
    command = [
        sys.executable,
        ROOT / "scripts/hf/check_families.py",
        "--all",
        "--only",
        "bert",
        "opt",
        "timesfm",
        "deepseek_v2",
        "--out",
        tmp_path,
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path).stdout
    with open(tmp_path / "classes.csv") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "bert.BertSelfAttention": "right",
        "bert.BertCrossAttention": "right",
        "opt.OPTAttention": "right",
        "timesfm.TimesFmAttention": "right",
        "deepseek_v2.DeepseekV2Attention": "refused",
    }
    assert all(float(row["largest difference"]) < 1e-9 for row in rows.values() if row["status"] == "right")
    assert "right 4, refused 1, wrong 0" in found


def test_the_command_for_neurons(tmp_path):
    command = [sys.executable, ROOT / "scripts/hf/check_families.py", "--all", "--neurons", "--only", "bert"]
    command += ["mixtral", "blt_patcher", "--out", tmp_path]
    subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    with open(tmp_path / "neurons.csv") as file:
        rows = {row["class"]: row for row in csv.DictReader(file)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "bert.BertLMHeadModel": "right",
        "blt.BltPatcher": "right",  # whose weights begin by a power of the number of neurons
        "mixtral.MixtralForCausalLM": "refused",
    }


def status_of(family, neurons=False):
    (result, *_) = family_checks.check_family(family, neurons)
    return result.status, result.reason


@pytest.mark.parametrize("neurons", [False, True])
@pytest.mark.parametrize("family", ["bert", "gpt2", "bloom"])
def test_rows_of_another_unit_are_seen(family, neurons, monkeypatch):
    """With the last look, which refuses them; the table must see them without."""
    cut = pruning.cut

    def wrong(attentions, *args):
        for attention in attentions:
            projection = next(p for p in attention.projections if p.out)  # query, and what is joined with it
            dim = 1 if type(projection.module).__name__ == "Conv1D" else 0
            with torch.no_grad():
                projection.module.weight.copy_(projection.module.weight.roll(projection.unit, dim))
        return cut(attentions, *args)

    monkeypatch.setattr(pruning, "cut", wrong)
    status, reason = status_of(family, neurons)
    assert status == "refused" and "is not what it is with these" in reason
    prune = family_checks.hf.prune_heads
    unchecked = lambda model, keep, **units: prune(model, keep, check=False, **units)  # noqa: E731
    monkeypatch.setattr(family_checks.hf, "prune_heads", unchecked)
    status, reason = status_of(family, neurons)
    assert status == "WRONG" and reason.startswith("pruned: differs by")


@pytest.mark.parametrize("neurons", [False, True])
def test_gates_of_another_unit_are_seen(neurons, monkeypatch):
    gated = heads_link.Heads.gated

    def wrong(self, context):
        return gated(self, context.roll(1, -1)).roll(-1, -1)

    monkeypatch.setattr(heads_link.Heads, "gated", wrong)
    status, reason = status_of("bert", neurons)
    assert status == "WRONG" and reason.startswith("gated: differs by")
