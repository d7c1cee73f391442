"""Every program takes --local-rank, as `python -m torch.distributed.launch` gives it, and leaves it be."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from dsp_plugin.options.launchers import without_local_rank

ROOT = Path(__file__).resolve().parents[3]
TRAINS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "scripts").glob("*/run_*.py"))
PROGRAMS = sorted(
    str(path.relative_to(ROOT))
    for path in (ROOT / "scripts").rglob("*.py")
    if "parse_args(" in path.read_text("utf-8") and "__main__" in path.read_text("utf-8")
)
ON_TRANSFORMERS = [script for script in TRAINS if "/mt/" not in script]
SPELLINGS = (["--local-rank=1"], ["--local_rank=1"], ["--local-rank", "1"], ["--local_rank", "-1"])


@pytest.mark.parametrize("words", SPELLINGS, ids=" ".join)
def test_the_rank_of_a_launcher_is_taken_out(words):
    assert without_local_rank(["data", *words, "--seed", "1"]) == ["data", "--seed", "1"]
    assert without_local_rank([*words, "data"]) == ["data"]


def test_all_else_stays():
    words = ["--local-ranks=1", "local-rank", "--lr", "1", "--rank=1"]
    assert without_local_rank(words) == words
    assert without_local_rank(["--local_rank", "--fp16"]) == ["--fp16"]


@pytest.mark.parametrize("script", TRAINS)
def test_a_program_begins_where_it_is_taken_out(script):
    text = (ROOT / script).read_text("utf-8")
    assert re.search(r"\b(start_program|run_program|\w+_program)\(", text)


@pytest.mark.parametrize("script", PROGRAMS)
def test_every_program_takes_it_out(script):
    text = (ROOT / script).read_text("utf-8")
    assert re.search(r"\b(start_program|run_program|\w+_program|without_local_rank)\(", text)


@pytest.mark.parametrize("script", ON_TRANSFORMERS)
def test_a_parser_on_transformers_never_sees_it(script, monkeypatch):
    pytest.importorskip("transformers")
    from hf_programs import program

    monkeypatch.setattr(sys, "argv", [script])
    main = program(script.removeprefix("scripts/").removesuffix(".py")).main
    words = ["--model_name_or_path", "m", "--output_dir", "o", "--task_name", "cola", "--odd", "1"]
    with pytest.raises(SystemExit) as error:
        main(["--local-rank=1", *words, "--local_rank", "1"])
    assert "--odd" in str(error.value) and "local" not in str(error.value)


def test_no_program_on_fairseq_sees_it():
    pytest.importorskip("fairseq")
    from dsp_plugin.mt.programs.chassis.refusals import run_program

    seen: list[list[str]] = []
    run_program(seen.append, ["data", "--local-rank=1", "--traceback", "--arch", "x"])
    assert seen == [["data", "--arch", "x"]]
