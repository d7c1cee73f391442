"""One forward over a batch whose rows belong to different tasks.

The model is cut into the smallest modules that are changed as wholes, its units. For the time of the forward
each unit answers the rows of every task with that task's weights:

    whole     the changed positions are written, the task's rows go through, the old values are written back.
              Serves every module whose inputs and outputs have one row an example.
    sparse    a linear layer: all rows go through the base's weights in one product, then x @ δᵀ is added to
              each task's rows (row_product.py). The products of single tasks would be too small to be
              quick. Tasks with many tokens and many changes are quicker as wholes.
    lookup    an embedding: all rows are looked up in the base, then its changed elements are written in.
    vectors   a layer norm: each task's rows with its own two vectors, of which the bank keeps whole copies.

Notation: B rows, T tasks, n tokens of a task's rows, I and O input and output features of a linear layer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..packs.undo import put
from .row_product import LinearDiff, loops_for, put_vectors
from .rows import join_rows, number_of, slice_of, take_rows, tensors_in

# T5's: its input is a table of distances, which has no rows but may look so when the batch is as long as wide
_NO_ROWS = ("relative_attention_bias",)
# Measured on a CPU: with so few tokens a task sparse products are quicker than a dense one of its own, and in
# a compiled loop with any number of tokens while no more than this share of the weights is changed.
SPARSE_BELOW = 96
SPARSE_UP_TO = 0.02


def units_of(model: nn.Module, changed: set[str]) -> dict[str, tuple[nn.Module, list[str]]]:
    """Find the units, by module name: (module, its changed parameters by the model's names).

    A module that holds a changed parameter itself is a unit, with all the modules inside it.

    Raises:
        ValueError: a unit is known to have inputs without rows.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    changed_objects = {id(parameters[name]): name for name in changed}
    units: dict[str, tuple[nn.Module, list[str]]] = {}
    seen: set[int] = set()

    def descend(name: str, module: nn.Module) -> None:
        if id(module) in seen:
            return
        seen.add(id(module))
        if any(id(parameter) in changed_objects for parameter in module.parameters(recurse=False)):
            names = [changed_objects[id(p)] for p in module.parameters() if id(p) in changed_objects]
            units[name or "the model itself"] = (module, names)
            return
        for child_name, child in module.named_children():
            descend(f"{name}.{child_name}" if name else child_name, child)

    descend("", model)
    for name in units:
        if name.split(".")[-1] in _NO_ROWS:
            unit = f"{name} ({_NO_ROWS[0]})"
            raise ValueError(f"tasks cannot be mixed in one batch: {unit} has no rows; use grouped")
    return units


class RowTasks:
    """Knows which row belongs to which task, and installs forwards that follow it.

    Args:
        units: from `units_of`.
        parameters: the model's, by all their names; they hold the base's values.
        tasks: the T tasks of the batch, with `changes` and `task_head` by the model's names.
        numbers: for each of the B rows the number of its task.
        unclear: whether rows may come second inside the model, so that a tensor [B, B, ...] must be refused.
    """

    def __init__(
        self,
        units: Mapping[str, tuple[nn.Module, list[str]]],
        parameters: Mapping[str, Tensor],
        tasks: Sequence[Any],
        numbers: tuple[int, ...],
        unclear: bool = False,
    ):
        self._units, self._parameters, self._tasks, self._numbers = units, parameters, tasks, numbers
        self._unclear = unclear
        rows_of = ([row for row, task in enumerate(numbers) if task == n] for n in range(len(tasks)))
        self._rows = [slice_of(rows) for rows in rows_of]
        order = torch.cat([torch.arange(len(numbers))[rows] for rows in self._rows])
        # [B] where each row is among the rows in the order of tasks; None where they are in it already
        self._back = None if bool((order == torch.arange(len(numbers))).all()) else order.argsort()
        self._called: set[str] = set()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Put our forwards into the units for the time of the block.

        They are no hooks, which cannot keep the base's own forward from running.
        """
        before = {name: vars(module).get("forward") for name, (module, _) in self._units.items()}
        try:
            for name, (module, names) in self._units.items():
                module.forward = self._forward(name, module, names)
            yield
        finally:
            for name, (module, _) in self._units.items():
                vars(module).pop("forward", None)
                if before[name] is not None:
                    module.forward = before[name]

    def check_called(self) -> None:
        """Check that every change had its effect.

        Raises:
            ValueError: neither a unit nor another one with its weights was called.
        """
        reached = {parameter for name in self._called for parameter in self._units[name][1]}
        silent = [name for name, (_, parameters) in self._units.items() if not reached.issuperset(parameters)]
        if silent:
            raise ValueError(
                f"tasks cannot be mixed in one batch: {', '.join(silent[:3])} changed, but was not called "
                "as a module; use grouped"
            )

    def _forward(self, name: str, module: nn.Module, names: list[str]) -> Callable:
        own = module.forward
        kind, stock = self._whole, type(module).forward
        in_task_head = any(name in task.task_head for task in self._tasks for name in names)
        if "forward" in vars(module) or in_task_head:
            pass
        elif stock is nn.Linear.forward or _is_conv1d(module):
            kind = self._linear
        elif stock is nn.Embedding.forward and module.max_norm is None:
            kind = self._embedding
        elif stock is nn.LayerNorm.forward and len(module.normalized_shape) == 1:
            kind = self._layer_norm

        def forward(*args: Any, **kwargs: Any) -> Any:
            self._called.add(name)
            return kind(name, module, names, own, args, kwargs)

        return forward

    def _whole(
        self, name: str, module: nn.Module, names: list[str], own: Callable, args: Any, kwargs: Any
    ) -> Any:
        size = len(self._numbers)
        self._require_rows(name, module, tensors_in((args, kwargs)))
        parts = []
        for task, rows in zip(self._tasks, self._rows):
            with self._swapped(task, names):
                # one dimension: the numbers of positions, which are as many as rows only by chance
                some_args, some_kwargs = take_rows((args, kwargs), rows, size, sizes=2)
                parts.append((number_of(rows), own(*some_args, **some_kwargs)))
        joined = join_rows(parts, spread=True)
        return joined if self._back is None else take_rows(joined, self._back, size)

    def _linear(
        self, name: str, module: nn.Module, names: list[str], own: Callable, args: Any, kwargs: Any
    ) -> Any:
        (x,) = args or tuple(kwargs.values())
        self._require_rows(name, module, [x])
        self._require_clear(name, x)
        weight, bias = (self._name_of(own_parameter, names) for own_parameter in (module.weight, module.bias))
        tokens = x.numel() // max(x.shape[-1], 1)
        if tokens >= SPARSE_BELOW * len(self._tasks):
            changes = [task.changes[weight] for task in self._tasks if weight in task.changes]
            most = max((len(change.positions) for change in changes), default=0)
            if most > SPARSE_UP_TO * module.weight.numel() or not loops_for(x):
                return self._whole(name, module, names, own, args, kwargs)
        y = own(x)
        for task, rows in zip(self._tasks, self._rows):
            if weight not in task.changes and bias not in task.changes:
                continue
            if (weight, bias) not in task.linear:
                changes, shape = (task.changes.get(weight), task.changes.get(bias)), module.weight.shape
                task.linear[weight, bias] = LinearDiff(*changes, tuple(shape), _is_conv1d(module))
            task.linear[weight, bias].add_to(y, rows, x)
        return y

    def _embedding(
        self, name: str, module: nn.Module, names: list[str], own: Callable, args: Any, kwargs: Any
    ) -> Any:
        (ids,) = args or tuple(kwargs.values())
        size = len(self._numbers)
        if ids.dim() and ids.shape[0] == 1 and size > 1:  # positions, the same for all rows
            ids = ids.expand(size, *ids.shape[1:])  # [1, L] -> [B, L]
        self._require_rows(name, module, [ids])
        y = own(ids)
        for task, rows in zip(self._tasks, self._rows):
            if names[0] in task.changes:
                put_vectors(y, rows, ids, task.changes[names[0]])
        return y

    def _layer_norm(
        self, name: str, module: nn.LayerNorm, names: list[str], own: Callable, args: Any, kwargs: Any
    ) -> Any:
        (x,) = args or tuple(kwargs.values())
        self._require_rows(name, module, [x])
        self._require_clear(name, x)
        parts = []
        for task, rows in zip(self._tasks, self._rows):
            weight, bias = (self._vector(task, vector, names) for vector in (module.weight, module.bias))
            parts.append(F.layer_norm(x[rows], module.normalized_shape, weight, bias, module.eps))
        joined = torch.cat(parts)  # [b of each task, ..., features] -> [B, ..., features]
        return joined if self._back is None else joined[self._back.to(x.device)]

    def _vector(self, task: Any, parameter: Tensor | None, names: list[str]) -> Tensor | None:
        """Return a parameter, a vector, with the task's values."""
        name = self._name_of(parameter, names)
        if parameter is None or name not in task.changes:
            return parameter
        if name not in task.vectors:
            task.vectors[name] = parameter.detach().clone()
            put(task.vectors[name], task.changes[name].positions, task.changes[name].new)
        return task.vectors[name]

    def _name_of(self, parameter: Tensor | None, names: list[str]) -> str | None:
        """Return what a module's own parameter is called in the changes; None where no task changes it."""
        return next((name for name in names if self._parameters[name] is parameter), None)

    @contextlib.contextmanager
    def _swapped(self, task: Any, names: list[str]) -> Iterator[None]:
        """Keep the task's values of these parameters in the model for the time of the block."""
        own_task_head = {name: self._parameters[name].data for name in names if name in task.task_head}
        changes = [(self._parameters[name], task.changes[name]) for name in names if name in task.changes]
        try:
            for weight, change in changes:
                put(weight, change.positions, change.new)
            for name in own_task_head:
                self._parameters[name].data = task.task_head[name]
            yield
        finally:
            for weight, change in changes:
                put(weight, change.positions, change.old)
            for name, own in own_task_head.items():
                self._parameters[name].data = own

    def _require_rows(self, name: str, module: nn.Module, tensors: list[Tensor]) -> None:
        if not any(tensor.dim() > 1 and tensor.shape[0] == len(self._numbers) for tensor in tensors):
            shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors) or "no tensor"
            raise ValueError(
                f"tasks cannot be mixed in one batch of {len(self._numbers)} rows: {name} "
                f"({type(module).__name__}) gets {shapes}; use grouped"
            )

    def _require_clear(self, name: str, x: Tensor) -> None:
        """Refuse an input [B, B, ..., features], in which a length that arises inside the model is B, too."""
        size = len(self._numbers)
        if self._unclear and x.dim() > 2 and x.shape[0] == x.shape[1] == size:
            raise ValueError(
                f"tasks cannot be mixed in one batch of {size} rows: {name} gets {list(x.shape)}, and which "
                "of the two are the rows cannot be told; use grouped, or DiffBank(model, rows_first=True)"
            )


def _is_conv1d(module: nn.Module) -> bool:
    """Tell GPT-2's linear layer, weight [I, O], by its name, because it is a class of Transformers."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")
