"""Tells the Trainer of a model's loss, which accumulation and several processes would else enlarge."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from torch import nn
from transformers import PreTrainedModel

_ITEMS = "num_items_in_batch"


def declare_mean_loss(model: nn.Module) -> None:
    """Tell the Trainer that is made next that this model's loss is the mean of its batch, where that is so.

    The Trainer takes it that a model whose `forward` has `**kwargs` divides its loss by `num_items_in_batch`,
    the labels of the whole update. BERT's classifiers and many others have `**kwargs` and take the mean of
    each micro-batch all the same, and regression always does. The Trainer then adds up means: the gradient is
    as many times too large as there are micro-batches an update and processes, and a penalty beside the loss
    as many times too small.

    Args:
        model: a Transformers model, an adapter's model around one (PEFT), or a user's own module. The word of
            a class that has `accepts_loss_kwargs` is not touched.
    """
    get_base_model = getattr(model, "get_base_model", None)
    if callable(get_base_model):  # the Trainer looks through PEFT, too
        model = get_base_model()
    if takes_mean(model):
        model.accepts_loss_kwargs = False


def takes_mean(model: nn.Module) -> bool:
    """Return whether a model takes the mean of its batch, whatever it is told of the update's labels."""
    if hasattr(type(model), "accepts_loss_kwargs"):
        return False
    if isinstance(model, PreTrainedModel):
        return _transformers_mean(model)
    source = _source(type(model).forward)
    if source is None or _ITEMS in source or "loss_function(" in source:
        return False  # a class without a file, or one that knows of the count: its author has the say
    passed = [
        name
        for name in _keyword_names(type(model).forward)
        if len(re.findall(rf"\*\*\s*{name}\b", source)) > 1
    ]
    inner = [part for part in model.children() if isinstance(part, PreTrainedModel)]
    # the loss may be that of a model it is all handed on to
    return not passed or all(takes_mean(part) for part in inner)


def _transformers_mean(model: PreTrainedModel) -> bool:
    # the only way to a loss that knows of num_items_in_batch is Transformers' own `loss_function`
    source = _source(type(model).forward)
    sequences = type(model).__name__.endswith("ForSequenceClassification")
    config = model.config
    kind, labels = getattr(config, "problem_type", None), getattr(config, "num_labels", None)
    other = kind in ("regression", "multi_label_classification") or labels == 1
    return (source is not None and "loss_function(" not in source) or (sequences and other)


def _source(function: Callable[..., Any]) -> str | None:
    """Return a function's source; None where it has no file."""
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return None


def _keyword_names(function: Callable[..., Any]) -> list[str]:
    """List the names of its `**kwargs`."""
    parameters = inspect.signature(function).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is inspect.Parameter.VAR_KEYWORD]
