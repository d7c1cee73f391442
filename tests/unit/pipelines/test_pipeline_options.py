"""Settings of the pipelines: what they may be, and what is refused."""

from __future__ import annotations

import subprocess
import sys

import pytest
from pipeline_runs import ROOT

from pipelines.plans.diff import DiffPlan
from pipelines.plans.domains import DomainsPlan
from pipelines.plans.glue import GluePlan
from pipelines.plans.mt import MTPlan
from pipelines.plans.options import place, words_of


@pytest.fixture(autouse=True)
def root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    "make, config, reason",
    [
        (GluePlan, {"budgets": -1}, "budgets -1: a whole number, 0 or more belongs there"),
        (GluePlan, {"seeds": "1 -1"}, "seeds -1: a whole number from 0 to"),
        (GluePlan, {"tasks": "CoLA XY"}, "tasks XY: choose of CoLA, SST-2"),
        (GluePlan, {"all_methods": "maybe"}, "all_methods maybe: 1 or 0 belongs there"),
        (GluePlan, {"densities": 0.1}, "densities: no such setting; there are seeds"),
        (DiffPlan, {"densities": "nan"}, "densities nan: a share, above 0 and at most 1 belongs there"),
        (DiffPlan, {"densities": 0}, "densities 0: a share"),
        (DiffPlan, {"DENSITIES": [0.1, 5]}, "densities 5: a share"),
        (DiffPlan, {"quick": -3}, "quick -3: a whole number, 0 or more"),
        (MTPlan, {"seeds": -1}, "seeds -1: "),
        (
            MTPlan,
            {"only": "large"},
            "only large: no such run; runs: small/unpruned-seed1, small/unpruned_tuned",
        ),
        (MTPlan, {"settings": "/no/such.yaml"}, "settings /no/such.yaml: "),
        (DomainsPlan, {"home": "here"}, "home here: choose of multi30k, iwslt14"),
        (DomainsPlan, {"seed": "1 2"}, "seed 1 2: "),
    ],
)
def test_what_cannot_be_is_refused_by_name(make, config, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        make(config)


def test_what_is_named_twice_is_run_once():
    options = DiffPlan({"tasks": "CoLA CoLA", "densities": "0.005 5e-3 0.001", "seeds": "1 2 1"}).options
    assert (options.tasks, options.densities, options.seeds) == (["CoLA"], [0.005, 0.001], [1, 2])
    assert GluePlan({"BUDGETS": [36, 36, 18]}).options.budgets == [36, 18]
    plan = DiffPlan(
        {"tasks": "CoLA", "densities": "0.005 0.0050000001"}
    )  # written alike: one folder, one run
    assert len(plan.runs) == len({run.name for run in plan.runs})


def test_an_empty_setting_is_the_default():
    assert GluePlan({"tasks": "", "quick": None}).options.tasks == ["CoLA", "MRPC", "SQuAD"]


def test_folders_are_those_of_where_one_started(tmp_path, monkeypatch):
    assert str(place("runs/x")) == "runs/x" and str(place("/runs")) == "/runs"
    monkeypatch.setenv("DSP_STARTED_IN", str(tmp_path))
    assert place("runs/x") == tmp_path / "runs/x" and str(place("/runs")) == "/runs"


def test_options_of_a_mapping():
    assert words_of({"a": 1, "b": True, "c": False, "d": "x y"}) == ["--a", "1", "--b", "--d", "x y"]


@pytest.mark.parametrize("make", [GluePlan, DiffPlan])
def test_the_shipped_tables_are_those_of_the_shipped_records(make):
    plan = make({})
    assert plan.left() == [] and plan.other_runs() == {}
    assert plan.table_files() == list(map(str, plan.tables())) and len(plan.table_files()) >= 4


def test_plans_need_no_torch():
    """Snakemake has an environment of its own."""
    hidden = "torch", "numpy", "transformers", "fairseq", "filelock"
    hide = f"import sys; sys.modules.update(dict.fromkeys({hidden}))\n"
    names = ("glue", "diff", "mt", "pipelined", "domains")
    program = hide + "".join(f"import pipelines.plans.{name}\n" for name in names)
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)
