"""The fifth gating method of docs/adding-a-method.md: its files, put into a copy of the package as the page
says, pass the contract of all methods, train on both hosts, and keep exactly K heads.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fairseq_training import SETTINGS, SIZES

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
PAGE = ROOT / "docs" / "adding-a-method.md"
CONTRACT = ROOT / "tests" / "unit" / "gating" / "test_gates_contract.py"
# a path in bold, and the file as a block of code
FILE = re.compile(r"^\*\*`([\w/.]+)`\*\*[^\n]*\n\n```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^One row in `METHODS`.*?```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
K = 6


def files() -> dict[str, str]:
    return dict(FILE.findall(PAGE.read_text("utf-8")))


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    """A copy of the package and its programs, with the files of the page."""
    folder = tmp_path_factory.mktemp("house")
    for room in ("dsp_plugin", "scripts"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in files().items():
        assert not (folder / name).exists(), (
            f"{name} is a file of the package: an example adds, and changes nothing"
        )
        (folder / name).write_text(text, "utf-8")
    return folder


def run(house: Path, *words: object) -> str:
    """Run a Python program that finds the package in `house`; gives what it printed."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{house}{os.pathsep}{HELPERS}"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=house, env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout + done.stderr


def test_it_is_one_module_of_the_core_and_its_registrations():
    names = list(files())
    assert [name for name in names if name.startswith("dsp_plugin/gating/")] == names[:1]
    lines = sum(text.count("\n") for text in files().values()) + ROW.search(PAGE.read_text("utf-8"))[1].count(
        "\n"
    )
    assert lines < 150


def test_it_keeps_the_contract_of_all_methods(house):
    row = ROW.search(PAGE.read_text("utf-8"))[1]
    suite = CONTRACT.read_text("utf-8").replace("METHODS = {\n", f"METHODS = {{\n{row}", 1)
    suite = suite.replace(
        "import torch\n", "import torch\nfrom dsp_plugin.gating.methods.perturbed import PerturbedSubset\n", 1
    )
    (house / "test_contract.py").write_text(suite, "utf-8")
    said = run(
        house,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        os.devnull,
        "-k",
        "perturbed",
        "test_contract.py",
    )
    assert int(re.search(r"(\d+) passed", said)[1]) > 20


def test_fairseq_trains_it_and_deploys_exactly_k(house, tiny_data):
    pytest.importorskip("fairseq")
    flags = (
        "--user-dir dsp_plugin --task dsp_translation --arch perturbed_transformer --optimizer dsp_adam "
        f"--criterion dsp_label_smoothed_cross_entropy --joint-pruning --num-of-heads {K} --max-update 6 "
        "--save-dir runs"
    ).split()
    run(house, "-m", "fairseq_cli.train", tiny_data, *flags, *SIZES, *SETTINGS)
    run(
        house,
        "scripts/mt/generate_dsp.py",
        tiny_data,
        "-s",
        "de",
        "-t",
        "en",
        "--path",
        "runs/checkpoint_last.pt",
        "--quiet",
        "--beam",
        "2",
        "--cpu",
        "--record-dir",
        "record",
    )
    heads = json.loads((house / "record" / "results.json").read_text("utf-8"))["heads"]
    assert (heads["kept"], heads["total"]) == (K, 24)
    run(house, "-m", "dsp_plugin.cli.main", "prune", "runs/checkpoint_last.pt", "--out", "pruned.pt")


def test_the_glue_programs_train_it_and_write_the_smaller_model(house):
    pytest.importorskip("transformers")
    from glue_folders import write_task
    from hf_programs import SHORT, write_bert

    write_bert(house / "bert")
    write_task(house / "CoLA", "CoLA", train=48, dev=9)
    words = "--model_name_or_path bert --task_name CoLA --data_dir CoLA --do_train --do_eval".split()
    words += "--max_steps 6 --num_of_heads 3 --joint_pruning --output_dir out --use_cpu".split()
    run(house, "scripts/glue/run_perturbed.py", *words, *SHORT)
    record = json.loads((house / "out" / "results.json").read_text("utf-8"))
    assert record["heads"]["kept"] == 3 and record["method"] == "perturbed"
    assert (house / "out" / "pruned" / "config.json").is_file()
    assert "--pruning_lr" in run(house, "scripts/glue/run_perturbed.py", "--help")
