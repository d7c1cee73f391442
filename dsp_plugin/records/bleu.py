"""Translation scores: corpus BLEU by sacreBLEU, always with its signature; detokenising by sacremoses."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from sacrebleu.metrics import BLEU


class Score(TypedDict):
    value: float
    signature: str


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    lowercase: bool = False,
    tokenize: str = "13a",
) -> Score:
    """Score detokenised lines against one reference a line, or several: corpus BLEU, 0..100.

    Args:
        hypotheses: S detokenised translations.
        references: their S references; where lines have several, S lists of one or more, not of one length.
        lowercase: score without case.
        tokenize: sacreBLEU's own tokeniser; "none" for text that is tokenised already.

    Returns:
        {"value": BLEU, "signature": sacreBLEU's signature, such as "nrefs:1|case:mixed|eff:no|tok:13a|..."}
        ("nrefs:var" where lines differ in the number of their references)

    Raises:
        ValueError: nothing to score, line counts differ, a line without reference, or no such tokeniser.
    """
    metric = _checked_bleu(hypotheses, references, lowercase, tokenize)
    score = metric.corpus_score(list(hypotheses), _streams(references)).score
    return {"value": score, "signature": str(metric.get_signature())}


def bleu_statistics(
    hypotheses: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    lowercase: bool = False,
    tokenize: str = "13a",
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
    return metric._extract_corpus_statistics(list(hypotheses), _streams(references))


def _streams(references: Sequence[str] | Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Arrange references as sacreBLEU takes them: the first of every line, the second ...; None for none."""
    lines = [[line] if isinstance(line, str) else list(line) for line in references]
    return [list(stream) for stream in zip_longest(*lines)]


def _checked_bleu(
    hypotheses: Sequence[str],
    references: Sequence[str] | Sequence[Sequence[str]],
    lowercase: bool,
    tokenize: str,
) -> BLEU:
    from sacrebleu.metrics import BLEU  # here, because it takes a while to load

    if isinstance(hypotheses, str) or isinstance(references, str):
        raise ValueError("hypotheses and references must be lists of lines, not one text")
    if len(hypotheses) != len(references):
        raise ValueError(f"cannot score {len(hypotheses)} translations against {len(references)} references")
    if not hypotheses:
        raise ValueError("cannot score: there are no translations")
    for number, line in enumerate(references, start=1):
        if not line and not isinstance(line, str):  # an empty text is a reference
            raise ValueError(f"cannot score: translation {number} has no reference")
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
