"""Importance of a Transformers model's heads on a data set (Michel et al. 2019), and the other rankings.

With `neurons` it is that of heads and groups of neurons, by the same formula; a gated model's is that of the
units that have gates.

The formula is in `gating/importance/head_importance.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ...gating import (
    FixedGates,
    HeadImportance,
    HeadMap,
    RankingOptions,
    Switchboard,
    measure_importance,
    weight_magnitude,
)
from ...gating.importance.removal_order import ImportanceOf
from ...options.errors import OptionError
from ..probes.model_runs import evaluating
from .example_losses import example_losses
from .gating import gate_heads, gated_units, switchboard_of, ungate_heads
from .layouts.projections import Units
from .units import units_of

Collate = Callable[[list[Any]], Mapping[str, Tensor]]
"""Makes the model's keyword arguments, labels among them, from examples: a Trainer's `data_collator`."""


@dataclass(frozen=True)
class ExampleRanking(RankingOptions):
    """The options that say what heads are ranked by, with the number of examples in a batch."""

    batch_size: int = 32

    def check(self) -> None:
        """Refuse options that are out of range with a ValueError that names the option."""
        super().check()
        if self.batch_size < 1:
            raise OptionError("batch_size", f"must be 1 or more, got {self.batch_size}")

    def source(
        self,
        model: PreTrainedModel,
        dataset: Any,
        collate: Collate | None,
        progress: bool = True,
        neurons: int | None = None,
        heads: bool = True,
    ) -> ImportanceOf:
        """Return the function keep [N] -> importance [N] of the model's heads, larger is better.

        Args:
            model: with gates on it or without.
            dataset, collate: see `measured_importance`; read only to rank by importance.
            progress: show a bar, in the first process.
            neurons, heads: see `head_map_of`; a gated model's units are those that have gates.
        """
        chosen = self.sample(len(dataset)) if self.rank_by == "importance" else None
        units = dict(neurons=neurons, heads=heads)
        options = dict(batch_size=self.batch_size, per_batch=self.per_batch, progress=progress, chosen=chosen)
        measured = partial(measured_importance, model, dataset, collate, **options, **units)
        weights = partial(magnitudes, model, **units)
        head_map = HeadMap([one.block for one in units_with_gates(model, neurons, heads)])
        return self.importance_of(head_map, lambda keep: measured(keep=keep), weights)


def head_importance(
    model: PreTrainedModel, dataset: Any, collate: Collate, batch_size: int, **options: Any
) -> Tensor:
    """Measure the importance of every head, [N] float64, loss a token, without any normalisation.

    Arguments, further options and errors are those of `measured_importance`.
    """
    return measured_importance(model, dataset, collate, batch_size, **options).value()


def measured_importance(
    model: PreTrainedModel,
    dataset: Any,
    collate: Collate,
    batch_size: int,
    per_batch: bool = False,
    progress: bool = True,
    keep: Tensor | None = None,
    chosen: Sequence[int] | None = None,
    neurons: int | None = None,
    heads: bool = True,
) -> HeadImportance:
    """Measure the importance of every head under a mask, as sums that can be normalised in several ways.

    Several processes share the examples, and all get the same sums. The model runs in evaluation mode,
    without dropout and under no gates but these, and is left as it was.

    Args:
        model: with gates on it or without, on the device it is to run on.
        dataset: examples with labels, by number.
        collate: makes a batch of a list of examples.
        batch_size: examples a batch. Only `per_batch` makes the figures depend on it.
        per_batch: see `HeadImportance`.
        progress: show a bar, in the first process.
        keep: bool [N], the heads that are there; None means all. Removed heads have a gate of 0 and still get
            a gradient.
        chosen: numbers of the examples to take; None means all.
        neurons, heads: the units, see `head_map_of`; a gated model's are those that have gates.

    Raises:
        ValueError: see `example_losses` and `HeadImportance`; a batch size below 1.
    """
    if batch_size < 1:
        raise OptionError("batch_size", f"must be 1 or more, got {batch_size}")
    device = next(model.parameters()).device
    rank, world = 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    batches = batches_of(dataset, range(len(dataset)) if chosen is None else chosen, batch_size)[rank::world]
    bar = tqdm(batches, desc="importance", disable=not progress or rank > 0, leave=False)
    inputs = ((on_device(collate([dataset[int(n)] for n in batch]), device), len(batch)) for batch in bar)
    losses = partial(example_losses, model)
    with evaluating(model), gating_of(model, neurons, heads) as board:
        count = board.head_map.num_heads
        found = measure_importance(count, inputs, losses, board.override, keep, per_batch, device)
    if world > 1:
        found.sum_over_processes(torch.distributed.all_reduce, device)
    return found


def magnitudes(model: PreTrainedModel, neurons: int | None = None, heads: bool = True) -> Tensor:
    """Return the L2 norm of each unit's weights in its projections, [N] float64.

    With grouped queries it is the norm of the whole group.

    Args:
        neurons, heads: see `measured_importance`.
    """
    found = []
    for units in units_with_gates(model, neurons, heads):
        # query, key and value in one matrix [3 * h * d, C] -> three of [h * d, C]
        learnt = [p for p in units.projections if p.out]
        inputs = [part for p in learnt for part in matrix_of(p.module).chunk(p.parts, dim=0)]
        found.append(weight_magnitude(inputs, matrix_of(units.output.module), units.block.num_heads).cpu())
    return torch.cat(found)


def units_with_gates(model: PreTrainedModel, neurons: int | None = None, heads: bool = True) -> list[Units]:
    """Return the units of a model that have gates; those of `units_of` for a model without gates.

    Raises:
        ValueError: see `units_of`; other units are asked for than those that have gates.
    """
    board = switchboard_of(model)
    if board is None:
        return units_of(model, neurons, heads)
    units = units_of(model, *gated_units(model))
    if (neurons is not None or not heads) and units_of(model, neurons, heads) != units:
        raise ValueError(
            f"the model's gates are on other units ({board.head_map!r}): ungate_heads(model) first"
        )
    return units


@contextmanager
def gating_of(
    model: PreTrainedModel, neurons: int | None = None, heads: bool = True
) -> Iterator[Switchboard]:
    """Yield the model's switchboard; a model without gates gets all units open for the time being.

    Arguments and errors: see `units_with_gates`.
    """
    units = units_with_gates(model, neurons, heads)
    board = switchboard_of(model)
    if board is not None:
        yield board
        return
    count = sum(one.block.num_heads for one in units)
    board = gate_heads(model, FixedGates(torch.ones(count)), neurons=neurons, heads=heads)
    try:
        yield board
    finally:
        ungate_heads(model)


def batches_of(dataset: Any, chosen: Sequence[int], batch_size: int) -> list[np.ndarray]:
    """Return the numbers of the examples batch by batch, of similar length where they have `input_ids`."""
    numbers = np.asarray(chosen, dtype=np.int64)
    if hasattr(dataset, "lengths"):  # without building every example
        lengths = np.asarray(dataset.lengths())[numbers]
    else:
        lengths = np.array([_length(dataset[int(number)]) for number in numbers])
    numbers = numbers[np.argsort(lengths, kind="stable")]
    return [numbers[start : start + batch_size] for start in range(0, len(numbers), batch_size)]


def _length(example: Any) -> int:
    ids = example.get("input_ids") if isinstance(example, Mapping) else None
    return len(ids) if isinstance(ids, (Sized, Tensor)) else 0


def on_device(batch: Mapping[str, Any], device: torch.device) -> dict[str, Tensor]:
    """Return the tensors of a batch on a device; what is no tensor is left out."""
    return {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}


def matrix_of(module: nn.Module) -> Tensor:
    """Return the weight as [out, in], which is how a `Conv1D` does not store it."""
    return module.weight.t() if isinstance(module, Conv1D) else module.weight
