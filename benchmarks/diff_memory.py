"""Memory of a step of diff pruning, in units of one full-size tensor (all parameters of the model once).

    python benchmarks/diff_memory.py [--quick] [--device cpu|cuda] [--model FOLDER]

Each arm runs in a process of its own, on a pretrained BERT of 22.7 million parameters and one sequence of 8
tokens, so that activations hardly count. `persistent_...` is the memory held between steps, gradients
cleared; `peak_...` the most at any moment of the third step (forward, backward, update, the next theta). On a
GPU torch's allocator counts it; on a CPU it is the growth of the process's resident memory since before the
model was loaded (its greatest extent, VmHWM), exact to some hundredths of a tensor.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ARMS = ("full", "structured_fused", "structured_eager", "unstructured_fused", "fixmask")
STEPS = 3


def status(field: str) -> int:
    """Read a field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return 1024 * int(line.split()[1])
    raise SystemExit(f"the CPU's figures need Linux: there is no {field} in /proc/self/status")


def reset_peak(device: str) -> None:
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def held(device: str) -> tuple[int, int]:
    """Return the bytes held now, and the most since `reset_peak`."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
    return status("VmRSS"), status("VmHWM")


def measure(arm: str, device: str, folder: str | None) -> None:
    """Print the persistent and the peak number of full-size tensors, in a process of its own."""
    import torch
    from diff_step import HEAD, optimizer_of  # noqa: F401  first: Transformers
    from minilm import batch_of, load
    from transformers import BertConfig, BertForSequenceClassification

    torch.set_num_threads(1)

    def steps(model, arm: str, count: int) -> None:
        model.to(device).train()
        optimizer = optimizer_of(arm, model)
        batch = batch_of(model, 1, 8, labels=True)
        batch["labels"] %= model.config.num_labels
        for number in range(count):
            if number == count - 1:
                reset_peak(device)
            model(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        result.update(zip(("now", "peak"), held(device)))

    result: dict = {}
    # a small model first, so that code pages and workspaces are there before counting starts
    small = BertConfig(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64)
    steps(BertForSequenceClassification(small), arm, 2)
    load(folder)  # once before, and freed: loading itself leaves memory behind
    before, _ = held(device)
    model = load(folder)
    unit = sum(parameter.nbytes for parameter in model.parameters())
    steps(model, arm, STEPS)
    print(f"{(result['now'] - before) / unit:.2f} {(result['peak'] - before) / unit:.2f} {unit}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two arms only")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--model", help="folder of another pretrained model")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.arm:
        return measure(args.arm, args.device, args.model)
    figures = []
    for arm in ("full", "structured_fused") if args.quick else ARMS:
        command = [sys.executable, __file__, "--arm", arm, "--device", args.device]
        # freed memory goes back to the system at once, so that resident memory is what is held
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
        command += ["--model", args.model] if args.model else []
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise SystemExit(f"{arm}: {(done.stderr.strip().splitlines() or [done.returncode])[-1]}")
        persistent, peak, unit = done.stdout.split()[-3:]
        print(
            f"{arm:20} persistent {persistent}, peak {peak} tensors of {int(unit) / 2**20:.0f} MiB",
            flush=True,
        )
        name = "" if arm == "structured_fused" else f"_{arm}"
        figures += [f"persistent_tensors{name} {persistent} tensors", f"peak_tensors{name} {peak} tensors"]
    print("target: peak_tensors at most 10")
    print("\n".join(figures))


if __name__ == "__main__":
    main()
