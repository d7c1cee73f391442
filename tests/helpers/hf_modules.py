"""Modules of a user's own around Transformers models, as users write them; also imported by programs that
tests start.
"""

from __future__ import annotations

from hf_models import FAMILIES  # first: see there  isort: skip

import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parents[2]


def printed_afresh(program: str, *words: object) -> list[str]:
    """The lines that a program prints in a process of its own, where these helpers can be imported."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "helpers")])
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, words)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def _mean(states: Tensor, mask: Tensor) -> Tensor:
    """states [B, L, C] -> [B, C], padding left out."""
    return (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)


class SentencePair(nn.Module):
    """Two sentences through one encoder, mean pooling, a head over both and their difference."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = FAMILIES["bert"]().bert
        self.head = nn.Linear(3 * 32, 2)
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, input_ids, attention_mask, other_ids, other_mask, labels=None):
        one = _mean(self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state, attention_mask)
        two = _mean(self.encoder(other_ids, attention_mask=other_mask).last_hidden_state, other_mask)
        logits = self.scale * self.head(torch.cat([one, two, (one - two).abs()], dim=-1))
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return {"loss": loss, "logits": logits} if labels is not None else {"logits": logits}


class TwoEncoders(nn.Module):
    """A question through one model, a passage through another one of another family; their head is tied."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(
            {"question": FAMILIES["distilbert"]().distilbert, "passage": FAMILIES["gpt2"]().transformer}
        )
        self.head, self.same_head = nn.Linear(32, 16), nn.Linear(32, 16)
        self.same_head.weight = self.head.weight

    def forward(self, input_ids, attention_mask, other_ids, other_mask):
        one = self.parts["question"](input_ids, attention_mask=attention_mask).last_hidden_state[:, 0]
        two = _mean(self.parts["passage"](other_ids, attention_mask=other_mask).last_hidden_state, other_mask)
        return self.head(one) @ self.same_head(two).T


class Twins(nn.Module):
    """Two encoders from one configuration object, and a whole Transformers model with its task head beside
    them.
    """

    def __init__(self) -> None:
        super().__init__()
        first = FAMILIES["bert"]()
        self.config = first.config
        self.left, self.right = first.bert, type(first.bert)(first.config)
        self.judge = FAMILIES["electra"]()

    def forward(self, input_ids, attention_mask, other_ids, other_mask):
        one = self.left(input_ids, attention_mask=attention_mask).pooler_output
        two = self.right(other_ids, attention_mask=other_mask).pooler_output
        return one * two, self.judge(input_ids, attention_mask=attention_mask).logits


MODULES = {cls.__name__: cls for cls in (SentencePair, TwoEncoders, Twins)}


def own_module(name: str, dtype: torch.dtype = torch.float64) -> nn.Module:
    """In `eval()`, with weights large enough that every head counts."""
    torch.manual_seed(3)
    module = MODULES[name]()
    with torch.no_grad():
        for weight in module.parameters():
            weight.normal_(std=0.3) if weight.dim() > 1 else weight.add_(torch.randn_like(weight), alpha=0.1)
    return module.to(dtype).eval()


def pair_batch(size: int = 3) -> dict[str, Tensor]:
    """Two padded texts an example."""
    generator = torch.Generator().manual_seed(5)
    batch = {}
    for ids, mask, length in (("input_ids", "attention_mask", 7), ("other_ids", "other_mask", 5)):
        batch[mask] = (torch.arange(length) < length - torch.arange(size)[:, None] % 3).long()
        batch[ids] = torch.where(
            batch[mask].bool(), torch.randint(3, 40, (size, length), generator=generator), 1
        )
    return batch


def outputs(module: nn.Module, batch: dict[str, Tensor] | None = None) -> Tensor:
    """All outputs in one row, without gradients."""
    with torch.no_grad():
        found = module(**(batch or pair_batch()))
    found = found["logits"] if isinstance(found, dict) else found
    return torch.cat([part.flatten() for part in (found if isinstance(found, tuple) else (found,))])
