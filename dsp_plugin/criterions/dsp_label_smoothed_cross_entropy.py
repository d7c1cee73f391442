"""The criterion of DSP."""

from dataclasses import dataclass

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig

from ..mt.heads.gated_criterion import GatedCrossEntropyCriterion


@dataclass
class DSPLabelSmoothedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    pass


@register_criterion("dsp_label_smoothed_cross_entropy", dataclass=DSPLabelSmoothedCrossEntropyConfig)
class DSPLabelSmoothedCrossEntropyCriterion(GatedCrossEntropyCriterion):
    """The stock loss; logs heads above one half, the temperature and the gates' mean entropy (bits)."""
