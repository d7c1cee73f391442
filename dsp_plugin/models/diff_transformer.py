"""`diff_transformer`: fairseq's transformer, whole or head-pruned, that a sparse diff is trained on."""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_NAME_REGISTRY,
    register_model,
    register_model_architecture,
)

from ..mt.checkpoints.flat_config import FlatTransformerConfig
from ..mt.heads.gated_model import ARCHITECTURES, GatedTransformerModel
from ..mt.heads.new_training import name_of

__all__ = ["DiffTransformerConfig", "DiffTransformerModel"]


@dataclass
class DiffTransformerConfig(FlatTransformerConfig):
    kept_heads: Optional[str] = field(
        default=None,
        metadata={
            "help": "record of head removal (JSON); read from the base, so there is no need to give it"
        },
    )


@register_model("diff_transformer", dataclass=DiffTransformerConfig)
class DiffTransformerModel(GatedTransformerModel):
    """The transformer without gates. The diff is not in the model: its optimizer writes base + diff into the
    weights.

    `--arch diff_transformer` takes its sizes from --base-checkpoint; `diff_` and the name of any stock
    transformer architecture, or of one of the plugin's, asks for these sizes, and the base must have them.
    """

    method = "diff"

    @classmethod
    def wants_gates(cls, options) -> bool:
        return False

    @classmethod
    def check_options(cls, options) -> None:
        pass

    @classmethod
    def check_training(cls, whole, options, task) -> None:
        if not getattr(task, "starts_from_base", False):
            raise ValueError(
                f"--task {name_of(whole.task)} has no base for this model to start from, and would train it "
                "from random "
                "weights: use --task diff_translation and --base-checkpoint FILE"
            )
        super().check_training(whole, options, task)


_SIZES = {
    name: ARCH_CONFIG_REGISTRY[name]
    for name, model in ARCH_MODEL_NAME_REGISTRY.items()
    if model == "transformer"
}
_SIZES.update({f"transformer_{name}": sizes for name, sizes in ARCHITECTURES.items()})
for _name, _sizes in _SIZES.items():
    if _name != "transformer":  # the registered model itself
        register_model_architecture("diff_transformer", f"diff_{_name}")(_sizes)
