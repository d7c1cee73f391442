"""Translation scores: corpus BLEU by sacreBLEU, always with its signature; detokenising by sacremoses."""

from __future__ import annotations

from typing import Iterable, Sequence, TypedDict


class Score(TypedDict):
    value: float
    signature: str


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], lowercase: bool = False, tokenize: str = "13a"
) -> Score:
    """Corpus BLEU (0..100) of detokenised lines against one reference a line.

    Args:
        hypotheses: S detokenised translations.
        references: their S references.
        lowercase: score without case.
        tokenize: sacreBLEU's own tokeniser; "none" for text that is tokenised already.

    Returns:
        {"value": BLEU, "signature": sacreBLEU's signature, such as "nrefs:1|case:mixed|eff:no|tok:13a|..."}

    Raises:
        ValueError: nothing to score, line counts differ, or no such tokeniser.
    """
    from sacrebleu.metrics import BLEU  # here, because it takes a while to load

    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ValueError("hypotheses and references must be lists of lines, not one text")
    if len(hypotheses) != len(references):
        raise ValueError(f"cannot score {len(hypotheses)} translations against {len(references)} references")
    if not hypotheses:
        raise ValueError("cannot score: there are no translations")
    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"no tokeniser {tokenize!r}; choose from: {', '.join(sorted(BLEU.TOKENIZERS))}")
    metric = BLEU(lowercase=lowercase, tokenize=tokenize)
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return {"value": score, "signature": str(metric.get_signature())}


def detokenize(lines: Iterable[str], lang: str) -> list[str]:
    """Undoes Moses tokenisation (sacremoses) of lines without BPE marks, the way fairseq's "moses" does.

    Args:
        lines: blank-separated tokens.
        lang: language code, for example "en" or "de".
    """
    from sacremoses import MosesDetokenizer

    detokenizer = MosesDetokenizer(lang=lang)
    return [detokenizer.detokenize(line.split()) for line in lines]
