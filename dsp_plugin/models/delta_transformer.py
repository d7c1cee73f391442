"""Registers `delta_transformer`, and `delta_` with the name of every transformer architecture there is."""

from fairseq.models import register_model

from ..mt.delta.translation import DeltaTransformerConfig, DeltaTransformerModel
from ..mt.heads.gated_model import register_all_sizes

register_model("delta_transformer", dataclass=DeltaTransformerConfig)(DeltaTransformerModel)
register_all_sizes("delta_transformer", "delta")
