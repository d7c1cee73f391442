"""The modules of Delta-Tuning: soft prompt and bottleneck adapter. Torch alone, for any host.

Shapes: B rows, L tokens, D the width, P vectors of a prompt, H the width of a bottleneck.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..options.errors import OptionError
from ..options.numbers import check_number

ADAPTERS = ("houlsby", "pfeiffer")
SPREAD = 1e-2  # of a new adapter's weights (Houlsby et al., section 3.6: near the identity)


class SoftPrompt(nn.Module):
    """P trained vectors that stand in the places of word embeddings (Lester et al., 2021; Ding et al., 2023).

    Positions, token types, LayerNorm and dropout come afterwards, as for any word.

    Args:
        vectors: [P, D], copied.
    """

    def __init__(self, vectors: Tensor):
        super().__init__()
        self.vectors = nn.Parameter(vectors.detach().clone())

    def forward(self, words: Tensor, prompt_ids: Tensor) -> Tensor:
        """Return word embeddings [B, L, D] with vector j at the places where prompt_ids [B, L] is j (from 1).

        Raises:
            ValueError: prompt_ids of another shape, or beyond P (looked at on the CPU alone, where a GPU
                would have to be waited for).
        """
        if prompt_ids.shape != words.shape[:-1]:
            raise ValueError(f"prompt_ids are {list(prompt_ids.shape)}, the tokens {list(words.shape[:-1])}")
        number = len(self.vectors)
        if prompt_ids.device.type == "cpu" and not torch.compiler.is_compiling() and prompt_ids.numel():
            low, high = int(prompt_ids.min()), int(prompt_ids.max())
            if low < 0 or high > number:
                raise ValueError(f"prompt_ids are {low} .. {high}, the prompt has vectors 1 .. {number}")
        # vector 0 is never seen
        vectors = functional.embedding((prompt_ids - 1).clamp(min=0), self.vectors)
        return torch.where((prompt_ids > 0)[..., None], vectors.to(words.dtype), words)

    def extra_repr(self) -> str:
        return f"{len(self.vectors)} vectors of {self.vectors.shape[1]}"


def prompt_from_words(embeddings: Tensor, number: int, seed: int) -> SoftPrompt:
    """Begin a prompt at the embeddings of words drawn at random (Lester et al., 2021, section 3.2).

    Args:
        embeddings: [V, D]. number: P.

    Raises:
        OptionError: `prompt_num` is no whole number, or not of 1 .. V.
    """
    reason = check_number(number, "count")
    if reason is not None:
        raise OptionError("prompt_num", f"{number!r}: {reason}")
    if number > len(embeddings):
        raise OptionError("prompt_num", f"is {number}, above the {len(embeddings):,} words of the model")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(embeddings), generator=generator)[:number]
    return SoftPrompt(embeddings.detach()[drawn.to(embeddings.device)])


class Adapter(nn.Module):
    """x + U swish(V x): a bottleneck after a sub-layer's output (Houlsby et al., 2019, figure 2).

    Its weights begin so small that it is nearly the identity.

    Args:
        width: D. bottleneck: H.
        generator: of the weights, on the CPU; None for torch's own.
    """

    def __init__(self, width: int, bottleneck: int, generator: torch.Generator | None = None):
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        with torch.no_grad():
            for layer in (self.down, self.up):
                nn.init.trunc_normal_(layer.weight, 0.0, SPREAD, -2 * SPREAD, 2 * SPREAD, generator)
                layer.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., D] of [..., D]."""
        return x + self.up(functional.silu(self.down(x)))


def bottleneck_of(width: int, reduction: int) -> int:
    """Return H = D / reduction, 1 at least.

    Raises:
        OptionError: the reduction is no whole number, 1 or more, or above the width.
    """
    reason = check_number(reduction, "count")
    if reason is not None:
        raise OptionError("reduction", f"{reduction!r}: {reason}")
    if reduction > width:
        raise OptionError("reduction", f"is {reduction}, above the width {width}: nothing would be left")
    return width // reduction


def check_adapter(kind: str) -> None:
    """Raise an OptionError for a kind of adapter that there is none of."""
    if kind not in ADAPTERS:
        raise OptionError("adapter", f"must be {' or '.join(ADAPTERS)}, got {kind!r}")


def is_bias(name: str) -> bool:
    """Return whether BitFit trains a parameter of this name (Ben Zaken et al., 2022)."""
    return name.rpartition(".")[2] == "bias"
