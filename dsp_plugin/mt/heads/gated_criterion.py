"""Label-smoothed cross-entropy with what a pruning method adds to the loss and what its gates log."""

from typing import Optional

from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.logging import metrics
from torch import nn

from ...gating import Switchboard


def switchboard_of(model: nn.Module) -> Optional[Switchboard]:
    """Return a model's switchboard, through all wrappers of data-parallel training; None without gates."""
    return getattr(unwrapped(model), "gating", None)


def unwrapped(model: nn.Module) -> Optional[nn.Module]:
    """Return the gated model inside all wrappers of data-parallel training; None without gates."""
    while model is not None:
        if isinstance(getattr(model, "gating", None), Switchboard):
            return model
        model = getattr(model, "module", None)
    return None


# label in the log, decimals
_SHOWN = {
    "heads_open": 2,
    "temperature": 10,
    "gate_entropy": 4,
    "expected_open": 2,
    "closed_share": 4,
    "closed_target": 4,
    "price": 4,
    "heads_closed": 2,
    "concentration": 2,
}


class GatedCrossEntropyCriterion(LabelSmoothedCrossEntropyCriterion):
    """The stock loss, plus the gates' penalty in training: it is added to the token-summed loss, once a
    micro-batch and process, so that a coefficient of 200 is about 200 / tokens on the mean loss. The logged
    loss leaves it out. A penalty of the mean loss (`of_mean_loss` of the gates) is multiplied by the number
    of tokens first, so that it means that.
    """

    def forward(self, model, sample, reduce=True):
        loss, sample_size, logging_output = super().forward(model, sample, reduce=reduce)
        gating = switchboard_of(model)
        if gating is not None and model.training:
            of_mean = getattr(gating.gates, "of_mean_loss", False)
            loss = loss + gating.penalty() * (sample_size if of_mean else 1)
            for name, value in gating.metrics().items():
                logging_output[f"gates_{name}"] = value
            logging_output["gates_batches"] = 1
        return loss, sample_size, logging_output

    @classmethod
    def reduce_metrics(cls, logging_outputs) -> None:
        super().reduce_metrics(logging_outputs)
        batches = sum(log.get("gates_batches", 0) for log in logging_outputs)
        if batches:
            for name, decimals in _SHOWN.items():
                if any(f"gates_{name}" in log for log in logging_outputs):
                    total = sum(log.get(f"gates_{name}", 0) for log in logging_outputs)
                    metrics.log_scalar(name, total / batches, batches, round=decimals)
