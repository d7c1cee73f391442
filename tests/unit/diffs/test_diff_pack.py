"""The file of a pack: what comes back, what is refused, how large it is."""

from __future__ import annotations

import errno
import json
import random

import pytest
import torch
from diff_packs import SmallModel, random_diff, random_pack, same, sealed
from safetensors.torch import save_file

from dsp_plugin.artefacts.base import Base
from dsp_plugin.diffs.packs import pack_file
from dsp_plugin.diffs.packs.layers import layer_of
from dsp_plugin.diffs.packs.pack import DiffPack
from dsp_plugin.diffs.packs.summary import mask_fingerprint, summarise
from dsp_plugin.diffs.sparse import SparseDiff


def tensors_of_pack(pack: DiffPack) -> dict:
    entries = {
        f"{name}/{part}": t for name, entry in pack.diff.entries.items() for part, t in zip("pv", entry)
    }
    return {**entries, **{f"head/{name}": tensor for name, tensor in pack.task_head.items()}}


@pytest.fixture(scope="module")
def pack() -> DiffPack:
    return random_pack(SmallModel(), 3, config={"task": "cola", "weights": '"checksum": "' + "0" * 64})


@pytest.fixture(scope="module")
def raw(pack) -> bytes:
    return pack.to_bytes()


@pytest.mark.parametrize("seed", range(12))
def test_random_packs_come_back(seed, tmp_path):
    chance = random.Random(seed)
    dtype = chance.choice(["float16", "bfloat16", "float32"])
    model = SmallModel(
        labels=chance.randint(1, 5), dtype=chance.choice([torch.float32, torch.bfloat16, torch.float64])
    )
    pack = random_pack(model, seed, labels=3, density=chance.choice([0.001, 0.05, 0.6, 1.0]), dtype=dtype)
    size = pack.save(tmp_path / "task.diff")
    assert size == (tmp_path / "task.diff").stat().st_size
    again = DiffPack.load(tmp_path / "task.diff")
    assert same(tensors_of_pack(again), tensors_of_pack(pack))
    assert all(str(values.dtype) == f"torch.{dtype}" for _, values in again.diff.entries.values())
    assert (again.base, again.config, again.diff.shapes) == (pack.base, pack.config, pack.diff.shapes)
    assert again.to_bytes() == pack.to_bytes(), "the same pack is the same file"


def test_printed_it_is_one_line_of_figures(pack):
    share = f"{pack.count:,} of {pack.base.total:,} weights ({100 * pack.count / pack.base.total:.3g} %)"
    assert (
        repr(pack) == f"DiffPack({share}, task head of {16 * 2 + 2} parameters, base {pack.base.hash[:12]})"
    )


def test_the_fingerprint_of_a_mask_is_of_its_positions_alone(pack):
    entries = pack.diff.entries
    first = mask_fingerprint(pack.diff)
    others = {name: (positions, values + 1) for name, (positions, values) in reversed(entries.items())}
    assert first == mask_fingerprint(SparseDiff(others, pack.diff.shapes))
    name, (positions, values) = next(item for item in entries.items() if 0 not in item[1][0])
    moved = {**entries, name: (torch.cat([torch.tensor([0]), positions[1:]]), values)}
    empty = {name: (positions[:0], values[:0]) for name, (positions, values) in entries.items()}
    assert len({first, *(mask_fingerprint(SparseDiff(odd, pack.diff.shapes)) for odd in (moved, empty))}) == 3


def test_values_are_rounded_to_the_packs_dtype():
    model = SmallModel()
    base = Base.of(model, ["classifier"])
    diff = random_diff(base, 5)
    for dtype in ("float16", "float32"):
        made = DiffPack.create(diff, base, dtype=dtype)
        for name, (positions, values) in diff.entries.items():
            assert torch.equal(made.diff.entries[name][0], positions)
            assert torch.equal(made.diff.entries[name][1], values.to(getattr(torch, dtype)))


def test_a_value_that_underflows_keeps_its_position_and_counts_as_zero():
    model = SmallModel()
    base = Base.of(model, ["classifier"])
    diff = SparseDiff(
        {"body.norm.bias": (torch.tensor([1, 4]), torch.tensor([1e-12, 0.5]))}, {"body.norm.bias": (16,)}
    )
    made = DiffPack.create(diff, base)
    assert (made.count, made.nonzeros) == (2, 1)
    assert made.density == 2 / base.total


def test_a_head_alone_can_be_packed(tmp_path):
    model = SmallModel()
    made = DiffPack.create(SparseDiff({}), Base.of(model, ["classifier"]), {"classifier.bias": torch.ones(2)})
    made.save(tmp_path / "head.diff")
    again = DiffPack.load(tmp_path / "head.diff")
    assert again.count == 0 and torch.equal(again.task_head["classifier.bias"], torch.ones(2))


@pytest.mark.parametrize(
    "entries, task_head, dtype, reason",
    [
        (
            {"body.9.weight": (torch.tensor([0]), torch.ones(1))},
            {},
            "float16",
            "'body.9.weight', which the base does not have",
        ),
        ({"classifier.bias": (torch.tensor([0]), torch.ones(1))}, {}, "float16", "'classifier.bias'"),
        (
            {"body.norm.bias": (torch.tensor([0]), torch.tensor([torch.nan]))},
            {},
            "float16",
            "body.norm.bias.*not finite",
        ),
        (
            {"body.norm.bias": (torch.tensor([0]), torch.tensor([1e6]))},
            {},
            "float16",
            "1e\\+06, too large for torch.float16",
        ),
        ({}, {"classifier.bias": torch.tensor([torch.inf])}, "float16", "classifier.bias.*not finite"),
        ({}, {"body.norm.bias": torch.ones(16)}, "float16", "in the task head and in the base"),
        ({}, {}, "float16", "nothing to pack"),
        ({}, {"classifier.bias": torch.ones(2)}, "int8", "float16, bfloat16, float32"),
    ],
)
def test_what_cannot_be_packed(entries, task_head, dtype, reason):
    shapes = {name: (16,) for name in entries}
    with pytest.raises(ValueError, match=reason):
        DiffPack.create(
            SparseDiff(entries, shapes), Base.of(SmallModel(), ["classifier"]), task_head, dtype=dtype
        )


def test_another_shape_than_the_bases_is_refused():
    diff = SparseDiff({"body.norm.bias": (torch.tensor([0]), torch.ones(1))}, {"body.norm.bias": (4, 4)})
    with pytest.raises(ValueError, match=r"\[4, 4\].*\[16\]"):
        DiffPack.create(diff, Base.of(SmallModel(), ["classifier"]))


def test_a_configuration_must_be_json(pack, tmp_path):
    made = DiffPack(pack.diff, pack.base, pack.task_head, {"model": SmallModel})
    with pytest.raises(ValueError, match="JSON"):
        made.save(tmp_path / "x.diff")
    assert not list(tmp_path.iterdir())


def test_every_flipped_bit_is_noticed(raw):
    pack_file.unpack(raw, "x")
    header = 8 + int.from_bytes(raw[:8], "little")
    chance = random.Random(0)
    # all of the size and of the header's first part, then some of everything
    for bit in [
        *range(64),
        *chance.sample(range(64, 8 * header), 500),
        *chance.sample(range(8 * header, 8 * len(raw)), 500),
    ]:
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError, match="a.diff"):
            pack_file.unpack(bytes(flipped), "a.diff")


def test_every_truncation_and_extension_is_noticed(raw):
    for length in [*range(0, 64), *range(64, len(raw), 97), len(raw) - 1]:
        with pytest.raises(ValueError, match="a.diff"):
            pack_file.unpack(raw[:length], "a.diff")
    with pytest.raises(ValueError, match="a.diff is truncated"):
        pack_file.unpack(raw[:-1], "a.diff")
    with pytest.raises(ValueError, match="a.diff"):
        pack_file.unpack(raw + b"\0", "a.diff")


def test_two_exchanged_values_are_noticed(raw):
    place = len(raw) - 40
    swapped = raw[:place] + raw[place + 2 : place + 4] + raw[place : place + 2] + raw[place + 4 :]
    assert swapped != raw
    with pytest.raises(ValueError, match="checksum"):
        pack_file.unpack(swapped, "a.diff")


def test_sealing_alone_changes_nothing():
    plain = random_pack(SmallModel(), 1).to_bytes()
    assert pack_file.unpack(sealed(plain), "x")[1] == pack_file.unpack(plain, "x")[1]


@pytest.mark.parametrize(
    "how, reason",
    [
        (dict(about={"format_version": 2}), "format version 2.*reads up to 1: update"),
        (dict(about={"format_version": "1"}), "format version '1'"),
        (dict(index=lambda i: i["changed"][0].__setitem__(0, 99)), "parameter number 99"),
        (dict(index=lambda i: i["changed"][1].__setitem__(0, i["changed"][0][0])), "changed twice"),
        (dict(index=lambda i: i["changed"][0].__setitem__(1, 10**6)), "announced"),
        (dict(index=lambda i: i["changed"][0].__setitem__(2, 0)), "not positive"),
        (dict(index=lambda i: i["parameters"][i["changed"][0][0]].__setitem__(2, [1])), "leave a tensor"),
        (dict(index=lambda i: i.pop("changed")), "'changed' is missing"),
        (dict(tensors={"values": None}), "'values' is missing"),
        (dict(tensors={"values": torch.zeros(3).half()}), "3 values"),
        (dict(tensors={"values": torch.zeros(3)}), "torch.float32"),
        (dict(tensors={"positions.unary": None}), "'positions.unary' is missing"),
    ],
)
def test_wrong_content_under_a_right_checksum_is_refused(how, reason):
    plain = random_pack(SmallModel(), 1).to_bytes()
    with pytest.raises(ValueError, match=f"a.diff.*{reason}"):
        pack_file.unpack(sealed(plain, **how), "a.diff")


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.diff"):
        DiffPack.load(tmp_path / "none.diff")
    save_file({"a": torch.zeros(3)}, tmp_path / "model.safetensors")
    with pytest.raises(
        ValueError, match="model.safetensors is not a diff pack, but another safetensors file"
    ):
        DiffPack.load(tmp_path / "model.safetensors")
    for content in (b"", b"not a pack", b"PK\x03\x04" * 20, b"\x02" + bytes(7) + b"[]"):
        (tmp_path / "other").write_bytes(content)
        with pytest.raises(ValueError, match="other is not a diff pack"):
            DiffPack.load(tmp_path / "other")


def test_a_file_of_any_size_that_is_no_pack_is_not_read_whole(tmp_path, raw):
    for start in (b"", b"PK", (2**60).to_bytes(8, "little"), (50).to_bytes(8, "little"), raw):
        with open(tmp_path / "large", "wb") as file:
            file.write(start)
            file.truncate(1 << 40)  # a hole: it takes no space
        with pytest.raises(ValueError, match="large is (not a diff pack|damaged)"):
            DiffPack.load(tmp_path / "large")


def test_a_failed_save_leaves_the_old_file(pack, tmp_path, monkeypatch):
    path = tmp_path / "task.diff"
    pack.save(path)
    before = path.read_bytes()

    def full_disk(self, content):
        self.open("wb").write(content[:100])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(path), "write_bytes", full_disk)
    with pytest.raises(OSError, match="No space"):
        random_pack(SmallModel(), 9).save(path)
    monkeypatch.undo()
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_bert_base_at_half_a_percent_fits_into_two_megabytes(tmp_path):
    """109.5 M parameters: 547 k random positions, float16 values."""
    generator = torch.Generator().manual_seed(0)
    shapes = {f"layer.{number}.weight": (3072, 768) for number in range(46)} | {"bias": (800_000,)}
    total = sum(torch.Size(shape).numel() for shape in shapes.values())
    count = int(0.005 * total)
    entries = {}
    for name, shape in shapes.items():
        size = torch.Size(shape).numel()
        positions = torch.randint(size, (round(count * size / total),), generator=generator).unique()
        entries[name] = (positions, torch.randn(len(positions), generator=generator) * 1e-3)
    base = Base({name: ("float32", shape) for name, shape in shapes.items()}, "0" * 63 + "1")
    pack = DiffPack.create(SparseDiff(entries, shapes), base)
    assert total > 109e6 and pack.count > 540_000
    assert pack.save(tmp_path / "task.diff") < 1.75e6
    figures = summarise(pack)
    assert figures.floor < figures.bits_per_position < figures.floor + 0.06
    assert figures.file_bytes == (tmp_path / "task.diff").stat().st_size


def test_summary(pack):
    figures = summarise(pack)
    assert figures.positions == pack.count and figures.density == pack.density
    assert sum(layer.positions for layer in figures.layers) == pack.count
    assert sum(layer.nonzeros for layer in figures.layers) == pack.nonzeros
    assert sum(layer.weights for layer in figures.layers) == figures.weights == pack.base.total
    assert figures.value_bytes == 2 * pack.count and figures.task_head_parameters == 2 * 16 + 2
    parts = figures.position_bytes + figures.value_bytes + figures.task_head_bytes + figures.other_bytes
    assert parts == figures.file_bytes == len(pack.to_bytes())
    values = (
        pack.diff.entries["body.norm.bias"][1].double(),
        pack.diff.entries["body.norm.weight"][1].double(),
    )
    layer = next(layer for layer in figures.layers if layer.layer == "body")
    words = pack.diff.entries["body.words.weight"][1].double()
    assert layer.norm == pytest.approx(torch.cat([*values, words]).norm().item())
    assert json.loads(json.dumps(figures.to_dict()))["density"] == pack.density


@pytest.mark.parametrize(
    "name, layer",
    [
        ("bert.encoder.layer.3.output.dense.weight", "bert.encoder.layer.3"),
        ("bert.embeddings.LayerNorm.bias", "bert.embeddings"),
        ("decoder.layers.11.fc1.bias", "decoder.layers.11"),
        ("0.auto_model.encoder.layer.3.output.dense.weight", "0.auto_model.encoder.layer.3"),
        ("body.0.weight", "body.0"),
        ("shared.weight", "shared"),
        ("weight", "weight"),
    ],
)
def test_layer_of(name, layer):
    assert layer_of(name) == layer
