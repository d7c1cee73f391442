"""Confidences of heads on Transformers, against attention maps; and a training that reopens gates by them."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip
from hf_data import arguments, padded, sentences, trainer
from hf_training import gated

from dsp_plugin.gating import AlmostSureGates, ConcreteGates, HandshakeError, Rounds
from dsp_plugin.gating.methods.almost_sure import thousandfold
from dsp_plugin.hf import gate_heads, head_map_of, switchboard_of
from dsp_plugin.hf.heads.confidence import HeadConfidence
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers, training_steps

DATA = sentences(12)
NAMES = {
    "bert": {"encoder-self": "attentions"},
    "llama": {"decoder-self": "attentions"},
    "bart": {
        "encoder-self": "encoder_attentions",
        "decoder-cross": "cross_attentions",
        "decoder-self": "decoder_attentions",
    },
}


def rows_of(family: str) -> list[dict]:
    return [{**row, "labels": row["input_ids"]} for row in DATA] if family != "bert" else DATA


def by_hand(model, family: str, rows) -> torch.Tensor:
    """From the maps that eager attention returns, one example, without padding, at a time."""
    sums: dict[str, list] = {}
    for row in rows:
        with torch.no_grad():
            output = model(**padded([row]), output_attentions=True)
        for kind, name in NAMES[family].items():
            for layer, maps in enumerate(output[name]):
                sums.setdefault((kind, layer), []).append(maps[0].double().amax(-1))  # [H, L]
    blocks, seen = head_map_of(model).blocks, dict.fromkeys(NAMES[family], 0)
    found = []
    for block in blocks:
        largest = torch.cat(sums[block.kind, seen[block.kind]], 1).mean(1)
        seen[block.kind] += 1
        found.append(largest.view(block.num_heads, -1).mean(1))
    return torch.cat(found)


@pytest.mark.parametrize("family", NAMES)
def test_they_are_the_mean_largest_weights_whatever_the_padding_and_the_implementation(family):
    model, rows = tiny_model(family, dtype=torch.float32), rows_of(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("query", "key", "q_proj", "k_proj")):
                parameter.mul_(5.0)
    eager = copy.deepcopy(model).eval()
    eager.set_attn_implementation("eager")
    expected = by_hand(eager, family, rows)
    heads = head_map_of(model)
    gate_heads(model, ConcreteGates(heads, 3, 0.1, Rounds("reopen", 2)))
    with torch.no_grad():
        switchboard_of(model).gates.scores.fill_(5.0)
    model.train()
    state, names = torch.get_rng_state(), [model.config._attn_implementation]
    found = HeadConfidence(model, rows, padded, batch_size=5, samples=len(rows))()
    assert torch.equal(torch.get_rng_state(), state) and model.training
    assert names == [model.config._attn_implementation]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert float(expected.max() - expected.min()) > 0.01


def test_closed_heads_have_theirs_too():
    model = tiny_model("bert", dtype=torch.float32)
    heads = head_map_of(model)
    gate_heads(model, ConcreteGates(heads, 3, 0.1, Rounds("reopen", 2)))
    with torch.no_grad():
        switchboard_of(model).gates.scores.fill_(-5.0)
    assert float(HeadConfidence(model, DATA, padded, batch_size=4)().min()) > 0


def run(folder, confidence: bool, scores: float = -7.0):
    model = gated(
        lambda heads: AlmostSureGates(heads, 3, thousandfold(9), Rounds("reopen"), concentration=3000.0)
    )
    board = switchboard_of(model)
    with torch.no_grad():
        board.gates.scores.fill_(scores)
    args = arguments(folder, max_steps=5, per_device_train_batch_size=4)
    optimizers = pruning_optimizers(model, args, training_steps(args, len(DATA)), 1e-3, True)
    measured = HeadConfidence(model, DATA, padded, batch_size=4) if confidence else None
    trainer(model, args, DATA, [HeadGatesCallback(model, confidence=measured)], optimizers).train()
    return board.gates


def test_an_epoch_is_a_round_after_which_closed_gates_open_again(tmp_path):
    gates = run(tmp_path, True)
    assert gates.rounds.length == 3  # 12 examples by 4
    opened = gates.scores > 0
    assert 0 < int(opened.sum())  # the most confident has a chance of 1
    assert torch.allclose(gates.scores[opened], torch.tensor(5.0), atol=0.02)
    assert torch.allclose(gates.scores[~opened], torch.tensor(-5.0), atol=0.02)


def test_without_anybody_to_measure_confidences_it_is_refused(tmp_path):
    with pytest.raises(HandshakeError, match="nobody has measured"):
        run(tmp_path, False)
