"""Finetuning at fixed positions: against stock AdamW on the same values, and nothing else moves."""

from __future__ import annotations

import copy
import gc
import io

import pytest
import torch
from diff_models import HEAD, batch, tiny, train_step
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from dsp_plugin.diffs.sparse import SparseDiff
from dsp_plugin.diffs.training.fixmask import FixMaskAdamW
from dsp_plugin.diffs.training.optimizer import DiffAdamW
from dsp_plugin.diffs.training.vector import DiffVector


def mask(dtype=torch.float32):
    entries = {
        "embeddings.weight": (torch.tensor([0, 5, 41]), torch.tensor([0.25, -0.5, 0.125], dtype=dtype)),
        "layer.0.bias": (torch.tensor([3]), torch.tensor([1.0], dtype=dtype)),
    }
    return SparseDiff(entries, {"embeddings.weight": (7, 6), "layer.0.bias": (6,)})


@pytest.mark.parametrize("max_norm", [1e9, 0.05])
def test_a_step_is_stock_adamw_on_the_kept_values(max_norm):
    model, diff = tiny(torch.float64), mask(torch.float64)
    twin, base = copy.deepcopy(model), copy.deepcopy(model.state_dict())
    optimizer = FixMaskAdamW(model, diff, base=base, task_head=HEAD, lr=0.02, max_norm=max_norm)
    values = {name: part.clone().requires_grad_() for name, (_, part) in diff.entries.items()}
    task_head = list(twin.classifier.parameters())
    stock = torch.optim.AdamW([*values.values(), *task_head], lr=0.02, weight_decay=0.0)
    for number in range(5):
        thetas = {
            name: base[name].view(-1).index_add(0, diff.entries[name][0], part).view_as(base[name])
            for name, part in values.items()
        }
        words, labels = batch(number)
        stock.zero_grad()
        logits = functional_call(twin, {**thetas, "output.weight": thetas["embeddings.weight"]}, words)
        cross_entropy(logits, labels).backward()
        torch.nn.utils.clip_grad_norm_([*values.values(), *task_head], max_norm)
        stock.step()
        train_step(model, optimizer, number)
    for name, part in values.items():
        torch.testing.assert_close(optimizer.diff().entries[name][1], part.detach())
    torch.testing.assert_close(list(model.classifier.parameters()), task_head)
    for name, parameter in model.named_parameters():  # and every other weight is the base's, to the bit
        if not name.startswith("classifier"):
            others = torch.ones(parameter.numel(), dtype=torch.bool)
            if name in diff.entries:
                others[diff.entries[name][0]] = False
            assert torch.equal(parameter.detach().view(-1)[others], base[name].view(-1)[others]), name


def test_the_state_is_as_large_as_the_mask_and_untouched_tensors_ask_for_no_gradient():
    model = tiny()
    optimizer = FixMaskAdamW(model, mask())
    train_step(model, optimizer, 0)
    assert sum(tensor.numel() for state in optimizer.state.values() for tensor in state.values()) == 3 * 4
    assert model.layer[0].weight.grad is None and model.layer[0].bias.grad is not None


def test_sparse_gradients_of_embeddings_are_as_good_as_dense_ones():
    def run(sparse):
        model = tiny()
        # tied weights get dense ones
        model.output.weight = torch.nn.Parameter(model.output.weight.detach().clone())
        model.embeddings.sparse = sparse
        optimizer = FixMaskAdamW(model, mask(), task_head=HEAD)
        train_step(model, optimizer, 0)
        assert model.embeddings.weight.grad.is_sparse == sparse
        return optimizer.values

    assert torch.equal(run(True), run(False))


def test_one_model_takes_one_mask_after_the_other():
    model, base = tiny(), tiny().state_dict()
    FixMaskAdamW(model, mask(), base=base, task_head=HEAD)
    other = SparseDiff({"layer.1.bias": (torch.tensor([2]), torch.tensor([0.5]))}, {"layer.1.bias": (6,)})
    train_step(model, FixMaskAdamW(model, other, base=base, task_head=HEAD), 0)
    assert torch.equal(model.embeddings.weight, base["embeddings.weight"])
    assert (model.layer[1].bias != base["layer.1.bias"]).nonzero().tolist() == [[2]]


def test_an_optimizer_that_is_collected_while_another_one_steps_says_nothing():
    model, base = tiny(), tiny().state_dict()
    watch = FixMaskAdamW(model, mask(), base=base, task_head=HEAD)._foreign  # outlives its optimizer
    gc.collect()
    train_step(model, FixMaskAdamW(model, mask(), base=base, task_head=HEAD), 0)
    assert watch is not None


def test_after_a_diff_was_trained_in_the_model_it_wants_the_base_and_the_vector_gone():
    model, base = tiny(), tiny().state_dict()
    vector = DiffVector(model, task_head=HEAD)
    train_step(model, DiffAdamW(vector, lr=0.1), 0)
    with pytest.raises(ValueError, match="a DiffVector is attached"):
        FixMaskAdamW(model, mask(), base=base, task_head=HEAD)
    vector.detach()
    trained = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match="not the base's: give base="):
        FixMaskAdamW(model, mask(), task_head=HEAD)
    assert all(torch.equal(tensor, trained[name]) for name, tensor in model.state_dict().items())
    FixMaskAdamW(model, mask(), base=base, task_head=HEAD)
    with pytest.raises(ValueError, match="not the base's: give base="):
        FixMaskAdamW(model, mask(), task_head=HEAD)


def test_a_buffer_that_training_changed_is_told_of():
    model = tiny()
    optimizer = FixMaskAdamW(model, mask(), task_head=HEAD)
    optimizer.diff()
    model.scale.add_(1)
    with pytest.warns(UserWarning, match=r"1 of the model.s buffers changed in training \(scale\)"):
        optimizer.diff()


def test_it_starts_at_the_values_or_at_the_base_whatever_the_model_held():
    base = tiny().state_dict()
    for from_zero in (False, True):
        model = tiny(seed=9)
        FixMaskAdamW(model, mask(), base=base, task_head=HEAD, from_zero=from_zero)
        change = (model.embeddings.weight - base["embeddings.weight"]).view(-1)
        assert change.nonzero().squeeze(1).tolist() == ([] if from_zero else [0, 5, 41])
        assert torch.equal(model.layer[1].weight, base["layer.1.weight"])


def test_resumed_is_uninterrupted_bit_for_bit():
    base = {name: tensor.clone() for name, tensor in tiny().state_dict().items()}

    def start():
        model = tiny()
        return model, FixMaskAdamW(model, mask(), base=base, task_head=HEAD, lr=0.02)

    model, optimizer = start()
    for number in range(3):
        train_step(model, optimizer, number)
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    for number in range(3, 6):
        train_step(model, optimizer, number)
    file.seek(0)
    theta, state = torch.load(file, weights_only=True)
    again, other = start()
    again.load_state_dict(theta)
    other.load_state_dict(state)
    for number in range(3, 6):
        train_step(again, other, number)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())

    moved = mask()
    moved.entries["layer.0.bias"] = (torch.tensor([2]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="another mask"):
        FixMaskAdamW(tiny(), moved, base=base, task_head=HEAD).load_state_dict(state)
    with pytest.raises(ValueError, match="another base"):
        FixMaskAdamW(tiny(seed=8), mask(), task_head=HEAD).load_state_dict(state)
    three = tiny()
    three.classifier = torch.nn.Linear(6, 3)
    with pytest.raises(ValueError, match=r"head has the shape \[2, 6\], here \[3, 6\]"):
        FixMaskAdamW(three, mask(), base=base, task_head=HEAD).load_state_dict(state)
    with pytest.raises(ValueError, match="not the state"):
        other.load_state_dict(torch.optim.AdamW(tiny().parameters()).state_dict())


def test_masks_of_another_model_are_refused_before_a_weight_changes():
    one = torch.ones(1)
    for diff, message in [
        (SparseDiff({"layer.7.bias": (torch.tensor([0]), one)}, {"layer.7.bias": (6,)}), "no parameter"),
        (
            SparseDiff({"layer.0.bias": (torch.tensor([0]), one)}, {"layer.0.bias": (8,)}),
            r"shape \[8\] there",
        ),
        (SparseDiff({"layer.0.bias": (torch.tensor([0]), one / 0)}, {"layer.0.bias": (6,)}), "finite"),
        (
            SparseDiff({"classifier.bias": (torch.tensor([0]), one)}, {"classifier.bias": (2,)}),
            "no parameter",
        ),
        (SparseDiff({}), "no position"),
    ]:
        model = tiny()
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(ValueError, match=message):
            FixMaskAdamW(model, diff, base=tiny(seed=7).state_dict(), task_head=HEAD)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert all(parameter.requires_grad for parameter in model.parameters())
