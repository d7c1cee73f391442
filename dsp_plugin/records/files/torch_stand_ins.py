"""Stand-ins for all that a pickle of `torch.save` may name, which check their arguments and make nothing."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

_MOST_DIMENSIONS = 64
# bytes an element of torch's storages, and of NumPy's dtypes by their codes
_STORAGES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_NUMBERS = {
    "f8": 8,
    "f4": 4,
    "f2": 2,
    "i8": 8,
    "i4": 4,
    "i2": 2,
    "i1": 1,
    "u8": 8,
    "u4": 4,
    "u2": 2,
    "u1": 1,
    "b1": 1,
}
_DTYPES = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool".split()


class Refused(ValueError):
    """The pickle is no data, or more than the file can hold."""


@dataclass(frozen=True)
class Storage:
    """Stands for a storage of `numel` elements of `itemsize` bytes."""

    numel: int
    itemsize: int


@dataclass(frozen=True)
class StorageType:
    """Stands for a class such as `torch.FloatStorage`."""

    itemsize: int


@dataclass(frozen=True)
class Tensor:
    """Stands for a tensor, or a parameter, of so many bytes."""

    nbytes: int


class Leaf:
    """Stands for a number of NumPy's, a dtype of torch's, and the like."""


class Namespace:
    """Stands for `argparse.Namespace`."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}


class Ordered(OrderedDict):
    """Stands for an `OrderedDict`, which may have the metadata of a `state_dict()`."""

    metadata: Any = None


class NumPyDtype(Leaf):
    """Stands for a dtype of NumPy's; `ready` once it has its byte order."""

    def __init__(self, itemsize: int):
        self.itemsize, self.ready = itemsize, False


class NumPyArray(Leaf):
    """Stands for an array of NumPy's that has not been filled."""


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> Tensor:
    if (
        type(storage) is not Storage
        or type(offset) is not int
        or type(size) is not tuple
        or type(stride) is not tuple
    ):
        raise Refused("a tensor of something else than numbers")
    if len(size) != len(stride) or len(size) > _MOST_DIMENSIONS:
        raise Refused("a tensor of no possible shape")
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in (offset, *size, *stride)):
        raise Refused("a tensor of no possible shape")
    numel = math.prod(size)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride)) if numel else 0
    if last >= max(1, storage.numel) or numel > storage.numel:
        raise Refused(f"a tensor of {numel:.3g} elements on a storage of {storage.numel}")
    return Tensor(numel * storage.itemsize)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> Tensor:
    _check_plain_tensor(requires_grad, hooks, metadata)
    return _rebuild_tensor(storage, offset, size, stride)


def _rebuild_parameter(data: Any, requires_grad: Any, hooks: Any) -> Tensor:
    _check_plain_tensor(requires_grad, hooks, None)
    if type(data) is not Tensor:
        raise Refused("a parameter that is no tensor")
    return data


def _check_plain_tensor(requires_grad: Any, hooks: Any, metadata: Any) -> None:
    if type(requires_grad) is not bool or metadata or type(hooks) not in (Ordered, dict) or hooks:
        raise Refused("a tensor with hooks or metadata")


def _size(dimensions: Any) -> tuple:
    if type(dimensions) is not tuple or not all(type(n) is int for n in dimensions):
        raise Refused("a size that is none")
    return dimensions


def _device(*parts: Any) -> Leaf:
    if not all(type(part) in (str, int) for part in parts) or len(str(parts)) > 100:
        raise Refused("a device that is none")
    return Leaf()


def _encode(text: Any, encoding: Any) -> bytes:
    """Encode as pickle's protocol 2 writes bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused("bytes in an unusual code")
    return text.encode("latin1")


def _numpy_dtype(code: Any, align: Any = False, copy: Any = True) -> NumPyDtype:
    if code not in _NUMBERS or type(align) not in (bool, int) or type(copy) not in (bool, int):
        raise Refused(f"NumPy's dtype {str(code)[:20]!r}")
    return NumPyDtype(_NUMBERS[code])


def _numpy_scalar(dtype: Any, raw: Any) -> Leaf:
    if (
        type(dtype) is not NumPyDtype
        or not dtype.ready
        or type(raw) is not bytes
        or len(raw) != dtype.itemsize
    ):
        raise Refused("a number of NumPy's of another size than its dtype")
    return Leaf()


class NDArrayClass:
    """Stands for `numpy.ndarray`, the first argument of `_reconstruct`."""


def _numpy_reconstruct(cls: Any, shape: Any, code: Any) -> NumPyArray:
    if cls is not NDArrayClass or shape != (0,) or code != b"b":
        raise Refused("an array of NumPy's that is not empty before it is filled")
    return NumPyArray()


def check_array(version: Any, shape: Any, dtype: Any, fortran: Any, raw: Any) -> None:
    if (
        version != 1
        or type(dtype) is not NumPyDtype
        or not dtype.ready
        or type(fortran) is not bool
        or type(raw) is not bytes
    ):
        raise Refused("an array of NumPy's that is none of plain numbers")
    if (
        type(shape) is not tuple
        or len(shape) > 32
        or not all(type(n) is int and 0 <= n <= len(raw) for n in shape)
    ):
        raise Refused("an array of NumPy's of another size than its contents")
    if math.prod(shape) * dtype.itemsize != len(raw):
        raise Refused("an array of NumPy's of another size than its contents")


STAND_INS: dict[str, Any] = {
    "collections OrderedDict": Ordered,
    "argparse Namespace": Namespace,
    "_codecs encode": _encode,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch Size": _size,
    "torch device": _device,
    "numpy dtype": _numpy_dtype,
    "numpy ndarray": NDArrayClass,
    **{f"torch {name}": StorageType(itemsize) for name, itemsize in _STORAGES.items()},
    **{f"torch {name}": Leaf() for name in _DTYPES},
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):  # NumPy 1 and 2
    STAND_INS[f"{_core} scalar"] = _numpy_scalar
    STAND_INS[f"{_core} _reconstruct"] = _numpy_reconstruct
