"""What loading a pickle of `torch.save` would make, found out without making it.

torch's weights-only loading keeps programs out, and still believes a file in much: it gives NumPy's dtypes
states that crash the process, allocates arrays of any size, expands tensors, follows references to
references. So the pickle is first walked with stand-ins for everything in it, and refused unless all of it is
plain and no larger than the file.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

from .torch_stand_ins import (
    STAND_INS,
    Leaf,
    Namespace,
    NDArrayClass,
    NumPyArray,
    NumPyDtype,
    Ordered,
    Refused,
    Storage,
    StorageType,
    Tensor,
    check_array,
)

_MOST_STEPS = 4_000_000  # a checkpoint with 10,000 tensors and its optimizer takes one million
_DEEPEST = 64
_SMALL = 100_000
_MOST_COPIES = 16  # of anything in the file, on average


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
        if type(table) not in (dict, Ordered) or len(items) % 2:
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
            or type(reference[1]) is not StorageType
        ):
            raise Refused("a reference that is no storage")
        self.stack.append(self.storage(reference))

    def _global(self, name: str) -> None:
        if name not in STAND_INS:
            raise Refused(f"GLOBAL {name[:200].replace(' ', '.')}")
        self.stack.append(STAND_INS[name])

    def _newobj(self, _: Any) -> None:
        arguments, cls = self.stack.pop(), self.stack.pop()
        if cls not in (Namespace, Ordered) or arguments != ():
            raise Refused("a new object of an unsupported type")
        self.stack.append(cls())

    def _reduce(self, _: Any) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if (
            type(arguments) is not tuple
            or not callable(function)
            or function is NDArrayClass
            or (function is Ordered and arguments)
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
        if type(made) is Namespace and type(state) is dict and all(type(name) is str for name in state):
            made.values.update(state)
        elif type(made) is Ordered and type(state) is dict and set(state) <= {"_metadata"}:
            made.metadata = state  # of `state_dict()`
        elif (
            type(made) is NumPyDtype
            and state[:1] == (3,)
            and state[2:] == (None, None, None, -1, -1, 0)
            and state[1] in "<>|"
        ):
            made.ready = True
        elif type(made) is NumPyArray:
            check_array(*state)
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


def _measure(value: Any, written: int, size: int) -> None:
    """Refuse what is small in the file and large when walked: chains of references, cycles, great depth."""
    known: dict[int, tuple[int, int]] = {}
    inside: set = set()

    def weigh(item: Any, depth: int) -> tuple[int, int]:
        """Count the parts of an item, each as often as it is met, and the bytes of tensors."""
        if type(item) is Tensor:
            return 1, item.nbytes
        if isinstance(item, (str, bytes)):
            return 1 + len(item) // 64, 0
        if not isinstance(item, (dict, list, tuple, Namespace)):
            if not (item is None or isinstance(item, (bool, int, float, Leaf))):
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
    if isinstance(item, Namespace):
        return [*item.values, *item.values.values()]
    if isinstance(item, Ordered):
        return [*item, *item.values(), item.metadata]
    return [*item, *item.values()] if isinstance(item, dict) else list(item)
