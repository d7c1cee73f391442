"""A projection of attention with an update beside its frozen weight, by fairseq's names of both."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...dsee.artefact import Update
from ...dsee.update import LowRankSparse
from ...options.errors import OptionError
from ..heads.gated_transformer import attention_blocks

ROLES = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "output": "out_proj"}
"""Role of a matrix -> its name in an attention block."""

MARK = ".update."
"""Stands in the names of an update's tensors, after that of the projection: `...q_proj.update.down`."""

PARTS = ("down", "up", "values", "rows", "columns")


class UpdatedLinear(nn.Linear):
    """A frozen linear layer and its update, W x + b + s·B(A x) + s·S2 x.

    `weight` and `bias` keep their names, so that a checkpoint without updates loads into it.

    Args:
        linear: the layer, whose parameters are taken over. update: of its weight.
    """

    def __init__(self, linear: nn.Linear, update: Update):
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.update = LowRankSparse.of(update)

    def forward(self, x: Tensor) -> Tensor:
        """Project [..., n] to [..., m]."""
        return self.update(F.linear(x, self.weight, self.bias), x)


def roles_of(text: str, option: str = "dsee_targets") -> list[str]:
    """Read the roles that an option names, joined by commas, in the order of `ROLES`.

    Raises:
        OptionError: an unknown one, or none.
    """
    named = [word.strip() for word in text.split(",") if word.strip()]
    if not named or not {*named} <= {*ROLES}:
        reason = f"{text!r}: some of {', '.join(ROLES)} belong there, joined by commas"
        raise OptionError(option, reason)
    return [role for role in ROLES if role in named]


def weights_of(blocks: Iterable[str], roles: Sequence[str]) -> list[str]:
    """Return the names of the weights that have an update: those of `roles` in these attention blocks."""
    return [f"{block}.{ROLES[role]}.weight" for block in blocks for role in roles]


def roles_in(names: Iterable[str]) -> list[str]:
    """Return the roles of weights with an update, by their names."""
    ends = {name.removesuffix(".weight").rpartition(".")[2] for name in names}
    return [role for role, end in ROLES.items() if end in ends]


def updated_layers(model: nn.Module) -> dict[str, UpdatedLinear]:
    """Return the layers with an update, by the names of their weights."""
    return {
        f"{path}.weight": module
        for path, module in model.named_modules()
        if isinstance(module, UpdatedLinear)
    }


def place_updates(model: nn.Module, rank: int, scale: float, num_sparse: int, roles: Sequence[str]) -> None:
    """Give a model that was just built updates of zeros in place, for the weights that will be loaded.

    Nothing else of the model is trained from now on. What is made is bounded by the model's own matrices,
    whatever a checkpoint asks for.

    Raises:
        OptionError: a rank above the width of a matrix.
    """
    model.requires_grad_(False)
    for name, block in attention_blocks(model).items():
        for role in roles if block.num_heads else ():
            linear = getattr(block, ROLES[role])
            if type(linear) is not nn.Linear:
                raise ValueError(f"{name}.{ROLES[role]} is a {type(linear).__name__}, which has no update")
            outputs, inputs = linear.weight.shape
            if rank > max(outputs, inputs):  # one of them is that of the matrix before heads were removed
                reason = f"is {rank}, above the width of {name}.{ROLES[role]}, {max(outputs, inputs)}"
                raise OptionError("lora_r", reason)
            zeros = torch.zeros(rank, inputs), torch.zeros(outputs, rank)
            count = min(num_sparse, outputs * inputs)
            where = torch.zeros(count, dtype=torch.int64), torch.zeros(count)
            setattr(block, ROLES[role], UpdatedLinear(linear, Update(*zeros, *where, scale)))
    set_trainable(model)


def set_trainable(model: nn.Module) -> None:
    """Let A, B and the values of S2 be trained, where there are any."""
    for layer in updated_layers(model).values():
        for parameter in layer.update.parameters():
            parameter.requires_grad_(parameter.numel() > 0)


def resize_updates(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Give S2 of every layer room for as many entries as a checkpoint has: pruning takes some.

    Args:
        tensors: the checkpoint's, by the model's names.

    Raises:
        ValueError: entries that lie outside their matrix.
    """
    for name, layer in updated_layers(model).items():
        path = name.removesuffix(".weight") + MARK
        for part, size in zip(("rows", "columns"), layer.weight.shape):
            places = tensors.get(path + part)
            if places is not None and len(places) and not 0 <= int(places.min()) <= int(places.max()) < size:
                raise ValueError(f"the checkpoint's {path}{part} leave the matrix, which has {size}")
        there = tensors.get(path + "values")
        if there is not None and there.shape != layer.update.values.shape:
            here = layer.update.as_update()
            where = torch.zeros(len(there), dtype=torch.int64), torch.zeros(len(there))
            layer.update = LowRankSparse.of(Update(here.down, here.up, *where, here.scale))
    set_trainable(model)


def update_tensors(updates: dict[str, Update]) -> dict[str, Tensor]:
    """Return updates by the names that a model's state has for them."""
    found = {}
    for name, update in updates.items():
        module = LowRankSparse.of(update)
        found.update({name.removesuffix(".weight") + MARK + part: getattr(module, part) for part in PARTS})
    return {name: tensor.detach() for name, tensor in found.items()}


def updates_in(tensors: dict[str, Tensor], scale: float) -> dict[str, Update]:
    """Return the updates among a checkpoint's tensors, by the names of their weights.

    Raises:
        ValueError: a part of one is missing, or parts do not fit together.
    """
    found = {}
    for name in tensors:
        path, _, part = name.partition(MARK)
        if part != "down":
            continue
        try:
            down, up, values, rows, columns = (tensors[f"{path}{MARK}{each}"] for each in PARTS)
        except KeyError as error:
            raise ValueError(f"the checkpoint has no {error.args[0]}") from None
        found[f"{path}.weight"] = Update(down, up, rows * down.shape[1] + columns, values, scale)
        found[f"{path}.weight"].check(f"{path}.weight")
    return found
