"""Training a sparse diff with the stock Trainer.

    vector = DiffVector(model.to(args.device), task_head=["classifier"], seed=args.seed)  # model is the base
    optimizers = diff_optimizers(vector, args)
    trainer = Trainer(model, args, ..., optimizers=optimizers, callbacks=[DiffCallback(optimizers[0])])

The model's own calls choose what its parameters hold: the sample before a forward pass in training mode, the
deterministic theta before evaluation and saving (see `DiffVector`). The Trainer makes its own schedule, which
reaches w and the task head.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerControl, TrainerState, TrainingArguments

from ...artefacts.base import task_head_names
from ...diffs import DiffAdamW, DiffVector, FixMaskAdamW, SparseDiff
from ...options.errors import OptionError
from ..trainer.epoch_order import EpochOrder
from ..trainer.mean_loss import declare_mean_loss

__all__ = ["DiffCallback", "diff_optimizers", "find_task_head", "fixmask_optimizers"]

_ADAMW = ("adamw_torch", "adamw_torch_fused")
_OPTIMIZER_FILE = "optimizer.pt"
_GIVEN_NORM = "diff_max_grad_norm"


def find_task_head(model: PreTrainedModel, new: Iterable[str], named: Iterable[str] = ()) -> list[str]:
    """Find the names of the parameters of the task head, which is trained dense.

    Args:
        new: names of the weights that were new when the model was loaded (`missing_keys` of its loading
            information); they are the task head where `named` is empty.
        named: names of parameters or modules.

    Raises:
        ValueError: a name is not in the model.
        OptionError: there is neither a new nor a named parameter.
    """
    parameters = [name for name, _ in model.named_parameters()]
    found = task_head_names(parameters, named) if named else sorted(set(new) & set(parameters))
    if not found:
        reason = "is missing: the task head cannot be found, because no weight of the model is new; name its"
        last = f"the last of {type(model).__name__} is {parameters[-1]}"
        raise OptionError("task_head", f"{reason} modules or parameters ({last})")
    return found


def diff_optimizers(vector: DiffVector, args: TrainingArguments, **options: Any) -> tuple[DiffAdamW, None]:
    """Make the `optimizers` of a Trainer for a diff that is learnt with its mask.

    Learning rate, betas, epsilon and clipping norm are those of `args`. `args.max_grad_norm` is set to 0
    here, because the Trainer's clipping of theta's gradient would be another one: DiffAdamW clips w and alpha
    apart. Its value stays in `args.diff_max_grad_norm`, so that the same `args` serve another stage. Make it
    before the Trainer (see `declare_mean_loss`).

    Args:
        options: further options of `DiffAdamW` (alpha_lr, task_head_lr, eps_uncorrected ...).

    Raises:
        OptionError: `args` choose another optimizer than AdamW. ValueError: see `DiffAdamW`.
    """
    given = _settings(args)
    declare_mean_loss(vector.model)
    optimizer = DiffAdamW(vector, **{**given, "alpha_max_norm": given["max_norm"], **options})
    _leave_clipping(args, given["max_norm"])
    return optimizer, None


def fixmask_optimizers(
    model: PreTrainedModel,
    args: TrainingArguments,
    diff: SparseDiff,
    base: Mapping[str, Tensor] | None = None,
    task_head: Iterable[str] = (),
    from_zero: bool = False,
) -> tuple[FixMaskAdamW, None]:
    """Make the `optimizers` of a Trainer, as `diff_optimizers` does, for a diff whose positions stand.

    Args:
        base: needed where a diff was trained in this model before (and detached since); see `FixMaskAdamW`.
        diff, task_head, from_zero: see `FixMaskAdamW`.

    Raises:
        OptionError: `args` choose another optimizer than AdamW. ValueError: see `FixMaskAdamW`.
    """
    given = _settings(args)
    declare_mean_loss(model)
    optimizer = FixMaskAdamW(model, diff, base=base, task_head=task_head, from_zero=from_zero, **given)
    _leave_clipping(args, given["max_norm"])
    return optimizer, None


class DiffCallback(EpochOrder):
    """Logs the diff's figures, and loads the best checkpoint's optimizer where the Trainer loads its model.

    Without that, w (or the kept values) would be the last update's while the model holds the selected
    checkpoint's theta, and a pack would be made of the wrong one.

    Raises:
        ValueError: from the Trainer: it would train by DataParallel, DeepSpeed or FSDP, clip by itself, load
            a best checkpoint that was saved without its optimizer, or resume without the optimizer's state.
    """

    def __init__(self, optimizer: DiffAdamW | FixMaskAdamW):
        self.optimizer = optimizer

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if args.n_gpu > 1:
            raise ValueError(
                "several GPUs in one process copy the model but not its diff: start one process a GPU "
                "(torchrun)"
            )
        # `accelerate launch`
        launched = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true")
        if args.deepspeed or args.fsdp or args.deepspeed_plugin is not None or launched:
            reason = "and {} spread the weights, a diff needs them whole: leave them out"
            raise OptionError("deepspeed", reason, "fsdp")
        if args.max_grad_norm:
            reason = f"{args.max_grad_norm}: the Trainer must not clip, the diff's optimizer does"
            raise OptionError("max_grad_norm", reason)
        if args.load_best_model_at_end and args.save_only_model:
            reason = "with {}: the diff of the best checkpoint would be lost"
            raise OptionError("save_only_model", reason, "load_best_model_at_end")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        steps = self.optimizer.vector.steps if isinstance(self.optimizer, DiffAdamW) else self.optimizer.steps
        # the Trainer goes on without a word, and the diff would begin at 0
        if state.global_step and not steps:
            reason = f"leads to a checkpoint that has no {_OPTIMIZER_FILE} ({{}}?): the diff is in it"
            raise OptionError("resume_from_checkpoint", reason, "save_only_model")

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        logs: dict[str, Any] = kwargs.get("logs") or {}
        if "loss" not in logs or not isinstance(self.optimizer, DiffAdamW):
            return
        figures = self.optimizer.metrics()
        logs.update(figures)
        if state.log_history:  # written before the callbacks are asked
            state.log_history[-1].update(figures)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        super().on_train_end(args, state, control, **kwargs)
        best = state.best_model_checkpoint
        if args.load_best_model_at_end and best is not None:
            saved = torch.load(os.path.join(best, _OPTIMIZER_FILE), map_location="cpu", weights_only=True)
            self.optimizer.load_state_dict(saved)


def _settings(args: TrainingArguments) -> dict[str, Any]:
    """Return the options of AdamW that `args` give to both optimizers of diffs."""
    optim = str(getattr(args.optim, "value", args.optim))
    if optim not in _ADAMW:
        raise OptionError("optim", f"must be {' or '.join(_ADAMW)} to train a diff, got {optim}")
    return dict(
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        max_norm=args.max_grad_norm or getattr(args, _GIVEN_NORM, 0.0),
        task_head_weight_decay=args.weight_decay,
    )


def _leave_clipping(args: TrainingArguments, given: float) -> None:
    """Let the optimizer clip and not the Trainer; the norm stays on `args` for whoever asks next."""
    setattr(args, _GIVEN_NORM, given)
    args.max_grad_norm = 0.0
