"""The README.md beside a pruned or exported model: what was removed, how to load it, how large it is."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from ...gating import HeadMap
from ...surgery import KeptHeads

_HEADER = "---\nlibrary_name: transformers\ntags:\n- head-pruning\n---\n\n"


def pruned_card(model: nn.Module, original: HeadMap, record: KeptHeads, before: int, after: int) -> str:
    """Write the model card (Markdown) of a model whose heads were removed.

    Args:
        original: the model's heads before any removal.
        before, after: numbers of parameters.
    """
    name, neurons = type(model).__name__, _neurons(original, record)
    heads = _heads(original, record)
    removed = "The other heads were removed from the query, key, value and output projections"
    if neurons is not None:
        removed += ", the other neurons from the projections up and down of the feed-forward blocks"
    if isinstance(model, PreTrainedModel):
        refused, source = "so stock `from_pretrained` refuses the shapes", '"FOLDER"'
        load = f'load_pruned("FOLDER")  # {name}'
    else:
        refused, source = f"so a new `{name}` has other shapes", "model"
        load = f'load_pruned("FOLDER", model={name}(...))  # with all its heads'
    return (
        f"{_HEADER}# {name}, {_title(original, record)}\n\n"
        f"{removed}, {refused}. Load it with\n\n"
        f"```python\nfrom dsp_plugin.hf import load_pruned\n\nmodel = {load}\n```\n\n"
        "and make a copy of the original sizes, zeros in the place of removed heads, for programs without "
        "this package with\n\n"
        f"```python\nfrom dsp_plugin.hf import export_dense\n\nexport_dense({source}, "
        '"DENSE_FOLDER")\n```\n\n'
        f"| | before | after |\n|---|---|---|\n| heads | {heads[1]} | {heads[0]} |\n"
        + (f"| neurons | {neurons[1]:,} | {neurons[0]:,} |\n" if neurons else "")
        + f"| parameters | {before:,} | {after:,} |\n\n{_table(original, record)}"
    )


def dense_card(model: nn.Module, original: HeadMap, record: KeptHeads) -> str:
    """Write the model card (Markdown) of a dense copy, in which removed heads are zeros."""
    loads = f"`safetensors.torch.load_model({type(model).__name__}(...), FILE)`"
    if isinstance(model, PreTrainedModel):
        loads = "stock `from_pretrained`"
    others = "heads" if _neurons(original, record) is None else "heads and neurons"
    return (
        f"{_HEADER}# {type(model).__name__}, {_title(original, record)}, dense\n\n"
        f"The weights of the other {others} are zeros, in the original shapes: {loads} loads it, and it "
        "is as large and as slow as the model with all heads.\n\n" + _table(original, record)
    )


def _heads(original: HeadMap, record: KeptHeads) -> tuple[int, int]:
    """Return (heads kept, heads)."""
    blocks = [block for block in original.blocks if not block.neurons]
    return sum(len(record[block.name]) for block in blocks), sum(block.num_heads for block in blocks)


def _neurons(original: HeadMap, record: KeptHeads) -> tuple[int, int] | None:
    """Return (neurons kept, neurons) of the blocks that lost some; None where there are none."""
    blocks = [block for block in original.blocks if block.neurons]
    kept = sum(len(record[block.name]) * block.neurons for block in blocks)
    return (kept, sum(block.num_heads * block.neurons for block in blocks)) if blocks else None


def _title(original: HeadMap, record: KeptHeads) -> str:
    heads, neurons = _heads(original, record), _neurons(original, record)
    more = "" if neurons is None else f", {neurons[0]:,} of {neurons[1]:,} neurons"
    return f"{heads[0]} of {heads[1]} attention heads{more}"


def _spans(numbers: list[int]) -> list[str]:
    """Return rising numbers as texts, a run of them as one: 0, 1, 2, 5 -> "0-2", "5"."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and spans[-1][1] == number - 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    return [str(first) if first == last else f"{first}-{last}" for first, last in spans]


def _table(original: HeadMap, record: KeptHeads) -> str:
    rows = ""
    for block in original.blocks:
        numbers = record[block.name]
        named = ", ".join(_spans(numbers) if block.neurons else map(str, numbers)) or "–"
        rows += f"| `{block.name}` | {block.kind} | {len(numbers)} of {block.num_heads} | {named} |\n"
    groups = sorted({block.neurons for block in original.blocks} - {0})
    neurons = f"; of a feed-forward block it is a group of {groups[0]} neurons" if len(groups) == 1 else ""
    return (
        "Heads kept, by their numbers in the original model (with grouped queries one number is a whole "
        f"group{neurons}):\n\n"
        f"| block | kind | kept | heads |\n|---|---|---|---|\n{rows}"
    )
