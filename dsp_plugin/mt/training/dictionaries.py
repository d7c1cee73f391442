"""Whether a model and a folder mean the same words by their numbers; fairseq only compares how many."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Optional

DICTIONARIES = "dsp_dictionaries"
"""Key in a checkpoint's task state: {"source": fingerprint, "target": fingerprint}; fairseq's own tasks read
over it."""


def dictionaries_of(task: Any) -> dict[str, str]:
    """Fingerprint a translation task's dictionaries: their words in their order, without counts."""
    sides = {"source": task.source_dictionary, "target": task.target_dictionary}
    return {
        side: hashlib.sha256("\n".join(words.symbols).encode()).hexdigest()[:16]
        for side, words in sides.items()
    }


def check_dictionaries(task_state: Optional[Mapping[str, Any]], task: Any, model: str) -> None:
    """Compare a checkpoint's dictionaries with those of a task. Earlier checkpoints say nothing of them.

    Args:
        task_state: the checkpoint's entry of that name.
        model: what to call the checkpoint.

    Raises:
        ValueError: they differ; a translation would be other words than the model's.
    """
    trained = (task_state or {}).get(DICTIONARIES)
    if not trained:
        return
    here = dictionaries_of(task)
    differing = [side for side in here if side in trained and trained[side] != here[side]]
    if differing:
        config = getattr(task, "cfg", None)
        langs = {
            "source": getattr(config, "source_lang", None),
            "target": getattr(config, "target_lang", None),
        }
        files = " and ".join(f"dict.{langs[side] or side}.txt" for side in differing)
        raise ValueError(
            f"{model} was trained with another dictionary than {files} of "
            f"{getattr(config, 'data', 'the data')}: other words, or the same in another order. Binarise the "
            "text with the dictionaries of its own data (data-prep/binarise.py --dictionaries, "
            "fairseq-preprocess --srcdict and --tgtdict)"
        )
