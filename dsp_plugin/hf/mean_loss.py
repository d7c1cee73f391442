"""What the Trainer must be told of a model's loss, so that gradient accumulation and several processes do not enlarge it."""

from __future__ import annotations

import inspect

from transformers import PreTrainedModel


def declare_mean_loss(model: PreTrainedModel) -> None:
    """Tell the Trainer that is made next that this model's loss is the mean of its batch, where that is so.

    The Trainer takes it that a model whose `forward` has `**kwargs` divides its loss by `num_items_in_batch`, the labels
    of the whole update. BERT's classifiers and many others have `**kwargs` and take the mean of each micro-batch all the
    same, and regression always does. The Trainer then adds up means: the gradient is as many times too large as there
    are micro-batches an update and processes, and a penalty beside the loss as many times too small.
    """
    try:
        # the only way to a loss that knows of num_items_in_batch is Transformers' own `loss_function`
        by_itself = "loss_function(" not in inspect.getsource(type(model).forward)
    except OSError:  # a class without a file: its author has the say
        by_itself = False
    sequences = type(model).__name__.endswith("ForSequenceClassification")
    config = model.config
    other = config.problem_type in ("regression", "multi_label_classification") or config.num_labels == 1
    if by_itself or (sequences and other):
        model.accepts_loss_kwargs = False
