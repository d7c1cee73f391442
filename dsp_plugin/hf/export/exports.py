"""Export of a Transformers folder to one that loads without this package, checked and certified."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from ...gating import FixedGates, HeadMap, check_budget, hard_topk
from ...options.errors import OptionError
from ...records.certificate import NAME, Certificate
from ...records.files.sealed_folder import LIST, warn_no_list
from ...records.files.whole import new_folder
from ...surgery import mask_of_record, read_mask, units_of_mask
from ..folders.hub_folders import Source, find_folder
from ..folders.pruned_folders import export_dense, load_model
from ..heads.gating import GATING, gate_heads
from ..heads.surgery.kept_heads import record_of
from ..heads.surgery.pruning import original_head_map
from ..heads.units import head_map_of
from ..probes.comparison import takes_text
from ..probes.sample_batches import sample_batches, text_batches
from .masked import pruned_and_masked
from .onnx_export import certify, export_onnx, finish_export

_TOKENIZER_FILES = tuple(
    "tokenizer.json tokenizer_config.json vocab.txt vocab.json spiece.model source.spm".split()
)
_BESIDE_TOKENIZER = ("merges.txt", "special_tokens_map.json", "added_tokens.json", "target.spm")


@dataclass
class Export:
    """The outcome of an export.

    Attributes:
        head_map: the N heads of the model before any removal.
        keep: bool [N], the heads that the export has.
        certificate: the comparison of its outputs with those of the masked model.
    """

    head_map: HeadMap
    keep: Tensor
    certificate: Certificate


def export_folder(
    folder: str | os.PathLike,
    out: str | os.PathLike,
    form: str,
    num_of_heads: int | None = None,
    mask: str | None = None,
    text: str | None = None,
) -> Export:
    """Export the model of a folder as "onnx" or "dense".

    Args:
        folder: the folder of a model, or a name on the hub; pruned, or with all its heads and `mask` or
            `num_of_heads` to say which of them to keep.
        out: folder to write, with the tokenizer, if there is one.
        form: "onnx" or "dense".
        num_of_heads: K, for a folder with head scores.
        mask: a file for the heads the model has now, see `read_mask`.
        text: file with sentences to check on, one a line; None for sentences of this package where there is a
            tokenizer, and random ids where there is none.

    Raises:
        FileNotFoundError, ValueError: the folder cannot be loaded, or does not say which heads to keep; see
            `export_onnx`.
    """
    source = find_folder(folder, {}, (*_TOKENIZER_FILES, *_BESIDE_TOKENIZER))
    model = load_source(source, num_of_heads, mask)
    tokenizer = tokenizer_of(source.folder)
    sentences = _lines(text) if text else None
    if sentences and tokenizer is None:
        raise OptionError("text", f"{text}: {folder} has no tokenizer to read it with")
    if sentences and not takes_text(model):
        raise OptionError("text", f"{text}: {type(model).__name__} does not take text alone")
    if tokenizer is None or not takes_text(model):
        batches, data = sample_batches(model), "random ids" if takes_text(model) else "random inputs"
    else:
        batches = text_batches(model, tokenizer, *([sentences] if sentences else []))
        data = f"{Path(text).name} (real text)" if text else "real text"
    write = {"onnx": export_onnx, "dense": export_dense_checked}[form]
    certificate = write(model, out, batches, data, tokenizer)
    pruned, _ = pruned_and_masked(model)
    head_map, record = original_head_map(pruned), record_of(pruned)
    all_heads = torch.ones(head_map.num_heads, dtype=torch.bool)
    return Export(head_map, all_heads if record is None else mask_of_record(record, head_map), certificate)


def export_dense_checked(
    model: PreTrainedModel,
    out: str | os.PathLike,
    batches: Sequence = (),
    data: str = "random ids",
    tokenizer: Any = None,
) -> Certificate:
    """Write a folder with `export_dense`, load it with stock `from_pretrained`, and certify its outputs.

    Arguments, returned value and errors are those of `export_onnx`.
    """
    with new_folder(out, NAME) as folder:
        export_dense(model, folder)
        stock = type(model).from_pretrained(folder).float()
        # not zeros in the place of removed heads, which would be this very export
        pruned, masked = pruned_and_masked(model)
        reference = pruned if record_of(model) is not None else masked
        certificate = certify(reference.float().cpu(), stock, batches or sample_batches(model), data)
        finish_export(folder, certificate, f"the dense export of {type(model).__name__}", tokenizer)
    return certificate


def load_source(
    folder: str | os.PathLike | Source, num_of_heads: int | None = None, mask: str | None = None
) -> PreTrainedModel:
    """Load the model of a folder in float32, gated by a fixed mask where `mask` or `num_of_heads` names one.

    Raises:
        OptionError: the folder has head scores and neither argument says how many to keep; or `num_of_heads`
            is given and it has none.
    """
    source = find_folder(folder, {})
    model, folder = load_model(source, dtype=torch.float32), source.folder
    if mask is not None:
        units = units_of_mask(mask)
        keep = torch.tensor(read_mask(mask, head_map_of(model, *units)))
        gate_heads(model, FixedGates(keep), 0, *units)
        return model
    head_map, scores = head_map_of(model), _scores(folder)
    if num_of_heads is not None:
        if scores is None or scores.numel() != head_map.num_heads:
            reason = f"{num_of_heads}: {folder} has no scores of its {head_map.num_heads} heads; "
            raise OptionError("num_of_heads", reason + "give {} FILE.json", "mask")
        keep = hard_topk(scores.float(), check_budget(num_of_heads, head_map.num_heads))
    elif scores is not None:
        reason = f"{folder} has head scores, but says not how many heads to keep"
        missing = f"K or {{}} FILE.json (a training leaves a mask.json) is missing: {reason}"
        raise OptionError("num_of_heads", missing, "mask")
    else:
        return model
    gate_heads(model, FixedGates(keep))
    return model


def tokenizer_of(folder: str | os.PathLike) -> Any | None:
    """Load the tokenizer of a folder; None where it has none.

    Raises:
        ValueError: its files cannot be read.
    """
    if not any((Path(folder) / name).is_file() for name in _TOKENIZER_FILES):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers library raises plain Exceptions
        reason = str(error).splitlines()[0]
        raise ValueError(f"the tokenizer of {folder} cannot be loaded: {reason}") from error


def _scores(folder: Path) -> Tensor | None:
    """Read the head scores that were saved with a gated model; None where there are none."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            # the names begin with the path of an inner model, if that was gated
            found = [name for name in file.keys() if f".{name}".endswith(f".{GATING}.gates.scores")]
            if len(found) > 1:
                reason = f"{folder} has head scores of several parts ({', '.join(sorted(found))})"
                raise OptionError("mask", f"FILE.json is missing: {reason}")
            for name in found:
                if not (folder / LIST).is_file():
                    warn_no_list(folder)
                return file.get_tensor(name)
    return None


def _lines(path: str) -> list[str]:
    try:
        lines = [line for line in Path(path).read_text("utf-8").split("\n") if line.strip()]
    except UnicodeDecodeError as error:
        raise OptionError("text", f"{path} is not UTF-8 ({error})") from error
    if not lines:
        raise OptionError("text", f"{path} has no sentence")
    return lines
