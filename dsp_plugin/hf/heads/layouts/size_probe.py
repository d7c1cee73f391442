"""A probe with twice the heads, which shows what depends on the number of heads.

A vector of eight numbers in a block of eight heads of eight features may have one number a head or one a
feature of a head, and sizes alone cannot tell. The model is therefore built again, without values, from its
own configuration and from one with twice the heads of the same size. A tensor or an integer that is the same
in both does not depend on the heads.
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

STOCK = "_dsp_stock"  # attribute of a class that is made to load a pruned model: the class it stands for
_REMEMBERED = 8  # models
_HEADS = re.compile(r"(^|_)heads?$")
_WIDTHS = ("hidden_size", "d_model", "embed_dim", "n_embd", "dim", "embedding_size")
_built: OrderedDict[tuple[type, str], tuple[nn.Module | None, tuple[nn.Module, ...]]] = OrderedDict()


@dataclass(frozen=True)
class Probe:
    """One attention module as its configuration builds it, and with twice the heads."""

    once: nn.Module
    twice: nn.Module

    def same_tensor(self, name: str, shape: tuple[int, ...]) -> bool:
        """Return whether both have a tensor of this name and shape, and as many beside it in its list."""
        part = name.partition(".")[0]
        found = [
            {key: tuple(t.shape) for key, t in named_tensors(module) if key.partition(".")[0] == part}
            for module in (self.once, self.twice)
        ]
        return found[0].keys() == found[1].keys() and all(shapes.get(name) == shape for shapes in found)

    def same_number(self, path: tuple[str, ...]) -> bool:
        """Return whether an attribute of an attribute (and so on along `path`) is the same in both."""
        values = [_attribute(module, path) for module in (self.once, self.twice)]
        return values[0] is not None and values[0] == values[1]


def named_tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a module and its parts by name: weights, buffers, and other attributes."""
    for path, part in module.named_modules(remove_duplicate=False):
        attributes = {name: value for name, value in vars(part).items() if isinstance(value, torch.Tensor)}
        for name, tensor in (*part._parameters.items(), *part._buffers.items(), *attributes.items()):
            if tensor is not None:
                yield (f"{path}.{name}" if path else name), tensor


def probe(
    part: PreTrainedModel, path: str, has_twice: Callable[[nn.Module, nn.Module], bool]
) -> Probe | None:
    """Build the attention module at `path` of `part` again, and with twice the heads; None where that fails.

    Args:
        part: the innermost Transformers model around the attention module.
        has_twice: (module as it was, module with twice the heads) -> whether its projections have twice the
            heads, too.
    """
    once, variants = _variants(part)
    for twice in variants:
        try:
            found = Probe(once.get_submodule(path), twice.get_submodule(path))
        except AttributeError:
            continue
        if has_twice(found.once, found.twice):
            return found
    return None


def _variants(part: PreTrainedModel) -> tuple[nn.Module | None, tuple[nn.Module, ...]]:
    """Build a model again without values, and variants of it with twice the heads."""
    stock = vars(type(part)).get(STOCK, type(part))
    key = (stock, part.config.to_json_string(use_diff=False))
    if key not in _built:
        once = _without_values(stock, copy.deepcopy(part.config))
        variants = [] if once is None else [_without_values(stock, config) for config in _twice(part.config)]
        _built[key] = once, tuple(variant for variant in variants if variant is not None)
        while len(_built) > _REMEMBERED:
            _built.popitem(last=False)
    _built.move_to_end(key)
    return _built[key]


def _twice(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    """Yield the configuration with twice the heads, of the same width and of twice the width."""
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
    except Exception:  # a constructor refuses sizes in its own way
        return None


def _attribute(module: nn.Module, path: tuple[str, ...]) -> object:
    for name in path:
        module = getattr(module, name, None)
    return module
