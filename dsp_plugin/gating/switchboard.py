"""Hands every attention block its gates, so that blocks know nothing of how heads are chosen."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Iterator, List, Optional

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

    Raises:
        ValueError: the two disagree about N.
    """

    def __init__(self, head_map: HeadMap, gates: HeadGates):
        super().__init__()
        if gates.num_heads != head_map.num_heads:
            raise ValueError(f"gates for {gates.num_heads} heads on a model with {head_map.num_heads}")
        self.head_map = head_map
        self.gates = gates
        self.num_updates = 0
        self._current: Optional[List[Optional[Tensor]]] = None
        self._override: Optional[List[Tensor]] = None
        self.register_load_state_dict_post_hook(lambda module, keys: module._forget())

    def set_num_updates(self, num_updates: int) -> None:
        """Kept for whoever asks how far training is. (The gates are modules of their own and are told by the host.)"""
        self.num_updates = num_updates

    def draw(self) -> None:
        """Draw this forward pass's gates. Nothing to do in evaluation or under `override`."""
        if self.training and self._override is None:
            self._current = list(self.head_map.split(self.gates.sample()))

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
