"""The runs of delta.yaml, a generator for each of its tables."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .bert import BertPlan

if TYPE_CHECKING:
    from .delta import DeltaPlan

PARTS = FEW, TENFOLD, ORDERS, FULL, TRANSFER = ("few", "tenfold", "orders", "full", "transfer")
NONE, THEN = "none", "-then-"


@dataclass(frozen=True)
class Run:
    """One start of the program.

    Attributes:
        part: the table that it stands in, one of PARTS.
        method: of delta.yaml; in `orders` the stages so far: prompt-then-bias.
        rate: where several are tried; None: the one that was chosen.
        k: examples a class; 0: all.
        source: the run whose file it begins with.
    """

    task: str
    part: str
    method: str
    seed: int
    rate: float | None = None
    k: int = 0
    source: Run | None = None

    @property
    def name(self) -> str:
        begun = f"from-{self.source.task}" if self.source and self.part == TRANSFER else self.part
        start = {FEW: f"k{self.k}", TENFOLD: f"k{self.k}x10"}.get(self.part, begun)
        rate = "" if self.rate is None else f"-lr{self.rate:g}"
        return f"{self.task}/{start}-{self.method}{rate}-seed{self.seed}"

    @property
    def last(self) -> str:
        """The method of its only or last stage."""
        return self.method.split(THEN)[-1]

    @property
    def stages(self) -> int:
        return self.method.count(THEN) + 1

    def sets(self, plan: BertPlan) -> list[str]:
        """Return where its records are, below its folder: few-shot runs have a labelled test set."""
        official = list(plan.sets(self.task))
        if self.part == FULL:
            return official
        return [official[0], *(one.replace("dev", "test") for one in official)]


def tried(plan: DeltaPlan, part: str, task: str, method: str) -> list[Run]:
    """Return the runs of which the best one on the development set has a method's rate."""
    kind = plan.settings.methods[method].get("rates")
    seed, rates = plan.settings.sweep_seed, plan.settings.rates.get(kind, ())
    return [Run(task, part, method, seed, float(rate), plan.k) for rate in rates]


def runs_that_choose(plan: DeltaPlan, part: str, task: str) -> Iterator[Run]:
    """Yield the runs that choose the rates of a part on a task."""
    methods = {FULL: (), ORDERS: plan.settings.orders["methods"], TRANSFER: plan.settings.transfer["methods"]}
    for method in methods.get(part, plan.settings.methods):
        yield from tried(plan, TENFOLD if part == TENFOLD else FEW, task, method)


def _few(plan: DeltaPlan, task: str, seed: int, part: str = FEW) -> Iterator[Run]:
    for method in plan.settings.methods:
        if method == NONE:  # what it scores depends on no seed
            yield Run(task, part, method, plan.seeds_in(part, task)[0], k=plan.k)
        elif seed != plan.settings.sweep_seed:
            yield Run(task, part, method, seed, k=plan.k)


def _tenfold(plan: DeltaPlan, task: str, seed: int) -> Iterator[Run]:
    return _few(plan, task, seed, TENFOLD)


def _orders(plan: DeltaPlan, task: str, seed: int) -> Iterator[Run]:
    """Yield the stages of all orders; those that begin alike are one run."""
    known: dict[str, Run] = {}
    for order in itertools.permutations(plan.settings.orders["methods"]):
        source = None
        for number in range(1, len(order) + 1):
            stages = THEN.join(order[:number])
            if stages not in known:
                known[stages] = Run(task, ORDERS, stages, seed, k=plan.k, source=source)
                yield known[stages]
            source = known[stages]


def _full(plan: DeltaPlan, task: str, seed: int) -> Iterator[Run]:
    for method in plan.settings.methods:
        yield Run(task, FULL, method, seed)


def _transfer(plan: DeltaPlan, task: str, seed: int) -> Iterator[Run]:
    for method in plan.settings.transfer["methods"]:
        for other in plan.tasks_of(TRANSFER):
            if other != task:
                source = Run(other, FULL, method, seed)
                yield source
                yield Run(task, TRANSFER, method, seed, k=plan.k, source=source)


Maker = Callable[["DeltaPlan", str, int], Iterator[Run]]
MAKERS: Mapping[str, Maker] = {
    FEW: _few,
    TENFOLD: _tenfold,
    ORDERS: _orders,
    FULL: _full,
    TRANSFER: _transfer,
}
"""part -> the runs of a task and a seed, each after the one it begins with."""
