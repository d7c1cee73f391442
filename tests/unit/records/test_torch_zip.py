"""Files of `torch.save` are compared with their own checksums: any damage is found, and nothing else is
refused.
"""

from __future__ import annotations

import io
import random
import shutil
import struct
import zipfile

import pytest
import torch

from dsp_plugin.records.files.torch_zip import check_torch_zip, entries_of_torch_zip


def state():
    generator = torch.Generator().manual_seed(1)
    return {
        "weight": torch.randn(40, 30, generator=generator),
        "empty": torch.zeros(0),
        "steps": 7,
        "name": "a" * 300,
    }


@pytest.fixture
def path(tmp_path):
    torch.save(state(), tmp_path / "saved file ü.pt")
    return tmp_path / "saved file ü.pt"


def same(found) -> bool:
    whole = state()
    return found.keys() == whole.keys() and all(
        torch.equal(found[key], whole[key]) if torch.is_tensor(whole[key]) else found[key] == whole[key]
        for key in whole
    )


def test_a_whole_file(path):
    check_torch_zip(path)
    with open(path, "rb") as file:
        entries = entries_of_torch_zip(file, str(path))
        file.seek(entries["data/0"].offset)
        assert file.read(entries["data/0"].size) == state()["weight"].numpy().tobytes()
    buffer = io.BytesIO()  # as fairseq saves: torch calls the folder inside `archive`
    torch.save(state(), buffer)
    path.write_bytes(buffer.getvalue())
    check_torch_zip(path)


def test_every_flipped_bit_is_refused_or_changes_nothing(path, tmp_path):
    whole, draw, refused = path.read_bytes(), random.Random(1), 0
    damaged = tmp_path / "damaged.pt"
    tail = range(len(whole) - 1500, len(whole))  # the directory
    places = [draw.randrange(len(whole)) for _ in range(400)] + [draw.choice(tail) for _ in range(400)]
    for place in [*range(120), *tail[-300:], *places]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        damaged.write_bytes(flipped)
        try:
            check_torch_zip(damaged)
        except ValueError as error:
            assert "damaged.pt" in str(error)
            refused += 1
            continue
        assert same(torch.load(damaged, weights_only=True)), f"byte {place}"
    assert refused > 400


def test_what_is_taken_torch_can_read(tmp_path):
    """Every bit of a small file: what is not refused has the same content."""
    torch.save({"numbers": torch.arange(4.0)}, tmp_path / "small.pt")
    whole = (tmp_path / "small.pt").read_bytes()
    # the directory; the entries have a checksum each
    for place in range(whole.index(b"PK\x01\x02"), len(whole)):
        for bit in range(8):
            path = tmp_path / "damaged.pt"
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            try:
                check_torch_zip(path)
            except ValueError:
                continue
            assert torch.equal(torch.load(path, weights_only=True)["numbers"], torch.arange(4.0)), (
                place,
                bit,
            )


def test_every_cut_and_every_tail_is_refused(path):
    whole, draw = path.read_bytes(), random.Random(2)
    cuts = [whole[: draw.randrange(len(whole))] for _ in range(100)] + [whole[:-1], whole[:-22], b""]
    for changed in [*cuts, whole + b"\0", whole + whole, b"\0" + whole, whole[:500] + whole[600:]]:
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="saved file"):
            check_torch_zip(path)


def rewritten(path, compression=zipfile.ZIP_STORED, change=None):
    """The same entries in an archive that Python writes."""
    with zipfile.ZipFile(path) as whole:
        contents = [(entry.filename, whole.read(entry)) for entry in whole.infolist()]
    with zipfile.ZipFile(path, "w", compression) as out:
        for name, content in change(contents) if change else contents:
            out.writestr(name, content)


def test_an_archive_that_another_program_has_packed_again(path):
    rewritten(path)
    check_torch_zip(path)
    assert same(torch.load(path, weights_only=True))


def test_compressed_entries(path):
    rewritten(path, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="compressed"):
        check_torch_zip(path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("again", [lambda name: name, str.upper])
def test_two_entries_of_one_name(path, again):
    def doubled(contents):
        folder = contents[0][0].split("/")[0]
        return [*contents, (f"{folder}/{again('data/0')}", b"x")]

    rewritten(path, change=doubled)
    with pytest.raises(ValueError, match="two entries"):
        check_torch_zip(path)


def test_bytes_between_entries(path):
    whole = path.read_bytes()
    start = zipfile.ZipFile(path).start_dir
    size = len(whole) - start - 98
    moved = bytearray(whole[:start] + b"hidden" + whole[start:])
    moved[-6:-2] = struct.pack("<I", start + 6)
    moved[-22 - 20 - 8 : -22 - 20] = struct.pack("<Q", start + 6)
    moved[-22 - 12 : -22 - 4] = struct.pack("<Q", start + 6 + size)
    path.write_bytes(moved)
    assert same(torch.load(path, weights_only=True)), "torch sees nothing of it"
    with pytest.raises(ValueError, match="belong to no entry"):
        check_torch_zip(path)


def test_a_file_written_without_checksums(path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state(), path)
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.warns(UserWarning, match="written without checksums"):
        check_torch_zip(path)


def test_a_file_of_before_the_zip_format(path):
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(ValueError, match="damaged"):
        check_torch_zip(path)


def test_torch_itself_sees_no_damage(path, tmp_path):
    """When this fails, torch compares the checksums by itself."""
    with open(path, "rb") as file:
        place = entries_of_torch_zip(file, str(path))["data/0"].offset
    damaged = shutil.copy(path, tmp_path / "copy.pt")
    with open(damaged, "rb+") as file:
        file.seek(place)
        file.write(b"\x01\x02\x03\x04")
    assert not same(torch.load(damaged, weights_only=True))
    with pytest.raises(ValueError, match="contents of 'data/0'"):
        check_torch_zip(damaged)
