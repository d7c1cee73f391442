"""Make a diff pack of a checkpoint: stage 1 projected, stage 3 as it is, full finetuning cut down."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from torch import Tensor, nn

from ...artefacts.base import Base
from ...diffs import (
    DiffAdamW,
    Difference,
    DiffPack,
    FixMaskAdamW,
    SparseDiff,
    count_of,
    frozen_names,
    layer_numbers,
    project,
)
from ...diffs.training.groups import method_name
from ...options.errors import OptionError
from ...records.record import portable_path
from ..checkpoints.checkpoint import load_checkpoint
from .base import BaseCheckpoint
from .optimizers import DiffAdamConfig, grouping_of, vector_of


@dataclass(frozen=True)
class Projection:
    """How a full-size diff is cut down.

    Attributes:
        density: share of all weights that may differ from the base, in (0, 1].
        per_layer: each layer keeps the same share. sampled: project one sample of the diff, not the
            deterministic one.

    Raises:
        ValueError: a density outside (0, 1].
    """

    density: float
    per_layer: bool = False
    sampled: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.density <= 1:
            raise OptionError("target_sparsity", f"must be in (0, 1], got {self.density}")


@dataclass
class TrainedDiff:
    """What a checkpoint says of a diff.

    Attributes:
        kind: 'diff' (stage 1), 'fixmask' (stage 3) or 'full' (all weights finetuned).
        deltas: full-size changes by name; of stage 3, None.
        finetuned: the sparse diff of stage 3, None otherwise.
        config: what a pack says of its making.
    """

    kind: str
    deltas: Optional[Mapping[str, Tensor]] = None
    finetuned: Optional[SparseDiff] = None
    config: dict[str, Any] = field(default_factory=dict)


def write_pack(
    path: str,
    checkpoint: str,
    base: BaseCheckpoint,
    projection: Optional[Projection] = None,
    dtype: str = "float16",
    config: Mapping[str, Any] = {},
    fix_layer: int = -1,
) -> tuple[DiffPack, int]:
    """Make a pack of a checkpoint's diff, write it, and read it back.

    Args:
        checkpoint: of a training by --task diff_translation. base: what it started from.
        projection: of stage 1 and full finetuning needed, of stage 3 not allowed.
        dtype: of the values: float16, bfloat16 or float32.
        config: further entries of what the pack says of its making; they win.
        fix_layer: of full finetuning, nothing is kept of the embeddings and of so many lowest layers
            (`frozen_names`).

    Returns:
        The pack as the file says it, and the file's size in bytes.

    Raises:
        FileNotFoundError, ValueError: a missing or damaged checkpoint, one of another base, no projection or
            one too many.
    """
    model = base.model()
    identity = Base.of(model)
    trained = read_trained(checkpoint, model, projection is not None and projection.sampled, fix_layer)
    if trained.finetuned is not None:
        if projection is not None:
            raise ValueError(
                f"{checkpoint}: its mask is fixed already (--target-sparsity is for the stages before)"
            )
        diff = trained.finetuned
    else:
        if projection is None:
            raise ValueError(
                f"{checkpoint} holds a full-size diff: --target-sparsity says what share of the "
                "weights to keep"
            )
        layers = layer_numbers(list(trained.deltas))[0] if projection.per_layer else None
        (diff,) = project(trained.deltas, [count_of(projection.density, identity.total)], layers)
        trained.config["projection"] = dict(vars(projection))
    made_by = {"base_model": portable_path(base.path), **trained.config, **config}
    size = DiffPack.create(diff, identity, config=made_by, dtype=dtype).save(path)
    return DiffPack.load(path), size


def read_trained(
    checkpoint: str, model: nn.Module, sampled: bool = False, fix_layer: int = -1
) -> TrainedDiff:
    """Return the diff in a checkpoint.

    Args:
        model: its base, freshly loaded; it may be written to.
        sampled: of stage 1, the sample of the coming step instead of the deterministic diff.
        fix_layer: of full finetuning, without the changes of the embeddings and of so many lowest layers.

    Raises:
        FileNotFoundError, ValueError: see `write_pack`.
    """
    state = load_checkpoint(checkpoint)
    history = (state.get("optimizer_history") or [{}])[-1]
    cfg = state.get("cfg") or {}
    config = {"updates": history.get("num_updates"), "seed": (cfg.get("common") or {}).get("seed")}
    optimizer_state = state.get("last_optimizer_state") or {}
    # by what the state holds: --amp wraps the optimizer, and fairseq notes the wrapper
    saved = optimizer_state.get("diff")
    kind = "full" if saved is None else "fixmask" if "positions" in saved else "diff"
    if saved is None and (cfg.get("optimizer") or {}).get("_name") in ("diff_adam", "fixmask_adam"):
        raise ValueError(
            f"{checkpoint} has no optimizer state, which holds the diff: train without "
            "--no-save-optimizer-state"
        )
    if kind != "diff" and sampled:
        raise ValueError(f"{checkpoint} holds one diff: there is nothing to sample")
    if kind != "full" and fix_layer != -1:
        raise ValueError(
            f"{checkpoint}: which layers stay at the base was said in its training (--fix-layer "
            "is for full finetuning)"
        )
    try:
        if kind == "diff":
            # the state has the seed
            options = Namespace(**{**vars(DiffAdamConfig()), "seed": 0, **cfg["optimizer"]})
            vector = vector_of(model, None, options)
            DiffAdamW(vector).load_state_dict(optimizer_state)
            grouping = grouping_of(options)
            config.update(method=method_name(grouping), grouping=grouping, sparsity_pen=options.sparsity_pen)
            return TrainedDiff(kind, deltas=vector.deltas(vector.steps if sampled else None), config=config)
        if kind == "fixmask":
            config["finetuned_updates"] = config.pop("updates")
            config = {**_config_of_mask((cfg.get("task") or {}).get("mask_pack")), **config}
            return TrainedDiff(kind, finetuned=_finetuned_diff(model, optimizer_state), config=config)
        parameters = dict(model.named_parameters())
        config.update(method="non-adaptive", fix_layer=fix_layer)
        frozen = frozen_names(parameters, fix_layer)
        names = [name for name in parameters if name not in frozen]
        return TrainedDiff(kind, deltas=Difference(_float(state["model"]), parameters, names), config=config)
    except ValueError as error:
        raise ValueError(f"{checkpoint}: {error}") from error


def _finetuned_diff(model: nn.Module, state: dict[str, Any]) -> SparseDiff:
    """Return the diff in the state of a `FixMaskAdamW`, which compares the base."""
    positions = (state.get("diff") or {}).get("positions") or {}
    parameters = dict(model.named_parameters())
    unknown = [name for name in positions if name not in parameters]
    if unknown:
        raise ValueError(f"the mask is of another model: the base has no '{unknown[0]}'")
    entries = {name: (where, torch.zeros(where.numel())) for name, where in positions.items()}
    shapes = {name: tuple(parameters[name].shape) for name in entries}
    optimizer = FixMaskAdamW(model, SparseDiff(entries, shapes))
    optimizer.load_state_dict(state)
    return optimizer.diff()


def _config_of_mask(path: Optional[str]) -> dict[str, Any]:
    """Return what the pack of the mask says of its making, where it is still there."""
    try:
        return dict(DiffPack.load(path).config) if path else {}
    except (FileNotFoundError, ValueError):
        return {}


def _float(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in tensors.items() if tensor.is_floating_point()}
