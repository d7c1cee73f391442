"""The example of docs/delta-methods.md, run as it stands but for its base and a shorter training."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from hf_delta import outputs, tiny  # isort: skip

pytest.importorskip("peft")
from dsp_plugin.hf.delta import delta_of, open_delta

DOCS = Path(__file__).resolve().parents[3] / "docs" / "delta-methods.md"


def test_ten_lines_train_two_stages_and_store_them(tmp_path):
    tiny("bert", "ForSequenceClassification").save_pretrained(tmp_path / "base")
    words = torch.randint(3, 40, (16, 6), generator=torch.Generator().manual_seed(0))
    data = [{"input_ids": row, "labels": int(row[0] > 20)} for row in words]
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)
    assert len([line for line in code.splitlines() if line and not line.startswith("from")]) <= 10
    code = code.replace("num_train_epochs=3", "max_steps=2, report_to=[], use_cpu=True")
    names = {"base": str(tmp_path / "base"), "out": str(tmp_path / "out"), "data": data}
    exec(code, names)
    model = names["model"].eval()
    again = open_delta(tmp_path / "out" / "task.delta.safetensors", tmp_path / "base").eval()
    assert delta_of(again).stages == {"bias": 1, "adapter": 1, "lora": 2}
    assert torch.equal(outputs(again), outputs(model))
