"""The loss of every single example of a batch; Transformers' models give only the mean.

An example's loss does not depend on the rest of its batch: padding has no share in it, though some models'
own losses run over it.

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


def example_losses(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Run a model with labels and work out the loss of each example.

    Known losses: classes (cross-entropy), scores (squared error) and yes/no answers (binary cross-entropy) of
    a whole sequence; start and end of an answer (the mean of both cross-entropies); one label a token, and
    language models (cross-entropy, summed over the example's tokens). Positions where the attention mask is 0
    are padding: no answer can be there, and a label there does not count.

    Args:
        model: a Transformers model, or a user's own module that returns a dict with `loss` and `logits`.
        batch: the model's keyword arguments, with `labels`, or `start_positions` and `end_positions`.

    Returns:
        losses [B], at least float32; the number of tokens they stand for: those with a label, or, where the
        label is the sequence's, all that are not padding.

    Raises:
        ValueError: there are no labels, or the model's own loss is not the mean of these.
    """
    output = model(**batch)
    labels = batch.get("labels")
    if batch.get("start_positions") is not None:
        outputs = [_output(model, output, f"{side}_logits") for side in ("start", "end")]
        losses, mean, tokens = _answer_losses(outputs, batch)
    elif labels is None:
        raise ValueError(
            "the batches have no labels (nor start_positions), so there is no loss whose gradient could be "
            "taken"
        )
    elif (logits := _output(model, output, "logits")).dim() == 3 and labels.dim() == 2:
        causal = type(model).__name__ in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()
        real = _real_positions(batch, labels, decoder=_has_encoder(model))
        losses, mean, tokens = _token_losses(logits, labels, real, causal)
    else:
        losses = _sequence_losses(model, logits, labels, output.get("loss"))
        mean, tokens = losses.mean(), None
    _check_mean(model, output.get("loss"), mean)
    return losses, _count_tokens(batch) if tokens is None else tokens


def _token_losses(
    logits: Tensor, labels: Tensor, real: Tensor | None, causal: bool
) -> tuple[Tensor, Tensor, int]:
    """Return the losses [B] of logits [B, L, C] for labels [B, L], the model's own mean, and how many count.

    Args:
        real: bool [B, L], False at padding; None: there is none.
        causal: position t predicts label t + 1.
    """
    if logits.shape[:2] != labels.shape:
        shapes = f"logits of {list(logits.shape[:2])} positions for labels {list(labels.shape)}"
        raise ValueError(f"{shapes}: no such loss is known here")
    if causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
        # nothing predicts the first word of a sequence that is padded on the left
        real = None if real is None else real[:, :-1] & real[:, 1:]
    logits = _in_float32(logits).transpose(1, 2)  # [B, L, C] -> [B, C, L]
    each = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    labelled = labels != IGNORED
    mean = each.sum() / labelled.sum()
    if real is not None:
        each, labelled = each * real, labelled & real
    return each.sum(1), mean, int(labelled.sum())


def _answer_losses(outputs: list[Tensor], batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, None]:
    """Return the losses [B] of logits [B, L] of starts and ends, and the model's own mean.

    An end that lies outside the text is ignored, as the models do it; they take the padding for text.
    """
    losses, mean = [], []
    for side, logits in zip(("start", "end"), map(_in_float32, outputs)):
        length = logits.shape[1]
        positions = batch[f"{side}_positions"].flatten().clamp(0, length)  # [B, 1] or [B] -> [B]
        each = F.cross_entropy(logits, positions, ignore_index=length, reduction="none")
        mean.append(each.sum() / (positions < length).sum())
        real = _real_positions(batch, logits)
        if real is not None:
            outside = ~F.pad(real, (0, 1)).gather(1, positions[:, None])[:, 0]  # [B, L + 1] -> [B]
            # not -inf: a row of nothing but padding would be NaN
            logits = logits.masked_fill(~real, torch.finfo(logits.dtype).min)
            positions = positions.masked_fill(outside, length)
            each = F.cross_entropy(logits, positions, ignore_index=length, reduction="none")
        losses.append(each)
    return (losses[0] + losses[1]) / 2, (mean[0] + mean[1]) / 2, None


def _sequence_losses(model: nn.Module, logits: Tensor, labels: Tensor, own: Tensor | None) -> Tensor:
    """Return the losses [B] of one label a sequence; `own` is the model's loss, where it returns one."""
    logits = _in_float32(logits)
    if isinstance(model, PreTrainedModel):
        return _FORMULAS.get(model.config.problem_type, _class_losses)(logits, labels)
    # a user's own module does not say which loss it has: the value of its loss does
    if not labels.is_floating_point():
        found = [_class_losses(logits, labels)]
    elif labels.numel() == logits.numel():
        found = [formula(logits, labels) for formula in _FORMULAS.values()]
    else:
        shapes = f"logits {list(logits.shape)} for labels {list(labels.shape)}"
        raise ValueError(f"{type(model).__name__} gives {shapes}: no loss is known")
    return min(found, key=lambda losses: 0.0 if own is None else float((losses.mean() - own).detach().abs()))


def _class_losses(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels.flatten(), reduction="none")  # [B, 1] or [B] -> [B]


def _score_losses(logits: Tensor, labels: Tensor) -> Tensor:
    labels = labels.reshape(logits.shape)  # [B] -> [B, 1]
    return (logits - labels).square().reshape(len(logits), -1).mean(1)  # [B, ...] -> [B]


def _yes_or_no_losses(logits: Tensor, labels: Tensor) -> Tensor:
    labels = labels.to(logits.dtype).reshape(logits.shape)  # [B * C] or [B, C] -> [B, C]
    each = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
    return each.reshape(len(logits), -1).mean(1)  # [B, ...] -> [B]


# a problem type of Transformers' configurations -> the losses of logits and labels
_FORMULAS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "regression": _score_losses,
    "multi_label_classification": _yes_or_no_losses,
}


def _check_mean(model: nn.Module, own: Tensor | None, mean: Tensor) -> None:
    """Refuse a model whose own loss is not the mean of its examples' losses."""
    stock = isinstance(model, PreTrainedModel)
    if own is None and not stock:
        raise ValueError(
            f"{type(model).__name__} gives no `loss` to check by: let its forward return a dict with loss "
            "and logits"
        )
    if own is None:
        return
    # a module whose formula was guessed must fit more closely
    own, mean, tolerance = own.detach().to(mean.dtype), mean.detach(), 0.05 if stock else 0.01
    if not torch.allclose(own, mean, rtol=tolerance, atol=1e-3, equal_nan=True):
        raise ValueError(
            f"{type(model).__name__} works out its loss in a way not known here: {float(own):.5g}, where the "
            f"mean of its examples' is {float(mean):.5g}"
        )


def _output(model: nn.Module, output: Any, name: str) -> Tensor:
    found = output.get(name) if isinstance(output, Mapping) else None
    if not isinstance(found, Tensor):
        raise ValueError(
            f"{type(model).__name__} gives no `{name}`: its forward has to return a dict (or "
            "ModelOutput) with them"
        )
    return found


def _has_encoder(model: nn.Module) -> bool:
    """Return whether `attention_mask` is an encoder's, and not that of the tokens which are predicted."""
    parts = (part.config for part in model.modules() if isinstance(part, PreTrainedModel))
    return any(getattr(config, "is_encoder_decoder", False) for config in parts)


def _real_positions(batch: Mapping[str, Tensor], like: Tensor, decoder: bool = False) -> Tensor | None:
    """Return bool [B, L], the positions of `like` [B, L] that are not padding; None where nothing is padded.

    Raises:
        ValueError: there is padding, and the mask does not show at which of these positions.
    """
    mask = batch.get("decoder_attention_mask" if decoder else "attention_mask")
    if mask is None or bool((mask != 0).all()):
        return None
    if mask.shape != like.shape:
        raise ValueError(
            f"the attention mask {list(mask.shape)} does not tell which of {list(like.shape)} positions are "
            "padding, which would count: give examples of one length, without padding"
        )
    return mask != 0


def _in_float32(logits: Tensor) -> Tensor:
    """Return logits in float32, or in float64 where they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _count_tokens(batch: Mapping[str, Tensor]) -> int:
    """Count the tokens that are not padding; an example without tokens (an image, sound) counts as one."""
    if batch.get("attention_mask") is not None:
        return int((batch["attention_mask"] != 0).sum())
    if batch.get("input_ids") is not None:
        return batch["input_ids"].numel()
    if batch.get("inputs_embeds") is not None:
        return batch["inputs_embeds"].shape[:-1].numel()
    return len(next(value for value in batch.values() if value.dim()))
