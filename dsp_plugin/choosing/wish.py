"""What a user asks of pruning to a speed, and the job that a host makes of it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Protocol

from ..options.errors import OptionError
from ..options.numbers import check_number
from ..records.fields import Metric, Record
from .host import COSTS, Host
from .search import Attempt, Worth

UNITS = ("both", "heads", "neurons")
CLOCKS = ("wall", "processor")
SCORES = ("fisher", "importance", "magnitude", "random")


@dataclass(frozen=True)
class Wish:
    """What is asked for, as far as it is the same on every host.

    Attributes:
        units: which may go: `heads`, `neurons` or `both`.
        group: neurons in a group, which go together.
        uniform: one number of units for all blocks of a stack.
        cost: what is bounded, one of `COSTS`.
        shape: of the timed work: examples, length, and where text is written the beam; None: the host's own.
        score_by: what units are worth: `fisher`, `importance` (Michel et al.), `magnitude` or `random`.
        clock: that latency is read off: `wall` or `processor`.
        examples: so many of the calibration data at most; drawn by `seed`.
    """

    units: str = "both"
    group: int = 32
    uniform: bool = False
    cost: str = "latency"
    shape: tuple[int, ...] | None = None
    score_by: str = "fisher"
    clock: str = "wall"
    examples: int = 2000
    seed: int = 1

    @property
    def neurons(self) -> int | None:
        """The size of the groups of neurons that may go; None where none may."""
        return None if self.units == "heads" else self.group

    @property
    def heads(self) -> bool:
        """Whether heads may go."""
        return self.units != "neurons"

    def check(self) -> None:
        """Refuse what cannot be, before there is a model.

        Raises:
            OptionError: names the option.
        """
        known = {"units": UNITS, "cost": COSTS, "score_by": SCORES, "clock": CLOCKS}
        for name, values in known.items():
            if getattr(self, name) not in values:
                raise OptionError(name, f"{getattr(self, name)}: must be one of {', '.join(values)}")
        for name in ("group", "examples"):
            if reason := check_number(getattr(self, name), "count"):
                raise OptionError(name, f"{getattr(self, name)}: {reason}")


def parse_shape(text: str) -> tuple[int, ...]:
    """Read "32x128" (examples, tokens) or "16x24x5" (with a beam).

    Raises:
        OptionError: another form.
    """
    numbers = re.split(r"[x,]", text.strip().lower())
    if not 2 <= len(numbers) <= 3 or not all(re.fullmatch(r"[1-9]\d{0,8}", number) for number in numbers):
        reason = f"{text}: two or three whole numbers belong there, as 32x128 (examples, tokens)"
        raise OptionError("shape", reason)
    return tuple(map(int, numbers))


class Job(Protocol):
    """A trained model, opened by its host for one wish, its data read.

    Attributes:
        host: see `Host`.
        name: of the model, as records have it.
        shape: of the timed work.
        settings: all that the costs of this model depend on, see `CostFile`.
        data: fingerprint of what is scored; empty where nothing is.
        main_metric: name of the score that pictures show.
    """

    host: Host
    name: str
    shape: tuple[int, ...]
    settings: dict[str, Any]
    data: str
    main_metric: str

    def worth(self) -> Worth:
        """Work out what the units are worth, on the calibration data."""

    def score(self, model: Any) -> list[Metric]:
        """Score a model on the data to score; an empty list where there are none."""

    def checked(self, attempt: Attempt) -> Any:
        """Return the model of an attempt after a look whether it is the masked model, but smaller."""

    def counts(self, model: Any) -> dict[str, float]:
        """Return the costs of a model that can be counted: macs, parameters, bytes."""

    def write(self, attempt: Attempt, model: Any, out: str, record: Record) -> None:
        """Write an attempt's model, its record, its mask and a picture, whole or not at all."""
