"""--print-alignment, `alignment_layer` and `alignment_heads`: a masked model's are those of the model
without its dead heads.
"""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("fairseq")

from argparse import Namespace

from fairseq_models import batch, build_dsp, liven

from dsp_plugin.mt.heads.gated_transformer import encode_kept_heads, head_map_of
from dsp_plugin.mt.surgery.pruning import prepare, remove_heads


@pytest.fixture(scope="module")
def pair(tiny_data):
    """(task, masked, pruned) with 7 of 24 heads; the last decoder layer has two in its cross-attention,
    layer 0 none.
    """
    keep = torch.zeros(24, dtype=torch.bool)
    keep[[0, 3, 5, 12, 15, 17, 22]] = True  # encoder-self 0-7, decoder-cross 8-15, decoder-self 16-23
    task, masked = build_dsp(tiny_data, num_of_heads=7)
    liven(masked)
    with torch.no_grad():
        masked.gating.gates.scores.copy_(keep.float() + 0.1 * torch.arange(24) / 24)
    record = encode_kept_heads(head_map_of(masked).kept_by_block(keep))
    _, pruned = build_dsp(tiny_data, kept_heads=record)
    state = {
        "model": masked.state_dict(),
        "cfg": {"model": {**model_options(masked), "_name": "dsp_transformer"}},
    }
    pruned.load_state_dict(remove_heads(prepare(state), keep).state["model"])
    return task, masked.double().eval(), pruned.double().eval()


def model_options(model) -> dict:
    names = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")
    sizes = {
        f"{side}_{name}": getattr(model.encoder.cfg, f"{side}_{name}")
        for side in ("encoder", "decoder")
        for name in names
    }
    return {**sizes, "num_of_heads": 7, "joint_pruning": True, "share_all_embeddings": True}


@pytest.mark.parametrize("heads", [None, 1])
@pytest.mark.parametrize("layer", [0, 1, None])
def test_alignment_layer_and_heads(pair, layer, heads):
    task, masked, pruned = pair
    sample = batch(task)["net_input"]
    for model in (masked, pruned):
        model.decoder.make_generation_fast_(need_attn=True)
    found, expected = (
        model(**sample, alignment_layer=layer, alignment_heads=heads)[1]["attn"][0]
        for model in (masked, pruned)
    )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    even = bool((found == found[0, 0]).all(-1)[0].all())
    assert even == (layer == 0)  # a block without heads, and one with


@pytest.mark.parametrize("kind", ["hard", "soft"])
def test_print_alignment(pair, kind):
    task, masked, pruned = pair
    sample = batch(task, sentences=12, split="test")
    told = []
    for model in (masked, pruned):
        model.make_generation_fast_(beamable_mm_beam_size=None, need_attn=kind)
        generator = task.build_generator(
            [model], Namespace(beam=3, print_alignment=kind, max_len_a=1, max_len_b=4)
        )
        hypotheses = generator.generate([model], sample)
        told.append([(best["tokens"].tolist(), best["alignment"]) for best, *_ in hypotheses])
    for (tokens, alignment), (expected_tokens, expected) in zip(*told):
        assert tokens == expected_tokens
        if kind == "hard":
            assert torch.equal(torch.as_tensor(alignment), torch.as_tensor(expected))
        else:
            both = (
                torch.tensor([[float(p) for p in word] for word in words]) for words in (alignment, expected)
            )
            torch.testing.assert_close(*both, rtol=0, atol=2e-6)
    assert any(len(alignment) for _, alignment in told[0])
