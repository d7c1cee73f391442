"""A tiny classifier with everything that is awkward for a diff: tied weights, a buffer, a vector, a head
of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

HEAD = ["classifier"]


class TinyClassifier(nn.Module):
    """[B, 4] word numbers -> [B, 2] logits. The body has 7 x 6 + 6 x 6 + 6 + 6 + 6 = 96 weights, the head
    14.
    """

    def __init__(self):
        super().__init__()
        self.embeddings = nn.Embedding(7, 6)
        self.layer = nn.ModuleList([nn.Linear(6, 6), nn.LayerNorm(6)])
        self.output = nn.Linear(6, 7, bias=False)
        self.output.weight = self.embeddings.weight
        self.classifier = nn.Linear(6, 2)
        self.register_buffer("scale", torch.tensor(1.5))

    def forward(self, words: Tensor) -> Tensor:
        hidden = self.layer[1](torch.tanh(self.layer[0](self.embeddings(words).mean(1))) * self.scale)
        hidden = hidden + self.output(hidden) @ self.output.weight
        return self.classifier(hidden)


def tiny(dtype: torch.dtype = torch.float32, seed: int = 3) -> TinyClassifier:
    torch.manual_seed(seed)
    return TinyClassifier().to(dtype)


def batch(number: int, size: int = 5) -> tuple[Tensor, Tensor]:
    """Words [size, 4] and labels [size]; the same for the same number."""
    generator = torch.Generator().manual_seed(number)
    words = torch.randint(7, (size, 4), generator=generator)
    return words, (words.sum(1) % 2)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int, size: int = 5) -> None:
    """One step on `batch(number, size)`."""
    model.train()
    words, labels = batch(number, size)
    loss = cross_entropy(model(words), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
