"""Training of a gated model with the stock Trainer, by an optimizer and a callback that know of gates.

gate_heads(model, RelaxedSubset(head_map_of(model), k, cooling))
steps = training_steps(args, len(train_data))
optimizers = pruning_optimizers(model, args, steps, pruning_lr=0.5, joint=True)
trainer = Trainer(model, args, ..., optimizers=optimizers, callbacks=[HeadGatesCallback(model)])
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sized
from typing import Any

import torch
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from ...gating import Switchboard
from ...options.errors import OptionError
from ...records.history import append_heads, read_history, rewrite_history
from ..trainer.epoch_order import EpochOrder
from ..trainer.mean_loss import declare_mean_loss
from ..trainer.updates import training_steps
from .best_after_warmup import BestAfterWarmup
from .gating import check_whole, switchboard_of
from .optimizers import check_covered, pruning_optimizers

__all__ = ["HeadGatesCallback", "declare_mean_loss", "pruning_optimizers", "training_steps"]

# the factor of the scores' gradient while the Trainer clips: exact, and too small to count in the norm
_ASIDE = 2.0**-40


class HeadGatesCallback(EpochOrder):
    """Trains the gates: tells them the updates, adds their penalty, clips, logs, and notes the heads.

    The penalty lambda * (...) of Voita's gates is added to the mean loss of an optimizer step: the scores'
    gradient starts from the penalty's, once a step, whatever the number of micro-batches, processes and the
    loss scale. The logged loss leaves it out. The callback must be made before the Trainer is (see
    `declare_mean_loss`).

    Clipping: the relaxed sampler's gradient can be a million times that of the gates, and would, in one norm
    with the model's, stop the model's learning for that step. So the scores take no part in the norm that the
    Trainer clips by. Their gradient is scaled as the model's is, and then clipped to `max_grad_norm` apart.

    The best checkpoint (`load_best_model_at_end`, early stopping, what `save_total_limit` keeps) is one from
    after the warm-up: before, the heads that an evaluation keeps are random.

    Args:
        model: gated (`gate_heads`), the one the Trainer is given; any module around gated ones.
        note_every: note the heads that would be kept every so many updates, too, and not at evaluations only.
        start: () -> scores [N] that the gates begin with, such as an `ImportanceStart`; called before the
            first update of the choice of heads, when the warm-up is over.
        confidence: () -> mean largest attention weights [N] of the heads, such as a `HeadConfidence`; called
            where closed gates may open again (see `Rounds`).

    Attributes:
        history: (updates, keep as a list of N booleans) at every evaluation, in order. Also in `heads.jsonl`
            in the Trainer's output folder, from where a resumed run goes on.

    Raises:
        ValueError: the model has no gates, or `note_every` is below 1. From the Trainer: see
            `check_arguments`.
    """

    def __init__(
        self,
        model: nn.Module,
        note_every: int | None = None,
        start: Callable[[], Tensor] | None = None,
        confidence: Callable[[], Tensor] | None = None,
    ):
        switchboard = switchboard_of(model)
        if switchboard is None:
            raise ValueError("the model has no gates: gate_heads(model, gates) first")
        check_whole(model, switchboard)
        if note_every is not None and note_every < 1:
            raise ValueError(f"the heads can be noted every 1 or more updates, not every {note_every}")
        declare_mean_loss(model)
        self.switchboard: Switchboard = switchboard
        self.note_every, self.start, self.confidence = note_every, start, confidence
        self.history: list[tuple[int, list[bool]]] = []
        self._training = False
        self._hooks: list[Any] = []
        self._figures: dict[str, Any] = {}
        self._only_scores_learn = False
        self._best = BestAfterWarmup(switchboard.warmup_updates)

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        check_arguments(args)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)
        optimizer = kwargs.get("optimizer")
        if not args.fsdp:  # which has parameters of its own
            check_covered(getattr(optimizer, "optimizer", optimizer), kwargs["model"])
        self._remove_hooks()
        self.switchboard.set_num_updates(state.global_step)
        self._training, self._figures = True, {}
        self._best.begin_training()
        # a checkpoint of the warm-up that another program wrote may say that it is the best
        self._best.forget(state)
        learning = {id(parameter) for parameter in kwargs["model"].parameters() if parameter.requires_grad}
        self._only_scores_learn = learning <= {id(parameter) for parameter in self._scores()}
        # a new run does not go on from the notes of another one, nor a resumed one from its own future
        noted = read_history(args.output_dir) if state.global_step else []
        noted = [entry for entry in noted if entry["updates"] <= state.global_step]
        self.history = [(entry["updates"], [bool(flag) for flag in entry["keep"]]) for entry in noted]
        if state.is_world_process_zero:
            rewrite_history(args.output_dir, noted)

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._remove_hooks()
        self.switchboard.set_num_updates(state.global_step)
        self._best.forget(state)
        # a function of the updates and of nothing else: a checkpoint from before this one update begins again
        if self.start is not None and state.global_step == self.switchboard.warmup_updates:
            self.switchboard.gates.begin_with(self.start())
        self._begin_update(args, state, kwargs.get("train_dataloader"))
        scores = self._scores()
        scaler = getattr(kwargs.get("optimizer"), "scaler", None)
        scale = 1.0 if scaler is None else scaler.get_scale()
        for parameter, gradient in zip(scores, self._penalty_gradients(scores)):
            # backward adds to what is there, and averaging over processes leaves alone what all of them have
            parameter.grad = None if gradient is None else gradient * (scale * _ASIDE)
        # not before: a hook would set the penalty's gradient aside, too, and so twice
        self._hooks = [parameter.register_hook(_set_aside) for parameter in scores]

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs
    ):
        self._remove_hooks()
        scores = [parameter for parameter in self._scores() if parameter.grad is not None]
        if not scores:
            return
        for parameter in scores:
            parameter.grad.div_(_ASIDE)
        norm = nn.utils.clip_grad_norm_(scores, args.max_grad_norm or math.inf)
        self._figures = {"scores_grad_norm": norm}
        rate = _learning_rate(kwargs.get("optimizer"), scores)
        if rate is not None:
            self._figures["pruning_lr"] = rate

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self.note_every is not None and state.global_step % self.note_every == 0:
            self._note(args, state)

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        if self._training:  # afterwards the model may be that of another update
            self._note(args, state)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        self._best.forget_saved(args, state)  # before the checkpoint is sealed
        super().on_save(args, state, control, **kwargs)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        super().on_train_end(args, state, control, **kwargs)
        self._best.forget(state)
        self._best.end_training(args, state)
        self._remove_hooks()
        self._training = False

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        logs: dict[str, Any] = kwargs.get("logs") or {}
        if not self._training or "loss" not in logs:
            return
        figures = {**self.switchboard.metrics(), **self._figures}
        figures = {name: float(value) for name, value in figures.items()}
        penalty = float(self.switchboard.penalty().detach())
        if penalty:
            figures["penalty"] = penalty
        if self._only_scores_learn and "grad_norm" in logs:  # the Trainer saw it set aside
            figures["grad_norm"] = figures.get("scores_grad_norm", logs["grad_norm"])
        logs.update(figures)
        if state.log_history:  # written before the callbacks are asked
            state.log_history[-1].update(figures)

    def _begin_update(self, args: TrainingArguments, state: TrainerState, batches: Any) -> None:
        """Do what is due before an update of gates that go by rounds, with what they need of the data."""
        rounds = getattr(self.switchboard.gates, "rounds", None)
        if rounds is None:
            return
        if rounds.length is None and isinstance(batches, Sized):
            rounds.length = max(1, -(-len(batches) // args.gradient_accumulation_steps))
        if self.confidence is not None and self.switchboard.pruning and rounds.due(state.global_step):
            rounds.note(self.confidence())
        self.switchboard.begin_update()

    def _scores(self) -> list[nn.Parameter]:
        """Return the gates' parameters that learn."""
        return [parameter for parameter in self.switchboard.gates.parameters() if parameter.requires_grad]

    def _penalty_gradients(self, parameters: list[nn.Parameter]) -> list[Tensor | None]:
        with torch.enable_grad():
            penalty = self.switchboard.penalty()
        if not penalty.requires_grad:
            return [None] * len(parameters)
        return list(torch.autograd.grad(penalty, parameters, allow_unused=True))

    def _note(self, args: TrainingArguments, state: TrainerState) -> None:
        keep = [bool(flag) for flag in self.switchboard.gates.keep().tolist()]
        if self.history and self.history[-1][0] == state.global_step:  # several evaluation sets
            return
        self.history.append((state.global_step, keep))
        if state.is_world_process_zero:
            append_heads(args.output_dir, state.global_step, keep)

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []


def check_arguments(args: TrainingArguments) -> None:
    """Refuse arguments of the Trainer under which gates would not learn, or not by their schedule.

    Raises:
        OptionError: names the argument. ValueError: there are several GPUs in this process.
    """
    if args.n_gpu > 1:
        raise ValueError(
            "several GPUs in one process copy the model but not its gates: start one process a GPU (torchrun)"
        )
    if args.deepspeed:
        raise OptionError("deepspeed", "keeps gradients to itself, so that gates cannot be trained under it")
    if (args.gradient_checkpointing_kwargs or {}).get("use_reentrant") and args.gradient_checkpointing:
        reason = "use_reentrant true goes back through the gates once a layer: make it false, or leave it out"
        raise OptionError("gradient_checkpointing_kwargs", reason)
    if args.auto_find_batch_size:
        reason = "changes the number of updates, by which the gates go: leave it out"
        raise OptionError("auto_find_batch_size", reason)


def _set_aside(gradient: Tensor) -> Tensor:
    return gradient * _ASIDE


def _learning_rate(optimizer: Any, parameters: list[nn.Parameter]) -> float | None:
    """Return the learning rate of the group that has one of these parameters; None where there is none."""
    wanted = {id(parameter) for parameter in parameters}
    for group in getattr(optimizer, "param_groups", []):
        if any(id(parameter) in wanted for parameter in group["params"]):
            return float(group["lr"])
    return None
