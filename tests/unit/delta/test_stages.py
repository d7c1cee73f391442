"""Stages as they are typed, and who owns a parameter."""

from __future__ import annotations

import pytest

from dsp_plugin.delta.stages import METHODS, Owners, check_methods, parse_stages
from dsp_plugin.options.errors import OptionError


@pytest.mark.parametrize(
    "words,stages",
    [
        ("prompt,bias", (("prompt", "bias"),)),
        ("bias,prompt", (("prompt", "bias"),)),
        ("prompt bias adapter", (("prompt",), ("bias",), ("adapter",))),
        (["adapter", "prompt,bias"], (("adapter",), ("prompt", "bias"))),
        (["adapter prompt"], (("adapter",), ("prompt",))),
        (" dsee , lora  diff,", (("dsee",), ("lora",), ("diff",))),  # blanks divide stages, commas do not
    ],
)
def test_stages_are_read(words, stages):
    assert parse_stages(words) == stages


@pytest.mark.parametrize(
    "words,said",
    [
        ("", "no method"),
        (",", "no method"),
        ("prompt,promt", "got promt"),
        ("prompt prompt", "prompt twice"),
        ("bias,bias", "bias twice"),
        (["adapter,bias", "bias"], "bias twice"),
    ],
)
def test_stages_that_cannot_be(words, said):
    with pytest.raises(OptionError, match=said) as error:
        parse_stages(words)
    assert error.value.name == "training_params"


def test_one_stage_after_others():
    assert check_methods(["dsee", "prompt"], ["bias"]) == ("prompt", "dsee")
    with pytest.raises(OptionError, match="an earlier stage"):
        check_methods("bias", ["bias"])
    with pytest.raises(OptionError, match="of one stage"):
        check_methods("bias prompt")


# (first, second): what becomes of a parameter that both would change
OVERLAPS = {
    ("bias", "diff"): "left out",
    ("diff", "bias"): "refused",
    ("lora", "dsee"): "refused",
    ("dsee", "lora"): "refused",
    ("lora", "diff"): "both",
    ("diff", "lora"): "both",
    ("dsee", "diff"): "both",
    ("diff", "dsee"): "both",
}


@pytest.mark.parametrize("one", METHODS)
@pytest.mark.parametrize("other", METHODS)
def test_each_parameter_has_one_owner(one, other):
    if one == other:
        return
    owners = Owners()
    assert owners.claim(one, ["a", "b"]) == ["a", "b"]
    becomes = OVERLAPS.get((one, other), "refused")
    if becomes == "refused":
        with pytest.raises(OptionError, match=f"{one} and {other} would both change b"):
            owners.claim(other, ["b", "c"])
        assert owners.owners == {"a": one, "b": one}
    else:
        assert owners.claim(other, ["b", "c"]) == (["c"] if becomes == "left out" else ["b", "c"])
        assert owners.owners["c"] == other and owners.owners["b"] == one
