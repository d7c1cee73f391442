"""What must be there before anything can be installed: the interpreter, its headers, a compiler.

The Makefile runs this very file by a bare interpreter (`python3.11 dsp_plugin/cli/before_install.py`), so
only the standard library is imported here.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

# The tested versions; constraints.txt has them all (a unit test holds the two together).
TORCH = "torch==2.13.0"
FAIRSEQ = "fairseq-fixed==0.12.3.1"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Attributes:
        name: what was looked for.
        status: `ok`; `missing`: the main job needs it; `optional`: absent, and only other work needs it;
            `warning`: there, but not as it should be.
        found: what was found, or what its absence means.
        mend: the command that mends it; empty where there is nothing to mend.
    """

    name: str
    status: str
    found: str
    mend: str = ""


def check_before_install() -> list[Check]:
    """Check what building fairseq needs: the interpreter, its venv module and headers, a C++ compiler."""
    return [check_python(), check_venv_module(), check_headers(needed=True), check_compiler(needed=True)]


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    found = f"{version[0]}.{version[1]} ({sys.executable})"
    if version == (3, 11):
        return Check("Python", "ok", found)
    another = "make venv PYTHON=/path/to/python3.11"
    if version == (3, 12):
        return Check("Python", "warning", f"{found}: unit tests alone were tried on it, all on 3.11", another)
    known = "fairseq was tried on 3.11 and 3.12, on no other"
    return Check("Python", "missing", f"{found}: {known}", another)


def check_venv_module() -> Check:
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        return Check("venv", "ok", "there")
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    found = f"{sys.executable} cannot make a virtual environment with pip"
    return Check("venv", "missing", found, system_install(package))


def check_headers(needed: bool) -> Check:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if header.exists():
        return Check("Python headers", "ok", str(header))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    mac = f"brew install python@{version}"
    mend = system_install(f"python{version}-dev", fedora=f"python{version}-devel", mac=mac)
    found = f"no {header}: fairseq cannot be built, nor torch.compile be used"
    return Check("Python headers", "missing" if needed else "optional", found, mend)


def check_compiler(needed: bool) -> Check:
    """Compile one line: a compiler without its standard library is found on the path all the same."""
    for compiler in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        path = shutil.which(compiler) if compiler else None
        if path is None:
            continue
        source = "#include <vector>\nint main() { return std::vector<int>().size(); }\n"
        command = [path, "-x", "c++", "-fsyntax-only", "-"]
        tried = subprocess.run(command, input=source, text=True, capture_output=True)
        if tried.returncode == 0:
            return Check("C++ compiler", "ok", path)
    return Check(
        "C++ compiler",
        "missing" if needed else "optional",
        "none that works (CXX, c++, g++, clang++): fairseq cannot be built, torch.compile falls back to "
        "eager",
        system_install("g++", fedora="gcc-c++", mac="xcode-select --install"),
    )


def pip(*arguments: str) -> str:
    """Return the pip command for this interpreter, with the tested versions where the repository is there."""
    constraints = Path(__file__).resolve().parents[2] / "constraints.txt"
    tested = ["-c", str(constraints)] if constraints.exists() else []
    return " ".join([sys.executable, "-m", "pip", "install", *tested, *arguments])


def system_install(debian: str, fedora: str | None = None, mac: str | None = None) -> str:
    """Return this system's command to install a package (`fedora`, `mac` where they differ from `debian`)."""
    sudo = "" if os.geteuid() == 0 else "sudo "
    if shutil.which("apt-get"):
        return f"{sudo}apt-get update && {sudo}apt-get install -y {debian}"
    if shutil.which("dnf"):
        return f"{sudo}dnf install -y {fedora or debian}"
    if sys.platform == "darwin" and mac:
        return mac
    return f"install {debian} (as Debian calls it) with this system's package manager"


def print_plain(checks: list[Check]) -> None:
    for check in checks:
        print(f"{check.status:<9}{check.name}: {check.found}")
        if check.mend:
            print(f"         mend it: {check.mend}")


if __name__ == "__main__":
    made = check_before_install()
    print_plain([check for check in made if check.status in ("missing", "warning")])
    sys.exit(any(check.status == "missing" for check in made))
