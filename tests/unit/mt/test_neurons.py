"""Groups of neurons beside heads on fairseq: masked, pruned, reloaded and exported, in float64."""

from __future__ import annotations

import json

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

fairseq = pytest.importorskip("fairseq")

import tiny_models as tiny

from dsp_plugin.gating import FixedGates, HeadMap, best_of_blocks
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dsp_plugin.mt.diffs.base import read_base
from dsp_plugin.mt.diffs.translation import DiffTransformerConfig, DiffTransformerModel
from dsp_plugin.mt.heads.checkpoint_heads import (
    head_map_of_state,
    heads_of_checkpoint,
    in_original_numbers,
    parameters_of_head,
)
from dsp_plugin.mt.heads.feed_forward import GatedLinear, NoNeurons
from dsp_plugin.mt.heads.gated_transformer import (
    connect,
    encode_kept_heads,
    gated_blocks,
    head_map_of,
    head_map_of_options,
)
from dsp_plugin.mt.heads.importance import gating_of, magnitudes
from dsp_plugin.mt.heads.new_training import take_removal
from dsp_plugin.mt.surgery.pruning import count_parameters, prepare, prune_state, remove_heads
from dsp_plugin.mt.surgery.stock_export import export_fairseq
from dsp_plugin.mt.translate.deployed_heads import heads_of_model, original_heads_of, parameters_of_model
from dsp_plugin.options.errors import OptionError
from dsp_plugin.records.record import kept_heads, kept_in_words
from dsp_plugin.reports.pictures.heads import head_map_text
from dsp_plugin.surgery import read_mask, units_of_mask

G = 4  # of 20 neurons: 5 groups in each of 2 + 2 layers, behind the 16 heads
HEADS, GROUPS = tiny.N, 20
N = HEADS + GROUPS
PER_KIND = "encoder-self=2,decoder-cross=3,decoder-self=2,encoder-ffn=4,decoder-ffn=3"


@pytest.fixture(autouse=True)
def double_softmax(monkeypatch):
    """Stock attention works its softmax out in single precision wherever it is not fused."""
    monkeypatch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))


def options(**changes):
    """Options of a model with all its heads and groups, and no gates."""
    whole = head_map_of_options(tiny.options(neurons=G, **changes))
    everything = whole.kept_by_block([True] * whole.num_heads)
    return tiny.options(neurons=G, kept_heads=encode_kept_heads(everything), **changes)


def source(**changes):
    settings = options(**changes)
    return tiny.checkpoint(tiny.build(settings), settings)


def masked(keep, **changes):
    """The model that multiplies what is not kept by 0."""
    model = tiny.build(options(**changes))
    model.add_gates(FixedGates(torch.as_tensor(keep)), rate=None, joint=True)
    return model.eval()


def chosen(*groups: int, heads: bool = True) -> list[bool]:
    return [heads] * HEADS + [number in groups for number in range(GROUPS)]


def seeded(seed: int) -> list[bool]:
    """About half of all, or a tenth, or nearly all."""
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(N, generator=generator) < (0.5, 0.1, 0.9)[seed % 3]).tolist()


MASKS = {
    "no group": chosen(),
    "one group": chosen(7),
    "a layer without any": chosen(*range(3, 13)),
    "all": chosen(*range(GROUPS)),
    "nothing at all": [False] * N,
    **{f"seed {seed}": seeded(seed) for seed in range(6)},
}
masks = pytest.mark.parametrize("keep", MASKS.values(), ids=MASKS)


@masks
def test_masked_is_pruned_is_reloaded_is_exported(keep, tmp_path):
    state, expected = source(), masked(keep)
    pruned = prune_state(state, mask=keep)
    save_checkpoint(pruned.state, str(tmp_path / "pruned.pt"))
    loaded = load_checkpoint(str(tmp_path / "pruned.pt"))
    model = tiny.load(loaded)
    tiny.assert_same(model, expected)
    assert pruned.keep.tolist() == keep and pruned.heads_before == N
    assert pruned.parameters_after == sum(p.numel() for p in model.parameters())
    assert pruned.parameters_before == count_parameters(state["model"], state["cfg"]["model"])
    assert loaded["cfg"]["model"]["neurons"] == G and model.kept_heads == pruned.record
    assert head_map_of(model) == head_map_of_options(loaded["cfg"]["model"])
    assert head_map_of(model) == head_map_of_state(loaded["model"], loaded["cfg"]["model"])
    # what a record says of it: the groups of the model before any removal
    found = in_original_numbers(loaded, heads_of_checkpoint(loaded))
    assert found.keep.tolist() == keep and found.head_map == pruned.head_map
    deployed = heads_of_model(model)
    original = original_heads_of(model, deployed)
    assert original.head_map == pruned.head_map and original.keep.tolist() == keep
    counts = parameters_of_model(model, deployed, original)
    assert counts == {"before": pruned.parameters_before, "after": pruned.parameters_after}

    stock = tiny.load(export_fairseq(state, mask=keep).state)
    assert type(stock.encoder.layers[0].fc2) is nn.Linear and type(stock).__module__.startswith("fairseq.")
    tiny.assert_same(stock, expected)
    again = export_fairseq(pruned.state).state["model"]
    assert all(torch.equal(again[name], tensor) for name, tensor in stock.state_dict().items())


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_fn": "gelu", "encoder_normalize_before": True, "decoder_normalize_before": True},
        {"activation_fn": "tanh", "activation_dropout": 0.3, "relu_dropout": 0.1},
        {"activation_fn": "linear", "encoder_layerdrop": 0.2, "checkpoint_activations": True},
        {"no_cross_attention": True},
    ],
    ids=["gelu, pre-norm", "tanh, dropout", "linear, layerdrop, checkpoints", "no cross-attention"],
)
def test_other_layers(changes):
    head_map = head_map_of(tiny.build(options(**changes)))
    keep = torch.rand(head_map.num_heads, generator=torch.Generator().manual_seed(2)) < 0.4
    start, stop = head_map.range("decoder.layers.0.fc2")
    keep[start:stop] = False
    tiny.assert_same(
        tiny.load(prune_state(source(**changes), mask=keep).state), masked(keep, **changes), atol=1e-11
    )


def test_a_stock_checkpoint_and_a_mask_that_says_the_size(tmp_path):
    plain = tiny.checkpoint(tiny.build(tiny.options()), tiny.options())
    keep, head_map = MASKS["seed 0"], head_map_of_options(tiny.options(neurons=G))
    path = tmp_path / "mask.json"
    path.write_text(json.dumps({**head_map.to_dict(), "keep": keep}))
    ready = prepare(plain, units_of_mask(str(path))[0])
    assert read_mask(str(path), ready.head_map) == keep
    tiny.assert_same(tiny.load(remove_heads(ready, torch.tensor(keep)).state), masked(keep))
    with pytest.raises(OptionError, match="36 entries, the model 16 heads"):
        read_mask(str(path), prepare(plain).head_map)
    path.write_text(json.dumps(keep))
    assert units_of_mask(str(path)) == (None, True)


@pytest.mark.parametrize("seed", range(3))
def test_pruning_twice_is_pruning_once(seed):
    first, both = torch.tensor(seeded(3 * seed)), torch.tensor(seeded(3 * seed))
    second = torch.rand(int(first.sum()), generator=torch.Generator().manual_seed(seed)) < 0.6
    both[first] = second
    once = prune_state(source(), mask=both)
    twice = prune_state(prune_state(source(), mask=first).state, mask=second)
    assert twice.record == once.record and twice.heads_before == int(first.sum())
    assert all(
        torch.equal(twice.state["model"][name], tensor) for name, tensor in once.state["model"].items()
    )
    assert twice.state["cfg"] == once.state["cfg"]


def test_neurons_after_heads_went_without_them():
    """A record of heads alone, and then groups on what is left."""
    keep = torch.tensor(MASKS["seed 0"])
    plain = tiny.checkpoint(tiny.build(tiny.options()), tiny.options())
    headless = prune_state(plain, mask=keep[:HEADS])
    assert headless.state["cfg"]["model"]["neurons"] is None
    rest = torch.cat([torch.ones(int(keep[:HEADS].sum()), dtype=torch.bool), keep[HEADS:]])
    later = prepare(headless.state, G)
    assert later.head_map.num_heads == len(rest) and later.original.num_heads == N
    done = remove_heads(later, rest)
    assert done.keep.tolist() == keep.tolist()
    tiny.assert_same(tiny.load(done.state), masked(keep))
    # the model that a training with --neurons makes of it
    settings = {**headless.state["cfg"]["model"], "neurons": G, "heads_per_kind": PER_KIND}
    settings["joint_pruning"] = True
    model = tiny.build(settings)
    assert model.kept_heads["encoder.layers.0.fc2"] == [0, 1, 2, 3, 4]
    state = tiny.checkpoint(model, settings)
    tiny.assert_same(tiny.load(prune_state(state).state), model)


def test_scores_of_all_kinds_choose():
    settings = tiny.options(neurons=G, heads_per_kind=PER_KIND, joint_pruning=True, use_ste=True)
    model = tiny.build(settings)
    assert model.gating.gates.scores.numel() == N
    state = tiny.checkpoint(model, settings)
    pruned = prune_state(state)
    counts = {kind: 0 for kind in ("encoder-self", "decoder-cross", "decoder-self", "encoder-ffn")}
    counts["decoder-ffn"] = 0
    for block in pruned.head_map.blocks:
        counts[block.kind] += len(pruned.record[block.name])
    assert counts == dict(zip(counts, (2, 3, 2, 4, 3)))
    tiny.assert_same(tiny.load(pruned.state), model)
    with pytest.raises(OptionError, match="num_of_heads counts heads and groups of neurons together"):
        prune_state(state, 5)
    with pytest.raises(ValueError, match="a number a kind with --heads-per-kind"):
        tiny.build(tiny.options(neurons=G, num_of_heads=9, joint_pruning=True))
    even = best_of_blocks(pruned.head_map, model.gating.gates.scores, {"encoder-ffn": 2, "decoder-ffn": 1})
    tiny.assert_same(tiny.load(prune_state(state, mask=even).state), masked_like(model, even))


def masked_like(model, keep):
    model.add_gates(FixedGates(keep), rate=None, joint=True)
    return model.eval()


def test_gates_of_every_example():
    model = tiny.build(options()).eval()
    samples, lengths, target = tiny.batch()
    gates = torch.rand(3, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad(), gating_of(model) as board:
        with board.override(gates):
            together = model(samples, lengths, target)[0]
        for row in range(3):
            with board.override(gates[row]):
                alone = model(samples, lengths, target)[0][row]
            torch.testing.assert_close(together[row], alone, rtol=0, atol=1e-12)
        # fewer masks than sentences, in turn
        with board.override(gates[:2]):
            in_turn = model(samples, lengths, target)[0]
    torch.testing.assert_close(in_turn[:2], together[:2], rtol=0, atol=0)
    assert (in_turn[2] - together[2]).abs().max() > 1e-3


def test_the_gradient_of_every_gate():
    model = tiny.build(options(activation_fn="tanh")).eval()
    inputs = tiny.batch()
    gates = torch.rand(3, N, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    weights = torch.randn(3, 5, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def loss(values):
        with gating_of(model) as board, board.override(values):
            return (model(*inputs)[0].log_softmax(-1)[..., 5:6] * weights).sum()

    (found,) = torch.autograd.grad(loss(gates.requires_grad_()), gates)
    with torch.no_grad():
        for row, unit in [(u % 3, u) for u in range(HEADS, N)]:
            step = torch.zeros_like(gates)
            step[row, unit] = 1e-6
            slope = (loss(gates + step) - loss(gates - step)) / 2e-6
            assert found[row, unit] == pytest.approx(float(slope), abs=1e-7)
    assert found[:, HEADS:].abs().min() > 0


def test_a_closed_group_gives_exact_zeros_and_an_open_model_multiplies_nothing():
    layer = GatedLinear(6, 3, neurons=2)
    seen = []
    layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    layer.read_gates = lambda: torch.tensor([1.0, 0.0, 0.0])
    x = torch.randn(4, 2, 6)
    expected = nn.functional.linear(
        torch.cat([x[..., :2], torch.zeros(4, 2, 4)], -1), layer.weight, layer.bias
    )
    assert torch.equal(layer(x), expected)
    layer.read_gates = lambda: None
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    half = layer.to(torch.bfloat16)
    half.read_gates = lambda: torch.tensor([0.5, 1.0, 0.0])
    assert half(x.bfloat16()).dtype == torch.bfloat16


def test_a_layer_without_neurons_computes_its_bias_alone(monkeypatch):
    keep = MASKS["a layer without any"]
    model = tiny.load(prune_state(source(), mask=keep).state)
    layer = model.decoder.layers[1]
    assert isinstance(layer.fc1, NoNeurons) and layer.fc2.weight is None
    assert [name for name, _ in layer.named_parameters() if name.startswith("fc")] == ["fc2.bias"]
    called = []
    monkeypatch.setattr(nn.functional, "linear", lambda *args: called.append(args))
    x = torch.randn(3, 2, 12, dtype=torch.float64)
    assert torch.equal(layer.fc2(torch.relu(layer.fc1(x))), layer.fc2.bias.expand(3, 2, 12)) and not called
    monkeypatch.undo()
    # it learns what is left of it
    layer.train()
    layer.fc2(layer.fc1(x)).sum().backward()
    assert layer.fc2.bias.grad.tolist() == [6.0] * 12


def test_parameters_of_a_group_are_counted_exactly():
    settings = options()
    whole = prepare(source())
    everything = torch.ones(N, dtype=torch.bool)
    start = remove_heads(whole, everything).parameters_after
    for unit in range(N):
        keep = everything.clone()
        keep[unit] = False
        block = next(b for b in whole.head_map.blocks if unit < whole.head_map.range(b.name)[1])
        removed = start - remove_heads(whole, keep).parameters_after
        assert removed == parameters_of_head(block, settings), block.name


def test_magnitudes_are_norms_of_their_weights():
    model = tiny.build(options())
    head_map, found = head_map_of(model), magnitudes(model)
    assert found.shape == (N,)
    layer = model.decoder.layers[1]
    parts = [layer.fc1.weight[4:8], layer.fc2.weight[:, 4:8]]
    expected = sum(part.detach().square().sum() for part in parts).sqrt()
    assert found[head_map.index("decoder.layers.1.fc2", 1)] == pytest.approx(float(expected))
    assert magnitudes(tiny.load(prune_state(source(), mask=MASKS["no group"]).state)).shape == (HEADS,)


def test_without_neurons_nothing_is_another():
    plain, grouped = tiny.build(tiny.options()), tiny.build(options())
    assert {type(layer.fc2) for layer in plain.encoder.layers} == {nn.Linear}
    assert head_map_of(plain) == HeadMap(head_map_of(grouped).blocks[:6])
    assert not any(isinstance(block, GatedLinear) for block in gated_blocks(plain).values())
    # the same random numbers make the same weights, under the same names
    assert plain.state_dict().keys() == grouped.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, grouped.state_dict()[name]), name
    tiny.assert_same(grouped, plain, atol=0)
    connect(grouped, None)
    assert all(block.read_gates is None for block in gated_blocks(grouped).values())


def test_what_cannot_be_is_refused_by_name():
    def refused(message, **changes):
        with pytest.raises(ValueError, match=message):
            tiny.build(tiny.options(**changes))

    per_kind = {"heads_per_kind": PER_KIND, "joint_pruning": True}
    refused(
        "--neurons 3: it must divide --encoder-ffn-embed-dim, which is 20: give one of 1, 2, 4, 5, 10, 20",
        **per_kind,
        neurons=3,
    )
    refused(
        "--neurons 8: it must divide --decoder-ffn-embed-dim, which is 20: give one of 1, 2, 4$",
        **per_kind,
        neurons=8,
        encoder_ffn_embed_dim=16,
    )
    refused("--neurons 0: ", **per_kind, neurons=0)
    refused("--neurons -4: ", **per_kind, neurons=-4)
    refused("--neurons needs --num-of-heads or --heads-per-kind: nothing is pruned", neurons=G)
    for name, value in {"quant_noise_pq": 0.1, "quant_noise_scalar": 0.1, "base_layers": 1}.items():
        option = name.replace("_", "-")
        refused(f"--neurons and --{option} exclude each other", **per_kind, neurons=G, **{name: value})
    refused(
        "must give a number for each of .*encoder-ffn",
        neurons=G,
        joint_pruning=True,
        heads_per_kind="encoder-self=1,decoder-cross=1,decoder-self=1",
    )
    refused("must give a number for each of .*; got", **per_kind)

    record = json.loads(options()["kept_heads"])
    refused("keeps groups of neurons .*--neurons does not say", kept_heads=encode_kept_heads(record))
    wrong = {**record, "decoder.layers.0.fc2": [0, 5]}
    refused("keeps groups .0, 5. of decoder.layers.0.fc2", kept_heads=encode_kept_heads(wrong), neurons=G)
    wrong = {**record, "decoder.layers.7.fc2": [0]}
    refused("groups of neurons of other layers", kept_heads=encode_kept_heads(wrong), neurons=G)
    with pytest.raises(OptionError, match="neurons 5: the checkpoint's groups are of 4"):
        prepare(source(), 5)
    with pytest.raises(OptionError, match="neurons 6: it must divide"):
        prepare(tiny.checkpoint(tiny.build(tiny.options()), tiny.options()), 6)
    damaged = prune_state(source(), mask=MASKS["seed 0"]).state
    damaged["model"]["encoder.layers.0.fc2.weight"] = torch.zeros(16, 7)
    with pytest.raises(ValueError, match="encoder.layers.0.fc2 has 7 neurons"):
        prepare(damaged)


def test_a_training_takes_over_what_its_start_has_lost():
    trained = prune_state(source(), mask=MASKS["seed 0"]).state["cfg"]["model"]
    fresh = tiny.options()
    take_removal(fresh, trained, "a.pt")
    assert (fresh["kept_heads"], fresh["neurons"]) == (trained["kept_heads"], G)
    with pytest.raises(OptionError, match="neurons 5: a.pt has lost groups of 4 neurons"):
        take_removal(tiny.options(neurons=5), trained, "a.pt")
    with pytest.raises(OptionError, match="neurons and quant_noise_pq exclude each other"):
        take_removal(tiny.options(quant_noise_pq=0.1), trained, "a.pt")
    # heads went without groups, which are asked for now
    heads_alone = {**trained, "neurons": None}
    later = tiny.options(neurons=5)
    take_removal(later, heads_alone, "a.pt")
    assert later["neurons"] == 5
    whole = tiny.options(neurons=5)
    take_removal(whole, tiny.options(), "a.pt")
    assert whole == tiny.options(neurons=5)


def test_a_diff_has_a_base_without_some_neurons(tmp_path):
    keep = MASKS["a layer without any"]
    save_checkpoint(prune_state(source(), mask=keep).state, str(tmp_path / "pruned.pt"))
    base = read_base(str(tmp_path / "pruned.pt"))
    assert base.sizes()["neurons"] == G
    tiny.assert_same(base.model().double().eval(), masked(keep), atol=1e-4)  # it is in float32
    known = DiffTransformerConfig.__dataclass_fields__
    settings = {name: value for name, value in base.options.items() if name in known}
    model = DiffTransformerModel.build_model(OmegaConf.create(settings), tiny.TASK).double().eval()
    base.load_into(model)
    tiny.assert_same(model, masked(keep))


def test_what_is_said_of_them():
    head_map, keep = head_map_of_options(options()).to_dict(), MASKS["one group"]
    assert kept_in_words(head_map, keep) == "16 of 16 heads and 1 of 20 groups of neurons"
    text = head_map_text(head_map, keep, ascii_only=True)
    assert text.startswith("16 of 16 heads and 1 of 20 groups of neurons kept")
    assert "decoder-ffn: 0 of 10" in text and "layer 1  . . # . .  1/5" in text
    heads = kept_heads(head_map, keep)
    assert heads["blocks"][-1] == {
        "name": "decoder.layers.1.fc2",
        "kind": "decoder-ffn",
        "num_heads": 5,
        "neurons": G,
        "kept": [],
    }
    assert (heads["total"], heads["kept"]) == (16, 16) and heads["groups"] == {"total": 20, "kept": 1}
