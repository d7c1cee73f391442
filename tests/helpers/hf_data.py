"""Generated examples for tiny Transformers models, their padding, and a Trainer for them."""

from __future__ import annotations

import hf_models  # noqa: F401  (first: see there)  isort: skip

from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments

IGNORED = -100
# of a training that is scored at every update and ends with its best
BEST_OF_STEPS: dict[str, Any] = dict(
    eval_strategy="steps",
    eval_steps=1,
    save_strategy="steps",
    save_steps=1,
    load_best_model_at_end=True,
    greater_is_better=True,
)


def sentences(count: int, seed: int = 1, longest: int = 9) -> list[dict[str, Any]]:
    """Sequences of 3 to `longest` ids; the label says whether the first id is in the upper half of the
    vocabulary.
    """
    generator = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        length = int(torch.randint(3, longest + 1, (), generator=generator))
        ids = torch.randint(3, hf_models.VOCABULARY, (length,), generator=generator)
        found.append({"input_ids": ids, "labels": int(ids[0] >= hf_models.VOCABULARY // 2)})
    return found


def padded(examples: list[dict[str, Any]]) -> dict[str, Tensor]:
    """A batch, padded on the right; labels [B], or [B, L] padded with what losses ignore."""
    longest = max(len(example["input_ids"]) for example in examples)

    def stacked(rows: list[Tensor], padding: int) -> Tensor:
        return torch.stack(
            [torch.nn.functional.pad(row, (0, longest - len(row)), value=padding) for row in rows]
        )

    batch = {
        "input_ids": stacked([example["input_ids"] for example in examples], 1),
        "attention_mask": stacked([torch.ones_like(example["input_ids"]) for example in examples], 0),
    }
    for name in examples[0]:
        if name == "input_ids":
            continue
        values = [example[name] for example in examples]
        batch[name] = stacked(values, IGNORED) if isinstance(values[0], Tensor) else torch.tensor(values)
    return batch


def arguments(folder: Any, **options: Any) -> TrainingArguments:
    """On the CPU, silent, nothing saved or evaluated unless asked for; 4 examples a batch."""
    given: dict[str, Any] = dict(
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        save_strategy="no",
        logging_strategy="no",
        per_device_train_batch_size=4,
        per_device_eval_batch_size=8,
        learning_rate=1e-3,
        seed=5,
    )
    return TrainingArguments(str(folder), **{**given, **options})


def trainer(
    model, args: TrainingArguments, data, callbacks=(), optimizers=(None, None), **more: Any
) -> Trainer:
    return Trainer(
        model,
        args,
        data_collator=padded,
        train_dataset=data,
        callbacks=list(callbacks),
        optimizers=optimizers,
        **more,
    )
