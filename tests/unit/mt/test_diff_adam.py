"""fairseq's interface to the optimizers of sparse diffs changes nothing of what they do."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("fairseq")

from diff_models import batch, tiny
from fairseq import optim
from fairseq.dataclass.configs import FairseqConfig
from omegaconf import OmegaConf
from torch.nn.functional import cross_entropy

import dsp_plugin

dsp_plugin.register()

from dsp_plugin.diffs import DiffAdamW, DiffVector, FixMaskAdamW, SparseDiff
from dsp_plugin.mt.diffs.base import start_from
from dsp_plugin.mt.diffs.optimizers import DiffAdam, DiffAdamConfig, FixMaskAdam, FixMaskAdamConfig, vector_of
from dsp_plugin.mt.diffs.translation import DiffTranslationTask

LR, LAMBDA = 1e-2, 1e-3


def options(config=DiffAdamConfig, **values):
    given = {
        "_name": "diff_adam" if config is DiffAdamConfig else "fixmask_adam",
        "adam_betas": "(0.9, 0.98)",
        **values,
    }
    cfg = OmegaConf.structured(FairseqConfig())
    OmegaConf.set_struct(cfg, False)
    if config is DiffAdamConfig:
        given = {"sparsity_pen": LAMBDA, "alpha_init": 1.0, **given}
    cfg.optimizer = OmegaConf.structured(config(**given))
    cfg.optimizer.lr = [LR]
    return cfg.optimizer


def in_fairseq(model, **values) -> DiffAdam:
    start_from(model)
    return optim.build_optimizer(options(**values), list(model.parameters()))


def mask_of(model) -> SparseDiff:
    name, parameter = "layer.0.weight", model.layer[0].weight
    return SparseDiff(
        {name: (torch.tensor([1, 8]), torch.tensor([0.1, -0.2]))}, {name: tuple(parameter.shape)}
    )


def losses(model, numbers):
    """Summed, as fairseq's criterions are."""
    for number in numbers:
        words, labels = batch(number)
        yield cross_entropy(model(words), labels, reduction="sum")


def fairseq_step(model, optimizer, numbers, max_norm=0.0):
    """What fairseq's trainer does with the micro-batches of an update; the norm it logs."""
    model.train()
    optimizer.zero_grad()
    for loss in losses(model, numbers):
        optimizer.backward(loss)
    optimizer.multiply_grads(1 / 10)  # sentences in two batches
    norm = optimizer.clip_grad_norm(max_norm)
    optimizer.step()
    return norm


def amp_step(model, optimizer, numbers, max_norm):
    """The same under --amp, where the task takes the step."""
    model.train()
    optimizer.zero_grad()
    for loss in losses(model, numbers):
        optimizer.backward(loss)
    optimizer.multiply_grads(1 / 10)
    norm = optimizer.clip_grad_norm(max_norm)
    DiffTranslationTask.optimizer_step(object.__new__(DiffTranslationTask), optimizer, model, 0)
    return norm


def plain_step(model, optimizer, numbers):
    model.train()
    optimizer.zero_grad()
    (sum(losses(model, numbers)) / 10).backward()
    optimizer.step()


def learnt(vector):
    return {name: getattr(vector, name).clone() for name in ("w", "alpha", "group_alpha")}


@pytest.mark.parametrize("max_norm", [0.0, 0.05])
def test_accumulated_scaled_and_clipped_it_is_the_plain_optimizer(max_norm):
    """Gradients of two micro-batches, summed and multiplied, as one batch's mean; --clip-norm is the
    step's own clipping.
    """
    model, twin = tiny(), tiny()
    optimizer = in_fairseq(model)
    vector = DiffVector(twin, alpha_init=1.0, penalty=LAMBDA, seed=1)
    plain = DiffAdamW(vector, lr=LR, betas=(0.9, 0.98), max_norm=max_norm, alpha_max_norm=max_norm)
    for numbers in ((0, 1), (2, 3), (4, 5)):
        norm = fairseq_step(model, optimizer, numbers, max_norm)
        plain_step(twin, plain, numbers)
        # the model's own gradient, for the log and the check that all ranks agree
        grads = [p.grad.square().sum() for p in twin.parameters()]
        torch.testing.assert_close(norm, torch.stack(grads).sum().sqrt())
    for name, value in learnt(vector).items():
        torch.testing.assert_close(getattr(optimizer.optimizer.vector, name), value, atol=1e-6, rtol=1e-4)
    assert optimizer.optimizer.vector.w.abs().max() > 1e-3
    if max_norm:
        assert plain.metrics()["w_norm"] > max_norm  # else nothing was clipped


@pytest.mark.parametrize("config", [DiffAdamConfig, FixMaskAdamConfig])
def test_a_loss_scale_changes_nothing(config):
    """fairseq's AMPOptimizer around it, with a gradient scaler that works on a CPU; scales are powers of
    two: no bit moves.
    """

    def trained(scale):
        model = tiny()
        start_from(model, mask_of(model) if config is FixMaskAdamConfig else None)
        optimizer = optim.build_optimizer(options(config), [p for p in model.parameters() if p.requires_grad])
        step = fairseq_step
        if scale:
            cfg = OmegaConf.create(
                {"optimizer": {}, "common": {"fp16_init_scale": 1, "min_loss_scale": 1e-4}}
            )
            optimizer, step = optim.AMPOptimizer(cfg, None, optimizer), amp_step
            optimizer._grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        norms = [step(model, optimizer, (number, number + 1), 0.05) for number in (0, 2, 4)]
        return model.state_dict(), optimizer.optimizer, norms

    plain, scaled = trained(None), trained(128.0)
    assert plain[2] == scaled[2]  # which fairseq logs: it was right all the time
    assert all(torch.equal(weight, scaled[0][name]) for name, weight in plain[0].items())
    if config is DiffAdamConfig:
        assert plain[1].metrics() == scaled[1].metrics() and plain[1].metrics()["w_norm"] > 0.05


def test_the_schedule_reaches_w_and_not_alpha():
    optimizer = in_fairseq(tiny(), alpha_learning_rate=0.3)
    optimizer.set_lr(0.0)
    vector = optimizer.optimizer.vector
    before = learnt(vector)
    fairseq_step(vector.model, optimizer, (0, 1))
    assert optimizer.get_lr() == 0 and torch.equal(vector.w, before["w"])
    torch.testing.assert_close(
        (vector.alpha - before["alpha"]).abs().max(), torch.tensor(0.3), rtol=1e-3, atol=0
    )


def test_a_state_goes_on_bit_for_bit_under_todays_options():
    model = tiny()
    optimizer = in_fairseq(model)
    for number in range(3):
        fairseq_step(model, optimizer, (number,))
    saved = {"optimizer": copy.deepcopy(optimizer.state_dict()), "model": copy.deepcopy(model.state_dict())}
    again = tiny()
    resumed = in_fairseq(again, alpha_learning_rate=0.1)
    again.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    for number in range(3, 6):
        fairseq_step(model, optimizer, (number,))
        fairseq_step(again, resumed, (number,))
    for name, value in learnt(optimizer.optimizer.vector).items():
        assert torch.equal(getattr(resumed.optimizer.vector, name), value), name
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values()))

    other = in_fairseq(tiny(), alpha_learning_rate=0.7, adam_eps=1e-6)
    other.load_state_dict(saved["optimizer"])
    assert other.param_groups[0]["alpha_lr"] == 0.7 and other.param_groups[0]["eps"] == 1e-6


def test_built_again_as_fairseq_does_there_is_one_vector():
    """fairseq builds its optimizer once more after it has loaded a checkpoint."""
    model = tiny()
    first = in_fairseq(model)
    second = optim.build_optimizer(options(), list(model.parameters()))
    fairseq_step(model, second, (0, 1))
    assert second.optimizer.vector is not first.optimizer.vector
    assert second.optimizer.vector.steps == 1 and first.optimizer.vector.steps == 0
    twin = tiny()
    fairseq_step(twin, in_fairseq(twin), (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))


def test_options_reach_the_diff():
    model = tiny()
    start_from(model)
    cfg = options(
        per_neuron_alpha=1, fix_layer=0, penalty_form="additive", concrete_lower=-0.2, concrete_upper=1.2
    )
    vector = vector_of(model, None, cfg)
    assert vector.penalty_form == "additive" and (vector.concrete.low, vector.concrete.high) == (-0.2, 1.2)
    assert "embeddings.weight" not in vector.layout.names and vector.layout.groups > len(vector.layout.names)
    per_layer = vector_of(tiny(), None, options(sparsity_penalty_per_layer="0.5,0.1,0.2,0.3"))
    assert set(per_layer.penalties.tolist()) == set(torch.tensor([0.5, 0.1, 0.2, 0.3]).tolist())
    unstructured = vector_of(tiny(), None, options(per_params_alpha=0))
    assert not unstructured.structured


def test_the_fixed_mask_is_the_plain_optimizers():
    model, twin = tiny(), tiny()
    start_from(model, mask_of(model))
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["layer.0.weight"]
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim.build_optimizer(options(FixMaskAdamConfig), trained)
    assert isinstance(optimizer, FixMaskAdam)
    plain = FixMaskAdamW(twin, mask_of(twin), lr=LR, betas=(0.9, 0.98), max_norm=0.01)
    for number in (0, 2):
        fairseq_step(model, optimizer, (number, number + 1), max_norm=0.01)
        plain_step(twin, plain, (number, number + 1))
    torch.testing.assert_close(optimizer.optimizer.values, plain.values)
    assert all(
        torch.equal(a, b) or torch.allclose(a, b) for a, b in zip(model.parameters(), twin.parameters())
    )
    assert not torch.allclose(plain.values, torch.tensor([0.1, -0.2]))


def test_the_fixed_masks_state_goes_on_bit_for_bit():
    def started():
        model = tiny()
        start_from(model, mask_of(model))
        return model, optim.build_optimizer(
            options(FixMaskAdamConfig), [p for p in model.parameters() if p.requires_grad]
        )

    model, optimizer = started()
    for number in range(2):
        fairseq_step(model, optimizer, (number,), max_norm=0.1)
    saved = copy.deepcopy(optimizer.state_dict())
    again, resumed = started()
    resumed.load_state_dict(saved)
    for number in range(2, 4):
        fairseq_step(model, optimizer, (number,), max_norm=0.1)
        fairseq_step(again, resumed, (number,), max_norm=0.1)
    assert torch.equal(optimizer.optimizer.values, resumed.optimizer.values)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))


def test_finetune_0_starts_at_the_base():
    model = tiny()
    start_from(model, mask_of(model))
    optimizer = optim.build_optimizer(options(FixMaskAdamConfig, finetune=0), list(model.parameters()))
    assert optimizer.optimizer.values.tolist() == [0, 0]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), tiny().parameters()))


@pytest.mark.parametrize("config", [DiffAdamConfig, FixMaskAdamConfig])
def test_without_a_base_it_says_so(config):
    with pytest.raises(ValueError, match="needs --task diff_translation and --base-checkpoint"):
        optim.build_optimizer(options(config), list(tiny().parameters()))


@pytest.mark.parametrize(
    "values, message",
    [
        ({"sparsity_pen": -1.0}, "--sparsity-pen must be 0 or more"),
        ({"alpha_learning_rate": float("inf")}, "--alpha-learning-rate must be 0 or more and finite"),
        ({"alpha_init": float("nan")}, "--alpha-init must be finite"),
        ({"penalty_form": "none"}, "--penalty-form must be one of paper, additive"),
        ({"concrete_lower": 0.5}, "--concrete-lower must be below 0"),
        ({"per_params_alpha": 0, "per_neuron_alpha": 1}, "--per-params-alpha 0, --per-neuron-alpha 1"),
        ({"sparsity_penalty_per_layer": "1,b"}, "--sparsity-penalty-per-layer must be numbers"),
    ],
)
def test_options_that_cannot_be(values, message):
    with pytest.raises(ValueError, match=message):
        DiffAdam.check(options(**values))
