"""The `dsp` command itself: help, version, lazy subcommands, errors as one line."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

import dsp_plugin
from dsp_plugin.cli import main as cli


def fake_command(run):
    """A subcommand module that takes one word and does `run` with its arguments."""

    def add_arguments(parser):
        parser.add_argument("word")

    return SimpleNamespace(__doc__="Only a test.", add_arguments=add_arguments, run=run)


@pytest.fixture
def use_command(monkeypatch):
    """Put a fake module in the place of `dsp doctor`."""

    def use(run):
        monkeypatch.setattr(cli.importlib, "import_module", lambda name: fake_command(run))

    return use


def test_help_lists_every_command_that_is_there(capsys):
    assert cli.main([]) == 0
    shown = capsys.readouterr().out
    assert "usage: dsp" in shown and "--user-dir dsp_plugin" in shown
    assert "doctor" in shown and "what is missing" in shown


def test_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.strip() == f"dsp_plugin {dsp_plugin.__version__}"


def test_help_imports_neither_torch_nor_a_host():
    program = (
        "import sys\n"
        "from dsp_plugin.cli.main import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    try:\n"
        "        main([name, '--help'])\n"
        "    except SystemExit:\n"
        "        pass\n"
        "heavy = {'torch', 'fairseq', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_command_names_the_valid_ones(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["prun"])
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert "prun" in error and "doctor" in error


def test_a_command_gets_its_arguments_and_its_status_is_returned(use_command):
    use_command(lambda args: {"three": 3}[args.word])
    assert cli.main(["doctor", "three"]) == 3


def test_help_of_a_command_opens_with_its_docstring(use_command, capsys):
    use_command(lambda args: 0)
    with pytest.raises(SystemExit):
        cli.main(["doctor", "--help"])
    assert "Only a test." in capsys.readouterr().out


@pytest.mark.parametrize(
    "error", [FileNotFoundError("no such file: model.pt"), ValueError("K = 9 is outside 0..8")]
)
def test_bad_input_is_one_line_on_stderr(use_command, capsys, error):
    def fail(args):
        raise error

    use_command(fail)
    assert cli.main(["doctor", "x"]) == 1
    shown = capsys.readouterr().err
    assert shown == f"dsp doctor: error: {error}\n"
    with pytest.raises(type(error)):
        cli.main(["--traceback", "doctor", "x"])


def test_a_missing_host_points_to_the_doctor(use_command, capsys):
    def fail(args):
        raise ModuleNotFoundError("No module named 'fairseq'")

    use_command(fail)
    assert cli.main(["doctor", "x"]) == 1
    assert "`dsp doctor`" in capsys.readouterr().err


def test_prune_of_a_folder_without_a_model_names_what_belongs_there(tmp_path, capsys):
    assert cli.main(["prune", str(tmp_path), "--out", str(tmp_path / "out.pt")]) == 1
    assert "is a folder: name a checkpoint (.pt) in it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, said",
    [
        (KeyError("model"), "an entry is missing: 'model'"),
        (ZeroDivisionError("by zero"), "ZeroDivisionError: by zero"),
        (RecursionError(), "nested too deeply"),
        (MemoryError(), "out of memory"),
        (TypeError("a\nb"), "TypeError: a b"),
    ],
)
def test_what_a_library_raises_is_one_line_with_the_file(use_command, capsys, tmp_path, error, said):
    def fail(args):
        raise error

    use_command(fail)
    (tmp_path / "x").touch()
    assert cli.main(["doctor", str(tmp_path / "x")]) == 1
    assert (
        capsys.readouterr().err == f"dsp doctor: error: {tmp_path / 'x'}: {said} (--traceback shows where)\n"
    )
    with pytest.raises(type(error)):
        cli.main(["doctor", str(tmp_path / "x"), "--traceback"])
