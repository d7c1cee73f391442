"""The embedded German-English corpus: sentences of a small grammar, the same ones for the same seed.

    python data-prep/embedded_corpus.py --out data/embedded --train 12000 --valid 500 --test 500 --seed 1

Writes `train`, `valid` and `test`, each `.de` and `.en`, tokenised and lower-cased. No sentence, German
or English, occurs twice, so no split holds a sentence of another. The test set does not depend on how much
training text is asked for. It needs no data and no network: demo, tests, trying things out. It is no
yardstick for translation of real text.
"""

from __future__ import annotations

import argparse
import random
import sys
from dataclasses import replace
from pathlib import Path

import embedded_words as words
from embedded_grammar import (
    Clause,
    Gap,
    NounPhrase,
    Pronoun,
    Relative,
    english_clause,
    finish,
    german_main,
    german_subordinate,
)
from pairs import write_pair
from tqdm import tqdm
from whole_files import check_folder

BEINGS = words.nouns(words.BEINGS, is_being=True)
THINGS = words.nouns(words.THINGS, is_being=False)
INTRANSITIVE = words.verbs(words.INTRANSITIVE)
TAKES_BEING = words.verbs(words.TAKES_BEING)
TAKES_THING = words.verbs(words.TAKES_THING)
TAKES_DATIVE = words.verbs(words.TAKES_DATIVE)
TAKES_BOTH = words.verbs(words.TAKES_BOTH)
REPORTING = words.verbs(words.REPORTING)
ASKING = words.verbs(words.ASKING)

SENTENCES_TRIED_PER_SENTENCE = 50


class Speaker:
    """Makes up sentences from a stream of random numbers."""

    def __init__(self, rng: random.Random):
        self.rng = rng

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    # -- phrases --

    def noun_phrase(self, nouns: list[words.Noun], determiners: str, relative: float = 0.0) -> NounPhrase:
        """Make a noun with one of the determiners, an adjective half of the time, a relative clause with the
        given probability."""
        noun = self.rng.choice(nouns)
        determiner = self.rng.choice(determiners.split())
        plural = determiner == "bare" or (
            words.DETERMINERS[determiner].english_plural is not None and self.chance(0.35)
        )
        adjective = tuple(self.rng.choice(words.adjectives(noun.is_being))) if self.chance(0.5) else None
        phrase = NounPhrase(noun, plural, determiner, adjective)
        if self.chance(relative):
            phrase = NounPhrase(noun, plural, determiner, adjective, self.relative(phrase))
        return phrase

    def relative(self, head: NounPhrase) -> Relative:
        """Make a clause about `head`. The reader never has to guess who does what: a full noun as the subject
        goes with a pronoun whose case shows (`den`, and all datives), else the subject is a pronoun."""
        gap = Gap(head.person)
        case = self.rng.choice(["nom", "acc", "dat"] if head.noun.is_being else ["acc"])
        if case == "nom":
            return Relative(case, self.clause(subject=gap, adverbials=0.15, relative=0.0))
        pronoun = Pronoun(self.rng.choice(["i", "he", "we"]))
        case_shows = case == "dat" or head.form == "m"
        subject = self.noun_phrase(BEINGS, "the a this my") if case_shows and self.chance(0.6) else pronoun
        tense = self.tense()
        if case == "dat":
            return Relative(case, Clause(subject, self.rng.choice(TAKES_DATIVE), tense, dative=gap))
        verbs = TAKES_BEING if head.noun.is_being else TAKES_THING
        verbs = [verb for verb in verbs if words.goes_with(verb, head.noun)]
        return Relative(case, Clause(subject, self.rng.choice(verbs), tense, accusative=gap))

    def tense(self) -> str:
        return self.rng.choice(["present", "present", "perfect", self.rng.choice(list(words.MODALS))])

    # -- clauses --

    def subject(self, relative: float) -> NounPhrase | Pronoun:
        if self.chance(0.25):
            return Pronoun(self.rng.choice(list(words.PRONOUNS)))
        return self.noun_phrase(BEINGS, "the the a this every no my our bare", relative)

    def object(self, nouns: list[words.Noun], subject, relative: float) -> NounPhrase | Pronoun:
        if nouns is BEINGS and self.chance(0.2):
            others = [name for name in ("i", "he", "we") if Pronoun(name) != subject]
            return Pronoun(self.rng.choice(others))
        return self.noun_phrase(nouns, "the the a this my our bare", relative)

    def clause(self, subject=None, adverbials: float = 0.35, relative: float = 0.05) -> Clause:
        """Make any clause; `adverbials` is the probability of each of time and place."""
        subject = subject or self.subject(relative)
        tense = self.tense()
        accusative = dative = None
        pattern = self.rng.choices(["none", "being", "thing", "dative", "both"], [3, 3, 4, 2, 2])[0]
        if pattern == "being":
            verb = self.rng.choice(TAKES_BEING)
            accusative = self.object(BEINGS, subject, relative)
        elif pattern == "thing":
            verb = self.rng.choice(TAKES_THING)
            things = [noun for noun in THINGS if words.goes_with(verb, noun)]
            accusative = self.object(things, subject, relative)
        elif pattern == "dative":
            verb = self.rng.choice(TAKES_DATIVE)
            dative = self.object(BEINGS, subject, relative)
        elif pattern == "both":
            verb = self.rng.choice(TAKES_BOTH)
            dative = self.object(BEINGS, subject, 0.0)
            accusative = self.noun_phrase(THINGS, "the a this my bare", relative)
        else:
            verb = self.rng.choice(INTRANSITIVE)
        times = words.TIMES.get(tense, words.TIMES["modal"])
        return Clause(
            subject,
            verb,
            tense,
            accusative,
            dative,
            time=self.rng.choice(times) if self.chance(adverbials) else None,
            companion=self.noun_phrase(BEINGS, "the a my")
            if pattern == "none" and self.chance(0.2)
            else None,
            place=self.rng.choice(words.PLACES) if self.chance(adverbials) else None,
            negated=self.chance(0.2) and can_be_negated(subject, tense, accusative, dative),
        )

    def statement(self) -> tuple[list[str], list[str]]:
        """Make a main clause with its subject, its time or, where the case shows, its object in front."""
        clause = self.clause()
        fronts = ["subject", "subject"] + (["time", "time"] if clause.time else [])
        thing = clause.accusative
        if isinstance(thing, NounPhrase) and thing.form == "m" and thing.determiner != "bare":
            fronts += ["accusative", "accusative"]
        return german_main(clause, self.rng.choice(fronts)), english_clause(clause)

    # -- sentences --

    def sentence(self) -> tuple[str, str]:
        """Make one sentence pair of any kind."""
        kinds = [
            self.plain,
            self.subordinate_last,
            self.subordinate_first,
            self.reported,
            self.joined,
            self.question,
        ]
        return self.rng.choices(kinds, [30, 18, 14, 14, 10, 14])[0]()

    def plain(self) -> tuple[str, str]:
        german, english = self.statement()
        return finish(german, "."), finish(english, ".")

    def short_clause(self) -> Clause:
        return self.clause(adverbials=0.2, relative=0.02)

    def subordinate_last(self) -> tuple[str, str]:
        main, other = self.short_clause(), self.short_clause()
        de, en = self.rng.choice(words.SUBORDINATORS)
        german = [*german_main(main), ",", de, *german_subordinate(other)]
        return finish(german, "."), finish([*english_clause(main), *en.split(), *english_clause(other)], ".")

    def subordinate_first(self) -> tuple[str, str]:
        """Put a subordinate clause in the first place, so that the main clause begins with its verb."""
        main, other = self.short_clause(), self.short_clause()
        de, en = self.rng.choice(words.SUBORDINATORS)
        german = [de, *german_subordinate(other), ",", *german_main(main, None)]
        return finish(german, "."), finish(
            [*en.split(), *english_clause(other), ",", *english_clause(main)], "."
        )

    def reported(self) -> tuple[str, str]:
        asks = self.chance(0.3)
        verb = self.rng.choice(ASKING if asks else REPORTING)
        main = Clause(self.subject(0.0), verb, self.rng.choice(["present", "perfect"]))
        other = self.clause(adverbials=0.25, relative=0.03)
        de, en = ("ob", "whether") if asks else ("dass", "that")
        german = [*german_main(main), ",", de, *german_subordinate(other)]
        return finish(german, "."), finish([*english_clause(main), en, *english_clause(other)], ".")

    def joined(self) -> tuple[str, str]:
        first, second = self.short_clause(), self.short_clause()
        de, en = self.rng.choice(words.COORDINATORS)
        german = [*german_main(first), ",", de, *german_main(second)]
        return finish(german, "."), finish([*english_clause(first), ",", en, *english_clause(second)], ".")

    def question(self) -> tuple[str, str]:
        """Ask with the verb first, or after a question word that takes the place of the time or the place."""
        clause = self.clause()
        # The negation of a question belongs elsewhere in English.
        clause = replace(clause, negated=False)
        german, english = german_main(clause, None), english_clause(clause, is_question=True)
        de, en = self.rng.choice(words.QUESTION_WORDS)
        if self.chance(0.5) and not (de == "wann" and clause.time) and not (de == "wo" and clause.place):
            german, english = [de, *german], [en, *english]
        return finish(german, "?"), finish(english, "?")


def can_be_negated(subject, tense: str, *objects) -> bool:
    """Whether `nicht` can stand: it needs a definite object (else it is `kein`), no quantified subject, and
    a modal that means the same when negated in both languages.
    """
    definite = all(
        words.DETERMINERS[phrase.determiner].definite for phrase in objects if isinstance(phrase, NounPhrase)
    )
    quantified = isinstance(subject, NounPhrase) and subject.determiner in ("every", "no")
    return definite and not quantified and tense != "must"


def corpus(sizes: dict[str, int], seed: int) -> dict[str, list[tuple[str, str]]]:
    """Split name -> sentence pairs, in the order of `sizes`; no sentence of either language twice.

    Raises:
        ValueError: the grammar has no more new sentences in reasonable time.
    """
    speaker = Speaker(random.Random(seed))
    seen_german, seen_english = set(), set()
    splits: dict[str, list[tuple[str, str]]] = {}
    for split, size in sizes.items():
        pairs: list[tuple[str, str]] = []
        tries = 0
        with tqdm(total=size, desc=f"embedded {split}", unit=" pairs", mininterval=1) as bar:
            while len(pairs) < size:
                tries += 1
                if tries > SENTENCES_TRIED_PER_SENTENCE * size:
                    raise ValueError(f"only {len(pairs)} of {size} new sentences found for {split}")
                german, english = speaker.sentence()
                if german in seen_german or english in seen_english:
                    continue
                seen_german.add(german)
                seen_english.add(english)
                pairs.append((german, english))
                bar.update()
        splits[split] = pairs
    return splits


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--train", type=int, default=12000, metavar="N")
    parser.add_argument("--valid", type=int, default=500, metavar="N")
    parser.add_argument("--test", type=int, default=500, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="S")
    args = parser.parse_args()
    # Test first: it stays the same when more training text is asked for.
    sizes = {split: getattr(args, split) for split in ("test", "valid", "train")}
    for split, size in sizes.items():
        if size < 1:
            parser.error(f"--{split} {size}: at least 1 sentence pair is wanted")
    try:
        check_folder("--out", args.out)
        for split, pairs in corpus(sizes, args.seed).items():
            write_pair(args.out / split, pairs)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
