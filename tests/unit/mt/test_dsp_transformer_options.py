"""Options of `dsp_transformer`: which exclude each other, the sizes of its architectures, the record of
head removal.
"""

from __future__ import annotations

import json
from argparse import Namespace
from types import SimpleNamespace

import pytest

pytest.importorskip("fairseq")

from fairseq import options
from fairseq.models.transformer import TransformerConfig
from fairseq_models import batch, build, build_dsp, logits, parse, record_of
from omegaconf import OmegaConf

from dsp_plugin.gating import ExactSubset, RelaxedSubset, StraightThroughSubset
from dsp_plugin.mt.heads.gated_transformer import encode_kept_heads, head_map_of
from dsp_plugin.mt.heads.methods.dsp import DSPTranslationTask


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_of_heads": -1}, r"--num-of-heads.*0\.\.24.*-1"),
        ({"num_of_heads": 25}, r"--num-of-heads.*0\.\.24.*25"),
        ({"num_of_heads": 6, "use_ste": True, "annealing": True}, "--use-ste.*--annealing"),
        ({"joint_pruning": True}, "--joint-pruning needs --num-of-heads"),
        ({"use_ste": True}, "--use-ste needs --num-of-heads"),
        ({"annealing": True}, "--annealing needs --num-of-heads"),
        ({"pruning_warmup_updates": 5}, "--pruning-warmup-updates needs --num-of-heads"),
        ({"num_of_heads": 6, "pruning_warmup_updates": -1}, "--pruning-warmup-updates -1: .*0 or more"),
        (
            {"heads_per_kind": "encoder-self=2", "joint_pruning": True},
            "--heads-per-kind must give a number for each of",
        ),
        ({"heads_per_kind": "four"}, "--heads-per-kind must look like"),
        ({"num_of_heads": 2, "min_heads_per_block": 1}, "--min-heads-per-block 1 needs 6 heads"),
        ({"num_of_heads": 6, "pruning_lr": 0.0}, "--pruning-lr .*above 0"),
        ({"num_of_heads": 6, "pruning_lr": float("nan")}, "--pruning-lr .*above 0"),
        ({"num_of_heads": 6, "annealing": True, "initial_temperature": 0.0}, "--initial-temperature"),
        ({"num_of_heads": 6, "annealing": True, "final_temperature": -1.0}, "--final-temperature"),
        ({"num_of_heads": 6, "final_temperature": 0.0}, "--final-temperature"),
        ({"num_of_heads": 6, "annealing": True, "cooldown_steps": -1}, "--cooldown-steps"),
    ],
)
def test_options_that_cannot_be(tiny_data, changes, message):
    with pytest.raises(ValueError, match=message):
        build_dsp(tiny_data, **changes)


def test_pipelined_needs_a_trained_model(tiny_data):
    with pytest.raises(ValueError, match="--restore-file.*--finetune-from-model"):
        build_dsp(tiny_data, num_of_heads=6, joint_pruning=False)


@pytest.mark.parametrize(
    "changes, gates",
    [
        ({"use_ste": True}, StraightThroughSubset),
        ({"annealing": True}, RelaxedSubset),
        ({}, RelaxedSubset),
        ({"sampler": "simple"}, ExactSubset),
    ],
)
def test_which_gates_the_options_choose(tiny_data, changes, gates):
    _, model = build_dsp(tiny_data, num_of_heads=6, **changes)
    assert type(model.gating.gates) is gates


def actions(*arguments: str) -> dict:
    """The options that fairseq's parser has for these arguments: {flag: (number of values, choices)}."""
    parser = options.get_training_parser()
    options.parse_args_and_arch(parser, ["data", *arguments])
    return {flag: (action.nargs, action.choices) for flag, action in parser._option_string_actions.items()}


def test_every_option_of_the_stock_model_is_there():
    stock = actions("--arch", "transformer", "--task", "translation")
    ours = actions("--arch", "dsp_transformer", "--task", "translation")
    assert not {flag for flag in stock if flag not in ours}
    differing = {flag: (stock[flag], ours[flag]) for flag in stock if ours[flag] != stock[flag]}
    assert not differing
    own = {
        "--num-of-heads",
        "--joint-pruning",
        "--pruning-lr",
        "--pruning-lr-decay-steps",
        "--use-ste",
        "--annealing",
        "--initial-temperature",
        "--final-temperature",
        "--cooldown-steps",
        "--kept-heads",
        "--heads-per-kind",
        "--min-heads-per-block",
        "--pruning-warmup-updates",
        "--pruning-schedule",
        "--derived-schedule",
        "--init-scores",
        "--final-noise",
        "--mask-samples",
        "--sampler",
        "--neurons",
    }
    assert {flag for flag in ours if flag not in stock} == own


SOME_FLAGS = [
    "--activation-fn",
    "gelu",
    "--max-source-positions",
    77,
    "--adaptive-input",
    "--share-all-embeddings",
]


@pytest.mark.parametrize(
    "arch, flags",
    [
        ("transformer", []),
        ("transformer_iwslt_de_en", []),
        ("transformer_iwslt_de_en", ["--decoder-embed-dim", 256, *SOME_FLAGS]),
        ("transformer_wmt_en_de", ["--encoder-layerdrop", 0.2, "--quant-noise-pq", 0.1]),
    ],
    ids=["base", "iwslt", "iwslt-changed", "wmt-changed"],
)
def test_an_architecture_has_all_sizes_of_the_stock_one(tiny_data, arch, flags):
    def sizes(name: str):
        model = parse(tiny_data, *flags, arch=name).model
        values = vars(model) if isinstance(model, Namespace) else OmegaConf.to_container(model, resolve=True)
        return TransformerConfig.from_namespace(
            Namespace(**{k: v for k, v in values.items() if k != "_name"})
        )

    ours = sizes(f"dsp_{arch}")
    expected = sizes(arch)
    assert OmegaConf.to_container(OmegaConf.structured(ours)) == OmegaConf.to_container(
        OmegaConf.structured(expected)
    )


@pytest.mark.parametrize(
    "arch, heads",
    [
        ("dsp_transformer_iwslt_de_en", 72),
        ("dsp_transformer_wmt_en_de", 144),
        ("dsp_transformer_multi30k", 36),
        ("dsp_transformer_multi30k_small", 24),
    ],
)
def test_numbers_of_heads(tiny_data, arch, heads):
    narrow = {
        f"{side}_{size}": 16 for side in ("encoder", "decoder") for size in ("embed_dim", "ffn_embed_dim")
    }
    _, model = build(tiny_data, arch=arch, task="dsp_translation", **narrow)
    assert head_map_of(model).num_heads == heads


@pytest.mark.parametrize(
    "arch, layers, dim", [("dsp_transformer_multi30k", 3, 256), ("dsp_transformer_multi30k_small", 2, 128)]
)
def test_sizes_of_the_multi30k_models(tiny_data, arch, layers, dim):
    model = parse(tiny_data, arch=arch, task="dsp_translation").model
    for side in ("encoder", "decoder"):
        assert (model[f"{side}_layers"], model[f"{side}_embed_dim"], model[f"{side}_ffn_embed_dim"]) == (
            layers,
            dim,
            2 * dim,
        )
        assert model[f"{side}_attention_heads"] == 4


# ---- the record of head removal


def test_a_recorded_model_is_smaller(tiny_data):
    _, model = build_dsp(tiny_data, kept_heads=record_of(tiny_data, dead="encoder.layers.1.self_attn"))
    assert [b.num_heads for b in head_map_of(model).blocks] == [2, 0, 2, 2, 2, 2]
    _, full = build_dsp(tiny_data)
    removed = sum(p.numel() for p in full.parameters()) - sum(p.numel() for p in model.parameters())
    # a head of d = 4 in C = 16: three projections with biases and the output columns
    assert removed == 14 * (3 * (16 * 4 + 4) + 16 * 4)


def test_a_smaller_model_can_be_pruned_again(tiny_data):
    record = record_of(tiny_data, dead="encoder.layers.1.self_attn")
    task, model = build_dsp(tiny_data, kept_heads=record, num_of_heads=3)
    assert model.gating.gates.num_heads == 10 and int(model.gating.gates.keep().sum()) == 3
    model.train()
    logits(model, batch(task)).sum().backward()
    with pytest.raises(ValueError, match=r"0\.\.10.*11"):
        build_dsp(tiny_data, kept_heads=record, num_of_heads=11)


@pytest.mark.parametrize(
    "record, message",
    [
        ("not json", "--kept-heads is not a record"),
        ("[1, 2]", "--kept-heads is not a record"),
        ('{"encoder.layers.0.self_attn": 3}', "--kept-heads is not a record"),
        ('{"encoder.layers.0.self_attn": [0]}', "other attention blocks"),
    ],
)
def test_a_damaged_record(tiny_data, record, message):
    with pytest.raises(ValueError, match=message):
        build_dsp(tiny_data, kept_heads=record)


@pytest.mark.parametrize("heads", [[0, 1, 2, 3, 4], [0, 4], [1, 1], [-1], ["a"]])
def test_a_record_of_heads_that_cannot_be(tiny_data, heads):
    kept = json.loads(record_of(tiny_data))
    kept["encoder.layers.0.self_attn"] = heads
    with pytest.raises(ValueError, match="encoder.layers.0.self_attn"):
        build_dsp(tiny_data, kept_heads=encode_kept_heads(kept))


@pytest.mark.parametrize("reset, last", [(True, 200), (False, 61 * 200)])
def test_epochs_before_a_reset_do_not_count_for_the_cooldown(reset, last):
    """Epoch 61 alone, 200 updates: too short for 250 counted from 0, long enough in a run that goes on."""
    limits = SimpleNamespace(update_freq=[1], max_update=0, max_epoch=61, reset_optimizer=reset)
    seen = []
    model_class = SimpleNamespace(length_warnings=lambda options, last: seen.append(last) or [])

    def look(epoch):
        task = SimpleNamespace(cfg=limits, _warned=(model_class, {}), is_finished=False)
        DSPTranslationTask._warn_of_length(task, 200, epoch)
        DSPTranslationTask._warn_of_length(task, 200, epoch)  # once a training

    look(epoch=61)
    limits.max_update = 50
    look(epoch=61)
    limits.max_update = limits.max_epoch = 0
    look(epoch=1)
    assert seen == [last, 50, None]


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_layers_to_keep_are_refused_by_name(tiny_data, side):
    """fairseq declares a list and splits a text: its own error names nothing."""
    with pytest.raises(ValueError, match=f"--{side}-layers-to-keep"):
        build(
            tiny_data,
            arch="dsp_transformer_multi30k_small",
            task="dsp_translation",
            **{f"{side}_layers_to_keep": [0, 1]},
        )
