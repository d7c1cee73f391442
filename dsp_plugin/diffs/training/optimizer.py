"""The optimizer of diff pruning: w by AdamW at the scheduled rate, alpha by AdamW at a constant one.

Its parameter groups hold theta itself, the model's parameters, so that gradient scaling, accumulation and
clearing work as with any optimizer; w, alpha and their moments are its state.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .passes.torch_passes import Moments, NextTheta, Rates, StepInputs, adam
from .task_head import TaskHeadAdamW, check_rates, clip_factor, dense, overwrite
from .vector import DiffVector

FORMAT = 1


class DiffAdamW(torch.optim.Optimizer):
    """Trains a DiffVector, and the task head beside it, from the gradients of the model's parameters.

    Gradients of w (and the task head), and those of alpha (and the groups' alpha), are clipped to a norm
    each, after the pull-back: the host's own clipping must be off. A learning-rate scheduler reaches w and
    the task head ("lr"), never alpha ("alpha_lr"). There is no weight decay on w and alpha.

    Adam's eps matters for alpha: lambda sigmoid'(5) is about 8e-10 at the paper's lambda, below eps = 1e-8,
    so that under the penalty alone it is eps that sets alpha's pace at first.

    Args:
        vector: what is trained.
        lr: of w. task_head_lr: of the task head (default: lr). alpha_lr: of both alpha, constant.
        betas, eps: of both AdamW. alpha_eps: of alpha's (default: eps).
        eps_uncorrected: add alpha's eps to the root of the mean square before its bias correction, as
            Transformers' former AdamW did (the paper's program); alpha then moves later.
        max_norm, alpha_max_norm: clipping norms; 0 or None for none.
        task_head_weight_decay: of the task head.
        writes_next: let a step write the next sample into the model, to read w and alpha only once.

    Raises:
        ValueError: a rate, eps or norm that is negative or not finite.
    """

    def __init__(
        self,
        vector: DiffVector,
        lr: float = 1e-5,
        *,
        task_head_lr: float | None = None,
        alpha_lr: float = 0.1,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        alpha_eps: float | None = None,
        eps_uncorrected: bool = False,
        max_norm: float | None = 1.0,
        alpha_max_norm: float | None = 1.0,
        task_head_weight_decay: float = 0.0,
        writes_next: bool = True,
    ):
        alpha_eps = eps if alpha_eps is None else alpha_eps
        numbers = dict(
            lr=lr,
            alpha_lr=alpha_lr,
            eps=eps,
            alpha_eps=alpha_eps,
            max_norm=max_norm or 0.0,
            alpha_max_norm=alpha_max_norm or 0.0,
            task_head_lr=lr if task_head_lr is None else task_head_lr,
        )
        check_rates(**numbers)
        task_head_lr = numbers.pop("task_head_lr")
        settings = {**numbers, "eps_uncorrected": eps_uncorrected, "betas": betas}
        groups = [{"params": vector.layout.parameters, **settings}]
        if vector.task_head:
            groups.append({"params": list(vector.task_head.values()), "lr": task_head_lr})
        super().__init__(groups, {"lr": lr})
        self.vector, self.writes_next = vector, writes_next
        self._moments = Moments(*(torch.zeros_like(vector.w) for _ in range(4)))
        self._group_moments = [torch.zeros_like(vector.group_alpha) for _ in range(2)]
        self._last: dict[str, Tensor] = {}
        flats = {"w": vector.w, "alpha": vector.alpha, **self._moments._asdict()}
        views = {name: vector.layout.split(flat) for name, flat in flats.items()}
        for index, parameter in enumerate(vector.layout.parameters):
            self.state[parameter] = {name: parts[index] for name, parts in views.items()}
        self._task_head = TaskHeadAdamW(self, betas, eps, task_head_weight_decay)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Pull the gradients at theta back and update w, alpha, the groups' alpha and the task head.

        Raises:
            RuntimeError: the model has seen no sample since the last step: other gradients than theta's.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        vector, group = self.vector, self.param_groups[0]
        if not vector.drawn:
            raise RuntimeError(
                "no forward pass in training mode (or sample()) since the last step: nothing to pull back"
            )
        keys, gates = vector.keys(vector.steps), vector.group_gates(vector.keys(vector.steps))
        grads = [dense(parameter.grad) for parameter in vector.layout.parameters]
        inputs = StepInputs(grads, vector.w, vector.alpha, gates.gate, gates.price, keys)
        sums = vector.passes.measure(inputs)
        w_square = sums[:, 0].sum() + self._task_head.square()
        group_grad = self._group_gradient(gates, sums)
        alpha_square = sums[:, 1].sum() + group_grad.square().sum()
        self._last = {
            "w_norm": w_square.sqrt(),
            "alpha_norm": alpha_square.sqrt(),
            "expected_count": (vector.layout.group_sums(sums[:, 3].contiguous()) * gates.opened).sum(),
        }

        w_rates, alpha_rates = self._rates(group)
        w_rates = w_rates._replace(clip=clip_factor(w_square, group["max_norm"]))
        alpha_rates = alpha_rates._replace(clip=clip_factor(alpha_square, group["alpha_max_norm"]))
        if vector.structured:
            group_grad = group_grad.to(vector.w.dtype)
            adam(vector.group_alpha, *self._group_moments, group_grad, alpha_rates, group["betas"])
        following = None
        if self.writes_next:
            next_keys = vector.keys(vector.steps + 1)
            following = NextTheta(vector.base, vector.group_gates(next_keys).gate, next_keys)
        vector.passes.update(inputs, self._moments, w_rates, alpha_rates, group["betas"], following)
        self._task_head.step(w_rates.clip)
        vector.steps += 1
        vector.drawn = False
        vector.mark("sample" if self.writes_next else "nothing")
        return loss

    def metrics(self) -> dict[str, float]:
        """Return the last step's unclipped norms of gradients, and expected number and share of non-zeros."""
        values = {name: float(value) for name, value in self._last.items()}
        if values:
            values["expected_density"] = values["expected_count"] / self.vector.layout.total
        return values

    def _group_gradient(self, gates, sums: Tensor) -> Tensor:
        """Return the gradient of loss + penalty to the groups' alpha, [G] float64."""
        vector = self.vector
        if not vector.structured:
            return torch.zeros_like(vector.group_alpha, dtype=torch.float64)
        pulled = vector.layout.group_sums(sums[:, 2].contiguous())
        if vector.penalty_form == "paper":
            weight = vector.layout.group_sums(sums[:, 3] * vector.penalties.double())
        else:
            weight = vector.group_penalties()
        return pulled * gates.slope.double() + weight * gates.opening.double()

    def _rates(self, group: dict[str, Any]) -> tuple[Rates, Rates]:
        step = self.vector.steps + 1
        first, second = (1 - beta**step for beta in group["betas"])
        root = 1 / math.sqrt(second)
        alpha_eps = group["alpha_eps"] * (root if group["eps_uncorrected"] else 1.0)
        return (
            Rates(1.0, group["lr"] / first, root, group["eps"]),
            Rates(1.0, group["alpha_lr"] / first, root, alpha_eps),
        )

    # ---- state ----

    def state_dict(self) -> dict[str, Any]:
        """Return a state as any optimizer's, w and alpha in each parameter's; the rest is in 'diff'.

        The tensors are views: save or copy them before the next step.
        """
        vector, state = self.vector, super().state_dict()
        state["diff"] = {
            "format": FORMAT,
            "steps": vector.steps,
            "seed": vector.seed,
            "names": list(vector.layout.names),
            "base": vector.base_hash(),
            "frozen": vector.frozen_hash,
            "grouping": vector.layout.grouping_hash(),
            "settings": _settings(vector),
            "penalties": vector.penalties.unique().tolist(),
            "group_alpha": vector.group_alpha,
            "group_mean": self._group_moments[0],
            "group_square": self._group_moments[1],
        }
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state: w, alpha, moments, the task head's, rates, and the noise where it was.

        The penalty is this run's; where the state's was another, a warning says so.

        Raises:
            ValueError: a state of another optimizer, model, base or kind of diff. Nothing is changed then.
        """
        vector, saved = self.vector, state_dict.get("diff")
        if not isinstance(saved, dict) or saved.get("format") != FORMAT:
            raise ValueError("this is not the state of a diff's optimizer, or one of a newer version")
        if saved["names"] != vector.layout.names:
            odd = sorted(set(saved["names"]) ^ set(vector.layout.names))[:3]
            different = ", ".join(odd) or "another order"
            raise ValueError(f"the state is of a diff of other parameters: {different}")
        another = "the state belongs to another base"
        if saved["base"] != vector.base_hash():
            raise ValueError(f"{another}: theta would be put together from the wrong weights")
        if saved.get("frozen", vector.frozen_hash) != vector.frozen_hash:  # older states do not tell
            raise ValueError(f"{another}: what stays frozen is another there")
        for name, here in _settings(vector).items():
            if saved["settings"].get(name) != here:
                raise ValueError(
                    f"the state was trained with {name} = {saved['settings'].get(name)}, this run has {here}"
                )
        if "grouping" in saved and saved["grouping"] != vector.layout.grouping_hash():
            raise ValueError("the state was trained with other groups, though with as many of them")
        penalties = vector.penalties.unique().tolist()
        if saved.get("penalties", penalties) != penalties:  # older states do not tell
            there, here = (", ".join(f"{x:g}" for x in found) for found in (saved["penalties"], penalties))
            warnings.warn(f"the state was trained with lambda {there} and goes on with {here}", stacklevel=2)
        self._task_head.check(state_dict)
        for index, parameter in enumerate(vector.layout.parameters):
            for name, here in self.state[parameter].items():
                there = state_dict["state"][index][name]
                if there.shape != here.shape:
                    called = vector.layout.names[index]
                    raise ValueError(f"the state's {name} of '{called}' has the shape {list(there.shape)}")
        for index, parameter in enumerate(vector.layout.parameters):
            for name, here in self.state[parameter].items():
                overwrite(here, state_dict["state"][index][name])
        self._task_head.load(state_dict)
        overwrite(vector.group_alpha, saved["group_alpha"])
        overwrite(self._group_moments[0], saved["group_mean"])
        overwrite(self._group_moments[1], saved["group_square"])
        vector.steps, vector.seed = int(saved["steps"]), int(saved["seed"])
        vector.drawn = False
        vector.mark("nothing")


def _settings(vector: DiffVector) -> dict[str, Any]:
    """Return what a state must agree in with the run that goes on from it."""
    return {
        "structured": vector.structured,
        "groups": vector.layout.groups,
        "concrete_lower": vector.concrete.low,
        "concrete_upper": vector.concrete.high,
        "penalty_form": vector.penalty_form,
    }
