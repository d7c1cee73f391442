"""The search on a host of plain numbers: models are masks, and a clock is a formula."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from head_maps import head_map

from dsp_plugin.choosing.cost_file import CostFile
from dsp_plugin.choosing.cost_tables import CostTable
from dsp_plugin.choosing.host import Host, Meter, measure_blocks, measure_fixed
from dsp_plugin.choosing.paired_times import Effort, Paired, median_interval, paired_times
from dsp_plugin.choosing.search import Search, Worth, check_speedup, stack_of
from dsp_plugin.options.errors import OptionError

UNITS = head_map(
    ("enc.0", 4, "encoder-self"),
    ("enc.1", 4, "encoder-self"),
    ("cross", 4, "decoder-cross"),
    ("dec", 4, "decoder-self"),
    ("ffn", 6, "encoder-ffn", 8),
)
N = UNITS.num_heads
WHOLE = torch.ones(N, dtype=torch.bool)


def work(keep: torch.Tensor, beyond: float = 0.0) -> float:
    """Seconds of a model: 2, and 1 a head, 0.5 a group; `beyond` is no block's, but goes with them."""
    heads, groups = int(keep[:16].sum()), int(keep[16:].sum())
    return 2.0 + heads + 0.5 * groups + beyond * (heads + groups) / N * (1 - (heads + groups) / N)


@dataclass(frozen=True)
class Numbers(Host):
    """A host whose clock shows a formula's seconds."""

    seconds: Callable[[torch.Tensor], float] = work

    def compared(self, model, effort):
        return Paired([self.seconds(self.whole)], [self.seconds(model)])


def host(seconds: Callable[[torch.Tensor], float] = work) -> Numbers:
    counts = {"parameters": lambda keep: 20.0 + 3 * int(keep.sum())}
    return Numbers(WHOLE, UNITS, lambda keep, factors: keep, lambda keep: None, counts, seconds=seconds)


def table_of(one: Numbers, cost: str = "latency") -> CostTable:
    meter, said = Meter(one, cost), []
    table = CostTable(1.0, measure_fixed(meter))
    measure_blocks(meter, table, said.append)
    assert len(said) == 3 * 3 + 4  # 1, 2, 4 heads of three kinds; 1, 2, 4, 6 groups
    return table


def worth(seed: int = 0) -> Worth:
    return Worth(torch.rand(N, generator=torch.Generator().manual_seed(seed)))


def test_measured_costs_are_those_of_the_formula():
    table = table_of(host())
    whole = work(WHOLE)
    assert table.fixed == pytest.approx(2 / whole) and table.ceiling == pytest.approx(whole / 2)
    for block, costs in zip(UNITS.blocks, table.costs(UNITS)):
        each = (0.5 if block.neurons else 1.0) / whole
        assert costs.tolist() == pytest.approx([each * count for count in range(block.num_heads + 1)])


def test_a_speed_is_reached_at_once_where_costs_add_up():
    one = host()
    attempt, attempts = Search(one, table_of(one), worth()).reach(
        2.0, Meter(one, "latency"), lambda line: None
    )
    assert len(attempts) == 1 and attempt.predicted == pytest.approx(attempt.measured)
    # not a unit more than is needed
    assert 2.0 <= attempt.speedup and work(attempt.keep) + 0.5 > work(WHOLE) / 2.0


def test_the_bound_is_corrected_where_costs_do_not_add_up():
    one = host(lambda keep: work(keep, beyond=16.0))
    search = Search(one, table_of(one), worth())
    attempt, attempts = search.reach(2.0, Meter(one, "latency"), lambda line: None)
    assert 1 < len(attempts) <= 3 and abs(attempts[0].speedup / 2.0 - 1) > 0.05
    assert attempt.speedup == pytest.approx(2.0, rel=0.06)
    assert attempt is min(attempts, key=lambda other: abs(other.speedup / 2.0 - 1))


def test_other_costs_are_counted_and_never_corrected():
    one = host()
    search = Search(one, table_of(one, "parameters"), worth())
    attempt, attempts = search.reach(1.7, Meter(one, "parameters"), lambda line: None)
    assert len(attempts) == 1 and attempt.speedup >= 1.7
    assert attempt.speedup == (20 + 3 * N) / (20 + 3 * int(attempt.keep.sum()))


def test_everything_stays_where_nothing_is_asked_for():
    one = host()
    attempt, _ = Search(one, table_of(one), worth()).reach(1.0, Meter(one, "latency"), lambda line: None)
    assert attempt.keep.all()


def test_uniform_blocks_of_a_stack_keep_the_same_number():
    one = host()
    search = Search(one, table_of(one), worth(), uniform=True)
    counts = [int(flags.sum()) for flags in UNITS.split(search.attempt(0.6).keep)]
    assert counts[0] == counts[1] and counts[2] == counts[3]
    assert len({stack_of(block) for block in UNITS.blocks}) == 3


def test_units_are_swapped_and_survivors_scaled():
    """Units 0 and 1 of a block do the same work: one stays, with the other's share in its factor."""
    one = host()
    fisher = [torch.eye(block.num_heads, dtype=torch.float64) for block in UNITS.blocks]
    fisher[0] = torch.eye(4, dtype=torch.float64) * 1.2
    fisher[0][:2, :2] = 1.0
    grams = [torch.eye(block.num_heads, dtype=torch.float64) for block in UNITS.blocks]
    grams[0][:2, :2] = 1.0
    scores = torch.cat([block.diagonal() for block in fisher])
    scores[4:] = 9.0  # the other blocks stay
    search = Search(one, table_of(one), Worth(scores, fisher, grams))
    attempt = search.attempt(1.0 - 2.0 / work(WHOLE))
    kept = attempt.keep[:4].tolist()
    assert sum(kept) == 2 and kept[0] != kept[1] and attempt.keep[4:].all()
    assert sorted(attempt.factors[0].tolist()) == pytest.approx([1.0, 2.0])
    assert attempt.factors[1:] == [None] * 4


def test_speeds_out_of_reach_are_refused():
    table = table_of(host())
    ceiling = work(WHOLE) / work(torch.zeros_like(WHOLE))
    assert table.ceiling == pytest.approx(ceiling)
    for speedup in (0.5, float("nan"), float("inf"), 0.81 * ceiling):
        with pytest.raises(OptionError, match="target_speedup"):
            check_speedup(speedup, table)
    check_speedup(0.79 * ceiling, table)


def test_an_unknown_cost_is_refused():
    with pytest.raises(OptionError, match="cost"):
        Meter(host(), "watts")


def test_a_table_is_kept_for_the_same_settings_only(tmp_path):
    table, settings = table_of(host()), {"machine": "a", "threads": 1, "shape": (2, 3)}
    file = CostFile(tmp_path, settings)
    assert file.read() is None
    file.write(table)
    assert CostFile(tmp_path, settings).read()[0] == table
    assert CostFile(tmp_path, {**settings, "threads": 2}).read() is None
    file.path.write_text(file.path.read_text().replace('"fixed": 0.', '"fixed": 1.'))
    assert file.read() is None, "a damaged table is measured anew"


def test_runs_are_timed_in_turns():
    order: list[str] = []
    paired = paired_times(
        lambda: order.append("a"), lambda: order.append("b"), Effort(pairs=3, most=3), clock="processor"
    )
    assert order == list("ab" + "ab" + "ba" + "ab")
    assert len(paired.first) == len(paired.second) == 3
    assert Paired([2.0, 3.0, 9.0], [1.0, 1.0, 2.0]).ratio == 3.0


def test_the_interval_of_a_median_holds_95_percent_by_ranks():
    # 6 values: their range misses the median with 2 / 64; 9: the second smallest and largest with 20 / 512
    assert median_interval(list(range(6))) == (0, 5)
    assert median_interval(list(range(9))) == (1, 7)
    assert median_interval([5.0]) == (5.0, 5.0)
