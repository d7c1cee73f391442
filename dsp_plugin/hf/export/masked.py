"""The two models of an export: the one to write, without closed heads, and the masked one to check it by."""

from __future__ import annotations

import copy

from transformers import PreTrainedModel

from ..heads.gating import switchboard_of
from ..heads.surgery.kept_heads import record_of
from ..heads.surgery.pruning import fill_heads, prune_heads


def pruned_and_masked(model: PreTrainedModel) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Return a pruned and a masked copy of a model, both in `eval()`; the model itself is not changed.

    Args:
        model: a gated model: the pruned copy loses its closed heads. A pruned one: the masked copy has the
            original sizes, with zeros for removed heads. One with all its heads: both are copies of it.

    Raises:
        ValueError: the model is not supported, or has quantised weights or an adapter.
    """
    pruned, masked = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    if switchboard_of(model) is not None:
        prune_heads(pruned)
    elif record_of(model) is not None:
        fill_heads(masked)
    return pruned, masked
