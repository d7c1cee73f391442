"""Sparse products and changed vectors, which a task adds to the base's outputs: a compiled loop, or torch.

torch's own sparse product costs some 0.1 ms a call whatever it has to do, more than eight tasks' dense
product of a small layer. The loop (row_products.cpp) takes about 12 times as long as a dense product for each
element that is there: 6 % of the layer's time at a density of 0.5 %.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..compiled import load
from ..packs.undo import Change

SOURCE = Path(__file__).with_name("row_products.cpp")
DTYPES = {torch.float32: "float32", torch.float64: "float64"}


class _Linear(ctypes.Structure):
    """`struct Linear` of row_products.cpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in "output input value bias_at bias".split()),
        *((name, ctypes.c_int64) for name in "entries biases outputs inputs".split()),
    ]


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled loops; None, with a warning, where they cannot be had (see `compiled.load`)."""
    return load(SOURCE, "tasks are mixed by torch's own sparse products, slower")


@functools.cache
def _compiled(name: str, dtype: torch.dtype) -> Callable | None:
    if dtype not in DTYPES or library() is None:
        return None
    function = getattr(library(), f"{name}_{DTYPES[dtype]}")
    function.restype = None
    pointers, numbers = {"add_linear": (3, 1), "put_vectors": (4, 3)}[name]
    function.argtypes = [*[ctypes.c_void_p] * pointers, *[ctypes.c_int64] * numbers]
    return function


def loops_for(y: Tensor) -> bool:
    """Return whether the compiled loops serve outputs of this dtype on this device."""
    return y.device.type == "cpu" and _compiled("add_linear", y.dtype) is not None


class LinearDiff:
    """The changes of a linear layer's weight and bias by one task, as something to add to the base's output.

    Args:
        weight: changes of the weight. bias: those of the bias. One of them may be None.
        shape: of the weight. transposed: whether that is [I, O] (GPT-2's Conv1D), not [O, I].
    """

    def __init__(self, weight: Change | None, bias: Change | None, shape: tuple[int, ...], transposed: bool):
        self.outputs, self.inputs = reversed(shape) if transposed else shape
        some = weight if weight is not None else bias
        dtype, none = torch.promote_types(some.new.dtype, torch.float32), some.positions[:0]
        where, values = none, none.to(dtype)
        if weight is not None:
            where, values = weight.positions, _difference(weight, dtype)
        output, column = where // shape[1], where % shape[1]
        if transposed:
            output, column = column, output
        else:
            # by rising input: neighbouring entries add to different outputs, and need not wait for each other
            order = column.argsort(stable=True)
            output, column, values = output[order], column[order], values[order]
        self._output, self._input, self._values = output.int(), column.int(), values
        self._bias_at = none.int() if bias is None else bias.positions.int()
        self._bias = none.to(dtype) if bias is None else _difference(bias, dtype)
        self._csr: Tensor | None = None
        tables = (self._output, self._input, self._values, self._bias_at, self._bias)
        addresses = [table.data_ptr() for table in tables]
        self._job = _Linear(*addresses, len(self._values), len(self._bias), self.outputs, self.inputs)
        self._address = ctypes.addressof(self._job)

    def add_to(self, y: Tensor, rows: Any, x: Tensor) -> None:
        """Add x[rows] δᵀ and the bias's change to y[rows], in place; y [B, ..., O], x [B, ..., I]."""
        direct = y.dtype == x.dtype == self._values.dtype and y.is_contiguous() and x.is_contiguous()
        if not (direct and isinstance(rows, slice) and loops_for(y)):
            tokens = x[rows].reshape(-1, self.inputs)  # [b, ..., I] -> [n, I]
            self._add_by_torch(y, rows, tokens.to(self._values.dtype), direct)
            return
        tokens, size = y[0].numel() // self.outputs, y.element_size()
        first = rows.start * tokens * size
        there, here = y.data_ptr() + first * self.outputs, x.data_ptr() + first * self.inputs
        _compiled("add_linear", y.dtype)(there, here, self._address, (rows.stop - rows.start) * tokens)

    def _add_by_torch(self, y: Tensor, rows: Any, x: Tensor, direct: bool) -> None:
        """Do the same by torch; x [n, I] of these rows alone, in float32 or float64."""
        if self._csr is None:
            self._csr = self._make_csr()
        if direct and isinstance(rows, slice) and y.device.type == "cpu":
            # straight into the rows; seen from the side, as [O, n], they are what the sparse product adds to
            added = y[rows].view(-1, self.outputs)  # [b, ..., O] -> [n, O]
            added.T.addmm_(self._csr, x.T)
            added[:, self._bias_at.long()] += self._bias
            return
        added = (self._csr @ x.T).T  # [O, I] @ [I, n] -> [O, n] -> [n, O]
        added[:, self._bias_at.long()] += self._bias
        y[rows] += added.to(y.dtype).view(y[rows].shape)  # [n, O] -> [b, ..., O]

    def _make_csr(self) -> Tensor:
        order = self._output.argsort(stable=True)
        outputs, columns, values = self._output[order], self._input[order], self._values[order]
        begin = torch.searchsorted(outputs, torch.arange(self.outputs + 1, device=order.device)).int()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that sparse tensors are a beta feature
            shape = (self.outputs, self.inputs)
            return torch.sparse_csr_tensor(begin, columns, values, shape, check_invariants=False)


def put_vectors(y: Tensor, rows: Any, ids: Tensor, change: Change) -> None:
    """Write an embedding's changed elements into the vectors y [B, ..., width] looked up for ids [B, ...]."""
    width, ids = y.shape[-1], ids[rows].contiguous()
    direct = y.is_contiguous() and ids.dtype == torch.int64 and y.dtype == change.new.dtype
    if direct and isinstance(rows, slice) and loops_for(y):
        there = y.data_ptr() + rows.start * y[0].numel() * y.element_size()
        addresses = (ids.data_ptr(), change.positions.data_ptr(), change.new.data_ptr())
        _compiled("put_vectors", y.dtype)(there, *addresses, len(change.new), ids.numel(), width)
        return
    first = ids.reshape(-1) * width  # [n] where each token's vector begins
    begin = torch.searchsorted(change.positions, first)
    counts = torch.searchsorted(change.positions, first + width) - begin
    token = torch.repeat_interleave(counts)  # [changed elements]
    entry = torch.arange(len(token), device=ids.device) + (begin - counts.cumsum(0) + counts)[token]
    vectors = y[rows].reshape(-1, width)  # [b, ..., width] -> [n, width]
    vectors[token, change.positions[entry] - first[token]] = change.new[entry].to(y.dtype)
    if not isinstance(rows, slice):  # of a slice they are a view, and written already
        y[rows] = vectors.view(y[rows].shape)


def _difference(change: Change, dtype: torch.dtype) -> Tensor:
    return change.new.to(dtype) - change.old.to(dtype)
