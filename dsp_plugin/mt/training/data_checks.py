"""A folder of binarised text is checked before it is read: languages, dictionaries, no file cut."""

from __future__ import annotations

import os
import struct
from typing import Optional

import numpy as np
from fairseq import utils
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import _code_to_dtype as DTYPES

from ...options.errors import OptionError
from ...records.environment import fingerprint
from ..checkpoints.checkpoint import first_line

_MAGIC, _OLD_MAGIC = b"MMIDIDX\x00\x00", b"TNTIDX\x00\x00"
_HEADER = struct.Struct("<QBQ")  # after the magic: version, type of the numbers, sentences


def check_languages(
    data: str, source: Optional[str], target: Optional[str], impl: Optional[str] = None
) -> None:
    """Compare the languages asked for with the folder's; fairseq replaces a lone one without a word.

    Raises:
        FileNotFoundError: no such folder.
        ValueError: another language, or a folder without prepared data.
    """
    folders = utils.split_paths(data or "")
    for folder in folders or [""]:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no prepared data: '{folder}' is not a folder")
    if impl == "raw":
        return
    indices = (name for name in os.listdir(folders[0]) if name.endswith(".idx"))
    pairs = sorted({".".join(name.split(".")[1:-2]) for name in indices} - {""})
    if source is None or target is None:
        if not pairs:
            raise ValueError(
                f"{folders[0]} has no prepared data: no file *.SOURCE-TARGET.LANGUAGE.idx "
                "(fairseq-preprocess makes them)"
            )
        for side, (name, lang) in enumerate((("source_lang", source), ("target_lang", target))):
            if lang is not None and all(pair.split("-")[side : side + 1] != [lang] for pair in pairs):
                there = f"{folders[0]} has {', '.join(pairs)}"
                raise OptionError(name, f"{lang}: {there} (give both languages to turn a pair round)")
        return
    for name, lang in (("source_lang", source), ("target_lang", target)):
        if not os.path.isfile(os.path.join(folders[0], f"dict.{lang}.txt")):
            there = f"{folders[0]} has no dict.{lang}.txt{_and(pairs, '; its languages are ')}"
            raise OptionError(name, f"{lang}: {there}")


def read_dictionary(path: str) -> Dictionary:
    """Read a dictionary.

    Raises:
        ValueError: no dictionary of fairseq's; names the file. FileNotFoundError: no such file.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such dictionary")
    try:
        words = Dictionary.load(path)
    except Exception as error:  # fairseq raises bare ones, too
        raise ValueError(f"{path} is no dictionary of fairseq's ({first_line(error)})") from error
    if len(words) == words.nspecial:
        raise ValueError(f"{path} is empty")
    return words


def check_set(
    folder: str, subset: str, source: str, target: str, words: tuple[int, int], both: bool, option: str = ""
) -> None:
    """Look at the files of one set, and of those that fairseq adds to it (train1, train2 ...).

    Args:
        words: sizes of the two dictionaries. both: whether the target side must be there. option: that names
            the set.

    Raises:
        FileNotFoundError: no such set. ValueError: a file that is missing, cut, or of other dictionaries.
    """
    for number in range(1_000_000):
        name = subset + (str(number) if number else "")
        prefix = next((p for p in _prefixes(folder, name, source, target) if _there(f"{p}.{source}")), None)
        if prefix is None:
            if number == 0:
                there = sorted({file.split(".")[0] for file in os.listdir(folder) if file.endswith(".idx")})
                asked = f"{option} {subset}" if option else f"the set '{subset}'"
                raise FileNotFoundError(
                    f"{asked}: {folder} has no such set of {source}-{target}{_and(there, '; there are ')}"
                )
            return
        rows = [
            _rows(f"{prefix}.{lang}", size, lang)
            for lang, size in zip((source, target), words)
            if both or _there(f"{prefix}.{lang}")
        ]
        if None not in rows and len(set(rows)) > 1:
            raise ValueError(
                f"{prefix}: {rows[0]:,} sentences of {source}, {rows[1]:,} of {target}: prepare "
                "the data again"
            )


def data_fingerprint(data: str, subset: str = "") -> str:
    """Fingerprint a binarised folder: dictionaries and held-out sets; of another `subset` scored, it too."""
    folder = data.split(os.pathsep)[0]
    wanted = ("dict.", "valid", "test", *([f"{subset}."] if subset else []))
    names = sorted(n for n in os.listdir(folder) if n.startswith(wanted))
    return fingerprint([os.path.join(folder, name) for name in names])


def _prefixes(folder: str, name: str, source: str, target: str) -> list[str]:
    return [os.path.join(folder, f"{name}.{pair}") for pair in (f"{source}-{target}", f"{target}-{source}")]


def _there(path: str) -> bool:
    return os.path.isfile(f"{path}.idx") or os.path.isfile(f"{path}.bin")


def _rows(path: str, words: int, lang: str) -> Optional[int]:
    """Count the sentences of one side; None where it is of a kind that is not looked into.

    Raises:
        ValueError: a file that is missing or cut, or word numbers that the dictionary does not have.
    """
    for file in (f"{path}.idx", f"{path}.bin"):
        if not os.path.isfile(file):
            raise ValueError(f"{file} is missing: prepare the data again")
    with open(f"{path}.idx", "rb") as file:
        head = file.read(len(_MAGIC) + _HEADER.size)
        if head.startswith(_OLD_MAGIC):
            return None
        damage = "is damaged, or no index of fairseq-preprocess: prepare the data again"
        broken = ValueError(f"{path}.idx {damage}")
        if len(head) < len(_MAGIC) + _HEADER.size or not head.startswith(_MAGIC):
            raise broken
        version, code, rows = _HEADER.unpack(head[len(_MAGIC) :])
        if version != 1 or code not in DTYPES or os.path.getsize(f"{path}.idx") != len(head) + 12 * rows:
            raise broken
        sizes = np.fromfile(file, dtype=np.int32, count=rows)
    if not rows:
        raise ValueError(f"{path}.idx: the set is empty")
    dtype = np.dtype(DTYPES[code])
    if (sizes < 0).any() or os.path.getsize(f"{path}.bin") != int(sizes.sum(dtype=np.int64)) * dtype.itemsize:
        raise ValueError(f"{path}.bin does not fit its index, it is damaged: prepare the data again")
    if sizes.any():
        largest = int(np.memmap(f"{path}.bin", dtype=dtype, mode="r").max())
        if largest >= words:
            raise ValueError(
                f"{path}.bin was prepared with another dictionary: it has word number "
                f"{largest}, dict.{lang}.txt {words}"
            )
    return rows


def _and(names: list[str], text: str) -> str:
    return text + ", ".join(names) if names else ""
