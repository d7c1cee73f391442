"""Numbers of fairseq's configuration, and of our own options, are refused by what they mean, before
anything is loaded.
"""

from __future__ import annotations

import copy
import dataclasses
from argparse import Namespace

import pytest

pytest.importorskip("fairseq")

from fairseq import tasks
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from fairseq_models import parse
from omegaconf import OmegaConf

import dsp_plugin

dsp_plugin.register()

from dsp_plugin.mt.training.option_checks import NUMBERS, check_option, check_options
from dsp_plugin.options.errors import OptionError

METHODS = ("dsp", "voita", "michel", "diff")
OURS = ("--adam-betas", "(0.9, 0.98)", "--max-tokens", "400", "--label-smoothing", "0.1", "--lr", "0.1")
REFUSED = {
    "lr": [[-1.0], [float("nan")], [float("inf")], [0.1, -0.1], []],
    "dropout": [float("nan"), 2, -0.1, 1],
    "attention_dropout": [2.0],
    "activation_dropout": [float("nan")],
    "relu_dropout": [-1],
    "encoder_layerdrop": [1, -1],
    "clip_norm": [float("nan"), -1],
    "label_smoothing": [2, -1, 1, float("nan")],
    "encoder_layers": [-1, 0],
    "decoder_layers": [0],
    "encoder_attention_heads": [3, 0, -4],
    "encoder_embed_dim": [0, -16],
    "decoder_output_dim": [8],
    "encoder_ffn_embed_dim": [0],
    "decoder_ffn_embed_dim": [-3],
    "beam": [0, -1],
    "nbest": [6],  # the beam is 5
    "max_len_a": [-1, float("nan")],
    "max_len_b": [0],
    "lenpen": [float("nan")],
    "temperature": [0],
    "update_freq": [[0], [1, -2]],
    "max_tokens": [0, -5],
    "batch_size": [0, -1],
    "max_update": [-1],
    "max_epoch": [-3],
    "seed": [-1, 2**32],
    "warmup_updates": [-1, 0],
    "warmup_init_lr": [float("nan"), -2],
    "adam_betas": ["(2, 0.9)", "garbage", "(0.9,)", "", "(0.9, nan)", (0.9, 1.0), "__import__('os')"],
    "adam_eps": [0, -1],
    "weight_decay": [-1, float("nan")],
    "save_interval": [0],
    "save_interval_updates": [-1],
    "keep_last_epochs": [-5, 0],
    "num_workers": [-1],
    "patience": [-3],
    "shard_id": [1],
    "distributed_rank": [1],
    "adaptive_softmax_cutoff": [[5, 3], [-1]],
    "post_process": ["nope"],
    "eval_bleu_remove_bpe": ["nope"],
    "eval_bleu_detok": ["nope"],
    "log_interval": [0],
    "best_checkpoint_metric": ["nope", "bleu"],
    "eval_bleu_args": [
        "{bad",
        "[1]",
        '{"beam": 0}',
        '{"beem": 4}',
        '{"beam": "4"}',
        '{"nbest": 7, "beam": 2}',
        "[" * 100000,
    ],
    "pruning_lr": [-1, 0, float("inf")],
    "initial_temperature": [0, float("nan")],
    "cooldown_steps": [-1],
}


@pytest.fixture(scope="module")
def training(tiny_data):
    """The whole configuration of a training."""
    flags = (
        "--optimizer",
        "dsp_adam",
        "--lr-scheduler",
        "inverse_sqrt",
        "--criterion",
        "dsp_label_smoothed_cross_entropy",
    )
    return parse(
        tiny_data, *flags, *OURS, "--share-all-embeddings", arch="dsp_transformer", task="dsp_translation"
    )


def test_options_as_they_are_by_default_pass(training):
    check_options(training)


@pytest.mark.parametrize("name", REFUSED)
def test_a_number_that_means_nothing_is_refused_by_name(training, name):
    whole = OmegaConf.to_container(training)
    sections = [section for section in whole.values() if isinstance(section, dict) and name in section]
    assert sections
    for value in REFUSED[name]:
        for section in sections:
            section[name] = value
        with pytest.raises(OptionError) as refused:
            check_options(whole)
        assert refused.value.name == name and refused.value.reason
        assert "\n" not in str(refused.value)


def test_fairseqs_own_programs_refuse_them_before_the_data_are_read(training):
    cfg = copy.deepcopy(training)
    cfg.optimization.clip_norm = float("nan")
    cfg.task.data = "/nowhere"
    with pytest.raises(ValueError, match="--clip-norm nan"):
        tasks.setup_task(cfg.task)
    # a checkpoint's own options are of a training that is over
    with pytest.raises(FileNotFoundError, match="/nowhere"):
        tasks.setup_task(cfg.task, from_checkpoint=True)


def test_options_of_a_parser_and_of_a_section_are_looked_at_too():
    for options in (
        Namespace(beam=0),
        {"beam": 0},
        {"generation": {"beam": 0}},
        OmegaConf.create({"a": {"b": {"beam": 0}}}),
    ):
        with pytest.raises(
            OptionError, match="^beam 0: a whole number, 1 or more,? belongs there$"
        ) as refused:
            check_options(options)
        assert refused.value.name == "beam"


def configs():
    """(where, config) of all that a training or a translation with this plugin may have."""
    yield from (
        (name, field.type)
        for name, field in FairseqConfig.__dataclass_fields__.items()
        if dataclasses.is_dataclass(field.type)
    )
    for registry in (MODEL_DATACLASS_REGISTRY, TASK_DATACLASS_REGISTRY):
        yield from ((name, config) for name, config in registry.items() if name.split("_")[0] in METHODS)
    yield "translation", TASK_DATACLASS_REGISTRY["translation"]
    for kind in ("optimizer", "lr_scheduler", "criterion"):
        found = REGISTRIES[kind]["dataclass_registry"]
        yield from ((name, found[name]) for name in found if kind != "criterion" or "cross_entropy" in name)


@pytest.mark.parametrize(
    "where, config", list(configs()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_number_has_a_meaning_and_its_default_is_one(where, config):
    for option in dataclasses.fields(config):
        type_name = str(option.type)
        if (
            option.name.startswith("_")
            or not ("int" in type_name or "float" in type_name)
            or "Choice" in type_name
        ):
            continue
        assert option.name in NUMBERS, (
            f"{where}: say in option_checks.py what --{option.name.replace('_', '-')} means"
        )
        default = option.default if option.default is not dataclasses.MISSING else None
        if option.default_factory is not dataclasses.MISSING:
            default = option.default_factory()
        check_option(option.name, default)
