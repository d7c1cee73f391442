"""Small models of a configuration, with weights large enough for every head to count, and inputs for them."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Iterator

import dsp_plugin.hf  # noqa: F401  (before any model class: it hides a torchaudio that cannot be loaded)  isort: skip
import torch
from family_outputs import run, said
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from dsp_plugin.hf.probes.random_inputs import random_inputs

LARGEST = 16_000_000  # weights; above that a configuration is not small
NAMES = re.compile(r".*(Attention|Attn)(?!.*(Mask|Output|Config|Embed))")


def build(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """Build a model with random weights that are large enough for every head to count.

    Raises:
        ValueError: it is not small.
    """
    weights = weights_of(model_class, config)
    if weights > LARGEST:
        raise ValueError(f"not small: {weights / 1e6:.0f} million weights")
    torch.manual_seed(3)
    model = model_class(copy.deepcopy(config))
    with torch.no_grad():
        for module in model.modules():
            for name, weight in module.named_parameters(recurse=False):
                if weight.requires_grad and weight.is_floating_point():
                    _fill(module, name, weight)
    model.tie_weights()
    return model.eval()


def _fill(module: nn.Module, name: str, weight: Tensor) -> None:
    if weight.dim() < 2:
        if "norm" in type(module).__name__.lower() and name == "weight":
            weight.mul_(1 + 0.2 * torch.randn_like(weight))
        else:
            weight.add_(0.1 * torch.randn_like(weight))
    elif isinstance(module, nn.Embedding):
        weight.normal_(std=0.5)
    else:
        inputs = weight.shape[-1] if weight.dim() == 3 else weight[0].numel()
        if isinstance(module, Conv1D):
            inputs = weight.shape[0]
        weight.normal_(std=1.5 / inputs**0.5)


def weights_of(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> int:
    """Count the weights of a model without making them; 0 where that fails."""
    try:
        with torch.device("meta"):
            return sum(weight.numel() for weight in model_class(copy.deepcopy(config)).parameters())
    except Exception:  # some models look at values while they are built
        return 0


def with_inputs(model: PreTrainedModel) -> tuple[PreTrainedModel, dict[str, Tensor]]:
    """Return the model in float64, or in float32 where it does not run in that, and inputs for it."""
    try:
        double = copy.deepcopy(model).double()
        inputs = random_inputs(double, size=3, length=7)
        # a softmax in single precision turns the lowest number of double precision into minus infinity, and
        # rows into NaN
        if not any(part.isnan().any() for part in run(double, inputs)):
            return double, inputs
    except ValueError:
        pass
    return model, random_inputs(model, size=3, length=7)


def model_classes(config: PreTrainedConfig) -> list[type[PreTrainedModel]] | str:
    """Return classes that between them have all attention classes of a configuration's file, or the reason
    why there is none.
    """
    from transformers.models.auto import modeling_auto as auto

    names = (
        "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING",
        "MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING",
        "MODEL_FOR_CAUSAL_LM_MAPPING",
        "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
        "MODEL_FOR_MASKED_LM_MAPPING",
        "MODEL_MAPPING",
    )
    found: list[type[PreTrainedModel]] = []
    for name in names:
        with contextlib.suppress(KeyError, ValueError, AttributeError):
            value = getattr(auto, name)[type(config)]
            found += value if isinstance(value, tuple) else (value,)
    if not found:
        module = inspect.getmodule(type(config)).__name__.replace(".configuration_", ".modeling_")
        found = _family_classes(module, type(config))
    else:
        found += _family_classes(found[-1].__module__, type(config))
    chosen: list[type[PreTrainedModel]] = []
    seen: set[str] = set()
    errors: list[str] = []
    for model_class in dict.fromkeys(found):
        try:
            classes = {
                class_name(type(module)) for _, module in attention_modules(_skeleton(model_class, config))
            }
        except Exception as error:
            errors.append(said(model_class.__name__, error))
            continue
        if classes - seen:
            chosen.append(model_class)
            seen |= classes
    if chosen:
        return chosen
    if errors:
        return errors[0]
    return "no attention in any of its models" if found else "no model class for this configuration"


def _family_classes(module_name: str, config_class: type) -> list[type[PreTrainedModel]]:
    import importlib

    try:
        module = importlib.import_module(module_name)
    except ImportError:
        return []
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, PreTrainedModel)
        and value.__module__ == module_name
        and getattr(value, "config_class", None) is config_class
        and "forward" in {n for c in value.__mro__[:-2] for n in vars(c)}
        and not value.__name__.endswith("PreTrainedModel")
    ]


def _skeleton(model_class: type[PreTrainedModel], config: PreTrainedConfig) -> nn.Module:
    try:
        with torch.device("meta"):
            return model_class(copy.deepcopy(config))
    except (RuntimeError, NotImplementedError):
        return model_class(copy.deepcopy(config))


def attention_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the innermost modules that are attention, by the name of their class or by their source."""
    found = {path: module for path, module in model.named_modules() if is_attention(type(module))}
    for path, module in found.items():
        if any(True for _ in module.parameters()) and not any(
            other.startswith(path + ".") for other in found if other != path
        ):
            yield path, module


def is_attention(module_class: type) -> bool:
    """Return whether a class is attention by its name, or calls an attention function."""
    if issubclass(module_class, PreTrainedModel):
        return False
    return is_named_attention(module_class.__name__) or "ALL_ATTENTION_FUNCTIONS" in source(module_class)


def is_named_attention(name: str) -> bool:
    """Return whether the name of a class says that it is attention."""
    return bool(NAMES.match(name))


def class_name(module_class: type) -> str:
    """Return the folder of a class's model, and its name: "bert.BertSelfAttention"."""
    parts = module_class.__module__.split(".")
    return f"{parts[2] if parts[:2] == ['transformers', 'models'] else parts[0]}.{module_class.__name__}"


def source(module_class: type) -> str:
    """Return the text of a class's `forward`; "" where there is none."""
    try:
        return inspect.getsource(module_class.forward)
    except (OSError, TypeError, AttributeError):
        return ""
