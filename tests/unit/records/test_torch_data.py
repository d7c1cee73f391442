"""Files of `torch.save` that are no data, or more in memory than on the disk: refused before anything is
made of them.
"""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import resource
import struct
import time
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch

from dsp_plugin.records.files.torch_data import load_torch_data


def load(path):
    with open(path, "rb") as file:
        return load_torch_data(file, str(path))


@pytest.fixture
def little_memory():
    """512 MB more than the process has now."""
    now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (now + (512 << 20), hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


# ---- a small assembler of pickles: every function gives the bytes that leave one value on the stack


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    if -(1 << 31) <= value < 1 << 31:
        return b"J" + struct.pack("<i", value)
    raw = pickle.encode_long(value)
    return b"\x8a" + bytes([len(raw)]) + raw


def tup(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def name(module: str, attribute: str) -> bytes:
    return f"c{module}\n{attribute}\n".encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + tup(*arguments) + b"R"


def table(**items: bytes) -> bytes:
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"
ORDERED = call(name("collections", "OrderedDict"))
NDARRAY = name("numpy", "ndarray")
RECONSTRUCT = name("numpy._core.multiarray", "_reconstruct")
SCALAR = name("numpy._core.multiarray", "scalar")


def raw(value: bytes) -> bytes:
    return call(name("_codecs", "encode"), text(value.decode("latin1")), text("latin1"))


def dtype(code: str, *state: bytes) -> bytes:
    state = state or (number(3), text("<"), NONE, NONE, NONE, number(-1), number(-1), number(0))
    return call(name("numpy", "dtype"), text(code), FALSE, TRUE) + tup(*state) + b"b"


def array(kind: bytes, shape: bytes, content: bytes, first: bytes = tup(number(0))) -> bytes:
    return call(RECONSTRUCT, NDARRAY, first, raw(b"b")) + tup(number(1), shape, kind, FALSE, content) + b"b"


def storage(numel: int, key: str = "0", kind: str = "FloatStorage") -> bytes:
    return tup(text("storage"), name("torch", kind), text(key), text("cpu"), number(numel)) + b"Q"


def tensor(numel: int = 4, offset: int = 0, size=(4,), stride=(1,), hooks: bytes = ORDERED) -> bytes:
    shape, steps = (tup(*map(number, values)) for values in (size, stride))
    return call(
        name("torch._utils", "_rebuild_tensor_v2"), storage(numel), number(offset), shape, steps, FALSE, hooks
    )


def write(path, content: bytes, **entries: bytes) -> None:
    """An archive as torch writes it, with this pickle and one storage of 16 bytes."""
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("archive/data.pkl", b"\x80\x02" + content + b".")
        out.writestr("archive/data/0", np.arange(4, dtype="f4").tobytes())
        out.writestr("archive/version", b"3\n")
        for key, value in entries.items():
            out.writestr(f"archive/{key.replace('__', '.')}", value)


def references(start: bytes, step: bytes, levels: int) -> bytes:
    """A tuple of values, each made by `step` of the one that was remembered last, and remembered itself."""
    return b"(" + start + b"q\x00" + (step + b"q\x00") * levels + b"t"


TEN = b"(" + b"h\x00" * 10 + b"t"
LONG = text("x" * 100_000) + b"q\x01"
SHARED_STATE = table(**{f"n{i}": NONE for i in range(10_000)}) + b"q\x01"

REFUSED = {
    # programs
    "os.mkdir": call(name("os", "mkdir"), text("it ran")),
    "builtins.eval": call(name("builtins", "eval"), text("__import__('os').mkdir('it ran')")),
    "python 2's eval": call(name("__builtin__", "eval"), text("__import__('os').mkdir('it ran')")),
    "getattr": call(name("builtins", "getattr"), name("os", "mkdir"), text("x")),
    "torch.load": call(name("torch", "load"), text("x")),
    "torch.hub": name("torch.hub", "load"),
    "our own class": name("dsp_plugin.records.files.torch_data", "_Allowed"),
    "INST": b"(" + text("it ran") + b"ios\nmkdir\n",
    "OBJ": b"(" + name("os", "mkdir") + text("it ran") + b"o",
    "STACK_GLOBAL": text("os") + text("mkdir") + b"\x93",
    "EXT1": b"\x82\x01",
    # what torch's own list has, and no checkpoint
    "bytearray": call(name("builtins", "bytearray"), number(10**10)),
    "a set": call(name("builtins", "set"), b"]"),
    "Counter": call(name("collections", "Counter"), b"}"),
    "meta tensor": name("torch._utils", "_rebuild_meta_tensor_no_storage"),
    "wrapper subclass": name("torch._utils", "_rebuild_wrapper_subclass"),
    "sparse": name("torch._utils", "_rebuild_sparse_tensor"),
    "quantized": name("torch._utils", "_rebuild_qtensor"),
    "subclass": name("torch._tensor", "_rebuild_from_type_v2"),
    "parameter with state": name("torch._utils", "_rebuild_parameter_with_state"),
    "new tensor": name("torch", "Tensor") + b")\x81",
    "new parameter": name("torch.nn.parameter", "Parameter") + tup(number(1)) + b"\x81",
    "typed storage": name("torch.storage", "TypedStorage"),
    # NumPy
    "object dtype": dtype("O8"),
    "object dtype, flags cleared": array(
        dtype("O8", number(3), text("|"), NONE, NONE, NONE, number(-1), number(-1), number(0)),
        tup(number(1)),
        raw(b"A" * 8),
    ),
    "object scalar": call(SCALAR, dtype("O"), raw(b"A" * 8)),
    "long elements": dtype(
        "f8", number(3), text("<"), NONE, NONE, NONE, number(1 << 20), number(8), number(0)
    ),
    "other flags": dtype("f8", number(3), text("<"), NONE, NONE, NONE, number(-1), number(-1), number(63)),
    "fields": dtype(
        "f8", number(3), text("<"), NONE, tup(text("a")), b"}", number(-1), number(-1), number(0)
    ),
    "texts": dtype("U1000000000"),
    "void": dtype("V8"),
    "sub-arrays": call(name("numpy", "dtype"), tup(text("f8"), tup(number(10**9))), FALSE, TRUE),
    "an unfinished dtype": call(SCALAR, call(name("numpy", "dtype"), text("f8"), FALSE, TRUE), raw(b"A" * 8)),
    "a large empty array": call(RECONSTRUCT, NDARRAY, tup(number(10**9)), raw(b"b")),
    "a large array": array(dtype("f8"), tup(number(10**9)), raw(b"A" * 8)),
    "a shape that overflows": array(dtype("f8"), tup(number(1 << 62), number(4)), raw(b"")),
    "a negative shape": array(dtype("f8"), tup(number(-1)), raw(b"A" * 8)),
    "a large start": array(dtype("f8"), tup(number(1)), raw(b"A" * 8), first=tup(number(10**9))),
    "a short number": call(SCALAR, dtype("f8"), raw(b"A" * 4)),
    "an array of texts": array(dtype("f8"), tup(number(1)), b"]" + text("x") + b"a"),
    # tensors
    "a storage longer than its entry": tensor(numel=1 << 20),
    "a storage shorter than its entry": tensor(numel=2, size=(2,)),
    "a negative storage": storage(-4),
    "a storage of another type": storage(4, kind="DoubleStorage"),
    "a storage that is not there": storage(4, key="1"),
    "a storage of another folder": storage(4, key="../data/0"),
    "a tensor beyond its storage": tensor(size=(5,)),
    "an offset beyond": tensor(offset=1),
    "a negative offset": tensor(offset=-1),
    "an expanded tensor": tensor(size=(10**9,), stride=(0,)),
    "overlapping rows": tensor(size=(1000, 2), stride=(0, 1)),
    "a negative stride": tensor(stride=(-1,)),
    "a long stride": tensor(size=(2,), stride=(1 << 61,)),
    "a size that overflows": tensor(size=(1 << 31, 1 << 31, 4), stride=(0, 0, 1)),
    "more sizes than strides": tensor(size=(2, 2)),
    "many dimensions": tensor(size=(1,) * 1000, stride=(1,) * 1000),
    "hooks": tensor(hooks=ORDERED + text("x") + NONE + b"s"),
    "a storage that is no storage": tup(
        text("module"), name("torch", "FloatStorage"), text("0"), text("cpu"), number(4)
    )
    + b"Q",
    "a number for a storage": number(3) + b"Q",
    # references, depth, copies
    "references to references": references(NONE, TEN, 12),
    "tables of references": references(
        NONE, b"}(" + b"".join(number(i) + b"h\x00" for i in range(10)) + b"u", 12
    ),
    "a key of references": b"}" + references(NONE, b"h\x00h\x00\x86", 60) + NONE + b"s",
    "a list that holds itself": b"]q\x00h\x00a",
    "great depth": b"(" * 5000 + b"t" * 5000,
    "deep lists": b"]" * 5000 + b"a" * 4999,
    "copies of bytes": LONG
    + b"]("
    + (name("_codecs", "encode") + b"h\x01" + text("latin1") + b"\x86R") * 2000
    + b"e\x86",
    "copies of a Namespace": SHARED_STATE
    + b"]("
    + (name("argparse", "Namespace") + b")\x81h\x01b") * 2000
    + b"e\x86",
    "another code": call(name("_codecs", "encode"), text("x"), text("utf-32")),
    "compressing code": call(name("_codecs", "encode"), text("x"), text("zip")),
    # things in the wrong place
    "a function as data": b"]" + name("_codecs", "encode") + b"a",
    "a class as data": NDARRAY,
    "a method of a table": ORDERED + table(items=NONE) + b"b",
    "a state for a list": b"]" + table(items=NONE) + b"b",
    "appended to a table": b"}" + NONE + b"a",
    "put into a list": b"]" + number(0) + NONE + b"s",
    "a key of a list": b"}]Ns",
    "an empty stack": b"a",
    "no mark": NONE + b"t",
    "nothing remembered": b"h\x07",
    "a call of a number": number(3) + b")R",
    "a call of a storage's type": name("torch", "FloatStorage") + tup(number(10**10)) + b"R",
    "a device that is none": call(name("torch", "device"), b"]"),
}


@pytest.mark.parametrize("content", REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path, monkeypatch, content, little_memory):
    monkeypatch.chdir(tmp_path)
    write("a.pt", content)
    started = time.monotonic()
    with pytest.raises(ValueError, match="a.pt is refused") as error:
        load("a.pt")
    assert time.monotonic() - started < 3 and "in the middle" not in str(error.value)
    assert os.listdir() == ["a.pt"]


def test_the_assembler_makes_what_is_read(tmp_path):
    """Each part of what is refused above, as it is right."""
    parts = [
        tensor(),
        tensor(size=(2, 2), stride=(1, 2)),
        call(SCALAR, dtype("f8"), raw(struct.pack("<d", 1.5))),
        array(dtype("i4"), tup(number(2)), raw(struct.pack("<2i", 3, 4))),
        raw(b"abc"),
        references(NONE, TEN, 3),
        name("argparse", "Namespace") + b")\x81" + table(x=number(1)) + b"b",
        ORDERED + table(_metadata=b"}") + b"b",
        call(name("torch", "device"), text("cpu")),
        call(name("torch", "Size"), tup(number(2))),
        name("torch", "float16"),
    ]
    write(tmp_path / "a.pt", b"](" + b"".join(parts) + b"e")
    found = load(tmp_path / "a.pt")
    assert found[0].tolist() == [0, 1, 2, 3] and found[1].tolist() == [[0, 2], [1, 3]] and found[2] == 1.5
    assert found[3].tolist() == [3, 4] and found[4] == b"abc" and found[6] == argparse.Namespace(x=1)
    assert type(found[2]) is np.float64 and type(found[3]) is np.ndarray


@pytest.mark.parametrize(
    "entries",
    [{"constants__pkl": b"x"}, {"code/x__py": b"x"}, {"byteorder": b"middle"}, {"byteorder": b"l" * 1000}],
)
def test_archives_of_another_kind(tmp_path, entries):
    write(tmp_path / "a.pt", b"}", **entries)
    with pytest.raises(ValueError, match="a.pt is refused"):
        load(tmp_path / "a.pt")


def test_many_tensors_of_one_storage(tmp_path):
    shape = tup(number(1 << 18)), tup(number(1))
    large = call(
        name("torch._utils", "_rebuild_tensor_v2"),
        storage(1 << 18, key="1"),
        number(0),
        *shape,
        FALSE,
        ORDERED,
    )
    write(tmp_path / "a.pt", large + b"q\x00](" + b"h\x00" * 1000 + b"e\x86", **{"data/1": bytes(1 << 20)})
    with pytest.raises(ValueError, match="on storages of far fewer"):
        load(tmp_path / "a.pt")
    write(tmp_path / "a.pt", large + b"q\x00](" + b"h\x00" * 3 + b"e\x86", **{"data/1": bytes(1 << 20)})
    assert len(load(tmp_path / "a.pt")[1]) == 3, "tied weights are such"


def test_a_long_pickle(tmp_path, little_memory):
    write(tmp_path / "a.pt", b"](" + b"}" * 5_000_000 + b"e")
    with pytest.raises(ValueError, match="instructions"):
        load(tmp_path / "a.pt")


STATE = {
    "model": OrderedDict(a=torch.arange(12.0).view(3, 4), b=torch.ones(3, dtype=torch.half)),
    "args": argparse.Namespace(lr=[0.5], name="x"),
    "numbers": [
        np.float64(1.5),
        np.int32(3),
        np.bool_(True),
        7,
        2**70,
        -1.5,
        None,
        True,
        b"bytes",
        "text",
        (1, (2,)),
    ],
    "arrays": [np.arange(6.0).reshape(2, 3), np.array([True, False]), np.ones((2, 2), order="F")],
    "views": [torch.arange(12.0).view(3, 4).t(), torch.arange(5)[1:3], torch.tensor(3), torch.zeros(0)],
}


def same(a, b) -> bool:
    if isinstance(a, (torch.Tensor, np.ndarray)):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and bool((a == b).all())
    if isinstance(a, argparse.Namespace):
        return isinstance(b, argparse.Namespace) and same(vars(a), vars(b))
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.filterwarnings("ignore:.*without checksums")
@pytest.mark.parametrize("zipped", [True, False])
def test_what_checkpoints_hold_is_read(tmp_path, zipped):
    torch.save(STATE, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    before = set(map(str, torch.serialization.get_safe_globals()))
    assert same(STATE, load(tmp_path / "a.pt"))
    assert set(map(str, torch.serialization.get_safe_globals())) == before, "torch's own list is as it was"


def test_a_process_that_allows_more_allows_no_more_here(tmp_path):
    write(tmp_path / "a.pt", array(dtype("O8"), tup(number(1)), raw(b"A" * 8)))
    with torch.serialization.safe_globals([np.dtype, np.ndarray, type(np.dtype("O")), os.mkdir]):
        with pytest.raises(ValueError, match="dtype 'O8'"):
            load(tmp_path / "a.pt")
        torch.save(STATE, tmp_path / "b.pt")
        assert same(STATE, load(tmp_path / "b.pt"))


def test_every_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    torch.save(STATE, tmp_path / "a.pt")
    whole, draw, refused = (tmp_path / "a.pt").read_bytes(), random.Random(3), 0
    for _ in range(400):
        place = draw.randrange(len(whole))
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        (tmp_path / "b.pt").write_bytes(flipped)
        try:
            found = load(tmp_path / "b.pt")
        except ValueError as error:
            assert "b.pt" in str(error)
            refused += 1
        else:
            assert same(STATE, found), f"byte {place}"
    assert refused > 200


class TestFilesOfBeforeTheZipFormat:
    """torch < 1.6: five pickles, then the storages; no checksums, but the file's own size."""

    @pytest.fixture
    def whole(self) -> bytes:
        out = io.BytesIO()
        torch.save(STATE, out, _use_new_zipfile_serialization=False)
        return out.getvalue()

    def refused(self, path, content: bytes) -> None:
        path.write_bytes(content)
        with pytest.raises(ValueError, match="a.pt is refused"):
            load(path)

    def test_cuts_and_tails(self, tmp_path, whole):
        draw = random.Random(4)
        for content in [whole[: draw.randrange(len(whole))] for _ in range(40)] + [whole[:-1], whole + b"\0"]:
            self.refused(tmp_path / "a.pt", content)

    def test_a_storage_larger_than_the_file(self, tmp_path, whole, little_memory):
        old = b"K\x0cN" if b"K\x0cN" in whole else b"K\x0c"
        self.refused(tmp_path / "a.pt", whole.replace(old, number(10**10) + old[2:], 1))

    def test_a_program(self, tmp_path, whole, monkeypatch):
        monkeypatch.chdir(tmp_path)
        head = b"".join(
            pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
        )
        for content in (call(name("os", "mkdir"), text("it ran")), references(NONE, TEN, 12)):
            self.refused(tmp_path / "a.pt", head + b"\x80\x02" + content + b"." + pickle.dumps([], 2))
        self.refused(tmp_path / "a.pt", pickle.dumps(STATE["args"], 2))
        assert os.listdir() == ["a.pt"]

    @pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"PK\x03\x04", b"\0" * 5000, b"garbage\n"])
    def test_other_files(self, tmp_path, content):
        (tmp_path / "a.pt").write_bytes(content)
        with pytest.raises(ValueError, match="a.pt"):
            load(tmp_path / "a.pt")
