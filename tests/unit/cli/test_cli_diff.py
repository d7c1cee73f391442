"""`dsp diff` on Transformers folders and fairseq checkpoints."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from diff_packs import SmallModel, random_pack, same, snapshot
from killed_everywhere import killed_everywhere
from safetensors.torch import load_file, save_file

from dsp_plugin.cli.main import main
from dsp_plugin.diffs.packs.pack import DiffPack
from dsp_plugin.diffs.packs.undo_file import UndoRecord
from dsp_plugin.records.files.sealed_folder import check_sealed, seal_folder

LABELS = {"id2label": {"0": "no", "1": "yes", "2": "maybe"}}


def body_of(model: SmallModel) -> dict:
    """As `save_pretrained` stores them: tied weights once; without a task head."""
    return {n: t for n, t in snapshot(model).items() if n != "out.weight" and not n.startswith("classifier")}


@pytest.fixture(params=["one file", "shards"])
def folder(request, tmp_path):
    folder = tmp_path / "base"
    folder.mkdir()
    state = body_of(SmallModel())
    if request.param == "one file":
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    else:
        names = sorted(state)
        weight_map = {
            name: f"model-0000{1 + (place > 4)}-of-00002.safetensors" for place, name in enumerate(names)
        }
        for file in set(weight_map.values()):
            save_file({n: state[n] for n in names if weight_map[n] == file}, folder / file, {"format": "pt"})
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text('{"model_type": "small"}')
    (folder / "vocab.txt").write_text("a\nb\n")
    return folder


@pytest.fixture
def checkpoint(tmp_path):
    """fairseq keeps tied weights under both names, and more than weights."""
    path = tmp_path / "checkpoint.pt"
    state = {n: t for n, t in snapshot(SmallModel()).items() if not n.startswith("classifier")}
    state["out.weight"] = state["body.words.weight"]
    torch.save(
        {"model": state, "cfg": {"model": 1}, "last_optimizer_state": {"a": 1}, "optimizer_history": []}, path
    )
    return path


@pytest.fixture
def pack(tmp_path):
    path = tmp_path / "task.diff"
    random_pack(SmallModel(), 5, labels=3, config={"task": "cola", "model_config": LABELS}).save(path)
    return path


def weights(folder) -> dict:
    return {
        name: t for file in sorted(folder.glob("model*.safetensors")) for name, t in load_file(file).items()
    }


def expected(labels: int = 3) -> dict:
    state = body_of(SmallModel())
    random_pack(SmallModel(), 5, labels=labels).apply(state)
    return state


def content(folder) -> dict:
    return {
        path.name: path.read_bytes()
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix != ".safetensors"
    }


def everything(folder) -> dict:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def run(*arguments) -> int:
    return main(["diff", *map(str, arguments)])


def test_apply_and_revert_a_folder(folder, pack, capsys):
    before, files, names = weights(folder), content(folder), sorted(path.name for path in folder.iterdir())
    assert run("apply", pack, folder) == 0
    shown = capsys.readouterr().out
    assert re.search(r"applied: [\d,]+ of [\d,]+ weights .* and the task head", shown)
    assert same(weights(folder), expected())
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "small", **LABELS}
    if (folder / "model.safetensors.index.json").exists():
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        assert set(index["weight_map"]) == set(expected())
        assert index["metadata"]["total_size"] == sum(
            t.numel() * t.element_size() for t in expected().values()
        )
    assert run("revert", folder) == 0
    assert "is its base again" in capsys.readouterr().out
    assert same(weights(folder), before)
    assert sorted(path.name for path in folder.iterdir()) == names
    assert content(folder)["config.json"] == files["config.json"]


def test_a_pack_is_not_applied_twice(folder, pack, capsys):
    run("apply", pack, folder)
    after = weights(folder)
    assert run("apply", pack, folder) == 1
    assert "has a diff applied already" in capsys.readouterr().err
    assert same(weights(folder), after)


@pytest.mark.parametrize("action", ["apply", "revert"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("folder", ["shards"], indirect=True)
def test_a_kill_anywhere_leaves_the_old_model_or_the_new_one(
    folder, pack, action, inside, tmp_path, monkeypatch
):
    """The working folder cannot be replaced as a whole: there `revert` mends what a kill leaves."""
    seal_folder(folder)
    base, words = (
        content(folder)["config.json"],
        {"apply": ["apply", pack, folder], "revert": ["revert", folder]},
    )
    run("apply", pack, folder) if action == "revert" else None
    before, after = shutil.copytree(folder, tmp_path / "before"), tmp_path / "after"
    run(*words[action])
    shutil.copytree(folder, after)
    if inside:
        monkeypatch.chdir(folder)
    whole, kills = (everything(before), everything(after)), 0

    def restart():
        for path in folder.iterdir():
            path.unlink() if path.is_file() else shutil.rmtree(path)
        shutil.copytree(before, folder, dirs_exist_ok=True)

    restart()
    for _ in killed_everywhere(lambda: run(*words[action][:-1], "." if inside else folder)):
        kills += 1
        if inside and (folder / "diff-undo.safetensors").exists():
            assert run("revert", ".") == 0
            assert same(weights(folder), body_of(SmallModel())) and content(folder)["config.json"] == base
        else:
            assert everything(folder) in whole
            assert check_sealed(folder)
        restart()
    assert kills >= 5
    assert everything(folder) == whole[1] and check_sealed(folder)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []


def test_revert_by_base_and_pack(folder, pack, tmp_path, capsys):
    base = shutil.copytree(folder, tmp_path / "copy")
    before = weights(folder)
    run("apply", pack, folder)
    (folder / "diff-undo.safetensors").unlink()
    assert run("revert", folder) == 1
    assert "--base" in capsys.readouterr().err
    assert run("revert", folder, "--base", base) == 1
    assert "--base and --pack" in capsys.readouterr().err
    assert run("revert", folder, "--base", base, "--pack", pack) == 0
    assert same(weights(folder), before)
    assert json.loads((folder / "config.json").read_text()) == {"model_type": "small"}


def test_revert_by_a_bare_base_leaves_the_head_of_a_model_around_it(folder, pack, tmp_path, capsys):
    before = {**weights(folder), "classifier.weight": torch.ones(3, 16), "classifier.bias": torch.ones(3)}
    whole, bare = tmp_path / "whole", tmp_path / "bare"
    for path, state in (
        (whole, before),
        (bare, {name.removeprefix("body."): tensor for name, tensor in weights(folder).items()}),
    ):
        path.mkdir()
        save_file(state, path / "model.safetensors", {"format": "pt"})
        (path / "config.json").write_text(json.dumps({"model_type": path.name}))
    assert run("apply", pack, whole) == 0
    after, config = weights(whole), (whole / "config.json").read_text()
    (whole / "diff-undo.safetensors").unlink()
    assert run("revert", whole, "--base", bare, "--pack", pack) == 0
    assert (
        f"{bare} has no task head: that of {whole} stays as it is (classifier.bias, classifier.weight)"
        in capsys.readouterr().out
    )
    heads = {name: tensor for name, tensor in after.items() if name.startswith("classifier")}
    assert same(weights(whole), {**before, **heads}) and not same(heads, before)
    assert (whole / "config.json").read_text() == config


def test_a_damaged_undo_record_is_refused(folder, pack, capsys):
    before = weights(folder)
    run("apply", pack, folder)
    record, after = folder / "diff-undo.safetensors", weights(folder)
    whole = record.read_bytes()
    for place in range(9, len(whole), max(1, len(whole) // 150)):
        record.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert run("revert", folder) == 1
        assert "is not an undo record, or is damaged" in capsys.readouterr().err
    assert same(weights(folder), after)
    record.write_bytes(whole)
    assert run("revert", folder) == 0 and same(weights(folder), before)


@pytest.mark.parametrize("config", ["", "{", "[]", "[" * 100_000])
def test_a_damaged_configuration_is_seen_before_weights_are_written(folder, pack, tmp_path, config, capsys):
    (folder / "config.json").write_text(config)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    for arguments in (["apply", pack, folder], ["merge", pack, folder, "--out", tmp_path / "merged"]):
        assert run(*arguments) == 1
        assert "config.json is damaged" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files and not (
        tmp_path / "merged"
    ).exists()


def test_revert_writes_no_other_configuration_than_the_one_before(folder, pack, capsys):
    """A record whose checksum fits, but which brings more back than a pack has changed."""
    run("apply", pack, folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    record = UndoRecord.load(folder / "diff-undo.safetensors")
    for config in ('{"model_type": "small", "auto_map": {}}', "{}", '{"model_type": "large"}'):
        replace(record, config=config).save(folder / "diff-undo.safetensors")
        planted = {**files, "diff-undo.safetensors": (folder / "diff-undo.safetensors").read_bytes()}
        assert run("revert", folder) == 1
        assert "cannot revert: config.json and the undo record differ in '" in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == planted
    record.save(folder / "diff-undo.safetensors")
    assert run("revert", folder) == 0 and json.loads((folder / "config.json").read_text()) == {
        "model_type": "small"
    }


def test_revert_refuses_a_model_that_was_trained_on(folder, pack, capsys):
    run("apply", pack, folder)
    file = sorted(folder.glob("model*.safetensors"))[0]
    state = load_file(file)
    name = next(name for name in sorted(state) if name.startswith("body"))
    save_file({**state, name: state[name] + 1}, file)
    after = weights(folder)
    capsys.readouterr()
    assert run("revert", folder) == 1
    assert "cannot revert: the model was changed since" in capsys.readouterr().err
    assert same(weights(folder), after) and (folder / "diff-undo.safetensors").exists()


def test_merge_a_folder(folder, pack, tmp_path):
    before = content(folder) | weights(folder)
    for name in ("1_Pooling/config.json", "checkpoint-3/model.safetensors", ".git/config"):
        (folder / name).parent.mkdir()
        (folder / name).write_text("{}")
    assert run("merge", pack, folder, "--out", tmp_path / "merged") == 0
    assert same(weights(tmp_path / "merged"), expected())
    names = sorted(
        str(path.relative_to(tmp_path / "merged"))
        for path in (tmp_path / "merged").rglob("*")
        if path.is_file()
    )
    assert names == [
        "1_Pooling/config.json",
        "checksums.json",
        "config.json",
        "model.safetensors",
        "vocab.txt",
    ]
    assert run("merge", pack, folder, "--out", folder / "1_Pooling" / "merged") == 0
    assert not (folder / "1_Pooling" / "merged" / "1_Pooling").exists()
    shutil.rmtree(folder / "1_Pooling")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["id2label"]["2"] == "maybe"
    after = content(folder) | weights(folder)
    assert before.keys() == after.keys() and same(weights(folder), body_of(SmallModel()))


@pytest.mark.parametrize("action", ["apply", "merge"])
def test_a_wrong_base_or_a_damaged_pack_changes_nothing(folder, pack, tmp_path, action, capsys):
    more = ["--out", tmp_path / "merged"] if action == "merge" else []
    good, whole = pack.read_bytes(), snapshot(SmallModel())
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    model = SmallModel()
    with torch.no_grad():
        model.body["1"].bias[0] += 1
    other = tmp_path / "other.diff"
    random_pack(model, 5).save(other)
    for path, raw, reason in [
        (other, other.read_bytes(), "wrong base"),
        (pack, good[:-9], "truncated"),
        (pack, good[:-9] + b"\xff" + good[-8:], "damaged"),
        (pack, b"", "not a diff pack"),
    ]:
        path.write_bytes(raw)
        assert run(action, path, folder, *more) == 1
        assert reason in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
        assert not (tmp_path / "merged").exists()
    assert same(whole, snapshot(SmallModel()))


def test_apply_revert_and_merge_a_fairseq_checkpoint(checkpoint, pack, tmp_path):
    pytest.importorskip("fairseq")
    before = torch.load(checkpoint, weights_only=True)
    reference = SmallModel(labels=3)
    random_pack(SmallModel(), 5, labels=3).apply(reference)
    after = snapshot(reference)
    assert run("apply", pack, checkpoint) == 0
    applied = torch.load(checkpoint, weights_only=True)
    assert same(applied["model"], after) and applied["last_optimizer_state"] == {"a": 1}
    assert run("revert", checkpoint) == 0
    reverted = torch.load(checkpoint, weights_only=True)
    assert same(reverted["model"], before["model"]) and reverted["cfg"] == before["cfg"]
    assert run("merge", pack, checkpoint, "--out", tmp_path / "merged.pt") == 0
    merged = torch.load(tmp_path / "merged.pt", weights_only=True)
    assert same(merged["model"], after) and "last_optimizer_state" not in merged
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "merged.pt", "task.diff"]


def test_inspect(pack, capsys):
    loaded = DiffPack.load(pack)
    assert run("inspect", pack) == 0
    shown = capsys.readouterr().out
    assert f"{loaded.count:,} of {loaded.base.total:,}" in shown and "task: cola" in shown
    assert re.search(r"bits each; [\d.]+ is the floor", shown) and re.search(r"body\.0 +\d+", shown)
    assert run("inspect", pack, "--json") == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["positions"] == loaded.count and figures["base_hash"] == loaded.base.hash
    assert figures["file_bytes"] == pack.stat().st_size


def test_compare(pack, tmp_path, capsys):
    second, third = tmp_path / "second.diff", tmp_path / "third.diff"
    random_pack(SmallModel(), 6).save(second)
    random_pack(SmallModel(), 7).save(third)
    assert run("compare", pack, second) == 0
    shown = capsys.readouterr().out
    assert "Jaccard" in shown and "body.1" in shown
    assert run("compare", pack, second, third, "--json") == 0
    pairs = json.loads(capsys.readouterr().out)
    assert [pair["packs"] for pair in pairs] == [
        [str(a), str(b)] for a, b in ((pack, second), (pack, third), (second, third))
    ]
    assert all(0 < pair["jaccard"] < 1 and pair["layers"]["body.0"]["both"] <= pair["both"] for pair in pairs)
    assert run("compare", pack) == 1
    assert "two packs or more" in capsys.readouterr().err


def test_paths_that_are_not_what_they_should_be(folder, checkpoint, pack, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for arguments, reason in [
        (["inspect", tmp_path / "none.diff"], "no diff pack at"),
        (["apply", pack, tmp_path / "none"], "no Transformers folder and no fairseq checkpoint"),
        (["apply", pack, tmp_path / "empty"], "has no model.safetensors"),
        (["apply", pack, next(folder.glob("model*.safetensors"))], "name the folder"),
        (["merge", pack, folder, "--out", folder], "is the base itself"),
        (["merge", pack, folder, "--out", checkpoint], "must be a folder"),
        (["merge", pack, checkpoint, "--out", pack], "is what the pack reads: name another one"),
        (["revert", folder], "no undo record"),
    ]:
        assert run(*arguments) == 1
        assert reason in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run()
    assert "apply" in capsys.readouterr().err
