"""Soft prompt and adapter against formulas written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dsp_plugin.delta.modules import (
    Adapter,
    SoftPrompt,
    bottleneck_of,
    check_adapter,
    is_bias,
    prompt_from_words,
)
from dsp_plugin.options.errors import OptionError


def test_an_adapter_is_x_and_a_bottleneck():
    adapter = Adapter(6, 2, torch.Generator().manual_seed(0))
    x = torch.randn(3, 4, 6, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        adapter.down.bias.normal_()
        adapter.up.bias.normal_()
        found = adapter(x)
        for row in range(3):
            for place in range(4):
                z = adapter.down.weight @ x[row, place] + adapter.down.bias
                swish = torch.tensor([float(one) / (1 + math.exp(-float(one))) for one in z])
                expected = x[row, place] + adapter.up.weight @ swish + adapter.up.bias
                torch.testing.assert_close(found[row, place], expected)


def test_a_new_adapter_is_nearly_the_identity():
    adapter = Adapter(384, 24, torch.Generator().manual_seed(0))
    x = torch.randn(50, 384, generator=torch.Generator().manual_seed(1))
    change = (adapter(x) - x).detach()
    assert 0 < float(change.norm() / x.norm()) < 0.02
    for layer in (adapter.down, adapter.up):
        assert float(layer.weight.detach().abs().max()) <= 0.02 and not layer.bias.any()
    other = Adapter(384, 24, torch.Generator().manual_seed(0))
    assert torch.equal(adapter.down.weight, other.down.weight)


def test_a_prompt_stands_in_the_places_of_words():
    prompt = SoftPrompt(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    words = torch.zeros(2, 3, 2)
    found = prompt(words, torch.tensor([[0, 2, 1], [1, 0, 0]]))
    expected = torch.tensor([[[0.0, 0], [3, 4], [1, 2]], [[1, 2], [0, 0], [0, 0]]])
    assert torch.equal(found, expected)
    found.sum().backward()  # vector 1 is seen twice, vector 2 once
    assert torch.equal(prompt.vectors.grad, torch.tensor([[2.0, 2.0], [1.0, 1.0]]))


@pytest.mark.parametrize("ids", [[[0, 3, 1]], [[0, -1, 1]], [[0, 1]]])
def test_places_beyond_the_prompt_are_refused(ids):
    with pytest.raises(ValueError, match="prompt_ids are"):
        SoftPrompt(torch.zeros(2, 2))(torch.zeros(1, 3, 2), torch.tensor(ids))


def test_a_prompt_begins_at_words_of_the_model():
    words = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    prompt = prompt_from_words(words, 5, seed=2)
    rows = [int((words == vector).all(1).nonzero()) for vector in prompt.vectors]
    assert len(set(rows)) == 5
    assert torch.equal(prompt.vectors, prompt_from_words(words, 5, seed=2).vectors)
    assert not torch.equal(prompt.vectors, prompt_from_words(words, 5, seed=3).vectors)


@pytest.mark.parametrize("number", [0, -1, 2.5, True, 31, None])
def test_numbers_of_vectors_that_cannot_be(number):
    with pytest.raises(OptionError, match="prompt_num"):
        prompt_from_words(torch.zeros(30, 4), number, 0)


@pytest.mark.parametrize("reduction", [0, -2, 33, 1.5, True])
def test_reductions_that_cannot_be(reduction):
    with pytest.raises(OptionError, match="reduction"):
        bottleneck_of(32, reduction)
    assert bottleneck_of(384, 16) == 24 and bottleneck_of(32, 32) == 1


def test_kinds_of_adapters_and_names_of_biases():
    check_adapter("pfeiffer")
    with pytest.raises(OptionError, match="houlsby or pfeiffer"):
        check_adapter("parallel")
    assert is_bias("bert.encoder.layer.0.output.LayerNorm.bias") and is_bias("bias")
    assert not is_bias("relative_attention_bias.weight") and not is_bias("x.bias_v")
