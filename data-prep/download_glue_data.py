"""The GLUE tasks in their official TSV files, one folder a task.

    # makes data/MNLI/{train,dev_matched ...}.tsv
    python data-prep/download_glue_data.py --data_dir data/ --task MNLI
    python data-prep/download_glue_data.py --data_dir data/ --task all

A task that is in $DSP_DATA_DIR/glue/TASK is copied from there, the others are fetched from GLUE's official
addresses. Those could only be tried online. A file gets its name only when it is whole and has its official
number of rows; started again, a task whose files are all there is skipped.
"""

from __future__ import annotations

import argparse
import http.client
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from archives import MEGABYTE, ArchiveError, unpack_zip
from fetch import fetch
from whole_files import check_folder, whole_file

ADDRESS = "https://dl.fbaipublicfiles.com/glue/data"
MRPC_ADDRESS = "https://dl.fbaipublicfiles.com/senteval/senteval_data"
MRPC_RAW = {"msr_paraphrase_train.txt": 4076, "msr_paraphrase_test.txt": 1725, "dev_ids.tsv": 408}


class GlueError(Exception):
    """A task that cannot be had; the message names what is missing or wrong."""


@dataclass(frozen=True)
class Source:
    """Where a task comes from.

    Attributes:
        archive: at ADDRESS.
        rows: of each file, None where the count is not known.
        headless: files without a header.
    """

    archive: str
    rows: dict[str, int | None]
    headless: tuple[str, ...] = ()


def three(train: int | None, dev: int | None, test: int) -> dict[str, int | None]:
    return {"train.tsv": train, "dev.tsv": dev, "test.tsv": test}


SOURCES = {
    "CoLA": Source("CoLA.zip", three(8551, 1043, 1063), headless=("train.tsv", "dev.tsv")),
    "SST-2": Source("SST-2.zip", three(67349, 872, 1821)),
    "MRPC": Source("", three(3668, 408, 1725)),
    "STS-B": Source("STS-B.zip", three(5749, 1500, 1379)),
    "QQP": Source("QQP-clean.zip", three(None, None, 390965)),
    "MNLI": Source(
        "MNLI.zip",
        {
            "train.tsv": 392702,
            "dev_matched.tsv": 9815,
            "dev_mismatched.tsv": 9832,
            "test_matched.tsv": 9796,
            "test_mismatched.tsv": 9847,
        },
    ),
    "QNLI": Source("QNLIv2.zip", three(104743, 5463, 5463)),
    "RTE": Source("RTE.zip", three(2490, 277, 3000)),
    "WNLI": Source("WNLI.zip", three(635, 71, 146)),
}
# The leaderboard's diagnostic set is answered by the MNLI model, so it goes to that folder.
DIAGNOSTIC, DIAGNOSTIC_ROWS = "diagnostic.tsv", 1104
OTHER_NAMES = {"sst": "SST-2", "sts": "STS-B"}


def task_names(asked: str) -> list[str]:
    """Return the tasks that --task names, "all" or names with commas between them.

    Raises:
        GlueError: a name is no task's.
    """
    if asked.lower() == "all":
        return list(SOURCES)
    known = {name.lower().replace("-", ""): name for name in SOURCES} | OTHER_NAMES
    names = []
    for name in asked.split(","):
        spelled = name.strip().lower().replace("-", "").replace("_", "")
        if spelled not in known:
            raise GlueError(f"--task {name.strip()}: no GLUE task; there are {', '.join(SOURCES)} and all")
        names.append(known[spelled])
    return names


def count_rows(path: Path, has_header: bool) -> int:
    data = path.read_bytes()
    return data.count(b"\n") + (not data.endswith(b"\n") and data != b"") - has_header


def flaws(name: str, folder: Path) -> list[str]:
    """Say what keeps a folder from being the whole task: a line for each file that is missing or has other
    than its rows.
    """
    found = []
    for file, rows in SOURCES[name].rows.items():
        path = folder / file
        if not path.is_file():
            found.append(f"{path} is missing")
            continue
        there = count_rows(path, file not in SOURCES[name].headless)
        if there < 1 or rows not in (None, there):
            found.append(f"{path} has {there:,} rows" + (f", not {rows:,}" if rows else ""))
    return found


def copy(source: Path, path: Path) -> None:
    with whole_file(path) as out, open(source, "rb") as file:
        shutil.copyfileobj(file, out)


def download(address: str, path: Path, at_most: int) -> None:
    """Fetch a file, unless it is there.

    Raises:
        GlueError: it could not be fetched, or is larger than `at_most` bytes.
    """
    if path.is_file():
        return
    try:
        fetch(address, path, at_most)
    except (OSError, http.client.HTTPException) as error:
        raise GlueError(f"cannot fetch {address}: {error}") from error


def bytes_of(rows: int | None) -> int:
    """Bound the bytes of a file of so many rows: these sets have up to 0.4 kB a row, and QQP, the uncounted
    one, 400,000 rows.
    """
    return MEGABYTE + 1024 * (400_000 if rows is None else rows)


def unpack(name: str, archive: Path, folder: Path) -> None:
    """Unpack the task's files from GLUE's archive, where they have a folder beside those of other formats.

    Raises:
        GlueError: the archive is damaged or not GLUE's (it is removed, so that the next run fetches it anew).
    """
    try:
        unpack_zip(
            archive,
            folder,
            {file: bytes_of(rows) for file, rows in SOURCES[name].rows.items()},
            without="original",
        )
    except ArchiveError as error:
        archive.unlink(missing_ok=True)
        raise GlueError(f"{archive} was damaged ({error}) and is removed: start again") from error


def split_mrpc(raw: Path, folder: Path) -> None:
    """Make GLUE's MRPC: training pairs whose two ids are listed become dev.tsv, the others train.tsv.

    Raises:
        GlueError: a raw file is missing, not UTF-8 or has another number of rows.
    """
    texts = {}
    for file, rows in MRPC_RAW.items():
        try:
            lines = (raw / file).read_bytes().decode("utf-8").replace("\r", "").rstrip("\n").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise GlueError(f"{raw / file} cannot be read: {error}") from error
        there = len(lines) - (file != "dev_ids.tsv")
        if there != rows:
            raise GlueError(f"{raw / file} has {there:,} rows, not {rows:,}")
        texts[file] = lines
    held_out = {tuple(line.split("\t")) for line in texts["dev_ids.tsv"]}
    header, *pairs = texts["msr_paraphrase_train.txt"]
    dev = [pair for pair in pairs if tuple(pair.split("\t")[1:3]) in held_out]
    train = [pair for pair in pairs if tuple(pair.split("\t")[1:3]) not in held_out]
    test = [
        f"{number}\t{pair.split(chr(9), 1)[1]}"
        for number, pair in enumerate(texts["msr_paraphrase_test.txt"][1:])
    ]
    test_header = "index\t#1 ID\t#2 ID\t#1 String\t#2 String"
    for file, lines in (
        ("train.tsv", [header, *train]),
        ("dev.tsv", [header, *dev]),
        ("test.tsv", [test_header, *test]),
    ):
        with whole_file(folder / file) as out:
            out.write(("\n".join(lines) + "\n").encode())


def get_mrpc(folder: Path, raw: Path | None) -> None:
    if raw is None:
        raw = folder / "raw"
        for file in MRPC_RAW:
            address = f"{ADDRESS}/mrpc_dev_ids.tsv" if file == "dev_ids.tsv" else f"{MRPC_ADDRESS}/{file}"
            download(address, raw / file, bytes_of(MRPC_RAW[file]))
    split_mrpc(raw, folder)


def local_copy(name: str, folder: Path) -> bool:
    """Copy the whole task from DSP_DATA_DIR if that has all of it, else say why not; return whether."""
    local = os.environ.get("DSP_DATA_DIR")
    if not local or not (Path(local) / "glue" / name).is_dir():
        return False
    source = Path(local) / "glue" / name
    if wrong := flaws(name, source):
        print(f"{name}: not copied: {'; '.join(wrong)}", file=sys.stderr)
        return False
    for file in SOURCES[name].rows:
        copy(source / file, folder / file)
    if (source / DIAGNOSTIC).is_file():
        copy(source / DIAGNOSTIC, folder / DIAGNOSTIC)
    return True


def get(name: str, data_dir: Path, raw_mrpc: Path | None) -> str:
    """Make `data_dir/name`, and say how it came about.

    Raises:
        GlueError: it cannot be had.
        OSError: it cannot be written.
    """
    folder = data_dir / name
    if not flaws(name, folder):
        return "done before"
    folder.mkdir(parents=True, exist_ok=True)
    if not (name == "MRPC" and raw_mrpc) and local_copy(name, folder):
        return "copied from DSP_DATA_DIR"
    if name == "MRPC":
        get_mrpc(folder, raw_mrpc)
    else:
        archive = folder / SOURCES[name].archive
        download(
            f"{ADDRESS}/{archive.name}", archive, sum(bytes_of(rows) for rows in SOURCES[name].rows.values())
        )
        unpack(name, archive, folder)
    if wrong := flaws(name, folder):
        raise GlueError("; ".join(wrong))
    if SOURCES[name].archive:
        archive.unlink()
    if name == "MNLI":
        try:
            download(f"{ADDRESS}/AX.tsv", folder / DIAGNOSTIC, bytes_of(DIAGNOSTIC_ROWS))
        except GlueError as error:
            print(f"MNLI: no diagnostic set: {error}", file=sys.stderr)
    return "made from the files of --path_to_mrpc" if name == "MRPC" and raw_mrpc else "fetched"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data_dir", type=Path, default=Path("data"), help="where the tasks' folders go (default data)"
    )
    parser.add_argument(
        "--task",
        "--tasks",
        default="all",
        metavar="NAME,...",
        help=f"{', '.join(SOURCES)} or all (the default)",
    )
    parser.add_argument(
        "--path_to_mrpc", type=Path, help=f"folder with {', '.join(MRPC_RAW)}, in place of fetching them"
    )
    args = parser.parse_args()
    failed = []
    try:
        names = task_names(args.task)
        check_folder("--data_dir", args.data_dir)
    except (GlueError, ValueError) as error:
        sys.exit(f"error: {error}")
    for name in names:
        try:
            how = get(name, args.data_dir, args.path_to_mrpc)
        except (GlueError, OSError) as error:
            failed.append(name)
            print(f"error: {name}: {error}", file=sys.stderr)
        else:
            print(f"{name}: {args.data_dir / name}, {how}", file=sys.stderr)
    if failed:
        sys.exit(
            f"error: {', '.join(failed)} could not be had. Go online, or put the official files "
            f"(such as {', '.join(SOURCES[failed[0]].rows)}) into {args.data_dir / failed[0]} or "
            f"$DSP_DATA_DIR/glue/{failed[0]}."
        )


if __name__ == "__main__":
    main()
