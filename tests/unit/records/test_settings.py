"""What is said of a folder whose work was made with other settings."""

from __future__ import annotations

from dsp_plugin.records.settings import in_both, other_settings, refusal

THERE = {"lr": 0.1, "steps": 5, "old": None, "heads": 3}
HERE = {"lr": 0.2, "steps": 5, "new": 1}


def test_each_setting_that_differs_is_named_with_both_values():
    assert other_settings(THERE, THERE) == []
    assert other_settings(THERE, HERE) == [
        "lr: 0.1 there, 0.2 here",
        "new: None there, 1 here",
        "heads: 3 there, None here",
    ]


def test_what_one_does_not_know_can_be_left_out_or_said():
    assert other_settings(THERE, HERE, in_both(THERE, HERE), "--{}".format) == ["--lr: 0.1 there, 0.2 here"]
    assert other_settings(THERE, HERE, ["heads", "old"], missing="not given") == [
        "heads: 3 there, not given here",
        "old: None there, not given here",
    ]


def test_the_refusal_says_where_what_and_what_to_do():
    told = str(refusal("out holds a sweep", ["lr: 1 there, 2 here", "seed: 3 there, 4 here"], "name another"))
    assert told == (
        "out holds a sweep with other settings (lr: 1 there, 2 here; seed: 3 there, 4 here): name another"
    )
    assert str(refusal("a mask", (), "remove it")) == "a mask with other settings: remove it"
