"""Tiny encoders as masked language models and as classifiers, and batches with places for a prompt."""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import torch
import transformers

VOCABULARY, PAD, PROMPT = 40, 1, 3
_SIZES = dict(
    hidden_size=32,
    num_hidden_layers=2,
    num_attention_heads=4,
    intermediate_size=40,
    vocab_size=VOCABULARY,
    max_position_embeddings=40,
    pad_token_id=PAD,
)
CLASSES = {"bert": "Bert", "roberta": "Roberta", "electra": "Electra", "camembert": "Camembert"}
# small numbers for all methods; LoRA and DSEE cannot share a matrix
SMALL = dict(
    prompt_num=PROMPT,
    reduction=8,
    lora_rank=2,
    lora_alpha=4,
    lora_targets="output",
    num_sparse=4,
    sparse_method="rp",
    density=0.02,
    seed=1,
)


def tiny(family="bert", kind="ForMaskedLM", dtype=torch.float32):
    """A model of random weights, in evaluation mode."""
    torch.manual_seed(3)
    name = CLASSES[family]
    config = getattr(transformers, f"{name}Config")(**_SIZES)
    model = getattr(transformers, f"{name}{kind}")(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
            elif "norm" not in name.lower():
                weight.normal_(std=0.1)
    model.tie_weights()
    return model.to(dtype).eval()


def batch(prompt=False, rows=3, length=8):
    """Padded rows; the prompt stands behind the first token."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    lengths = length - torch.arange(rows)
    mask = (torch.arange(length) < lengths[:, None]).long()
    found = {"input_ids": torch.where(mask.bool(), ids, PAD), "attention_mask": mask}
    if prompt:
        found["prompt_ids"] = torch.zeros_like(ids)
        found["prompt_ids"][:, 1 : 1 + PROMPT] = torch.arange(1, PROMPT + 1)
    return found


def outputs(model, prompt=False):
    """Logits of the real tokens, or of the rows."""
    inputs = batch(prompt)
    with torch.no_grad():
        logits = model(**inputs).logits
    return logits[inputs["attention_mask"].bool()] if logits.dim() == 3 else logits


def labels_for(model):
    """Labels of a batch: words, or classes."""
    generator = torch.Generator().manual_seed(6)
    if "MaskedLM" in type(model).__name__:
        return torch.randint(3, VOCABULARY, (3, 8), generator=generator)
    return torch.randint(0, 2, (3,), generator=generator)


def train_a_step(model, prompt=False, steps=1):
    """Move all that is trained, by plain steps of Adam; return its names."""
    model.train()
    trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
    optimizer = torch.optim.Adam(trained.values(), lr=0.05)
    for _ in range(steps):
        model(**batch(prompt), labels=labels_for(model)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    return set(trained)
