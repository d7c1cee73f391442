"""The parts of a block that belong to its units: matrices, sizes and arguments.

The units of an attention block are its heads, those of a feed-forward block groups of its neurons.

Notation: C width of the model, d size of a head, G query heads that share one key/value head (1 without
grouped queries). With G > 1 one "head" of the HeadMap is such a group: a key/value head and all its query
heads.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from transformers.pytorch_utils import Conv1D

from ....gating import AttentionBlock


@dataclass(frozen=True)
class Projection:
    """One weight matrix of a block, and which of its rows or columns belong to heads.

    Attributes:
        module: an `nn.Linear` or a `Conv1D`.
        out: its output features belong to heads (query, key, value; up, gate); else its input features
            (output projection; down projection).
        unit: features of a head: d, G * d, or (G + 2) * d where query, key and value are interleaved; of a
            group of neurons: their number.
        parts: number of equal sections side by side (3 for query, key and value in one matrix, 2 for up and
            gate).
    """

    module: nn.Module
    out: bool
    unit: int
    parts: int = 1

    @property
    def features(self) -> int:
        """All features that belong to heads: rows or columns of the weight."""
        weight = self.module.weight
        return weight.shape[int(self.out) if isinstance(self.module, Conv1D) else 1 - int(self.out)]

    @property
    def num_heads(self) -> int:
        """Number of heads of the HeadMap."""
        return self.features // (self.unit * self.parts)


@dataclass(frozen=True)
class Size:
    """An integer attribute that a `forward` reads and that follows the number of heads: it is heads * unit.

    Attributes:
        module: the attention module or a part of it.
        name: the attribute: "num_heads" (unit G), "num_key_value_heads" (1), "all_head_size" (G * d).
        unit: how much one head of the HeadMap adds to it.
    """

    module: nn.Module
    name: str
    unit: int


@dataclass(frozen=True)
class Bias:
    """An argument of the attention module's `forward` that has a dimension of heads: a bias of the scores.

    Attributes:
        argument: its name in the signature: "position_bias" (MPNet), "alibi" (BLOOM).
        dim: the dimension of heads.
        batched: examples and heads lie in one dimension, B * H (BLOOM's alibi [B * H, 1, S]).
    """

    argument: str
    dim: int
    batched: bool = False


@dataclass(frozen=True)
class Units:
    """One block of a model: where its units are.

    Attributes:
        block: its entry in the HeadMap.
        module: the module that remembers which units are left: an attention module, a down projection.
        projections: all its weights with rows or columns of units.
        sizes: the integers that must follow the number of units.
    """

    block: AttentionBlock
    module: nn.Module
    projections: tuple[Projection, ...]
    sizes: tuple[Size, ...] = ()

    @property
    def output(self) -> Projection:
        """The output (or down) projection: its input is what the units give, side by side."""
        return next(projection for projection in self.projections if not projection.out)


@dataclass(frozen=True)
class Attention(Units):
    """One attention block: `module` is the one whose `forward` computes the attention.

    Attributes:
        group: G.
        biases: the arguments of `module` that have a dimension of heads.
        dispatches: it calls Transformers' attention interface; else it computes the attention by itself.
    """

    group: int = 1
    biases: tuple[Bias, ...] = ()
    dispatches: bool = True


@dataclass(frozen=True)
class FeedForward(Units):
    """One feed-forward block: `module` is its down projection, whose path is the block's name, too.

    Attributes:
        flat: the down projection is given all positions of all examples in one dimension (OPT).
    """

    flat: bool = False


def name_in(module: nn.Module, part: nn.Module) -> str | None:
    """Return the name under which a module holds a part; None where it does not hold it directly."""
    return next((name for name, found in module.named_children() if found is part), None)
