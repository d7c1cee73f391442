"""The pipeline of diff pruning with its programs, on small generated data: two updates each, and a table."""

from __future__ import annotations

import hf_programs  # noqa: F401  (first: see there)  isort: skip

import json
import subprocess
from pathlib import Path

from glue_folders import write_task
from hf_programs import write_bert
from pipeline_runs import ROOT, words_of

from dsp_plugin.diffs import DiffPack
from dsp_plugin.records.record import load_record


def test_stages_find_what_the_ones_before_them_made(tmp_path):
    tokenizer = write_bert(tmp_path / "bert", max_position_embeddings=128) / "tokenizer_config.json"
    # as long as the pipeline allows sentences to be
    tokenizer.write_text(json.dumps({**json.loads(tokenizer.read_text()), "model_max_length": 128}))
    write_task(tmp_path / "glue" / "CoLA", "CoLA", train=32, dev=8)
    config = {"model": tmp_path / "bert", "data": tmp_path / "glue", "runs": tmp_path / "runs", "quick": 8}
    config |= {"results": tmp_path / "results", "tasks": "CoLA", "densities": 0.01}
    config |= {"only": "CoLA/full CoLA/structured CoLA/non-adaptive"}
    words = words_of(ROOT, "diff", "--directory", str(tmp_path), "--cores", "2", **config)
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr

    for name, method in (("structured", "diff-structured"), ("non-adaptive", "non-adaptive")):
        folder = f"CoLA/{name}-0.01-seed1"
        pack = DiffPack.load(tmp_path / "runs" / folder / "task.diff.safetensors")
        record = load_record(tmp_path / "results" / folder / "dev" / "results.json")
        assert record.method == f"{method}-1%" and record.extra["diff"]["nonzeros"] == pack.nonzeros
        projected = load_record(tmp_path / "results" / folder / "projected" / "dev" / "results.json")
        assert projected.method == f"{method}-1%-projected"
    assert not list(Path(tmp_path / "runs").glob("**/checkpoint-*/"))
    table = (tmp_path / "results" / "table.md").read_text()
    rows = {
        line.split("|")[1].strip(): line for line in table.split("## CoLA")[1].splitlines() if "|" in line
    }
    assert all("1 of 1" in rows[name] for name in ("full", "diff-structured", "non-adaptive"))
    assert "not measured" in rows["last-layer"]
