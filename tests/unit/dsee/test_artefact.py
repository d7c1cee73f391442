"""The file: what is written is read; another kind, or a damaged one, is refused; its entries are counted."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from dsp_plugin.artefacts.base import Base
from dsp_plugin.dsee.artefact import DseeFile, Update
from dsp_plugin.dsee.weight_masks import PackedMask


def base_weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.query.weight": (6, 5), "a.key.weight": (6, 5), "b.weight": (4, 6), "b.bias": (4,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def some_file(**changes) -> DseeFile:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    positions = torch.tensor([0, 3, 19])
    parts = dict(
        base=Base.of(base_weights()),
        updates={"a.query.weight": Update(draw(2, 5), draw(4, 2), positions, draw(3), 2.0)},
        masks={"b.weight": PackedMask.of(draw(4, 5) > 0)},
        kept={"a": [0, 2]},
        groups={},
        task_head={"classifier.weight": draw(2, 4)},
        config={"method": "dsee", "model_config": {"num_labels": 2}},
    )
    return DseeFile(**{**parts, **changes})


def test_what_is_written_is_read(tmp_path):
    file, path = some_file(), tmp_path / "task.dsee.safetensors"
    assert file.save(path) == path.stat().st_size == len(file.to_bytes())
    read = DseeFile.load(path)
    assert read.base == file.base and read.kept == file.kept and read.config == file.config
    for name, update in file.updates.items():
        other = read.updates[name]
        for part in ("down", "up", "positions", "values"):
            assert torch.equal(getattr(update, part), getattr(other, part))
        assert other.scale == update.scale and other.positions.dtype == torch.int64
    assert read.masks == file.masks
    assert torch.equal(read.task_head["classifier.weight"], file.task_head["classifier.weight"])
    assert read.to_bytes() == file.to_bytes() == path.read_bytes()
    assert file.count == 2 * 5 + 4 * 2 + 3 + 8


def test_the_file_holds_so_many_entries_and_nothing_of_the_matrix_s_size(tmp_path):
    path = tmp_path / "task.dsee.safetensors"
    some_file().save(path)
    with safe_open(path, "pt") as file:
        sizes = {name: file.get_tensor(name).numel() for name in file.keys()}
    assert sizes["values.0"] == sizes["positions.0"] == 3
    assert sizes["mask.0"] == 3  # 20 weights
    assert sizes["down.0"] == 10 and sizes["up.0"] == 8


def test_no_byte_can_change_unnoticed(tmp_path):
    path = tmp_path / "task.dsee.safetensors"
    some_file().save(path)
    raw = path.read_bytes()
    for place in [*range(0, len(raw), 37), len(raw) - 1]:
        changed = bytearray(raw)
        changed[place] ^= 1
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="task.dsee.safetensors"):
            DseeFile.load(path)
    for size in (0, 7, 100, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(ValueError, match="task.dsee.safetensors"):
            DseeFile.load(path)
    path.write_bytes(raw + b"x")
    with pytest.raises(ValueError, match="damaged"):
        DseeFile.load(path)


def test_files_of_another_kind_are_refused_by_name(tmp_path):
    other = tmp_path / "model.safetensors"
    save_file({"w": torch.ones(2)}, other)
    with pytest.raises(ValueError, match="not a DSEE file, but another safetensors file"):
        DseeFile.load(other)
    from diff_packs import SmallModel, random_pack

    random_pack(SmallModel(), 1).save(tmp_path / "task.diff.safetensors")
    with pytest.raises(ValueError, match="not a DSEE file"):
        DseeFile.load(tmp_path / "task.diff.safetensors")
    from dsp_plugin.diffs.packs.pack import DiffPack

    some_file().save(tmp_path / "task.dsee.safetensors")
    with pytest.raises(ValueError, match="not a diff pack"):
        DiffPack.load(tmp_path / "task.dsee.safetensors")
    with pytest.raises(FileNotFoundError, match="no DSEE file"):
        DseeFile.load(tmp_path / "none.safetensors")


def update(**changes) -> Update:
    parts = dict(
        down=torch.ones(2, 5),
        up=torch.ones(4, 2),
        positions=torch.tensor([1, 2]),
        values=torch.ones(2),
        scale=1.0,
    )
    return Update(**{**parts, **changes})


@pytest.mark.parametrize(
    "changes,said",
    [
        (dict(updates={}), "nothing to store"),
        (dict(updates={"c.weight": update()}), "not a weight of the base"),
        (dict(updates={"a.query.weight": update(up=torch.ones(4, 3))}), "low rank"),
        (dict(updates={"a.query.weight": update(up=torch.ones(9, 2))}), "shape"),
        (dict(updates={"a.query.weight": update(down=torch.ones(2, 5) * float("nan"))}), "finite"),
        (dict(updates={"a.query.weight": update(positions=torch.tensor([2, 1]))}), "rise"),
        (dict(updates={"a.query.weight": update(positions=torch.tensor([1, 20]))}), "leave"),
        (dict(updates={"a.query.weight": update(values=torch.ones(3))}), "values"),
        (dict(updates={"a.query.weight": update(scale=float("inf"))}), "scale"),
        (dict(masks={"b.weight": PackedMask.of(torch.ones(5, 6) > 0)}), "mask"),
        (dict(kept={"a": [2, 0]}), "rise"),
        (dict(kept={"a": [-1]}), "whole"),
        (dict(kept=None, groups={"a": 4}), "record"),
        (dict(task_head={"b.bias": torch.ones(4)}), "in the base"),
        (dict(config={"model_config": {"auto_map": {}}}), "auto_map"),
        (dict(config={"x": object()}), "JSON"),
    ],
)
def test_what_no_reader_takes_is_not_written(changes, said, tmp_path):
    path = tmp_path / "task.dsee.safetensors"
    with pytest.raises(ValueError, match=said):
        some_file(**changes).save(path)
    assert not list(tmp_path.iterdir())


def test_content_that_makes_no_sense_is_refused_whoever_wrote_it(tmp_path):
    """Files with a good checksum, made by a program of another's."""
    from dsp_plugin.artefacts.bound_file import tensors_in

    raw = some_file().to_bytes()
    about = {"base_hash": some_file().base.hash, "config": {}}
    for change in (
        {"up.0": torch.ones(4, 9)},
        {"up.0": None},
        {"positions.0": torch.tensor([0.0, 1.0, 2.0])},
        {"mask.0": torch.zeros(9, dtype=torch.uint8)},
        {"index": torch.zeros(4, dtype=torch.uint8)},
        {"more": torch.ones(1)},
    ):
        tensors = {**tensors_in(raw), **change}
        tensors = {name: part for name, part in tensors.items() if part is not None}
        path = tmp_path / "other.safetensors"
        path.write_bytes(DseeFile.kind.to_bytes(tensors, about))
        with pytest.raises(ValueError, match="not a valid DSEE file"):
            DseeFile.load(path)
    newer = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]["dsp_dsee"]
    assert json.loads(newer)["format_version"] == 1
