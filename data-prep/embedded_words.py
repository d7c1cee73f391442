"""The words of the embedded German-English corpus, and how German ones inflect.

Tables first, then the few rules that read them. Everything is lower-case and tokenised already.
A case is `nom`, `acc` or `dat`; a form is the gender of a singular noun (`m`, `f`, `n`) or `pl`;
a person is `1sg`, `3sg` or `pl`, all that German verbs need where nobody is addressed.
"""

from __future__ import annotations

from dataclasses import dataclass

# -- nouns: German singular, gender, plural; English singular, plural ---------------------------

BEINGS = """
hund m hunde dog dogs           mann m männer man men             frau f frauen woman women
kind n kinder child children    mädchen n mädchen girl girls      freund m freunde friend friends
lehrer m lehrer teacher teachers  tante f tanten aunt aunts       schwester f schwestern sister sisters
bruder m brüder brother brothers  arzt m ärzte doctor doctors     katze f katzen cat cats
pferd n pferde horse horses     vogel m vögel bird birds          königin f königinnen queen queens
baby n babys baby babies        gast m gäste guest guests         onkel m onkel uncle uncles
tochter f töchter daughter daughters  schaf n schafe sheep sheep
"""
THINGS = """
buch n bücher book books        brief m briefe letter letters     apfel m äpfel apple apples
tasche f taschen bag bags       schlüssel m schlüssel key keys    tür f türen door doors
fenster n fenster window windows  kuchen m kuchen cake cakes      bild n bilder picture pictures
hut m hüte hat hats             zeitung f zeitungen newspaper newspapers  koffer m koffer suitcase suitcases
stuhl m stühle chair chairs     lampe f lampen lamp lamps         geschenk n geschenke gift gifts
auto n autos car cars           flasche f flaschen bottle bottles karte f karten map maps
"""

# -- adjectives: German stem, English -------------------------------------------------------------

OF_BEINGS = """
jung young  freundlich friendly  müd tired  hungrig hungry  klug clever  traurig sad  lustig funny  reich rich
"""
OF_THINGS = (
    "neu new  kaputt broken  leer empty  teur expensive  rot red  blau blue  leicht light  nützlich useful"
)
OF_BOTH = "alt old  klein small  groß big  schwarz black  weiß white  schön beautiful  schwer heavy"

# -- verbs: infinitive without prefix; first and third person singular, participle ------------------
# The plural is the infinitive.

CONJUGATION = """
machen mache macht gemacht      rufen rufe ruft gerufen           kommen komme kommt gekommen
stehen stehe steht gestanden    sehen sehe sieht gesehen          nehmen nehme nimmt genommen
holen hole holt geholt          geben gebe gibt gegeben           bringen bringe bringt gebracht
hören höre hört gehört          laden lade lädt geladen           werfen werfe wirft geworfen
schlafen schlafe schläft geschlafen  lesen lese liest gelesen     lachen lache lacht gelacht
spielen spiele spielt gespielt  arbeiten arbeite arbeitet gearbeitet  helfen helfe hilft geholfen
danken danke dankt gedankt      folgen folge folgt gefolgt        finden finde findet gefunden
kaufen kaufe kauft gekauft      verkaufen verkaufe verkauft verkauft  suchen suche sucht gesucht
besuchen besuche besucht besucht  verstehen verstehe versteht verstanden  lieben liebe liebt geliebt
zeigen zeige zeigt gezeigt      schicken schicke schickt geschickt  gehen gehe geht gegangen
tanzen tanze tanzt getanzt      antworten antworte antwortet geantwortet  tragen trage trägt getragen
sagen sage sagt gesagt          glauben glaube glaubt geglaubt    hoffen hoffe hofft gehofft
fragen frage fragt gefragt      essen esse isst gegessen
"""

# What a verb means: (prefix-)infinitive; English base, third person, past; particle or -.
# Many share their stem, so that only the prefix, which may stand at the far end, tells them apart.
INTRANSITIVE = """
schlafen sleep sleeps slept -   ein-schlafen fall falls fell asleep   lachen laugh laughs laughed -
spielen play plays played -     arbeiten work works worked -      tanzen dance dances danced -
kommen come comes came -        an-kommen arrive arrives arrived -    mit-kommen come comes came along
zurück-kommen return returns returned -  stehen stand stands stood -  auf-stehen get gets got up
auf-hören stop stops stopped -  gehen go goes went -              weg-gehen leave leaves left -
"""
TAKES_BEING = """
sehen see sees saw -            an-sehen look looks looked at     rufen call calls called -
an-rufen phone phones phoned -  holen fetch fetches fetched -     ab-holen pick picks picked up
ein-laden invite invites invited -  besuchen visit visits visited -
verstehen understand understands understood -
lieben love loves loved -       hören hear hears heard -          suchen seek seeks sought -
mit-bringen bring brings brought along
"""
TAKES_THING = """
auf-machen open opens opened -  zu-machen close closes closed -   nehmen take takes took -
mit-nehmen take takes took along  weg-nehmen take takes took away     werfen throw throws threw -
weg-werfen throw throws threw away  lesen read reads read -       vor-lesen read reads read out
finden find finds found -       kaufen buy buys bought -          verkaufen sell sells sold -
tragen carry carries carried -  an-sehen look looks looked at     sehen see sees saw -
essen eat eats ate -
"""
TAKES_DATIVE = """
helfen help helps helped -      danken thank thanks thanked -     folgen follow follows followed -
zu-hören listen listens listened to   antworten answer answers answered -  zu-sehen watch watches watched -
"""
TAKES_BOTH = """
geben give gives gave -         zurück-geben give gives gave back zeigen show shows showed -
schicken send sends sent -      zurück-schicken send sends sent back  bringen bring brings brought -
"""
# Verbs that only go with some things.
GOES_WITH = {
    "aufmachen": "buch brief tasche tür fenster koffer geschenk auto flasche",
    "zumachen": "buch tasche tür fenster koffer auto flasche",
    "lesen": "buch brief zeitung karte",
    "vorlesen": "buch brief zeitung karte",
    "essen": "apfel kuchen",
}
REPORTING = "sagen say says said -  glauben believe believes believed -  hoffen hope hopes hoped -"
ASKING = "fragen ask asks asked -"
WITH_SEIN = "ein-schlafen kommen an-kommen mit-kommen zurück-kommen auf-stehen gehen weg-gehen folgen".split()

# Finite forms by person.
HABEN = {"1sg": "habe", "3sg": "hat", "pl": "haben"}
SEIN = {"1sg": "bin", "3sg": "ist", "pl": "sind"}
# Tense or modal: German finite forms; English, English negated (None: the two languages differ there).
MODALS = {
    "future": ({"1sg": "werde", "3sg": "wird", "pl": "werden"}, "will", "will not"),
    "can": ({"1sg": "kann", "3sg": "kann", "pl": "können"}, "can", "cannot"),
    "must": ({"1sg": "muss", "3sg": "muss", "pl": "müssen"}, "must", None),
    "should": ({"1sg": "soll", "3sg": "soll", "pl": "sollen"}, "should", "should not"),
    "may": ({"1sg": "darf", "3sg": "darf", "pl": "dürfen"}, "may", "may not"),
    "would": ({"1sg": "möchte", "3sg": "möchte", "pl": "möchten"}, "would like to", "would not like to"),
}

# -- determiners, pronouns, adverbials --------------------------------------------------------------

THE = {
    "nom": {"m": "der", "f": "die", "n": "das", "pl": "die"},
    "acc": {"m": "den", "f": "die", "n": "das", "pl": "die"},
    "dat": {"m": "dem", "f": "der", "n": "dem", "pl": "den"},
}
# As the article, but for the dative plural.
RELATIVE = {**THE, "dat": {**THE["dat"], "pl": "denen"}}
DER_ENDINGS = {
    "nom": {"m": "er", "f": "e", "n": "es", "pl": "e"},
    "acc": {"m": "en", "f": "e", "n": "es", "pl": "e"},
    "dat": {"m": "em", "f": "er", "n": "em", "pl": "en"},
}
EIN_ENDINGS = {
    "nom": {"m": "", "f": "e", "n": "", "pl": "e"},
    "acc": {"m": "en", "f": "e", "n": "", "pl": "e"},
    "dat": {"m": "em", "f": "er", "n": "em", "pl": "en"},
}
# After a der-word the ending shows nothing but the case; after an ein-word it has to show the gender.
WEAK = {
    "nom": {"m": "e", "f": "e", "n": "e", "pl": "en"},
    "acc": {"m": "en", "f": "e", "n": "e", "pl": "en"},
    "dat": {"m": "en", "f": "en", "n": "en", "pl": "en"},
}
MIXED = {**WEAK, "nom": {**WEAK["nom"], "m": "er", "n": "es"}, "acc": {**WEAK["acc"], "n": "es"}}
# Only ever met in a plural without any determiner.
STRONG_PLURAL = {"nom": {"pl": "e"}, "acc": {"pl": "e"}, "dat": {"pl": "en"}}


@dataclass(frozen=True)
class Determiner:
    """German stem with its endings (`der` is a word of its own), and what follows from it."""

    stem: str
    endings: dict[str, dict[str, str]]
    adjective: dict[str, dict[str, str]]
    english: str
    english_plural: str | None
    definite: bool

    def german(self, case: str, form: str) -> list[str]:
        word = self.stem + self.endings[case][form]
        return [word] if word else []


NO_ARTICLE = {case: {"pl": ""} for case in THE}
DETERMINERS = {
    "the": Determiner("", THE, WEAK, "the", "the", True),
    "this": Determiner("dies", DER_ENDINGS, WEAK, "this", "these", True),
    "every": Determiner("jed", DER_ENDINGS, WEAK, "every", None, False),
    "a": Determiner("ein", EIN_ENDINGS, MIXED, "a", None, False),
    "no": Determiner("kein", EIN_ENDINGS, MIXED, "no", "no", False),
    "my": Determiner("mein", EIN_ENDINGS, MIXED, "my", "my", True),
    "our": Determiner("unser", EIN_ENDINGS, MIXED, "our", "our", True),
    "bare": Determiner("", NO_ARTICLE, STRONG_PLURAL, "", "", False),
}

# German by case, person, English subject and object. No object `sie`: it would mean both her and them.
PRONOUNS = {
    "i": ({"nom": "ich", "acc": "mich", "dat": "mir"}, "1sg", "i", "me"),
    "he": ({"nom": "er", "acc": "ihn", "dat": "ihm"}, "3sg", "he", "him"),
    "we": ({"nom": "wir", "acc": "uns", "dat": "uns"}, "pl", "we", "us"),
    "she": ({"nom": "sie"}, "3sg", "she", None),
    "they": ({"nom": "sie"}, "pl", "they", None),
}

PLACES = [
    ("im garten", "in the garden"),
    ("in der küche", "in the kitchen"),
    ("in der schule", "in the school"),
    ("auf dem markt", "at the market"),
    ("hinter dem haus", "behind the house"),
    ("am fluss", "by the river"),
    ("vor dem bahnhof", "in front of the station"),
    ("unter der brücke", "under the bridge"),
    ("im wald", "in the forest"),
    ("neben der kirche", "next to the church"),
    ("auf der straße", "on the street"),
]
# By tense: what can be said of the present, of the past, of what is still to come.
TIMES = {
    "present": [("heute", "today"), ("jetzt", "now"), ("jeden tag", "every day"), ("manchmal", "sometimes")],
    "perfect": [("gestern", "yesterday"), ("am montag", "on monday"), ("vor einer woche", "a week ago")],
    "modal": [
        ("morgen", "tomorrow"),
        ("bald", "soon"),
        ("am abend", "in the evening"),
        ("nächstes jahr", "next year"),
    ],
}
SUBORDINATORS = [
    ("weil", "because"),
    ("obwohl", "although"),
    ("wenn", "if"),
    ("während", "while"),
    ("bevor", "before"),
    ("nachdem", "after"),
    ("sobald", "as soon as"),
]
COORDINATORS = [("und", "and"), ("aber", "but")]
QUESTION_WORDS = [("warum", "why"), ("wann", "when"), ("wo", "where")]


# -- the rules ----------------------------------------------------------------------------------------


def rows(table: str, columns: int) -> list[list[str]]:
    """Read the cells of a table above, row by row."""
    cells = table.split()
    if len(cells) % columns:
        raise ValueError(f"{len(cells)} cells do not make rows of {columns}: {table!r}")
    return [cells[i : i + columns] for i in range(0, len(cells), columns)]


@dataclass(frozen=True)
class Noun:
    singular: str
    gender: str
    plural: str
    english: str
    english_plural: str
    is_being: bool

    def german(self, case: str, plural: bool) -> str:
        if not plural:
            return self.singular
        # The dative plural takes an n wherever it can be spoken.
        return self.plural + ("n" if case == "dat" and self.plural[-1] not in "ns" else "")


@dataclass(frozen=True)
class Verb:
    prefix: str
    base: str
    present: dict[str, str]
    participle: str
    auxiliary: dict[str, str]
    english: str
    english_third: str
    english_past: str
    particle: tuple[str, ...]

    @property
    def infinitive(self) -> str:
        return self.prefix + self.base


def goes_with(verb: Verb, noun: Noun) -> bool:
    """Return whether the noun makes a sensible object."""
    return verb.infinitive not in GOES_WITH or noun.singular in GOES_WITH[verb.infinitive].split()


def nouns(table: str, is_being: bool) -> list[Noun]:
    return [Noun(*row, is_being=is_being) for row in rows(table, 5)]


def verbs(table: str) -> list[Verb]:
    conjugation = {row[0]: row[1:] for row in rows(CONJUGATION, 4)}
    found = []
    for name, english, third, past, particle in rows(table, 5):
        prefix, _, base = name.rpartition("-")
        first_singular, third_singular, participle = conjugation[base]
        found.append(
            Verb(
                prefix,
                base,
                {"1sg": first_singular, "3sg": third_singular, "pl": base},
                prefix + participle,
                SEIN if name in WITH_SEIN else HABEN,
                english,
                third,
                past,
                () if particle == "-" else (particle,),
            )
        )
    return found


def adjectives(of_beings: bool) -> list[list[str]]:
    """Return [stem, English] of those that fit."""
    return rows(OF_BOTH + "  " + (OF_BEINGS if of_beings else OF_THINGS), 2)
