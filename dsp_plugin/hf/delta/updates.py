"""LoRA and DSEE's update as parts of a model: PEFT's layers with a few entries beside them, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from ...delta.parts import grouped
from ...dsee.supports import check_support
from ...dsee.update import SPREAD, check_rank
from ..dsee.adding import attach, supports_of
from ..dsee.layer import ADAPTER, DseeLinear
from ..dsee.targets import Part, Target, check_matrix, find_targets, shape_of

_NAMES = ("down", "up", "positions", "values")


class UpdatePart:
    """The layers of one method, by the path of their matrix; `lora` has no entries beside A and B."""

    def __init__(self, method: str, layers: dict[str, DseeLinear], settings: dict[str, Any]):
        self.method, self.layers, self.settings = method, layers, settings

    @classmethod
    def begin(
        cls,
        method: str,
        model: nn.Module,
        roles: Sequence[str],
        rank: int,
        alpha: float,
        num_sparse: int,
        sparse_method: str,
        seed: int,
    ) -> UpdatePart:
        """Make layers beside the matrices of some roles; the model is as before. A is random, B and S2 are 0.

        Raises:
            OptionError, ValueError: see `add_dsee`.
        """
        found = find_targets(model, roles)
        for target in found:
            shape = shape_of(model.get_submodule(target.path))
            check_rank(shape, rank, alpha)
            check_support(shape, num_sparse, sparse_method)
        seeds = [(seed << 20) + number for number in range(len(found))]
        supports = [supports_of(model, one, num_sparse, sparse_method, n) for one, n in zip(found, seeds)]
        layers = _layers(model, found, rank, alpha)
        generator = torch.Generator().manual_seed(seed)
        for target, positions in zip(found, supports):
            layer = layers[target.path]
            down = torch.randn(layer.down.shape, generator=generator) * SPREAD
            layer.set_low_rank(down, torch.zeros_like(layer.lora_B[ADAPTER].weight))
            layer.set_sparse(positions, torch.zeros(len(positions)))
        roles = [roles] if isinstance(roles, str) else list(roles)
        settings = {
            "rank": rank,
            "alpha": alpha,
            "targets": roles,
            "scale": float(alpha / rank),
            "seed": seed,
        }
        if method == "dsee":
            settings |= {"num_sparse": num_sparse, "sparse_method": sparse_method}
        return cls(method, layers, settings)

    @classmethod
    def of_file(cls, method: str, model: nn.Module, settings: dict, tensors: dict) -> UpdatePart:
        names = _NAMES if method == "dsee" else _NAMES[:2]
        parts = grouped(tensors, names)
        targets, ranks = [], set()
        for name, own in parts.items():
            path, _, own_name = name.rpartition(".")
            if own_name != "weight":
                raise ValueError(f"{name} is no weight of a matrix that an update could stand beside")
            module = model.get_submodule(path)
            check_matrix(path, module)
            if shape_of(module) != (own["up"].shape[0], own["down"].shape[1]):
                raise ValueError(f"the update of {path} is of another shape than the matrix has")
            ranks.add(own["down"].shape[0])
            targets.append(Target(path, "", (Part("", 0, own["up"].shape[0]),)))
        if len(ranks) > 1:
            raise ValueError(f"the updates of {method} are of several ranks")
        rank = ranks.pop()
        layers = _layers(model, targets, rank, settings["scale"] * rank)
        for name, own in parts.items():
            layer = layers[name.removesuffix(".weight")]
            layer.set_low_rank(own["down"], own["up"])
            nothing = torch.zeros(0)
            layer.set_sparse(own.get("positions", nothing.long()).long(), own.get("values", nothing))
            layer.scaling[ADAPTER] = settings["scale"]
        return cls(method, layers, dict(settings))

    @property
    def weights(self) -> list[str]:
        """The names of the matrices that have an update."""
        return [f"{path}.weight" for path in self.layers]

    def put(self, model: nn.Module) -> None:
        for path, layer in self.layers.items():
            plain = model.get_submodule(path)
            layer.base_layer = plain
            layer.to(plain.weight.device)
            layer.train(model.training)
            _set(model, path, layer)

    def take(self, model: nn.Module) -> None:
        for path, layer in self.layers.items():
            _set(model, path, layer.base_layer)

    def parameters(self, model: nn.Module) -> list[nn.Parameter]:
        found = []
        for layer in self.layers.values():
            found += [layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight]
            found += [layer.dsee_values] if layer.dsee_values.numel() else []
        return found

    def tensors(self, model: nn.Module) -> dict[str, Tensor]:
        found = {}
        for path, layer in self.layers.items():
            update = layer.update()
            own = {"down": update.down, "up": update.up}
            if self.method == "dsee":
                own |= {"positions": update.positions.int(), "values": update.values}
            found |= {f"{path}.weight.{name}": tensor.detach() for name, tensor in own.items()}
        return found


def _layers(model: nn.Module, targets: Sequence[Target], rank: int, alpha: float) -> dict[str, DseeLinear]:
    """Make layers beside matrices that stay in their places."""
    asked = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        layers = attach(model, targets, LoraConfig(r=rank, lora_alpha=alpha))
    finally:
        for parameter, flag in asked:  # PEFT freezes all
            parameter.requires_grad_(flag)
        vars(model).pop("peft_config", None)
    for path, layer in layers.items():
        _set(model, path, layer.base_layer)
    return layers


def _set(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
