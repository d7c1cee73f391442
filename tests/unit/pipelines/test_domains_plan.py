"""A translation model taken to another domain: what is refused, what is left, and the table."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from pipeline_runs import ROOT

from dsp_plugin.delta.labels import label_of as delta_label
from dsp_plugin.dsee.labels import label_of
from dsp_plugin.records.files.sealed import read_json
from pipelines.plans.domain_rows import Domain
from pipelines.plans.domains import DomainsPlan


@pytest.fixture
def plan(tmp_path, monkeypatch):
    """plan(home, **settings): everything in the test's folder."""
    monkeypatch.chdir(ROOT)

    def make(home="iwslt14", **config):
        places = {name: str(tmp_path / name) for name in ("runs", "results")}
        return DomainsPlan({"home": home, "python": sys.executable, "flags": " ", **places, **config})

    return make


def same_settings(plan) -> None:
    """The part of `check` that looks at folders."""
    plan.left = list  # as if nothing were left, so that no option is looked at
    plan.check()


def test_runs_and_records_of_other_settings_are_refused(plan, tmp_path):
    first = plan()
    same_settings(first)
    first.note_settings()
    noted = read_json(tmp_path / "results/iwslt14-to-multi30k/settings.json")
    assert noted == first.settings and noted["seed"] == 1 and noted["fix_layer"] == 0
    same_settings(plan())
    same_settings(plan(home="multi30k"))
    (tmp_path / "model.pt").write_bytes(b"a base")
    for changes, named in (
        ({"seed": 2}, r"\(seed: 1 there, 2 here\)"),
        ({"quick": 1}, r"\(updates: 250 there, 3 here; finetune_updates: 250 there, 3 here\)"),
        ({"base": tmp_path / "model.pt"}, r"\(base: None there, model.pt here\)"),
    ):
        with pytest.raises(ValueError, match=f"iwslt14-to-multi30k .* with other settings {named}"):
            same_settings(plan(**changes))
    (tmp_path / "runs/iwslt14-to-multi30k/settings.json").unlink()
    same_settings(plan())  # with no record in there, it is a folder as any other
    (tmp_path / "results/iwslt14-to-multi30k/settings.json").unlink()
    (tmp_path / "results/iwslt14-to-multi30k/base").mkdir()
    (tmp_path / "results/iwslt14-to-multi30k/base/results.json").write_text("{}")
    with pytest.raises(ValueError, match="with other settings"):
        same_settings(plan())


def test_a_base_that_is_not_there_is_refused_first(plan, tmp_path):
    with pytest.raises(ValueError, match="base .*nowhere.pt: no such file"):
        plan(base=tmp_path / "nowhere.pt")
    assert not (tmp_path / "runs").exists()


def test_a_base_is_what_it_holds_not_its_name(plan, tmp_path):
    for folder, content in (("a", b"one"), ("b", b"one"), ("c", b"another")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.pt").write_bytes(content)
    plan(base=tmp_path / "a/model.pt").note_settings()
    same_settings(plan(base=tmp_path / "b/model.pt"))
    with pytest.raises(ValueError, match="with other settings"):
        same_settings(plan(base=tmp_path / "c/model.pt"))


@pytest.mark.parametrize("home", ["iwslt14", "multi30k"])
def test_a_base_that_was_trained_again_makes_no_row_beside_those_of_the_first(plan, tmp_path, home):
    first = plan(home)
    first.noted.write("sha256:one")
    row = first.record(first.runs[0], first.home)
    row.parent.mkdir(parents=True)
    row.write_text("{}")
    again = plan(home)
    again.noted.check()  # the base is no setting
    again.noted.check_base(again.base, "sha256:one")
    again.noted.write()
    assert read_json(first.results / "settings.json")["trained_base"] == "sha256:one"
    with pytest.raises(
        ValueError, match=f"{home}-to-.* of the base sha256:one, and .* is sha256:two: remove it"
    ):
        again.noted.check_base(again.base, "sha256:two")
    for folder in (first.folder, first.results):  # of an earlier version, which noted none
        (folder / "settings.json").unlink()
    first.noted.write()
    with pytest.raises(ValueError, match="of a base that is not noted"):
        first.noted.check_base(first.base, "sha256:one")
    with pytest.raises(ValueError, match="of a base that is not noted"):  # before one is trained
        plan(home, runs=str(tmp_path / "other")).check()


def test_a_trained_base_is_looked_at_before_any_row_and_noted_once_it_is_whole(plan, tmp_path):
    made, run = plan(), []
    made._run_now = lambda words: run.append([str(word) for word in words[1:3]])
    made.base.parent.mkdir(parents=True)
    made.base.write_text("of a training that was stopped")
    made.check()
    made.note_settings()
    assert [words[0].split("/")[-1] for words in run] == ["check_flags.py"]
    made.base_record.touch()
    made.check()
    made.note_settings()
    program = "pipelines/note_base.py"
    assert run[1] == [program, "--check"] and run[3] == [program, "home=iwslt14"]
    with pytest.raises(ValueError, match="checkpoint_best.pt"):
        plan().check()  # which reads the file
    (tmp_path / "model.pt").write_text("a base")
    own = plan(base=tmp_path / "model.pt", runs=str(tmp_path / "own"), results=str(tmp_path / "own"))
    own._run_now = lambda words: run.append(words)
    own.note_settings()
    assert len(run) == 4


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"flags": "--dropout nan"}, "--dropout nan: "),
        ({"flags": "--no-such-option"}, "unrecognized arguments: --no-such-option"),
        ({"flags": "'"}, "flags ': No closing quotation"),
        ({"seed": -1}, "seed -1: "),
        ({"runs": "/dev/null/runs"}, "runs "),
    ],
)
def test_what_a_later_program_would_refuse_is_refused_first(plan, tmp_path, changes, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        plan(**changes).check()
    assert not (tmp_path / "runs").exists()


def test_every_step_waits_for_the_one_before_it(plan, tmp_path):
    made = plan()
    folder = tmp_path / "runs/iwslt14-to-multi30k"
    first, second = made.yaml.densities
    assert made.base_record == folder / "base/done" and str(made.base_record) in made.start_from()
    made.base.parent.mkdir(parents=True)
    made.base.write_text("of a training that was stopped")
    assert str(made.base_record) in made.start_from()
    made.base_record.touch()
    assert str(made.base_record) not in made.start_from()
    words = made.noting()
    assert words[:3] == [sys.executable, "pipelines/note_base.py", "home=iwslt14"] and "flags= " in words
    assert made.density_before(first) == [] and made.density_before(second) == [str(made.pack(first))]
    assert len(made.wanted()) == 11 * 2
    record = made.record(made.runs[0], made.home)
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert len(made.wanted()) == 11 * 2 - 1 and made.runs[0] in made.left()
    own = tmp_path / "model.pt"
    own.write_text("a base")
    assert not [path for path in plan(base=own).start_from() if "base" in path]


def test_texts_have_folders_of_their_own():
    texts = {
        (name, home): Domain.of(name, home)
        for name in ("multi30k", "iwslt14")
        for home in ("multi30k", "iwslt14")
    }
    assert len({domain.data for domain in texts.values()}) == 4
    assert texts["multi30k", "multi30k"].data == Path("data-bin/multi30k")  # the grid's
    assert all(
        (domain.text != domain.whole) == (key != ("multi30k", "multi30k")) for key, domain in texts.items()
    )


# from talks to captions those of DSEE and Delta-Tuning are not measured yet
@pytest.mark.parametrize(
    "home, left",
    [
        ("iwslt14", ["dsee", "dsee-h1-n0.25", "delta-bias", "delta-adapter", "delta-bias+adapter"]),
        ("multi30k", []),
    ],
)
def test_the_shipped_table_is_that_of_the_shipped_records(plan, home, left):
    made = plan(home=home)
    shutil.copytree(ROOT / "results/diff/mt" / made.results.name, made.results)
    shipped = (made.results / "table.md").read_text()
    assert [row.method for row in made.left()] == left
    same_settings(made)
    assert made.table_files() == [str(made.results / "table.md")]
    assert made.write_tables() == shipped and shipped.count("\n| ") == 12 - len(left)


def test_dsee_is_one_command_and_two_rows(plan):
    """And its records' labels are those that its own files say."""
    made = plan(home="multi30k")
    words = made.dsee()
    values = dict(zip(words, words[1:]))
    assert words[0] == "scripts/mt/run_dsee.py" and values["--base-checkpoint"] == str(made.base)
    assert values["--lr"] == "0.003" and values["--max-update"] == values["--third-max-update"] == "250"
    assert (values["--lora-r"], values["--num-sparse"], values["--prune-heads-num"]) == ("16", "64", "1")
    rows = [row for row in made.runs if row.update]
    for row, stage in zip(rows, ("1st", "3rd")):
        assert str(row.update) == f"{values['--save-dir']}/{stage}/task.dsee.safetensors"
        score = made.score(row, made.away)
        assert score[score.index("--dsee-checkpoint") + 1] == str(row.update) and "--diff-pack" not in score
    pruning = {"prune_heads_num": 1, "prune_neurons": 0.25}
    said = [{"num_sparse": 64}, {"num_sparse": 64, "pruning": pruning, "stage": "III"}]
    assert [row.method for row in rows] == [label_of(config) for config in said]


def test_delta_tuning_is_a_command_and_a_row_each(plan):
    """And its records' labels are those that its own files say."""
    made = plan(home="multi30k")
    rows = {row.method: row for row in made.runs if row.delta}
    wanted = {"bias": ("0.003", None), "adapter": ("0.001", "16"), "bias,adapter": ("0.001", "16")}
    assert {*rows} == {delta_label(dict.fromkeys(named.split(","), 1)) for named in wanted}
    for named, (rate, reduction) in wanted.items():
        words = made.delta(named.replace(",", "-"))
        values = dict(zip(words, words[1:]))
        assert words[0] == "scripts/mt/run_delta.py" and values["--base-checkpoint"] == str(made.base)
        assert (values["--delta-methods"], values["--lr"]) == (named, rate)
        assert values["--max-update"] == "250" and values.get("--adapter-reduction") == reduction
        row = rows[f"delta-{named.replace(',', '+')}"]
        assert str(row.delta) == f"{values['--save-dir']}/task.delta.safetensors"
        score = made.score(row, made.away)
        assert score[score.index("--delta") + 1] == str(row.delta) and "--dsee-checkpoint" not in score
