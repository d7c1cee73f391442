"""Checkpoints as data: read weights-only, whole and undamaged, with options that no program is made of.

Nothing here turns `weights_only` off: a file that needs any other type than fairseq's own files hold is
refused before anything in it runs.
"""

import argparse
import os
from collections.abc import Mapping
from typing import Any, BinaryIO

import torch

from ...records.files.torch_data import load_torch_data
from ...records.files.whole import replacing
from ...records.settings import other_settings


def load_checkpoint(path: str, with_options: bool = True) -> dict[str, Any]:
    """Read a fairseq checkpoint as a dictionary of tensors and values of built-in types, on the CPU.

    Args:
        with_options: hold its options to what is declared (see options.py), without which no model
            may be built from them. False: for a program that only writes them back.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, is no fairseq checkpoint, holds anything but data, or options that
            are refused.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    with open(path, "rb") as file:
        return read_checkpoint(file, path, with_options)


def read_checkpoint(file: BinaryIO, path: str, with_options: bool = True) -> dict[str, Any]:
    """Read a checkpoint from an open file, as `load_checkpoint` does; `path` is for messages."""
    state = load_torch_data(file, path)
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise ValueError(f"{path} is not a fairseq checkpoint: it has no 'model' entry")
    if with_options:
        from .options import check_options

        check_options(state, path)
    return state


def save_checkpoint(state: dict[str, Any], path: str) -> None:
    """Write a checkpoint whole or not at all (see `replacing`): a full disk leaves the old file whole.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    try:
        with replacing(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:
        raise OSError(f"cannot write {path}: {first_line(error)}") from error


def model_options(state: dict[str, Any]) -> dict[str, Any]:
    """Return the options of the checkpoint's model as a flat dictionary, old (`args`) or new (`cfg`) format.

    Raises:
        ValueError: the checkpoint has no options.
    """
    if state.get("cfg"):
        model = state["cfg"]["model"]
        return dict(vars(model)) if isinstance(model, argparse.Namespace) else dict(model)
    if state.get("args") is not None:
        return dict(vars(state["args"]))
    raise ValueError("the checkpoint holds no options (neither 'cfg' nor 'args')")


# options that shape a transformer's weights, or (heads, norms) what they compute
_SIZES = [
    f"{side}_{size}"
    for side in ("encoder", "decoder")
    for size in ("layers", "embed_dim", "ffn_embed_dim", "attention_heads", "normalize_before", "learned_pos")
]


def check_same_sizes(path: str, trained: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Compare the model in a checkpoint with the one asked for, by their options (those that both have).

    Raises:
        ValueError: they differ; names the options. Some differences (heads) would load without an error.
    """
    known = [name for name in _SIZES if name in trained and name in wanted]
    if differing := other_settings(trained, wanted, known):
        raise ValueError(
            f"{path} holds a model of another architecture ({'; '.join(differing)}): "
            "give the --arch and the sizes it was trained with"
        )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
