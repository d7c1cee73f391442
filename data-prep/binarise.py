"""fairseq-preprocess with the checks that it lacks: aligned input, whole output, no mixing of runs.

    python data-prep/binarise.py --text data/multi30k --dest data-bin/multi30k --tests test test1 \\
      --joined-dictionary

A folder with the final name is complete: fairseq writes into a temporary one, which is renamed at the
end. `prepared.json` in it tells which text it was made from.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from pairs import LANGS, CorpusError, fingerprint, read_pair, read_side
from whole_files import new_folder, write_text

RECORD = "prepared.json"


def count_words(dictionary: Path) -> int:
    """Count the entries of a fairseq dictionary, with its four special symbols."""
    return 4 + sum(1 for _ in open(dictionary, encoding="utf-8"))


def check_written(text: Path, binarised: Path) -> None:
    """Compare the sentences of a binarised file with the lines of its text, by their numbers of words.

    Raises:
        CorpusError: they differ; names the first line that does.
    """
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    dataset = MMapIndexedDataset(str(binarised))  # the sizes are views of its file, and go with it
    sizes = dataset.sizes.tolist()
    expected = [len(line.split()) + 1 for line in read_side(text, for_fairseq=True)]  # with the end mark
    if sizes != expected:
        alike = (there == here for there, here in zip(sizes, expected))
        first = next((i for i, same in enumerate(alike) if not same), min(len(sizes), len(expected)))
        raise CorpusError(
            f"{text} has {len(expected):,} lines and fairseq has written {len(sizes):,} sentences, which "
            f"differ from line {first + 1} on: nothing is kept"
        )


def binarise(
    text: Path,
    dest: Path,
    tests: list[str],
    joined_dictionary: bool,
    workers: int = 2,
    langs: tuple[str, str] = LANGS,
    dictionaries: Path | None = None,
) -> bool:
    """Binarise `text/{train,valid,*tests}` into `dest`; return False when that was done before.

    Args:
        dictionaries: a binarised folder whose dictionaries are used instead of new ones, so that a model
            trained there can go on here; the text must have been made with that folder's BPE codes.

    Raises:
        CorpusError: a split is missing, empty or misaligned, or has lines that fairseq reads otherwise;
            `dest` holds something else; no dictionaries there; what fairseq wrote is not the text.
        subprocess.CalledProcessError: fairseq-preprocess failed.
    """
    splits = ["train", "valid", *tests]
    pairs = {split: len(read_pair(text / split, langs, for_fairseq=True)) for split in splits}
    settings = {
        "source": langs[0],
        "target": langs[1],
        "pairs": pairs,
        "joined_dictionary": joined_dictionary,
        "fingerprint": fingerprint([str(text / split) for split in splits], langs),
    }
    ready = {lang: dictionaries / f"dict.{lang}.txt" for lang in langs} if dictionaries else {}
    if ready:
        missing = [path for path in ready.values() if not path.is_file()]
        if missing:
            raise CorpusError(f"--dictionaries {dictionaries}: there is no {missing[0].name}")
        settings["dictionaries"] = {
            lang: sha256(path.read_bytes()).hexdigest() for lang, path in ready.items()
        }
    dest = dest.resolve()
    if dest.exists() and (not dest.is_dir() or any(dest.iterdir())):
        record = dest / RECORD
        made = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
        if {key: made.get(key) for key in settings} == settings:
            return False
        raise CorpusError(
            f"{dest} is there already, made from another text or with other settings: "
            "remove it, or name another folder with --dest"
        )

    with new_folder(dest, RECORD) as part:
        command = [
            sys.executable,
            "-m",
            "fairseq_cli.preprocess",
            "--source-lang",
            langs[0],
            "--target-lang",
            langs[1],
            "--trainpref",
            str(text / "train"),
            "--validpref",
            str(text / "valid"),
            "--testpref",
            ",".join(str(text / test) for test in tests),
            "--destdir",
            str(part),
            "--workers",
            str(workers),
        ]
        if ready:
            command += ["--srcdict", str(ready[langs[0]]), "--tgtdict", str(ready[langs[1]])]
        elif joined_dictionary:
            command.append("--joined-dictionary")
        print(f"{dest}: binarising", file=sys.stderr)
        # What it logs is worth reading only when it fails; the folder's own preprocess.log keeps it.
        subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        for number, split in enumerate(splits):
            # fairseq's names: train, valid, test, test1, test2 ...
            written = split if number < 2 else "test" + (str(number - 2) if number > 2 else "")
            for lang in langs:
                check_written(text / f"{split}.{lang}", part / f"{written}.{langs[0]}-{langs[1]}.{lang}")
        vocabulary = {lang: count_words(part / f"dict.{lang}.txt") for lang in langs}
        write_text(part / RECORD, json.dumps({**settings, "vocabulary": vocabulary}, indent=2) + "\n")
    return True


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--text", type=Path, required=True, help="folder of the tokenised splits")
    parser.add_argument("--dest", type=Path, required=True, help="folder to make")
    parser.add_argument("--tests", nargs="+", default=["test"], help="names of the test splits")
    parser.add_argument("--joined-dictionary", action="store_true", help="one dictionary for both languages")
    parser.add_argument(
        "--dictionaries", type=Path, metavar="DIR", help="use the dictionaries of this binarised folder"
    )
    parser.add_argument("--langs", nargs=2, default=list(LANGS), metavar=("SOURCE", "TARGET"))
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    try:
        made = binarise(
            args.text,
            args.dest,
            args.tests,
            args.joined_dictionary,
            args.workers,
            tuple(args.langs),
            args.dictionaries,
        )
    except CorpusError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(
            f"{error.output}\nerror: fairseq-preprocess ended with {error.returncode}; {args.dest} was "
            "not made"
        )
    except OSError as error:
        sys.exit(f"error: {error}")
    record = json.loads((args.dest / RECORD).read_text(encoding="utf-8"))
    counts = ", ".join(f"{split} {count:,}" for split, count in record["pairs"].items())
    words = ", ".join(f"{lang} {count:,}" for lang, count in record["vocabulary"].items())
    print(f"{args.dest}: {'written' if made else 'done before'}; pairs: {counts}; vocabulary: {words}")


if __name__ == "__main__":
    main()
