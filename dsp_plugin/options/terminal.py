"""Text that comes from a file, made harmless for a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: object, keep: str = "\n\t") -> str:
    r"""Write control and formatting characters of `text` out, as \x1b: printed, they change nothing but text.

    Args:
        keep: characters that stay; line ends and tabs, where a text may have lines.
    """
    text = str(text)
    if text.isprintable():
        return text
    shown = (c if c in keep or not _acts(c) else c.encode("unicode_escape").decode() for c in text)
    return "".join(shown)


def _acts(char: str) -> bool:
    """Return whether a character is a control, a format such as a change of direction, or ends a line."""
    category = unicodedata.category(char)
    return category[0] == "C" or category in ("Zl", "Zp")
