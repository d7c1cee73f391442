"""SQuAD v1.1: reading the official JSON, and its scores (Rajpurkar et al., 2016)."""

from __future__ import annotations

import os
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ...records.files.sealed import parse_json, read_bounded
from .data_error import DataError


class Answer(NamedTuple):
    text: str
    start: int  # character of the context


class Question(NamedTuple):
    id: str
    text: str
    context: str
    answers: tuple[Answer, ...]


def read_squad(path: str | os.PathLike, for_training: bool = False) -> list[Question]:
    """Read all questions of a SQuAD v1.1 file, in its order.

    for_training: each answer must also stand in its context where the file says.

    Raises:
        DataError: the file is missing, no JSON, or of another layout; the place is named as in
            `data[3].paragraphs[0].qas[2]`.
    """
    path = Path(path)
    try:
        content = parse_json(read_bounded(path).decode("utf-8-sig"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # JSONDecodeError names line and column; UnicodeDecodeError the byte
        raise DataError(f"{path} is damaged: {error}") from error

    questions, places = [], {}
    for article_place, article in _items(content, "data", str(path)):
        for paragraph_place, paragraph in _items(article, "paragraphs", article_place):
            context = _member(paragraph, "context", str, paragraph_place)
            for place, entry in _items(paragraph, "qas", paragraph_place):
                question = _question(entry, context, place, for_training)
                if question.id in places:
                    raise DataError(f"{place}: id {question.id!r} is that of {places[question.id]}, too")
                places[question.id] = place
                questions.append(question)
    if not questions:
        raise DataError(f"{path} has no questions")
    return questions


def _question(entry: Any, context: str, place: str, for_training: bool) -> Question:
    identity = _member(entry, "id", str, place)
    text = _member(entry, "question", str, place)
    if entry.get("is_impossible"):
        raise DataError(
            f"{place}: a question without an answer (is_impossible) belongs to SQuAD 2.0; "
            "version 1.1 is wanted"
        )
    answers = []
    for answer_place, answer in _items(entry, "answers", place):
        words = _member(answer, "text", str, answer_place)
        start = _member(answer, "answer_start", int, answer_place)
        if for_training and (start < 0 or not words.strip() or not context.startswith(words, start)):
            found = context[max(start, 0) : max(start, 0) + len(words)]
            raise DataError(
                f"{answer_place}: the answer {words!r} does not stand at character {start} of "
                f"the context, {found!r} does"
            )
        answers.append(Answer(words, start))
    if not answers:
        raise DataError(f"{place}: question {identity!r} has no answers")
    return Question(identity, text, context, tuple(answers))


def _member(entry: Any, name: str, kind: type, place: str) -> Any:
    if not isinstance(entry, dict):
        raise DataError(f"{place}: {type(entry).__name__} where an object belongs")
    if name not in entry:
        raise DataError(f"{place}: no {name!r}")
    value = entry[name]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise DataError(f"{place}.{name}: {type(value).__name__} where {kind.__name__} belongs")
    return value


def _items(entry: Any, name: str, place: str) -> list[tuple[str, Any]]:
    """Yield each member of a list with its place."""
    joint = ": " if name == "data" else "."  # FILE: data[0].paragraphs[0] ...
    values = _member(entry, name, list, place)
    return [(f"{place}{joint}{name}[{number}]", value) for number, value in enumerate(values)]


_ARTICLES = re.compile(r"\b(a|an|the)\b")
_WITHOUT_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(answer: str) -> list[str]:
    """Return the words that the official evaluation compares: lower case, no punctuation, no articles."""
    return _ARTICLES.sub(" ", answer.lower().translate(_WITHOUT_PUNCTUATION)).split()


def exact_match(prediction: str, answer: str) -> float:
    return float(normalise(prediction) == normalise(answer))


def f1(prediction: str, answer: str) -> float:
    """Return the harmonic mean of precision and recall over words.

    It is 0 where no word is shared, even where neither has one, as in the official evaluate-v1.1.py.
    """
    predicted, true = normalise(prediction), normalise(answer)
    shared = sum((Counter(predicted) & Counter(true)).values())
    # 2pr / (p + r) of precision shared / predicted and recall shared / true
    return 2 * shared / (len(predicted) + len(true)) if shared else 0.0


def score(questions: Sequence[Question], predictions: Mapping[str, str]) -> dict[str, float]:
    """Return `exact_match` and `f1` in percent, by the formula of the official evaluate-v1.1.py.

    Each question counts with its best answer; a question without a prediction counts 0, as there.
    torchmetrics' SQuAD differs from it where prediction and answer both normalise to nothing.

    Raises:
        ValueError: there are no questions.
    """
    if not questions:
        raise ValueError("no questions to score")
    totals = {"exact_match": 0.0, "f1": 0.0}
    for question in questions:
        if question.id in predictions:
            prediction = predictions[question.id]
            for name, of in (("exact_match", exact_match), ("f1", f1)):
                totals[name] += max(of(prediction, answer.text) for answer in question.answers)
    return {name: 100 * total / len(questions) for name, total in totals.items()}
