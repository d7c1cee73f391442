"""A schedule that is worked out from the length of the training, before the model is built."""

from __future__ import annotations

import copy
import logging
import re

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq import tasks
from fairseq_models import TINY, build_dsp, parse, record_of

from dsp_plugin.gating.methods.recipe import LEAST_UPDATES
from dsp_plugin.mt.heads.checkpoint_heads import SCORES
from dsp_plugin.mt.heads.derived_schedule import Start, settle_schedule
from dsp_plugin.mt.heads.gated_transformer import head_map_of, head_map_of_options
from dsp_plugin.mt.heads.methods.dsp import DSPTransformerModel
from dsp_plugin.mt.heads.schedule import decode, encode
from dsp_plugin.mt.heads.score_start import begins_ranked
from dsp_plugin.mt.training.run_length import Limits, Stand
from dsp_plugin.options.errors import OptionError, dashed

# 120 pairs in batches of 30: 4 updates an epoch
BATCHES = ["--batch-size", 30, "--required-batch-size-multiple", 1, "--num-workers", 0]
DSP = [*BATCHES, "--optimizer", "dsp_adam", "--joint-pruning", "--num-of-heads", 6]
VOITA = [*DSP, "--criterion", "voita_label_smoothed_cross_entropy"]
LONG = 4 * LEAST_UPDATES


def build(data, folder, *flags, method: str = "dsp"):
    """(configuration, task, model) of a command line, as fairseq-train makes them."""
    words = [*TINY, "--save-dir", folder, *flags]
    cfg = copy.deepcopy(parse(data, *words, arch=f"{method}_transformer", task=f"{method}_translation"))
    task = tasks.setup_task(cfg.task)
    return cfg, task, task.build_model(cfg.model)


# ---- how long a training is


@pytest.mark.parametrize(
    "limits, stand, last",
    [
        (Limits(max_update=50), Stand(), 50),
        (Limits(max_epoch=3), Stand(), 30),
        (Limits(max_epoch=3, max_update=20), Stand(), 20),
        (Limits(max_epoch=3, max_update=50), Stand(), 30),
        (Limits(), Stand(), None),
        (Limits(max_epoch=3, update_freq=(4,)), Stand(), 9),
        (Limits(max_epoch=3, update_freq=(4,), skips_rest=True), Stand(), 6),
        (Limits(max_epoch=4, update_freq=(5, 10)), Stand(), 2 + 1 + 1 + 1),
        (Limits(max_epoch=1, update_freq=(5, 10)), Stand(), 2),
        (Limits(max_epoch=61), Stand(epoch=61), 10),
        (Limits(max_epoch=61), Stand(epoch=61, batches=4), 6),
        (Limits(max_epoch=3), Stand(updates=14, epoch=2, batches=4), 14 + 6 + 10),
        (Limits(max_epoch=3), Stand(updates=30, epoch=4), 30),
        (Limits(max_epoch=10**9), Stand(), 10**10),
    ],
)
def test_the_last_update(limits, stand, last):
    assert limits.last_update(10, stand) == last


def test_where_a_checkpoint_stands():
    state = {
        "optimizer_history": [{"num_updates": 3}, {"num_updates": 14}],
        "extra_state": {"train_iterator": {"epoch": 2, "iterations_in_epoch": 4}},
    }
    assert Stand.of(state, True, True) == Stand(14, 2, 4)
    assert Stand.of(state, False, True) == Stand(0, 2, 4)  # --reset-optimizer alone
    assert Stand.of(state, False, False) == Stand.of({}, True, True) == Stand()


@pytest.mark.parametrize(
    "changes",
    [{}, {"encoder_layers": 12, "decoder_layers": 1, "decoder_attention_heads": 2}, {"kept_heads": 1}],
)
def test_the_heads_of_a_model_before_there_is_one(tiny_data, changes):
    if "kept_heads" in changes:
        changes = {"kept_heads": record_of(tiny_data, dead="encoder.layers.1.self_attn")}
    _, model = build_dsp(tiny_data, **changes)
    cfg = parse(tiny_data, *TINY, arch="dsp_transformer", task="dsp_translation").model
    assert head_map_of_options({**cfg, **changes}) == head_map_of(model)


# ---- auto


@pytest.mark.parametrize(
    "flags, updates",
    [
        (["--max-update", LONG], LONG),
        (["--max-epoch", LONG], 4 * LONG),
        (["--max-epoch", LONG, "--update-freq", "2,1"], 4 * LONG - 2),
        (["--max-epoch", LONG, "--max-update", LONG], LONG),
        (["--max-epoch", LONG, "--batch-size", 50], 3 * LONG),
        (["--max-epoch", LONG, "--max-update", LONG, "--pruning-schedule", "auto"], LONG),
    ],
    ids=["updates", "epochs", "update-freq", "both", "batches", "by-name"],
)
def test_it_goes_by_the_length_of_the_training(tiny_data, tmp_path, caplog, flags, updates):
    caplog.set_level(logging.INFO)
    cfg, task, model = build(tiny_data, tmp_path, *DSP, *flags)
    found = decode(cfg.model.derived_schedule, type(model))
    assert found["updates"] == updates
    said = [message for message in caplog.messages if message.startswith("schedule (auto")]
    assert len(said) == 1 and f"for {updates:,} updates): " in said[0]
    assert f"--pruning-lr {found['pruning_lr']:g}" in said[0] and "--annealing" in said[0]
    assert f"--cooldown-steps {found['cooldown_steps']}" in said[0]
    assert model.gating.warmup_updates == found["pruning_warmup_updates"]
    scores = model.gating.gates.scores
    assert scores.optim_overrides["optimizer"]["lr"] == [found["pruning_lr"]]
    assert (task.score_start is not None) == begins_ranked(found)


def test_the_training_set_that_was_looked_at_is_the_one_that_is_trained_on(tiny_data, tmp_path):
    _, task, _ = build(tiny_data, tmp_path, *DSP, "--max-epoch", LONG)
    early = task.dataset("train")
    task.load_dataset("train", epoch=1, combine=True)
    assert task.dataset("train") is early
    task.load_dataset("train", epoch=2, combine=True)
    assert task.dataset("train") is not early


def test_what_is_given_beside_it_wins(tiny_data, tmp_path):
    flags = ["--max-update", LONG, "--min-heads-per-block", 0, "--init-scores", "random"]
    _, task, model = build(tiny_data, tmp_path, *DSP, *flags)
    assert model.gating.gates.budget.minimum == 0 and task.score_start is None


def test_straight_through(tiny_data, tmp_path):
    flags = ["--use-ste", "--pruning-schedule", "auto", "--max-update", LONG]
    cfg, _, model = build(tiny_data, tmp_path, *DSP, *flags)
    assert type(model.gating.gates).__name__ == "StraightThroughSubset"
    assert model.gating.warmup_updates > 0 and "derived_schedule" in cfg.model


@pytest.mark.parametrize(
    "flags, said",
    [
        ([], "--pruning-schedule auto .* nothing bounds: give --max-update or --max-epoch.*--pruning-lr"),
        (["--max-update", LEAST_UPDATES - 1], f"--pruning-schedule auto needs {LEAST_UPDATES} updates"),
        (["--max-epoch", 1], f"--pruning-schedule auto needs {LEAST_UPDATES} .* the training has 4"),
        (["--num-of-heads", 25], r"--num-of-heads must be a whole number in 0\.\.24"),
        (["--max-update", LONG, "--min-heads-per-block", 2], "--min-heads-per-block 2 needs 12 heads"),
        (["--init-scores", "importance", "--pruning-lr", 0.2], "--init-scores importance .*there is none"),
    ],
    ids=["unbounded", "too-short", "too-few-epochs", "budget", "minimum", "nothing-to-rank"],
)
def test_what_cannot_be_is_refused_by_name(tiny_data, tmp_path, flags, said):
    with pytest.raises(ValueError, match=said):
        build(tiny_data, tmp_path, *DSP, *flags)


# ---- a training that goes on

FROZEN = {"pruning_lr": 0.05, "pruning_lr_decay_steps": LONG, "annealing": True, "updates": LONG}


def going_on(data, folder, flags, options, joint=False):
    """Settle the schedule of a command line over a checkpoint whose model had these options."""
    words = [word for word in DSP if joint or word != "--joint-pruning"]
    cfg = copy.deepcopy(
        parse(
            data, *TINY, *words, "--save-dir", folder, *flags, arch="dsp_transformer", task="dsp_translation"
        )
    )
    given = {"num_of_heads": 6, "joint_pruning": joint, "derived_schedule": None, **options}
    state = {"model": {SCORES: torch.zeros(24)}, "cfg": {"model": {"_name": "dsp_transformer", **given}}}
    task = tasks.setup_task(cfg.task)
    settle_schedule(task, cfg.model, DSPTransformerModel, Start("last.pt", state, goes_on=True))
    return cfg


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--max-update", LONG], None),
        (["--max-update", LONG - 1], None),
        (["--max-epoch", LONG // 4], None),
        (["--max-update", LONG + 1], f"--max-update goes beyond the {LONG} updates .* --save-dir"),
        (["--max-epoch", LONG // 4 + 1], f"--max-epoch goes beyond the {LONG} updates"),
        ([], f"--max-update goes beyond the {LONG} updates"),
    ],
)
def test_scores_whose_rate_has_fallen_to_0_are_not_trained_on(tiny_data, tmp_path, flags, said):
    options = {"derived_schedule": encode(FROZEN)}
    if said is None:
        assert going_on(tiny_data, tmp_path, flags, options).model.derived_schedule == encode(FROZEN)
        return
    with pytest.raises(OptionError) as refused:
        going_on(tiny_data, tmp_path, flags, options)
    assert re.search(said, refused.value.spelled(dashed))


def test_a_joint_training_may_become_longer(tiny_data, tmp_path):
    options = {"derived_schedule": encode(FROZEN)}
    going_on(tiny_data, tmp_path, ["--max-update", 2 * LONG], options, joint=True)


@pytest.mark.parametrize(
    "by_hand", [{"pruning_lr": 0.3}, {"use_ste": True}, {"pruning_schedule": "published"}]
)
def test_the_kind_of_schedule_stays(tiny_data, tmp_path, by_hand):
    ((name, value),) = by_hand.items()
    words = [dashed(name)] + ([] if value is True else [value])
    limit = ["--max-update", LONG]
    with pytest.raises(OptionError, match=f"{name} would give this training another schedule"):
        going_on(tiny_data, tmp_path, [*limit, *words], {"derived_schedule": encode(FROZEN)})
    with pytest.raises(OptionError, match=f"auto is for a training as a whole.* give {name} again"):
        going_on(tiny_data, tmp_path, limit, by_hand)
    going_on(tiny_data, tmp_path, [*limit, *words], by_hand)  # as it was


# ---- options without a say


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--mask-samples", 8], "--mask-samples needs --num-of-heads or --heads-per-kind"),
        (["--init-scores", "random"], "--init-scores needs --num-of-heads or --heads-per-kind"),
        (["--num-of-heads", 6, "--use-ste", "--mask-samples", 8], "--mask-samples has no say"),
        (["--num-of-heads", 6, "--use-ste", "--final-noise", 0], "--final-noise has no say"),
    ],
)
def test_an_option_that_would_do_nothing(tiny_data, tmp_path, flags, said):
    with pytest.raises(ValueError, match=said):
        build(tiny_data, tmp_path, *BATCHES, "--optimizer", "dsp_adam", *flags, "--max-update", LONG)


def test_data_in_several_folders(tiny_data, tmp_path):
    with pytest.raises(ValueError, match="--pruning-schedule auto .*--max-epoch are.*--max-update alone"):
        build(f"{tiny_data}:{tiny_data}", tmp_path, *DSP, "--max-epoch", LONG)
    build(f"{tiny_data}:{tiny_data}", tmp_path, *DSP, "--max-update", LONG)
    _, task, _ = build(f"{tiny_data}:{tiny_data}", tmp_path, *VOITA, "--max-update", LONG, method="voita")
    early = task.dataset("train")
    task.load_dataset("train", epoch=2, combine=True)
    assert task.dataset("train") is not early


def test_importance_under_a_task_that_ranks_nothing(tiny_data, tmp_path):
    cfg = parse(tiny_data, *TINY, *DSP, "--save-dir", tmp_path, arch="dsp_transformer")
    cfg.model.update(pruning_lr=0.2, init_scores="importance", pruning_warmup_updates=2)
    with pytest.raises(ValueError, match="--init-scores importance .*--task dsp_translation"):
        tasks.setup_task(cfg.task).build_model(cfg.model)


# ---- Voita: a price on the mean loss of a token


def test_lambda_is_the_price_on_the_summed_loss_of_a_batch(tiny_data, tmp_path):
    cfg, task, model = build(tiny_data, tmp_path, *VOITA, "--max-update", LONG, method="voita")
    sizes = torch.tensor(task.dataset("train").tgt_sizes)
    price = 24 / (float(sizes.sum()) / 4) * model.gating.gates.l0_penalty
    assert 0 < price < 1 and len(sizes) == 120
    found = decode(cfg.model.derived_schedule, type(model))
    assert found["l0_penalty"] == model.gating.gates.l0_penalty and "open_cost" not in found
    # twice as large a batch has twice the summed loss
    cfg, _, half = build(
        tiny_data, tmp_path, *VOITA, "--max-update", LONG, "--batch-size", 15, method="voita"
    )
    assert half.gating.gates.l0_penalty == pytest.approx(model.gating.gates.l0_penalty / 2, rel=1e-3)


def test_without_a_budget_there_is_nothing_to_prune(tiny_data, tmp_path):
    words = [*BATCHES, "--optimizer", "dsp_adam", "--max-update", LONG]
    cfg, _, model = build(tiny_data, tmp_path, *words, method="voita")
    assert model.gating is None and not cfg.model.get("derived_schedule")
