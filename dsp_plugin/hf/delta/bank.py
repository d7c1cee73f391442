"""DeltaBank: many tasks' files on one base in memory, switched in place."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import Tensor, nn

from ...artefacts.base import Base
from ...delta.artefact import DeltaFile
from ..heads.surgery.journal import all_or_nothing
from .adding import check_free
from .files import check_base, state_of, task_head_of
from .state import Delta, has_delta, put_on, set_delta, take_off


class DeltaBank:
    """Serves several tasks from one model in memory, which belongs to the bank: only the bank may change it.

    A switch exchanges modules and tensors and copies nothing, so that it takes milliseconds whatever the size
    of the base. Every task costs the memory of its file.

    Args:
        model: the base, on its device, with a place for task heads of any number of labels.

    Raises:
        ValueError: the model has deltas, or something else that changes its weights, or is of no known
            family.
    """

    def __init__(self, model: nn.Module):
        if has_delta(model):
            raise ValueError(f"{type(model).__name__} has deltas: give the bank the base")
        check_free(model)
        self.model = model
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._states: dict[str, Delta] = {}
        self._heads: dict[str, dict[str, Tensor]] = {}
        self._own: dict[str, Tensor] = {}  # the model's own task head
        self._checked: list[Base] = []
        self._current: str | None = None

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, in the order in which they came."""
        return list(self._states)

    @property
    def task(self) -> str | None:
        """The task that the model answers; None for the base."""
        return self._current

    def add(
        self,
        name: str,
        file: str | os.PathLike | DeltaFile,
        *,
        template: str | None = None,
        mapping: Mapping[str, str] | None = None,
        check: bool = True,
    ) -> None:
        """Take in a task. The model goes back to the base first.

        Args:
            file, template, mapping: see `load_delta`.
            check: compare the base's hash, once for all files of one base.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the name is taken; or see `load_delta`.
        """
        if name in self._states:
            raise ValueError(f"the bank has a task {name!r} already: remove it first")
        stored = file if isinstance(file, DeltaFile) else DeltaFile.load(file)
        stored.check_template(template, mapping)
        self.switch(None)
        check_base(self.model, stored, check and stored.base not in self._checked)
        parameters = dict(self.model.named_parameters())
        head = {
            known: tensor.to(parameters[known].device, parameters[known].dtype)
            for known, tensor in task_head_of(self.model, stored).items()
        }
        with all_or_nothing(self.model):
            state = state_of(self.model, stored)
        for part in state.parts.values():
            for parameter in part.parameters(self.model):
                parameter.requires_grad_(False)
        if check and stored.base not in self._checked:
            self._checked.append(stored.base)
        for known in head:
            self._own.setdefault(known, parameters[known].data)
        self._states[name], self._heads[name] = state, head

    def remove(self, name: str) -> None:
        """Forget a task; the model goes back to the base if it is the current one.

        Raises:
            ValueError: there is none of this name.
        """
        self._state(name)
        if self._current == name:
            self.switch(None)
        del self._states[name], self._heads[name]

    def switch(self, name: str | None) -> None:
        """Put a task's methods and task head into the model, in place; None: the base, bit for bit.

        Raises:
            ValueError: there is no such task.
        """
        coming = None if name is None else self._state(name)
        if name == self._current:
            return
        if self._current is not None:
            take_off(self.model, self._states[self._current])
            set_delta(self.model, None)
        parameters = dict(self.model.named_parameters()) if self._own else {}
        head = {} if name is None else self._heads[name]
        for known, own in self._own.items():
            parameters[known].data = head.get(known, own)  # another tensor: numbers of labels differ
        if coming is not None:
            set_delta(self.model, coming)
            put_on(self.model, coming)
        self._current = name

    def _state(self, name: str) -> Delta:
        if name not in self._states:
            raise ValueError(f"the bank has no task {name!r}; it has {', '.join(self._states) or 'none'}")
        return self._states[name]
