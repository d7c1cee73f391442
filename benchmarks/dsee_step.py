"""Cost of one optimizer step of DSEE, beside one of full finetuning and one of PEFT's LoRA alone.

    python benchmarks/dsee_step.py [--quick] [--device cpu|cuda] [--rank 16] [--entries 64]

A pretrained BERT of 22.7 million parameters, 32 sequences of at most 64 tokens. A step, as a Trainer takes
it: forward with dropout, cross-entropy, backward, gradients clipped to norm 1, AdamW, gradients cleared; all
arms take the same batches in turn. The arms:

- full: all parameters;
- lora: PEFT's LoRA on query and value, and the task head;
- dsee: the same with S2, so many entries a matrix;
- stage3: the same after 20 % of the weights were pruned (20 % of query and value, by ABS).

`lora_over_full`, `dsee_over_lora` and `stage3_over_lora` are ratios of times: the median over all rounds.
`extra_tensors` is the memory that S2 and S1 add to LoRA's between two steps, their optimizer's moments
included, in units of one full-size tensor (all parameters of the model once): the storages of all tensors
that are alive, counted once each.
"""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable

import torch
from minilm import batch_of, load  # first: it decides whether Transformers can be imported
from peft import LoraConfig, inject_adapter_in_model
from timing import Clock, command_line, interleaved, quartiles, ratio, start
from torch import Tensor, nn

from dsp_plugin.hf.dsee import add_dsee, prune_weights
from dsp_plugin.options.numbers import number

LEARNING_RATE, ALPHA, PRUNED, BATCHES = 2e-4, 32, 0.2, 4
REPEATS, QUICK_REPEATS = {"cpu": 25, "cuda": 100}, {"cpu": 3, "cuda": 10}
ARMS = ("full", "lora", "dsee", "stage3")


def model_of(arm: str, stock: nn.Module, rank: int, entries: int) -> nn.Module:
    """Return a copy of the model in training mode, with what the arm trains."""
    model = copy.deepcopy(stock)
    if arm == "lora":
        config = LoraConfig(r=rank, lora_alpha=ALPHA, target_modules=["query", "value"])
        inject_adapter_in_model(config, model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name or name.startswith("classifier."))
    elif arm != "full":
        add_dsee(model, rank, ALPHA, entries, "rp", seed=1)  # where entries lie plays no part for the time
    if arm == "stage3":
        with torch.no_grad():  # a score by B A says nothing as long as B is 0
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0.0, 0.02)
        prune_weights(model, PRUNED, PRUNED, "ABS")
    return model.train()


def training_step(model: nn.Module, batches: list[dict[str, Tensor]]) -> Callable[[int], None]:
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learnt, lr=LEARNING_RATE, weight_decay=0.0, fused=True)

    def step(turn: int) -> None:
        model(**batches[turn % len(batches)]).loss.backward()
        nn.utils.clip_grad_norm_(learnt, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def bytes_alive() -> int:
    """Add up the storages of all tensors that Python holds."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        # not isinstance, which asks lazy modules for their class
        if type(thing) in (Tensor, nn.Parameter):
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def held_by(arm: str, stock: nn.Module, batches: list[dict[str, Tensor]], rank: int, entries: int) -> int:
    """Return the bytes that an arm holds between two steps."""
    before = bytes_alive()
    step = training_step(model_of(arm, stock, rank, entries), batches)
    step(0)
    step(1)
    return bytes_alive() - before


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", help="folder of another pretrained model")
    parser.add_argument("--batch", type=number("count"), default=32, help="sequences")
    parser.add_argument("--length", type=number("count"), default=64, help="tokens of the longest")
    parser.add_argument("--rank", type=number("count"), default=16, help="of A and B")
    parser.add_argument("--entries", type=number("amount"), default=64, help="entries of S2 in each matrix")
    args = parser.parse_args()
    start(args, "transformers")
    clock = Clock(args.device, args.clock)
    repeats = args.repeats or (QUICK_REPEATS if args.quick else REPEATS)[args.device]
    stock = load(args.model).to(args.device)
    batches = [batch_of(stock, args.batch, args.length, labels=True, seed=seed) for seed in range(BATCHES)]
    unit = sum(parameter.nbytes for parameter in stock.parameters())
    print(f"{unit / 4e6:.1f} M parameters, batch {args.batch} x {args.length}; {repeats} rounds")

    models = {arm: model_of(arm, stock, args.rank, args.entries) for arm in ARMS}
    arms = {arm: training_step(model, batches) for arm, model in models.items()}
    times = interleaved(arms, repeats, 1 if args.device == "cpu" else 5, clock)
    print("arm       trainable  median ms  quartiles")
    for arm, seconds in times.items():
        low, middle, high = (1000 * second for second in quartiles(seconds))
        trained = sum(p.numel() for p in models[arm].parameters() if p.requires_grad)
        print(f"{arm:8} {trained:10,}  {middle:9.1f}  {low:.1f} .. {high:.1f}", flush=True)
    del models, arms

    held = {arm: held_by(arm, stock, batches, args.rank, args.entries) for arm in ("lora", "stage3")}
    print("targets: dsee_over_lora at most 1.10, stage3_over_lora at most 1.15, extra_tensors at most 0.1")
    print(f"lora_over_full {ratio(times['lora'], times['full']):.3f} ratio")
    print(f"dsee_over_lora {ratio(times['dsee'], times['lora']):.3f} ratio")
    print(f"stage3_over_lora {ratio(times['stage3'], times['lora']):.3f} ratio")
    print(f"extra_tensors {(held['stage3'] - held['lora']) / unit:.4f} tensors")


if __name__ == "__main__":
    main()
