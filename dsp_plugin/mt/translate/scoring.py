"""BLEU of a model in memory, worked out as `generate_dsp.py` does for a checkpoint."""

from typing import Any, Optional

from torch import nn

from ...records.bleu import Score, bleu, detokenize
from .translate import translate


def score_model(
    model: nn.Module, task, subset: str, post_process: Optional[str] = None, detok: bool = True, **search: Any
) -> Score:
    """Score a model's translations of a loaded subset by sacreBLEU, with its signature.

    Args:
        model: prepared for generation by this.
        post_process: how to join subwords, as fairseq's --remove-bpe; None leaves them.
        detok: undo Moses tokenisation first.
        search: see `translate.translate`.
    """
    words, dataset = task.target_dictionary, task.dataset(subset)
    found = translate(model, task, subset, **search)
    hypotheses: list[str] = [words.string(translation.tokens, post_process) for translation in found]
    targets = (dataset[i]["target"] for i in range(len(dataset)))
    references = [words.string(target, post_process, escape_unk=True) for target in targets]
    if detok:
        hypotheses, references = (
            detokenize(hypotheses, task.cfg.target_lang),
            detokenize(references, task.cfg.target_lang),
        )
    return bleu(hypotheses, references)
