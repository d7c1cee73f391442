"""What stock `fairseq-generate` prints, read back; our programs take the same from memory."""

from __future__ import annotations


def read_log(output: str) -> tuple[list[str], list[str]]:
    """Translations (the first D- of each sentence) and references (T-) of a log, by their numbers."""
    hypotheses: dict[int, str] = {}
    references: dict[int, str] = {}
    for line in output.split("\n"):
        number, _, content = line[2:].partition("\t")
        if line.startswith("T-"):
            references[int(number)] = content
        elif line.startswith("D-"):
            hypotheses.setdefault(int(number), content.partition("\t")[2])
    order = sorted(hypotheses)
    return [hypotheses[i] for i in order], [references[i] for i in order] if references else []
