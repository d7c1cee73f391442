"""The dense task head beside a diff: its own AdamW in the diff's optimizer, and the clipping they share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn


class TaskHeadAdamW:
    """Stock AdamW on the task head, run by another optimizer, which holds it as its second parameter group.

    Args:
        outer: that optimizer; the task head's state lives in its `state`, so that one state_dict holds all.
    """

    def __init__(self, outer: torch.optim.Optimizer, betas, eps: float, weight_decay: float):
        self.parameters: list[nn.Parameter] = []
        self._outer = outer
        self._adam: torch.optim.AdamW | None = None
        if len(outer.param_groups) > 1:
            self.parameters = outer.param_groups[1]["params"]
            options = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
            self._adam = torch.optim.AdamW(self.parameters, lr=0.0, **options)
            self._adam.state = outer.state

    def square(self) -> Tensor | float:
        """Return the squared norm of the task head's gradients, in float64."""
        return sum(p.grad.double().square().sum() for p in self.parameters if p.grad is not None)

    def step(self, clip: Tensor | float) -> None:
        """Take one step at the second group's rate, on gradients times `clip`."""
        if self._adam is None:
            return
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(clip)
        self._adam.param_groups[0]["lr"] = self._outer.param_groups[1]["lr"]
        self._adam.step()

    def check(self, state: dict[str, Any]) -> None:
        """Raise a ValueError where a state's groups, or the task head's tensors in it, are of other sizes."""
        groups = self._outer.param_groups
        there, here = ([len(g["params"]) for g in found] for found in (state["param_groups"], groups))
        if there != here:
            raise ValueError("the state has another number of parameters: another task head")
        for index, parameter in enumerate(self.parameters, start=len(groups[0]["params"])):
            for name, tensor in state["state"].get(index, {}).items():
                if name != "step" and tensor.shape != parameter.shape:
                    there, here = list(tensor.shape), list(parameter.shape)
                    raise ValueError(f"the state's task head has the shape {there}, here {here}")

    def load(self, state: dict[str, Any]) -> None:
        """Take over the task head's state, and every group's settings."""
        for index, parameter in enumerate(self.parameters, start=len(self._outer.param_groups[0]["params"])):
            if index in state["state"]:
                self._outer.state[parameter] = {
                    name: tensor.to("cpu" if name == "step" else parameter.device, copy=True)
                    for name, tensor in state["state"][index].items()
                }
        for group, given in zip(self._outer.param_groups, state["param_groups"]):
            group.update({name: value for name, value in given.items() if name != "params"})


def check_rates(**numbers: float) -> None:
    """Raise a ValueError that names the first of these numbers that is negative or not finite."""
    for name, value in numbers.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be 0 or more and finite, got {value}")


def clip_factor(square: Tensor, max_norm: float) -> Tensor | float:
    """Return the factor that clips a gradient of this squared norm to `max_norm`, as clip_grad_norm_ does."""
    if not max_norm:
        return 1.0
    return (max_norm / (square.sqrt() + 1e-6)).clamp(max=1.0)


def dense(grad: Tensor | None) -> Tensor | None:
    """Return a gradient in full, which embeddings may give as a sparse tensor."""
    return grad.to_dense() if grad is not None and grad.is_sparse else grad


def overwrite(here: Tensor, there: Tensor) -> None:
    """Copy a state's tensor into this one of the same shape, in place."""
    if here.data_ptr() != there.data_ptr():  # a state handed straight back is views of this one
        here.copy_(there)
