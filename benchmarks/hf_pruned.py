"""Latency of a Transformers model whose heads have been removed, beside the stock model with all of them.

    python benchmarks/hf_pruned.py [--quick] [--device cpu|cuda] [--bf16] [--sizes 1 32] [--lengths 32 128]

A pretrained BERT of 22.7 million parameters with a task head, by SDPA, sequences without padding;
75, 50, 25 and 10 % of its 72 heads are left, drawn at random with a fixed seed over all layers (the heads of
a smaller K are among those of a larger one). Layers then keep unlike numbers, as under learned masks, and
some keep none.

`speedup_K<K>_b<B>_l<L>` is the stock model's time over that of the model with K heads left, for B sequences
of L tokens: the median over all rounds. `p50_...` and `p95_...` are the latencies themselves. `bound_...` is
the FLOPs of all matrix products of the stock model over those of the pruned one (torch's FlopCounterMode):
the speed-up if time were FLOPs. It is low because most FLOPs of this model are in its feed-forward layers.
The softmax is not in the count, but goes with the heads: long sequences may pass the bound.
"""

from __future__ import annotations

import copy
import statistics
from collections.abc import Callable

import numpy as np
import torch
from minilm import batch_of, load  # first: it decides whether Transformers can be imported
from timing import Clock, command_line, interleaved, ratio, start
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from dsp_plugin.hf import count_parameters, head_map_of, prune_heads
from dsp_plugin.options.numbers import number

SHARES = (0.75, 0.5, 0.25, 0.1)
SIZES, LENGTHS, QUICK_LENGTHS = (1, 32), (32, 128, 384), (32, 128)
SEED = 1


def rounds(device: str, size: int, quick: bool) -> int:
    if device == "cuda":
        return 50 if quick else 300
    if size > 1:
        return 2 if quick else 15
    return 20 if quick else 60


def with_heads(stock: nn.Module, k: int) -> nn.Module:
    """Copy the model and leave it K heads: the first K of one random order."""
    total = head_map_of(stock).num_heads
    order = torch.randperm(total, generator=torch.Generator().manual_seed(SEED))
    keep = torch.zeros(total, dtype=torch.bool).index_fill_(0, order[:k], True)
    model = copy.deepcopy(stock)
    prune_heads(model, keep)
    return model


def flops(model: nn.Module, length: int) -> int:
    """Count the FLOPs of the matrix products for one sequence of `length` tokens."""
    batch = batch_of(model, 1, length)
    # the counter knows matrix products, and not every fused kernel
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(**batch)
    return counter.get_total_flops()


def forward(model: nn.Module, batch: dict) -> Callable[[int], None]:
    @torch.no_grad()
    def run(_number: int) -> None:
        model(**batch)

    return run


def positive(values: list[int], option: str, most: int) -> list[int]:
    for value in values:
        if not 1 <= value <= most:
            raise SystemExit(f"{option} {value}: must be in 1..{most}")
    return values


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--model", help="folder of another model that Transformers loads as a sequence classifier"
    )
    parser.add_argument("--bf16", action="store_true", help="all weights in bfloat16")
    parser.add_argument(
        "--sizes", type=number("count"), nargs="+", default=SIZES, help="sequences in a batch"
    )
    parser.add_argument(
        "--lengths", type=number("count"), nargs="+", help="tokens a sequence (--quick leaves out 384)"
    )
    args = parser.parse_args()
    start(args, "transformers")
    clock = Clock(args.device, args.clock)

    stock = load(args.model)
    longest = getattr(stock.config, "max_position_embeddings", 1 << 20)
    lengths = positive(args.lengths or (QUICK_LENGTHS if args.quick else LENGTHS), "--lengths", longest)
    sizes = positive(args.sizes, "--sizes", 1 << 20)
    total = head_map_of(stock).num_heads
    models = {"stock": stock, **{f"K{k}": with_heads(stock, k) for k in (round(s * total) for s in SHARES)}}
    print(
        f"{'bfloat16' if args.bf16 else 'float32'}; parameters, and heads left in each of "
        f"{len(head_map_of(stock).blocks)} blocks:"
    )
    for name, model in models.items():
        heads = " ".join(f"{block.num_heads:2}" for block in head_map_of(model).blocks)
        print(f"{name:6} {count_parameters(model):11,}   {heads}")
    counted = {length: {name: flops(model, length) for name, model in models.items()} for length in lengths}
    for model in models.values():
        model.to(args.device, torch.bfloat16 if args.bf16 else torch.float32)

    figures: list[str] = []
    for size in sizes:
        for length in lengths:
            batch = batch_of(stock, size, length, padded=False)
            repeats = args.repeats or rounds(args.device, size, args.quick)
            arms = {name: forward(model, batch) for name, model in models.items()}
            times = interleaved(arms, repeats, 1 if size > 1 else 3, clock)
            print(
                f"\n{size} x {length} tokens, {repeats} rounds\n"
                "         p50 ms    p95 ms  speedup   bound  of the bound"
            )
            for name, seconds in times.items():
                where = f"{name}_b{size}_l{length}"
                p50, p95 = 1000 * statistics.median(seconds), 1000 * float(np.percentile(seconds, 95))
                line = f"{name:6} {p50:8.2f}  {p95:8.2f}"
                figures += [f"p50_{where} {p50:.2f} ms", f"p95_{where} {p95:.2f} ms"]
                if name != "stock":
                    speedup = ratio(times["stock"], seconds)
                    bound = counted[length]["stock"] / counted[length][name]
                    line += f"  {speedup:7.2f} {bound:7.2f}  {speedup / bound:10.0%}"
                    figures += [f"speedup_{where} {speedup:.2f} ratio", f"bound_{where} {bound:.2f} ratio"]
                print(line, flush=True)
    print("\n" + "\n".join(figures))


if __name__ == "__main__":
    main()
