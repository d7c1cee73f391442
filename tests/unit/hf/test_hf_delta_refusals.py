"""What cannot be is refused by name before anything changes: methods, models, batches, bases, files."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_delta import SMALL, batch, outputs, tiny, train_a_step  # isort: skip
from hf_models import tiny_model  # isort: skip

pytest.importorskip("peft")
from dsp_plugin.delta.artefact import DeltaFile
from dsp_plugin.delta.parts import Part
from dsp_plugin.diffs.sparse import SparseDiff
from dsp_plugin.hf.delta import (
    DeltaBank,
    Places,
    add_delta,
    delta_account,
    delta_of,
    disable,
    enable,
    has_delta,
    load_delta,
    register_family,
    save_delta,
)
from dsp_plugin.hf.delta.families import _FAMILIES
from dsp_plugin.hf.dsee import add_dsee
from dsp_plugin.options.errors import OptionError

QUERY = "bert.encoder.layer.0.attention.self.query"


def mask_of(model, *names):
    shapes = {name: tuple(model.get_parameter(name).shape) for name in names}
    return SparseDiff({name: (torch.tensor([0, 2]), torch.zeros(2)) for name in names}, shapes)


def same(model, before):
    after = model.state_dict()
    return list(after) == list(before) and all(torch.equal(after[name], before[name]) for name in before)


# options -> (option that is named, what is said)
OPTIONS = {
    "unknown": (dict(methods="prompt,soft"), "methods", "got soft"),
    "twice": (dict(methods=["bias", "bias"]), "methods", "bias twice"),
    "none": (dict(methods=[]), "methods", "no method"),
    "stages": (dict(methods="bias prompt"), "methods", "of one stage"),
    "no vectors": (dict(methods="prompt", prompt_num=0), "prompt_num", "whole number"),
    "kind": (dict(methods="adapter", adapter="parallel"), "adapter", "houlsby or pfeiffer"),
    "wide": (dict(methods="adapter", reduction=64), "reduction", "above the width"),
    "rank": (dict(methods="lora", lora_rank=0), "lora_r", "whole number"),
    "rank of dsee": (dict(methods="dsee", lora_rank=99), "lora_r", "above the width"),
    "role": (dict(methods="lora", lora_targets="querry"), "targets", "querry"),
    "entries": (dict(methods="dsee", num_sparse=-1), "num_sparse", "-1"),
    "dense": (dict(methods="diff", density=1.5), "density", "share"),
    "empty": (dict(methods="diff", density=0), "density", "share"),
    "seed": (dict(methods="bias", seed=-1), "seed", "whole number"),
    "head": (dict(methods="bias", task_head="no"), "task_head", "train or freeze"),
    "one matrix": (
        dict(methods="lora,dsee", num_sparse=2, lora_rank=2),
        "methods",
        "lora and dsee would both",
    ),
}


@pytest.mark.parametrize("case", OPTIONS, ids=str)
def test_options_that_cannot_be(case):
    options, name, said = OPTIONS[case]
    model = tiny()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(OptionError, match=said) as error:
        add_delta(model, **options)
    assert error.value.name == name
    assert same(model, before) and not has_delta(model)
    assert all(one.requires_grad for one in model.parameters())
    add_delta(model, "bias")


# (first stage, second stage, masks): the parameter that both would change
OVERLAPS = {
    ("lora", "dsee"): f"lora and dsee would both change {QUERY}.weight",
    ("dsee", "lora"): f"dsee and lora would both change {QUERY}.weight",
    ("diff", "bias"): "diff and bias would both change bert.encoder.layer.0.attention.self.query.bias",
}


@pytest.mark.parametrize("first,second", OVERLAPS, ids=lambda one: one)
def test_stages_that_would_change_one_parameter(first, second):
    model = tiny()
    options = dict(num_sparse=2, lora_rank=2, sparse_method="rp", density=0.1)
    add_delta(model, first, **options)
    before, expected = copy.deepcopy(model.state_dict()), outputs(model)
    with pytest.raises(OptionError, match=OVERLAPS[first, second]):
        add_delta(model, second, **options)
    assert same(model, before) and torch.equal(outputs(model), expected)
    assert delta_of(model).stages == {first: 1}
    assert train_a_step(model)


def test_diffs_leave_to_bitfit_what_it_has():
    for stages in (["bias,diff"], ["bias", "diff"]):
        model = tiny()
        for stage in stages:
            add_delta(model, stage, density=0.1)
        changed = delta_of(model).parts["diff"].changes
        assert changed and not any(name.endswith(".bias") for name in changed)
    alone = tiny()
    add_delta(alone, "diff", density=0.1)
    assert f"{QUERY}.bias" in delta_of(alone).parts["diff"].changes


def test_a_diff_and_an_update_share_a_matrix():
    model = tiny()
    add_delta(model, "diff", mask=mask_of(model, f"{QUERY}.weight"))
    add_delta(model, "lora", lora_rank=2)
    assert type(model.get_submodule(QUERY).base_layer).__name__ == "DiffLinear"
    both = outputs(model)
    disable(model, "diff")
    disable(model, "lora")
    enable(model, "lora")
    enable(model, "diff")
    assert torch.equal(outputs(model), both)


def test_masks_that_cannot_be():
    model = tiny()
    word = "bert.embeddings.word_embeddings.weight"
    with pytest.raises(ValueError, match="tied to another weight"):
        add_delta(model, "diff", mask=mask_of(model, word))
    with pytest.raises(OptionError, match="mask.*lacks 1"):
        add_delta(model, "diff", mask=mask_of(tiny_model("gpt2"), "transformer.wte.weight"))
    with pytest.raises(OptionError, match="no position"):
        add_delta(model, "diff", mask=SparseDiff({}))
    with pytest.raises(OptionError, match="no parameter is left"):
        add_delta(model, "bias,diff", mask=mask_of(model, f"{QUERY}.bias"))
    # untied, a mask may change embeddings
    untied = tiny("bert", "ForSequenceClassification")
    add_delta(untied, "diff", mask=mask_of(untied, word, "bert.embeddings.LayerNorm.weight"))
    train_a_step(untied)


@pytest.mark.parametrize("family", ["gpt2", "t5", "distilbert", "albert"])
def test_families_that_are_not_known(family):
    model = tiny_model(family)
    with pytest.raises(ValueError, match=f"{type(model).__name__}.*of no known family"):
        add_delta(model, "adapter")
    with pytest.raises(ValueError, match="of no known family"):
        DeltaBank(model)


def test_a_decoder_is_refused():
    model = tiny()
    model.config.is_decoder = True
    with pytest.raises(ValueError, match="is a decoder"):
        add_delta(model, "prompt")


def test_one_function_adds_a_family():
    model = tiny_model("distilbert", dtype=torch.float32)

    def places(encoder):
        return Places("embeddings", (), tuple(f"transformer.layer.{n}.ffn" for n in range(2)))

    register_family("distilbert", places)
    try:
        add_delta(model, "bias,prompt", prompt_num=3)
        with pytest.raises(ValueError, match="prompt_ids"):
            model(batch()["input_ids"])
        with pytest.raises(ValueError, match="no places for adapters of the kind houlsby"):
            add_delta(model, "adapter")
        add_delta(model, "adapter", adapter="pfeiffer")
        model(**batch(True))["logits"].sum().backward()
        assert model.distilbert.transformer.layer[0].ffn.dropout.delta_adapter.up.weight.grad.any()
        assert delta_account(model)["methods"]["prompt"]["parameters"] == 3 * 32
    finally:
        del _FAMILIES["distilbert"]


@pytest.mark.parametrize("kind", ["ForMaskedLM", "ForSequenceClassification", "Model"])
def test_a_batch_without_prompt_ids(kind):
    model = tiny("bert", kind)
    add_delta(model, "prompt", **SMALL)
    with pytest.raises(ValueError, match="prompt is active and the batch has no prompt_ids"):
        model(**batch())
    with pytest.raises(ValueError, match="no prompt_ids"):
        model(batch()["input_ids"], batch()["attention_mask"])
    with pytest.raises(ValueError, match="prompt_ids are 0 .. 4"):
        model(batch()["input_ids"], prompt_ids=4 * (torch.arange(24).view(3, 8) == 2))
    words = torch.zeros(3, 8, 32)
    with pytest.raises(ValueError, match="has input_ids and no inputs_embeds"):
        model(inputs_embeds=words, prompt_ids=batch(True)["prompt_ids"])
    disable(model, "prompt")
    model(**batch())
    model(**batch(True))  # ignored: the words stand there
    enable(model, "prompt")
    model(**batch(True))


def test_other_things_that_change_weights():
    model = tiny()
    add_dsee(model, rank=2, num_sparse=0, sparse_method="rp")
    with pytest.raises(ValueError, match="an update of DSEE's"):
        add_delta(model, "bias")


def test_names_that_a_model_does_not_have():
    model = tiny()
    for function in (delta_of, delta_account):
        with pytest.raises(ValueError, match="has no deltas"):
            function(model)
    add_delta(model, "bias")
    with pytest.raises(ValueError, match="no method 'prompt'; it has bias"):
        disable(model, "prompt")
    disable(model, "bias")
    with pytest.raises(ValueError, match="enable bias"):
        add_delta(model, "adapter")


def stored(tmp_path, **options):
    model = tiny()
    add_delta(model, "bias,adapter", **SMALL)
    train_a_step(model)
    save_delta(model, tmp_path / "file", **options)
    return tmp_path / "file"


def test_another_base_is_refused(tmp_path):
    path = stored(tmp_path)
    other = tiny()
    with torch.no_grad():
        other.bert.embeddings.LayerNorm.weight[3] += 1e-3
    before = copy.deepcopy(other.state_dict())
    for load in (lambda: load_delta(other, path), lambda: DeltaBank(other).add("one", path)):
        with pytest.raises(ValueError, match="wrong base: .*weights are others"):
            load()
    assert same(other, before) and not has_delta(other)
    for there in (tiny("roberta"), tiny("bert", "ForSequenceClassification"), tiny("bert", "Model")):
        with pytest.raises(ValueError, match="wrong base"):
            load_delta(there, path)


def test_another_template_or_mapping_is_refused(tmp_path):
    path = stored(tmp_path, template="*cls*sent_0*mask*", mapping={"0": "bad", "1": "good"})
    model = tiny()
    for given in (dict(template="*cls*mask*"), dict(mapping={"0": "good", "1": "bad"})):
        with pytest.raises(ValueError, match="wrong (template|mapping)"):
            load_delta(model, path, **given)
        with pytest.raises(ValueError, match="wrong (template|mapping)"):
            DeltaBank(model).add("one", path, **given)
    load_delta(model, path, template="*cls*sent_0*mask*", mapping={"0": "bad", "1": "good"})
    assert delta_of(model).template == "*cls*sent_0*mask*"
    save_delta(model, tmp_path / "again")  # keeps them
    assert DeltaFile.load(tmp_path / "again").mapping == {"0": "bad", "1": "good"}
    with pytest.raises(ValueError, match="has deltas already"):
        load_delta(model, path)


# part -> what a reader says of it
MISFITS = {
    "wide prompt": (dict(prompt=Part(1, {}, {"vectors": torch.zeros(2, 31)})), "31 wide"),
    "few biases": (dict(bias=Part(1, {}, {f"{QUERY}.bias": torch.zeros(32)})), "biases are others"),
    "place": (
        dict(
            adapter=Part(
                1,
                {},
                {
                    "bert.x.down.weight": torch.zeros(2, 32),
                    "bert.x.down.bias": torch.zeros(2),
                    "bert.x.up.weight": torch.zeros(32, 2),
                    "bert.x.up.bias": torch.zeros(32),
                },
            )
        ),
        "no place for an adapter at bert.x",
    ),
    "position table": (
        dict(
            lora=Part(
                1,
                {"scale": 1.0},
                {
                    "bert.embeddings.position_embeddings.weight.down": torch.zeros(2, 32),
                    "bert.embeddings.position_embeddings.weight.up": torch.zeros(40, 2),
                },
            )
        ),
        "position_embeddings",
    ),
}


@pytest.mark.parametrize("case", MISFITS, ids=str)
def test_files_that_fit_their_base_and_no_model(case, tmp_path):
    parts, said = MISFITS[case]
    model = tiny()
    add_delta(copy.deepcopy(model), "bias")
    base = add_delta(copy.deepcopy(model), "bias").base
    DeltaFile(base, parts).save(tmp_path / "file")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=said):
        load_delta(model, tmp_path / "file")
    assert same(model, before) and not has_delta(model)
    bank = DeltaBank(model)
    with pytest.raises(ValueError, match=said):
        bank.add("one", tmp_path / "file")
    assert same(model, before) and bank.tasks == []


def test_a_task_head_of_other_labels_changes_nothing(tmp_path):
    three = tiny("bert", "ForSequenceClassification")
    three.classifier, three.num_labels = torch.nn.Linear(32, 3), 3
    add_delta(three, "bias,lora,adapter", **SMALL)
    train_a_step(three)
    save_delta(three, tmp_path / "three")
    model = tiny("bert", "ForSequenceClassification")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="as many labels"):
        load_delta(model, tmp_path / "three")
    assert same(model, before) and not has_delta(model)
