"""What a training would be, as a dry run tells it: the hosts find the figures out, the words are one."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainingPlan:
    """What a training would train, how long it would take and what it would write.

    Attributes:
        learning, parameters: weights that learn, of all (head scores among them).
        heads: what is to be said of the heads that stay.
        examples: of the training set, which calls them `noun`.
        updates: that are made in all, `done` of them already; None where no option bounds them.
        seconds: of one update, the median of `timed` real ones.
        weights, moments: bytes of the model's tensors and of the optimizer's, both in every checkpoint.
    """

    learning: int
    parameters: int
    heads: str
    examples: int
    updates: int | None
    seconds: float
    timed: int
    weights: int
    moments: int
    noun: str = "examples"
    done: int = 0

    def lines(self) -> list[str]:
        """Say it, a line each."""
        updates, total = "no option bounds the updates", "unknown"
        if self.updates is not None:
            updates = f"{self.updates:,} updates"
            total = _duration(max(0, self.updates - self.done) * self.seconds)
        if self.done:
            updates += f", {self.done:,} of them made"
        timed = f"the median of {self.timed} real ones in memory; scoring and saving are not in it"
        weights, moments = (f"{size / 1e6:,.2f} MB" for size in (self.weights, self.moments))
        both = f"{(self.weights + self.moments) / 1e6:,.2f} MB a checkpoint"
        return [
            f"dry run: {self.learning:,} of {self.parameters:,} parameters would learn",
            f"dry run: {self.heads}",
            f"dry run: {self.examples:,} {self.noun}, {updates}",
            f"dry run: about {total} ({self.seconds:.3g} s an update: {timed})",
            f"dry run: {both}: {weights} of weights, {moments} of optimizer state; nothing was written",
        ]


def heads_that_stay(left: int | None, total: int) -> str:
    """Say how many heads stay of all; `left` is None where the training itself decides."""
    return f"heads that stay: {'as many as the penalty leaves' if left is None else left} of {total}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {rest:02d} s"
