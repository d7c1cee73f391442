"""Stage II, structured: the lowest heads of every layer, and groups of neurons, are taken out by our surgery.

Surgery cuts the frozen matrices, of which it must see the plain ones; A's columns, B's rows, S2 and S1 are
cut along with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...dsee.scores import Matrix, check_head_mode, head_scores
from ...dsee.weight_masks import check_ratio
from ...gating import HeadMap
from ...options.errors import OptionError
from ..heads.layouts.locate import attentions_of
from ..heads.layouts.projections import FeedForward, Units
from ..heads.surgery.pruning import Removal, prune_heads
from ..heads.surgery.slices import columns_of
from ..heads.units import units_of
from .layer import DseeLinear, dsee_layers
from .state import detached, dsee_of, set_trainable
from .targets import Part, Target, roles_of
from .update_cuts import cut_updates
from .weights import check_trained, place_masks


def score_heads(model: nn.Module, mode: str = "ABS") -> dict[str, Tensor]:
    """Score every head by what its rows of query and value have learnt.

    Args:
        mode: ABS, or WABS, which counts the frozen rows as well.

    Returns:
        {block: [H] float64}, low ones first to go

    Raises:
        OptionError: another mode.
        ValueError: a block's query or value has no update (names it), or nothing has trained them.
    """
    layers = dsee_layers(model)
    paths = {id(layer.base_layer): path for path, layer in layers.items()}
    dsee_of(model)
    if mode == "ABS":
        check_trained(layers)
    scores = {}
    with detached(model):
        attentions = attentions_of(model)
    for attention in attentions:
        found = roles_of(attention)
        pair = []
        for role in ("query", "value"):
            module, start, stop = found.get(role, (None, 0, 0))
            if id(module) not in paths:
                raise ValueError(
                    f"the heads of {attention.block.name} cannot be scored: its {role} has no update"
                )
            pair.append(_rows_of(layers[paths[id(module)]], start, stop))
        scores[attention.block.name] = head_scores(*pair, attention.block.num_heads, mode)
    return scores


def prune_units(
    model: nn.Module,
    prune_heads_num: int = 0,
    neurons: float = 0.0,
    group: int = 32,
    mode: str = "ABS",
    neuron_scores: Tensor | None = None,
    check: bool | Mapping[str, Any] = True,
) -> Removal:
    """Take the lowest heads of every layer, and a share of its neurons, out of a model for good, in place.

    The outputs are those of the model without these units' updates and weights. All is done or nothing.

    Args:
        model: with an update.
        prune_heads_num: heads that go from every attention block.
        neurons: share of the groups of neurons that goes from every feed-forward block, to the nearest.
        group: neurons in a group.
        mode: see `score_heads`.
        neuron_scores: [groups of all blocks], in the order of `head_map_of(model, group, heads=False)`; None
            for the size of the weights that lead to a neuron times that of those that leave it.
        check: see `prune_heads`, which takes a last look at the frozen model.

    Raises:
        OptionError: as many heads as a block has, or a share outside [0, 1).
        ValueError: heads cannot be scored, neurons not be told apart, or surgery refuses the model.
    """
    whole = isinstance(prune_heads_num, int) and not isinstance(prune_heads_num, bool)
    if not whole or prune_heads_num < 0:
        raise OptionError("prune_heads_num", f"must be a whole number, 0 or more, got {prune_heads_num!r}")
    check_ratio(neurons, "prune_neurons")
    check_head_mode(mode)
    scores = score_heads(model, mode) if prune_heads_num else {}
    return _remove(model, scores, prune_heads_num, neurons, group, neuron_scores, check)


def keep_units(
    model: nn.Module, keep: list[bool], group: int | None = None, check: bool | Mapping[str, Any] = True
) -> Removal:
    """Take all units but these out of a model with an update, and cut the update along.

    Args:
        keep: [N] in the order of `head_map_of(model)`, with `group` of `head_map_of(model, neurons=group)`.
    """
    state = dsee_of(model)
    with detached(model) as layers:
        blocks = units_of(model, group)
        numbers = HeadMap([one.block for one in blocks]).kept_by_block(keep)
        paths = {id(module): path for path, module in model.named_modules()}
        # [features] of each matrix of which a part goes, by path: (whether rows, which are left)
        cuts: dict[str, tuple[bool, Tensor]] = {}
        for one in blocks:
            for projection in one.projections:
                left = columns_of(projection, numbers[one.block.name], one.block.num_heads)
                if not bool(left.all()):
                    cuts[paths[id(projection.module)]] = (projection.out, left)
        removal = prune_heads(model, keep, check, neurons=group)
        cut_updates(model, state, layers, cuts)
    state.targets = [_cut_target(target, cuts.get(target.path)) for target in state.targets]
    set_trainable(model, state.task_head)
    place_masks(model, state.masks_updates)
    return removal


def _remove(
    model: nn.Module,
    scores: Mapping[str, Tensor],
    heads: int,
    neurons: float,
    group: int,
    neuron_scores: Tensor | None,
    check: bool | Mapping[str, Any],
) -> Removal:
    with detached(model):
        blocks = units_of(model, group if neurons else None)
        feed_forward = [one for one in blocks if isinstance(one, FeedForward)]
        if neuron_scores is not None:
            count = sum(one.block.num_heads for one in feed_forward)
            if tuple(neuron_scores.shape) != (count,):
                given_shape = list(neuron_scores.shape)
                raise ValueError(f"{count} groups of neurons need as many scores, not {given_shape}")
            sizes = [one.block.num_heads for one in feed_forward]
            given = dict(zip((one.block.name for one in feed_forward), neuron_scores.split(sizes)))
        else:
            given = {one.block.name: _sizes_of_groups(one) for one in feed_forward}
    keep: list[bool] = []
    for one in blocks:
        count = one.block.num_heads
        if one.block.name in given:
            gone, values = int(neurons * count + 0.5), given[one.block.name]
        else:
            gone, values = heads, scores.get(one.block.name, torch.zeros(count))
        if gone >= count and gone:
            name = "prune_neurons" if one.block.name in given else "prune_heads_num"
            raise OptionError(name, f"leaves nothing of {one.block.name}, which has {count}")
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"the scores of {one.block.name} are not all numbers: nothing can be ranked")
        lowest = values.argsort(stable=True)[:gone].tolist()
        keep += [number not in lowest for number in range(count)]
    return keep_units(model, keep, group if neurons else None, check)


def _sizes_of_groups(one: Units) -> Tensor:
    """Score groups of neurons by the norms of the weights into them, times that of those out of them."""
    total = None
    for projection in one.projections:
        weight = projection.module.weight.detach().double()
        transposed = isinstance(projection.module, Conv1D)
        dim = int(projection.out) if transposed else 1 - int(projection.out)  # of the neurons
        # [features] -> [parts, groups, neurons] -> [groups]
        norms = weight.square().sum(1 - dim).view(projection.parts, -1, projection.unit).sum((0, 2)).sqrt()
        total = norms if total is None else total * norms
    return total


def _rows_of(layer: DseeLinear, start: int, stop: int) -> Matrix:
    """Return a range of a layer's output features as a matrix with an update."""
    whole = layer.matrix()
    inputs = whole.down.shape[1]
    inside = (whole.positions >= start * inputs) & (whole.positions < stop * inputs)
    positions, values = whole.positions[inside] - start * inputs, whole.values[inside]
    return Matrix(whole.weight[start:stop], whole.down, whole.up[start:stop], positions, values, whole.scale)


def _cut_target(target: Target, cut: tuple[bool, Tensor] | None) -> Target:
    """Return a target with its ranges as they lie after a cut of its output features."""
    if cut is None or not cut[0]:
        return target
    before = [0, *cut[1].cumsum(0).tolist()]
    parts = (Part(part.role, before[part.start], before[part.stop]) for part in target.parts)
    return Target(target.path, target.block, tuple(parts))
