"""The stock Trainer with half of a method: refused by name on the second update at the latest, and whole
ones are not.
"""

from __future__ import annotations

from hf_training import DATA, gated, prepared, scores_of  # first: see hf_models  isort: skip

import pytest
import torch
from hf_data import arguments, trainer

from dsp_plugin.gating.handshake.handshake import HandshakeError
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers


class Counted:
    """How many optimizer steps were made."""

    def __init__(self, run):
        self.run, self.steps = run, 0
        run.create_optimizer_and_scheduler(6)
        run.optimizer.register_step_post_hook(self._step)

    def _step(self, *args):
        self.steps += 1


def refused(run, words) -> None:
    counted = Counted(run)
    with pytest.raises(HandshakeError, match=words):
        run.train()
    assert counted.steps < 2


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize(
    "method, words", [("relaxed", "number of updates"), ("concrete", "penalty was in no loss")]
)
def test_without_the_callback(tmp_path, method, words, joint):
    model, args = gated(method), arguments(tmp_path, max_steps=6)
    optimizers = pruning_optimizers(model, args, 6, 0.3, joint)
    refused(trainer(model, args, DATA, (), optimizers), words)


def test_a_straight_through_choice_needs_no_callback(tmp_path):
    model, args = gated("straight-through"), arguments(tmp_path, max_steps=3)
    trainer(model, args, DATA, (), pruning_optimizers(model, args, 3, 0.3, True)).train()


def test_an_optimizer_without_the_scores(tmp_path):
    model, args = gated("relaxed"), arguments(tmp_path, max_steps=6)
    optimizer = torch.optim.AdamW(
        [p for name, p in model.named_parameters() if not name.startswith("gating.")], lr=1e-3
    )
    refused(trainer(model, args, DATA, [HeadGatesCallback(model)], (optimizer, None)), "are in no optimizer")


def test_scores_that_somebody_has_frozen(tmp_path):
    """As PEFT does with everything that is not its own."""
    model, args = gated("relaxed"), arguments(tmp_path, max_steps=6)
    scores_of(model).requires_grad_(False)
    refused(trainer(model, args, DATA, [HeadGatesCallback(model)]), "frozen")


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_another_attention_set_afterwards(tmp_path, implementation):
    run = prepared(gated("relaxed"), tmp_path, joint=True, max_steps=3)
    run.model.set_attn_implementation(implementation)
    before = scores_of(run.model).detach().clone()
    run.train()
    assert not torch.equal(scores_of(run.model).detach(), before)


@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_that_writes_into_the_groups_is_refused_before_training(tmp_path, schedule):
    model = gated("relaxed")
    with pytest.raises(ValueError, match="not a function of the number of updates|lr_scheduler_type"):
        args = arguments(
            tmp_path, max_steps=6, lr_scheduler_type=schedule, eval_strategy="steps", eval_steps=2
        )
        pruning_optimizers(model, args, 6, 0.3, True)


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("method", ["relaxed", "straight-through", "concrete"])
@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_accumulation_steps": 2}, {"gradient_checkpointing": True}, {"bf16": True}],
    ids=str,
)
def test_a_whole_method_trains(tmp_path, method, options, joint):
    run = prepared(gated(method), tmp_path, joint=joint, max_steps=4, **options)
    before = scores_of(run.model).detach().clone()
    run.train()
    assert not torch.equal(scores_of(run.model).detach(), before)
