"""A look at a model with twice the heads: whatever stays as it is has nothing to do with the number of heads.

A vector of eight numbers in a block of eight heads of eight features may be one number a head or one a
feature of a head, and sizes alone cannot tell. The model is therefore built again, without values, from its
own configuration and from one with twice the heads of the same size. A tensor or an integer that is the same
in both belongs to no head.
"""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

STOCK = "_dsp_stock"  # of a class that is made to load a pruned model: the class whose shapes it changes
_KEPT = 8  # models whose looks are remembered
_HEADS = re.compile(r"(^|_)heads?$")
_WIDTHS = ("hidden_size", "d_model", "embed_dim", "n_embd", "dim", "embedding_size")
_looks: OrderedDict[tuple[type, str], tuple[nn.Module | None, tuple[nn.Module, ...]]] = OrderedDict()


@dataclass(frozen=True)
class Probe:
    """One attention module as its configuration builds it, and with twice the heads."""

    once: nn.Module
    twice: nn.Module

    def same_tensor(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether both have a tensor of this name and shape, and as many beside it (there may be a list,
        one a head).
        """
        part = name.partition(".")[0]
        found = [
            {key: size for key, size in tensors_of(m).items() if key.partition(".")[0] == part}
            for m in (self.once, self.twice)
        ]
        return found[0].keys() == found[1].keys() and all(tensors.get(name) == shape for tensors in found)

    def same_number(self, path: tuple[str, ...]) -> bool:
        """Whether an attribute is the same in both."""
        values = [_attribute(module, path) for module in (self.once, self.twice)]
        return values[0] is not None and values[0] == values[1]


def tensors_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a module and its parts: weights, buffers, and plain attributes."""
    return {name: tuple(tensor.shape) for name, tensor in named_tensors(module)}


def named_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for path, part in module.named_modules(remove_duplicate=False):
        plain = {name: value for name, value in vars(part).items() if isinstance(value, torch.Tensor)}
        for name, tensor in (*part._parameters.items(), *part._buffers.items(), *plain.items()):
            if tensor is not None:
                yield (f"{path}.{name}" if path else name), tensor


def probe(
    part: PreTrainedModel, path: str, has_twice: Callable[[nn.Module, nn.Module], bool]
) -> Probe | None:
    """The attention module at `path` of `part`, once and twice; None where the model cannot be built that
    way.

    Args:
        part: the innermost Transformers model around the attention module.
        has_twice: (module as it was, module with twice the heads) -> its projections say so, too.
    """
    once, variants = _built(part)
    for twice in variants:
        try:
            found = Probe(once.get_submodule(path), twice.get_submodule(path))
        except AttributeError:
            continue
        if has_twice(found.once, found.twice):
            return found
    return None


def _built(part: PreTrainedModel) -> tuple[nn.Module | None, tuple[nn.Module, ...]]:
    stock = vars(type(part)).get(STOCK, type(part))
    key = (stock, part.config.to_json_string(use_diff=False))
    if key not in _looks:
        once = _without_values(stock, copy.deepcopy(part.config))
        variants = [] if once is None else [_without_values(stock, config) for config in _twice(part.config)]
        _looks[key] = once, tuple(variant for variant in variants if variant is not None)
        while len(_looks) > _KEPT:
            _looks.popitem(last=False)
    _looks.move_to_end(key)
    return _looks[key]


def _twice(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """The configuration with twice the heads; the width stays, or grows with them."""
    for wider in (False, True):
        changed = copy.deepcopy(config)
        names = {name for name in vars(config) if _HEADS.search(name)}
        names |= {name for name in vars(config) if wider and name in _WIDTHS}
        for name in names:
            value = vars(changed)[name]
            if isinstance(value, int) and not isinstance(value, bool):
                setattr(changed, name, 2 * value)
        yield changed


def _without_values(model_class: type, config: PretrainedConfig) -> nn.Module | None:
    config._attn_implementation_internal = "eager"  # ours is no name that a constructor takes
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return model_class(config)
    except Exception:  # whatever a constructor says of sizes it does not take: the look is not to be had
        return None


def _attribute(module: nn.Module, path: tuple[str, ...]) -> object:
    for name in path:
        module = getattr(module, name, None)
    return module
