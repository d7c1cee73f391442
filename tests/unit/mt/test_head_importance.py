"""Importance of a fairseq model's heads, against finite differences of every example's own gates."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("fairseq")

import tiny_models
from fairseq.data import LanguagePairDataset, ListDataset
from tiny_models import N

from dsp_plugin.gating import FixedGates, RelaxedSubset, ScoreRate, constant_temperature, normalised
from dsp_plugin.mt.heads.gated_transformer import attention_blocks, head_map_of
from dsp_plugin.mt.heads.importance import SentenceRanking, batches_of, gating_of, head_importance, magnitudes

TASK = SimpleNamespace(max_positions=lambda: (1024, 1024))
EPS = 1e-5


@pytest.fixture(scope="module")
def dataset():
    """7 pairs of 2 to 8 words, all ending with the end mark."""
    generator = torch.Generator().manual_seed(2)
    sides = []
    for _ in range(2):
        lengths = torch.randint(2, 9, (7,), generator=generator).tolist()
        sides.append(
            [torch.cat([torch.randint(4, 15, (n,), generator=generator), torch.tensor([2])]) for n in lengths]
        )
    words = tiny_models.dictionary()
    lists = [ListDataset(side, [len(line) for line in side]) for side in sides]
    return LanguagePairDataset(
        lists[0], lists[0].sizes, words, lists[1], lists[1].sizes, words, shuffle=False
    )


@pytest.fixture
def model():
    return tiny_models.build(tiny_models.options(dropout=0.3, attention_dropout=0.3))


@torch.no_grad()
def loss_of_one(model, dataset, number: int, gates: torch.Tensor) -> float:
    """-log P(reference) of one sentence pair, alone, with these gates [N]."""
    sample = dataset.collater([dataset[number]])
    with gating_of(model) as board, board.override(gates):
        logits = model(**sample["net_input"])[0][0]
    log_probs = logits - logits.exp().sum(-1, keepdim=True).log()
    return -sum(float(log_probs[t, word]) for t, word in enumerate(sample["target"][0].tolist()))


def differences(model, dataset, mask=None) -> torch.Tensor:
    """Central differences of each example's loss by each gate: [examples, N]."""
    start = torch.ones(N, dtype=torch.float64) if mask is None else mask.double()
    found = torch.zeros(len(dataset), N, dtype=torch.float64)
    for number in range(len(dataset)):
        for head in range(N):
            step = torch.zeros_like(start)
            step[head] = EPS
            up, down = (loss_of_one(model, dataset, number, start + sign * step) for sign in (1, -1))
            found[number, head] = (up - down) / (2 * EPS)
    return found


def tokens(dataset) -> int:
    return sum(len(dataset[i]["target"]) for i in range(len(dataset)))


@pytest.mark.parametrize("batch_size", [1, 3, 7])
def test_importance_is_the_mean_absolute_derivative_of_every_example(model, dataset, batch_size):
    model.train()
    found = head_importance(
        model, dataset, batches_of(dataset, TASK, SentenceRanking(batch_size=batch_size)), log_format="none"
    )
    assert model.training  # as it was, though dropout was off meanwhile
    expected = differences(model.eval(), dataset)
    torch.testing.assert_close(found.value(), expected.abs().sum(0) / tokens(dataset), rtol=1e-6, atol=1e-9)
    assert found.examples == 7 and found.tokens == tokens(dataset)
    # the sign matters: examples would cancel
    assert (expected.sum(0).abs() < 0.9 * expected.abs().sum(0)).any()


def test_importance_by_batch_is_another_figure(model, dataset):
    batches = batches_of(dataset, TASK, SentenceRanking(batch_size=3))
    found = head_importance(model, dataset, batches, per_batch=True, log_format="none").value()
    by_example = differences(model, dataset)
    expected = sum(by_example[batch].sum(0).abs() for batch in batches) / tokens(dataset)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)
    each = head_importance(model, dataset, batches, log_format="none").value()
    assert (found < each - 1e-4).any() and (found <= each + 1e-12).all()


def test_importance_under_a_mask(model, dataset):
    keep = torch.arange(N) % 3 != 1
    batches = batches_of(dataset, TASK, SentenceRanking())
    found = head_importance(model, dataset, batches, keep, log_format="none").value()
    expected = differences(model, dataset, keep).abs().sum(0) / tokens(dataset)
    torch.testing.assert_close(found[keep], expected[keep], rtol=1e-6, atol=1e-9)
    unmasked = head_importance(model, dataset, batches, log_format="none").value()
    assert not torch.allclose(found[keep], unmasked[keep], rtol=1e-2)


def test_gates_of_the_model_play_no_part(model, dataset):
    batches = batches_of(dataset, TASK, SentenceRanking())
    expected = head_importance(model, dataset, batches, log_format="none").value()
    # none were left behind
    assert all(block.read_gates is None for block in attention_blocks(model).values())
    heads = head_map_of(model)
    for gates in (FixedGates(torch.arange(N) < 3), RelaxedSubset(heads, 4, constant_temperature(1.0))):
        twin = tiny_models.build(tiny_models.options())
        twin.add_gates(gates, rate=ScoreRate(0.1), joint=False)
        twin.train()
        assert torch.equal(head_importance(twin, dataset, batches, log_format="none").value(), expected)


def test_every_sentence_once_and_no_batch_too_large(dataset):
    batches = batches_of(dataset, TASK, SentenceRanking(max_tokens=20))
    assert sorted(int(i) for batch in batches for i in batch) == list(range(7)) and len(batches) > 1
    assert all(len(batch) * max(dataset.num_tokens(int(i)) for i in batch) <= 20 for batch in batches)


def test_a_sample_is_drawn_by_the_seed(dataset):
    def chosen(**options):
        return sorted(
            int(i) for batch in batches_of(dataset, TASK, SentenceRanking(**options)) for i in batch
        )

    assert chosen(samples=3, seed=1) == chosen(samples=3, seed=1) != chosen(samples=3, seed=4)
    assert len(set(chosen(samples=3))) == 3 and chosen(samples=50) == list(range(7))


def test_rankings(model, dataset):
    keep = torch.arange(N) != 5
    found = SentenceRanking(batch_size=2).source(model, dataset, TASK, log_format="none")(keep)
    raw = head_importance(
        model, dataset, batches_of(dataset, TASK, SentenceRanking()), keep, log_format="none"
    ).value()
    torch.testing.assert_close(found, normalised(raw, head_map_of(model), keep))
    by_weight = SentenceRanking("magnitude").source(model, None, None)(keep)
    # heads of size 4; the third block but one of 4, 6, 6
    block = attention_blocks(model)["decoder.layers.1.encoder_attn"]
    start = head_map_of(model).range("decoder.layers.1.encoder_attn")[0]
    own = [getattr(block, f"{name}_proj").weight[4:8].flatten() for name in "qkv"] + [
        block.out_proj.weight[:, 4:8].flatten()
    ]
    assert float(by_weight[start + 1]) == pytest.approx(float(torch.cat(own).detach().norm()))
    assert torch.equal(by_weight, magnitudes(model)) and by_weight.shape == (N,)


@pytest.mark.parametrize(
    "bad, message", [({"rank_by": "luck"}, "rank_by"), ({"samples": 0}, "importance_samples")]
)
def test_rankings_that_cannot_be(bad, message):
    with pytest.raises(ValueError, match=message):
        SentenceRanking(**bad).check()
