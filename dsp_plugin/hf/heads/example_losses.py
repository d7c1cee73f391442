"""The loss of every single example of a batch, which Transformers' models give only as a mean.

An example's loss is what it is alone in its batch: padding has no share in it, though some models' own losses
run over it.

Notation: B examples of length L, C classes or words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

IGNORED = -100
_ABOUT = dict(atol=1e-3, equal_nan=True)


def example_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Run a model with labels.

    Known are: classes (cross-entropy), scores (squared error) and yes/no answers (binary cross-entropy) of a
    whole sequence; start and end of an answer (the mean of both cross-entropies); one label a token, and
    language models (cross-entropy, summed over the example's tokens). Positions where the attention mask is 0
    are padding: they are no place where an answer could be, and a label there is none.

    Args:
        model: of Transformers; or a module of the user's own that gives a dict with `loss` and `logits`.
        batch: the model's keyword arguments, with `labels`, or `start_positions` and `end_positions`.

    Returns:
        losses [B], at least float32; how many tokens they stand for: those with a label, or, where the label
        is the sequence's, all that are not padding.

    Raises:
        ValueError: there are no labels, or the model's own loss is not the mean of these.
    """
    output = model(**batch)
    labels = batch.get("labels")
    if batch.get("start_positions") is not None:
        outputs = [_output(model, output, f"{side}_logits") for side in ("start", "end")]
        losses, mean, tokens = _answers(outputs, batch)
    elif labels is None:
        raise ValueError(
            "the batches have no labels (nor start_positions), so there is no loss whose "
            "gradient could be taken"
        )
    elif (logits := _output(model, output, "logits")).dim() == 3 and labels.dim() == 2:
        causal = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        losses, mean, tokens = _tokens(logits, labels, _real(batch, labels, _reads_twice(model)), causal)
    else:
        losses = _sequences(model, logits, labels, _loss(output))
        mean, tokens = losses.mean(), None
    _check_own(model, _loss(output), mean)
    return losses, _count(batch) if tokens is None else tokens


def _tokens(logits: Tensor, labels: Tensor, real: Tensor | None, causal: bool) -> tuple[Tensor, Tensor, int]:
    if logits.shape[:2] != labels.shape:
        raise ValueError(
            f"logits of {list(logits.shape[:2])} positions for labels {list(labels.shape)}: no "
            "such loss is known here"
        )
    if causal:  # position t predicts word t + 1
        logits, labels = logits[:, :-1], labels[:, 1:]
        # in front of the first word of a sequence that is padded on the left there is nothing to predict it
        # from
        real = None if real is None else real[:, :-1] & real[:, 1:]
    each = F.cross_entropy(_wide(logits).transpose(1, 2), labels, ignore_index=IGNORED, reduction="none")
    labelled = labels != IGNORED
    mean = each.sum() / labelled.sum()
    if real is not None:
        each, labelled = each * real, labelled & real
    return each.sum(1), mean, int(labelled.sum())


def _answers(outputs: list[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, None]:
    """An end that lies outside the text is ignored, as the models do it; they take the padding for text."""
    losses, mean = [], []
    for side, logits in zip(("start", "end"), map(_wide, outputs)):
        length = logits.shape[1]
        positions = batch[f"{side}_positions"].flatten().clamp(0, length)
        each = F.cross_entropy(logits, positions, ignore_index=length, reduction="none")
        mean.append(each.sum() / (positions < length).sum())
        real = _real(batch, logits)
        if real is not None:
            outside = ~F.pad(real, (0, 1)).gather(1, positions[:, None])[:, 0]
            # not -inf: a row of nothing but padding would be NaN
            logits = logits.masked_fill(~real, torch.finfo(logits.dtype).min)
            each = F.cross_entropy(
                logits, positions.masked_fill(outside, length), ignore_index=length, reduction="none"
            )
        losses.append(each)
    return (losses[0] + losses[1]) / 2, (mean[0] + mean[1]) / 2, None


def _sequences(model: nn.Module, logits: Tensor, labels: Tensor, own: Tensor | None) -> Tensor:
    logits = _wide(logits)
    if isinstance(model, PreTrainedModel):
        return _FORMULAS.get(model.config.problem_type, _classes)(logits, labels)
    # a module of the user's own does not say what it works out: its loss does
    fitting = [_classes] if not labels.is_floating_point() else [_scores, _answers_yes_or_no]
    found = [
        formula(logits, labels)
        for formula in fitting
        if formula is _classes or labels.numel() == logits.numel()
    ]
    if not found:
        raise ValueError(
            f"{type(model).__name__} gives logits {list(logits.shape)} for labels "
            f"{list(labels.shape)}: no loss is known"
        )
    return min(found, key=lambda losses: 0.0 if own is None else float((losses.mean() - own).detach().abs()))


def _classes(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels.flatten(), reduction="none")


def _scores(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits - labels.reshape(logits.shape)).square().reshape(len(logits), -1).mean(1)


def _answers_yes_or_no(logits: Tensor, labels: Tensor) -> Tensor:
    labels = labels.to(logits.dtype).reshape(logits.shape)
    return (
        F.binary_cross_entropy_with_logits(logits, labels, reduction="none").reshape(len(logits), -1).mean(1)
    )


_FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "regression": _scores,
    "multi_label_classification": _answers_yes_or_no,
}


def _check_own(model: nn.Module, own: Tensor | None, mean: Tensor) -> None:
    stock = isinstance(model, PreTrainedModel)
    if own is None and not stock:
        raise ValueError(
            f"{type(model).__name__} gives no `loss` to check by: let its forward return a dict "
            "with loss and logits"
        )
    # a module whose formula was guessed must fit more closely
    if own is not None and not torch.allclose(
        own.detach().to(mean.dtype), mean.detach(), rtol=0.05 if stock else 0.01, **_ABOUT
    ):
        raise ValueError(
            f"{type(model).__name__} works out its loss in a way not known here: {float(own.detach()):.5g}, "
            "where the mean of "
            f"its examples' is {float(mean.detach()):.5g}"
        )


def _output(model: nn.Module, output: Any, name: str) -> Tensor:
    found = output.get(name) if isinstance(output, Mapping) else None
    if not isinstance(found, Tensor):
        raise ValueError(
            f"{type(model).__name__} gives no `{name}`: its forward has to return a dict (or "
            "ModelOutput) with them"
        )
    return found


def _loss(output: Mapping[str, Tensor]) -> Tensor | None:
    return output.get("loss")


def _reads_twice(model: nn.Module) -> bool:
    """Whether there is an encoder whose mask is not that of the tokens which are predicted."""
    parts = (part.config for part in model.modules() if isinstance(part, PreTrainedModel))
    return any(getattr(config, "is_encoder_decoder", False) for config in parts)


def _real(batch: Mapping[str, Tensor], like: Tensor, decoder: bool = False) -> Tensor | None:
    """Bool [B, L], what is no padding of a tensor `like` [B, L]; None where there is none.

    Raises:
        ValueError: there is padding, and it cannot be told where.
    """
    mask = batch.get("decoder_attention_mask" if decoder else "attention_mask")
    if mask is None or bool((mask != 0).all()):
        return None
    if mask.shape != like.shape:
        raise ValueError(
            f"the attention mask {list(mask.shape)} does not tell which of {list(like.shape)} positions are "
            "padding, which would "
            "count: give examples of one length, without padding"
        )
    return mask != 0


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _count(batch: Mapping[str, Tensor]) -> int:
    """Tokens that are not padding; of inputs that are no tokens (images, sound) every example counts as
    one.
    """
    if batch.get("attention_mask") is not None:
        return int((batch["attention_mask"] != 0).sum())
    if batch.get("input_ids") is not None:
        return batch["input_ids"].numel()
    if batch.get("inputs_embeds") is not None:
        return batch["inputs_embeds"].shape[:-1].numel()
    return len(next(value for value in batch.values() if value.dim()))
