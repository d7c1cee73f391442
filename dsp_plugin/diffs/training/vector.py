"""A sparse diff in training (Guo, Rush, Kim, ACL 2021): theta = base + z * gate * w beside a model as it is.

theta is written into the model's parameters before a step, the host runs forward and backward as always, and
the ordinary gradient at theta is pulled back onto w, alpha and the groups' alpha in closed form. So there is
no autograd through the mask, one sample serves all micro-batches of a step, and any model will do.

Notation: N elements in the body, G groups; w, alpha [N]; group_alpha [G].
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...artefacts.base import base_hash
from ...handshake.optimizer_steps import HandshakeError
from ...options.errors import OptionError
from ..in_training import hook_model, note_diff, require_free
from .groups import GROUPINGS, GroupFunction, by_tensor
from .passes.concrete import StretchedConcrete
from .passes.flat import Deltas, FlatLayout
from .passes.native import passes_for
from .passes.noise import Keys, step_keys, uniform
from .placement import base_tensors, frozen_hash, place
from .watches import BufferWatch, ForeignSteps

PENALTY_FORMS = ("paper", "additive")


class GroupGates(NamedTuple):
    """The groups in one step, [G] each, and the price [P] of an element that is surely open."""

    gate: Tensor
    slope: Tensor  # d gate / d alpha
    opened: Tensor  # P(gate > 0)
    opening: Tensor  # its derivative
    price: Tensor


class DiffVector:
    """The trained diff of a model, and what is written into its parameters when.

    While attached, the model's own calls keep it right, and those of any part of it: while the model is in
    training mode, a forward pass sees the sample of the coming step; one in evaluation mode and
    `state_dict()` see the deterministic theta. It is the whole model's mode that counts: a part that is kept
    in `eval()` while the rest trains sees the sample. After `load_state_dict` on the model (with assign=True
    it raises a ValueError: the diff would be cut off), evaluation sees what was loaded until training goes
    on. Parameters that are read directly may hold a sample: call `deterministic()` first. Between a training
    forward and its backward, do not evaluate the same model.

    Args:
        model: on its device and in its dtype; w and alpha are float32 (float64 for a float64 model).
        base: weights of the base by name. None: the model's own now, which is right only for a freshly loaded
            base and never when a run is resumed; a model in which a diff was trained before needs one.
        task_head: names of its parameters or modules: trained dense, unpenalised, not counted.
        frozen: names of parameters or modules that stay at the base (see `layers.frozen_names`).
        grouping: 'tensor' or 'neuron', or a group function (see groups.py); None: unstructured.
        penalty: lambda of the unnormalised expected number of non-zeros; or one a parameter by name.
        penalty_form: 'paper', the product of an element's and its group's probabilities to be open, summed;
            or 'additive', their sum, which the authors' program uses.
        seed: of the noise. fused: None, fused passes where they can be had; False, never; True, or an error.
        optimizer_name: what the host calls the diff's optimizer, for messages.

    Raises:
        ValueError: see `placement.place` and `base_tensors`; an unknown grouping or form, a negative or
            infinite penalty, one missing for a parameter; another vector that is attached, or a missing base
            (see `in_training`).
        RuntimeError: `fused=True` where there are no fused passes for this device, dtype or machine.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        base: Mapping[str, Tensor] | None = None,
        task_head: Iterable[str] = (),
        frozen: Iterable[str] = (),
        grouping: str | GroupFunction | None = "tensor",
        concrete: StretchedConcrete = StretchedConcrete(),
        alpha_init: float = 5.0,
        penalty: float | Mapping[str, float] = 1.25e-7,
        penalty_form: str = "paper",
        seed: int = 0,
        fused: bool | None = None,
        optimizer_name: str = "DiffAdamW",
    ):
        if isinstance(grouping, str) and grouping not in GROUPINGS:
            known = f"{', '.join(GROUPINGS)}, a function or None"
            raise ValueError(f"grouping must be one of {known}, got '{grouping}'")
        check_penalty_form(penalty_form)
        require_free(model, base)
        placed = place(model, task_head, frozen)
        self.model, self.concrete, self.penalty_form, self.seed = model, concrete, penalty_form, seed
        self.body, self.task_head = placed.body, placed.task_head
        self.structured = grouping is not None
        function = GROUPINGS[grouping] if isinstance(grouping, str) else grouping or by_tensor
        self.layout = FlatLayout(list(self.body), list(self.body.values()), function)
        self.base = base_tensors(self.body, base)
        self.frozen_hash = frozen_hash(placed, base)  # now: a checkpoint that is loaded later brings its own
        device = self.layout.device
        dtype = torch.float64 if self.layout.parameters[0].dtype == torch.float64 else torch.float32
        self.w = torch.zeros(self.layout.total, dtype=dtype, device=device)
        self.alpha = torch.full_like(self.w, alpha_init)
        self.group_alpha = torch.full((self.layout.groups,), alpha_init, dtype=dtype, device=device)
        self.penalties = self._penalties(penalty)
        self.passes = passes_for(self.layout, concrete, self.w.dtype, fused)
        self._buffers = BufferWatch(model)
        self.steps = 0
        self._written = "base" if base is None else "nothing"
        # whether the coming step's sample was asked for, so that there may be a gradient at it
        self.drawn = False
        self._base_hash: str | None = None
        self._hooks: list = []
        self._foreign: ForeignSteps | None = None
        self._optimizer_name = optimizer_name
        self._attach()

    # ---- what is in the model ----

    def sample(self) -> None:
        """Write the coming step's sample into the model, unless it is there; the same one until the step."""
        self.drawn = True
        if self._written != "sample":
            gates = self.group_gates(self.keys(self.steps))
            self.passes.write(self.base, self.w, self.alpha, gates.gate, self.keys(self.steps))
            self.mark("sample")

    def deterministic(self) -> None:
        """Write theta of z = clip(sigmoid(alpha)(high - low) + low, 0, 1), no noise, unless it is there."""
        if self._written != "deterministic":
            self.passes.write(self.base, self.w, self.alpha, self.group_gates(None).gate, None)
            self.mark("deterministic")

    def mark(self, written: str) -> None:
        """Note what the parameters hold: 'sample' (the next one), 'deterministic', 'loaded' or 'nothing'."""
        self._written = written

    def attach(self) -> None:
        """Let the model's own calls write what they need (see the class). Done at the start.

        Raises:
            ValueError: another vector is attached to the model.
        """
        if not self._hooks:
            self._attach()

    def _attach(self) -> None:
        require_free(self.model, self.base_weights())
        note_diff(self.model, self)
        self._hooks = hook_model(
            self.model,
            {**self.body, **self.task_head},
            self._before_forward,
            self._before_saving,
            lambda: self.mark("loaded"),
        )
        self._hooks.append(self.model.register_state_dict_pre_hook(lambda *_: self._buffers.warn()))
        me = weakref.ref(self)
        self._foreign = ForeignSteps(
            self.body.values(),
            lambda optimizer: getattr(optimizer, "vector", None) is me(),
            partial(_refuse, self._optimizer_name),
        )

    def detach(self) -> None:
        """Leave the model alone, with the deterministic theta in it (or what was loaded into it since)."""
        self._before_saving()
        for hook in self._hooks:
            hook.remove()
        if self._hooks:
            note_diff(self.model)
        self._hooks, self.drawn, self._foreign = [], False, None

    def _before_forward(self) -> None:
        self.sample() if self.model.training else self._before_saving()

    def _before_saving(self) -> None:
        if self._written != "loaded":
            self.deterministic()

    # ---- the diff ----

    def keys(self, step: int) -> Keys:
        """Return the keys of a step's noise."""
        return step_keys(self.seed, step)

    def group_gates(self, keys: Keys | None) -> GroupGates:
        """Return the groups' gates, sampled with these keys or deterministic; all 1 without groups."""
        if self.structured:
            opened, opening = self.concrete.open_probability(self.group_alpha)
            if keys is None:
                gate, slope = self.concrete.mean(self.group_alpha)
            else:
                # the groups' positions come after the elements'
                u = uniform(self.layout.total, self.layout.groups, keys, self.w.device).to(self.w.dtype)
                gate, slope = self.concrete.sample(self.group_alpha, u)
        else:
            gate = opened = torch.ones_like(self.group_alpha)
            slope = opening = torch.zeros_like(gate)
        price = self.penalties
        if self.structured and self.penalty_form == "paper":
            price = price * opened[self.layout.group.to(opened.device)]
        return GroupGates(gate, slope, opened, opening, price)

    def deltas(self, sampled_step: int | None = None) -> Deltas:
        """Return the full-size diff, name -> delta, worked out a tensor at a time when asked for.

        Warns of buffers that training has changed: they are in no diff.

        Args:
            sampled_step: None, the deterministic diff; else the one of that step's noise.
        """
        self._buffers.warn()
        keys = None if sampled_step is None else self.keys(sampled_step)
        gates = self.group_gates(keys).gate
        return Deltas(self.layout, self.w, self.alpha, gates, self.concrete, keys)

    def expected_count(self) -> float:
        """Return a sample's expected number of non-zeros: sum over i of P(z_i > 0) P(group of i open)."""
        return float((self._opened_by_group() * self.group_gates(None).opened.double()).sum())

    def penalty(self) -> float:
        """Return lambda times the expected L0 norm, in the form chosen: what is descended beside the loss."""
        opened = self.group_gates(None).opened.double()
        weight = opened if self.penalty_form == "paper" else 1
        by_element = float((self._opened_by_group(weighted=True) * weight).sum())
        if not self.structured or self.penalty_form == "paper":
            return by_element
        return by_element + float((self.group_penalties() * opened).sum())

    def group_penalties(self) -> Tensor:
        """Return lambda of each group's term in the additive form, its elements' mean: [G] float64."""
        length = self.layout.length.to(self.penalties.device).double()
        return self.layout.group_sums(self.penalties.double() * length) / self.layout.group_sums(length)

    def base_hash(self) -> str:
        """Return the SHA-256 over the base's body, to tell a state of another base by."""
        if self._base_hash is None:
            self._base_hash = base_hash(self.base_weights())
        return self._base_hash

    def base_weights(self) -> dict[str, Tensor]:
        """Return the base's body by name: the tensors themselves, not copies."""
        return dict(zip(self.layout.names, self.base))

    def _opened_by_group(self, weighted: bool = False) -> Tensor:
        layout, sums = self.layout, []
        for tensor, (start, size) in enumerate(zip(layout.offsets, layout.sizes)):
            opened, _ = self.concrete.open_probability(self.alpha[start : start + size])
            lengths = layout.length[layout.tensor == tensor].to(opened.device)
            # [elements] -> [pieces of this tensor]
            sums.append(torch.segment_reduce(opened.double(), "sum", lengths=lengths))
        per_piece = torch.cat(sums)
        return self.layout.group_sums(per_piece * self.penalties.double() if weighted else per_piece)

    def _penalties(self, penalty: float | Mapping[str, float]) -> Tensor:
        """Return lambda of each piece [P]."""
        given: dict[str, float] = {}
        for name in self.layout.names:
            if isinstance(penalty, Mapping) and name not in penalty:
                raise ValueError(f"there is no penalty for '{name}'")
            given[name] = float(penalty[name] if isinstance(penalty, Mapping) else penalty)
            if not 0 <= given[name] < math.inf:
                raise ValueError(f"the sparsity penalty must be 0 or more and finite, got {given[name]}")
        by_tensor_ = torch.tensor(list(given.values()), dtype=self.w.dtype)
        return by_tensor_[self.layout.tensor].to(self.w.device)


def check_penalty_form(form: str) -> None:
    """Raise an OptionError for a form that the penalty does not have."""
    if form not in PENALTY_FORMS:
        raise OptionError("penalty_form", f"must be one of {', '.join(PENALTY_FORMS)}, got '{form}'")


def _refuse(optimizer_name: str) -> None:
    """Raise the HandshakeError of a second optimizer."""
    raise HandshakeError(
        "another optimizer is about to move weights that a DiffVector writes, so that neither would learn: "
        f"train with {optimizer_name}, or call the vector's detach() first"
    )
