"""Weights that are spread over processes are refused, by whichever way it was asked for."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
import hf_models  # noqa: F401  (first: see there)  isort: skip
from hf_data import arguments
from hf_diffs import HEAD, base_model

from dsp_plugin.diffs import DiffVector
from dsp_plugin.hf.diffs.training import DiffCallback, diff_optimizers
from dsp_plugin.options.errors import OptionError


@pytest.mark.parametrize("way", ["deepspeed", "deepspeed_plugin", "fsdp", "ACCELERATE_USE_FSDP", None])
def test_deepspeed_and_fsdp(way, tmp_path, monkeypatch):
    args = arguments(tmp_path)
    optimizer, _ = diff_optimizers(DiffVector(base_model(), task_head=HEAD), args)
    if way is None:
        return DiffCallback(optimizer).on_init_end(args, None, None)
    if way.isupper():  # `accelerate launch --use_fsdp` tells by the environment alone
        monkeypatch.setenv(way, "true")
    else:  # with --use_deepspeed TrainingArguments make the plugin, and leave `deepspeed` empty
        monkeypatch.setattr(args, way, object())
    with pytest.raises(OptionError, match="^deepspeed and fsdp spread the weights"):
        DiffCallback(optimizer).on_init_end(args, None, None)
