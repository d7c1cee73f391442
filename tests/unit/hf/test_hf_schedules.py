"""The options of a schedule on Transformers: by hand, published or worked out, and what excludes what."""

from __future__ import annotations

import pytest

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip
import torch
from hf_data import padded, sentences
from hf_training import DATA, gated, prepared, scores_of
from transformers import TrainingArguments

from dsp_plugin.gating import (
    AlmostSureGates,
    ConcreteGates,
    ExactSubset,
    LagrangianGates,
    RelaxedSubset,
    StraightThroughSubset,
    constant_temperature,
)
from dsp_plugin.gating.methods import recipe
from dsp_plugin.hf import gate_heads, head_map_of, prune_heads, switchboard_of
from dsp_plugin.hf.heads.importance import ExampleRanking
from dsp_plugin.hf.heads.importance_start import ImportanceStart
from dsp_plugin.hf.heads.schedules import derive_schedule
from dsp_plugin.hf.heads.sweep import prune_by_importance
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers
from dsp_plugin.hf.programs.heads.methods import DSPArguments, VoitaArguments
from dsp_plugin.options.errors import OptionError

K, HEADS, UPDATES = 3, 8, 600


def dsp(**options):
    return DSPArguments(**{"num_of_heads": K, **options})


# ---- published


PUBLISHED = [
    (dsp(joint_pruning=True), {"annealing": True, "cooldown_steps": 25000, "use_ste": False}),
    (dsp(), {"annealing": True, "cooldown_steps": 8333, "use_ste": False}),
    (dsp(joint_pruning=True, use_ste=True), {"annealing": False, "use_ste": True}),
    (dsp(joint_pruning=True, sampler="simple"), {"annealing": False, "sampler": "simple"}),
    (dsp(pruning_lr=0.2, cooldown_steps=9), {"pruning_lr": 0.2, "cooldown_steps": 9, "annealing": True}),
    (VoitaArguments(joint_pruning=True), {"pruning_lr": 0.1, "l0_penalty": 0.0015}),
    (VoitaArguments(l0_penalty=0.0), {"pruning_lr": 0.1, "l0_penalty": 0.0}),
    (
        VoitaArguments(num_of_heads=K, closing="lagrangian"),
        {"pruning_lr": 0.1, "l0_penalty": None, "closing_updates": 5000},
    ),
    (
        VoitaArguments(num_of_heads=K, closing="pass"),
        {"pruning_lr": 0.5, "l0_penalty": None, "closing_updates": 1000, "round_updates": None},
    ),
]


@pytest.mark.parametrize("method, expected", PUBLISHED, ids=str)
def test_published_gives_the_papers_constants_and_what_is_given_wins(method, expected):
    method.pruning_schedule = "published"
    method.check()
    common = {"pruning_warmup_updates": 0, "min_heads_per_block": 0, "init_scores": "random"}
    if isinstance(method, DSPArguments):
        common |= {"pruning_lr": 0.5, "initial_temperature": 1000.0, "final_temperature": 1e-8}
    found = method.options
    assert {name: found[name] for name in {**common, **expected}} == {**common, **expected}
    (line,) = method.work_out(None, UPDATES, {})
    assert line.startswith("schedule (published): ") and "pruning_lr" in line
    assert ("temperature" in line) == ("annealing" in line) == bool(found.get("annealing"))
    assert method.settings()["pruning_schedule"] == "published" and method.worked_out == {}


# ---- what excludes what


REFUSED = [
    (dsp(pruning_schedule="foo"), "pruning_schedule must be one of auto, published, got 'foo'"),
    (dsp(pruning_schedule="auto", annealing=True), "works annealing out itself"),
    (dsp(pruning_schedule="auto", pruning_lr=0.1), "works pruning_lr out itself"),
    (dsp(pruning_schedule="auto", pruning_warmup_updates=0), "works pruning_warmup_updates out itself"),
    (dsp(pruning_schedule="auto", cooldown_steps=0), "works cooldown_steps out itself"),
    (dsp(pruning_schedule="auto", use_ste=True, final_temperature=0.1), "works final_temperature out itself"),
    (VoitaArguments(pruning_schedule="auto", l0_penalty=0.0), "works l0_penalty out itself"),
    (dsp(pruning_schedule="published", use_ste=True, annealing=True), "use_ste has no temperature"),
    (dsp(sampler="foo"), "sampler must be one of relaxed, simple, got 'foo'"),
    (dsp(sampler="simple", final_temperature=0.1), "final_temperature has no say with sampler simple"),
    (dsp(init_scores="foo"), "init_scores must be one of importance, random, got 'foo'"),
    (VoitaArguments(closing="pass"), "closing pass needs a budget"),
    (VoitaArguments(concentrate=True), "concentrate has a say with closing pass alone"),
    (VoitaArguments(closing="lagrangian"), "closing lagrangian needs a budget"),
    (VoitaArguments(closing="lagrangian", l0_penalty=1.0, num_of_heads=K), "l0_penalty is found by closing"),
    (VoitaArguments(init_scores="importance"), "init_scores importance needs a number of heads to keep"),
]


@pytest.mark.parametrize("method, said", REFUSED, ids=[said for _, said in REFUSED])
def test_options_that_exclude_each_other_are_named(method, said):
    with pytest.raises(OptionError) as error:
        method.check()
    assert said in str(error.value)


FOUND = [
    (dsp(), "auto"),
    (dsp(min_heads_per_block=1, init_scores="random"), "auto"),
    (dsp(sampler="simple"), "auto"),
    (dsp(use_ste=True), "by hand"),
    (dsp(use_ste=True, pruning_schedule="auto"), "auto"),
    (dsp(pruning_warmup_updates=0), "by hand"),
    (VoitaArguments(), "auto"),
    (VoitaArguments(num_of_heads=K, closing="lagrangian"), "auto"),
    (VoitaArguments(num_of_heads=K, closing="lagrangian", closing_updates=9), "by hand"),
    (VoitaArguments(l0_penalty=0.0), "by hand"),
]


@pytest.mark.parametrize("method, how", FOUND, ids=str)
def test_auto_is_the_default_only_where_nothing_of_the_schedule_is_given(method, how):
    method.check()
    assert method.schedule == how and method.settings()["pruning_schedule"] == how


# ---- auto


def test_auto_fills_in_what_was_not_given_and_says_it():
    method = dsp(joint_pruning=True, min_heads_per_block=0, init_scores="random")
    assert method.settings()["pruning_lr"] is None  # as asked: the numbers are noted apart
    model = tiny_model("bert")
    (line,) = method.work_out(model, UPDATES, {})
    setting = recipe.Setting("dsp", True, UPDATES, head_map_of(model), K)
    derived = recipe.derive(setting)
    assert line.startswith(f"schedule (auto, for {UPDATES} updates): ")
    assert "init_scores random" in line and "min_heads_per_block 0" in line
    assert f"pruning_lr {derived['pruning_lr']:g}" in line
    mine = {"min_heads_per_block": 0, "init_scores": "random"}
    assert method.worked_out == {name: value for name, value in derived.items() if name not in mine}
    assert {name: method.options[name] for name in derived} == {**derived, **mine}
    assert method.settings()["pruning_lr"] is None
    assert isinstance(method.build(head_map_of(model)), RelaxedSubset)


def test_what_was_noted_holds_whatever_the_recipe_is_by_now():
    first, again = dsp(joint_pruning=True), dsp(joint_pruning=True)
    first.work_out(tiny_model("bert"), UPDATES, {})
    noted = {**first.worked_out, "pruning_lr": 0.123}
    (line,) = again.work_out(tiny_model("bert"), UPDATES, noted)
    assert again.worked_out == noted and line.startswith("schedule (auto, as noted, for 600 updates): ")


def test_voita_alone_has_a_price_by_the_number_of_heads_and_a_random_start():
    method = VoitaArguments(joint_pruning=True)
    method.work_out(tiny_model("bert"), UPDATES, {})
    gates = method.build(head_map_of(tiny_model("bert")))
    assert isinstance(gates, ConcreteGates) and gates.budget is None
    assert gates.l0_penalty == method.options["l0_penalty"] > 0
    assert method.options["init_scores"] == "random"
    by_hand = VoitaArguments(pruning_lr=0.1).build(head_map_of(tiny_model("bert")))
    assert by_hand.l0_penalty == 0.02 / HEADS


def test_a_run_that_is_too_short_is_refused_with_the_updates_that_it_needs():
    with pytest.raises(OptionError, match=rf"auto needs {recipe.LEAST_UPDATES} updates .* has 6"):
        dsp().work_out(tiny_model("bert"), 6, {})


def test_a_scored_model_keeps_the_minimum_that_was_worked_out_where_the_budget_has_room():
    settings = {"method": "dsp-joint", "joint_pruning": True, "use_ste": False}
    settings["worked_out"] = {"min_heads_per_block": 1}
    heads = head_map_of(tiny_model("bert"))
    for k, minimum, found in ((3, None, 1), (1, None, None), (3, 0, 0)):
        method = DSPArguments(num_of_heads=k, min_heads_per_block=minimum)
        method.adopt(settings, heads)
        assert (method.min_heads_per_block, method.joint_pruning) == (found, True)
        method.build(heads)


# ---- importance


def test_the_start_is_the_sweeps_own_choice(tmp_path):
    model, data = gated("relaxed"), sentences(20)
    options = dict(exact=True, ranking=ExampleRanking(by_block=False, batch_size=4), budgets=[K])
    quiet = dict(say=lambda line: None, progress=False, evaluate=lambda subset: {"loss": 0.0})
    steps = prune_by_importance(
        tiny_model("bert", dtype=torch.float32), data, padded, tmp_path, 1, **options, **quiet
    )
    before, state = torch.get_rng_state(), {n: p.clone() for n, p in model.state_dict().items()}
    scores = ImportanceStart(model, data, padded, batch_size=4, width=2.0)()
    assert torch.equal(torch.get_rng_state(), before) and model.training == gated("relaxed").training
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    assert scores.aminmax() == (-2.0, 2.0)
    gates = switchboard_of(model).gates
    gates.begin_with(scores)
    assert gates.keep().tolist() == steps[-1]["keep"] and gates.decided
    prune_heads(model)  # which refuses scores that are nothing but chance


def test_the_start_comes_when_the_warm_up_is_over_and_leaves_the_gradients_alone(tmp_path):
    model = tiny_model("bert", dtype=torch.float32)
    heads = head_map_of(model)
    gate_heads(model, RelaxedSubset(heads, K, lambda updates: 0.5), warmup_updates=2)
    seen = []

    def start():
        board = switchboard_of(model)
        seen.append((board.num_updates, [p.grad is None for p in model.parameters()]))
        return torch.linspace(-1, 1, HEADS)

    run = prepared(model, tmp_path, max_steps=4, pruning_lr=1e-9)
    (callback,) = (one for one in run.callback_handler.callbacks if isinstance(one, HeadGatesCallback))
    callback.start = start
    run.train()
    assert [updates for updates, _ in seen] == [2]
    assert scores_of(model).tolist() == pytest.approx(torch.linspace(-1, 1, HEADS).tolist(), abs=1e-6)


# ---- in Python


@pytest.mark.parametrize(
    "method, more, kind",
    [
        ("dsp", {}, RelaxedSubset),
        ("dsp", {"use_ste": True}, StraightThroughSubset),
        ("dsp", {"sampler": "simple"}, ExactSubset),
        ("voita", {}, ConcreteGates),
        ("voita", {"closing": "lagrangian"}, LagrangianGates),
        ("voita", {"closing": "pass", "concentrate": True}, AlmostSureGates),
    ],
)
def test_a_derived_schedule_makes_gates_and_their_start(method, more, kind):
    model = tiny_model("bert")
    schedule = derive_schedule(model, UPDATES, joint=True, num_of_heads=K, method=method, **more)
    gates = schedule.gates(head_map_of(model))
    assert isinstance(gates, kind) and gates.budget.total == K
    assert schedule.pruning_lr > 0 and 0 <= schedule.warmup_updates < UPDATES
    start = schedule.start(model, DATA, padded, batch_size=4)
    assert isinstance(start, ImportanceStart) and start.batch_size == 4
    given = derive_schedule(model, UPDATES, True, K, method=method, init_scores="random", **more)
    assert given.start(model, DATA, padded) is None
    with pytest.raises(OptionError, match="init_scores importance needs a number of heads"):
        derive_schedule(model, UPDATES, True, method="voita", init_scores="importance")


@pytest.mark.parametrize("kind", ["linear", "constant", "cosine"])
@pytest.mark.parametrize("joint", [False, True])
def test_where_weights_stay_the_rate_falls_to_0_whatever_the_models_schedule(tmp_path, kind, joint):
    model = gated(lambda heads: RelaxedSubset(heads, K, constant_temperature(0.1)))
    schedule = derive_schedule(tiny_model("bert"), UPDATES, joint, num_of_heads=K)
    args = TrainingArguments(tmp_path, lr_scheduler_type=kind, report_to=[], use_cpu=True)
    rate, falling = schedule.pruning_lr, schedule.scores_lr_schedule
    optimizer, scheduler = pruning_optimizers(model, args, UPDATES, rate, joint, falling)
    rates = []
    for _ in range(UPDATES):
        rates.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        scheduler.step()
    straight = [rate * (1 - update / UPDATES) for update in range(UPDATES)]
    if not joint or kind == "linear":
        assert rates == pytest.approx(straight)
    else:
        assert falling is None and rates != pytest.approx(straight)
