"""Canaries: what is patched in Transformers is still as the patch takes it to be."""

import importlib
import importlib.util
from pathlib import Path

import pytest

pytest.importorskip("transformers")


def test_transformers_still_imports_torchaudio_where_it_is_and_remembers_whether():
    utils = importlib.import_module("transformers.utils.import_utils")
    assert hasattr(utils.is_torchaudio_available, "cache_clear"), "the answer is no longer remembered"
    source = Path(importlib.util.find_spec("transformers.audio_utils").origin).read_text("utf-8")
    assert "\n    import torchaudio\n" in source, "the patch may go: models are imported without torchaudio"
