"""The record of what a model has kept of its heads: read off its modules, and written into configurations
for saving.
"""

from __future__ import annotations

import copy
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ....surgery import KeptHeads
from ..heads_link import LINK
from ..layouts.locate import attentions_of, transformers_models

KEPT_HEADS = "kept_heads"  # the attribute of a configuration that holds the record


def record_of(model: nn.Module) -> KeptHeads | None:
    """What is left of each block's heads, by their original numbers; None for a model that has them all.

    It is read off the modules, not off the configuration, which other models may share. Names are those of
    `head_map_of(model)`.
    """
    links = (module.__dict__.get(LINK) for module in model.modules())
    if all(link is None or link.kept is None for link in links):
        return None
    record = {}
    for attention in attentions_of(model):
        link = attention.module.__dict__.get(LINK)
        gone = link is not None and link.kept is not None
        record[attention.block.name] = list(link.kept) if gone else list(range(attention.block.num_heads))
    return record


def write_record(model: nn.Module) -> None:
    """Let the configurations of a model, and of Transformers models in it, say what is left of their heads.

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
    """Give a model a copy of its configuration in every place that holds it, so that other models keep
    theirs.

    In a module of a user's own every Transformers model gets one of its own, because each has its own record.
    """
    around: dict[int, Any] = {}
    owned = set()
    for inner in transformers_models(model):
        copies: dict[int, Any] = {}
        for part in inner.modules():
            owned.add(id(part))
            _copy_configs(part, copies)  # one memo: what parts of a model shared they share again
        around = {**copies, **around}
    for part in model.modules():
        if id(part) not in owned:
            _copy_configs(part, around)


def _copy_configs(part: nn.Module, copies: dict[int, Any]) -> None:
    for name, value in vars(part).items():
        if isinstance(value, PreTrainedConfig):
            vars(part)[name] = copy.deepcopy(value, copies)
