"""Exceptions in one line."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors import SafetensorError

from dsp_plugin.options.errors import OptionError
from dsp_plugin.options.faults import naming, one_line


def _raised(program):
    with pytest.raises(BaseException) as raised:
        program()
    return raised.value


def _deep():
    return json.loads("[" * 100_000)


CASES = [
    (lambda: open("/nowhere/at/all"), "/nowhere/at/all: No such file or directory"),
    (lambda: {}["weight_map"], "an entry is missing: 'weight_map'"),
    (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
    (lambda: len(3), "TypeError: object of type 'int' has no len()"),
    (lambda: bytes(1 << 62), "out of memory"),
    (_deep, "nested too deeply"),
    (lambda: int("x\ny"), "invalid literal for int() with base 10: 'x\\ny'"),
    (
        lambda: b"\xff".decode("utf-8"),
        "'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
    ),
    (lambda: torch.zeros(2) + torch.zeros(3), "RuntimeError: The size of tensor a (2)"),
]


@pytest.mark.parametrize("program, said", CASES)
def test_an_exception_is_told_in_one_line(program, said):
    line = one_line(_raised(program))
    assert line.startswith(said) and line.isprintable()


def test_line_ends_and_escapes_do_not_reach_the_terminal_and_the_length_is_bounded():
    assert one_line(ValueError("a\n\n  b\x1b[2J")) == "a b\\x1b[2J"
    assert one_line(SafetensorError("")) == "SafetensorError"
    assert len(one_line(ValueError("x" * 10**6))) == 600
    assert one_line(OSError("plain")) == "plain"


def test_what_was_at_work_is_named_once():
    with pytest.raises(OptionError, match="^config_name here: an entry is missing: 'a'$"):
        with naming("config_name", "here"):
            {}["a"]
    with pytest.raises(OptionError, match="^mask is odd$"):
        with naming("config_name", "here"):
            raise OptionError("mask", "is odd")
    with pytest.raises(KeyboardInterrupt):
        with naming("x", 1):
            raise KeyboardInterrupt
