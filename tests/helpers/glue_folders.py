"""Small generated data in the official formats of GLUE and SQuAD, easy to learn: a word decides the label."""

from __future__ import annotations

import json
import random
from pathlib import Path

SUBJECTS = ["the sailor", "a child", "my neighbour", "the old dog", "every teacher"]
VERBS = ["sees", "likes", "finds", "follows", "remembers"]
# One word each for label 0, 1, 2.
SIGNS = ["nothing", "everything", "something"]

PARSES = ("sentence1_binary_parse", "sentence2_binary_parse", "sentence1_parse", "sentence2_parse")
MNLI_TEST = ("index", "promptID", "pairID", "genre", *PARSES, "sentence1", "sentence2")
STSB_TEST = (
    "index",
    "genre",
    "filename",
    "year",
    "old_index",
    "source1",
    "source2",
    "sentence1",
    "sentence2",
)
# folder: file -> (header as GLUE publishes it, None for CoLA's headless files)
LAYOUTS = {
    "CoLA": {"train.tsv": None, "dev.tsv": None, "test.tsv": ("index", "sentence")},
    "SST-2": {
        "train.tsv": ("sentence", "label"),
        "dev.tsv": ("sentence", "label"),
        "test.tsv": ("index", "sentence"),
    },
    "MRPC": {
        "train.tsv": ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
        "dev.tsv": ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
        "test.tsv": ("index", "#1 ID", "#2 ID", "#1 String", "#2 String"),
    },
    "STS-B": {"train.tsv": (*STSB_TEST, "score"), "dev.tsv": (*STSB_TEST, "score"), "test.tsv": STSB_TEST},
    "QQP": {
        "train.tsv": ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        "dev.tsv": ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
        "test.tsv": ("id", "question1", "question2"),
    },
    "MNLI": {
        "train.tsv": (*MNLI_TEST, "label1", "gold_label"),
        "dev_matched.tsv": (*MNLI_TEST, "label1", "label2", "label3", "label4", "label5", "gold_label"),
        "dev_mismatched.tsv": (*MNLI_TEST, "label1", "label2", "label3", "label4", "label5", "gold_label"),
        "test_matched.tsv": MNLI_TEST,
        "test_mismatched.tsv": MNLI_TEST,
    },
    "QNLI": {
        "train.tsv": ("index", "question", "sentence", "label"),
        "dev.tsv": ("index", "question", "sentence", "label"),
        "test.tsv": ("index", "question", "sentence"),
    },
    **{
        name: {
            "train.tsv": ("index", "sentence1", "sentence2", "label"),
            "dev.tsv": ("index", "sentence1", "sentence2", "label"),
            "test.tsv": ("index", "sentence1", "sentence2"),
        }
        for name in ("RTE", "WNLI")
    },
}
LABEL_COLUMNS = ("label", "gold_label", "Quality", "score", "is_duplicate")
LABELS = {
    "MNLI": ("entailment", "neutral", "contradiction"),
    "QNLI": ("entailment", "not_entailment"),
    "RTE": ("entailment", "not_entailment"),
    "STS-B": ("0.000", "2.500", "5.000"),
}


def write_task(folder: Path, name: str, train: int = 12, dev: int = 6, seed: int = 1) -> list[dict[str, str]]:
    """Write all files of the task `name` (as in LAYOUTS) into `folder`; a dev and a test file have `dev`
    rows each.

    Returns: the training rows: `label` as it is written, `first`, and `second` in tasks of pairs.
    """
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    labels = LABELS.get(name, ("0", "1"))
    kept: list[dict[str, str]] = []
    for file, header in LAYOUTS[name].items():
        rows = []
        for number in range(train if file == "train.tsv" else dev):
            label = number % len(labels)
            subject, verb, other = rng.choice(SUBJECTS), rng.choice(VERBS), rng.choice(VERBS)
            # the quotes are unbalanced, as in the official files
            row = {
                "label": labels[label],
                "first": f'{subject} {verb} " {SIGNS[label]} .',
                "second": f"{subject} {other} {SIGNS[label]} .",
            }
            rows.append(row)
        if file == "train.tsv":
            kept = rows
        lines = [] if header is None else ["\t".join(header)]
        lines += [_line(header, number, row) for number, row in enumerate(rows)]
        mark = "\ufeff" if name == "MRPC" and file != "test.tsv" else ""
        (folder / file).write_text(mark + "\n".join(lines) + "\n", encoding="utf-8")
    return kept


def _line(header: tuple[str, ...] | None, number: int, row: dict[str, str]) -> str:
    if header is None:
        return "\t".join(["gj04", row["label"], "" if row["label"] == "1" else "*", row["first"]])
    pair = [column for column in header if column in ("sentence1", "question1", "question", "#1 String")]
    cells = []
    for column in header:
        if column in LABEL_COLUMNS:
            cells.append(row["label"])
        elif column in ("index", "id"):
            cells.append(str(number))
        elif column in pair or (column == "sentence" and not pair):
            cells.append(row["first"])
        elif column in ("sentence2", "question2", "#2 String", "sentence"):
            cells.append(row["second"])
        else:
            cells.append(f"{column}-{number}")
    return "\t".join(cells)


def write_squad(path: Path, paragraphs: int = 3, sentences: int = 4, seed: int = 1) -> dict:
    """Write a SQuAD v1.1 file: `Who V nothing ?` is answered by the subject of that verb's sentence.
    Returns it.
    """
    rng = random.Random(seed)
    content: dict = {"data": [], "version": "1.1"}
    for number in range(paragraphs):
        subjects, verbs = rng.sample(SUBJECTS, min(sentences, 5)), rng.sample(VERBS, min(sentences, 5))
        context = " ".join(
            f"{subject.capitalize()} {verb} nothing." for subject, verb in zip(subjects, verbs)
        )
        questions = []
        for place, (subject, verb) in enumerate(zip(subjects, verbs)):
            answer = subject.capitalize()
            start = context.index(f"{answer} {verb}")
            short = {
                "text": answer.split(" ", 1)[1],
                "answer_start": start + len(answer.split(" ", 1)[0]) + 1,
            }
            questions.append(
                {
                    "id": f"q{number}-{place}",
                    "question": f"Who {verb} nothing?",
                    "answers": [{"text": answer, "answer_start": start}, short],
                }
            )
        content["data"].append(
            {"title": f"t{number}", "paragraphs": [{"context": context, "qas": questions}]}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return content
