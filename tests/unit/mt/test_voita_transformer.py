"""`voita_transformer` in the test process: its options, its loss, what it says at the end, another K at
generation.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq import criterions
from fairseq_models import TINY, batch, build, parse

from dsp_plugin.gating import AttentionBlock, ConcreteGates, HeadMap
from dsp_plugin.mt.heads.methods.voita import VoitaTransformerModel
from dsp_plugin.options.errors import OptionError

N = 24
CRITERION = ["--criterion", "voita_label_smoothed_cross_entropy", "--label-smoothing", 0.1]


def voita(data, **changes):
    changes.setdefault("joint_pruning", changes.get("l0_penalty") is not None)
    return build(data, *TINY, arch="voita_transformer", task="voita_translation", **changes)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_of_heads": 6, "pruning_lr": 0.1}, "--num-of-heads.* need --l0-penalty"),
        (
            {"heads_per_kind": "encoder-self=2,decoder-cross=2,decoder-self=2", "pruning_lr": 0.1},
            "--heads-per-kind need --l0-penalty",
        ),
        ({"num_of_heads": 6}, "--pruning-schedule auto .* nothing bounds: give --max-update or --max-epoch"),
        ({"joint_pruning": True}, "--joint-pruning needs --num-of-heads, --heads-per-kind or --l0-penalty"),
        ({"l0_penalty": -1.0}, "--l0-penalty -1.*: .*0 or more"),
        ({"l0_penalty": float("nan")}, "--l0-penalty nan.*: .*0 or more"),
        ({"l0_penalty": 1.0, "num_of_heads": 25}, r"--num-of-heads.*0\.\.24.*25"),
        ({"l0_penalty": 1.0, "min_heads_per_block": 1}, "--min-heads-per-block needs a budget"),
        ({"l0_penalty": 1.0, "pruning_lr": -0.1}, "--pruning-lr .*above 0"),
        (
            {"num_of_heads": 6, "closing": "lagrangian", "l0_penalty": 1.0},
            "--l0-penalty is found by --closing",
        ),
        ({"closing": "lagrangian", "closing_updates": 9}, "--closing lagrangian needs a budget"),
        ({"closing": "gently"}, "--closing must be one of penalty, lagrangian, pass, got 'gently'"),
        ({"l0_penalty": 1.0, "joint_pruning": False}, "--restore-file.*--finetune-from-model"),
    ],
)
def test_options_that_cannot_be(tiny_data, changes, message):
    with pytest.raises(ValueError, match=message):
        voita(tiny_data, **changes)


def test_without_a_penalty_there_are_no_gates(tiny_data):
    assert voita(tiny_data)[1].gating is None


def test_a_constraint_is_of_the_mean_loss_and_of_parameters_where_it_weighs_them(tiny_data):
    options = {"closing": "lagrangian", "closing_updates": 0, "pruning_lr": 0.1, "joint_pruning": True}
    task, model = voita(tiny_data, **options, cost_share=0.4, neurons=4)
    gates, heads = model.gating.gates, model.gating.head_map
    # d 16 and ffn 20: a head of 4 has 4 weights [4, 16] and 3 biases; a group of 4 neurons 2 weights and one
    costs = [4 * (2 * 16 + 1) if block.neurons else 4 * (4 * 16 + 3) for block in heads.blocks]
    counted = [cost for block, cost in zip(heads.blocks, costs) for _ in range(block.num_heads)]
    assert gates.budget.costs.tolist() == counted
    assert sum(cost for cost, kept in zip(counted, gates.keep()) if kept) <= 0.4 * sum(counted)
    cfg = parse(tiny_data, *TINY, *CRITERION, arch="voita_transformer", task="voita_translation")
    criterion, sample = criterions.build_criterion(cfg.criterion, task), batch(task)
    with torch.no_grad():
        gates.prices.fill_(1.0)
    loss, sample_size, logged = criterion(model.train(), sample)
    added = loss.item() - float(logged["loss"])
    assert added == pytest.approx(gates.penalty().item() * sample_size, rel=1e-3) and sample_size > 1


class Wrapped(torch.nn.Module):
    """A model inside another, as data-parallel training has it."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, *args, **kwargs):
        return self.module(*args, **kwargs)

    def get_normalized_probs(self, *args, **kwargs):
        return self.module.get_normalized_probs(*args, **kwargs)

    def get_targets(self, *args, **kwargs):
        return self.module.get_targets(*args, **kwargs)


@pytest.mark.parametrize("wrap", [lambda model: model, Wrapped], ids=["alone", "wrapped"])
def test_the_penalty_is_added_once_to_the_summed_loss_in_training_alone(tiny_data, wrap):
    task, model = voita(tiny_data, l0_penalty=7.0)
    cfg = parse(tiny_data, *TINY, *CRITERION, arch="voita_transformer", task="voita_translation")
    criterion, sample = criterions.build_criterion(cfg.criterion, task), batch(task)
    gates = model.gating.gates

    def loss_of(training: bool):
        torch.manual_seed(5)
        loss, _, logged = criterion(wrap(model).train(training), sample)
        return loss, logged

    loss, logged = loss_of(True)
    penalty = gates.penalty()
    # the log leaves it out
    assert loss.item() - float(logged["loss"]) == pytest.approx(penalty.item(), rel=1e-4)
    assert int(logged["gates_heads_open"]) == int((gates.scores > 0).sum())
    gates.l0_penalty = 0.0
    torch.testing.assert_close(loss - loss_of(True)[0], penalty)
    gates.l0_penalty = 7.0
    loss, logged = loss_of(False)
    assert loss.item() == float(logged["loss"]) and not {name for name in logged if name.startswith("gates_")}


@pytest.mark.parametrize("changes, rates", [({}, None), ({"pruning_lr": 0.05}, [0.05])])
def test_the_learning_rate_of_the_gates(tiny_data, changes, rates):
    """By default none of their own: the recipes of the reference program, which had no other, depend on
    it.
    """
    _, model = voita(tiny_data, l0_penalty=1.0, **changes)
    assert model.gating.gates.scores.optim_overrides["optimizer"].get("lr") == rates


def test_a_rate_that_falls_has_to_be_one_of_their_own(tiny_data):
    with pytest.raises(OptionError, match="--pruning-lr-decay-steps needs --pruning-lr, the rate that falls"):
        voita(tiny_data, l0_penalty=1.0, pruning_lr_decay_steps=5)
    _, model = voita(tiny_data, l0_penalty=1.0, pruning_lr_decay_steps=4, pruning_lr=0.2)
    model.set_num_updates(3)
    assert model.score_rate() == pytest.approx(0.05)


# ---- what is said at the end


def said(log_a, budget=None, **options) -> str:
    gates = ConcreteGates(HeadMap([AttentionBlock("a", 4, "encoder-self")]), budget, 200.0)
    with torch.no_grad():
        gates.scores.copy_(torch.tensor(log_a))
    return "\n".join(VoitaTransformerModel.remarks({"l0_penalty": 200.0, **options}, gates))


def test_how_many_heads_the_penalty_has_kept():
    assert said([1.0, -1.0, 2.0, -3.0]) == "--l0-penalty 200 kept 2 of 4 heads (log_a above 0)"


@pytest.mark.parametrize(
    "log_a, what, change", [(-1.0, "EVERY HEAD IS CLOSED", "lower"), (1.0, "NO HEAD IS CLOSED", "raise")]
)
def test_a_penalty_that_closes_all_heads_or_none(log_a, what, change):
    text = said([log_a] * 4)
    assert f"kept {0 if log_a < 0 else 4} of 4 heads" in text
    assert f"{what}: {change} --l0-penalty, or give --num-of-heads K" in text


def test_a_budget_is_exact_where_the_penalty_is_not():
    text = said([-1.0] * 4, budget=3)
    assert "kept 0 of 4 heads" in text and "deploys exactly 3" in text and "EVERY HEAD" not in text
