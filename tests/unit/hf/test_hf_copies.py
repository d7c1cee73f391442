"""Copies of gated and of pruned models, and of parts of them: each is whole, and does not touch what it
was copied from.
"""

from __future__ import annotations

import copy
import io
import pickle
from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers")
from hf_modules import (  # first: see hf_models  isort: skip
    MODULES,
    outputs,
    own_module,
    pair_batch,
    printed_afresh,
)
from hf_models import FAMILIES, batch_of, logits, tiny_model, uneven_mask

from dsp_plugin.gating import FixedGates, RelaxedSubset, constant_temperature
from dsp_plugin.hf import (
    count_parameters,
    fill_heads,
    gate_heads,
    head_map_of,
    prune_heads,
    record_of,
    save_pruned,
    switchboard_of,
    ungate_heads,
)
from dsp_plugin.hf.heads.gating import boards_of

ROOT = Path(__file__).resolve().parents[3]


def by_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


WAYS = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": by_torch,
}
OF_ALL = [*FAMILIES, *MODULES]


def build(name):
    return own_module(name) if name in MODULES else tiny_model(name)


def run(model, name):
    with torch.no_grad():
        return outputs(model) if name in MODULES else logits(model, batch_of(model))


def mask_of(model):
    heads = head_map_of(model)
    return uneven_mask(heads.num_heads, [block.num_heads for block in heads.blocks])


def gated(name):
    model = build(name)
    gate_heads(model, FixedGates(mask_of(model)))
    return model


def pruned(name):
    model = build(name)
    prune_heads(model, mask_of(model))
    return model


def both(name):
    """Pruned, and of what is left some are closed by gates."""
    model = build(name)
    prune_heads(model, torch.arange(head_map_of(model).num_heads) % 4 != 1)
    gate_heads(model, FixedGates(torch.arange(head_map_of(model).num_heads) % 3 != 0))
    return model


STATES = {"gated": gated, "pruned": pruned, "both": both}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", OF_ALL)
def test_a_copy_is_whole_and_its_own(name, state, way):
    model = STATES[state](name)
    expected = run(model, name)
    twin = WAYS[way](model)
    assert torch.equal(run(twin, name), expected) and record_of(twin) == record_of(model)
    assert not {id(part) for part in twin.modules()} & {id(part) for part in model.modules()}
    if state == "pruned":
        fill_heads(twin)
        torch.testing.assert_close(run(twin, name), expected, rtol=1e-4, atol=1e-4)
    else:
        board = switchboard_of(twin)
        assert board is not switchboard_of(model) and boards_of(twin) == {board: "gating"}
        with torch.no_grad():
            board.gates.mask.fill_(False)
        twin.eval()
        assert not torch.equal(run(twin, name), expected)
        ungate_heads(twin)
        assert not boards_of(twin)
    assert torch.equal(run(model, name), expected), "the original has changed"


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_made_in_training_trains_and_prunes(way):
    model = tiny_model("bert", dtype=torch.float32)
    gate_heads(model, RelaxedSubset(head_map_of(model), 3, constant_temperature(1.0)))
    batch = {**batch_of(model), "labels": torch.tensor([0, 1, 0])}
    model.train()(**batch).loss.backward()
    twin = WAYS[way](model)
    twin.zero_grad()
    theirs = [weight.grad.clone() for weight in model.parameters()]
    twin(**batch).loss.backward()
    scores = switchboard_of(twin).gates.scores
    assert scores.grad.abs().max() > 0 and scores is not switchboard_of(model).gates.scores
    assert all(torch.equal(weight.grad, grad) for weight, grad in zip(model.parameters(), theirs))
    prune_heads(twin, [True, False] * 4)
    assert record_of(model) is None and switchboard_of(model) is not None
    assert count_parameters(twin) < count_parameters(model)


def test_a_shallow_copy_is_the_same_model():
    """`copy.copy` shares all modules: it sees the gates, and what is taken from one is taken from both."""
    model = gated("bert")
    twin = copy.copy(model)
    assert torch.equal(run(twin, "bert"), run(model, "bert")) and switchboard_of(twin) is switchboard_of(
        model
    )
    small = pruned("bert")
    assert torch.equal(run(copy.copy(small), "bert"), run(small, "bert")) and record_of(
        copy.copy(small)
    ) == record_of(small)


PARTS = {
    "base model": lambda model: model.bert,
    "encoder": lambda model: model.bert.encoder,
    "layer": lambda model: model.bert.encoder.layer[0],
    "attention": lambda model: model.bert.encoder.layer[0].attention,
}


def run_part(part, which):
    with torch.no_grad():
        if which == "base model":
            return part(**batch_of(part)).last_hidden_state
        found = part(torch.linspace(-1, 1, 2 * 4 * 32, dtype=torch.float64).view(2, 4, 32))
        return found[0] if isinstance(found, tuple) or hasattr(found, "last_hidden_state") else found


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("which", PARTS)
def test_a_copy_of_a_part(which, state, way):
    """It keeps the gates it had, from a switchboard of its own, in training, too."""
    model = STATES[state]("bert")
    part = PARTS[which](model)
    expected, whole = run_part(part, which), run(model, "bert")
    twin = WAYS[way](part)
    assert torch.equal(run_part(twin, which), expected)
    if state != "pruned":
        (board,) = boards_of(twin)
        assert board is not switchboard_of(model)
        twin.train()
        run_part(twin, which)
        twin.eval()
        ungate_heads(twin)
        assert not torch.equal(run_part(twin, which), expected)
    assert torch.equal(run(model, "bert"), whole)


def test_a_copy_of_the_base_model_is_pruned_by_its_gates_and_saved(tmp_path):
    model = gated("bert")
    expected = run_part(model.bert, "base model")
    base = copy.deepcopy(model.bert)
    assert prune_heads(base).heads_after == int(mask_of(model).sum())
    torch.testing.assert_close(run_part(base, "base model"), expected)
    save_pruned(base, tmp_path / "base")
    assert switchboard_of(model) is not None and torch.equal(run_part(model.bert, "base model"), expected)


def test_a_fresh_process_reads_a_pickle(tmp_path):
    names = ["bert", "t5", "gpt2", "TwoEncoders"]
    saved = {(name, state): STATES[state](name) for name in names for state in STATES}
    batches = {name: pair_batch() if name in MODULES else batch_of(saved[name, "pruned"]) for name in names}
    expected = {key: run(model, key[0]) for key, model in saved.items()}
    torch.save((saved, batches, expected), tmp_path / "models.pt")
    program = (
        "import sys, torch\n"
        "from hf_modules import outputs\n"
        "from hf_models import logits\n"
        "saved, batches, expected = torch.load(sys.argv[1], weights_only=False)\n"
        "for (name, state), model in saved.items():\n"
        "    run = outputs if name[0].isupper() else logits\n"
        "    with torch.no_grad():\n"
        "        print(float((run(model, batches[name]) - expected[name, state]).abs().max()))\n"
    )
    differences = list(map(float, printed_afresh(program, tmp_path / "models.pt")))
    assert len(differences) == len(saved) and max(differences) <= 1e-10


def test_models_that_shared_a_configuration_are_saved_and_loaded_apart(tmp_path):
    """One is pruned or gated, the other one is saved as a stock model."""
    small = tiny_model("bert")
    other = type(small)(small.config).double().eval()
    expected = run(other, "bert")
    gate_heads(small, FixedGates(mask_of(small)))
    other.save_pretrained(tmp_path / "beside-gates")
    prune_heads(small)
    other.save_pretrained(tmp_path / "beside-pruned")
    for folder in ("beside-gates", "beside-pruned"):
        again = type(other).from_pretrained(tmp_path / folder, dtype=torch.float64).eval()
        assert torch.equal(run(again, "bert"), expected) and not hasattr(again.config, "kept_heads")
    assert head_map_of(other).num_heads == 8 and head_map_of(small).num_heads == int(mask_of(other).sum())
    save_pruned(small, tmp_path / "small")
    with pytest.raises(ValueError, match="has not been pruned"):
        save_pruned(other, tmp_path / "other")
