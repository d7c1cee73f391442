"""fairseq criterions."""

from .dsp_label_smoothed_cross_entropy import DSPLabelSmoothedCrossEntropyCriterion
from .voita_label_smoothed_cross_entropy import VoitaLabelSmoothedCrossEntropyCriterion

__all__ = ["DSPLabelSmoothedCrossEntropyCriterion", "VoitaLabelSmoothedCrossEntropyCriterion"]
