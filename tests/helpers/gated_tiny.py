"""A gated model of a few weights in plain torch, and the loop of a user who knows of no host."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dsp_plugin.gating import AttentionBlock, HeadMap, Switchboard

HEADS = HeadMap([AttentionBlock("a", 4, "encoder-self"), AttentionBlock("c", 3, "decoder-self")])
N = HEADS.num_heads


class Tiny(nn.Module):
    """Two blocks whose heads are units of a layer, and a task head.

    Args:
        recompute: None, or the `use_reentrant` of checkpointed blocks.
        deaf: its forward knows nothing of gates.
    """

    def __init__(
        self, gates: nn.Module, warmup_updates: int = 0, recompute: bool | None = None, deaf: bool = False
    ):
        super().__init__()
        self.first, self.second, self.task_head = nn.Linear(6, 4), nn.Linear(4, 3), nn.Linear(3, 2)
        self.recompute, self.deaf = recompute, deaf
        self.made = 0  # updates
        self.gating = Switchboard(HEADS, gates, warmup_updates)
        self.gating.handshake.watch_model(self)

    def block(self, position: int, x: Tensor) -> Tensor:
        x = torch.tanh((self.first, self.second)[position](x))
        gates = None if self.deaf else self.gating.block_gates(position)
        return x if gates is None else x * gates

    def encode(self, x: Tensor) -> Tensor:
        if self.recompute is None:
            return self.block(0, x)
        return checkpoint(self.block, 0, x, use_reentrant=self.recompute)

    def forward(self, x: Tensor) -> Tensor:
        with self.gating.forward_pass(self):
            return self.task_head(self.block(1, self.encode(x)))

    def weights(self) -> Iterable[nn.Parameter]:
        return [p for name, p in self.named_parameters() if not name.startswith("gating.")]


def loss_of(model: nn.Module, penalty: bool = True) -> Tensor:
    board = getattr(model, "module", model).gating
    loss = model(torch.randn(5, 6, requires_grad=True)).square().sum()
    return loss + board.penalty() if penalty else loss


def train(
    model: nn.Module,
    *optimizers: torch.optim.Optimizer,
    updates: int = 4,
    told: bool = True,
    penalty: bool = True,
    micro: int = 1,
) -> None:
    """Updates with all halves of a method, or without some: the number of updates not told, the penalty
    left out.
    """
    inner = getattr(model, "module", model)
    model.train()
    for _ in range(updates):
        if told:
            inner.gating.set_num_updates(inner.made)
        for _ in range(micro):
            loss_of(model, penalty).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        inner.made += 1
