"""LoRA of PEFT's, trained elsewhere, read and written; training by the stock Trainer; gradual pruning."""

from __future__ import annotations

import copy
import json

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import batch_of, logits, tiny_model  # isort: skip

pytest.importorskip("peft")
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainingArguments

from dsp_plugin.hf.dsee import (
    GradualPruning,
    add_dsee,
    dsee_of,
    load_dsee,
    merge_dsee,
    prune_units,
    prune_weights,
    save_dsee,
    save_lora,
)
from dsp_plugin.hf.dsee.layer import dsee_layers


def outputs(model):
    with torch.no_grad():
        return logits(model, batch_of(model))


def close(one, other):
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


@torch.no_grad()
def as_trained(model):
    generator = torch.Generator().manual_seed(4)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "original_module" not in name:
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))


def peft_folder(family, folder, **options):
    """A LoRA of PEFT's in a folder, and what the model with it puts out."""
    given = {"r": 3, "lora_alpha": 6, "task_type": "SEQ_CLS", "target_modules": ["query", "value"], **options}
    model = get_peft_model(tiny_model(family), LoraConfig(**given), autocast_adapter_dtype=False)
    as_trained(model)
    model.save_pretrained(folder)
    return outputs_of_peft(model.eval())


def outputs_of_peft(model):
    return outputs(model.get_base_model())


@pytest.mark.parametrize("rslora", [False, True])
def test_a_lora_trained_elsewhere_starts_stage_two(rslora, tmp_path):
    expected = peft_folder("bert", tmp_path, use_rslora=rslora)
    model = tiny_model("bert")
    add_dsee(model, num_sparse=4, lora=tmp_path)
    close(outputs(model), expected)
    assert len(dsee_layers(model)) == 4
    assert all(len(layer.dsee_values) == 4 for layer in dsee_layers(model).values())
    before = copy.deepcopy(model)
    prune_weights(model, 0.2, 0.2, "ABS")
    prune_units(before, prune_heads_num=1)
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    again = tiny_model("bert")
    load_dsee(again, tmp_path / "task.dsee.safetensors")
    close(outputs(again), outputs(model))


def test_a_lora_on_other_matrices_takes_its_own_as_targets(tmp_path):
    expected = peft_folder("bert", tmp_path, target_modules=["key", "intermediate.dense"])
    model = tiny_model("bert")
    add_dsee(model, num_sparse=4, lora=tmp_path)
    close(outputs(model), expected)
    assert [target.path.split(".")[-2:] for target in dsee_of(model).targets[:2]] == [
        ["self", "key"],
        ["intermediate", "dense"],
    ]
    close(outputs(merge_dsee(model)), expected)


def test_a_lora_on_the_whole_joint_matrix_of_gpt2_changes_its_key_too(tmp_path):
    expected = peft_folder(
        "gpt2", tmp_path, target_modules=["c_attn"], task_type="CAUSAL_LM", fan_in_fan_out=True
    )
    model = tiny_model("gpt2")
    add_dsee(model, num_sparse=4, lora=tmp_path)
    close(outputs(model), expected)
    assert next(iter(dsee_layers(model).values())).dsee_live is None


@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2"])
def test_peft_reads_what_is_written(family, tmp_path):
    base = tiny_model(family)
    model = copy.deepcopy(base)
    add_dsee(model, rank=3, alpha=6, num_sparse=0)
    as_trained(model)
    if family == "gpt2":
        with torch.no_grad():
            for layer in dsee_layers(model).values():
                layer.lora_B["default"].weight.mul_(layer.dsee_live[:, None])
    save_lora(model, tmp_path / "lora")
    config = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    last = {"bert": ["query", "value"], "gpt2": ["c_attn"], "deberta-v2": ["query_proj", "value_proj"]}
    assert sorted(config["target_modules"]) == last[family]
    theirs = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "lora", autocast_adapter_dtype=False)
    close(outputs_of_peft(theirs.eval()), outputs(model))
    again = copy.deepcopy(base)
    add_dsee(again, num_sparse=2, lora=tmp_path / "lora")
    close(outputs(again), outputs(model))
    assert dsee_of(again).targets == dsee_of(model).targets


def test_loras_that_cannot_be_are_refused_by_name(tmp_path):
    def refused(said, **options):
        peft_folder("bert", tmp_path / "lora", **options)
        model = tiny_model("bert")
        with pytest.raises(ValueError, match=said):
            add_dsee(model, lora=tmp_path / "lora")
        assert not dsee_layers(model)

    refused("use_dora", use_dora=True)
    peft_folder("bert", tmp_path / "lora")
    config = tmp_path / "lora" / "adapter_config.json"
    for start in ("pissa", "pissa_niter_4", "olora", "eva"):  # as PEFT notes them
        config.write_text(json.dumps({**json.loads(config.read_text()), "init_lora_weights": start}))
        with pytest.raises(ValueError, match=f"init_lora_weights={start}"):
            add_dsee(tiny_model("bert"), lora=tmp_path / "lora")
    refused("rank_pattern", rank_pattern={"layer.0.attention.self.query": 2})
    peft_folder("bert", tmp_path / "lora")
    with pytest.raises(ValueError, match="another model"):
        add_dsee(tiny_model("gpt2"), lora=tmp_path / "lora")
    with pytest.raises(FileNotFoundError, match="adapter_config.json"):
        add_dsee(tiny_model("bert"), lora=tmp_path)
    with pytest.raises(ValueError, match="has not"):
        add_dsee(tiny_model("bert"), num_sparse=2, lora=tmp_path / "lora", task_head=[])
    weights = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({**tensors, name: tensors[name] * float("nan")}, weights)
    with pytest.raises(ValueError, match="not finite"):
        add_dsee(tiny_model("bert"), lora=tmp_path / "lora")
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(ValueError, match="damaged"):
        add_dsee(tiny_model("bert"), lora=tmp_path / "lora")
    (tmp_path / "lora" / "adapter_config.json").write_text('{"peft_type": "IA3"}')
    with pytest.raises(ValueError, match="IA3"):
        add_dsee(tiny_model("bert"), lora=tmp_path / "lora")


def data(model, count=24):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(3, 40, (count, 6), generator=generator)
    return [{"input_ids": row, "labels": int(row[0] > 20)} for row in rows]


def trainer(model, folder, callbacks=(), **options):
    given = dict(per_device_train_batch_size=8, max_steps=6, learning_rate=1e-2, report_to=[], save_steps=3)
    args = TrainingArguments(folder, use_cpu=True, disable_tqdm=True, **{**given, **options})
    return Trainer(model, args, train_dataset=data(model), callbacks=list(callbacks))


def test_the_stock_trainer_trains_all_three_stages_and_resumes(tmp_path):
    base = tiny_model("bert", dtype=torch.float32)
    model = copy.deepcopy(base)
    add_dsee(model, rank=4, num_sparse=8, seed=1)
    trainer(model, tmp_path / "one").train()
    assert all(layer.dsee_values.abs().min() > 0 for layer in dsee_layers(model).values())
    prune_weights(model, 0.2, 0.2)
    start = copy.deepcopy(model)
    trainer(model, tmp_path / "three").train()
    trainer(start, tmp_path / "three").train(resume_from_checkpoint=str(tmp_path / "three" / "checkpoint-3"))
    for (name, one), two in zip(model.named_parameters(), start.parameters()):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-6, msg=name)
    for name, mask in dsee_of(model).masks.items():
        module = dict(model.named_modules())[name.removesuffix(".weight")]
        assert not getattr(module, "base_layer", module).weight[~mask.mask()].any()
    prune_units(model, prune_heads_num=1)
    trainer(model, tmp_path / "four").train()
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    load_dsee(base, tmp_path / "task.dsee.safetensors")
    model.eval()
    torch.testing.assert_close(outputs(base), outputs(model), rtol=0, atol=1e-6)


def test_gradual_pruning_reaches_its_shares_and_goes_on_after_a_resume(tmp_path):
    def run(model, **resume):
        callback = GradualPruning(model, 0.4, 0.2, "W", first=0, last=6)
        trainer(model, tmp_path / "run", [callback]).train(**resume)
        return dsee_of(model).masks

    model = tiny_model("bert", dtype=torch.float32)
    add_dsee(model, rank=4, num_sparse=8)
    start = copy.deepcopy(model)
    masks = run(model)
    gone = {name: int((~mask.mask()).sum()) for name, mask in masks.items()}
    both = [[gone[n] for n in gone if (".query." in n or ".value." in n) == adapted] for adapted in (0, 1)]
    sizes = [[m.size for n, m in masks.items() if (".query." in n or ".value." in n) == on] for on in (0, 1)]
    assert [sum(part) for part in both] == [
        int(ratio * sum(size) + 0.5) for ratio, size in zip((0.4, 0.2), sizes)
    ]
    assert run(start, resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3")) == masks
