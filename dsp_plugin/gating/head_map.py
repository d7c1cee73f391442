"""The attention heads of a model, and where asked for groups of its neurons, in one fixed order.

Everything else in the core speaks of these units by their flat index `0 .. N-1`; a `HeadMap` is the only
place that knows which block and which unit inside it an index stands for. What is said of heads here and
elsewhere holds for groups of neurons just as well, where a map has them: a unit is a group of input columns
of an output projection (or down projection).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

FEED_FORWARD = ("encoder-ffn", "decoder-ffn")
"""The kinds of blocks whose units are groups of neurons."""
KINDS = ("encoder-self", "decoder-cross", "decoder-self", *FEED_FORWARD)
"""The kinds of blocks, in the order in which a head map has them."""

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class AttentionBlock:
    """One attention module, or one feed-forward block.

    Attributes:
        name: dotted module path inside the model, unique.
        num_heads: heads (or groups of neurons) it has now (0 is allowed: a block whose heads were all
            removed).
        kind: what it attends from and to: `encoder-self`, `decoder-cross` or `decoder-self`; for a
            feed-forward block `encoder-ffn` or `decoder-ffn`.
        neurons: neurons in a group, of a feed-forward block; 0 for heads.
    """

    name: str
    num_heads: int
    kind: str
    neurons: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return what files say of it: name, num_heads, kind, and neurons where it has groups of them."""
        return {key: value for key, value in asdict(self).items() if key != "neurons" or value}


def in_order(items: Iterable[_Item], kind_of: Callable[[_Item], str]) -> list[_Item]:
    """Sort blocks, or what stands for them, by kind as a head map has them; else as they come."""
    return sorted(items, key=lambda item: KINDS.index(kind_of(item)))


class HeadMap:
    """Ordered attention blocks and the flat numbering of their N heads.

    Args:
        blocks: the attention blocks in the model's order; head counts may differ between blocks.

    Raises:
        ValueError: two blocks share a name, or a head count is negative.
    """

    def __init__(self, blocks: Sequence[AttentionBlock]):
        self.blocks: tuple[AttentionBlock, ...] = tuple(blocks)
        names = [block.name for block in self.blocks]
        if len(set(names)) != len(names):
            raise ValueError(f"attention blocks must have distinct names, got {names}")
        if any(block.num_heads < 0 for block in self.blocks):
            raise ValueError("an attention block cannot have a negative number of heads")
        self._start: dict[str, int] = {}
        start = 0
        for block in self.blocks:
            self._start[block.name] = start
            start += block.num_heads
        self.num_heads = start

    def index(self, name: str, head: int) -> int:
        """Return the flat index of head `head` of block `name`.

        Raises:
            KeyError: no such block or head.
        """
        block = self.blocks[self._position(name)]
        if not 0 <= head < block.num_heads:
            raise KeyError(f"{name} has heads 0..{block.num_heads - 1}, not {head}")
        return self._start[name] + head

    def range(self, name: str) -> tuple[int, int]:
        """Return [start, stop) of a block's heads in the flat numbering (KeyError: no such block)."""
        start = self._start[name]
        return start, start + self.blocks[self._position(name)].num_heads

    def split(self, values: Tensor) -> list[Tensor]:
        """Cut `values` [..., N] into one [..., h] view a block.

        Raises:
            ValueError: the last dimension is not N.
        """
        if values.shape[-1] != self.num_heads:
            raise ValueError(f"expected {self.num_heads} values, one a head, got {values.shape[-1]}")
        return list(torch.split(values, [block.num_heads for block in self.blocks], dim=-1))

    def kept_by_block(self, keep: Sequence[bool] | Tensor) -> dict[str, list[int]]:
        """Return the heads kept in every block: {block name: sorted head numbers}.

        Args:
            keep: bool [N], True = kept.

        Raises:
            ValueError: another number of flags than heads.
        """
        flags = [bool(flag) for flag in keep]
        if len(flags) != self.num_heads:
            raise ValueError(f"expected {self.num_heads} flags, one a head, got {len(flags)}")
        return {
            block.name: [head for head in range(block.num_heads) if flags[self._start[block.name] + head]]
            for block in self.blocks
        }

    def to_dict(self) -> dict[str, Any]:
        """Return what records and mask files say of it: {"blocks": [name, num_heads and kind of each]}."""
        return {"blocks": [block.to_dict() for block in self.blocks]}

    @property
    def mixed(self) -> bool:
        """True where some units are heads and others are groups of neurons."""
        return len({block.kind in FEED_FORWARD for block in self.blocks}) > 1

    def _position(self, name: str) -> int:
        for position, block in enumerate(self.blocks):
            if block.name == name:
                return position
        raise KeyError(f"no attention block {name!r}; blocks: {[b.name for b in self.blocks]}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HeadMap) and self.blocks == other.blocks

    def __hash__(self) -> int:
        return hash(self.blocks)

    def __repr__(self) -> str:
        groups = sum(block.num_heads for block in self.blocks if block.kind in FEED_FORWARD)
        counts = {"heads": self.num_heads - groups, "groups of neurons": groups}
        said = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"HeadMap({said or '0 heads'} in {len(self.blocks)} blocks)"
