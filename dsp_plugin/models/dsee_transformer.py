"""Registers `dsee_transformer`, and `dsee_` with the name of every transformer architecture there is."""

from fairseq.models import register_model

from ..mt.dsee.translation import DseeTransformerConfig, DseeTransformerModel
from ..mt.heads.gated_model import register_all_sizes

register_model("dsee_transformer", dataclass=DseeTransformerConfig)(DseeTransformerModel)
register_all_sizes("dsee_transformer", "dsee")
