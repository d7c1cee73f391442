"""The commands of README.md and docs/ leave a checkout clean: git ignores the folders that they write
into.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
WRITTEN = re.compile(r"(?:--output_dir|--save-dir|--out|--cache_dir|\bOUT)[ =]([\w./-]+)")


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="this is no checkout")
def test_what_the_documented_commands_write_is_ignored():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    blocks = [block for page in pages for block in BLOCK.findall(page.read_text("utf-8"))]
    named = {
        word
        for block in blocks
        for word in WRITTEN.findall(block)
        if word != "OUT" and not word.startswith("results/")
    }
    assert {"output/", "pipelined/", "stock.pt", "out"} <= named
    # a pattern for folders matches what is in them, whether they are there or not
    paths = [word if Path(word).suffix else f"{word.rstrip('/')}/file" for word in sorted(named)]
    done = subprocess.run(
        ["git", "check-ignore", "--no-index", *paths], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode > 1:  # 1: nothing is ignored
        pytest.skip(f"git does not work here: {done.stderr.strip()}")
    assert done.stdout.splitlines() == paths
