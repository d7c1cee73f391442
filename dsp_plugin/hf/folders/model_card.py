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
    kept = sum(len(heads) for heads in record.values())
    name = type(model).__name__
    if isinstance(model, PreTrainedModel):
        refused, source = "so stock `from_pretrained` refuses the shapes", '"FOLDER"'
        load = f'load_pruned("FOLDER")  # {name}'
    else:
        refused, source = f"so a new `{name}` has other shapes", "model"
        load = f'load_pruned("FOLDER", model={name}(...))  # with all its heads'
    return (
        f"{_HEADER}# {name}, {kept} of {original.num_heads} attention heads\n\n"
        f"The other heads were removed from the query, key, value and output projections, {refused}. Load it "
        "with\n\n"
        f"```python\nfrom dsp_plugin.hf import load_pruned\n\nmodel = {load}\n```\n\n"
        "and make a copy of the original sizes, zeros in the place of removed heads, for programs without "
        "this package with\n\n"
        f"```python\nfrom dsp_plugin.hf import export_dense\n\nexport_dense({source}, "
        '"DENSE_FOLDER")\n```\n\n'
        f"| | before | after |\n|---|---|---|\n| heads | {original.num_heads} | {kept} |\n"
        f"| parameters | {before:,} | {after:,} |\n\n{_table(original, record)}"
    )


def dense_card(model: nn.Module, original: HeadMap, record: KeptHeads) -> str:
    """Write the model card (Markdown) of a dense copy, in which removed heads are zeros."""
    kept = sum(len(heads) for heads in record.values())
    loads = f"`safetensors.torch.load_model({type(model).__name__}(...), FILE)`"
    if isinstance(model, PreTrainedModel):
        loads = "stock `from_pretrained`"
    return (
        f"{_HEADER}# {type(model).__name__}, {kept} of {original.num_heads} attention heads, dense\n\n"
        f"The weights of the other heads are zeros, in the original shapes: {loads} loads it, and it "
        "is as large and as slow as the model with all heads.\n\n" + _table(original, record)
    )


def _table(original: HeadMap, record: KeptHeads) -> str:
    rows = "".join(
        f"| `{block.name}` | {block.kind} | {len(record[block.name])} of {block.num_heads} "
        f"| {', '.join(map(str, record[block.name])) or '–'} |\n"
        for block in original.blocks
    )
    return (
        "Heads kept, by their numbers in the original model (with grouped queries one number is a whole "
        "group):\n\n"
        f"| block | kind | kept | heads |\n|---|---|---|---|\n{rows}"
    )
