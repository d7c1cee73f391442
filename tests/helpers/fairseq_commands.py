"""Run fairseq's own command lines from tests, the way a shell would, without paying for their imports each
time.

A fork server (multiprocessing's) imports fairseq once; every command is then a new process forked from it,
which runs the command's module as `__main__` with its own arguments, folder, environment and output files.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import runpy
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "dsp_plugin"
TIMEOUT = 240

_server = multiprocessing.get_context("forkserver")
# torch's optimizers load torch._dynamo at their first use, which takes seconds
_PRELOADED = ["fairseq_cli.train", "fairseq_cli.generate", "torch._dynamo"]
_server.set_forkserver_preload(_PRELOADED)


@dataclass
class Finished:
    """What a command left behind: its exit status and everything it printed."""

    returncode: int
    output: str

    def succeeded(self) -> Finished:
        assert self.returncode == 0, self.output[-6000:]
        return self

    def failed(self) -> str:
        """Its last lines, those a user reads."""
        assert self.returncode != 0, "the command was expected to fail:\n" + self.output[-3000:]
        return self.output[-3000:]


class Command:
    """A started command line, e.g. `Command("fairseq_cli.train", [...], folder)`.

    Args:
        module: what `python -m` would run, or the path of a script.
        arguments: its command line.
        folder: where it runs and leaves its output.
        largest_file: bytes; writing a longer file fails with an OSError, as on a full disk.
    """

    def __init__(
        self,
        module: str,
        arguments: list[object],
        folder: Path,
        largest_file: int | None = None,
        **environment: str,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{Path(module).name}.{len(list(folder.glob('*.out')))}.out"
        self.process = _server.Process(
            target=_run,
            args=(module, [str(a) for a in arguments], str(folder), str(self.log), largest_file, environment),
        )
        self.process.start()

    def wait(self) -> Finished:
        self.process.join(TIMEOUT)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"still running after {TIMEOUT} s:\n" + self.log.read_text("utf-8")[-3000:])
        return Finished(self.process.exitcode, self.log.read_text("utf-8", errors="replace"))


def preload(*modules: str) -> None:
    """Let the server import these, too; before the first command."""
    _server.set_forkserver_preload([*_PRELOADED, *modules])


def run(module: str, arguments: list[object], folder: Path, **options) -> Finished:
    """Run one command line to its end."""
    return Command(module, arguments, folder, **options).wait()


def _run(
    module: str,
    arguments: list[str],
    folder: str,
    log: str,
    largest_file: int | None,
    environment: dict[str, str],
) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.update({"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **environment})
    os.chdir(folder)
    if largest_file is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    sys.argv = [module, *arguments]
    if module.endswith(".py"):
        runpy.run_path(module, run_name="__main__")
        return
    # fairseq's module has set up logging at its import; let it do so again, as the main program
    sys.modules.pop(module, None)
    runpy.run_module(module, run_name="__main__", alter_sys=True)
