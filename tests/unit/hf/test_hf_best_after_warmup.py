"""The best checkpoint of a training with gates is never one of the warm-up, whose heads are random; nor is
one resumed without its optimizer."""

from __future__ import annotations

import json
import logging

import pytest
import torch
from hf_data import BEST_OF_STEPS, arguments, trainer
from hf_models import tiny_model
from hf_training import DATA, METHODS
from transformers import EarlyStoppingCallback

from dsp_plugin.hf import gate_heads, head_map_of
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers
from dsp_plugin.hf.trainer.epoch_order import EpochOrder
from dsp_plugin.options.errors import OptionError


def prepared(folder, qualities, warmup, method="relaxed", joint=True, more=(), first=(), **options):
    """A training of 6 updates that is scored at every one of them, by what `qualities` says."""
    model = tiny_model("bert")
    torch.manual_seed(11)
    gate_heads(model, METHODS[method](head_map_of(model)), warmup)
    values = iter(qualities)
    given = dict(max_steps=6, **BEST_OF_STEPS, metric_for_best_model="quality")
    args = arguments(folder, **{**given, **options})
    optimizers = pruning_optimizers(model, args, 6, 0.3, joint)
    return trainer(
        model,
        args,
        DATA,
        [*first, HeadGatesCallback(model), *more],
        optimizers,
        eval_dataset=DATA[:4],
        compute_metrics=lambda found: {"quality": next(values)},
    )


@pytest.mark.parametrize(
    "warmup, best, method, joint",
    [
        (0, 1, "relaxed", True),
        (1, 3, "relaxed", False),
        (2, 3, "concrete", True),
        (3, 5, "straight-through", True),
        (4, 5, "concrete", False),
        (5, 6, "straight-through", False),
        (6, None, "relaxed", True),
        (9, None, "concrete", True),
    ],
)
def test_the_best_is_the_best_of_after_the_warmup(tmp_path, method, joint, warmup, best, caplog):
    run = prepared(tmp_path, [0.9, 0.2, 0.7, 0.1, 0.5, 0.4], warmup, method, joint)
    with caplog.at_level(logging.WARNING, "dsp_plugin"):
        run.train()
    assert run.state.best_global_step == best
    assert run.state.best_model_checkpoint == (None if best is None else str(tmp_path / f"checkpoint-{best}"))
    said = [record.message for record in caplog.records]
    assert sum("are not taken for the best" in line for line in said) == (warmup > 0)
    assert sum("the model is that of the last update" in line for line in said) == (best is None)
    for step in range(1, 7):
        state = json.loads((tmp_path / f"checkpoint-{step}" / "trainer_state.json").read_text())
        assert state["best_global_step"] is None or state["best_global_step"] > warmup
        assert (state["best_metric"] is None) == (state["best_global_step"] is None) == (step <= warmup)


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_keeps_no_checkpoint_of_the_warmup(tmp_path, limit):
    run = prepared(tmp_path, [0.9, 0.8, 0.3, 0.5, 0.2, 0.1], 2, save_total_limit=limit)
    run.train()
    there = {path.name for path in tmp_path.glob("checkpoint-*")}
    assert "checkpoint-4" in there and len(there) <= limit and run.state.best_global_step == 4


@pytest.mark.parametrize("place", ["first", "more"])
def test_early_stopping_counts_from_the_warmups_end(tmp_path, place):
    run = prepared(tmp_path, [0.9, 0.8, 0.3, 0.4, 0.2, 0.1], 2, **{place: [EarlyStoppingCallback(2)]})
    run.train()
    assert run.state.global_step == 6 and run.state.best_global_step == 4


def test_the_note_of_a_checkpoint_that_another_program_wrote_is_not_taken_over(tmp_path):
    prepared(tmp_path, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4], 0).train()
    for step in range(3, 7):
        for path in (tmp_path / f"checkpoint-{step}").iterdir():
            path.unlink()
        (tmp_path / f"checkpoint-{step}").rmdir()
    run = prepared(tmp_path, [0.3, 0.4, 0.2, 0.1], 3)  # the state of checkpoint-2 says that 1 is the best
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert run.state.best_global_step == 4


@pytest.mark.parametrize(
    "gated, options",
    [(True, {}), (True, {"lr_scheduler_type": "constant"}), (False, {}), (False, {"optim": "sgd"})],
    ids=str,
)
def test_a_training_does_not_go_on_without_its_optimizer(tmp_path, gated, options):
    def started(**more):
        args = arguments(
            tmp_path, **{**dict(max_steps=4, save_strategy="steps", save_steps=2), **options, **more}
        )
        model = tiny_model("bert")
        if not gated:
            return trainer(model, args, DATA, [EpochOrder()])
        gate_heads(model, METHODS["relaxed"](head_map_of(model)))
        optimizers = pruning_optimizers(model, args, 4, 0.3, True)
        return trainer(model, args, DATA, [HeadGatesCallback(model)], optimizers)

    started(save_only_model=True).train()
    told = "^resume_from_checkpoint goes on, .* no optimizer.pt: .*, without save_only_model if"
    with pytest.raises(OptionError, match=told):
        started().train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    # nothing is left to do
    assert started().train(resume_from_checkpoint=str(tmp_path / "checkpoint-4")).global_step == 4
    started().train()
    run = started()
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert run.state.global_step == 4
