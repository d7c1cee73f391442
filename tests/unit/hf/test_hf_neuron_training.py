"""Groups of neurons: their importance against finite differences, and gates on them that learn."""

from __future__ import annotations

import copy
import math

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import batch_of, logits, tiny_model  # isort: skip
from hf_data import padded, sentences
from hf_training import COOLING, DATA, Recorder, prepared, scores_of

from dsp_plugin.gating import (
    ConcreteGates,
    FixedGates,
    HeadBudget,
    RelaxedSubset,
    StraightThroughSubset,
    constant_temperature,
)
from dsp_plugin.gating.handshake.handshake import HandshakeError
from dsp_plugin.gating.methods import recipe
from dsp_plugin.hf import gate_heads, head_map_of, prune_heads, switchboard_of, ungate_heads
from dsp_plugin.hf.heads.importance import ExampleRanking, gating_of, head_importance, magnitudes
from dsp_plugin.hf.heads.importance_start import ImportanceStart
from dsp_plugin.hf.heads.schedules import derive_schedule
from dsp_plugin.hf.heads.sweep import prune_by_importance
from dsp_plugin.hf.heads.units import units_of
from dsp_plugin.options.errors import OptionError

EPS, GROUP = 1e-5, 8  # five groups a block


def words(count):
    return [{**row, "labels": row["input_ids"]} for row in sentences(count)]


def label_loss(output, row):
    return -output.logits.log_softmax(-1)[0, row["labels"]]


def next_word_loss(output, row):
    log_p, ids = output.logits.log_softmax(-1)[0], row["labels"]
    return -sum(log_p[t, ids[t + 1]] for t in range(len(ids) - 1))


def translation_loss(output, row):
    return -sum(output.logits.log_softmax(-1)[0, t, y] for t, y in enumerate(row["labels"].tolist()))


# OPT hands its projection down all positions of all examples in one dimension
TASKS = {
    "bert": (sentences, label_loss, lambda row: len(row["input_ids"])),
    "distilbert": (sentences, label_loss, lambda row: len(row["input_ids"])),
    "opt": (words, next_word_loss, lambda row: len(row["labels"]) - 1),
    "bart": (words, translation_loss, lambda row: len(row["labels"])),
}


@torch.no_grad()
def differences(model, data, loss_of, heads) -> torch.Tensor:
    """Central differences of each example's loss by each gate: [examples, N]."""
    count = head_map_of(model, GROUP, heads).num_heads
    found = torch.zeros(len(data), count, dtype=torch.float64)
    with gating_of(model, GROUP, heads) as board:
        for number, row in enumerate(data):
            for unit in range(count):
                ends = []
                for sign in (1, -1):
                    gates = torch.ones(count, dtype=torch.float64)
                    gates[unit] += sign * EPS
                    with board.override(gates):
                        ends.append(float(loss_of(model(**padded([row])), row)))
                found[number, unit] = (ends[0] - ends[1]) / (2 * EPS)
    return found


@pytest.mark.parametrize("family", TASKS)
def test_importance_is_the_mean_absolute_derivative_of_every_example(family):
    examples, loss_of, tokens = TASKS[family]
    model, data = tiny_model(family), examples(3)
    heads = family == "bert"  # beside them, in one pass
    expected = differences(model, data, loss_of, heads).abs().sum(0) / sum(map(tokens, data))
    found = head_importance(model, data, padded, 3, progress=False, neurons=GROUP, heads=heads)
    assert switchboard_of(model) is None
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-8)


def test_importance_of_a_gated_model_is_that_of_its_units():
    model, data = tiny_model("bert"), sentences(4)
    expected = head_importance(model, data, padded, 2, progress=False, neurons=GROUP, heads=False)
    gate_heads(model, FixedGates(torch.zeros(10)), neurons=GROUP, heads=False)
    torch.testing.assert_close(head_importance(model, data, padded, 2, progress=False), expected)
    assert len(magnitudes(model)) == 10
    with pytest.raises(ValueError, match="gates are on other units .*10 groups of neurons"):
        head_importance(model, data, padded, 2, progress=False, neurons=4)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "modernbert"])
def test_magnitudes_add_up_to_the_norm_of_all_projections(family):
    model = tiny_model(family)
    found = magnitudes(model, GROUP, heads=False)
    parts = [part for units in units_of(model, GROUP, heads=False) for part in units.projections]
    total = sum(float(part.module.weight.detach().square().sum()) for part in parts)
    assert math.isclose(float(found.square().sum()), total, rel_tol=1e-10)
    keep = torch.ones(len(found), dtype=torch.bool)
    keep[[1, len(found) - 2]] = False
    prune_heads(model, keep, neurons=GROUP, heads=False)
    torch.testing.assert_close(magnitudes(model, GROUP, heads=False), found[keep])


def test_a_sweep_over_neurons_and_one_over_both(tmp_path):
    model, data = tiny_model("bert"), sentences(4)
    options = dict(step=4, evaluate=lambda subset: {"score": 0.0}, progress=False, say=lambda line: None)
    steps = prune_by_importance(
        model, data, padded, tmp_path / "neurons", neurons=GROUP, heads=False, budgets=[2], **options
    )
    assert [step["kept"] for step in steps] == [10, 6, 2]
    assert steps[0]["blocks"][0]["neurons"] == GROUP
    first = torch.tensor(steps[1]["importance"])
    assert torch.tensor(steps[1]["keep"]).equal(first >= first.sort().values[4])
    prune_heads(model, steps[-1]["keep"], neurons=GROUP, heads=False)
    model = tiny_model("bert")
    with pytest.raises(OptionError, match="counts heads and groups of neurons together"):
        prune_by_importance(model, data, padded, tmp_path / "both", neurons=GROUP, budgets=[6], **options)
    budget = HeadBudget(head_map_of(model, GROUP), None, {"encoder-self": 4, "encoder-ffn": 3}, minimum=1)
    steps = prune_by_importance(
        model, data, padded, tmp_path / "both", neurons=GROUP, budget=budget, **options
    )
    heads, neurons = torch.tensor(steps[-1]["keep"]).split([8, 10])
    assert (int(heads.sum()), int(neurons.sum())) == (4, 3)
    ranking = ExampleRanking("magnitude").source(model, None, None, neurons=GROUP, heads=False)
    assert torch.equal(ranking(None), magnitudes(model, GROUP, heads=False))


# ---- training

METHODS = {
    "relaxed": lambda heads: RelaxedSubset(heads, 4, COOLING),
    "straight-through": lambda heads: StraightThroughSubset(heads, 4),
    "concrete": lambda heads: ConcreteGates(heads, 4, 0.7),
}


def gated(method):
    model = tiny_model("bert", dtype=torch.float32)
    torch.manual_seed(11)
    gates = METHODS[method](head_map_of(model, GROUP, heads=False))
    gate_heads(model, gates, neurons=GROUP, heads=False)
    return model


@pytest.mark.parametrize("method", METHODS)
def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(method, tmp_path):
    options = dict(max_steps=4, save_strategy="steps", save_steps=2, gradient_checkpointing=True)
    whole = gated(method)
    before = scores_of(whole).detach().clone()
    prepared(whole, tmp_path, **options).train()
    assert not torch.equal(scores_of(whole), before)
    torch.manual_seed(99)
    again = gated(method)
    torch.nn.init.normal_(scores_of(again))
    recorder = Recorder(again)
    run = prepared(again, tmp_path, recorder=recorder, **options)
    run.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert len(recorder.gradients) == 2
    for (name, one), other in zip(whole.state_dict().items(), again.state_dict().values()):
        assert torch.equal(one, other), name
    pruned, batch = copy.deepcopy(whole).eval(), batch_of(whole)
    assert prune_heads(pruned).heads_after == 4
    with torch.no_grad():
        torch.testing.assert_close(logits(pruned, batch), logits(whole.eval(), batch), rtol=0, atol=1e-5)


def test_gates_without_the_rest_of_their_method_are_refused():
    model = gated("relaxed").train()
    optimizer = torch.optim.SGD([p for n, p in model.named_parameters() if "gating" not in n], lr=0.1)
    with pytest.raises(HandshakeError, match="scores"):
        for _ in range(3):
            model(**padded(DATA[:4])).loss.backward()
            optimizer.step()


def test_heads_and_neurons_are_drawn_each_within_its_own_budget(tmp_path):
    model = tiny_model("bert", dtype=torch.float32)
    heads = head_map_of(model, GROUP)
    budget = HeadBudget(heads, None, {"encoder-self": 3, "encoder-ffn": 4}, minimum=1)
    gates = RelaxedSubset(heads, budget, COOLING)
    gate_heads(model, gates, neurons=GROUP)
    before = gates.scores.detach().clone()
    prepared(model, tmp_path, max_steps=3).train()
    assert not torch.equal(gates.scores, before)
    assert [int(part.sum()) for part in gates.keep().split([8, 10])] == [3, 4]
    assert all(bool(part.any()) for part in heads.split(gates.keep()))
    torch.testing.assert_close(gates.sample().split([8, 10])[1].sum(), torch.tensor(4.0))
    pruned, batch = copy.deepcopy(model).eval(), batch_of(model)
    assert prune_heads(pruned).heads_after == 7
    with torch.no_grad():
        torch.testing.assert_close(logits(pruned, batch), logits(model.eval(), batch), rtol=0, atol=1e-5)


def test_scores_can_start_from_the_importance_of_the_groups():
    model, data = tiny_model("bert"), sentences(4)
    expected = head_importance(model, data, padded, 4, progress=False, neurons=GROUP, heads=False)
    gates = RelaxedSubset(head_map_of(model, GROUP, heads=False), 9, COOLING)
    gate_heads(model, gates, neurons=GROUP, heads=False)
    gates.begin_with(ImportanceStart(model, data, padded, batch_size=4)())
    assert gates.keep().tolist() == (expected > expected.min()).tolist()


def test_a_schedule_that_is_worked_out_for_groups(monkeypatch):
    monkeypatch.setattr(recipe, "LEAST_UPDATES", 6)
    model = tiny_model("bert")
    with pytest.raises(OptionError, match="counts heads and groups of neurons together"):
        derive_schedule(model, 12, joint=True, num_of_heads=5, neurons=GROUP)
    schedule = derive_schedule(model, 12, joint=True, num_of_heads=5, neurons=GROUP, heads=False)
    units = head_map_of(model, GROUP, heads=False)
    gate_heads(model, schedule.gates(units), schedule.warmup_updates, GROUP, heads=False)
    assert int(switchboard_of(model).gates.keep().sum()) == 5
    assert schedule.options["min_heads_per_block"] == 1


def planted():
    """A model in which the groups 0, 2, 4 of the first block and 1, 3 of the second do all the work."""
    model = tiny_model("bert", dtype=torch.float32)
    alive = torch.tensor([True, False, True, False, True, False, True, False, True, False])
    with torch.no_grad():
        for units, flags in zip(units_of(model, GROUP, heads=False), alive.view(2, 5)):
            units.output.module.weight *= flags.repeat_interleave(GROUP)
    return model, alive


@pytest.mark.parametrize("method", ["relaxed", "straight-through", "concrete"])
def test_methods_find_the_groups_that_do_the_work(method):
    model, alive = planted()
    batch = batch_of(model, size=16, padding=False, length=6)
    target = logits(model, batch).detach()
    heads = head_map_of(model, GROUP, heads=False)
    torch.manual_seed(2)
    gates = {
        "relaxed": lambda: RelaxedSubset(heads, 5, constant_temperature(0.5)),
        "straight-through": lambda: StraightThroughSubset(heads, 5),
        "concrete": lambda: ConcreteGates(heads, None, 0.01),
    }[method]()
    board = gate_heads(model.train(), gates, neurons=GROUP, heads=False)
    for part in model.modules():
        part.p = 0.0 if isinstance(part, torch.nn.Dropout) else getattr(part, "p", None)
    optimizer = torch.optim.Adam([gates.scores], lr=0.2)
    for update in range(150):
        board.set_num_updates(update)
        optimizer.zero_grad()
        loss = (logits(model, batch) - target).square().mean() + board.penalty()
        loss.backward()
        optimizer.step()
    assert gates.keep().tolist() == alive.tolist()
    ungate_heads(model)
    prune_heads(model, alive, neurons=GROUP, heads=False)
    torch.testing.assert_close(logits(model.eval(), batch), target, rtol=0, atol=1e-5)
