"""From an example and a template to token ids, with the mask always in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...delta.label_words import OPTION as MAPPING
from ...delta.templates import Part, Template
from ...options.errors import OptionError

# as LM-BFF has it: no space goes before a label word that begins with one of these
_NO_SPACE = ("<", "[", ".", ",")


@dataclass
class Cuts:
    """What was cut off texts.

    Attributes:
        rows: encoded. limited: rows of which a limit of sentences has cut something.
        shortened: rows that were too long. tokens: that these have lost, in all.
    """

    rows: int = 0
    limited: int = 0
    shortened: int = 0
    tokens: int = 0

    def words(self, max_seq_length: int) -> list[str]:
        """Say what was cut, in a sentence each; nothing where nothing was."""
        found = []
        if self.limited:
            found.append(f"{self.limited:,} of {self.rows:,} texts are cut by the limits of their sentences")
        if self.shortened:
            found.append(
                f"{self.shortened:,} of {self.rows:,} texts are longer than {max_seq_length} tokens: their "
                f"longest sentences lose their ends ({self.tokens:,} tokens), and none its mask"
            )
        return found


@dataclass
class Encoded:
    """Encoded rows.

    Attributes:
        input_ids, token_type_ids, prompt_ids: rows of ints, equally long; `token_type_ids` and `prompt_ids`
            are empty where the tokenizer has no segments, the template no soft prompt. In `prompt_ids` j > 0
            stands where the j-th vector of the prompt does.
        mask_pos: of each row, the place of its mask.
    """

    input_ids: list[list[int]] = field(default_factory=list)
    token_type_ids: list[list[int]] = field(default_factory=list)
    prompt_ids: list[list[int]] = field(default_factory=list)
    mask_pos: list[int] = field(default_factory=list)


class PromptEncoder:
    """Encodes examples by a template.

    Args:
        words: label word ids, in the order of the labels; see `label_word_ids`.
        sentences: of an example. demonstrations: that follow it in the template.
        max_seq_length: tokens of a row at most, the soft prompt's vectors included.
        prompt_num: vectors of the soft prompt.
        first_sent_limit, other_sent_limit: tokens of sentence 0, of each other sentence, at most.
        segments: numbers of segments that the model has; later ones become the last.

    Raises:
        OptionError: the tokenizer lacks a token that the template has; the template leaves no room for a
            text.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: Template,
        words: Sequence[int],
        max_seq_length: int,
        sentences: int = 1,
        demonstrations: int = 0,
        prompt_num: int = 10,
        first_sent_limit: int | None = None,
        other_sent_limit: int | None = None,
        segments: int = 2,
    ):
        self.tokenizer, self.template, self.words = tokenizer, template, list(words)
        self.max_seq_length, self.prompt_num = max_seq_length, prompt_num
        self.limits = (first_sent_limit, other_sent_limit)
        self.segments = max(segments, 1) if "token_type_ids" in tokenizer.model_input_names else 0
        self.cuts = Cuts()
        self._special = {
            "cls": tokenizer.cls_token_id,
            "sep": tokenizer.sep_token_id,
            "mask": tokenizer.mask_token_id,
        }
        self._filler = filler_of(tokenizer)
        self._literals: dict[str, list[int]] = {}
        self._check(sentences, demonstrations)

    def _check(self, sentences: int, demonstrations: int) -> None:
        count = sentences * (1 + demonstrations)
        parts = self.template.render([""] * count, [0] * demonstrations)
        for kind, number in self._special.items():
            if number is None and any(part.kind == kind for part in parts):
                raise OptionError("tokenizer_name", f"has no {kind} token, which the template asks for")
        for part in parts:
            if part.kind == "text" and part.sentence is None and self._special["mask"] in self._fixed(part):
                mask = self.tokenizer.mask_token
                reason = (
                    f"has {mask} in its words {part.text.strip()!r}: *mask* alone is the label word's place"
                )
                raise OptionError("template", f"{self.template.source!r} {reason}")
        fixed = sum(len(self._fixed(part)) for part in parts if part.sentence is None)
        least = fixed + sentences
        if least > self.max_seq_length:
            reason = f"{self.max_seq_length}: the template alone has {fixed} tokens: give {least} at least"
            raise OptionError("max_seq_length", reason)

    @property
    def has_prompt(self) -> bool:
        return self.template.has_prompt

    def encode(
        self, examples: Sequence[Sequence[str]], demonstrated: Sequence[Sequence[int]] | None = None
    ) -> Encoded:
        """Encode rows.

        Args:
            examples: of each row, the sentences of the example and then of its demonstrations.
            demonstrated: of each row, the number of each demonstration's label.
        """
        shown = demonstrated or [()] * len(examples)
        rows = [self.template.render(texts, labels) for texts, labels in zip(examples, shown)]
        texts = [part.text for parts in rows for part in parts if part.sentence is not None]
        tokens = iter(self._tokens(texts))
        found = Encoded()
        for parts in rows:
            ids = [self._fixed(part) if part.sentence is None else list(next(tokens)) for part in parts]
            self._cut(parts, ids)
            self._join(parts, ids, found)
        return found

    def _join(self, parts: Sequence[Part], ids: Sequence[list[int]], found: Encoded) -> None:
        row: list[int] = []
        segments: list[int] = []
        vectors: list[int] = []
        for part, numbers in zip(parts, ids):
            if part.kind == "mask":
                found.mask_pos.append(len(row))
            row += numbers
            segments += [part.segment] * len(numbers)
            vectors += range(1, len(numbers) + 1) if part.kind == "prompt" else [0] * len(numbers)
        found.input_ids.append(row)
        if self.segments:
            found.token_type_ids.append([min(number, self.segments - 1) for number in segments])
        if self.has_prompt:
            found.prompt_ids.append(vectors)

    def _cut(self, parts: Sequence[Part], ids: list[list[int]]) -> None:
        """Cut sentences at their limits, and then the longest ones until the row fits."""
        self.cuts.rows += 1
        places = [place for place, part in enumerate(parts) if part.sentence is not None]
        limited = False
        for place in places:
            limit = self.limits[parts[place].sentence != 0]
            if limit is not None and len(ids[place]) > limit:
                ids[place], limited = ids[place][:limit], True
        self.cuts.limited += limited
        over = sum(map(len, ids)) - self.max_seq_length
        if over <= 0:
            return
        self.cuts.shortened += 1
        self.cuts.tokens += over
        left = shared([len(ids[place]) for place in places], sum(len(ids[place]) for place in places) - over)
        for place, count in zip(places, left):
            ids[place] = ids[place][:count]

    def _fixed(self, part: Part) -> list[int]:
        """Return the tokens of what is no sentence."""
        if part.kind == "prompt":
            return [self._filler] * self.prompt_num
        if part.kind == "label":
            return [self.words[part.label]] if self.words else []
        if part.kind != "text":
            return [self._special[part.kind]]
        if part.text not in self._literals:
            (self._literals[part.text],) = self._tokens([part.text])
        return self._literals[part.text]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        plain = {"padding": False, "truncation": False, "return_attention_mask": False, "verbose": False}
        return self.tokenizer(list(texts), add_special_tokens=False, **plain)["input_ids"]


def filler_of(tokenizer: Any) -> int:
    """Return a token for the places of a soft prompt: RoBERTa counts its positions by what is no padding."""
    found = (tokenizer.unk_token_id, tokenizer.mask_token_id)
    return next((one for one in found if one is not None), 0)


def shared(lengths: Sequence[int], total: int) -> list[int]:
    """Return how much each of several sentences keeps of a total: the longest ones give first.

    With a cap c each keeps min(length, c); what is left by rounding goes to the first that are above it.
    """
    total, cap = max(total, 0), 0
    rest = sorted(lengths)
    spare = total
    for number, length in enumerate(rest):
        fair = spare // (len(rest) - number)
        if length > fair:
            cap = fair
            spare -= fair * (len(rest) - number)
            break
        spare -= length
        cap = length
    left = []
    for length in lengths:
        more = int(length > cap and spare > 0)
        spare -= more
        left.append(min(length, cap) + more)
    return left


def label_word_ids(tokenizer: Any, mapping: Mapping[str, str]) -> list[int]:
    """Return the token of each label's word, in the order of the mapping.

    A space goes before a word, as in a text, but before one that begins with "<", "[", "." or ",".

    Raises:
        OptionError: a word is several tokens, not in the vocabulary, a special token, or has the same token
            as another one.
    """
    found: dict[str, int] = {}
    for label, word in mapping.items():
        space = "" if word.startswith(_NO_SPACE) else " "
        ids = tokenizer(f"{space}{word}", add_special_tokens=False)["input_ids"]
        names = [str(name) for name in tokenizer.convert_ids_to_tokens(ids)]
        whose = f"the word {word!r} of label {label!r}"
        if len(ids) != 1:
            told = f"{len(ids)} tokens ({' '.join(names)})" if ids else "no token"
            raise OptionError(
                MAPPING, f": {whose} is {told} with this tokenizer: choose one that is one token"
            )
        if ids[0] == tokenizer.unk_token_id:
            raise OptionError(MAPPING, f": {whose} is not in the tokenizer's vocabulary")
        if ids[0] in tokenizer.all_special_ids:
            raise OptionError(MAPPING, f": {whose} is the special token {names[0]}")
        same = next((other for other, number in found.items() if number == ids[0]), None)
        if same is not None:
            reason = f": {whose} is the same token as {mapping[same]!r} of label {same!r} ({names[0]})"
            raise OptionError(MAPPING, reason)
        found[label] = ids[0]
    return list(found.values())
