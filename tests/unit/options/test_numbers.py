"""Numbers by what they mean."""

from __future__ import annotations

import argparse
import math
from decimal import Decimal

import pytest

from dsp_plugin.options.numbers import MEANINGS, Meaning, check_number, number

ODD = [math.nan, math.inf, -math.inf, None, True, "1", 1j, Decimal(1)]
# meaning -> (taken, refused)
CASES = {
    "positive": ([1e-300, 1, 2.5], [0, -0.0, -1e-300]),
    "non-negative": ([0, -0.0, 1e300], [-1e-300, -1]),
    "finite": ([-1e300, 0, 3], []),
    "probability": ([0, 0.5, 1], [-0.1, 1.1, 2]),
    "dropout": ([0, 0.99], [1, -0.1]),
    "share": ([1e-9, 1], [0, 1.001]),
    "decay": ([0, 0.999], [1, 2, -0.5]),
    "count": ([1, 7, 2.0, 2**63 - 1], [0, -1, 1.5, 2**63, 10**400, 1e300]),
    "amount": ([0, 3], [-1, 0.5]),
    "whole": ([-3, 0], [0.5]),
    "seed": ([0, 2**32 - 1], [-1, 2**32, 1.5]),
    "port": ([1, 65535], [0, 65536]),
    "switch": ([0, 1, 1.0], [-1, 0.5, 2]),
    "temperature": ([1e-30, 1e-8, 1000], [0, -1, 1e-31]),
}


@pytest.mark.parametrize("name", MEANINGS)
def test_a_meaning_takes_its_numbers_and_no_others(name):
    taken, refused = CASES[name]
    assert [value for value in taken if check_number(value, name)] == []
    assert [value for value in [*refused, *ODD] if check_number(value, name) is None] == []


def test_lists_are_looked_at_number_by_number():
    assert check_number([0.1, 0.2], "share") is None
    assert check_number((0.1, math.nan), "share") == "a share, above 0 and at most 1 belongs there"
    assert check_number([], "share") is None


def test_a_number_of_its_own_meaning_is_taken_beside_the_range():
    meant = MEANINGS["count"].or_else(-1, meant="for all")
    assert check_number(-1, meant) is None and check_number(3, meant) is None
    assert check_number(0, meant) == "a whole number, 1 or more, or -1 for all belongs there"
    assert check_number(-2, Meaning("2 or 4", 2, 4, whole=True)) == "2 or 4 belongs there"


def test_one_of_several_meanings_will_do():
    steps = ("count", "share")
    assert [check_number(value, steps) for value in (3, 0.25, 1.0)] == [None] * 3
    assert (
        check_number(1.5, steps)
        == "a whole number, 1 or more, or a share, above 0 and at most 1 belongs there"
    )


@pytest.mark.parametrize(
    "meanings, text, value",
    [
        (["count"], "3", 3),
        (["positive"], "1e-5", 1e-5),
        (["count", "share"], "0.5", 0.5),
        (["count"], "3.0", None),
        (["count"], "0", None),
        (["positive"], "nan", None),
        (["positive"], "much", None),
        (["count"], "9" * 5000, None),
    ],
)
def test_a_word_of_a_command_line_as_a_number(meanings, text, value):
    parser = argparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--n", type=number(*meanings))
    if value is None:
        with pytest.raises(argparse.ArgumentError, match="argument --n: '.*': a .* belongs there"):
            parser.parse_args(["--n", text])
    else:
        assert parser.parse_args(["--n", text]).n == value
