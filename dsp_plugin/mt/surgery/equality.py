"""Is an exported translation model the masked one? Both score the same sentence pairs, token by token."""

import glob
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Optional

import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import collate_tokens
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import Tensor, nn

from ... import register
from ...gating import FixedGates
from ...records.certificate import Certificate
from ..training.dictionaries import check_dictionaries
from ..translate.translate import translation_task
from .pruning import CheckpointModel, remove_heads

TOLERANCE = 1e-4  # of a log probability; both models work in float32
_SPECIAL = 4  # <s>, <pad>, </s>, <unk>


@dataclass
class Pair:
    """A sentence and its translation as token numbers, both with the end mark."""

    source: list[int]
    target: list[int]


def task_and_pairs(
    tensors: dict[str, Tensor],
    cfg: dict[str, Any],
    data: Optional[str],
    subset: Optional[str],
    limit: int,
    words_needed: bool,
) -> tuple[Any, list[Pair], str]:
    """Find what two models are compared on: text of the binarised data where it is there, or random tokens.

    Args:
        tensors, cfg: of the checkpoint.
        data: the folder; None for the one the checkpoint was trained on.
        subset: one of its sets; None for `valid` if it has that.
        limit: pairs of it.
        words_needed: the dictionaries' words matter, not only how many there are.

    Returns:
        The task with its dictionaries, the pairs, and what they are in words.

    Raises:
        FileNotFoundError: no such folder or subset, or no folder where the words are needed.
    """
    options = cfg.get("task") or {}
    folder = data or options.get("data") or ""
    first = folder.split(os.pathsep)[0]
    # A folder that was asked for is looked into, whatever is in it. One that the checkpoint remembers, often
    # by a relative path, may be another of that name here.
    if not (os.path.isdir(first) if data else _is_prepared(first)):
        if data:
            raise FileNotFoundError(f"--data {data}: no such folder")
        if words_needed or subset:
            where = (
                f"{folder}, where the checkpoint was trained, has no prepared data here"
                if folder
                else "the checkpoint does not name it"
            )
            raise FileNotFoundError(
                f"the binarised data is needed for its dictionaries and text ({where}): give --data FOLDER"
            )
        task = placeholder_task(tensors)
        return task, random_pairs(task), "random tokens"
    task = translation_task(folder, None, options.get("source_lang"), options.get("target_lang"))
    wanted = subset or "valid"
    try:
        task.load_dataset(wanted)
    except FileNotFoundError:
        if subset is not None:
            raise FileNotFoundError(f"--gen-subset {subset}: {folder} has no such set") from None
        return task, random_pairs(task), "random tokens"
    return task, text_pairs(task.dataset(wanted), limit), f"{wanted} (real text of the data folder)"


def _is_prepared(folder: str) -> bool:
    return bool(glob.glob(os.path.join(glob.escape(folder), "dict.*.txt")))


def text_pairs(dataset, limit: int) -> list[Pair]:
    """Return the first pairs of a loaded subset with targets."""
    rows = (dataset[number] for number in range(min(limit, len(dataset))))
    return [Pair(row["source"].tolist(), row["target"].tolist()) for row in rows]


def random_pairs(task, count: int = 8, longest: int = 9) -> list[Pair]:
    """Draw pairs of random tokens, for models without text."""
    draw = random.Random(1)

    def sentence(words: Dictionary) -> list[int]:
        return [draw.randrange(_SPECIAL, len(words)) for _ in range(draw.randint(1, longest))] + [words.eos()]

    if min(len(task.source_dictionary), len(task.target_dictionary)) <= _SPECIAL:
        raise ValueError("the dictionaries have no words, so there is nothing to compare the models on")
    return [Pair(sentence(task.source_dictionary), sentence(task.target_dictionary)) for _ in range(count)]


def placeholder_task(tensors: dict[str, Tensor]) -> Any:
    """Make what fairseq builds a model by without data: dictionaries of the embeddings' sizes."""
    words = {}
    for side in ("encoder", "decoder"):
        words[side] = Dictionary()
        for number in range(tensors[f"{side}.embed_tokens.weight"].shape[0] - _SPECIAL):
            words[side].add_symbol(f"token{number}")
    return SimpleNamespace(source_dictionary=words["encoder"], target_dictionary=words["decoder"])


def model_of(state: dict[str, Any], task: Any) -> nn.Module:
    """Return the model of a checkpoint as surgery writes it, in float32 and `eval()`.

    Raises:
        ValueError: the model was trained with other dictionaries, or the tensors do not fit the options.
    """
    register()
    for side, words in (("encoder", task.source_dictionary), ("decoder", task.target_dictionary)):
        rows = state["model"][f"{side}.embed_tokens.weight"].shape[0]
        if rows != len(words):
            raise ValueError(
                f"the {side}'s dictionary has {len(words)} words and the checkpoint {rows}: it "
                "is of other data"
            )
    if not isinstance(task, SimpleNamespace):  # no placeholder: real words
        check_dictionaries(state.get("task_state"), task, "the model")
    model = build_model(OmegaConf.create(state["cfg"]["model"]), task, from_checkpoint=True)
    try:
        model.load_state_dict(state["model"], strict=True)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint's tensors do not fit its options ({error})") from error
    return model.float().eval().requires_grad_(False)


def masked_model(source: CheckpointModel, keep: Tensor, task: Any) -> nn.Module:
    """Return the checkpoint's model with all the heads it has, those that are not kept multiplied by 0."""
    model = model_of(remove_heads(source, torch.ones_like(keep)).state, task)
    model.add_gates(FixedGates(keep), rate=None, joint=True)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def target_log_probs(
    model: nn.Module, task: Any, pairs: Sequence[Pair], batch_size: int = 16
) -> list[Tensor]:
    """Return the log probability of every target token given those before it: [target length] a pair."""
    found: list[Tensor] = []
    pad, eos = task.source_dictionary.pad(), task.target_dictionary.eos()
    for start in range(0, len(pairs), batch_size):
        part = pairs[start : start + batch_size]
        sources = [torch.tensor(pair.source) for pair in part]
        targets = [torch.tensor(pair.target) for pair in part]
        lengths = torch.tensor([len(source) for source in sources])
        before = collate_tokens(targets, pad, eos, left_pad=False, move_eos_to_beginning=True)
        logits = model(collate_tokens(sources, pad, left_pad=True), lengths, before)[0]
        scores = torch.log_softmax(logits.float(), dim=-1)
        # each [T, V] -> [T, 1] -> [T]
        found += [scores[i, : len(t)].gather(1, t[:, None])[:, 0] for i, t in enumerate(targets)]
    return found


def certificate_of(
    expected: Sequence[Tensor], found: Sequence[Tensor], data: str, extra: Optional[dict[str, Any]] = None
) -> Certificate:
    """Compare the log probabilities of the same tokens by two models.

    Raises:
        ValueError: they are not of the same tokens.
    """
    if [len(scores) for scores in expected] != [len(scores) for scores in found]:
        raise ValueError("the exported model has scored other tokens than it was given")
    one, two = torch.cat(list(expected)).double(), torch.cat(list(found)).double()
    return Certificate(
        largest_difference=float((one - two).abs().max()),
        largest_output=float(one.abs().max()),
        tolerance=TOLERANCE * max(1.0, float(one.abs().max())),
        tokens=one.numel(),
        sequences=len(expected),
        outputs=["log_probs"],
        dtype="float32",
        data=data,
        extra=extra or {},
    )
