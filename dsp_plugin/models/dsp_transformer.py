"""Registers `dsp_transformer` and its architectures."""

from fairseq.models import register_model

from ..mt.heads.gated_model import register_architectures
from ..mt.heads.methods.dsp import DSPTransformerConfig, DSPTransformerModel

register_model("dsp_transformer", dataclass=DSPTransformerConfig)(DSPTransformerModel)
register_architectures("dsp_transformer")
