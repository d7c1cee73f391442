"""What a record says about the run's surroundings: command, versions, device, data.

Nothing here tells where on a machine something lay: a record can be published as it is. A command that is
noted can be run again from the root of the repository: paths inside it are relative to it, and programs of it
are called by `python`. A path outside it, and outside the working folder, is its base name: data and models
have other places on other machines.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

# name in the record -> distributions that provide it, the first one found counts
_DISTRIBUTIONS = {
    "dsp_plugin": ("dsp_plugin",),
    "torch": ("torch",),
    "fairseq": ("fairseq-fixed", "fairseq"),
    "transformers": ("transformers",),
    "sacrebleu": ("sacrebleu",),
}

# An absolute path inside a longer argument, such as a JSON value: after a quote, '=', ':' ... or file://,
# but not the // of tcp://host and not the / of </s>.
_INNER_PATH = re.compile(r"""(?:(?<=[\s'"=:,(\[{])(?!(?<=:)//)|(?<=file://))/[^\s'",:;)\]}]+""")


# Where the programs lie; of an installed package there is no such folder.
_REPOSITORY = Path(__file__).resolve().parents[2]
_IS_REPOSITORY = (_REPOSITORY / "scripts").is_dir() and (_REPOSITORY / "setup.py").is_file()
_ROOT = str(_REPOSITORY) if _IS_REPOSITORY else None


def portable_path(path: str | os.PathLike) -> str:
    """Return `path` without the machine: relative to the repository or working folder, else its base name.

    A relative path stays as it is. For showing only: two places can have one name here.
    """
    text = os.fspath(path)
    if not os.path.isabs(text):
        return text
    for folder in filter(None, (_ROOT, os.getcwd())):
        relative = _inside(text, folder)
        if relative is not None:
            return relative
    return os.path.basename(os.path.normpath(text)) or os.sep


def command_line(argv: Sequence[str] | None = None) -> str:
    """Return the command (`sys.argv` if None) as one could type it in the root of the repository.

    A program of the repository is called by `python`, an installed one by its name. Each absolute path is
    that of `portable_path`; so is a relative one that is there and leads into the repository, where another
    folder is the working one. What is no UTF-8 is written out.
    """
    program, *words = (sys.argv if argv is None else argv) or [""]
    if _ROOT is not None and _inside(os.getcwd(), _ROOT) != os.curdir:
        words = [_from_root(word) for word in words]
        program = _from_root(program)
    if program.endswith(".py"):
        called = ["python", portable_path(program)]
    else:
        called = [os.path.basename(program) if os.path.isabs(program) else program]
    text = shlex.join([*called, *(_portable_argument(word) for word in words)])
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _inside(path: str, folder: str) -> str | None:
    """Return the path relative to the folder it lies in, None outside; both may be reached by a link."""
    for clean in (os.path.normpath, os.path.realpath):
        relative = os.path.relpath(clean(path), clean(folder))
        if relative.split(os.sep, 1)[0] != os.pardir:
            return relative
    return None


def _from_root(word: str) -> str:
    """Make a word that is a relative path of something in the repository absolute; others stay."""
    option, equals, value = word.partition("=") if word.startswith("-") else ("", "", word)
    is_path = value and "\0" not in value and not os.path.isabs(value) and os.path.exists(value)
    if not is_path or _inside(os.path.abspath(value), _ROOT) is None:
        return word
    return f"{option}{equals}{os.path.abspath(value)}"


def _portable_argument(argument: str) -> str:
    option, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
    if os.path.isabs(value):  # the whole value, so that blanks do not end it; fairseq joins folders by ':'
        return option + equals + ":".join(portable_path(part) for part in value.split(":"))
    return _INNER_PATH.sub(lambda match: portable_path(match[0]), argument)


def versions() -> dict[str, str]:
    """Return the versions of Python and of those of our packages that are installed; imports no host."""
    found = {"python": platform.python_version()}
    for name, distributions in _DISTRIBUTIONS.items():
        for distribution in distributions:
            try:
                found[name] = importlib.metadata.version(distribution)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    if "dsp_plugin" not in found:  # used from a clone, by --user-dir alone
        import dsp_plugin

        found["dsp_plugin"] = getattr(dsp_plugin, "__version__", "unknown")
    return found


def device_name(device: object = None) -> str:
    """Name the accelerator, or the processor with the number of threads that torch uses.

    Args:
        device: `torch.device` or its text; None means the first GPU if there is one, else the CPU.
    """
    import torch  # here, because reading records needs no torch

    chosen = torch.device(device) if device is not None else None
    if chosen is None:
        chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if chosen.type == "cuda":
        return torch.cuda.get_device_name(chosen)
    if chosen.type != "cpu":
        return str(chosen.type)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match[1].strip() if match else platform.processor() or platform.machine() or "unknown processor"


def fingerprint(paths: Iterable[str | os.PathLike]) -> str:
    """Return a short name for data: 16 hex digits of SHA-256 over file names and contents.

    The order of `paths` and the folder they lie in play no part. A folder stands for all its files with their
    names inside it, without hidden files and without `*.log` (fairseq's preprocess.log tells paths and
    times).

    Raises:
        FileNotFoundError: a path that does not exist.
        ValueError: no file at all.
    """
    if isinstance(paths, (str, os.PathLike)):  # a lone text would be taken letter by letter
        paths = [paths]
    files: list[tuple[str, Path]] = []
    for path in map(Path, paths):
        if path.is_dir():
            for inner in (p for p in path.rglob("*") if p.is_file() and p.suffix != ".log"):
                name = inner.relative_to(path)
                if not any(part.startswith(".") for part in name.parts):
                    files.append((name.as_posix(), inner))
        elif path.exists():
            files.append((path.name, path))
        else:
            raise FileNotFoundError(f"cannot fingerprint the data: {path} does not exist")
    if not files:
        raise ValueError("cannot fingerprint the data: no file was given")
    lines = []
    for name, path in files:
        digest = hashlib.sha256()
        with open(path, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
        lines.append(f"{digest.hexdigest()}  {name}\n")
    return hashlib.sha256("".join(sorted(lines)).encode("utf-8", "surrogateescape")).hexdigest()[:16]
