"""Cost of one optimizer step of diff pruning, beside one of full finetuning.

    python benchmarks/diff_step.py [--quick] [--device cpu|cuda] [--shape bert-base] [--autocast bfloat16]

By default a pretrained BERT of 22.7 million parameters, 32 sequences of at most 64 tokens. A step, as a
Trainer takes it: forward with dropout, cross-entropy, backward, gradients clipped to norm 1, update,
gradients cleared; all arms take the same batches in turn. The arms:

- full: torch's AdamW(fused=True) on all parameters;
- structured_fused, structured_eager, unstructured_fused: diff pruning, its sample of theta for the next step
  included, by the fused passes and by torch operations;
- fixmask: 0.5 % of the positions, spread at random over all tensors, and the task head.

`..._ratio` is the time of an arm over full's: the median over all rounds. `pass_bytes_per_second` counts the
bytes that the fused passes of a step read and write (72 a float32 parameter: 12 to measure the gradients'
norms, 60 to update and write theta) over their time, and `copy_bytes_per_second` those of a copy of one
full-size tensor.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import torch
from minilm import batch_of, load  # first: it decides whether Transformers can be imported
from timing import Clock, command_line, interleaved, quartiles, start
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

from dsp_plugin.diffs.sparse import SparseDiff
from dsp_plugin.diffs.training.fixmask import FixMaskAdamW
from dsp_plugin.diffs.training.optimizer import DiffAdamW
from dsp_plugin.diffs.training.passes.torch_passes import Moments, NextTheta, Rates, StepInputs
from dsp_plugin.diffs.training.vector import DiffVector
from dsp_plugin.options.numbers import number

SHAPES = {
    "bert-base": BertConfig(),
    "bert-large": BertConfig(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
    ),
}
HEAD = ["classifier"]
LEARNING_RATE, DENSITY, BATCHES = 1e-5, 0.005, 4
MEASURE_BYTES, UPDATE_BYTES = 12, 60
REPEATS, QUICK_REPEATS = {"cpu": 15, "cuda": 50}, {"cpu": 2, "cuda": 10}
ARMS = ("full", "structured_fused", "structured_eager", "unstructured_fused", "fixmask")


def random_mask(model: nn.Module) -> SparseDiff:
    """Draw a share of every tensor's positions, with values of 0."""
    generator = torch.Generator().manual_seed(1)
    entries, shapes = {}, {}
    for name, parameter in model.named_parameters():
        if not name.startswith(HEAD[0]):
            count = max(1, round(DENSITY * parameter.numel()))
            positions = torch.randint(parameter.numel(), (count,), generator=generator).unique()
            entries[name], shapes[name] = (positions, torch.zeros(positions.numel())), tuple(parameter.shape)
    return SparseDiff(entries, shapes)


def optimizer_of(arm: str, model: nn.Module) -> torch.optim.Optimizer:
    if arm == "full":
        return torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    if arm == "fixmask":
        return FixMaskAdamW(model, random_mask(model), task_head=HEAD, lr=LEARNING_RATE)
    structure, kind = arm.split("_")
    vector = DiffVector(
        model, task_head=HEAD, grouping="tensor" if structure == "structured" else None, fused=kind == "fused"
    )
    return DiffAdamW(vector, lr=LEARNING_RATE)


def training_step(
    arm: str, stock: nn.Module, batches: list[dict[str, Tensor]], autocast: Callable
) -> Callable[[int], None]:
    model = copy.deepcopy(stock).train()
    optimizer = optimizer_of(arm, model)

    def step(number: int) -> None:
        with autocast():
            loss = model(**batches[number % len(batches)]).loss
        loss.backward()
        if arm == "full":  # the others clip by themselves
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def pass_arms(stock: nn.Module) -> dict[str, Callable[[int], object]]:
    """Return the two fused passes of a step and a copy, each alone."""
    vector = DiffVector(copy.deepcopy(stock), task_head=HEAD, fused=True)
    grads: list = [torch.randn_like(parameter) * 1e-3 for parameter in vector.layout.parameters]
    moments = Moments(*(torch.zeros_like(vector.w) for _ in range(4)))
    keys, target = vector.keys(0), torch.empty_like(vector.w)
    gates = vector.group_gates(keys)
    inputs = StepInputs(grads, vector.w, vector.alpha, gates.gate, gates.price, keys)
    following = NextTheta(vector.base, gates.gate, vector.keys(1))
    rates = Rates(1.0, LEARNING_RATE, 1.0, 1e-8)

    def update(_: int) -> None:
        vector.passes.update(inputs, moments, rates, rates, (0.9, 0.999), following)

    return {
        "measure": lambda _: vector.passes.measure(inputs),
        "update": update,
        "copy": lambda _: target.copy_(vector.w),
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", help="folder of another pretrained model (--shape minilm)")
    parser.add_argument("--shape", choices=["minilm", *SHAPES], default="minilm")
    parser.add_argument("--batch", type=number("count"), default=32, help="sequences")
    parser.add_argument(
        "--length", type=number("count"), help="tokens of the longest (default 64; 128 for the larger shapes)"
    )
    parser.add_argument("--autocast", choices=["bfloat16"], help="forward and backward in this precision")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="full is always taken")
    args = parser.parse_args()
    start(args)
    repeats = args.repeats or (QUICK_REPEATS if args.quick else REPEATS)[args.device]
    clock = Clock(args.device, args.clock)
    length = args.length or (64 if args.shape == "minilm" else 128)
    stock = load(args.model) if args.shape == "minilm" else BertForSequenceClassification(SHAPES[args.shape])
    stock.to(args.device)
    batches = [batch_of(stock, args.batch, length, labels=True, seed=seed) for seed in range(BATCHES)]
    for batch in batches:
        batch["labels"] %= stock.config.num_labels
    autocast = contextlib.nullcontext
    if args.autocast:
        autocast = lambda: torch.autocast(args.device, dtype=getattr(torch, args.autocast))  # noqa: E731
    count = sum(parameter.numel() for parameter in stock.parameters())
    print(
        f"{count / 1e6:.1f} M parameters, batch {args.batch} x {length}, {args.autocast or 'float32'}; "
        f"{repeats} rounds"
    )

    names = ["full", *(arm for arm in args.arms if arm != "full")]
    arms = {arm: training_step(arm, stock, batches, autocast) for arm in names}
    times = interleaved(arms, repeats, 1 if args.device == "cpu" else 5, clock)
    print("arm                  median ms  quartiles      over full (median, quartiles)")
    figures = []
    for name, seconds in times.items():
        low, middle, high = (1000 * second for second in quartiles(seconds))
        line = f"{name:20} {middle:9.1f}  {low:.1f} .. {high:.1f}"
        if name != "full":
            low, middle, high = quartiles([a / b for a, b in zip(seconds, times["full"])])
            line = f"{line:48} {middle:.3f}  {low:.3f} .. {high:.3f}"
            figures.append(f"{name}_ratio {middle:.3f} ratio")
        print(line, flush=True)
    del arms

    times = interleaved(pass_arms(stock), repeats, 1, clock)
    spent = {name: quartiles(seconds)[1] for name, seconds in times.items()}
    body = sum(p.numel() for name, p in stock.named_parameters() if not name.startswith(HEAD[0]))
    print(
        f"passes alone: measure {1000 * spent['measure']:.1f} ms, update and write "
        f"{1000 * spent['update']:.1f} ms"
    )
    achieved = (MEASURE_BYTES + UPDATE_BYTES) * body / (spent["measure"] + spent["update"])
    figures.append(f"pass_bytes_per_second {achieved / 1e9:.2f} GB/s")
    figures.append(f"copy_bytes_per_second {8 * body / spent['copy'] / 1e9:.2f} GB/s")
    print(
        "targets: structured_fused_ratio at most 1.25 on a CPU and 1.10 on a GPU, fixmask_ratio at most 1.05"
    )
    print("\n".join(figures))


if __name__ == "__main__":
    main()
