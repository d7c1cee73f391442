"""Attention that is not among the blocks that were found: a model is refused for it, because its heads would
be overlooked.

Told by what a module does (its forward, or a function of its own, makes scores of products and sums with
them) or by its name, where it has weights of its own. Routers to experts and mixers of the state-space kind
(Mamba and its kin) have no heads and are left alone, and so is whatever a user's own module has beside the
Transformers models in it.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from .sources import works_out_attention


def overlooked_attention(models: Iterable[PreTrainedModel], found: Iterable[nn.Module]) -> str | None:
    """The first module that does attention and is not in `found`, nor around or inside one of those; None:
    there is none.

    Args:
        models: the outermost Transformers models.
        found: their attention modules.
    """
    known = {id(module) for module in found}
    for model in models:
        around = _around(model, known)
        for path, part in _outside(model, known):
            named = "Attention" in type(part).__name__ and any(True for _ in part.parameters())
            if id(part) in around or isinstance(part, PreTrainedModel):
                continue
            if named or works_out_attention(type(part)):
                return f"{path} ({type(part).__name__})"
    return None


def _outside(module: nn.Module, known: set[int], path: str = "") -> list[tuple]:
    """All modules but the known ones and what is inside them; innermost first, so that what does the work
    is named.
    """
    if id(module) in known:
        return []
    inside = [
        found
        for name, child in module.named_children()
        for found in _outside(child, known, f"{path}.{name}".lstrip("."))
    ]
    return [*inside, (path, module)]


def _around(module: nn.Module, known: set[int]) -> set[int]:
    """Modules that hold a known one."""
    found: set[int] = set()
    for child in module.children():
        found |= _around(child, known)
        if id(child) in known or id(child) in found:
            found.add(id(module))
    return found
