"""The example of docs/diff-pruning.md, run as it stands, and the pack made of its diff."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import torch
from diff_models import HEAD, TinyClassifier, batch, tiny
from torch.nn.functional import cross_entropy

from dsp_plugin.artefacts.base import Base
from dsp_plugin.diffs import DiffPack

DOCS = Path(__file__).resolve().parents[3] / "docs" / "diff-pruning.md"


class WithLoss(TinyClassifier):
    """Gives its loss, as Transformers' models do."""

    def forward(self, words, labels):
        return SimpleNamespace(loss=cross_entropy(super().forward(words), labels))


def test_the_three_stages_in_plain_torch_end_in_a_pack_that_gives_the_same_model():
    torch.manual_seed(3)
    model = WithLoss()
    base = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    data = [dict(zip(("words", "labels"), batch(number))) for number in range(4)]
    code, _ = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    names = {"model": model, "base_weights": base, "data": data}
    exec(code.replace("0.005", "0.1"), names)
    diff = names["diff"]
    assert diff.count == 10 and names["smaller"].count == 2
    assert all(values.abs().min() > 0 for _, values in diff.entries.values())

    plain = tiny()
    task_head = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("classifier")}
    pack = DiffPack.create(diff, Base.of(plain, task_head=HEAD), task_head=task_head, dtype=torch.float32)
    pack.apply(plain)
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in model.state_dict().items())
