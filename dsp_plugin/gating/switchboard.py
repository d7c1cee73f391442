"""Hands every attention block its gates, so that blocks know nothing of how heads are chosen."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional

from torch import Tensor, nn

from .gates import HeadGates
from .head_map import HeadMap


class Switchboard(nn.Module):
    """Between one `HeadGates` and the attention blocks of one model.

    In training the host calls `draw()` once a forward pass, outside any checkpointed layer, so that a
    recomputed layer sees the gates it saw the first time. In evaluation the blocks get the deployed
    mask `keep()`, worked out once per switch to `eval()`, not once a block and decoding step.

    Args:
        head_map: the model's heads, N in all.
        gates: the method.
        warmup_updates: until so many updates all heads are open and the method learns nothing.

    Raises:
        ValueError: the two disagree about N.
    """

    def __init__(self, head_map: HeadMap, gates: HeadGates, warmup_updates: int = 0):
        super().__init__()
        if gates.num_heads != head_map.num_heads:
            raise ValueError(f"gates for {gates.num_heads} heads on a model with {head_map.num_heads}")
        self.head_map = head_map
        self.gates = gates
        self.warmup_updates = warmup_updates
        self.num_updates = 0
        self._current: Optional[List[Optional[Tensor]]] = None
        self._override: Optional[List[Tensor]] = None
        self.register_load_state_dict_post_hook(lambda module, keys: module._forget())

    def set_num_updates(self, num_updates: int) -> None:
        """Updates made so far. (The gates are a module of their own, and told by the host.)"""
        self.num_updates = num_updates

    @property
    def pruning(self) -> bool:
        """Whether the method is at work: the warm-up is over."""
        return self.num_updates >= self.warmup_updates

    def penalty(self) -> Tensor:
        """What the method adds to the loss, a scalar; nothing during the warm-up."""
        penalty = self.gates.penalty()
        return penalty if self.pruning else 0.0 * penalty

    def metrics(self) -> Dict[str, float | Tensor]:
        """The method's figures for the log, as they are in force."""
        if self.pruning:
            return self.gates.metrics()
        return {"heads_open": float(self.head_map.num_heads)}

    def draw(self) -> None:
        """Draw this forward pass's gates. Nothing to do in evaluation or under `override`."""
        if self.training and self._override is None:
            gates = self.gates.sample()
            if not self.pruning:
                # parameters that get no gradient at all would stop data-parallel training: they get zeros
                gates = 1.0 + 0.0 * gates
            self._current = list(self.head_map.split(gates))

    def block_gates(self, position: int) -> Optional[Tensor]:
        """Gates [h] (or [B, h], one row an example) of the block at `position` of the head map.

        None means that all its heads are open, which spares the multiplication.
        """
        if self._override is not None:
            return self._override[position]
        if self._current is None:
            if self.training:
                self.draw()
            else:
                self._current = [
                    None if bool(mask.all()) else mask.float()
                    for mask in self.head_map.split(self.gates.keep())
                ]
        return self._current[position]

    @contextmanager
    def override(self, gates: Tensor) -> Iterator[None]:
        """Use exactly these gates, [N] or [B, N], in training and evaluation, gradients and all.

        For importance scores, which need the gradient of every example's own gates in `eval()` mode.
        """
        outer, self._override = self._override, self.head_map.split(gates)
        try:
            yield
        finally:
            self._override = outer

    def _forget(self) -> None:
        self._current = None

    def train(self, mode: bool = True) -> "Switchboard":
        self._forget()
        return super().train(mode)

    def _apply(self, fn, *args, **kwargs):
        self._forget()
        return super()._apply(fn, *args, **kwargs)

    def __getstate__(self):
        # a drawn sample is part of an autograd graph, which cannot be copied or pickled
        return {**self.__dict__, "_current": None, "_override": None}
