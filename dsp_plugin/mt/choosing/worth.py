"""What a fairseq model's units are worth on calibration data: Fisher information, shares of the output.

Notation: M units of the model, N of them may go; B sentences, T positions, F inputs of an output projection.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...choosing.fisher import FisherScores
from ...choosing.rescaling import GramMatrix
from ...gating import HeadMap
from ...gating.importance.head_importance import gate_gradients
from ..heads.feed_forward import GatedLinear
from ..heads.gated_transformer import gated_blocks, head_map_of
from ..heads.importance import example_losses, gating_of, samples_of


def fisher_of(
    model: nn.Module, head_map: HeadMap, places: Tensor, dataset: Any, batches: Sequence[np.ndarray]
) -> FisherScores:
    """Measure the Fisher information of units; L(x) is the negative log-likelihood of a whole reference.

    Args:
        model: without gates on it, in `eval()` mode.
        head_map, places: the units, see `Choosable`.
        dataset, batches: a fairseq translation data set, and the numbers of the sentences by batch.

    Raises:
        ValueError: see `FisherScores`.
    """
    device = next(model.parameters()).device
    found = FisherScores(head_map)
    with gating_of(model) as board:
        gradients = gate_gradients(
            head_map_of(model).num_heads,
            samples_of(dataset, batches, device),
            lambda sample: (example_losses(model, sample), sample["ntokens"]),
            board.override,
            device=device,
        )
        for each, _ in gradients:
            found.add(each[:, places.to(each.device)])  # [B, M] -> [B, N]
    return found


@torch.no_grad()
def grams_of(
    model: nn.Module, head_map: HeadMap, dataset: Any, batches: Sequence[np.ndarray]
) -> list[Tensor]:
    """Sum up, for every block, the scalar products of its units' shares of the output, [h, h] each.

    Padding does not count. Arguments: see `fisher_of`.
    """
    device = next(model.parameters()).device
    with _collecting(model, head_map) as (grams, real):
        for sample, _ in samples_of(dataset, batches, device):
            inputs = sample["net_input"]
            # [B, T] -> [T, B], as the model has its states
            real["encoder"] = (inputs["src_tokens"] != model.encoder.padding_idx).t()
            real["decoder"] = (inputs["prev_output_tokens"] != model.decoder.padding_idx).t()
            model(**inputs)
    return [gram.total for gram in grams]


@contextmanager
def _collecting(model: nn.Module, head_map: HeadMap) -> Iterator[tuple[list[GramMatrix], dict[str, Tensor]]]:
    """Let the inputs of output projections be summed up; yields the sums, and which positions count."""
    real: dict[str, Tensor] = {}
    grams, handles = [], []

    def hook(gram: GramMatrix, side: str, _module: nn.Module, args: tuple[Any, ...]) -> None:
        gram.add(args[0][real[side]])  # [T, B, F] -> [positions, F]

    blocks = gated_blocks(model)
    try:
        for block in head_map.blocks:
            part = blocks[block.name]
            projection = part if isinstance(part, GatedLinear) else part.out_proj
            weight = projection.weight if block.num_heads else projection.bias.new_zeros(1, 0)
            grams.append(GramMatrix(weight, block.num_heads))
            if block.num_heads:
                own = partial(hook, grams[-1], block.kind.partition("-")[0])
                handles.append(projection.register_forward_pre_hook(own))
        yield grams, real
    finally:
        for handle in handles:
            handle.remove()
