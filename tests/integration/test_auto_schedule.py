"""Trainings by a schedule that is worked out, and scores that begin with importance, by the real programs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch

pytest.importorskip("fairseq")

from fairseq_commands import run
from fairseq_training import (
    ANNEALING,
    DSP,
    JOINT,
    PIPELINED,
    SETTINGS,
    SIZES,
    STOCK,
    K,
    assert_same,
    checkpoint,
    train,
    train_in_two_processes,
    updates,
    weights_recorder,
)

from dsp_plugin.gating.methods.recipe import LEAST_UPDATES
from dsp_plugin.mt.heads.checkpoint_heads import heads_of_checkpoint, random_scores

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "mt"
SCORES = "gating.gates.scores"
# of 4 updates
EPOCHS = LEAST_UPDATES // 4 + 1
UPDATES = 4 * EPOCHS
QUIET = ["--disable-validation", "--no-epoch-checkpoints"]
AUTO = [*STOCK, *QUIET, "--num-of-heads", K, "--joint-pruning", "--max-epoch", EPOCHS]


def run_dsp(data, save_dir, *flags):
    return run(str(SCRIPTS / "run_dsp.py"), [data, "--save-dir", save_dir, *flags], save_dir)


@pytest.fixture(scope="module")
def auto_run(tiny_data, tmp_path_factory):
    """(save folder, what was printed) of a joint training from scratch, its schedule worked out."""
    folder = tmp_path_factory.mktemp("auto")
    saves = ["--save-interval-updates", UPDATES // 3]
    return folder, run_dsp(tiny_data, folder, *AUTO, *saves).succeeded()


def middle_of(folder: Path) -> Path:
    """The checkpoint of a third of the training."""
    (found,) = folder.glob(f"checkpoint_*_{UPDATES // 3}.pt")
    return found


def schedule_lines(finished) -> list[str]:
    return re.findall(r"schedule \(.*", finished.output)


def test_the_length_is_the_one_that_the_training_has(auto_run):
    folder, done = auto_run
    assert len(updates(done)) == UPDATES
    (said,) = schedule_lines(done)
    assert said.startswith(f"schedule (auto, for {UPDATES} updates): ") and "--pruning-lr" in said
    schedule = json.loads((folder / "results.json").read_text())["extra"]["schedule"]
    assert schedule["found"] == "auto" and schedule["for_updates"] == UPDATES
    derived = json.loads(checkpoint(folder)["cfg"]["model"]["derived_schedule"])
    assert derived.pop("updates") == UPDATES
    assert {name: schedule["options"][name] for name in derived} == derived
    # all heads are open until the choice of heads starts, and then the scores begin with a ranking
    warmup = derived["pruning_warmup_updates"]
    open_heads = [float(line["heads_open"]) for line in updates(done)]
    assert set(open_heads[:warmup]) == {24.0} and open_heads[-1] <= K + 1
    if derived["init_scores"] == "importance":
        assert f"the scores begin with the importance of 24 heads, after {warmup} updates" in done.output
    assert random_scores(checkpoint(folder)) is None
    if warmup >= UPDATES // 3:
        middle = checkpoint(folder, middle_of(folder).name)
        assert f"{warmup} of them with all heads open" in random_scores(middle)


@pytest.mark.parametrize("raised", [0, 2])
def test_a_resumed_training_goes_on_with_the_schedule_of_its_checkpoint(
    tiny_data, auto_run, tmp_path, raised
):
    """From the update at which pruning starts; also where the training has become longer meanwhile."""
    folder, uninterrupted = auto_run
    shutil.copy(middle_of(folder), tmp_path / "checkpoint_last.pt")
    done = run_dsp(tiny_data, tmp_path, *AUTO, "--max-epoch", EPOCHS + raised).succeeded()
    (said,) = schedule_lines(done)
    assert said.startswith(f"schedule (auto, as the checkpoint has it, for {UPDATES} updates): ")
    rest = updates(uninterrupted)[UPDATES // 3 :]
    figures = ("num_updates", "loss", "heads_open", "gnorm", "lr")
    pairs = list(zip(updates(done), rest))
    assert len(pairs) == len(rest) and len(updates(done)) == len(rest) + 4 * raised
    assert [{n: a[n] for n in figures} for a, _ in pairs] == [{n: b[n] for n in figures} for _, b in pairs]
    if not raised:
        assert_same(checkpoint(tmp_path)["model"], checkpoint(folder)["model"], "model")


@pytest.mark.parametrize(
    "flags", ["--pruning-lr 0.3", "--use-ste", "--pruning-schedule published", "--cooldown-steps 0"]
)
def test_a_resumed_training_is_given_no_other_schedule(tiny_data, auto_run, tmp_path, flags):
    """One option by hand would make all the others the constants of the paper."""
    folder, _ = auto_run
    shutil.copy(middle_of(folder), tmp_path / "checkpoint_last.pt")
    done = run_dsp(tiny_data, tmp_path, *AUTO, *flags.split())
    said = done.failed()
    assert all(word in said for word in (flags.split()[0], "worked out when it began", "--save-dir"))


def test_a_training_by_hand_goes_on_by_hand(tiny_data, tmp_path):
    flags = [*DSP, *QUIET, "--num-of-heads", K, "--joint-pruning"]
    train(tiny_data, tmp_path, *flags, *ANNEALING, "--pruning-lr", 0.2, "--max-update", 1).succeeded()
    before = (tmp_path / "checkpoint_last.pt").read_bytes()
    done = train(tiny_data, tmp_path, *flags, "--max-update", 400)
    said = done.failed()
    for word in ("--pruning-schedule auto", "give --pruning-lr, --annealing", "again", "--save-dir"):
        assert word in said
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == before


def test_the_best_checkpoint_is_none_of_the_open_phase(tiny_data, tmp_path):
    """The highest loss is the first, so that without a new beginning update 2 would stay the best."""
    flags = [*JOINT, "--pruning-lr", 0.1, "--pruning-warmup-updates", 4, "--max-update", 8]
    flags += ["--validate-interval-updates", 2, "--save-interval-updates", 2, "--no-epoch-checkpoints"]
    flags += ["--best-checkpoint-metric", "loss", "--maximize-best-checkpoint-metric"]
    train(tiny_data, tmp_path, *flags).succeeded()
    best = checkpoint(tmp_path, "checkpoint_best.pt")
    assert best["optimizer_history"][-1]["num_updates"] == 6 and random_scores(best) is None


def test_a_checkpoint_of_before_there_were_schedules_goes_on_by_hand(tiny_data, tmp_path):
    """K alone was a schedule by hand with all its defaults."""
    flags = [*DSP, *QUIET, "--num-of-heads", K, "--joint-pruning"]
    train(tiny_data, tmp_path, *flags, "--pruning-lr", 0.2, "--max-update", 1).succeeded()
    last = tmp_path / "checkpoint_last.pt"
    state = torch.load(last, weights_only=False)
    options = state["cfg"]["model"]
    for name in ("pruning_lr", "pruning_schedule", "derived_schedule", "init_scores"):
        (vars(options) if not isinstance(options, dict) else options).pop(name, None)
    torch.save(state, last)
    done = train(tiny_data, tmp_path, *flags, "--max-update", 3).succeeded()
    (said,) = schedule_lines(done)
    assert said.startswith("schedule (by hand, as the checkpoint has it): --pruning-lr 0.2")
    assert [line["num_updates"] for line in updates(done)] == ["2", "3"]
    assert float(updates(done)[-1]["temperature"]) == pytest.approx(1e-8)


def test_pipelined_scores_begin_with_the_mask_of_a_sweep(tiny_data, stock_run, tmp_path):
    """A rate of next to nothing: what is left after an update is the start."""
    flags = [*PIPELINED, *QUIET, "--finetune-from-model", stock_run / "checkpoint_last.pt"]
    flags += ["--init-scores", "importance", "--pruning-lr", 1e-9, "--max-update", 1]
    done = train(tiny_data, tmp_path / "dsp", *flags).succeeded()
    assert "the scores begin with the importance of 24 heads, after 0 updates" in done.output
    state = checkpoint(tmp_path / "dsp")
    torch.testing.assert_close(state["model"][SCORES].sort().values, torch.linspace(-1, 1, 24))
    sweep = [
        tiny_data,
        "-a",
        "transformer",
        *SIZES,
        "--restore-file",
        stock_run / "checkpoint_last.pt",
        "--cpu",
    ]
    sweep += ["--num-of-heads", 2, "--exact-pruning", "--dont-normalize-importance-by-layer", "--budgets", K]
    sweep += ["--no-scores", "--batch-size", 30, "--save-dir", tmp_path / "sweep"]
    run(str(SCRIPTS / "run_michel.py"), sweep, tmp_path).succeeded()
    mask = json.loads((tmp_path / "sweep" / f"mask-K{K}.json").read_text())["keep"]
    assert heads_of_checkpoint(state).keep.tolist() == mask


def test_a_rate_that_falls_falls_on_in_a_training_that_is_resumed(tiny_data, stock_run, tmp_path):
    flags = [*PIPELINED, *QUIET, "--finetune-from-model", stock_run / "checkpoint_last.pt"]
    flags += ["--pruning-lr", 0.4, "--pruning-lr-decay-steps", 4, "--save-interval-updates", 2]
    train(tiny_data, tmp_path / "whole", *flags, "--max-update", 4).succeeded()
    (middle,) = (tmp_path / "whole").glob("checkpoint_*_2.pt")
    # of the last update that was made; the log has the model's rate
    for name, rate in ((middle.name, 0.3), ("checkpoint_last.pt", 0.1)):
        (group,) = checkpoint(tmp_path / "whole", name)["last_optimizer_state"]["param_groups"]
        assert group["lr"] == pytest.approx(rate)
    (tmp_path / "again").mkdir()
    shutil.copy(middle, tmp_path / "again" / "checkpoint_last.pt")
    again = train(tiny_data, tmp_path / "again", *flags, "--max-update", 4).succeeded()
    assert [line["num_updates"] for line in updates(again)] == ["3", "4"]
    assert_same(checkpoint(tmp_path / "again")["model"], checkpoint(tmp_path / "whole")["model"], "model")


@pytest.mark.parametrize(
    "flags", [["--fp16", "--fp16-no-flatten-grads"], ["--memory-efficient-fp16"]], ids=["fp16", "memory"]
)
def test_the_start_is_that_of_the_optimizers_own_copy_too(tiny_data, tmp_path, flags):
    words = [*DSP, *QUIET, "--num-of-heads", K, "--joint-pruning", "--use-ste", "--pruning-lr", 1e-9, *flags]
    words += ["--init-scores", "importance", "--pruning-warmup-updates", 1, "--fp16-init-scale", 4]
    train(tiny_data, tmp_path, *words, "--max-update", 3).succeeded()
    scores = checkpoint(tmp_path)["model"][SCORES]
    torch.testing.assert_close(scores.sort().values.float(), torch.linspace(-1, 1, 24))


def test_two_processes_begin_alike(tiny_data, tmp_path):
    flags = [*DSP, *QUIET, "--num-of-heads", K, "--joint-pruning", *ANNEALING, "--batch-size", 15]
    flags += ["--init-scores", "importance", "--pruning-warmup-updates", 1, "--max-update", 3]
    for rank in train_in_two_processes(
        tiny_data, tmp_path / "two", *flags, program=weights_recorder(tmp_path)
    ):
        rank.succeeded()
    rank0, rank1 = (torch.load(tmp_path / f"two/rank{r}/weights.pt") for r in range(2))
    assert_same(dict(rank0), dict(rank1), "weights")


def test_a_dry_run_says_the_schedule(tiny_data, tmp_path):
    words = [tiny_data, "--save-dir", tmp_path / "save", *STOCK[:2], *SIZES, *SETTINGS, "--optimizer", "adam"]
    words += ["--criterion", "label_smoothed_cross_entropy", "--num-of-heads", K, "--max-update", UPDATES]
    done = run(str(SCRIPTS / "run_voita.py"), [*words, "--dry-run"], tmp_path / "log").succeeded()
    (said,) = schedule_lines(done)
    assert said.startswith(f"schedule (auto, for {UPDATES} updates): ") and "--l0-penalty" in said
    assert "model and gates are trained together" in done.output
    assert f"heads that stay: {K} of 24" in done.output and "begin with the importance" not in done.output
    assert not (tmp_path / "save").exists() or not any((tmp_path / "save").rglob("*"))
