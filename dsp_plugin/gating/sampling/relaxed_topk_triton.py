"""The rounds of the relaxed top-K (formulas: `relaxed_topk.py`) on CUDA: a Triton kernel for each direction.

Each kernel is a single program that holds all N heads, padded to a power of two, and loops over the K rounds
inside, so a sample costs two launches and no synchronisation. All is float64. Imported for scores on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .limits import EPS, MAX_GAIN

MAX_HEADS = 1024


@triton.jit
def _forward_kernel(scores, temperature, probs, gates, n, k, EPS: tl.constexpr, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    live = i < n
    r = tl.load(scores + i, mask=live, other=-float("inf"))  # the padding draws probability 0
    t = tl.load(temperature)
    eps = tl.full((BLOCK,), EPS, tl.float64)
    z = tl.zeros((BLOCK,), tl.float64)
    for j in range(k):
        e = tl.exp((r - tl.max(r, 0)) / t)
        p = e / tl.sum(e, 0)
        tl.store(probs + j * n + i, p, mask=live)
        z += p
        r += tl.log(tl.maximum(1.0 - p, eps))
    tl.store(gates + i, z, mask=live)


@triton.jit
def _backward_kernel(
    probs, grad, temperature, out, n, k, EPS: tl.constexpr, MAX_GAIN: tl.constexpr, BLOCK: tl.constexpr
):
    i = tl.arange(0, BLOCK)
    live = i < n
    g = tl.load(grad + i, mask=live, other=0.0)
    t = tl.load(temperature)
    eps = tl.full((BLOCK,), EPS, tl.float64)
    bound = MAX_GAIN * tl.sqrt(tl.sum(g * g, 0))
    r = tl.zeros((BLOCK,), tl.float64)
    for j in range(k):
        p = tl.load(probs + (k - 1 - j) * n + i, mask=live, other=0.0)
        rest = 1.0 - p
        q = tl.where(rest > eps, p / tl.maximum(rest, eps), 0.0)
        v = p * g - q * r
        r += (v - p * tl.sum(v, 0)) / t
        norm = tl.sqrt(tl.sum(r * r, 0))
        r *= tl.where(norm > bound, bound / norm, 1.0)
    tl.store(out + i, r, mask=live)


def forward(scores: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Return gates [N] and the probabilities of every round [K, N] of noisy scores [N] (float64, CUDA)."""
    n = scores.numel()
    probs, gates = scores.new_empty(k, n), torch.empty_like(scores)
    with torch.cuda.device_of(scores):
        t = _as_tensor(temperature, scores)
        _forward_kernel[(1,)](scores, t, probs, gates, n, k, EPS=EPS, **_shape(n))
    return gates, probs


def backward(probs: Tensor, grad: Tensor, temperature: float) -> Tensor:
    """Return the gradient of the scores [N] from dL/dgates [N] and probabilities [K, N] (float64, CUDA)."""
    k, n = probs.shape
    out = torch.empty_like(grad)
    with torch.cuda.device_of(grad):
        t = _as_tensor(temperature, grad)
        _backward_kernel[(1,)](probs, grad, t, out, n, k, EPS=EPS, MAX_GAIN=MAX_GAIN, **_shape(n))
    return out


def _as_tensor(temperature: float, like: Tensor) -> Tensor:
    # Triton rounds a float argument to float32. A fill is a launch; a copy from the host would synchronise.
    return like.new_full((1,), temperature)


def _shape(n: int) -> dict[str, int]:
    # One warp needs no barrier for its sums; past 128 heads the work on each lane outweighs that.
    block = max(32, triton.next_power_of_2(n))
    return {"BLOCK": block, "num_warps": 1 if block <= 128 else 4}
