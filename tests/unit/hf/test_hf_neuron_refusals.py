"""Groups of neurons: what cannot be grouped, and feed-forward blocks that are refused by name."""

from __future__ import annotations

import json

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import batch_of, logits, tiny_model  # isort: skip
import transformers
from torch import nn

from dsp_plugin.gating import FixedGates
from dsp_plugin.hf import gate_heads, head_map_of, load_pruned, prune_heads, save_pruned
from dsp_plugin.hf.heads.surgery.pruning import prune_to_record
from dsp_plugin.surgery import check_record

FFN = "encoder.layer.{}.output.dense"
GROUPS = {FFN.format(0): 4, FFN.format(1): 4}


@pytest.mark.parametrize(
    "neurons, heads, message",
    [
        (7, True, r"7 does not divide the 40 neurons of encoder.layer.0.output.dense: .* 1, 2, 4, 5, 8, 10,"),
        (80, True, "80 does not divide the 40 neurons"),
        (0, True, "whole number of 1 or more.*got 0"),
        (True, True, "whole number of 1 or more.*got True"),
        (4.0, True, "whole number of 1 or more.*got 4.0"),
        (None, False, "give `neurons`"),
    ],
)
def test_groups_that_cannot_be(neurons, heads, message):
    model = tiny_model("bert")
    for call in (
        lambda: head_map_of(model, neurons, heads),
        lambda: gate_heads(model, FixedGates(torch.ones(20)), neurons=neurons, heads=heads),
        lambda: prune_heads(model, [True] * 20, neurons=neurons, heads=heads),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_valid_sizes_divide_the_neurons_of_every_block():
    sizes = dict(d_model=32, encoder_layers=1, decoder_layers=1, vocab_size=40)
    sizes |= dict(encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=24)
    model = transformers.BartModel(transformers.BartConfig(**sizes, decoder_ffn_dim=36))
    with pytest.raises(ValueError, match=r"8 .* 36 neurons of decoder.layers.0.fc2: .* 1, 2, 3, 4, 6, 12$"):
        head_map_of(model, 8)
    assert [b.num_heads for b in head_map_of(model, 12, heads=False).blocks] == [2, 3]


def test_groups_stay_of_the_size_in_which_some_were_removed():
    model = tiny_model("bert")
    prune_heads(model, [False] + [True] * 19, neurons=4, heads=False)
    with pytest.raises(ValueError, match=r"neurons=2 is not how encoder.layer.0.output.dense lost .* of 4"):
        head_map_of(model, 2)
    assert head_map_of(model, 4, heads=False).num_heads == 19


def test_a_mask_for_other_units_is_refused():
    model = tiny_model("bert")
    with pytest.raises(ValueError, match="expected 28 flags"):
        prune_heads(model, [True] * 8, neurons=4)
    with pytest.raises(ValueError, match="several kinds .encoder-ffn, encoder-self."):
        prune_heads(model, {0: [1]}, neurons=4)
    with pytest.raises(ValueError, match="gates for 8 heads on a model with 28"):
        gate_heads(model, FixedGates(torch.ones(8)), neurons=4)


class Between(nn.Module):
    """An intermediate layer as BERT's, with something between its activation and the projection down."""

    def __init__(self, dense, between):
        super().__init__()
        self.dense, self.between = dense, between

    def forward(self, states):
        return self.between(torch.relu(self.dense(states)))


class Unasked(Between):
    def forward(self, states):
        return torch.relu(nn.functional.linear(states, self.dense.weight, self.dense.bias))


class Otherwise(Between):
    def forward(self, states):
        return torch.relu(self.dense(states)[..., : self.intermediate_size])


def bert(neurons=40):
    sizes = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, vocab_size=40)
    return transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=neurons)).eval()


@pytest.mark.parametrize(
    "neurons, between, message",
    [
        (40, nn.LayerNorm(40), "a tensor with a number for each neuron .*: intermediate.between.weight"),
        # as many neurons as the model is wide: sizes do not tell
        (32, nn.LayerNorm(32), "lets neurons depend on each other"),
        (40, nn.Softmax(-1), "lets neurons depend on each other"),
        (40, nn.Linear(40, 40, bias=False), "a tensor with a number for each neuron"),
        (40, nn.Flatten(), "gives its down projection|does not run by itself"),
    ],
)
def test_neurons_that_do_not_go_their_own_way(neurons, between, message):
    model = bert(neurons)
    layer = model.encoder.layer[1]
    layer.intermediate = Between(layer.intermediate.dense, between)
    where = f"BertModel is not supported.*{FFN.format(1)} .BertLayer. .*"
    with pytest.raises(ValueError, match=where + message):
        head_map_of(model, 4)
    assert head_map_of(model).num_heads == 8  # of the heads nothing is known to be wrong


def test_an_activation_that_is_a_plain_function():
    model = bert()
    layer = model.encoder.layer[0]
    layer.intermediate = Between(layer.intermediate.dense, None)
    layer.intermediate.between = torch.tanh
    assert head_map_of(model, 4, heads=False).num_heads == 20
    layer.intermediate.between = lambda states: states.softmax(-1)  # the module looks as before
    with pytest.raises(ValueError, match="lets neurons depend on each other"):
        head_map_of(model, 4)


def test_a_forward_that_does_not_call_its_projection():
    model = bert()
    layer = model.encoder.layer[0]
    layer.intermediate = Unasked(layer.intermediate.dense, nn.Identity())
    with pytest.raises(ValueError, match=f"{FFN.format(0)} .*uses the weights of dense without calling it"):
        head_map_of(model, 4)


def test_a_size_that_a_forward_reads_follows_the_neurons():
    model = bert()
    layer = model.encoder.layer[0]
    layer.intermediate = Otherwise(layer.intermediate.dense, nn.Identity())
    layer.intermediate.intermediate_size = 40
    prune_heads(model, [True] * 3 + [False] * 7 + [True] * 10, neurons=4, heads=False)
    assert layer.intermediate.intermediate_size == 12


def test_experts_are_refused_by_name():
    sizes = dict(hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4)
    sizes |= dict(num_key_value_heads=2, vocab_size=40, num_local_experts=2)
    model = transformers.MixtralModel(transformers.MixtralConfig(**sizes))
    with pytest.raises(ValueError, match=r"MixtralModel is not supported.*layers.0 .*mlp\.\w*.*overlooked"):
        head_map_of(model, 4)
    sizes = dict(vocab_size=40, d_model=32, d_kv=8, d_ff=40, num_layers=2, num_heads=4, num_experts=2)
    sizes |= dict(num_sparse_encoder_layers=1, num_sparse_decoder_layers=1, expert_capacity=4)
    model = transformers.SwitchTransformersModel(transformers.SwitchTransformersConfig(**sizes))
    with pytest.raises(ValueError, match="SwitchTransformersModel is not supported.*router.*overlooked"):
        head_map_of(model, 4)


def test_weights_of_no_known_block_are_refused_by_name():
    model = bert()
    model.encoder.layer[1].adapter = nn.Linear(32, 8)
    with pytest.raises(ValueError, match=r"layer encoder.layer.1 .BertLayer.*adapter.weight"):
        head_map_of(model, 4)


def test_one_projection_or_one_weight_in_two_blocks():
    model = tiny_model("bert")
    one, two = model.bert.encoder.layer
    two.output.dense.weight = one.output.dense.weight
    two.intermediate.dense.weight = one.intermediate.dense.weight
    batch = batch_of(model)
    with pytest.raises(ValueError, match="share one weight, of which they would keep different heads"):
        prune_heads(model, [False] + [True] * 19, neurons=4, heads=False)
    gate_heads(model, FixedGates(torch.arange(20) % 10 < 6), neurons=4, heads=False)
    expected = logits(model, batch)
    prune_heads(model)
    torch.testing.assert_close(logits(model, batch), expected, rtol=0, atol=1e-10)
    model = tiny_model("bert")
    one, two = model.bert.encoder.layer
    two.output = one.output
    with pytest.raises(ValueError, match="several of its blocks are called|is another block's, too"):
        head_map_of(model, 4)


def test_a_quantised_or_normed_projection_is_refused():
    model = tiny_model("bert")
    layer = model.bert.encoder.layer[0]
    torch.nn.utils.parametrizations.weight_norm(layer.output.dense)
    with pytest.raises(ValueError, match=f"{FFN.format(0)} works its weight out of other tensors"):
        prune_heads(model, [True] * 19 + [False], neurons=4, heads=False)


@pytest.fixture(scope="module")
def pruned_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruned")
    model = tiny_model("bert")
    prune_heads(model, torch.arange(28) % 3 > 0, neurons=4)
    save_pruned(model, folder)
    (folder / "checksums.json").unlink()
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "change, message",
    [
        ({"neuron_groups": None}, "of another model: .*encoder.layer.0.output.dense"),
        ({"neuron_groups": [4]}, "must be numbers of 1 or more"),
        ({"neuron_groups": {**GROUPS, FFN.format(1): 0}}, "must be numbers of 1 or more"),
        ({"neuron_groups": {**GROUPS, FFN.format(1): 7}}, "7 does not divide the 40 neurons"),
        ({"neuron_groups": {**GROUPS, FFN.format(1): 8}}, f"lists .* for {FFN.format(1)}, which had 5"),
        ({"neuron_groups": {FFN.format(0): 4}}, "of another model: .*encoder.layer.1.output.dense"),
        ({"neuron_groups": {**GROUPS, FFN.format(2): 4}}, f"{FFN.format(2)} is no feed-forward block"),
        ({FFN.format(1): [0, 10]}, f"lists .0, 10. for {FFN.format(1)}, which had 10"),
        ({FFN.format(1): [0]}, f"does not fit its own record.*{FFN.format(1).partition('.output')[0]}"),
    ],
)
def test_a_record_that_cannot_be(pruned_folder, tmp_path, change, message):
    for path in pruned_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    if "neuron_groups" in change:
        config |= change
    else:
        config["kept_heads"] |= change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        load_pruned(tmp_path)
    with pytest.raises(ValueError, match=message):  # nor with leave to begin with new weights
        load_pruned(tmp_path, ignore_mismatched_sizes=True)


def test_a_reader_that_knows_only_heads_refuses_by_name(pruned_folder):
    """What an earlier version of this package does with the record: it names the blocks it does not have."""
    record = json.loads((pruned_folder / "config.json").read_text())["kept_heads"]
    with pytest.raises(ValueError, match=f"another model: .*{FFN.format(0)}"):
        check_record(record, head_map_of(tiny_model("bert")))
    with pytest.raises(ValueError, match=f"another model: .*{FFN.format(0)}"):
        prune_to_record(tiny_model("bert"), record)
