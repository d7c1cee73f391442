"""The names of Delta-Tuning's methods in records."""

from __future__ import annotations

from collections.abc import Sequence

from ....delta.stages import in_order

_NOT_PROMPTED = {"finetune": "-finetune", "prompt-demo": "-demo"}


def label_of(stages: Sequence[Sequence[str]], few_shot_type: str = "prompt") -> str:
    """Name a combination: `prompt+bias` of one stage, `prompt-then-bias` of two.

    Args:
        stages: the methods of each, or [["full"]] for all weights, [["none"]] for none.
    """
    known = [stage if stage in (["full"], ["none"]) else list(in_order(stage)) for stage in stages]
    return "-then-".join("+".join(stage) for stage in known) + _NOT_PROMPTED.get(few_shot_type, "")
