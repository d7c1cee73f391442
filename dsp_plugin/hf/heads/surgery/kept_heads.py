"""The record of the units a model has kept, read off its modules and written into its configurations.

Heads and groups of neurons are in one record; how many neurons make a group stands beside it. A reader that
knows only heads finds blocks that the model does not have, and refuses.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ....surgery import KeptHeads
from ..heads_link import LINK
from ..layouts.locate import transformers_models
from ..layouts.projections import Units
from ..units import recorded_units

# the attributes of a configuration that hold the record, and the sizes of the groups in it
KEPT_HEADS, NEURON_GROUPS = "kept_heads", "neuron_groups"


def record_of(model: nn.Module) -> KeptHeads | None:
    """Return {block: original numbers of the heads it has kept}; None for a model that was never pruned.

    It is read off the modules, not off the configuration, which other models may share. Names are those of
    `head_map_of(model)`, and where groups of neurons were removed those of feed-forward blocks, too.
    """
    links = (module.__dict__.get(LINK) for module in model.modules())
    if all(link is None or link.kept is None for link in links):
        return None
    return {units.block.name: heads_left(units) for units in recorded_units(model)}


def neuron_groups_of(model: nn.Module) -> dict[str, int]:
    """Return {block: neurons in a group} for the feed-forward blocks in the record of a model."""
    return {u.block.name: u.block.neurons for u in recorded_units(model) if u.block.neurons}


def heads_left(units: Units) -> list[int]:
    """Return the original numbers of the heads (or groups) a block has now."""
    link = units.module.__dict__.get(LINK)
    return list(range(units.block.num_heads)) if link is None or link.kept is None else list(link.kept)


def original_count(units: Units) -> int:
    """Return the number of heads (or groups) a block had before any removal."""
    link = units.module.__dict__.get(LINK)
    return units.block.num_heads if link is None or link.kept is None else link.original


def write_record(model: nn.Module) -> None:
    """Write the record into the configurations of a model and of the Transformers models in it.

    Parts that have a configuration of their own get their own record in it; parts that share the one of the
    whole do not.
    """
    seen = set()
    for part in model.modules():
        if isinstance(part, PreTrainedModel) and id(part.config) not in seen:
            seen.add(id(part.config))
            record = record_of(part)
            groups = None if record is None else neuron_groups_of(part) or None
            for name, value in ((KEPT_HEADS, record), (NEURON_GROUPS, groups)):
                if value is not None:
                    setattr(part.config, name, value)
                elif hasattr(part.config, name):
                    delattr(part.config, name)


def own_configs(model: nn.Module) -> None:
    """Give a model a copy of its configuration in every place that holds it; other models keep theirs.

    In a user's own module every Transformers model gets its own copy, because each has its own record.
    """
    all_copies: dict[int, Any] = {}
    inside = set()
    for inner in transformers_models(model):
        copies: dict[int, Any] = {}
        for part in inner.modules():
            inside.add(id(part))
            _copy_configs(part, copies)  # one memo: what parts of a model shared they share again
        all_copies = {**copies, **all_copies}
    for part in model.modules():
        if id(part) not in inside:
            _copy_configs(part, all_copies)


def _copy_configs(part: nn.Module, copies: dict[int, Any]) -> None:
    for name, value in vars(part).items():
        if isinstance(value, PreTrainedConfig):
            vars(part)[name] = copy.deepcopy(value, copies)
