"""Models and text of the benchmarks on fairseq: transformer_iwslt_de_en, stock and ours, and random words.

Sizes are IWSLT14 German-English's after the usual 10,000 joint BPE merges: 8,848 German and 6,632 English
entries in separate dictionaries, sentences of about 25 tokens. The tokens are drawn at random: speed depends
on shapes only.

Shapes: B sentences, S source tokens, T target tokens.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

import dsp_plugin

# fairseq reports missing optional software on import, and torch warns of stock fairseq's masks
logging.disable(logging.INFO)
warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
warnings.filterwarnings("ignore", message="amp_C fused kernels unavailable")
dsp_plugin.register()

from fairseq.data import Dictionary
from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from omegaconf import OmegaConf

from dsp_plugin.mt.checkpoints.built_in_types import to_built_in_types
from dsp_plugin.mt.heads.methods.dsp import DSPTransformerConfig, DSPTransformerModel

SOURCE_ENTRIES, TARGET_ENTRIES = 8848, 6632
HEADS = 72
MEAN_LENGTH, SPREAD, SHORTEST, LONGEST = 25.0, 0.6, 3, 175
PAD, EOS, FIRST_WORD = 1, 2, 4


def toy_task() -> SimpleNamespace:
    """Make all that fairseq's models and criterions read of a task: its dictionaries."""

    def dictionary(entries: int) -> Dictionary:
        words = Dictionary()
        for number in range(entries - len(words)):
            words.add_symbol(f"w{number}")
        return words

    return SimpleNamespace(
        source_dictionary=dictionary(SOURCE_ENTRIES), target_dictionary=dictionary(TARGET_ENTRIES)
    )


def stock_model(task: SimpleNamespace, dropout: float = 0.0) -> nn.Module:
    """Build fairseq's own transformer_iwslt_de_en with random weights."""
    options = _options(dropout)
    ARCH_CONFIG_REGISTRY["transformer_iwslt_de_en"](options)
    return ARCH_MODEL_REGISTRY["transformer_iwslt_de_en"].build_model(options, task)


def dsp_model(
    task: SimpleNamespace, like: nn.Module | None = None, dropout: float = 0.0, **options
) -> nn.Module:
    """Build the plugin's dsp_transformer_iwslt_de_en.

    Args:
        like: a stock model whose weights it gets.
        options: options of the model: `num_of_heads=K` and the like for gates, `kept_heads=RECORD` for
            removed heads.
    """
    model = DSPTransformerModel.build_model(_config(dropout, **options), task)
    if like is not None:
        # scores alone may be missing
        absent = model.load_state_dict(like.state_dict(), strict=False)
        assert not absent.unexpected_keys and all(key.startswith("gating.") for key in absent.missing_keys)
    return model


def checkpoint(model: nn.Module) -> dict[str, Any]:
    """Return what a checkpoint holds of a `dsp_model` without options, as far as surgery needs it."""
    options = OmegaConf.to_container(_config(0.0), resolve=True, enum_to_str=True)
    cfg = {"model": to_built_in_types({**options, "_name": "dsp_transformer"}), "task": {}}
    return {"cfg": cfg, "model": model.state_dict(), "task_state": {}}


def _config(dropout: float, **options) -> Any:
    namespace = _options(dropout, **options)
    ARCH_CONFIG_REGISTRY["dsp_transformer_iwslt_de_en"](namespace)
    return OmegaConf.structured(DSPTransformerConfig.from_namespace(namespace))


def _options(dropout: float, **more) -> argparse.Namespace:
    return argparse.Namespace(share_decoder_input_output_embed=True, dropout=dropout, **more)


def training_batches(max_tokens: int, seed: int = 1) -> list[dict]:
    """Make batches of short, middling and long sentences, sorted and filled as in fairseq.

    Args:
        max_tokens: tokens of a batch on either side, padding counted.
    """
    generator = torch.Generator().manual_seed(seed)
    source, ratio = torch.randn(2, 20000, generator=generator)
    source = (MEAN_LENGTH * torch.exp(SPREAD * source - SPREAD**2 / 2)).round().clamp(SHORTEST, LONGEST)
    target = (source * torch.exp(0.15 * ratio)).round().clamp(SHORTEST, LONGEST)
    pairs = sorted(zip(source.int().tolist(), target.int().tolist()))
    batches = []
    for share in (0.25, 0.5, 0.8):
        start = end = int(share * len(pairs))
        while (end + 1 - start) * max(max(pair) for pair in pairs[start : end + 1]) <= max_tokens:
            end += 1
        source_text = _text([s for s, _ in pairs[start:end]], SOURCE_ENTRIES, generator, pad_left=True)
        target_text = _text([t for _, t in pairs[start:end]], TARGET_ENTRIES, generator, pad_left=False)
        batches.append(_batch(source_text, target_text))
    return batches


def decoding_batch(sentences: int, mean_length: int, seed: int = 1) -> dict:
    """Make sources of nearly one length (mean_length - 1 .. mean_length + 1), as in a sorted test set."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [mean_length - 1 + 3 * row // sentences for row in range(sentences)]
    return _batch(_text(sizes, SOURCE_ENTRIES, generator, pad_left=True))


def _text(sizes: Sequence[int], entries: int, generator: torch.Generator, pad_left: bool) -> Tensor:
    """Draw random words [B, longest], each row closed by the end of sentence and padded on one side."""
    longest = max(sizes)
    rows = []
    for size in sizes:
        words = torch.randint(FIRST_WORD, entries, (size,), generator=generator)
        words[-1] = EOS
        padding = torch.full((longest - size,), PAD)
        rows.append(torch.cat([padding, words] if pad_left else [words, padding]))
    return torch.stack(rows)


def _batch(source: Tensor, target: Tensor | None = None) -> dict:
    sample = {
        "net_input": {"src_tokens": source, "src_lengths": source.ne(PAD).sum(1)},
        "nsentences": len(source),
    }
    if target is not None:
        # the end of sentence in front, the last column cut: a row loses a pad or its own end
        previous = torch.cat([torch.full_like(target[:, :1], EOS), target[:, :-1]], dim=1)
        sample["net_input"]["prev_output_tokens"] = previous.masked_fill(target.eq(PAD), PAD)
        sample.update(target=target, ntokens=int(target.ne(PAD).sum()))
    return sample
