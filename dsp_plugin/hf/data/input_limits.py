"""What a model's tables of embeddings let in: how many tokens, which numbers of tokens and segments.

Tokenizer and model come from folders of their own, and neither says what the other can take. Beyond a table's
end a CPU raises an IndexError in the middle of training, and a GPU a device-side assertion.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn
from transformers import PreTrainedModel

from ...options.errors import OptionError
from .tokenised import PackedDataset

# Attributes that hold one row a position in the sequence. Relative positions (T5, XLNet, DeBERTa without
# `position_biased_input`) and rotations (Llama) have no such table, and no end.
_POSITIONS = ("position_embeddings", "embed_positions", "wpe", "positions_embed")
_SEGMENTS = "token_type_embeddings"


def longest_input(model: PreTrainedModel) -> int | None:
    """Return the number of tokens that the model has positions for; None where it has no table of positions.

    Rows before the first position do not count: RoBERTa's begin behind the padding's, BART's at `offset`.
    """
    found = []
    for name, table in _tables(model):
        if name in _POSITIONS:
            padding = -1 if table.padding_idx is None else table.padding_idx
            found.append(table.num_embeddings - int(getattr(table, "offset", padding + 1)))
    stated = getattr(model.config, "max_position_embeddings", None)
    if found and isinstance(stated, int) and stated > 0:
        found.append(stated)  # some tables have rows to spare (Nyströmformer)
    return min(found, default=None)


def check_inputs(data: PackedDataset, model: PreTrainedModel, tokenizer_name: str) -> None:
    """Compare tokenised examples with the tables that the model looks them up in.

    Raises:
        OptionError: a number of a token or of a segment is beyond its table; names the tokenizer.
    """
    words = model.get_input_embeddings()
    tables = [("input_ids", "token", words)]
    tables += [("token_type_ids", "segment", table) for name, table in _tables(model) if name == _SEGMENTS]
    for column, what, table in tables:
        largest = data.largest(column)
        if isinstance(table, nn.Embedding) and largest >= table.num_embeddings:
            reason = (
                f"{tokenizer_name} gives {what} {largest}, and the model has {table.num_embeddings} of them: "
                "name the tokenizer that the model was trained with"
            )
            raise OptionError("tokenizer_name", reason)


def _tables(model: PreTrainedModel) -> Iterator[tuple[str, nn.Embedding]]:
    for name, module in model.named_modules():
        if isinstance(module, nn.Embedding):
            yield name.rpartition(".")[2], module
