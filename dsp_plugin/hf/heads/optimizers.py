"""The optimizer of a gated model and its schedule, for `Trainer(optimizers=...)`."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import Trainer, TrainingArguments, get_scheduler

from ...options.errors import OptionError
from ..trainer.mean_loss import declare_mean_loss
from .gating import check_whole, switchboard_of

_ADAMW = ("adamw_torch", "adamw_torch_fused")
_made: weakref.WeakSet[Optimizer] = weakref.WeakSet()


def pruning_optimizers(
    model: nn.Module,
    args: TrainingArguments,
    num_training_steps: int,
    pruning_lr: float | None,
    joint: bool,
    pruning_schedule: str | None = None,
) -> tuple[Optimizer, LRScheduler]:
    """Make AdamW with the scores in a group of their own, and its schedule.

    The groups are the model's weights with weight decay, those without (biases and norms), and what the gates
    learn, without weight decay. Betas, epsilon, decay, warm-up and the model's learning rate and schedule are
    those of `args`. Make it before the Trainer (see `declare_mean_loss`). By default the scores follow the
    model's schedule from their own rate, as in the BERT program of DSP.

    Args:
        model: gated, or without gates (for finetuning alone); the one that the Trainer is given, such as a
            user's own module around a gated one, whose weights outside that one learn or are frozen with the
            others.
        num_training_steps: optimizer updates of the whole run (`training_steps`).
        pruning_lr: learning rate of the scores at its peak; None takes the model's.
        joint: train model and scores; else all weights of the model are frozen here and only the scores
            learn.
        pruning_schedule: name of another schedule for the scores, such as "constant" (the MT program of DSP),
            which then holds whatever else writes into the optimizer's groups.

    Raises:
        OptionError: another optimizer than AdamW, a rate that is not above 0 and finite, a schedule that is
            not a function of the number of updates.
        ValueError: nothing is left to train; the model is a part of the gated one.
    """
    optim = str(getattr(args.optim, "value", args.optim))
    if optim not in _ADAMW:
        raise OptionError("optim", f"must be {' or '.join(_ADAMW)} to train scores of heads, got {optim}")
    if pruning_lr is not None and not 0 < pruning_lr < math.inf:
        raise OptionError("pruning_lr", f"must be above 0 and finite, got {pruning_lr}")
    declare_mean_loss(model)
    switchboard = switchboard_of(model)
    if switchboard is not None:
        check_whole(model, switchboard)
    scores = [] if switchboard is None else [p for p in switchboard.gates.parameters() if p.requires_grad]
    if not joint:
        if not scores:
            raise ValueError(
                "nothing is left to train: the model's weights are frozen, and there are no scores that learn"
            )
        model.requires_grad_(False)
        for parameter in scores:
            parameter.requires_grad_(True)
    rate = args.learning_rate if pruning_lr is None else pruning_lr
    groups = _groups(model, scores, args.weight_decay)
    if scores:
        groups.append({"params": scores, "weight_decay": 0.0, "lr": rate})
    optimizer_class, options = Trainer.get_optimizer_cls_and_kwargs(args, model)
    optimizer = optimizer_class(groups, **options)
    _made.add(optimizer)
    if switchboard is not None:
        constant = rate if pruning_schedule == "constant" else None
        switchboard.handshake.expect(lr=constant, weight_decay=0.0, restore_in=optimizer)
    factors = [_factor(args.lr_scheduler_type, args, num_training_steps, args.learning_rate)] * len(groups)
    if scores:
        schedule = args.lr_scheduler_type if pruning_schedule is None else pruning_schedule
        factors[-1] = _factor(schedule, args, num_training_steps, rate)
    return optimizer, LambdaLR(optimizer, factors)


def check_covered(optimizer: Optimizer | None, model: nn.Module) -> None:
    """Check that an optimizer of `pruning_optimizers` holds every parameter of the model that learns.

    Raises:
        ValueError: it was made for a part of the model only.
    """
    if optimizer is None or optimizer not in _made:
        return
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in held]
    if left:
        raise ValueError(
            f"{len(left)} parameters of the model that is trained are not its optimizer's "
            f"({', '.join(left[:3])}): give pruning_optimizers() the whole {type(model).__name__}, as the "
            "Trainer has it"
        )


def _groups(model: nn.Module, scores: list[nn.Parameter], weight_decay: float) -> list[dict[str, Any]]:
    """Group the parameters that learn, apart from the scores, by whether they have weight decay."""
    score_ids = {id(parameter) for parameter in scores}
    learnt = [(n, p) for n, p in model.named_parameters() if p.requires_grad and id(p) not in score_ids]
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # uses nothing of the Trainer
    groups = [
        {"params": [p for n, p in learnt if n in decayed], "weight_decay": weight_decay},
        {"params": [p for n, p in learnt if n not in decayed], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _factor(name: Any, args: TrainingArguments, num_training_steps: int, lr: float) -> Callable[[int], float]:
    """Return the factor of the learning rate after n updates, under a schedule of Transformers."""
    # schedules can be had only for an optimizer, and some look at its learning rate
    single = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=lr)
    more = args.lr_scheduler_kwargs if name == args.lr_scheduler_type else None
    try:
        warmup = args.get_warmup_steps(num_training_steps)
        scheduler = get_scheduler(name, single, warmup, num_training_steps, more)
    except (ValueError, TypeError) as error:  # a schedule's own options that are missing or wrong
        raise OptionError("lr_scheduler_type", f"{name}: {error}") from error
    if not isinstance(scheduler, LambdaLR):
        reason = "is not a function of the number of updates: take linear, cosine, constant ..."
        raise OptionError("lr_scheduler_type", f"{name} {reason}")
    return scheduler.lr_lambdas[0]
