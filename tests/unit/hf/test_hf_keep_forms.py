"""In which forms one may say which heads stay, and which are refused because they would mean something
else.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("transformers")
from hf_models import tiny_model  # isort: skip

from dsp_plugin.hf import prune_heads, record_of

FIRST, SECOND = "encoder.layer.0.attention", "encoder.layer.1.attention"
KEEP = [True, False, True, True, False, True, True, True]
KEPT = {FIRST: [0, 2, 3], SECOND: [1, 2, 3]}

FORMS = {
    "bool list": KEEP,
    "bool tuple": tuple(KEEP),
    "bool tensor": torch.tensor(KEEP),
    "bool array": np.array(KEEP),
    "integer list": [int(flag) for flag in KEEP],
    "integer tensor": torch.tensor(KEEP).long(),
    "bytes tensor": torch.tensor(KEEP).to(torch.uint8),
    "integer array": np.array(KEEP).astype(np.int32),
    "list of scalars": list(torch.tensor(KEEP)),
    "list of NumPy's scalars": list(np.array(KEEP)),
    "view of a tensor": torch.tensor([KEEP, KEEP])[1],
    "layers": {0: [1], 1: [0]},
    "layers, the second first": {1: (0,), 0: {1}},
    "layers as NumPy's integers": {np.int64(0): np.array([1]), np.int32(1): torch.tensor([0])},
    "a layer without any": {0: [1], 1: range(1)},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_mask_in_any_form(form):
    model = tiny_model("bert")
    assert prune_heads(model, FORMS[form], check=False).kept_heads == KEPT == record_of(model)


FLAGS = r"give one flag a head, \[N\]"
REFUSED = {
    "float tensor": (torch.tensor(KEEP).float(), f"is of float32: are these scores.*{FLAGS}.*scores > 0"),
    "half tensor": (torch.tensor(KEEP).half(), "is of float16: are these scores"),
    "float array": (np.array(KEEP).astype(float), "is of float64: are these scores"),
    "float list": ([1.0] * 8, r"holds 1\.0: are these scores.*scores > 0"),
    "one float": ([True] * 7 + [0.0], r"holds 0\.0: are these scores"),
    "float scalars": (list(torch.ones(8)), r"holds 1\.0: are these scores"),
    "complex tensor": (torch.ones(8, dtype=torch.complex64), "is of complex64"),
    "indices": ([0, 2, 3, 5, 6, 7, 1, 1], "holds 2, which looks like the number of a head"),
    "indices in a tensor": (torch.arange(8), "holds 2, which looks like the number of a head"),
    "negative": ([-1] * 8, "holds -1, which looks like"),
    "few indices": ([0, 1], "expected 8 flags, one a head, got 2"),
    "too short": ([True] * 7, "expected 8 flags, one a head, got 7"),
    "empty": ([], "expected 8 flags, one a head, got 0"),
    "empty tensor": (torch.tensor([]), "expected 8 flags"),
    "rows": (torch.ones(2, 4, dtype=torch.bool), rf"has the shape \[2, 4\]: {FLAGS}"),
    "rows in lists": ([[True] * 4] * 2, "holds .True, True, True, True.: give one flag"),
    "a set": ({0, 1}, "is a set, which has no order of heads"),
    "text": ("11111111", "is a str"),
    "words": (["yes"] * 8, "holds 'yes'"),
    "none inside": ([None] * 8, "holds None"),
    "a number": (3, "is a int"),
    "block names": (
        {FIRST: [0]},
        rf"has the key '{FIRST}': a mapping names the heads to remove by layer number",
    ),
    "layer numbers as text": (
        {"0": [1]},
        "has the key '0': a mapping names the heads to remove by layer number",
    ),
    "bool keys": ({True: [1]}, "has the key True"),
    "float keys": ({0.0: [1]}, r"has the key 0\.0"),
    "another layer": ({2: [0]}, "there is no layer 2: the model has the layers 0 to 1"),
    "negative layer": ({-1: [0]}, "there is no layer -1"),
    "another head": ({1: [4]}, rf"layer 1 \({SECOND}\) had the heads 0 to 3, not 4"),
    "negative head": ({1: [-1]}, "had the heads 0 to 3, not -1"),
    "twice": ({1: [2, 0, 2]}, "names head 2 of layer 1 twice"),
    "one number for a layer": ({0: 1}, "names 1 for layer 0: give a list"),
    "flags for a layer": ({0: [True, False, False, True]}, "names True among the heads to remove of layer 0"),
    "floats for a layer": ({0: [1.0]}, r"names 1\.0 among the heads"),
    "None for a layer": ({0: None}, "names None for layer 0"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_what_is_no_mask_is_refused_before_anything_is_cut(form):
    keep, message = REFUSED[form]
    model = tiny_model("bert")
    with pytest.raises(ValueError, match=message):
        prune_heads(model, keep, check=False)
    assert record_of(model) is None and model.bert.encoder.layer[0].attention.self.query.out_features == 32


def test_layers_are_counted_in_the_original_heads_and_what_is_gone_stays_gone():
    """As Transformers had it: after {0: [1]} head 2 is still called 2, and removing 1 again does nothing."""
    model = tiny_model("gpt2")
    prune_heads(model, {0: [1]})
    prune_heads(model, {0: [1, 2], 1: []})
    assert record_of(model) == {"h.0.attn": [0, 3], "h.1.attn": [0, 1, 2, 3]}
    assert prune_heads(model, {}).kept_heads == record_of(model)


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_layers_of_several_kinds_have_no_numbers(family):
    with pytest.raises(
        ValueError, match="several kinds .decoder-cross, decoder-self, encoder-self.*give one flag a head"
    ):
        prune_heads(tiny_model(family), {0: [1]})


def test_layers_of_an_inner_model_of_one_kind_have():
    model = tiny_model("bart")
    assert prune_heads(model.model.encoder, {1: [0, 3]}).kept_heads == {
        "layers.0.self_attn": [0, 1, 2, 3],
        "layers.1.self_attn": [1, 2],
    }
