"""Values of a checkpoint's options, held to the type that a fairseq dataclass declares, never evaluated."""

import ast
import enum
import json
import math
import re
import typing
from typing import Any

_LONGEST_TEXT = 1_000_000
_LONGEST_LIST = 10_000
_DEEPEST = 8
_INTEGER = re.compile(r"[+-]?\d{1,18}\Z")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?\Z")
_BOOLEANS = {"True": True, "true": True, "False": False, "false": False}

# of a model's options: the least and the largest value. Sizes are also held to the file's (options.py)
_RANGES = {
    **{
        name: (0, 1)
        for name in (
            "dropout",
            "attention_dropout",
            "activation_dropout",
            "relu_dropout",
            "adaptive_softmax_dropout",
            "encoder_layerdrop",
            "decoder_layerdrop",
            "quant_noise_pq",
            "quant_noise_scalar",
        )
    },
    **{
        f"{side}_{name}": (1, 1 << 24)
        for side in ("encoder", "decoder")
        for name in ("embed_dim", "ffn_embed_dim", "attention_heads", "input_dim", "output_dim")
    },
    **{name: (0, 1 << 24) for name in ("encoder_layers", "decoder_layers", "base_layers", "base_sublayers")},
    **{
        name: (1, 1 << 31)
        for name in ("max_source_positions", "max_target_positions", "quant_noise_pq_block_size")
    },
    "label_smoothing": (0, 1),
    "neurons": (1, 1 << 24),
}
# how deep
_JSON = {"kept_heads": 2, "derived_schedule": 1, "eval_bleu_args": 2, "eval_bleu_detok_args": 2}
_LARGEST_IN_JSON = {"derived_schedule": 10**12}  # numbers of updates
_LARGEST_ELSE = 100_000  # a head's number, a beam
# `eval`ed by fairseq's optimizers
_TUPLES_OF_NUMBERS = ("adam_betas", "adamax_betas", "lamb_betas", "adafactor_eps")


def as_declared(name: str, declared: Any, value: Any) -> Any:
    """Return `value` in its declared type, reading texts that stand for a number, truth value or list.

    Args:
        name: of the option, for messages; some have ranges.
        declared: a type of a dataclass: bool, int, float, str, Enum, Optional, List of these, or Any.

    Raises:
        ValueError: it is of another type or out of range; names the option.
    """
    try:
        found = _convert(declared, value)
        if isinstance(found, str) and name in _TUPLES_OF_NUMBERS:
            _convert(list[float], found)
    except (ValueError, OverflowError):
        wanted = getattr(declared, "__name__", str(declared)).replace("typing.", "")
        raise ValueError(f"option {name} is {_shown(value)}, which is no {wanted}") from None
    check_inert(name, found)
    if name in _RANGES and isinstance(found, (int, float)):
        least, largest = _RANGES[name]
        if not least <= found <= largest:  # not a number is in no range
            raise ValueError(f"option {name} is {_shown(value)}, outside {least}..{largest}")
    if isinstance(found, str) and found and name in _JSON:
        _check_members(name, json_object(name, found, _JSON[name]))
    return found


def check_inert(name: str, value: Any, depth: int = 0) -> None:
    """Refuse what is more than data.

    Raises:
        ValueError: `value` is anything but numbers, texts, lists and tables of them, of reasonable size, or
            has `${...}`.
    """
    if depth > _DEEPEST:
        raise ValueError(f"option {name} is nested too deeply")
    if isinstance(value, str):
        if "${" in value:
            raise ValueError(
                f"option {name} is {_shown(value)}, which omegaconf would replace by something else"
            )
        if len(value) > _LONGEST_TEXT or "\0" in value:
            raise ValueError(f"option {name} is no text of reasonable length")
    elif isinstance(value, (list, tuple, dict)):
        if len(value) > _LONGEST_LIST:
            raise ValueError(f"option {name} has {len(value)} entries")
        for item in [*value, *value.values()] if isinstance(value, dict) else value:
            check_inert(name, item, depth + 1)
    elif hasattr(value, "__dict__"):  # a Namespace inside
        check_inert(name, vars(value), depth + 1)


def json_object(name: str, text: str, deepest: int) -> Any:
    """Read the JSON object of an option's text, only if its brackets are at most `deepest` deep.

    Raises:
        ValueError: it is none, or deeper; names the option.
    """
    depth = most = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth += 1 if bracket in "[{" else -1
        most = max(most, depth)
    try:
        found = json.loads(text) if most <= deepest else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"option {name} is {_shown(text)}, which is no JSON object of this option's kind")
    return found


def _check_members(name: str, table: dict[str, Any]) -> None:
    """Refuse members that are not numbers, texts or lists of these; of the record of heads, number lists."""
    largest = _LARGEST_IN_JSON.get(name, _LARGEST_ELSE)
    for key, value in table.items():
        items = value if isinstance(value, list) else [value]
        large = any(isinstance(item, (int, float)) and not abs(item) <= largest for item in items)
        strange = any(isinstance(item, dict) for item in items)
        if name == "kept_heads":
            strange = not isinstance(value, list) or any(type(item) is not int for item in items)
        if large or strange:
            raise ValueError(f"option {name} has {_shown(value)} under {_shown(key)}")


def is_literal(text: str) -> bool:
    """Say whether a text is a Python literal, or fairseq's shorthand `[(512, 3)] * 20`: nothing that runs."""
    try:
        tree = ast.parse(text.strip(), mode="eval") if len(text) < 10_000 else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    if tree is None:
        return False
    size = 1.0
    for node in ast.walk(tree.body):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
            factors = [part.value for part in (node.left, node.right) if isinstance(part, ast.Constant)]
            if len(factors) != 1 or type(factors[0]) is not int:
                return False
            size *= max(1, factors[0])
        elif not isinstance(node, _PARTS_OF_LITERALS):
            return False
    return size <= _LONGEST_LIST


_PARTS_OF_LITERALS = (
    ast.Constant,
    ast.List,
    ast.Tuple,
    ast.Dict,
    ast.UnaryOp,
    ast.USub,
    ast.BinOp,
    ast.Add,
    ast.Mult,
    ast.Load,
)


def _convert(declared: Any, value: Any) -> Any:
    origin, arguments = getattr(declared, "__origin__", None), getattr(declared, "__args__", ())
    if origin is typing.Union:
        if value is None and type(None) in arguments:
            return None
        return _convert(next(argument for argument in arguments if argument is not type(None)), value)
    if origin in (list, tuple):
        if isinstance(value, str):
            value = [part.strip().strip("'\"") for part in value.strip("()[] ").split(",") if part.strip()]
        if not isinstance(value, (list, tuple)) or len(value) > _LONGEST_LIST:
            value = [value]
        return [_convert(arguments[0] if arguments else Any, item) for item in value]
    if declared is bool:
        if isinstance(value, str) and value in _BOOLEANS:
            return _BOOLEANS[value]
        if isinstance(value, bool) or value in (0, 1):
            return bool(value)
    elif declared is int:
        if isinstance(value, str) and _INTEGER.match(value):
            return int(value)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, int) and -(1 << 63) <= value < 1 << 63:
            return int(value)
    elif declared is float:
        if isinstance(value, str) and _NUMBER.match(value):
            return float(value)
        if isinstance(value, (int, float)) and not math.isnan(value):
            return float(value) if isinstance(value, float) else value
    elif declared is str:
        if isinstance(value, str):
            return value
    elif isinstance(declared, type) and issubclass(declared, enum.Enum):
        choices = [choice.value for choice in declared]
        if isinstance(value, str) and value in choices:
            return value
    elif declared is Any or isinstance(declared, type):
        return value  # checked to be inert
    raise ValueError


def _shown(value: Any) -> str:
    shown = isinstance(value, (str, int, float, bool, type(None)))
    text = repr(value) if shown else f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
