"""Checkpoints as data: torch loads them weights-only, with the few types fairseq's own files hold.

Nothing here turns `weights_only` off: a file that needs any other type is refused by torch before
anything in it runs.
"""

import argparse
import os
import pickle
import re
from typing import Any, BinaryIO, Dict, Mapping

import numpy as np
import torch

from ..reports.torch_zip import entries_of_torch_zip, starts_as_zip
from ..reports.files import replacing


def allow_fairseq_types() -> None:
    """Let weights-only loading read what fairseq's Trainer saves. Safe to call again.

    The list: argparse.Namespace (options of old checkpoints) and NumPy's scalars, arrays and plain
    number dtypes (meters, best scores). On torch < 2.4, which has no such list, there is nothing to do.
    """
    add_safe_globals = getattr(torch.serialization, "add_safe_globals", None)
    if add_safe_globals is None:
        return
    core = getattr(np, "_core", None) or np.core
    numpy_types = [core.multiarray.scalar, core.multiarray._reconstruct, np.dtype, np.ndarray]
    number_types = [type(np.dtype(code)) for code in ("f8", "f4", "i8", "i4", "?", "O")]
    add_safe_globals([argparse.Namespace, *numpy_types, *number_types])
    # files written under NumPy 1 name the same functions by their old module
    add_safe_globals(
        [
            (core.multiarray.scalar, "numpy.core.multiarray.scalar"),
            (core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),
        ]
    )


def load_checkpoint(path: str, with_options: bool = True) -> Dict[str, Any]:
    """A fairseq checkpoint as a dictionary of tensors and plain values, on the CPU.

    Args:
        with_options: hold its options to what is declared (see checkpoint_options.py), without which no model may be
            built from them. False: for a program that only writes them back.

    Raises:
        FileNotFoundError: no such file.
        ValueError: the file is damaged, is no fairseq checkpoint, holds anything but data, or options that are refused.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no checkpoint at {path}")
    with open(path, "rb") as file:
        return read_checkpoint(file, path, with_options)


def read_checkpoint(file: BinaryIO, path: str, with_options: bool = True) -> Dict[str, Any]:
    """As `load_checkpoint`, from an open file; `path` is for messages."""
    allow_fairseq_types()
    try:
        if starts_as_zip(file):
            entries_of_torch_zip(file, path)
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own first line advises to turn the protection off: show only what was met
        met = re.search(r"(?:GLOBAL|[Uu]nsupported|[Uu]nrecognized) .*", str(error))
        raise ValueError(
            f"{path} is refused: it holds more than data, or is damaged ({met.group() if met else 'unreadable pickle'})"
        ) from None
    except Exception as error:  # damaged bytes can raise anything
        raise ValueError(f"{path} is not a readable checkpoint ({first_line(error)})") from error
    if not isinstance(state, dict) or not isinstance(state.get("model"), dict):
        raise ValueError(f"{path} is not a fairseq checkpoint: it has no 'model' entry")
    if with_options:
        from .checkpoint_options import check_options

        check_options(state, path)
    return state


def save_checkpoint(state: Dict[str, Any], path: str) -> None:
    """Write a checkpoint whole or not at all (see `reports.files.replacing`): a full disk leaves the old file whole.

    Raises:
        OSError: the file cannot be written; nothing is left behind.
    """
    try:
        with replacing(path) as temporary:
            torch.save(state, temporary)
    except (OSError, RuntimeError) as error:
        raise OSError(f"cannot write {path}: {first_line(error)}") from error


def model_options(state: Dict[str, Any]) -> Dict[str, Any]:
    """The options of the checkpoint's model as a flat dictionary, old (`args`) or new (`cfg`) format.

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
    differing = [
        f"{name}: {trained[name]} there, {wanted[name]} here"
        for name in _SIZES
        if name in trained and name in wanted and trained[name] != wanted[name]
    ]
    if differing:
        raise ValueError(
            f"{path} holds a model of another architecture ({'; '.join(differing)}): "
            "give the --arch and the sizes it was trained with"
        )


def first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
