"""Models with a diff in training: which ones there are, and the hooks that keep their parameters right.

The weights of a model in which a diff is trained, or was trained once, are no base any more.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

_MARK = "_of_a_diff_vector"
# module -> the vector attached to it; None once that is detached. Keeps nothing alive.
_vectors: weakref.WeakKeyDictionary[nn.Module, weakref.ref | None] = weakref.WeakKeyDictionary()

_IS_A_COPY = (
    "this is a copy of a model that a DiffVector is attached to, and may hold a random sample: call the "
    "vector's detach() before you copy the model"
)


def require_free(model: nn.Module, base: Mapping[str, Tensor] | None) -> None:
    """Check that a diff or a mask can be trained in a model.

    Raises:
        ValueError: see `require_detached`; or it has another diff's weights and no `base` is given.
    """
    require_detached(model)
    if base is None and any(module in _vectors for module in model.modules()):
        raise ValueError(
            "a diff was trained in this model, so its weights are not the base's: give base= (clone the "
            "weights while the model is freshly loaded)"
        )


def require_detached(model: nn.Module) -> None:
    """Check that weights can be written into a model.

    Raises:
        ValueError: a `DiffVector` is attached to it or a part of it, or it is a copy of such a model.
    """
    if attached_to(model) is not None:
        raise ValueError(
            "a DiffVector is attached to this model and writes its weights: call its detach() first "
            "(dsp_plugin.diffs.in_training.attached_to(model) returns it)"
        )
    # copy.deepcopy takes the hooks along, and nothing else of the vector
    if any(hasattr(hook, _MARK) for module in model.modules() for hook in module._forward_pre_hooks.values()):
        raise ValueError(_IS_A_COPY)


def attached_to(model: nn.Module) -> Any:
    """Return the `DiffVector` that is attached to a model or to a part of it, None where there is none.

    The model keeps it alive: this is how to get at one whose last reference is lost.
    """
    for module in model.modules():
        vector = _vectors.get(module)
        if vector is not None and vector() is not None:
            return vector()
    return None


def note_diff(model: nn.Module, vector: Any = None) -> None:
    """Remember that a model has a diff in it from now on.

    Args:
        vector: what writes the diff while attached; None for a diff that nobody writes.
    """
    for module in model.modules():
        _vectors[module] = None if vector is None else weakref.ref(vector)


def hook_model(
    model: nn.Module,
    trained: Mapping[str, nn.Parameter],
    before_forward: Callable[[], None],
    before_saving: Callable[[], None],
    after_loading: Callable[[], None],
) -> list[RemovableHandle]:
    """Let a model and all its parts call back before they compute or save, and the model after it has loaded.

    The parts, too: `generate()` calls an encoder by itself, before the model. Called on a copy of the model,
    the hooks raise a RuntimeError; where loading has put other tensors in the place of trained parameters, in
    which training would go on, a ValueError.

    Args:
        trained: the parameters that training moves, by their names in the model.
    """
    own = set(map(id, model.modules()))

    # plain functions, not methods: copy.deepcopy would copy what a method belongs to
    def refuse_copies(module: nn.Module) -> None:
        if id(module) not in own:
            raise RuntimeError(_IS_A_COPY)

    def forward_hook(module: nn.Module, *_) -> None:
        refuse_copies(module)
        before_forward()

    def saving_hook(module: nn.Module, *_) -> None:
        refuse_copies(module)
        before_saving()

    def loading_hook(*_) -> None:
        here = dict(model.named_parameters(remove_duplicate=False))
        lost = [name for name, parameter in trained.items() if here.get(name) is not parameter]
        if lost:
            raise ValueError(
                f"loading put other tensors in the place of {len(lost)} parameters ({lost[0]}, ...) that "
                "this diff is trained in: load without assign=True"
            )
        after_loading()

    setattr(forward_hook, _MARK, True)
    hooks = []
    for module in model.modules():
        if next(module.parameters(), None) is not None:
            hooks.append(module.register_forward_pre_hook(forward_hook))
            hooks.append(module.register_state_dict_pre_hook(saving_hook))
    hooks.append(model.register_load_state_dict_post_hook(loading_hook))
    return hooks
