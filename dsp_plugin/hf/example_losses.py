"""The loss of every single example of a batch, which Transformers' models give only as a mean.

Notation: B examples of length L, C classes or words.
"""

from __future__ import annotations

from typing import Any, Mapping, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

IGNORED = -100


def example_losses(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tuple[Tensor, int]:
    """Run a model with labels.

    Known are: classes (cross-entropy), scores (squared error) and yes/no answers (binary cross-entropy) of a whole
    sequence; start and end of an answer (the mean of both cross-entropies); one label a token, and language models
    (cross-entropy, summed over the example's tokens).

    Args:
        batch: the model's keyword arguments, with `labels`, or `start_positions` and `end_positions`.

    Returns:
        losses [B], at least float32; how many tokens they stand for: those with a label, or, where the label is the
        sequence's, all that are not padding.

    Raises:
        ValueError: there are no labels, or the model's own loss is not the mean of these.
    """
    output = model(**batch)
    labels = batch.get("labels")
    if batch.get("start_positions") is not None:
        losses, mean, tokens = _answers(output, batch)
    elif labels is None:
        raise ValueError("the batches have no labels (nor start_positions), so there is no loss whose gradient could be taken")
    elif output.logits.dim() == 3 and labels.dim() == 2:
        losses, mean, tokens = _tokens(output.logits, labels, type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    else:
        losses = _sequences(output.logits, labels, model.config.problem_type)
        mean, tokens = losses.mean(), None
    own: Optional[Tensor] = output.get("loss")
    if own is not None and not torch.allclose(own.detach().to(mean.dtype), mean.detach(), rtol=0.05, atol=1e-3, equal_nan=True):
        raise ValueError(
            f"{type(model).__name__} works out its loss in a way not known here: {float(own.detach()):.5g}, where the mean of "
            f"its examples' is {float(mean.detach()):.5g}"
        )
    return losses, _count(batch) if tokens is None else tokens


def _tokens(logits: Tensor, labels: Tensor, causal: bool) -> Tuple[Tensor, Tensor, int]:
    if causal:  # position t predicts word t + 1
        logits, labels = logits[:, :-1], labels[:, 1:]
    losses = F.cross_entropy(_wide(logits).transpose(1, 2), labels, ignore_index=IGNORED, reduction="none").sum(1)
    counted = int((labels != IGNORED).sum())
    return losses, losses.sum() / counted, counted


def _answers(output: Any, batch: Mapping[str, Tensor]) -> Tuple[Tensor, Tensor, None]:
    """An end that lies outside the text is ignored, as the models do it."""
    losses, mean = [], []
    for side in ("start", "end"):
        logits = _wide(output[f"{side}_logits"])
        positions = batch[f"{side}_positions"].flatten().clamp(0, logits.shape[1])
        losses.append(F.cross_entropy(logits, positions, ignore_index=logits.shape[1], reduction="none"))
        mean.append(losses[-1].sum() / (positions < logits.shape[1]).sum())
    return (losses[0] + losses[1]) / 2, (mean[0] + mean[1]) / 2, None


def _sequences(logits: Tensor, labels: Tensor, problem: Optional[str]) -> Tensor:
    logits = _wide(logits)
    if problem == "regression":
        return (logits - labels.reshape(logits.shape)).square().mean(1)
    if problem == "multi_label_classification":
        return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype), reduction="none").mean(1)
    return F.cross_entropy(logits, labels.flatten(), reduction="none")


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _count(batch: Mapping[str, Tensor]) -> int:
    mask = batch.get("attention_mask")
    return batch["input_ids"].numel() if mask is None else int(mask.sum())
