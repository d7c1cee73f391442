"""`--tune-updates`: its schedule, the options of the tuning, and what cannot be."""

from __future__ import annotations

import pytest

pytest.importorskip("fairseq")

from dsp_plugin.mt.programs.chassis.launch import method_options, method_parser, parse_for_fairseq
from dsp_plugin.mt.programs.common import own_options
from dsp_plugin.mt.programs.heads import tuning, tuning_schedule
from dsp_plugin.mt.programs.heads.tuning import Tuning, schedule_of, tuning_options
from dsp_plugin.mt.programs.heads.tuning_schedule import TuningSchedule
from dsp_plugin.options.errors import OptionError, dashed

DATA = ["data", "--arch", "transformer_multi30k", "--max-tokens", "9", "--optimizer", "adam"]
DATA += ["--criterion", "label_smoothed_cross_entropy"]
JOINT = ["--num-of-heads", "9", "--joint-pruning", "--annealing", "--pruning-lr", "0.1"]


def asked(*words, method="dsp"):
    """(the schedule, the training's options) of a command line."""
    own, rest = own_options().split([*DATA, *words])
    options = method_options(rest, method)
    return schedule_of(own, options, rest), options


def test_the_schedule():
    assert TuningSchedule.after(3e-3, 500) == TuningSchedule(500, 0.001)
    assert [TuningSchedule(n, 1.0).warmup for n in (1, 9, 10, 505)] == [0, 0, 1, 50]
    assert (
        str(TuningSchedule(1500, 0.001))
        == "1,500 updates, the rate rising to 0.001 in 150, then falling to 0"
    )
    assert "beginning at" in str(TuningSchedule(9, 0.001))


def test_the_default_rate_is_a_third_of_the_first_of_the_training():
    assert asked("--lr", "0.3,0.1", "--tune-updates", "5")[0] == TuningSchedule(5, 0.1)
    assert asked("--lr=3e-3", "--tune_updates", "5", "--tune_lr", "0.2")[0] == TuningSchedule(5, 0.2)
    assert asked("--tune-updates", "5", "--tune-lr", "0.2")[0] == TuningSchedule(5, 0.2)
    assert asked("--lr", "0.3")[0] is None


@pytest.mark.parametrize(
    "words, line",
    [
        ("--tune-updates 0", "--tune-updates '0': a whole number, 1 or more belongs there"),
        ("--tune-updates=-1", "--tune-updates '-1': a whole number"),
        ("--tune-updates 1.5", "--tune-updates '1.5': a whole number"),
        ("--tune-updates many", "--tune-updates 'many': a whole number"),
        ("--tune-lr 0.1", "--tune-lr needs --tune-updates"),
        ("--tune-updates 5 --tune-lr nan", "--tune-lr 'nan': a finite number above 0"),
        ("--tune-updates 5 --tune-lr 0", "--tune-lr '0': a finite number above 0"),
        ("--tune-updates 5", "--tune-lr is missing: without --lr there is no rate"),
        ("--tune-updates 5 --lr 0", "--tune-lr is missing: --lr is 0"),
    ],
)
def test_what_means_nothing_is_refused_by_name(words, line):
    with pytest.raises(OptionError) as error:
        asked(*words.split())
    assert error.value.spelled(dashed).startswith(line)


@pytest.mark.parametrize("method", ["dsp", "voita"])
@pytest.mark.parametrize("scheduler", ["inverse_sqrt", "polynomial_decay", "cosine", "fixed"])
def test_the_tuning_is_the_training_without_gates_by_the_schedule(method, scheduler, tmp_path):
    given = ["--lr", "3e-3", "--lr-scheduler", scheduler, "--warmup-updates", "400", "--dropout", "0.2"]
    given += ["--weight-decay", "0.1", "--max-epoch", "60", "--patience", "3", "--stop-min-lr", "1e-9"]
    given += [
        "--save-dir",
        str(tmp_path),
        "--finetune-from-model",
        "x.pt",
        "--validate-interval",
        "2",
        *JOINT[:3],
    ]
    if scheduler == "polynomial_decay":
        given += ["--power", "2", "--end-learning-rate", "1e-5", "--total-num-update", "900"]
    if scheduler == "cosine":
        given += ["--lr-period-updates", "900"]
    given += ["--l0-penalty", "5"] if method == "voita" else ["--annealing", "--kept-heads", "{}"]
    schedule, options = asked(*given, "--tune-updates", "500", method=method)
    tuned = tuning_options(options, schedule, method)
    assert (tuned.lr, tuned.lr_scheduler, tuned.warmup_updates) == ([0.001], "polynomial_decay", 50)
    assert (tuned.max_update, float(tuned.total_num_update), tuned.max_epoch) == (500, 500, 0)
    assert (tuned.power, tuned.end_learning_rate, tuned.force_anneal) == (1.0, 0.0, None)
    assert (tuned.patience, tuned.stop_min_lr, tuned.stop_time_hours) == (-1, -1.0, 0.0)
    assert (tuned.arch, tuned.task) == ("dsp_transformer_multi30k", "dsp_translation")
    assert tuned.criterion == "dsp_label_smoothed_cross_entropy" and tuned.optimizer == "dsp_adam"
    assert tuned.save_dir == str(tmp_path / "tuned")
    assert (tuned.dropout, tuned.weight_decay, tuned.validate_interval) == (0.2, 0.1, 2)
    gates = ("num_of_heads", "joint_pruning", "annealing", "l0_penalty", "kept_heads")
    assert not any(hasattr(tuned, name) for name in gates)
    assert options.num_of_heads == 9 and options.max_epoch == 60  # the training's own stay as they are


def test_the_options_that_a_shell_is_given_are_those_of_the_program(capsys):
    tuning_schedule.main(["500", "3e-3"])
    words = capsys.readouterr().out.split()
    read = parse_for_fairseq(lambda: method_parser("dsp"), [*DATA, *words])
    schedule, options = asked("--lr", "3e-3", "--tune-updates", "500")
    tuned = tuning_options(options, schedule, "dsp")
    for name in schedule.options():
        assert str(getattr(read, name)) == str(getattr(tuned, name)), name
    tuning_schedule.main(["500", "3e-3", "0.00012345678"])
    assert "0.00012345678" in capsys.readouterr().out.split()


@pytest.mark.parametrize(
    "words, line",
    [
        ("", "--tune-updates needs a training that comes to an end: give --max-update or --max-epoch"),
        ("--max-update 9 --no-save", "--tune-updates and --no-save exclude each other"),
        ("--max-update 9 --checkpoint-suffix x", "--tune-updates and --checkpoint-suffix exclude"),
        ("--max-update 9 --distributed-no-spawn", "--tune-updates and --distributed-no-spawn exclude"),
        ("--max-update 9 WORLD_SIZE=2", "--tune-updates cannot follow a training that torchrun has started"),
    ],
)
def test_a_training_that_no_tuning_can_follow_is_refused(words, line, tmp_path, monkeypatch):
    given = words.split()
    if "WORLD_SIZE=2" in given:
        given.remove("WORLD_SIZE=2")
        monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(tuning, "settings_of", lambda options: {})  # there are no data
    given += ["--save-dir", str(tmp_path), "--lr", "1", "--tune-updates", "5"]
    schedule, options = asked(*given)
    with pytest.raises(OptionError) as error:
        Tuning(options, schedule, "dsp").check()
    assert error.value.spelled(dashed).startswith(line)
