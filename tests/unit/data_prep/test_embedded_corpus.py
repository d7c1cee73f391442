"""The embedded corpus: German as it should be, one translation each, the same for the same seed, no leaks."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

PREP = Path(__file__).resolve().parents[3] / "data-prep"
sys.path.insert(0, str(PREP))

import embedded_corpus
import embedded_words
from embedded_grammar import (
    Clause,
    Gap,
    NounPhrase,
    Pronoun,
    Relative,
    english_clause,
    german_main,
    german_subordinate,
)

SIZES = {"test": 60, "valid": 60, "train": 600}


@pytest.fixture(scope="module")
def splits():
    return embedded_corpus.corpus(SIZES, seed=3)


@pytest.fixture(scope="module")
def many():
    """Sentences as they come, repetitions included."""
    speaker = embedded_corpus.Speaker(random.Random(5))
    return [speaker.sentence() for _ in range(10_000)]


def noun(singular):
    return next(noun for noun in embedded_corpus.BEINGS + embedded_corpus.THINGS if noun.singular == singular)


def verb(infinitive):
    tables = (
        embedded_corpus.INTRANSITIVE,
        embedded_corpus.TAKES_BEING,
        embedded_corpus.TAKES_THING,
        embedded_corpus.TAKES_DATIVE,
        embedded_corpus.TAKES_BOTH,
    )
    return next(verb for table in tables for verb in table if verb.infinitive == infinitive)


def phrase(singular, determiner="the", plural=False, adjective=None, relative=None):
    return NounPhrase(noun(singular), plural, determiner, adjective, relative)


# -- the same for the same seed, aligned, no leaks ---------------------------------------------------------


def test_same_seed_same_corpus(splits):
    assert embedded_corpus.corpus(SIZES, seed=3) == splits
    assert embedded_corpus.corpus(SIZES, seed=4) != splits


def test_sizes_and_order(splits):
    assert {split: len(pairs) for split, pairs in splits.items()} == SIZES


def test_test_set_does_not_depend_on_the_amount_of_training_text(splits):
    assert embedded_corpus.corpus({**SIZES, "train": 5}, seed=3)["test"] == splits["test"]


def test_no_sentence_twice_in_any_split(splits):
    for side in (0, 1):
        sentences = [pair[side] for pairs in splits.values() for pair in pairs]
        assert len(set(sentences)) == len(sentences)


def test_one_translation_each(many):
    seen = {}
    for german, english in many:
        assert seen.setdefault(german, english) == english


def test_lower_case_tokens_and_a_small_vocabulary(many):
    for side, limit in ((0, 560), (1, 380)):
        words = {word for pair in many for word in pair[side].split(" ")}
        assert "" not in words
        assert len(words) < limit
        assert all(re.fullmatch(r"[a-zäöüß]+|[,.?]", word) for word in words)


def test_commas_and_marks(many):
    for german, english in many:
        assert german[-2:] in (" .", " ?") and german[-1] == english[-1]
        assert ", ," not in german and ", ." not in german and ", ?" not in german
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", english)


# -- agreement ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "singular, determiner, plural, nominative, accusative, dative",
    [
        ("hund", "the", False, "der alte hund", "den alten hund", "dem alten hund"),
        ("katze", "the", False, "die alte katze", "die alte katze", "der alten katze"),
        ("buch", "the", False, "das alte buch", "das alte buch", "dem alten buch"),
        ("kind", "the", True, "die alten kinder", "die alten kinder", "den alten kindern"),
        ("hund", "a", False, "ein alter hund", "einen alten hund", "einem alten hund"),
        ("katze", "my", False, "meine alte katze", "meine alte katze", "meiner alten katze"),
        ("buch", "no", False, "kein altes buch", "kein altes buch", "keinem alten buch"),
        ("auto", "our", True, "unsere alten autos", "unsere alten autos", "unseren alten autos"),
        ("brief", "this", False, "dieser alte brief", "diesen alten brief", "diesem alten brief"),
        ("kind", "every", False, "jedes alte kind", "jedes alte kind", "jedem alten kind"),
        ("frau", "bare", True, "alte frauen", "alte frauen", "alten frauen"),
        ("gast", "bare", True, "alte gäste", "alte gäste", "alten gästen"),
    ],
)
def test_declension(singular, determiner, plural, nominative, accusative, dative):
    noun_phrase = phrase(singular, determiner, plural, ("alt", "old"))
    assert [" ".join(noun_phrase.german(case)) for case in ("nom", "acc", "dat")] == [
        nominative,
        accusative,
        dative,
    ]


def test_agreement_in_the_whole_corpus(many):
    """No article or adjective ending that the gender of a few well-known nouns forbids."""
    text = "\n".join(german for german, _ in many)
    forbidden = {
        "hund": r"\b(die|das|jedes|jede|eine|meine) (\w+ )?hund\b|\bein \w+es hund\b|"
        r"\b(dem|einem|den) \w+[^n] hund\b",
        "katze": r"\b(das|dem|den|ein|kein|mein|jedes|jeder \w+e) (\w+ )?katze\b|\bder \w+[^n] katze\b",
        "buch": r"\b(der|die|den|eine|einen|jede|dieser) (\w+ )?buch\b|\bein \w+[^s] buch\b",
        "kindern": r"\b(die|dem|der|das|einem) (\w+ )?kindern\b",
    }
    for name, pattern in forbidden.items():
        assert re.search(rf"\b{name}\b", text)
        # After a comma it is a relative pronoun: `den dieser hund sieht`.
        assert (found := re.search(rf"(?<!, )(?:{pattern})", text)) is None, found.group()


# -- word order
# -----------------------------------------------------------------------------------------------


def both_orders(clause, fronted="subject"):
    return (
        " ".join(german_main(clause, fronted)),
        " ".join(german_subordinate(clause)),
        " ".join(english_clause(clause)),
    )


def test_separable_verb():
    clause = Clause(phrase("mann"), verb("aufmachen"), "present", accusative=phrase("tür", "a"))
    assert both_orders(clause) == (
        "der mann macht eine tür auf",
        "der mann eine tür aufmacht",
        "the man opens a door",
    )


def test_perfect_with_time_and_place():
    time, place = ("gestern", "yesterday"), ("im garten", "in the garden")
    invite = verb("einladen")
    clause = Clause(Pronoun("we"), invite, "perfect", phrase("frau"), time=time, place=place, negated=True)
    assert both_orders(clause, "time") == (
        "gestern haben wir die frau nicht im garten eingeladen",
        "wir gestern die frau nicht im garten eingeladen haben",
        "we did not invite the woman in the garden yesterday",
    )


def test_perfect_with_sein():
    clause = Clause(Pronoun("i"), verb("einschlafen"), "perfect")
    assert both_orders(clause) == ("ich bin eingeschlafen", "ich eingeschlafen bin", "i fell asleep")


def test_modal_and_two_objects():
    clause = Clause(
        phrase("kind"), verb("zeigen"), "can", accusative=phrase("bild", "a"), dative=phrase("gast")
    )
    assert both_orders(clause) == (
        "das kind kann dem gast ein bild zeigen",
        "das kind dem gast ein bild zeigen kann",
        "the child can show a picture to the guest",
    )


def test_object_in_front():
    clause = Clause(phrase("katze"), verb("sehen"), "present", accusative=phrase("hund"))
    assert both_orders(clause, "accusative")[0] == "den hund sieht die katze"
    assert both_orders(clause)[2] == "the cat sees the dog"


def test_relative_clause_between_subject_and_verb():
    clause = Clause(Gap("pl"), verb("helfen"), "present", dative=Pronoun("he"))
    women = phrase("frau", plural=True, relative=Relative("nom", clause))
    assert both_orders(Clause(women, verb("schlafen"), "present")) == (
        "die frauen , die ihm helfen , schlafen",
        "die frauen , die ihm helfen , schlafen",
        "the women who help him sleep",
    )


@pytest.mark.parametrize("case, german, english", [("acc", "den", "whom"), ("dat", "dem", "whom")])
def test_case_of_the_relative_pronoun(case, german, english):
    gap = Gap("3sg")
    objects = {"accusative": gap} if case == "acc" else {"dative": gap}
    clause = Clause(Pronoun("i"), verb("sehen" if case == "acc" else "helfen"), "present", **objects)
    man = phrase("mann", relative=Relative(case, clause))
    assert man.german("nom")[:4] == ["der", "mann", ",", german]
    assert man.english("nom")[2:4] == [english, "i"]


@pytest.mark.parametrize(
    "tense, english",
    [
        ("present", "does he sleep"),
        ("perfect", "did he sleep"),
        ("would", "would he like to sleep"),
        ("may", "may he sleep"),
    ],
)
def test_questions(tense, english):
    clause = Clause(Pronoun("he"), verb("schlafen"), tense)
    assert " ".join(english_clause(clause, is_question=True)) == english


def finite_forms():
    tables = (
        embedded_words.INTRANSITIVE,
        embedded_words.TAKES_BEING,
        embedded_words.TAKES_THING,
        embedded_words.TAKES_DATIVE,
        embedded_words.TAKES_BOTH,
    )
    verbs = [verb for table in tables for verb in embedded_words.verbs(table)]
    forms = {verb.prefix + form for verb in verbs for form in verb.present.values()}
    auxiliaries = [
        embedded_words.HABEN,
        embedded_words.SEIN,
        *(modal[0] for modal in embedded_words.MODALS.values()),
    ]
    return forms | {form for auxiliary in auxiliaries for form in auxiliary.values()}


def test_subordinate_clauses_end_with_their_finite_verb(many):
    finite = finite_forms()
    clauses = [
        match.group(1)
        for german, _ in many
        if (
            match := re.search(
                r" , (?:weil|obwohl|wenn|während|bevor|nachdem|sobald|dass|ob) ([^,]*) \.$", german
            )
        )
    ]
    assert len(clauses) > 1000
    assert all(clause.split()[-1] in finite for clause in clauses)


def test_a_subordinate_clause_in_front_inverts_the_main_clause(many):
    finite = finite_forms()
    fronts = [
        match.group(1)
        for german, _ in many
        if (match := re.match(r"(?:weil|obwohl|wenn|während|bevor|nachdem|sobald) [^,]* , (\w+) ", german))
        and german.count(",") == 1
    ]
    # A separable verb shows its bare stem here.
    bare = {
        form
        for verb in embedded_corpus.INTRANSITIVE
        + embedded_corpus.TAKES_BEING
        + embedded_corpus.TAKES_THING
        + embedded_corpus.TAKES_DATIVE
        + embedded_corpus.TAKES_BOTH
        for form in verb.present.values()
    }
    assert len(fronts) > 300
    assert all(word in finite | bare for word in fronts)


# -- the tables and the command ----------------------------------------------------------------------------


def test_damaged_table_is_refused():
    with pytest.raises(ValueError, match="rows of 5"):
        embedded_words.rows("hund m hunde dog", 5)


def test_too_many_sentences_wanted(monkeypatch):
    monkeypatch.setattr(embedded_corpus.Speaker, "sentence", lambda self: ("ja .", "yes ."))
    with pytest.raises(ValueError, match="only 1 of 2 new sentences"):
        embedded_corpus.corpus({"train": 2}, seed=1)


def command(*arguments):
    return subprocess.run(
        [sys.executable, PREP / "embedded_corpus.py", *map(str, arguments)], capture_output=True, text=True
    )


def test_command_writes_aligned_files(tmp_path):
    done = command("--out", tmp_path, "--train", 40, "--valid", 7, "--test", 5, "--seed", 9)
    assert done.returncode == 0, done.stderr
    expected = embedded_corpus.corpus({"test": 5, "valid": 7, "train": 40}, seed=9)
    for split, pairs in expected.items():
        german, english = (
            (tmp_path / f"{split}.{lang}").read_text("utf-8").splitlines() for lang in ("de", "en")
        )
        assert list(zip(german, english, strict=True)) == pairs
    assert len(list(tmp_path.iterdir())) == 6


def test_command_refuses_an_empty_split(tmp_path):
    done = command("--out", tmp_path, "--valid", 0)
    assert done.returncode == 2 and "--valid 0" in done.stderr
    assert not list(tmp_path.iterdir())
