"""Translations as token lists, for comparing models rather than for reading; in any precision."""

from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Optional

import torch
from fairseq import checkpoint_utils, utils
from fairseq.tasks.translation import TranslationConfig
from torch import nn

from ... import register
from ..training.checked_task import CheckedTranslationTask


@dataclass
class Translation:
    """The best hypothesis of one sentence: its tokens with the end mark, and their mean log probability."""

    tokens: list[int]
    score: float


def translation_task(
    data: str, subset: Optional[str], source_lang: Optional[str] = None, target_lang: Optional[str] = None
):
    """Set up fairseq's stock translation task on a data-bin folder, `subset` (if any) loaded.

    Raises:
        FileNotFoundError: no such folder or subset.
    """
    register()
    config = TranslationConfig(
        data=data,
        source_lang=source_lang,
        target_lang=target_lang,
        # elsewhere these name other options
        dataset_impl=None,
        train_subset="train",
        required_seq_len_multiple=1,
    )
    task = CheckedTranslationTask.setup_task(config)
    if subset is not None:
        task.load_dataset(subset)
    return task


def load_model(path: str, task, overrides: Optional[dict[str, Any]] = None) -> nn.Module:
    """Load a checkpoint's model by fairseq's own loader; `overrides` as `--model-overrides`."""
    models, _ = checkpoint_utils.load_model_ensemble([path], arg_overrides=overrides, task=task)
    return models[0].eval()


@torch.no_grad()
def translate(
    model: nn.Module,
    task,
    subset: str,
    limit: Optional[int] = None,
    beam: int = 5,
    batch_size: int = 64,
    **search: Any,
) -> list[Translation]:
    """Translate the first `limit` sentences of a loaded subset, in its order.

    Args:
        model: on any device and in any precision; like fairseq's own program, this prepares it for
            generation.
        search: more of fairseq's generation options by name, such as max_len_a and max_len_b.
    """
    model.make_generation_fast_(beamable_mm_beam_size=None if beam == 1 else beam, need_attn=False)
    generator = task.build_generator([model], Namespace(beam=beam, **search))
    device = next(model.parameters()).device
    found: dict[int, Translation] = {}
    for sample in _batches(task.dataset(subset), limit, batch_size):
        sample = utils.move_to_cuda(sample, device) if device.type == "cuda" else sample
        for number, hypotheses in zip(sample["id"].tolist(), generator.generate([model], sample)):
            found[number] = Translation(hypotheses[0]["tokens"].tolist(), float(hypotheses[0]["score"]))
    return [found[number] for number in sorted(found)]


def _batches(dataset, limit: Optional[int], batch_size: int) -> Iterator[dict[str, Any]]:
    """Make batches of sentences of similar length, so that little is padded."""
    count = len(dataset) if limit is None else min(limit, len(dataset))
    order = sorted(range(count), key=dataset.size)
    for start in range(0, count, batch_size):
        yield dataset.collater([dataset[number] for number in order[start : start + batch_size]])
