"""The elementwise passes of diff pruning in torch: theta written, gradients measured, w and alpha updated.

This is the reference of what passes.cpp does in single loops, and what runs where that cannot: other devices
and dtypes, no compiler. Work goes through windows of the line, so that temporaries stay small; on a GPU
windows are larger and the formulas, the noise included, go through torch.compile.

Notation: theta = base + z * gate * w (gate: the gate of the element's group); G the loss's gradient at theta.
With price = lambda * P(group open), the gradients of loss + penalty are (spec of the paper's section 3, by
hand):
    w:      G z gate
    alpha:  G w gate dz/dalpha + price * dP(z > 0)/dalpha
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .concrete import StretchedConcrete
from .flat import FlatLayout
from .noise import Keys, uniform

# elements: on a CPU temporaries stay in the cache; on a GPU a few kernels each, yet small beside a model
WINDOW = {"cpu": 1 << 14, "cuda": 1 << 22}


class Rates(NamedTuple):
    """AdamW's numbers for one step: x -= rate mean / (sqrt(square) root + eps), gradients times `clip`."""

    clip: float | Tensor
    rate: float
    root: float
    eps: float


class Moments(NamedTuple):
    """Running means of gradients and of their squares, [N] each."""

    w_mean: Tensor
    w_square: Tensor
    alpha_mean: Tensor
    alpha_square: Tensor


class StepInputs(NamedTuple):
    """The tensors that a step is worked out from.

    Attributes:
        grads: the gradient at theta of every tensor; None counts as zero.
        w, alpha: [N]; an update changes them.
        gate: of every group, [G]. price: of every piece, [P].
        keys: of the noise that theta was drawn with.
    """

    grads: Sequence[Tensor | None]
    w: Tensor
    alpha: Tensor
    gate: Tensor
    price: Tensor
    keys: Keys


class NextTheta(NamedTuple):
    """The sample, of these keys and group gates, that an update writes into the parameters in passing."""

    base: Sequence[Tensor]
    gate: Tensor
    keys: Keys


def noise_of(start: int, keys: Keys, like: Tensor) -> Tensor:
    """Return the noise of positions start .. in the shape [count], dtype and place of `like`."""
    return uniform(start, like.numel(), keys, like.device).to(like.dtype)


def drawn_theta(
    base: Tensor, w: Tensor, alpha: Tensor, gate: Tensor, start: int, keys: Keys, concrete: StretchedConcrete
) -> Tensor:
    """Return theta of the elements from position `start` on, sampled with these keys."""
    return base + concrete.sample(alpha, noise_of(start, keys, w))[0] * gate * w


def mean_theta(base: Tensor, w: Tensor, alpha: Tensor, gate: Tensor, concrete: StretchedConcrete) -> Tensor:
    """Return the deterministic theta."""
    return base + concrete.mean(alpha)[0] * gate * w


def pulled_back(
    grad: Tensor,
    w: Tensor,
    alpha: Tensor,
    gate: Tensor,
    price: Tensor,
    start: int,
    keys: Keys,
    concrete: StretchedConcrete,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return (gradient of w, gradient of alpha, G w z, P(z > 0)), elementwise; G w z sums to a gate's."""
    z, slope = concrete.sample(alpha, noise_of(start, keys, w))
    opened, opening = concrete.open_probability(alpha)
    through = grad * w
    return grad * z * gate, through * gate * slope + price * opening, through * z, opened


def adam(
    x: Tensor, mean: Tensor, square: Tensor, grad: Tensor, rates: Rates, betas: tuple[float, float]
) -> None:
    """Take one AdamW step in place, without weight decay."""
    grad = grad * rates.clip
    mean.lerp_(grad, 1 - betas[0])
    square.lerp_(grad * grad, 1 - betas[1])
    x.sub_(rates.rate * mean / (square.sqrt() * rates.root + rates.eps))


class _Window(NamedTuple):
    pieces: slice
    flat: slice
    spans: list[tuple[int, int, int]]  # (tensor, first element, last + 1)


class TorchPasses:
    """The passes over the tensors of a layout, in any floating dtype, on any device.

    Args:
        compiled: send the formulas through torch.compile (for GPUs).
    """

    def __init__(self, layout: FlatLayout, concrete: StretchedConcrete, compiled: bool = False):
        self.layout = layout
        self.concrete = concrete
        wrap: Callable = torch.compile(dynamic=True) if compiled else lambda function: function
        self._drawn, self._mean, self._pulled = wrap(drawn_theta), wrap(mean_theta), wrap(pulled_back)
        self._adam = wrap(adam)
        self.windows = _windows(layout, WINDOW.get(layout.device.type, WINDOW["cpu"]))
        self._group = layout.group.to(layout.device)
        self._length = layout.length.to(layout.device)

    def write(
        self, base: Sequence[Tensor], w: Tensor, alpha: Tensor, gate: Tensor, keys: Keys | None
    ) -> None:
        """Write theta into the parameters, the sample of `keys` or, without keys, the deterministic one."""
        for window in self.windows:
            self._write_window(window, base, w, alpha, gate, keys)

    def measure(self, step: StepInputs) -> Tensor:
        """Sum over each piece, [P, 4] float64: |gradient of w|^2, |gradient of alpha|^2, G w z, P(z > 0)."""
        sums = torch.empty(self.layout.flat.numel(), 4, dtype=torch.float64, device=step.w.device)
        for window in self.windows:
            columns = self._pull_back(window, step)
            columns = (columns[0].square(), columns[1].square(), columns[2], columns[3])
            lengths = self._length[window.pieces]
            for number, column in enumerate(columns):
                if lengths.numel() == 1:
                    total = column.sum(dtype=torch.float64)
                else:
                    total = torch.segment_reduce(column.double(), "sum", lengths=lengths)  # [pieces]
                sums[window.pieces, number] = total
        return sums

    def update(
        self,
        step: StepInputs,
        moments: Moments,
        w_rates: Rates,
        alpha_rates: Rates,
        betas: tuple[float, float],
        following: NextTheta | None = None,
    ) -> None:
        """Take an AdamW step of w and one of alpha, in place; write the next theta if `following` says so."""
        for window in self.windows:
            to_w, to_alpha, _, _ = self._pull_back(window, step)
            here = window.flat
            w_mean, w_square, alpha_mean, alpha_square = (moment[here] for moment in moments)
            self._adam(step.w[here], w_mean, w_square, to_w, w_rates, betas)
            self._adam(step.alpha[here], alpha_mean, alpha_square, to_alpha, alpha_rates, betas)
            if following is not None:
                self._write_window(window, following.base, step.w, step.alpha, following.gate, following.keys)

    def _pull_back(self, window: _Window, step: StepInputs) -> tuple[Tensor, ...]:
        here, grads, w = window.flat, step.grads, step.w
        parts = []
        for tensor, first, last in window.spans:
            found = grads[tensor]  # any shape -> [its elements in the window]
            part = w.new_zeros(last - first) if found is None else found.reshape(-1)[first:last].to(w.dtype)
            parts.append(part)
        grad = torch.cat(parts)  # [elements]
        gate = self._spread(step.gate[self._group[window.pieces]], window)
        price = self._spread(step.price[window.pieces], window)
        alpha = step.alpha[here]
        return self._pulled(grad, w[here], alpha, gate, price, here.start, step.keys, self.concrete)

    def _write_window(self, window, base, w, alpha, gate, keys) -> None:
        here = window.flat
        # as above: [elements]
        below = torch.cat([base[t].reshape(-1)[first:last].to(w.dtype) for t, first, last in window.spans])
        gate = self._spread(gate[self._group[window.pieces]], window)
        if keys is None:
            theta = self._mean(below, w[here], alpha[here], gate, self.concrete)
        else:
            theta = self._drawn(below, w[here], alpha[here], gate, here.start, keys, self.concrete)
        parts = theta.split([last - first for _, first, last in window.spans])
        # each tensor -> [elements] -> [those in the window]
        targets = [self.layout.parameters[t].data.view(-1)[first:last] for t, first, last in window.spans]
        torch._foreach_copy_(targets, list(parts))

    def _spread(self, per_piece: Tensor, window: _Window) -> Tensor:
        """Spread numbers of pieces [pieces] to the window's [elements]; a single one stays as it is."""
        if per_piece.numel() == 1:
            return per_piece
        size = window.flat.stop - window.flat.start
        # [pieces] -> [elements]
        return torch.repeat_interleave(per_piece, self._length[window.pieces], output_size=size)


def _windows(layout: FlatLayout, size: int) -> list[_Window]:
    """Take neighbouring pieces together up to `size` elements."""
    flats, lengths = layout.flat.tolist(), layout.length.tolist()
    tensors, locals_ = layout.tensor.tolist(), layout.local.tolist()
    windows: list[_Window] = []
    first = 0
    while first < len(flats):
        last = first
        spans: dict[int, tuple[int, int]] = {}
        while last < len(flats) and (last == first or flats[last] + lengths[last] - flats[first] <= size):
            begin, _ = spans.get(tensors[last], (locals_[last], 0))
            spans[tensors[last]] = (begin, locals_[last] + lengths[last])
            last += 1
        end = flats[last - 1] + lengths[last - 1]
        elements = [(tensor, *span) for tensor, span in spans.items()]
        windows.append(_Window(slice(first, last), slice(flats[first], end), elements))
        first = last
    return windows
