"""Where a schedule of a choice of heads comes from; published command lines mean what they meant."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("fairseq")

from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.models import ARCH_MODEL_REGISTRY
from fairseq_models import TINY, build

import dsp_plugin

dsp_plugin.register()

from dsp_plugin.gating import SubsetOptions
from dsp_plugin.mt.heads.derived_schedule import all_options
from dsp_plugin.mt.heads.schedule import decode, encode, kind_of
from dsp_plugin.mt.programs.chassis.launch import method_options
from dsp_plugin.options.errors import OptionError, dashed

# the published command lines on IWSLT14
TRAINING = [
    *"data-bin/ --arch transformer_iwslt_de_en --share-decoder-input-output-embed --optimizer adam".split(),
    *("--adam-betas", "(0.9, 0.98)"),
    *"--clip-norm 0.0 --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --dropout 0.3".split(),
    *"--weight-decay 0.0001 --criterion label_smoothed_cross_entropy --label-smoothing 0.1".split(),
    *"--max-tokens 4096 --max-epoch 60 --save-dir checkpoints/dsp".split(),
]
K = "--num-of-heads 4"
TEMPERATURES = "--annealing --initial-temperature 0.1 --final-temperature 1e-8"
PIPELINED = "--reset-optimizer --restore-file checkpoints/checkpoint_last.pt --max-epoch 61"

SAME = {"pruning_warmup_updates": 0, "min_heads_per_block": 0}
DSP = {**SAME, "pruning_lr": 0.2, "initial_temperature": 0.1, "final_temperature": 1e-8}
DSP |= {"final_noise": 1.0, "mask_samples": 1}
JOINT = {**DSP, "use_ste": False, "annealing": True, "cooldown_steps": 15000, "joint_pruning": True}
STE = {**JOINT, "use_ste": True, "annealing": False}
FROZEN = {**JOINT, "cooldown_steps": 250, "joint_pruning": False}
VOITA = {**SAME, "pruning_lr": None, "l0_penalty": 200.0, "joint_pruning": True}

# method, its options, what they mean: written out as they were before there was a choice of schedules
BY_HAND = {
    "joint": (*("dsp", f"{K} --pruning-lr 0.2 --joint-pruning {TEMPERATURES} --cooldown-steps 15000"), JOINT),
    "joint, defaults": ("dsp", f"{K} --joint-pruning --annealing", JOINT),
    "straight-through": ("dsp", f"{K} --pruning-lr 0.2 --joint-pruning --use-ste", STE),
    "straight-through, defaults": ("dsp", f"{K} --joint-pruning --use-ste", STE),
    "pipelined": (*("dsp", f"{K} --pruning-lr 0.2 {TEMPERATURES} --cooldown-steps 250 {PIPELINED}"), FROZEN),
    "without annealing": (
        *("dsp", f"{K} --joint-pruning --pruning-lr 0.3"),
        {**JOINT, "annealing": False, "pruning_lr": 0.3},
    ),
    "voita": ("voita", "--l0-penalty 200 --keep-best-checkpoints 1", VOITA),
    "voita, a rate of its own": (
        *("voita", "--l0-penalty 200 --pruning-lr 0.1 --num-of-heads 4"),
        {**VOITA, "pruning_lr": 0.1, "num_of_heads": 4},
    ),
    "voita, a constraint": (
        *("voita", f"{K} --closing lagrangian --pruning-lr 0.1 --joint-pruning"),
        {**VOITA, "pruning_lr": 0.1, "num_of_heads": 4, "l0_penalty": None, "closing_updates": 5000},
    ),
    "voita, PASS": (
        *("voita", f"{K} --closing pass --concentrate --round-updates 9 --joint-pruning"),
        {**VOITA, "pruning_lr": 0.2, "num_of_heads": 4, "l0_penalty": None, "closing_updates": None},
    ),
    "no pruning": ("dsp", "", {**DSP, "annealing": False, "cooldown_steps": 15000, "num_of_heads": None}),
}
PUBLISHED = {
    "joint": ("dsp", f"{K} --joint-pruning", JOINT),
    "straight-through": ("dsp", f"{K} --joint-pruning --use-ste", STE),
    "pipelined": ("dsp", f"{K} {PIPELINED}", FROZEN),
    "exact samples": (*("dsp", f"{K} --joint-pruning --sampler simple"), {**JOINT, "annealing": False}),
    "one of them changed": (
        *("dsp", f"{K} --joint-pruning --cooldown-steps 300 --min-heads-per-block 0"),
        {**JOINT, "cooldown_steps": 300},
    ),
    "voita": ("voita", "--l0-penalty 200", VOITA),
}


def given_and_meant(method: str, words: str):
    """(options as they were given, all of them with their values) of a command line."""
    cfg = convert_namespace_to_omegaconf(method_options([*TRAINING, *words.split()], method))
    model_class = ARCH_MODEL_REGISTRY[cfg.model._name]
    given = all_options(cfg.model)
    return given, model_class.with_defaults(given)


def assert_means(found, expected) -> None:
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("name", BY_HAND)
def test_a_published_command_line_means_what_it_meant(name):
    method, words, expected = BY_HAND[name]
    given, found = given_and_meant(method, words)
    assert_means(found, expected)
    if found["num_of_heads"] or found.get("l0_penalty"):
        assert kind_of(given) == "by hand"


def test_what_the_sampler_is_made_of():
    _, found = given_and_meant(*BY_HAND["pipelined"][:2])
    assert SubsetOptions.of(found) == SubsetOptions(False, True, 0.1, 1e-8, 250, 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_schedule(name):
    method, words, expected = PUBLISHED[name]
    given, found = given_and_meant(method, f"{words} --pruning-schedule published")
    assert_means(found, expected)
    assert kind_of(given) == "published"


@pytest.mark.parametrize(
    "method, words, named",
    [
        ("dsp", f"{K} --pruning-schedule auto --pruning-lr 0.2", ["--pruning-schedule", "--pruning-lr"]),
        ("dsp", f"{K} --pruning-schedule auto --annealing", ["--pruning-schedule", "--annealing"]),
        (
            "dsp",
            f"{K} --pruning-schedule auto --cooldown-steps 9",
            ["--pruning-schedule", "--cooldown-steps"],
        ),
        ("dsp", f"{K} --pruning-schedule auto --pruning-warmup-updates 0", ["--pruning-warmup-updates"]),
        ("dsp", f"{K} --pruning-schedule auto --initial-temperature 1", ["--initial-temperature"]),
        ("dsp", f"{K} --pruning-schedule auto --final-temperature 1", ["--final-temperature"]),
        ("dsp", f"{K} --pruning-schedule auto --final-noise 1", ["--pruning-schedule", "--final-noise"]),
        ("dsp", f"{K} --final-noise 0", ["--final-noise", "--annealing"]),
        ("dsp", f"{K} --final-noise 2", ["--final-noise"]),
        ("dsp", f"{K} --sampler gumbel", ["--sampler", "relaxed, simple", "gumbel"]),
        ("dsp", f"{K} --sampler simple --use-ste", ["--sampler", "--use-ste"]),
        ("dsp", "--sampler simple", ["--sampler", "--num-of-heads"]),
        ("dsp", f"{K} --pruning-schedule soon", ["--pruning-schedule", "auto, published", "soon"]),
        ("dsp", f"{K} --pruning-schedule published --use-ste --annealing", ["--use-ste", "--annealing"]),
        ("dsp", "--pruning-schedule auto", ["--pruning-schedule", "--num-of-heads"]),
        ("dsp", "--pruning-schedule published", ["--pruning-schedule", "--num-of-heads"]),
        ("voita", f"{K} --pruning-schedule auto --l0-penalty 5", ["--pruning-schedule", "--l0-penalty"]),
        ("voita", f"{K} --pruning-schedule published", ["--num-of-heads", "--l0-penalty"]),
        ("voita", f"{K} --pruning-lr 0.1", ["--num-of-heads", "--l0-penalty"]),
        ("voita", "--pruning-schedule auto", ["--pruning-schedule", "--num-of-heads"]),
        ("voita", "--l0-penalty 5 --init-scores importance", ["--init-scores", "--num-of-heads"]),
        ("voita", f"{K} --pruning-schedule auto --closing pass --round-updates 5", ["--round-updates"]),
        ("dsp", f"{K} --init-scores best", ["--init-scores", "importance, random", "best"]),
        ("dsp", "--init-scores importance", ["--init-scores", "--num-of-heads"]),
    ],
)
def test_options_that_exclude_each_other_are_named(method, words, named):
    with pytest.raises(OptionError) as refused:
        _, found = given_and_meant(method, words)
        ARCH_MODEL_REGISTRY[f"{method}_transformer"].check_options(found)
    said = refused.value.spelled(dashed)
    assert all(name in said for name in named), said


@pytest.mark.parametrize(
    "words",
    [K, f"{K} --min-heads-per-block 1", f"{K} --pruning-schedule auto --use-ste", f"{K} --sampler simple"],
)
def test_where_no_option_of_the_schedule_is_given_it_is_worked_out(words):
    assert kind_of(given_and_meant("dsp", f"{words} --joint-pruning")[0]) == "auto"


def test_a_task_that_knows_no_length_is_refused(tiny_data):
    said = "--pruning-schedule auto .*--task dsp_translation.*--pruning-lr"
    with pytest.raises(ValueError, match=said):
        build(tiny_data, *TINY, arch="dsp_transformer", num_of_heads=6, joint_pruning=True)


# ---- what was worked out, as a checkpoint has it

DERIVED = {"updates": 390, "pruning_lr": 0.1, "annealing": True, "cooldown_steps": 200, "final_noise": 0.5}


def options_with(derived, **given):
    model_class = ARCH_MODEL_REGISTRY["dsp_transformer"]
    text = derived if isinstance(derived, str) else encode(derived)
    return model_class.with_defaults({"num_of_heads": 6, "derived_schedule": text, **given})


def test_what_was_given_beside_it_wins():
    found = options_with(DERIVED, cooldown_steps=0)
    assert (found["pruning_lr"], found["annealing"], found["cooldown_steps"]) == (0.1, True, 0)
    assert found["final_noise"] == 0.5 and found["final_temperature"] == 1e-8 and "updates" not in found
    hard = options_with(DERIVED, use_ste=True)
    assert hard["annealing"] is False and hard["final_noise"] == 1.0
    exact = options_with({**DERIVED, "final_temperature": 0.1}, sampler="simple")
    assert (exact["cooldown_steps"], exact["final_temperature"], exact["annealing"]) == (200, 0.1, True)
    unpruned = options_with({**DERIVED, "min_heads_per_block": 1}, num_of_heads=None)
    assert unpruned["min_heads_per_block"] == 0 and not unpruned["annealing"]


@pytest.mark.parametrize(
    "text",
    [
        "auto",
        "[1]",
        json.dumps({"encoder_layers": 999}),
        json.dumps({"num_of_heads": 1}),
        json.dumps({"kept_heads": "{}"}),
        json.dumps({"pruning_lr": "fast"}),
        json.dumps({"pruning_lr": -1.0}),
        json.dumps({"cooldown_steps": [3]}),
        '{"pruning_lr": NaN}',
        json.dumps({"annealing": {"a": 1}}),
    ],
)
def test_a_damaged_one_is_refused_by_name(text):
    with pytest.raises(ValueError, match="derived_schedule|pruning_lr|cooldown_steps|annealing"):
        options_with(text)


def test_it_is_read_as_it_was_written():
    assert decode(encode(DERIVED), ARCH_MODEL_REGISTRY["dsp_transformer"]) == DERIVED
