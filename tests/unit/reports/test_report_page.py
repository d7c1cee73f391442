"""The report as a whole: files, what the page says, that it is sound HTML and fetches nothing."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dsp_plugin.records.bleu import bleu, bleu_statistics
from dsp_plugin.records.kept_heads import kept_heads
from dsp_plugin.records.record import Metric, Record, save_record
from dsp_plugin.records.sentences import save_sentences
from dsp_plugin.reports.report import main_metric, make_report

HEAD_MAP = {
    "blocks": [
        {"name": "encoder.layers.0.self_attn", "num_heads": 4, "kind": "encoder-self"},
        {"name": "decoder.layers.0.encoder_attn", "num_heads": 4, "kind": "decoder-cross"},
    ]
}
REFERENCES = [
    f"the {animal} sat on the {place} and looked at me ."
    for animal in "cat dog bird".split()
    for place in "mat chair table roof".split()
]
HOSTILE = "<script>alert('x')</script>"


def put(folder: Path, method: str, kept: int, seed: int, bad: int, **fields) -> None:
    """A scored run: `bad` of its 12 translations are wrong."""
    lines = ["no idea at all what this says ."] * bad + REFERENCES[bad:]
    score = bleu(lines, REFERENCES)
    record = Record(
        "mt-bleu",
        "small",
        method,
        seed=seed,
        command=f"generate {method} --seed {seed}",
        versions={"torch": "9.9"},
        metrics=[Metric("BLEU", score["value"], "", score["signature"], "test")],
        heads=kept_heads(HEAD_MAP, [head < kept for head in range(8)]),
        **fields,
    )
    place = save_record(record, folder / f"{method}-{kept}-{seed}").parent
    statistics = bleu_statistics(lines, REFERENCES)
    save_sentences(place, {"metric": "BLEU", "signature": score["signature"], "statistics": statistics})


@pytest.fixture
def results(tmp_path) -> Path:
    folder = tmp_path / "results"
    for seed in (1, 2):
        put(folder, "unpruned", 8, seed, 0)
        put(folder, "dsp", 4, seed, 5 + seed)
    put(folder, "dsp", 2, 1, 9)
    heads = kept_heads(HEAD_MAP, [head < 4 for head in range(8)])
    speed = Record(
        "speed",
        "small",
        "dsp",
        seed=1,
        metrics=[Metric("speed", 120.0, "sentences/s", "", "test")],
        heads=heads,
    )
    save_record(speed, folder / "speed")
    speed.heads = kept_heads(HEAD_MAP, [head < 2 for head in range(8)])
    save_record(speed, folder / "speed2")
    history = [{"updates": 0, "keep": [1] * 8}, {"updates": 100, "keep": [1, 1, 1, 1, 0, 0, 0, 0]}]
    train = Record(
        "mt-train", "small", "dsp", seed=1, heads=heads, seconds={"train": 5.0}, extra={"history": history}
    )
    save_record(train, folder / "train")
    return folder


class Page(HTMLParser):
    """Checks nesting, collects ids, links and sources."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.images: list[dict] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.add(tag)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        if tag == "a":
            self.links.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)
        assert not any(name.startswith("on") for name in attributes)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


def test_the_page_says_what_the_records_say(results, tmp_path):
    report = make_report(results, tmp_path / "report", command="dsp report results --out report")
    text = (tmp_path / "report/index.html").read_text("utf-8")
    page = Page(text)
    assert (report.records, report.settings, report.problems) == (8, 1, [])
    assert report.files[-1] == tmp_path / "report/index.html"
    assert sorted(path.name for path in report.files) == [
        "index.html",
        "small-BLEU-test.png",
        "small-heads.png",
        "small-overview.png",
        "small-speed-test.png",
        "small-training-dsp-K4.png",
        "small.csv",
        "small.md",
        "small.tex",
    ]
    assert all(path.is_file() for path in report.files)
    # links inside the page only, each to a place that is there
    assert (
        page.links
        and {link[1:] for link in page.links} <= set(page.ids)
        and len(set(page.ids)) == len(page.ids)
    )
    assert all(link.startswith("#") for link in page.links)
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,|#)|url\(|@import", text)
    assert page.tags.isdisjoint({"script", "link", "iframe", "object"})
    inlined = {base64.b64decode(image["src"].partition(",")[2]) for image in page.images}
    assert inlined == {path.read_bytes() for path in report.files if path.suffix == ".png"}
    assert all(image["alt"] for image in page.images)
    for seed in (1, 2):
        assert f"generate dsp --seed {seed}" in page.text
    for words in (
        "not measured",
        "torch 9.9",
        "tok:13a",
        "paired bootstrap",
        "dsp-4-2/results.json",
        "train/results.json",
    ):
        assert words in page.text
    assert "dsp report results --out report" in page.text


def test_the_page_opens_with_what_was_found(results, tmp_path):
    make_report(results, tmp_path / "report")
    text = (tmp_path / "report/index.html").read_text("utf-8")
    opening = text[text.index("<main>") : text.index('id="s2"')]
    headings = re.findall(r"<h[23][^>]*>(.*?)</h[23]>", opening)
    assert (
        headings == ["What was found", "small"] and opening.count("<figure>") == 1 and "<table" not in opening
    )
    said = re.findall(r"<li>(.*?)</li>", opening)
    assert said[0] == "unpruned, 8 of 8 heads: BLEU test 100.00 ± 0.00."
    assert re.fullmatch(
        r"4 of 8 heads: dsp has [\d.]+ ± [\d.]+, [\d.]+ below unpruned \(p = 0\.\d{3}\)\.", said[1]
    )
    assert (
        said[2].startswith("2 of 8 heads: dsp has ") and said[3] == "Means over seeds, 1 or 2 of each method."
    )


def test_what_most_rows_lack_is_folded_and_kept_in_the_csv(results, tmp_path):
    for seed, kept in ((1, 2), (1, 4), (2, 4)):
        put(results, "voita", kept, seed, 3)
    make_report(results, tmp_path / "report")
    tables = tmp_path / "report/tables"
    text = (tmp_path / "report/index.html").read_text("utf-8")
    first, folded = re.findall(r"<table>.*?</table>", text, flags=re.S)[:2]
    assert "seconds (train)" not in first and "seconds (train)" in folded
    assert "seconds (train)" not in (tables / "small.tex").read_text("utf-8")
    assert "seconds (train)" in (tables / "small.csv").read_text("utf-8")


def test_tables_have_p_and_spread(results, tmp_path):
    make_report(results, tmp_path / "report")
    table = (tmp_path / "report/tables/small.md").read_text("utf-8")
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.splitlines()
        if line.startswith("|")
    ]
    rows = {(cells[0], cells[1]): dict(zip(lines[0], cells)) for cells in lines[2:]}
    assert rows["unpruned", "8/8"]["BLEU test"] == "100.00 ± 0.00" and rows["unpruned", "8/8"]["p test"] == ""
    assert 0 < float(rows["dsp", "4/8"]["p test"]) < 0.05
    assert (
        "±" in rows["dsp", "4/8"]["BLEU test"]
        and rows["unpruned", "8/8"]["speed test (sentences/s)"] == "not measured"
    )


def test_every_text_is_escaped(tmp_path):
    heads = kept_heads(HEAD_MAP, [True] * 7 + [False])
    record = Record(
        "mt-bleu",
        f"a & {HOSTILE}",
        HOSTILE,
        command=f"x {HOSTILE}",
        versions={HOSTILE: HOSTILE},
        device=HOSTILE,
        metrics=[Metric("BLEU", 3.0, HOSTILE, HOSTILE, HOSTILE)],
        heads=heads,
        data=HOSTILE,
    )
    save_record(record, tmp_path / "in/one")
    record.heads = kept_heads(HEAD_MAP, [True] * 6 + [False] * 2)
    save_record(record, tmp_path / "in/two")
    report = make_report(tmp_path / "in", tmp_path / "out")
    text = (tmp_path / "out/index.html").read_text("utf-8")
    assert "<script" not in text and "&lt;script&gt;" in text
    Page(text)
    assert all(path.resolve().is_relative_to((tmp_path / "out").resolve()) for path in report.files)
    assert len(Page(text).images) == 3  # the opening, a curve and the head maps


def test_records_of_other_kinds_and_metrics(tmp_path):
    metrics = [Metric("accuracy", 71.5, "%", "", "dev"), Metric("F1", 60.0, "%", "", "dev")]
    save_record(Record("glue", "rte", "diff", seed=1, metrics=metrics), tmp_path / "in/glue")
    checks = [Metric(name, 1e-7, "", "", f"K={k}") for name in ("heads", "difference") for k in range(5)]
    save_record(Record("mt-surgery", "surgery", "masked", metrics=checks), tmp_path / "in/surgery")
    save_record(Record("mt-train", "bare", "dsp"), tmp_path / "in/bare")
    report = make_report(tmp_path / "in", tmp_path / "out")
    page = Page((tmp_path / "out/index.html").read_text("utf-8"))
    assert report.problems == [] and "accuracy dev (%)" in page.text and "1e-07" in page.text
    surgery = (tmp_path / "out/tables/surgery.csv").read_text("utf-8").splitlines()
    assert surgery[0] == "on,heads,difference" and len(surgery) == 6


def test_contradictions_and_bad_histories_are_told_and_the_rest_is_shown(results, tmp_path):
    heads = kept_heads(HEAD_MAP, [True] * 4 + [False] * 4)
    save_record(
        Record("mt-train", "small", "dsp", seed=2, heads=heads, extra={"history": [{}]}), results / "bad"
    )
    save_record(Record("glue", "twice", "dsp", metrics=[Metric("F1", 1.0)]), results / "one")
    save_record(Record("glue", "twice", "dsp", metrics=[Metric("F1", 2.0)]), results / "two")
    report = make_report(results, tmp_path / "out")
    assert len(report.problems) == 2
    assert (
        "history[0] must have updates and keep" in report.problems[0] and "differ in F1" in report.problems[1]
    )
    page = Page((tmp_path / "out/index.html").read_text("utf-8"))
    assert all(problem in page.text for problem in report.problems) and len(page.images) == 5


def test_names_that_are_one_file_name_do_not_overwrite_each_other(tmp_path):
    for number, name in enumerate(("a/b", "a b", "A-b")):
        save_record(
            Record("glue", name, "dsp", metrics=[Metric("F1", float(number))]), tmp_path / f"in/{number}"
        )
    make_report(tmp_path / "in", tmp_path / "out")
    assert len(list((tmp_path / "out/tables").glob("*.md"))) == 3


@pytest.mark.parametrize(
    "names, main",
    [(["loss", "BLEU"], "BLEU"), (["speed"], None), (["speed", "F1"], "F1"), (["b", "a"], "a"), ([], None)],
)
def test_the_main_metric(names, main):
    assert main_metric([Record("k", "n", "m", metrics=[Metric(name, 1.0) for name in names])]) == main


def test_the_main_metric_is_the_one_that_the_records_name():
    record = Record(
        "k", "n", "m", metrics=[Metric("accuracy", 1.0), Metric("f1", 1.0)], extra={"main_metric": "f1"}
    )
    assert main_metric([record]) == "f1"
