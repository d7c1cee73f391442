"""Files that we write, with bits flipped or their ends cut off."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from file_kinds import KINDS
from fuzz_trials import Trial, outcome_of


def trials(folder: Path, rng: random.Random) -> Iterator[Trial]:
    """Every kind of file in turn: one to three flipped bits, a cut, or bytes out of place."""
    made = {}
    for kind in KINDS:
        home = folder / kind.name
        home.mkdir()
        paths = kind.make(home)
        whole = outcome_of(lambda kind=kind, home=home: kind.read(home))
        assert whole.kind == "value", (kind.name, whole)
        made[kind.name] = (kind, home, paths, whole.text)
    while True:
        for kind, home, paths, wanted in made.values():
            path = rng.choice(paths)
            change = rng.choice([flipped, flipped, cut, moved])
            copy = folder / "copy"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(home, copy)
            damaged = copy / path.relative_to(home)
            damaged.write_bytes(change(damaged.read_bytes(), rng))
            yield Trial(f"{kind.name}, {path.name} {change.__name__}", _reader(kind.read, copy), wanted)


def _reader(read: Callable[[Path], object], folder: Path) -> Callable[[], object]:
    return lambda: read(folder)


def flipped(content: bytes, rng: random.Random) -> bytes:
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        if found:
            found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))] if content else content


def moved(content: bytes, rng: random.Random) -> bytes:
    """A piece taken out and put in elsewhere."""
    if len(content) < 4:
        return content[::-1]
    start = rng.randrange(len(content) - 1)
    piece = content[start : start + rng.randint(1, 64)]
    rest = content[:start] + content[start + len(piece) :]
    place = rng.randrange(len(rest) + 1)
    return rest[:place] + piece + rest[place:]
