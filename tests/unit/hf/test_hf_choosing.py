"""Choosing units of a Transformers model: scores against single backward passes, factors, smaller copies."""

from __future__ import annotations

import pytest
import torch
from hf_models import FAMILIES

from dsp_plugin.choosing import rescaling_factors
from dsp_plugin.gating import FixedGates
from dsp_plugin.hf import gate_heads, head_map_of, record_of, switchboard_of, ungate_heads
from dsp_plugin.hf.heads.choosing.host import count_bytes, host_of
from dsp_plugin.hf.heads.choosing.smaller import without_units
from dsp_plugin.hf.heads.choosing.worth import fisher_of, grams_of
from dsp_plugin.hf.heads.units import units_of

NEURONS = 8
LENGTHS = (7, 4, 9, 5, 6)


def model_of(family: str):
    torch.manual_seed(0)
    model = FAMILIES[family]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)  # so that units matter
    return model


@pytest.fixture
def bert():
    return model_of("bert")


def dataset():
    generator = torch.Generator().manual_seed(1)
    rows = []
    for number, length in enumerate(LENGTHS):
        ids = torch.randint(3, 40, (length,), generator=generator).tolist()
        rows.append({"input_ids": ids, "labels": number % 2})
    return rows


def collate(rows):
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.ones(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        count = len(row["input_ids"])
        ids[place, :count], mask[place, :count] = torch.tensor(row["input_ids"]), 1
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def test_fisher_scores_are_those_of_one_backward_pass_an_example(bert):
    data = dataset()
    found = fisher_of(bert, data, collate, range(5), batch_size=2, neurons=NEURONS)
    assert switchboard_of(bert) is None and not bert.training

    gates = FixedGates(torch.ones(found.head_map.num_heads))
    board = gate_heads(bert, gates, neurons=NEURONS)
    rows = []
    for row in data:
        one = torch.ones(1, found.head_map.num_heads, requires_grad=True)
        with board.override(one):
            bert(**collate([row])).loss.backward()
        rows.append(one.grad[0].double())
    ungate_heads(bert)
    gradients = torch.stack(rows)
    torch.testing.assert_close(found.value(), gradients.square().mean(0), rtol=1e-3, atol=1e-9)
    for block, part in zip(found.blocks(), found.head_map.split(gradients)):
        torch.testing.assert_close(block, part.t() @ part / 5, rtol=1e-3, atol=1e-9)


def test_shares_are_summed_over_positions_that_are_no_padding(bert):
    data = dataset()
    found = grams_of(bert, data, collate, range(5), batch_size=5, neurons=NEURONS)
    seen = {}
    handles = [
        one.output.module.register_forward_pre_hook(
            lambda module, args, name=one.block.name: seen.setdefault(name, []).append(args[0])
        )
        for one in units_of(bert, NEURONS)
    ]
    with torch.no_grad():
        for row in data:  # one by one: no padding at all
            bert(**collate([row]))
    for handle in handles:
        handle.remove()
    for one, gram in zip(units_of(bert, NEURONS), found):
        inputs = torch.cat([part.flatten(0, -2) for part in seen[one.block.name]])
        weight, size = one.output.module.weight, one.output.unit
        shares = torch.stack(
            [
                inputs[:, size * u : size * (u + 1)] @ weight[:, size * u : size * (u + 1)].t()
                for u in range(one.block.num_heads)
            ]
        ).flatten(1)  # [h, positions * C]
        torch.testing.assert_close(gram, (shares @ shares.t()).double(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "bart"])
def test_factors_lie_in_the_weights_and_the_rest_is_gone(family):
    model = model_of(family)
    head_map = head_map_of(model, NEURONS)
    generator = torch.Generator().manual_seed(2)
    keep = torch.rand(head_map.num_heads, generator=generator) < 0.6
    factors = []
    for position, flags in enumerate(head_map.split(keep)):
        drawn = torch.rand(int(flags.sum()), generator=generator, dtype=torch.float64) + 0.5
        factors.append(None if position == 1 else drawn)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    small = without_units(model, keep, factors, NEURONS)

    gates = torch.zeros(head_map.num_heads)
    for (start, stop), flags, scales in zip(
        (head_map.range(block.name) for block in head_map.blocks), head_map.split(keep), factors
    ):
        gates[start:stop][flags] = 1.0 if scales is None else scales.float()
    assert {name: weight for name, weight in model.state_dict().items()}.keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert record_of(model) is None and record_of(small) is not None
    inputs = {"input_ids": torch.arange(3, 15).view(2, 6)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = torch.arange(4, 14).view(2, 5)
    board = gate_heads(model, FixedGates(torch.ones(head_map.num_heads)), neurons=NEURONS)
    with torch.no_grad(), board.override(gates):
        expected = model(**inputs).logits
    with torch.no_grad():
        torch.testing.assert_close(small(**inputs).logits, expected, rtol=1e-3, atol=1e-3)


def test_rescaled_blocks_come_nearer_to_the_whole_model(bert):
    data = dataset()
    grams = grams_of(bert, data, collate, range(5), heads=False, neurons=NEURONS)
    head_map = head_map_of(bert, NEURONS, heads=False)
    keep = torch.tensor([number % 5 != 2 for number in range(head_map.num_heads)])
    factors = [rescaling_factors(gram, flags) for gram, flags in zip(grams, head_map.split(keep))]
    assert factors[0] is not None

    def first_output(model):
        outputs = []
        layer = model.bert.encoder.layer[0].output.dense
        handle = layer.register_forward_hook(lambda *args: outputs.append(args[2]))
        with torch.no_grad():
            for row in data:
                model(**collate([row]))
        handle.remove()
        return torch.cat([part.flatten(0, 1) for part in outputs])

    options = dict(neurons=NEURONS, heads=False)
    plain, scaled = (without_units(bert, keep, some, **options) for some in (None, factors))
    target = first_output(bert)
    errors = [float((first_output(model) - target).square().sum()) for model in (plain, scaled)]
    assert errors[1] < errors[0]


def test_counts_of_a_host_follow_what_is_left(bert):
    host = host_of(bert, (2, 8), NEURONS)
    none = torch.zeros(host.head_map.num_heads, dtype=torch.bool)
    small = host.without(none, None)
    parameters = sum(weight.numel() for weight in small.parameters())
    assert host.counts["parameters"](small) == parameters and count_bytes(small) == 4 * parameters
    # 2 x 8 tokens: queries, keys, values and output, up and down, in 2 layers; scores and context
    blocks = 2 * (2 * 8 * (4 * 32 * 32 + 2 * 32 * 40) + 2 * 2 * 4 * 8 * 8 * 8)
    assert host.counts["macs"](bert) - host.counts["macs"](small) == blocks


def test_a_shape_that_the_model_does_not_take_is_refused(bert):
    with pytest.raises(ValueError, match="shape 2x64: the model has positions for 40 tokens"):
        host_of(bert, (2, 64))
