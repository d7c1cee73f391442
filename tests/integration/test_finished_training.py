"""A training that is at its end makes no further update when it is started again."""

from __future__ import annotations

import pytest

pytest.importorskip("fairseq")

from fairseq_commands import PACKAGE, run
from fairseq_training import DSP, JOINT, SETTINGS, SIZES, checkpoint, train, updates

from dsp_plugin.records.record import load_record

ENDS = {
    # in the middle of an epoch, at its end
    "--max-update 3": JOINT,
    "--max-update 4": JOINT,
    "--max-epoch 1": JOINT,
    "--stop-time-hours 0.0000001": JOINT,
    # a rate of next to nothing: the second validation is no better than the first
    "--patience 1 --max-update 40 --lr 1e-12": DSP,
    # the rate falls from the fourth update on
    "--stop-min-lr 0.0009 --warmup-init-lr 0.00095 --max-update 40": JOINT,
}


def bytes_of(folder) -> dict:
    return {
        path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".pt", ".jsonl", ".json")
    }


@pytest.mark.parametrize("end", ENDS)
def test_no_update_beyond_the_end(tiny_data, tmp_path, end):
    flags = [*ENDS[end], *end.split()]
    first = train(tiny_data, tmp_path, *flags).succeeded()
    made = len(updates(first))
    assert 1 <= made < 40 and checkpoint(tmp_path)["optimizer_history"][-1]["num_updates"] == made
    files = bytes_of(tmp_path)
    second = train(tiny_data, tmp_path, *flags).succeeded()
    assert not updates(second) and bytes_of(tmp_path) == files
    assert ("is finished" in second.output) != (
        "stopping training because current learning rate" in second.output
    )
    assert "COOL-DOWN WILL NOT END" not in second.output


def test_a_higher_limit_goes_on_and_patience_counts_on(tiny_data, tmp_path):
    flags = [*DSP, "--lr", "1e-12", "--patience", 2]
    train(tiny_data, tmp_path, *flags, "--max-update", 8).succeeded()
    kept = checkpoint(tmp_path)["task_state"]["dsp_patience"]
    assert kept["num_runs"] == 1
    on = train(tiny_data, tmp_path, *flags, "--max-update", 40).succeeded()
    # one epoch, as without a stop
    assert [int(line["num_updates"]) for line in updates(on)] == [9, 10, 11, 12]


def test_run_dsp_sums_up_again(tiny_data, tmp_path):
    command = [
        tiny_data,
        "--save-dir",
        tmp_path / "run",
        "--arch",
        "transformer",
        *SIZES,
        *SETTINGS,
        "--optimizer",
        "adam",
    ]
    command += [
        "--criterion",
        "label_smoothed_cross_entropy",
        "--num-of-heads",
        6,
        "--joint-pruning",
        "--pruning-lr",
        0.2,
        "--max-update",
        3,
    ]
    files = []
    for _ in range(2):
        done = run(str(PACKAGE.parent / "scripts/mt/run_dsp.py"), command, tmp_path).succeeded()
        assert "results.json" in done.output and load_record(tmp_path / "run" / "results.json").updates == 3
        files.append(bytes_of(tmp_path / "run"))
    assert "is finished: 3 updates are made, --max-update is 3" in done.output
    assert files[0] == files[1]
