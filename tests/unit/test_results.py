"""results/ keeps records and tables, in little space: a clone should not carry translations about."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def kept() -> list[Path]:
    command = ["git", "ls-files", "-z", "results"]
    try:
        named = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs a git checkout: only it knows which files are kept")
    return [path for name in named.split("\0") if name and (path := ROOT / name).is_file()]


def test_they_are_small(kept):
    assert 0 < sum(path.stat().st_size for path in kept) < 6_000_000


def test_translations_are_not_kept_and_statistics_are_compressed(kept):
    assert not {path.name for path in kept} & {"translations.txt", "sentences.json"}


def test_every_scored_translation_can_be_tested_for_significance(kept):
    from dsp_plugin.records.record import load_record
    from dsp_plugin.records.sentences import load_statistics

    scored = [path for path in kept if path.name == "sentences.json.xz"]
    assert len(scored) > 50
    for path in scored[::10]:
        (metric,) = [one for one in load_record(path.parent / "results.json").metrics if one.name == "BLEU"]
        assert load_statistics(path.parent, metric)
