"""The program that takes a translation model to another domain: what it refuses, and its table."""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path

import pytest

from dsp_plugin.records.files.sealed import read_json

PROGRAM = Path(__file__).resolve().parents[3] / "scripts" / "mt" / "diff_domains.py"


@pytest.fixture
def work(tmp_path):
    """work(home, **changes of its options)"""
    spec = importlib.util.spec_from_file_location("diff_domains", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def make(home="iwslt14", **changes):
        options = dict(
            home=home,
            base=None,
            runs=tmp_path / "runs",
            results=tmp_path / "results",
            seed=1,
            flags="",
            quick=False,
        )
        return module.Work(argparse.Namespace(**{**options, **changes}))

    return make


def test_runs_and_records_of_other_settings_are_refused(work, tmp_path):
    first = work()
    first.check_settings()
    noted = read_json(tmp_path / "results/iwslt14-to-multi30k/settings.json")
    assert noted == first.settings and noted["seed"] == 1 and noted["fix_layer"] == 0
    work().check_settings()
    work(home="multi30k").check_settings()
    (tmp_path / "model.pt").write_bytes(b"a base")
    for changes in ({"seed": 2}, {"quick": True}, {"base": tmp_path / "model.pt"}):
        with pytest.raises(SystemExit, match="iwslt14-to-multi30k is of other settings"):
            work(**changes).check_settings()
    (tmp_path / "runs/iwslt14-to-multi30k/settings.json").unlink()
    work(seed=1).check_settings()  # with no record in there, it is a folder as any other
    (tmp_path / "results/iwslt14-to-multi30k/settings.json").unlink()
    (tmp_path / "results/iwslt14-to-multi30k/base").mkdir()
    (tmp_path / "results/iwslt14-to-multi30k/base/results.json").write_text("{}")
    with pytest.raises(SystemExit, match="is of other settings"):
        work().check_settings()


def test_a_base_that_is_not_there_is_refused_first(work, tmp_path):
    with pytest.raises(FileNotFoundError, match="--base nowhere.pt: no such file"):
        work(base=Path("nowhere.pt"))
    assert not (tmp_path / "runs").exists()


def test_a_base_is_what_it_holds_not_its_name(work, tmp_path):
    for folder, content in (("a", b"one"), ("b", b"one"), ("c", b"another")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.pt").write_bytes(content)
    work(base=tmp_path / "a/model.pt").check_settings()
    work(base=tmp_path / "b/model.pt").check_settings()
    with pytest.raises(SystemExit, match="is of other settings"):
        work(base=tmp_path / "c/model.pt").check_settings()


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"flags": "--dropout nan"}, "--dropout nan: "),
        ({"flags": "--no-such-option"}, "unrecognized arguments: --no-such-option"),
        ({"flags": "'"}, "--flags ': No closing quotation"),
        ({"seed": -1}, "--seed -1: "),
        ({"runs": Path("/dev/null/runs")}, "--runs "),
    ],
)
def test_what_a_later_program_would_refuse_is_refused_first(work, tmp_path, changes, told):
    with pytest.raises(ValueError, match=f"^{told}"):
        work(**changes).prepare()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("home", ["iwslt14", "multi30k"])
def test_the_shipped_table_is_that_of_the_shipped_records(work, home, tmp_path):
    made = work(home=home)
    shutil.copytree(PROGRAM.parents[2] / "results/diff/mt" / made.results.name, made.results)
    shipped = (made.results / "table.md").read_text()
    made.check_settings()
    made.table()
    assert (made.results / "table.md").read_text() == shipped and shipped.count("\n| ") == 7
