"""Refusal of models and projections that are wrapped in something, so that their heads cannot be reached.

Classes of other packages are recognised by name, so that none of these packages is imported for it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from .families import LINEAR_LIKE, family_of

_INSIDE = "work on the model inside ({}), and wrap it afterwards"
_REFUSED = "heads can be removed from plain weights only"
# (first word of the package, class) -> what to do
_WRAPPERS: dict[tuple[str, str], str] = {
    ("torch", "DataParallel"): _INSIDE.format("`.module`"),
    ("torch", "DistributedDataParallel"): _INSIDE.format("`.module`"),
    ("torch", "FullyShardedDataParallel"): "work on the model before it is sharded",
    ("torch", "FSDPModule"): "work on the model before fully_shard",
    ("torch", "OptimizedModule"): _INSIDE.format("`._orig_mod`"),
    ("torch", "ScriptModule"): "work on the model before it is scripted or traced",
    ("deepspeed", "DeepSpeedEngine"): _INSIDE.format("`.module`"),
    ("peft", "PeftModel"): (
        "merge the adapter and go on with the plain model (model = model.merge_and_unload()), "
        "or work on the model before it gets an adapter"
    ),
}


def check_root(model: nn.Module) -> None:
    """Refuse a model that is wrapped in something, or that holds such a part.

    Raises:
        ValueError: names the wrapper and what to do.
    """
    for path, part in model.named_modules():
        where = f"{type(model).__name__}.{path}" if path else "the model"
        for base in type(part).__mro__:
            advice = _WRAPPERS.get((base.__module__.partition(".")[0], base.__name__))
            if advice is not None:
                raise ValueError(f"{where} is a {base.__name__}, a wrapper around a model: {advice}")
        if getattr(part, "_compiled_call_impl", None) is not None:
            raise ValueError(
                f"{where} has been compiled in place: work on the model first, and call .compile() afterwards"
            )


def check_projection(where: str, module: nn.Module) -> None:
    """Refuse a projection whose rows and columns are not those of its `weight` and `bias` alone.

    Args:
        where: the block it belongs to, for the message.

    Raises:
        ValueError: names the block, what is in the way, and what to do.
    """
    reason = projection_reason(module)
    if reason is not None:
        raise ValueError(f"a projection of {where} {reason}")


def projection_reason(module: nn.Module) -> str | None:
    """Return why the heads of a projection cannot be cut, and what to do; None where they can."""
    kind, utils = type(module).__name__, "torch.nn.utils"
    if any(base.__module__.startswith("peft.") for base in type(module).__mro__):
        return f"is a {kind}, with an adapter: {_REFUSED}; merge the adapter first (merge_and_unload)"
    if parametrize.is_parametrized(module):
        names = ", ".join(module.parametrizations)
        call = f"{utils}.parametrize.remove_parametrizations"
        return f"works its {names} out of other tensors: {_REFUSED}; first call {call} on it"
    if hasattr(module, "weight_mask") and hasattr(module, "weight_orig") or hasattr(module, "bias_mask"):
        return f"is pruned by {utils}.prune: {_REFUSED}; first make that lasting with {utils}.prune.remove"
    if hasattr(module, "weight_g") and hasattr(module, "weight_v"):
        return f"has a normed weight: {_REFUSED}; first call {utils}.remove_weight_norm on it"
    if hasattr(module, "weight_orig"):
        return f"has a spectrally normed weight: {_REFUSED}; first call {utils}.remove_spectral_norm on it"
    if not isinstance(module, (nn.Linear, Conv1D)):
        return (
            f"is a {kind}: {_REFUSED}; merge adapters into them, or load the model without quantisation, "
            "first"
        )
    reason = _tensor_reason(getattr(module, "weight", None)) or _tensor_reason(module.bias)
    if reason is not None:
        return reason
    names = [name for name, _ in (*module.named_parameters(), *module.named_buffers())]
    others = ", ".join([name for name in names if name not in ("weight", "bias")][:3])
    if others:
        return f"is a {kind} with tensors of its own ({others}): {_REFUSED}; merge them into it first"
    return _forward_reason(module, kind) or _hook_reason(module)


def _tensor_reason(tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    data = tensor.data if isinstance(tensor, Tensor) else tensor
    if type(data).__name__ == "DTensor":
        return "is spread over several devices (DTensor): remove heads before the model is sharded"
    stock = type(tensor) in (nn.Parameter, Tensor) and type(data) is Tensor
    if not stock or not tensor.is_floating_point():
        return (
            f"has weights of type {type(data).__name__} ({str(tensor.dtype).removeprefix('torch.')}), not "
            "plain ones: load the model without quantisation first"
        )
    return None


def _forward_reason(module: nn.Module, kind: str) -> str | None:
    hook = getattr(module, "_hf_hook", None)
    if hook is not None:
        offloads = any(getattr(one, "offload", False) for one in (hook, *getattr(hook, "hooks", ())))
        return (
            "is offloaded by accelerate: load the whole model on devices first (no offload)"
            if offloads
            else None
        )
    if "forward" in vars(module):
        return "has a forward that was put in place of its own: undo that first"
    # the class of a Conv1D without input features is one of ours
    ours = type(module).__module__.startswith(__name__.partition(".")[0] + ".")
    stock = type(module).forward in (nn.Linear.forward, Conv1D.forward)
    if not ours and not stock and family_of(type(module)) not in LINEAR_LIKE:
        return (
            f"is a {kind}, which computes something else than its weights say: use a plain Linear or "
            "Conv1D there"
        )
    return None


def _hook_reason(module: nn.Module) -> str | None:
    for hooks in (module._forward_pre_hooks, module._forward_hooks):
        for hook in hooks.values():
            if any(_has_weights(value, module) for value in _held_by(hook)):
                name = getattr(hook, "__qualname__", type(hook).__name__)
                return f"has a forward hook with weights of its own ({name}): remove that hook first"
    return None


def _held_by(hook: Callable) -> Iterator[Any]:
    """Yield the values a hook holds: a partial's arguments, a closure's cells, an object's attributes."""
    if isinstance(hook, functools.partial):
        yield from (*hook.args, *hook.keywords.values())
        yield from _held_by(hook.func)
        return
    for cell in getattr(hook, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:  # a variable that has no value yet
            pass
    owner = getattr(hook, "__self__", hook)
    if isinstance(owner, nn.Module):
        yield owner
    elif not isinstance(owner, type):
        yield from getattr(owner, "__dict__", {}).values()


def _has_weights(value: Any, module: nn.Module) -> bool:
    # a model that holds the module itself adds nothing to it
    if isinstance(value, nn.Module):
        return any(True for _ in value.parameters()) and all(part is not module for part in value.modules())
    return isinstance(value, nn.Parameter)


def check_values(model: nn.Module) -> None:
    """Refuse a model with weights on the meta device: they are offloaded, or were never loaded.

    Raises:
        ValueError: names the first one.
    """
    for name, tensor in model.named_parameters():
        if tensor.is_meta:
            raise ValueError(
                f"{name} of {type(model).__name__} has no values (it is on the meta device): load the whole "
                "model on devices first (no offload)"
            )
