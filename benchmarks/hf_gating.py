"""Cost of gates on the heads in a training step and in inference of a Transformers model, beside stock SDPA.

    python benchmarks/hf_gating.py [--quick] [--device cpu|cuda] [--autocast bfloat16 float16]

A pretrained BERT of 22.7 million parameters with a task head, 32 sequences of at most 128 tokens.
Both arms have the same weights and take the same batches in turn.

- A training step, as the Trainer takes it: forward, cross-entropy, backward, norm of the gradient clipped to
  1, AdamW, schedule, gradients cleared; dropout 0.1. Ours samples K = 36 of 72 heads by DSP (joint,
  annealed), and has the callback `HeadGatesCallback` and the scores in the optimizer.
- Inference: no gradient, ours with the hard mask of K heads (none of which is removed).

`train_ratio` and `infer_ratio` are the time of ours over stock: the median over all rounds. `infer_ratio_b1`
is for one sequence of 32 tokens, where the time of Python weighs most.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from minilm import batch_of, load  # first: it decides whether Transformers can be imported
from timing import Clock, add_autocast, command_line, interleaved, precisions, quartiles, start
from torch import Tensor, nn
from transformers import TrainerControl, TrainerState, TrainingArguments

from dsp_plugin.gating import ExponentialCooling, RelaxedSubset
from dsp_plugin.hf import gate_heads, head_map_of, switchboard_of
from dsp_plugin.hf.heads.training import HeadGatesCallback, pruning_optimizers
from dsp_plugin.options.numbers import number

SIZE, LENGTH = 32, 128
BATCHES = 4
LEARNING_RATE, PRUNING_LR, WEIGHT_DECAY, UPDATES = 2e-5, 0.5, 0.01, 25000
REPEATS = {
    "train": {"cpu": 11, "cuda": 100},
    "infer": {"cpu": 21, "cuda": 200},
    "infer_b1": {"cpu": 200, "cuda": 400},
}
QUICK_REPEATS = {
    "train": {"cpu": 3, "cuda": 20},
    "infer": {"cpu": 5, "cuda": 50},
    "infer_b1": {"cpu": 60, "cuda": 100},
}


def training_step(
    model: nn.Module, batches: list[dict[str, Tensor]], autocast: Callable
) -> Callable[[int], None]:
    """Return a function of the number of updates that takes one step, as the Trainer takes it."""
    args = TrainingArguments(
        output_dir="unused", learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, report_to="none"
    )
    # without gates it is AdamW alone
    optimizer, schedule = pruning_optimizers(model, args, UPDATES, PRUNING_LR, joint=True)
    callbacks = [] if switchboard_of(model) is None else [HeadGatesCallback(model)]
    state, control = TrainerState(), TrainerControl()
    model.train()

    def step(number: int) -> None:
        state.global_step = number
        for callback in callbacks:
            callback.on_step_begin(args, state, control, optimizer=optimizer)
        with autocast():
            loss = model(**batches[number % len(batches)]).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), args.max_grad_norm)
        for callback in callbacks:
            callback.on_pre_optimizer_step(args, state, control, optimizer=optimizer)
        optimizer.step()
        schedule.step()
        model.zero_grad()

    return step


def inference(
    model: nn.Module, batches: list[dict[str, Tensor]], autocast: Callable
) -> Callable[[int], None]:
    model.eval()

    @torch.no_grad()
    def run(number: int) -> None:
        with autocast():
            model(**batches[number % len(batches)])

    return run


def gated_copy(stock: nn.Module, k: int) -> nn.Module:
    """Copy the model and gate its heads by DSP, with random scores."""
    model = copy.deepcopy(stock)
    gate_heads(model, RelaxedSubset(head_map_of(model), k, ExponentialCooling(1000.0, 1e-8, 25000)))
    return model


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument(
        "--model", help="folder of another model that Transformers loads as a sequence classifier"
    )
    parser.add_argument("--heads", type=number("count"), help="K (default: half of the heads)")
    add_autocast(parser)
    args = parser.parse_args()
    start(args, "transformers")
    repeats = {
        name: args.repeats or n[args.device] for name, n in (QUICK_REPEATS if args.quick else REPEATS).items()
    }
    clock = Clock(args.device, args.clock)

    stock = load(args.model)
    total = head_map_of(stock).num_heads
    k = total // 2 if args.heads is None else args.heads
    if not 0 <= k <= total:
        raise SystemExit(f"--heads {k}: the model has {total}")
    models = {"stock": stock.to(args.device), "ours": gated_copy(stock, k).to(args.device)}
    sizes = {"train": (SIZE, LENGTH), "infer": (SIZE, LENGTH), "infer_b1": (1, 32)}
    batches = {
        name: [batch_of(stock, *shape, labels=name == "train", seed=seed) for seed in range(BATCHES)]
        for name, shape in sizes.items()
    }
    print(f"{sum(p.numel() for p in stock.parameters()):,} parameters, K = {k} of {total} heads")

    figures = []
    for precision, autocast in precisions(args):
        print(f"{precision:16} rounds  stock ms   ours ms  over stock (median, quartiles)")
        for name in ("infer", "infer_b1", "train"):  # training last: it changes the weights
            make = training_step if name == "train" else inference
            arms = {arm: make(model, batches[name], autocast) for arm, model in models.items()}
            times = interleaved(arms, repeats[name], 2 if args.device == "cpu" else 2 * BATCHES, clock)
            low, middle, high = quartiles([a / b for a, b in zip(times["ours"], times["stock"])])
            stock_ms, ours_ms = (1000 * quartiles(times[arm])[1] for arm in ("stock", "ours"))
            shape = "{} x {}".format(*sizes[name])
            print(
                f"{name.partition('_')[0]:6} {shape:>9} {repeats[name]:6} {stock_ms:9.1f} {ours_ms:9.1f}  "
                f"{middle:.3f}  {low:.3f} .. {high:.3f}",
                flush=True,
            )
            kind, _, batch = name.partition("_")
            end = "".join(f"_{word}" for word in (batch, "" if precision == "float32" else precision) if word)
            figures.append(f"{kind}_ratio{end} {middle:.3f} ratio")
    print("target: train_ratio and infer_ratio at most 1.03")
    print("\n".join(figures))


if __name__ == "__main__":
    main()
