"""Finetuning with a fixed mask: only its positions move, and the optimizer's state is as large as it is."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...artefacts.base import base_hash
from ...handshake.optimizer_steps import HandshakeError
from ..in_training import note_diff, require_free
from ..packs.pack import patched
from ..sparse import SparseDiff
from .passes.torch_passes import Rates, adam
from .placement import base_tensors, place
from .task_head import TaskHeadAdamW, check_rates, clip_factor, dense, overwrite
from .watches import BufferWatch, ForeignSteps

FORMAT = 1


class FixMaskAdamW(torch.optim.Optimizer):
    """AdamW on a diff's K values and the task head beside them; other weights stay bit for bit at the base.

    Its parameter groups hold the model's own parameters. A step gathers their gradients at the K positions,
    updates the K values and writes base + value there. Tensors without a position ask for no gradient any
    more, which spares part of the backward pass. The host's own clipping must be off: values and task head
    are clipped here, to a joint norm.

    Args:
        model: its body is set to base + values at once, whatever it held.
        diff: positions and starting values; every name one of the model's, of its shape there.
        base: weights of the base by name; None: the model's own now (only right for a freshly loaded base,
            and refused where a diff was trained in the model before).
        task_head: as for DiffVector.
        from_zero: start at the base instead of at the diff's values (the reference's `finetune` 0).
        lr, task_head_lr, betas, eps, max_norm, task_head_weight_decay: as for DiffAdamW.

    Raises:
        ValueError: see `placement`; a diff of other names or shapes, without positions, or with values that
            are not finite; a `DiffVector` that is still attached to the model. The model is as it was then.
    """

    def __init__(
        self,
        model: nn.Module,
        diff: SparseDiff,
        *,
        base: Mapping[str, Tensor] | None = None,
        task_head: Iterable[str] = (),
        from_zero: bool = False,
        lr: float = 5e-5,
        task_head_lr: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        max_norm: float | None = 1.0,
        task_head_weight_decay: float = 0.0,
    ):
        check_rates(lr=lr, task_head_lr=task_head_lr or 0.0, eps=eps, max_norm=max_norm or 0.0)
        require_free(model, base)
        placed = place(model, task_head, asking_only=False)  # another mask may have frozen some
        self._check(diff, placed.body)
        tensors = dict(zip(placed.body, base_tensors(placed.body, base)))
        self.body, self.task_head = placed.body, placed.task_head
        changed = {name for name, (positions, _) in diff.entries.items() if positions.numel()}
        self.touched = {name: parameter for name, parameter in placed.body.items() if name in changed}
        device = next(iter(self.touched.values())).device
        self.positions = [diff.entries[name][0].to(device) for name in self.touched]
        self.shapes = {name: tuple(parameter.shape) for name, parameter in placed.body.items()}
        self._counts = [positions.numel() for positions in self.positions]
        double = next(iter(self.touched.values())).dtype == torch.float64
        values = torch.cat([diff.entries[name][1].to(device) for name in self.touched])
        self.values = values.to(torch.float64 if double else torch.float32, copy=True)
        if from_zero:
            self.values.zero_()
        self._mean, self._square = torch.zeros_like(self.values), torch.zeros_like(self.values)
        self.steps = 0
        self._buffers = BufferWatch(model)
        self._base_hash = base_hash(tensors)
        note_diff(model)
        with torch.no_grad():
            for name, parameter in placed.body.items():
                parameter.copy_(tensors[name])
        self._below = [
            # any shape -> [elements] -> [n]
            tensors[name].reshape(-1)[positions]
            for name, positions in zip(self.touched, self.positions)
        ]
        self._write()
        for name, parameter in placed.body.items():
            parameter.requires_grad_(name in self.touched)

        settings = {"lr": lr, "betas": betas, "eps": eps, "max_norm": max_norm or 0.0}
        groups: list[dict[str, Any]] = [{"params": list(self.touched.values()), **settings}]
        if placed.task_head:
            rate = lr if task_head_lr is None else task_head_lr
            groups.append({"params": list(placed.task_head.values()), "lr": rate})
        super().__init__(groups, {"lr": lr})
        for index, parameter in enumerate(self.touched.values()):
            flats = {"values": self.values, "mean": self._mean, "square": self._square}
            self.state[parameter] = {name: flat.split(self._counts)[index] for name, flat in flats.items()}
        self._task_head = TaskHeadAdamW(self, betas, eps, task_head_weight_decay)
        self._moved = False  # by somebody else, since the last step
        me = weakref.ref(self)

        def note_foreign() -> None:
            if (optimizer := me()) is not None:  # it may be collected while another optimizer steps
                optimizer._moved = True

        self._foreign = ForeignSteps(placed.body.values(), lambda optimizer: optimizer is me(), note_foreign)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Take one AdamW step of the values and the task head. A tensor without a gradient counts as zeros.

        Raises:
            HandshakeError: another optimizer has moved weights of the body.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._moved:
            raise HandshakeError(
                "another optimizer moves the weights, too, and not those of the mask alone: train with one "
                "of them"
            )
        group = self.param_groups[0]
        grads = [dense(parameter.grad) for parameter in self.touched.values()]
        # each of any shape -> [elements] -> [n], together [K]
        grad = torch.cat(
            [
                self.values.new_zeros(positions.numel())
                if grad is None
                else grad.reshape(-1)[positions].to(self.values.dtype)
                for grad, positions in zip(grads, self.positions)
            ]
        )
        clip = clip_factor(grad.double().square().sum() + self._task_head.square(), group["max_norm"])
        self.steps += 1
        first, second = (1 - beta**self.steps for beta in group["betas"])
        rates = Rates(clip, group["lr"] / first, 1 / math.sqrt(second), group["eps"])
        adam(self.values, self._mean, self._square, grad, rates, group["betas"])
        self._write()
        self._task_head.step(clip)
        return loss

    def diff(self) -> SparseDiff:
        """Return the diff: the same positions, the values now. Warn of buffers that training has changed."""
        self._buffers.warn()
        parts = [part.detach().cpu().clone() for part in self.values.split(self._counts)]
        entries = {name: (at.cpu(), part) for name, at, part in zip(self.touched, self.positions, parts)}
        return SparseDiff(entries, self.shapes)

    def state_dict(self) -> dict[str, Any]:
        """Return a state as any optimizer's, three tensors [n] a parameter; in 'diff' the mask and base."""
        state = super().state_dict()
        state["diff"] = {
            "format": FORMAT,
            "steps": self.steps,
            "base": self._base_hash,
            "positions": dict(zip(self.touched, self.positions)),
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, and write its values into the model.

        Raises:
            ValueError: a state of another optimizer, base, mask or task head. Nothing has been changed then.
        """
        saved = state_dict.get("diff")
        if not isinstance(saved, dict) or saved.get("format") != FORMAT or "positions" not in saved:
            raise ValueError("this is not the state of fix-mask finetuning, or one of a newer version")
        if saved["base"] != self._base_hash:
            raise ValueError("the state belongs to another base")
        same = list(saved["positions"]) == list(self.touched) and all(
            torch.equal(positions.to(mine.device), mine)
            for positions, mine in zip(saved["positions"].values(), self.positions)
        )
        if not same:
            raise ValueError("the state belongs to another mask: start from the diff it was trained with")
        self._task_head.check(state_dict)
        for index, parameter in enumerate(self.touched.values()):
            for name, here in self.state[parameter].items():
                overwrite(here, state_dict["state"][index][name])
        self._task_head.load(state_dict)
        self.steps = int(saved["steps"])
        with torch.no_grad():
            self._write()

    def _write(self) -> None:
        parts = zip(self.touched.values(), self.positions, self._below, self.values.split(self._counts))
        for parameter, positions, below, values in parts:
            parameter.data.view(-1)[positions] = patched(below, values)  # [elements] at [n]

    @staticmethod
    def _check(diff: SparseDiff, body: Mapping[str, nn.Parameter]) -> None:
        another = "the mask is of another model"
        unknown = [name for name in diff.entries if name not in body]
        if unknown:
            raise ValueError(f"{another}: '{unknown[0]}' is no parameter of this one's body")
        if diff.count == 0:
            raise ValueError("the mask has no position")
        for name, (_, values) in diff.entries.items():
            if diff.shapes[name] != tuple(body[name].shape):
                there, here = list(diff.shapes[name]), list(body[name].shape)
                raise ValueError(f"{another}: '{name}' has the shape {there} there, {here} here")
            if not bool(torch.isfinite(values).all()):
                raise ValueError(f"the diff of '{name}' holds values that are not finite numbers")
