"""Registers `voita_transformer` and its architectures."""

from fairseq.models import register_model

from ..mt.heads.gated_model import register_architectures
from ..mt.heads.methods.voita import VoitaTransformerConfig, VoitaTransformerModel

register_model("voita_transformer", dataclass=VoitaTransformerConfig)(VoitaTransformerModel)
register_architectures("voita_transformer")
