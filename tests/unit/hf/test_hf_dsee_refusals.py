"""Options, models and files that DSEE refuses, by name and before anything changes."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip

pytest.importorskip("peft")
from hf_dsee import SMALL, close, outputs, with_update  # isort: skip

from dsp_plugin.hf import record_of
from dsp_plugin.hf.dsee import add_dsee, has_dsee, load_dsee, prune_units, prune_weights, save_dsee
from dsp_plugin.options.errors import OptionError


@pytest.mark.parametrize(
    "options,name",
    [
        (dict(rank=33), "lora_r"),
        (dict(num_sparse=32 * 32 + 1), "num_sparse"),
        (dict(sparse_method="x"), "sparse_method"),
        (dict(targets=["query", "dense"]), "targets"),
        (dict(targets=[]), "targets"),
        (dict(alpha=0), "lora_alpha"),
        (dict(seed=-1), "seed"),
    ],
)
def test_options_that_cannot_be_change_nothing(options, name):
    model = tiny_model("bert")
    before = set(model.state_dict())
    with pytest.raises(OptionError) as caught:
        add_dsee(model, **{**SMALL, **options})
    assert caught.value.name == name
    assert set(model.state_dict()) == before and not has_dsee(model)


def test_models_that_cannot_be_are_refused_by_name():
    with pytest.raises(ValueError, match="query matrix of its own"):
        add_dsee(tiny_model("gpt-neox"), **SMALL)
    _, model = with_update("bert", targets="value")
    with pytest.raises(ValueError, match="its query has no update"):
        prune_units(model, prune_heads_num=1)
    with pytest.raises(ValueError, match="already"):
        add_dsee(model)
    with pytest.raises(ValueError, match="add_dsee"):
        prune_weights(tiny_model("bert"))
    for options, name in (
        (dict(prune_heads_num=4), "prune_heads_num"),
        (dict(prune_heads_num=-1), "prune_heads_num"),
        (dict(neurons=1.0), "prune_neurons"),
    ):
        with pytest.raises(OptionError) as caught:
            prune_units(with_update("bert")[1], **options)
        assert caught.value.name == name
    for ratios in ((1.0, 0.1), (float("nan"), 0.1), (0.1, -0.1)):
        with pytest.raises(OptionError, match="pruning_ratio"):
            prune_weights(with_update("bert")[1], *ratios)


def test_an_update_that_nothing_has_trained_ranks_nothing():
    model = tiny_model("bert")
    add_dsee(model, **SMALL)
    before = outputs(model)
    for prune in (
        lambda: prune_weights(model, 0.2, 0.2, "ABS"),
        lambda: prune_weights(model, 0.2, 0.2, "NAB"),
        lambda: prune_units(model, prune_heads_num=1),
    ):
        with pytest.raises(ValueError, match="nothing has trained"):
            prune()
    close(outputs(model), before)
    prune_weights(model, 0.2, 0.0, "ABS")
    prune_weights(model, 0.2, 0.2, "WABS")
    prune_units(model, prune_heads_num=1, mode="WABS")


def test_another_base_is_refused_and_left_as_it_was(tmp_path):
    base, model = with_update("bert")
    prune_units(model, prune_heads_num=1)
    path = tmp_path / "task.dsee.safetensors"
    save_dsee(model, path)
    other = copy.deepcopy(base)
    with torch.no_grad():
        other.bert.encoder.layer[0].output.dense.weight[0, 0] += 1
    before = outputs(other)
    with pytest.raises(ValueError, match="wrong base.*the DSEE file was made on"):
        load_dsee(other, path)
    with pytest.raises(ValueError, match="wrong base"):
        load_dsee(tiny_model("gpt2"), path)
    with pytest.raises(ValueError, match="wrong base"):
        load_dsee(base.float(), path)
    close(outputs(other), before)
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="damaged"):
        load_dsee(other, path)
    assert not has_dsee(other) and record_of(other) is None
