"""Whole trainings of gates with the stock Trainer: what moves, evaluation, best checkpoints, resuming."""

from __future__ import annotations

import copy
import json

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip
from hf_data import BEST_OF_STEPS, arguments, padded, sentences, trainer
from hf_training import COOLING, DATA, METHODS, K, Recorder, gated, prepared, scores_of
from safetensors.torch import load_file
from transformers import TrainerCallback

from dsp_plugin.gating import RelaxedSubset, constant_temperature
from dsp_plugin.hf import gate_heads, head_map_of, prune_heads, switchboard_of
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers
from dsp_plugin.records.history import read_history


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
    shown = {
        "relaxed": {"temperature", "heads_open", "gate_entropy"},
        "concrete": {"expected_open", "heads_open", "penalty"},
    }
    assert {"loss", "grad_norm"} | shown.get(method, {"heads_open"}) <= set(log)
    if method != "ranked":
        assert log["pruning_lr"] == pytest.approx(0.3 * 2 / 3) and log["learning_rate"] == pytest.approx(
            1e-3 * 2 / 3
        )


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
    assert (
        scores.dtype == torch.float32
        and bool(torch.isfinite(scores).all())
        and not torch.equal(scores, before)
    )
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
        model,
        tmp_path,
        recorder=Compare(),
        more={"eval_dataset": held_out},
        max_steps=4,
        eval_strategy="steps",
        eval_steps=1,
    )
    run.train()
    evaluated = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert len(losses) == 4 and evaluated == pytest.approx(losses, rel=1e-5)
    assert draws == [True] * 4  # one a training batch, none in evaluation


def test_the_best_checkpoint_brings_its_scores_back(tmp_path):
    model = gated("relaxed")
    values = iter([0.2, 0.9, 0.1, 0.3])
    run = prepared(
        model,
        tmp_path,
        pruning_lr=5.0,
        more={"eval_dataset": DATA[:4], "compute_metrics": lambda found: {"quality": next(values)}},
        max_steps=4,
        **BEST_OF_STEPS,
        metric_for_best_model="quality",
    )
    callback = run.callback_handler.callbacks[-2]
    assert isinstance(callback, HeadGatesCallback)
    run.train()
    assert run.state.best_global_step == 2
    saved = {
        step: load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors")["gating.gates.scores"]
        for step in (2, 4)
    }
    assert torch.equal(scores_of(model), saved[2]) and not torch.equal(saved[2], saved[4])
    keep = torch.zeros(8, dtype=torch.bool)
    keep[saved[2].topk(K).indices] = True
    assert torch.equal(switchboard_of(model).eval().gates.keep(), keep)
    masks = [switchboard_of(model).block_gates(position) for position in (0, 1)]
    assert (
        torch.cat([torch.ones(4) if mask is None else mask for mask in masks]).tolist()
        == keep.float().tolist()
    )
    # the heads at every evaluation, here and in the file; an evaluation after training is none of them
    assert [updates for updates, _ in callback.history] == [1, 2, 3, 4]
    assert callback.history[1][1] == keep.tolist() and all(sum(kept) == K for _, kept in callback.history)
    values = iter([0.5])
    run.compute_metrics = lambda found: {"quality": 0.5}
    run.evaluate()
    assert [entry["updates"] for entry in read_history(tmp_path)] == [1, 2, 3, 4] and len(
        callback.history
    ) == 4


# ---- resuming


@pytest.mark.parametrize("method, accumulation", [("relaxed", 1), ("concrete", 2), ("straight-through", 1)])
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(method, accumulation, tmp_path):
    options = dict(
        max_steps=6,
        save_strategy="steps",
        save_steps=3,
        gradient_accumulation_steps=accumulation,
        eval_strategy="steps",
        eval_steps=1,
    )
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
        assert all(
            torch.equal(torch.as_tensor(value), torch.as_tensor(states[1][index][name]))
            for name, value in state.items()
        )
    assert (tmp_path / "heads.jsonl").read_text() == history and len(history.splitlines()) == 6


def test_heads_are_noted_between_evaluations_too_and_a_new_run_starts_a_new_file(tmp_path):
    for updates in (5, 4):
        model = gated("relaxed")
        args = arguments(tmp_path, max_steps=updates)
        callback = HeadGatesCallback(model, note_every=2)
        trainer(model, args, DATA, [callback], pruning_optimizers(model, args, updates, 0.3, True)).train()
        entries = [json.loads(line) for line in (tmp_path / "heads.jsonl").read_text().splitlines()]
        assert [entry["updates"] for entry in entries] == [2, 4] and all(
            sum(entry["keep"]) == K for entry in entries
        )
        assert callback.history == [
            (entry["updates"], [bool(flag) for flag in entry["keep"]]) for entry in entries
        ]


def test_warm_up_leaves_all_heads_open_and_the_scores_alone(tmp_path):
    model = tiny_model("bert", dtype=torch.float32)
    gate_heads(model, RelaxedSubset(head_map_of(model), K, constant_temperature(0.5)), warmup_updates=2)
    before = scores_of(model).detach().clone()
    recorder = Recorder(model)
    prepared(model, tmp_path, recorder=recorder, max_steps=3).train()
    still = [bool((gradients["gating.gates.scores"] == 0).all()) for gradients in recorder.gradients]
    assert still == [True, True, False] and not torch.equal(scores_of(model), before)
