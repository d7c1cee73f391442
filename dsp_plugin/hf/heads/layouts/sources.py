"""Reading of the source of a module's `forward`: the attributes it uses, and whether it computes attention.

The source of a forward is its own text and that of the methods and functions it hands `self` to, looked up
along the method resolution order. Only the text is read: nothing is run.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

from torch import nn

INTERFACE = "ALL_ATTENTION_FUNCTIONS"

_SCORES = re.compile(
    r"softmax|scaled_dot_product_attention|_flash_attention_forward|multi_head_attention_forward"
)
_PRODUCT = re.compile(
    r"\bmatmul\b|\bbmm\b|baddbmm|einsum|[\w)\]] @ [\w(]|scaled_dot_product_attention|_flash_attention_forward"
    r"|multi_head_attention_forward"
)
_PAIRS = re.compile(r"\.repeat\(1, [^,()]+, 1, 1\)|\bchunk\([^()]*dim=1\)")  # of [B, H, L, d]
_ROUTES = re.compile(r"Router|Gate\b|Gating|MoE|Moe|Expert|MLP|Mlp")


@dataclass(frozen=True)
class Source:
    """The source of one class's forward.

    Attributes:
        reads: chains of attributes of `self` that it reads: ("num_heads",), ("config", "hidden_size").
        text: the text of all functions together, for a search for words.
        functions: their syntax trees with the name that stands for the module, `forward` first.
    """

    reads: frozenset[tuple[str, ...]]
    text: str
    functions: tuple[tuple[ast.FunctionDef, str], ...]


@cache
def source_of(module_class: type) -> Source | None:
    """Return the source of a class's forward; None where there is no text (a notebook, a compiled file)."""
    found: list[tuple[ast.FunctionDef, str]] = []
    seen: set[str] = set()
    waiting = list(_parsed(getattr(module_class, "forward", None)))
    if not waiting:
        return None
    while waiting:
        function, name = waiting.pop(0)
        text = ast.unparse(function)
        if text in seen:
            continue
        seen.add(text)
        found.append((function, name))
        waiting += _called(module_class, function, name)
        if INTERFACE in text:  # which calls this one with the module
            waiting += _parsed(_eager_function(module_class))
    reads = frozenset(chain for function, name in found for chain in _reads(function, name))
    return Source(reads, "\n".join(ast.unparse(function) for function, _ in found), tuple(found))


def dispatches(module_class: type) -> bool:
    """Return whether this class calls the attention interface; Transformers, too, reads the source for it."""
    return INTERFACE in _text(module_class)


@cache
def works_out_attention(module_class: type) -> bool:
    """Return whether a forward by itself makes weights of products, and sums with them, as attention does.

    Routers to experts have a softmax, too, and mixers of the state-space kind have products, but not both.
    """
    if issubclass(module_class, nn.MultiheadAttention):
        return True
    if module_class.__module__.startswith("torch.") or _ROUTES.search(module_class.__name__):
        return False
    source = source_of(module_class)
    if source is None:  # it may be attention
        return "forward" in vars(module_class)
    return bool(_SCORES.search(source.text)) and bool(_PRODUCT.search(source.text))


def called_after(module_class: type, name: str, output: str) -> bool:
    """Return whether the submodule `name` is called, but only after the last call of `output`."""
    source = source_of(module_class)
    if source is None:
        return False
    forward, self_name = source.functions[0]
    lines = {part: _call_lines(forward, self_name, part) for part in (name, output)}
    if any(_call_lines(function, own, name) for function, own in source.functions[1:]):
        return False
    return bool(lines[name] and lines[output]) and min(lines[name]) > max(lines[output])


def reshapes_only_context(module_class: type, name: str, output: str) -> bool:
    """Return whether the integer `name` is read only to give the output projection's input its shape."""

    def shapes(function: ast.FunctionDef, self_name: str) -> Iterator[ast.AST]:
        inputs = {
            argument.id
            for call in _calls(function)
            if _chain(call.func, self_name) == (output,)
            for argument in call.args
            if isinstance(argument, ast.Name)
        }
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                if any(isinstance(target, ast.Name) and target.id in inputs for target in node.targets):
                    for call in _calls(node.value):
                        if isinstance(call.func, ast.Attribute) and call.func.attr in ("view", "reshape"):
                            yield from call.args

    return _read_only_in(module_class, name, shapes)


def read_only_for_zeros(module_class: type, name: str) -> bool:
    """Return whether the integer `name` is read only as a size of `torch.zeros`."""

    def zeros(function: ast.FunctionDef, self_name: str) -> Iterator[ast.AST]:
        return (call for call in _calls(function) if ast.unparse(call.func) == "torch.zeros")

    return _read_only_in(module_class, name, zeros)


def hands_on_bias(module_class: type) -> bool:
    """Return whether a forward hands the attention interface a bias for all heads, which ours slices (T5)."""
    return dispatches(module_class) and "position_bias=position_bias" in _text(module_class)


def pairs_heads(module_class: type) -> bool:
    """Return whether a forward splits or repeats along the heads, so that a head's place decides its role."""
    return bool(_PAIRS.search(_text(module_class)))


def _text(module_class: type) -> str:
    source = source_of(module_class)
    return "" if source is None else source.text


def _read_only_in(
    module_class: type, name: str, allowed: Callable[[ast.FunctionDef, str], Iterator[ast.AST]]
) -> bool:
    """Return whether the attribute `name` is read only inside the expressions that `allowed` yields."""
    source = source_of(module_class)
    if source is None:
        return False
    for function, self_name in source.functions:
        good = {id(read) for expression in allowed(function, self_name) for read in ast.walk(expression)}
        if any(_chain(node, self_name) == (name,) and id(node) not in good for node in ast.walk(function)):
            return False
    return True


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _call_lines(function: ast.FunctionDef, self_name: str, part: str) -> list[int]:
    return [call.lineno for call in _calls(function) if (_chain(call.func, self_name) or ("",))[0] == part]


def _parsed(function: object) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Yield the syntax tree of a function and the name of its first argument; nothing without a text."""
    try:
        text = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
        tree = ast.parse(text).body[0]
    except (OSError, TypeError, SyntaxError, IndexError):
        return
    if isinstance(tree, ast.FunctionDef):
        arguments = tree.args.posonlyargs + tree.args.args
        yield tree, arguments[0].arg if arguments else ""


def _eager_function(module_class: type) -> object:
    modules = (sys.modules.get(base.__module__) for base in module_class.__mro__)
    found = (getattr(module, "eager_attention_forward", None) for module in modules)
    return next((function for function in found if function is not None), None)


def _called(
    module_class: type, function: ast.FunctionDef, name: str
) -> Iterator[tuple[ast.FunctionDef, str]]:
    """Yield the module's methods, and functions beside its class, that `function` uses with the module."""
    for node in ast.walk(function):
        chain = _chain(node, name)
        if chain is not None and len(chain) == 1:
            yield from _method(module_class, chain[0])
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "super()":
            for base in module_class.__mro__[1:]:
                if not base.__module__.startswith("torch."):
                    yield from _parsed(base.__dict__.get(node.func.attr))
        if isinstance(node.func, ast.Name):
            for position, argument in enumerate(node.args):
                if isinstance(argument, ast.Name) and argument.id == name:
                    beside = getattr(sys.modules.get(module_class.__module__), node.func.id, None)
                    for tree, _ in _parsed(beside):
                        if position < len(tree.args.args):
                            yield tree, tree.args.args[position].arg


def _method(module_class: type, name: str) -> Iterator[tuple[ast.FunctionDef, str]]:
    if hasattr(nn.Module, name):
        return
    found = inspect.getattr_static(module_class, name, None)
    found = found.fget if isinstance(found, property) else getattr(found, "__func__", found)
    if callable(found) and not isinstance(found, type):
        yield from _parsed(found)


def _reads(function: ast.FunctionDef, name: str) -> Iterator[tuple[str, ...]]:
    """Yield the chains of attributes that a function reads of the variable `name`."""
    aliases = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            chain = _chain(node.value, name)
            if chain is not None:
                aliases[node.targets[0].id] = chain
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            chain = _chain(node, name)
            if chain is not None:
                yield chain
            for alias, start in aliases.items():
                rest = _chain(node, alias)
                if rest is not None:
                    yield start + rest
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr" and len(node.args) > 1:
            owner, attribute = node.args[:2]
            chain = () if isinstance(owner, ast.Name) and owner.id == name else _chain(owner, name)
            if chain is not None and isinstance(attribute, ast.Constant):
                yield (*chain, str(attribute.value))


def _chain(node: ast.AST, name: str) -> tuple[str, ...] | None:
    """Return ("config", "hidden_size") for `self.config.hidden_size` with `name` "self"; None for others."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return tuple(reversed(parts)) if parts and isinstance(node, ast.Name) and node.id == name else None
