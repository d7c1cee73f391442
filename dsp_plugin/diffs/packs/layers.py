"""Read from a parameter's name which layer it belongs to: for frozen layers, penalties and summaries."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...options.errors import OptionError

# BERT `encoder.layer.3.`, fairseq and BART `decoder.layers.3.`, GPT-2 `h.3.`, T5 `block.3.`
_NUMBERED = re.compile(r"^(.*?\b(?:layer|layers|h|block|blocks|albert_layer_groups))\.(\d+)\.")
_ANY_NUMBER = re.compile(r"((?:[^.]+\.)*?)(\d+)\.")  # a `Sequential`'s
_EMBEDDING = re.compile(r"embed|\b(?:wte|wpe|shared)\b")


def layer_of(name: str) -> str:
    """Return a parameter's layer: its name up to the layer's (or any) number, or less its last two parts.

    >>> layer_of("bert.encoder.layer.3.output.dense.weight"), layer_of("bert.embeddings.LayerNorm.bias")
    ('bert.encoder.layer.3', 'bert.embeddings')
    """
    if numbered := _NUMBERED.match(name) or _ANY_NUMBER.match(name):
        return numbered.group().removesuffix(".")
    parts = name.split(".")
    return ".".join(parts[:-2]) or parts[0]


def layer_numbers(names: Iterable[str]) -> tuple[dict[str, int], int]:
    """Number the layers (0 embeddings, 1 .. L the numbered, L + 1 all else): return name -> number, and L.

    All else is what carries no number and is no embedding by its name: poolers, final norms, output
    projections. Several stacks (an encoder and a decoder) are numbered through in the order they come.
    """
    names = list(names)
    keys = {name: (match[1], int(match[2])) for name in names if (match := _NUMBERED.match(name))}
    stacks = list(dict.fromkeys(stack for stack, _ in keys.values()))
    order = sorted(set(keys.values()), key=lambda key: (stacks.index(key[0]), key[1]))
    number = {key: index for index, key in enumerate(order, start=1)}
    rest = len(order) + 1
    others = {name: 0 if _EMBEDDING.search(name) else rest for name in names}
    return {n: number[keys[n]] if n in keys else others[n] for n in names}, len(order)


def frozen_names(names: Iterable[str], fix_layer: int) -> list[str]:
    """List what `fix_layer` = N freezes: the embeddings and the N lowest layers; nothing where it is -1.

    Raises:
        OptionError: N below -1 or above the number of layers.
    """
    layers, count = layer_numbers(names)
    if not -1 <= fix_layer <= count:
        reason = f"must be between -1 (nothing) and the number of layers ({count}), got {fix_layer}"
        raise OptionError("fix_layer", reason)
    return [] if fix_layer < 0 else [name for name, number in layers.items() if number <= fix_layer]


def penalties_by_layer(names: Iterable[str], penalties: Sequence[float]) -> dict[str, float]:
    """Return name -> lambda, from L + 2 lambdas: of the embeddings, layer 1 .. L, and everything else.

    Raises:
        OptionError: another number of penalties.
    """
    layers, count = layer_numbers(names)
    if len(penalties) != count + 2:
        reason = f"needs {count + 2} numbers (embeddings, {count} layers, the rest), got {len(penalties)}"
        raise OptionError("sparsity_penalty_per_layer", reason)
    return {name: float(penalties[number]) for name, number in layers.items()}
