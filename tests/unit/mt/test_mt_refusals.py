"""Whatever a library raises about the input becomes one line; errors of the work itself keep their
traceback.
"""

from __future__ import annotations

import argparse
import json
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("fairseq")

from fairseq import options
from hydra.errors import ConfigCompositionException
from omegaconf import MissingMandatoryValue
from safetensors import SafetensorError

import dsp_plugin

dsp_plugin.register()

from dsp_plugin.gating.handshake.handshake import HandshakeError
from dsp_plugin.mt.programs.chassis import launch
from dsp_plugin.mt.programs.chassis.refusals import one_line, raise_errors, run_program
from dsp_plugin.mt.translate.translate import translate
from dsp_plugin.options.errors import as_typed, dashed


class ProcessRaisedException(Exception):
    """As torch.multiprocessing names the error of a process."""


def raised(error):
    def main(argv):
        raise error

    return main


def nested_json(argv):
    json.loads("[" * 100_000)


@pytest.mark.parametrize(
    "main, line",
    [
        (raised(ValueError("--lr nope:\n  a number belongs there")), "--lr nope: a number belongs there"),
        (
            raised(FileNotFoundError(2, "No such file or directory", "a.pt")),
            "a.pt: No such file or directory",
        ),
        (raised(Exception("Could not infer language pair")), "Could not infer language pair"),
        (raised(ImportError("please install sacremoses")), "please install sacremoses"),
        (raised(MemoryError()), "not enough memory"),
        (nested_json, "something is nested too deeply"),
        (raised(KeyError("nope")), "KeyError: 'nope'; --traceback shows more"),
        (raised(AssertionError()), "AssertionError; --traceback shows more"),
        (raised(ZeroDivisionError("division by zero")), "ZeroDivisionError: division by zero; --traceback"),
        (raised(TypeError("argument must be int\nor None")), "TypeError: argument must be int or None"),
        (raised(SafetensorError("header too large")), "SafetensorError: header too large"),
        (
            raised(ConfigCompositionException("Error merging override lr_scheduler.total_num_update=null")),
            "--total-num-update is needed",
        ),
        (
            raised(ConfigCompositionException("Error merging override task.left_pad_source=maybe")),
            "--left-pad-source maybe: ",
        ),
        (
            raised(MissingMandatoryValue("Missing mandatory value: bpe_codes\n    full_key: bpe_codes")),
            "--bpe-codes is needed with",
        ),
        (
            raised(ProcessRaisedException("-- Process 1:\nTraceback\nValueError: --lr -1: above 0")),
            "--lr -1: above 0",
        ),
        (raised(ValueError("\x1b[2J")), "\\x1b[2J"),
        (lambda argv: translate(None, None, "test"), "AttributeError"),
    ],
)
def test_one_line(monkeypatch, main, line):
    monkeypatch.setattr(sys, "argv", ["/somewhere/run_dsp.py"])
    at_work = line == "AttributeError"  # in the midst of a translation
    with pytest.raises(AttributeError if at_work else SystemExit) as ended:
        run_program(main, ["data"])
    if not at_work:
        said = str(ended.value.code)
        assert said.startswith(f"run_dsp.py: error: {line}") and "\n" not in said
    with pytest.raises(Exception) as shown:  # noqa: B017, PT011
        run_program(main, ["data", "--traceback"])
    assert not isinstance(shown.value, SystemExit)


def test_a_method_that_is_not_whole_says_so_in_one_line_in_the_midst_of_the_work(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/run_dsp.py"])

    def half(*args, **kwargs):
        raise HandshakeError("the penalty was in no loss")

    with pytest.raises(SystemExit, match="run_dsp.py: error: the penalty was in no loss"):
        run_program(
            lambda argv: translate(SimpleNamespace(make_generation_fast_=half), None, "test"), ["data"]
        )


def test_the_place_of_an_assertion_of_fairseqs_is_told():
    with pytest.raises(AttributeError) as shown:
        options.parse_args_and_arch(None)
    assert "(options.py, parse_args_and_arch)" in one_line(shown.value)


def test_the_program_does_not_see_the_switch():
    seen = []
    run_program(seen.extend, ["data", "--traceback", "--lr", "1"])
    assert seen == ["data", "--lr", "1"]


@pytest.mark.parametrize(
    "words, told",
    [
        (["--lr", "["], "argument --lr: a number, or several joined by commas, belongs there, not '['"),
        (["--lr", ""], "argument --lr: a number"),
        (["--lr", "abc"], "argument --lr: a number"),
        (["--update-freq", "1.5"], "argument --update-freq: a number"),
        (["--max-tokens", "x"], "argument --max-tokens: invalid int value: 'x'"),
        # no abbreviations: half of us would not see them
        (["--num-of-head", "3"], "unrecognized arguments: --num-of-head 3"),
        (["--joint"], "unrecognized arguments: --joint"),
        (["--l0-penalty", "3"], "unrecognized arguments: --l0-penalty 3"),  # another method's
        (["--joint-pruning=1"], "argument --joint-pruning: ignored explicit argument '1'"),
        (["--adam-betas", "(0.9"], r"--adam-betas (0.9: two numbers from 0 to below 1"),
        (["--clip-norm", "nan"], "--clip-norm nan: a finite number, 0 or more"),
        (["--user-dir", "/nowhere"], "--user-dir /nowhere: no such folder"),
        (["--lr-scheduler", "polynomial_decay"], "--lr-scheduler polynomial_decay needs --total-num-update"),
        (["--save-dir", "/dev/null"], "--save-dir /dev/null is "),
    ],
)
def test_the_line_of_an_option_that_cannot_be(words, told):
    start = [
        "data",
        "--arch",
        "transformer",
        "--optimizer",
        "adam",
        "--max-tokens",
        "9",
        "--criterion",
        "label_smoothed_cross_entropy",
    ]
    with pytest.raises(ValueError) as refused:
        launch.method_options([*start, *words])
    assert one_line(refused.value, as_typed(words, dashed)).startswith(told)


def test_lists_that_can_be():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lr", type=lambda text: options.eval_str_list(text, float))
    raise_errors(parser)
    raise_errors(parser)  # fairseq lets a parser be changed twice
    assert parser.parse_args(["--lr", "0.1,1"]).lr == [0.1, 1.0] and parser.parse_args(
        ["--lr", "1e-3"]
    ).lr == [0.001]
