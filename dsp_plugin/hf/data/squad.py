"""SQuAD v1.1 for a Transformers model: windows of tokens with the answers' spans, and spans back to answers.

Shapes: windows W >= questions Q, tokens of a window T.
"""

from __future__ import annotations

import json
import os
from array import array
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ...options.errors import OptionError
from ...records.files.whole import write_text
from .glue import check_max_seq_length
from .squad_files import Question, read_squad, score
from .tokenised import PackedDataset

__all__ = [
    "Candidate",
    "SquadDataset",
    "best_answers",
    "compute_metrics",
    "read_squad",
    "score",
    "write_predictions",
]

BATCH = 500


class SquadDataset(PackedDataset):
    """Windows `[CLS] question [SEP] part of the context [SEP]`, for a Trainer with
    `DataCollatorWithPadding(tokenizer)`. XLNet's have [CLS] at the end. Places count from the left: a
    tokenizer that pads there is set to pad on the right.

    A context that is too long is cut into overlapping windows, each `doc_stride` tokens after the one before,
    as BERT's own program cuts it. A row has what the tokenizer gives and `start_positions`, `end_positions`:
    the first and last token of the question's first answer, or [CLS] where it is not wholly in the window.

    Attributes:
        questions: as given.
        question_of: the question of each window, [W], its number in `questions`. The windows are in the order
            of the questions; with `longest_first` in that of their lengths, so that batches in order have
            little padding.

    Raises:
        OptionError: `max_seq_length` leaves no room for text, or is more than the tokenizer's model takes;
            `doc_stride` or `max_query_length` below 1.
        ValueError: a tokenizer without offsets (a slow one).
    """

    def __init__(
        self,
        questions: Sequence[Question],
        tokenizer: Any,
        max_seq_length: int = 384,
        doc_stride: int = 128,
        max_query_length: int = 64,
        longest_first: bool = False,
    ):
        super().__init__()
        if not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} is no fast tokenizer: SQuAD needs the places of "
                "its tokens in the text"
            )
        tokenizer.padding_side = "right"
        check_max_seq_length(max_seq_length, tokenizer, pair=True)
        if doc_stride < 1:
            raise OptionError("doc_stride", f"{doc_stride}: at least 1 token is needed")
        if max_query_length < 1:
            raise OptionError("max_query_length", f"{max_query_length}: at least 1 token is needed")
        self.questions = list(questions)
        windows = self._cut(tokenizer, max_seq_length, doc_stride, max_query_length)
        ordered = [(number, window) for number, found in enumerate(windows) for window in found]
        if longest_first:
            ordered.sort(key=lambda pair: -len(pair[1][0]["input_ids"]))  # stable
        self.question_of = np.array([number for number, _ in ordered], dtype=np.int64)
        self._context_first, self._context_offsets = array("i"), array("i")
        self._context_ends = array("q", [0])
        self._store(ordered, tokenizer.cls_token_id)

    def _cut(self, tokenizer: Any, max_seq_length: int, doc_stride: int, max_query_length: int) -> list[list]:
        """Cut the windows of each question, as `_keep` makes them."""
        special = tokenizer.num_special_tokens_to_add(pair=True)
        # at least half of the room is the context's, however long the question
        query_room = min(max_query_length, (max_seq_length - special) // 2)
        asked = [question.text.strip() for question in self.questions]
        texts, lengths = _cut_questions(asked, tokenizer, query_room)
        by_length = defaultdict(list)  # the overlap that the tokenizer wants depends on the question's length
        for number, length in enumerate(lengths):
            by_length[length].append(number)
        windows = [[] for _ in self.questions]
        for length, numbers in by_length.items():
            room = max_seq_length - special - length
            for start in range(0, len(numbers), BATCH):
                batch = numbers[start : start + BATCH]
                encodings = tokenizer(
                    [texts[number] for number in batch],
                    [self.questions[number].context for number in batch],
                    truncation="only_second",
                    padding=False,
                    max_length=max_seq_length,
                    stride=max(0, room - doc_stride),
                    return_overflowing_tokens=True,
                    return_offsets_mapping=True,
                )
                self._keep(windows, batch, encodings)
        return windows

    def _store(self, ordered: list[tuple], cls_token: int) -> None:
        """Make the rows, and note where the context's tokens and their characters are in each window."""
        starts, ends = [], []
        for number, (inputs, first, offsets) in ordered:
            self._extend({name: [values] for name, values in inputs.items()})
            span = _span(self.questions[number], first, offsets)
            start, end = span or (_place_of(cls_token, inputs["input_ids"]),) * 2
            starts.append(start)
            ends.append(end)
            self._context_first.append(first)
            self._context_offsets.extend(offsets.ravel().tolist())
            self._context_ends.append(self._context_ends[-1] + len(offsets))
        self._set_column("start_positions", starts)
        self._set_column("end_positions", ends)

    @staticmethod
    def _keep(windows: list[list], batch: list[int], encodings: Any) -> None:
        """Put each window to its question: (model inputs, first context token, characters [tokens, 2])."""
        owners = encodings["overflow_to_sample_mapping"]
        names = [name for name in encodings if name not in ("offset_mapping", "overflow_to_sample_mapping")]
        for row, owner in enumerate(owners):
            segments = encodings.sequence_ids(row)
            first = segments.index(1) if 1 in segments else len(segments)
            count = segments.count(1)
            offsets = encodings["offset_mapping"][row][first : first + count]
            offsets = np.array(offsets, dtype=np.int32).reshape(-1, 2)  # [tokens, 2], of none too
            inputs = {name: array("i", encodings[name][row]) for name in names}
            windows[batch[owner]].append((inputs, first, offsets))

    def context_of(self, window: int) -> tuple[int, np.ndarray]:
        """Return the place of a window's first context token, and where each of its context tokens begins and
        ends in the text, in characters: [tokens, 2] int64.
        """
        begin, end = self._context_ends[window], self._context_ends[window + 1]
        offsets = np.array(self._context_offsets[2 * begin : 2 * end], dtype=np.int64)
        return self._context_first[window], offsets.reshape(-1, 2)  # [tokens * 2] -> [tokens, 2]


def _cut_questions(texts: list[str], tokenizer: Any, room: int) -> tuple[list[str], list[int]]:
    """Cut questions to at most `room` tokens; return them and their lengths in tokens."""
    cut, lengths = list(texts), []
    as_is = {"add_special_tokens": False, "truncation": False, "padding": False}
    encodings = tokenizer(texts, return_offsets_mapping=True, **as_is)
    for number, offsets in enumerate(encodings["offset_mapping"]):
        length = len(offsets)
        if length > room:
            cut[number] = texts[number][: offsets[room - 1][1]]
            # a cut inside a character or a word can be tokenised otherwise: count again
            length = len(tokenizer(cut[number], **as_is)["input_ids"])
        lengths.append(length)
    return cut, lengths


def _place_of(token: int | None, ids: array) -> int:
    """Find where a token stands first; 0 where there is none."""
    return ids.index(token) if token in ids else 0


def _span(question: Question, first: int, offsets: np.ndarray) -> tuple[int, int] | None:
    """Return the first and last token of the first answer in a window, None where it is not wholly inside."""
    answer = question.answers[0]
    begin = answer.start + len(answer.text) - len(answer.text.lstrip())
    end = begin + len(answer.text.strip())
    if not len(offsets) or begin < offsets[0, 0] or end > offsets[-1, 1] or begin >= end:
        return None
    # the first that ends after the beginning
    start_token = int(np.searchsorted(offsets[:, 1], begin, side="right"))
    # the last that begins before the end
    end_token = int(np.searchsorted(offsets[:, 0], end, side="left")) - 1
    if start_token > end_token:
        return None
    return first + start_token, first + end_token


class Candidate(NamedTuple):
    text: str
    score: float  # start logit + end logit
    probability: float  # among the question's candidates


def best_answers(
    data: SquadDataset, start_logits: Any, end_logits: Any, n_best: int = 20, max_answer_length: int = 30
) -> dict[str, list[Candidate]]:
    """Return the candidates of every question, best first: spans within the context of one window, of at most
    `max_answer_length` tokens, out of the `n_best` best starts and ends of each window.

    A question none of whose windows has a span gets one empty answer.

    Args:
        start_logits, end_logits: [W, T or more], in the order of `data`; what is beyond a window's tokens is
            not read.

    Raises:
        ValueError: not one row a window, too few columns, numbers that are not finite.
        OptionError: `n_best` or `max_answer_length` below 1.
    """
    start_logits, end_logits = (
        np.asarray(start_logits, dtype=np.float64),
        np.asarray(end_logits, dtype=np.float64),
    )
    if n_best < 1 or max_answer_length < 1:
        reason = f"{n_best}, {{}} {max_answer_length}: at least 1 is needed"
        raise OptionError("n_best_size", reason, "max_answer_length")
    longest = int(data.lengths().max())
    for logits in (start_logits, end_logits):
        if logits.ndim != 2 or len(logits) != len(data) or logits.shape[1] < longest:
            raise ValueError(
                f"logits of shape {list(logits.shape)}; [{len(data)}, {longest}] or wider belongs here"
            )

    spans = defaultdict(list)  # number of the question -> (score, begin, end) in characters
    for window, number in enumerate(data.question_of):
        first, offsets = data.context_of(window)
        starts, ends = (logits[window, first : first + len(offsets)] for logits in (start_logits, end_logits))
        if not (np.isfinite(starts).all() and np.isfinite(ends).all()):
            raise ValueError(f"the logits of window {window} are not finite numbers; has training diverged?")
        s = np.argsort(-starts, kind="stable")[:n_best]
        e = np.argsort(-ends, kind="stable")[:n_best]
        length = e[None, :] - s[:, None] + 1  # [1, ends] - [starts, 1] -> [starts, ends]
        rows, columns = np.nonzero((length >= 1) & (length <= max_answer_length))
        s, e = s[rows], e[columns]
        scores = (starts[s] + ends[e]).tolist()
        spans[int(number)].extend(zip(scores, offsets[s, 0].tolist(), offsets[e, 1].tolist()))
    return {
        question.id: _candidates(question.context, spans[number], n_best)
        for number, question in enumerate(data.questions)
    }


def _candidates(context: str, spans: list[tuple[float, int, int]], n_best: int) -> list[Candidate]:
    best: dict[str, float] = {}
    for value, begin, end in sorted(spans, key=lambda span: -span[0]):
        best.setdefault(context[begin:end], value)  # the same words from another window or place count once
        if len(best) == n_best:
            break
    if not best:
        return [Candidate("", 0.0, 1.0)]
    values = np.array(list(best.values()))
    weights = np.exp(values - values.max())
    return [
        Candidate(text, value, float(weight))
        for (text, value), weight in zip(best.items(), weights / weights.sum())
    ]


def compute_metrics(
    data: SquadDataset, n_best: int = 20, max_answer_length: int = 30
) -> Callable[[Any], dict[str, float]]:
    """Return `exact_match` and `f1` in percent as a Trainer's `compute_metrics`, evaluated on `data`."""

    def compute(evaluation: Any) -> dict[str, float]:
        candidates = best_answers(data, *evaluation.predictions[:2], n_best, max_answer_length)
        return score(data.questions, {identity: found[0].text for identity, found in candidates.items()})

    return compute


def write_predictions(
    folder: str | os.PathLike, candidates: Mapping[str, Sequence[Candidate]], prefix: str = ""
) -> dict[str, str]:
    """Write `predictions.json` (id -> answer, what evaluate-v1.1.py reads) and `nbest_predictions.json`.

    Returns: id -> answer.

    Raises:
        OSError: a file cannot be written.
    """
    predictions = {identity: found[0].text for identity, found in candidates.items()}
    nbest = {identity: [candidate._asdict() for candidate in found] for identity, found in candidates.items()}
    for name, content in (("predictions", predictions), ("nbest_predictions", nbest)):
        write_text(
            os.path.join(folder, f"{prefix}{name}.json"),
            json.dumps(content, indent=2, ensure_ascii=False) + "\n",
        )
    return predictions
