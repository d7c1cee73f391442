"""The example of docs/dsee.md, run as it stands but for its base and a shorter training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import batch_of, logits, tiny_model  # isort: skip

pytest.importorskip("peft")
from dsp_plugin.hf.dsee import kept_of, merge_dsee, open_dsee

DOCS = Path(__file__).resolve().parents[3] / "docs" / "dsee.md"


def test_ten_lines_train_prune_and_store_a_model(tmp_path):
    tiny_model("bert", dtype=torch.float32).save_pretrained(tmp_path / "base")
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(3, 40, (16, 6), generator=generator)
    data = [{"input_ids": row, "labels": int(row[0] > 20)} for row in words]
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("from")]) <= 10
    code = code.replace("num_train_epochs=3", "max_steps=2, report_to=[], use_cpu=True")
    names = {"base": str(tmp_path / "base"), "out": str(tmp_path / "out"), "data": data}
    exec(code, names)
    model = names["model"].eval()
    again = open_dsee(tmp_path / "out" / "task.dsee.safetensors", tmp_path / "base")
    with torch.no_grad():
        expected = logits(model, batch_of(model))
        torch.testing.assert_close(logits(again.eval(), batch_of(again)), expected, rtol=0, atol=1e-6)
        assert {len(kept) for kept in kept_of(model).values()} == {3, 6}  # of 4 heads, of 10 groups
        merged = merge_dsee(again)
        torch.testing.assert_close(logits(merged, batch_of(merged)), expected, rtol=0, atol=1e-5)
