"""A sparse diff as a part of a model: values at fixed positions, added to frozen parameters in the forward.

The positions are those of a mask that a diff pruning has found (a `SparseDiff`), or random ones. Any
optimizer trains the values: there is nothing to write into the weights.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...artefacts.base import find_names
from ...delta.parts import grouped
from ...delta.stages import Owners
from ...diffs.sparse import SparseDiff
from ...options.errors import OptionError
from ...options.numbers import check_number
from .families import encoder_of

_NAMES = ("positions", "values")


class DiffTensor(nn.Module):
    """Values beside a frozen tensor: `forward(tensor)` is their sum, in the tensor's dtype.

    Args:
        positions: [N] int64, rising, into the flattened tensor. values: [N].
    """

    def __init__(self, positions: Tensor, values: Tensor):
        super().__init__()
        self.register_buffer("positions", positions)
        self.values = nn.Parameter(values)

    def forward(self, tensor: Tensor) -> Tensor:
        wide = torch.promote_types(tensor.dtype, self.values.dtype)
        flat = tensor.detach().reshape(-1).to(wide)  # any shape -> [elements]
        return flat.index_add(0, self.positions, self.values.to(wide)).to(tensor.dtype).view(tensor.shape)


class _WithDiff(nn.Module):
    delta_diff: nn.ModuleDict

    def changed(self, name: str) -> Tensor | None:
        tensor = getattr(self, name)
        return self.delta_diff[name](tensor) if name in self.delta_diff else tensor


class DiffLinear(_WithDiff, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.changed("weight"), self.changed("bias"))


class DiffLayerNorm(_WithDiff, nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.changed("weight"), self.changed("bias")
        return functional.layer_norm(x, self.normalized_shape, weight, bias, self.eps)


class DiffEmbedding(_WithDiff, nn.Embedding):
    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.changed("weight"), self.padding_idx)


_KINDS = {nn.Linear: DiffLinear, nn.LayerNorm: DiffLayerNorm, nn.Embedding: DiffEmbedding}


class DiffPart:
    """The values of a diff, by the names of the base's parameters."""

    method = "diff"

    def __init__(self, changes: dict[str, DiffTensor], settings: dict[str, Any]):
        self.changes, self.settings = changes, settings

    @classmethod
    def begin(
        cls, model: nn.Module, owners: Owners, density: float, seed: int, mask: SparseDiff | None
    ) -> DiffPart:
        """Begin at the base: all values are 0, at random positions or those of a mask.

        Random ones are drawn from all parameters of the encoder's layers, each the same share; embeddings are
        left alone.

        Raises:
            OptionError: of `density` or `mask`. ValueError: a parameter cannot have a diff; names it.
        """
        if mask is not None:
            wanted = _of_mask(model, mask)
        else:
            reason = check_number(density, "share")
            if reason is not None:
                raise OptionError("density", f"{density!r}: {reason}")
            wanted = _drawn(model, density, seed)
        own = owners.claim("diff", wanted)
        if not own:
            raise OptionError("density", f"{density}: no parameter is left that a diff could change")
        parameters = dict(model.named_parameters())
        changes = {}
        for name in own:
            _check(model, name)
            device, positions = parameters[name].device, wanted[name]
            changes[name] = DiffTensor(positions.to(device), torch.zeros(len(positions), device=device))
        settings = {"density": density, "seed": seed} if mask is None else {"mask": "given"}
        return cls(changes, settings)

    @classmethod
    def of_file(cls, model: nn.Module, settings: dict, tensors: dict[str, Tensor]) -> DiffPart:
        parameters = dict(model.named_parameters())
        changes = {}
        for name, own in grouped(tensors, _NAMES).items():
            _check(model, name)
            device = parameters[name].device
            changes[name] = DiffTensor(own["positions"].long().to(device), own["values"].to(device))
        return cls(changes, dict(settings))

    def put(self, model: nn.Module) -> None:
        for name, change in self.changes.items():
            module, own = _place(model, name)
            change.to(module.weight.device)
            if type(module) in _KINDS:
                module.__class__ = _KINDS[type(module)]
                module.delta_diff = nn.ModuleDict()
            module.delta_diff[own] = change

    def take(self, model: nn.Module) -> None:
        for name in self.changes:
            module, _ = _place(model, name)
            if isinstance(module, _WithDiff):
                del module.delta_diff
                module.__class__ = next(stock for stock, ours in _KINDS.items() if type(module) is ours)

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        return [change.values for change in self.changes.values()]

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        found = {}
        for name, change in self.changes.items():
            narrow = change.positions.numel() == 0 or int(change.positions[-1]) < 1 << 31
            found[f"{name}.positions"] = change.positions.int() if narrow else change.positions
            found[f"{name}.values"] = change.values.detach()
        return found

    def diff(self, model: nn.Module) -> SparseDiff:
        """Return the diff as packs take it."""
        parts = grouped(self.tensors(model), _NAMES)
        entries = {name: (one["positions"].long().cpu(), one["values"].cpu()) for name, one in parts.items()}
        shapes = {name: tuple(_tensor(model, name).shape) for name in entries}
        return SparseDiff(entries, shapes)


def _drawn(model: nn.Module, density: float, seed: int) -> dict[str, Tensor]:
    """Draw positions in every parameter of the encoder's layers: the same share of each, one at least."""
    path, encoder = encoder_of(model)
    lead = f"{path}.encoder." if path else "encoder."
    generator = torch.Generator().manual_seed(seed)
    found = {}
    for name, parameter in model.named_parameters():
        if name.startswith(lead):
            number = max(1, round(density * parameter.numel()))
            drawn = torch.randperm(parameter.numel(), generator=generator)[:number]
            found[name] = drawn.sort().values
    if not found:
        raise ValueError(f"{type(model).__name__} has no layers at {lead[:-1]} to draw a diff in")
    return found


def _of_mask(model: nn.Module, mask: SparseDiff) -> dict[str, Tensor]:
    """Return the positions of a mask by the model's names."""
    parameters = dict(model.named_parameters())
    entries = {name: where for name, (where, _) in mask.entries.items() if where.numel()}
    if not entries:
        raise OptionError("mask", "has no position")
    try:
        names = find_names(entries, parameters, owner="the mask")
    except ValueError as error:
        raise OptionError("mask", f": {error}") from None
    for name in entries:
        if math.prod(mask.shapes[name]) != parameters[names[name]].numel():
            raise OptionError("mask", f"has {name} of another shape than the model's")
    return {names[name]: where for name, where in entries.items()}


def _check(model: nn.Module, name: str) -> None:
    """Raise a ValueError for a parameter that cannot have a diff beside it; names it."""
    module, own = _place(model, name)
    if type(module) not in _KINDS or own not in ("weight", "bias"):
        raise ValueError(
            f"{name} is of a {type(module).__name__}: a diff goes into linear layers, layer "
            "norms and embeddings"
        )
    tensor = getattr(module, own)
    holders = sum(one is tensor for part in model.modules() for one in part._parameters.values())
    if holders > 1:
        raise ValueError(f"{name} is tied to another weight, which a diff in it alone would leave behind")
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.sparse):
        raise ValueError(f"{name} is of an embedding with max_norm or sparse gradients")


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    """Return the module of a parameter of the base, inside of an update's layer where it is, and its name."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    return getattr(module, "base_layer", module), own


def _tensor(model: nn.Module, name: str) -> Tensor:
    module, own = _place(model, name)
    return getattr(module, own)
