"""What the search asks of a host: a model without some of its units, and what a model costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ..gating.head_map import HeadMap
from ..options.errors import OptionError
from .cost_tables import CostTable, class_of_block, counts_to_measure
from .paired_times import Effort, Paired, paired_times

COSTS = ("latency", "macs", "parameters", "bytes")

Factors = Sequence[Tensor | None]
"""For every block a factor for each kept unit [kept], or None: none is scaled."""


@torch.no_grad()
def macs_of(run: Callable[[], Any]) -> float:
    """Count the multiplications of the matrix products in a run, those of attention among them."""
    # attention in single products: the counter does not know every fused kernel
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


@dataclass(frozen=True)
class Host:
    """A trained model in its library, with what can be done to it.

    Attributes:
        whole: the model, which nothing here changes.
        head_map: its units, N.
        without: (keep, bool [N], factors or None) -> a new model without the other units.
        run: does the timed work with a model.
        counts: name of a cost beside latency -> (model -> cost).
        device: where models run. clock: what times are read off, see `paired_times`.
    """

    whole: Any
    head_map: HeadMap
    without: Callable[[Tensor, Factors | None], Any]
    run: Callable[[Any], object]
    counts: dict[str, Callable[[Any], float]]
    device: str = "cpu"
    clock: str = "wall"

    def compared(self, model: Any, effort: Effort) -> Paired:
        """Time the whole model beside another one."""
        runs = (lambda: self.run(self.whole)), (lambda: self.run(model))
        return paired_times(*runs, effort, self.device, self.clock)


class Meter:
    """Measures models in one kind of cost.

    Args:
        host: of the models.
        cost: one of `COSTS`.
        effort: of one comparison, where the cost is latency.

    Raises:
        OptionError: there is no such cost.
    """

    def __init__(self, host: Host, cost: str, effort: Effort = Effort()):
        if cost not in COSTS:
            raise OptionError("cost", f"{cost}: there are {', '.join(COSTS)}")
        self.host, self.cost, self.effort = host, cost, effort

    def share(self, model: Any) -> float:
        """Return a model's cost as a share of the whole model's."""
        if self.cost == "latency":
            return 1.0 / self.host.compared(model, self.effort).ratio
        count = self.host.counts[self.cost]
        return count(model) / count(self.host.whole)


def measure_fixed(meter: Meter) -> float:
    """Measure what a model costs without any of its units, as a share of the whole."""
    head_map = meter.host.head_map
    none = dict.fromkeys((block.name for block in head_map.blocks), 0)
    return meter.share(meter.host.without(first_units(head_map, none), None))


def measure_blocks(meter: Meter, table: CostTable, say: Callable[[str], None] = print) -> None:
    """Measure what the blocks of a model cost, into its table; costs are shares of the whole model's.

    Args:
        table: with `measure_fixed` in it.
        say: is told every model that was measured.
    """
    host, head_map = meter.host, meter.host.head_map
    none = dict.fromkeys((block.name for block in head_map.blocks), 0)
    for name in dict.fromkeys(class_of_block(block) for block in head_map.blocks if block.num_heads):
        mine = [block for block in head_map.blocks if class_of_block(block) == name]
        for count in counts_to_measure(max(block.num_heads for block in mine)):
            kept = {**none, **{block.name: min(count, block.num_heads) for block in mine}}
            cost = meter.share(host.without(first_units(head_map, kept), None))
            table.measured.setdefault(name, {})[count] = cost
            say(f"{name}, {count} a block: {cost:.1%} of the whole")


def first_units(head_map: HeadMap, counts: dict[str, int]) -> Tensor:
    """Return the mask, bool [N], that keeps the first so many units of every block."""
    flags = [unit < counts[block.name] for block in head_map.blocks for unit in range(block.num_heads)]
    return torch.tensor(flags, dtype=torch.bool)
