"""The two models that an export begins with: the one to write, without its dead heads, and the masked one
to check it by.
"""

from __future__ import annotations

import copy

from transformers import PreTrainedModel

from ..heads.gating import switchboard_of
from ..heads.surgery.kept_heads import record_of
from ..heads.surgery.pruning import fill_heads, prune_heads


def pruned_and_masked(model: PreTrainedModel) -> tuple[PreTrainedModel, PreTrainedModel]:
    """(pruned, masked), both in `eval()`; the given model is not changed.

    Args:
        model: gated: it is the masked one, and loses its closed heads. Pruned: the masked one has the
            original sizes and zeros for the heads that are gone. With all its heads: both are the model
            itself.

    Raises:
        ValueError: the model is not supported, or its weights are not plain ones (quantised, or with an
            adapter).
    """
    pruned, masked = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    if switchboard_of(model) is not None:
        prune_heads(pruned)
    elif record_of(model) is not None:
        fill_heads(masked)
    return pruned, masked
