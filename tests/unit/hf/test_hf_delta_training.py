"""Methods under the stock Trainer, recomputation and compiled graphs; checkpoints and resuming; the bank."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_delta import PROMPT, SMALL, batch, labels_for, outputs, tiny, train_a_step  # isort: skip
from transformers import Trainer, TrainingArguments  # isort: skip

pytest.importorskip("peft")
from dsp_plugin.delta.stages import METHODS
from dsp_plugin.hf.delta import (
    DeltaBank,
    DeltaTrainer,
    add_delta,
    delta_account,
    delta_of,
    disable,
    enable,
    load_delta,
    save_delta,
)
from dsp_plugin.hf.delta.checkpoints import FILE
from dsp_plugin.hf.delta.prompting import PromptingModel

CLASSIFIER = "ForSequenceClassification"
THREE = ("prompt", "bias", "adapter")


def rows(number=12, prompt=True):
    generator = torch.Generator().manual_seed(2)
    ids = torch.randint(3, 40, (number, 8), generator=generator)
    places = torch.tensor([0, 1, 2, 3, 0, 0, 0, 0])
    found = [{"input_ids": row, "labels": int(row[4] > 20)} for row in ids]
    return [{**row, "prompt_ids": places} for row in found] if prompt else found


def trainer(model, folder, steps, kind=Trainer, **more):
    options = dict(
        max_steps=steps,
        save_steps=2,
        learning_rate=1e-2,
        per_device_train_batch_size=3,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        logging_strategy="no",
        save_strategy="steps",
        seed=1,
    )
    args = TrainingArguments(str(folder), **{**options, **more})
    return kind(model, args, train_dataset=rows(), eval_dataset=rows(4))


@pytest.mark.parametrize("kind", [Trainer, DeltaTrainer], ids=["stock", "small checkpoints"])
def test_a_training_goes_on_where_it_was_stopped(kind, tmp_path):
    base = tiny("bert", CLASSIFIER)
    whole, halved = copy.deepcopy(base), copy.deepcopy(base)
    add_delta(whole, METHODS, **SMALL)
    trainer(whole, tmp_path / "whole", 4, kind).train()
    add_delta(halved, METHODS, **SMALL)
    trainer(halved, tmp_path / "halved", 4, kind).train()
    again = copy.deepcopy(base)
    add_delta(again, METHODS, **SMALL)
    checkpoint = tmp_path / "halved" / "checkpoint-2"
    trainer(again, tmp_path / "halved", 4, kind).train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(outputs(again.eval(), True), outputs(whole.eval(), True))
    assert not torch.equal(outputs(whole, True), outputs(add_all(base), True))
    if kind is DeltaTrainer:
        assert (checkpoint / FILE).is_file() and not (checkpoint / "model.safetensors").exists()


def add_all(base):
    model = copy.deepcopy(base)
    add_delta(model, METHODS, **SMALL)
    return model


def test_the_best_checkpoint_is_taken(tmp_path):
    model = tiny("bert", CLASSIFIER)
    add_delta(model, THREE, **SMALL)
    best = dict(eval_strategy="steps", eval_steps=2, load_best_model_at_end=True)
    one = trainer(model, tmp_path, 6, DeltaTrainer, learning_rate=0.3, **best)
    one.train()
    again = tiny("bert", CLASSIFIER)
    load_delta(again, f"{one.state.best_model_checkpoint}/{FILE}")
    assert torch.equal(outputs(again, True), outputs(model.eval(), True))


@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable:FutureWarning")
@pytest.mark.parametrize("methods", [METHODS, ("adapter",)], ids=["all", "adapter"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputation_gives_the_same_gradients(reentrant, methods):
    plain = tiny("bert", CLASSIFIER)
    add_delta(plain, methods, **SMALL)
    again = copy.deepcopy(plain)
    again.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    for model in (plain, again):
        model.train()
        torch.manual_seed(0)
        model(**batch("prompt" in methods), labels=labels_for(model)).loss.backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), again.named_parameters()):
        assert (one.grad is None) == (other.grad is None) == (not one.requires_grad), name
        if one.requires_grad:
            torch.testing.assert_close(one.grad, other.grad)


def saved_bytes(model, prompt=False):
    """What the forward keeps for the backward, each storage once."""
    found = {}

    def pack(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    own = {one.untyped_storage().data_ptr() for one in (*model.parameters(), *model.buffers())}
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch(prompt), labels=labels_for(model)).loss
    assert loss.requires_grad
    return sum(size for place, size in found.items() if place not in own)


def test_nothing_is_kept_for_what_is_frozen():
    full, updated, later = (tiny("bert", CLASSIFIER) for _ in range(3))
    biases = copy.deepcopy(full)
    add_delta(biases, "bias")
    assert saved_bytes(biases) < 0.8 * saved_bytes(full)
    options = dict(lora_rank=4, lora_targets=("query", "value", "output"))
    add_delta(updated, "bias,lora", **options)
    add_delta(later, "lora", **options)
    add_delta(later, "bias")
    assert saved_bytes(biases) == saved_bytes(later) < saved_bytes(updated)
    head = tiny("bert", CLASSIFIER)
    add_delta(head, "adapter", adapter="pfeiffer")
    for layer in (0, 1):  # below the first place that learns nothing is kept
        for parameter in head.bert.encoder.layer[layer].output.dropout.parameters():
            parameter.requires_grad_(layer == 1)
    assert saved_bytes(head) < 0.7 * saved_bytes(biases)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra"])
def test_label_words_are_learnt_at_the_mask(family, tmp_path):
    base = tiny(family)
    model = copy.deepcopy(base)
    add_delta(model, THREE, **SMALL)
    answering = PromptingModel(model, [7, 9])
    data = [{**row, "mask_pos": 5} for row in rows()]
    args = TrainingArguments(
        str(tmp_path), max_steps=2, save_steps=1, learning_rate=0.05, use_cpu=True, report_to=[]
    )
    DeltaTrainer(answering, args, train_dataset=data).train()
    inputs = batch(True)
    with torch.no_grad():
        found = answering.eval()(**inputs, mask_pos=torch.tensor([2, 4, 3])).logits
        whole = model(**inputs).logits[torch.arange(3), torch.tensor([2, 4, 3])][:, [7, 9]]
    torch.testing.assert_close(found, whole)
    again = copy.deepcopy(base)
    load_delta(again, tmp_path / "checkpoint-2" / FILE)
    assert torch.equal(outputs(again, True), outputs(model, True))
    assert not torch.equal(outputs(again, True), outputs(add_all(base), True))
    with pytest.raises(ValueError, match="has no prompt_ids"):
        answering(**batch(), mask_pos=torch.tensor([2, 4, 3]))


@pytest.mark.parametrize("methods", [("prompt",), ("bias", "adapter", "diff"), METHODS], ids=",".join)
def test_compiled_graphs_compute_the_same(methods):
    model = tiny("bert", CLASSIFIER)
    add_delta(model, methods, **SMALL)
    train_a_step(model, "prompt" in methods)
    compiled = torch.compile(model, backend="aot_eager")
    inputs = batch("prompt" in methods)
    labels = labels_for(model)
    model.zero_grad()
    model(**inputs, labels=labels).loss.backward()
    expected = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad()
    found = compiled(**inputs, labels=labels)
    found.loss.backward()
    torch.testing.assert_close(found.logits, model(**inputs).logits)
    for name, gradient in expected.items():
        torch.testing.assert_close(model.get_parameter(name).grad, gradient)
    torch._dynamo.reset()


def test_dropout_is_on_in_training_and_off_in_evaluation():
    model = tiny("bert", CLASSIFIER)
    add_delta(model, THREE, **SMALL)
    model.train()
    assert all(part.training for part in model.modules())
    assert not torch.equal(outputs(model, True), outputs(model, True))
    disable(model, "adapter")
    model.eval()
    enable(model, "adapter")
    assert not any(part.training for part in model.modules())
    assert torch.equal(outputs(model, True), outputs(model, True))


def test_other_devices_and_types_follow_the_model():
    model = tiny("bert", CLASSIFIER)
    add_delta(model, THREE, **SMALL)
    train_a_step(model, True)
    expected = outputs(model, True)
    model.double()
    torch.testing.assert_close(outputs(model, True).float(), expected, rtol=1e-4, atol=1e-5)
    for name in THREE:
        disable(model, name)
    model.float().double()  # what is off does not follow at once
    for name in THREE:
        enable(model, name)
    torch.testing.assert_close(outputs(model, True).float(), expected, rtol=1e-4, atol=1e-5)
    for name in THREE:
        disable(model, name)
    model.float()
    for name in THREE:
        enable(model, name)
    torch.testing.assert_close(outputs(model, True).float(), expected, rtol=1e-4, atol=1e-5)


def test_the_account():
    model = tiny("bert", CLASSIFIER)
    add_delta(model, "prompt,adapter", **SMALL)
    add_delta(model, "lora", **SMALL)
    found = delta_account(model)
    assert found["methods"]["prompt"] == {"parameters": PROMPT * 32, "stage": 1, "on": True}
    assert found["methods"]["lora"] == {"parameters": 2 * 2 * (32 + 32), "stage": 2, "on": True}
    assert found["trained"] == found["methods"]["lora"]["parameters"] + found["task_head"]
    assert found["added"] == sum(one["parameters"] for one in found["methods"].values())
    assert found["share"] == found["added"] / delta_of(model).base.total
    disable(model, "lora")
    assert delta_account(model)["trained"] == found["task_head"]


def test_many_tasks_are_switched_on_one_base(tmp_path):
    base = tiny("bert", CLASSIFIER)
    kinds = {
        "all": METHODS,
        "prompt": ("prompt",),
        "others": ("bias", "lora", "diff"),
        "adapter": ("adapter",),
    }
    expected = {None: outputs(base)}
    for number, (name, methods) in enumerate(kinds.items()):
        model = copy.deepcopy(base)
        add_delta(model, methods, **{**SMALL, "seed": number})
        train_a_step(model, "prompt" in methods)
        if name == "others":
            disable(model, "lora")
        save_delta(model, tmp_path / name)
        expected[name] = outputs(model, "prompt" in methods)
    before = copy.deepcopy(base.state_dict())
    bank = DeltaBank(base)
    for name in kinds:
        bank.add(name, tmp_path / name)
    order = [None, *kinds, "all", None, "adapter", "others", "prompt", "prompt", None]
    for name in order:
        bank.switch(name)
        assert bank.task == name
        assert torch.equal(outputs(base, "prompt" in kinds.get(name, ())), expected[name]), name
    after = base.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    bank.switch("all")
    bank.remove("all")
    assert bank.task is None and bank.tasks == ["prompt", "others", "adapter"]
    assert torch.equal(outputs(base), expected[None])
    with pytest.raises(ValueError, match="no task 'all'"):
        bank.switch("all")
    with pytest.raises(ValueError, match="already"):
        bank.add("prompt", tmp_path / "prompt")
    assert not any(one.requires_grad for one in base.parameters())


def test_tasks_with_other_numbers_of_labels(tmp_path):
    three = tiny("bert", CLASSIFIER)
    three.classifier = torch.nn.Linear(32, 3)
    add_delta(three, "adapter", **SMALL)
    save_delta(three, tmp_path / "three")
    base = tiny("bert", CLASSIFIER)
    bank = DeltaBank(base)
    bank.add("three", tmp_path / "three")
    bank.switch("three")
    assert torch.equal(outputs(base), outputs(three)) and outputs(base).shape[1] == 3
    bank.switch(None)
    assert outputs(base).shape[1] == 2
    with pytest.raises(ValueError, match="as many labels"):
        load_delta(tiny("bert", CLASSIFIER), tmp_path / "three")
