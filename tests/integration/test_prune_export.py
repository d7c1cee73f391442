"""From a trained checkpoint to a pruned and an exported one, by the command lines a user types."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq_commands import PACKAGE, run

from dsp_plugin.cli.main import main
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint
from dsp_plugin.mt.translate.translate import load_model, translate, translation_task

K, N = 6, 24
PLUGIN = ["--user-dir", PACKAGE, "--task", "dsp_translation", "--arch", "dsp_transformer_multi30k_small"]
PLUGIN += ["--criterion", "dsp_label_smoothed_cross_entropy", "--optimizer", "dsp_adam"]
STOCK = ["--arch", "transformer", "--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam"]
for side in ("encoder", "decoder"):
    STOCK += [f"--{side}-layers", 2, f"--{side}-embed-dim", 128, f"--{side}-ffn-embed-dim", 256]
    STOCK += [f"--{side}-attention-heads", 4]
DSP = ["--num-of-heads", K, "--joint-pruning", "--annealing", "--cooldown-steps", 2]
# else fairseq leaves out the last batch of a set where its size is no multiple of 8
WHOLE = ["--required-batch-size-multiple", "1"]
SEARCH = {"max_len_a": 0, "max_len_b": 12}


def train(data: Path, save_dir: Path, *options: object, updates: int = 2) -> Path:
    arguments = [
        data,
        "--save-dir",
        save_dir,
        "--max-update",
        updates,
        "--share-all-embeddings",
        "--lr",
        "3e-3",
    ]
    arguments += [
        "--label-smoothing",
        0.1,
        "--max-tokens",
        300,
        "--cpu",
        "--num-workers",
        0,
        "--disable-validation",
    ]
    arguments += ["--no-epoch-checkpoints", "--no-progress-bar", *options]
    run("fairseq_cli.train", arguments, save_dir).succeeded()
    return save_dir / "checkpoint_last.pt"


def generate(data: Path, folder: Path, path: Path, *options: object) -> list[str]:
    """Sentences that `fairseq-generate` translates."""
    arguments = [data, "--path", path, "--gen-subset", "test", "--max-len-b", 12, "--cpu", "--num-workers", 0]
    arguments += [*WHOLE, "--no-progress-bar", *options]
    output = run("fairseq_cli.generate", arguments, folder).succeeded().output
    return sorted(line.split("\t")[2] for line in output.splitlines() if line.startswith("H-"))


def sentences(data: Path) -> int:
    return len(translation_task(str(data), "test").dataset("test"))


def dsp(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("surgery")


@pytest.fixture(scope="module")
def masked(tiny_data, folder) -> Path:
    return train(tiny_data, folder / "joint", *PLUGIN, *DSP)


@pytest.fixture(scope="module")
def pruned(masked, folder) -> Path:
    assert dsp("prune", masked, "--out", folder / "pruned.pt") == 0
    return folder / "pruned.pt"


@pytest.fixture(scope="module")
def exported(masked, folder) -> Path:
    assert dsp("export", "--format", "fairseq", masked, "--out", folder / "exported.pt") == 0
    return folder / "exported.pt"


def translations(data: Path, path: Path, **overrides):
    task = translation_task(str(data), "test")
    return translate(load_model(str(path), task, overrides or None).double(), task, "test", beam=3, **SEARCH)


def same(one, other) -> None:
    assert [t.tokens for t in one] == [t.tokens for t in other]
    assert [t.score for t in one] == pytest.approx([t.score for t in other], abs=1e-5)


@pytest.mark.parametrize("k", [0, 1, K, N // 2, N])
def test_pruned_translates_as_masked(tiny_data, masked, tmp_path, k):
    assert dsp("prune", masked, "--out", tmp_path / "pruned.pt", "--num-of-heads", k) == 0
    same(translations(tiny_data, masked, num_of_heads=k), translations(tiny_data, tmp_path / "pruned.pt"))


def test_check_pruned_program(tiny_data, masked, tmp_path):
    """The program whose record stands under results/: to its very end."""
    record = tmp_path / "check/results.json"
    arguments = [
        tiny_data,
        "--path",
        masked,
        "--out",
        record,
        "--limit",
        "4",
        "--beam",
        "2",
        "--max-len-b",
        "5",
    ]
    script = Path(__file__).resolve().parents[2] / "scripts/mt/check_pruned.py"
    done = subprocess.run([sys.executable, script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    same = [
        m["value"]
        for m in json.loads(record.read_text())["metrics"]
        if m["name"] == "same translations, float64"
    ]
    assert same == [100.0] * 5


def test_what_prune_says(masked, tmp_path, capsys):
    out = tmp_path / "new" / "small.pt"
    assert dsp("prune", masked, "--out", out) == 0
    said = capsys.readouterr().out
    # a head of this model: three projections of 32 rows with biases, 32 columns of the output projection
    removed = (N - K) * (4 * 128 * 32 + 3 * 32)
    before, after = (
        int(word.replace(",", "")) for word in (said.split("parameters: ")[1].split()[i] for i in (0, 2))
    )
    assert before - after == removed
    assert f"{K} of {N} kept (25.0%)" in said and "decoder-cross" in said and f"written: {out}" in said
    assert out.stat().st_size < masked.stat().st_size / 2  # the optimizer's state is gone, too
    assert sorted(p.name for p in out.parent.iterdir()) == ["small.pt"]


def test_fairseq_generate_takes_the_pruned_checkpoint_as_it_is(tiny_data, masked, pruned, folder):
    assert len(generate(tiny_data, folder, pruned, "--user-dir", PACKAGE)) == sentences(tiny_data)


def test_stock_fairseq_without_the_plugin(tiny_data, exported, masked, folder):
    """A process of its own in an empty folder, which never hears of the plugin."""
    away = folder / "away"
    away.mkdir()
    command = [
        Path(sys.executable).parent / "fairseq-generate",
        tiny_data,
        "--path",
        exported,
        "--gen-subset",
        "test",
    ]
    command += ["--max-len-b", "12", "--cpu", "--num-workers", "0", *WHOLE]
    spy = (
        "import atexit, sys\natexit.register(lambda: print('LOADED', [m for m in sys.modules if "
        "m.split('.')[0] == 'dsp_plugin']))\n"
    )
    (away / "sitecustomize.py").write_text(spy)
    environment = {**os.environ, "PYTHONPATH": str(away)}
    done = subprocess.run(command, cwd=away, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "LOADED []" in done.stdout
    assert sum(line.startswith("H-") for line in done.stdout.splitlines()) == sentences(tiny_data)


def test_exported_translates_as_masked(tiny_data, masked, exported, pruned, folder, monkeypatch):
    import fairseq.utils

    # stock attention works its softmax out in single precision
    monkeypatch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))
    expected = translations(tiny_data, masked)
    same(expected, translations(tiny_data, exported))
    assert dsp("export", pruned, "--out", folder / "from_pruned.pt") == 0
    same(expected, translations(tiny_data, folder / "from_pruned.pt"))


def test_stock_training_goes_on_from_the_exported_checkpoint(tiny_data, exported, folder):
    path = train(tiny_data, folder / "stock-again", *STOCK, "--finetune-from-model", exported, updates=1)
    old, new = (load_checkpoint(str(p))["model"] for p in (exported, path))
    name = "encoder.layers.0.fc1.weight"
    assert not torch.equal(old[name], new[name])
    # what is dead stays dead
    for name, tensor in old.items():
        if name.endswith("v_proj.weight"):
            assert torch.equal(tensor.any(dim=1), new[name].any(dim=1)), name


def test_finetuning_after_pruning(tiny_data, pruned, folder):
    options = [*PLUGIN, "--finetune-from-model", pruned]
    tuned = train(tiny_data, folder / "tuned", *options)
    state = load_checkpoint(str(tuned))
    record = load_checkpoint(str(pruned))["cfg"]["model"]["kept_heads"]
    assert state["cfg"]["model"]["kept_heads"] == record
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert {n: t.shape for n, t in state["model"].items()} == {
        n: t.shape for n, t in load_checkpoint(str(pruned))["model"].items()
    }
    assert len(generate(tiny_data, folder, tuned, "--user-dir", PACKAGE)) == sentences(tiny_data)
    # the same command again goes on where it stopped
    train(tiny_data, folder / "tuned", *options, updates=3)
    state = load_checkpoint(str(tuned))
    assert state["optimizer_history"][-1]["num_updates"] == 3
    assert state["cfg"]["model"]["kept_heads"] == record


def test_pruning_again(tiny_data, pruned, folder, capsys):
    options = [*PLUGIN, "--restore-file", pruned, "--reset-optimizer", "--num-of-heads", 2, "--joint-pruning"]
    options += ["--pruning-lr", 0.2]
    again = train(tiny_data, folder / "again", *options)
    assert dsp("prune", again, "--out", folder / "twice.pt") == 0
    assert "2 of 24 kept (8.3%); 6 before this removal" in capsys.readouterr().out
    same(translations(tiny_data, again), translations(tiny_data, folder / "twice.pt"))
    files = (folder / "pruned.pt", folder / "twice.pt")
    once, twice = (json.loads(load_checkpoint(str(file))["cfg"]["model"]["kept_heads"]) for file in files)
    assert sum(map(len, twice.values())) == 2
    assert all(set(twice[block]) <= set(once[block]) for block in once)


def test_a_checkpoint_of_stock_fairseq_with_a_mask(tiny_data, folder, tmp_path, capsys):
    stock = train(tiny_data, folder / "stock", *STOCK, updates=1)
    assert dsp("prune", stock, "--out", tmp_path / "small.pt") == 1
    assert "no head scores" in capsys.readouterr().err
    mask = [head % 3 == 0 for head in range(N)]
    (tmp_path / "mask.json").write_text(json.dumps({"keep": mask}))
    assert dsp("prune", stock, "--out", tmp_path / "small.pt", "--mask", tmp_path / "mask.json") == 0
    assert len(generate(tiny_data, folder, tmp_path / "small.pt", "--user-dir", PACKAGE)) == sentences(
        tiny_data
    )
    assert dsp("export", stock, "--out", tmp_path / "stock.pt", "--mask", tmp_path / "mask.json") == 0
    # else sentences are dropped
    assert f"--path {tmp_path / 'stock.pt'} {' '.join(WHOLE)}\n" in capsys.readouterr().out
    assert len(translations(tiny_data, tmp_path / "stock.pt")) == sentences(tiny_data)


def refusal(capsys, *arguments: object) -> str:
    assert dsp(*arguments) == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("command", ["prune", "export"])
def test_bad_input(command, masked, pruned, tmp_path, capsys):
    out = tmp_path / "out.pt"
    before = masked.read_bytes()
    assert f"--num-of-heads must be a whole number in 0..{N}" in refusal(
        capsys, command, masked, "--out", out, "--num-of-heads", N + 1
    )
    with pytest.raises(SystemExit):
        dsp(command, masked, "--out", out, "--num-of-heads=-1")
    assert "--num-of-heads: '-1': a whole number, 0 or more belongs there" in capsys.readouterr().err
    assert "is the checkpoint itself" in refusal(capsys, command, masked, "--out", masked)
    (tmp_path / "link.pt").symlink_to(masked)
    assert "is the checkpoint itself" in refusal(capsys, command, masked, "--out", tmp_path / "link.pt")
    assert "is a folder" in refusal(capsys, command, masked, "--out", tmp_path)
    assert "no checkpoint at" in refusal(capsys, command, tmp_path / "none.pt", "--out", out)
    assert "none.json" in refusal(capsys, command, masked, "--out", out, "--mask", tmp_path / "none.json")
    assert "no head scores" in refusal(capsys, command, pruned, "--out", out, "--num-of-heads", 2)
    with pytest.raises(SystemExit):
        dsp(command, masked, "--out", out, "--num-of-heads", 2, "--mask", "m.json")
    assert not out.exists() and masked.read_bytes() == before


@pytest.mark.parametrize("command", ["prune", "export"])
def test_damaged_and_hostile_checkpoints(command, masked, tmp_path, capsys):
    out, bad = tmp_path / "out.pt", tmp_path / "bad.pt"
    whole = masked.read_bytes()
    for content in (b"", b"no checkpoint", whole[: len(whole) // 2]):
        bad.write_bytes(content)
        assert "bad.pt" in refusal(capsys, command, bad, "--out", out)
    torch.save([1, 2], bad)
    assert "not a fairseq checkpoint" in refusal(capsys, command, bad, "--out", out)

    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'sprung'}",)

    state = {**torch.load(masked, weights_only=True), "extra_state": {"train_iterator": Trap()}}
    torch.save(state, bad)
    assert "refused" in refusal(capsys, command, bad, "--out", out)
    bad.write_bytes(pickle.dumps({"model": Trap()}, protocol=2))
    assert "bad.pt" in refusal(capsys, command, bad, "--out", out)
    assert not (tmp_path / "sprung").exists() and not out.exists()


def test_a_full_disk_loses_nothing(masked, tmp_path):
    out = tmp_path / "out.pt"
    out.write_bytes(b"an older one")
    arguments = ["prune", masked, "--out", out]
    said = run("dsp_plugin.cli.main", arguments, tmp_path / "logs", largest_file=100_000).failed()
    assert f"cannot write {out}" in said and "Traceback" not in said
    assert out.read_bytes() == b"an older one"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["logs", "out.pt"]
