"""What starts from the base of a diff on fairseq: a model in training, and one that a pack is put into."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Optional

from torch import Tensor, nn

from ...artefacts.base import tensors_of
from ...diffs import DiffPack, DiffVector, SparseDiff
from ...options.errors import OptionError
from ..surgery.base_checkpoint import BaseCheckpoint, read_base

__all__ = [
    "BaseCheckpoint",
    "DiffStart",
    "apply_when_loaded",
    "check_pack",
    "read_base",
    "read_pack",
    "start_from",
    "start_of",
    "starts_elsewhere",
]

logger = logging.getLogger(__name__)


def starts_elsewhere(option: str) -> OptionError:
    """Make the error for an option that would let a diff start from another model than its base."""
    reason = "cannot be given: a diff starts from {}, and goes on from {}"
    return OptionError(option, reason, "base_checkpoint", "save_dir")


@dataclass
class DiffStart:
    """All that an optimizer needs to train a diff of a model; it hangs on the parameters that it is given.

    Attributes:
        model: as it was built.
        base: the base's weights by name, tied ones once.
        mask: where there is one, the diff whose positions alone are trained.
        vector: the diff in training, once there is an optimizer.
    """

    model: nn.Module
    base: dict[str, Tensor]
    mask: Optional[SparseDiff] = None
    vector: Optional[DiffVector] = None


def start_from(model: nn.Module, mask: Optional[SparseDiff] = None) -> DiffStart:
    """Take down a model's weights as they are now as its base; optimizers of diffs find them (`start_of`).

    With a mask, parameters without a kept position stop asking for gradients: before the model is wrapped for
    several processes, which wait for the gradients of all that ask.
    """
    base = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    start = DiffStart(model, base, mask)
    for name, parameter in model.named_parameters():
        parameter.diff_start = start
        if mask is not None:
            parameter.requires_grad_(name in mask.entries and mask.entries[name][0].numel() > 0)
    return start


def start_of(parameters: Iterable[Tensor], optimizer: str) -> DiffStart:
    """Return the start that `start_from` has left on parameters.

    Raises:
        ValueError: there is none.
    """
    start = next((p.diff_start for p in parameters if hasattr(p, "diff_start")), None)
    if start is None:
        reason = f"{optimizer} needs {{}} diff_translation and {{}} FILE"
        raise OptionError("optimizer", reason, "task", "base_checkpoint")
    return start


def read_pack(path: str, option: str) -> DiffPack:
    """Read the pack that an option names.

    Raises:
        FileNotFoundError, ValueError: no such file, a damaged one, one of a newer format; names the option.
    """
    try:
        return DiffPack.load(path)
    except FileNotFoundError:
        raise FileNotFoundError(f"{option} {path}: no such file") from None
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from error  # it names the file


def check_pack(
    pack: DiffPack, model: nn.Module | Mapping[str, Tensor], path: str, option: str, base: str
) -> None:
    """Compare a pack's base with a model.

    Raises:
        ValueError: it is another; names the option and the base.
    """
    tensors = tensors_of(model)
    try:
        pack.base.check(tensors, pack.base.find(tensors))
    except ValueError as error:
        raise ValueError(f"{option} {path} does not fit {base}: {error}") from error


def apply_when_loaded(model: nn.Module, pack: DiffPack, path: str) -> None:
    """Put a pack into a model as soon as its weights have been loaded.

    Raises, from `load_state_dict`:
        ValueError: they are not those of the pack's base; they stay as they were loaded.
    """

    def apply(*_) -> None:
        check_pack(pack, model, path, "--diff-pack", "the model of --path")
        pack.apply(model, check=False)
        logger.info(f"--diff-pack {path}: {pack.count} of {pack.base.total} weights changed")

    model.register_load_state_dict_post_hook(apply)
