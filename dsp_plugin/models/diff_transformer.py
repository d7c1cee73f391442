"""Registers `diff_transformer`, and `diff_` with the name of every transformer architecture there is."""

from fairseq.models import register_model

from ..mt.diffs.translation import DiffTransformerConfig, DiffTransformerModel
from ..mt.heads.gated_model import register_all_sizes

register_model("diff_transformer", dataclass=DiffTransformerConfig)(DiffTransformerModel)
register_all_sizes("diff_transformer", "diff")
