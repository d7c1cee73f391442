"""C++ loops compiled on first use, and kept where nobody else can put another program in their place.

A file in the cache is loaded only if it is this user's, a regular file that neither group nor others may
write, in folders of the same kind up to the root of the cache, and if its bytes have the SHA-256 that its
name ends with. Anything else is compiled anew, into a folder of this process where nothing can be kept.

Why not torch.utils.cpp_extension: it needs ninja and links torch's headers (half a minute where this takes
seconds); it keys its cache by source and flags, not by processor, which -march=native depends on; it loads
what it finds in TORCH_EXTENSIONS_DIR whoever owns it and whatever its bytes; and the lock of a build that was
killed stays, for which the next process waits for ever. Here a library gets its name by one rename: of two
processes each may build, none waits.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

from ..options.terminal import printable

# No -ffast-math: sums keep their order, NaN stays NaN, and theta is the same to the bit by any loop.
FLAGS = "-O3 -march=native -std=c++17 -fopenmp-simd -fno-math-errno -fno-trapping-math -fPIC -shared".split()
SECONDS = 300  # for the compiler


def load(source: Path, without: str) -> ctypes.CDLL | None:
    """Compile and open a C++ file, or open what was compiled before; None, with a warning, if it cannot.

    Compiled with $CXX, g++ or clang++ into $XDG_CACHE_HOME/dsp_plugin (by default ~/.cache), under a name
    that changes with source, compiler and processor. DSP_NO_COMPILER=1 does without.

    Args:
        without: how the program goes on without the library, for the warning.
    """
    if os.environ.get("DSP_NO_COMPILER", "0") not in ("", "0"):
        return None
    known = filter(None, (os.environ.get("CXX"), "g++", "clang++"))
    compiler = next(filter(None, map(shutil.which, known)), None)
    if compiler is None:
        warnings.warn(f"no C++ compiler (g++, clang++ or $CXX): {without}")
        return None
    try:
        key = _key(compiler, source)
        try:
            folder = cache_folder()
            return _opened(find(folder, key) or _build(compiler, source, folder, key))
        except _Unsafe as error:
            warnings.warn(f"compiled loops are not kept, but made anew by each process: {error}")
        # 0700; what is loaded may be unlinked
        with tempfile.TemporaryDirectory(prefix="dsp_plugin-") as private:
            return _opened(_build(compiler, source, Path(private), key))
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip()[:500]
        warnings.warn(f"{without}, because {compiler} failed: {printable(said)}")
        return None


class _Unsafe(Exception):
    """Raised where nothing can be kept in the cache's folder; says why."""


def cache_folder() -> Path:
    """Return the folder for compiled files, and make it where it is missing.

    Raises:
        _Unsafe: there is no home, it cannot be made or written, or others may write in it.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if not root.is_absolute():  # what the specification says of relative ones
        try:
            root = Path.home() / ".cache"
        except (RuntimeError, KeyError):
            raise _Unsafe("no home folder is known (set XDG_CACHE_HOME)") from None
        if not root.is_absolute():
            raise _Unsafe("the home folder is no absolute path (set XDG_CACHE_HOME)")
    folder = root / "dsp_plugin"
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.mkdir(exist_ok=True, mode=0o700)
        for part in (root, folder):
            if not _only_ours(os.stat(part)):
                raise _Unsafe(f"{part} is not this user's alone (its owner, or chmod go-w)")
        if not stat.S_ISDIR(os.lstat(folder).st_mode):
            raise _Unsafe(f"{folder} is a link")
    except OSError as error:
        raise _Unsafe(str(error)) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _Unsafe(f"{folder} cannot be written")
    return folder


def find(folder: Path, key: str) -> Path | None:
    """Find the whole file of this key that is this user's alone, and remove others of the key."""
    for path in sorted(folder.glob(f"passes-{key}-*.so")):
        with contextlib.suppress(OSError):
            status = os.lstat(path)
            ours = stat.S_ISREG(status.st_mode) and _only_ours(status)
            if ours and path.name == _name(key, path.read_bytes()):
                return path
        with contextlib.suppress(OSError):
            path.unlink()
    return None


def _only_ours(status: os.stat_result) -> bool:
    """Return whether it is this user's, and nobody else may write to it."""
    return hasattr(os, "geteuid") and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def _key(compiler: str, source: Path) -> str:
    version = _run([compiler, "--version"], 60).stdout
    # -march=native means another program on another processor
    native = _run([compiler, "-march=native", "-E", "-dM", "-x", "c++", os.devnull], 60, check=False).stdout
    seen = "\n".join([source.read_text("utf-8"), " ".join(FLAGS), version, native, platform.machine()])
    return hashlib.sha256(seen.encode()).hexdigest()[:16]


def _build(compiler: str, source: Path, folder: Path, key: str) -> Path:
    """Compile into a file of `folder` that gets its name when it is whole."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="build-") as build:
        made = Path(build) / "made.so"
        _run([compiler, *FLAGS, str(source), "-o", str(made)], SECONDS)
        made.chmod(0o700)
        path = folder / _name(key, made.read_bytes())
        os.replace(made, path)
    return path


def _opened(path: Path) -> ctypes.CDLL:
    """Open a library; remove what is none, and raise OSError."""
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink(missing_ok=True)
        raise


def _name(key: str, content: bytes) -> str:
    return f"passes-{key}-{hashlib.sha256(content).hexdigest()}.so"


def _run(command: Sequence[str], seconds: int, check: bool = True) -> subprocess.CompletedProcess:
    text = {"encoding": "utf-8", "errors": "replace"}
    return subprocess.run(command, capture_output=True, check=check, timeout=seconds, **text)
