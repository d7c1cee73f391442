"""The download programs for GLUE and SQuAD: copies, archives, checks of rows, no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from data_prep_programs import PREP, run

sys.path.insert(0, str(PREP))

import download_glue_data as glue


def write_rte(folder: Path, **other_rows: int) -> None:
    """Files with the official numbers of rows, or with others; what is in the rows does not matter here."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, rows in glue.SOURCES["RTE"].rows.items():
        rows = other_rows.get(file.partition(".")[0], rows)
        (folder / file).write_text("header\n" + "".join(f"{file} {row}\n" for row in range(rows)))


def pack_rte(source: Path, archive: Path) -> None:
    """An archive as GLUE's: the files in a folder, beside another format of the same names."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as packed:
        for file in glue.SOURCES["RTE"].rows:
            packed.write(source / file, f"RTE/{file}")
            packed.writestr(f"RTE/original/{file}", "another format")


def test_copied_from_the_data_folder_and_done_once(tmp_path):
    write_rte(tmp_path / "local/glue/RTE")
    done = run(
        "download_glue_data.py",
        "--data_dir",
        "data",
        "--task",
        "rte",
        cwd=tmp_path,
        DSP_DATA_DIR=str(tmp_path / "local"),
    )
    assert done.returncode == 0 and "RTE: data/RTE, copied from DSP_DATA_DIR" in done.stderr
    for file in ("train.tsv", "dev.tsv", "test.tsv"):
        assert (tmp_path / "data/RTE" / file).read_bytes() == (
            tmp_path / "local/glue/RTE" / file
        ).read_bytes()
    when = (tmp_path / "data/RTE/train.tsv").stat().st_mtime_ns
    done = run("download_glue_data.py", "--data_dir", "data", "--task", "RTE", cwd=tmp_path)
    assert done.returncode == 0 and "done before" in done.stderr
    assert (tmp_path / "data/RTE/train.tsv").stat().st_mtime_ns == when


def test_offline_it_says_what_to_put_where(tmp_path):
    write_rte(tmp_path / "local/glue/RTE", dev=270)
    done = run(
        "download_glue_data.py",
        "--data_dir",
        "data",
        "--task",
        "RTE,WNLI",
        cwd=tmp_path,
        DSP_DATA_DIR=str(tmp_path / "local"),
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "RTE: not copied" in done.stderr and "dev.tsv has 270 rows, not 277" in done.stderr
    assert "cannot fetch https://dl.fbaipublicfiles.com/glue/data/WNLI.zip" in done.stderr
    assert "RTE, WNLI could not be had" in done.stderr and "train.tsv, dev.tsv, test.tsv" in done.stderr
    assert not list((tmp_path / "data").rglob("*.tsv"))


def test_no_such_task(tmp_path):
    done = run("download_glue_data.py", "--task", "MNLI,SQuAD", cwd=tmp_path)
    assert done.returncode == 1 and "--task SQuAD: no GLUE task; there are CoLA" in done.stderr
    assert not (tmp_path / "data").exists()


def test_names_of_tasks():
    assert glue.task_names("all") == ["CoLA", "SST-2", "MRPC", "STS-B", "QQP", "MNLI", "QNLI", "RTE", "WNLI"]
    assert glue.task_names("sst2,STS,mnli") == ["SST-2", "STS-B", "MNLI"]


def test_an_archive_that_was_fetched_is_unpacked_and_removed(tmp_path):
    write_rte(tmp_path / "source")
    archive = tmp_path / "data/RTE/RTE.zip"
    pack_rte(tmp_path / "source", archive)
    assert glue.get("RTE", tmp_path / "data", None) == "fetched"
    assert sorted(path.name for path in (tmp_path / "data/RTE").iterdir()) == [
        "dev.tsv",
        "test.tsv",
        "train.tsv",
    ]
    assert (tmp_path / "data/RTE/dev.tsv").read_bytes() == (tmp_path / "source/dev.tsv").read_bytes()


def test_a_damaged_or_short_archive_is_an_error(tmp_path):
    archive = tmp_path / "data/RTE/RTE.zip"
    archive.parent.mkdir(parents=True)
    archive.write_bytes(b"no archive")
    with pytest.raises(glue.GlueError, match="RTE.zip was damaged"):
        glue.get("RTE", tmp_path / "data", None)
    assert not archive.exists()
    write_rte(tmp_path / "source", train=2000)
    pack_rte(tmp_path / "source", archive)
    with pytest.raises(glue.GlueError, match="train.tsv has 2,000 rows, not 2,490"):
        glue.get("RTE", tmp_path / "data", None)


def write_raw_mrpc(folder: Path) -> set[int]:
    """Raw files of the official sizes; returns which training pairs the ids hold out."""
    folder.mkdir()
    header = "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String"
    for part, rows in (("train", 4076), ("test", 1725)):
        pairs = [f"{row % 2}\t{row}\t{row + 9}\tfirst {row}\tsecond {row}" for row in range(rows)]
        (folder / f"msr_paraphrase_{part}.txt").write_text("\r\n".join([header, *pairs]) + "\r\n", newline="")
    held_out = set(range(0, 4080, 10))
    (folder / "dev_ids.tsv").write_text("".join(f"{row}\t{row + 9}\n" for row in sorted(held_out)))
    return held_out


def test_mrpc_is_split_by_its_ids(tmp_path):
    held_out = write_raw_mrpc(tmp_path / "raw")
    done = run(
        "download_glue_data.py", "--data_dir", "data", "--task", "MRPC", "--path_to_mrpc", "raw", cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    files = {
        name: (tmp_path / f"data/MRPC/{name}.tsv").read_text("utf-8").split("\n")[:-1]
        for name in ("train", "dev", "test")
    }
    assert [int(row.split("\t")[1]) for row in files["dev"][1:]] == sorted(held_out)
    assert [int(row.split("\t")[1]) for row in files["train"][1:]] == [
        row for row in range(4076) if row not in held_out
    ]
    assert files["test"][:2] == ["index\t#1 ID\t#2 ID\t#1 String\t#2 String", "0\t0\t9\tfirst 0\tsecond 0"]
    assert files["train"][0].endswith("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String")

    (tmp_path / "raw/dev_ids.tsv").unlink()
    done = run(
        "download_glue_data.py",
        "--data_dir",
        "again",
        "--task",
        "MRPC",
        "--path_to_mrpc",
        "raw",
        cwd=tmp_path,
    )
    assert done.returncode == 1 and "raw/dev_ids.tsv cannot be read" in done.stderr


def test_mrpc_of_the_real_raw_files_is_the_official_one(data_dir, tmp_path):
    official = data_dir / "glue/MRPC"
    if not (official / "msr_paraphrase_train.txt").is_file():
        pytest.skip(f"{official} has no raw files")
    (tmp_path / "MRPC").mkdir()
    glue.split_mrpc(official, tmp_path / "MRPC")
    for file in ("train.tsv", "dev.tsv", "test.tsv"):
        assert (tmp_path / "MRPC" / file).read_bytes() == (official / file).read_bytes()


def test_the_row_counts_are_those_that_the_reader_knows():
    pytest.importorskip("transformers")
    from dsp_plugin.hf.data.glue_tasks import TASKS

    for task in TASKS.values():
        known = {split.file: split.rows for split in task.splits if not split.optional}
        assert known == glue.SOURCES[task.folder].rows
    assert TASKS["mnli"].split("diagnostic").rows == glue.DIAGNOSTIC_ROWS


def write_squad(path: Path, questions: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    paragraph = {"context": "c", "qas": [{"id": str(number)} for number in range(questions)]}
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": [paragraph]}]}))


def test_squad_is_copied_checked_and_done_once(tmp_path):
    local = tmp_path / "local"
    write_squad(local / "squad/dev-v1.1.json", 10570)
    done = run("download_squad.sh", "--data_dir", "out", cwd=tmp_path, DSP_DATA_DIR=str(local))
    assert done.returncode == 1
    assert "SQuAD lacks train-v1.1.json: go online, or put it into out" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["dev-v1.1.json"]
    write_squad(local / "squad/train-v1.1.json", 87599)
    for _ in range(2):
        done = run("download_squad.sh", "--data_dir", "out", cwd=tmp_path, DSP_DATA_DIR=str(local))
        assert done.returncode == 0, done.stderr
        assert "out/dev-v1.1.json: 10,570 questions" in done.stderr
    assert (tmp_path / "out/train-v1.1.json").read_bytes() == (local / "squad/train-v1.1.json").read_bytes()


def test_squad_of_another_size_or_damaged_is_an_error(tmp_path):
    write_squad(tmp_path / "out/train-v1.1.json", 100)
    done = run("download_squad.sh", "--data_dir", "out", cwd=tmp_path)
    assert (
        done.returncode == 1
        and "out/train-v1.1.json has 100 questions, the published set has 87,599" in done.stderr
    )
    (tmp_path / "out/train-v1.1.json").write_text('{"data": [')
    done = run("download_squad.sh", "--data_dir", "out", cwd=tmp_path)
    assert done.returncode == 1 and "is no whole SQuAD file" in done.stderr
    assert "unknown option --dir" in run("download_squad.sh", "--dir", "out", cwd=tmp_path).stderr


def test_squad_split_by_article(tmp_path):
    articles = [{"title": str(i), "paragraphs": [{"context": "", "qas": [{}] * (i + 1)}]} for i in range(7)]
    path = tmp_path / "dev-v1.1.json"
    path.write_text(json.dumps({"data": articles, "version": "1.1"}), "utf-8")
    script = PREP / "squad_devsplit.py"
    done = subprocess.run(
        [sys.executable, script, path, "--dest", tmp_path / "out"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    parts = [
        json.loads((tmp_path / "out" / f"devsplit-{part}.json").read_text("utf-8"))
        for part in ("dev", "train")
    ]
    assert [[article["title"] for article in part["data"]] for part in parts] == [
        ["0", "5"],
        ["1", "2", "3", "4", "6"],
    ]
    assert "7 questions" in done.stderr and "21 questions" in done.stderr
    path.write_text("{", "utf-8")
    done = subprocess.run([sys.executable, script, path], capture_output=True, text=True)
    assert (
        done.returncode == 1
        and "no whole SQuAD file" in done.stderr
        and not (tmp_path / "devsplit-dev.json").exists()
    )


def test_delta_tunings_download_copies_into_its_own_folder(tmp_path):
    write_rte(tmp_path / "local/glue/RTE")
    done = subprocess.run(
        ["bash", str(PREP.parent / "scripts/delta/data/download_dataset.sh"), "RTE"],
        cwd=tmp_path,
        env={
            **os.environ,
            "DSP_DATA_DIR": str(tmp_path / "local"),
            "DSP_PYTHON": sys.executable,
            "ORIGINAL": str(tmp_path / "original"),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "RTE: " in done.stderr and "copied from DSP_DATA_DIR" in done.stderr
    assert (tmp_path / "original/RTE/dev.tsv").is_file()
