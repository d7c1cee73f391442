"""Prompts as token ids: each tokenizer's own, truncation that keeps the mask, label words."""

from __future__ import annotations

import random

import pytest

pytest.importorskip("transformers")
from delta_models import bert_tokenizer, roberta_tokenizer  # isort: skip

from dsp_plugin.delta.templates import Template
from dsp_plugin.hf.delta.encoding import PromptEncoder, label_word_ids, shared
from dsp_plugin.options.errors import OptionError

PAIR = "*cls*prompt*sent-_0*?*mask*,*+sentl_1**sep+*"
SINGLE = "*cls*prompt*sent_0*_It_was*mask*.*sep+*"


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return bert_tokenizer(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    return roberta_tokenizer(tmp_path_factory.mktemp("roberta"))


def encoder(tokenizer, template=SINGLE, length=64, sentences=1, shown=0, **more) -> PromptEncoder:
    read = Template.parse(template)
    if shown:
        read = read.with_demonstrations(shown, sentences)
    words = label_word_ids(tokenizer, {"0": "terrible", "1": "great"})
    return PromptEncoder(tokenizer, read, words, length, sentences, shown, **more)


def test_berts_prompt(bert):
    found = encoder(bert, prompt_num=3).encode([["the sailor sees nothing"], ["a child likes everything"]])
    assert bert.convert_ids_to_tokens(found.input_ids[0]) == (
        "[CLS] [UNK] [UNK] [UNK] the sailor sees nothing it was [MASK] . [SEP]".split()
    )
    assert found.prompt_ids == [[0, 1, 2, 3, *[0] * 9]] * 2
    assert found.mask_pos == [10, 10] and found.token_type_ids == [[0] * 13] * 2


def test_robertas_prompt_has_its_spaces_and_no_padding_in_it(roberta):
    found = encoder(roberta, PAIR, sentences=2).encode([["who sees it?", "Nothing is great"]])
    (ids,) = found.input_ids
    assert found.token_type_ids == [] and roberta.pad_token_id not in ids
    tokens = roberta.convert_ids_to_tokens(ids)
    assert tokens[0] == "<s>" and tokens[-1] == "</s>" and ids[found.mask_pos[0]] == roberta.mask_token_id
    text = roberta.decode([number for number, vector in zip(ids, found.prompt_ids[0]) if not vector])
    assert text == "<s>who sees it?<mask>, nothing is great</s>"
    assert "Ġnothing" in tokens and found.prompt_ids[0][1:11] == list(range(1, 11))


def test_demonstrations_have_words_for_masks_and_segments_within_the_models(bert):
    made = encoder(bert, SINGLE, shown=2)
    found = made.encode([["the sailor", "a child", "the old dog"]], [[1, 0]])
    tokens = bert.convert_ids_to_tokens(found.input_ids[0])
    query, shown = (
        "the sailor it was [MASK] . [SEP]",
        "a child it was great . [SEP] the old dog it was terrible .",
    )
    assert tokens[11:] == [*query.split(), *shown.split(), "[SEP]"]
    assert max(found.token_type_ids[0]) == 1  # of three segments BERT knows two


@pytest.mark.parametrize("template", [SINGLE, PAIR, "*cls**mask*:*sent_0**sep*"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_the_mask_is_there_however_long_the_text(request, kind, template):
    tokenizer, rng = request.getfixturevalue(kind), random.Random(5)
    sentences = 2 if template == PAIR else 1
    made = encoder(tokenizer, template, 32, sentences)
    whole = encoder(tokenizer, template, 10_000, sentences)
    texts = [
        ["the sailor sees nothing . " * rng.choice([0, 1, 4, 60]) for _ in range(sentences)]
        for _ in range(40)
    ]
    found, uncut = made.encode(texts), whole.encode(texts)
    lost = rows = 0
    for ids, place, prompt, full in zip(
        found.input_ids, found.mask_pos, found.prompt_ids or [[]] * 40, uncut.input_ids
    ):
        assert ids[place] == tokenizer.mask_token_id and ids.count(tokenizer.mask_token_id) == 1
        assert len(ids) == min(32, len(full)) and ids[-1] == tokenizer.sep_token_id
        assert [number for number in prompt if number] == (list(range(1, 11)) if prompt else [])
        lost, rows = lost + len(full) - len(ids), rows + (len(full) > 32)
    assert (made.cuts.shortened, made.cuts.tokens) == (rows, lost) and rows
    (words,) = made.cuts.words(32)
    assert words.startswith(f"{rows} of 40 texts are longer than 32 tokens") and "none its mask" in words
    assert whole.cuts.words(10_000) == []


def test_limits_of_sentences(bert):
    made = encoder(bert, PAIR, sentences=2, first_sent_limit=2, other_sent_limit=1)
    (ids,) = made.encode([["the old dog sees?", "a child likes it"]]).input_ids
    assert bert.convert_ids_to_tokens(ids)[11:] == "the old ? [MASK] , a [SEP]".split()
    assert made.cuts.words(64) == ["1 of 1 texts are cut by the limits of their sentences"]


def test_the_longest_sentences_give_first():
    rng = random.Random(3)
    for _ in range(300):
        lengths = [rng.randrange(12) for _ in range(rng.randrange(1, 6))]
        total = rng.randrange(sum(lengths) + 1)
        left, given = shared(lengths, total), list(lengths)
        for _ in range(sum(lengths) - total):  # one token at a time, off the last of the longest
            longest = max(range(len(given)), key=lambda place: (given[place], place))
            given[longest] -= 1
        assert left == given, (lengths, total)


def test_a_template_without_room_for_a_text(bert):
    with pytest.raises(OptionError, match="max_seq_length 15: the template alone has 16 tokens: give 17"):
        encoder(bert, SINGLE, 15)
    encoder(bert, SINGLE, 17)


@pytest.mark.parametrize(
    "kind,mapping,words",
    [
        ("bert", {"0": "greatly", "1": "no"}, r"'greatly' of label '0' is 2 tokens \(great ##ly\)"),
        ("bert", {"0": "superb", "1": "no"}, "'superb' of label '0' is not in the tokenizer's vocabulary"),
        ("bert", {"0": "No", "1": "no"}, r"the same token as 'No' of label '0' \(no\)"),
        ("bert", {"0": "[SEP]", "1": "no"}, r"the special token \[SEP\]"),
        ("bert", {"0": "it was", "1": "no"}, r"2 tokens \(it was\)"),
        ("roberta", {"0": "incorrect", "1": "no"}, r"4 tokens \(Ġ"),
        ("roberta", {"0": "<mask>", "1": "no"}, "the special token <mask>"),
    ],
)
def test_label_words_are_one_token(request, kind, mapping, words):
    with pytest.raises(OptionError, match=words) as error:
        label_word_ids(request.getfixturevalue(kind), mapping)
    assert error.value.name == "mapping"


def test_robertas_label_words_have_a_space_before_them(roberta):
    ids = label_word_ids(roberta, {"0": "terrible", "1": "great"})
    assert roberta.convert_ids_to_tokens(ids) == ["Ġterrible", "Ġgreat"]


@pytest.mark.parametrize("kind,mask", [("bert", "[MASK]"), ("roberta", "<mask>")])
def test_a_tokenizers_own_mask_is_no_word_of_a_template(request, kind, mask):
    tokenizer = request.getfixturevalue(kind)
    with pytest.raises(OptionError, match=r"has .* in its words .*: \*mask\* alone"):
        encoder(tokenizer, f"*cls*sent_0*_It_was_{mask}_or*mask*.*sep+*")


def test_a_tokenizer_without_a_mask(bert):
    bare = type(bert).from_pretrained(bert.name_or_path)
    bare.mask_token = None
    with pytest.raises(OptionError, match="tokenizer_name has no mask token"):
        encoder(bare)
