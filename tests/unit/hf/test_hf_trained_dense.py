"""What is trained dense beside an update: the task head, and a pooler that knows nothing."""

from __future__ import annotations

import dsp_plugin.hf  # noqa: F401  (first: it hides a torchaudio that cannot be loaded)  isort: skip

import pytest
import torch
from hf_models import BERT_SIZES
from transformers import BertConfig, BertForSequenceClassification

from dsp_plugin.hf.programs.dsee.trained_dense import dense_names
from dsp_plugin.options.errors import OptionError

HEAD = ["classifier.bias", "classifier.weight"]
POOLER = ["bert.pooler.dense.bias", "bert.pooler.dense.weight"]


def model_with(bias: float) -> BertForSequenceClassification:
    model = BertForSequenceClassification(BertConfig(**BERT_SIZES))
    with torch.no_grad():
        model.bert.pooler.dense.bias[1] = bias
    return model


@pytest.mark.parametrize("bias", [0.0, 1e-3])
@pytest.mark.parametrize("new", [[], HEAD])
def test_a_pooler_that_was_never_trained_learns_and_a_trained_one_is_frozen(bias, new, capsys):
    found = dense_names(model_with(bias), new, "base")
    assert found == sorted([*HEAD, *POOLER] if bias == 0 else HEAD)
    assert ("never trained" in capsys.readouterr().out) == (bias == 0)


def test_a_pooler_that_the_base_lacks_learns(capsys):
    assert dense_names(model_with(1.0), [*HEAD, *POOLER], "base") == sorted([*HEAD, *POOLER])
    assert "is new, and learns" in capsys.readouterr().out


def test_other_weights_that_the_base_lacks_are_refused():
    lacking = "bert.encoder.layer.0.output.dense.weight"
    with pytest.raises(OptionError, match=f"base lacks {lacking}"):
        dense_names(model_with(1.0), [*HEAD, lacking], "base")
