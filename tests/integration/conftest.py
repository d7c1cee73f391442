"""Trainings that several integration tests look at."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def stock_run(tiny_data, tmp_path_factory) -> Path:
    """Save folder of a model that stock fairseq trained, no plugin anywhere: 3 updates."""
    from fairseq_training import STOCK, train

    folder = tmp_path_factory.mktemp("stock")
    train(tiny_data, folder, *STOCK, "--max-update", 3).succeeded()
    return folder


@pytest.fixture(scope="session")
def joint_run(tiny_data, tmp_path_factory):
    """(save folder, what was printed) of joint annealed pruning, 6 updates, validated by BLEU: the seed's own
    flags.

    As a user runs it: the installed `fairseq-train`, in the repository's root, with `--user-dir dsp_plugin`.
    """
    from fairseq_commands import PACKAGE, Finished
    from fairseq_training import BLEU, JOINT

    folder = tmp_path_factory.mktemp("joint")
    command = Path(sys.executable).parent / "fairseq-train"
    flags = ["dsp_plugin" if flag == PACKAGE else str(flag) for flag in [*JOINT, *BLEU]]
    done = subprocess.run(
        [command, tiny_data, "--save-dir", folder, "--max-update", "6", *flags],
        cwd=PACKAGE.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
    )
    return folder, Finished(done.returncode, done.stdout).succeeded()
