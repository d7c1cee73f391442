"""Diff pruning of a translation model by the command lines a user types: three stages, generation, resume,
refusals.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq")

from diff_mt import (
    DENSITY,
    DIFF,
    RECIPE,
    SCRIPTS,
    SEARCH,
    STAGE1,
    by_hand,
    parameters,
    translation_task,
    translations,
)
from fairseq_commands import run
from fairseq_models import batch, build
from fairseq_training import assert_same, checkpoint, train, train_in_two_processes, updates, validations
from torch.nn.functional import cross_entropy

from dsp_plugin.cli.main import main
from dsp_plugin.diffs import DiffPack, count_of
from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dsp_plugin.mt.diffs.base import read_base
from dsp_plugin.mt.diffs.packs import read_trained
from dsp_plugin.mt.programs.chassis.refusals import one_line
from dsp_plugin.mt.translate.translate import load_model
from dsp_plugin.options.errors import dashed


@pytest.fixture(scope="module")
def base(stock_run) -> Path:
    return stock_run / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def done(tiny_data, base, tmp_path_factory):
    """(save folder, what was printed) of all three stages: 3 and 4 updates."""
    folder = tmp_path_factory.mktemp("diff")
    words = [
        tiny_data,
        "--base-checkpoint",
        base,
        *RECIPE,
        *STAGE1,
        "--max-update",
        3,
        "--save-dir",
        folder / "run",
    ]
    words += ["--target-sparsity", DENSITY, "--finetune-max-update", 4, "--finetune-lr", 1e-2]
    return folder / "run", words, run(str(SCRIPTS / "run_diff.py"), words, folder).succeeded()


@pytest.fixture(scope="module")
def pack(done) -> Path:
    return done[0] / str(DENSITY) / "task.diff.safetensors"


# ---- the three stages


def test_the_stages_end_in_a_pack_of_the_density(done, pack, base):
    folder, _, finished = done
    made = DiffPack.load(pack)
    weights = sum(parameter.numel() for parameter in parameters(base).values())
    assert made.base.total == weights and made.count == count_of(DENSITY, weights)
    assert made.config["method"] == "diff-structured" and made.config["finetuned_updates"] > 0
    assert f"{made.count:,} of {weights:,} weights" in finished.output
    records = [json.loads((folder / part / "results.json").read_text()) for part in ("1st", f"{DENSITY}/3rd")]
    assert [record["method"] for record in records] == ["diff-structured-unprojected", "diff-structured-5%"]
    told = records[1]["extra"]["diff"]
    assert (told["bytes"], told["positions"]) == (pack.stat().st_size, made.count)


def test_the_embeddings_that_are_tied_count_once(pack):
    made = DiffPack.load(pack)
    tied = {"decoder.embed_tokens.weight", "decoder.output_projection.weight"}
    assert not tied & set(made.base.parameters) and set(made.base.tied["encoder.embed_tokens.weight"]) == tied


def test_the_mask_is_the_largest_changes_of_stage_1(done, base):
    """And the checkpoint of stage 1 holds the deterministic theta: base + diff."""
    folder, _, _ = done
    before = parameters(base)
    deltas = read_trained(str(folder / "1st/checkpoint_last.pt"), read_base(str(base)).model()).deltas
    flat = torch.cat([deltas[name].reshape(-1).abs() for name in deltas])
    mask = DiffPack.load(folder / str(DENSITY) / "mask.diff.safetensors")
    smallest = min(float(values.abs().min()) for _, values in mask.diff.entries.values())
    assert int((flat > smallest).sum()) < mask.count <= int((flat >= smallest).sum())
    model = checkpoint(folder / "1st")["model"]
    for name in deltas:
        torch.testing.assert_close(model[name], before[name].detach() + deltas[name], atol=1e-7, rtol=1e-6)


def test_the_pack_is_the_best_checkpoint(done, pack, base):
    """To the float16 in which packs hold values; nothing but kept positions differs from the base."""
    before, best = parameters(base), checkpoint(done[0] / str(DENSITY) / "3rd", "checkpoint_best.pt")["model"]
    made, changed = DiffPack.load(pack), 0
    for name, parameter in before.items():
        difference = (best[name] - parameter.detach()).reshape(-1)
        positions, values = made.diff.entries.get(name, (torch.empty(0, dtype=torch.int64), torch.empty(0)))
        torch.testing.assert_close(difference[positions], values.float(), atol=1e-5, rtol=1e-3)
        difference[positions] = 0
        assert not difference.any()
        changed += len(values)
    assert changed == made.count


def test_what_a_checkpoint_holds_is_told_by_its_state(done, base, tmp_path):
    """fairseq notes the class of the optimizer, which under --amp is that of the wrapper."""
    for folder, kind in (("1st", "diff"), (f"{DENSITY}/3rd", "fixmask")):
        state = checkpoint(done[0] / folder)
        state["optimizer_history"][-1]["optimizer_name"] = "AMPOptimizer"
        save_checkpoint(state, str(tmp_path / f"{kind}.pt"))
        model = read_base(str(base)).model()
        assert read_trained(str(tmp_path / f"{kind}.pt"), model).kind == kind
        save_checkpoint({**state, "last_optimizer_state": None}, str(tmp_path / "bare.pt"))
        with pytest.raises(ValueError, match="has no optimizer state, which holds the diff"):
            read_trained(str(tmp_path / "bare.pt"), model)


def test_started_again_it_trains_nothing_more(done, pack, tmp_path):
    """Killed after the last update, before the pack: it is made, and is the same; what is done stays as it
    is.
    """
    folder, words, _ = done
    before, made = {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")}, pack.read_bytes()
    pack.unlink()
    (folder / str(DENSITY) / "3rd/results.json").unlink()
    again = run(str(SCRIPTS / "run_diff.py"), [*words, "--log-interval", 7], tmp_path).succeeded()
    assert "begin training epoch" not in again.output and "1st is done" in again.output
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.pt")} == before
    assert pack.read_bytes() == made


# ---- by fairseq-train


def test_plain_fairseq_train_resumed_is_stage_1_of_the_program(tiny_data, base, done, tmp_path):
    """Interrupted after the first epoch of two updates, the third one equals the uninterrupted one's, bit
    for bit.
    """
    flags = [*DIFF, "--base-checkpoint", base, "--lr-scheduler", "polynomial_decay", "--total-num-update", 3]
    first = train(tiny_data, tmp_path, *flags, "--max-update", 2).succeeded()
    second = train(tiny_data, tmp_path, *flags, "--max-update", 3).succeeded()
    assert [line["num_updates"] for line in updates(first) + updates(second)] == ["1", "2", "3"]
    resumed, expected = checkpoint(tmp_path), checkpoint(done[0] / "1st")
    assert_same(dict(resumed["model"]), dict(expected["model"]), "model")
    assert_same(resumed["last_optimizer_state"], expected["last_optimizer_state"], "optimizer")
    densities = [float(line["expected_density"]) for line in updates(first) + updates(second)]
    assert 0 < densities[2] < densities[1] < densities[0] < 1
    # validation is of what is saved: no sample
    model, task = (
        load_model(str(tmp_path / "checkpoint_last.pt"), translation_task(tiny_data)),
        translation_task(tiny_data),
    )
    sample = batch(task, sentences=16)
    with torch.no_grad():
        logits = model(**sample["net_input"])[0].double()
    bits = cross_entropy(
        logits.flatten(0, 1), sample["target"].flatten(), ignore_index=task.target_dictionary.pad()
    )
    assert float(validations(second)[-1]["valid_nll_loss"]) == pytest.approx(
        float(bits / torch.tensor(2.0).log()), abs=6e-4
    )


def test_two_processes_train_one_diff(tiny_data, base, tmp_path):
    """As one process with as many micro-batches."""
    flags = [*DIFF, "--base-checkpoint", base, "--dropout", 0, "--max-update", 2, "--disable-validation"]
    for rank in train_in_two_processes(tiny_data, tmp_path / "two", *flags, "--update-freq", 1):
        rank.succeeded()
    train(tiny_data, tmp_path / "one", *flags).succeeded()
    two, one = checkpoint(tmp_path / "two"), checkpoint(tmp_path / "one")
    for name, value in one["model"].items():
        torch.testing.assert_close(
            two["model"][name], value, atol=1e-5, rtol=1e-4, msg=lambda m: f"{name}: {m}"
        )
    state = one["last_optimizer_state"]["state"][0]
    torch.testing.assert_close(
        two["last_optimizer_state"]["state"][0]["alpha"], state["alpha"], atol=1e-3, rtol=1e-3
    )


# ---- translating with a pack


def test_fairseq_generate_with_a_pack_is_the_model_with_the_diff(tiny_data, base, pack, tmp_path):
    found = translations(tiny_data, tmp_path, base, "--diff-pack", pack)
    task = translation_task(tiny_data)
    model = load_model(str(base), task)
    without = by_hand(model, task)
    undo = DiffPack.load(pack).apply(model)
    packed = by_hand(model, task)
    assert found == packed and found != without
    # the file that `dsp diff merge` writes is that model
    assert main(["diff", "merge", str(pack), str(base), "--out", str(tmp_path / "merged.pt")]) == 0
    assert_same(load_model(str(tmp_path / "merged.pt"), task).state_dict(), model.state_dict(), "model")
    undo.revert(model)
    assert by_hand(model, task) == without


def test_a_pack_applied_to_a_checkpoint_and_reverted(base, pack, tmp_path):
    copy, name = tmp_path / "base.pt", "encoder.embed_tokens.weight"
    shutil.copyfile(base, copy)
    before = load_checkpoint(str(base))["model"]
    assert main(["diff", "apply", str(pack), str(copy)]) == 0
    assert not torch.equal(load_checkpoint(str(copy))["model"][name], before[name])
    assert main(["diff", "revert", str(copy)]) == 0
    assert_same(dict(load_checkpoint(str(copy))["model"]), dict(before), "model")


def test_the_record_of_a_translation_tells_of_the_pack(tiny_data, base, pack, tmp_path):
    words = [
        tiny_data,
        "--path",
        base,
        "--diff-pack",
        pack,
        *SEARCH,
        "--quiet",
        "--record-dir",
        tmp_path / "record",
    ]
    run(str(SCRIPTS / "generate_dsp.py"), words, tmp_path).succeeded()
    record = json.loads((tmp_path / "record/results.json").read_text())
    made = DiffPack.load(pack)
    assert record["method"] == "diff-structured-5%" and record["metrics"][0]["signature"]
    told = record["extra"]["diff"]
    assert (told["positions"], told["total"], told["bytes"]) == (
        made.count,
        made.base.total,
        pack.stat().st_size,
    )
    assert sum(layer["weights"] for layer in told["layers"]) == made.base.total


def test_non_adaptive_without_the_embeddings(base, tmp_path):
    before, noise = parameters(base), torch.Generator().manual_seed(1)
    changes = {
        name: 0.1 * torch.randn(parameter.shape, generator=noise) for name, parameter in before.items()
    }
    state = load_checkpoint(str(base))
    state["model"] = {name: tensor + changes.get(name, 0) for name, tensor in state["model"].items()}
    save_checkpoint(state, str(tmp_path / "full.pt"))
    words = [
        tmp_path / "full.pt",
        "--base-checkpoint",
        base,
        "--out",
        tmp_path / "task.pack",
        "--target-sparsity",
        0.01,
        "--fix-layer",
    ]
    run(str(SCRIPTS / "pack_diff.py"), [*words, 1], tmp_path).succeeded()
    made = DiffPack.load(tmp_path / "task.pack")
    free = {
        name: changes[name]
        for name in before
        if "embed" not in name and not name.startswith("encoder.layers.0.")
    }
    assert set(made.diff.entries) <= set(free) and made.config["fix_layer"] == 1
    assert made.count == count_of(0.01, sum(parameter.numel() for parameter in before.values()))
    kept = torch.cat([values.float() for _, values in made.diff.entries.values()]).abs().sort().values
    largest = (
        torch.cat([change.flatten() for change in free.values()]).abs().topk(made.count).values.sort().values
    )
    torch.testing.assert_close(kept, largest, rtol=1e-3, atol=1e-6)
    refused = run(str(SCRIPTS / "pack_diff.py"), [*words, 9], tmp_path)
    assert (
        refused.returncode
        and "fix_layer must be between -1 (nothing) and the number of layers" in refused.output
    )


# ---- a head-pruned base


def test_a_diff_on_a_head_pruned_base(tiny_data, base, tmp_path):
    mask, pruned = tmp_path / "mask.json", tmp_path / "pruned.pt"
    mask.write_text(json.dumps([True, False, True] * 8))
    assert main(["prune", str(base), "--mask", str(mask), "--out", str(pruned)]) == 0
    flags = [*DIFF, "--base-checkpoint", pruned, "--max-update", 2, "--disable-validation"]
    train(tiny_data, tmp_path / "1st", *flags).succeeded()
    trained, before = checkpoint(tmp_path / "1st"), load_checkpoint(str(pruned))
    assert trained["cfg"]["model"]["kept_heads"] == before["cfg"]["model"]["kept_heads"]
    assert {name: tensor.shape for name, tensor in trained["model"].items()} == {
        name: tensor.shape for name, tensor in before["model"].items()
    }
    words = [tmp_path / "1st/checkpoint_last.pt", "--base-checkpoint", pruned, "--target-sparsity", 0.1]
    words += ["--out", tmp_path / "task.pack"]
    run(str(SCRIPTS / "pack_diff.py"), words, tmp_path).succeeded()
    made = DiffPack.load(tmp_path / "task.pack")
    weights = sum(parameter.numel() for parameter in parameters(pruned).values())
    assert made.count == count_of(0.1, weights) and weights < sum(
        parameter.numel() for parameter in parameters(base).values()
    )
    found = translations(tiny_data, tmp_path, pruned, "--diff-pack", tmp_path / "task.pack")
    task = translation_task(tiny_data)
    model = load_model(str(pruned), task)
    assert found != by_hand(model, task)
    made.apply(model)
    assert found == by_hand(model, task)


# ---- bad input, refused before any work


@pytest.mark.parametrize("what", ["other", "truncated", "missing"])
def test_a_pack_that_does_not_fit_is_refused_before_decoding(tiny_data, base, pack, tmp_path, what):
    path, model = tmp_path / "task.pack", tmp_path / "model.pt"
    state = load_checkpoint(str(base))
    if what == "other":
        state["model"] = {name: tensor.clone() for name, tensor in state["model"].items()}
        state["model"]["encoder.layers.0.fc1.bias"][0] += 1e-3
    if what != "missing":
        path.write_bytes(pack.read_bytes()[: -7 if what == "truncated" else None])
    save_checkpoint(state, str(model))
    message = {
        "other": "does not fit the model of --path: wrong base",
        "truncated": "is truncated",
        "missing": "no such file",
    }[what]
    with pytest.raises((ValueError, FileNotFoundError), match=f"--diff-pack.*{path}.*{message}"):
        load_model(str(model), translation_task(tiny_data, diff_pack=str(path)))


TINY = ["--criterion", "label_smoothed_cross_entropy", "--cpu"]


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--base-checkpoint", "BASE", "--fp16"], "--optimizer diff_adam trains in float32"),
        ([], "--base-checkpoint FILE: name the trained model"),
        (["--base-checkpoint", "/nowhere.pt"], "--base-checkpoint /nowhere.pt: no such file"),
        (["--base-checkpoint", "GATED"], "has gates on its heads.*dsp prune"),
        (
            ["--base-checkpoint", "BASE", "--arch", "diff_transformer_iwslt_de_en"],
            "another architecture.*encoder_layers: 2 there, 6 here",
        ),
        (
            ["--base-checkpoint", "BASE", "--arch", "transformer_iwslt_de_en"],
            "diffs are trained on diff_transformer",
        ),
        (
            ["--base-checkpoint", "BASE", "--mask-pack", "PACK"],
            "--mask-pack is finetuned by --optimizer fixmask_adam",
        ),
        (["--base-checkpoint", "BASE", "--optimizer", "fixmask_adam"], "needs --mask-pack"),
        (["--base-checkpoint", "BASE", "--diff-pack", "PACK"], "--diff-pack is for translating"),
        (
            ["--base-checkpoint", "BASE", "--finetune-from-model", "BASE"],
            "--finetune-from-model cannot be given: a diff starts from --base-checkpoint",
        ),
        (
            ["--base-checkpoint", "BASE", "--reset-optimizer"],
            "--reset-optimizer.*the diff is the optimizer's state",
        ),
        (
            ["--base-checkpoint", "BASE", "--alpha-learning-rate", "-1"],
            "--alpha-learning-rate -1.0: a finite number, 0 or more",
        ),
        (
            ["--base-checkpoint", "OTHER", "--optimizer", "fixmask_adam", "--mask-pack", "PACK"],
            "does not fit --base-checkpoint .*wrong base",
        ),
    ],
)
def test_a_training_that_cannot_be(tiny_data, base, pack, joint_run, tmp_path, flags, message):
    other = tmp_path / "other.pt"
    if "OTHER" in flags:
        state = load_checkpoint(str(base))
        save_checkpoint(
            {**state, "model": {name: tensor * 2 for name, tensor in state["model"].items()}}, str(other)
        )
    places = {"BASE": base, "GATED": joint_run[0] / "checkpoint_last.pt", "PACK": pack, "OTHER": other}
    words = [str(places.get(flag, flag)) for flag in flags]
    arch = words.pop(words.index("--arch") + 1) if "--arch" in words else "diff_transformer"
    words = [word for word in words if word != "--arch"]
    optimizer = [] if "--optimizer" in words else ["--optimizer", "diff_adam"]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build(tiny_data, *TINY, *optimizer, *words, arch=arch, task="diff_translation")


def test_data_of_another_dictionary(base, tiny_data, tmp_path):
    shutil.copytree(tiny_data, tmp_path / "bin")
    for lang in ("de", "en"):
        path = tmp_path / f"bin/dict.{lang}.txt"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="data with another dictionary.*--srcdict"):
        flags = [*TINY, "--optimizer", "diff_adam", "--base-checkpoint", base]
        build(tmp_path / "bin", *flags, arch="diff_transformer", task="diff_translation")


@pytest.mark.parametrize(
    "more, message",
    [
        (["--target-sparsity", "0"], r"--target-sparsity must be in \(0, 1\]"),
        (["--target-sparsity", "0.01", "1.5"], r"--target-sparsity must be in \(0, 1\]"),
        (["--finetune-lr", "x"], "--finetune-lr must be above 0"),
        (["--base-checkpoint", "/nowhere.pt"], "no such file"),
        (["--optimizer", "sgd"], "--optimizer sgd: adam or diff_adam"),
        (["--max-update", 9], r"holds a training with other settings \(--max-update: 3 there, 9 here"),
        (
            ["--per-layer-projection"],
            r"was projected with other settings \(--per-layer-projection: False there, True here\): name",
        ),
        # what only stage 3 needs is said before stage 1, whose folder is not there here
        (["--save-dir", "/dev/null"], "--save-dir /dev/null is a device"),
        (["--save-dir", "new", "--finetune-max-update", "1.5"], "--finetune-max-update: invalid int value"),
        (["--save-dir", "new", "--clip-norm", "nan"], "--clip-norm nan: a finite number"),
        (["--save-dir", "new", "--sparsity-pen", "-1"], "--sparsity-pen -1.0: a finite number, 0 or more"),
        (["--save-dir", "new", "--per-params-alpha", "x"], "--per-params-alpha: invalid int value: 'x'"),
        (["--save-dir", "new", "--num-of-heads", "6"], "unrecognized arguments: --num-of-heads 6"),
        (
            ["--save-dir", "new", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "0"],
            "--warmup-updates 0: .*inverse_sqrt",
        ),
    ],
)
def test_run_diff_refuses(done, more, message):
    from dsp_plugin.mt.programs.diffs.run import run_diff

    with pytest.raises((ValueError, FileNotFoundError)) as refused:
        run_diff([str(word) for word in [*done[1], *more]])
    assert re.search(message, one_line(refused.value, dashed))


def test_the_same_command_however_it_is_written_is_done(done, tmp_path, monkeypatch, capsys):
    from dsp_plugin.mt.programs.diffs.run import run_diff

    words = [str(word) for word in done[1]]
    given = {
        name: words[words.index(name) + 1]
        for name in ("--save-dir", "--base-checkpoint", "--target-sparsity")
    }
    here = os.path.relpath
    monkeypatch.chdir(tmp_path)
    again = [
        f"{here(words[0])}/",
        *words[1:],
        "--save-dir",
        f"{here(given['--save-dir'])}/",
        "--base-checkpoint",
        here(given["--base-checkpoint"]),
    ]
    again += [
        "--target-sparsity",
        f"{float(given['--target-sparsity']):e}",
        given["--target-sparsity"],
        "--lr=0.0010",
    ]
    assert set(run_diff(again)) == {str(DENSITY)}
    said = capsys.readouterr().out
    assert "is there twice and trained once" in said and said.count("is done") == 2


def test_a_mask_of_another_stage_1_is_not_taken(done, monkeypatch):
    """Stage 1 removed and trained once more with another lambda, the folder of the density left as it was."""
    from dsp_plugin.mt.programs.chassis.stages import Training
    from dsp_plugin.mt.programs.diffs.run import run_diff

    noted = Training.noted
    monkeypatch.setattr(Training, "noted", lambda self: None if self.folder.endswith("1st") else noted(self))
    monkeypatch.setattr(Training, "run", lambda *_: None)
    words = [str(word) for word in done[1]]
    with pytest.raises(
        ValueError, match=f"mask.diff.safetensors is of a stage 1 with other settings: remove .*/{DENSITY}"
    ):
        run_diff([*words, "--sparsity-pen", "1"])
    assert set(run_diff([*words, "--log-interval", "9"])) == {str(DENSITY)}
