"""Few-shot data: the published files byte for byte, the rule once more in other words, what is refused."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from glue_folders import write_task

from dsp_plugin.delta.few_shot import (
    SEEDS,
    TASKS,
    OfficialFiles,
    TrainingLines,
    find_task,
    order_matters,
    read_lines,
)
from dsp_plugin.options.errors import OptionError

PROGRAM = Path(__file__).resolve().parents[3] / "scripts" / "delta" / "tools" / "generate_k_shot_data.py"
REAL = Path(os.environ.get("DSP_DATA_DIR", "/nowhere"), "glue")
PUBLISHED = [line.split() for line in (PROGRAM.parent / "published.md5").read_text("utf-8").splitlines()]


def by_the_book(task: str, text: str, k: int, seeds: list[int], times: int) -> dict[int, tuple[str, str]]:
    """Train and dev files as the rule has them, on whole texts and by NumPy's global generator."""
    lines = text.splitlines(keepends=True)
    header, body = ([], lines) if task == "CoLA" else (lines[:1], lines[1:])
    found = {}
    for seed in seeds:
        order = body if task == "CoLA" else list(body)  # one of them is never put back in order
        np.random.seed(seed)
        np.random.shuffle(order)
        buckets: dict[object, list[str]] = {}
        for line in order:
            cells = line.rstrip("\n").split("\t")
            if task == "QQP" and len(cells) < 6:
                continue
            key: object = cells[{"CoLA": 1, "SST-2": 1, "MRPC": 0, "QQP": 5}.get(task, -1)]
            buckets.setdefault(float(key) < 2.5 if task == "STS-B" else key, []).append(line)
        train = header + [line for rows in buckets.values() for line in rows[:k]]
        dev = header + [line for rows in buckets.values() for line in rows[k : k + times * k]]
        found[seed] = ("".join(train), "".join(dev))
    return found


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("k,seeds,times", [(3, [100, 13, 7], 1), (1, [42], 10)], ids=["k-shot", "10x"])
def test_the_files_are_those_of_the_rule(tmp_path, task, k, seeds, times):
    write_task(tmp_path / "original", task, train=61, dev=4)
    text = (tmp_path / "original/train.tsv").read_text("utf-8")
    if task == "QQP":  # a few rows of the official file are short
        lines = text.splitlines(keepends=True)
        text = "".join([*lines[:9], "12\t3\t4\tcut off\n", *lines[9:], "0\n"])
        (tmp_path / "original/train.tsv").write_text(text, encoding="utf-8")
    expected = by_the_book(task, text, k, seeds, times)
    files = OfficialFiles(TASKS[task], tmp_path / "original")
    written = dict(zip(seeds, files.write(tmp_path / "new", k, seeds, times)))
    dev = "dev_matched.tsv" if task == "MNLI" else "dev.tsv"
    tests = ["_matched", "_mismatched"] if task == "MNLI" else [""]
    for seed, (folder, drawn) in written.items():
        assert folder == tmp_path / "new" / f"{k}-{seed}"
        assert (folder / "train.tsv").read_text("utf-8") == expected[seed][0]
        assert (folder / dev).read_text("utf-8") == expected[seed][1]
        for end in tests:
            original = (tmp_path / f"original/dev{end}.tsv").read_bytes()
            assert (folder / f"test{end}.tsv").read_bytes() == original
        assert len(list(folder.iterdir())) == 2 + len(tests)
        assert drawn.skipped == (2 if task == "QQP" else 0)


@pytest.mark.parametrize("task", sorted({name.partition("/")[0] for _, name in PUBLISHED}))
def test_published_checksums(tmp_path, task):
    files = ["train.tsv", *(original for original, _ in TASKS[task].dev_files)]
    if not all((REAL / task / name).is_file() for name in files):
        pytest.skip(f"the official files of {task} are not at hand")
    list(OfficialFiles(TASKS[task], REAL / task).write(tmp_path / task, 16, SEEDS))
    for md5, name in PUBLISHED:
        if name.startswith(f"{task}/"):
            assert hashlib.md5((tmp_path / name).read_bytes()).hexdigest() == md5, name


def test_line_ends_are_those_of_text_files_and_only_those(tmp_path):
    (tmp_path / "file").write_bytes("a\r\nb\rc\u2028d\ne".encode())
    assert read_lines(tmp_path / "file") == ["a\n", "b\n", "c\u2028d\n", "e"]


def test_what_the_order_of_seeds_decides():
    tasks = [TASKS["CoLA"], TASKS["MRPC"]]
    assert (
        order_matters(tasks, SEEDS) == order_matters(tasks, SEEDS[:2]) == order_matters(tasks, [1, 2]) == []
    )
    assert order_matters(tasks, [13]) == order_matters(tasks, [13, 100]) == ["CoLA"]
    lines = [f"gj04\t{number % 2}\t\ttext {number}\n" for number in range(40)]
    fresh = TrainingLines(TASKS["CoLA"], lines).draw(3, 13)
    later = TrainingLines(TASKS["CoLA"], lines)
    later.draw(3, 100)
    assert fresh.train != later.draw(3, 13).train
    rows = [f"text {number}\t{number % 2}\n" for number in range(40)]
    with_header = TrainingLines(TASKS["SST-2"], ["sentence\tlabel\n", *rows])
    first = with_header.draw(3, 13).train
    with_header.draw(3, 100)
    assert with_header.draw(3, 13).train == first


@pytest.mark.parametrize(
    "k,times,words",
    [(6, 1, "more than the 4 lines of 1"), (4, 1, "leaves no line of 1"), (5, 10, "more than the 4 lines")],
)
def test_k_of_more_than_a_class_has(k, times, words):
    lines = ["sentence\tlabel\n", *(f"{number}\t{int(number < 4)}\n" for number in range(20))]
    with pytest.raises(OptionError, match=words):
        TrainingLines(TASKS["SST-2"], lines).draw(k, 13, times)
    assert TrainingLines(TASKS["SST-2"], lines).draw(3, 13).short == ("1: 1",)


def test_a_class_without_lines_is_refused():
    with pytest.raises(OptionError, match="more than the 0 lines of 1"):
        TrainingLines(TASKS["SST-2"], ["sentence\tlabel\n", *["a\t0\n"] * 9]).draw(2, 13)


@pytest.mark.parametrize(
    "task,line,words",
    [
        ("SST-2", "a film\t2\n", r"train.tsv, line 2: label '2' is none of SST-2's \(0, 1\)"),
        ("CoLA", "a sentence\n", "line 2: 1 cells, and the label is cell 2"),
        ("MNLI", "a\tb\t-\n", "label '-'"),
        ("STS-B", "a\tb\tnan\n", "score 'nan' is no number from 0 to 5"),
        ("STS-B", "a\tb\t5.2\n", "score '5.2'"),
    ],
)
def test_rows_without_a_label(task, line, words):
    first = "gj04\t1\t\tfine\n" if task == "CoLA" else "header\n"
    with pytest.raises(ValueError, match=words):
        TrainingLines(TASKS[task], [first, line])


def test_names_in_any_spelling():
    assert find_task("sst2") is TASKS["SST-2"] and find_task("STS_B") is TASKS["STS-B"]
    with pytest.raises(OptionError, match="WNLI: no task of the few-shot data"):
        find_task("WNLI")


def run(*words: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(PROGRAM), *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "DSP_DATA_DIR": "", **environment},
    )


def test_the_program_with_its_defaults(tmp_path):
    for task in ("CoLA", "RTE"):
        write_task(tmp_path / "data/original" / task, task, train=80)
    (tmp_path / "data/original/RTE/dev.tsv").unlink()
    done = run(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left out" in done.stdout and "RTE (dev.tsv)" in done.stdout
    folders = sorted(path.name for path in (tmp_path / "data/k-shot/CoLA").iterdir())
    assert folders == sorted(f"16-{seed}" for seed in SEEDS)
    assert not (tmp_path / "data/k-shot/RTE").exists()
    checksum = (tmp_path / "data/k-shot/checksum").read_text("utf-8").splitlines()
    assert checksum == ["  ".join(pair) for pair in PUBLISHED if pair[1].startswith("CoLA/")]
    assert "0 of 15 files as published" in done.stdout  # these rows are not the official ones
    more = run("--mode", "k-shot-10x", "--seed", "42", "--k", "2", "--task", "cola", cwd=tmp_path)
    assert more.returncode == 0 and "CoLA: shuffled in place over the seeds 42" in more.stdout
    assert len((tmp_path / "data/k-shot-10x/CoLA/2-42/dev.tsv").read_text("utf-8").splitlines()) == 40


@pytest.mark.parametrize(
    "words,message",
    [
        (["--task", "WNLI"], "--task WNLI: no task"),
        (["--task", "RTE"], "lacks files of RTE (train.tsv, dev.tsv)"),
        (["--k", "0"], "a whole number, 1 or more"),
        (["--k", "41"], "--k 41 is more than the 40 lines of"),
        (["--seed", "13", "13"], "--seed 13 13: one seed stands there twice"),
        (["--data_dir", "other"], "--data_dir other is no folder"),
    ],
)
def test_the_program_refuses(tmp_path, words, message):
    write_task(tmp_path / "data/original/CoLA", "CoLA", train=80)
    write_task(tmp_path / "data/original/SST-2", "SST-2", train=100)  # K is looked at before any is written
    done = run(*words, cwd=tmp_path)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "data/k-shot").exists()
