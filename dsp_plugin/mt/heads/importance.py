"""Importance of a fairseq model's heads on a data set, and the other rankings, for whoever removes heads."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import torch
import torch.nn.functional as F
from fairseq import utils
from fairseq.data import data_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.logging.progress_bar import progress_bar
from torch import Tensor, nn

from ...gating import (
    RANKINGS,
    FixedGates,
    HeadImportance,
    HeadMap,
    RankingOptions,
    Switchboard,
    measure_importance,
    weight_magnitude,
)
from ...gating.importance.removal_order import ImportanceOf
from ...gating.importance.start import SAMPLES
from .feed_forward import GatedLinear
from .gated_transformer import connect, gated_blocks, head_map_of

__all__ = [
    "MAX_TOKENS",
    "RANKINGS",
    "SentenceRanking",
    "batches_of",
    "example_losses",
    "gating_of",
    "head_importance",
    "magnitudes",
    "samples_of",
    "training_sentences",
]

MAX_TOKENS = 4096


@dataclass(frozen=True)
class SentenceRanking(RankingOptions):
    """What heads are ranked by, on sentences.

    Attributes:
        max_tokens, batch_size: the size of a batch, padding counted; at most so many sentences.
    """

    SAMPLES = "importance_samples"

    max_tokens: Optional[int] = MAX_TOKENS
    batch_size: Optional[int] = None

    def source(self, model: nn.Module, dataset, task, **progress: Any) -> ImportanceOf:
        """Return the function keep -> importance [N] of the model's heads, larger is better, by this ranking.

        Args:
            model: with gated attention, with or without gates on it.
            dataset: a fairseq translation data set; read only for importance.
            progress: see `head_importance`.
        """
        batches = batches_of(dataset, task, self) if self.rank_by == "importance" else []
        return self.importance_of(
            head_map_of(model),
            lambda keep: head_importance(model, dataset, batches, keep, self.per_batch, **progress),
            lambda: magnitudes(model),
        )


def training_sentences(whole: Any) -> SentenceRanking:
    """Return what sentences a training measures something on, in what batches, by its configuration."""
    tokens, sentences = whole.dataset.max_tokens, whole.dataset.batch_size
    return SentenceRanking(
        by_block=False,
        samples=SAMPLES,
        seed=whole.common.seed,
        max_tokens=tokens or (None if sentences else MAX_TOKENS),
        batch_size=sentences,
    )


def batches_of(dataset, task, ranking: SentenceRanking) -> list[np.ndarray]:
    """Split a subset into batches of similar length, by sentence numbers: all that the model can take."""
    chosen, _ = dataset.filter_indices_by_size(ranking.sample(len(dataset)), task.max_positions())
    tokens = dataset.num_tokens_vec(chosen).astype(np.int64)
    order = np.argsort(tokens, kind="stable")
    # its own batching, because the host's shuffles by a global random state and may drop the last batch
    return [
        np.asarray(batch)
        for batch in data_utils.batch_by_size(
            chosen[order], dataset.num_tokens, tokens[order], ranking.max_tokens, ranking.batch_size
        )
    ]


def head_importance(
    model: nn.Module,
    dataset,
    batches: list[np.ndarray],
    keep: Optional[Tensor] = None,
    per_batch: bool = False,
    log_format: Optional[str] = None,
    prefix: str = "importance",
) -> HeadImportance:
    """Work out every head's importance under a mask; each of several processes takes a part, all get it.

    L(x) is the negative log-likelihood of the reference in nats, teacher-forced, summed over its tokens,
    without label smoothing. The model is in evaluation mode: no dropout, and no gates but these.

    Args:
        model: with gated attention; left in the mode it was in.
        keep: bool [N], heads that are there; None means all. Removed heads have a gate of 0 and still get a
            gradient.
        log_format: of fairseq's progress bar; "none" shows nothing.
    """
    device = next(model.parameters()).device
    rank, world = 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, world = (
            distributed_utils.get_data_parallel_rank(),
            distributed_utils.get_data_parallel_world_size(),
        )
    bar = progress_bar(batches[rank::world], log_format=log_format, log_interval=50, prefix=prefix)
    training = model.training
    model.eval()
    try:
        with gating_of(model) as gating:
            found = measure_importance(
                head_map_of(model).num_heads,
                samples_of(dataset, bar, device),
                lambda sample: (example_losses(model, sample), sample["ntokens"]),
                gating.override,
                keep,
                per_batch,
                device,
            )
    finally:
        model.train(training)
    if world > 1:
        group = distributed_utils.get_data_parallel_group()
        found.sum_over_processes(lambda sums: distributed_utils.all_reduce(sums, group=group), device)
    return found


def samples_of(dataset, batches, device: torch.device) -> Iterator[tuple[dict[str, Any], int]]:
    """Collate each batch of sentence numbers; gives (sample, its number of sentences)."""
    for batch in batches:
        sample = dataset.collater([dataset[number] for number in batch])
        sample = utils.move_to_cuda(sample, device) if device.type == "cuda" else sample
        yield sample, sample["target"].shape[0]


def example_losses(model: nn.Module, sample: dict[str, Any]) -> Tensor:
    """Return the negative log-likelihood of every reference, summed over its tokens: [B], nats."""
    output, target = model(**sample["net_input"]), sample["target"]
    if getattr(model.decoder, "adaptive_softmax", None) is not None:
        log_probs = model.get_normalized_probs(output, log_probs=True, sample=sample)
    else:
        # not by the host's own function, which makes float32 of double precision
        wide = torch.promote_types(output[0].dtype, torch.float32)
        log_probs = F.log_softmax(output[0], dim=-1, dtype=wide)
    # [B, T, V] at [B, T, 1] -> [B, T, 1] -> [B, T]
    nll = -log_probs.gather(-1, target.unsqueeze(-1)).squeeze(-1)
    return nll.masked_fill(target == model.decoder.padding_idx, 0.0).sum(-1)


def magnitudes(model: nn.Module) -> Tensor:
    """Return the L2 norm of each head's weights in its four projections: [N] float64.

    Of a group of neurons it is the norm of their weights in both linears of the layer.
    """
    found = []
    for name, block in gated_blocks(model).items():
        if isinstance(block, GatedLinear):
            count, first = block.num_groups, model.get_submodule(f"{name.removesuffix('fc2')}fc1")
            inputs, output = [first.weight] if count else [], block.weight
        else:
            count = block.num_heads
            inputs = [getattr(block, f"{letter}_proj").weight for letter in "qkv"] if count else []
            output = block.out_proj.weight if count else None
        found.append(weight_magnitude(inputs, output, count).cpu())
    return torch.cat(found)


@contextmanager
def gating_of(model: nn.Module) -> Iterator[Switchboard]:
    """Lend the model's switchboard; for the time being one with all heads open, if it has none."""
    if getattr(model, "gating", None) is not None:
        yield model.gating
        return
    head_map: HeadMap = head_map_of(model)
    board = Switchboard(head_map, FixedGates(torch.ones(head_map.num_heads))).eval()
    connect(model, board)
    try:
        yield board
    finally:
        connect(model, None)
