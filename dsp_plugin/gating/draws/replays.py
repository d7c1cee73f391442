"""Replays under activation checkpoints: a block that is computed again is handed the gates of the first time.

A checkpoint that runs again asks for the same things in the same order. torch's frames tell which one it is;
a reentrant one is known by the state of the random numbers, which it restores (see `checkpoints`).
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch

from .checkpoints import Checkpoints, backward_number, checkpoints_here, random_state
from .draws import Draw

BEGIN = -1  # in the place of a block's position: a forward pass began
LIMIT = 4096  # moments remembered of reentrant checkpoints, which nobody tells when they are done with


class Handed(NamedTuple):
    """A draw as it was handed out.

    Attributes:
        position: that of the block, or `BEGIN`.
        draw: None for a pass that has drawn nothing when it began.
        sampled: whether it was drawn just then, so that random numbers went into it.
    """

    position: int
    draw: Draw | None
    sampled: bool


class Here(NamedTuple):
    """A place in the program, as it is before anything is handed out there."""

    around: Checkpoints
    moment: tuple[int, bytes] | None


class Unknown(LookupError):
    """Raised at a recomputation of something that was not seen the first time."""


class _Record:
    """Holds what was handed out in one checkpoint, in order, and how far each of its recomputations is."""

    def __init__(self) -> None:
        self.handed: list[Handed] = []
        self.place: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()

    def next(self, run: Any, position: int) -> Handed:
        place = self.place.get(run, 0)
        self.place[run] = place + 1
        if place >= len(self.handed) or self.handed[place].position != position:
            raise Unknown
        return self.handed[place]


class Replays:
    """Remembers draws as long as torch keeps a checkpoint; of reentrant ones, the last `LIMIT` moments."""

    def __init__(self) -> None:
        self._records: weakref.WeakKeyDictionary[Any, _Record] = weakref.WeakKeyDictionary()
        self._moments: dict[tuple[int, bytes], Handed | None] = {}

    def here(self, position: int, device: torch.device, reentrant: bool) -> Here:
        """Return the place in the program where the gates of a position are asked for.

        Args:
            device: where random numbers are drawn.
            reentrant: this may be inside a reentrant checkpoint.
        """
        around = checkpoints_here()
        seen = around.again is None and (reentrant or (bool(self._moments) and backward_number() != -1))
        return Here(around, (position, random_state(device)) if seen else None)

    def again(self, here: Here, position: int) -> Handed | None:
        """Return what was handed out the first time; None where this is not known to be a recomputation.

        Raises:
            Unknown: it is one, of something else.
        """
        around = here.around
        if around.again is not None:
            record = self._records.get(around.again)
            if record is None:
                raise Unknown
            found: Handed | None = record.next(around.run, position)
        else:
            found = None
            if here.moment in self._moments and backward_number() != -1:
                found = self._moments[here.moment]
                if found is None:
                    raise Unknown
        if found is not None:
            self._note(here, found)
        return found

    def note(self, here: Here, handed: Handed) -> None:
        """Remember what was handed out here."""
        self._note(here, handed)
        if here.moment is not None:
            before = self._moments.pop(here.moment, handed)
            while len(self._moments) >= LIMIT:
                del self._moments[next(iter(self._moments))]
            # of two places that cannot be told apart nothing is known, unless their draws are alike
            self._moments[here.moment] = handed if _alike(before, handed) else None

    def stepped(self) -> None:
        """Forget, once an optimizer has made a step, all moments before it: the weights they met are gone."""
        self._moments.clear()

    def begun(self) -> bool:
        """Return whether a whole forward pass may have been inside a reentrant checkpoint."""
        return any(position == BEGIN for position, _ in self._moments)

    def _note(self, here: Here, handed: Handed) -> None:
        for frame in here.around.first:
            self._records.setdefault(frame, _Record()).handed.append(handed)


def _alike(one: Handed | None, other: Handed) -> bool:
    if one is None or one.sampled != other.sampled or (one.draw is None) != (other.draw is None):
        return False
    return one.draw is other.draw or one.draw.same_as(other.draw)
