"""Latency of a model that DSEE has pruned by units, merged, beside the model with all of them.

    python benchmarks/dsee_latency.py [--quick] [--device cpu|cuda] [--heads 3] [--neurons 0.4] [--group 32]

A pretrained BERT of 22.7 million parameters with a task head, by SDPA, 32 sequences of 128 tokens without
padding. The arms: stock; heads25, 3 of 12 heads of every layer gone; heads25_ffn40, 40 % of the groups of
neurons gone, too (19 of 48 groups of 32). Which units go plays no part for the time; they are those that
DSEE's scores put last. The update (rank 16, 64 entries of S2) is merged.

`speedup_<arm>` is the stock model's time over the arm's: the median over all rounds. `bound_<arm>` is the
FLOPs of all matrix products of the stock model over those of the arm (torch's FlopCounterMode): the speed-up
if time were FLOPs.
"""

from __future__ import annotations

import copy

import torch
from hf_pruned import flops, forward
from minilm import batch_of, load
from timing import Clock, command_line, interleaved, quartiles, ratio, start
from torch import nn

from dsp_plugin.hf import count_parameters
from dsp_plugin.hf.dsee import add_dsee, merge_dsee, prune_units
from dsp_plugin.options.numbers import number

RANK, ALPHA, ENTRIES = 16, 32, 64
REPEATS, QUICK_REPEATS = {"cpu": 21, "cuda": 200}, {"cpu": 3, "cuda": 20}


def pruned(stock: nn.Module, heads: int, neurons: float, group: int) -> nn.Module:
    """Copy the model, train nothing, and leave out what DSEE ranks last; merged."""
    model = copy.deepcopy(stock)
    add_dsee(model, RANK, ALPHA, ENTRIES, "rp", seed=1)  # merged: no support is slower
    with torch.no_grad():  # heads are scored by B A, which is 0 before training
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.02)
    prune_units(model, prune_heads_num=heads, neurons=neurons, group=group)
    merge_dsee(model)
    return model.eval()


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", help="folder of another pretrained model")
    parser.add_argument("--batch", type=number("count"), default=32, help="sequences")
    parser.add_argument("--length", type=number("count"), default=128, help="tokens a sequence")
    parser.add_argument("--heads", type=number("amount"), default=3, help="heads that go from every layer")
    parser.add_argument("--neurons", type=number("probability"), default=0.4, help="share of the groups")
    parser.add_argument("--group", type=number("count"), default=32, help="neurons in a group")
    args = parser.parse_args()
    start(args, "transformers")
    clock = Clock(args.device, args.clock)
    repeats = args.repeats or (QUICK_REPEATS if args.quick else REPEATS)[args.device]
    stock = load(args.model)
    models = {
        "stock": stock,
        "heads25": pruned(stock, args.heads, 0.0, args.group),
        "heads25_ffn40": pruned(stock, args.heads, args.neurons, args.group),
    }
    counted = {arm: flops(model, args.length) for arm, model in models.items()}
    for model in models.values():
        model.to(args.device)
    batch = batch_of(stock, args.batch, args.length, padded=False)
    times = interleaved({arm: forward(model, batch) for arm, model in models.items()}, repeats, 1, clock)
    print(f"{args.batch} x {args.length} tokens, {repeats} rounds")
    print("arm            parameters  median ms  quartiles")
    for arm, seconds in times.items():
        low, middle, high = (1000 * second for second in quartiles(seconds))
        parameters = count_parameters(models[arm])
        print(f"{arm:13} {parameters:11,}  {middle:9.1f}  {low:.1f} .. {high:.1f}", flush=True)
    print("target: speedup_heads25_ffn40 at least 1.35")
    for arm in ("heads25", "heads25_ffn40"):
        print(f"speedup_{arm} {ratio(times['stock'], times[arm]):.3f} ratio")
        print(f"bound_{arm} {counted['stock'] / counted[arm]:.3f} ratio")


if __name__ == "__main__":
    main()
