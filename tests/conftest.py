"""What the tests share: real data where there is some, and a tiny binarised corpus for fairseq."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# before torch is imported anywhere: two cores are soon oversubscribed, and sums must not depend on the thread
# count
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "helpers"))  # for `import fairseq_commands`


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder with real data sets, one subfolder each; skips where there is none."""
    folder = os.environ.get("DSP_DATA_DIR")
    if not folder:
        pytest.skip("needs real text: set DSP_DATA_DIR to a folder with multi30k/, iwslt14/ ... (see docs)")
    if not Path(folder).is_dir():
        pytest.fail(f"DSP_DATA_DIR={folder} is not a folder")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A data-bin folder, de -> en, one joined dictionary: the English side is the German one, word by
    word, backwards.
    """
    from fairseq_training import write_corpus

    return write_corpus(tmp_path_factory.mktemp("tiny"))
