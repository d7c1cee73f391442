"""Clauses of the embedded corpus: one meaning, said in German word order and in English word order.

What makes the two differ, and gives attention its work:
- the finite German verb stands second in a main clause, first in a question, last in a subordinate
  clause; prefix, participle and infinitive stand at the far end of the clause, where English has
  everything beside the subject;
- case, not order, tells who does what: `den hund sieht die katze` is "the cat sees the dog";
- time comes before the objects in German, last in English; `nicht` follows the objects, `not` the
  auxiliary;
- relative clauses stand between a subject and its verb, which still have to agree.
"""

from __future__ import annotations

from dataclasses import dataclass

from embedded_words import DETERMINERS, MODALS, PRONOUNS, RELATIVE, Noun, Verb


@dataclass(frozen=True)
class Pronoun:
    name: str

    @property
    def person(self) -> str:
        return PRONOUNS[self.name][1]

    def german(self, case: str) -> list[str]:
        return [PRONOUNS[self.name][0][case]]

    def english(self, case: str) -> list[str]:
        return [PRONOUNS[self.name][2 if case == "nom" else 3]]


@dataclass(frozen=True)
class Gap:
    """The place in a relative clause that its pronoun, moved to the front, has left empty."""

    person: str

    def german(self, case: str) -> list[str]:
        return []

    def english(self, case: str) -> list[str]:
        return []


@dataclass(frozen=True)
class NounPhrase:
    noun: Noun
    plural: bool
    determiner: str
    adjective: tuple[str, str] | None = None  # German stem, English
    relative: Relative | None = None

    @property
    def form(self) -> str:
        return "pl" if self.plural else self.noun.gender

    @property
    def person(self) -> str:
        return "pl" if self.plural else "3sg"

    def german(self, case: str) -> list[str]:
        determiner = DETERMINERS[self.determiner]
        words = determiner.german(case, self.form)
        if self.adjective:
            words.append(self.adjective[0] + determiner.adjective[case][self.form])
        words.append(self.noun.german(case, self.plural))
        if self.relative:
            words += [
                ",",
                RELATIVE[self.relative.case][self.form],
                *german_subordinate(self.relative.clause),
                ",",
            ]
        return words

    def english(self, case: str) -> list[str]:
        determiner = DETERMINERS[self.determiner]
        article = determiner.english_plural if self.plural else determiner.english
        words = [self.adjective[1]] if self.adjective else []
        words.append(self.noun.english_plural if self.plural else self.noun.english)
        if article == "a" and words[0][0] in "aeiou":
            article = "an"
        if article:
            words.insert(0, article)
        if self.relative:
            if not self.noun.is_being:
                pronoun = "which"
            else:
                pronoun = "who" if self.relative.case == "nom" else "whom"
            words += [pronoun, *english_clause(self.relative.clause)]
        return words


@dataclass(frozen=True)
class Clause:
    """`tense` is `present`, `perfect` or a key of MODALS; adverbials are (German, English)."""

    subject: NounPhrase | Pronoun | Gap
    verb: Verb
    tense: str
    accusative: NounPhrase | Pronoun | Gap | None = None
    dative: NounPhrase | Pronoun | Gap | None = None
    time: tuple[str, str] | None = None
    companion: NounPhrase | None = None
    place: tuple[str, str] | None = None
    negated: bool = False


@dataclass(frozen=True)
class Relative:
    case: str  # of the relative pronoun
    clause: Clause


# -- German ---------------------------------------------------------------------------------------------


def german_verb(clause: Clause) -> tuple[str, list[str]]:
    """Return the finite verb, and what stands at the end of a main clause."""
    verb, person = clause.verb, clause.subject.person
    if clause.tense == "present":
        return verb.present[person], [verb.prefix] if verb.prefix else []
    if clause.tense == "perfect":
        return verb.auxiliary[person], [verb.participle]
    return MODALS[clause.tense][0][person], [verb.infinitive]


def german_middle(clause: Clause, fronted: str | None = None) -> list[str]:
    """Return all between the two verb places; `fronted` (subject, accusative or time) stands before them."""
    words = [] if fronted == "subject" else clause.subject.german("nom")
    objects = [("dat", clause.dative), ("acc", None if fronted == "accusative" else clause.accusative)]
    for case, phrase in objects:
        if isinstance(phrase, Pronoun):
            words += phrase.german(case)
    if clause.time and fronted != "time":
        words += clause.time[0].split()
    for case, phrase in objects:
        if phrase and not isinstance(phrase, Pronoun):
            words += phrase.german(case)
    if clause.negated:
        words.append("nicht")
    if clause.companion:
        words += ["mit", *clause.companion.german("dat")]
    if clause.place:
        words += clause.place[0].split()
    return words


def german_main(clause: Clause, fronted: str | None = "subject") -> list[str]:
    """Put the verb second; first when nothing of the clause is fronted."""
    finite, end = german_verb(clause)
    front = {
        "subject": lambda: clause.subject.german("nom"),
        "accusative": lambda: clause.accusative.german("acc"),
        "time": lambda: clause.time[0].split(),
        None: lambda: [],
    }[fronted]()
    return [*front, finite, *german_middle(clause, fronted), *end]


def german_subordinate(clause: Clause) -> list[str]:
    """Put the verb last; a separable prefix joins it again."""
    finite, end = german_verb(clause)
    if clause.tense == "present":
        return [*german_middle(clause), clause.verb.prefix + finite]
    return [*german_middle(clause), *end, finite]


# -- English ----------------------------------------------------------------------------------------------


def english_verb(clause: Clause, is_question: bool) -> tuple[list[str], list[str]]:
    """Return the auxiliary (none in a plain statement), and the verb with its particle."""
    verb, third = clause.verb, clause.subject.person == "3sg"
    if clause.tense in MODALS:
        _, plain, negative = MODALS[clause.tense]
        auxiliary, *rest = (negative if clause.negated else plain).split()
        return [auxiliary], [*rest, verb.english, *verb.particle]
    past = clause.tense == "perfect"
    if clause.negated or is_question:
        auxiliary = "did" if past else "does" if third else "do"
        return [auxiliary], [*(["not"] if clause.negated else []), verb.english, *verb.particle]
    return [], [verb.english_past if past else verb.english_third if third else verb.english, *verb.particle]


def english_clause(clause: Clause, is_question: bool = False) -> list[str]:
    """Order subject, verb, objects, companion, place, time; the auxiliary of a question before them all."""
    auxiliary, verb = english_verb(clause, is_question)
    subject = clause.subject.english("nom")
    words = [*auxiliary, *subject, *verb] if is_question else [*subject, *auxiliary, *verb]
    if clause.accusative:
        words += clause.accusative.english("acc")
    if clause.dative:
        words += (["to"] if clause.accusative else []) + clause.dative.english("dat")
    if clause.companion:
        words += ["with", *clause.companion.english("dat")]
    if clause.place:
        words += clause.place[1].split()
    if clause.time:
        words += clause.time[1].split()
    return words


def finish(words: list[str], mark: str) -> str:
    """Finish a sentence: its mark at the end, and no comma before another comma or the mark."""
    following = [*words[1:], mark]
    kept = [word for word, after in zip(words, following) if word != "," or after not in (",", mark)]
    return " ".join([*kept, mark])
