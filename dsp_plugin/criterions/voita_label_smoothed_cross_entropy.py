"""The criterion of Voita et al."""

from dataclasses import dataclass

from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterionConfig

from ..mt.heads.gated_criterion import GatedCrossEntropyCriterion


@dataclass
class VoitaLabelSmoothedCrossEntropyConfig(LabelSmoothedCrossEntropyCriterionConfig):
    pass


@register_criterion("voita_label_smoothed_cross_entropy", dataclass=VoitaLabelSmoothedCrossEntropyConfig)
class VoitaLabelSmoothedCrossEntropyCriterion(GatedCrossEntropyCriterion):
    """The stock loss and, in training, lambda times the expected open heads; logs the heads that are open."""
