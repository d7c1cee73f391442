"""A tokenizer made of the training text: byte-level BPE, as GPT-2's, with as many entries as asked for."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END = "<|endoftext|>"
SMALLEST = 257  # every byte, and the end of a text


def train_tokenizer(texts: Iterable[str], size: int, longest: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer with at most `size` entries: the bytes, the most frequent pairs of pairs, the end.

    Args:
        texts: as they will be tokenised, with their leading blanks.
        longest: `model_max_length`, the tokens that a text has at most.
    """
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    found.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=found, bos_token=END, eos_token=END, model_max_length=longest
    )
