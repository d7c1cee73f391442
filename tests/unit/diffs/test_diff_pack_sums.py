"""Overlap and sums of packs, against dense vectors."""

from __future__ import annotations

import math

import pytest
import torch
from diff_packs import SmallModel, random_pack

from dsp_plugin.diffs.packs.arithmetic import add_packs, overlap
from dsp_plugin.diffs.packs.pack import DiffPack


@pytest.fixture(scope="module")
def packs() -> list:
    model = SmallModel()
    return [random_pack(model, seed, density=density) for seed, density in ((1, 0.2), (2, 0.1), (3, 0.3))]


def dense(pack: DiffPack, name: str) -> torch.Tensor:
    full = torch.zeros(pack.diff.size(name), dtype=torch.float64)
    positions, values = pack.diff.entries.get(name, (torch.zeros(0, dtype=torch.int64), torch.zeros(0)))
    full[positions] = values.double()
    return full


def vector(pack: DiffPack, prefix: str = "") -> torch.Tensor:
    return torch.cat([dense(pack, name) for name in pack.base.parameters if name.startswith(prefix)])


@pytest.mark.parametrize("layer", ["", "body.0", "body.1"])
def test_overlap(packs, layer):
    whole, layers = overlap(packs[0], packs[1])
    found = layers[layer] if layer else whole
    a, b = (vector(pack, layer and layer + ".") for pack in packs[:2])
    both = (a != 0) & (b != 0)
    assert (found.first, found.second, found.both) == (a.count_nonzero(), b.count_nonzero(), both.sum())
    assert found.jaccard == pytest.approx(both.sum().item() / ((a != 0) | (b != 0)).sum().item())
    assert found.cosine == pytest.approx(torch.cosine_similarity(a, b, dim=0).item())
    assert found.same_sign == pytest.approx((a.sign() == b.sign())[both].double().mean().item())
    assert 0.5 * found.expected < found.both < 2 * found.expected


def test_a_pack_and_itself(packs):
    whole, layers = overlap(packs[2], packs[2])
    assert whole.jaccard == whole.same_sign == 1 and whole.cosine == pytest.approx(1)
    assert set(layers) == {"body", "body.0", "body.1"}


def test_packs_without_a_common_position(packs):
    base = packs[0].base
    ends = []
    for place in (0, 5):
        diff = random_pack(SmallModel(), 1).diff
        diff.entries = {"body.norm.bias": (torch.tensor([place]), torch.ones(1))}
        ends.append(DiffPack.create(diff, base))
    whole, layers = overlap(*ends)
    assert whole.jaccard == whole.cosine == 0 and math.isnan(whole.same_sign)
    assert math.isnan(layers["body.0"].jaccard) and math.isnan(layers["body.0"].cosine)


def test_sum(packs):
    weights = [1.0, -0.5, 2.0]
    total = add_packs(packs, weights, task_head=1)
    expected = sum(weight * vector(pack) for weight, pack in zip(weights, packs))
    assert torch.equal(vector(total), expected.float().double())
    union = sum((vector(pack) != 0).double() for pack in packs) > 0
    assert total.count == int(union.sum()), "a position stays where the sum is 0"
    assert torch.equal(total.task_head["classifier.weight"], packs[1].task_head["classifier.weight"])
    assert [part["config"]["task"] for part in total.config["sum_of"]] == [1, 2, 3]
    assert total.base == packs[0].base


def test_a_pack_minus_itself_changes_nothing(packs):
    assert add_packs([packs[0], packs[0]], [1, -1], task_head=0).nonzeros == 0


def other_base() -> DiffPack:
    model = SmallModel()
    with torch.no_grad():
        model.body["0"].bias[0] += 1
    return random_pack(model, 1)


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (lambda packs: ([],), "no packs"),
        (lambda packs: (packs, [1, 2]), "3 packs need as many weights, not 2"),
        (lambda packs: (packs,), "choose one by task_head=0 .. 2"),
        (lambda packs: (packs, None, 3), "head must be 0 .. 2, got 3"),
        (lambda packs: ([packs[0], other_base()], None, 0), "different bases: pack 1 .* pack 2"),
    ],
)
def test_what_cannot_be_added(packs, arguments, reason):
    with pytest.raises(ValueError, match=reason):
        add_packs(*arguments(packs))


def test_packs_of_different_bases_are_not_compared(packs):
    with pytest.raises(ValueError, match="different bases"):
        overlap(packs[0], other_base())
