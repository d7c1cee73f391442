"""`dsp prune` of Transformers folders by heads that were chosen: --mask, --num-of-heads."""

from __future__ import annotations

import json

import pytest
import torch
from hf_models import FAMILIES

from dsp_plugin.cli import main as cli
from dsp_plugin.gating import RelaxedSubset
from dsp_plugin.hf import gate_heads, head_map_of, load_pruned, prune_heads

KEEP = [True, False, True, True, False, False, False, False]


@pytest.fixture
def model():
    torch.manual_seed(0)
    return FAMILIES["bert"]().eval()


def outputs(model):
    ids = torch.arange(5, 17).view(2, 6)
    with torch.no_grad():
        return model(input_ids=ids).logits


def run(*words) -> int:
    return cli.main(["prune", *map(str, words)])


def test_a_mask_is_taken_out_of_a_folder_which_stays_as_it_is(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    (tmp_path / "mask.json").write_text(json.dumps(KEEP))
    assert run(tmp_path / "model", "--mask", tmp_path / "mask.json", "--out", tmp_path / "small") == 0
    shown = capsys.readouterr().out
    assert "3 of 8 heads kept" in shown
    small = load_pruned(tmp_path / "small")
    prune_heads(model, KEEP)
    torch.testing.assert_close(outputs(small), outputs(model))
    assert {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()} == before


def test_a_mask_of_neurons_names_its_units_itself(model, tmp_path, capsys):
    model.save_pretrained(tmp_path / "model")
    head_map = head_map_of(model, neurons=8, heads=False)
    keep = [number % 3 == 0 for number in range(head_map.num_heads)]
    (tmp_path / "mask.json").write_text(json.dumps({**head_map.to_dict(), "keep": keep}))
    assert run(tmp_path / "model", "--mask", tmp_path / "mask.json", "--out", tmp_path / "small") == 0
    prune_heads(model, keep, neurons=8, heads=False)
    torch.testing.assert_close(outputs(load_pruned(tmp_path / "small")), outputs(model))


def test_the_best_heads_of_a_folder_with_scores(model, tmp_path):
    gate_heads(model, RelaxedSubset(head_map_of(model), 4, lambda update: 1.0))
    scores = model.gating.gates.scores
    scores.data.copy_(torch.tensor([3.0, 1.0, 4.0, 1.5, 9.0, 2.0, 6.0, 5.0]))
    model.save_pretrained(tmp_path / "model")
    assert run(tmp_path / "model", "--num-of-heads", 3, "--out", tmp_path / "small") == 0
    blocks = load_pruned(tmp_path / "small").config.kept_heads
    assert sorted(map(sorted, blocks.values())) == [[], [0, 2, 3]]


def test_what_cannot_be_is_refused_by_name(model, tmp_path, capsys):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    for words, said in (
        ([folder, "--out", tmp_path / "small"], "does not say which heads to keep"),
        ([folder, "--num-of-heads", 3, "--out", tmp_path / "small"], "no scores"),
        ([folder, "--mask", tmp_path / "none.json", "--out", tmp_path / "small"], "no such file"),
        ([folder, "--heads-per-kind", "encoder-self=2", "--out", tmp_path / "small"], "fairseq checkpoint"),
        ([folder, "--num-of-heads", 3, "--out", folder], "which would be lost"),
        ([folder, "--num-of-heads", 3, "--shape", "2x2", "--out", tmp_path / "small"], "--target-speedup"),
    ):
        assert run(*words) == 1
        assert said in capsys.readouterr().err, words
    assert not (tmp_path / "small").exists()
