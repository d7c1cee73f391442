"""Storing what DSEE has made of a model, and making it of the base again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel

from ...artefacts.base import Names, task_head_places, tensors_of
from ...dsee.artefact import OWNER, DseeFile, Update
from ...surgery import KeptHeads
from ..folders.model_folder import class_of
from ..folders.pruned_folders import load_pruned
from ..folders.stored_config import config_of_stored, entries_of_stored
from ..heads.surgery.journal import all_or_nothing
from ..heads.surgery.kept_heads import KEPT_HEADS, neuron_groups_of, record_of
from ..heads.units import units_of
from .adding import attach
from .layer import ADAPTER, dsee_layers
from .state import Dsee, detached, dsee_of, has_dsee, set_state, set_trainable
from .targets import Part, Target, check_matrix, shape_of
from .units import keep_units
from .weights import check_zeros, place_masks, set_masks

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# of a config.json, what a task says of its model; the file takes no more than these
_MODEL_CONFIG = ("architectures", "id2label", "label2id", "num_labels", "problem_type", "pad_token_id")


def save_dsee(
    model: nn.Module, path: str | os.PathLike, dtype: str | None = None, config: Mapping[str, Any] = {}
) -> int:
    """Write all that a task adds to its base and takes from it, as one file; return its size in bytes.

    Args:
        model: with an update, at any stage.
        dtype: of A, B and the values of S2 in the file: float32, float16 or bfloat16; None for the model's.
        config: plain JSON that is stored, too, beside how the update was made.

    Raises:
        OSError: it cannot be written; what was there before is still there.
        ValueError: the model has no update, or values that are not finite or that `dtype` cannot hold; a
            weight that was pruned is not 0.
    """
    return file_of(model, dtype, config).save(path)


def file_of(model: nn.Module, dtype: str | None = None, config: Mapping[str, Any] = {}) -> DseeFile:
    """Return what `save_dsee` writes."""
    if dtype is not None and dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(_DTYPES)}, got {dtype!r}")
    state, layers = dsee_of(model), dsee_layers(model)
    check_zeros(model)
    updates = {target.weight: layers[target.path].update() for target in state.targets}
    if dtype is not None:
        updates = {name: _in_dtype(update, _DTYPES[dtype]) for name, update in updates.items()}
    parameters = dict(model.named_parameters())
    task_head = {name: parameters[name].detach() for name in state.task_head}
    with detached(model):
        kept, groups = _kept(model, state)
    lora = model.peft_config[ADAPTER]
    about = {
        **state.settings,
        **config,
        "lora": {name: getattr(lora, name) for name in ("r", "lora_alpha", "lora_dropout", "use_rslora")},
        "parts": {t.weight: [[part.role, part.start, part.stop] for part in t.parts] for t in state.targets},
        "blocks": {t.weight: t.block for t in state.targets},
        "masked": state.masks_updates,
        "model_config": model_entries(model),
    }
    return DseeFile(state.base, updates, dict(state.masks), kept, groups, task_head, about)


def load_dsee(model: nn.Module, file: str | os.PathLike | DseeFile, check: bool = True) -> Dsee:
    """Make of a base, in place, what was stored: units out, weights to 0, updates on, the task head in.

    All is checked before anything changes, and done, or nothing. The model can be run, trained on, pruned on,
    merged and saved again.

    Args:
        model: the base, with the task head that the file has one for.
        file: its path, or what `DseeFile.load` has read.
        check: compare the base's hash. False serves where that was done already.

    Raises:
        FileNotFoundError: no such file.
        ValueError: it is damaged or of another kind, the model is not its base (names the difference), has an
            update already, or has no place for the task head.
    """

    stored = file if isinstance(file, DseeFile) else DseeFile.load(file)
    if has_dsee(model):
        raise ValueError(f"{type(model).__name__} has an update of DSEE's already")
    tensors = tensors_of(model)
    names = stored.base.find(tensors, OWNER)
    if check:
        stored.base.check(tensors, names, OWNER)
    placed = _task_head_places(stored, tensors)
    targets = _targets(model, stored, names)
    lora = _lora_config(stored)
    settings = {k: v for k, v in stored.config.items() if k not in _OWN}
    base = _renamed_base(stored, names)
    with all_or_nothing(model):
        state = Dsee(base, [], sorted(placed), record_of(model), {}, settings)
        set_state(model, state)
        if stored.kept is not None:
            _keep(model, stored.kept, stored.groups)
        state.targets = targets
        layers = attach(model, targets, lora)
        for target, update in zip(targets, stored.updates.values()):
            layer = layers[target.path]
            if layer.down.shape[1] != update.down.shape[1] or layer.up.shape[0] != update.up.shape[0]:
                raise ValueError(f"the update of {target.path} is of another shape than the matrix has")
            layer.set_low_rank(update.down, update.up)
            layer.set_sparse(update.positions, update.values)
            layer.scaling[ADAPTER] = update.scale
        set_masks(model, {names[name]: mask for name, mask in stored.masks.items()})
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, tensor in placed.items():
                parameters[name].copy_(tensor)
        set_trainable(model, state.task_head)
        place_masks(model, bool(stored.config.get("masked")))
    return state


def open_dsee(
    file: str | os.PathLike | DseeFile,
    base: str | os.PathLike,
    model_class: type | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load a base from its folder (or the hub) and make of it what was stored, in the stored class.

    Args:
        model_class: a model class; None for the one the file was made with.
        kwargs: options of `from_pretrained`.

    Raises:
        FileNotFoundError, ValueError: see `load_dsee`.
    """
    stored = file if isinstance(file, DseeFile) else DseeFile.load(file)
    of_model = stored.config.get("model_config")
    config = config_of_stored(base, of_model)
    stock = class_of(base, config, model_class)
    if getattr(config, KEPT_HEADS, None) is None:
        model = stock.from_pretrained(base, config=config, **kwargs)
    else:
        entries = entries_of_stored(of_model)
        model = load_pruned(base, stock, ignore_mismatched_sizes=True, **entries, **kwargs)
    load_dsee(model, stored)
    return model


_OWN = ("lora", "parts", "blocks", "masked", "model_config")  # what a file says of itself, not its settings


def _kept(model: nn.Module, state: Dsee) -> tuple[KeptHeads | None, dict[str, int]]:
    """Return the units that are left, by their numbers in the base, and the sizes of groups of neurons."""
    now, before = record_of(model), state.kept_before
    if now == before:
        return None, {}
    groups = neuron_groups_of(model)
    if before is None:
        return now, groups
    kept = {}
    for name, numbers in now.items():
        if name not in before:  # the base had all of them
            kept[name] = list(numbers)
            continue
        place = {number: here for here, number in enumerate(before[name])}
        kept[name] = [place[number] for number in numbers]
    return kept, {name: size for name, size in groups.items() if name in kept}


def _keep(model: nn.Module, kept: KeptHeads, groups: Mapping[str, int]) -> None:
    """Take all units but these out of a model."""
    sizes = {*groups.values()}
    if len(sizes) > 1:
        raise ValueError("the file has groups of neurons of several sizes")
    group = next(iter(sizes), None)
    blocks = units_of(model, group)
    names = {one.block.name for one in blocks}
    if set(kept) - names:
        raise ValueError(f"wrong base: it has no {sorted(set(kept) - names)[0]} to remove units from")
    keep: list[bool] = []
    for one in blocks:
        left = kept.get(one.block.name, range(one.block.num_heads))
        if len(left) and max(left) >= one.block.num_heads:
            raise ValueError(f"wrong base: {one.block.name} has {one.block.num_heads} units, not {max(left)}")
        keep += [number in set(left) for number in range(one.block.num_heads)]
    keep_units(model, keep, group, check=False)


def _targets(model: nn.Module, stored: DseeFile, names: Names) -> list[Target]:
    """Return the targets that a file names, at the sizes that its updates have.

    Raises:
        ValueError: a matrix cannot be updated, or the file says of its parts what cannot be.
    """
    found = []
    parts, blocks = (stored.config.get(key) or {} for key in ("parts", "blocks"))
    for name, update in stored.updates.items():
        path = names[name].removesuffix(".weight")
        module = model.get_submodule(path)
        check_matrix(path, module)
        whole, rows = shape_of(module), update.up.shape[0]
        if rows > whole[0] or update.down.shape[1] > whole[1]:
            raise ValueError(f"the update of {path} is of another shape than the matrix has")
        ranges = parts.get(name, [["", 0, rows]]) if isinstance(parts, dict) else None
        try:
            made = tuple(Part(str(role), int(start), int(stop)) for role, start, stop in ranges)
            ends = [end for part in made for end in (part.start, part.stop)]
        except (TypeError, ValueError):
            raise ValueError(f"the ranges of {name} are none") from None
        if not ends or ends != sorted(ends) or ends[0] < 0 or ends[-1] > rows:
            raise ValueError(f"the ranges of {name} are none")
        block = blocks.get(name, "") if isinstance(blocks, dict) else ""
        found.append(Target(path, str(block), made))
    return found


def _lora_config(stored: DseeFile) -> LoraConfig:
    said = stored.config.get("lora")
    said = said if isinstance(said, dict) else {}
    ranks = {update.down.shape[0] for update in stored.updates.values()}
    rank = next(iter(ranks))
    if len(ranks) > 1:
        raise ValueError("the updates are of several ranks")
    alpha = said.get("lora_alpha", next(iter(stored.updates.values())).scale * rank)
    if type(alpha) not in (int, float):
        raise ValueError("the file's alpha is no number")
    dropout = said.get("lora_dropout", 0.0)
    if type(dropout) not in (int, float) or not 0 <= dropout < 1:
        raise ValueError("the file's dropout is no number from 0 to 1")
    rslora = said.get("use_rslora") is True
    return LoraConfig(r=rank, lora_alpha=alpha, lora_dropout=dropout, use_rslora=rslora)


def _task_head_places(stored: DseeFile, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the task head's tensors by the names that the model has for them.

    Raises:
        ValueError: it has none, or of another shape.
    """
    if not stored.task_head:
        return {}
    called = task_head_places(stored.task_head, tensors, OWNER)
    return {called[name]: tensor for name, tensor in stored.task_head.items()}


def _renamed_base(stored: DseeFile, names: Names) -> Any:
    """Return the base by the names that the model has for its parameters, over which its hash is."""
    if all(name == there for name, there in names.called.items()):
        return stored.base
    raise ValueError(
        "the model has other names for the base's parameters (a bare base model, or one around it): load the "
        "file into a model of the class it was made with, "
        f"{', '.join((stored.config.get('model_config') or {}).get('architectures') or ['unknown'])}"
    )


def model_entries(model: nn.Module) -> dict[str, Any]:
    """Return what the task says of a model in its configuration."""
    config = getattr(model, "config", None)
    if not isinstance(model, PreTrainedModel) or config is None:
        return {}
    said = {name: getattr(config, name, None) for name in _MODEL_CONFIG}
    said["architectures"] = [type(model).__name__]
    said["id2label"] = {str(key): str(label) for key, label in (config.id2label or {}).items()}
    said["label2id"] = {label: int(number) for number, label in said["id2label"].items()}
    return {name: value for name, value in said.items() if value is not None}


def _in_dtype(update: Update, dtype: torch.dtype) -> Update:
    down, up, values = (part.detach().to(dtype) for part in (update.down, update.up, update.values))
    return Update(down, up, update.positions, values, update.scale)
