"""Translation scores: corpus BLEU by sacreBLEU, always with its signature; detokenising by sacremoses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU


class Score(TypedDict):
    value: float
    signature: str


def bleu(
    hypotheses: Sequence[str], references: Sequence[str], lowercase: bool = False, tokenize: str = "13a"
) -> Score:
    """Score detokenised lines against one reference a line: corpus BLEU, 0..100.

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
    metric = _checked_bleu(hypotheses, references, lowercase, tokenize)
    score = metric.corpus_score(list(hypotheses), [list(references)]).score
    return {"value": score, "signature": str(metric.get_signature())}


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[str], lowercase: bool = False, tokenize: str = "13a"
) -> list[list[int]]:
    """Return sacreBLEU's statistics of each sentence, which a significance test needs in the place of texts.

    Args:
        hypotheses, references, lowercase, tokenize: as for `bleu`; S sentences.

    Returns:
        [S, 10]: length of the translation, length of the reference, matching n-grams for n = 1..4, all
        n-grams of the translation for n = 1..4. Their sum over the sentences gives the score of `bleu`.

    Raises:
        ValueError: as `bleu`.
    """
    metric = _checked_bleu(hypotheses, references, lowercase, tokenize)
    # not public, but what sacreBLEU's own PairedTest calls
    return metric._extract_corpus_statistics(list(hypotheses), [list(references)])


def _checked_bleu(
    hypotheses: Sequence[str], references: Sequence[str], lowercase: bool, tokenize: str
) -> BLEU:
    from sacrebleu.metrics import BLEU  # here, because it takes a while to load

    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ValueError("hypotheses and references must be lists of lines, not one text")
    if len(hypotheses) != len(references):
        raise ValueError(f"cannot score {len(hypotheses)} translations against {len(references)} references")
    if not hypotheses:
        raise ValueError("cannot score: there are no translations")
    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(f"no tokeniser {tokenize!r}; choose from: {', '.join(sorted(BLEU.TOKENIZERS))}")
    return BLEU(lowercase=lowercase, tokenize=tokenize)


def detokenize(lines: Iterable[str], lang: str) -> list[str]:
    """Undo Moses tokenisation (sacremoses) of lines without BPE marks, the way fairseq's "moses" does.

    Args:
        lines: blank-separated tokens.
        lang: language code, for example "en" or "de".
    """
    from sacremoses import MosesDetokenizer

    detokenizer = MosesDetokenizer(lang=lang)
    return [detokenizer.detokenize(line.split()) for line in lines]
