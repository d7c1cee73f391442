"""The template language: every piece, what is refused and where, demonstrations, mappings."""

from __future__ import annotations

import random

import pytest

from dsp_plugin.delta.label_words import parse_mapping
from dsp_plugin.delta.template_pieces import SENTENCES, Literal, Prompt, Sentence, Special, piece_of
from dsp_plugin.delta.templates import Part, Template
from dsp_plugin.options.errors import OptionError

SST2 = "*cls*prompt*sent_0*_It_was*mask*.*sep+*"
MNLI = "*cls*prompt*sent-_0*?*mask*,*+sentl_1**sep+*"


def published(template: str, sentences: list[str]) -> list[tuple[str, int]]:
    """What LM-BFF makes of a template, in other words: (text or <name>, segment)."""
    found, segment = [], 0
    for word in template.split("*"):
        if word in ("cls", "mask", "sep", "sep+", "prompt"):
            found.append((f"<{word.rstrip('+')}>", segment))
            segment += word == "sep+"
        elif "sent" in word and word[-1].isdigit():
            text = sentences[int(word.rpartition("_")[2])]
            text = text[:-1] if "-" in word else text
            if "l" in word:
                text = text[:1].lower() + text[1:]
            if "u" in word:
                text = text[:1].upper() + text[1:]
            found.append(((" " if word[0] == "+" else "") + text, segment))
        elif word:
            found.append((word.replace("_", " "), segment))
    return found


def shown(parts: list[Part]) -> list[tuple[str, int]]:
    return [(part.text if part.kind == "text" else f"<{part.kind}>", part.segment) for part in parts]


def test_a_template_is_read_into_pieces():
    assert Template.parse(SST2).pieces == (
        Special("cls"),
        Prompt(),
        Sentence(0),
        Literal(" It was"),
        Special("mask"),
        Literal("."),
        Special("sep", next_segment=True),
    )
    template = Template.parse(MNLI)
    assert template.sentences == (0, 1) and template.has_prompt and not template.has_demonstrations
    assert template.without_prompt() == Template.parse("*cls*sent-_0*?*mask*,*+sentl_1**sep+*")


@pytest.mark.parametrize("spelling", SENTENCES)
@pytest.mark.parametrize("text", ["A Film.", "über alles!", "x", ""])
def test_each_spelling_of_a_sentence(spelling, text):
    template = f"*cls*{spelling}0*_so*mask**sep+*{spelling}1*"
    sentences = [text, "Élan vital"]
    assert shown(Template.parse(template).render(sentences)) == published(template, sentences)


def test_random_templates_are_rendered_as_published():
    rng = random.Random(7)
    pieces = [*(f"{spelling}{number}" for spelling in SENTENCES for number in (0, 1)), "sep", "sep+", "cls"]
    pieces += ["", "_It_was", ".", "?", "one_of_them.", "ask", "and"]
    for _ in range(200):
        words = [rng.choice(pieces) for _ in range(rng.randrange(1, 8))] + ["mask", "sent_0"]
        if rng.random() < 0.5:
            words.append("prompt")
        rng.shuffle(words)
        template = "*".join(words)
        sentences = ["The Sailor sees it.", "Nobody does"]
        assert shown(Template.parse(template).render(sentences)) == published(template, sentences), template


@pytest.mark.parametrize(
    "template,words",
    [
        ("*cls*sent_0*_It_was*.*sep+*", r"has no \*mask\*, where the label's word is to be"),
        ("*cls*prompt*sent_0*_It_was*great*.*sep+*", r"no \*mask\*"),
        ("*cls*sent_0*mask*and*mask*sep+*", r"has 2 \*mask\*s"),
        ("*cls*prompt*sent_0*prompt*mask*", r"several \*prompt\*s"),
        ("*cls*_It_was*mask*.*sep+*", "has no sentence"),
        ("*cls*sent_0*msk*mask*", r"part 3: \*msk\* is no piece of a template: is \*mask\* meant\?"),
        ("*cls*promt*sent_0*mask*", r"part 2: \*promt\* is no piece .* is \*prompt\* meant"),
        ("*csl*sent_0*mask*", r"is \*cls\* meant"),
        ("*CLS*sent_0*mask*", r"part 1: \*CLS\* is no piece"),
        ("*cls*sent_0*[MASK]*sep*", r"\*\[MASK\]\* is no piece"),
        ("*cls*sent_0*<mask>*sep*", r"\*<mask>\* is no piece"),
        ("*cls*sent_0*mask*</s>*", r"\*</s>\* is no piece"),
        ("*cls*sent_0* mask *sep*", r"\* mask \* is no piece"),
        ("*cls*sent0*mask*", r"part 2: \*sent0\* is no piece"),
        ("*cls*sent_x*mask*", r"part 2: \*sent_x\* is no piece .*\*sent_0\*, \*\+sent_0\*"),
        ("*cls*+sent-_0*mask*", r"\*\+sent-_0\* is no piece"),
        ("*cls*sent_100*mask*", r"\*sent_100\* is no piece"),
        ("*cls*sentul_0*mask*", r"\*sentul_0\* is no piece"),
        ("*cls*sent_0*mask*label_x*", r"\*label_x\* is no piece"),
        ("*cls*sent_0*mask*sep++*", r"\*sep\+\+\* is no piece"),
        ("*cls*sent_0*mask*prompt_5*", r"\*prompt_5\* is no piece"),
        ("*cls*sent_0*mask*seq+*", r"\*seq\+\* is no piece"),
        ("*cls*sentence_0*mask*", r"part 2: \*sentence_0\* is no piece"),
        ("*cls*sen_0*mask*sent_0*", r"\*sen_0\* is no piece"),
        ("*cls*sent_0*mask*+snet_1*", r"\*\+snet_1\* is no piece"),
        ("*cls*sent_0*mask*lable_0*", r"\*lable_0\* is no piece"),
        ("*cls*sent_\u0663*mask*", r"\*sent_\u0663\* is no piece"),
        ("", r"no \*mask\*"),
    ],
)
def test_what_is_no_template(template, words):
    with pytest.raises(OptionError, match=words) as error:
        Template.parse(template)
    assert error.value.name == "template"


@pytest.mark.parametrize(
    "text", ["_It_was", "sentence", "_sentiment:", "one", "ask", "sent.", "label:", "a", "?"]
)
def test_words_of_their_own_stand_as_they_are(text):
    assert piece_of(text) == Literal(text.replace("_", " "))


@pytest.mark.parametrize(
    "template,sentences,labels,shown,words",
    [
        (MNLI, 1, 2, 0, r"\*sent_1\*: an example has \*sent_0\*"),
        (SST2, 2, 2, 0, r"leaves \*sent_1\* out"),
        (SST2[:-1] + "*label_0*", 1, 2, 0, r"\*label_0\* belongs to demonstrations"),
        (SST2[:-1] + "*sent_1*label_2*", 1, 2, 2, r"\*label_2\*: there are 2"),
        (SST2[:-1] + "*sent_3*labelx_0*", 1, 2, 2, r"\*sent_3\*: .*up to \*sent_2\*"),
    ],
)
def test_templates_of_other_tasks(template, sentences, labels, shown, words):
    with pytest.raises(OptionError, match=words):
        Template.parse(template).check_task(sentences, labels, shown)


def test_demonstrations_are_the_template_again_with_the_word_for_the_mask():
    template = Template.parse(MNLI).with_demonstrations(labels=3, sentences=2)
    template.check_task(2, 3, 3)
    sentences = ["Is it so?", "It is", "One?", "A", "Two?", "B", "Three?", "C"]
    parts = template.render(sentences, [2, 0, 1])
    texts = [text for text, _ in shown(parts)]
    words = [f"<{part.label}>" if part.kind == "label" else text for part, text in zip(parts, texts)]
    assert words == [
        *("<cls>", "<prompt>", "Is it so", "?", "<mask>", ",", " it is", "<sep>"),
        *("One", "?", "<2>", ",", " a", "<sep>", "Two", "?", "<0>", ",", " b", "<sep>"),
        *("Three", "?", "<1>", ",", " c", "<sep>"),
    ]
    assert [part.segment for part in parts] == [0] * 8 + [1] * 6 + [2] * 6 + [3] * 6
    assert template.with_demonstrations(3, 2) is template
    own = Template.parse("*cls*sent_0*mask*.*sep+*sent_1*label_1*sep+*")
    assert own.with_demonstrations(2, 1) is own
    assert [part.label for part in own.render(["a", "b"], [0, 0]) if part.kind == "label"] == [1]


@pytest.mark.parametrize(
    "text,labels,expected",
    [
        ("{'0':'terrible','1':'great'}", ("0", "1"), {"0": "terrible", "1": "great"}),
        ('{"1": "great", "0": "terrible"}', ("0", "1"), {"0": "terrible", "1": "great"}),
        ("{0: 'No', 1: 'Yes'}", ("0", "1"), {"0": "No", "1": "Yes"}),
        (
            "{'contradiction':'No','entailment':'Yes','neutral':'Maybe'}",
            ("entailment", "neutral", "contradiction"),
            {"entailment": "Yes", "neutral": "Maybe", "contradiction": "No"},
        ),
    ],
)
def test_mappings(text, labels, expected):
    found = parse_mapping(text, labels)
    assert found == expected and list(found) == list(labels)


@pytest.mark.parametrize(
    "text,words",
    [
        ("{'0':'terrible'}", "label '1' has no word"),
        ("{'0':'a','1':'b','2':'c'}", "'2' is no label; the labels are 0, 1"),
        ("{'0':'a','0':'b','1':'c'}", "label '0' stands there twice"),
        ("{'0':'same','1':'same'}", "'same' stands for both 0 and 1"),
        ("{'0':' ','1':'b'}", "the word of label '0' is empty"),
        ("{'0':1,'1':'b'}", "a dictionary of labels and words belongs there"),
        ("['a','b']", "a dictionary of labels"),
        ("__import__('os').system('false')", "a dictionary of labels"),
        ("{'0':__import__('os').name,'1':'b'}", "a dictionary of labels"),
        ("{**{'0':'a'},'1':'b'}", "a dictionary of labels"),
        ("{'0':'a'", "a dictionary of labels"),
        ("[" * 5000, "a dictionary of labels"),
        ("x" * 20_000, "of 20,000 characters"),
        ("", "a dictionary of labels"),
    ],
)
def test_what_is_no_mapping(text, words):
    with pytest.raises(OptionError, match=words) as error:
        parse_mapping(text, ("0", "1"))
    assert error.value.name == "mapping"
