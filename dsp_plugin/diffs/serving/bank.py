"""DiffBank: many tasks on one base, switched in place, or mixed in one batch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...artefacts.base import Base, find_names, tensors_of
from ..in_training import require_detached
from ..packs.pack import DiffPack, change_of, in_dtype
from ..packs.undo import Change, put
from .row_product import LinearDiff
from .row_tasks import RowTasks, units_of
from .rows import join_rows, other_sizes, take_rows, tensors_in


@dataclass(frozen=True)
class BankTask:
    """One task of a bank, by the model's own parameter names.

    Attributes:
        changes: old and new values at the changed positions.
        task_head: full tensors; their first size, the number of labels, may differ from the model's.
        linear: what the changes add to linear layers, by the names of weight and bias. vectors: whole layer
            norms' weights and biases. Both are made when first needed.
    """

    changes: dict[str, Change]
    task_head: dict[str, Tensor]
    linear: dict[tuple[str | None, str | None], LinearDiff] = field(default_factory=dict)
    vectors: dict[str, Tensor] = field(default_factory=dict)


class DiffBank:
    """Serves several tasks from one model in memory, which belongs to the bank: only the bank may change it.

    Every task costs the memory of its positions, 8 bytes + 2 weights each (mixed, 8 bytes + 1 weight more),
    and its task head. One forward at a time.

    Args:
        model: the base, on its device, in its dtype, with a place for task heads of any number of labels.
        rows_first: whether every tensor inside the model is known to have its rows first. Unless it is, a
            batch is never mixed at a size that could be taken for another one, such as as many tokens as rows
            (see `run`, `mixed`).

    Raises:
        ValueError: a `DiffVector` is attached to the model.
    """

    def __init__(self, model: nn.Module, rows_first: bool = False):
        require_detached(model)
        self.model = model
        self.rows_first = rows_first
        self._parameters = tensors_of(model)
        self._tasks: dict[str, BankTask] = {}
        self._current: str | None = None
        self._own_task_head: dict[str, Tensor] = {}
        self._checked: list[Base] = []  # what the model was found to be
        self._units: dict[frozenset[str], dict] = {}  # by the tasks that a batch has

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, in the order in which they came."""
        return list(self._tasks)

    @property
    def task(self) -> str | None:
        """The task whose weights are in the model; None for the base."""
        return self._current

    def add(self, name: str, pack: DiffPack, check: bool = True) -> None:
        """Take in a task. The model goes back to the base first.

        Args:
            check: compare the base's hash, once for all packs of one base. False: a base in another dtype.

        Raises:
            ValueError: the name is taken, the model is not the pack's base, has no place for its task head,
                or cannot hold a sum or the task head in its dtype.
        """
        if name in self._tasks:
            raise ValueError(f"the bank has a task {name!r} already: remove it first")
        self.switch(None)
        called = pack.base.find(self._parameters)
        if check and pack.base not in self._checked:
            pack.base.check(self._parameters, called)
            self._checked.append(pack.base)
        task_head = self._task_head_of(pack)
        changes: dict[str, Change] = {}
        for known, (positions, values) in pack.diff.entries.items():
            changes[called[known]] = change_of(known, self._parameters[called[known]], positions, values)
        self._tasks[name] = BankTask(changes, task_head)

    def remove(self, name: str) -> None:
        """Forget a task; the model goes back to the base if it is the current one.

        Raises:
            ValueError: there is none of this name.
        """
        self._task(name)
        if self._current == name:
            self.switch(None)
        del self._tasks[name]
        self._units.clear()

    def switch(self, name: str | None) -> None:
        """Bring a task's weights and task head into the model, in place; None: the base's, bit for bit.

        Only positions of the task that goes and of the one that comes are written.

        Raises:
            ValueError: there is no such task; a `DiffVector` is attached to the model.
        """
        require_detached(self.model)
        coming = None if name is None else self._task(name)
        if name == self._current:
            return
        with torch.no_grad():
            if self._current is not None:
                for parameter, change in self._tasks[self._current].changes.items():
                    put(self._parameters[parameter], change.positions, change.old)
            for parameter, change in ({} if coming is None else coming.changes).items():
                put(self._parameters[parameter], change.positions, change.new)
            for parameter, own in self._own_task_head.items():
                # another tensor rather than other values: numbers of labels differ
                task_head = {} if coming is None else coming.task_head
                self._parameters[parameter].data = task_head.get(parameter, own)
        self._current = name

    @contextlib.contextmanager
    def mixed(self, tasks: Sequence[str]) -> Iterator[None]:
        """Let row i of a batch be answered for `tasks[i]`; gradients are off.

        Every module that a task changes must have one row an example as the first dimension of its input.
        Logits of task heads with different numbers of labels are filled up with -inf. Rows of one task are
        quicker side by side (`run` sorts them).

        Raises:
            ValueError: an unknown task; a changed module whose input has no row an example, or that was not
                called as a module at all, so that the answers would be wrong (names it; `grouped` serves such
                models); unless `rows_first`, a batch with another size that is the number of rows (`run` gets
                round that).
        """
        self._check_names(tasks)
        present = {name: self._task(name) for name in dict.fromkeys(tasks)}
        before = self._current
        self.switch(None)
        units = self._units.get(frozenset(present))
        if units is None:
            changed = {name for task in present.values() for name in {*task.changes, *task.task_head}}
            units = self._units[frozenset(present)] = units_of(self.model, changed)
        unclear = not self.rows_first and len(present) > 1
        numbers = tuple(map(list(present).index, tasks))
        rows = RowTasks(units, self._parameters, list(present.values()), numbers, unclear)

        def before_forward(_: nn.Module, args: Any, kwargs: Any) -> None:
            if unclear and len(tasks) in other_sizes((args, kwargs), len(tasks)):
                raise ValueError(
                    f"tasks cannot be mixed in one batch of {len(tasks)} rows that has another size of "
                    f"{len(tasks)}: which are the rows cannot be told inside the model; use run or grouped, "
                    "or DiffBank(model, rows_first=True)"
                )

        hook = self.model.register_forward_pre_hook(before_forward, with_kwargs=True)
        try:
            with torch.no_grad(), rows.installed():
                yield
            rows.check_called()
        finally:
            hook.remove()
            self.switch(before)

    def run(self, tasks: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        """Run one forward of the model over a batch whose row i belongs to `tasks[i]`.

        Where another size in the batch is the number of rows, the last row goes through again as often as it
        takes to tell them apart (once, mostly); its further answers are dropped.

        Args:
            args, kwargs: the model's; tensors with one row an example are put in the order of tasks and back.

        Raises:
            ValueError: see `mixed`; another number of tasks than the batch has rows; an output without rows
                where a row was repeated, which it would count in.
        """
        self._check_rows(tasks, (args, kwargs))
        order = torch.tensor(sorted(range(len(tasks)), key=lambda row: tasks[row]), dtype=torch.long)
        back, others = order.argsort(), set()
        if not self.rows_first and len(set(tasks)) > 1:
            others = other_sizes((args, kwargs), len(tasks))
        while len(order) in others:
            order = torch.cat([order, order[-1:]])
        args, kwargs = take_rows((args, kwargs), order, len(tasks))
        with self.mixed([tasks[row] for row in order.tolist()]):
            output = self.model(*args, **kwargs)
        if len(order) > len(tasks):
            for tensor in tensors_in(output):
                if not tensor.dim() or len(tensor) != len(order):
                    shape = list(tensor.shape)
                    raise ValueError(f"an output is {shape} and has no row for each task: use grouped")
        return take_rows(output, back, len(order))

    def grouped(self, tasks: Sequence[str], *args: Any, **kwargs: Any) -> Any:
        """Give the same answers as `run`, by one forward a task: for models that `mixed` refuses.

        Raises:
            ValueError: an unknown task, another number of tasks than the batch has rows, or outputs that
                cannot be put together by rows.
        """
        self._check_rows(tasks, (args, kwargs))
        before, parts, order = self._current, [], []
        try:
            with torch.no_grad():
                for name in dict.fromkeys(tasks):
                    rows = [row for row, task in enumerate(tasks) if task == name]
                    self.switch(name)
                    some_args, some_kwargs = take_rows((args, kwargs), torch.tensor(rows), len(tasks))
                    parts.append((len(rows), self.model(*some_args, **some_kwargs)))
                    order += rows
        finally:
            self.switch(before)
        return take_rows(join_rows(parts), torch.tensor(order).argsort(), len(tasks))

    def _check_names(self, tasks: Sequence[str]) -> None:
        if isinstance(tasks, str) or not isinstance(tasks, Sequence):
            wanted = "a list with the name of a task for every row belongs there"
            raise ValueError(f"tasks: {wanted}, not {tasks!r}")
        if not tasks:
            raise ValueError("tasks: there is none; give the name of a task for every row")
        for row, name in enumerate(tasks):
            if not isinstance(name, str):
                advice = "every row has a task; of the base, run the model after switch(None)"
                raise ValueError(f"tasks[{row}] is {name!r}: {advice}")
            self._task(name)

    def _check_rows(self, tasks: Sequence[str], inputs: Any) -> None:
        """Refuse another number of tasks than rows: the rest would be left in its order, or to the base."""
        self._check_names(tasks)
        rows = [len(tensor) for tensor in tensors_in(inputs) if tensor.dim()]
        if rows and (len(tasks) not in rows or len(tasks) == 1 != rows[0]):
            raise ValueError(f"{len(tasks)} tasks for a batch of {rows[0]} rows: give one for every row")

    def _task(self, name: str) -> BankTask:
        if name not in self._tasks:
            raise ValueError(f"the bank has no task {name!r}; it has {', '.join(self._tasks) or 'none'}")
        return self._tasks[name]

    def _task_head_of(self, pack: DiffPack) -> dict[str, Tensor]:
        """Return the pack's task head by the model's names, on its device and in its dtype."""
        try:
            called = find_names(pack.task_head, self._parameters)
        except ValueError:
            missing = ", ".join(name for name in pack.task_head if name not in self._parameters)
            raise ValueError(f"the model has no place for the pack's task head: it lacks {missing}") from None
        task_head = {}
        for name, tensor in pack.task_head.items():
            own = self._own_task_head.get(called[name], self._parameters[called[name]].data)
            if own.shape[1:] != tensor.shape[1:] or own.dim() != tensor.dim():
                raise ValueError(
                    f"the pack's task head {name} has the shape {list(tensor.shape)}, the model's "
                    f"{list(own.shape)}: only the number of labels may differ"
                )
            task_head[called[name]] = in_dtype(name, tensor, own)
        for name in task_head:
            self._own_task_head.setdefault(name, self._parameters[name].data)
        return task_head
