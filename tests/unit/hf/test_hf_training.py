"""What the optimizer gets from the stock Trainer with gates: gradients, penalty, clipping, groups; against
plain autograd.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip
from hf_data import arguments, sentences, trainer
from hf_training import (
    DATA,
    LAMBDA,
    K,
    QuietConcrete,
    Recorder,
    expected_gradients,
    gated,
    prepared,
    scores_of,
)

from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers, training_steps


class Loud(QuietConcrete):
    """Gates whose gradient in the scores is a hundred thousand times too large."""

    def sample(self):
        gates = super().sample()
        return gates.detach() + 1e5 * (gates - gates.detach())


# ---- the gradient


@pytest.mark.parametrize(
    "accumulation, scale", [(1, None), (4, None), (2, 1024.0)], ids=["plain", "accumulated", "scaled"]
)
def test_the_penalty_counts_once_an_update_beside_the_mean_loss(accumulation, scale, tmp_path):
    model = gated(lambda heads: QuietConcrete(heads, K, LAMBDA), dropout=False)
    rows = DATA[:8]
    expected = expected_gradients(model, rows)
    recorder = Recorder(model)
    run = prepared(
        model,
        tmp_path,
        rows,
        recorder=recorder,
        max_grad_norm=0.0,
        max_steps=1,
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=8 // accumulation,
    )
    if scale is not None:  # as --fp16 has it on a GPU
        run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        run.accelerator.unscale_gradients = lambda optimizer=None: run.accelerator.scaler.unscale_(
            run.optimizer.optimizer
        )
    run.train()
    (found,) = recorder.gradients
    assert found.keys() == expected.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)
    without = expected_gradients(gated(lambda heads: QuietConcrete(heads, K, 0.0), dropout=False), rows)
    name = "gating.gates.scores"
    assert (expected[name] - without[name]).abs().min() > 0.05  # the penalty is no small part of it


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("task", ["classes", "scores", "words"])
def test_the_gradient_is_that_of_the_mean_loss_whatever_the_accumulation(task, accumulation, tmp_path):
    """Of a loss that knows of the Trainer's count of labels, and of those that do not."""
    model = tiny_model("llama" if task == "words" else "bert", dtype=torch.float32)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    rows = [{**row, "labels": row["input_ids"]} if task == "words" else row for row in DATA[:8]]
    if task == "scores":
        model.config.problem_type, model.config.num_labels, model.num_labels = "regression", 1, 1
        model.classifier = torch.nn.Linear(32, 1)
        rows = [{**row, "labels": float(row["labels"])} for row in rows]
    expected = expected_gradients(model, rows)
    recorder = Recorder(model)
    args = arguments(
        tmp_path,
        max_grad_norm=0.0,
        max_steps=1,
        gradient_accumulation_steps=accumulation,
        per_device_train_batch_size=8 // accumulation,
    )
    trainer(model, args, rows, [recorder], pruning_optimizers(model, args, 1, None, True)).train()
    for name in expected:
        torch.testing.assert_close(recorder.gradients[0][name], expected[name], rtol=1e-3, atol=1e-5)


def norm(gradients):
    return float(torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in gradients])))


@pytest.mark.parametrize("gates", [QuietConcrete, Loud], ids=["usual", "loud"])
def test_scores_are_clipped_apart(gates, tmp_path):
    """However large their gradient is, the model's is what the Trainer makes of it without them."""
    model = gated(lambda heads: gates(heads, K, LAMBDA), dropout=False)
    expected = expected_gradients(model, DATA[:4])
    scores = expected.pop("gating.gates.scores")
    own, limit = norm(expected.values()), 0.5
    assert own > 2 * limit  # so that clipping is at work
    recorder = Recorder(model)
    run = prepared(
        model,
        tmp_path,
        DATA[:4],
        recorder=recorder,
        max_grad_norm=limit,
        max_steps=1,
        logging_strategy="steps",
        logging_steps=1,
    )
    run.train()
    (found,) = recorder.gradients
    coefficient = limit / (own + 1e-6)
    for name in expected:
        torch.testing.assert_close(found[name], coefficient * expected[name], rtol=1e-4, atol=1e-6)
    scores = coefficient * scores
    unclipped = float(scores.norm())
    scores *= min(1.0, limit / unclipped)
    torch.testing.assert_close(found["gating.gates.scores"], scores, rtol=1e-4, atol=1e-6)
    log = run.state.log_history[0]
    assert log["grad_norm"] == pytest.approx(own, rel=1e-4)
    assert log["scores_grad_norm"] == pytest.approx(unclipped, rel=1e-4)


def test_no_hook_is_left_on_the_scores(tmp_path):
    model = gated("relaxed", dropout=False)
    prepared(model, tmp_path, max_steps=2).train()
    scores = scores_of(model)
    scores.grad = None
    (3.0 * scores).sum().backward()
    assert torch.equal(scores.grad, torch.full((8,), 3.0))


# ---- optimizer and schedule


def test_groups_and_schedules(tmp_path):
    model = gated("relaxed")
    args = arguments(tmp_path, weight_decay=0.1, learning_rate=1e-3, warmup_steps=2, max_steps=10)
    for schedule, after in ((None, [0.0, 0.25, 0.5, 0.4375, 0.375]), ("constant", [0.5] * 5)):
        optimizer, scheduler = pruning_optimizers(model, args, 10, 0.5, True, schedule)
        decay, plain, scores = optimizer.param_groups
        assert [group["weight_decay"] for group in (decay, plain, scores)] == [0.1, 0.0, 0.0]
        assert scores["params"][0] is scores_of(model) and len(scores["params"]) == 1
        assert {p.dim() for p in decay["params"]} == {2}
        assert {p.dim() for p in plain["params"]} == {1}
        assert len(decay["params"]) + len(plain["params"]) + 1 == len(list(model.parameters()))
        rates = []
        for _ in after:
            rates.append((decay["lr"], plain["lr"], scores["lr"]))
            optimizer.step()
            scheduler.step()
        model_rates = [0.0, 5e-4, 1e-3, 8.75e-4, 7.5e-4]
        assert rates == [pytest.approx((m, m, s)) for m, s in zip(model_rates, after)]


def test_without_gates_it_is_the_trainers_own_optimizer(tmp_path):
    models = [tiny_model("bert", dtype=torch.float32) for _ in range(2)]
    args = arguments(tmp_path, max_steps=4, weight_decay=0.1, warmup_steps=1)
    trainer(models[0], args, DATA).train()
    trainer(models[1], args, DATA, optimizers=pruning_optimizers(models[1], args, 4, None, True)).train()
    assert all(torch.equal(one, other) for one, other in zip(models[0].parameters(), models[1].parameters()))


@pytest.mark.parametrize(
    "examples, options",
    [
        (16, {}),
        (17, {"num_train_epochs": 2.5}),
        (17, {"gradient_accumulation_steps": 3}),
        (3, {"gradient_accumulation_steps": 4}),
        (18, {"dataloader_drop_last": True}),
        (18, {"max_steps": 7}),
        (33, {"per_device_train_batch_size": 5, "num_train_epochs": 3}),
    ],
)
def test_training_steps_are_the_trainers(examples, options, tmp_path):
    args = arguments(tmp_path, **options)
    run = trainer(tiny_model("bert", dtype=torch.float32), args, sentences(examples))
    *_, steps = run.set_initial_training_values(args, run.get_train_dataloader())
    assert training_steps(args, examples) == steps


@pytest.mark.parametrize(
    "method, joint, options, rate, said",
    [
        (
            "relaxed",
            True,
            {"optim": "adafactor"},
            0.1,
            "^optim must be adamw_torch or adamw_torch_fused.*adafactor",
        ),
        ("relaxed", True, {}, 0.0, "^pruning_lr must be above 0 and finite, got 0.0"),
        (
            "relaxed",
            True,
            {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
            0.1,
            "^lr_scheduler_type .* is not a function of the number of updates",
        ),
        ("ranked", False, {}, 0.1, "nothing is left to train"),
    ],
)
def test_what_the_optimizer_refuses(method, joint, options, rate, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        pruning_optimizers(gated(method), arguments(tmp_path, **options), 4, rate, joint)


def test_what_the_callback_refuses(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="the model has no gates"):
        HeadGatesCallback(tiny_model("bert"))
    with pytest.raises(ValueError, match="every 1 or more updates, not every 0"):
        HeadGatesCallback(gated("relaxed"), note_every=0)
    args = arguments(tmp_path)
    monkeypatch.setattr(type(args), "n_gpu", 2)
    with pytest.raises(ValueError, match="start one process a GPU .torchrun."):
        HeadGatesCallback(gated("relaxed")).on_init_end(args, None, None)
