"""Turn the raw IWSLT14 German-English archive (de-en.tgz) into raw sentence pairs, by the usual recipe.

    python data-prep/iwslt14_archive.py de-en.tgz raw        # writes raw/train.* and raw/test.*

Training text is `train.tags.de-en.*` without its tags; test text is the `<seg>` lines of the five
development and test sets, one after the other (validation text is held out of the training text
later).
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from archives import MEGABYTE, ArchiveError, read_tar
from pairs import BREAKS, LANGS, CorpusError, is_complete, write_pair

TEST_SETS = (
    "IWSLT14.TED.dev2010",
    "IWSLT14.TED.tst2010",
    "IWSLT14.TED.tst2011",
    "IWSLT14.TED.tst2012",
    "IWSLT14.TEDX.dev2012",
)
TRAIN = [f"train.tags.de-en.{lang}" for lang in LANGS]
TEST = [[f"{name}.de-en.{lang}.xml" for lang in LANGS] for name in TEST_SETS]
# three times what the published files have, and more
TRAIN_BYTES, TEST_BYTES = 64 * MEGABYTE, 4 * MEGABYTE
HEADER_LINE = re.compile(r"<url>|<talkid>|<keywords>")
KEPT_TAG = re.compile(r"</?(?:title|description)>")
SEGMENT = re.compile(r'<seg id="[0-9]*">\s*(.*?)\s*</seg>')


def members(archive: Path) -> dict[str, list[str]]:
    """Read {file name without its folder: lines} for the files of the archive that are needed.

    Raises:
        CorpusError: the archive is damaged, or larger than the data set's.
    """
    sizes = {name: TRAIN_BYTES for name in TRAIN} | {name: TEST_BYTES for names in TEST for name in names}
    try:
        texts = {name: content.decode("utf-8") for name, content in read_tar(archive, sizes).items()}
    except (ArchiveError, UnicodeDecodeError) as error:
        raise CorpusError(
            str(error) if isinstance(error, ArchiveError) else f"{archive} cannot be read: {error}"
        ) from error
    # the other characters that end a line somewhere are spaces, as to Moses' tokeniser
    return {name: [BREAKS.sub(" ", line) for line in text.split("\n")] for name, text in texts.items()}


def training_lines(lines: list[str]) -> list[str]:
    """Keep the sentences, titles and descriptions of the talks, without their tags."""
    if lines and not lines[-1]:
        lines = lines[:-1]
    return [KEPT_TAG.sub("", line) for line in lines if not HEADER_LINE.search(line)]


def test_lines(lines: list[str]) -> list[str]:
    """Keep the segments, with ASCII's apostrophe for the typographic one, as the recipe does."""
    found = (SEGMENT.search(line) for line in lines)
    return [match.group(1).replace("\u2019", "'") for match in found if match]


def splits(archive: Path) -> dict[str, list[tuple[str, str]]]:
    """Read `train` and `test` as sentence pairs.

    Raises:
        CorpusError: the archive lacks a file, or the two sides of one differ in length.
    """
    texts = members(archive)

    def both_sides(names: list[str], clean) -> list[tuple[str, str]]:
        for name in names:
            if name not in texts:
                raise CorpusError(f"{archive} lacks {name}: is it the German-English archive of IWSLT14?")
        source, target = (clean(texts[name]) for name in names)
        if not source or len(source) != len(target):
            raise CorpusError(
                f"misaligned corpus in {archive}: {names[0]} has {len(source)} sentences, {names[1]} has "
                f"{len(target)}"
            )
        return list(zip(source, target))

    train = both_sides(TRAIN, training_lines)
    return {"train": train, "test": [pair for names in TEST for pair in both_sides(names, test_lines)]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("archive", metavar="ARCHIVE", type=Path)
    parser.add_argument("out", metavar="FOLDER", type=Path)
    args = parser.parse_args()
    if all(is_complete(args.out / split) for split in ("train", "test")):
        return
    try:
        for split, pairs in splits(args.archive).items():
            write_pair(args.out / split, pairs)
    except (CorpusError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
