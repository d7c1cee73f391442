"""Write JSONL of {"source", "target"} from aligned text files, for scripts/dsee/run_clm.py.

    python data-prep/parallel_to_jsonl.py --out data/multi30k-jsonl \
      --train $DSP_DATA_DIR/multi30k/train --dev $DSP_DATA_DIR/multi30k/val \
      --test $DSP_DATA_DIR/multi30k/test_2016_flickr

A split is named by the prefix of its two files: `raw/train` with the languages `de en` means `raw/train.de`
and `raw/train.en` (or `.gz` of them). Several references of a source stand in several files: `--references
raw/dev1 raw/dev2` beside `--dev raw/dev` reads `raw/dev1.en` and `raw/dev2.en` too, line by line. Pairs with
an empty side are left out, and it is said how many; also how many training pairs stand in dev or test, too
(a sample of talks does that): `--drop-shared` leaves them out of train.jsonl. Nothing is written before all
is read; each file is whole or not there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from pairs import LANGS, CorpusError, read_pair, read_side, side_path
from whole_files import check_file, write_text

SPLITS = ("train", "dev", "test")


def lines_of(prefix: str, langs: tuple[str, str], more: list[str]) -> tuple[list[str], int]:
    """Return a split's lines of JSONL, and how many pairs were left out because a side is empty.

    Args:
        more: prefixes of further references, files of as many lines.

    Raises:
        CorpusError: see `read_pair`; or another number of lines.
    """
    pairs = read_pair(prefix, langs)
    targets = [[target] for _, target in pairs]
    for other in more:
        path = side_path(other, langs[1])
        lines = read_side(path)
        if len(lines) != len(pairs):
            raise CorpusError(f"misaligned: {path} has {len(lines)} lines, {prefix} has {len(pairs)}")
        for known, line in zip(targets, lines):
            known.append(line)
    made = []
    for (source, _), known in zip(pairs, targets):
        found = [target.strip() for target in known if target.strip()]
        if source.strip() and found:
            entry = {"source": source.strip(), "target": found if more else found[0]}
            made.append(json.dumps(entry, ensure_ascii=False))
    return made, len(pairs) - len(made)


def shared_with(lines: list[str], others: list[str]) -> list[int]:
    """Return the places of the lines whose source and one of whose targets stand in other lines, too."""

    def pairs_of(line: str) -> set[tuple[str, str]]:
        entry = json.loads(line)
        targets = entry["target"]
        return {(entry["source"], target) for target in ([targets] if isinstance(targets, str) else targets)}

    known = set().union(*map(pairs_of, others))
    return [place for place, line in enumerate(lines) if pairs_of(line) & known]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", metavar="PREFIX", help="becomes train.jsonl")
    parser.add_argument("--dev", metavar="PREFIX", help="becomes dev.jsonl")
    parser.add_argument("--test", metavar="PREFIX", help="becomes test.jsonl")
    parser.add_argument("--out", required=True, type=Path, metavar="FOLDER", help="of the JSONL files")
    parser.add_argument("--langs", nargs=2, default=list(LANGS), metavar=("SOURCE", "TARGET"))
    parser.add_argument(
        "--references", nargs="+", default=[], metavar="PREFIX", help="further references of --dev"
    )
    parser.add_argument(
        "--drop-shared", action="store_true", help="leave out training pairs that dev or test have, too"
    )
    args = parser.parse_args()
    given = {split: getattr(args, split) for split in SPLITS if getattr(args, split)}
    if not given:
        parser.error("nothing to do: give --train, --dev or --test")
    if args.references and not args.dev:
        parser.error("--references are those of --dev: give it, too")
    try:
        if args.out.exists() and not args.out.is_dir():
            raise CorpusError(f"--out {args.out} is a file: name a folder")
        found = {}
        for split, prefix in given.items():
            path = args.out / f"{split}.jsonl"
            check_file(path)
            more = args.references if split == "dev" else []
            read = [side_path(prefix, lang) for lang in args.langs]
            if any(path.exists() and os.path.samefile(path, other) for other in read):
                raise CorpusError(f"{path} is what --{split} reads: name another folder")
            lines, left_out = lines_of(prefix, tuple(args.langs), more)
            if not lines:
                raise CorpusError(f"{prefix}: there is no pair with text on both sides")
            found[split] = (path, lines, f", {left_out:,} left out for an empty side" if left_out else "")
        if args.train:
            path, lines, note = found["train"]
            others = [line for split in SPLITS[1:] if split in found for line in found[split][1]]
            shared = set(shared_with(lines, others))
            if shared and args.drop_shared:
                lines = [line for place, line in enumerate(lines) if place not in shared]
                note += f", {len(shared):,} left out that are in dev or test"
            elif shared:
                note += f", {len(shared):,} of them are in dev or test, too (--drop-shared leaves them out)"
            found["train"] = (path, lines, note)
        for path, lines, note in found.values():
            write_text(path, "".join(f"{line}\n" for line in lines))
            print(f"{path}: {len(lines):,} pairs{note}", file=sys.stderr)
    except (CorpusError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
