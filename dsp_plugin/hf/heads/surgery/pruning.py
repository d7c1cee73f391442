"""Taking heads out of a Transformers model for good, and filling them up again with zeros.

The rows of the query, key and value projections and the columns of the output projection that belong to a
removed head go; the output bias stays. What is left gives what the model gives with the head's gate at 0. The
record of what was kept is `config.kept_heads`, {block: original head numbers}: it is saved with the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ....gating import AttentionBlock, HeadMap, Switchboard
from ....surgery import KeptHeads, check_record
from ..gating import boards_of, check_whole, link_heads, ungate_heads
from ..heads_link import LINK, forget_heads
from ..interface import use_ours, use_stock
from ..layouts.locate import attentions_of
from ..layouts.projections import Attention
from ..layouts.wrappers import check_projection, check_root, check_values
from .bias_slices import forget_biases, slice_biases
from .empty_cache import count_steps_without_heads, forget
from .headless import needs_a_head, run_with_heads, run_without_heads
from .journal import all_or_nothing, left_as_it_was
from .keep_forms import flags_of
from .kept_heads import own_configs, write_record
from .last_look import LastLook
from .slices import check_shared, columns_of, cut, fill


@dataclass(frozen=True)
class Removal:
    """What `prune_heads` did.

    Attributes:
        heads_before, heads_after: of the model, by its HeadMap.
        parameters_before, parameters_after: weights of the model; shared ones count once, those of gates do
            not.
        kept_heads: the record, {block: original head numbers}.
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
) -> Removal:
    """Remove the heads that are not kept, in place. An optimizer made before holds weights that are no longer
    there.

    A gated model loses its gates: those of the heads that are left would all be open. The pruned model gets a
    configuration of its own, which holds the record. Before it is handed back it runs once on a small random
    batch beside the masked model, with a cache, too, where it has one. All is done or nothing: after an error
    or an interruption the model is what it was.

    Args:
        model: any model `head_map_of` takes, or a module around such models; it may have been pruned before.
        keep: [N], True = kept, in the order of `head_map_of(model)`; or {layer: heads to remove}, by their
            original numbers, for a model with one kind of attention blocks; None for the mask of the model's
            own gates.
        check: False for no look at the pruned model; a mapping of `model`'s keyword arguments to look at it
            with these.

    Raises:
        ValueError: the model is not supported, wrapped or gated as a part of a larger one; `keep` is missing
            or does not fit; nothing has trained or ranked the scores of the gates; a projection is not a
            plain one (quantised, or with an adapter) or shared with a block that keeps other heads; the model
            does not run on the batch; or without its heads it gives something else than with these masked.
    """
    surgery = _Surgery(model, keep)
    with all_or_nothing(model):
        return surgery.run(check, owned=True)


def check_surgery(
    model: nn.Module, keep: Sequence[bool] | Tensor | None = None, inputs: Mapping[str, Any] | None = None
) -> None:
    """Try whether heads can be removed from a model, which is left as it is: before hours of training, not
    after.

    Args:
        model: see `prune_heads`; gates of its own have no say in it.
        keep: see `prune_heads`; None to remove every other head, and all of the first block.
        inputs: keyword arguments of `model`; None for a small random batch.

    Raises:
        ValueError: see `prune_heads`.
    """
    if keep is None:
        sizes = [attention.block.num_heads for attention in attentions_of(model)]
        keep = [
            (block > 0 or len(sizes) == 1) and (head + block) % 2 == 0
            for block, size in enumerate(sizes)
            for head in range(size)
        ]
    surgery = _Surgery(model, keep)
    with left_as_it_was(model):
        surgery.run(True if inputs is None else inputs, owned=True)


def check_pruned(model: nn.Module, inputs: Mapping[str, Any] | None = None) -> None:
    """Compare a pruned model with its dense form, zeros in the place of removed heads. The model is left as
    it is.

    Args:
        inputs: keyword arguments of `model`; None for a small random batch.

    Raises:
        ValueError: the two do not give the same, or the model does not run on the batch.
    """
    attentions = attentions_of(model)
    changed = [attention.block.name for attention in attentions if _left(attention) != _all(attention)]
    if not changed or _on_meta(model):
        return
    look = LastLook(model, attentions, changed, inputs)
    with left_as_it_was(model):
        _fill(model)
        look.first({})
    with left_as_it_was(model):
        ungate_heads(model)
        look.second()


def prune_to_record(model: nn.Module, record: KeptHeads) -> None:
    """Give a model that has all its heads the shapes of `record`, in place.

    Raises:
        ValueError: the record is of another model.
    """
    head_map = HeadMap([attention.block for attention in attentions_of(model)])
    check_record(record, head_map)
    # a list: while from_pretrained builds a model, every new tensor is on the meta device and has no values
    keep = [head in record[block.name] for block in head_map.blocks for head in range(block.num_heads)]
    # its configuration is its own, and from_pretrained holds on to it
    _Surgery(model, keep, values=False).run(check=False, owned=False)


def fill_heads(model: nn.Module) -> None:
    """Undo the shapes of `prune_heads`, in place: removed heads are zeros in their old places.

    The outputs stay the same. The model is stock again: no record, no attention function of ours.
    """
    check_root(model)
    with all_or_nothing(model):
        _fill(model)


def original_head_map(model: nn.Module) -> HeadMap:
    """The heads a model had before any removal."""
    attentions = attentions_of(model)
    return HeadMap([AttentionBlock(a.block.name, len(_all(a)), a.block.kind) for a in attentions])


def count_parameters(model: nn.Module) -> int:
    """Weights of a model; shared ones count once, those of gates do not."""
    gates = {
        id(weight)
        for module in model.modules()
        if isinstance(module, Switchboard)
        for weight in module.parameters()
    }
    return sum(weight.numel() for weight in model.parameters() if id(weight) not in gates)


class _Surgery:
    """One removal of heads: worked out and checked when it is made, done by `run`.

    Args:
        model, keep: see `prune_heads`.
        values: the weights must be there, and not only their shapes.
    """

    def __init__(self, model: nn.Module, keep: Any, values: bool = True):
        check_root(model)
        self.model = model
        self.attentions = attentions_of(model)
        self.heads = HeadMap([attention.block for attention in self.attentions])
        self.left: KeptHeads = {attention.block.name: _left(attention) for attention in self.attentions}
        self.kept = self.heads.kept_by_block(self._flags(keep))  # numbers of now
        self.record: KeptHeads = {
            name: [self.left[name][head] for head in heads] for name, heads in self.kept.items()
        }
        for attention in self.attentions:
            for projection in attention.projections:
                check_projection(attention.block.name, projection.module)
        if values:
            check_values(model)
        check_shared(model, self.attentions, self.kept)

    def run(self, check: bool | Mapping[str, Any], owned: bool) -> Removal:
        """Do it.

        Args:
            owned: let the model have a configuration of its own from here on.
        """
        parameters = count_parameters(self.model)
        changed = [block.name for block in self.heads.blocks if len(self.kept[block.name]) < block.num_heads]
        look = None
        if owned:
            own_configs(self.model)
        ungate_heads(self.model)
        if check is not False and changed:
            look = LastLook(self.model, self.attentions, changed, None if check is True else check)
            look.first(
                {
                    a.block.name: columns_of(a.output, self.kept[a.block.name], a.block.num_heads)
                    for a in self.attentions
                }
            )
        cut(self.attentions, self.kept)
        for attention in self.attentions:
            self._tell(attention)
        write_record(self.model)
        if look is not None:
            look.second()
        after = sum(len(heads) for heads in self.kept.values())
        return Removal(self.heads.num_heads, after, parameters, count_parameters(self.model), self.record)

    def _tell(self, attention: Attention) -> None:
        """Let a block know which of its heads are left."""
        record, module = self.record[attention.block.name], attention.module
        link_heads(attention).keep(record)
        slice_biases(module, attention.biases)
        if not record:
            run_without_heads(attention)
        stands_in = needs_a_head(attention)
        if attention.dispatches and (
            not record
            and not stands_in
            or "position_bias" in inspect.signature(type(module).forward).parameters
        ):
            use_ours(module)
        if not record and not stands_in and attention.block.kind == "decoder-self":
            count_steps_without_heads(module)

    def _flags(self, keep: Any) -> list[bool]:
        boards = boards_of(self.model)
        for board in boards:
            check_whole(self.model, board)
        if keep is not None:
            return flags_of(
                keep, self.heads, self.left, {a.block.name: len(_all(a)) for a in self.attentions}
            )
        if not boards:
            raise ValueError("which heads to keep was not said: give `keep`, or a gated model")
        if any(getattr(board.gates, "decided", None) is False for board in boards):
            raise ValueError(
                "the scores of the heads are those of the random start: nothing has trained or ranked them; "
                "train the gated model "
                "first, load its scores (load_gating), or say with `keep` which heads are to stay"
            )
        masks = {board: board.head_map.split(board.gates.keep()) for board in boards}
        return [bool(flag) for attention in self.attentions for flag in _mask(attention, masks)]


def _mask(attention: Attention, masks: dict[Switchboard, list[Tensor]]) -> Sequence[Any]:
    """Flags of a block's heads, by the gates of its own; all True where it has none."""
    link = getattr(attention.module, LINK, None)
    if link is None or link.switchboard is None:
        return [True] * attention.block.num_heads
    return masks[link.switchboard][link.position].tolist()


def _left(attention: Attention) -> list[int]:
    """Original numbers of the heads a block has now."""
    link = getattr(attention.module, LINK, None)
    return list(range(attention.block.num_heads)) if link is None or link.kept is None else list(link.kept)


def _all(attention: Attention) -> list[int]:
    """Numbers of the heads a block once had."""
    link = getattr(attention.module, LINK, None)
    return list(range(attention.block.num_heads if link is None else link.original))


def _fill(model: nn.Module) -> None:
    attentions = attentions_of(model)
    links = {a.block.name: getattr(a.module, LINK) for a in attentions if hasattr(a.module, LINK)}
    kept = {name: link.kept for name, link in links.items() if link.kept is not None}
    own_configs(model)
    ungate_heads(model)
    fill(attentions, kept, {name: link.original for name, link in links.items()})
    for attention in attentions:
        run_with_heads(attention)
        forget(attention.module)
        forget_biases(attention.module)
        forget_heads(attention.module)
        forget_heads(attention.output.module)
    use_stock(model)
    write_record(model)


def _on_meta(model: nn.Module) -> bool:
    return any(weight.is_meta for weight in model.parameters())
