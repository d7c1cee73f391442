"""Which draw belongs to who asks for gates: that of the forward pass around, or the one between passes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .checkpoints import backward_number
from .draws import Draw

Sample = Callable[[], Draw]


@dataclass
class _Shared:
    """A draw that a forward pass has in common with all that it calls."""

    draw: Draw | None
    whole: bool


class _Entered(NamedTuple):
    module: Any
    backward: int  # the backward pass it is in, -1 for none
    shared: _Shared


class Passes:
    """The forward passes that have begun and not ended, one inside another; the outermost one draws.

    Outside a pass of the whole model there is a draw, too, for parts that are called by themselves. Another
    one takes its place once a gradient has come back through it, or when a block that has asked asks again.
    """

    def __init__(self) -> None:
        self._entered: list[_Entered] = []
        self._outside: Draw | None = None
        self._explicit = False  # `_outside` was drawn by explicit wish: blocks may ask as often as they like

    def inside(self) -> bool:
        """Return whether a pass goes on here, and not merely around the backward pass that this is in."""
        return bool(self._entered) and self._entered[-1].backward == backward_number()

    def enter(self, module: Any, whole: bool, sample: Sample | None) -> Draw | None:
        """Begin a pass.

        Args:
            module: one that is in a pass already was left by an error, with all it had called.
            whole: it is not to share gates with what was called before it.
            sample: None where nothing is drawn at once.

        Returns:
            What was drawn.
        """
        backward, entered = backward_number(), self._entered
        while entered and entered[-1].backward > backward:  # of a backward pass that an error has ended
            entered.pop()
        for place, other in enumerate(entered):
            if other.module is module and other.backward == backward:
                del entered[place:]
                break
        if self.inside():
            entered.append(_Entered(module, backward, entered[-1].shared))
            return None
        draw = sample() if whole and sample is not None else None
        entered.append(_Entered(module, backward, _Shared(draw, whole)))
        return draw

    def enter_again(self, module: Any, draw: Draw | None) -> None:
        """Begin a pass that had this draw the first time."""
        self._entered.append(_Entered(module, backward_number(), _Shared(draw, draw is not None)))

    def leave(self) -> None:
        """End the pass that began last; nothing to do where an error has ended it."""
        if self._entered:
            self._entered.pop()

    def draw_of(self, position: int, sample: Sample) -> tuple[Draw, bool]:
        """Return the draw for the block at `position`, and whether it was made just now."""
        shared = self._entered[-1].shared if self.inside() else None
        if shared is None:
            return self._draw_outside(position, sample)
        if shared.draw is not None and not shared.draw.spent:
            return shared.draw, False
        shared.draw, made = (sample(), True) if shared.whole else self._draw_outside(position, sample)
        return shared.draw, made

    def use_outside(self, draw: Draw) -> None:
        """Use this draw outside passes from now on, until a gradient comes back through it."""
        self._outside, self._explicit = draw, True

    def _draw_outside(self, position: int, sample: Sample) -> tuple[Draw, bool]:
        draw = self._outside
        if draw is not None and not draw.spent and (self._explicit or not draw.asked >> position & 1):
            return draw, False
        self._outside, self._explicit = sample(), False
        return self._outside, True
