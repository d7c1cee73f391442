"""Cost of one relaxed top-K sample, forward and backward: ours beside autograd through the K rounds.

    python benchmarks/sampler.py [--quick]

Times are wall time of a sample and its backward, on a GPU with a synchronisation after each, which training
does not need. The last lines read `name value unit`; differences are the largest absolute ones over all
entries.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor

from dsp_plugin.gating import gumbel_noise, relaxed_topk
from dsp_plugin.options.numbers import number

CASES = ((72, 4), (72, 36), (72, 68), (144, 140))  # heads, heads kept: transformer_iwslt_de_en and BERT-base


def naive_topk(scores: Tensor, k: int, temperature: float, noise: Tensor) -> Tensor:
    """Return K rounds of softmax over scores [N], each with less of what the earlier ones took."""
    r = scores.double() + noise
    z = torch.zeros_like(r)
    eps = torch.finfo(torch.float64).tiny
    for _ in range(k):
        p = torch.softmax(r / temperature, dim=0)
        z = z + p
        r = r + torch.log(torch.clamp(1.0 - p, min=eps))
    return z


def sample_and_differentiate(
    function, scores: Tensor, k: int, temperature: float, noise: Tensor, grad: Tensor
):
    scores.grad = None
    gates = function(scores, k, temperature, noise)
    gates.backward(grad)
    if scores.is_cuda:
        torch.cuda.synchronize()
    return gates.detach(), scores.grad


def median_ms(repeats: int, *args) -> float:
    for _ in range(3):
        sample_and_differentiate(*args)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        sample_and_differentiate(*args)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repeats")
    parser.add_argument(
        "--temperature", type=number("positive"), default=0.5, help="T; the work hardly depends on it"
    )
    args = parser.parse_args()
    repeats = 5 if args.quick else 100

    figures = []
    for device in ["cpu"] + ["cuda"] * torch.cuda.is_available():
        name = torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"
        print(f"{name}, torch {torch.__version__}, T = {args.temperature:g}, median of {repeats}")
        print("    N     K   ours ms  autograd ms  ratio  values differ  gradients")
        worst_value = worst_gradient = 0.0
        for n, k in CASES:
            generator = torch.Generator().manual_seed(n + k)
            scores = (torch.rand(n, generator=generator) - 0.5).double().to(device).requires_grad_()
            noise = gumbel_noise((n,), device="cpu", generator=generator).to(device)
            grad = torch.randn(n, dtype=torch.float64, generator=generator).to(device)
            rest = (scores, k, args.temperature, noise, grad)
            gates, slope = sample_and_differentiate(relaxed_topk, *rest)
            expected, expected_slope = sample_and_differentiate(naive_topk, *rest)
            value = (gates - expected).abs().max().item()
            gradient = (slope - expected_slope).abs().max().item()
            worst_value, worst_gradient = max(worst_value, value), max(worst_gradient, gradient)
            ours, naive = median_ms(repeats, relaxed_topk, *rest), median_ms(repeats, naive_topk, *rest)
            print(f"{n:5} {k:5} {ours:9.3f} {naive:12.3f} {naive / ours:6.1f} {value:14.1e} {gradient:10.1e}")
            figures.append(f"sampler_{device}_N{n}_K{k} {ours:.3f} ms")
            figures.append(f"sampler_{device}_N{n}_K{k}_speedup {naive / ours:.2f} ratio")
        figures.append(f"sampler_{device}_value_difference {worst_value:.1e} absolute")
        figures.append(f"sampler_{device}_gradient_difference {worst_gradient:.1e} absolute")
    print("\n".join(figures))


if __name__ == "__main__":
    main()
