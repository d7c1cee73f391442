"""Gated attention and fairseq's own module with the same weights, small, in double precision.

Shapes as in the module: T queries, S keys, B sentences, C = embed_dim, H heads, D = head_dim.
"""

from __future__ import annotations

from contextlib import contextmanager

import fairseq
import pytest
import torch
from fairseq.modules import MultiheadAttention

from dsp_plugin.mt.heads.attention import GatedMultiheadAttention

C, H, T, S, B = 12, 4, 5, 6, 3
D = C // H


@contextmanager
def double_precision():
    """Double precision throughout: stock's own decoding path works its softmax out in single precision."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fairseq.utils, "softmax", lambda x, dim, onnx_trace=False: torch.softmax(x, dim))
        torch.manual_seed(0)
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(torch.float32)


def twins(kind: str, **options):
    """(stock, gated) with the same random weights, in evaluation mode. kind: 'self' or 'cross'."""
    options["self_attention" if kind == "self" else "encoder_decoder_attention"] = True
    stock = MultiheadAttention(C, H, **options).eval()
    for parameter in stock.parameters():  # biases too: fairseq starts them at 0
        torch.nn.init.normal_(parameter, std=0.5)
    gated = GatedMultiheadAttention(C, H, **options).eval()
    gated.load_state_dict(stock.state_dict())
    return stock, gated


def padding(rows: int, length: int) -> torch.Tensor:
    """[B, S] bool: row 0 has no padding, row 1 one at the end, row 2 two, ..."""
    return torch.arange(length)[None, :] >= length - torch.arange(rows)[:, None]


def causal(length: int) -> torch.Tensor:
    return torch.full((length, length), float("-inf")).triu(1)


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def decode(module, x, state=None, key_padding_mask=None):
    """Self-attention over x [T, B, C] one step at a time; returns [T, B, C]. Padding is given with the
    first step.
    """
    state = {} if state is None else state
    steps = []
    for t in range(len(x)):
        step = x[t : t + 1]
        pad = key_padding_mask[:, :1] if key_padding_mask is not None and t == 0 else None
        steps.append(
            module(step, step, step, key_padding_mask=pad, incremental_state=state, need_weights=False)[0]
        )
    return torch.cat(steps)
