"""Templates: how an example becomes a text with a mask, whose word is the label (Gao et al., ACL 2021).

    *cls*prompt*sent_0*_It_was*mask*.*sep+*

The text is cut at each "*"; a part is a piece (`template_pieces`) or stands as it is, with "_" for a space. A
template is read once, into a typed structure, and rendered to parts that any tokenizer can go on with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..options.errors import OptionError
from .template_pieces import Label, Literal, Piece, Prompt, Sentence, Special, piece_of

OPTION = "template"


@dataclass(frozen=True)
class Part:
    """A part of a rendered text.

    Attributes:
        kind: "cls", "mask", "sep", "prompt", "text" or "label".
        segment: its segment's number.
        text: of a "text". label: number of the label, of a "label".
        sentence: number of the sentence that it is, which may be cut; None for what may not.
    """

    kind: str
    segment: int
    text: str = ""
    label: int = 0
    sentence: int | None = None


@dataclass(frozen=True)
class Template:
    """A template that has been read.

    Attributes:
        source: its text. pieces: in order.
    """

    source: str
    pieces: tuple[Piece, ...]

    @classmethod
    def parse(cls, source: str) -> Template:
        """Read a template.

        Raises:
            OptionError: a part that looks like a piece and is none (its number and text are named), no mask
                or several, several soft prompts, no sentence.
        """
        pieces = []
        for number, text in enumerate(source.split("*")):
            try:
                piece = piece_of(text)
            except ValueError as error:
                raise OptionError(OPTION, f"{source!r}: part {number}: {error}") from None
            if piece is not None:
                pieces.append(piece)
        made = cls(source, tuple(pieces))
        made._check()
        return made

    def _check(self) -> None:
        masks = self._count(lambda piece: piece == Special("mask"))
        if masks != 1:
            reason = "has no *mask*, where the label's word is to be" if not masks else f"has {masks} *mask*s"
            example = "*cls*sent_0*_It_was*mask*.*sep+*"
            raise OptionError(OPTION, f"{self.source!r} {reason}; one belongs there, as in {example}")
        if self._count(lambda piece: isinstance(piece, Prompt)) > 1:
            raise OptionError(OPTION, f"{self.source!r} has several *prompt*s; one belongs there at most")
        if not self.sentences:
            raise OptionError(OPTION, f"{self.source!r} has no sentence (*sent_0*)")

    @property
    def has_prompt(self) -> bool:
        return any(isinstance(piece, Prompt) for piece in self.pieces)

    @property
    def sentences(self) -> tuple[int, ...]:
        """The numbers of its sentences, each once, in order of size."""
        return tuple(sorted({piece.number for piece in self.pieces if isinstance(piece, Sentence)}))

    @property
    def has_demonstrations(self) -> bool:
        """Whether it has label words, as only demonstrations have."""
        return any(isinstance(piece, Label) for piece in self.pieces)

    def without_prompt(self) -> Template:
        """Return the template without the soft prompt's place."""
        source = source_without_prompt(self.source)
        return Template(source, tuple(piece for piece in self.pieces if not isinstance(piece, Prompt)))

    def check_task(self, sentences: int, labels: int, demonstrations: int = 0) -> None:
        """Check the numbers of sentences and labels.

        Args:
            sentences: of an example. labels: of the task. demonstrations: examples that follow it.

        Raises:
            OptionError: a sentence, label or demonstration that there is not; a sentence of the example that
                is left out.
        """
        there = sentences * (1 + demonstrations)
        for piece in self.pieces:
            if isinstance(piece, Sentence) and piece.number >= there:
                belongs = f"an example has *sent_0*{' and *sent_1*' if sentences > 1 else ''}"
                more = f", and its demonstrations go up to *sent_{there - 1}*" if demonstrations else ""
                raise OptionError(OPTION, f"{self.source!r}: *sent_{piece.number}*: {belongs}{more}")
            if isinstance(piece, Label):
                name, most = ("labelx", demonstrations) if piece.of_demonstration else ("label", labels)
                if not demonstrations:
                    reason = f"*{name}_{piece.number}* belongs to demonstrations, which are not asked for"
                    raise OptionError(OPTION, f"{self.source!r}: {reason}")
                if piece.number >= most:
                    raise OptionError(OPTION, f"{self.source!r}: *{name}_{piece.number}*: there are {most}")
        missing = [number for number in range(sentences) if number not in self.sentences]
        if missing:
            raise OptionError(OPTION, f"{self.source!r} leaves *sent_{missing[0]}* out")

    def with_demonstrations(self, labels: int, sentences: int) -> Template:
        """Return the template followed by itself once a label, as demonstrations, with words for masks.

        Demonstration j has the sentences from `sentences` (1 + j) on. The first token and the soft prompt are
        not repeated. A template that has demonstrations already stays as it is.
        """
        if self.has_demonstrations:
            return self
        pieces = list(self.pieces)
        for number in range(labels):
            for piece in self.pieces:
                if isinstance(piece, Sentence):
                    moved = piece.number + sentences * (1 + number)
                    piece = Sentence(moved, piece.space, piece.first, piece.cut_last)
                elif piece == Special("mask"):
                    piece = Label(number, of_demonstration=True)
                elif piece == Special("cls") or isinstance(piece, Prompt):
                    continue
                pieces.append(piece)
        return Template(self.source, tuple(pieces))

    def render(self, sentences: Sequence[str], demonstrated: Sequence[int] = ()) -> list[Part]:
        """Return the parts of an example.

        Args:
            sentences: of the example, then of each demonstration.
            demonstrated: the label's number of each demonstration.
        """
        parts, segment = [], 0
        for piece in self.pieces:
            if isinstance(piece, Special):
                parts.append(Part(piece.name, segment))
                segment += piece.next_segment
            elif isinstance(piece, Prompt):
                parts.append(Part("prompt", segment))
            elif isinstance(piece, Sentence):
                text = piece.text(sentences[piece.number])
                parts.append(Part("text", segment, text, sentence=piece.number))
            elif isinstance(piece, Label):
                label = demonstrated[piece.number] if piece.of_demonstration else piece.number
                parts.append(Part("label", segment, label=label))
            elif isinstance(piece, Literal):
                parts.append(Part("text", segment, piece.text))
        return parts

    def _count(self, wanted) -> int:
        return sum(map(wanted, self.pieces))


def source_without_prompt(source: str) -> str:
    """Return a template's text without the soft prompt's place."""
    return "*".join(text for text in source.split("*") if text != "prompt")
