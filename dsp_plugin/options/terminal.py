"""Text that comes from a file, made harmless for a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: object, keep: str = "\n\t") -> str:
    r"""`text` with control and formatting characters written out, as \x1b: printed, they change nothing but
    the screen's text.

    Args:
        keep: characters that stay; line ends and tabs, where a text may have lines.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        char if char in keep or not _acts(char) else char.encode("unicode_escape").decode() for char in text
    )


def _acts(char: str) -> bool:
    """Controls, formats such as a change of direction, surrogates, and what Unicode takes for line ends."""
    category = unicodedata.category(char)
    return category[0] == "C" or category in ("Zl", "Zp")
