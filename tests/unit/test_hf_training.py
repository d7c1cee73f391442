"""Training gates with the stock Trainer: gradients, penalty, clipping, evaluation, resuming; against plain autograd."""

from __future__ import annotations

import copy
import json

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip
from hf_data import arguments, padded, sentences, trainer
from safetensors.torch import load_file
from transformers import TrainerCallback

from dsp_plugin.gating import (
    ConcreteGates,
    ExponentialCooling,
    RankedGates,
    RelaxedSubset,
    StraightThroughSubset,
    constant_temperature,
)
from dsp_plugin.gating.concrete import concrete_gates
from dsp_plugin.hf import gate_heads, head_map_of, prune_heads, switchboard_of
from dsp_plugin.hf.training import HeadGatesCallback, pruning_optimizers, training_steps
from dsp_plugin.reports.history import read_history

K, LAMBDA = 3, 0.7
DATA = sentences(16)
COOLING = ExponentialCooling(1.0, 0.05, 6)
METHODS = {
    "relaxed": lambda heads: RelaxedSubset(heads, K, COOLING),
    "straight-through": lambda heads: StraightThroughSubset(heads, K),
    "concrete": lambda heads: ConcreteGates(heads, K, LAMBDA),
    "ranked": lambda heads: RankedGates(heads, K, torch.arange(8.0)),
}


class QuietConcrete(ConcreteGates):
    """Without noise, so that a gradient can be worked out beside the Trainer's."""

    def sample(self):
        return concrete_gates(self.scores.double(), torch.full((8,), 0.5, dtype=torch.float64)).float()


class Loud(QuietConcrete):
    """Gates whose gradient in the scores is a hundred thousand times too large."""

    def sample(self):
        gates = super().sample()
        return gates.detach() + 1e5 * (gates - gates.detach())


class Recorder(TrainerCallback):
    """Gradients as the optimizer gets them, and the temperature they were made at."""

    def __init__(self, model):
        self.model, self.gradients, self.temperatures = model, [], []

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        self.gradients.append({n: p.grad.clone() for n, p in self.model.named_parameters() if p.grad is not None})
        board = switchboard_of(self.model)
        self.temperatures.append(getattr(board.gates, "temperature", None) if board else None)


def gated(method, dropout=True, dtype=torch.float32):
    """A tiny BERT with gates; scores and weights are the same at every call."""
    model = tiny_model("bert", dtype=dtype)
    if not dropout:
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
    torch.manual_seed(11)
    gate_heads(model, (METHODS.get(method) or method)(head_map_of(model)))
    return model


def prepared(model, folder, data=DATA, joint=True, pruning_lr=0.3, recorder=None, more=None, **options):
    """A Trainer for a gated model."""
    args = arguments(folder, **options)
    optimizers = pruning_optimizers(model, args, training_steps(args, len(data)), pruning_lr, joint)
    callbacks = [HeadGatesCallback(model), *([recorder] if recorder else [])]
    return trainer(model, args, data, callbacks, optimizers, **(more or {}))


def scores_of(model):
    return switchboard_of(model).gates.scores


# ---- the gradient


def expected_gradients(model, rows):
    """Of the mean loss of all rows plus the penalty, if there is one: {name: gradient}."""
    model = copy.deepcopy(model).train()
    board = switchboard_of(model)
    (model(**padded(rows)).loss + (board.penalty() if board else 0.0)).backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


@pytest.mark.parametrize("accumulation, scale", [(1, None), (4, None), (2, 1024.0)], ids=["plain", "accumulated", "scaled"])
def test_the_penalty_counts_once_an_update_beside_the_mean_loss(accumulation, scale, tmp_path):
    model = gated(lambda heads: QuietConcrete(heads, K, LAMBDA), dropout=False)
    rows = DATA[:8]
    expected = expected_gradients(model, rows)
    recorder = Recorder(model)
    run = prepared(
        model, tmp_path, rows, recorder=recorder, max_grad_norm=0.0, max_steps=1,
        gradient_accumulation_steps=accumulation, per_device_train_batch_size=8 // accumulation,
    )  # fmt: skip
    if scale is not None:  # as --fp16 has it on a GPU
        run.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        run.accelerator.unscale_gradients = lambda optimizer=None: run.accelerator.scaler.unscale_(run.optimizer.optimizer)
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
        tmp_path, max_grad_norm=0.0, max_steps=1, gradient_accumulation_steps=accumulation, per_device_train_batch_size=8 // accumulation
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
    run = prepared(model, tmp_path, DATA[:4], recorder=recorder, max_grad_norm=limit, max_steps=1, logging_strategy="steps", logging_steps=1)
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


@pytest.mark.parametrize("examples, options", [
    (16, {}), (17, {"num_train_epochs": 2.5}), (17, {"gradient_accumulation_steps": 3}), (3, {"gradient_accumulation_steps": 4}),
    (18, {"dataloader_drop_last": True}), (18, {"max_steps": 7}), (33, {"per_device_train_batch_size": 5, "num_train_epochs": 3}),
])  # fmt: skip
def test_training_steps_are_the_trainers(examples, options, tmp_path):
    args = arguments(tmp_path, **options)
    run = trainer(tiny_model("bert", dtype=torch.float32), args, sentences(examples))
    *_, steps = run.set_initial_training_values(args, run.get_train_dataloader())
    assert training_steps(args, examples) == steps


@pytest.mark.parametrize("method, joint, options, rate, said", [
    ("relaxed", True, {"optim": "adafactor"}, 0.1, "--optim must be adamw_torch or adamw_torch_fused.*adafactor"),
    ("relaxed", True, {}, 0.0, "--pruning_lr must be above 0 and finite, got 0.0"),
    ("relaxed", True, {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}, 0.1, "not a function of the number of updates"),
    ("ranked", False, {}, 0.1, "nothing is left to train"),
])  # fmt: skip
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


# ---- the ways to train


@pytest.mark.parametrize("method", METHODS)
def test_joint_training_moves_weights_and_scores(method, tmp_path):
    model = gated(method)
    before = copy.deepcopy(model.state_dict())
    run = prepared(model, tmp_path, max_steps=3, logging_strategy="steps", logging_steps=1)
    run.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert "bert.encoder.layer.1.attention.self.query.weight" in moved and "classifier.weight" in moved
    assert ("gating.gates.scores" in moved) == (method != "ranked")
    assert int(switchboard_of(model).gates.keep().sum()) == K
    log = run.state.log_history[1]
    shown = {"relaxed": {"temperature", "heads_open", "gate_entropy"}, "concrete": {"expected_open", "heads_open", "penalty"}}
    assert {"loss", "grad_norm"} | shown.get(method, {"heads_open"}) <= set(log)
    if method != "ranked":
        assert log["pruning_lr"] == pytest.approx(0.3 * 2 / 3) and log["learning_rate"] == pytest.approx(1e-3 * 2 / 3)


@pytest.mark.parametrize("method", ["relaxed", "straight-through", "concrete"])
def test_pipelined_training_moves_the_scores_only(method, tmp_path):
    model = gated(method)
    before = copy.deepcopy(model.state_dict())
    run = prepared(model, tmp_path, joint=False, max_steps=3, logging_strategy="steps", logging_steps=1)
    run.train()
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"gating.gates.scores"}
    assert run.state.log_history[0]["grad_norm"] == run.state.log_history[0]["scores_grad_norm"] > 1e-6


def test_the_temperature_follows_the_updates_not_the_batches(tmp_path):
    model = gated("relaxed")
    recorder = Recorder(model)
    prepared(model, tmp_path, recorder=recorder, max_steps=8, gradient_accumulation_steps=2).train()
    assert recorder.temperatures == [COOLING(n) for n in range(8)]


def test_scores_stay_single_precision_in_bf16(tmp_path):
    model = gated("relaxed")
    before = scores_of(model).detach().clone()
    recorder = Recorder(model)
    prepared(model, tmp_path, recorder=recorder, max_steps=2, bf16=True).train()
    scores = scores_of(model)
    assert scores.dtype == torch.float32 and bool(torch.isfinite(scores).all()) and not torch.equal(scores, before)
    assert recorder.gradients[0]["gating.gates.scores"].dtype == torch.float32


# ---- evaluation


def test_evaluation_is_that_of_the_pruned_model_and_draws_nothing(tmp_path, monkeypatch):
    held_out = sentences(8, seed=2)
    losses = []

    class Compare(TrainerCallback):
        def on_evaluate(self, args, state, control, model=None, **kwargs):
            pruned = copy.deepcopy(model)
            prune_heads(pruned)
            with torch.no_grad():
                losses.append(float(pruned.eval()(**padded(held_out)).loss))

    model, draws = gated("relaxed"), []
    gates = switchboard_of(model).gates
    monkeypatch.setattr(gates, "sample", lambda: draws.append(model.training) or RelaxedSubset.sample(gates))
    run = prepared(
        model, tmp_path, recorder=Compare(), more={"eval_dataset": held_out}, max_steps=4, eval_strategy="steps", eval_steps=1
    )
    run.train()
    evaluated = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert len(losses) == 4 and evaluated == pytest.approx(losses, rel=1e-5)
    assert draws == [True] * 4  # one a training batch, none in evaluation


def test_the_best_checkpoint_brings_its_scores_back(tmp_path):
    model = gated("relaxed")
    values = iter([0.2, 0.9, 0.1, 0.3])
    run = prepared(
        model, tmp_path, pruning_lr=5.0, more={"eval_dataset": DATA[:4], "compute_metrics": lambda found: {"quality": next(values)}},
        max_steps=4, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1, load_best_model_at_end=True,
        metric_for_best_model="quality", greater_is_better=True,
    )  # fmt: skip
    callback = run.callback_handler.callbacks[-2]
    assert isinstance(callback, HeadGatesCallback)
    run.train()
    assert run.state.best_global_step == 2
    saved = {step: load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")["gating.gates.scores"] for step in (2, 4)}
    assert torch.equal(scores_of(model), saved[2]) and not torch.equal(saved[2], saved[4])
    keep = torch.zeros(8, dtype=torch.bool)
    keep[saved[2].topk(K).indices] = True
    assert torch.equal(switchboard_of(model).eval().gates.keep(), keep)
    masks = [switchboard_of(model).block_gates(position) for position in (0, 1)]
    assert torch.cat([torch.ones(4) if mask is None else mask for mask in masks]).tolist() == keep.float().tolist()
    # the heads at every evaluation, here and in the file; an evaluation after training is none of them
    assert [updates for updates, _ in callback.history] == [1, 2, 3, 4]
    assert callback.history[1][1] == keep.tolist() and all(sum(kept) == K for _, kept in callback.history)
    values = iter([0.5])
    run.compute_metrics = lambda found: {"quality": 0.5}
    run.evaluate()
    assert [entry["updates"] for entry in read_history(tmp_path)] == [1, 2, 3, 4] and len(callback.history) == 4


# ---- resuming


@pytest.mark.parametrize("method, accumulation", [("relaxed", 1), ("concrete", 2), ("straight-through", 1)])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(method, accumulation, tmp_path):
    options = dict(
        max_steps=6, save_strategy="steps", save_steps=3, gradient_accumulation_steps=accumulation, eval_strategy="steps",
        eval_steps=1,
    )  # fmt: skip
    more = {"eval_dataset": DATA[:4]}
    whole, runs = gated(method), []
    runs.append(prepared(whole, tmp_path, more=more, **options))
    runs[0].train()
    history = (tmp_path / "heads.jsonl").read_text()
    torch.manual_seed(99)
    again = gated(method)
    torch.nn.init.normal_(scores_of(again))  # all of it must come from the checkpoint
    recorder = Recorder(again)
    runs.append(prepared(again, tmp_path, more=more, recorder=recorder, **options))
    runs[1].train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert len(recorder.gradients) == 3
    if method == "relaxed":
        assert recorder.temperatures == [COOLING(n) for n in (3, 4, 5)]
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values()):
        assert torch.equal(one, other), name
    states = [run.optimizer.state_dict()["state"] for run in runs]
    assert states[0].keys() == states[1].keys()
    for index, state in states[0].items():
        assert all(torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][index][name])) for name, value in state.items())
    assert (tmp_path / "heads.jsonl").read_text() == history and len(history.splitlines()) == 6


def test_heads_are_noted_between_evaluations_too_and_a_new_run_starts_a_new_file(tmp_path):
    for updates in (5, 4):
        model = gated("relaxed")
        args = arguments(tmp_path, max_steps=updates)
        callback = HeadGatesCallback(model, note_every=2)
        trainer(model, args, DATA, [callback], pruning_optimizers(model, args, updates, 0.3, True)).train()
        entries = [json.loads(line) for line in (tmp_path / "heads.jsonl").read_text().splitlines()]
        assert [entry["updates"] for entry in entries] == [2, 4] and all(sum(entry["keep"]) == K for entry in entries)
        assert callback.history == [(entry["updates"], [bool(flag) for flag in entry["keep"]]) for entry in entries]


def test_warm_up_leaves_all_heads_open_and_the_scores_alone(tmp_path):
    model = tiny_model("bert", dtype=torch.float32)
    gate_heads(model, RelaxedSubset(head_map_of(model), K, constant_temperature(0.5)), warmup_updates=2)
    before = scores_of(model).detach().clone()
    recorder = Recorder(model)
    prepared(model, tmp_path, recorder=recorder, max_steps=3).train()
    still = [bool((gradients["gating.gates.scores"] == 0).all()) for gradients in recorder.gradients]
    assert still == [True, True, False] and not torch.equal(scores_of(model), before)
