"""Registers `michel_transformer` and its architectures."""

from fairseq.models import register_model

from ..mt.heads.gated_model import register_architectures
from ..mt.heads.methods.michel import MichelTransformerConfig, MichelTransformerModel

register_model("michel_transformer", dataclass=MichelTransformerConfig)(MichelTransformerModel)
register_architectures("michel_transformer")
