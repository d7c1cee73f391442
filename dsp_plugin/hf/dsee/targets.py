"""The matrices of a model that get an update, found by their role in attention, whatever they are called.

A role is a whole matrix in most families; in GPT-2, where query, key and value lie in one, it is a range of
its output features. Notation: [m, n] output and input features of a matrix.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from ...options.errors import OptionError
from ..heads.layouts.locate import NotSupported, attentions_of
from ..heads.layouts.projections import Attention
from ..heads.layouts.wrappers import projection_reason

ROLES = ("query", "key", "value", "output")


@dataclass(frozen=True)
class Part:
    """A range of a matrix's output features, [start, stop), with its role; "" for a matrix without one."""

    role: str
    start: int
    stop: int


@dataclass(frozen=True)
class Target:
    """A matrix that gets an update.

    Attributes:
        path: of its module in the model.
        block: name of its attention block; "" outside of attention.
        parts: the ranges that change, rising; each has entries of S2 of its own, as a matrix by itself.
    """

    path: str
    block: str
    parts: tuple[Part, ...]

    @property
    def weight(self) -> str:
        """The name of its weight."""
        return f"{self.path}.weight"


def find_targets(model: nn.Module, roles: Sequence[str]) -> list[Target]:
    """Find the matrices of these roles in every attention block.

    Raises:
        OptionError: an unknown role, or none.
        NotSupported, ValueError: the model is not supported, has no matrix of a role, or one that cannot be
            updated; says why.
    """
    wanted = [roles] if isinstance(roles, str) else list(roles)
    unknown = [role for role in wanted if role not in ROLES]
    if unknown or not wanted:
        given = ", ".join(map(str, unknown)) or "none"
        raise OptionError("targets", f"must be some of {', '.join(ROLES)}, got {given}")
    paths = {id(module): path for path, module in model.named_modules()}
    parts: dict[str, tuple[str, list[Part]]] = {}
    for attention in attentions_of(model):
        found = roles_of(attention)
        for role in ROLES:
            if role not in wanted:
                continue
            if role not in found:
                raise NotSupported(
                    f"{type(model).__name__} has no {role} matrix of its own in {attention.block.name}: its "
                    "rows lie between those of others, head by head"
                )
            module, start, stop = found[role]
            path = paths[id(module)]
            check_matrix(path, module)
            block, ranges = parts.setdefault(path, (attention.block.name, []))
            if Part(role, start, stop) not in ranges:
                ranges.append(Part(role, start, stop))
    return [
        Target(path, block, tuple(sorted(ranges, key=lambda part: part.start)))
        for path, (block, ranges) in parts.items()
    ]


def whole_target(model: nn.Module, path: str, known: Iterable[Target]) -> Target:
    """Make a target of a whole matrix, with the roles that `known` targets see in it."""
    module = model.get_submodule(path)
    check_matrix(path, module)
    rows = shape_of(module)[0]
    for target in known:
        if target.path == path:
            whole = target.parts[0].start == 0 and target.parts[-1].stop == rows
            return target if whole else Target(path, target.block, (Part("", 0, rows),))
    return Target(path, "", (Part("", 0, rows),))


def roles_of(attention: Attention) -> dict[str, tuple[nn.Module, int, int]]:
    """Return {role: (module, first output feature, behind the last)} for the roles that a block shows."""
    inputs = [projection for projection in attention.projections if projection.out]
    output = attention.output.module
    found = {"output": (output, 0, shape_of(output)[0])}
    if len(inputs) >= 3:  # query, key, value; then what some families have beside them
        names = dict(zip(("query", "key", "value"), inputs))
        found |= {role: (one.module, 0, one.features) for role, one in names.items()}
    elif inputs[0].parts > 1:
        names = ("query", "key", "value") if len(inputs) == 1 else ("key", "value")
        size = inputs[0].features // inputs[0].parts
        for number, role in enumerate(names[: inputs[0].parts]):
            found[role] = (inputs[0].module, number * size, (number + 1) * size)
        if len(inputs) == 2:
            found["query"] = (inputs[1].module, 0, inputs[1].features)
    return found


def shape_of(module: nn.Module) -> tuple[int, int]:
    """Return [m, n] of a matrix, however it is stored."""
    first, second = module.weight.shape
    return (second, first) if isinstance(module, Conv1D) else (first, second)


def as_matrix(module: nn.Module, tensor: Tensor) -> Tensor:
    """View what lies as the module's weight does as [m, n], or the other way round."""
    return tensor.T if isinstance(module, Conv1D) else tensor


def check_matrix(path: str, module: nn.Module) -> None:
    """Raise a ValueError, which names it, for a module whose weight cannot get an update."""
    reason = projection_reason(module)
    if reason is not None:
        raise ValueError(f"{path} {reason}")
