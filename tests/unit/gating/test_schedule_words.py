"""Which schedule the options ask for, and the line that says it; 0 is a value like any other."""

from __future__ import annotations

import pytest

from dsp_plugin.gating import schedule_of
from dsp_plugin.gating.methods.schedule_words import schedule_in_words


@pytest.mark.parametrize("name", ["pruning_warmup_updates", "l0_penalty", "cooldown_steps"])
def test_zero_is_given(name):
    assert schedule_of({name: 0}) == "by hand"
    assert schedule_of({name: 0.0}) == "by hand"
    assert schedule_of({name: None, "annealing": False}) == "auto"


def test_the_line_leaves_out_what_is_off_and_keeps_zeros():
    found = {"pruning_lr": 0.1, "annealing": True, "use_ste": False, "pruning_warmup_updates": 0}
    found |= {"init_scores": "importance", "l0_penalty": None, "final_temperature": 1e-8}
    said = schedule_in_words("auto", found, 804)
    assert said == (
        "schedule (auto, for 804 updates): pruning_lr 0.1, annealing, pruning_warmup_updates 0, "
        "init_scores importance, final_temperature 1e-08"
    )
    dashed = schedule_in_words("published", found, spelling=lambda name: name.replace("_", "-"))
    assert dashed.startswith("schedule (published): pruning-lr 0.1, annealing, pruning-warmup-updates 0")
