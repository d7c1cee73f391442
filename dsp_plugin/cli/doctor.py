"""Say what is installed, what is missing and the command that mends it.

The exit status is 0 when the main job can run on this machine (training and translating with pruned heads on
fairseq), 1 when something that it needs is missing. What other work would need is listed as optional.
"""

# Only the standard library is imported up here: the Makefile runs this very file by a bare interpreter
# (`python3.11 dsp_plugin/cli/doctor.py --before-install`) when nothing is installed yet.
from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

# The tested versions; constraints.txt has them all (a unit test holds the two together).
TORCH = "torch==2.13.0"
FAIRSEQ = "fairseq-fixed==0.12.3.1"
FAIRSEQ_BEFORE_311 = "fairseq==0.12.2"
OLDEST_TORCH = (2, 4)  # torch.serialization.add_safe_globals

# import name -> what pip calls it
LIBRARIES = {
    "numpy": "numpy",
    "safetensors": "safetensors",
    "filelock": "filelock",
    "tqdm": "tqdm",
    "matplotlib": "matplotlib",
    "rich": "rich",
    "sacrebleu": "sacrebleu",
    "sacremoses": "sacremoses",
    "subword_nmt": "subword-nmt",
}
TRANSFORMERS_SIDE = {
    "transformers": "transformers",
    "accelerate": "accelerate",
    "peft": "peft",
    "sklearn": "scikit-learn",
    "scipy": "scipy",
    "torchmetrics": "torchmetrics",
}
# What `dsp export` needs, by the format that needs it.
EXPORTS = {
    "onnx": {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript"},
    "ctranslate2": {"ctranslate2": "ctranslate2"},
}
# fairseq's compiled parts that preparing, training and scoring a translation model go through.
FAIRSEQ_EXTENSIONS = (
    "fairseq.data.data_utils_fast",
    "fairseq.data.token_block_utils_fast",
    "fairseq.libbleu",
)
DATA_FOLDERS = ("iwslt14", "multi30k", "glue", "squad")


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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument(
        "--before-install",
        action="store_true",
        help="check only what must be there before anything can be installed",
    )


def run(args: argparse.Namespace) -> int:
    """Make the checks, print them, and return 0 when nothing that the main job needs is missing, else 1."""
    # its import tells of packages that nothing here uses
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    checks = check_before_install() if args.before_install else check_all()
    ok = all(check.status != "missing" for check in checks)
    if args.json:
        print(json.dumps({"ok": ok, "checks": [asdict(check) for check in checks]}, indent=2))
    elif args.before_install:
        print_plain([check for check in checks if check.status in ("missing", "warning")])
    else:
        print_table(checks)
        print(
            "The main job can run."
            if ok
            else "The main job cannot run yet: mend what is missing, then ask again."
        )
    return 0 if ok else 1


def check_before_install() -> list[Check]:
    """Check what building fairseq needs: the interpreter, its venv module and headers, a C++ compiler."""
    return [check_python(), check_venv_module(), check_headers(needed=True), check_compiler(needed=True)]


def check_all() -> list[Check]:
    fairseq = check_fairseq()
    # Once fairseq is built, the compiler and the headers only serve torch.compile.
    building = fairseq.status != "ok"
    return [
        check_python(),
        check_torch(),
        check_packages("libraries", LIBRARIES, "missing"),
        fairseq,
        check_plugin(),
        check_packages("Transformers side", TRANSFORMERS_SIDE, "optional"),
        *(check_packages(f"export to {name}", packages, "optional") for name, packages in EXPORTS.items()),
        check_compiler(needed=building),
        check_headers(needed=building),
        check_gpu(),
        check_data(os.environ),
    ]


def check_python(version: tuple[int, int] = sys.version_info[:2]) -> Check:
    found = f"{version[0]}.{version[1]} ({sys.executable})"
    if version == (3, 11):
        return Check("Python", "ok", found)
    another = "make venv PYTHON=/path/to/python3.11"
    if (3, 8) <= version < (3, 11):
        return Check("Python", "warning", f"{found}: untested, and only with {FAIRSEQ_BEFORE_311}", another)
    if version == (3, 12):
        return Check("Python", "warning", f"{found}: untested; 3.11 is what is tested", another)
    return Check(
        "Python", "missing", f"{found}: fairseq runs on 3.11 (tested) and 3.12, no other is known to", another
    )


def check_venv_module() -> Check:
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        return Check("venv", "ok", "there")
    package = f"python{sys.version_info[0]}.{sys.version_info[1]}-venv"
    return Check(
        "venv",
        "missing",
        f"{sys.executable} cannot make a virtual environment with pip",
        system_install(package),
    )


def check_headers(needed: bool) -> Check:
    header = Path(sysconfig.get_path("include")) / "Python.h"
    if header.exists():
        return Check("Python headers", "ok", str(header))
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    return Check(
        "Python headers",
        "missing" if needed else "optional",
        f"no {header}: fairseq cannot be built, nor torch.compile be used",
        system_install(
            f"python{version}-dev", fedora=f"python{version}-devel", mac=f"brew install python@{version}"
        ),
    )


def check_compiler(needed: bool) -> Check:
    """Compile one line: a compiler without its standard library is found on the path all the same."""
    for compiler in (os.environ.get("CXX"), "c++", "g++", "clang++"):
        path = shutil.which(compiler) if compiler else None
        if path is None:
            continue
        source = "#include <vector>\nint main() { return std::vector<int>().size(); }\n"
        tried = subprocess.run(
            [path, "-x", "c++", "-fsyntax-only", "-"], input=source, text=True, capture_output=True
        )
        if tried.returncode == 0:
            return Check("C++ compiler", "ok", path)
    return Check(
        "C++ compiler",
        "missing" if needed else "optional",
        "none that works (CXX, c++, g++, clang++): fairseq cannot be built, torch.compile falls back to "
        "eager",
        system_install("g++", fedora="gcc-c++", mac="xcode-select --install"),
    )


def check_torch() -> Check:
    mend = pip(TORCH)
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken build raises whatever it likes, OSError for a shared library
        return Check("torch", "missing", reason(error), mend)
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        return Check(
            "torch", "missing", f"{torch.__version__} is too old: it cannot read checkpoints as data", mend
        )
    tested = torch.__version__.split("+")[0] == TORCH.split("==")[1]
    return Check(
        "torch",
        "ok",
        torch.__version__ if tested else f"{torch.__version__} (tested with {TORCH.split('==')[1]})",
    )


def check_packages(name: str, packages: dict[str, str], absent: str) -> Check:
    """Check that every package can be found; nothing is imported."""
    missing = [pip_name for module, pip_name in packages.items() if not is_importable(module)]
    if missing:
        return Check(name, absent, "without " + ", ".join(missing), pip(*missing))
    return Check(
        name, "ok", ", ".join(f"{pip_name} {version_of(pip_name)}" for pip_name in packages.values())
    )


def check_fairseq() -> Check:
    """Check fairseq itself and its compiled parts: it imports without them and then fails in the middle of
    the work.
    """
    wanted = FAIRSEQ if sys.version_info >= (3, 11) else FAIRSEQ_BEFORE_311
    if not is_importable("fairseq"):
        return Check("fairseq", "missing", "not installed", pip("--no-build-isolation", wanted))
    for name in FAIRSEQ_EXTENSIONS:
        try:
            importlib.import_module(name)
        except Exception as error:
            rebuild = pip("--no-build-isolation", "--no-deps", "--no-cache-dir", "--force-reinstall", wanted)
            return Check("fairseq", "missing", f"{name} cannot be imported: {reason(error)}", rebuild)
    project = wanted.split("==")[0]
    return Check("fairseq", "ok", f"{project} {version_of(project)} with its compiled parts")


def check_plugin() -> Check:
    """Check that the plugin registers, and is the one that `--user-dir dsp_plugin` would take from here."""
    try:
        plugin = importlib.import_module("dsp_plugin")
        plugin.register()
    except Exception as error:
        shown_whole = f"{sys.executable} -c 'import dsp_plugin; dsp_plugin.register()'"
        return Check("plugin", "missing", f"it does not register with fairseq: {reason(error)}", shown_whole)
    folder = Path(plugin.__file__).resolve().parent
    found = f"dsp_plugin {plugin.__version__}, --user-dir {folder}"
    here = Path("dsp_plugin").resolve()
    if here.is_dir() and here != folder:
        found = f"`--user-dir dsp_plugin` means {here} here, but {folder} is what is installed"
        return Check(
            "plugin", "warning", found, pip("--no-build-isolation", "--no-deps", "-e", str(here.parent))
        )
    return Check("plugin", "ok", found)


def check_gpu() -> Check:
    cores = f"{os.cpu_count()} CPU cores"
    try:
        torch = importlib.import_module("torch")
    except Exception:
        return Check("GPU", "optional", f"unknown without torch; {cores}")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        return Check(
            "GPU", "ok", ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in names)
        )
    if shutil.which("nvidia-smi") and not torch.version.cuda:
        found = f"the machine has one, but torch {torch.__version__} is a CPU build"
        return Check("GPU", "warning", found, pip("--force-reinstall", TORCH))
    return Check("GPU", "optional", f"none; {cores}")


def check_data(environment: dict[str, str]) -> Check:
    folder = environment.get("DSP_DATA_DIR")
    if not folder:
        fetch = "bash data-prep/prepare-multi30k.sh, or export DSP_DATA_DIR=FOLDER"
        return Check("data", "optional", "DSP_DATA_DIR is not set; the demo needs none", fetch)
    path = Path(folder)
    if not path.is_dir():
        return Check(
            "data", "warning", f"DSP_DATA_DIR={folder} is not a folder", "export DSP_DATA_DIR=FOLDER"
        )
    there = [name for name in DATA_FOLDERS if (path / name).is_dir()]
    absent = [name for name in DATA_FOLDERS if name not in there]
    if not there:
        found = f"DSP_DATA_DIR={folder} has none of {', '.join(DATA_FOLDERS)}"
        return Check("data", "warning", found, "export DSP_DATA_DIR=FOLDER")
    return Check(
        "data", "ok", f"{folder}: {', '.join(there)}" + (f"; without {', '.join(absent)}" if absent else "")
    )


def pip(*arguments: str) -> str:
    """Return the pip command for this very interpreter, with the tested versions where the repository is at
    hand.
    """
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


def is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # ValueError: sys.modules holds None or a stub in its place
        return False


def require_transformers() -> None:
    """Stop a program that needs Transformers where it is missing, before it is imported.

    Raises:
        SystemExit: with one line, where it is missing.
    """
    missing = [name for name in ("transformers", "accelerate") if not is_importable(name)]
    if missing:
        program = Path(sys.argv[0]).name
        sys.exit(
            f"{program}: error: {', '.join(missing)} not installed here: `make venv` does it, `dsp "
            "doctor` says more"
        )


def version_of(project: str) -> str:
    try:
        return metadata.version(project)
    except metadata.PackageNotFoundError:
        return "(version unknown)"


def reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def print_plain(checks: list[Check]) -> None:
    for check in checks:
        print(f"{check.status:<9}{check.name}: {check.found}")
        if check.mend:
            print(f"         mend it: {check.mend}")


def print_table(checks: list[Check]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:  # it may be the very thing that is missing
        return print_plain(checks)
    colours = {"ok": "green", "missing": "bold red", "warning": "yellow", "optional": "dim"}
    console = Console()
    table = Table(box=None, pad_edge=False)
    for title in ("status", "what", "found"):
        table.add_column(title, no_wrap=title != "found", overflow="fold")
    for check in checks:
        table.add_row(Text(check.status, style=colours[check.status]), check.name, Text(check.found))
    console.print(table)
    # Below the table and never wrapped, so that a command can be copied.
    for check in checks:
        if check.mend and check.status != "ok":
            console.print(
                Text(f"{check.name}: ", style=colours[check.status]) + Text(check.mend), soft_wrap=True
            )


if __name__ == "__main__":
    bare = argparse.ArgumentParser(prog="doctor", description=__doc__)
    add_arguments(bare)
    sys.exit(run(bare.parse_args()))
