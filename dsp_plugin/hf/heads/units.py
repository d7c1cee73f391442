"""The units of a Transformers model: its heads, and where asked for groups of its neurons."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

from torch import nn

from ...gating import HeadMap
from ...gating.head_map import in_order
from .heads_link import LINK
from .layouts.feed_forward import Found, feed_forwards_of
from .layouts.locate import attentions_of, check_alone
from .layouts.projections import Units


def head_map_of(model: nn.Module, neurons: int | None = None, heads: bool = True) -> HeadMap:
    """Return the heads a model has now: encoder-self, then decoder-cross, then decoder-self blocks.

    With `neurons` its feed-forward blocks follow, encoder-ffn and then decoder-ffn. Names are module paths
    inside the base model, so that a model with a task head and one without have the same; in a user's own
    module around Transformers models, paths inside that module. A feed-forward block has the path of its down
    projection. A layer that is used several times (ALBERT) is one block.

    Args:
        neurons: how many neurons make a group, a unit beside the heads: group i owns the columns
            i * neurons .. of the down projection, and the same rows of those up; None for heads alone.
        heads: False for the feed-forward blocks alone.

    Raises:
        NotSupported: the model is not supported.
        ValueError: there is no Transformers model; `neurons` is missing, does not divide the neurons of every
            block, or is not the size of the groups that were removed before.
    """
    return HeadMap([units.block for units in units_of(model, neurons, heads)])


def units_of(root: nn.Module, neurons: int | None = None, heads: bool = True) -> list[Units]:
    """Return the blocks in the order of `head_map_of`. Arguments and errors are the same."""
    if neurons is None:
        if not heads:
            raise ValueError(
                "without heads there are no units but groups of neurons: give `neurons`, their size"
            )
        return list(attentions_of(root))
    if isinstance(neurons, bool) or not isinstance(neurons, int) or neurons < 1:
        raise ValueError(f"neurons must be a whole number of 1 or more, the size of a group; got {neurons!r}")
    attentions = attentions_of(root)
    found = feed_forwards_of(root, attentions)
    _check_size(neurons, found)
    return _sorted(root, [*(attentions if heads else []), *(block.grouped(neurons) for block in found)])


def recorded_units(root: nn.Module) -> list[Units]:
    """Return the blocks that a record of removal names: all heads, and neurons where groups were removed."""
    attentions = attentions_of(root)
    if not any(_groups(module) for module in root.modules()):
        return list(attentions)
    found = [block for block in feed_forwards_of(root, attentions) if _groups(block.output)]
    return _sorted(root, [*attentions, *(block.grouped(_groups(block.output)) for block in found)])


def named_units(root: nn.Module, groups: Mapping[str, int] | None) -> list[Units]:
    """Return the heads, and the feed-forward blocks of these names in groups of these sizes.

    Raises:
        ValueError: there is no such block, or a size is none or does not divide its neurons.
    """
    attentions = attentions_of(root)
    if not groups:
        return list(attentions)
    if not isinstance(groups, Mapping) or any(type(size) is not int or size < 1 for size in groups.values()):
        raise ValueError(f"the sizes of groups of neurons must be numbers of 1 or more; got {groups!r}")
    found = {block.name: block for block in feed_forwards_of(root, attentions)}
    for name, size in groups.items():
        if name not in found:
            raise ValueError(f"the record of kept heads is of another model: {name} is no feed-forward block")
        _check_size(size, [found[name]])
    blocks = (block.grouped(groups[name]) for name, block in found.items() if name in groups)
    return _sorted(root, [*attentions, *blocks])


def _sorted(root: nn.Module, units: list[Units]) -> list[Units]:
    check_alone(root, units)
    return in_order(units, lambda one: one.block.kind)


def _groups(module: nn.Module) -> int:
    """Return the size of the groups of neurons that were removed before a down projection; 0 for none."""
    link = module.__dict__.get(LINK)
    return 0 if link is None or link.kept is None else link.neurons


def _check_size(size: int, found: list[Found]) -> None:
    for block in found:
        before = _groups(block.output)
        if before and before != size:
            raise ValueError(
                f"neurons={size} is not how {block.name} lost neurons before: its groups are of {before}"
            )
    widths = [block.neurons for block in found if not _groups(block.output)]
    common = gcd(*widths)
    wrong = next((block for block in found if block.neurons % size), None)
    if wrong is not None:
        possible = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
        raise ValueError(
            f"neurons={size} does not divide the {wrong.neurons} neurons of {wrong.name}: give one of "
            f"{possible}"
        )
