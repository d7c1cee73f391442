"""What the programs print of others' log messages."""

from __future__ import annotations

import logging
import sys

import pytest

pytest.importorskip("transformers")
import hf_programs  # noqa: F401  (first: see there)  isort: skip
from transformers import TrainingArguments

from dsp_plugin.hf.programs.chassis.log_levels import log_levels


def test_a_warning_of_the_hub_and_one_of_ours_are_printed_once(tmp_path, monkeypatch, capsys):
    args = TrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    ours, hub = logging.getLogger("dsp_plugin"), logging.getLogger("huggingface_hub")
    with monkeypatch.context() as own:  # as in a process of its own: without pytest's handlers
        own.setattr(logging.getLogger(), "handlers", [])
        own.setattr(ours, "handlers", [])
        own.setattr(hub, "handlers", [logging.StreamHandler(sys.stderr)])
        log_levels(args)
        log_levels(args)
        logging.getLogger("dsp_plugin.hf.data.glue_files").warning("too few rows")
        logging.getLogger("huggingface_hub.utils").warning("retrying")
    assert capsys.readouterr().err.splitlines() == ["WARNING | too few rows", "retrying"]
