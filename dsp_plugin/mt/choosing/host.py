"""A fairseq checkpoint as the search of `choosing` takes it: timed translations, counts, smaller models."""

import hashlib
from functools import partial
from typing import Any, Optional

import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor, nn

from ...choosing.host import Factors, Host, macs_of
from ...options.errors import OptionError
from ...records.environment import device_name, versions
from ..surgery.fewer_heads import model_without
from .choosable import Choosable

DEFAULT_SHAPE = (16, 24, 5)
_FIRST_WORD = 4


def host_of(
    units: Choosable, task: Any, shape: tuple[int, int, int], device: str = "cpu", clock: str = "wall"
) -> Host:
    """Make the host of a checkpoint, for translations of random sentences by fairseq's beam search.

    All models take the same number of steps, so that none is faster by stopping earlier.

    Args:
        units: the checkpoint.
        task: with its dictionaries.
        shape: sentences, tokens of a sentence and of its translation, beam.
        device, clock: see `Host`.

    Raises:
        OptionError: of `shape`: the model does not take so many tokens.
    """
    whole = fast_model(units, None, None, task, shape[2], device)
    sample = sample_of(whole, task, shape, device)
    run = partial(_translate, task, shape, sample)

    def macs(model: nn.Module) -> float:
        return macs_of(partial(run, model))

    counts = {"macs": macs, "parameters": count_parameters, "bytes": count_bytes}

    def without(keep: Tensor, factors: Optional[Factors]) -> nn.Module:
        return fast_model(units, keep, factors, task, shape[2], device)

    return Host(whole, units.head_map, without, run, counts, device, clock)


def fast_model(
    units: Choosable, keep: Optional[Tensor], factors: Optional[Factors], task: Any, beam: int, device: str
) -> nn.Module:
    """Return the model without the units that are not kept (None: with all), prepared for generation."""
    if keep is None:
        keep = torch.ones(units.head_map.num_heads, dtype=torch.bool)
    source = units.scaled(keep, factors)
    model = model_without(source, units.whole_mask(keep), task).float().to(device)
    model.make_generation_fast_(beamable_mm_beam_size=None if beam == 1 else beam, need_attn=False)
    return model.requires_grad_(False)


def sample_of(model: nn.Module, task: Any, shape: tuple[int, int, int], device: str) -> dict[str, Any]:
    """Make a batch of random sentences of one length. Errors: see `host_of`."""
    sentences, length, beam = shape
    longest = min(model.max_positions())
    if length > longest:
        text = f"{sentences}x{length}x{beam}"
        raise OptionError("shape", f"{text}: the model has positions for {longest} tokens at most")
    words = task.source_dictionary
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(_FIRST_WORD, len(words), (sentences, length), generator=generator)
    tokens[:, -1] = words.eos()
    lengths = torch.full((sentences,), length)
    return {"net_input": {"src_tokens": tokens.to(device), "src_lengths": lengths.to(device)}}


def count_parameters(model: nn.Module) -> int:
    """Count a model's weights, shared ones once; the scores of heads do not count."""
    named = model.named_parameters()
    return sum(weight.numel() for name, weight in named if not name.startswith("gating."))


def count_bytes(model: nn.Module) -> int:
    """Count the bytes of the same weights."""
    named = model.named_parameters()
    return sum(p.numel() * p.element_size() for name, p in named if not name.startswith("gating."))


def cost_settings(host: Host, cost: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return all that a table of costs depends on, as `CostFile` takes it."""
    sizes = [f"{name} {list(weight.shape)}" for name, weight in host.whole.named_parameters()]
    return {
        "cost": cost,
        "clock": host.clock,
        "machine": device_name(host.device),
        "threads": torch.get_num_threads(),
        "torch": versions()["torch"],
        "fairseq": versions()["fairseq"],
        "shape": list(shape),
        "model": type(host.whole).__name__,
        "weights": hashlib.sha256("\n".join(sizes).encode()).hexdigest()[:16],
        "units": host.head_map.to_dict()["blocks"],
    }


@torch.no_grad()
def _translate(task: Any, shape: tuple[int, int, int], sample: dict[str, Any], model: nn.Module) -> None:
    steps = shape[1] - 1
    # the end of sentence is forbidden before the last step, and forced there
    words = task.target_dictionary
    search = SequenceGenerator([model], words, beam_size=shape[2], min_len=steps, max_len_b=steps)
    search.generate([model], sample)
