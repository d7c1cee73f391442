"""The record of the heads a model has kept, read off its modules and written into its configurations."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ....surgery import KeptHeads
from ..heads_link import LINK
from ..layouts.locate import attentions_of, transformers_models
from ..layouts.projections import Attention

KEPT_HEADS = "kept_heads"  # the attribute of a configuration that holds the record


def record_of(model: nn.Module) -> KeptHeads | None:
    """Return {block: original numbers of the heads it has kept}; None for a model that was never pruned.

    It is read off the modules, not off the configuration, which other models may share. Names are those of
    `head_map_of(model)`.
    """
    links = (module.__dict__.get(LINK) for module in model.modules())
    if all(link is None or link.kept is None for link in links):
        return None
    return {attention.block.name: heads_left(attention) for attention in attentions_of(model)}


def heads_left(attention: Attention) -> list[int]:
    """Return the original numbers of the heads a block has now."""
    link = attention.module.__dict__.get(LINK)
    return list(range(attention.block.num_heads)) if link is None or link.kept is None else list(link.kept)


def original_count(attention: Attention) -> int:
    """Return the number of heads a block had before any removal."""
    link = attention.module.__dict__.get(LINK)
    return attention.block.num_heads if link is None else link.original


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
            if record is not None:
                setattr(part.config, KEPT_HEADS, record)
            elif hasattr(part.config, KEPT_HEADS):
                delattr(part.config, KEPT_HEADS)


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
