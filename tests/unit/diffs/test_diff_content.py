"""What packs hold is checked, too, where the checksum fits: any program can compute one."""

from __future__ import annotations

import collections
import copy
import random
import sys
import time
import tracemalloc
import zlib

import pytest
import torch
from diff_packs import SmallModel, closed, deep, opened, random_pack, same, sealed, snapshot

from dsp_plugin.artefacts.base import Base
from dsp_plugin.artefacts.content import MAX_DEPTH
from dsp_plugin.cli.main import main
from dsp_plugin.diffs.packs import pack_file
from dsp_plugin.diffs.packs.arithmetic import add_packs
from dsp_plugin.diffs.packs.pack import DiffPack
from dsp_plugin.diffs.serving.bank import DiffBank
from dsp_plugin.diffs.sparse import SparseDiff
from dsp_plugin.options.terminal import printable

RAW = random_pack(
    SmallModel(), 1, config={"task": "cola", "model_config": {"id2label": {"0": "no", "1": "yes"}}}
).to_bytes()
ABOUT, INDEX, TENSORS = opened(RAW)
NAN, INF = float("nan"), float("inf")


def at(place, value):
    """A change of the index: `value` at a place such as ("changed", 0, 1)."""

    def change(index):
        for step in place[:-1]:
            index = index[step]
        index[place[-1]] = value

    return change


def with_value(value: float) -> dict:
    values = TENSORS["values"].clone()
    values[7] = value
    return dict(tensors={"values": values})


def with_head(tensor: torch.Tensor, name: str = "head.classifier.bias") -> dict:
    return dict(tensors={name: tensor})


def with_config(**entries) -> dict:
    return dict(about={"config": entries})


FIRST = INDEX["parameters"][0][0]
CASES = {
    "a value is nan": (with_value(NAN), "not finite"),
    "a value is inf": (with_value(-INF), "not finite"),
    "values of another dtype": (dict(about={"value_dtype": "float32"}), "float16"),
    "values are integers": (
        dict(about={"value_dtype": "int16"}, tensors={"values": TENSORS["values"].view(torch.int16)}),
        "int16",
    ),
    "head is nan": (with_head(torch.tensor([NAN, 0])), "classifier.bias.*not finite"),
    "head of integers": (with_head(torch.tensor([1, 0])), "classifier.bias.*not finite"),
    "head without elements": (with_head(torch.zeros(0)), "shape"),
    "head without dimensions": (with_head(torch.tensor(1.0)), "shape"),
    "head in the base": (
        with_head(torch.zeros(16), "head.body.norm.bias"),
        "in the task head and in the base",
    ),
    "head is a tied name": (
        with_head(torch.zeros(40, 16), "head.out.weight"),
        "in the task head and in the base",
    ),
    "head with a terminal's escape": (with_head(torch.zeros(2), "head.\x1b[2J"), "no name"),
    "one tensor more": (dict(tensors={"more": torch.zeros(2)}), "tensor 'more'"),
    "streams are no bytes": (dict(tensors={"positions.unary": torch.zeros(9)}), "not bytes"),
    "a parameter twice": (dict(index=lambda i: i["parameters"].append(i["parameters"][0])), "twice"),
    "a parameter's name is a number": (dict(index=at(("parameters", 0, 0), 3)), "no name"),
    "a parameter's name clears the screen": (dict(index=at(("parameters", 0, 0), "a\x1b[2J")), "no name"),
    "a parameter's name changes direction": (dict(index=at(("parameters", 0, 0), "a\u202eb")), "no name"),
    "a parameter of no type": (dict(index=at(("parameters", 0, 1), "Tensor")), "no known type"),
    "a changed parameter is an integer": (
        dict(index=lambda i: [p.__setitem__(1, "int64") for p in i["parameters"]]),
        "int64",
    ),
    "a size below zero": (dict(index=at(("parameters", 0, 2), [-4, -4])), "whole numbers"),
    "a size that is true": (dict(index=at(("parameters", 0, 2), [True])), "whole numbers"),
    "a size that is a fraction": (dict(index=at(("parameters", 0, 2), [4.0])), "whole numbers"),
    "a huge shape": (dict(index=at(("parameters", 0, 2), [2**40, 2**40])), "no tensor"),
    "many dimensions": (dict(index=at(("parameters", 0, 2), [1] * 99)), "shape"),
    "tied to a parameter": (dict(index=at(("tied",), {FIRST: [INDEX["parameters"][1][0]]})), "two weights"),
    "tied is unknown": (dict(index=at(("tied",), {"nothing": ["out.weight"]})), "tied"),
    "tied twice": (dict(index=at(("tied",), {FIRST: ["x", "x"]})), "two weights"),
    "tied is a text": (dict(index=at(("tied",), {FIRST: "x"})), "tied"),
    "no parameters": (dict(index=at(("parameters",), [])), "no parameter"),
    "parameters are a dictionary": (dict(index=at(("parameters",), {})), "no list"),
    "changed is a dictionary": (dict(index=at(("changed",), {"a": 1})), "wrong length"),
    "a changed entry is empty": (dict(index=at(("changed", 0), [])), "wrong length"),
    "a count is true": (dict(index=at(("changed", 0, 1), True)), "whole numbers"),
    "a count is huge": (dict(index=at(("changed", 0, 1), 2**70)), "whole numbers"),
    "a divisor is huge": (dict(index=at(("changed", 0, 2), 2**62)), "divisors"),
    "a number below zero": (dict(index=at(("changed", 0, 0), -1)), "whole numbers"),
    "another number of positions": (dict(about={"positions": ABOUT["positions"] + 1}), "announced"),
    "a hash that is none": (dict(about={"base_hash": "../../etc"}), "SHA-256"),
    "config is a list": (dict(about={"config": []}), "config"),
    "config is deep": (with_config(a=deep(MAX_DEPTH + 5)), "too deeply"),
    "method is a list": (with_config(method=[1]), "method"),
    "model_config is a text": (with_config(model_config="x"), "model_config"),
    "model_config runs code": (
        with_config(model_config={"auto_map": {"AutoModel": "evil--x.Y"}}),
        "auto_map",
    ),
    "model_config fetches code": (
        with_config(model_config={"attn_implementation": "a/b"}),
        "attn_implementation",
    ),
    "model_config changes the base": (with_config(model_config={"hidden_act": "relu"}), "hidden_act"),
    "architectures are paths": (with_config(model_config={"architectures": ["../x"]}), "classes"),
    "architectures are numbers": (with_config(model_config={"architectures": [1]}), "classes"),
    "labels are no numbers": (with_config(model_config={"id2label": {"x": "y"}}), "id2label"),
    "labels are lists": (with_config(model_config={"label2id": {"x": [1]}}), "label2id"),
    "num_labels is nan": (with_config(model_config={"num_labels": NAN}), "num_labels"),
}


@pytest.mark.parametrize("case", CASES)
def test_content_that_makes_no_sense_is_refused_with_a_fitting_checksum(case):
    how, reason = CASES[case]
    with pytest.raises(ValueError, match=f"^a.diff is not a valid diff pack: .*{reason}") as caught:
        pack_file.unpack(sealed(RAW, **how), "a.diff")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "index", [b"[]", b"3", b"null", b"{}", b'{"parameters": 1}', b"[" * 10**5, b'{"a":' * 10**5, b"\xff"]
)
def test_an_index_that_is_none(index):
    with pytest.raises(ValueError, match="^a.diff is not a valid diff pack"):
        pack_file.unpack(closed(ABOUT, index, TENSORS), "a.diff")


@pytest.mark.parametrize(
    "piece, times",
    [
        (b"[],", 10**7),
        (b"{},", 10**7),
        (b'"ab",', 10**7),
        (b"[" * 900 + b"]" * 900 + b",", 10**4),
        (b" ", 10**8),
        (b"9", 10**7),
    ],
)
def test_an_index_that_grows_takes_no_time_and_no_memory(piece, times):
    """Files of a few kB that unpack to 30 MB and more."""
    packer = zlib.compressobj(9)
    parts = (
        [packer.compress(b'{"parameters":[')]
        + [packer.compress(piece * (times // 100)) for _ in range(100)]
        + [packer.flush()]
    )
    index = torch.frombuffer(bytearray(b"".join(parts)), dtype=torch.uint8)
    assert _within(closed(ABOUT, INDEX, {**TENSORS, "index": index}), seconds=2, memory=64 << 20) is None


def test_many_tensors_take_no_longer_than_they_are_many():
    def load(count: int) -> int:
        """The calls that reading so many tensors takes."""
        base = Base({f"layers.{n}.weight": ("float32", (4, 4)) for n in range(count)}, "0" * 63 + "1")
        entries = {name: (torch.tensor([n % 16]), torch.ones(1)) for n, name in enumerate(base.parameters)}
        raw = DiffPack.create(SparseDiff(entries, {name: (4, 4) for name in entries}), base).to_bytes()
        calls = collections.Counter()
        sys.setprofile(lambda frame, event, what: calls.update([event]))
        try:
            found = pack_file.unpack(raw, "x")
        finally:
            sys.setprofile(None)
        assert found[0].count == count
        return calls["call"] + calls["c_call"]

    load(10)
    assert load(3000) < 12 * load(300)  # 100 where it is quadratic


def mutated(chance: random.Random) -> bytes:
    """A pack with a few random changes of its content, and a checksum that fits."""
    about, index, tensors = (
        copy.deepcopy(ABOUT),
        copy.deepcopy(INDEX),
        {name: t.clone() for name, t in TENSORS.items()},
    )
    for _ in range(chance.choice([1, 1, 1, 2, 5])):
        kind = chance.randrange(4)
        if kind == 0:
            tensor = tensors[chance.choice(sorted(tensors))].view(torch.uint8).view(-1)
            if len(tensor):
                tensor[chance.randrange(len(tensor))] ^= 1 << chance.randrange(8)
        elif kind == 1:
            name = chance.choice(sorted(tensors))
            tensor = tensors.pop(name)
            replaced = [
                None,
                tensor[: len(tensor) // 2],
                tensor.repeat(2, *[1] * (tensor.dim() - 1)),
                tensor.float(),
                tensor.reshape(1, -1),
            ]
            if (other := chance.choice(replaced)) is not None:
                tensors[name] = other.contiguous()
        else:
            _mutate(chance, about if kind == 2 else index)
    return closed(about, index, tensors)


def _mutate(chance: random.Random, tree) -> None:
    """Another value somewhere in nested dictionaries and lists."""
    while True:
        key = chance.choice(sorted(tree)) if isinstance(tree, dict) else chance.randrange(len(tree))
        inner = tree[key]
        if not isinstance(inner, (dict, list)) or not inner or chance.random() < 0.1:
            break
        tree = inner
    near = [inner + 1, inner - 1, inner * 2, -inner, 2**31 - inner] if type(inner) is int else []
    odd = [
        None,
        True,
        0,
        -1,
        3,
        2**31,
        2**48,
        2**63,
        10**30,
        0.5,
        NAN,
        INF,
        "",
        "x",
        "\x1b[2J",
        [],
        {},
        [[]],
        deep(200),
        "a" * 5000,
    ]
    if isinstance(tree, list) and chance.random() < 0.2:
        tree.insert(key, copy.deepcopy(chance.choice(tree)))
    else:
        tree[key] = chance.choice(near if near and chance.random() < 0.5 else odd)


def _within(raw: bytes, seconds: float, memory: int):
    """What unpacking gives, None where it was refused; within these bounds."""
    tracemalloc.start()
    begin = time.process_time()
    try:
        return pack_file.unpack(raw, "a.diff")
    except ValueError as error:
        assert str(error).startswith("a.diff") and len(str(error)) < 500 and str(error).isprintable()
        return None
    finally:
        spent, peak = time.process_time() - begin, tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert spent < seconds and peak < memory, f"{spent:.1f} s, {peak:,} bytes"


def test_random_content_is_refused_or_makes_sense():
    chance, accepted = random.Random(0), 0
    for _ in range(600):
        loaded = _within(mutated(chance), seconds=2, memory=16 << 20)
        if loaded is None:
            continue
        accepted += 1
        diff, base, task_head, config = loaded
        for name, (positions, values) in diff.entries.items():
            size = torch.Size(base.parameters[name][1]).numel()
            assert set(positions.tolist()) <= set(range(size)) and positions.tolist() == sorted(
                {*positions.tolist()}
            )
            assert all(abs(value) < INF for value in values.tolist())
        assert all(abs(value) < INF for tensor in task_head.values() for value in tensor.reshape(-1).tolist())
        model = SmallModel()
        before = snapshot(model)
        pack = DiffPack(*loaded)
        try:
            undo = pack.apply(model, check=False)
            assert all(bool(tensor.isfinite().all()) for tensor in snapshot(model).values())
            undo.revert(model)
        except ValueError:
            pass
        assert same(snapshot(model), before)
        again = pack_file.unpack(pack.to_bytes(), "x")
        assert again[1] == base and again[0].count == diff.count
    assert 20 < accepted < 400


class TestWhatTheModelCannotHold:
    """θ0 and δ are finite, and their sum in the base's dtype is not; nothing is written then."""

    def large(self, task_head: float = 0.0) -> tuple:
        model = SmallModel(dtype=torch.float16)
        with torch.no_grad():
            model.body["0"].bias[3] = 60000
        base = Base.of(model, ["classifier"])
        entries = {"body.0.bias": (torch.tensor([3]), torch.tensor([0.0 if task_head else 9000.0]))}
        dense = {"classifier.bias": torch.tensor([task_head, 0.0]), "classifier.weight": torch.zeros(2, 16)}
        return model, DiffPack.create(SparseDiff(entries, {"body.0.bias": (24,)}), base, dense)

    @pytest.mark.parametrize(
        "task_head, reason",
        [(0.0, "body.0.bias and the diff add up to what float16 cannot"), (1e6, "classifier.bias")],
    )
    def test_apply_merge_and_the_bank(self, task_head, reason):
        model, pack = self.large(task_head)
        before = snapshot(model)
        with pytest.raises(ValueError, match=reason):
            pack.apply(model)
        with pytest.raises(ValueError, match=reason):
            DiffBank(model).add("a", pack)
        if not task_head:
            with pytest.raises(ValueError, match=reason):
                pack.merge(before)
        assert same(snapshot(model), before)

    def test_sums_of_packs(self):
        pack = random_pack(SmallModel(), 1)
        for weights in ([1e6], [NAN], [INF]):
            with pytest.raises(ValueError, match="finite|too large"):
                add_packs([pack], weights, task_head=0, dtype="float16")


def test_a_base_is_known_by_more_than_its_hash():
    """A pack that names some of the base's parameters only, and the hash of all of them."""
    model, pack = SmallModel(), random_pack(SmallModel(), 1)
    fewer = Base(dict(list(pack.base.parameters.items())[:2]), pack.base.hash, {})
    entries = {name: pack.diff.entries[name] for name in fewer.parameters if name in pack.diff.entries}
    forged = DiffPack(SparseDiff(entries, pack.diff.shapes), fewer, {}, {})
    bank = DiffBank(model)
    bank.add("a", pack)
    with pytest.raises(ValueError, match="wrong base"):
        bank.add("b", forged)
    with pytest.raises(ValueError, match="different bases"):
        add_packs([pack, forged], task_head=0)


def test_what_acts_on_a_terminal_is_written_out(tmp_path, capsys):
    assert printable("plain ä 日本 \n\t") == "plain ä 日本 \n\t"
    assert (
        printable("a\x1b[2J\r\x9b1m\u202e\u2028\ud800\x7f\0")
        == "a\\x1b[2J\\r\\x9b1m\\u202e\\u2028\\ud800\\x7f\\x00"
    )
    assert printable("a\nb", keep="") == "a\\nb"
    pack = tmp_path / "task.diff"
    random_pack(
        SmallModel(), 1, config={"task": "\x1b[2Jbase: SHA-256 0", "x\x07": "a\nbase: SHA-256 1"}
    ).save(pack)
    assert main(["diff", "inspect", str(pack)]) == 0
    shown = capsys.readouterr().out
    assert printable(shown) == shown and shown.count("\nbase: SHA-256") == 1
    (tmp_path / "no\x1b[2J").write_bytes(b"")
    assert main(["diff", "inspect", str(tmp_path / "no\x1b[2J")]) == 1
    shown = capsys.readouterr().err
    assert printable(shown) == shown and "\\x1b" in shown
