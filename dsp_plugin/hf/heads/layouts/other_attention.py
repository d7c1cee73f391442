"""A search for attention outside the blocks that were found: its heads would be overlooked.

It is recognised by its source (a forward, or a function it calls, makes weights of products and sums with
them) or by its name, where it has weights. Routers to experts and mixers of the state-space kind (Mamba and
its kin) have no heads and are left alone, and so is all that a user's own module has beside the Transformers
models in it.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from transformers import PreTrainedModel

from .sources import works_out_attention


def overlooked_attention(models: Iterable[PreTrainedModel], found: Iterable[nn.Module]) -> str | None:
    """Describe the first module with attention that is not in `found`, nor around or inside one of those.

    Args:
        models: the outermost Transformers models.
        found: their attention modules.

    Returns:
        its path and class, or None where there is none.
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
    """Return all modules but the known ones and their parts, innermost first: those do the work."""
    if id(module) in known:
        return []
    inside = [
        found
        for name, child in module.named_children()
        for found in _outside(child, known, f"{path}.{name}".lstrip("."))
    ]
    return [*inside, (path, module)]


def _around(module: nn.Module, known: set[int]) -> set[int]:
    """Return the ids of the modules that hold a known one."""
    found: set[int] = set()
    for child in module.children():
        found |= _around(child, known)
        if id(child) in known or id(child) in found:
            found.add(id(module))
    return found
