"""What a module imports, read from its source: nothing is run."""

from __future__ import annotations

import ast
from pathlib import Path

# that import the module, or look for it, that is their first argument
CALLS = ("import_module", "__import__", "find_spec", "importorskip")
PACKAGE = Path(__file__).resolve().parents[2] / "dsp_plugin"


def imported_names(source: str, package: str) -> set[str]:
    """The full dotted names that `source`, a module inside `package`, imports, however deep in it.

    `from a.b import c` counts as `a.b.c`; a call of `CALLS` counts where the name is written out; relative
    names are resolved against `package`.
    """
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            names.update(f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in CALLS and isinstance(node.args[0].value, str):
                names.add(node.args[0].value)
    return names
