"""Size of a DiffPack, and the time to apply, revert, switch and mix packs.

    python benchmarks/diff_pack.py [--quick] [--model FOLDER]

Size and time of one pack: the shape of BERT-base (109.5 M parameters), 0.5 % random positions, float16
values. Beside it the same positions and values as int32 + float32, in PEFT's SHiRA (bytes a value of a saved
adapter, measured on a BERT of two layers), and the floor of the positions: log2 of the number of ways to
choose them. Mixing: a pretrained BERT of 22.7 M parameters (or --model) and eight packs of 0.5 %; a batch
with the rows of all eight tasks over one batch of as many rows through the base alone (mixed8_over_base: what
mixing costs) and over eight batches of one task each, with the switches between them (mixed8_ratio: what it
saves); rows a task x tokens a row in the name of the figure. Where the time of a mixed batch goes is printed,
too.
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from minilm import batch_of, load  # first: it imports dsp_plugin.hf before Transformers
from peft import ShiraConfig, get_peft_model
from safetensors.torch import save_file
from timing import Clock, command_line, interleaved, ratio, start
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from dsp_plugin.artefacts.base import Base
from dsp_plugin.diffs.packs.pack import DiffPack
from dsp_plugin.diffs.packs.summary import summarise
from dsp_plugin.diffs.serving import bank as bank_module
from dsp_plugin.diffs.serving.bank import DiffBank
from dsp_plugin.diffs.serving.row_product import LinearDiff
from dsp_plugin.diffs.serving.row_tasks import RowTasks
from dsp_plugin.diffs.sparse import SparseDiff

DENSITY = 0.005
TASKS = 8
SHAPES = ((1, 32), (1, 128), (4, 64))  # rows a task, tokens a row; the first has no suffix
QUICK_SHAPES = ((1, 32),)
TARGETS = (1.3, 1.3, 1.5)
# functions that a mixed batch calls, none within another
PARTS = {
    (LinearDiff, "add_to"): "tasks' products in linear layers",
    (RowTasks, "_whole"): "task heads and whole modules",
    (RowTasks, "_layer_norm"): "layer norms a task",
    (RowTasks, "_embedding"): "embeddings with their changes",
    (bank_module, "take_rows"): "rows in order and back",
}


def random_pack(base: Base, seed: int, task_head: dict[str, Tensor]) -> DiffPack:
    """Make a pack of 0.5 % of the base's positions, all sets of them equally likely, with normal values."""
    generator = torch.Generator().manual_seed(seed)
    count = round(DENSITY * base.total)
    drawn = torch.randint(base.total, (2 * count,), generator=generator).unique()
    positions = drawn[torch.randperm(len(drawn), generator=generator)[:count]].sort().values
    values = torch.randn(count, generator=generator) * 1e-3
    entries, begin = {}, 0
    shapes = {name: shape for name, (_, shape) in base.parameters.items()}
    for name, shape in shapes.items():
        end = begin + torch.Size(shape).numel()
        first, last = torch.searchsorted(positions, torch.tensor([begin, end])).tolist()
        entries[name] = (positions[first:last] - begin, values[first:last])
        begin = end
    return DiffPack.create(SparseDiff(entries, shapes), base, task_head, {"task": seed})


def bert_base() -> nn.Module:
    """Build BERT-base with small random weights (its own initialisation takes longer)."""
    with torch.device("meta"):
        model = BertModel(BertConfig())
    model = model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.uniform_(-0.05, 0.05)
    return model


def in_order(
    arms: dict[str, Callable], repeats: int, clock: Clock, before: Callable[[], object] = lambda: None
) -> dict[str, list[float]]:
    """Time each arm in each round, in seconds; a first round does not count. `before` is not timed."""
    times: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(1 + repeats):
        for name, arm in arms.items():
            before()
            begin = clock()
            arm(number)
            if number:
                times[name].append(clock() - begin)
    return times


def pack_figures(args, clock: Clock) -> list[str]:
    model = bert_base()
    base = Base.of(model)
    task_head = {"classifier.weight": torch.zeros(2, 768), "classifier.bias": torch.zeros(2)}
    packs = [random_pack(base, seed, task_head) for seed in (1, 2)]
    pack, summary = packs[0], summarise(packs[0])
    print(
        f"BERT-base shape: {base.total:,} parameters, {pack.count:,} positions ({pack.density:.3%}), float16"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.diff.safetensors"
        size = pack.save(path)
        uncoded = {f"{name}.positions": positions.int() for name, (positions, _) in pack.diff.entries.items()}
        uncoded.update({f"{name}.values": values.float() for name, (_, values) in pack.diff.entries.items()})
        save_file({**uncoded, **pack.task_head}, Path(folder) / "uncoded.safetensors")
        uncoded_size = (Path(folder) / "uncoded.safetensors").stat().st_size
        shira_size = shira_bytes_a_value(Path(folder)) * pack.count
        bank = DiffBank(model)
        for number, other in enumerate(packs):
            bank.add(str(number), DiffPack(other.diff, other.base, {}, {}), check=False)

        def verify(_: int = 0) -> None:
            weights = dict(model.named_parameters())
            base.check(weights, base.find(weights))

        undo = []
        arms = {
            "save": lambda _: pack.save(path),
            "load": lambda _: DiffPack.load(path),
            "verify": verify,
            "apply": lambda _: undo.append(pack.apply(model, check=False, task_head=False)),
            "revert": lambda _: undo.pop().revert(model),
        }
        repeats = args.repeats or (2 if args.quick else 15)
        # never rotated, because what was applied has to be reverted
        times = in_order(arms, repeats, clock)
        times.update(interleaved({"switch": lambda number: bank.switch(str(number % 2))}, repeats, 2, clock))
        bank.switch(None)
        verify()  # the base is as before
    return [
        f"pack_megabytes {size / 1e6:.3f} MB",
        f"bytes_per_value {size / pack.count:.3f} B",
        f"bits_per_position {summary.bits_per_position:.3f} bit",
        f"bits_per_position_floor {summary.floor:.3f} bit",
        f"int32_float32_megabytes {uncoded_size / 1e6:.3f} MB",
        f"shira_megabytes {shira_size / 1e6:.3f} MB",
        *[f"{name}_ms {1000 * statistics.median(seconds):.2f} ms" for name, seconds in times.items()],
    ]


def shira_bytes_a_value(folder: Path) -> float:
    """Return the bytes a value of PEFT's saved SHiRA: 3 (m + n) random positions a Linear of m x n."""
    model = BertModel(BertConfig(num_hidden_layers=2, vocab_size=100))
    adapted = get_peft_model(
        model, ShiraConfig(r=3, target_modules=["query", "key", "value", "dense"], random_seed=1)
    )
    values = sum(weight.numel() for name, weight in adapted.named_parameters() if weight.requires_grad)
    adapted.save_pretrained(folder / "shira")
    return (folder / "shira" / "adapter_model.safetensors").stat().st_size / values


def mixing_figures(args, clock: Clock) -> list[str]:
    model = load(args.model, classes=2).to(args.device)
    base = Base.of(model, ["classifier"])
    bank = DiffBank(model)
    task_head = {
        name: weight.detach() for name, weight in model.named_parameters() if name.startswith("classifier")
    }
    for task in range(TASKS):
        bank.add(str(task), random_pack(base, task, task_head))
    figures = []
    for rows, length in QUICK_SHAPES if args.quick else SHAPES:
        batch = batch_of(model, TASKS * rows, length, padded=False)
        tasks = [str(row // rows) for row in range(TASKS * rows)]
        parts = [{k: v[task * rows : (task + 1) * rows] for k, v in batch.items()} for task in range(TASKS)]

        @torch.no_grad()
        def singles(switch: bool) -> Tensor:
            logits = []
            for task, part in enumerate(parts):
                if switch:
                    bank.switch(str(task))
                logits.append(model(**part).logits)
            return torch.cat(logits)

        difference = float((bank.run(tasks, **batch).logits - singles(True)).abs().max())
        if difference > 1e-3:
            raise SystemExit(f"the mixed batch gives other answers: largest difference {difference:g}")

        def mixed(_: int) -> None:
            bank.run(tasks, **batch)

        def one_after_the_other(_: int) -> None:
            singles(True)

        # as if each task had a model of its own in memory: nothing to switch
        def eight_models(_: int) -> None:
            singles(False)

        @torch.no_grad()
        def base_alone(_: int) -> None:
            model(**batch)

        bank.switch(None)
        arms = {"mixed": mixed, "base": base_alone}
        arms |= {"single": one_after_the_other, "eight_models": eight_models}
        times = in_order(arms, args.repeats or (2 if args.quick else 15), clock, lambda: bank.switch(None))
        medians = {name: 1000 * statistics.median(seconds) for name, seconds in times.items()}
        print(
            f"{TASKS} tasks x {rows} rows x {length} tokens: mixed {medians['mixed']:.1f} ms, the base alone "
            f"{medians['base']:.1f} ms, one task after the other {medians['single']:.1f} ms, without "
            f"switches {medians['eight_models']:.1f} ms; largest difference {difference:.1e}\n"
            "  of a mixed batch: "
            f"{', '.join(f'{part} {share:.1%}' for part, share in parts_of(mixed, clock).items())}",
            flush=True,
        )
        suffix = "" if (rows, length) == SHAPES[0] else f"_{rows}x{length}"
        figures.append(f"mixed8_over_base{suffix} {ratio(times['mixed'], times['base']):.3f} ratio")
        figures.append(f"mixed8_ratio{suffix} {ratio(times['mixed'], times['single']):.3f} ratio")
        figures.append(
            f"mixed8_ratio_without_switches{suffix} {ratio(times['mixed'], times['eight_models']):.3f} ratio"
        )
    return figures


def parts_of(mixed: Callable[[int], None], clock: Clock, repeats: int = 3) -> dict[str, float]:
    """Return the parts' shares of a mixed batch's time; the rest is the time of the base alone."""
    spent: dict[str, float] = {part: 0.0 for part in PARTS.values()}

    def timed(function: Callable, part: str) -> Callable:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            begin = clock()
            try:
                return function(*args, **kwargs)
            finally:
                spent[part] += clock() - begin

        return wrapper

    with contextlib.ExitStack() as stack:
        for (owner, name), part in PARTS.items():
            stack.enter_context(mock.patch.object(owner, name, timed(getattr(owner, name), part)))
        begin = clock()
        for number in range(repeats):
            mixed(number)
        whole = clock() - begin
    shares = {part: seconds / whole for part, seconds in spent.items()}
    return {**shares, "everything else": 1 - sum(shares.values())}


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--model", metavar="FOLDER", help="mix tasks on this model instead")
    args = parser.parse_args()
    start(args)
    clock = Clock(args.device, args.clock)
    figures = pack_figures(args, clock) + mixing_figures(args, clock)
    print(
        "target: pack_megabytes at most 2.2; mixed8_over_base at most "
        + ", ".join(f"{most}" for most in TARGETS)
    )
    print("\n".join(figures))


if __name__ == "__main__":
    main()
