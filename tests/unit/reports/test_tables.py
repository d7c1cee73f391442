"""Tables from records: joining, averaging over seeds, what was not measured, contradictions."""

from __future__ import annotations

import csv
import io
import math

import pytest

from dsp_plugin.records.record import Metric, Record
from dsp_plugin.reports.tables.rows import (
    PValue,
    Setting,
    Spread,
    cell_text,
    csv_table,
    latex_table,
    markdown_table,
    signature_notes,
    table_rows,
)

SIGNATURE = "nrefs:1|case:lc|tok:13a|version:2.6.0"


def run(method, kept, seed=1, bleu=None, speed=None, name="small", total=24, **fields) -> Record:
    metrics = [Metric("BLEU", value, "", SIGNATURE, subset) for subset, value in (bleu or {}).items()]
    if speed is not None:
        metrics.append(Metric("speed", speed, "sentences/s", "", "test_2016"))
    heads = {"total": total, "kept": kept, "blocks": []}
    return Record("mt-bleu", name, method, seed=seed, metrics=metrics, heads=heads, **fields)


def test_mean_and_sample_deviation_over_seeds():
    scores = {1: 30.0, 2: 31.0, 3: 35.0}
    records = [run("dsp", 6, seed, {"test_2016": score}, updates=100) for seed, score in scores.items()]
    rows, columns = table_rows(records)
    assert columns == ["method", "K", "BLEU test_2016", "parameters", "updates", "runs"]
    spread = rows[0]["BLEU test_2016"]
    # mean 32, deviations -2, -1, 3: sd = sqrt((4 + 1 + 9) / 2)
    assert spread == Spread(32.0, pytest.approx(math.sqrt(7)), 3)
    assert (rows[0]["K"], rows[0]["updates"], rows[0]["runs"]) == ("6/24", 100, 3)
    assert "32.00 ± 2.65" in markdown_table(rows, columns)


def test_records_of_one_run_are_joined():
    parameters = {"before": 2000000, "after": 1500000}
    records = [
        run("dsp", 6, updates=300, seconds={"train": 60.0}, parameters=parameters),
        run(
            "dsp",
            6,
            bleu={"test_2016": 30.5},
            speed=120.0,
            updates=280,
            seconds={"train": 60.0, "generate": 8.0},
        ),
        run("dsp", 6, bleu={"test_2017": 25.5}, seconds={"generate": 7.0}),
    ]
    rows, columns = table_rows(records)
    assert len(rows) == 1
    assert {column: rows[0][column] for column in columns} == {
        "method": "dsp",
        "K": "6/24",
        "BLEU test_2016": 30.5,
        "BLEU test_2017": 25.5,
        "speed test_2016 (sentences/s)": 120.0,
        "parameters": 1500000,
        "updates": 300,
        "seconds (train)": 60.0,
        "seconds (generate)": 15.0,
        "runs": 1,
    }


def test_what_was_not_measured_is_said():
    expected = [
        Setting("small", "unpruned", 24, 24),
        Setting("small", "dsp", 12, 24),
        Setting("small", "dsp", 6, 24),
    ]
    records = [run("extra", 3, bleu={"test_2016": 20.0}), run("dsp", 6, bleu={"test_2016": 30.0})]
    rows, columns = table_rows(records, expected, subsets=["test_2017", "test_2016"], seeds=3)
    assert [(row["method"], row["K"], row["runs"]) for row in rows] == [
        ("unpruned", "24/24", "0 of 3"),
        ("dsp", "12/24", "0 of 3"),
        ("dsp", "6/24", "1 of 3"),
        ("extra", "3/24", "1 of 3"),
    ]
    assert columns[2:4] == ["BLEU test_2017", "BLEU test_2016"]
    table = markdown_table(rows, columns[:4]).splitlines()
    assert [cell.strip() for cell in table[2].strip("|").split("|")] == ["unpruned", "24/24"] + [
        "not measured"
    ] * 2
    assert [cell.strip() for cell in table[4].strip("|").split("|")] == [
        "dsp",
        "6/24",
        "not measured",
        "30.00",
    ]
    assert "not measured" in csv_table(rows, columns)


def test_another_metric_than_bleu_can_be_the_one_that_is_expected():
    record = Record(
        "glue",
        "CoLA",
        "dsp",
        metrics=[Metric("accuracy", 80.0, subset="dev"), Metric("matthews", 40.0, subset="dev")],
    )
    rows, columns = table_rows([record], [Setting("CoLA", "unpruned", 24, 24)], ["dev"], metric="matthews")
    assert [column for column in columns if "dev" in column] == ["matthews dev", "accuracy dev"]
    assert [row["matthews dev"] for row in rows] == [None, 40.0]


def test_settings_are_ordered_and_named_where_there_are_several():
    records = [run("dsp", 6), run("dsp", 12), run("unpruned", 24), run("dsp", 9, name="big", total=36)]
    records.append(Record("mt-bleu", "big", "headless"))
    rows, columns = table_rows(records)
    assert columns[0] == "setting"
    assert [(row["setting"], row["K"]) for row in rows] == [
        ("big", "9/36"),
        ("big", "-"),
        ("small", "24/24"),
        ("small", "12/24"),
        ("small", "6/24"),
    ]
    assert table_rows([]) == ([], [])
    assert markdown_table([], ["method"]) != ""


def test_csv_reads_back_unrounded():
    records = [run('a, "b" | c', 6, seed, {"t": value}) for seed, value in ((1, 1 / 3), (2, 2 / 3))]
    records.append(run("single", 3, bleu={"t": 0.1}))
    rows, columns = table_rows(records)
    back = list(csv.DictReader(io.StringIO(csv_table(rows, columns))))
    assert back[0]["method"] == 'a, "b" | c'
    assert float(back[0]["BLEU t"]) == pytest.approx(0.5, abs=1e-12)
    assert float(back[0]["BLEU t sd"]) == pytest.approx(math.sqrt(2) / 6, abs=1e-12)
    assert (back[1]["BLEU t"], back[1]["BLEU t sd"]) == ("0.1", "")
    assert r"a, " '"b"' r" \| c" in markdown_table(rows, columns)


@pytest.mark.parametrize(
    "second, message",
    [
        (run("dsp", 6, bleu={"t": 31.0}), "differ in BLEU t.*small, dsp, 6 of 24 heads, seed 1"),
        (run("dsp", 6, parameters={"before": 9, "after": 8}), "differ in parameters"),
        (run("dsp", 6, seed=2, data="other"), "data differs.*seed 1.*seed 2"),
    ],
)
def test_contradictions_are_refused(second, message):
    first = run("dsp", 6, bleu={"t": 30.0}, parameters={"before": 9, "after": 9}, data="one")
    with pytest.raises(ValueError, match=message):
        table_rows([first, second])


def test_signatures_are_listed_and_must_agree():
    first, second = run("dsp", 6, 1, {"t": 30.0}), run("dsp", 6, 2, {"t": 31.0})
    second.metrics[0].signature = SIGNATURE.replace("2.6.0", "2.5.1")
    assert table_rows([first, second])[0][0]["BLEU t"].mean == 30.5
    assert signature_notes([first, second]) == [f"BLEU t: {second.metrics[0].signature}; {SIGNATURE}"]
    second.metrics[0].signature = SIGNATURE.replace("lc", "mixed")
    with pytest.raises(ValueError, match="signature of BLEU t differs"):
        table_rows([first, second])


def test_p_values_stand_beside_their_metric_with_three_digits():
    records = [run("unpruned", 24, bleu={"t": 31.0, "u": 30.0}), run("dsp", 6, bleu={"t": 30.0, "u": 29.0})]
    p_values = {(Setting("small", "dsp", 6, 24), "BLEU", "t"): PValue(0.04567)}
    rows, columns = table_rows(records, p_values=p_values)
    assert columns[:5] == ["method", "K", "BLEU t", "p t", "BLEU u"]
    assert [row["p t"] for row in rows] == ["", 0.04567]
    assert "0.046" in markdown_table(rows, columns)
    assert [line["p t"] for line in csv.DictReader(io.StringIO(csv_table(rows, columns)))] == ["", "0.04567"]


def test_latex_is_escaped():
    hostile = r"a_b & 50% #1 {x} $y$ ~^\ <z>"
    records = [run(hostile, 6, seed, {"t": value}) for seed, value in ((1, 30.0), (2, 31.0))]
    rows, columns = table_rows(records)
    lines = [" ".join(line.split()) for line in latex_table(rows, columns[:3]).splitlines()]
    assert lines[:4] == [r"\begin{tabular}{lrr}", r"\toprule", r"method & K & BLEU t \\", r"\midrule"]
    assert lines[4] == (
        r"a\_b \& 50\% \#1 \{x\} \$y\$ \textasciitilde{}\^{}\textbackslash{} "
        r"\ensuremath{<}z\ensuremath{>} & 6/24 & 30.50 $\pm$ 0.71 \\"
    )
    assert lines[5:] == [r"\bottomrule", r"\end{tabular}"]
    piped = latex_table([{"method": "a|b"}], ["method"])
    assert r"a\textbar{}b" in piped and latex_table([], ["method"]).startswith(r"\begin{tabular}")


def test_small_numbers_are_not_shown_as_zero():
    assert [cell_text(value) for value in (1.2e-7, 0.0, 0.25, -0.001)] == [
        "1.2e-07",
        "0.00",
        "0.25",
        "-0.001",
    ]
