"""Removal of heads and groups of neurons from a Transformers model, and the way back with zeros there.

A removed head loses its rows of the query, key and value projections and its columns of the output
projection, a group of neurons its rows of the up (and gate) projections and its columns of the down
projection; the output bias stays. The outputs are those of the model with the unit's gate at 0. The record of
the units that were kept is `config.kept_heads`, {block: original numbers}: it is saved with the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from ....gating import HeadMap, Switchboard
from ....surgery import KeptHeads, check_record
from ..gating import gated_units, link_heads, ungate_heads
from ..heads_link import LINK, forget_heads
from ..interface import use_ours, use_stock
from ..layouts.projections import Attention, Units
from ..layouts.wrappers import check_projection, check_root, check_values
from ..units import named_units, recorded_units, units_of
from .bias_slices import forget_biases, slice_biases
from .empty_cache import count_steps_without_heads, forget_steps
from .headless import needs_a_head, run_with_heads, run_without_heads
from .journal import all_or_nothing, left_as_it_was
from .keep_forms import flags_of
from .kept_heads import heads_left, original_count, own_configs, record_of, write_record
from .last_look import LastLook
from .slices import check_shared, columns_of, cut, fill


@dataclass(frozen=True)
class Removal:
    """The outcome of `prune_heads`.

    Attributes:
        heads_before, heads_after: numbers of units in the HeadMap that `keep` was for.
        parameters_before, parameters_after: weights of the model; shared ones count once, those of gates do
            not.
        kept_heads: the model's record, {block: original head numbers}.
    """

    heads_before: int
    heads_after: int
    parameters_before: int
    parameters_after: int
    kept_heads: KeptHeads


def prune_heads(
    model: nn.Module,
    keep: Sequence[bool] | Tensor | Mapping[int, Sequence[int]] | None = None,
    check: bool | Mapping[str, Any] = True,
    neurons: int | None = None,
    heads: bool = True,
) -> Removal:
    """Remove the heads (and groups of neurons) that are not kept, in place.

    A gated model loses its gates: those of the heads that are left would all be open. The pruned model gets a
    configuration of its own, which holds the record. Before it is handed back it runs once on a small random
    batch beside the masked model, with a cache, too, where it has one. All is done or nothing: after an error
    or an interruption the model is what it was. An optimizer made before holds weights of the old shapes.

    Args:
        model: any model `head_map_of` takes, or a module around such models; it may have been pruned before.
        keep: [N], True = kept, in the order of `head_map_of(model, neurons, heads)`; or {layer: units to
            remove}, by their original numbers, for a model with one kind of blocks there; None for the mask
            of the model's own gates.
        check: False for no look at the pruned model; a mapping of `model`'s keyword arguments to look at it
            with these.
        neurons: size of the groups of neurons that `keep` has flags for; None for heads alone. Without `keep`
            the units are those that have gates.
        heads: False where `keep` is for groups of neurons alone.

    Raises:
        ValueError: the model is not supported, wrapped or gated as a part of a larger one; `keep` is missing
            or does not fit; nothing has trained or ranked the scores of the gates; a projection is quantised,
            has an adapter or is shared with a block that keeps other heads; the model does not run on the
            batch; or its outputs without these heads differ from those with them masked.
    """
    if keep is None and neurons is None:
        neurons, heads = gated_units(model)
    surgery = _Surgery(model, keep, units_of(model, neurons, heads))
    with all_or_nothing(model):
        return surgery.run(check, owned=True)


def check_surgery(
    model: nn.Module,
    keep: Sequence[bool] | Tensor | None = None,
    inputs: Mapping[str, Any] | None = None,
    neurons: int | None = None,
    heads: bool = True,
) -> None:
    """Check, before hours of training, that heads can be removed from a model, which is left as it is.

    Args:
        model: see `prune_heads`; its own gates play no part.
        keep: see `prune_heads`; None to remove every other head, and all of the first block.
        inputs: keyword arguments of `model`; None for a small random batch.
        neurons, heads: see `prune_heads`.

    Raises:
        ValueError: see `prune_heads`.
    """
    units = units_of(model, neurons, heads)
    if keep is None:
        sizes = [one.block.num_heads for one in units]
        keep = [
            (block > 0 or len(sizes) == 1) and (head + block) % 2 == 0
            for block, size in enumerate(sizes)
            for head in range(size)
        ]
    surgery = _Surgery(model, keep, units)
    with left_as_it_was(model):
        surgery.run(True if inputs is None else inputs, owned=True)


def check_pruned(model: nn.Module, inputs: Mapping[str, Any] | None = None) -> None:
    """Compare a pruned model with its dense form, zeros in the place of removed heads; it is left as it is.

    Args:
        inputs: keyword arguments of `model`; None for a small random batch.

    Raises:
        ValueError: their outputs differ, or the model does not run on the batch.
    """
    units = recorded_units(model)
    changed = [one.block.name for one in units if len(heads_left(one)) < original_count(one)]
    if not changed or any(weight.is_meta for weight in model.parameters()):
        return
    look = LastLook(model, units, changed, inputs)
    with left_as_it_was(model):
        _fill(model)
        look.first({})
    with left_as_it_was(model):
        ungate_heads(model)
        look.second()


def prune_to_record(model: nn.Module, record: KeptHeads, groups: Mapping[str, int] | None = None) -> None:
    """Give a model that has all its heads the shapes of `record`, in place.

    Args:
        groups: {block: neurons in a group} for the feed-forward blocks in the record.

    Raises:
        ValueError: the record is of another model.
    """
    units = named_units(model, groups)
    head_map = HeadMap([one.block for one in units])
    check_record(record, head_map)
    # a list: while from_pretrained builds a model, every new tensor is on the meta device and has no values
    keep = [head in record[block.name] for block in head_map.blocks for head in range(block.num_heads)]
    # its configuration is its own, and from_pretrained holds on to it
    _Surgery(model, keep, units, values=False).run(check=False, owned=False)


def fill_heads(model: nn.Module) -> None:
    """Undo the shapes of `prune_heads`, in place: removed heads are zeros in their old places.

    The outputs stay the same. The model is stock again: no record, no attention function of ours.
    """
    check_root(model)
    with all_or_nothing(model):
        _fill(model)


def original_head_map(model: nn.Module) -> HeadMap:
    """Return the HeadMap a model had before any removal, of the blocks that its record names."""
    return HeadMap([replace(one.block, num_heads=original_count(one)) for one in recorded_units(model)])


def count_parameters(model: nn.Module) -> int:
    """Count the weights of a model; shared ones count once, those of gates do not."""
    boards = [module for module in model.modules() if isinstance(module, Switchboard)]
    gates = {id(weight) for board in boards for weight in board.parameters()}
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in gates)


class _Surgery:
    """One removal of heads: worked out and checked when it is made, done by `run`.

    Args:
        model, keep: see `prune_heads`.
        units: the blocks that `keep` is for.
        values: the weights must have values, and not only shapes.

    Attributes:
        keep: {block: numbers of the heads to keep among those it has now}.
        record: {block: original numbers of the same heads}.
    """

    def __init__(self, model: nn.Module, keep: Any, units: Sequence[Units], values: bool = True):
        check_root(model)
        self.model = model
        self.units = units
        self.heads = HeadMap([one.block for one in units])
        self.keep = self.heads.kept_by_block(flags_of(model, units, keep))
        self.record: KeptHeads = {}
        for one in units:
            name, left = one.block.name, heads_left(one)
            self.record[name] = [left[head] for head in self.keep[name]]
            for projection in one.projections:
                check_projection(name, projection.module)
        if values:
            check_values(model)
        check_shared(model, units, self.keep)

    def run(self, check: bool | Mapping[str, Any], owned: bool) -> Removal:
        """Remove the heads, and take a last look.

        Args:
            check: see `prune_heads`.
            owned: let the model have a configuration of its own from here on.
        """
        parameters = count_parameters(self.model)
        changed = [block.name for block in self.heads.blocks if len(self.keep[block.name]) < block.num_heads]
        look = None
        if owned:
            own_configs(self.model)
        ungate_heads(self.model)
        if check is not False and changed:
            look = LastLook(self.model, self.units, changed, None if check is True else check)
            blocks = [(one.block.name, one.output, one.block.num_heads) for one in self.units]
            look.first({name: columns_of(out, self.keep[name], heads) for name, out, heads in blocks})
        cut(self.units, self.keep)
        for one in self.units:
            link_heads(one).keep(self.record[one.block.name])
            if isinstance(one, Attention):
                self._set_forward(one)
        write_record(self.model)
        if look is not None:
            look.second()
        after = sum(len(heads) for heads in self.record.values())
        weights = count_parameters(self.model)
        return Removal(self.heads.num_heads, after, parameters, weights, record_of(self.model))

    def _set_forward(self, attention: Attention) -> None:
        """Let a block's forward run with the heads that are left."""
        record, module = self.record[attention.block.name], attention.module
        slice_biases(module, attention.biases)
        if not record:
            run_without_heads(attention)
        headless = not record and not needs_a_head(attention)
        takes_bias = "position_bias" in inspect.signature(type(module).forward).parameters
        if attention.dispatches and (headless or takes_bias):
            use_ours(module)
        if headless and attention.block.kind == "decoder-self":
            count_steps_without_heads(module)


def _fill(model: nn.Module) -> None:
    units = recorded_units(model)
    links = {one.block.name: getattr(one.module, LINK) for one in units if hasattr(one.module, LINK)}
    kept = {name: link.kept for name, link in links.items() if link.kept is not None}
    own_configs(model)
    ungate_heads(model)
    fill(units, kept, {name: link.original for name, link in links.items()})
    for one in units:
        if isinstance(one, Attention):
            run_with_heads(one)
            forget_steps(one.module)
            forget_biases(one.module)
        forget_heads(one.module)
        forget_heads(one.output.module)
    use_stock(model)
    write_record(model)
