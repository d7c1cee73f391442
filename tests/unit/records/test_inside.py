"""A model's folder from elsewhere: no name and no link in it leads a program out of it."""

from __future__ import annotations

import json
import os

import pytest
from diff_packs import SmallModel, random_pack, snapshot
from safetensors.torch import save_file

from dsp_plugin.cli.main import main
from dsp_plugin.records.files.inside import check_named

FIRST = "model-00001-of-00002.safetensors"


@pytest.fixture
def places(tmp_path):
    """A folder in two files, somebody else's file of weights, and a pack."""
    folder, victim = tmp_path / "model", tmp_path / "elsewhere" / "victim.safetensors"
    folder.mkdir(), victim.parent.mkdir()
    state = {
        n: t
        for n, t in snapshot(SmallModel()).items()
        if n != "out.weight" and not n.startswith("classifier")
    }
    names = sorted(state)
    save_file({name: state[name] for name in names[:3]}, victim, {"format": "pt"})
    save_file({name: state[name] for name in names[:3]}, folder / FIRST, {"format": "pt"})
    save_file({name: state[name] for name in names[3:]}, folder / "rest.safetensors", {"format": "pt"})
    (folder / "config.json").write_text('{"model_type": "small"}')
    write_index(folder, FIRST)
    pack = tmp_path / "task.diff"
    random_pack(SmallModel(), 5, labels=3, config={"model_config": {"id2label": {"0": "no"}}}).save(pack)
    return folder, victim, pack


def write_index(folder, first):
    kept = [
        name
        for name in sorted(snapshot(SmallModel()))
        if name != "out.weight" and not name.startswith("classifier")
    ]
    weight_map = {name: first if place < 3 else "rest.safetensors" for place, name in enumerate(kept)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def everything(folder):
    return {
        str(path): (os.readlink(path) if path.is_symlink() else path.read_bytes())
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


NAMES = [
    "../elsewhere/victim.safetensors",
    "{victim}",
    "./../elsewhere/victim.safetensors",
    "..\\victim",
    "",
    ".",
    "..",
    "a\0b",
    3,
    None,
    ["rest.safetensors"],
]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("action", ["apply", "merge", "revert"])
def test_a_file_outside_that_the_index_names(name, action, places, tmp_path, capsys):
    folder, victim, pack = places
    write_index(folder, name.format(victim=victim) if isinstance(name, str) else name)
    before = everything(tmp_path)
    words = {
        "apply": ["apply", pack, folder],
        "merge": ["merge", pack, folder, "--out", tmp_path / "out"],
        "revert": ["revert", folder],
    }
    assert main(["diff", *map(str, words[action])]) == 1
    assert "model.safetensors.index.json" in capsys.readouterr().err
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "link", [FIRST, "model.safetensors.index.json", "config.json", "diff-undo.safetensors", "checksums.json"]
)
@pytest.mark.parametrize("inside", [False, True])
def test_apply_writes_through_no_link_that_leads_out(link, inside, places, tmp_path, monkeypatch, capsys):
    """Also where the folder is the working folder, which cannot be replaced as a whole."""
    folder, victim, pack = places
    if (folder / link).exists():
        os.replace(folder / link, victim)
    else:
        victim.unlink()
    (folder / link).symlink_to(victim)
    before = everything(tmp_path)
    if inside:
        monkeypatch.chdir(folder)
    assert main(["diff", "apply", str(pack), "." if inside else str(folder)]) == 1
    assert "is a link out of its folder" in capsys.readouterr().err
    assert everything(tmp_path) == before


LINKS = {
    "a file": lambda folder, secret: (folder / "notes.txt").symlink_to(secret),
    "a file by a relative path": lambda folder, secret: (folder / "notes.txt").symlink_to("../secret/key"),
    "a file in a folder": lambda folder, secret: (
        (folder / "more").mkdir(),
        (folder / "more" / "notes.txt").symlink_to(secret),
    ),
    "a folder": lambda folder, secret: (folder / "more").symlink_to(secret.parent),
    "a folder in a folder": lambda folder, secret: (
        (folder / "a").mkdir(),
        (folder / "a" / "more").symlink_to(secret.parent),
    ),
    "itself": lambda folder, secret: (folder / "more").symlink_to(folder),
    "weights": lambda folder, secret: (
        os.replace(folder / FIRST, secret),
        (folder / FIRST).symlink_to(secret),
    ),
}


@pytest.mark.parametrize("kind", LINKS)
def test_merge_follows_no_link(kind, places, tmp_path, capsys):
    folder, _, pack = places
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("of the user")
    LINKS[kind](folder, tmp_path / "secret" / "key")
    assert main(["diff", "merge", str(pack), str(folder), "--out", str(tmp_path / "out")]) == 1
    assert "is a link" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_hubs_cache_is_read(places, tmp_path):
    """Its files are links to blobs/ of the same model."""
    folder, _, pack = places
    (tmp_path / "cache" / "blobs").mkdir(parents=True)
    for path in list(folder.iterdir()):
        os.replace(path, tmp_path / "cache" / "blobs" / f"blob-{path.name}")
        path.symlink_to(f"../../blobs/blob-{path.name}")
    (tmp_path / "cache" / "snapshots").mkdir()
    os.replace(folder, tmp_path / "cache" / "snapshots" / "1234")
    words = [
        "diff",
        "merge",
        str(pack),
        str(tmp_path / "cache" / "snapshots" / "1234"),
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(words) == 0
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


def test_merge_over_another_models_weights_is_refused(places, tmp_path, capsys):
    folder, _, pack = places
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pytorch_model.bin").write_text("of the user")
    (tmp_path / "out" / "thesis.tex").write_text("of the user")
    words = ["diff", "merge", str(pack), str(folder), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert "holds weights of another model (pytorch_model.bin)" in capsys.readouterr().err
    (tmp_path / "out" / "pytorch_model.bin").unlink()
    assert main(words) == 0 and main(words) == 0  # over its own, too
    assert (tmp_path / "out" / "thesis.tex").exists() and (tmp_path / "out" / "model.safetensors").exists()


def test_names_of_files():
    check_named("folder", "a b.safetensors", "index.json")
    for name in ("/etc/passwd", "a/b", "..", 1, ("a",)):
        with pytest.raises(ValueError, match=r"index\.json names .* which is no file of its folder"):
            check_named("folder", name, "index.json")
