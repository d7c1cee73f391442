"""What the program of all three stages on fairseq adds to a command line."""

from __future__ import annotations

import pytest

pytest.importorskip("fairseq")

import dsp_plugin

dsp_plugin.register()

from dsp_plugin.mt.programs.diff import _lasting, _schedule


def test_the_rate_falls_linearly_where_the_updates_are_known_and_else_it_says_so(capsys):
    falling = ["--lr-scheduler", "polynomial_decay", "--total-num-update"]
    assert _schedule(["--max-epoch", "3", "--max-update=7"]) == [*falling, "7"]
    assert _schedule(["--max-update", "7", "--max-update", "5"]) == [*falling, "5"]
    assert _schedule(["--max-epoch", "3", "--lr-scheduler", "fixed"]) == [] and not capsys.readouterr().out
    for words in (["--max-epoch", "3"], ["--max-epoch", "3", "--max-update", "0"]):
        assert (
            _schedule(words) == []
            and "without --max-update the rate does not fall" in capsys.readouterr().out
        )


def test_what_a_resume_may_change():
    words = ["data", "--num-workers", "4", "--lr", "1", "--log-interval=9", "--cpu", "--max-update", "2"]
    assert _lasting(words) == ["data", "--lr", "1", "--max-update", "2"]
