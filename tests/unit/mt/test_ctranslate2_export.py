"""CTranslate2 models: zero heads behind the others, and the scores of the masked model."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("fairseq")
ctranslate2 = pytest.importorskip("ctranslate2", reason="needs ctranslate2: `make venv` installs it")

import tiny_models
from tiny_models import SIZES, TASK, N, build, checkpoint, options

from dsp_plugin.mt.surgery import ctranslate2_export
from dsp_plugin.mt.surgery.ctranslate2_export import even_heads, export_ctranslate2
from dsp_plugin.mt.surgery.equality import masked_model, random_pairs, target_log_probs
from dsp_plugin.mt.surgery.pruning import prepare, remove_heads
from dsp_plugin.records.certificate import ExportError

# encoder blocks keep 1 and 0 heads; the decoder's 3, 1 (cross) and 0, 2 (self)
KEEP = torch.tensor(
    [False, True, False, False] + [True] * 3 + [False, True, False] + [False] * 3 + [True, False, True]
)


@pytest.fixture
def no_data(monkeypatch):
    """The tiny models have no data folder: their dictionaries, and random tokens."""
    pairs = random_pairs(TASK, count=4, longest=6)
    monkeypatch.setattr(ctranslate2_export, "task_and_pairs", lambda *_, **__: (TASK, pairs, "random tokens"))
    return pairs


def source(**changes):
    settings = options(**changes)
    return prepare(checkpoint(build(settings).float(), settings))


def test_every_block_gets_the_heads_of_the_fullest_of_its_stack():
    state, counts = even_heads(remove_heads(source(), KEEP))
    assert counts == {"encoder": {"num_heads": 1, "head_dim": 8}, "decoder": {"num_heads": 3, "head_dim": 4}}
    for name, tensor in state["model"].items():
        if name.endswith("out_proj.weight"):
            assert tensor.shape[1] == (8 if name.startswith("encoder") else 12), name
    second = "decoder.layers.1.encoder_attn."
    assert state["model"][second + "q_proj.weight"][:4].abs().min() > 0
    assert (
        not state["model"][second + "q_proj.weight"][4:].any()
        and not state["model"][second + "v_proj.bias"][4:].any()
    )


@pytest.mark.parametrize(
    "keep, changes",
    [
        (KEEP, {}),
        (torch.zeros(N, dtype=torch.bool), {}),
        (torch.ones(N, dtype=torch.bool), {}),
        (KEEP, {"encoder_normalize_before": True, "decoder_normalize_before": True, "activation_fn": "gelu"}),
        (KEEP, {"encoder_learned_pos": True, "decoder_learned_pos": True, "layernorm_embedding": True}),
        (KEEP, {"encoder_normalize_before": True}),
    ],
    ids=["uneven", "none", "all", "pre-norm", "learned-positions", "only-encoder-pre-norm"],
)
def test_it_scores_as_the_masked_model(keep, changes, no_data, tmp_path):
    model = source(**changes)
    _, certificate = export_ctranslate2(model, keep, str(tmp_path / "out"))
    assert certificate.largest_difference < 1e-4 < certificate.largest_output
    assert certificate.tokens == sum(len(pair.target) for pair in no_data) and certificate.sequences == len(
        no_data
    )
    written = json.loads((tmp_path / "out/certificate.json").read_text())
    assert written["equal"] is True and list(written["sha256"]) == ["model.bin"]
    assert written["extra"]["stacks"]["encoder"]["head_dim"] == 8
    assert 0 <= written["extra"]["translations"]["same"] <= len(no_data)


@pytest.mark.parametrize("groups", [(), (0, 3, 4, 5, 6, 12, 19), range(20)], ids=["none", "uneven", "all"])
def test_groups_of_neurons(groups, no_data, tmp_path):
    """Layers of different widths, and one without any neuron, whose place a group of zeros takes."""
    plain = prepare(checkpoint(build(options()).float(), options()), neurons=4)
    keep = torch.cat([KEEP, torch.tensor([number in groups for number in range(20)])])
    _, certificate = export_ctranslate2(plain, keep, str(tmp_path / "out"))
    assert certificate.largest_difference < 1e-4 < certificate.largest_output
    state, counts = even_heads(remove_heads(plain, keep))
    assert counts == even_heads(remove_heads(source(), KEEP))[1]
    for side, first in (("encoder", 0), ("decoder", 10)):
        for layer in range(2):
            left = [n for n in groups if first + 5 * layer <= n < first + 5 * layer + 5]
            weight = state["model"][f"{side}.layers.{layer}.fc2.weight"]
            assert weight.shape[1] == 4 * max(1, len(left)) and weight.any() == bool(left)


def test_the_scores_depend_on_the_mask(no_data):
    """Else the comparison above could not tell one mask from another."""
    one, two = (
        torch.cat(target_log_probs(masked_model(source(), keep, TASK), TASK, no_data))
        for keep in (KEEP, ~KEEP)
    )
    assert (one - two).abs().max() > 0.1


def test_other_scores_are_noticed(no_data, tmp_path, monkeypatch):
    wrong = ctranslate2_export.even_heads

    def spoiled(pruned):
        state, counts = wrong(pruned)
        state["model"]["encoder.layers.0.fc2.bias"] = (
            state["model"]["encoder.layers.0.fc2.bias"] + torch.arange(16) / 8
        )
        return state, counts

    monkeypatch.setattr(ctranslate2_export, "even_heads", spoiled)
    with pytest.raises(ExportError, match="nothing was written"):
        export_ctranslate2(source(), KEEP, str(tmp_path / "out"))
    assert list(tmp_path.iterdir()) == []


def test_what_ctranslate2_has_not_is_refused_by_name(no_data, tmp_path):
    with pytest.raises(ValueError, match="CTranslate2 has no model with --no-token-positional-embeddings"):
        export_ctranslate2(source(no_token_positional_embeddings=True), KEEP, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_dictionary_of_other_data(no_data, tmp_path, monkeypatch):
    model = source()
    monkeypatch.setattr(tiny_models.TASK, "source_dictionary", tiny_models.dictionary())
    tiny_models.TASK.source_dictionary.add_symbol("one-more")
    with pytest.raises(ValueError, match=f"the encoder's dictionary has {len(TASK.source_dictionary)} words"):
        export_ctranslate2(model, KEEP, str(tmp_path / "out"))


def test_sizes_are_what_the_comments_say():
    assert (SIZES["encoder_attention_heads"], SIZES["decoder_attention_heads"]) == (2, 3) and len(KEEP) == N
