"""No module of the package imports itself by way of others, not even inside a function or for its types."""

from __future__ import annotations

from pathlib import Path

from imports import PACKAGE, imported_names


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path, modules: dict[str, Path]) -> set[str]:
    """The modules of the package that a file names in its imports, each without the packages around it."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path.parent / "__init__.py")
    found = set()
    for name in imported_names(path.read_text("utf-8"), package):
        while name and name not in modules:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", "dsp_plugin", name_of(path)}  # what asks the door asks for the version


def a_circle(arrows: dict[str, set[str]]) -> list[str] | None:
    """The first circle found by following the arrows from each name, None where there is none."""
    done: set[str] = set()

    def follow(name: str, trail: list[str]) -> list[str] | None:
        if name in trail:
            return [*trail[trail.index(name) :], name]
        if name in done:
            return None
        found = next(filter(None, (follow(other, [*trail, name]) for other in sorted(arrows[name]))), None)
        done.add(name)
        return found

    return next(filter(None, (follow(name, []) for name in sorted(arrows))), None)


def test_the_imports_have_no_circle():
    modules = {name_of(path): path for path in PACKAGE.rglob("*.py")}
    assert len(modules) > 100
    assert a_circle({name: imports(path, modules) for name, path in modules.items()}) is None


def test_a_circle_is_found():
    assert a_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert a_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) is None
