"""Text that a causal language model goes on with: greedy or by beams, in batches, each row as if alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, PreTrainedModel

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
    text does not hang on its neighbours. What the model's own `generation_config` says (sampling, penalties)
    is left aside.

    Args:
        end: the token that ends a text; also what pads.
        max_new_tokens: of each text. num_beams: 1 for greedy.
        share: (i, n) for each n-th prompt only, from the i-th on: the part of one of several processes.

    Returns:
        number of the prompt -> tokens, without the end.
    """
    own = range(share[0], len(prompts), share[1])
    order = sorted(own, key=lambda number: -len(prompts[number]["input_ids"]))  # little padding
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
    found = {}
    try:
        for begin in range(0, len(order), batch_size):
            numbers = order[begin : begin + batch_size]
            rows = [prompts[number]["input_ids"] for number in numbers]
            ids, mask = _padded_left(rows, end)
            made = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=settings,
            )
            for number, row in zip(numbers, made[:, ids.shape[1] :].tolist()):
                found[number] = row[: row.index(end)] if end in row else row
    finally:
        model.generation_config = before
        model.train(trains)
    return found


def _padded_left(rows: Sequence[Sequence[int]], padding: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return tokens and mask, [rows, longest] each."""
    longest = max(map(len, rows))
    ids = torch.tensor([[padding] * (longest - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask
