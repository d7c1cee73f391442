"""Clip and reopen: from round to round closed gates get another chance (Ding et al., PASS, TMLR 2024).

Notation: N heads, phi [N] their scores, c_h the confidence of head h: the mean over queries of its largest
attention weight, divided by the largest of all heads (Behnke and Heafield, EMNLP 2020, rank heads by it).

A round is an epoch in the paper, here any number of updates. At the beginning of round r, from the second on,
phi is held to -5..5, so that no gate is closed beyond recall; and a gate at -5 jumps to 5 with the
probability c_h * 0.9^(r - 2). Here no gate does any more once 0.9^(r - 2) is below a tenth (from round 24
on): one that reopened in the last of 30 rounds would be deployed with nothing learnt about it.
"""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from ...handshake.optimizer_steps import HandshakeError
from ...options.errors import OptionError

CLIP = 5.0
"""A gate whose score is at or below -CLIP is closed, one at or above CLIP open."""

DECAY = 0.9
LEAST_CHANCE = 0.1
REOPENINGS = ("off", "clip", "reopen")
"""What is done at the beginning of a round: nothing, or scores are clipped, or some gates open again, too."""


class Rounds:
    """The rounds of one training's gates.

    Nothing of it is saved: what is done at the beginning of an update follows from its number, the scores and
    the confidences then, so that a training that is resumed there does the same. All processes do, because
    the chance of a reopening is drawn from the scores.

    Attributes:
        length: updates in a round; None until the host has told those of an epoch.

    Args:
        reopening: of `REOPENINGS`.
        start: the update with which the first round begins.

    Raises:
        OptionError: another word, or a round of no update.
    """

    def __init__(self, reopening: str = "off", length: int | None = None, start: int = 0):
        if reopening not in REOPENINGS:
            raise OptionError("reopening", f"must be one of {', '.join(REOPENINGS)}, got {reopening!r}")
        if length is not None and length < 1:
            raise OptionError("round_updates", f"must be 1 or more updates, got {length}")
        self.reopening, self.length, self.start = reopening, length, start
        self._done = -1
        self._confidence: Tensor | None = None

    def is_new(self, num_updates: int) -> bool:
        """Return whether nothing has been done yet before the update that comes after so many."""
        return num_updates != self._done

    def number(self, num_updates: int) -> int:
        """Return the number of the round that begins after so many updates, from 1; 0 within a round.

        Raises:
            HandshakeError: nobody has said how long a round is.
        """
        if self.length is None:
            raise HandshakeError(
                "the gates go by rounds, and nobody has said how many updates one has: give round_updates, "
                "or set `gates.rounds.length` to the updates of an epoch before training"
            )
        made = num_updates - self.start
        return made // self.length + 1 if made >= 0 and made % self.length == 0 else 0

    def due(self, num_updates: int) -> bool:
        """Return whether confidences are wanted before the update that comes after so many."""
        return self.is_new(num_updates) and self._reopens(self.number(num_updates))

    def note(self, confidence: Tensor) -> None:
        """Take the heads' mean largest attention weights, [N], as they are now."""
        self._confidence = confidence.detach().double().cpu()

    @torch.no_grad()
    def begin(self, num_updates: int, scores: Tensor) -> bool:
        """Clip and reopen `scores` [N], in place, where a round begins; once an update.

        Returns:
            whether a round begins in which scores may have moved.

        Raises:
            HandshakeError: a gate may reopen, and nobody has measured the heads' confidences.
        """
        if not self.is_new(num_updates):
            return False
        number = self.number(num_updates)
        self._done = num_updates
        if number < 2 or self.reopening == "off":
            return False
        scores.clamp_(-CLIP, CLIP)
        if self._reopens(number):
            again = self._drawn(num_updates, number, scores)
            scores.masked_fill_((scores <= -CLIP) & again.to(scores.device), CLIP)
        return True

    def _reopens(self, number: int) -> bool:
        """Return whether closed gates may open again at the beginning of this round."""
        return self.reopening == "reopen" and number > 1 and DECAY ** (number - 2) >= LEAST_CHANCE

    def _drawn(self, num_updates: int, number: int, scores: Tensor) -> Tensor:
        """Draw which heads would open again, were they closed: bool [N], on the CPU."""
        confidence, self._confidence = self._confidence, None
        if confidence is None or confidence.numel() != scores.numel():
            raise HandshakeError(
                "closed gates are to open again with the confidence of their heads, which nobody has "
                "measured: call `gates.rounds.note(confidence)` before an update of which "
                "`gates.rounds.due(n)` is true, or leave reopening at 'clip'"
            )
        values = scores.detach().float().cpu()
        seed = zlib.crc32(values.numpy().tobytes()) ^ num_updates
        chances = torch.rand(len(values), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return chances < confidence / confidence.max().clamp(min=1e-30) * DECAY ** (number - 2)
