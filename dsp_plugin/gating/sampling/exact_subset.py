"""Draws of exactly K of N heads, and their marginals: SIMPLE (Ahmed et al., ICLR 2023, arXiv 2210.01941).

Notation: theta [N] the scores; z [N] a mask of K ones, drawn with

    p(z | sum z = K)  proportional to  exp(theta . z);       mu = E[z], its marginals.

The paper's table (algorithm 1), log-sums of exp(theta . z) over the masks of the first i heads with j ones,
is here a tree: a node stands for some heads that lie side by side, has the log-sum of every count of ones
among them, and is made of its two halves, A[n] = logsumexp_a (left[a] + right[n - a]). So all is done in
log2(N) steps of whole tensors, not in N, on whatever device, in float64. Going down again,

    W[n, a] = exp(left[a] + right[n - a] - A[n])        P(the left half has a ones | the node has n)

gives exact samples (a is drawn by W, from the root's K to the leaves) and marginals (P(the node has n ones)
is handed down). Where every block is to keep some heads at least, counts below that are left out of its node:
p is then that of the masks which keep to it.

Backward. d mu / d theta is the covariance C of p, and C g for a gradient g of the masks takes two more passes
through the same W: up, E[n] = the expected sum of g over the node's ones, given n of them; down, the expected
sum outside of the node. All terms are averages of g, so nothing overflows, however far apart the scores are.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["exact_subset"]


def exact_subset(
    scores: Tensor,
    k: int,
    samples: int = 1,
    sizes: Sequence[int] | None = None,
    minimum: int = 0,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw masks of exactly K heads with p(z) proportional to exp(scores . z), and return the marginals, too.

    NaN or infinite scores are not looked for, which would make a GPU wait.

    Args:
        scores: [N], any floating type; the gradient comes back in this type.
        k: ones in every mask, 0..N.
        samples: M, masks to draw.
        sizes: heads of each block, in order, N in all; None: one block.
        minimum: ones that every block has at least, or all its heads, if those are fewer.
        generator: of the random numbers; None: that of the device.

    Returns:
        masks: [M, N] float64, exactly 0 or 1. Their gradient goes on as that of the marginals (the paper's
            estimator, stopgrad(z - mu) + mu).
        marginals: [N] float64, differentiable.

    Raises:
        ValueError: k that no mask can have, scores that are not a floating [N], or sizes of other heads.
    """
    if scores.dim() != 1 or not scores.is_floating_point():
        raise ValueError(f"scores must be a floating vector [N], got {scores.dtype} {tuple(scores.shape)}")
    sizes = (scores.numel(),) if sizes is None else tuple(sizes)
    if sum(sizes) != scores.numel():
        raise ValueError(f"{scores.numel()} scores for blocks of {sum(sizes)} heads")
    least = sum(min(minimum, size) for size in sizes)
    if not least <= k <= scores.numel():
        raise ValueError(f"k (heads to keep) must be in {least}..{scores.numel()}, got {k}")
    if not scores.numel():
        return scores.double().expand(samples, 0), scores.double()
    tree = _tree(sizes if minimum else (scores.numel(),), int(k), minimum, scores.device)
    return _ExactSubset.apply(scores, tree, samples, generator)


@dataclass(frozen=True)
class _Level:
    """How pairs of nodes with c counts each (0..c-1) are joined.

    Attributes:
        counts: [n] counts of the joined node; at the root K alone.
        rest: [n, c] index of counts - a in the other half; c where it has no such count.
        allowed: bool [nodes, c], counts that the halves may have; None: all.
    """

    counts: Tensor
    rest: Tensor
    allowed: Tensor | None


@dataclass(frozen=True)
class _Tree:
    """The shape of the tree: a power of two of leaves, padded by heads that are never drawn.

    Attributes:
        leaves: how many. places: [N] the leaf of every head. levels: from the leaves to the root.
    """

    leaves: int
    places: Tensor
    levels: tuple[_Level, ...]


@functools.lru_cache(maxsize=32)
def _tree(sizes: tuple[int, ...], k: int, minimum: int, device: torch.device) -> _Tree:
    """Lay out blocks of these sizes: each has the same power of two of leaves."""
    width, blocks = _power_of_two(max(sizes)), _power_of_two(len(sizes))
    leaves = max(2, width * blocks)
    places = [block * width + head for block, size in enumerate(sizes) for head in range(size)]
    levels, size, known = [], 1, 2
    while size < leaves:
        allowed = None
        if minimum and size == width:
            least = torch.tensor([min(minimum, one) for one in sizes] + [0] * (leaves // width - len(sizes)))
            allowed = (torch.arange(known) >= least[:, None]).to(device)
        size *= 2
        counts = torch.tensor([k]) if size == leaves else torch.arange(min(size, k) + 1)
        rest = counts[:, None] - torch.arange(known)
        rest = torch.where((rest >= 0) & (rest < known), rest, known)
        levels.append(_Level(counts.to(device), rest.to(device), allowed))
        known = len(counts)
    return _Tree(leaves, torch.tensor(places, device=device), tuple(levels))


def _power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below `number`."""
    return 1 << (number - 1).bit_length()


def _padded(values: Tensor, fill: float) -> Tensor:
    """Append `fill` to the last dimension: what an index `rest` finds where there is no such count."""
    return torch.nn.functional.pad(values, (0, 1), value=fill)


def _both(left: Tensor, right: Tensor) -> Tensor:
    """Join the values [nodes, c] of the left halves and of the right ones as [2 nodes, c], side by side."""
    return torch.stack((left, right), 1).flatten(0, 1)


def _at_leaves(values: Tensor, tree: _Tree, rest: float) -> Tensor:
    """Return [leaves, 2]: 0 for no one, `values` [N] for a one; `rest` where there is no head."""
    found = values.new_zeros(tree.leaves, 2)
    found[:, 1] = rest
    found[tree.places, 1] = values
    return found


def _splits(theta: Tensor, tree: _Tree) -> list[Tensor]:
    """Return W [nodes, n, c] of every level, from the leaves to the root; zeros where n cannot be."""
    sums, found = _at_leaves(theta, tree, -torch.inf), []
    for level in tree.levels:
        if level.allowed is not None:
            sums = sums.masked_fill(~level.allowed, -torch.inf)
        both = sums[0::2, None] + _padded(sums[1::2], -torch.inf)[:, level.rest]  # [nodes, n, c]
        sums = torch.logsumexp(both, -1)  # [nodes, n]
        found.append((both - sums.masked_fill(sums == -torch.inf, 0.0)[..., None]).exp_())
    return found


def _other_half(weights: Tensor, level: _Level) -> Tensor:
    """Turn W[n, a], by the left half's count, into W[n, b] by the right one's, b = n - a."""
    return _padded(weights, 0.0).gather(-1, level.rest.expand_as(weights))


def _reached(splits: list[Tensor], tree: _Tree) -> list[Tensor]:
    """Return P(a node has n ones), [nodes, n] of every level, from the root to the leaves."""
    found = [splits[-1].new_ones(1, 1)]
    for level, weights in zip(reversed(tree.levels), reversed(splits)):
        above = found[-1][..., None]
        left, right = (above * weights).sum(1), (above * _other_half(weights, level)).sum(1)
        found.append(_both(left, right))
    return found


def _drawn(splits: list[Tensor], tree: _Tree, samples: int, generator: torch.Generator | None) -> Tensor:
    """Draw masks [M, N]: from the root down, how many of a node's ones are in its left half."""
    row = tree.places.new_zeros(samples, 1)  # of each node, where its count stands in `counts`
    for level, weights in zip(reversed(tree.levels), reversed(splits)):
        nodes = torch.arange(len(weights), device=row.device)
        shares = weights[nodes, row].cumsum(-1)  # [M, nodes, c]
        whole = shares[..., -1:]
        u = torch.rand(*row.shape, 1, dtype=shares.dtype, device=shares.device, generator=generator)
        # the second condition: a count of probability 0 is not drawn, whatever rounding does to u * whole
        left = ((shares <= u * whole) & (shares < whole)).sum(-1)
        row = torch.stack((left, level.counts[row] - left), -1).flatten(1)
    return row[:, tree.places].to(splits[-1].dtype)


def _covariance_times(grad: Tensor, splits: list[Tensor], reached: list[Tensor], tree: _Tree) -> Tensor:
    """Return C g [N]: the covariance of every head with the sum of g over the heads drawn."""
    grad = grad - grad.mean()  # masks have K ones, so a constant has no covariance, and rounds to less
    inside, halves = _at_leaves(grad, tree, 0.0), []
    for level, weights in zip(tree.levels, splits):
        left, right = inside[0::2], inside[1::2]
        halves.append((left, right))
        inside = (weights * (left[:, None] + _padded(right, 0.0)[:, level.rest])).sum(-1)
    outside = torch.zeros_like(inside)  # times P(the node has n ones)
    down = zip(reversed(tree.levels), reversed(splits), reversed(halves), reached)
    for level, weights, (left, right), probability in down:
        known, here = outside[..., None], probability[..., None]
        beside = (_padded(right, 0.0)[:, level.rest], _padded(left, 0.0)[:, level.rest])
        both = (weights, _other_half(weights, level))
        outside = _both(*((w * (known + here * other)).sum(1) for w, other in zip(both, beside)))
    marginals = reached[-1][tree.places, 1]
    return outside[tree.places, 1] + marginals * (grad - inside[0, 0])


class _ExactSubset(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor, tree: _Tree, samples: int, generator: torch.Generator | None):
        splits = _splits(scores.detach().double(), tree)
        reached = _reached(splits, tree)
        ctx.save_for_backward(*splits, *reached)
        ctx.tree, ctx.dtype = tree, scores.dtype
        return _drawn(splits, tree, samples, generator), reached[-1][tree.places, 1]

    @staticmethod
    @once_differentiable
    def backward(ctx, of_masks: Tensor, of_marginals: Tensor):
        number = len(ctx.tree.levels)
        splits, reached = list(ctx.saved_tensors[:number]), list(ctx.saved_tensors[number:])
        grad = of_masks.double().sum(0) + of_marginals.double()
        return _covariance_times(grad, splits, reached, ctx.tree).to(ctx.dtype), None, None, None
