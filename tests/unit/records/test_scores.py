"""BLEU against its definition, worked out here; detokenising."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from dsp_plugin.records.bleu import bleu, bleu_statistics, detokenize

HYPOTHESES = ["the black cat sat on the mat .", "there is a small dog here"]
REFERENCES = ["the black cat is on the mat .", "there is a small dog in here"]


def bleu_by_definition(hypotheses, references) -> float:
    """Papineni et al. (2002): brevity penalty times the geometric mean of clipped n-gram precisions, n =
    1..4.
    """
    log_precision, lengths = 0.0, [0, 0]
    for n in range(1, 5):
        matched = total = 0
        for hypothesis, reference in zip(hypotheses, references):
            grams = [
                Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
                for words in (hypothesis.split(), reference.split())
            ]
            matched += sum((grams[0] & grams[1]).values())
            total += sum(grams[0].values())
        log_precision += math.log(matched / total) / 4
    lengths = [sum(len(line.split()) for line in lines) for lines in (hypotheses, references)]
    penalty = min(0.0, 1 - lengths[1] / lengths[0])
    return 100 * math.exp(log_precision + penalty)


def test_bleu_is_its_definition_with_a_signature():
    score = bleu(HYPOTHESES, REFERENCES, tokenize="none")
    assert score["value"] == pytest.approx(bleu_by_definition(HYPOTHESES, REFERENCES), abs=1e-9)
    assert score["signature"].startswith("nrefs:1|case:mixed|eff:no|tok:none|smooth:exp|version:")


def test_several_references_a_line_count_whichever_is_met():
    several = [[line, line] for line in REFERENCES]
    one, two = bleu(HYPOTHESES, REFERENCES), bleu(HYPOTHESES, several)
    assert one["value"] == pytest.approx(two["value"]) and two["signature"].startswith("nrefs:2|")
    uneven = bleu(HYPOTHESES, [[REFERENCES[0], HYPOTHESES[0]], [HYPOTHESES[1]]])
    assert uneven["value"] == pytest.approx(100) and uneven["signature"].startswith("nrefs:var|")
    assert bleu_statistics(HYPOTHESES, several) == bleu_statistics(HYPOTHESES, REFERENCES)


def test_bleu_tokenises_and_can_ignore_case():
    shouted = [line.upper() for line in REFERENCES]
    attached = [line.replace(" .", ".") for line in REFERENCES]
    assert bleu(attached, REFERENCES)["value"] == pytest.approx(100)
    assert bleu(shouted, REFERENCES)["value"] < 50
    lowered = bleu(shouted, REFERENCES, lowercase=True)
    assert lowered["value"] == pytest.approx(100)
    assert "case:lc" in lowered["signature"] and "tok:13a" in lowered["signature"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((["a"], ["a", "b"]), "1 translations against 2 references"),
        (([], []), "no translations"),
        (("a", "a"), "lists of lines"),
        ((["a", "b"], [["a"], []]), "translation 2 has no reference"),
        ((["a"], ["a"], False, "moses"), "choose from: 13a, char"),
    ],
)
def test_bleu_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        bleu(*arguments)


def test_detokenize():
    assert detokenize(["don &apos;t go , she said ."], "en") == ["don't go, she said."]
    assert detokenize(["ein Mann ( alt ) lacht !", ""], "de") == ["ein Mann (alt) lacht!", ""]
