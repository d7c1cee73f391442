"""What a method's part of a delta file holds, and whether it can be so.

prompt    "vectors" [P, D]
bias      "NAME": the trained values of each parameter NAME of the base that is called bias
adapter   "PLACE.down.weight" [H, D], "PLACE.down.bias" [H], "PLACE.up.weight" [D, H], "PLACE.up.bias" [D]
lora      "NAME.down" [r, n], "NAME.up" [m, r] beside the weight NAME [m, n]; settings: scale
dsee      the same, and "NAME.positions", "NAME.values" [N]
diff      "NAME.positions" int32 or int64 [N], rising, into the flattened parameter; "NAME.values" [N]
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..artefacts.base import Base
from ..artefacts.content import check_changed, check_name, check_values
from .modules import is_bias

_ADAPTER = ("down.weight", "down.bias", "up.weight", "up.bias")
_POSITIONS = (torch.int32, torch.int64)


@dataclass(frozen=True)
class Part:
    """The part of one method.

    Attributes:
        stage: in which it was trained, from 1.
        settings: how it was made: plain JSON.
        tensors: by name, see above.
    """

    stage: int
    settings: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """The number of trained numbers."""
        return sum(part.numel() for name, part in self.tensors.items() if not name.endswith(".positions"))

    def check(self, method: str, base: Base) -> None:
        """Raise a ValueError unless the part is one of `method` on this base."""
        if type(self.stage) is not int or not 1 <= self.stage <= 1000:
            raise ValueError(f"the stage of {method} is none")
        if not isinstance(self.settings, dict):
            raise ValueError(f"the settings of {method} are no JSON object")
        if not self.tensors:
            raise ValueError(f"its part of {method} is empty")
        for name, tensor in self.tensors.items():
            check_name(name)
            if not name.endswith(".positions"):
                check_values(name, tensor)
        _CHECKS[method](self, base)


def _prompt(part: Part, base: Base) -> None:
    vectors = part.tensors.get("vectors")
    if set(part.tensors) != {"vectors"} or vectors.dim() != 2 or not vectors.numel():
        raise ValueError("its prompt is no list of vectors")


def _bias(part: Part, base: Base) -> None:
    for name, tensor in part.tensors.items():
        if not is_bias(name) or name not in base.parameters:
            raise ValueError(f"{name!r} is no bias of the base")
        if tuple(tensor.shape) != base.parameters[name][1]:
            raise ValueError(f"the bias {name!r} has the shape {list(tensor.shape)}, another than the base's")


def _adapter(part: Part, base: Base) -> None:
    for place, tensors in grouped(part.tensors, _ADAPTER).items():
        down, up = tensors["down.weight"], tensors["up.weight"]
        fits = down.dim() == up.dim() == 2 and down.shape == up.shape[::-1] and down.numel()
        biases = tensors["down.bias"].shape == down.shape[:1] and tensors["up.bias"].shape == up.shape[:1]
        if not fits or not biases:
            raise ValueError(f"the adapter of {place!r} is no bottleneck")


def _low_rank(part: Part, base: Base, more: tuple[str, ...] = ()) -> None:
    scale = part.settings.get("scale")
    if type(scale) is not float or not math.isfinite(scale):
        raise ValueError("the scale of an update is none")
    for name, tensors in grouped(part.tensors, ("down", "up", *more)).items():
        shape = _known(name, base)
        down, up = tensors["down"], tensors["up"]
        if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1] or not down.numel():
            raise ValueError(f"the low rank of {name!r} is none")
        if (up.shape[0], down.shape[1]) != shape:
            raise ValueError(f"the update of {name!r} is of another shape than the base's {list(shape)}")
        if more:
            check_positions(name, tensors["positions"], tensors["values"], math.prod(shape))


def _dsee(part: Part, base: Base) -> None:
    _low_rank(part, base, ("positions", "values"))


def _diff(part: Part, base: Base) -> None:
    for name, tensors in grouped(part.tensors, ("positions", "values")).items():
        size = math.prod(_known(name, base))
        check_positions(name, tensors["positions"], tensors["values"], size)


_CHECKS = {
    "prompt": _prompt,
    "bias": _bias,
    "adapter": _adapter,
    "lora": _low_rank,
    "diff": _diff,
    "dsee": _dsee,
}


def check_positions(name: str, where: Tensor, values: Tensor, size: int) -> None:
    """Raise a ValueError unless positions rise, lie within a tensor of `size`, and have a value each."""
    if where.dtype not in _POSITIONS or where.dim() != 1 or values.shape != where.shape:
        raise ValueError(f"the positions of {name!r} are no list of whole numbers, one a value")
    rising = not len(where) or bool((where[1:] > where[:-1]).all())
    if not rising or len(where) and not 0 <= int(where[0]) <= int(where[-1]) < size:
        raise ValueError(f"the positions of {name!r} do not rise, or leave the tensor")


def grouped(tensors: Mapping[str, Tensor], endings: tuple[str, ...]) -> dict[str, dict[str, Tensor]]:
    """Return {name: {ending: tensor}} of tensors called NAME.ENDING.

    Raises:
        ValueError: one is called otherwise, or a name lacks an ending.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        ending = next((one for one in endings if name.endswith(f".{one}")), None)
        if ending is None:
            raise ValueError(f"it has a tensor {name!r}")
        found.setdefault(name[: -len(ending) - 1], {})[ending] = tensor
    for name, parts in found.items():
        for ending in endings:
            if ending not in parts:
                raise ValueError(f"{name!r} has no {ending}")
    return found


def _known(name: str, base: Base) -> tuple[int, ...]:
    """Return the shape of a weight of the base; raise a ValueError where it is none."""
    if name not in base.parameters:
        raise ValueError(f"{name!r} is not a weight of the base")
    check_changed(base, name)
    return base.parameters[name][1]
