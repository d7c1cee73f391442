"""The commands of README and docs/: their options exist; each is run here, or it is said why not."""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from page_commands import PAGES, ROOT, Command, commands_of, options_of

COMMANDS = [command for page in PAGES for command in commands_of(page)]
# what takes seconds and no network, and is run below as it stands; True where it needs real data
RUN_HERE = {
    "python data-prep/embedded_corpus.py --out data/embedded": False,
    "python data-prep/binarise.py --text data/embedded --dest data-bin/embedded": False,
    "python data-prep/download_glue_data.py --data_dir data/ --task CoLA": True,
    "python data-prep/squad_devsplit.py data/squad/dev-v1.1.json": True,
    "make glue SHOW=1 ONLY=CoLA/joint": True,
}
# beginnings of commands -> why they are not run here as they stand
NOT_RUN = {
    "make venv": "minutes of installing: `make demo` and `make test` begin with it",
    "make demo": "minutes of training: tests/system/test_embedded_corpus.py trains a smaller one",
    "make test": "it is this",
    "make grid": "days of training, or days' records: tests/integration/test_pipelines.py",
    "make pipelined": "a day of training, or a day's records: tests/integration/test_pipelines.py",
    "make glue": "hours of training, or hours' records: tests/integration/test_pipelines.py",
    "make dsee": "hours of training, or hours' records: tests/integration/test_pipelines.py",
    "make delta": "hours of training, or hours' records: tests/integration/test_delta_grid.py",
    "make diff": "days of training, or days' records: tests/integration/test_pipelines.py",
    ".venv/snakemake/bin/snakemake": "what make grid and make glue call: tests/integration/test_pipelines.py",
    ".venv/snakemake/bin/pip": "it fetches a plugin for a cluster",
    "python data-prep/download_glue_data.py": "it fetches: tests/integration/test_download.py",
    "bash data-prep/download_squad.sh": "it fetches: tests/integration/test_download.py",
    "data-prep/prepare-": "a minute, on real text: tests/integration/test_data_prep.py",
    "python scripts/mt/run_dsp.py": "minutes of training: tests/integration/test_finished_training.py",
    "python scripts/mt/run_voita.py": "minutes of training: tests/integration/test_train_voita.py",
    "python scripts/mt/run_michel.py": "it wants a trained model: tests/integration/test_michel.py",
    "python scripts/mt/run_diff.py": "it wants a trained model: tests/integration/test_diff_mt.py",
    "python scripts/mt/run_dsee.py": "it wants a trained model: tests/integration/test_dsee_mt.py",
    "python scripts/mt/pack_dsee.py": "it wants a trained update: tests/integration/test_dsee_mt.py",
    "python scripts/mt/run_delta.py": "it wants a trained model: tests/integration/test_delta_mt.py",
    "python scripts/mt/pack_delta.py": "it wants a trained delta: tests/integration/test_delta_mt.py",
    "python scripts/mt/pack_diff.py": "it wants a trained diff: tests/integration/test_diff_mt.py",
    "python scripts/mt/generate_dsp.py": "it wants a trained model: tests/system/test_embedded_corpus.py",
    "python scripts/mt/generate_voita.py": "it wants a trained model: tests/integration/test_train_voita.py",
    "python scripts/mt/check_pruned.py": "it wants a trained model: tests/integration/test_prune_export.py",
    "scripts/mt/joint.sh": "minutes of training: tests/unit/pipelines/test_mt_plan.py",
    "fairseq-train": "minutes of training: tests/integration/test_train_mt.py",
    "fairseq-generate": "it wants a trained model: tests/integration/test_train_mt.py",
    "fairseq-hydra-train": "minutes of training: tests/integration/test_train_mt.py",
    "dsp prune": "it wants a trained model: tests/integration/test_prune_export.py",
    "dsp curve": "it wants a trained model: tests/unit/cli/test_curve.py",
    "dsp export": "it wants a trained model: tests/integration/test_export_formats.py",
    "dsp report": "half a minute of pictures: tests/unit/cli/test_cli_report.py",
    "dsp diff inspect": "it wants a trained diff: tests/unit/cli/test_cli_diff.py",
    "python scripts/glue/run_": "minutes to hours of training: tests/integration/test_glue_programs.py",
    "python scripts/dsee/run_glue": "minutes of training: tests/integration/test_dsee_programs.py",
    "python scripts/dsee/run_dsee.py": "minutes of training: tests/integration/test_dsee_programs.py",
    "python scripts/dsee/run_clm.py": "minutes of training: tests/integration/test_clm_programs.py",
    "bash scripts/delta/data/download_dataset.sh": "it fetches: tests/integration/test_download.py",
    "python scripts/delta/run.py": "minutes of training: tests/integration/test_delta_programs.py",
    "bash scripts/delta/run_": "hours of training: tests/integration/test_delta_pipelines.py",
    "python scripts/delta/tools/gather_result.py": "many records: tests/unit/reports/test_delta_runs.py",
    "python scripts/delta/tools/generate_k_shot_data.py": "tests/unit/delta/test_few_shot.py",
    "python scripts/delta/pretrain_mlm.py": "minutes of training: tests/integration/test_pretrain_mlm.py",
    "python data-prep/parallel_to_jsonl.py": "real text: tests/unit/data_prep/test_parallel_to_jsonl.py",
    "python scripts/diff/serve_tasks.py": "it wants a trained diff: tests/integration/test_diff_bases.py",
    "scripts/glue/experiments.sh": "days on a GPU: tests/integration/test_experiments.py",
    "scripts/squad/experiments.sh": "days on a GPU: tests/integration/test_experiments.py",
}


def test_pages_have_commands():
    assert len(COMMANDS) > 90 and len({command.program for command in COMMANDS}) > 40


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_options_are_those_of_their_program(page):
    pytest.importorskip("fairseq")
    for command in commands_of(page):
        known = options_of(command)
        wrong = [name for name in command.options() if name.replace("-", "_") not in known]
        assert not wrong, f"{command.program} takes no --{wrong[0]}: {command}"


def test_a_wrong_option_is_noticed():
    pytest.importorskip("fairseq")
    for line, wrong in (
        ("python scripts/glue/run_glue.py --learning_rate 1 --num_of_heads 3", "num_of_heads"),
        ("python scripts/mt/run_voita.py data --arch transformer --l0-penalty 1 --use-ste", "use-ste"),
        ("dsp prune model.pt --out out --format onnx", "format"),
        ("python data-prep/binarise.py --text data --data bin", "data"),
    ):
        words = line.split()
        command = Command(PAGES[0], words[1] if words[0] == "python" else "dsp prune", tuple(words))
        known = options_of(command)
        assert [name for name in command.options() if name.replace("-", "_") not in known] == [wrong]


def test_variables_are_set_on_their_page():
    for command in COMMANDS:
        names = set(re.findall(r"\$\{?([A-Za-z]\w*)", " ".join(command.words)))
        assert names <= {"PWD", "rank"}, f"{command}: {names}"


def test_settings_of_make_are_its_own():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    own = set(re.search(r"^SETTINGS := (.+)$", makefile, re.MULTILINE)[1].split())
    own |= set(re.findall(r"\$\((?:if )?([A-Z_]+)\)?", makefile))
    for command in COMMANDS:
        if command.words[0] == "make":
            assert {word.partition("=")[0] for word in command.words[2:]} <= own, command


def test_every_command_is_run_or_it_is_said_why_not():
    lines = [command.line for command in COMMANDS]
    for line in lines:
        assert line in RUN_HERE or any(line.startswith(start) for start in NOT_RUN), line
    for start, reason in NOT_RUN.items():
        assert any(line.startswith(start) for line in lines), f"no page has {start}"
        assert all((ROOT / path).is_file() for path in re.findall(r"tests/[\w/]+\.py", reason)), reason
    assert RUN_HERE.keys() <= set(lines), RUN_HERE.keys() - set(lines)


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """A folder that looks like the repository, and in which commands may write."""
    folder = tmp_path_factory.mktemp("clone")
    for path in ROOT.iterdir():
        if path.name not in (".git", ".venv", "data", "data-bin", "demo", "report", "runs", "build"):
            (folder / path.name).symlink_to(path)
    return folder


@pytest.mark.parametrize("line", RUN_HERE)
def test_commands_of_seconds(line, clone, request):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    if RUN_HERE[line]:
        data = request.getfixturevalue("data_dir")
        environment["DSP_DATA_DIR"] = str(data)
        if "data/squad" in line and not (clone / "data" / "squad").exists():
            (clone / "data" / "squad").mkdir(parents=True)
            (clone / "data" / "squad" / "dev-v1.1.json").symlink_to(data / "squad" / "dev-v1.1.json")
    venv = Path(sys.executable).parents[1]
    for name, called in (
        ("python", f'{sys.executable} "$@"'),
        ("dsp", f'{sys.executable} -m dsp_plugin.cli.main "$@"'),
    ):
        program = clone / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\nexec {called}\n")
        program.chmod(0o755)
    environment["PATH"] = f"{clone / 'bin'}{os.pathsep}{environment['PATH']}"
    if line.startswith("make "):  # with what is installed here, older than setup.py or not
        installed = [f"-o {venv}/.installed-{name}" for name in ("base", "all", "pipelines")]
        line = " ".join([line, f"VENV={venv}", *installed])
    done = subprocess.run(["bash", "-ec", line], cwd=clone, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
