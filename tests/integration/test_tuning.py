"""`--tune-updates`: removal and tuning in the command of a training."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time

import pytest

pytest.importorskip("fairseq")

from fairseq_commands import PACKAGE, Command, run
from fairseq_training import ANNEALING, SETTINGS, SIZES, K, assert_same, checkpoint, updates

from dsp_plugin.mt.checkpoints.checkpoint import load_checkpoint, save_checkpoint
from dsp_plugin.records.record import load_record

SCRIPTS = PACKAGE.parent / "scripts" / "mt"
STOCK = ["--arch", "transformer", "--criterion", "label_smoothed_cross_entropy", "--optimizer", "adam"]
UNPRUNED = [*STOCK, *SIZES, *SETTINGS, "--max-update", 3, "--no-epoch-checkpoints"]
JOINT = [*UNPRUNED, "--num-of-heads", K, "--joint-pruning", *ANNEALING]
# two epochs and a half: one is over before the last update
TUNE = ["--tune-updates", 10]


def tune(data, folder, flags, program="run_dsp", **options):
    return run(str(SCRIPTS / f"{program}.py"), [data, "--save-dir", folder, *flags], folder, **options)


def files(folder) -> dict:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.suffix in (".pt", ".jsonl", ".json")
    }


@pytest.fixture(scope="module")
def tuned(tiny_data, tmp_path_factory):
    """(save folder, what was printed) of a joint training that was pruned and tuned."""
    folder = tmp_path_factory.mktemp("tuned") / "run"
    return folder, tune(tiny_data, folder, [*JOINT, *TUNE]).succeeded()


def test_it_trains_removes_and_tunes(tuned):
    folder, done = tuned
    made = updates(done)
    assert [int(line["num_updates"]) for line in made] == [1, 2, 3, *range(1, 11)]
    # up in a tenth of the updates to a third of the rate, then linearly down
    rates = [float(line["lr"]) for line in made[3:]]
    assert max(rates) == pytest.approx(0.001 / 3, rel=1e-4) and rates[-1] == 0
    falls = [before - after for before, after in zip(rates, rates[1:])]
    assert falls == pytest.approx([0.001 / 27] * 9, rel=0.01)

    pruned, last = (checkpoint(folder, name) for name in ("checkpoint_pruned.pt", "tuned/checkpoint_last.pt"))
    kept = load_record(folder / "results.json").heads
    record = load_record(folder / "tuned" / "results.json")
    assert record.heads == kept
    assert last["cfg"]["model"]["kept_heads"] == pruned["cfg"]["model"]["kept_heads"]
    assert {n: t.shape for n, t in last["model"].items()} == {n: t.shape for n, t in pruned["model"].items()}
    assert record.method == "dsp-joint-tuned" and record.name == "run" and record.updates <= 10
    tuning = record.extra["tuning"]
    assert tuning["checkpoint"] == "checkpoint_best.pt" and tuning["warmup_updates"] == 1
    assert tuning["parameters"]["after"] < tuning["parameters"]["before"]
    said = done.output[done.output.rindex("| tuned: ") :]
    assert re.search(r"loss on valid: [\d.]+ before tuning, [\d.]+ after", said)
    assert f"heads: {K} of 24" in said and "checkpoint_pruned.pt" in said and "before the removal" in said


def test_started_again_it_does_nothing(tuned, tiny_data):
    folder, _ = tuned
    before = files(folder)
    again = tune(tiny_data, folder, [*JOINT, *TUNE]).succeeded()
    assert not updates(again) and "tuned is done" in again.output and files(folder) == before
    assert f"heads: {K} of 24" in again.output


def test_interrupted_in_the_tuning_it_goes_on_exactly(tuned, tiny_data, tmp_path):
    folder, whole = tuned
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "tuned")
    save = [*JOINT, *TUNE, "--save-interval-updates", 1]  # not what the result depends on
    command = Command(str(SCRIPTS / "run_dsp.py"), [tiny_data, "--save-dir", copy, *save], copy)
    while command.process.is_alive() and not list((copy / "tuned").glob("checkpoint_*_6.pt")):
        time.sleep(0.01)
    os.kill(command.process.pid, signal.SIGKILL)
    command.process.join()
    assert not (copy / "tuned" / "results.json").exists()
    on = tune(tiny_data, copy, save).succeeded()
    made = [int(line["num_updates"]) for line in updates(on)]
    assert made[-1] == 10 and 1 < made[0] <= 10 and len(made) == 11 - made[0]
    ours, theirs = (checkpoint(place / "tuned") for place in (copy, folder))
    assert_same(ours["model"], theirs["model"])
    assert_same(ours["last_optimizer_state"], theirs["last_optimizer_state"])


def test_other_settings_are_refused_before_any_work(tuned, tiny_data):
    folder, _ = tuned
    before = files(folder)
    for flags, said in (
        ([*JOINT, "--tune-updates", 9], "--tune-updates: 10 there, 9 here"),
        ([*JOINT, *TUNE, "--max-update", 5], "--max-update: 3 there, 5 here"),
    ):
        failed = tune(tiny_data, folder, flags).failed()
        assert "holds a training with other settings" in failed and said in failed
        assert f"remove {folder}/tuned, or name another --save-dir" in failed
    assert files(folder) == before


def test_another_models_files_are_not_taken(tuned, tiny_data, tmp_path):
    folder, _ = tuned
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    best = load_checkpoint(str(copy / "checkpoint_best.pt"))
    best["model"]["encoder.layers.0.fc1.weight"] += 1
    save_checkpoint(best, str(copy / "checkpoint_best.pt"))
    failed = tune(tiny_data, copy, [*JOINT, *TUNE]).failed()
    assert f"{copy}/tuned holds the tuning of another model than {copy}/checkpoint_best.pt" in failed

    shutil.rmtree(copy / "tuned")
    stale = checkpoint(copy, "checkpoint_pruned.pt")
    done = tune(tiny_data, copy, [*JOINT, *TUNE]).succeeded()
    assert "the file that was there is of another model or choice" in done.output
    moved = checkpoint(copy, "checkpoint_pruned.pt")["model"]["encoder.layers.0.fc1.weight"]
    assert (moved - stale["model"]["encoder.layers.0.fc1.weight"]).min() > 0.99

    shutil.rmtree(copy / "tuned")
    (copy / "tuned").mkdir()
    shutil.copy(copy / "checkpoint_last.pt", copy / "tuned" / "checkpoint_last.pt")
    assert "holds a training of another program" in tune(tiny_data, copy, [*JOINT, *TUNE]).failed()


def test_an_unpruned_model_is_tuned_by_the_same_schedule(tuned, tiny_data, tmp_path):
    _, pruned = tuned
    done = tune(tiny_data, tmp_path / "run", [*UNPRUNED, *TUNE]).succeeded()
    rates = [[line["lr"] for line in updates(one)[3:]] for one in (done, pruned)]
    assert rates[0] == rates[1]
    left = sorted(path.name for path in (tmp_path / "run").rglob("*.pt"))
    assert left == ["checkpoint_best.pt", "checkpoint_best.pt", "checkpoint_last.pt", "checkpoint_last.pt"]
    record = load_record(tmp_path / "run" / "tuned" / "results.json")
    assert record.method == "no-pruning-tuned" and "parameters" not in record.extra["tuning"]
    before = files(tmp_path / "run")
    again = tune(tiny_data, tmp_path / "run", [*UNPRUNED, *TUNE]).succeeded()
    assert not updates(again) and files(tmp_path / "run") == before


def test_gates_of_a_penalty_alone_are_judged_by_the_last_checkpoint(tiny_data, tmp_path):
    flags = [*UNPRUNED, "--l0-penalty", 5, "--method", "mine", *TUNE, "--tune-lr", "1e-4"]
    done = tune(tiny_data, tmp_path / "run", flags, "run_voita").succeeded()
    record = load_record(tmp_path / "run" / "tuned" / "results.json")
    assert record.method == "mine-tuned" and record.extra["tuning"]["checkpoint"] == "checkpoint_last.pt"
    assert record.heads == load_record(tmp_path / "run" / "results.json").heads
    assert max(float(line["lr"]) for line in updates(done)[3:]) == pytest.approx(1e-4)
    last = checkpoint(tmp_path / "run" / "tuned")["cfg"]
    assert last["model"]["_name"] == "dsp_transformer" and last["task"]["_name"] == "dsp_translation"
    assert last["criterion"]["_name"] == "dsp_label_smoothed_cross_entropy"


def test_pipelined_by_epochs_from_a_stock_model(tiny_data, stock_run, tmp_path):
    flags = [*UNPRUNED, "--num-of-heads", K, *ANNEALING, "--max-update", 0, "--max-epoch", 1, *TUNE]
    start = ["--restore-file", stock_run / "checkpoint_last.pt", "--reset-optimizer", "--reset-dataloader"]
    done = tune(tiny_data, tmp_path / "run", [*flags, *start]).succeeded()
    assert len(updates(done)) == 14
    assert load_record(tmp_path / "run" / "tuned" / "results.json").method == "dsp-pipelined-tuned"
    before = files(tmp_path / "run")
    again = tune(tiny_data, tmp_path / "run", [*flags, *start]).succeeded()
    assert not updates(again) and files(tmp_path / "run") == before


def test_a_dry_run_tells_of_both_parts(tiny_data, tmp_path):
    done = tune(tiny_data, tmp_path / "run", [*JOINT, *TUNE, "--dry-run"]).succeeded()
    assert "120 sentences, 3 updates" in done.output
    rate = "the rate rising to 0.000333333 in 1, then falling to 0"
    assert f"then the dead heads, if any, are removed, and tuning: 10 updates, {rate}" in done.output
    assert not files(tmp_path / "run")
