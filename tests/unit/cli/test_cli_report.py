"""`dsp report`: the summary, the choice of settings and baseline, and what is refused."""

from __future__ import annotations

import pytest

from dsp_plugin.cli.main import main
from dsp_plugin.records.kept_heads import kept_heads
from dsp_plugin.records.record import Metric, Record, save_record

BLOCKS = {"blocks": [{"name": "layers.0", "kind": "encoder-self", "num_heads": 4}]}


@pytest.fixture
def results(tmp_path):
    for name in ("one", "two"):
        for method, kept in (("unpruned", 4), ("dsp", 2), ("random", 2)):
            heads = kept_heads(BLOCKS, [head < kept for head in range(4)])
            record = Record(
                "mt-bleu", name, method, seed=1, heads=heads, metrics=[Metric("BLEU", 9.0 * kept, subset="t")]
            )
            save_record(record, tmp_path / "results" / name / method)
    return tmp_path / "results"


def test_summary(results, tmp_path, capsys):
    assert main(["report", str(results), "--out", str(tmp_path / "report")]) == 0
    shown = capsys.readouterr().out
    assert (
        "6 records, 2 settings, 13 files written" in shown
        and f"open {tmp_path / 'report/index.html'}" in shown
    )
    written = [path for path in (tmp_path / "report").rglob("*") if path.is_file()]
    assert len(written) == 13 and not any(path.name.endswith(".tmp") for path in written)


def test_only_and_baseline(results, tmp_path, capsys):
    assert (
        main(
            [
                "report",
                str(results),
                "--out",
                str(tmp_path / "report"),
                "--only",
                "two",
                "--baseline",
                "random",
            ]
        )
        == 0
    )
    assert "3 records, 1 setting, 7 files written" in capsys.readouterr().out
    page = (tmp_path / "report/index.html").read_text("utf-8")
    assert "each run beside random" in page and "--only two --baseline random" in page
    assert "one/dsp" not in page


def test_a_damaged_record_is_told_and_left_out(results, tmp_path, caplog, capsys):
    (results / "one/dsp/results.json").write_text("{")
    assert main(["report", str(results), "--out", str(tmp_path / "report")]) == 0
    assert "5 records" in capsys.readouterr().out and "damaged" in caplog.text


def test_two_folders_are_one_too_many(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["report", "runs/one", "runs/two", "--out", str(tmp_path / "report")])
    shown = capsys.readouterr().err
    assert (
        stopped.value.code == 2
        and "[-h] --out DIR" in shown
        and shown.count("RESULTS") == 1
        and "others" not in shown
    )
    assert (
        "one folder is taken, and all below it is searched: name the one that holds runs/one and runs/two"
        in shown
    )


@pytest.mark.parametrize(
    "change, message",
    [
        ({"results": "missing"}, "no folder of result records: "),
        ({"results": "empty"}, "no result records in "),
        ({"out": "file"}, "is a file: name a folder"),
        ({"rest": ["--only", "one", "three"]}, "--only three: no such setting; there are: one, two"),
        (
            {"rest": ["--baseline", "full"]},
            "--baseline full: no such method; there are: dsp, random, unpruned",
        ),
    ],
)
def test_refusals_leave_nothing_behind(results, tmp_path, capsys, change, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("mine")
    folder = tmp_path / change.get("results", "results")
    assert (
        main(
            [
                "report",
                str(folder),
                "--out",
                str(tmp_path / change.get("out", "report")),
                *change.get("rest", []),
            ]
        )
        == 1
    )
    shown = capsys.readouterr()
    assert message in shown.err and shown.err.count("\n") == 1
    assert not (tmp_path / "report").exists() and (tmp_path / "file").read_text() == "mine"
