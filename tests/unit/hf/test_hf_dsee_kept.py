"""What a stored update keeps of the live model: text, dropout, zeros of the base's own, structure in ONNX."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip

peft = pytest.importorskip("peft")
from hf_dsee import as_trained, outputs  # isort: skip

from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainerCallback, TrainingArguments

from dsp_plugin.dsee.measuring import flops_of
from dsp_plugin.hf import export_dense, export_onnx, save_pruned
from dsp_plugin.hf.dsee import (
    GradualPruning,
    add_dsee,
    dsee_of,
    load_dsee,
    merge_dsee,
    prune_units,
    prune_weights,
    save_dsee,
)
from dsp_plugin.hf.dsee.checkpoints import DseeTrainer
from dsp_plugin.hf.dsee.layer import dsee_layers
from dsp_plugin.options.errors import OptionError


def updated(family="bert", **more):
    model = tiny_model(family)
    add_dsee(model, rank=3, num_sparse=4, **more)
    as_trained(model)
    return model


def test_greedy_text_of_a_stored_update_is_that_of_the_live_model(tmp_path):
    base = tiny_model("gpt2")
    live = copy.deepcopy(base)
    add_dsee(live, rank=3, num_sparse=4)
    as_trained(live)
    prune_units(live, prune_heads_num=1, neurons=0.4, group=4)
    prune_weights(live, 0.2, 0.2)
    words = torch.arange(4, 10)[None]
    how = dict(max_new_tokens=12, do_sample=False, pad_token_id=0)
    told = live.eval().generate(words, **how)
    save_dsee(live, tmp_path / "task.dsee.safetensors")
    stored = copy.deepcopy(base)
    load_dsee(stored, tmp_path / "task.dsee.safetensors")
    assert torch.equal(stored.eval().generate(words, **how), told)
    assert torch.equal(merge_dsee(stored).generate(words, **how), told)
    assert not torch.equal(base.eval().generate(words, **how), told)


def test_a_structured_merged_model_runs_in_onnx_runtime(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = updated()
    prune_units(model, prune_heads_num=1, neurons=0.4, group=4)
    expected = outputs(model)
    merge_dsee(model)
    certificate = export_onnx(model.eval(), tmp_path / "onnx")
    assert certificate.largest_difference <= certificate.tolerance < 1e-3
    assert onnxruntime.InferenceSession(next((tmp_path / "onnx").glob("*.onnx")))
    assert torch.allclose(outputs(model), expected, atol=1e-5)


@pytest.mark.parametrize("write", [save_pruned, export_dense])
def test_folders_that_hold_no_update_are_not_written_of_a_model_with_one(write, tmp_path):
    model = updated()
    prune_units(model, prune_heads_num=1)
    before = outputs(model)
    with pytest.raises(ValueError, match="has an update beside it.* merge it first"):
        write(model, tmp_path / "folder")
    assert not (tmp_path / "folder").exists() and torch.equal(outputs(model), before)
    merge_dsee(model)
    write(model, tmp_path / "folder")


def test_the_dropout_of_a_lora_is_stored(tmp_path):
    base = tiny_model("bert")
    config = peft.LoraConfig(r=2, lora_dropout=0.25, target_modules=["query", "value"])
    peft.get_peft_model(copy.deepcopy(base), config).save_pretrained(tmp_path / "lora")
    model = copy.deepcopy(base)
    add_dsee(model, lora=tmp_path / "lora", num_sparse=4)
    save_dsee(model, tmp_path / "task.dsee.safetensors")
    load_dsee(base, tmp_path / "task.dsee.safetensors")
    for one in (model, base):
        assert {layer.lora_dropout["default"].p for layer in dsee_layers(one).values()} == {0.25}


def test_a_pruned_weight_that_was_trained_is_not_stored_as_zero(tmp_path):
    model = updated()
    prune_weights(model, 0.3, 0.3)
    name, mask = next(iter(dsee_of(model).masks.items()))
    module = model.get_submodule(name.removesuffix(".weight"))
    with torch.no_grad():
        getattr(module, "base_layer", module).weight[~mask.mask()] += 0.1
    with pytest.raises(ValueError, match=f"{name} has weights that were pruned and are not 0"):
        save_dsee(model, tmp_path / "task.dsee.safetensors")
    assert not list(tmp_path.iterdir())


def test_an_unknown_score_of_heads_is_refused_where_only_neurons_go():
    with pytest.raises(OptionError, match="prune_mode.* must be one of ABS, WABS"):
        prune_units(updated(), neurons=0.3, group=4, mode="XX")


SIZES = dict(vocab_size=60, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4)
SIZES |= dict(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


class Rows(Dataset):
    def __len__(self):
        return 16

    def __getitem__(self, row):
        words = torch.randint(4, 40, (6,), generator=torch.Generator().manual_seed(row))
        return {"input_ids": words, "labels": row % 2}


class Stop(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step == 4


@pytest.mark.parametrize("zeros", [0.0, 0.2, 0.6])
def test_gradual_pruning_goes_on_beside_zeros_of_the_base_s_own(zeros, tmp_path):
    def made():
        torch.manual_seed(3)
        model = BertForSequenceClassification(BertConfig(**SIZES))
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() == 2 and "layer" in name:
                    weight[torch.rand(weight.shape, generator=generator) < zeros] = 0
        add_dsee(model, rank=3, num_sparse=4, sparse_method="omp")
        as_trained(model)
        return model

    def trained(folder, stops=False, **how):
        model = made()
        args = TrainingArguments(
            str(tmp_path / folder),
            max_steps=8,
            save_steps=4,
            per_device_train_batch_size=2,
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        )
        calls = [GradualPruning(model, 0.4, 0.4, "ABS", 0, 8), *([Stop()] if stops else [])]
        DseeTrainer(model, args, train_dataset=Rows(), callbacks=calls).train(**how)
        return {name: mask.bits for name, mask in dsee_of(model).masks.items()}

    whole = trained("whole")
    trained("stopped", stops=True)
    resumed = trained("stopped", resume_from_checkpoint=str(tmp_path / "stopped/checkpoint-4"))
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[n], resumed[n]) for n in whole)


def test_operations_are_counted_in_attention_too():
    """2 m n k of every product: projections, and both of attention, whichever kernel runs it."""
    rows, length = 3, 8
    counts = set()
    for kernel in ("eager", "sdpa"):
        model = tiny_model("bert").eval()
        model.set_attn_implementation(kernel)
        config = model.config
        words = torch.randint(4, 40, (rows, length))
        counts.add(flops_of(lambda: model(words)))
    width, layers = config.hidden_size, config.num_hidden_layers
    linear = 4 * width * width + 2 * width * config.intermediate_size
    attention = 2 * width * length
    head = width * width + width * config.num_labels  # the pooler and the classifier, of one token
    assert counts == {2 * rows * (length * layers * (linear + attention) + head)}
