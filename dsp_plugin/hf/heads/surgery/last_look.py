"""A last look before an answer: a masked and a pruned model beside each other on a small random batch.

Block by block, what each output projection puts out is compared, and at the end the outputs. Each is taken
relative to its own size, because attention of small weights hardly counts in the outputs. Heads are masked by
zeros on the input columns of the output projections, here and now: nothing of the gates has a part in it.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...probes.model_runs import same_noise, with_cache
from ...probes.random_inputs import random_inputs
from ..layouts.locate import transformers_models
from ..layouts.projections import Attention
from .journal import left_as_it_was

# largest difference, relative to the largest value; norms are in single precision in many models of double
# precision, too
TOLERANCE = {torch.float64: 1e-5, torch.float32: 1e-4}
HALF_TOLERANCE = 5e-2
_OTHERWISE = "give check=inputs (a mapping of the model's keyword arguments), or check=False for no look"


class LastLook:
    """Two runs of a model on the same inputs, the second after a change that should change nothing.

    Args:
        root: the model, or a user's own module around Transformers models: each of these is then run by
            itself.
        attentions: of `root`; the output projections stay the same modules between the two runs.
        changed: names of the blocks that are to be seen: those that lose heads.
        inputs: keyword arguments of `root`; None for random ones.
    """

    def __init__(
        self,
        root: nn.Module,
        attentions: Sequence[Attention],
        changed: Sequence[str],
        inputs: Mapping[str, Any] | None = None,
    ):
        self.root = root
        self.inputs = inputs
        self._changed = set(changed)
        self._blocks: dict[int, str] = {
            id(attention.output.module): attention.block.name for attention in attentions
        }
        self._projections = [attention.output.module for attention in attentions]
        self._runs: list[_Run] = []
        # of what cross-attention may look at
        inward = [p for a in attentions if a.block.kind == "decoder-cross" for p in a.projections if p.out]
        self._widths = sorted({sum(p.module.weight.shape) - p.features for p in inward})

    def first(self, columns: Mapping[str, Tensor]) -> None:
        """Run the masked model.

        Args:
            columns: {block: bool [F]}, False for the input columns of its output projection that are to be
                zero.

        Raises:
            ValueError: no inputs can be made, the model does not run with them, or they do not reach a block.
        """
        if self.inputs is not None:
            self._runs.append(self._first(self.root, columns, dict(self.inputs)))
        else:
            for model in transformers_models(self.root):
                self._runs.append(self._first_random(model, columns))
            for model, inputs in self._further():
                try:
                    self._runs.append(self._first(model, columns, inputs))
                except ValueError:
                    continue
        if self._unseen():
            raise ValueError(
                f"the last look does not reach {', '.join(self._unseen()[:3])} of {self._name}: {_OTHERWISE}"
            )

    def second(self) -> None:
        """Run the pruned model, and compare.

        Raises:
            ValueError: it does not run, or gives something else; names the first block that does.
        """
        for expected in self._runs:
            found = _Run(expected.model, expected.inputs)
            try:
                self._run(found, {}, expected.cached)
            except Exception as error:
                failed = expected.order[len(found.order)] if len(found.order) < len(expected.order) else None
                where = "" if failed is None else f" at {self._blocks[failed]}"
                raise ValueError(
                    f"{self._name} does not run without the heads that are to go, and fails{where} "
                    f"({type(error).__name__}: {_line(error)}): its heads cannot be removed"
                ) from error
            self._compare(expected, found)

    def _random(self, model: PreTrainedModel) -> dict[str, Any]:
        try:
            with left_as_it_was(self.root), same_noise(self.root):
                return random_inputs(model, size=2, length=8, seed=0)
        except ValueError as error:
            raise ValueError(
                f"the last look has nothing to run {type(model).__name__} with ({error}): {_OTHERWISE}"
            ) from error

    def _further(self) -> Iterator[tuple[nn.Module, dict[str, Any]]]:
        """More models and inputs, as long as there are blocks that have not been reached."""
        for run in list(self._runs):
            # a decoder by itself
            if "encoder_hidden_states" in inspect.signature(run.model.forward).parameters:
                batch = next(value.shape[0] for value in run.inputs.values() if isinstance(value, Tensor))
                for width in self._widths:
                    if self._unseen():
                        states = torch.randn(batch, 6, width, generator=torch.Generator().manual_seed(0))
                        weight = next(run.model.parameters())
                        yield (
                            run.model,
                            {**run.inputs, "encoder_hidden_states": states.to(weight.device, weight.dtype)},
                        )
        # parts that the whole leaves out (images without text, text without images) may run by themselves
        for part in self.root.modules():
            if (
                isinstance(part, PreTrainedModel)
                and all(part is not run.model for run in self._runs)
                and self._holds_unseen(part)
            ):
                try:
                    yield part, self._random(part)
                except ValueError:
                    continue

    def _first_random(self, model: PreTrainedModel, columns: Mapping[str, Tensor]) -> _Run:
        inputs = self._random(model)
        run = self._first(model, columns, inputs)
        nothing = any(value.isnan().any() for values in run.blocks.values() for value in values)
        if nothing and isinstance(inputs.get("attention_mask"), Tensor):
            # a softmax in single precision makes rows of padding NaN in a model of double precision
            return self._first(
                model, columns, {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}
            )
        return run

    def _first(self, model: nn.Module, columns: Mapping[str, Tensor], inputs: dict[str, Any]) -> _Run:
        run = _Run(model, inputs)
        try:
            self._run(run, columns)
        except Exception as error:
            raise ValueError(
                f"the last look cannot run {type(model).__name__} ({_line(error)}): {_OTHERWISE}"
            ) from error
        return run

    def _run(self, run: _Run, columns: Mapping[str, Tensor], cached: bool | None = None) -> None:
        """Run and record.

        Args:
            cached: whether to go on with a cache after; None for where the model can.
        """

        def mask(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
            keep = columns.get(self._blocks[id(module)])
            if keep is None:
                return args, kwargs
            context = args[0] if args else kwargs["input"]
            # not a product: nothing of a head that is gone remains, not even infinities
            context = torch.where(keep.to(context.device), context, context.new_zeros(()))
            return ((context, *args[1:]), kwargs) if args else (args, {**kwargs, "input": context})

        def record(module: nn.Module, args: Any, output: Tensor) -> None:
            run.order.append(id(module))
            run.blocks[id(module)].append(_values(output if module.bias is None else output - module.bias))
            run.largest[id(module)] = max(run.largest[id(module)], _size(_values(output)))

        with left_as_it_was(self.root), torch.no_grad():
            for projection in {id(projection): projection for projection in self._projections}.values():
                projection.register_forward_pre_hook(mask, with_kwargs=True)
                projection.register_forward_hook(record)
            with same_noise(self.root):
                run.outputs += _tensors(run.model(**run.inputs))
            if cached is False:
                return
            calls = len(run.order)
            try:
                with same_noise(self.root):
                    steps = list(with_cache(run.model, run.inputs))
            except Exception:
                if cached:
                    raise
                steps = []
            run.cached = bool(steps)
            if not steps:
                run.forget(calls)
            run.outputs += [
                (f"{name} with a cache", value) for step in steps for name, value in _tensors(step)
            ]

    def _compare(self, expected: _Run, found: _Run) -> None:
        tolerance = _tolerance(expected.model)
        epsilon = torch.finfo(_dtype(expected.model)).eps
        for key, values in expected.blocks.items():
            name, others = self._blocks[key], found.blocks.get(key, [])
            if len(values) != len(others):
                self._differ(name, "is called another number of times", tolerance)
            for value, other in zip(values, others):
                allowance = tolerance * _size(value) + 8 * epsilon * expected.largest[key]
                self._check(name, value, other, allowance, tolerance)
        for (name, value), (_, other) in zip(expected.outputs, found.outputs):
            self._check(f"its output {name}", value, other, tolerance * _size(value), tolerance)

    def _check(self, name: str, value: Tensor, other: Tensor, allowance: float, tolerance: float) -> None:
        if value.shape != other.shape:
            self._differ(name, f"has the shape {list(other.shape)}, not {list(value.shape)}", tolerance)
        same = (value == other) | (value.isnan() & other.isnan())
        difference = torch.where(same, 0.0, (value - other).abs())
        largest = float(difference.nan_to_num(nan=torch.inf).max()) if difference.numel() else 0.0
        if largest > allowance + torch.finfo(torch.float32).tiny:
            self._differ(name, f"differs by {largest:.2g} of values up to {_size(value):.2g}", tolerance)

    def _differ(self, name: str, how: str, tolerance: float) -> None:
        raise ValueError(
            f"{self._name} without the heads that are to go is not what it is with these heads masked: "
            f"{name} {how} (rounding is up to {tolerance:g} of them): its heads cannot be removed"
        )

    def _unseen(self) -> list[str]:
        seen = {self._blocks[key] for run in self._runs for key in run.blocks}
        return [name for name in self._blocks.values() if name in self._changed - seen]

    def _holds_unseen(self, part: nn.Module) -> bool:
        unseen = self._unseen()
        return bool(unseen) and any(self._blocks.get(id(module)) in unseen for module in part.modules())

    @property
    def _name(self) -> str:
        return type(self.root).__name__


class _Run:
    """A model, its inputs, and what was seen: outputs, and of each output projection (by its id) what it
    put out.
    """

    def __init__(self, model: nn.Module, inputs: dict[str, Any]):
        self.model = model
        self.inputs = inputs
        self.outputs: list[tuple[str, Tensor]] = []
        # without the bias, which would hide small heads
        self.blocks: dict[int, list[Tensor]] = defaultdict(list)
        self.largest: dict[int, float] = defaultdict(float)
        self.order: list[int] = []
        self.cached = False

    def forget(self, calls: int) -> None:
        """Keep only the first calls of output projections: a pass that came to nothing is not seen,
        either.
        """
        for key in self.order[calls:]:
            self.blocks[key].pop()
        self.blocks = defaultdict(list, {key: values for key, values in self.blocks.items() if values})
        del self.order[calls:]


def _tensors(output: Any, name: str = "") -> list[tuple[str, Tensor]]:
    """The floating-point tensors of an output; not attention maps and caches, which have a dimension of
    heads.
    """
    if isinstance(output, Tensor):
        return [(name or "0", _values(output))] if output.is_floating_point() else []
    if isinstance(output, Mapping):
        items = [(str(key), value) for key, value in output.items() if "attention" not in str(key)]
    elif isinstance(output, (tuple, list)):
        items = [(f"{name}.{index}" if name else str(index), value) for index, value in enumerate(output)]
    else:
        return []
    return [found for key, value in items if "past_key_values" not in key for found in _tensors(value, key)]


def _values(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float64, copy=True)


def _size(tensor: Tensor) -> float:
    """The largest finite value."""
    finite = tensor[tensor.isfinite()]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _dtype(model: nn.Module) -> torch.dtype:
    """The coarsest there is."""
    types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    return max(types, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def _tolerance(model: nn.Module) -> float:
    return TOLERANCE.get(_dtype(model), HALF_TOLERANCE)


def _line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
