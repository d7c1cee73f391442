"""What an object bears it bears from its constructor on: no method gives birth to an attribute."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from imports import PACKAGE

CONSTRUCTORS = ("__init__", "__post_init__", "__new__")
# Attributes that the constructor of a host's class bears, which cannot be read here.
FROM_HOSTS = {
    "MultiheadAttention": {"num_heads", "q_proj", "k_proj", "v_proj", "out_proj"},  # fairseq
    "Linear": {"in_features", "weight"},  # torch
}


def class_definitions() -> Iterator[tuple[str, ast.ClassDef]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                yield f"{path.relative_to(PACKAGE)}:{node.name}", node


def set_on_self(function: ast.FunctionDef) -> set[str]:
    """Names of the attributes of `self` that a method writes to."""
    return {
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    return [item for item in node.body if isinstance(item, ast.FunctionDef)]


def borne(node: ast.ClassDef) -> set[str]:
    """What the class body, a property's setter or a constructor declares."""
    names = {method.name for method in methods(node) if method.decorator_list}
    for item in node.body:
        targets = item.targets if isinstance(item, ast.Assign) else [getattr(item, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names.union(*(set_on_self(method) for method in methods(node) if method.name in CONSTRUCTORS))


def late(node: ast.ClassDef, inherited: set[str]) -> set[str]:
    """What other methods write to and nobody has declared."""
    written = set().union(*(set_on_self(method) for method in methods(node)))
    return written - borne(node) - inherited


def inherited_by(node: ast.ClassDef, by_name: dict[str, list[ast.ClassDef]]) -> set[str]:
    names: set[str] = set()
    for base in node.bases:
        name = ast.unparse(base).split("[")[0].split(".")[-1]
        names |= FROM_HOSTS.get(name, set())
        for definition in by_name.get(name, ()):
            if definition is not node:
                names |= borne(definition) | inherited_by(definition, by_name)
    return names


def test_every_attribute_is_borne_by_a_constructor():
    found = list(class_definitions())
    by_name: dict[str, list[ast.ClassDef]] = {}
    for _, node in found:
        by_name.setdefault(node.name, []).append(node)
    born_late = {place: late(node, inherited_by(node, by_name)) for place, node in found}
    assert len(found) > 100
    assert {place: sorted(names) for place, names in born_late.items() if names} == {}


def test_an_attribute_that_is_born_late_is_found():
    source = "class A:\n def __init__(self):\n  self.a = 0\n def f(self):\n  self.a, self.b = 1, 2\n"
    assert late(ast.parse(source).body[0], set()) == {"b"}
