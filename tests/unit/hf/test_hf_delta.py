"""Methods in a model: against formulas by hand, in every combination, stored and read back."""

from __future__ import annotations

import copy
import itertools
import subprocess
import sys

import pytest
import torch

pytest.importorskip("transformers")
from hf_delta import SMALL, batch, outputs, tiny, train_a_step  # isort: skip

pytest.importorskip("peft")
from dsp_plugin.delta.artefact import DeltaFile
from dsp_plugin.delta.stages import METHODS
from dsp_plugin.hf.delta import add_delta, delta_account, delta_of, disable, enable, load_delta, save_delta
from dsp_plugin.options.errors import OptionError

KINDS = ("ForMaskedLM", "ForSequenceClassification")
SUBSETS = [subset for size in range(1, len(METHODS) + 1) for subset in itertools.combinations(METHODS, size)]
models = pytest.mark.parametrize("family,kind", [("bert", KINDS[0]), ("roberta", KINDS[1])])


@pytest.mark.parametrize("subset", SUBSETS, ids=",".join)
@pytest.mark.parametrize("family,kind", [("bert", KINDS[0]), ("roberta", KINDS[1])])
def test_every_combination_is_trained_stored_and_read(family, kind, subset, tmp_path):
    base = tiny(family, kind)
    model, prompt = copy.deepcopy(base), "prompt" in subset
    add_delta(model, subset, **SMALL)
    frozen = {name: one.detach().clone() for name, one in model.named_parameters() if not one.requires_grad}
    train_a_step(model, prompt)
    assert all(one.grad is None for one in model.parameters() if not one.requires_grad)
    own = dict(model.named_parameters())
    assert all(torch.equal(own[name], before) for name, before in frozen.items())
    expected = outputs(model, prompt)
    save_delta(model, tmp_path / "one")
    again = copy.deepcopy(base)
    load_delta(again, tmp_path / "one")
    assert torch.equal(outputs(again.eval(), prompt), expected)
    save_delta(again, tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    if 1 < len(subset) < len(METHODS):
        return  # the rest is looked at for each method alone, and for all of them
    copied = copy.deepcopy(again)
    assert torch.equal(outputs(copied, prompt), expected)
    for name in subset:  # the base again, but for its task head
        disable(again, name)
    stored = DeltaFile.load(tmp_path / "one").task_head
    with torch.no_grad():
        for name, tensor in stored.items():
            base.get_parameter(name).copy_(tensor)
    assert torch.equal(outputs(again), outputs(base))
    for name in reversed(subset):
        enable(again, name)
    assert torch.equal(outputs(again, prompt), expected)
    assert torch.equal(outputs(copied, prompt), expected)  # a model of its own


@models
def test_an_adapter_stands_before_the_residual_sum(family, kind):
    model = tiny(family, kind)
    add_delta(model, "adapter", **SMALL)
    train_a_step(model, steps=2)
    layer = model.base_model.encoder.layer[0]
    inner, residual = torch.randn(2, 5, 32), torch.randn(2, 5, 32)
    for block, x in ((layer.attention.output, inner), (layer.output, torch.randn(2, 5, 40))):
        adapter = block.dropout.delta_adapter
        with torch.no_grad():
            h = x @ block.dense.weight.T + block.dense.bias
            z = h @ adapter.down.weight.T + adapter.down.bias
            h = h + (z * torch.sigmoid(z)) @ adapter.up.weight.T + adapter.up.bias + residual
            mean, variance = h.mean(-1, keepdim=True), h.var(-1, unbiased=False, keepdim=True)
            norm = block.LayerNorm
            expected = (h - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias
            torch.testing.assert_close(block(x, residual), expected)


def test_the_kinds_of_adapters():
    houlsby, pfeiffer = tiny(), tiny()
    add_delta(houlsby, "adapter", **SMALL)
    add_delta(pfeiffer, "adapter", **{**SMALL, "adapter": "pfeiffer"})
    one = 2 * 32 * 4 + 4 + 32  # V, U and their biases; 32 / 8 wide
    assert delta_account(houlsby)["methods"]["adapter"]["parameters"] == 2 * 2 * one
    assert delta_account(pfeiffer)["methods"]["adapter"]["parameters"] == 2 * one
    assert not hasattr(pfeiffer.bert.encoder.layer[0].attention.output.dropout, "delta_adapter")


@models
def test_a_prompt_replaces_word_embeddings(family, kind):
    base = tiny(family, kind)
    model = copy.deepcopy(base)
    add_delta(model, "prompt", task_head="freeze", **SMALL)
    train_a_step(model, prompt=True)
    inputs = batch(prompt=True)
    vectors = model.base_model.embeddings.delta_prompt.vectors.detach()
    words = base.base_model.embeddings.word_embeddings.weight.detach()[inputs["input_ids"]].clone()
    for row, places in enumerate(inputs["prompt_ids"]):
        for place, number in enumerate(places.tolist()):
            if number:
                words[row, place] = vectors[number - 1]
    mask = inputs["attention_mask"]
    with torch.no_grad():
        expected = base(inputs_embeds=words, attention_mask=mask).logits
        found = model(**inputs).logits
    where = mask.bool() if found.dim() == 3 else slice(None)
    torch.testing.assert_close(found[where], expected[where])


def test_padding_at_the_left_and_in_places_of_the_prompt_keeps_roberta_s_positions():
    base = tiny("roberta")
    model = copy.deepcopy(base)
    add_delta(model, "prompt", **SMALL)
    inputs = {name: tensor.flip(1) for name, tensor in batch().items()}
    inputs["prompt_ids"] = torch.zeros_like(inputs["input_ids"])
    other = {**inputs, "prompt_ids": inputs["prompt_ids"].clone(), "input_ids": inputs["input_ids"].clone()}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, base(**{**inputs, "prompt_ids": None}).logits)
        # a place of the prompt counts, whatever stands there
        inputs["prompt_ids"][0, 2] = other["prompt_ids"][0, 2] = 1
        other["input_ids"][0, 2] = 1
        assert torch.equal(model(**inputs).logits, model(**other).logits)


@models
def test_bitfit_trains_all_biases_of_the_encoder_and_nothing_else(family, kind):
    model = tiny(family, kind)
    add_delta(model, "bias", task_head="freeze")
    lead = model.base_model_prefix + "."
    names = {name for name, _ in model.named_parameters()}
    expected = {name for name in names if name.startswith(lead) and name.split(".")[-1] == "bias"}
    assert train_a_step(model) == expected and len(expected) > 15
    count = sum(model.get_parameter(name).numel() for name in expected)
    assert delta_account(model)["methods"]["bias"]["parameters"] == count


def test_a_diff_is_a_sum_at_its_positions():
    base = tiny()
    model = copy.deepcopy(base)
    add_delta(model, "diff", density=0.05, seed=2)
    train_a_step(model, steps=2)
    diff, dense = delta_of(model).parts["diff"].diff(model), copy.deepcopy(base)
    assert all(name.startswith("bert.encoder.layer.") for name in diff.entries)
    parameters = dict(dense.named_parameters())
    with torch.no_grad():
        for name, (positions, values) in diff.entries.items():
            assert len(positions) == max(1, round(0.05 * parameters[name].numel())) and values.all()
            parameters[name].view(-1)[positions] += values
    torch.testing.assert_close(outputs(model), outputs(dense), rtol=0, atol=0)


def test_stages_keep_the_earlier_ones_active_and_frozen(tmp_path):
    base = tiny("bert", KINDS[1])
    model = copy.deepcopy(base)
    head = {"classifier.weight", "classifier.bias"}
    seen: dict[str, torch.Tensor] = {}
    for stage, name in enumerate(("adapter", "bias", "prompt"), start=1):
        before = outputs(model, stage > 3)
        add_delta(model, name, **SMALL)
        if name == "bias":
            assert torch.equal(outputs(model), before)  # begins where the last stage ended
        trained = train_a_step(model, name == "prompt")
        assert delta_of(model).stage == stage and head < trained and not set(seen) & trained
        own = dict(model.named_parameters())
        assert all(torch.equal(own[other], value) for other, value in seen.items())
        seen |= {other: own[other].detach().clone() for other in trained - head}
    expected = outputs(model, True)
    save_delta(model, tmp_path / "file")
    again = copy.deepcopy(base)
    load_delta(again, tmp_path / "file")
    assert torch.equal(outputs(again, True), expected)
    assert delta_of(again).stages == {"adapter": 1, "bias": 2, "prompt": 3}
    trained = {name for name, one in again.named_parameters() if one.requires_grad}
    assert trained == {"bert.embeddings.delta_prompt.vectors"} | head
    with pytest.raises(OptionError, match="an earlier stage"):
        add_delta(again, "bias")


def test_all_methods_are_the_same_bit_for_bit_in_a_fresh_process(tmp_path):
    base = tiny()
    base.save_pretrained(tmp_path / "base")
    add_delta(base, METHODS, **SMALL)
    train_a_step(base, True)
    save_delta(base, tmp_path / "file")
    torch.save({"logits": outputs(base, True), "batch": batch(True)}, tmp_path / "expected")
    program = (
        "import sys, torch\n"
        "torch.set_num_threads(int(sys.argv[2]))\n"
        "from dsp_plugin.hf.delta import open_delta\n"
        "there = torch.load(sys.argv[1] + '/expected', weights_only=True)\n"
        "model = open_delta(sys.argv[1] + '/file', sys.argv[1] + '/base').eval()\n"
        "with torch.no_grad():\n"
        "    logits = model(**there['batch']).logits[there['batch']['attention_mask'].bool()]\n"
        "assert torch.equal(logits, there['logits']), (logits - there['logits']).abs().max()\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path), str(torch.get_num_threads())]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_task_head_is_trained_or_is_the_base_s():
    trained, frozen = tiny("bert", KINDS[1]), tiny("bert", KINDS[1])
    add_delta(trained, "bias")
    add_delta(frozen, "bias", task_head="freeze")
    assert delta_account(trained)["task_head"] == 2 * 32 + 2 and delta_account(frozen)["task_head"] == 0
    assert "classifier.weight" in delta_of(frozen).base.parameters
    assert "classifier.weight" not in delta_of(trained).base.parameters
    with pytest.raises(OptionError, match="task_head was frozen in the first stage"):
        add_delta(frozen, "adapter")
    assert delta_of(frozen).stage == 1
    masked = tiny()
    add_delta(masked, "bias")
    assert not any(one.requires_grad for one in masked.cls.parameters())
