"""fairseq criterions."""

from .dsp_label_smoothed_cross_entropy import DSPLabelSmoothedCrossEntropyCriterion

__all__ = ["DSPLabelSmoothedCrossEntropyCriterion"]
