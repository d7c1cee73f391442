"""Delta files of a tiny base on fairseq as if they were trained, and models made of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from dsee_mt import build_with

from dsp_plugin.delta.artefact import DeltaFile
from dsp_plugin.delta.parts import Part
from dsp_plugin.mt.delta.starting import NewDelta
from dsp_plugin.mt.surgery.base_checkpoint import BaseCheckpoint

OPTIONS = {"adapter_reduction": 4, "lora_r": 3, "lora_alpha": 6.0, "lora_targets": "query,value"}
ARCH, TASK = "delta_transformer", "delta_translation"


def given(methods: str) -> dict[str, object]:
    """The options of a model with these methods, `bias,adapter`."""
    kinds = {"adapter": "adapter", "lora": "lora"}
    own = {name: value for name, value in OPTIONS.items() if kinds[name.partition("_")[0]] in methods}
    return {"delta_methods": methods, **own}


def trained_file(base: BaseCheckpoint, *stages: str, seed: int = 3, **options: object) -> DeltaFile:
    """A file of a base as if stages (`bias,adapter`, ...) had trained it."""
    file, generator = None, torch.Generator().manual_seed(seed)
    before: list[str] = []
    for methods in stages:
        new = NewDelta.of({**OPTIONS, **options, "delta_methods": methods, "delta_before": ",".join(before)})
        file = new.file(base, file)
        for method in new.methods:
            part = file.parts[method]
            moved = {
                name: one + 0.2 * torch.randn(one.shape, generator=generator)
                for name, one in part.tensors.items()
            }
            file = replace(file, parts={**file.parts, method: Part(part.stage, part.settings, moved)})
        before += new.methods
    return file


def live_model(data: Path, base: Path, delta: str | None = None, **options: object):
    """(task, model) that fairseq-train would train: with the model's options, after an earlier stage."""
    changes = [("task", "base_checkpoint", str(base)), ("task", "delta", delta)]
    return build_with(data, [*changes, *(("model", *pair) for pair in options.items())], ARCH, TASK)
