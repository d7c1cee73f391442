"""Cost of one optimizer step of Delta-Tuning, beside one of full finetuning and one of PEFT's LoRA.

    python benchmarks/delta_step.py [--quick] [--device cpu|cuda] [--shapes 4x128 32x64]

A pretrained BERT of 22.7 million parameters as a masked language model, B sequences of at most L tokens. A
step, as a Trainer takes it: forward with dropout, cross-entropy over two label words at the mask, backward,
gradients clipped to norm 1, AdamW, gradients cleared; all arms take the same batches in turn, and in every
arm only the label words' logits are worked out, at the mask only. L counts the vectors of a prompt. The arms:

- full: all parameters;
- prompt (10 vectors), bias, adapter (Houlsby, reduction 16), and all three together;
- lora: PEFT's LoRA on query and value, rank 16;
- ours: the same by the method lora.

`prompt_ratio`, `bias_ratio`, `adapter_ratio` and `all_ratio` are ratios of times to full finetuning: the
median over all rounds, of the two shapes the larger one. `adapter_over_lora` and `lora_ratio` are to PEFT's
LoRA. `switch_ms` is the median of switching between tasks of all three methods in a DeltaBank; the bytes are
those of a task's file.
"""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
from collections.abc import Callable

import torch
from minilm import load_masked, masked_batch_of  # first: it decides whether Transformers can be imported
from peft import LoraConfig, inject_adapter_in_model
from timing import Clock, command_line, interleaved, quartiles, ratio, start
from torch import Tensor, nn

from dsp_plugin.hf.delta import DeltaBank, add_delta, save_delta
from dsp_plugin.hf.delta.prompting import PromptingModel
from dsp_plugin.options.numbers import number

LEARNING_RATE, RANK, ALPHA, PROMPT, BATCHES, TASKS = 1e-3, 16, 32, 10, 4, 8
REPEATS, QUICK_REPEATS = {"cpu": 15, "cuda": 100}, {"cpu": 3, "cuda": 10}
METHODS = {
    "prompt": ("prompt",),
    "bias": ("bias",),
    "adapter": ("adapter",),
    "all": ("prompt", "bias", "adapter"),
}
ARMS = ("full", *METHODS, "lora", "ours")
WORDS = (6659, 2307)  # terrible, great


def model_of(arm: str, stock: nn.Module) -> nn.Module:
    """Return a copy of the model in training mode, with what the arm trains."""
    model = copy.deepcopy(stock)
    if arm == "lora":
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=["query", "value"])
        inject_adapter_in_model(config, model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)
    elif arm == "ours":
        add_delta(model, "lora", lora_rank=RANK, lora_alpha=ALPHA)
    elif arm != "full":
        add_delta(model, METHODS[arm], prompt_num=PROMPT, seed=1)
    return model.train()


def training_step(arm: str, model: nn.Module, batches: list[dict[str, Tensor]]) -> Callable[[int], None]:
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=LEARNING_RATE, weight_decay=0.0, fused=True)
    answering = PromptingModel(model, WORDS).to(model.device)
    prompted = "prompt" in METHODS.get(arm, ())

    def step(turn: int) -> None:
        batch = dict(batches[turn % len(batches)])
        if not prompted:
            batch.pop("prompt_ids")
        answering(**batch).loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def files_of(stock: nn.Module, folder: str) -> dict[str, int]:
    """Write a file of each kind, and TASKS of all three; return the bytes by the kind."""
    found = {}
    for kind, methods in METHODS.items():
        model = copy.deepcopy(stock)
        add_delta(model, methods, prompt_num=PROMPT, seed=1)
        found[kind] = save_delta(model, os.path.join(folder, kind))
    for task in range(TASKS):
        model = copy.deepcopy(stock)
        add_delta(model, METHODS["all"], prompt_num=PROMPT, seed=task)
        save_delta(model, os.path.join(folder, f"task{task}"))
    return found


def switch_times(stock: nn.Module, folder: str, repeats: int, clock: Clock) -> list[float]:
    """Return seconds of switches between the tasks."""
    bank = DeltaBank(copy.deepcopy(stock))
    for task in range(TASKS):
        bank.add(str(task), os.path.join(folder, f"task{task}"))
    times = []
    for turn in range(repeats * TASKS):
        begin = clock()
        bank.switch(str(turn % TASKS))
        times.append(clock() - begin)
    return times


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", help="folder of another pretrained model")
    parser.add_argument("--shapes", nargs="+", default=["4x128", "32x64"], help="sequences x tokens")
    args = parser.parse_args()
    shapes = {}
    for shape in args.shapes:
        try:
            shapes[shape] = tuple(number("count")(part) for part in shape.split("x", 1))
        except Exception:
            shapes[shape] = ()
        if len(shapes[shape]) != 2 or shapes[shape][1] < PROMPT + 3:
            raise SystemExit(f"--shapes {shape}: give sequences x tokens, {PROMPT + 3} tokens at least")
    start(args, "transformers")
    clock = Clock(args.device, args.clock)
    repeats = args.repeats or (QUICK_REPEATS if args.quick else REPEATS)[args.device]
    stock = load_masked(args.model).to(args.device)
    ratios: dict[str, dict[str, float]] = {}
    for shape, (size, length) in shapes.items():
        batches = [masked_batch_of(stock, size, length, PROMPT, seed) for seed in range(BATCHES)]
        models = {arm: model_of(arm, stock) for arm in ARMS}
        arms = {arm: training_step(arm, model, batches) for arm, model in models.items()}
        times = interleaved(arms, repeats, 1 if args.device == "cpu" else 5, clock)
        print(f"batch {shape}, {repeats} rounds\narm       trainable  median ms  quartiles")
        for arm, seconds in times.items():
            low, middle, high = (1000 * second for second in quartiles(seconds))
            trained = sum(one.numel() for one in models[arm].parameters() if one.requires_grad)
            print(f"{arm:8} {trained:10,}  {middle:9.1f}  {low:.1f} .. {high:.1f}", flush=True)
        found = {f"{arm}_ratio": ratio(times[arm], times["full"]) for arm in METHODS}
        found["adapter_over_lora"] = ratio(times["adapter"], times["lora"])
        found["lora_ratio"] = ratio(times["ours"], times["lora"])
        ratios[shape] = found
        print("  ".join(f"{name} {value:.3f}" for name, value in found.items()), flush=True)
        del models, arms
    with tempfile.TemporaryDirectory() as folder:
        sizes = files_of(stock, folder)
        switches = switch_times(stock, folder, max(repeats, 3), clock)
    print("targets: the four ratios to full finetuning at most 0.90, adapter_over_lora at most 1.10")
    for name in next(iter(ratios.values())):
        print(f"{name} {max(found[name] for found in ratios.values()):.3f} ratio")
    print(f"switch_ms {1000 * statistics.median(switches):.3f} ms")
    for kind, size in sizes.items():
        print(f"{kind}_bytes {size} bytes")


if __name__ == "__main__":
    main()
