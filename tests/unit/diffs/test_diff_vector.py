"""Training a diff: against autograd through the paper's formula, and what is in the model when."""

from __future__ import annotations

import copy
import gc
import math
import weakref

import pytest
import torch
from diff_models import HEAD, batch, tiny, train_step
from torch import nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from dsp_plugin.artefacts.base import Base
from dsp_plugin.diffs.in_training import attached_to
from dsp_plugin.diffs.packs.pack import DiffPack
from dsp_plugin.diffs.serving.bank import DiffBank
from dsp_plugin.diffs.sparse import SparseDiff
from dsp_plugin.diffs.training.optimizer import DiffAdamW
from dsp_plugin.diffs.training.passes.concrete import StretchedConcrete
from dsp_plugin.diffs.training.passes.noise import step_keys, uniform
from dsp_plugin.diffs.training.vector import DiffVector

LOW, HIGH = -1.5, 1.5
PENALTY = 1e-3  # large enough to matter in a few steps
BODY = ["embeddings.weight", "layer.0.weight", "layer.0.bias", "layer.1.weight", "layer.1.bias"]


def plain_group_of(grouping, shapes):
    """Group number of every element, name -> LongTensor of its shape, written down by hand."""
    numbers, count = {}, 0
    for name in BODY:
        shape = shapes[name]
        rows = shape[0] if grouping == "neuron" and len(shape) == 2 else 1
        numbers[name] = (torch.arange(rows) + count).view(-1, *[1] * (len(shape) - 1)).expand(shape)
        count += rows
    return numbers, count


class Naive:
    """The paper's formulas with autograd through the mask, one leaf a tensor, stock AdamW and clipping;
    float64.
    """

    def __init__(self, model, grouping, form, seed, lr, max_norm):
        self.model, self.grouping, self.form, self.seed, self.max_norm = model, grouping, form, seed, max_norm
        self.base = {name: p.detach().clone() for name, p in model.named_parameters() if name in BODY}
        self.w = {name: torch.zeros_like(p, requires_grad=True) for name, p in self.base.items()}
        self.alpha = {name: torch.full_like(p, 5.0).requires_grad_() for name, p in self.base.items()}
        self.group_of, groups = plain_group_of(grouping, {name: p.shape for name, p in self.base.items()})
        self.group_alpha = torch.full((groups,), 5.0, dtype=torch.float64, requires_grad=True)
        self.task_head = [p for name, p in model.named_parameters() if name.startswith("classifier")]
        self.adam_w = torch.optim.AdamW([*self.w.values(), *self.task_head], lr=lr, weight_decay=0.0)
        self.adam_alpha = torch.optim.AdamW(
            [*self.alpha.values(), self.group_alpha], lr=0.1, weight_decay=0.0
        )
        self.steps = 0

    def gate(self, alpha, u):
        s = torch.sigmoid(torch.logit(u) + alpha)
        return (s * (HIGH - LOW) + LOW).clamp(0, 1)

    def theta(self):
        keys, position, thetas = step_keys(self.seed, self.steps), 0, {}
        total = sum(p.numel() for p in self.base.values())
        group_gate = self.gate(self.group_alpha, uniform(total, self.group_alpha.numel(), keys).double())
        for name in BODY:
            size = self.base[name].numel()
            u = uniform(position, size, keys).double().view(self.base[name].shape)
            z = self.gate(self.alpha[name], u)
            zg = group_gate[self.group_of[name]] if self.grouping else 1.0
            thetas[name] = self.base[name] + z * zg * self.w[name]
            position += size
        return thetas

    def expected_l0(self):
        shift = math.log(-LOW / HIGH)
        opened = torch.sigmoid(self.group_alpha - shift)
        total = 0.0
        for name in BODY:
            each = torch.sigmoid(self.alpha[name] - shift)
            total = (
                total
                + (
                    each * opened[self.group_of[name]] if self.grouping and self.form == "paper" else each
                ).sum()
            )
        return total + opened.sum() if self.grouping and self.form == "additive" else total

    def step(self, number):
        words, labels = batch(number)
        thetas = self.theta()
        logits = functional_call(self.model, {**thetas, "output.weight": thetas["embeddings.weight"]}, words)
        loss = cross_entropy(logits, labels) + PENALTY * self.expected_l0()
        self.adam_w.zero_grad(), self.adam_alpha.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_([*self.w.values(), *self.task_head], self.max_norm)
        alphas = [*self.alpha.values(), self.group_alpha]
        nn.utils.clip_grad_norm_([a for a in alphas if a.grad is not None], self.max_norm)
        self.adam_w.step(), self.adam_alpha.step()
        self.steps += 1


@pytest.mark.parametrize(
    "grouping, form, max_norm",
    [("tensor", "paper", 0.02), ("neuron", "paper", 1e9), ("tensor", "additive", 1e9), (None, "paper", 0.02)],
)
def test_training_is_autograd_through_the_formula_and_two_stock_optimizers(grouping, form, max_norm):
    """w, alpha, the groups' alpha, the head and the penalty after six steps, with clipping at work and
    without.
    """
    model = tiny(torch.float64)
    naive = Naive(copy.deepcopy(model), grouping, form, seed=11, lr=0.05, max_norm=max_norm)
    vector = DiffVector(model, task_head=HEAD, grouping=grouping, penalty=PENALTY, penalty_form=form, seed=11)
    optimizer = DiffAdamW(vector, lr=0.05, max_norm=max_norm, alpha_max_norm=max_norm)
    for number in range(6):
        naive.step(number)
        train_step(model, optimizer, number)
    for mine, theirs in ((vector.w, naive.w), (vector.alpha, naive.alpha)):
        torch.testing.assert_close(
            mine, torch.cat([theirs[name].detach().view(-1) for name in BODY]), rtol=1e-9, atol=1e-9
        )
    if grouping:
        torch.testing.assert_close(vector.group_alpha, naive.group_alpha.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(list(vector.task_head.values()), naive.task_head, rtol=1e-9, atol=1e-9)
    assert vector.penalty() == pytest.approx(PENALTY * naive.expected_l0().item(), rel=1e-9)
    assert vector.w.abs().max() > 0.05 and (vector.alpha - 5).abs().max() > 0.1  # it did move


def test_tied_weights_count_once_and_buffers_and_head_are_no_diff():
    model = tiny()
    vector = DiffVector(model, task_head=HEAD)
    assert vector.layout.names == BODY and vector.layout.total == 96
    assert sorted(vector.task_head) == ["classifier.bias", "classifier.weight"]
    optimizer = DiffAdamW(vector, lr=0.1)
    train_step(model, optimizer, 0)
    model.eval()(batch(0)[0])
    assert model.output.weight is model.embeddings.weight and model.scale == 1.5
    assert not torch.equal(model.embeddings.weight, vector.base[0])


def test_statistics_that_training_changes_are_told_of_by_name(recwarn):
    """Batch norm's are no part of a diff; in eval() they stay, and nothing is said."""
    for still in (False, True):
        model = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))
        vector = DiffVector(model)
        optimizer = DiffAdamW(vector, lr=0.1)
        model[1].train(not still)
        model(torch.randn(5, 6)).sum().backward()
        optimizer.step()
        for read in (vector.deltas, model.state_dict):
            vector._buffers._warned = False
            if still:
                read()
            else:
                with pytest.warns(
                    UserWarning, match=r"2 of the model.s buffers changed .*1.running_mean, 1.running_var"
                ):
                    read()
    assert not [warning for warning in recwarn if "buffers" in str(warning.message)]


def test_evaluation_and_saving_see_the_deterministic_theta_and_training_a_sample():
    model = tiny()
    base = {name: p.detach().clone() for name, p in model.named_parameters()}
    vector = DiffVector(model, task_head=HEAD, penalty=PENALTY)
    optimizer = DiffAdamW(vector, lr=0.1)
    for number in range(3):
        train_step(model, optimizer, number)
    vector.alpha.copy_(torch.linspace(-1, 2, 96))
    vector.mark("nothing")

    def expected():
        z = (torch.sigmoid(vector.alpha) * 3 - 1.5).clamp(0, 1) * (
            torch.sigmoid(vector.group_alpha) * 3 - 1.5
        ).clamp(0, 1)[torch.repeat_interleave(torch.arange(5), torch.tensor([42, 36, 6, 6, 6]))]
        return torch.cat([base[name].view(-1) for name in BODY]) + z * vector.w

    def live():
        return torch.cat([dict(model.named_parameters())[name].detach().view(-1) for name in BODY])

    model.eval()(batch(0)[0])
    torch.testing.assert_close(live(), expected())
    model.train()(batch(0)[0])
    sample = live()
    assert not torch.allclose(sample, expected())
    saved = model.state_dict()
    torch.testing.assert_close(torch.cat([saved[name].view(-1) for name in BODY]), expected())
    model.train()(batch(0)[0])
    assert torch.equal(live(), sample)  # the same sample for every micro-batch of the step
    delta = torch.cat([delta.view(-1) for delta in vector.deltas(sampled_step=3).values()])
    torch.testing.assert_close(sample, torch.cat([base[name].view(-1) for name in BODY]) + delta)
    vector.detach()
    torch.testing.assert_close(live(), expected())
    model.train()(batch(0)[0])
    torch.testing.assert_close(live(), expected())


def test_parts_that_are_called_by_themselves_see_what_the_model_would():
    """generate() calls an encoder before the model; the mode that counts is the model's."""
    model = tiny()
    vector = DiffVector(model, task_head=HEAD, penalty=PENALTY)
    optimizer = DiffAdamW(vector, lr=0.1)
    train_step(model, optimizer, 0)
    vector.alpha.copy_(torch.linspace(-1, 2, 96))
    vector.mark("nothing")
    words, part = batch(0)[0], model.embeddings
    sampled = part(words)
    model.eval()
    alone = part(words)
    model(words)
    assert torch.equal(part(words), alone) and not torch.equal(alone, sampled)
    model.train(), part.eval()
    model(words)
    assert torch.equal(part(words), sampled)  # a part that is kept in eval() writes nothing under the others
    assert torch.equal(part.state_dict()["weight"][words], alone)
    vector.detach()
    assert not any(module._forward_pre_hooks or module._state_dict_pre_hooks for module in model.modules())


def test_a_model_loaded_from_elsewhere_is_evaluated_as_loaded():
    """The best checkpoint comes back into the model before its pack is made."""
    model = tiny()
    vector = DiffVector(model, task_head=HEAD)
    optimizer = DiffAdamW(vector, lr=0.1)
    train_step(model, optimizer, 0)
    best = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_step(model, optimizer, 1)
    model.load_state_dict(best)
    model.eval()(batch(0)[0])
    assert all(torch.equal(tensor, best[name]) for name, tensor in model.state_dict().items())
    vector.detach()
    assert torch.equal(model.embeddings.weight, best["embeddings.weight"])


def test_loading_that_replaces_the_parameters_is_refused():
    model = tiny()
    DiffVector(model, task_head=HEAD)
    with pytest.raises(ValueError, match=r"7 parameters \(embeddings.weight.*without assign=True"):
        model.load_state_dict(tiny().state_dict(), assign=True)


def test_micro_batches_accumulate():
    """Gradients of two halves add up to those of the whole batch, at one sample."""

    def run(halves):
        model = tiny(torch.float64)
        optimizer = DiffAdamW(DiffVector(model, task_head=HEAD, penalty=PENALTY), lr=0.1)
        for number in range(3):
            words, labels = batch(number, 6)
            optimizer.zero_grad()
            for part in range(halves):
                span = slice(part * 6 // halves, (part + 1) * 6 // halves)
                (cross_entropy(model.train()(words[span]), labels[span]) / halves).backward()
            optimizer.step()
        return optimizer.vector.w

    torch.testing.assert_close(run(1), run(2), rtol=1e-7, atol=1e-9)


def test_bfloat16_parameters_have_float32_diffs():
    model = tiny(torch.bfloat16)
    vector = DiffVector(model, task_head=HEAD)
    optimizer = DiffAdamW(vector, lr=1e-5)
    for number in range(3):
        train_step(model, optimizer, number)
    # steps bfloat16 could not hold beside theta
    assert vector.w.dtype == torch.float32 and vector.w.abs().max() > 0
    assert model.embeddings.weight.dtype == torch.bfloat16


def test_parameters_of_two_dtypes_share_one_diff():
    model = tiny(torch.bfloat16)
    model.layer[1].float()
    vector = DiffVector(model, task_head=HEAD)
    optimizer = DiffAdamW(vector, lr=1e-3, max_norm=None)
    vector.sample()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    moved = vector.w != 0
    assert moved.float().mean() > 0.9 and torch.allclose(vector.w[moved], torch.tensor(-1e-3))


def test_an_evaluation_between_backward_and_step_changes_nothing():
    def run(evaluates):
        model = tiny()
        optimizer = DiffAdamW(DiffVector(model, task_head=HEAD, penalty=PENALTY), lr=0.05)
        for number in range(3):
            words, labels = batch(number)
            optimizer.zero_grad()
            cross_entropy(model.train()(words), labels).backward()
            if evaluates:
                model.eval()(words)
            optimizer.step()
        return optimizer.vector.w

    assert torch.equal(run(True), run(False))


def test_expected_count_and_metrics():
    model = tiny()
    vector = DiffVector(model, task_head=HEAD, grouping="neuron")
    optimizer = DiffAdamW(vector, lr=0.1)
    opened = torch.sigmoid(torch.tensor(5.0)).item()
    before = vector.expected_count()
    assert before == pytest.approx(96 * opened**2, rel=1e-5)
    train_step(model, optimizer, 0)
    metrics = optimizer.metrics()
    assert metrics["expected_count"] == pytest.approx(before, rel=1e-5)
    assert metrics["expected_density"] == pytest.approx(opened**2, rel=1e-5)
    assert metrics["w_norm"] > 0 and metrics["alpha_norm"] > 0


def test_a_gradient_scaler_unscales_the_gradients_that_are_pulled_back():
    def run(scale):
        model = tiny(torch.float64)
        optimizer = DiffAdamW(DiffVector(model, task_head=HEAD, penalty=PENALTY), lr=0.05)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=scale != 1)
        for number in range(2):
            words, labels = batch(number)
            optimizer.zero_grad()
            scaler.scale(cross_entropy(model.train()(words), labels)).backward()
            scaler.step(optimizer)
            scaler.update()
        return optimizer.vector.w

    torch.testing.assert_close(run(1024.0), run(1))


def test_steps_without_a_training_forward_are_refused():
    model = tiny()
    optimizer = DiffAdamW(DiffVector(model, task_head=HEAD))
    with pytest.raises(RuntimeError, match="no forward pass"):
        optimizer.step()


def test_a_vector_whose_last_reference_is_lost_can_be_detached():
    model = tiny()
    base = copy.deepcopy(model.state_dict())
    assert attached_to(model) is None
    DiffVector(model, task_head=HEAD)
    gc.collect()
    for whole in (model, nn.Sequential(model)):
        assert isinstance(attached_to(whole), DiffVector)
    attached_to(model).detach()
    assert attached_to(model) is None
    DiffVector(model, base=base, task_head=HEAD).detach()


def test_a_model_carries_one_vector_at_a_time_and_is_no_base_afterwards():
    model = tiny()
    base = copy.deepcopy(model.state_dict())
    vector = DiffVector(model, task_head=HEAD)
    for taken in (model, nn.Sequential(model), model.layer):
        with pytest.raises(ValueError, match="a DiffVector is attached.*detach"):
            DiffVector(taken, base=base)
    vector.detach()
    with pytest.raises(ValueError, match="not the base's: give base="):
        DiffVector(model, task_head=HEAD)
    second = DiffVector(model, base=base, task_head=HEAD)
    with pytest.raises(ValueError, match="a DiffVector is attached"):
        vector.attach()
    second.detach()
    vector.attach()
    DiffVector(tiny(), task_head=HEAD)  # another model


def test_a_model_that_nobody_holds_any_more_is_freed():
    model = tiny()
    train_step(model, DiffAdamW(DiffVector(model, task_head=HEAD)), 0)
    alive = [weakref.ref(model), weakref.ref(model.embeddings.weight)]
    del model
    gc.collect()
    assert [part() for part in alive] == [None, None]


def test_bad_settings_are_named():
    for options, message in [
        ({"grouping": "heads"}, "tensor, neuron"),
        ({"penalty": -1.0}, "penalty"),
        ({"penalty": {"layer.0.weight": 1.0}}, "no penalty for 'embeddings.weight'"),
        ({"penalty_form": "sum"}, "paper, additive"),
        ({"task_head": ["qa_outputs"]}, "head cannot be found"),
        ({"task_head": HEAD, "frozen": ["classifier.bias"]}, "both"),
        ({"base": {"embeddings.weight": torch.zeros(7, 6)}}, "wrong base"),
        ({"frozen": ["embeddings", "layer", "classifier"]}, "no parameter is left"),
    ]:
        with pytest.raises(ValueError, match=message):
            DiffVector(tiny(), **options)
    with pytest.raises(ValueError, match="alpha_lr"):
        DiffAdamW(DiffVector(tiny()), alpha_lr=-1)
    with pytest.raises(ValueError, match="concrete_lower"):
        StretchedConcrete(0.0, 1.5)


def test_a_gradient_of_the_deterministic_theta_is_refused():
    """After the first step, too, which leaves the next sample in the model."""
    model = tiny()
    vector = DiffVector(model, task_head=HEAD)
    optimizer = DiffAdamW(vector, lr=0.1)
    train_step(model, optimizer, 0)
    words, labels = batch(1)
    nn.functional.cross_entropy(model.eval()(words), labels).backward()
    with pytest.raises(RuntimeError, match="no forward pass in training mode"):
        optimizer.step()
    optimizer.zero_grad()
    nn.functional.cross_entropy(model.train()(words), labels).backward()
    optimizer.step()
    assert vector.steps == 2


def test_a_copy_of_a_model_that_carries_a_vector_is_refused():
    """It may hold a sample, and its hooks would write the original."""
    model = tiny()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    base = Base.of(model, HEAD)
    name, weight = "layer.0.weight", model.layer[0].weight
    pack = DiffPack.create(
        SparseDiff({name: (torch.tensor([3]), torch.tensor([0.5]))}, {name: tuple(weight.shape)}), base
    )
    vector = DiffVector(model, task_head=HEAD)
    train_step(model, DiffAdamW(vector, lr=0.1), 0)
    copied = copy.deepcopy(model)
    for use in (lambda: copied(batch(0)[0]), copied.state_dict, copied.eval().layer.state_dict):
        with pytest.raises(RuntimeError, match="a copy of a model that a DiffVector is attached to"):
            use()
    for use in (
        lambda: DiffVector(copied, base=weights, task_head=HEAD),
        lambda: pack.apply(copied),
        lambda: DiffBank(copied),
    ):
        with pytest.raises(ValueError, match="a copy of a model that a DiffVector is attached to"):
            use()
    for use in (lambda: pack.apply(model), lambda: DiffBank(model)):
        with pytest.raises(ValueError, match="a DiffVector is attached to this model"):
            use()
    vector.detach()
    copied = copy.deepcopy(model)
    copied.load_state_dict(weights)
    pack.apply(copied)
