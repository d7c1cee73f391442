"""Errors that name options: what the core says, and how each program's users read it."""

from __future__ import annotations

import ast
import json
import pickle
import re
import sys
from pathlib import Path

import pytest

from dsp_plugin.cli.main import main as dsp
from dsp_plugin.diffs import StretchedConcrete, frozen_names, penalties_by_layer
from dsp_plugin.diffs.training.groups import grouping_name
from dsp_plugin.diffs.training.vector import check_penalty_form
from dsp_plugin.gating import (
    AttentionBlock,
    BudgetOptions,
    ConcreteGates,
    ExponentialCooling,
    HeadBudget,
    HeadMap,
    RankingOptions,
    SubsetOptions,
    parse_heads_per_kind,
    path_down,
    stops,
)
from dsp_plugin.options.errors import OptionError, as_typed, dashed, underscored
from dsp_plugin.options.faults import naming, one_line
from dsp_plugin.reports.report import make_report
from dsp_plugin.surgery import read_mask

PACKAGE = Path(__file__).resolve().parents[3] / "dsp_plugin"
ENCODER, CROSS = AttentionBlock("encoder.0", 4, "encoder-self"), AttentionBlock("cross.0", 4, "decoder-cross")
HEADS = HeadMap([ENCODER, CROSS])
BOTH = {"encoder-self": 2, "decoder-cross": 2}
LAYERS = ["embed.weight", "layers.0.weight", "layers.1.weight"]


def _mask(content):
    def read(folder):
        (folder / "mask.json").write_text(json.dumps(content))
        read_mask(str(folder / "mask.json"), HEADS)

    return read


def _report(**options):
    def report(folder):
        record = next((PACKAGE.parent / "results").rglob("results.json"))
        make_report(record.parent, folder / "out", **options)

    return report


def _at_work(folder):
    with naming("eval_checkpoint", "here"):
        {}["a"]


# what raises -> the option it names, others that it speaks of, and of its reason
SITES = {
    "K": (lambda _: HeadBudget(HEADS, 9), "num_of_heads", (), "in 0..8"),
    "no K": (lambda _: HeadBudget(HEADS), "num_of_heads", (), "missing"),
    "a sum": (
        lambda _: HeadBudget(HEADS, 3, BOTH),
        "heads_per_kind",
        ("num_of_heads",),
        "adds up to 4 heads",
    ),
    "a kind": (lambda _: HeadBudget(HEADS, None, {"x": 1}), "heads_per_kind", (), "each of encoder-self"),
    "of a kind": (
        lambda _: HeadBudget(HEADS, None, {**BOTH, "encoder-self": 5}),
        "heads_per_kind",
        (),
        "encoder-self must be a whole number in 0..4",
    ),
    "kinds": (lambda _: parse_heads_per_kind("6"), "heads_per_kind", (), "must look like"),
    "a minimum": (lambda _: HeadBudget(HEADS, None, None, -1), "min_heads_per_block", (), "in 0..8"),
    "too little": (
        lambda _: HeadBudget(HEADS, 2, None, 2),
        "min_heads_per_block",
        ("num_of_heads",),
        "2 needs 4 heads in 2 blocks",
    ),
    "too little of a kind": (
        lambda _: HeadBudget(HEADS, None, BOTH, 3),
        "min_heads_per_block",
        ("heads_per_kind",),
        "encoder-self gives them 2",
    ),
    "a minimum of nothing": (
        lambda _: BudgetOptions(min_heads_per_block=1).check(),
        "min_heads_per_block",
        ("num_of_heads", "heads_per_kind"),
        "needs a budget",
    ),
    "a step": (lambda _: stops(8, 9), "num_of_heads", (), "1..8 here, got 9"),
    "landings": (lambda _: stops(8, 1, [9]), "budgets", (), "in 0..8"),
    "below the end": (
        lambda _: path_down(HEADS, 8, 1, [2], HeadBudget(HEADS, None, BOTH)),
        "heads_per_kind",
        ("budgets",),
        "keeps 4 heads",
    ),
    "a ranking": (lambda _: RankingOptions("size").check(), "rank_by", (), "must be one of importance"),
    "samples": (lambda _: RankingOptions(samples=0).check(), "samples", (), "1 or more, got 0"),
    "lambda": (lambda _: ConcreteGates(HEADS, None, -1.0), "l0_penalty", (), "0 or more"),
    "the first temperature": (lambda _: ExponentialCooling(0.0, 1, 1), "initial_temperature", (), "positive"),
    "the last temperature": (lambda _: ExponentialCooling(1, -1, 1), "final_temperature", (), "positive"),
    "a cool-down": (lambda _: ExponentialCooling(1, 1, -1), "cooldown_steps", (), "0 or more updates"),
    "two ways": (
        lambda _: SubsetOptions(True, True, 1, 1, 1).check(),
        "use_ste",
        ("use_ste", "annealing"),
        "has no temperature",
    ),
    "no mask": (_mask({"keep": 3}), "mask", (), "mask.json: expected"),
    "several masks": (_mask([{"keep": []}]), "mask", (), "several models"),
    "a short mask": (_mask([1, 0]), "mask", (), "has 2 entries, the model 8 heads"),
    "a mask of another": (_mask({"keep": [1] * 8, "blocks": []}), "mask", (), "of another model"),
    "frozen layers": (lambda _: frozen_names(LAYERS, 5), "fix_layer", (), "between -1 (nothing) and"),
    "penalties": (
        lambda _: penalties_by_layer(LAYERS, [1.0]),
        "sparsity_penalty_per_layer",
        (),
        "needs 4 numbers",
    ),
    "an interval": (
        lambda _: StretchedConcrete(1, 2),
        "concrete_lower",
        ("concrete_upper",),
        "must be below 0",
    ),
    "a switch": (lambda _: grouping_name(2, 0, 0), "per_params_alpha", (), "0 or 1, got 2"),
    "two switches": (
        lambda _: grouping_name(1, 1, 1),
        "per_params_alpha",
        ("per_neuron_alpha", "per_layer_alpha"),
        "exclude each other",
    ),
    "a form": (lambda _: check_penalty_form("x"), "penalty_form", (), "must be one of paper"),
    "no setting": (_report(only=["nobody"]), "only", (), "nobody: no such setting"),
    "no method": (_report(baseline="nobody"), "baseline", (), "nobody: no such method"),
    "work with a file": (_at_work, "eval_checkpoint", (), "here: an entry is missing: 'a'"),
}


@pytest.fixture(params=SITES.values(), ids=list(SITES))
def site(request, tmp_path):
    raises, name, others, reason = request.param
    with pytest.raises(OptionError) as raised:
        raises(tmp_path)
    return raised.value, name, others, reason


def test_the_core_names_the_option_and_says_why(site):
    error, name, others, reason = site
    assert (error.name, error.others) == (name, others) and reason in str(error)
    assert str(error).startswith(f"{name} ") and all(other in str(error) for other in others)
    assert "{}" not in str(error) and str(pickle.loads(pickle.dumps(error))) == str(error)


def _dsp(error, monkeypatch, capsys):
    def raises(args):
        raise error

    monkeypatch.setattr("dsp_plugin.cli.seal.run", raises)
    assert dsp(["seal", "."]) == 1
    return capsys.readouterr().err


def _on_transformers(error, monkeypatch, capsys):
    parsing = pytest.importorskip("dsp_plugin.hf.programs.chassis.parsing")

    def raises():
        raise error

    monkeypatch.setattr(sys, "argv", ["run_dsp.py"])
    with pytest.raises(SystemExit) as ended:
        parsing.run(raises)
    return str(ended.value)


def _on_fairseq(error, monkeypatch, capsys):
    from dsp_plugin.mt.programs.chassis.refusals import run_program

    def raises(words):
        raise error

    monkeypatch.setattr(sys, "argv", ["run_dsp.py"])
    with pytest.raises(SystemExit) as ended:
        run_program(raises, [])
    return str(ended.value)


@pytest.mark.parametrize(
    "program, spelling",
    [(_dsp, dashed), (_on_transformers, underscored), (_on_fairseq, dashed)],
    ids=["dsp", "transformers", "fairseq"],
)
def test_every_program_spells_it_as_its_users_do(site, program, spelling, monkeypatch, capsys):
    error, name, others, reason = site
    told = program(error, monkeypatch, capsys)
    assert f"error: {spelling(name)} " in told and reason in told
    assert all(spelling(other) in told for other in others)


def test_an_option_is_said_as_it_was_typed():
    words = ["DATA", "--num-of-heads", "9", "--heads_per_kind=x", "--joint_pruning", "-x", "--", "9"]
    spelling = as_typed(words, underscored)
    error = OptionError("heads_per_kind", "and {} and {} differ", "num_of_heads", "min_heads_per_block")
    assert one_line(error, spelling) == "--heads_per_kind and --num-of-heads and --min_heads_per_block differ"
    assert as_typed(words, dashed)("min_heads_per_block") == "--min-heads-per-block"


@pytest.mark.parametrize("flag", ["--num_of_heads", "--num-of-heads"])
def test_a_program_with_two_spellings_says_the_one_it_was_given(flag, monkeypatch):
    parsing = pytest.importorskip("dsp_plugin.hf.programs.chassis.parsing")
    methods = pytest.importorskip("dsp_plugin.hf.programs.heads.methods")
    words = [flag, "-3"]
    monkeypatch.setattr(sys, "argv", ["run_dsp.py", *words])
    with pytest.raises(SystemExit, match=f"error: {flag} -3: a whole number, 0 or more belongs there"):
        parsing.run(lambda: parsing.parse("", [methods.DSPArguments], words))


def test_fairseq_itself_shows_the_option_as_it_is_typed():
    """fairseq-train has no place of ours where errors end: what leaves the model has its dashes already."""
    from dsp_plugin.mt.training.option_checks import spelling_options

    @spelling_options()
    def build(k):
        return HeadBudget(HEADS, k)

    with pytest.raises(ValueError, match="^--num-of-heads must be .* got 9") as raised:
        build(9)
    assert raised.traceback[-1].name == "check_budget" and raised.value.__suppress_context__
    assert one_line(raised.value, underscored).startswith("--num_of_heads must be ")  # as a program has it


# ---- the rule ----

CORE = ("options", "records", "handshake", "gating", "surgery", "diffs", "reports")
LIBRARY = ("data", "diffs", "export", "folders", "heads", "probes", "trainer")  # on Transformers
ROOMS = (*CORE, *(f"hf/{room}" for room in LIBRARY))
OTHERS = {  # files with texts that look as if they held an option
    "options/launchers.py": "what a launcher adds, which no program of ours has",
    "diffs/compiled.py": "--version is the compiler's",
    "reports/page.py": "CSS calls its own variables --ink",
}


def _spelled(path: Path) -> list[str]:
    """Texts in a file, its docstrings apart, that hold an option with its dashes."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [node.value for node in nodes if isinstance(node, ast.Constant) and id(node) not in docstrings]
    return [text for text in texts if isinstance(text, str) and re.search(r"(?<![-\w])--[a-zA-Z]", text)]


def test_libraries_spell_no_option():
    files = (path for room in ROOMS for path in (PACKAGE / room).rglob("*.py"))
    found = {path.relative_to(PACKAGE).as_posix(): texts for path in files if (texts := _spelled(path))}
    assert found.keys() == OTHERS.keys(), found
