"""`dsp doctor`: each check where all is well, and with what it looks for taken away."""

from __future__ import annotations

import json
import runpy
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest

from dsp_plugin.cli import doctor
from dsp_plugin.cli.main import main

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def without(monkeypatch):
    """Take modules away, as if they had never been installed."""

    def take_away(*names: str) -> None:
        for name in names:
            monkeypatch.setitem(sys.modules, name, None)

    return take_away


def by_name(checks: list[dict]) -> dict[str, dict]:
    return {check["name"]: check for check in checks}


def report(capsys) -> tuple[int, dict]:
    status = main(["doctor", "--json"])
    return status, json.loads(capsys.readouterr().out)


def test_here_the_main_job_can_run(capsys):
    pytest.importorskip("fairseq")
    status, said = report(capsys)
    assert status == 0 and said["ok"] is True
    checks = by_name(said["checks"])
    assert checks["torch"]["status"] == checks["fairseq"]["status"] == checks["plugin"]["status"] == "ok"


def test_without_fairseq_it_fails_and_says_how_to_build_it(without, capsys):
    without("fairseq")
    status, said = report(capsys)
    assert status == 1 and said["ok"] is False
    check = by_name(said["checks"])["fairseq"]
    assert check["status"] == "missing"
    assert "--no-build-isolation" in check["mend"] and doctor.FAIRSEQ in check["mend"]
    assert sys.executable in check["mend"]


def test_a_fairseq_without_its_compiled_parts_is_not_enough(without):
    pytest.importorskip("fairseq")
    without("fairseq.data.data_utils_fast")
    check = doctor.check_fairseq()
    assert check.status == "missing" and "data_utils_fast" in check.found
    assert "--force-reinstall" in check.mend


def test_without_transformers_the_main_job_still_runs(without, capsys):
    pytest.importorskip("fairseq")
    without("transformers", "scipy")
    status, said = report(capsys)
    assert status == 0
    check = by_name(said["checks"])["Transformers side"]
    assert check["status"] == "optional" and "scipy" in check["found"]
    assert check["mend"].endswith("transformers scipy")


PROGRAMS = sorted([*ROOT.glob("scripts/glue/run_*.py"), *ROOT.glob("scripts/squad/run_*.py")])


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_without_transformers_its_programs_say_so_in_one_line(path, without, monkeypatch):
    without("transformers")
    monkeypatch.setattr(sys, "path", list(sys.path))  # the program adds to it
    monkeypatch.setattr(sys, "argv", [str(path)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(path))["main"](["--model_name_or_path", "bert", "--output_dir", "out"])
    said = "transformers not installed here: `make venv` does it, `dsp doctor` says more"
    assert ended.value.code == f"{path.name}: error: {said}"


def test_without_the_packages_of_an_export_format(without, capsys):
    pytest.importorskip("fairseq")
    without("onnxscript", "ctranslate2")
    status, said = report(capsys)
    checks = by_name(said["checks"])
    assert status == 0
    assert checks["export to onnx"]["status"] == checks["export to ctranslate2"]["status"] == "optional"
    assert checks["export to onnx"]["mend"].endswith("onnxscript")
    assert checks["export to ctranslate2"]["mend"].endswith("ctranslate2")


def test_without_torch(without):
    without("torch")
    check = doctor.check_torch()
    assert check.status == "missing" and doctor.TORCH in check.mend
    assert doctor.check_gpu().status == "optional"


def test_a_torch_that_cannot_load_checkpoints_as_data(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(__version__="2.3.1+cpu"))
    check = doctor.check_torch()
    assert check.status == "missing" and "too old" in check.found


@pytest.mark.parametrize(
    "version, status",
    [((3, 7), "missing"), ((3, 10), "missing"), ((3, 11), "ok"), ((3, 12), "warning"), ((3, 13), "missing")],
)
def test_the_range_of_python(version, status):
    check = doctor.check_python(version)
    assert check.status == status
    assert bool(check.mend) == (status != "ok")


def test_a_missing_compiler_matters_only_while_fairseq_is_not_built(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert doctor.check_compiler(needed=True).status == "missing"
    check = doctor.check_compiler(needed=False)
    assert check.status == "optional" and "g++" in check.mend


def test_a_compiler_that_cannot_compile_is_none(monkeypatch, tmp_path):
    broken = tmp_path / "c++"
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setattr(
        doctor.shutil, "which", lambda name: str(broken) if name in (str(broken), "c++") else None
    )
    assert doctor.check_compiler(needed=True).status == "missing"


def test_missing_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    check = doctor.check_headers(needed=True)
    assert check.status == "missing" and str(tmp_path / "Python.h") in check.found
    assert check.mend
    (tmp_path / "Python.h").touch()
    assert doctor.check_headers(needed=True).status == "ok"


def test_data(tmp_path):
    assert doctor.check_data({}).status == "optional"
    assert doctor.check_data({"DSP_DATA_DIR": str(tmp_path / "nowhere")}).status == "warning"
    assert doctor.check_data({"DSP_DATA_DIR": str(tmp_path)}).status == "warning"
    (tmp_path / "multi30k").mkdir()
    check = doctor.check_data({"DSP_DATA_DIR": str(tmp_path)})
    assert check.status == "ok" and "multi30k" in check.found and "without iwslt14" in check.found


def test_another_plugin_in_the_current_folder_is_told(monkeypatch, tmp_path):
    pytest.importorskip("fairseq")
    (tmp_path / "dsp_plugin").mkdir()
    monkeypatch.chdir(tmp_path)
    check = doctor.check_plugin()
    assert check.status == "warning" and str(tmp_path / "dsp_plugin") in check.found
    assert f"-e {tmp_path}" in check.mend


def test_the_report_for_people_shows_the_mending_commands_unbroken(without, capsys):
    without("torch", "fairseq")
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().out
    assert doctor.pip(doctor.TORCH) in shown
    assert "cannot run yet" in shown


def test_the_report_does_without_rich(without, capsys):
    without("rich.table", "torch")
    assert main(["doctor"]) == 1
    assert "torch" in capsys.readouterr().out


def test_before_installation_only_what_the_build_needs_is_asked(capsys, monkeypatch):
    assert main(["doctor", "--before-install", "--json"]) == 0
    names = set(by_name(json.loads(capsys.readouterr().out)["checks"]))
    assert names == {"Python", "venv", "Python headers", "C++ compiler"}


def test_the_tested_versions_are_those_of_the_constraints():
    constraints = (ROOT / "constraints.txt").read_text().splitlines()
    assert doctor.TORCH in constraints and doctor.FAIRSEQ in constraints
    setup = (ROOT / "setup.py").read_text()
    assert doctor.FAIRSEQ in setup
    exports = [name for packages in doctor.EXPORTS.values() for name in packages.values()]
    for name in (*doctor.LIBRARIES.values(), *doctor.TRANSFORMERS_SIDE.values(), *exports):
        assert f'"{name}' in setup, f"setup.py does not ask for {name}"
        assert any(line.startswith(f"{name}==") for line in constraints), f"constraints.txt has no {name}"
