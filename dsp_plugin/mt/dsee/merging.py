"""A file and its base as one plain model: a checkpoint of it, or while the base is loaded to translate."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...dsee.artefact import DseeFile
from ...options.faults import naming
from ...surgery import compose
from ..heads.feed_forward import NEURONS
from ..heads.gated_transformer import encode_kept_heads, head_map_of_options, whole_record
from ..surgery.base_checkpoint import BaseCheckpoint
from ..surgery.pruning import dsp_model_options, prepare
from .deployed import check_base, group_size, keep_of, merged_state

logger = logging.getLogger(__name__)


def merge_into(base: BaseCheckpoint, file: DseeFile, masked: bool | None = None) -> dict[str, Any]:
    """Return a checkpoint of the plain model that a base and a file make.

    Args:
        masked: see `deployed.merged_state`.

    Raises:
        ValueError: the file is of another base.
    """
    check_base(file, base.tensors)
    return merged_state(base.source, file, masked)


def options_after(given: Mapping[str, Any], file: DseeFile) -> dict[str, Any]:
    """Return the options of the model that a file makes of a base with the options `given`.

    Raises:
        ValueError: the base is of another kind of model, or lacks units that the file names.
    """
    options = dsp_model_options({"model": dict(given)})
    if file.kept is None:
        return options
    options[NEURONS] = group_size(file) or options.get(NEURONS)
    head_map = head_map_of_options(options)
    earlier = options.get("kept_heads")
    if earlier:
        earlier = whole_record(json.loads(earlier), head_map)
    record = compose(head_map, keep_of(head_map, file), earlier or None)
    return {**options, "kept_heads": encode_kept_heads(record)}


def merge_when_loaded(model: nn.Module, file: DseeFile, path: str, given: Mapping[str, Any]) -> None:
    """Put a file into a model, built by `options_after`, as soon as the base's weights are loaded into it.

    Args:
        path: of the file, for messages. given: the options of the base's model.

    Raises, from `load_state_dict`:
        ValueError: they are not those of the file's base.
    """

    def merge(module: nn.Module, tensors: dict[str, Any], *_: Any) -> None:
        with naming("--dsee-checkpoint", path):
            check_base(file, tensors)
            source = prepare({"cfg": {"model": dict(given)}, "model": dict(tensors)})
            merged = merged_state(source, file)["model"]
        tensors.clear()
        tensors.update(merged)
        logger.info(f"--dsee-checkpoint {path}: {len(file.updates)} updated matrices merged")

    model.register_load_state_dict_pre_hook(merge)
