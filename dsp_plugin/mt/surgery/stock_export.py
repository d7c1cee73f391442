"""A checkpoint for stock fairseq: it needs no plugin to be read, to translate or to be trained on."""

import warnings
from dataclasses import replace
from typing import Any, Optional

import torch
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, OPTIMIZER_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY

from ...gating import AttentionBlock
from ...records.certificate import Certificate
from ...surgery import fill_block
from ..checkpoints.flat_config import FlatTransformerConfig
from ..heads.checkpoint_heads import SCORES, widths_of
from .equality import certificate_of, masked_model, model_of, target_log_probs, task_and_pairs
from .pruning import (
    CheckpointModel,
    Mask,
    Pruned,
    choose_heads,
    count_parameters,
    head_dim_of,
    prepare,
    projections_of,
    put_block,
    remove_heads,
    take_block,
)

_REGISTRIES = {
    "task": (TASK_REGISTRY, TASK_DATACLASS_REGISTRY),
    "criterion": (CRITERION_REGISTRY, CRITERION_DATACLASS_REGISTRY),
    "optimizer": (OPTIMIZER_REGISTRY, OPTIMIZER_DATACLASS_REGISTRY),
}
_PLUGIN = __name__.partition(".")[0]


def export_fairseq(
    state: dict[str, Any], num_of_heads: Optional[int] = None, mask: Optional[Mask] = None
) -> Pruned:
    """Make the checkpoint one of stock `transformer`: every head in its place, those not kept zeros.

    Scores are left out, task, criterion and optimizer are stock, and all values are of built-in types. A
    checkpoint without scores keeps the heads it has.

    Args:
        state, num_of_heads, mask: as `pruning.prune_state`.

    Raises:
        ValueError: as `pruning.prune_state`, or a task, criterion or optimizer that has no stock counterpart.
    """
    source = prepare(state)
    return export_source(source, keep_of(source, num_of_heads, mask))


def export_source(source: CheckpointModel, keep: torch.Tensor) -> Pruned:
    """Export as `export_fairseq` what was read already; `keep` is bool [heads it has now]."""
    pruned = remove_heads(source, keep)
    exported, options = dict(pruned.state), pruned.state["cfg"]["model"]
    for block in pruned.head_map.blocks:
        own, shapes = take_block(exported["model"], block), dense_shapes(block, options)
        size, names = head_dim_of(block, options), projections_of(block)
        own = fill_block(own, pruned.record[block.name], size, shapes, names)
        put_block(exported["model"], block, own)
    exported["cfg"] = stock_config(exported["cfg"])
    for entry in exported["optimizer_history"]:
        for section in ("criterion", "optimizer"):
            names = {c.__name__: stock_class(c).__name__ for c in _REGISTRIES[section][0].values()}
            key = f"{section}_name"
            entry[key] = names.get(entry.get(key), entry.get(key))
    return replace(pruned, state=exported, parameters_after=count_parameters(exported["model"], options))


def keep_of(
    source: CheckpointModel,
    num_of_heads: Optional[int] = None,
    mask: Optional[Mask] = None,
    heads_per_kind: Optional[str] = None,
) -> torch.Tensor:
    """Choose as `choose_heads`, but a checkpoint that does not say what to remove keeps its heads."""
    if mask is None and num_of_heads is None and heads_per_kind is None and SCORES not in source.tensors:
        mask = torch.ones(source.head_map.num_heads, dtype=torch.bool)
    return choose_heads(source, num_of_heads, mask, heads_per_kind)


def certify_fairseq(
    source: CheckpointModel,
    keep: torch.Tensor,
    exported: Pruned,
    data: Optional[str],
    subset: Optional[str],
    limit: int,
) -> Certificate:
    """Compare stock fairseq's model of an export with the masked one. Arguments as `export_ctranslate2`.

    Raises:
        FileNotFoundError: no such folder or subset.
        ExportError: they are not equal.
    """
    task, pairs, words = task_and_pairs(source.tensors, source.cfg, data, subset, limit, words_needed=False)
    models = masked_model(source, keep, task), model_of(exported.state, task)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, about the masks that stock fairseq gives it
        certificate = certificate_of(*(target_log_probs(model, task, pairs) for model in models), words)
    certificate.require("the checkpoint for stock fairseq")
    return certificate


def stock_config(cfg: dict[str, Any]) -> dict[str, Any]:
    """Write options of ours as stock fairseq's: nothing in them asks for the plugin.

    Raises:
        ValueError: a task, criterion or optimizer of ours that has no stock counterpart.
    """
    cfg = dict(cfg)
    model = {
        name: value
        for name, value in cfg["model"].items()
        if name in FlatTransformerConfig.__dataclass_fields__
    }
    cfg["model"] = {**model, "_name": "transformer"}
    for section, (registry, dataclasses) in _REGISTRIES.items():
        name = (cfg.get(section) or {}).get("_name")
        own = registry.get(name)
        if own is None or stock_class(own) is own:
            continue
        stock = next((known for known, value in registry.items() if value is stock_class(own)), None)
        if stock is None:
            raise ValueError(f"stock fairseq has no {section} that could stand for {name!r}")
        known = dataclasses[stock].__dataclass_fields__
        cfg[section] = {**{key: value for key, value in cfg[section].items() if key in known}, "_name": stock}
    if cfg.get("common"):
        cfg["common"] = {**cfg["common"], "user_dir": None}
    return cfg


def stock_class(cls: type) -> type:
    """Return the class itself, or the nearest it is derived from, that is none of this plugin's."""
    return next(base for base in cls.__mro__ if base.__module__.partition(".")[0] != _PLUGIN)


def dense_shapes(
    block: AttentionBlock, options: dict[str, Any], heads: Optional[int] = None
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a block's tensors with `heads` heads (None: as many as the stock model has).

    See `widths_of` for their inputs.
    """
    width, source = widths_of(block, options)
    if block.neurons:
        rows = block.neurons * (block.num_heads if heads is None else heads)
        return {"fc1.weight": (rows, width), "fc1.bias": (rows,), "fc2.weight": (width, rows)}
    rows = width if heads is None else heads * head_dim_of(block, options)
    shapes: dict[str, tuple[int, ...]] = {"q_proj.weight": (rows, width), "out_proj.weight": (width, rows)}
    shapes.update({f"{name}.weight": (rows, source) for name in ("k_proj", "v_proj")})
    shapes.update({f"{name}.bias": (rows,) for name in ("q_proj", "k_proj", "v_proj")})
    return shapes
