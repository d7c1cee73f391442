"""Sources and targets for a causal language model: tokenised rows, batches, loss by token.

Shapes: B rows of a batch, T tokens of its longest row, V words of the vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...options.errors import OptionError
from .clm_files import Line
from .tokenised import PackedDataset

IGNORED = -100  # the label that has no loss
BATCH = 2000  # texts that are tokenised at once


class Layout:
    """How texts become tokens: [start] source separator target end.

    Source, separator and target are tokenised apart, so that a prompt is the beginning of the row that was
    trained on, token by token. The separator's blanks behind it go to the target, where a tokenizer such as
    GPT-2's has them. The end is the tokenizer's `eos_token`; the start is what the tokenizer itself begins
    texts with (Llama's), and for a text without source the `bos_token`, so that its first word is predicted.

    Raises:
        OptionError: the tokenizer has no end of text.
    """

    def __init__(self, tokenizer: Any, separator: str):
        if tokenizer.eos_token_id is None:
            raise OptionError("tokenizer_name", "has no token for the end of a text (eos_token)")
        self.tokenizer, self.end = tokenizer, tokenizer.eos_token_id
        before = separator.rstrip(" ")
        self.lead = separator[len(before) :]
        self.separator: list[int] = self.ids([before])[0] if before else []
        first = tokenizer("a")["input_ids"][0]
        self.start = [first] if first == tokenizer.bos_token_id else []
        self.alone = [self.end if tokenizer.bos_token_id is None else tokenizer.bos_token_id]

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokenise texts, nothing added."""
        found: list[list[int]] = []
        for begin in range(0, len(texts), BATCH):
            batch = list(texts[begin : begin + BATCH])
            found += self.tokenizer(batch, add_special_tokens=False, padding=False, truncation=False)[
                "input_ids"
            ]
        return found

    def prompt(self, source: Sequence[int], room: int) -> list[int]:
        """Return the tokens that a target follows, of `room` at most: the source loses its end."""
        if not source:
            return list(self.alone)
        kept = source[: max(0, room - len(self.start) - len(self.separator))]
        return [*self.start, *kept, *self.separator]

    @property
    def fewest(self) -> int:
        """The length that holds a token of each part."""
        return len(self.start) + len(self.separator) + 2


class ClmDataset(PackedDataset):
    """A row for each target of each line, for a Trainer with `PadRight`: `input_ids`, `labels`.

    Labels are on the target and its end, with `loss_on_source` on all that is predicted. What is longer than
    `max_seq_length` is cut: the longer of source and target loses its end, the target's being the end of the
    text too, so that nothing learns to stop there.

    Attributes:
        cut: how many rows were.

    Raises:
        OptionError: `max_seq_length` has no room for source and target.
    """

    def __init__(
        self, lines: Sequence[Line], layout: Layout, max_seq_length: int, loss_on_source: bool = False
    ):
        super().__init__()
        check_room("max_seq_length", max_seq_length, layout)
        self.cut = 0
        pairs = [(line.source, target) for line in lines for target in line.targets]
        sources = layout.ids([source for source, _ in pairs])
        targets = layout.ids([f"{layout.lead}{target}" if source else target for source, target in pairs])
        rows: dict[str, list[list[int]]] = {"input_ids": [], "labels": []}
        for source, target in zip(sources, targets):
            target = [*target, layout.end]
            own = len(layout.prompt(source, 0))  # of start and separator
            room = max_seq_length - own
            kept = min(len(source), max(room // 2, room - len(target)))
            self.cut += len(source) + len(target) > room
            prompt, target = layout.prompt(source, own + kept), target[: room - kept]
            silent = 1 if loss_on_source else len(prompt)  # nothing predicts the first token
            ids = prompt + target
            rows["input_ids"].append(ids)
            rows["labels"].append([IGNORED] * silent + ids[silent:])
        self.extend(rows)


class PromptDataset(PackedDataset):
    """The prompt of each source, in their order: `input_ids` of at most `room` tokens.

    Attributes:
        references: of each source, none or more. cut: how many prompts lost the end of their source.
    """

    def __init__(self, references: Mapping[str, Sequence[str]], layout: Layout, room: int):
        super().__init__()
        self.references = [tuple(texts) for texts in references.values()]
        sources = layout.ids(list(references))
        prompts = [layout.prompt(source, room) for source in sources]
        fixed = len(layout.start) + len(layout.separator)
        self.cut = sum(len(source) + fixed > room for source in sources)
        self.extend({"input_ids": prompts})


class PadRight:
    """Makes batches of rows: `input_ids`, `attention_mask`, `labels`, each [B, T].

    Padding is hidden by mask and labels, so any token will do for it: none is added to the vocabulary.
    """

    def __init__(self, padding: int):
        self.padding = padding

    def __call__(self, rows: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        batch = {
            "input_ids": torch.full((len(rows), longest), self.padding),
            "attention_mask": torch.zeros(len(rows), longest, dtype=torch.long),
            "labels": torch.full((len(rows), longest), IGNORED),
        }
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            batch["input_ids"][number, :length] = torch.tensor(row["input_ids"])
            batch["attention_mask"][number, :length] = 1
            batch["labels"][number, :length] = torch.tensor(row["labels"])
        return batch


def row_losses(logits: Any, labels: Tensor) -> Tensor:
    """Sum up the loss of each row, for a Trainer's `preprocess_logits_for_metrics`.

    Args:
        logits: [B, T, V], or a tuple that begins with them. labels: [B, T].

    Returns:
        [B, 2] float64: the sum of the losses of a row's labelled tokens in nats, and their number.
    """
    logits = logits[0] if isinstance(logits, (tuple, list)) else logits
    shifted = labels[:, 1:]  # the logits at t are about the token at t + 1
    wanted = shifted != IGNORED
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1][wanted].float(), shifted[wanted], reduction="none"
    )
    found = torch.zeros(len(labels), 2, dtype=torch.float64, device=labels.device)
    found[:, 0].index_add_(0, wanted.nonzero()[:, 0], losses.double())
    found[:, 1] = wanted.sum(1)
    return found


def perplexity(rows: np.ndarray) -> dict[str, float]:
    """Return loss and perplexity over all labelled tokens, each of which counts the same.

    Args:
        rows: [rows, 2] of `row_losses`.

    Raises:
        ValueError: the loss is not a number.
    """
    total, tokens = rows.astype(np.float64).sum(0)
    loss = float(total / tokens)
    if not math.isfinite(loss):
        raise ValueError(f"the model's loss is {loss}: its weights are no numbers any more; train it slower")
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}


def check_room(option: str, length: int, layout: Layout) -> None:
    """Raise an OptionError where no source and target fit beside the separator."""
    if length < layout.fewest:
        raise OptionError(
            option, f"{length}: {layout.fewest} tokens are the least, for separator, source and target"
        )
