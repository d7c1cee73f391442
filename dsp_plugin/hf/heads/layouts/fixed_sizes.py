"""Integers that a forward reads and that must follow the number of heads; others are refused.

A role is recognised by the name and checked by the value: a number of heads, of key/value heads, or the width
of all heads. A width that may also be the model's own is taken for the heads' only where the source uses it
for the context alone.

Notation: H query heads, K key/value heads, d size of a head, G = H / K.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from torch import nn

from .projections import Projection, Size, name_in
from .size_probe import Probe
from .sources import Source, hands_on_bias, read_only_for_zeros, reshapes_only_context, source_of

_QUERY_HEADS = re.compile(r"^(num_|n_)?(attention_|attn_|query_)?heads?$|^nhead$")
_KEY_HEADS = re.compile(r"^(num_|n_)?(key_value|kv)_heads?$")
_CONTEXT_WIDTH = ("all_head_size", "inner_dim")
_WIDTHS = ("embed_dim", "hidden_size", "d_model", "dim", "hidden_dim", "width")
# integers that are no sizes of all heads together, whatever their value happens to be
_OTHERS = frozenset(
    "layer_idx layer_id head_dim head_size attention_head_size key_value_proj_dim num_key_value_groups "
    "rotary_ndims rotary_dim sliding_window relative_attention_num_buckets relative_attention_max_distance "
    "position_buckets max_relative_positions pos_ebd_size max_position_embeddings".split()
)
_NO_VALUES = ("dtype", "device", "shape", "size", "ndim", "dim", "is_cuda")


class NotKnown(ValueError):
    """The reason why an attention module cannot be served."""


def sizes_of(
    module: nn.Module,
    projections: tuple[Projection, ...],
    group: int,
    head_dim: int,
    no_sizes: frozenset[str],
    probe: Callable[[], Probe | None],
) -> tuple[Size, ...]:
    """Find the sizes of an attention module and of those parts of it that are no projections.

    Args:
        group: G.
        head_dim: d.
        no_sizes: names of integers that are read, but do not depend on the number of heads.
        probe: called only where a name leaves the role open.

    Raises:
        NotKnown: it reads something that cannot follow the number of heads, or that may be of this kind.
    """
    heads = next(p for p in projections if p.out).num_heads
    output = name_in(module, next(p.module for p in projections if not p.out))
    owned = {id(projection.module) for projection in projections}
    found: list[Size] = []
    for path, part, source in _read_parts(module, owned):
        for chain in sorted(source.reads):
            where = ".".join(filter(None, (path, *chain)))
            # surgery sets GPT-2's
            if chain[0] in no_sizes or chain == ("split_size",) and projections[0].parts > 1:
                continue
            _check_weight(part, chain, owned, where)
            if chain[0] == "config":
                _check_config(chain, part, where)
                continue
            value = getattr(part, chain[0], None)
            if len(chain) > 1 or isinstance(value, bool) or not isinstance(value, int) or chain[0] in _OTHERS:
                continue
            if _QUERY_HEADS.search(chain[0]) and hands_on_bias(type(part)):
                # of a bias for all heads, sliced by the attention function
                if read_only_for_zeros(type(part), chain[0]):
                    continue
                raise NotKnown(f"reads {where} in its forward for its own heads and for a bias of all heads")
            unit = _unit(type(part), chain[0], value, group, head_dim, output)
            if unit is not None and value in (unit * heads, unit if heads == 0 else -1):
                found.append(Size(part, chain[0], unit))
            elif (
                unit is not None
                or _may_follow(value, heads)
                and not _same(probe(), (*filter(None, path.split(".")), *chain))
            ):
                raise NotKnown(
                    f"reads {where} = {value} in its forward, which may follow the number of "
                    "heads in a way not known here"
                )
    return tuple(found)


def _read_parts(module: nn.Module, owned: set) -> Iterator[tuple[str, nn.Module, Source]]:
    for path, part in module.named_modules():
        if id(part) in owned or type(part).__module__.startswith("torch."):
            continue
        source = source_of(type(part))
        if source is None:
            raise NotKnown(
                f"has no source that can be read ({type(part).__name__}), and so no known use of its sizes"
            )
        yield path, part, source


def _unit(
    part_class: type, name: str, value: int, group: int, head_dim: int, output: str | None
) -> int | None:
    """Return how much one head of the HeadMap adds to the integer of this name; None if unknown."""
    if _QUERY_HEADS.search(name):
        return group
    if _KEY_HEADS.search(name):
        return 1
    if name in _CONTEXT_WIDTH:
        return group * head_dim
    if name in _WIDTHS and output is not None and reshapes_only_context(part_class, name, output):
        return group * head_dim
    return None


def _may_follow(value: int, heads: int) -> bool:
    return value > 1 and (heads < 2 or value % heads == 0)


def _same(found: Probe | None, path: tuple[str, ...]) -> bool:
    return found is not None and found.same_number(path)


def _check_config(chain: tuple[str, ...], part: nn.Module, where: str) -> None:
    name = chain[-1]
    if len(chain) < 2 or not (_QUERY_HEADS.search(name) or _KEY_HEADS.search(name) or name in _WIDTHS):
        return
    try:
        value = getattr(part.config, name, None)
    except Exception:  # a number that differs from layer to layer has no value for all
        value = None
    if isinstance(value, int):
        raise NotKnown(
            f"reads {where} in its forward, which is the same for all blocks, however many heads "
            "each of them has"
        )


def _check_weight(part: nn.Module, chain: tuple[str, ...], owned: set, where: str) -> None:
    if len(chain) < 2 or id(getattr(part, chain[0], None)) not in owned:
        return
    if chain[1] in ("weight", "bias") and (len(chain) == 2 or chain[2] not in _NO_VALUES):
        raise NotKnown(f"uses {where} without calling the projection, so that no gate is asked")
