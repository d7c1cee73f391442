"""How a schedule is found, and what is worked out from the length of a run."""

from __future__ import annotations

import pytest
import torch

from dsp_plugin.gating import AttentionBlock, HeadBudget, HeadMap, Setting, SubsetOptions, derive, schedule_of
from dsp_plugin.gating.methods.recipe import BY_HAND, LEAST_UPDATES
from dsp_plugin.options.errors import OptionError

HEADS = HeadMap([AttentionBlock(f"b{i}", 4, "x" if i < 3 else "y") for i in range(6)])
LENGTHS = (LEAST_UPDATES, 101, 390, 804, 1600, 60_000)


@pytest.mark.parametrize("name", BY_HAND)
def test_any_option_of_the_schedule_makes_it_the_users_own(name):
    value = True if name in ("annealing", "use_ste") else 0
    nothing = dict.fromkeys(BY_HAND)
    assert schedule_of(nothing) == "auto"
    assert schedule_of({**nothing, name: value}) == "by hand"
    assert schedule_of({**nothing, name: value, "pruning_schedule": "published"}) == "published"
    assert schedule_of({**nothing, "annealing": False, "use_ste": False}) == "auto"
    if name == "use_ste":
        assert schedule_of({**nothing, name: value, "pruning_schedule": "auto"}) == "auto"
        return
    with pytest.raises(OptionError, match=f"pruning_schedule auto works {name} out itself"):
        schedule_of({**nothing, name: value, "pruning_schedule": "auto"})


def test_a_schedule_that_is_not_known():
    with pytest.raises(OptionError, match="must be one of auto, published, got 'fast'"):
        schedule_of({"pruning_schedule": "fast"})


@pytest.mark.parametrize("updates", LENGTHS)
def test_where_weights_stay_the_whole_run_is_the_choice_and_its_samples_are_mostly_masks(updates):
    found = derive(Setting("dsp", False, updates, HEADS, 6))
    options = SubsetOptions.of({**found, "use_ste": False})
    options.check()
    assert found["pruning_warmup_updates"] == 0 and options.warnings(updates, str) == []
    gates = options.gates(HEADS, 6)
    for update in (0, updates // 2, updates):
        gates.set_num_updates(update)
        sample = gates.sample()
        assert sample.shape == (found["mask_samples"], HEADS.num_heads)
        assert float(((sample < 0.1) | (sample > 0.9)).float().mean()) > 0.6


@pytest.mark.parametrize("blocks, width, kept", [(6, 4, 6), (9, 4, 9), (9, 4, 18), (6, 12, 18), (6, 12, 36)])
def test_samples_are_mostly_masks_however_many_heads_are_kept(blocks, width, kept):
    heads = HeadMap([AttentionBlock(f"b{i}", width, "x") for i in range(blocks)])
    gates = SubsetOptions.of({**derive(Setting("dsp", False, 390, heads, kept)), "use_ste": False}).gates(
        heads, kept
    )
    torch.manual_seed(0)
    samples = torch.cat([gates.sample() for _ in range(20)]).detach()
    assert float(((samples < 0.1) | (samples > 0.9)).float().mean()) > 0.7
    assert float((samples > 0.5).sum(1).float().mean()) > 0.7 * kept


@pytest.mark.parametrize("updates", LENGTHS)
def test_the_choice_ends_before_the_run_does_at_the_deployed_mask(updates):
    found = derive(Setting("dsp", True, updates, HEADS, 6))
    options = SubsetOptions.of({**found, "use_ste": False})
    options.check()
    assert 0 <= found["pruning_warmup_updates"] < updates / 2
    end = found["pruning_warmup_updates"] + found["cooldown_steps"]
    assert end <= updates and options.warnings(updates, str) == []
    assert updates - end >= updates // 4  # what is left to learn with the heads chosen, or to settle
    assert options.cooling()(end) == found["final_temperature"] and options.noise()(end) == 0.0
    assert options.cooling()(found["pruning_warmup_updates"]) == found["initial_temperature"]


@pytest.mark.parametrize("updates", LENGTHS)
@pytest.mark.parametrize("joint", [True, False])
def test_exact_samples_cool_where_the_model_learns_and_stay_at_1_where_it_does_not(updates, joint):
    found = derive(Setting("dsp", joint, updates, HEADS, 6, sampler="simple"))
    options = SubsetOptions.of(
        {"annealing": False, "initial_temperature": 9.0, "final_temperature": 9.0}
        | {"cooldown_steps": 9}
        | {**found, "use_ste": False, "sampler": "simple"}
    )
    options.check()
    assert "final_noise" not in found and options.warnings(updates, str) == []
    gates = options.gates(HEADS, HeadBudget(HEADS, 6))
    gates.set_num_updates(updates)
    assert gates.temperature == (0.01 if joint else 1.0)
    assert gates.sample().shape == (found["mask_samples"], HEADS.num_heads)


@pytest.mark.parametrize("method, ste", [("dsp", False), ("dsp", True), ("voita", False)])
@pytest.mark.parametrize("joint", [True, False])
def test_a_run_too_short_for_any_says_how_many_updates_one_needs(method, ste, joint):
    needed = f"auto needs {LEAST_UPDATES} updates at least, the training has 99"
    with pytest.raises(OptionError, match=needed):
        derive(Setting(method, joint, 99, HEADS, 6, use_ste=ste))


@pytest.mark.parametrize(
    "budget, per_kind, joint, minimum",
    [
        (6, None, True, 1),
        (5, None, True, 0),  # fewer heads than blocks
        (24, None, True, 1),
        (6, None, False, 0),
        (None, {"x": 3, "y": 3}, True, 1),
        (None, {"x": 6, "y": 2}, True, 0),
        (None, None, True, 0),
    ],
)
def test_a_head_in_every_block_where_the_model_learns_and_heads_suffice(budget, per_kind, joint, minimum):
    found = derive(Setting("voita", joint, 500, HEADS, budget, per_kind))
    assert found["min_heads_per_block"] == minimum
    assert found["init_scores"] == ("random" if budget is None and per_kind is None else "importance")


@pytest.mark.parametrize("joint", [True, False])
def test_a_constraint_is_at_its_target_before_the_run_ends(joint):
    found = derive(Setting("voita", joint, 600, HEADS, 6, closing="lagrangian"))
    assert "open_cost" not in found and found["pruning_lr"] > 0
    assert found["pruning_warmup_updates"] + found["closing_updates"] <= 400


@pytest.mark.parametrize("of_mean_loss", [True, False])
def test_pass_has_rounds_and_on_a_mean_loss_a_growth(of_mean_loss):
    how = {"closing": "pass", "reopens": True, "of_mean_loss": of_mean_loss}
    found = derive(Setting("voita", True, 600, HEADS, 6, **how))
    assert found["round_updates"] == 400 // 30 and found["min_heads_per_block"] == 1
    assert ("closing_updates" in found) == of_mean_loss
    assert derive(Setting("voita", True, 600, HEADS, 6, **how, concentrate=True))["min_heads_per_block"] == 0
    voita = derive(Setting("voita", False, 600, HEADS, 6, reopens=True))
    assert voita["round_updates"] == 20 and "open_cost" in voita


def test_straight_through_has_no_temperature_and_voita_a_price():
    ste, voita = (derive(Setting(m, True, 500, HEADS, 6, use_ste=m == "dsp")) for m in ("dsp", "voita"))
    assert not {"annealing", "initial_temperature", "final_noise", "cooldown_steps"} & set(ste)
    assert voita["open_cost"] > 0 and "cooldown_steps" not in voita
