"""What a dry run says of a training, on either host."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dsp_plugin.records.plan import TrainingPlan, heads_that_stay

PLAN = TrainingPlan(1234, 56789, heads_that_stay(3, 24), 120, 7000, 0.5, 3, 1_500_000, 3_004_999)


def test_it_is_said_in_five_lines():
    assert PLAN.lines() == [
        "dry run: 1,234 of 56,789 parameters would learn",
        "dry run: heads that stay: 3 of 24",
        "dry run: 120 examples, 7,000 updates",
        "dry run: about 58 min 20 s (0.5 s an update: the median of 3 real ones in memory; scoring and "
        "saving are not in it)",
        "dry run: 4.50 MB a checkpoint: 1.50 MB of weights, 3.00 MB of optimizer state; nothing was written",
    ]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"done": 1000}, ("120 examples, 7,000 updates, 1,000 of them made", "about 50 min 00 s (")),
        ({"done": 8000}, ("120 examples, 7,000 updates, 8,000 of them made", "about 0 min 00 s (")),
        ({"updates": 9000}, ("120 examples, 9,000 updates", "about 1 h 15 min (")),
        ({"updates": None}, ("120 examples, no option bounds the updates", "about unknown (")),
        ({"noun": "sentences"}, ("120 sentences, 7,000 updates", "about 58 min 20 s (")),
    ],
)
def test_updates_that_are_made_or_that_no_option_bounds(changes, said):
    updates, time = replace(PLAN, **changes).lines()[2:4]
    assert updates == f"dry run: {said[0]}" and time.startswith(f"dry run: {said[1]}")


def test_a_penalty_decides_itself():
    assert heads_that_stay(None, 24) == "heads that stay: as many as the penalty leaves of 24"
