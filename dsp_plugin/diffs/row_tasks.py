"""One forward over a batch whose rows belong to different tasks.

The model is cut into the smallest modules that are changed as wholes, its units. For the time of the forward each
unit answers the rows of every task with that task's weights:

    whole     the changed positions are written, the task's rows go through, the old values are written back. Serves
              every module whose inputs and outputs have one row an example: what nobody has planned for, too.
    sparse    a linear layer with few tokens a task: all rows go through the base's weights in one product, then
              x @ δᵀ is added to each task's rows. The products of single tasks would be too small to be quick.
    lookup    an embedding: all rows are looked up in the base, then the changed elements are written into the rows.
    table     a layer norm: normalised once, scaled and shifted by a vector a row.

Notation: B rows, T tasks, n tokens of a task's rows, I and O input and output features of a linear layer.
"""

from __future__ import annotations

import contextlib
import warnings
from typing import Any, Callable, Dict, Iterator, List, Mapping, Sequence, Set, Tuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .rows import join_rows, number_of, slice_of, take_rows, tensors_in
from .undo import Change, put

# T5's: its input is a table of distances, which has no rows but may look so when the batch is as long as wide
_NO_ROWS = ("relative_attention_bias",)
# Below so many tokens a task the sparse product is quicker than a dense one of its own (measured on a CPU at 0.5 %).
SPARSE_BELOW = 96


def units_of(model: nn.Module, changed: Set[str]) -> Dict[str, Tuple[nn.Module, List[str]]]:
    """The units, by module name: (module, its changed parameters by the model's names).

    A module that holds a changed parameter itself is a unit, with all the modules inside it.

    Raises:
        ValueError: a unit is known to have inputs without rows.
    """
    parameters = dict(model.named_parameters(remove_duplicate=False))
    changed_objects = {id(parameters[name]): name for name in changed}
    units: Dict[str, Tuple[nn.Module, List[str]]] = {}
    seen: Set[int] = set()

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
            raise ValueError(f"tasks cannot be mixed in one batch: {name} ({_NO_ROWS[0]}) has no rows; use grouped")
    return units


class RowTasks:
    """Which row belongs to which task, and the forwards that follow it.

    Args:
        units: from `units_of`.
        parameters: the model's, by all their names; they hold the base's values.
        tasks: the T tasks of the batch, with `changes` and `head` by the model's names.
        numbers: for each of the B rows the number of its task.
        unclear: whether rows may come second inside the model, so that a tensor [B, B, ...] must be refused.
    """

    def __init__(
        self,
        units: Mapping[str, Tuple[nn.Module, List[str]]],
        parameters: Mapping[str, Tensor],
        tasks: Sequence[Any],
        numbers: Tuple[int, ...],
        unclear: bool = False,
    ):
        self._units, self._parameters, self._tasks, self._numbers = units, parameters, tasks, numbers
        self._unclear = unclear
        self._rows = [slice_of([row for row, task in enumerate(numbers) if task == number]) for number in range(len(tasks))]
        self._called: Set[str] = set()

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Inside, the units' forwards are ours. (Not hooks: a hook cannot keep the base's own forward from running.)"""
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
        """
        Raises:
            ValueError: a unit was not called, nor another one with the same weights: its changes had no effect.
        """
        reached = {parameter for name in self._called for parameter in self._units[name][1]}
        silent = [name for name, (_, parameters) in self._units.items() if not reached.issuperset(parameters)]
        if silent:
            raise ValueError(
                f"tasks cannot be mixed in one batch: {', '.join(silent[:3])} changed, but was not called as a module; "
                "use grouped"
            )

    def _forward(self, name: str, module: nn.Module, names: List[str]) -> Callable:
        own = module.forward
        kind, stock = self._whole, type(module).forward
        if "forward" in vars(module) or any(parameter in task.head for task in self._tasks for parameter in names):
            pass
        elif stock is nn.Linear.forward or _is_conv1d(module):
            kind = self._linear
        elif stock is nn.Embedding.forward and module.max_norm is None:
            kind = self._embedding
        elif stock is nn.LayerNorm.forward and len(module.normalized_shape) == 1:
            # in half precision the stock kernel scales before it rounds, which only `whole` repeats
            kind = self._layer_norm if module.weight is not None and module.weight.element_size() >= 4 else self._whole

        def forward(*args: Any, **kwargs: Any) -> Any:
            self._called.add(name)
            return kind(name, module, names, own, args, kwargs)

        return forward

    def _whole(self, name: str, module: nn.Module, names: List[str], own: Callable, args: Any, kwargs: Any) -> Any:
        size = len(self._numbers)
        self._require_rows(name, module, tensors_in((args, kwargs)))
        parts = []
        for task, rows in zip(self._tasks, self._rows):
            with self._swapped(task, names):
                # one dimension: the numbers of positions, which are as many as rows only by chance
                some_args, some_kwargs = take_rows((args, kwargs), rows, size, sizes=2)
                parts.append((number_of(rows), own(*some_args, **some_kwargs)))
        order = torch.cat([torch.arange(size)[rows] for rows in self._rows])
        joined = join_rows(parts, spread=True)
        return joined if bool((order == torch.arange(size)).all()) else take_rows(joined, order.argsort(), size)

    def _linear(self, name: str, module: nn.Module, names: List[str], own: Callable, args: Any, kwargs: Any) -> Any:
        (x,) = args or tuple(kwargs.values())
        self._require_rows(name, module, [x])
        self._require_clear(name, x)
        tokens = x.numel() // max(x.shape[-1], 1)
        if tokens >= SPARSE_BELOW * len(self._tasks):
            return self._whole(name, module, names, own, args, kwargs)
        y = own(x)
        for task, rows in zip(self._tasks, self._rows):
            here, weight, bias = x[rows], module.weight, module.bias
            for parameter in names:
                change = task.changes.get(parameter)
                if change is None:
                    continue
                if self._parameters[parameter] is weight:
                    if parameter not in task.sparse:
                        task.sparse[parameter] = _csr(change, tuple(weight.shape), _is_conv1d(module))
                    _add_product(y, rows, task.sparse[parameter], here)
                elif self._parameters[parameter] is bias:
                    dense = torch.zeros_like(bias)
                    dense[change.positions] = change.new - change.old
                    y[rows] += dense
        return y

    def _embedding(self, name: str, module: nn.Module, names: List[str], own: Callable, args: Any, kwargs: Any) -> Any:
        (ids,) = args or tuple(kwargs.values())
        size, width = len(self._numbers), module.embedding_dim
        if ids.dim() and ids.shape[0] == 1 and size > 1:  # positions, the same for all rows
            ids = ids.expand(size, *ids.shape[1:])
        self._require_rows(name, module, [ids])
        y = own(ids)
        for task, rows in zip(self._tasks, self._rows):
            change = task.changes.get(names[0])
            if change is None:
                continue
            first = ids[rows].reshape(-1) * width  # [n] where each token's vector begins
            begin = torch.searchsorted(change.positions, first)
            counts = torch.searchsorted(change.positions, first + width) - begin
            token = torch.repeat_interleave(counts)  # [changed elements]
            entry = torch.arange(len(token), device=ids.device) + (begin - counts.cumsum(0) + counts)[token]
            vectors = y[rows].reshape(-1, width)
            vectors[token, change.positions[entry] - first[token]] = change.new[entry].to(y.dtype)
            if not isinstance(rows, slice):  # of a slice they are a view, and written already
                y[rows] = vectors.view(y[rows].shape)
        return y

    def _layer_norm(self, name: str, module: nn.LayerNorm, names: List[str], own: Callable, args: Any, kwargs: Any) -> Any:
        (x,) = args or tuple(kwargs.values())
        self._require_rows(name, module, [x])
        self._require_clear(name, x)
        y = F.layer_norm(x, module.normalized_shape, None, None, module.eps)
        row_numbers = torch.tensor(self._numbers, device=x.device)
        shape = (len(self._numbers), *[1] * (x.dim() - 2), x.shape[-1])
        for parameter, combine in ((module.weight, y.mul_), (module.bias, y.add_)):
            if parameter is not None:
                combine(self._table(parameter, names)[row_numbers].view(shape))
        return y

    def _table(self, parameter: Tensor, names: List[str]) -> Tensor:
        """[T, features]: the parameter of each task."""
        table = parameter.detach().expand(len(self._tasks), -1).clone()
        name = next((name for name in names if self._parameters[name] is parameter), None)
        for row, task in zip(table, self._tasks):
            if name in task.changes:
                row[task.changes[name].positions] = task.changes[name].new
        return table

    @contextlib.contextmanager
    def _swapped(self, task: Any, names: List[str]) -> Iterator[None]:
        """The task's values of these parameters are in the model, inside."""
        own_head = {name: self._parameters[name].data for name in names if name in task.head}
        changes = [(self._parameters[name], task.changes[name]) for name in names if name in task.changes]
        try:
            for weight, change in changes:
                put(weight, change.positions, change.new)
            for name in own_head:
                self._parameters[name].data = task.head[name]
            yield
        finally:
            for weight, change in changes:
                put(weight, change.positions, change.old)
            for name, own in own_head.items():
                self._parameters[name].data = own

    def _require_rows(self, name: str, module: nn.Module, tensors: List[Tensor]) -> None:
        if not any(tensor.dim() > 1 and tensor.shape[0] == len(self._numbers) for tensor in tensors):
            shapes = ", ".join(str(list(tensor.shape)) for tensor in tensors) or "no tensor"
            raise ValueError(
                f"tasks cannot be mixed in one batch of {len(self._numbers)} rows: {name} ({type(module).__name__}) gets "
                f"{shapes}; use grouped"
            )

    def _require_clear(self, name: str, x: Tensor) -> None:
        """Of an input whose last size is features: a length that only arises inside the model can be B, too."""
        size = len(self._numbers)
        if self._unclear and x.dim() > 2 and x.shape[0] == x.shape[1] == size:
            raise ValueError(
                f"tasks cannot be mixed in one batch of {size} rows: {name} gets {list(x.shape)}, and which of the two are "
                "the rows cannot be told; use grouped, or DiffBank(model, rows_first=True)"
            )


def _is_conv1d(module: nn.Module) -> bool:
    """GPT-2's linear layer, whose weight is [I, O]; by name, because it is a class of Transformers."""
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def _add_product(y: Tensor, rows: Any, delta: Tensor, x: Tensor) -> None:
    """y[rows] += x δᵀ, δ [O, I] sparse, x [rows, ..., I]."""
    flat = x.reshape(-1, x.shape[-1])  # [n, I]
    if isinstance(rows, slice) and y.is_contiguous() and y.dtype == delta.dtype and y.device.type == "cpu":
        # straight into the rows; seen from the side, as [O, n], they are what the sparse product adds to
        y[rows].view(-1, y.shape[-1]).T.addmm_(delta, flat.T)
    else:
        y[rows] += (delta @ flat.to(delta.dtype).T).T.to(y.dtype).view(*x.shape[:-1], -1)


def _csr(change: Change, shape: Tuple[int, ...], transposed: bool) -> Tensor:
    """What a task adds to a weight, [O, I] sparse, in float32 or float64."""
    values = change.new.to(torch.promote_types(change.new.dtype, torch.float32))
    values = values - change.old.to(values.dtype)
    row, column = change.positions // shape[1], change.positions % shape[1]
    if transposed:
        order = (column * shape[0] + row).argsort()
        row, column, values, shape = column[order], row[order], values[order], (shape[1], shape[0])
    begin = torch.searchsorted(row, torch.arange(shape[0] + 1, device=row.device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse tensors are a beta feature
        return torch.sparse_csr_tensor(begin.int(), column.int(), values, shape, check_invariants=False)
