"""What the tests share: real data where there is some, and a tiny binarised corpus for fairseq."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

# before torch is imported anywhere: two cores are soon oversubscribed, and sums must not depend on the thread count
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))  # for `import fairseq_commands`

WORDS = 30
SIZES = {"train": 120, "valid": 16, "test": 12}


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
    """A data-bin folder, de -> en, one joined dictionary: the English side is the German one, word by word, backwards."""
    from fairseq_commands import run

    folder = tmp_path_factory.mktemp("tiny")
    rng = random.Random(1)
    for split, size in SIZES.items():
        with open(folder / f"{split}.de", "w") as german, open(folder / f"{split}.en", "w") as english:
            for _ in range(size):
                words = [rng.randrange(WORDS) for _ in range(rng.randint(3, 8))]
                german.write(" ".join(f"d{w}" for w in words) + "\n")
                english.write(" ".join(f"e{w}" for w in reversed(words)) + "\n")
    command = ["--source-lang", "de", "--target-lang", "en", "--joined-dictionary", "--destdir", folder / "bin"]
    command += [f"--{split}pref={folder / split}" for split in SIZES]
    run("fairseq_cli.preprocess", command, folder).succeeded()
    return folder / "bin"
