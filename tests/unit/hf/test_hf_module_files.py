"""A user's own module around Transformers models: pruned, saved, and loaded into one that the user builds."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from hf_modules import (  # isort: skip
    MODULES,
    SentencePair,
    TwoEncoders,
    outputs,
    own_module,
    pair_batch,
    printed_afresh,
)
from hf_models import FAMILIES, batch_of, tiny_model
from killed_everywhere import killed_everywhere
from safetensors.torch import load_file, load_model, save_file
from torch import nn
from transformers import AutoModel

from dsp_plugin.gating import FixedGates
from dsp_plugin.hf import (
    compare,
    count_parameters,
    export_dense,
    gate_heads,
    head_map_of,
    load_pruned,
    prune_heads,
    record_of,
    save_pruned,
)
from dsp_plugin.hf.folders.pruned_folders import load_model as load_transformers_model
from dsp_plugin.records.files.sealed_folder import check_sealed

ROOT = Path(__file__).resolve().parents[3]
modules = pytest.mark.parametrize("name", MODULES)


def pruned(name, parity=0):
    module = own_module(name)
    prune_heads(module, torch.arange(head_map_of(module).num_heads) % 3 != parity)
    return module


def fresh(name):
    return MODULES[name]().double()


@pytest.fixture
def folder(tmp_path):
    save_pruned(pruned("SentencePair"), tmp_path / "pruned")
    return tmp_path / "pruned"


@modules
def test_masked_is_pruned_is_reloaded_is_dense(name, tmp_path):
    module = own_module(name)
    keep = torch.arange(head_map_of(module).num_heads) % 3 != 0
    masked, small = copy.deepcopy(module), copy.deepcopy(module)
    gate_heads(masked, FixedGates(keep))
    prune_heads(small, keep)
    assert (outputs(module) - outputs(small)).abs().max() > 0.1
    torch.testing.assert_close(outputs(small), outputs(masked), rtol=1e-10, atol=1e-10)
    save_pruned(small, tmp_path / "pruned")
    export_dense(small, tmp_path / "dense")
    export_dense(masked, tmp_path / "of-gates")
    for built in (fresh(name), lambda: fresh(name)):
        again = load_pruned(tmp_path / "pruned", model=built)
        assert torch.equal(outputs(again), outputs(small)) and not again.training
        assert record_of(again) == record_of(small) and count_parameters(again) == count_parameters(small)
        assert compare(again, masked, [pair_batch()], tolerance=1e-10).equal
    for kind in ("dense", "of-gates"):
        dense = fresh(name)
        assert load_model(dense, tmp_path / kind / "model.safetensors") == (set(), [])
        torch.testing.assert_close(outputs(dense.eval()), outputs(small), rtol=1e-10, atol=1e-10)


def test_a_fresh_process_reads_them(tmp_path):
    for name in MODULES:
        module = pruned(name)
        save_pruned(module, tmp_path / name)
        torch.save((pair_batch(), outputs(module)), tmp_path / f"{name}.pt")
    program = (
        "import sys, torch\n"
        "from hf_modules import MODULES, outputs\n"
        "import dsp_plugin.hf\n"
        "for name, cls in MODULES.items():\n"
        "    batch, expected = torch.load(f'{sys.argv[1]}/{name}.pt')\n"
        "    model = dsp_plugin.hf.load_pruned(f'{sys.argv[1]}/{name}', model=cls().double())\n"
        "    print(float((outputs(model, batch) - expected).abs().max()))\n"
    )
    lines = printed_afresh(program, tmp_path)
    assert max(map(float, lines[-len(MODULES) :])) <= 1e-10


def test_what_is_in_the_folder(folder):
    assert sorted(os.listdir(folder)) == [
        "README.md",
        "checksums.json",
        "model.safetensors",
        "pruned_module.json",
    ]
    told = json.loads((folder / "pruned_module.json").read_text())
    assert told["kept_heads"] == {
        "encoder.encoder.layer.0.attention": [1, 2],
        "encoder.encoder.layer.1.attention": [0, 1, 3],
    }
    assert (
        told["class"] == "hf_modules.SentencePair"
        and told["configurations"]["encoder"]["hidden_act"] == "gelu"
    )
    tensors = load_file(folder / "model.safetensors")
    assert (
        tensors["encoder.encoder.layer.0.attention.self.query.weight"].shape == (16, 32)
        and "scale" in tensors
    )
    card = (folder / "README.md").read_text()
    assert 'load_pruned("FOLDER", model=SentencePair(...))' in card and "5 of 8 attention heads" in card
    assert set(json.loads((folder / "checksums.json").read_text())["files"]) == {
        "model.safetensors",
        "pruned_module.json",
    }


def test_inner_models_have_their_own_records(tmp_path):
    """And so can be saved by themselves, though two of them were built from one configuration."""
    module = pruned("Twins")
    save_pruned(module, tmp_path / "twins")
    again = load_pruned(tmp_path / "twins", model=fresh("Twins"))
    for whole in (module, again):
        for part, batch in (
            (whole.left, ("input_ids", "attention_mask")),
            (whole.right, ("other_ids", "other_mask")),
        ):
            part.save_pretrained(tmp_path / "part")
            alone = load_pruned(tmp_path / "part", AutoModel, dtype=torch.float64)
            given = dict(zip(("input_ids", "attention_mask"), (pair_batch()[name] for name in batch)))
            torch.testing.assert_close(alone(**given).pooler_output, part(**given).pooler_output)
    assert record_of(module.left) != record_of(module.right)


def test_other_users_of_its_configuration_keep_theirs(tmp_path):
    save_pruned(pruned("Twins"), tmp_path / "twins")
    model = fresh("Twins")
    other = FAMILIES["bert"]().bert.__class__(model.config)
    load_pruned(tmp_path / "twins", model=model)
    other.save_pretrained(tmp_path / "other")
    assert "kept_heads" not in json.loads((tmp_path / "other" / "config.json").read_text())


@modules
def test_pruned_again_and_trained_after_loading(name, tmp_path):
    save_pruned(pruned(name), tmp_path / "one")
    module = load_pruned(tmp_path / "one", model=fresh(name)).train()
    found = module(**pair_batch())
    found = found["logits"] if isinstance(found, dict) else found
    sum(part.sum() for part in (found if isinstance(found, tuple) else (found,))).backward()
    assert all(
        weight.grad is not None for path, weight in module.named_parameters() if "layer.0.attention" in path
    )
    module.eval()
    prune_heads(module, torch.arange(head_map_of(module).num_heads) % 2 == 0)
    save_pruned(module, tmp_path / "two")
    assert torch.equal(outputs(load_pruned(tmp_path / "two", model=lambda: fresh(name))), outputs(module))


def test_gates_on_a_pruned_module_are_saved_with_it(folder, tmp_path):
    module = load_pruned(folder, model=fresh("SentencePair"))
    gate_heads(module, FixedGates(torch.arange(head_map_of(module).num_heads) % 2 == 0))
    save_pruned(module, tmp_path / "gated")
    again = load_pruned(tmp_path / "gated", model=fresh("SentencePair"))
    assert torch.equal(outputs(again), outputs(load_pruned(folder, model=fresh("SentencePair"))))


def test_types_that_would_be_rounded_are_refused_and_others_taken(folder, tmp_path):
    model = SentencePair()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(
        ValueError, match=r"in float64, which the module's float32 would round: call .to\(torch.float64\)"
    ):
        load_pruned(folder, model=model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    half = pruned("SentencePair").half()
    save_pruned(half, tmp_path / "half")
    wide = load_pruned(tmp_path / "half", model=SentencePair())
    assert wide.head.weight.dtype == torch.float32 and torch.equal(wide.head.weight, half.head.weight.float())


class Wider(SentencePair):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(96, 3)


class Renamed(SentencePair):
    def __init__(self):
        super().__init__()
        self.classifier, self.head = self.head, None


class Untied(TwoEncoders):
    def __init__(self):
        super().__init__()
        self.same_head = nn.Linear(32, 16)


class Relu(SentencePair):
    def __init__(self):
        super().__init__()
        config = copy.deepcopy(self.encoder.config)
        config.hidden_act = "relu"
        self.encoder = type(self.encoder)(config)


class OtherDropout(SentencePair):
    def __init__(self):
        super().__init__()
        config = copy.deepcopy(self.encoder.config)
        config.hidden_dropout_prob, config.name_or_path = 0.5, "elsewhere"
        self.encoder = type(self.encoder)(config)


class FewerHeads(SentencePair):
    def __init__(self):
        super().__init__()
        config = copy.deepcopy(self.encoder.config)
        config.num_attention_heads = 2
        self.encoder = type(self.encoder)(config)


MISFITS = {
    "another head": (
        lambda: Wider().double(),
        r"of other shapes are head.bias \(\[2\] there, \[3\] here\), head.weight",
    ),
    "other names": (
        lambda: Renamed().double(),
        "it lacks classifier.bias, classifier.weight; the module has no head.bias",
    ),
    "another module": (lambda: fresh("Twins"), "record of kept heads is of another"),
    "one of its models": (lambda: fresh("SentencePair").encoder, "record of kept heads is of another"),
    "another activation": (
        lambda: Relu().double(),
        "configuration of encoder .*: hidden_act is 'gelu' there, 'relu' here",
    ),
    "heads of another size": (lambda: FewerHeads().double(), "which had 2 heads"),
    "a gated one": (
        lambda: (m := fresh("SentencePair"), gate_heads(m, FixedGates(torch.ones(8))))[0],
        "is gated: build it without",
    ),
    "a pruned one": (lambda: pruned("SentencePair"), "has been pruned already"),
    "one without values": (lambda: fresh("SentencePair").to("meta"), "on the device `meta`"),
}


@pytest.mark.parametrize("misfit", MISFITS)
def test_a_module_that_does_not_fit_is_refused_and_stays(misfit, folder):
    build, said = MISFITS[misfit]
    module = build()
    before = {name: (value.clone(), value.shape) for name, value in module.state_dict().items()}
    configs = [part.config.to_dict() for part in module.modules() if hasattr(part, "config")]
    with pytest.raises(ValueError, match=said) as caught:
        load_pruned(folder, model=module)
    assert str(folder) in str(caught.value)
    after = module.state_dict()
    assert after.keys() == before.keys() and all(
        after[name].shape == shape for name, (_, shape) in before.items()
    )
    assert all(value.is_meta or torch.equal(value, before[name][0]) for name, value in after.items())
    assert [part.config.to_dict() for part in module.modules() if hasattr(part, "config")] == configs


def test_settings_that_do_not_matter_do_not_stop_it(folder):
    module = load_pruned(folder, model=OtherDropout().double())
    assert torch.equal(outputs(module), outputs(pruned("SentencePair")))


def test_tied_weights(tmp_path):
    save_pruned(pruned("TwoEncoders"), tmp_path / "tied")
    names = load_file(tmp_path / "tied" / "model.safetensors").keys()
    assert len({"head.weight", "same_head.weight"} & names) == 1
    again = load_pruned(tmp_path / "tied", model=fresh("TwoEncoders"))
    assert again.head.weight is again.same_head.weight
    loose = load_pruned(tmp_path / "tied", model=Untied().double())  # the values are those
    assert torch.equal(outputs(loose), outputs(again))
    with torch.no_grad():
        loose.same_head.weight.mul_(2)
    save_pruned(loose, tmp_path / "loose")
    with pytest.raises(
        ValueError, match="other values for same_head.weight than for head.weight, which the module ties"
    ):
        load_pruned(tmp_path / "loose", model=fresh("TwoEncoders"))


def test_the_wrong_kind_of_folder_says_which_call_to_use(folder, tmp_path):
    for call in (load_pruned, load_transformers_model, lambda name: export_dense(name, tmp_path / "out")):
        with pytest.raises(
            ValueError,
            match=r"a user's own \(hf_modules.SentencePair\).*load_pruned\(folder, model=my_module\)",
        ):
            call(folder)
    with pytest.raises(ValueError, match="model_class cannot be given beside `model`"):
        load_pruned(folder, AutoModel, model=fresh("SentencePair"))
    with pytest.raises(ValueError, match="dtype cannot be given beside `model`"):
        load_pruned(folder, model=fresh("SentencePair"), dtype=torch.float64)
    bert = tiny_model("bert")
    prune_heads(bert, torch.arange(8) < 3)
    save_pruned(bert, tmp_path / "bert")
    with pytest.raises(
        ValueError, match=r"saved from a Transformers model.*load_pruned\(folder\), without `model`"
    ):
        load_pruned(tmp_path / "bert", model=fresh("SentencePair"))
    with pytest.raises(ValueError, match="model_class must be a class of Transformers models"):
        load_pruned(tmp_path / "bert", SentencePair)
    with pytest.raises(FileNotFoundError, match="there is no pruned_module.json"):
        load_pruned(tmp_path / "nothing", model=fresh("SentencePair"))
    for model, said in (
        ("SentencePair", "`model` is a str: give `model` as a module"),
        (nn.Linear, "Linear cannot be called without arguments"),
        (lambda: {}, "`model` built a dict"),
    ):
        with pytest.raises(ValueError, match=said):
            load_pruned(folder, model=model)


def test_one_kind_takes_the_place_of_the_other(folder):
    bert = tiny_model("bert")
    prune_heads(bert, torch.arange(8) < 3)
    save_pruned(bert, folder)
    assert record_of(load_pruned(folder)) == record_of(bert) and "pruned_module.json" not in os.listdir(
        folder
    )
    save_pruned(pruned("SentencePair"), folder)
    load_pruned(folder, model=fresh("SentencePair"))
    assert "config.json" not in os.listdir(folder)


def test_a_kill_while_it_is_written_over_another_leaves_one_of_both(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    module, kills = pruned("SentencePair", parity=1), 0
    for _ in killed_everywhere(lambda: save_pruned(module, folder, check=False), every=3):
        kills += 1
        if {path.name: path.read_bytes() for path in folder.iterdir()} != before:
            assert record_of(load_pruned(folder, model=fresh("SentencePair"))) == record_of(module)
    assert kills >= 3 and check_sealed(folder)
    assert torch.equal(outputs(load_pruned(folder, model=fresh("SentencePair"))), outputs(module))


def rewrite(folder, change):
    told = json.loads((folder / "pruned_module.json").read_text())
    change(told)
    (folder / "pruned_module.json").write_text(
        json.dumps({key: value for key, value in told.items() if key != "checksum"})
    )


def drop(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["head.bias"]
    save_file(tensors, folder / "model.safetensors")


DAMAGE = {
    "half the weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-9]),
        "damaged",
    ),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors is missing"),
    "no record": (lambda f: (f / "pruned_module.json").unlink(), "no pruned_module.json"),
    "half the record": (
        lambda f: (f / "pruned_module.json").write_text('{"format": 1'),
        "pruned_module.json is damaged",
    ),
    "a tensor missing": (drop, "it lacks head.bias"),
    "another format": (lambda f: rewrite(f, lambda told: told.update(format=2)), "of a later version"),
    "no heads": (lambda f: rewrite(f, lambda told: told.pop("kept_heads")), "is not the record"),
    "heads of text": (
        lambda f: rewrite(
            f, lambda told: told["kept_heads"].update({"encoder.encoder.layer.0.attention": "12"})
        ),
        "is not the record",
    ),
    "ties to nothing": (
        lambda f: rewrite(f, lambda told: told["tied"].update(more="nowhere")),
        "nowhere, which more is tied to, is",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_folder_is_refused(damage, folder):
    harm, said = DAMAGE[damage]
    harm(folder)
    module = fresh("SentencePair")
    with pytest.raises((ValueError, FileNotFoundError), match="is damaged"):
        load_pruned(folder, model=module)
    (folder / "checksums.json").unlink()
    with pytest.raises((ValueError, FileNotFoundError), match=said) as caught:
        load_pruned(folder, model=module)
    assert str(folder) in str(caught.value) and record_of(module) is None


def test_what_cannot_be_saved_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has not been pruned"):
        save_pruned(own_module("SentencePair"), tmp_path / "x")

    class Odd(SentencePair):
        def get_extra_state(self):
            return {"a": 1}

    odd = Odd().double()
    prune_heads(odd, torch.arange(8) < 5)
    with pytest.raises(ValueError, match="_extra_state of Odd is a dict: only tensors can be saved"):
        save_pruned(odd, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def by_its_size(module, args):
    """Something that goes with the number of heads, and that surgery does not know of."""
    return (args[0] * args[0].shape[-1] ** -0.5,)


@pytest.mark.parametrize("build", [lambda: own_module("SentencePair"), lambda: tiny_model("bert")])
def test_a_last_look_before_it_is_written(build, tmp_path):
    module = build()
    prune_heads(module, torch.arange(8) % 3 != 0)
    encoder = module.encoder if isinstance(module, SentencePair) else module.bert
    hook = encoder.encoder.layer[0].attention.output.dense.register_forward_pre_hook(by_its_size)
    for check in (True, pair_batch() if isinstance(module, SentencePair) else batch_of(module)):
        with pytest.raises(ValueError, match="is not what it is with these heads masked"):
            save_pruned(module, tmp_path / "x", check=check)
        assert not (tmp_path / "x").exists()
    save_pruned(module, tmp_path / "unseen", check=False)
    hook.remove()
    save_pruned(module, tmp_path / "x")
