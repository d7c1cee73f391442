"""The parts of an attention block that belong to its heads: matrices, sizes and arguments.

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
        out: its output features belong to heads (query, key, value); else its input features (output
            projection).
        unit: features of a head: d, G * d, or (G + 2) * d where query, key and value are interleaved.
        parts: number of equal sections side by side (3 for query, key and value in one matrix).
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
class Attention:
    """One attention block of a model.

    Attributes:
        block: its entry in the HeadMap.
        module: the module whose `forward` computes the attention.
        group: G.
        projections: all its weights with rows or columns of heads.
        sizes: the integers that must follow the number of heads.
        biases: the arguments of `module` that have a dimension of heads.
        dispatches: it calls Transformers' attention interface; else it computes the attention by itself.
    """

    block: AttentionBlock
    module: nn.Module
    group: int
    projections: tuple[Projection, ...]
    sizes: tuple[Size, ...] = ()
    biases: tuple[Bias, ...] = ()
    dispatches: bool = True

    @property
    def output(self) -> Projection:
        """The output projection: its input is the heads' context, side by side."""
        return next(projection for projection in self.projections if not projection.out)


def name_in(module: nn.Module, part: nn.Module) -> str | None:
    """Return the name under which a module holds a part; None where it does not hold it directly."""
    return next((name for name, found in module.named_children() if found is part), None)
