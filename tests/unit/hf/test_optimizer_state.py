"""A checkpoint's optimizer state that is not the parameters' is refused before a step: torch's kernels
take its sizes on trust.
"""

from __future__ import annotations

import hf_models  # noqa: F401  (first: see there)  isort: skip

import pytest
import torch
from hf_training import gated, prepared

from dsp_plugin.records.files.sealed_folder import seal_folder


@pytest.mark.parametrize(
    "made_up",
    [
        lambda moment: torch.zeros(1),
        lambda moment: torch.zeros(1).expand(moment.shape),
        lambda moment: moment[..., :1].clone(),
    ],
    ids=["one value", "one value expanded", "a part"],
)
def test_made_up_moments_are_refused(tmp_path, made_up):
    options = dict(max_steps=4, save_strategy="steps", save_steps=2)
    prepared(gated("relaxed"), tmp_path, **options).train()
    folder = tmp_path / "checkpoint-2"
    state = torch.load(folder / "optimizer.pt", weights_only=True)
    largest = max(state["state"].values(), key=lambda entry: entry["exp_avg_sq"].numel())
    largest["exp_avg_sq"] = made_up(largest["exp_avg_sq"])
    torch.save(state, folder / "optimizer.pt")
    seal_folder(folder)
    with pytest.raises(ValueError, match="'exp_avg_sq' of shape"):
        prepared(gated("relaxed"), tmp_path, **options).train(resume_from_checkpoint=str(folder))
    prepared(gated("relaxed"), tmp_path, **options).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-4")
    )
