"""Bad values of every option of the Transformers programs, at the parsing stage alone; no model is loaded."""

from __future__ import annotations

import ast
import json
import math
import sys

import pytest
from hf_programs import ROOT, program
from transformers import TrainingArguments

from dsp_plugin.hf.programs.chassis.arguments import (
    CausalModelArguments,
    ClmArguments,
    GlueArguments,
    ModelArguments,
    ResultArguments,
    SquadArguments,
)
from dsp_plugin.hf.programs.chassis.option_checks import meaning_of, number_options
from dsp_plugin.hf.programs.chassis.parsing import parse
from dsp_plugin.hf.programs.chassis.tuning import TuningArguments
from dsp_plugin.hf.programs.diffs.arguments import DiffArguments, FixMaskArguments, ProjectionArguments
from dsp_plugin.hf.programs.dsee.arguments import PruneArguments, UpdateArguments
from dsp_plugin.hf.programs.heads.methods import DSPArguments, VoitaArguments
from dsp_plugin.hf.programs.heads.michel import MichelArguments
from dsp_plugin.options.errors import underscored
from dsp_plugin.options.faults import one_line
from dsp_plugin.options.numbers import check_number

# program -> its groups of options, without those of data
DSEE = [ModelArguments, UpdateArguments, PruneArguments, ResultArguments, TrainingArguments]
PROGRAMS = {
    "run_glue": [ModelArguments, TuningArguments, ResultArguments, TrainingArguments],
    "run_clm": [CausalModelArguments, TuningArguments, ResultArguments, TrainingArguments],
    "run_dsp": [ModelArguments, DSPArguments, ResultArguments, TrainingArguments],
    "run_voita": [ModelArguments, VoitaArguments, ResultArguments, TrainingArguments],
    "run_michel": [ModelArguments, MichelArguments],
    **dict.fromkeys(("run_glue_prune", "run_glue_prune_heads", "run_dsee"), DSEE),
    "diff": [
        ModelArguments,
        DiffArguments,
        ProjectionArguments,
        FixMaskArguments,
        ResultArguments,
        TrainingArguments,
    ],
}
GIVEN = ["--model_name_or_path", "m", "--output_dir", "out"]
GROUPS = {group: None for groups in PROGRAMS.values() for group in groups} | {
    GlueArguments: None,
    SquadArguments: None,
    ClmArguments: None,
}
EVERY = [(group, name) for group in GROUPS for name in number_options(group)]
ODD = ["nan", "inf", "-inf", "much", "", "1e999"]


def refused(groups, words):
    with pytest.raises(ValueError) as refusal:
        parse("", groups, [*GIVEN, *words])
    assert "\n" not in str(refusal.value)
    return one_line(refusal.value, underscored)


def groups_with(group):
    found = [groups for groups in PROGRAMS.values() if group in groups] or [
        [ModelArguments, group, TrainingArguments]
    ]
    return found[0]


@pytest.mark.parametrize("group, name", EVERY, ids=[f"{group.__name__}.{name}" for group, name in EVERY])
def test_every_number_of_every_program_has_a_meaning_and_takes_no_other_number(group, name):
    meaning = meaning_of(group, name)  # TypeError: a new option that does not say it
    kind = number_options(group)[name]
    numbers = [-1e30, -7, -1, -0.5, 0, 0.5, 1, 2, 3.5, 2**70, 1e308]
    wrong = [
        number
        for number in numbers
        if check_number(number, meaning) and (kind is float or number == int(number))
    ]
    assert all(check_number(number, meaning) for number in (math.nan, math.inf, -math.inf))
    words = [str(int(number)) if kind is int else repr(float(number)) for number in wrong]
    for word in [*ODD, *words]:
        said = refused(groups_with(group), [f"--{name}={word}"])
        assert f"--{name}" in said, said
    if kind is float:
        assert "belongs there" in refused(groups_with(group), [f"--{name}=nan"])


@pytest.mark.parametrize(
    "words",
    [
        "--learning_rate -1",
        "--weight_decay -1",
        "--gradient_accumulation_steps 0",
        "--gradient_accumulation_steps -1",
        "--num_train_epochs -1",
        "--num_train_epochs 0",
        "--max_steps 0",
        "--max_steps -2",
        "--per_device_train_batch_size 0",
        "--per_device_eval_batch_size 0",
        "--warmup_steps -1",
        "--warmup_steps 1.5",
        "--max_grad_norm -1",
        "--adam_beta1 2",
        "--adam_beta2 1",
        "--adam_epsilon 0",
        "--label_smoothing_factor 2",
        "--label_smoothing_factor 1",
        "--seed -1",
        "--seed 4294967296",
        "--save_steps 0",
        "--save_steps 1.5",
        "--logging_steps 0",
        "--eval_steps -3",
        "--save_total_limit 0",
        "--dataloader_num_workers -1",
        "--max_seq_length 0",
        "--max_seq_length -5",
        "--max_train_samples 0",
    ],
)
def test_the_trainers_numbers(words):
    option, value = words.split()
    for data in (GlueArguments, SquadArguments):
        said = refused([ModelArguments, data, ResultArguments, TrainingArguments], [option, value])
        assert said.startswith(f"{option} {value}") and said.endswith("belongs there")


@pytest.mark.parametrize(
    "words",
    [
        "--learning_rate 0",
        "--warmup_steps 0.1",
        "--warmup_steps 100",
        "--save_steps 0.25",
        "--max_steps -1",
        "--max_grad_norm 0",
        "--num_train_epochs 0.5",
        "--seed 0",
        "--gradient_accumulation_steps 3",
    ],
)
def test_numbers_that_mean_something_are_taken(words):
    option, value = words.split()
    *_, args = parse("", PROGRAMS["run_glue"], [*GIVEN, option, value])
    assert getattr(args, option[2:]) == float(value)


@pytest.mark.parametrize("value", ['{"num_cycles": NaN}', '{"power": Infinity}', "[1]", "[" * 100_000, "x"])
def test_numbers_inside_an_option(value):
    assert "--lr_scheduler_kwargs" in refused(PROGRAMS["run_glue"], [f"--lr_scheduler_kwargs={value}"])


FILES = [
    ({"learning_rate": -1}, "learning_rate -1: a finite number, 0 or more belongs there"),
    ({"learning_rate": "much"}, "learning_rate much: a finite number"),
    ({"learning_rate": True}, "learning_rate True: a finite number"),
    ({"do_train": "false"}, "do_train: 'false': true or false belongs there"),
    ({"output_dir": 3}, "output_dir: 3: a text belongs there"),
    ({"max_steps": 1.5}, "max_steps 1.5"),
    ({"num_train_epochs": [1]}, None),
    ({"penalty_form": "odd"}, "penalty_form: 'odd': one of paper, additive"),
    ({"sparsity_penalty_per_layer": [1, -1]}, "sparsity_penalty_per_layer 1 -1"),
    ({"no_such_option": 1}, "no_such_option"),
    ([1], "names of options with their values belong there"),
    ("[" * 100_000, "nested too deeply"),
    ("{", "Expecting property name"),
]


@pytest.mark.parametrize("content, said", FILES)
def test_a_file_of_options_is_looked_at_likewise(tmp_path, content, said):
    path = tmp_path / "options.json"
    given = {"model_name_or_path": "m", "output_dir": "out"}
    path.write_text(
        content
        if isinstance(content, str)
        else json.dumps({**given, **content} if isinstance(content, dict) else content)
    )
    if said is None:
        with pytest.raises(ValueError):
            parse("", PROGRAMS["diff"], [str(path)])
        return
    with pytest.raises(ValueError) as refusal:
        parse("", PROGRAMS["diff"], [str(path)])
    assert str(refusal.value).startswith(f"{path}: ") and said in str(refusal.value)


def test_numbers_that_yaml_takes_for_texts_are_numbers(tmp_path):
    (tmp_path / "o.yaml").write_text(
        "model_name_or_path: m\noutput_dir: out\nlearning_rate: 1e-5\nmax_steps: 7.0\n"
    )
    *_, args = parse("", PROGRAMS["run_glue"], [str(tmp_path / "o.yaml")])
    assert (args.learning_rate, args.max_steps) == (1e-5, 7)


PLACES = (
    "dsp_plugin/cli",
    "dsp_plugin/hf",
    "scripts/glue",
    "scripts/squad",
    "scripts/dsee",
    "scripts/diff",
    "scripts/hf",
    "benchmarks",
    "pipelines",
)
FILES_OF_PROGRAMS = sorted(path for place in PLACES for path in (ROOT / place).rglob("*.py")) + [
    ROOT / "scripts" / "demo.py"
]


@pytest.mark.parametrize("path", FILES_OF_PROGRAMS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_option_of_a_program_is_a_bare_number(path):
    """`type=int` takes -1 and `type=float` NaN: `type=number(MEANING)` (dsp_plugin/options/numbers.py)
    does not.
    """
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "type" and isinstance(node.value, ast.Name):
            assert node.value.id not in ("int", "float"), f"{path}:{node.value.lineno}"


def test_numbers_of_scripts_are_refused(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["serve_tasks.py", "--examples", "0"])
    with pytest.raises(SystemExit) as end:
        program("diff/serve_tasks").main()
    assert end.value.code == 2 and "belongs there" in capsys.readouterr().err


def test_the_programs_are_all_here():
    """A new program comes with its line in PROGRAMS."""
    rooms = ("glue", "squad", "dsee")
    names = {path.stem for room in rooms for path in (ROOT / "scripts" / room).glob("run_*.py")}
    diff = {name for name in names if "diff" in name or name.endswith(("_mag", "_fixmask_finetune"))}
    assert names - diff - {"run_squad"} == set(PROGRAMS) - {"diff"}
