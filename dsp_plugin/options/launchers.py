"""What a launcher of several processes puts on a command line, beside what the user gave."""

from __future__ import annotations

from collections.abc import Sequence

_RANK = ("--local-rank", "--local_rank")


def without_local_rank(words: Sequence[str]) -> list[str]:
    """Take out the rank that `python -m torch.distributed.launch` adds; the environment says it as well."""
    kept: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        name, equals, _ = word.partition("=")
        if name not in _RANK:
            kept.append(word)
        elif not equals and rest and rest[0].lstrip("-").isdigit():
            rest.pop(0)
    return kept
