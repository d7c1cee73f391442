"""What a Transformers model's units are worth on calibration data: Fisher information, shares of the output.

Notation: N units, E examples of a batch, L positions, F input features of an output projection.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from ....choosing.fisher import FisherScores, measure_fisher
from ....choosing.rescaling import GramMatrix
from ...probes.model_runs import evaluating
from ..example_losses import example_losses
from ..importance import Collate, batches_of, gating_of, matrix_of, on_device
from ..layouts.projections import Units
from ..units import units_of


def fisher_of(
    model: PreTrainedModel,
    dataset: Any,
    collate: Collate,
    chosen: Sequence[int],
    batch_size: int = 32,
    neurons: int | None = None,
    heads: bool = True,
    progress: bool = False,
) -> FisherScores:
    """Measure the Fisher information of a model's units; it runs in evaluation mode and is left as it was.

    Args:
        model: without gates, on the device it is to run on.
        dataset, collate: examples with labels, by number; see `measured_importance`.
        chosen: numbers of the examples.
        neurons, heads: the units, see `head_map_of`.
        progress: show a bar.

    Raises:
        ValueError: see `example_losses`, and `FisherScores`.
    """
    device = next(model.parameters()).device
    groups = batches_of(dataset, chosen, batch_size)
    bar = tqdm(groups, desc="scores", disable=not progress, leave=False)
    inputs = ((on_device(collate([dataset[int(n)] for n in group]), device), len(group)) for group in bar)
    with evaluating(model), gating_of(model, neurons, heads) as board:
        return measure_fisher(board.head_map, inputs, partial(example_losses, model), board.override, device)


@torch.no_grad()
def grams_of(
    model: PreTrainedModel,
    dataset: Any,
    collate: Collate,
    chosen: Sequence[int],
    batch_size: int = 32,
    neurons: int | None = None,
    heads: bool = True,
    progress: bool = False,
) -> list[Tensor]:
    """Sum up, for every block, the scalar products of its units' shares of the output: [h, h] each.

    Positions that an attention mask of their shape leaves out do not count. Arguments: see `fisher_of`.
    """
    device = next(model.parameters()).device
    units = units_of(model, neurons, heads)
    groups = batches_of(dataset, chosen, batch_size)
    with evaluating(model), _collecting(units) as (grams, masks):
        for group in tqdm(groups, desc="shares", disable=not progress, leave=False):
            batch = on_device(collate([dataset[int(n)] for n in group]), device)
            masks[:] = _masks(batch)
            model(**batch)
    return [gram.total for gram in grams]


@contextmanager
def _collecting(units: Sequence[Units]) -> Iterator[tuple[list[GramMatrix], list[Tensor]]]:
    """Let the inputs of the output projections be summed up; yields the sums, and the masks that count."""
    grams = [GramMatrix(matrix_of(one.output.module), one.block.num_heads) for one in units]
    masks: list[Tensor] = []

    def hook(gram: GramMatrix, _module: Any, args: tuple[Any, ...]) -> None:
        inputs = args[0]
        mask = next((mask for mask in masks if mask.shape == inputs.shape[:-1]), None)
        # [E, L, F] -> [positions, F]
        gram.add(inputs.flatten(0, -2) if mask is None else inputs[mask])

    handles = [
        one.output.module.register_forward_pre_hook(partial(hook, gram)) for one, gram in zip(units, grams)
    ]
    try:
        yield grams, masks
    finally:
        for handle in handles:
            handle.remove()


def _masks(batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Return bool [E, L], True at positions that are no padding, of all masks of the batch."""
    names = ("attention_mask", "decoder_attention_mask")
    return [batch[name] != 0 for name in names if name in batch and batch[name].dim() == 2]
