"""`michel_transformer`: fairseq's transformer that is tuned with its K most important heads, the others
gone.
"""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.models import register_model
from torch import nn

from ..gating import RankedGates
from ..mt.checkpoints.flat_config import GatedTransformerConfig
from ..mt.heads.gated_model import GatedTransformerModel, budget_of, register_architectures
from ..mt.heads.importance import RANKINGS, Ranking

__all__ = ["MichelTransformerConfig", "MichelTransformerModel"]


@dataclass
class MichelTransformerConfig(GatedTransformerConfig):
    rank_by: str = field(
        default="importance",
        metadata={"help": f"what heads are ranked by before training starts: {', '.join(RANKINGS)}"},
    )
    exact_pruning: bool = field(
        default=False,
        metadata={"help": "work the importance out anew under the current mask before every removal"},
    )
    heads_per_step: int = field(default=1, metadata={"help": "with --exact-pruning: heads removed at a time"})
    importance_samples: Optional[int] = field(
        default=None,
        metadata={
            "help": "work the importance out on so many training sentences, drawn by --seed (default: all)"
        },
    )
    batch_importance: bool = field(
        default=False,
        metadata={"help": "take the absolute value of a batch's gradient, not of every example's"},
    )
    dont_normalize_importance_by_layer: bool = field(
        default=False, metadata={"help": "do not divide importance by its L2 norm over a block's heads"}
    )
    dont_normalize_global_importance: bool = field(
        default=False, metadata={"help": "do not scale importance to 0..1 over all heads"}
    )


@register_model("michel_transformer", dataclass=MichelTransformerConfig)
class MichelTransformerModel(GatedTransformerModel):
    """With `num_of_heads` = K: the task ranks the heads before the first update, and K stay for good."""

    method = "michel"

    @classmethod
    def label(cls, options) -> str:
        return cls.method if cls.wants_gates(options) else super().label(options)

    @classmethod
    def freezes_weights(cls, options) -> bool:
        return False

    @classmethod
    def learns_scores(cls, options) -> bool:
        return False

    @classmethod
    def ranks_heads(cls, options) -> bool:
        return cls.wants_gates(options)

    @classmethod
    def check_options(cls, options) -> None:
        super().check_options(options)
        for name in ("joint_pruning", "pruning_warmup_updates"):
            if options[name]:
                raise ValueError(
                    f"--{name.replace('_', '-')} has no meaning for this model: its heads are chosen before "
                    "training starts"
                )
        ranking_of(options).check()

    @classmethod
    def warnings(cls, options) -> list[str]:
        if options["exact_pruning"] and options["rank_by"] != "importance":
            return [
                f"--exact-pruning has no meaning with --rank-by {options['rank_by']}, which no removal "
                "changes"
            ]
        return []

    @classmethod
    def build_gates(cls, head_map, options) -> nn.Module:
        return RankedGates(head_map, budget_of(head_map, options))


def ranking_of(options, **more) -> Ranking:
    """The ranking that the model's options ask for; `more` are fields of `Ranking`."""
    return Ranking(
        rank_by=options["rank_by"],
        per_batch=options["batch_importance"],
        by_block=not options["dont_normalize_importance_by_layer"],
        overall=not options["dont_normalize_global_importance"],
        samples=options["importance_samples"],
        **more,
    )


register_architectures("michel_transformer")
