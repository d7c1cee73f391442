"""The confidence of a fairseq model's heads: how much their attention settles on one position.

c_h is the mean over the queries of some training sentences of the largest attention weight (Behnke and
Heafield, EMNLP 2020), under the gates without noise and without dropout. The published program of PASS
gathers it in the training's own forward passes, and keeps their graphs for an epoch.
"""

import torch
from fairseq.distributed import utils as distributed_utils
from torch import Tensor, nn

from ...gating.importance.start import random_numbers_kept
from .attention import GatedMultiheadAttention
from .gated_transformer import gated_blocks
from .importance import SentenceRanking, batches_of, samples_of


@torch.no_grad()
def confidences(model: nn.Module, dataset, task, ranking: SentenceRanking) -> Tensor:
    """Measure them, [N] float64; several processes share the sentences, and all get the same.

    No random number of the training is used up, and the model is left in the mode it was in.

    Args:
        model: with gates on its heads, `soft_gates()` among what they know.
        dataset: a fairseq translation data set.
        ranking: says which sentences, in what batches.
    """
    device, board = next(model.parameters()).device, model.gating
    head_map, modules = board.head_map, gated_blocks(model)
    blocks = [modules[block.name] for block in head_map.blocks]
    sums = [torch.zeros(block.num_heads, dtype=torch.float64, device=device) for block in head_map.blocks]
    queries = dict.fromkeys(("encoder", "decoder"), 0.0)
    padding, rank, world = {}, 0, 1
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        rank = distributed_utils.get_data_parallel_rank()
        world = distributed_utils.get_data_parallel_world_size()

    def shown(position: int, side: str):
        def add(weights: Tensor) -> None:
            largest = weights.double().amax(-1)  # [B, h, T, S] -> [B, h, T]
            sums[position] += largest.masked_fill(padding[side][:, None], 0.0).sum((0, 2))

        return add

    training, pad = model.training, task.source_dictionary.pad()
    gates = board.gates.soft_gates()
    for position, (block, module) in enumerate(zip(head_map.blocks, blocks)):
        if isinstance(module, GatedMultiheadAttention):
            module.show_weights = shown(position, block.kind.split("-")[0])
    model.eval()
    try:
        with random_numbers_kept(), board.override(gates):
            for sample, _ in samples_of(dataset, batches_of(dataset, task, ranking)[rank::world], device):
                inputs = sample["net_input"]
                for side, name in (("encoder", "src_tokens"), ("decoder", "prev_output_tokens")):
                    padding[side] = inputs[name].eq(pad)
                    queries[side] += float((~padding[side]).sum())
                model(**inputs)
    finally:
        model.train(training)
        for module in blocks:
            if isinstance(module, GatedMultiheadAttention):
                module.show_weights = None
    total = torch.cat([*sums, torch.tensor([*queries.values()], dtype=torch.float64, device=device)])
    if world > 1:
        distributed_utils.all_reduce(total, group=distributed_utils.get_data_parallel_group())
    counts = dict(zip(queries, total[-2:].tolist()))
    of_query = [counts[block.kind.split("-")[0]] for block in head_map.blocks for _ in range(block.num_heads)]
    return total[:-2] / torch.tensor(of_query, dtype=torch.float64, device=device).clamp(min=1.0)
