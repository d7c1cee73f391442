"""A small base with a task head, and random packs for it."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from dsp_plugin.artefacts.base import Base
from dsp_plugin.diffs.packs.pack import DiffPack
from dsp_plugin.diffs.sparse import SparseDiff


class SmallModel(nn.Module):
    """Embedding, a block with a layer norm, an output tied to the embedding, a classifier of the mean;
    float32.
    """

    def __init__(self, labels: int = 2, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.body = nn.ModuleDict(
            {
                "words": nn.Embedding(40, 16),
                "0": nn.Linear(16, 24),
                "1": nn.Linear(24, 16),
                "norm": nn.LayerNorm(16),
            }
        )
        self.out = nn.Linear(16, 40, bias=False)
        self.out.weight = self.body["words"].weight
        self.classifier = nn.Linear(16, labels)
        self.register_buffer("steps", torch.zeros(3))
        generator = torch.Generator().manual_seed(1)
        for weight in self.parameters():
            weight.data = torch.randn(weight.shape, generator=generator)
        self.to(dtype).eval()

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        """ids [B, L] → logits [B, labels], words [B, L, 40]."""
        x = self.body["words"](ids)
        x = self.body["norm"](x + self.body["1"](torch.relu(self.body["0"](x))))
        return {"logits": self.classifier(x.mean(1)), "words": self.out(x)}


def random_diff(base: Base, seed: int, density: float = 0.1, size: float = 0.3) -> SparseDiff:
    """Each weight of the base is in it with this chance, by a normal value of this size."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {}
    for name, (_, shape) in base.parameters.items():
        chosen = torch.rand(shape, generator=generator) < density
        deltas[name] = torch.randn(shape, generator=generator) * size * chosen
    return diff_of_dense(deltas)


def diff_of_dense(deltas: Mapping[str, Tensor]) -> SparseDiff:
    """Make the diff that stores the non-zero elements of full tensors; the inverse of `dense`."""
    positions = {name: delta.reshape(-1).nonzero().squeeze(1) for name, delta in deltas.items()}
    entries = {name: (at, deltas[name].reshape(-1)[at]) for name, at in positions.items() if at.numel()}
    return SparseDiff(entries, {name: tuple(delta.shape) for name, delta in deltas.items()})


def random_pack(
    model: nn.Module, seed: int, labels: int = 2, task_head: Sequence[str] = ("classifier",), **kwargs
) -> DiffPack:
    """A pack for `model` with a random head; `kwargs` are those of `random_diff` and of `DiffPack.create`."""
    base = Base.of(model, task_head)
    generator = torch.Generator().manual_seed(seed + 1000)
    parameters = dict(model.named_parameters())
    dense = {
        name: torch.randn((labels, *weight.shape[1:]), generator=generator).to(weight.dtype)
        for name, weight in parameters.items()
        if name.split(".")[0] in task_head
    }
    made = {key: kwargs.pop(key) for key in ("density", "size") if key in kwargs}
    return DiffPack.create(
        random_diff(base, seed, **made), base, dense, kwargs.pop("config", {"task": seed}), **kwargs
    )


def take_way(way: str, monkeypatch) -> None:
    """Choose how a bank mixes tasks in linear layers: `whole` with a product a task, `sparse` by torch, or
    `compiled`.
    """
    from dsp_plugin.diffs.serving import row_product, row_tasks

    monkeypatch.setattr(row_tasks, "SPARSE_BELOW", 0 if way == "whole" else 1000)
    monkeypatch.setattr(row_tasks, "SPARSE_UP_TO", 0)
    if way != "compiled":
        monkeypatch.setattr(row_product, "_compiled", lambda name, dtype: None)
    elif row_product.library() is None:
        import pytest

        pytest.skip("needs a C++ compiler")


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Bit for bit, with the same names."""
    as_bytes = lambda tensor: tensor.contiguous().reshape(-1).view(torch.uint8)  # noqa: E731
    return first.keys() == second.keys() and all(
        torch.equal(as_bytes(first[n]), as_bytes(second[n])) for n in first
    )


def opened(raw: bytes) -> tuple[dict[str, Any], dict[str, Any], dict[str, Tensor]]:
    """The metadata, the index and all other tensors of a pack's bytes."""
    length = int.from_bytes(raw[:8], "little")
    tensors = load_tensors(raw)
    about = json.loads(json.loads(raw[8 : 8 + length])["__metadata__"]["dsp_diff_pack"])
    return about, json.loads(zlib.decompress(tensors.pop("index").numpy().tobytes())), tensors


def closed(about: Mapping[str, Any], index: Any, tensors: Mapping[str, Tensor]) -> bytes:
    """The inverse of `opened`, with a checksum that fits. `index`: plain, or ready-made bytes of JSON."""
    packed = zlib.compress(index if isinstance(index, bytes) else json.dumps(index).encode(), 9)
    content = {"index": torch.from_numpy(np.frombuffer(packed, np.uint8).copy()), **tensors}
    raw = save_tensors(content, {"dsp_diff_pack": json.dumps({**about, "checksum": "0" * 64})})
    return raw.replace(b"0" * 64, hashlib.sha256(raw).hexdigest().encode(), 1)


def sealed(
    raw: bytes,
    about: Mapping[str, Any] = {},
    index: Callable[[dict[str, Any]], Any] | None = None,
    tensors: Mapping[str, Tensor | None] = {},
) -> bytes:
    """The pack with other content and a checksum that fits: what a faulty program would write.

    Args:
        about: entries of the metadata. index: changes the index in place. tensors: None takes one out.
    """
    metadata, entries, content = opened(raw)
    if index is not None:
        index(entries)
    content = {name: tensor for name, tensor in {**content, **tensors}.items() if tensor is not None}
    return closed({**metadata, **about}, entries, content)


def deep(levels: int) -> list:
    """Return empty lists within each other, so many deep."""
    tree: list = []
    for _ in range(levels):
        tree = [tree]
    return tree
