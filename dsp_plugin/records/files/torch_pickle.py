"""What loading a pickle of `torch.save` would make, found out without making it.

torch's weights-only loading keeps programs out, and still believes a file in much: it gives NumPy's dtypes
states that crash the process, allocates arrays of any size, expands tensors, follows references to
references. So the pickle is first walked with stand-ins for everything in it, and refused unless all of it is
plain and no larger than the file.
"""

from __future__ import annotations

import math
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, BinaryIO

_MOST_STEPS = 4_000_000  # a checkpoint with 10,000 tensors and its optimizer takes one million
_DEEPEST = 64
_SMALL = 100_000
_MOST_COPIES = 16  # of anything in the file, on average
_MOST_DIMENSIONS = 64
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
class _StorageType:
    itemsize: int


@dataclass(frozen=True)
class _Tensor:
    nbytes: int


class _Leaf:
    """Stands for a number of NumPy's, a dtype of torch's, and the like."""


class _Namespace:
    def __init__(self) -> None:
        self.values: dict[str, Any] = {}


class _Ordered(OrderedDict):
    metadata: Any = None


class _NumPyDtype(_Leaf):
    def __init__(self, itemsize: int):
        self.itemsize, self.ready = itemsize, False


class _NumPyArray(_Leaf):
    pass


def walk(file: BinaryIO, storage: Callable[[tuple], Storage], size: int) -> Any:
    """Walk one pickle, from where the file stands to its end.

    Args:
        storage: makes the stand-in of a storage from what the pickle says of it.
        size: bytes of the file that the pickle is in.

    Returns:
        What it holds: tables, lists, texts and numbers as they are, anything else a stand-in.

    Raises:
        Refused: it needs more than a list of types that hold data, or it is larger than its file.
    """
    machine = _Walk(storage)
    try:
        value = machine.run(file)
        _measure(value, machine.written, size)
        return value
    except Refused:
        raise
    except (
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        OverflowError,
        RecursionError,
    ) as error:
        raise Refused(f"unreadable pickle ({type(error).__name__}: {str(error)[:80]})") from None


class _Walk:
    """A pickle machine of the instructions that torch's own weights-only one knows."""

    def __init__(self, storage: Callable[[tuple], Storage]):
        self.storage = storage
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.written = 0
        """Instructions and bytes of text so far: what stands in the file."""
        self.copied = 0
        """Elements and bytes that were made from others."""

    def run(self, file: BinaryIO) -> Any:
        for step, (instruction, argument, _) in enumerate(pickletools.genops(file)):
            name = instruction.name
            self.written += 1 + (len(argument) if isinstance(argument, (str, bytes)) else 0)
            if step > _MOST_STEPS:
                raise Refused(f"more than {_MOST_STEPS} instructions")
            if name == "STOP":
                if len(self.stack) != 1 or self.marks:
                    raise Refused("unreadable pickle (it ends in the middle)")
                return self.stack.pop()
            if name in _PUSHES:
                self.stack.append(argument if _PUSHES[name] is None else _PUSHES[name]())
            elif name in ("BINGET", "LONG_BINGET"):
                self.stack.append(self.memo[argument])
            elif name in ("BINPUT", "LONG_BINPUT"):
                self.memo[argument] = self.stack[-1]
            elif name != "PROTO":
                method = getattr(self, f"_{name.lower()}", None)
                if method is None:
                    raise Refused(f"unsupported instruction {name}")
                method(argument)
        raise Refused("unreadable pickle (no end)")

    def _mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def _since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def _tuple(self, _: Any) -> None:
        items = tuple(self._since_mark())
        self.stack.append(items)

    def _last(self, count: int) -> None:
        if len(self.stack) < count:
            raise IndexError("stack")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def _tuple1(self, _: Any) -> None:
        self._last(1)

    def _tuple2(self, _: Any) -> None:
        self._last(2)

    def _tuple3(self, _: Any) -> None:
        self._last(3)

    def _append(self, _: Any) -> None:
        item = self.stack.pop()
        self._list().append(item)

    def _appends(self, _: Any) -> None:
        items = self._since_mark()
        self._list().extend(items)

    def _list(self) -> list[Any]:
        if type(self.stack[-1]) is not list:
            raise Refused("something is appended to what is no list")
        return self.stack[-1]

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set([key, value])

    def _setitems(self, _: Any) -> None:
        self._set(self._since_mark())

    def _set(self, items: list[Any]) -> None:
        table = self.stack[-1]
        if type(table) not in (dict, _Ordered) or len(items) % 2:
            raise Refused("something is put into what is no table")
        for key, value in zip(items[::2], items[1::2]):
            for part in key if type(key) is tuple else (key,):
                if type(part) not in (str, int, float, bool, type(None)):
                    raise Refused(f"a key of the type {type(part).__name__}")
            table[key] = value

    def _binpersid(self, _: Any) -> None:
        reference = self.stack.pop()
        if (
            type(reference) is not tuple
            or len(reference) < 5
            or reference[0] != "storage"
            or type(reference[1]) is not _StorageType
        ):
            raise Refused("a reference that is no storage")
        self.stack.append(self.storage(reference))

    def _global(self, name: str) -> None:
        if name not in _GLOBALS:
            raise Refused(f"GLOBAL {name[:200].replace(' ', '.')}")
        self.stack.append(_GLOBALS[name])

    def _newobj(self, _: Any) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        if cls not in (_Namespace, _Ordered) or arguments != ():
            raise Refused("a new object of an unsupported type")
        self.stack.append(cls())

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if (
            type(arguments) is not tuple
            or not callable(function)
            or function is _ndarray
            or (function is _Ordered and arguments)
        ):
            raise Refused("a call of what is no function")
        self._copy(*arguments)
        self.stack.append(function(*arguments))

    def _copy(self, *values: Any) -> None:
        sized = (value for value in values if isinstance(value, (str, bytes, tuple, list, dict)))
        self.copied += sum(map(len, sized))
        if self.copied > _SMALL + _MOST_COPIES * self.written:
            raise Refused(f"copies of copies, {self.copied:.3g} elements in all")

    def _build(self, _: Any) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        self._copy(state, *(state if type(state) is tuple else ()))
        if type(made) is _Namespace and type(state) is dict and all(type(name) is str for name in state):
            made.values.update(state)
        elif type(made) is _Ordered and type(state) is dict and set(state) <= {"_metadata"}:
            made.metadata = state  # of `state_dict()`
        elif (
            type(made) is _NumPyDtype
            and state[:1] == (3,)
            and state[2:] == (None, None, None, -1, -1, 0)
            and state[1] in "<>|"
        ):
            made.ready = True
        elif type(made) is _NumPyArray:
            _check_array(*state)
        else:
            raise Refused("an object is given an unsupported state")


_PUSHES: dict[str, Any] = {
    **{
        name: None
        for name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING")
    },
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> _Tensor:
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
    return _Tensor(numel * storage.itemsize)


def _rebuild_tensor_v2(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any, hooks: Any, metadata: Any = None
) -> _Tensor:
    _check_plain_tensor(requires_grad, hooks, metadata)
    return _rebuild_tensor(storage, offset, size, stride)


def _rebuild_parameter(data: Any, requires_grad: Any, hooks: Any) -> _Tensor:
    _check_plain_tensor(requires_grad, hooks, None)
    if type(data) is not _Tensor:
        raise Refused("a parameter that is no tensor")
    return data


def _check_plain_tensor(requires_grad: Any, hooks: Any, metadata: Any) -> None:
    if type(requires_grad) is not bool or metadata or type(hooks) not in (_Ordered, dict) or hooks:
        raise Refused("a tensor with hooks or metadata")


def _size(dimensions: Any) -> tuple:
    if type(dimensions) is not tuple or not all(type(n) is int for n in dimensions):
        raise Refused("a size that is none")
    return dimensions


def _device(*parts: Any) -> _Leaf:
    if not all(type(part) in (str, int) for part in parts) or len(str(parts)) > 100:
        raise Refused("a device that is none")
    return _Leaf()


def _encode(text: Any, encoding: Any) -> bytes:
    """Encode as pickle's protocol 2 writes bytes."""
    if type(text) is not str or encoding not in ("latin1", "latin-1"):
        raise Refused("bytes in an unusual code")
    return text.encode("latin1")


def _numpy_dtype(code: Any, align: Any = False, copy: Any = True) -> _NumPyDtype:
    if code not in _NUMBERS or type(align) not in (bool, int) or type(copy) not in (bool, int):
        raise Refused(f"NumPy's dtype {str(code)[:20]!r}")
    return _NumPyDtype(_NUMBERS[code])


def _numpy_scalar(dtype: Any, raw: Any) -> _Leaf:
    if (
        type(dtype) is not _NumPyDtype
        or not dtype.ready
        or type(raw) is not bytes
        or len(raw) != dtype.itemsize
    ):
        raise Refused("a number of NumPy's of another size than its dtype")
    return _Leaf()


class _ndarray:
    """Stands for `numpy.ndarray`, the first argument of `_reconstruct`."""


def _numpy_reconstruct(cls: Any, shape: Any, code: Any) -> _NumPyArray:
    if cls is not _ndarray or shape != (0,) or code != b"b":
        raise Refused("an array of NumPy's that is not empty before it is filled")
    return _NumPyArray()


def _check_array(version: Any, shape: Any, dtype: Any, fortran: Any, raw: Any) -> None:
    if (
        version != 1
        or type(dtype) is not _NumPyDtype
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


_GLOBALS: dict[str, Any] = {
    "collections OrderedDict": _Ordered,
    "argparse Namespace": _Namespace,
    "_codecs encode": _encode,
    "torch._utils _rebuild_tensor": _rebuild_tensor,
    "torch._utils _rebuild_tensor_v2": _rebuild_tensor_v2,
    "torch._utils _rebuild_parameter": _rebuild_parameter,
    "torch Size": _size,
    "torch device": _device,
    "numpy dtype": _numpy_dtype,
    "numpy ndarray": _ndarray,
    **{f"torch {name}": _StorageType(itemsize) for name, itemsize in _STORAGES.items()},
    **{f"torch {name}": _Leaf() for name in _DTYPES},
}
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):  # NumPy 1 and 2
    _GLOBALS[f"{_core} scalar"] = _numpy_scalar
    _GLOBALS[f"{_core} _reconstruct"] = _numpy_reconstruct


def _measure(value: Any, written: int, size: int) -> None:
    """Refuse what is small in the file and large when walked: chains of references, cycles, great depth."""
    known: dict[int, tuple[int, int]] = {}
    inside: set = set()

    def weigh(item: Any, depth: int) -> tuple[int, int]:
        """Count the parts of an item, each as often as it is met, and the bytes of tensors."""
        if type(item) is _Tensor:
            return 1, item.nbytes
        if isinstance(item, (str, bytes)):
            return 1 + len(item) // 64, 0
        if not isinstance(item, (dict, list, tuple, _Namespace)):
            if not (item is None or isinstance(item, (bool, int, float, _Leaf))):
                raise Refused("a function or a class where data should be")
            return 1, 0
        if id(item) in known:
            return known[id(item)]
        if depth > _DEEPEST:
            raise Refused(f"tables and lists more than {_DEEPEST} deep")
        if id(item) in inside:
            raise Refused("something that holds itself")
        inside.add(id(item))
        parts, nbytes = 1, 0
        for part in _parts(item):
            more = weigh(part, depth + 1)
            parts, nbytes = parts + more[0], nbytes + more[1]
        inside.remove(id(item))
        known[id(item)] = parts, nbytes
        return parts, nbytes

    parts, nbytes = weigh(value, 0)
    if parts > _SMALL + _MOST_COPIES * written:
        raise Refused(f"references to references, {parts:.3g} elements in all")
    if nbytes > _SMALL + _MOST_COPIES * size:
        raise Refused(f"tensors of {nbytes:.3g} bytes on storages of far fewer")


def _parts(item: Any) -> list[Any]:
    if isinstance(item, _Namespace):
        return [*item.values, *item.values.values()]
    if isinstance(item, _Ordered):
        return [*item, *item.values(), item.metadata]
    return [*item, *item.values()] if isinstance(item, dict) else list(item)
