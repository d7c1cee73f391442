"""Which models carry a diff in training, or have carried one: their weights are no base any more."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

_MARK = "_of_a_diff_vector"
# module -> the vector attached to it; None where that is over. Nothing is kept alive.
_carriers: weakref.WeakKeyDictionary[nn.Module, weakref.ref | None] = weakref.WeakKeyDictionary()

OF_A_COPY = (
    "this is a copy of a model that a DiffVector is attached to, and may hold a random sample: call the "
    "vector's detach() "
    "before you copy the model"
)


def require_free(model: nn.Module, base: Mapping[str, Tensor] | None) -> None:
    """Before a diff or a mask is trained in a model.

    Raises:
        ValueError: see `require_detached`; or it carries another diff's weights and no `base` is given.
    """
    require_detached(model)
    if base is None and any(module in _carriers for module in model.modules()):
        raise ValueError(
            "a diff was trained in this model, so its weights are not the base's: give base= (clone the "
            "weights while the "
            "model is freshly loaded)"
        )


def require_detached(model: nn.Module) -> None:
    """Before weights are written into a model.

    Raises:
        ValueError: a `DiffVector` is attached to it or to a part of it, and would write over them; it is a
            copy of such a model.
    """
    if attached_to(model) is not None:
        raise ValueError(
            "a DiffVector is attached to this model and writes its weights: call its detach() first "
            "(dsp_plugin.diffs.in_training.attached_to(model) returns it)"
        )
    # copy.deepcopy takes the hooks along, and nothing else of the vector
    if any(hasattr(hook, _MARK) for module in model.modules() for hook in module._forward_pre_hooks.values()):
        raise ValueError(OF_A_COPY)


def mark_hook(hook: Callable) -> None:
    """Notes of a hook that it is a `DiffVector`'s."""
    setattr(hook, _MARK, True)


def attached_to(model: nn.Module) -> Any:
    """The `DiffVector` that is attached to a model or to a part of it, and None where there is none.

    The model keeps it alive: this is how to get at one whose last reference is lost.
    """
    for module in model.modules():
        vector = _carriers.get(module)
        if vector is not None and vector() is not None:
            return vector()
    return None


def note(model: nn.Module, vector: Any = None) -> None:
    """The model carries a diff from now on: one that `vector` writes while attached, or (None) one that
    nobody writes.
    """
    for module in model.modules():
        _carriers[module] = None if vector is None else weakref.ref(vector)
