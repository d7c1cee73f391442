"""Which K of N heads live: the relaxed top-K sample of DSP, the hard top-K, the straight-through top-K.

Notation: N scored heads; K heads to keep; T temperature; all vectors are [N] in HeadMap order.

Relaxed top-K (Li, Cotterell, Sachan, TACL 2021; Xie and Ermon, IJCAI 2019), always in float64:

    r^1 = scores + noise
    for j = 1..K:   p^j = softmax(r^j / T);   r^(j+1) = r^j + log(max(1 - p^j, eps))
    gates z = sum_j p^j,   eps = the smallest normal float64

sum(z) = K, but a single z_i is not bound by 1 while T is not small, because a head can be drawn twice: about
4 for T = 1 and K = 68 of 72, and not exactly 1 even for K = N. Equal scores share their draws at any T.

Backward. Write G = dL/dz and R^j = dL/dr^j, with R^(K+1) = 0. Round j gives, going down from K to 1,

    dL/dp^j = G - R^(j+1) / (1 - p^j)          (the second term is 0 where 1 - p^j <= eps: the max is flat)
    v       = p^j * dL/dp^j = p^j * G - q^j * R^(j+1)      with q^j = p^j / (1 - p^j)
    R^j     = R^(j+1) + (v - p^j * sum(v)) / T             (the Jacobian of the softmax)

and R^1 is the gradient of the scores. So only the K x N probabilities are kept, and a round is a handful of
passes over N numbers: a NumPy loop on a CPU, a Triton kernel a direction on CUDA, torch operations elsewhere.

The recursion multiplies R by up to p / (T (1 - p)) a round. Between T of about 0.1 and 0.0001 the sample is
chaotic in its scores: the exact gradient reaches 1e20 for K = 68 of 72, and overflows float64 where scores
tie at a low T. One such number spoils Adam's second moment for thousands of updates, so R is held to
`MAX_GAIN` times the norm of G after every round, keeping its direction. Wherever that bound is not reached
(for DSP's scores and noise, gains stay below about 1000 for T of 0.1 and above) the gradient is exact.
"""

from __future__ import annotations

import functools
import math
import operator
import warnings
from collections.abc import Sequence
from types import ModuleType

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .limits import EPS, MAX_GAIN, MIN_TEMPERATURE

__all__ = ["gumbel_noise", "hard_topk", "relaxed_topk", "straight_through_topk"]


def gumbel_noise(
    shape: Sequence[int], *, device: torch.device | str, generator: torch.Generator | None = None
) -> Tensor:
    """Draw standard Gumbel noise, -log(-log u) with u uniform and strictly inside (0, 1).

    Returns:
        [*shape] float64, every entry finite (-6.6 to 36.8)
    """
    u = torch.rand(*shape, dtype=torch.float64, device=device, generator=generator)
    u.clamp_(EPS, 1.0 - 2.0**-53)
    return u.log_().neg_().log_().neg_()


def relaxed_topk(scores: Tensor, k: int, temperature: float, noise: Tensor | None = None) -> Tensor:
    """Draw relaxed gates that sum to K (the formula is at the top of this module).

    NaN or +inf scores are not looked for, which would make a GPU wait: they give NaN gates.

    Args:
        scores: [N], any floating type; the gradient comes back in this type. Of [M, N] every row is a sample.
        k: heads to keep, 0..N
        temperature: T, at least 1e-30; the lower, the harder the gates
        noise: as the scores, added to them (`gumbel_noise`), a constant to the gradient; None adds nothing

    Returns:
        gates: [N] (or [M, N]) float64, each >= 0, sum K (in every row)

    Raises:
        ValueError: k outside 0..N, a temperature that is not positive, or tensors of the wrong shape or type
    """
    k = _checked(scores, k, (1, 2))
    if not MIN_TEMPERATURE <= temperature < math.inf:
        wanted = f"positive and finite (at least {MIN_TEMPERATURE})"
        raise ValueError(f"temperature must be {wanted}, got {temperature}")
    if noise is not None and noise.shape != scores.shape:
        wanted, given = tuple(scores.shape), tuple(noise.shape)
        raise ValueError(f"noise must have the shape of the scores, {wanted}, got {given}")
    return _RelaxedTopK.apply(scores, noise, k, float(temperature))


def hard_topk(scores: Tensor, k: int) -> Tensor:
    """Choose the K heads with the largest scores; of equal scores the one with the lower index goes first.

    Args:
        scores: [N]
        k: heads to keep, 0..N

    Returns:
        keep: [N] bool with exactly K True, on the device of the scores

    Raises:
        ValueError: k outside 0..N, scores that are not a floating [N], or a score that is NaN
    """
    k = _checked(scores, k)
    scores = scores.detach()
    if torch.isnan(scores).any():
        raise ValueError("scores hold NaN, so no top K exists; the training that made them has diverged")
    return _largest(scores, k)


def straight_through_topk(scores: Tensor, k: int) -> Tensor:
    """Return hard gates that learn: forward the hard top K, backward the identity.

    It runs at every training step, so NaN is not looked for, which would make a GPU wait; see `hard_topk`.

    Args:
        scores: [N]
        k: heads to keep, 0..N

    Returns:
        gates: [N], exactly 0 or 1, in the type of the scores

    Raises:
        ValueError: k outside 0..N, or scores that are not a floating [N]
    """
    return _StraightThrough.apply(scores, _checked(scores, k))


def _checked(scores: Tensor, k: int, dims: Sequence[int] = (1,)) -> int:
    if scores.dim() not in dims or not scores.is_floating_point():
        raise ValueError(f"scores must be a floating vector [N], got {scores.dtype} {tuple(scores.shape)}")
    k = operator.index(k)
    if not 0 <= k <= scores.shape[-1]:
        raise ValueError(f"k (heads to keep) must be in 0..{scores.shape[-1]}, got {k}")
    return k


def _largest(scores: Tensor, k: int) -> Tensor:
    order = torch.sort(scores, descending=True, stable=True).indices
    return torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, order[:k], True)


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor, k: int) -> Tensor:
        return _largest(scores, k).to(scores.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor):
        return grad, None


class _RelaxedTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx, scores: Tensor, noise: Tensor | None, k: int, temperature: float) -> Tensor:
        r = scores.detach().to(torch.float64, copy=True)  # [N], overwritten by the rounds
        if noise is not None:
            r += noise
        # rows, which are few numbers together, need no kernels of their own
        rounds = _rounds(r) if r.dim() == 1 else _TorchRounds
        z, p = rounds.forward(r, k, temperature)  # [N], [K, N]; or [M, N], [K, M, N]
        ctx.save_for_backward(p)
        ctx.temperature = temperature
        ctx.dtype = scores.dtype
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (p,) = ctx.saved_tensors
        rounds = _rounds(p) if p.dim() == 2 else _TorchRounds
        out = rounds.backward(p, grad.detach().contiguous(), ctx.temperature)
        if ctx.dtype == torch.float16:
            # 65504 is within MAX_GAIN's reach. NaN stays NaN, so that a loss scaler still sees an overflow.
            out = out.clamp_(-65504.0, 65504.0)
        return out.to(ctx.dtype), None, None, None


class _NumpyRounds:
    """The rounds on a CPU, by NumPy on the tensors' own memory: its call overhead is a third of torch's."""

    @staticmethod
    def forward(r: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
        probs = torch.empty(k, r.numel(), dtype=torch.float64)
        r_, t, ones = r.numpy(), np.empty(r.numel()), np.ones(r.numel())
        with np.errstate(all="ignore"):  # exp underflows by design
            for p in probs.numpy():
                np.subtract(r_, np.maximum.reduce(r_), out=p)
                np.divide(p, temperature, out=p)
                np.exp(p, out=p)
                np.divide(p, ones.dot(p), out=p)
                np.subtract(ones, p, out=t)
                np.maximum(t, EPS, out=t)
                np.log(t, out=t)
                np.add(r_, t, out=r_)
        return probs.sum(0), probs

    @staticmethod
    def backward(probs: Tensor, grad: Tensor, temperature: float) -> Tensor:
        p, g = probs.numpy(), grad.numpy()
        out = torch.zeros_like(grad)
        with np.errstate(all="ignore"):
            # Everything that does not depend on R, for all rounds at once: R <- keep*R + own + p*(q.R).
            mean = np.einsum("kn,n->k", p, g)  # p @ g, but never by BLAS threads
            own = p * (g - mean[:, None]) / temperature  # [K, N]
            rest = 1.0 - p
            q = np.where(rest > EPS, p / rest, 0.0) / temperature  # [K, N]
            keep = 1.0 - q  # [K, N]
            bound = MAX_GAIN * math.sqrt(g.dot(g))
            r, t = out.numpy(), np.empty_like(g)
            for j in range(len(p) - 1, -1, -1):
                np.multiply(p[j], q[j].dot(r), out=t)
                np.multiply(r, keep[j], out=r)
                np.add(r, own[j], out=r)
                np.add(r, t, out=r)
                norm = math.sqrt(r.dot(r))
                if norm > bound:
                    np.multiply(r, bound / norm, out=r)
        return out


class _TorchRounds:
    """The rounds in torch operations, on whatever device: the fallback where there is no Triton."""

    @staticmethod
    def forward(r: Tensor, k: int, temperature: float) -> tuple[Tensor, Tensor]:
        probs = r.new_empty(k, *r.shape)
        for p in probs:
            torch.softmax(r / temperature, -1, out=p)
            r += (1.0 - p).clamp_(min=EPS).log_()
        return probs.sum(0), probs

    @staticmethod
    def backward(probs: Tensor, grad: Tensor, temperature: float) -> Tensor:
        rest = 1.0 - probs
        q = torch.where(rest > EPS, probs / rest, 0.0)  # [K, N]
        bound = MAX_GAIN * grad.norm(dim=-1, keepdim=True)
        r = torch.zeros_like(grad)
        for j in range(len(probs) - 1, -1, -1):
            v = probs[j] * grad - q[j] * r
            r = r + (v - probs[j] * v.sum(-1, keepdim=True)) / temperature
            r = r * (bound / r.norm(dim=-1, keepdim=True)).clamp_(max=1.0).nan_to_num_(1.0)
        return r


def _rounds(x: Tensor) -> type | ModuleType:
    """Choose who computes the rounds of a vector [N] or of probabilities [K, N]."""
    if x.device.type == "cpu":
        return _NumpyRounds
    kernels = _triton_kernels() if x.is_cuda else None
    if kernels is not None and x.shape[-1] <= kernels.MAX_HEADS:
        return kernels
    return _TorchRounds


@functools.cache
def _triton_kernels() -> ModuleType | None:
    try:
        from . import relaxed_topk_triton as kernels
    except ImportError:
        return None
    try:  # Triton compiles at the first launch, and then wants a C compiler and Python's headers
        kernels.forward(torch.zeros(1, dtype=torch.float64, device="cuda"), 1, 1.0)
    except Exception as error:
        said = f"Triton cannot compile here, so sampling heads on the GPU is slower: {error}"
        warnings.warn(said, stacklevel=2)
        return None
    return kernels
