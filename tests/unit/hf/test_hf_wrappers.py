"""What is refused before anything is cut, because the weights are not where they seem to be."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
from hf_models import tiny_model  # isort: skip
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from dsp_plugin.hf import head_map_of
from dsp_plugin.hf.heads.layouts.wrappers import check_projection, check_root, check_values


class Peft(nn.Module):
    """Stands for the class of the package peft, which is told by its name."""

    def __init__(self, model):
        super().__init__()
        self.base_model = model


Peft.__name__, Peft.__module__ = "PeftModel", "peft.peft_model"


def compiled_in_place():
    model = tiny_model("bert")
    model.compile()
    return model


ROOTS = {
    "DataParallel": (lambda: nn.DataParallel(tiny_model("bert")), r"the model is a DataParallel.*`\.module`"),
    "inner": (lambda: nn.Sequential(nn.DataParallel(tiny_model("bert"))), r"Sequential\.0 is a DataParallel"),
    "compiled": (lambda: torch.compile(tiny_model("bert")), r"OptimizedModule.*_orig_mod"),
    "compiled in place": (compiled_in_place, r"compiled in place"),
    "peft": (lambda: Peft(tiny_model("bert")), r"PeftModel.*merge_and_unload"),
    "scripted": (lambda: torch.jit.script(nn.Linear(2, 2)), r"ScriptModule.*before it is scripted"),
}


@pytest.mark.parametrize("case", ROOTS)
def test_a_wrapped_model_is_refused_in_words_that_say_what_to_do(case):
    make, message = ROOTS[case]
    with pytest.raises(ValueError, match=message):
        check_root(make())


def test_a_plain_model_and_one_in_a_module_of_the_users_pass():
    check_root(tiny_model("gpt2"))
    check_root(nn.ModuleDict({"encoder": tiny_model("bert")}))


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


class Extra(nn.Linear):
    def __init__(self):
        super().__init__(4, 4)
        self.factor = nn.Parameter(torch.ones(4))


class Quiet(nn.Linear):
    """A Linear of another name that computes what a Linear does."""


def with_hook(hook):
    module = nn.Linear(4, 4)
    module.register_forward_hook(hook)
    return module


def adapter_hook():
    down = nn.Linear(4, 4)
    return with_hook(lambda module, args, output: output + down(args[0]))


def other_forward():
    module = nn.Linear(4, 4)
    module.forward = lambda x: x
    return module


PROJECTIONS = {
    "weight_norm": (lambda: weight_norm(nn.Linear(4, 4)), "remove_weight_norm"),
    "weight_norm, parametrized": (
        lambda: parametrizations.weight_norm(nn.Linear(4, 4)),
        "remove_parametrizations",
    ),
    "orthogonal": (lambda: parametrizations.orthogonal(nn.Linear(4, 4)), "remove_parametrizations"),
    "spectral_norm": (lambda: spectral_norm(nn.Linear(4, 4)), "remove_spectral_norm"),
    "torch prune": (lambda: prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5), r"prune\.remove"),
    "torch prune of the bias": (
        lambda: prune.random_unstructured(nn.Linear(4, 4), "bias", 0.5),
        r"prune\.remove",
    ),
    "another module": (lambda: nn.Conv1d(4, 4, 1), "is a Conv1d.*merge"),
    "integers": (lambda: _integer_weights(), "quantisation"),
    "another forward": (Scaled, "is a Scaled, which computes something else"),
    "tensors of its own": (Extra, "factor"),
    "forward of the instance": (other_forward, "put in place of its own"),
    "a hook with weights": (adapter_hook, "forward hook with weights"),
    "a partial with weights": (
        lambda: with_hook(functools.partial(_add, nn.Parameter(torch.ones(4)))),
        "forward hook",
    ),
}


def _add(weight, module, args, output):
    return output + weight


def _integer_weights():
    module = nn.Linear(4, 4)
    module.weight = nn.Parameter(torch.zeros(4, 4, dtype=torch.int8), requires_grad=False)
    return module


@pytest.mark.parametrize("case", PROJECTIONS)
def test_a_projection_that_is_not_plain_is_refused(case):
    make, message = PROJECTIONS[case]
    module = make(4, 4) if make is Scaled else make()
    with pytest.raises(ValueError, match=f"a projection of layer.3 .*{message}"):
        check_projection("layer.3", module)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_quantised_projection_is_refused():
    model = nn.Sequential(nn.Linear(4, 4))
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)[0]
    with pytest.raises(ValueError, match="without quantisation"):
        check_projection("layer.3", quantised)


def test_plain_projections_pass():
    class Watcher(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 4)
            self.inner.register_forward_hook(self.watch)

        def watch(self, module, args, output):
            self.seen = output

    for module in (
        nn.Linear(4, 4),
        nn.Linear(4, 4, bias=False),
        Quiet(4, 4),
        with_hook(lambda *_: None),
        Watcher().inner,
    ):
        check_projection("layer.3", module)
    for part in tiny_model("gpt2").modules():
        if type(part).__name__ == "Conv1D":
            check_projection("layer.3", part)


def test_weights_without_values_are_refused_by_name():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(ValueError, match="1.weight of Sequential has no values"):
        check_values(model)


def test_a_quantised_model_is_refused_by_what_is_in_the_way():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    model = torch.ao.quantization.quantize_dynamic(BertModel(config), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(
        ValueError,
        match="BertModel is not supported: .*layer.0.attention.self.*plain weights only.*quantisation",
    ):
        head_map_of(model)
