"""Random programs of forward and backward passes of a small gated model, to be run with and without
checkpoints.

Notation: N = 12 heads of 2 units in 4 blocks; x [3, 8].
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from dsp_plugin.gating import AttentionBlock, HeadMap, Switchboard

BLOCKS, HEADS_EACH, WIDTH = 4, 4, 8
HEADS = HeadMap([AttentionBlock(f"b{i}", HEADS_EACH, "encoder-self") for i in range(BLOCKS)])
# how layers, the encoder inside the model, and the whole are checkpointed: None, or `use_reentrant`
KINDS = {
    "layers": (False, None, None),
    "layers, reentrant": (True, None, None),
    "encoder": (None, False, None),
    "whole": (None, None, False),
    "whole, reentrant": (None, None, True),
    "layers in the encoder": (False, False, None),
    "layers in the whole": (False, None, False),
    "all three": (False, False, False),
    "all three, reentrant": (True, True, True),
    "reentrant layers in the whole": (True, None, False),
    "layers in the whole, reentrant": (False, None, True),
}
Kind = tuple[bool | None, bool | None, bool | None]


class Noisy(nn.Module):
    """Gates sigmoid(scores + noise); remembers the noise of every sample."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads = HEADS.num_heads
        self.scores = nn.Parameter(torch.randn(HEADS.num_heads))
        self.noises: list[Tensor] = []

    def sample(self) -> Tensor:
        noise = torch.randn(HEADS.num_heads)
        self.noises.append(noise)
        return torch.sigmoid(self.scores + noise)

    def keep(self) -> Tensor:
        return self.scores.detach() > 0

    def penalty(self) -> Tensor:
        return self.scores.new_zeros(())

    def set_num_updates(self, num_updates: int) -> None:
        pass

    def metrics(self) -> dict:
        return {}


class Interrupted(Exception):
    """A forward pass ends in the middle."""


class Stack(nn.Module):
    """Four blocks, the first two of them an encoder; `handed` are the gates of every block in the order of
    the program.
    """

    def __init__(self, kind: Kind = (None, None, None), dropout: float = 0.3, preserve: bool = True):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS))
        self.dropout = nn.Dropout(dropout)
        self.gating = Switchboard(HEADS, Noisy())
        self.kind, self.preserve = kind, preserve
        self.handed: list[tuple[int, Tensor]] = []
        self.fails_at: int | None = None  # the layer that raises an `Interrupted`
        self.gating.handshake.watch_model(self)

    def _through(self, level: int, function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        reentrant = self.kind[level]
        if reentrant is None:
            return function(x)
        return checkpoint(function, x, use_reentrant=reentrant, preserve_rng_state=self.preserve)

    def layer(self, position: int, x: Tensor) -> Tensor:
        def run(x: Tensor) -> Tensor:
            h = self.dropout(torch.tanh(self.layers[position](x)))
            gates = self.gating.block_gates(position)
            if position == self.fails_at:
                raise Interrupted
            if torch._C._current_graph_task_id() == -1:
                self.handed.append((position, gates))
            return x + (h if gates is None else h * gates.repeat_interleave(WIDTH // HEADS_EACH))

        return self._through(0, run, x)

    def encoder(self, x: Tensor) -> Tensor:
        def run(x: Tensor) -> Tensor:
            self.gating.begin_forward(self.layers, whole=False)
            try:
                return self.layer(1, self.layer(0, self.dropout(x)))
            finally:
                self.gating.end_forward()

        return self._through(1, run, x)

    def forward(self, x: Tensor) -> Tensor:
        def run(x: Tensor) -> Tensor:
            with self.gating.forward_pass(self):
                return self.layer(3, self.layer(2, self.encoder(self.dropout(x))))

        return self._through(2, run, x)

    def gradients(self) -> list[Tensor]:
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters()]


def made(seed: int, *args, **options) -> Stack:
    torch.manual_seed(seed)
    return Stack(*args, **options).double()


PARTS = ["whole", "whole", "whole", "encoder", "layer", "nothing", "eval", "draw", "backward", "train"]


def run_program(seed: int, model: Stack, beside: Stack | None = None) -> None:
    """Run the program of this seed: passes of the whole, of parts and of layers, and backward passes in any
    order.

    With a second model `beside` it the two call one another, and passes are interrupted by errors.
    """
    parts = PARTS + ([] if beside is None else ["both", "inside out", "error", "error"])
    choose = random.Random(seed)
    pending: list[Tensor] = []
    torch.manual_seed(seed + 1)
    for _ in range(choose.randint(4, 9)):
        x = torch.randn(3, WIDTH, dtype=torch.float64, requires_grad=True)
        part = choose.choice(parts)
        position, weight = choose.randrange(BLOCKS), choose.uniform(0.5, 2.0)
        if part == "nothing":
            with torch.no_grad():
                choose.choice([model, model.encoder])(x)
        elif part == "eval":
            model.eval()
            model(x).square().sum().backward()
            model.train()
        elif part == "draw":
            model.gating.draw()
        elif part == "train":
            model.train()
        elif part == "error":
            model.fails_at = position
            with suppress(Interrupted):
                choose.choice([model, model.encoder])(x)
            model.fails_at = None
        elif part in ("both", "inside out"):
            one, other = (model, beside) if part == "both" else (beside, model)
            pending.append(weight * other(one(x)).square().sum())
        elif part == "backward":
            chosen = choose.sample(range(len(pending)), choose.randint(0, len(pending)))
            joined = choose.random() < 0.5
            losses = [pending[i] for i in chosen]
            pending = [loss for i, loss in enumerate(pending) if i not in chosen]
            _backward(losses, joined)
        else:
            out = (
                model(x)
                if part == "whole"
                else model.encoder(x)
                if part == "encoder"
                else model.layer(position, x)
            )
            pending.append(weight * out.square().sum())
    if choose.random() < 0.3:  # one of them gets no gradient
        pending = pending[1:]
    choose.shuffle(pending)
    _backward(pending, choose.random() < 0.5)


def _backward(losses: list[Tensor], joined: bool) -> None:
    if joined and losses:
        total = sum(losses[1:], losses[0])
        (total * total.detach().sin()).backward()
    else:
        for loss in losses:
            loss.backward()
