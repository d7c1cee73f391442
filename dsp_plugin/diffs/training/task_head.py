"""The dense task head beside a diff: its own AdamW in the diff's optimizer, and the clipping they share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class TaskHeadAdamW:
    """Stock AdamW on the task head, run by another optimizer, which holds it as its second parameter group.

    Args:
        outer: that optimizer; the task head's state lives in its `state`, so that one state_dict holds all.
    """

    def __init__(self, outer: torch.optim.Optimizer, betas, eps: float, weight_decay: float):
        self.parameters: list[nn.Parameter] = (
            outer.param_groups[1]["params"] if len(outer.param_groups) > 1 else []
        )
        self._outer = outer
        self._adam: torch.optim.AdamW | None = None
        if self.parameters:
            self._adam = torch.optim.AdamW(
                self.parameters, lr=0.0, betas=betas, eps=eps, weight_decay=weight_decay
            )
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
        """Raise a ValueError where a saved state's groups or the task head's tensors in it are of other
        sizes.
        """
        groups = self._outer.param_groups
        if [len(group["params"]) for group in state["param_groups"]] != [
            len(group["params"]) for group in groups
        ]:
            raise ValueError("the state has another number of parameters: another task head")
        for index, parameter in enumerate(self.parameters, start=len(groups[0]["params"])):
            for name, tensor in state["state"].get(index, {}).items():
                if name != "step" and tensor.shape != parameter.shape:
                    raise ValueError(
                        f"the state's task head has the shape {list(tensor.shape)}, here "
                        f"{list(parameter.shape)}"
                    )

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


def clip_factor(square: Tensor, max_norm: float) -> Tensor | float:
    """Return the factor that brings a gradient of this squared norm to `max_norm` at most, as torch's
    clip_grad_norm_ does.
    """
    if not max_norm:
        return 1.0
    return (max_norm / (square.sqrt() + 1e-6)).clamp(max=1.0)


def dense(grad: Tensor | None) -> Tensor | None:
    """Return a gradient in full, which embeddings may give as a sparse tensor."""
    return grad.to_dense() if grad is not None and grad.is_sparse else grad


def overwrite(here: Tensor, there: Tensor) -> None:
    if here.data_ptr() != there.data_ptr():  # a state handed straight back is views of this one
        here.copy_(there)
