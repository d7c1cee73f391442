"""A run of a model, recorded at the output projections of its attention blocks and at its end."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ...probes.model_runs import same_noise, with_cache
from .journal import left_as_it_was


class RecordedRun:
    """A model, its inputs, and what was recorded; projections are named by their ids.

    Attributes:
        outputs: (name, tensor) for every floating-point output of the model.
        blocks: what each output projection put out, call by call, without its bias, which would hide small
            heads.
        largest: largest magnitude of each projection's output, its bias included.
        order: the projections in the order of their calls.
        cached: the model also ran on behind a cache.
    """

    def __init__(self, model: nn.Module, inputs: dict[str, Any]):
        self.model = model
        self.inputs = inputs
        self.outputs: list[tuple[str, Tensor]] = []
        self.blocks: dict[int, list[Tensor]] = defaultdict(list)
        self.largest: dict[int, float] = defaultdict(float)
        self.order: list[int] = []
        self.cached = False

    def record(
        self,
        root: nn.Module,
        projections: Iterable[nn.Module],
        columns: Mapping[int, Tensor],
        cached: bool | None = None,
    ) -> None:
        """Run the model and record; everything in `root` is put back afterwards.

        Args:
            projections: the output projections, modules of `root`.
            columns: {projection: bool [F]}, False for the input columns that are set to zero.
            cached: whether to run on with a cache; None for where the model can.
        """

        def mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            keep = columns.get(id(module))
            if keep is None:
                return args, kwargs
            context = args[0] if args else kwargs["input"]
            # not a product: nothing of a removed head remains, not even infinities
            context = torch.where(keep.to(context.device), context, context.new_zeros(()))
            return ((context, *args[1:]), kwargs) if args else (args, {**kwargs, "input": context})

        def note(module: nn.Module, args: Any, output: Tensor) -> None:
            self.order.append(id(module))
            self.blocks[id(module)].append(_values(output if module.bias is None else output - module.bias))
            self.largest[id(module)] = max(self.largest[id(module)], largest_finite(_values(output)))

        with left_as_it_was(root), torch.no_grad():
            for projection in {id(projection): projection for projection in projections}.values():
                projection.register_forward_pre_hook(mask, with_kwargs=True)
                projection.register_forward_hook(note)
            with same_noise(root):
                self.outputs += _floating_tensors(self.model(**self.inputs))
            if cached is False:
                return
            calls = len(self.order)
            try:
                with same_noise(root):
                    steps = list(with_cache(self.model, self.inputs))
            except Exception:
                if cached:
                    raise
                steps = []
            self.cached = bool(steps)
            if not steps:
                self._forget(calls)
            found = (pair for step in steps for pair in _floating_tensors(step))
            self.outputs += [(f"{name} with a cache", value) for name, value in found]

    def _forget(self, calls: int) -> None:
        """Keep only the first `calls` calls: those of a pass that failed do not count."""
        for key in self.order[calls:]:
            self.blocks[key].pop()
        self.blocks = defaultdict(list, {key: values for key, values in self.blocks.items() if values})
        del self.order[calls:]


def largest_finite(tensor: Tensor) -> float:
    """Return the largest magnitude among the finite values; 0 where there is none."""
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _floating_tensors(output: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """Return the floating-point tensors of an output but attention maps and caches, which differ in heads."""
    if isinstance(output, Tensor):
        return [(name or "0", _values(output))] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        items = [(str(key), value) for key, value in output.items() if "attention" not in str(key)]
    elif isinstance(output, (tuple, list)):
        items = [(f"{name}.{index}" if name else str(index), value) for index, value in enumerate(output)]
    else:
        return []
    return [
        found
        for key, value in items
        if "past_key_values" not in key
        for found in _floating_tensors(value, key)
    ]


def _values(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64, copy=True)
