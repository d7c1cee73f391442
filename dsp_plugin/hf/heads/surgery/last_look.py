"""A last look before an answer: a masked and a pruned model are compared on a small random batch.

Compared are the output of every block's output projection, and at the end the model's outputs. Each
difference is taken relative to the tensor's own size, because attention of small weights hardly counts in the
outputs. Heads are masked by zeros on the input columns of the output projections, here and now: nothing of
the gates has a part in it.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...probes.model_runs import same_noise
from ...probes.random_inputs import random_inputs
from ..layouts.locate import transformers_models
from ..layouts.projections import Units
from .journal import left_as_it_was
from .recorded_run import RecordedRun, largest_finite

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
        attentions: Sequence[Units],
        changed: Sequence[str],
        inputs: Mapping[str, Any] | None = None,
    ):
        self.root = root
        self.inputs = inputs
        self._changed = set(changed)
        units = {one.block.neurons > 0 for one in attentions if one.block.name in self._changed}
        self._what = "heads and neurons" if len(units) > 1 else "neurons" if True in units else "heads"
        self._projections = [attention.output.module for attention in attentions]
        self._blocks = {id(attention.output.module): attention.block.name for attention in attentions}
        self._runs: list[RecordedRun] = []
        # features of the states that cross-attention reads
        inward = [p for a in attentions if a.block.kind == "decoder-cross" for p in a.projections if p.out]
        self._widths = sorted({sum(p.module.weight.shape) - p.features for p in inward})

    def first(self, columns: Mapping[str, Tensor]) -> None:
        """Run the masked model.

        Args:
            columns: {block: bool [F]}, False for the input columns of its output projection that are set to
                zero.

        Raises:
            ValueError: no inputs can be made, the model does not run with them, or they do not reach a block.
        """
        masks = {key: columns[name] for key, name in self._blocks.items() if name in columns}
        if self.inputs is not None:
            self._runs.append(self._first(self.root, masks, dict(self.inputs)))
        else:
            for model in transformers_models(self.root):
                self._runs.append(self._first_random(model, masks))
            for model, inputs in self._further():
                try:
                    self._runs.append(self._first(model, masks, inputs))
                except ValueError:
                    continue
        if self._unseen():
            raise ValueError(
                f"the last look does not reach {', '.join(self._unseen()[:3])} of {self._name}: {_OTHERWISE}"
            )

    def second(self) -> None:
        """Run the pruned model, and compare.

        Raises:
            ValueError: it does not run, or its outputs differ; names the first block whose output does.
        """
        for expected in self._runs:
            found = RecordedRun(expected.model, expected.inputs)
            try:
                found.record(self.root, self._projections, {}, expected.cached)
            except Exception as error:
                failed = expected.order[len(found.order)] if len(found.order) < len(expected.order) else None
                where = "" if failed is None else f" at {self._blocks[failed]}"
                raise ValueError(
                    f"{self._name} does not run without the {self._what} that are to go, and fails{where} "
                    f"({type(error).__name__}: {_first_line(error)}): its {self._what} cannot be removed"
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
        """Yield more models and inputs, as long as there are blocks that have not been reached."""
        for run in list(self._runs):
            if "encoder_hidden_states" not in inspect.signature(run.model.forward).parameters:
                continue
            # a decoder by itself
            batch = next(value.shape[0] for value in run.inputs.values() if isinstance(value, Tensor))
            for width in self._widths:
                if self._unseen():
                    states = torch.randn(batch, 6, width, generator=torch.Generator().manual_seed(0))
                    states = states.to(next(run.model.parameters()))  # its device and dtype
                    yield run.model, {**run.inputs, "encoder_hidden_states": states}
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

    def _first_random(self, model: PreTrainedModel, masks: Mapping[int, Tensor]) -> RecordedRun:
        inputs = self._random(model)
        run = self._first(model, masks, inputs)
        not_a_number = any(value.isnan().any() for values in run.blocks.values() for value in values)
        if not_a_number and isinstance(inputs.get("attention_mask"), Tensor):
            # a softmax in single precision makes rows of padding NaN in a model of double precision
            whole = torch.ones_like(inputs["attention_mask"])
            return self._first(model, masks, {**inputs, "attention_mask": whole})
        return run

    def _first(self, model: nn.Module, masks: Mapping[int, Tensor], inputs: dict[str, Any]) -> RecordedRun:
        run = RecordedRun(model, inputs)
        try:
            run.record(self.root, self._projections, masks)
        except Exception as error:
            raise ValueError(
                f"the last look cannot run {type(model).__name__} ({_first_line(error)}): {_OTHERWISE}"
            ) from error
        return run

    def _compare(self, expected: RecordedRun, found: RecordedRun) -> None:
        dtype = _coarsest_dtype(expected.model)
        tolerance, epsilon = TOLERANCE.get(dtype, HALF_TOLERANCE), torch.finfo(dtype).eps
        for key, values in expected.blocks.items():
            name, others = self._blocks[key], found.blocks.get(key, [])
            if len(values) != len(others):
                self._differ(name, "is called another number of times", tolerance)
            for value, other in zip(values, others):
                allowance = tolerance * largest_finite(value) + 8 * epsilon * expected.largest[key]
                self._check(name, value, other, allowance, tolerance)
        for (name, value), (_, other) in zip(expected.outputs, found.outputs):
            self._check(f"its output {name}", value, other, tolerance * largest_finite(value), tolerance)

    def _check(self, name: str, value: Tensor, other: Tensor, allowance: float, tolerance: float) -> None:
        if value.shape != other.shape:
            self._differ(name, f"has the shape {list(other.shape)}, not {list(value.shape)}", tolerance)
        same = (value == other) | (value.isnan() & other.isnan())
        difference = torch.where(same, 0.0, (value - other).abs())
        largest = float(difference.nan_to_num(nan=torch.inf).max()) if difference.numel() else 0.0
        if largest > allowance + torch.finfo(torch.float32).tiny:
            how = f"differs by {largest:.2g} of values up to {largest_finite(value):.2g}"
            self._differ(name, how, tolerance)

    def _differ(self, name: str, how: str, tolerance: float) -> None:
        raise ValueError(
            f"{self._name} without the {self._what} that are to go is not what it is with these {self._what} "
            f"masked: {name} {how} (rounding is up to {tolerance:g} of them): its {self._what} cannot be "
            "removed"
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


def _coarsest_dtype(model: nn.Module) -> torch.dtype:
    types = {weight.dtype for weight in model.parameters() if weight.is_floating_point()}
    return max(types, key=lambda dtype: torch.finfo(dtype).eps, default=torch.float32)


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
