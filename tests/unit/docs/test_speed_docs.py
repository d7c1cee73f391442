"""docs/prune-to-speed.md: its example runs."""

from __future__ import annotations

import re

from page_commands import BLOCK, ROOT


def test_the_example_of_a_choice(capsys):
    text = (ROOT / "docs" / "prune-to-speed.md").read_text("utf-8")
    (code,) = [code for language, code in BLOCK.findall(text) if language == "python"]
    exec(code, {})
    assert re.match(r"tensor\(\[ ?True", capsys.readouterr().out)
