"""Text that a causal language model goes on with: greedy or by beams, in batches, each row as if alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import torch
from transformers import GenerationConfig, PreTrainedModel
from transformers.utils import logging as hf_logging

from .clm import PromptDataset


def generate(
    model: PreTrainedModel,
    prompts: PromptDataset,
    end: int,
    batch_size: int,
    max_new_tokens: int,
    num_beams: int = 1,
    share: tuple[int, int] = (0, 1),
) -> dict[int, list[int]]:
    """Let a model go on from each prompt, until it ends the text.

    Prompts are padded on the left under a mask, and their positions count from their first token, so that a
    text does not hang on its neighbours. For a model that padding changes all the same (BLOOM's attention
    gives NaN there, Transformers 5.23) batches are of prompts of one length. What the model's own
    `generation_config` says (sampling, penalties) is left aside.

    Args:
        end: the token that ends a text; also what pads.
        max_new_tokens: of each text. num_beams: 1 for greedy.
        share: (i, n) for each n-th prompt only, from the i-th on: the part of one of several processes.

    Returns:
        number of the prompt -> tokens, without the end.
    """
    own = {number: prompts[number]["input_ids"] for number in range(share[0], len(prompts), share[1])}
    settings = GenerationConfig(
        do_sample=False,
        num_beams=num_beams,
        max_new_tokens=max_new_tokens,
        use_cache=True,
        eos_token_id=end,
        pad_token_id=end,
    )
    before, trains = model.generation_config, model.training
    model.generation_config = settings  # else what it leaves open comes from the model's
    model.eval()
    level = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # it drops a mask that hides nothing, and warns that there is none
    found: dict[int, list[int]] = {}
    try:
        mixed = batch_size == 1 or _takes_padding(model, list(own.values()), end)
        for numbers in _batches({number: len(row) for number, row in own.items()}, batch_size, mixed):
            ids, mask = _padded_left([own[number] for number in numbers], end)
            made = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings,
            )
            for number, row in zip(numbers, made[:, ids.shape[1] :].tolist()):
                found[number] = row[: row.index(end)] if end in row else row
    finally:
        hf_logging.set_verbosity(level)
        model.generation_config = before
        model.train(trains)
    return found


def _batches(lengths: dict[int, int], batch_size: int, mixed: bool) -> Iterator[list[int]]:
    """Yield the numbers of the prompts of each batch, the longest first, so that there is little padding.

    Args:
        lengths: number of the prompt -> its tokens. mixed: whether a batch may have several lengths.
    """
    order = sorted(lengths, key=lambda number: -lengths[number])
    for _, group in groupby(order, key=lambda number: 0 if mixed else lengths[number]):
        numbers = list(group)
        yield from (numbers[begin : begin + batch_size] for begin in range(0, len(numbers), batch_size))


@torch.no_grad()
def _takes_padding(model: PreTrainedModel, rows: Sequence[Sequence[int]], end: int) -> bool:
    """Whether the shortest prompt's first new token is as likely beside the longest one as it is alone."""
    if not rows or len(min(rows, key=len)) == len(max(rows, key=len)):
        return True
    short, long = min(rows, key=len), max(rows, key=len)
    settings = GenerationConfig(
        max_new_tokens=1,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=end,
        output_logits=True,
        return_dict_in_generate=True,
    )
    alone, beside = (
        model.generate(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
        )
        .logits[0][0]
        .double()
        for ids, mask in (_padded_left([short], end), _padded_left([short, long], end))
    )
    close = 1e-3 if model.dtype in (torch.float32, torch.float64) else 5e-2
    return bool((alone - beside).abs().max() <= close * alone.abs().max())  # false of NaN, too


def _padded_left(rows: Sequence[Sequence[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and mask, [rows, longest] each."""
    longest = max(map(len, rows))
    ids = torch.tensor([[padding] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
