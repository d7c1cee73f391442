"""Choosing units of a fairseq model: scores against single backward passes, shares, factors."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fairseq")

import tiny_models as tiny

from dsp_plugin.mt.choosing.choosable import choosable
from dsp_plugin.mt.choosing.host import count_bytes, count_parameters, host_of
from dsp_plugin.mt.choosing.worth import fisher_of, grams_of
from dsp_plugin.mt.heads.gated_transformer import gated_blocks, head_map_of
from dsp_plugin.mt.heads.importance import gating_of
from dsp_plugin.mt.programs.pruning.job import joined
from dsp_plugin.mt.surgery.fewer_heads import model_without
from dsp_plugin.options.errors import OptionError

GROUP = 4
PAD, EOS = 1, 2


class Sentences:
    """Pairs of sentences as a fairseq data set gives them: padded on the left, and on the right."""

    lengths = ((5, 4), (3, 6), (6, 2))

    def __getitem__(self, number: int):
        source, target = self.lengths[number]
        generator = torch.Generator().manual_seed(int(number))
        return [torch.randint(4, 15, (length,), generator=generator) for length in (source, target)]

    def collater(self, rows):
        sources, targets = zip(*rows)
        width, height = max(map(len, sources)), max(map(len, targets))
        source, target = torch.full((len(rows), width), PAD), torch.full((len(rows), height), PAD)
        before = target.clone()
        for place, (one, two) in enumerate(rows):
            source[place, width - len(one) :] = one
            target[place, : len(two)] = two
            before[place, : len(two)] = torch.cat([torch.tensor([EOS]), two[:-1]])
        lengths = torch.tensor([len(one) for one in sources])
        inputs = {"src_tokens": source, "src_lengths": lengths, "prev_output_tokens": before}
        return {"net_input": inputs, "target": target, "ntokens": int((target != PAD).sum())}


DATA, BATCHES = Sentences(), [[0, 1], [2]]


def units_of(neurons=GROUP, heads=True):
    return choosable(tiny.checkpoint(tiny.build(tiny.options()), tiny.options()), neurons, heads)


def whole(units):
    everything = torch.ones(units.source.head_map.num_heads, dtype=torch.bool)
    return model_without(units.source, everything, tiny.TASK).double()


def loss_of(model, sample):
    """The negative log-likelihood of the only pair of a sample, by hand."""
    logits = model(**sample["net_input"])[0][0]  # [T, V]
    return -logits.log_softmax(-1)[range(len(logits)), sample["target"][0]].sum()


@pytest.mark.parametrize("heads,neurons", [(True, GROUP), (True, None), (False, GROUP)])
def test_fisher_scores_are_those_of_one_backward_pass_a_sentence(heads, neurons):
    units = units_of(neurons, heads)
    model = whole(units)
    found = fisher_of(model, units.head_map, units.places, DATA, BATCHES)
    rows = []
    with gating_of(model) as board:
        for number in range(3):
            gates = torch.ones(1, head_map_of(model).num_heads, requires_grad=True)
            with board.override(gates):
                loss_of(model, DATA.collater([DATA[number]])).backward()
            rows.append(gates.grad[0, units.places].double())
    gradients = torch.stack(rows)
    assert units.head_map.num_heads == gradients.shape[1] and found.examples == 3
    torch.testing.assert_close(found.value(), gradients.square().mean(0), rtol=1e-4, atol=1e-9)
    for block, part in zip(found.blocks(), units.head_map.split(gradients)):
        torch.testing.assert_close(block, part.t() @ part / 3, rtol=1e-4, atol=1e-9)


def test_shares_are_summed_over_words_and_not_over_padding():
    units = units_of()
    model = whole(units)
    found = grams_of(model, units.head_map, DATA, BATCHES)
    seen: dict[str, list[torch.Tensor]] = {}
    outputs = {name: getattr(part, "out_proj", part) for name, part in gated_blocks(model).items()}
    for name, part in outputs.items():
        part.register_forward_pre_hook(
            lambda module, args, name=name: seen.setdefault(name, []).append(args[0].flatten(0, 1))
        )
    with torch.no_grad():
        for number in range(3):  # one by one: no padding at all
            model(**DATA.collater([DATA[number]])["net_input"])
    for block, gram in zip(units.head_map.blocks, found):
        inputs, weight = torch.cat(seen[block.name]), outputs[block.name].weight
        size = weight.shape[1] // block.num_heads
        shares = torch.stack(
            [
                inputs[:, size * u : size * (u + 1)] @ weight[:, size * u : size * (u + 1)].t()
                for u in range(block.num_heads)
            ]
        ).flatten(1)  # [h, positions * C]
        torch.testing.assert_close(gram, shares @ shares.t(), rtol=1e-6, atol=1e-9)


def test_factors_lie_in_the_weights_and_the_rest_is_gone():
    units = units_of()
    generator = torch.Generator().manual_seed(4)
    keep = torch.rand(units.head_map.num_heads, generator=generator) < 0.6
    factors, gates = [], torch.zeros(units.head_map.num_heads)
    for position, (block, flags) in enumerate(zip(units.head_map.blocks, units.head_map.split(keep))):
        drawn = torch.rand(int(flags.sum()), generator=generator, dtype=torch.float64) + 0.5
        factors.append(None if position == 2 else drawn)
        start, stop = units.head_map.range(block.name)
        gates[start:stop][flags] = 1.0 if position == 2 else drawn.float()
    before = {name: tensor.clone() for name, tensor in units.source.tensors.items()}
    small = tiny.load(units.without(keep, factors).state)
    assert all(torch.equal(units.source.tensors[name], tensor) for name, tensor in before.items())
    assert head_map_of(small).num_heads == int(keep.sum())

    inputs = DATA.collater([DATA[n] for n in range(3)])["net_input"]
    model = whole(units)
    with torch.no_grad(), gating_of(model) as board, board.override(gates.double()):
        expected = model(**inputs)[0]
    with torch.no_grad():
        torch.testing.assert_close(small(**inputs)[0], expected, rtol=1e-5, atol=1e-5)


def test_units_that_may_not_go_stay():
    units = units_of(heads=False)
    kinds = {block.kind for block in units.head_map.blocks}
    assert kinds == {"encoder-ffn", "decoder-ffn"}
    none = torch.zeros(units.head_map.num_heads, dtype=torch.bool)
    mask = units.whole_mask(none)
    assert int(mask.sum()) == tiny.N and mask[: tiny.N].all()


def test_counts_of_a_host_follow_what_is_left():
    units = units_of()
    host = host_of(units, tiny.TASK, (2, 5, 2))
    none = torch.zeros(units.head_map.num_heads, dtype=torch.bool)
    small = host.without(none, None)
    lost = count_parameters(host.whole) - count_parameters(small)
    # per unit: query, key and value rows with biases, output columns; rows and bias up, columns down
    encoder, cross, decoder = 8 * (4 * 16 + 3), 4 * (2 * 12 + 2 * 16 + 3), 4 * (4 * 12 + 3)
    neurons = 20 * (2 * 16 + 1) + 20 * (2 * 12 + 1)
    assert lost == 2 * (2 * encoder + 3 * cross + 3 * decoder + neurons)
    assert count_bytes(small) == 4 * count_parameters(small)
    assert host.counts["macs"](small) < host.counts["macs"](host.whole)
    host.run(small)


def test_what_cannot_be_is_refused():
    with pytest.raises(OptionError, match="group"):
        units_of(neurons=3)
    with pytest.raises(ValueError, match="has head gates"):
        gated = tiny.checkpoint(tiny.scored(4), tiny.options(num_of_heads=4, joint_pruning=True))
        choosable(gated, None, True)
    with pytest.raises(OptionError, match="shape"):
        host_of(units_of(), tiny.TASK, (2, 10**6, 2))


def test_subwords_are_joined_as_the_dictionary_has_them():
    assert joined(["a", "b@@"]) == "subword_nmt" and joined(["\u2581a", "b"]) == "sentencepiece"
    assert joined(["a", "b"]) is None
