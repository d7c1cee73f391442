"""Cost of learning which heads to keep, in a training step of transformer_iwslt_de_en.

    python benchmarks/gating_overhead.py [--quick] [--device cpu|cuda] [--autocast float16 bfloat16]

A step: forward, label-smoothed cross-entropy (0.1), backward, norm of the gradient, Adam, gradients cleared;
dropout 0.3. Stock fairseq's model beside the plugin's with the same weights, joint pruning and annealing, on
the same batches in turn (of short, middling and long sentences). `step_ratio_K<K>` is ours over stock: the
median over all rounds, with the interval that holds it with 95 % confidence. Rounds are added, up to
--repeats, until every interval is narrower than 3 %.
"""

from __future__ import annotations

from collections.abc import Callable

from fairseq import utils
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from iwslt import HEADS, dsp_model, stock_model, toy_task, training_batches  # first: it quietens fairseq
from timing import (
    Clock,
    add_autocast,
    command_line,
    interleaved,
    interval,
    precisions,
    quartiles,
    ratio,
    start,
)
from torch import nn

from dsp_plugin.criterions import DSPLabelSmoothedCrossEntropyCriterion
from dsp_plugin.mt.heads.score_adam import DSPAdam, DSPAdamConfig

BUDGETS = (4, 36, 68)
DROPOUT = 0.3
MAX_TOKENS = {"cpu": 1024, "cuda": 4096}
REPEATS = {"cpu": 90, "cuda": 180}
QUICK_REPEATS = {"cpu": 2, "cuda": 15}
ROUNDS_A_LOOK = 9  # rounds between two looks at the intervals
WIDTH = 0.03


def training_step(
    model: nn.Module, criterion: nn.Module, optimizer, batches: list[dict], autocast: Callable
) -> Callable:
    """Return a function of the number of updates that takes one step, as fairseq's Trainer takes it."""
    model.train()

    def step(number: int) -> None:
        model.set_num_updates(number)
        with autocast():
            loss, sample_size, _ = criterion(model, batches[number % len(batches)])
        optimizer.backward(loss)
        optimizer.multiply_grads(1 / sample_size)
        optimizer.clip_grad_norm(0.0)  # works out the norm, which the Trainer logs
        optimizer.step()
        optimizer.zero_grad()

    return step


def arms(device: str, batches: list[dict], autocast: Callable) -> dict[str, Callable]:
    """Return training steps by name: 'stock', and one of ours for each budget."""
    task = toy_task()
    stock = stock_model(task, DROPOUT)
    ours = {
        f"K{k}": dsp_model(task, stock, DROPOUT, num_of_heads=k, joint_pruning=True, annealing=True)
        for k in BUDGETS
    }
    adam = {"lr": [5e-4], "adam_betas": "(0.9, 0.98)", "weight_decay": 1e-4, "tpu": False}
    steps = {}
    for name, model in {"stock": stock, **ours}.items():
        model.to(device)
        parameters = [p for p in model.parameters() if p.requires_grad]
        if name == "stock":
            criterion = LabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=0.1)
            optimizer = FairseqAdam(FairseqAdamConfig(**adam), parameters)
        else:
            criterion = DSPLabelSmoothedCrossEntropyCriterion(task, sentence_avg=False, label_smoothing=0.1)
            optimizer = DSPAdam(DSPAdamConfig(**adam), parameters)
        steps[name] = training_step(model, criterion, optimizer, batches, autocast)
    return steps


def measured(arms: dict[str, Callable], repeats: int, warm_up: int, clock: Clock) -> dict[str, list[float]]:
    """Time each arm in rounds, until the ratios to stock are known to `WIDTH`, at most `repeats` rounds."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    while len(times["stock"]) < repeats:
        more = interleaved(arms, min(ROUNDS_A_LOOK, repeats - len(times["stock"])), warm_up, clock)
        warm_up = 0
        for name, seconds in more.items():
            times[name] += seconds
        intervals = [interval(over_stock(times, name)) for name in arms if name != "stock"]
        widest, rounds = max(high - low for low, high in intervals), len(times["stock"])
        print(f"{rounds} of at most {repeats} rounds; widest interval {widest:.3f}", flush=True)
        if rounds >= ROUNDS_A_LOOK and widest <= WIDTH:
            break
    return times


def over_stock(times: dict[str, list[float]], name: str) -> list[float]:
    return [ours / stock for ours, stock in zip(times[name], times["stock"])]


def main() -> None:
    parser = command_line(__doc__)
    add_autocast(parser)
    args = parser.parse_args()
    start(args)
    repeats = args.repeats or (QUICK_REPEATS if args.quick else REPEATS)[args.device]
    clock = Clock(args.device, args.clock)
    batches = training_batches(MAX_TOKENS[args.device])
    sizes = ", ".join(f"{b['nsentences']} x {b['net_input']['src_tokens'].size(1)}" for b in batches)
    print(f"batches of at most {MAX_TOKENS[args.device]} tokens: {sizes} (sentences x source length)")
    if args.device == "cuda":
        batches = [utils.move_to_cuda(batch) for batch in batches]

    figures = []
    for precision, autocast in precisions(args):
        warm_up = 1 if args.device == "cpu" else 2 * len(batches)
        times = measured(arms(args.device, batches, autocast), repeats, warm_up, clock)
        print(f"{precision:10} median ms  quartiles      over stock (median, 95 % interval)")
        for name, seconds in times.items():
            low, middle, high = (1000 * second for second in quartiles(seconds))
            line = f"{name:10} {middle:9.1f}  {low:.1f} .. {high:.1f}"
            if name != "stock":
                middle, (low, high) = ratio(seconds, times["stock"]), interval(over_stock(times, name))
                line = f"{line:36} {middle:.3f}  {low:.3f} .. {high:.3f}"
                suffix = "" if precision == "float32" else f"_{precision}"
                figures.append(f"step_ratio_{name}{suffix} {middle:.3f} ratio")
                figures.append(f"step_ratio_{name}{suffix}_low {low:.3f} ratio")
                figures.append(f"step_ratio_{name}{suffix}_high {high:.3f} ratio")
            print(line, flush=True)
    print(f"K of {HEADS} heads kept; target: each step_ratio at most 1.05")
    print("\n".join(figures))


if __name__ == "__main__":
    main()
