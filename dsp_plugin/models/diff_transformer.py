"""Registers `diff_transformer`, and `diff_` with the name of every transformer architecture there is."""

from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_NAME_REGISTRY,
    register_model,
    register_model_architecture,
)

from ..mt.diffs.translation import DiffTransformerConfig, DiffTransformerModel
from ..mt.heads.gated_model import ARCHITECTURES

register_model("diff_transformer", dataclass=DiffTransformerConfig)(DiffTransformerModel)

_SIZES = {
    name: ARCH_CONFIG_REGISTRY[name]
    for name, model in ARCH_MODEL_NAME_REGISTRY.items()
    if model == "transformer"
}
_SIZES.update({f"transformer_{name}": sizes for name, sizes in ARCHITECTURES.items()})
for _name, _sizes in _SIZES.items():
    if _name != "transformer":  # the registered model itself
        register_model_architecture("diff_transformer", f"diff_{_name}")(_sizes)
