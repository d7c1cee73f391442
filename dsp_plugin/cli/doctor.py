"""Say what is installed, what is missing and the command that mends it.

The exit status is 0 when the main job can run on this machine (training and translating with pruned heads on
fairseq), 1 when something that it needs is missing. What other work would need is listed as optional.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import logging
import os
import shutil
import sys
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from dsp_plugin.cli.before_install import (
    FAIRSEQ,
    TORCH,
    Check,
    check_before_install,
    check_compiler,
    check_headers,
    check_python,
    pip,
    print_plain,
)

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
    "sklearn": "scikit-learn",
    "scipy": "scipy",
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


def check_torch() -> Check:
    mend = pip(TORCH)
    try:
        torch = importlib.import_module("torch")
    except Exception as error:  # a broken build raises whatever it likes, OSError for a shared library
        return Check("torch", "missing", reason(error), mend)
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        found = f"{torch.__version__} is too old: it cannot read checkpoints as data"
        return Check("torch", "missing", found, mend)
    tested = TORCH.split("==")[1]
    another = "" if torch.__version__.split("+")[0] == tested else f" (tested with {tested})"
    return Check("torch", "ok", f"{torch.__version__}{another}")


def check_packages(name: str, packages: dict[str, str], absent: str) -> Check:
    """Check that every package can be found; nothing is imported."""
    missing = [pip_name for module, pip_name in packages.items() if not is_importable(module)]
    if missing:
        return Check(name, absent, "without " + ", ".join(missing), pip(*missing))
    found = (f"{pip_name} {version_of(pip_name)}" for pip_name in packages.values())
    return Check(name, "ok", ", ".join(found))


def check_fairseq() -> Check:
    """Check fairseq and its compiled parts: it imports without them, and fails in the middle of the work."""
    if not is_importable("fairseq"):
        return Check("fairseq", "missing", "not installed", pip("--no-build-isolation", FAIRSEQ))
    for name in FAIRSEQ_EXTENSIONS:
        try:
            importlib.import_module(name)
        except Exception as error:
            rebuild = pip("--no-build-isolation", "--no-deps", "--no-cache-dir", "--force-reinstall", FAIRSEQ)
            return Check("fairseq", "missing", f"{name} cannot be imported: {reason(error)}", rebuild)
    project = FAIRSEQ.split("==")[0]
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
        mend = pip("--no-build-isolation", "--no-deps", "-e", str(here.parent))
        return Check("plugin", "warning", found, mend)
    return Check("plugin", "ok", found)


def check_gpu() -> Check:
    cores = f"{os.cpu_count()} CPU cores"
    try:
        torch = importlib.import_module("torch")
    except Exception:
        return Check("GPU", "optional", f"unknown without torch; {cores}")
    if torch.cuda.is_available():
        gpus = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
        found = ", ".join(f"{gpu.name} ({gpu.total_memory / 2**30:.0f} GiB)" for gpu in gpus)
        return Check("GPU", "ok", found)
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
        found = f"DSP_DATA_DIR={folder} is not a folder"
        return Check("data", "warning", found, "export DSP_DATA_DIR=FOLDER")
    there = [name for name in DATA_FOLDERS if (path / name).is_dir()]
    absent = [name for name in DATA_FOLDERS if name not in there]
    if not there:
        found = f"DSP_DATA_DIR={folder} has none of {', '.join(DATA_FOLDERS)}"
        return Check("data", "warning", found, "export DSP_DATA_DIR=FOLDER")
    lacking = f"; without {', '.join(absent)}" if absent else ""
    return Check("data", "ok", f"{folder}: {', '.join(there)}{lacking}")


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
            name = Text(f"{check.name}: ", style=colours[check.status])
            console.print(name + Text(check.mend), soft_wrap=True)
